"""Facts about a GPU and its libraries."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
from pathlib import Path

import cupy

from fusedlstm.backends.cuda.runtime import probe
from fusedlstm.backends.cuda.runtime.cupy_internals import nvrtc

_DRIVER = Path("/proc/driver/nvidia/version")  # on Linux


def facts(index: int) -> dict[str, str]:
    """Return facts about a GPU, its driver and the libraries of CUDA, by name."""
    runtime = cupy.cuda.runtime.runtimeGetVersion()
    return {
        "GPU": probe.describe_gpus()[index],
        "driver": _driver(),
        "CUDA of CuPy": probe.version(int(runtime)),
        "NVRTC": ".".join(map(str, nvrtc.getVersion())),
        "CuPy": str(cupy.__version__),
        "nvmath-python": _nvmath(),
    }


def _driver() -> str:
    """Return the driver's own version, which CUDA doesn't report."""
    with contextlib.suppress(OSError):
        found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _DRIVER.read_text(encoding="utf-8", errors="replace"))
        if found:
            return found[1]
    return "unknown"


def _nvmath() -> str:
    try:
        return importlib.metadata.version("nvmath-python")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
