"""Compile kernels with NVRTC when they are first used, and keep their code in files.

Nothing else in the package compiles. CuPy's own cache isn't used: it overlooks changed headers.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fusedlstm import log
from fusedlstm.backends.cuda.runtime import cache, sources
from fusedlstm.backends.cuda.runtime.cupy_internals import nvrtc

if TYPE_CHECKING:
    from collections.abc import Sequence

# -ftz, as for CuPy's own kernels, flushes float32 subnormals.
_FLAGS = ("-std=c++17", "--device-as-default-execution-space", "-ftz=true")


def architecture(capability: str) -> str:
    """Return NVRTC's option for a GPU's compute capability, such as "90".

    A GPU newer than NVRTC gets portable code of the newest architecture that NVRTC knows.
    """
    known = sorted(int(number) for number in nvrtc.getSupportedArchs())
    if int(capability) in known:
        return f"-arch=sm_{capability}"
    older = [number for number in known if number < int(capability)]
    if not older:
        raise RuntimeError(f"NVRTC can't compile for a GPU as old as this one, of compute capability {capability}")
    return f"-arch=compute_{older[-1]}"


def compile_kernel(file: str, name: str, arch: str, flags: Sequence[str] = ()) -> tuple[str, bytes, str]:
    """Compile one instance of a kernel, without a GPU or driver.

    Args:
        file: a file of kernels/, such as "pointwise.cu".
        name: the instance, such as "lstm_clip<float>".
        arch: NVRTC's option, "-arch=sm_90" (machine code) or "-arch=compute_90" (PTX).
        flags: more options.

    Returns:
        The function's mangled name, its code, and the compiler's log.

    Raises:
        RuntimeError: the compiler's errors.
    """
    source = (sources.folder() / file).read_text(encoding="utf-8")
    options = (arch, *_FLAGS, f"-I{sources.folder()}", f"-I{cuda_headers()}", *flags)
    program = nvrtc.createProgram(source, file, (), ())
    try:
        nvrtc.addNameExpression(program, name)
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError as error:
            log = nvrtc.getProgramLog(program)
            raise RuntimeError(f"{file}: {name} does not compile ({error}):\n{log}") from None
        mangled = nvrtc.getLoweredName(program, name)
        # CuPy's getCUBIN leaves out the last byte of the machine code.
        machine_code = arch.startswith("-arch=sm_")
        code = nvrtc.getCUBIN(program) + b"\0" if machine_code else nvrtc.getPTX(program)
        return str(mangled), bytes(code), str(nvrtc.getProgramLog(program))
    finally:
        nvrtc.destroyProgram(program)


@functools.cache
def cuda_headers() -> str:
    """Return the folder of cuda_fp16.h: the runtime wheel's, conda's or the toolkit's.

    Raises:
        RuntimeError: the headers are missing, or are for another major version of CUDA than NVRTC.
    """
    from cuda import pathfinder  # comes with CuPy 14

    found = pathfinder.find_nvidia_header_directory("cudart")
    if not found or not (Path(found) / "cuda_fp16.h").is_file():
        raise RuntimeError("CUDA's headers are not installed (fusedlstm's extra cuda13, or cuda12, brings them)")
    text = (Path(found) / "cuda_runtime_api.h").read_text(encoding="utf-8", errors="replace")
    version = re.search(r"#define\s+CUDART_VERSION\s+(\d+)", text)
    major = int(version[1]) // 1000 if version else None
    if major != nvrtc.getVersion()[0]:
        raise RuntimeError(f"NVRTC is for CUDA {nvrtc.getVersion()[0]}, but the headers in {found} are for {major}")
    return str(found)


def keep(file: str, name: str, arch: str) -> tuple[bool, int]:
    """Compile an instance unless it is cached. Return whether it was, and the bytes of its code.

    Raises:
        RuntimeError: the compiler's errors.
        OSError: it can't be written to the cache.
    """
    was_there = _whole(_cache_name(file, name, arch), arch) is not None
    _, path = kept_or_compiled(file, name, arch)
    if path.parent != cache.folder():
        raise OSError(f"{cache.folder()}: compiled kernels can't be written there")
    return was_there, path.stat().st_size


def kept_or_compiled(file: str, name: str, arch: str) -> tuple[str, Path]:
    """Return a function's mangled name and the file of its code, from an earlier compilation if an equal one was kept.

    Args:
        file: a file of kernels/.
        name: the instance.
        arch: NVRTC's option.

    Raises:
        RuntimeError: the compiler's errors.
        OSError: the code can be written nowhere.
    """
    key = _cache_name(file, name, arch)
    kept = _whole(key, arch)
    if kept is not None:
        return kept
    start = time.perf_counter()
    mangled, code, _ = compile_kernel(file, name, arch)
    log.info("compiled %s for %s in %.2f s", name, arch, time.perf_counter() - start)
    path = cache.write(key + _suffix(arch), code)
    record = {"kernel": name, "function": mangled, "sha256": hashlib.sha256(code).hexdigest()}
    cache.write(f"{key}.json", json.dumps(record).encode())
    return mangled, path


def _cache_name(file: str, name: str, arch: str) -> str:
    """Return the name of an instance's files in the cache. It stands for everything that the code depends on."""
    about = (sources.digest(), file, name, arch, _FLAGS, nvrtc.getVersion())
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _suffix(arch: str) -> str:
    """Return the suffix of a file of code: machine code or PTX."""
    return ".cubin" if arch.startswith("-arch=sm_") else ".ptx"


def _whole(key: str, arch: str) -> tuple[str, Path] | None:
    """Return the mangled name and the file of kept code, or None if it is missing, or isn't whole."""
    file = key + _suffix(arch)
    record, code = cache.read(f"{key}.json"), cache.read(file)
    if record is None or code is None:
        return None
    try:
        about = json.loads(record)
        name, is_whole = str(about["function"]), about["sha256"] == hashlib.sha256(code).hexdigest()
    except (ValueError, TypeError, KeyError):
        return None
    return (name, cache.folder() / file) if is_whole else None
