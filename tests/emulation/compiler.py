"""Compiles a kernel's file to a shared library for this machine, and caches it on disk."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import EmulationError

if TYPE_CHECKING:
    from collections.abc import Sequence

_HERE = Path(__file__).parent
_RUNTIME = sorted((_HERE / "runtime").glob("*.cpp"))
_CACHE_VARIABLE = "EMULATION_CACHE"
_CACHE_BYTES = 2 << 30
_IN_USE = 900.0  # seconds. Files used more recently stay
_HEADER = "cuda_on_cpu.h"
# Faults need line numbers. With DWARF 5, addr2line assigns every line to the first file.
_LINES = ("-gdwarf-4", "-g1")
_COMMON = ("-std=c++17", "-fPIC", *_LINES, "-fno-strict-aliasing", "-fno-optimize-sibling-calls", "-fmax-errors=5")
# Leave out pointer-overflow: every access is checked anyway, and it costs a quarter of the time.
_UNDEFINED = "alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero,null,bool"
# g++ would warn of CUDA's #pragma unroll. NVRTC gives the warnings about kernels.
_OF_KERNELS = ("-w",)
_MODES = {
    # -ffp-contract=fast contracts a * b + c, as CUDA does. At -O1 it needs -fexpensive-optimizations.
    # -O2 takes twice as long to compile.
    "fast": ("-O1", "-fexpensive-optimizations", "-march=native", "-ffp-contract=fast"),
    "check": ("-O1", "-fsanitize=thread", f"-fsanitize={_UNDEFINED}"),
}


@functools.cache
def missing() -> str | None:
    """Return what this machine lacks to emulate kernels, or None."""
    for tool in ("g++", "addr2line"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    try:
        cuda_headers()
    except FileNotFoundError as error:
        return str(error)
    return None


@functools.cache
def cuda_headers() -> Path:
    """Return the folder of CUDA's headers, from the wheels, conda or the toolkit.

    Raises:
        FileNotFoundError: some or all of the headers are not installed.
    """
    try:
        from cuda.pathfinder import find_nvidia_header_directory
    except ImportError:
        raise FileNotFoundError("cuda-pathfinder, which finds CUDA's headers, is not installed") from None
    found = find_nvidia_header_directory("cudart")
    if found is None:
        raise FileNotFoundError("CUDA's headers are not installed (the package nvidia-cuda-runtime)")
    for name in ("cuda_fp16.h", "crt/host_defines.h"):
        if not (Path(found) / name).is_file():
            raise FileNotFoundError(f"CUDA's header {name} is not installed (with CUDA 13, nvidia-cuda-crt has crt/)")
    return Path(found)


def build(file: Path, names: Sequence[str], mode: str, flags: Sequence[str]) -> Path:
    """Return a shared library of these instances of kernels, from the cache if possible.

    Raises:
        EmulationError: the compiler's errors.
    """
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(_MODES)}, not {mode!r}")
    headers = (f"-I{_HERE / 'shim'}", f"-I{cuda_headers()}")
    options = (*_COMMON, *_OF_KERNELS, *_MODES[mode], *flags)
    included = [file.parent, *(Path(flag[2:]) for flag in flags if flag.startswith("-I"))]
    # The key is content, not path, so checkouts share libraries. Faults therefore name files without folders.
    about = (file.name, _digest(included), names, mode, [flag for flag in flags if not flag.startswith("-I")])
    library = _kept(*about, _COMMON, _MODES[mode], suffix=".so")
    runtime = _runtime()
    if not is_there(library):
        compiled_header = _compiled_header((*_COMMON, *_OF_KERNELS, *_MODES[mode]), headers)
        lines = [f'#include "{_HEADER}"', f'#include "{file.resolve()}"', '#include "kernel_entry.h"']
        lines += [f"KERNEL_ENTRY({number}, ({name}))" for number, name in enumerate(names)]
        _compile(lines, (*options, f"-I{compiled_header}", *headers), library, needs=[runtime])
        remove_oldest(_CACHE_BYTES)
    return library


def remove_oldest(size: int) -> None:
    """Remove the least recently used libraries from the cache until it has at most `size` bytes."""
    used = []
    for file in cache_folder().rglob("*.*"):
        with contextlib.suppress(FileNotFoundError):  # another process removes it, too
            status = file.stat()
            used.append((status.st_mtime, status.st_size, file))
    total = sum(each for _, each, _ in used)
    for when, each, file in sorted(used):
        if total <= size or time.time() - when < _IN_USE:
            return
        file.unlink(missing_ok=True)
        total -= each


def is_there(file: Path) -> bool:
    """Return whether a file is in the cache, and mark it as used."""
    try:
        os.utime(file)
    except FileNotFoundError:
        return False
    return True


def _compiled_header(options: Sequence[str], headers: Sequence[str]) -> Path:
    """Return a folder with the emulator's header precompiled, which saves most of a second a kernel."""
    kept = _kept(_HEADER, _digest([]), options, suffix=".gch")
    folder = cache_folder() / "headers" / kept.stem
    header = folder / f"{_HEADER}.gch"
    if not is_there(header):
        folder.mkdir(parents=True, exist_ok=True)
        _run_compiler([*options, *headers, "-x", "c++-header", str(_HERE / "shim" / _HEADER)], header)
    return folder


def _runtime() -> Path:
    """Return the shared library that all kernels call: the emulator itself."""
    options = (*_COMMON, "-O2", "-U_FORTIFY_SOURCE")
    library = _kept("runtime", _digest([]), options, suffix=".so")
    if not is_there(library):
        _compile([f'#include "{source}"' for source in _RUNTIME], (*options, f"-I{cuda_headers()}"), library)
    return library


def _compile(lines: Sequence[str], options: Sequence[str], library: Path, needs: Sequence[Path] = ()) -> None:
    """Compile all lines at once into a shared library."""
    with tempfile.TemporaryDirectory() as folder:
        unit, compiled = Path(folder, "unit.cpp"), Path(folder, "unit.o")
        unit.write_text("\n".join(lines) + "\n", encoding="utf-8")
        _run_compiler([*options, "-c", str(unit)], compiled)
        # Without the options: they would link the sanitizers' own libraries.
        _run_compiler(["-shared", "-Wl,--no-as-needed", str(compiled), *map(str, needs), "-ldl"], library)


def _run_compiler(arguments: Sequence[str], output: Path) -> None:
    """Run the compiler. Several processes may write one file: each sees all of it or nothing."""
    own = output.with_name(f"{output.name}.{os.getpid()}.{threading.get_ident()}")
    done = subprocess.run(["g++", *arguments, "-o", str(own)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EmulationError("does not compile", done.stderr[:4000])
    own.replace(output)


def _kept(*about: object, suffix: str) -> Path:
    """Return the cached file of a compilation, named by a digest of all that it depends on."""
    key = hashlib.sha256(json.dumps([*about, machine()]).encode()).hexdigest()[:24]
    return cache_folder() / (key + suffix)


def cache_folder() -> Path:
    """Return the folder of cached libraries."""
    default = Path(tempfile.gettempdir()) / f"cuda-emulation-{os.getuid()}"
    folder = Path(os.environ.get(_CACHE_VARIABLE) or default)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to someone else, whose code would run here")
    return folder


@functools.cache
def machine() -> str:
    """Return a digest of the compiler, of the meaning of -march=native here, and of two of CUDA's headers.

    Code for -march=native may not run on another processor. The first header has CUDA's version, and the second the
    arithmetic of half types that kernels include.
    """
    asked = (["--version"], ["-march=native", "-Q", "--help=target"])
    plain = {**os.environ, "LC_ALL": "C", "COLUMNS": "80"}  # g++ breaks lines to fit
    answers = [subprocess.run(["g++", *a], capture_output=True, text=True, check=True, env=plain).stdout for a in asked]
    headers = b"".join((cuda_headers() / name).read_bytes() for name in ("cuda_runtime_api.h", "cuda_fp16.hpp"))
    return hashlib.sha256("\0".join([platform.machine(), *answers]).encode() + headers).hexdigest()


def _digest(folders: Sequence[Path]) -> str:
    """Return a digest of the emulator's C++ and of all files in these folders, which a kernel may include."""
    digest = hashlib.sha256()
    for folder in (_HERE / "shim", _HERE / "shim" / "nv", _HERE / "runtime", *folders):
        for file in sorted(folder.iterdir()):
            if file.is_file():
                digest.update(f"{file.name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()
