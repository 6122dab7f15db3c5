"""Find out whether CUDA can run here, or can't any more, and why. Importing this doesn't import CuPy."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from typing import Any

from fusedlstm.backends.cuda.runtime import cache, fork

# Of cudaError_t; CuPy does not export them.
_INSUFFICIENT_DRIVER = 35
_NO_DEVICE = 100

_OLDEST_CUPY = 14
_EXTRAS = "fusedlstm's extra cuda13, or cuda12, brings it"
_NO_GPU = "there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it"


def why_not(index: int = 0) -> str | None:
    """Return why the GPU of this index can't be used, or None if it can."""
    if fork.forked:
        return fork.REASON
    reason, devices = _probe()
    if reason is None and index >= devices:
        return f"there is no GPU {index}: found {devices}, numbered from 0"
    return reason or _cannot_compile_for(index)


def why_not_compile() -> str | None:
    """Return why kernels can't be compiled here, or None if they can. That needs CuPy and NVRTC, but no GPU."""
    return _cannot_import() or _no_nvrtc()


def _cannot_import() -> str | None:
    """Import CuPy. Return why that is impossible, or None."""
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed ({_EXTRAS})"
    _tolerate_read_only_home()
    try:
        import cupy
    except Exception as error:  # a broken install fails in many ways
        return f"CuPy is installed but can't be imported: {error}"
    if int(cupy.__version__.partition(".")[0]) < _OLDEST_CUPY:
        return f"CuPy {cupy.__version__} is too old: {_OLDEST_CUPY} or later is needed"
    return None


@functools.cache
def _probe() -> tuple[str | None, int]:
    """Return a reason or None, and the number of GPUs. This asks the driver once."""
    reason = _cannot_import()
    if reason is not None:
        return reason, 0
    import cupy

    try:
        devices = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return _reason(cupy, error), 0
    if devices:
        fork.note_use()  # counting them already uses CUDA
    return (_missing_library() if devices else _NO_GPU), devices


def _reason(cupy: Any, error: Exception) -> str:
    """Return in words why devices couldn't be counted."""
    runtime = cupy.cuda.runtime
    try:
        driver = int(runtime.driverGetVersion())
    except runtime.CUDARuntimeError:
        driver = 0
    if driver == 0:
        return "there is no NVIDIA driver"
    if getattr(error, "status", None) == _INSUFFICIENT_DRIVER:
        wants, has = version(int(runtime.runtimeGetVersion())), version(driver)
        return f"the NVIDIA driver is too old: it supports CUDA {has}, and this CuPy is made for CUDA {wants}"
    if getattr(error, "status", None) == _NO_DEVICE:
        return _NO_GPU
    return f"the NVIDIA driver reports: {error}"


def _missing_library() -> str | None:
    """Check the libraries that CuPy's wheels don't bring. Return which one is missing, or None."""
    try:
        from cupy_backends.cuda.libs import cublas  # noqa: F401
    except ImportError as error:
        return _no_nvrtc() or f"cuBLAS is not installed ({_EXTRAS}): {error}"
    return _no_nvrtc()


def _no_nvrtc() -> str | None:
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()  # finds the library; the import alone does not
    except Exception as error:  # CuPy's own errors, of several kinds
        return f"NVRTC is not installed ({_EXTRAS}): {error}"
    return None


@functools.cache
def _cannot_compile_for(index: int) -> str | None:
    """Return why kernels can't be compiled for a GPU, or None: missing headers, or a GPU too old for NVRTC."""
    import cupy

    from fusedlstm.backends.cuda.runtime.compile import architecture, cuda_headers

    try:
        cuda_headers()
        architecture(cupy.cuda.Device(index).compute_capability)
    except RuntimeError as error:
        return str(error)
    return None


def lost(index: int) -> str | None:
    """Return why CUDA can't be called any more on a GPU, or None. After such an error every call fails."""
    import cupy

    words = None
    for _ in range(2):  # earlier work may report another error, once
        try:
            with cupy.cuda.Device(index):
                cupy.cuda.runtime.deviceSynchronize()
                cupy.cuda.runtime.memGetInfo()
        except Exception as error:  # CuPy's own, of several kinds
            words = str(error)
        else:
            return None
    return words


def version(number: int) -> str:
    """Return a version of CUDA in words, such as "13.0" for 13000."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _tolerate_read_only_home() -> None:
    """Give CuPy another cache folder if it can't write to its own. Otherwise its import or its use would fail."""
    if "CUPY_CACHE_DIR" in os.environ:
        return
    own = os.path.expanduser("~/.cupy/kernel_cache")
    with contextlib.suppress(OSError):
        if os.path.isabs(own):  # a user may have no home
            os.makedirs(own, exist_ok=True)
    if os.access(own, os.W_OK):
        return
    other = cache.temporary("cupy")
    if cache.make_private(other) is None:
        os.environ["CUPY_CACHE_DIR"] = str(other)


def capabilities() -> list[int]:
    """Return each GPU's compute capability, 90 for 9.0. CUDA must be able to run."""
    import cupy

    return [int(cupy.cuda.Device(index).compute_capability) for index in range(int(cupy.cuda.runtime.getDeviceCount()))]


def describe_gpus() -> list[str]:
    """Return each GPU's name, compute capability and memory. CUDA must be able to run."""
    import cupy

    runtime = cupy.cuda.runtime
    driver = version(int(runtime.driverGetVersion()))
    texts = []
    for index in range(int(runtime.getDeviceCount())):
        about = runtime.getDeviceProperties(index)
        name = about["name"].decode()
        capability = f"{about['major']}.{about['minor']}"
        memory = about["totalGlobalMem"] / 2**30
        texts.append(f"{name}, compute capability {capability}, {memory:.0f} GiB, driver for CUDA {driver}")
    return texts
