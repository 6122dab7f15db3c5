"""Whether CUDA can run here, and if not, why; importing this imports no CuPy."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import tempfile
from typing import Any

# Of cudaError_t; CuPy does not export them.
_INSUFFICIENT_DRIVER = 35
_NO_DEVICE = 100


def why_not(index: int = 0) -> str | None:
    """Return why the GPU of this index can't be used, or None when it can."""
    reason, devices = _probe()
    if reason is None and index >= devices:
        return f"there is no GPU {index}, only {devices} (0 to {devices - 1})"
    return reason


@functools.cache
def _probe() -> tuple[str | None, int]:
    """Return a reason and the number of GPUs; asked once, as a driver does not come and go."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'fusedlstm[cuda13]', or [cuda12])", 0
    _tolerate_read_only_home()
    try:
        import cupy
    except Exception as error:
        return f"CuPy is installed but can't be imported: {error}", 0
    try:
        devices = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return _reason(cupy, error), 0
    if devices == 0:
        return "there is no NVIDIA GPU", 0
    missing = _missing_library()
    return missing, devices


def _reason(cupy: Any, error: Exception) -> str:
    """Say in words what a failed count of devices means."""
    runtime = cupy.cuda.runtime
    try:
        driver = int(runtime.driverGetVersion())
    except runtime.CUDARuntimeError:
        driver = 0
    if driver == 0:
        return "there is no NVIDIA driver"
    if getattr(error, "status", None) == _INSUFFICIENT_DRIVER:
        wants, has = _version(int(runtime.runtimeGetVersion())), _version(driver)
        return f"the NVIDIA driver is too old: it supports CUDA {has}, and this CuPy is made for CUDA {wants}"
    if getattr(error, "status", None) == _NO_DEVICE:
        return "there is no NVIDIA GPU"
    return f"the NVIDIA driver reports: {error}"


def _missing_library() -> str | None:
    """Say which of the libraries that CuPy's wheels do not bring can't be found."""
    for library, module in (("NVRTC", "nvrtc"), ("cuBLAS", "cublas")):
        try:
            importlib.import_module(f"cupy_backends.cuda.libs.{module}")
        except ImportError as error:
            return f"{library} is not installed (pip install 'fusedlstm[cuda13]', or [cuda12]): {error}"
    return None


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _tolerate_read_only_home() -> None:
    """Give CuPy another cache folder where it can't make its own: else its import fails there."""
    if "CUPY_CACHE_DIR" in os.environ:
        return
    folder = os.path.expanduser("~/.cupy/kernel_cache")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        os.environ["CUPY_CACHE_DIR"] = tempfile.mkdtemp(prefix="fusedlstm-cupy-")


def describe_gpus() -> list[str]:
    """Return each GPU's name, compute capability and memory; CUDA must be able to run."""
    import cupy

    runtime = cupy.cuda.runtime
    driver = _version(int(runtime.driverGetVersion()))
    texts = []
    for index in range(int(runtime.getDeviceCount())):
        about = runtime.getDeviceProperties(index)
        name = about["name"].decode()
        capability = f"{about['major']}.{about['minor']}"
        memory = about["totalGlobalMem"] / 2**30
        texts.append(f"{name}, compute capability {capability}, {memory:.0f} GiB, driver for CUDA {driver}")
    return texts
