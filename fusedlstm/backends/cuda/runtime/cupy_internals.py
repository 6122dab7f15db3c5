"""What CuPy doesn't document and the package uses. Only `probe.py` imports some of it, too, to see what is missing.

- `nvrtc`: CuPy's own compiler needs a GPU. Its cache, which goes by the source alone, overlooks edited headers (14.2).
- `driver.launchKernel`: it takes packed arguments. A RawKernel looks at each one, which takes longer than a launch.
- cuBLAS's `gemmEx`: nothing else multiplies rows of any stride, in an arithmetic of our choice. `getMathMode` and
  `setMathMode` keep other users of the handle from choosing another.
- `get_cublas_handle`: the documented `Device.cublas_handle` takes twice as long.
- `ForeignStream`: CuPy's ExternalStream is deprecated, and its successor takes no handles.

CI imports this file with the oldest and the newest CuPy that the package supports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cupy
from cupy.cuda import driver, nvrtc
from cupy.cuda.device import get_cublas_handle

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["ForeignStream", "driver", "get_cublas_handle", "import_cublas", "nvrtc"]


def import_cublas() -> ModuleType:
    """Return CuPy's module of cuBLAS, or raise ImportError if it is missing. Compiling doesn't need it."""
    from cupy_backends.cuda.libs import cublas

    module: ModuleType = cublas
    return module


class ForeignStream(cupy.cuda.ExternalStream):  # type: ignore[misc]
    """Another library's stream, which its owner keeps alive and destroys.

    This bypasses ExternalStream's constructor, which warns that it is deprecated.
    """

    def __init__(self, handle: int, index: int) -> None:
        super(cupy.cuda.ExternalStream, self).__init__(handle, index)
