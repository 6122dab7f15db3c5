"""Compile kernels with NVRTC when they are first used, cache them on disk, load and launch them.

Nothing else in the package compiles or launches.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cupy
from cupy.cuda import nvrtc

from fusedlstm import log
from fusedlstm.backends.cuda.runtime import cache, sources

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedlstm.backends.cuda.runtime.structs import Member, Struct

# Reentrant, as a signal handler may call a cell during its compilation.
_LOCK = threading.RLock()
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


def _kept_or_compiled(file: str, name: str, arch: str) -> tuple[str, bytes]:
    """Return a function's mangled name and code, from the disk if an equal compilation was cached."""
    about = (sources.digest(), file, name, arch, _FLAGS, nvrtc.getVersion())
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest() + ".kernel"
    kept = _unpack(cache.read(key))
    if kept is not None:
        return kept
    start = time.perf_counter()
    mangled, code, _ = compile_kernel(file, name, arch)
    log.info("compiled %s for %s in %.2f s", name, arch, time.perf_counter() - start)
    cache.write(key, _pack(mangled, code))
    return mangled, code


def _pack(mangled: str, code: bytes) -> bytes:
    body = mangled.encode() + b"\n" + code
    return hashlib.sha256(body).digest() + body


def _unpack(content: bytes | None) -> tuple[str, bytes] | None:
    """Return what `_pack` put together, or None if the content isn't whole."""
    if content is None or hashlib.sha256(content[32:]).digest() != content[:32]:
        return None
    mangled, _, code = content[32:].partition(b"\n")
    return mangled.decode(), code


class Kernel:
    """One instance of a kernel, and the only way to launch it.

    Args:
        file: a file of kernels/.
        name: the instance, with its template arguments.
        struct: the struct of its arguments.
        shared: bytes of dynamic shared memory of each launch.
    """

    def __init__(self, file: str, name: str, struct: Struct, shared: int = 0) -> None:
        self.file, self.name, self.struct, self.shared = file, name, struct, shared
        self._functions: dict[int, Any] = {}  # by device

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: Any) -> None:
        """Launch on the current device and stream. A grid with a zero in it launches nothing.

        This checks the arguments and the grid, as CuPy checks neither: it launches an empty grid as one block.
        """
        values = self.struct.values(arguments)
        self.bound(grid, block, self.struct.filled(values, self.numbers(values)))()

    def numbers(self, values: Sequence[Any]) -> list[Any]:
        """Return the numbers to pack for the values of the struct's members, or raise TypeError."""
        return list(map(number, self.struct.members, values))

    def bound(self, grid: tuple[int, ...], block: tuple[int, ...], *passed: Any) -> Callable[[], Any]:
        """Return a function that launches the kernel on this device. With the real CuPy it runs no Python code."""
        if 0 in grid:
            return bool
        return functools.partial(self._function(), grid, block, passed, shared_mem=self.shared)

    def load(self) -> None:
        """Compile and load the kernel on the current device, so that this can't fail in a launch."""
        self._function()

    def _function(self) -> Any:
        device = cupy.cuda.runtime.getDevice()
        function = self._functions.get(device)
        if function is None:
            with _LOCK:  # another thread may have loaded it meanwhile
                function = self._functions.get(device) or self._load(device)
                self._functions[device] = function
        return function

    def _load(self, device: int) -> Any:
        arch = architecture(cupy.cuda.Device(device).compute_capability)
        mangled, code = _kept_or_compiled(self.file, self.name, arch)
        module = cupy.cuda.Module()
        module.load(code)
        function = module.get_function(mangled)
        if self.shared:  # even below the default limit of 48 KiB, which includes the kernel's static shared memory
            attribute = cupy.cuda.driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            cupy.cuda.driver.funcSetAttribute(function.ptr, attribute, self.shared)
        return function


def number(member: Member, value: Any) -> Any:
    """Return a number itself, an array's address, or 0 for None. Raise TypeError if the member can't have the value."""
    if member.dtype is None:
        return value
    if value is None:
        return 0
    if not isinstance(value, cupy.ndarray) or value.dtype != member.dtype:
        dtype = f" of {value.dtype}" if isinstance(value, cupy.ndarray) else ""
        raise TypeError(f"{member.name} must be a CuPy array of {member.dtype}, not {type(value).__name__}{dtype}")
    return value.data.ptr
