"""Replace the real driver by the fake one in this process."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import struct
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from . import build, checking, kernels, memory, observe, symbols
from emulation import compiler

_FIND_KERNEL = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_char), ctypes.c_size_t, ctypes.c_char_p, ctypes.POINTER(kernels.Kernel)
)
_CUPY = "14.2.0"  # the version that the driver is made for
_PAGE = 4096
_MOVE_TO_RAX, _JUMP_TO_RAX = b"\x48\xb8", b"\xff\xe0"  # x86-64 code; the address, 8 bytes, comes between
_READ_WRITE_EXECUTE = 7
_kept: list[object] = []  # kept alive until the process ends


def missing() -> str | None:
    """Return why CuPy can't run on the fake driver here, or None."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "the fake driver needs Linux on x86-64"
    if importlib.util.find_spec("nvmath") is None:
        return "nvmath-python is not installed"
    try:
        version = importlib.metadata.version("cupy-cuda13x")
    except importlib.metadata.PackageNotFoundError:
        return "cupy-cuda13x is not installed"
    if version != _CUPY:
        return f"the fake driver is made for cupy-cuda13x {_CUPY}, and {version} is installed"
    return compiler.missing()


def install() -> None:
    """Make the CuPy and nvmath-python that are imported later use the fake driver.

    Raises:
        RuntimeError: CuPy has been imported, or has no runtime to redirect.
    """
    if "cupy_backends" in sys.modules:
        raise RuntimeError("install the fake driver before CuPy is imported")
    os.environ["CUPY_ACCELERATORS"] = ""  # CuPy's CUB has its own copy of CUDA's runtime, which isn't redirected
    folder = build.build()
    _keep_code_apart(folder)
    libraries = {name: ctypes.CDLL(str(folder / name)) for name in (build.DRIVER, *build.NAMED)}
    found = _FIND_KERNEL(_find)
    libraries[build.DRIVER].driver_set_find_kernel(found)
    _kept.extend([libraries, found])
    observe.use(libraries[build.DRIVER])
    memory.use(libraries[build.DRIVER])
    libraries[build.DRIVER].driver_set_schedule(kernels.SCHEDULE.order, ctypes.c_ulonglong(kernels.SCHEDULE.seed))
    _redirect(libraries["libcublas.so.13"])
    if os.environ.get("DRIVER_ORDER", "now") == "now":
        memory.give_each_array_its_own()
    if kernels.MODE == "check":
        checking.check_structs(libraries[build.DRIVER])


def _keep_code_apart(folder: Path) -> None:
    """Keep the fake NVRTC's code out of the user's caches, where CuPy or fusedlstm on a GPU would find it.

    CuPy's kernels are cached in the driver's folder. The package's name files of this checkout, so their cache is
    removed when the process ends, unless the tests have chosen a folder.
    """
    os.environ["CUPY_CACHE_DIR"] = str(folder / "cupy")
    if "FUSEDLSTM_CACHE_DIR" not in os.environ:
        kernels_of_process = tempfile.TemporaryDirectory(prefix="fusedlstm-driver-")
        _kept.append(kernels_of_process)  # removed when the process ends
        os.environ["FUSEDLSTM_CACHE_DIR"] = kernels_of_process.name


def _find(description: Any, length: int, name: bytes, out: Any) -> int:
    """Fill in `out` with the kernel of this name. Return whether there is one."""
    try:
        content = ctypes.string_at(description, length)
        return kernels.find(kernels.Description.read(content), name.decode(), out.contents)
    except BaseException:  # C can't raise it
        traceback.print_exc()
        return 0


def _redirect(library: ctypes.CDLL) -> None:
    """Overwrite each function of CUDA's runtime in CuPy's module with a jump to the fake driver's."""
    module = importlib.import_module("cupy_backends.cuda.api.runtime")
    base, redirected = _loaded_at(Path(str(module.__file__)).resolve()), 0  # a virtual environment may be a link
    for symbol in symbols.functions(build.runtime_module()):
        if symbol.name.startswith("cuda") and not symbol.name.startswith("cudart"):
            target = ctypes.cast(getattr(library, symbol.name), ctypes.c_void_p).value
            _write(base + symbol.offset, _MOVE_TO_RAX + struct.pack("<Q", target) + _JUMP_TO_RAX)
            redirected += 1
    if not redirected:
        raise RuntimeError(f"{module.__file__} has no symbols of CUDA's runtime, which must be linked into this CuPy")


def _loaded_at(library: Path) -> int:
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return min(int(line.partition("-")[0], 16) for line in lines if line.endswith(str(library)))


def _write(address: int, code: bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    page = ctypes.c_void_p(address // _PAGE * _PAGE)
    if libc.mprotect(page, ctypes.c_size_t(2 * _PAGE), _READ_WRITE_EXECUTE):
        raise OSError(ctypes.get_errno(), "mprotect")
    ctypes.memmove(address, code, len(code))
