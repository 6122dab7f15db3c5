"""Row-major matrix products with cuBLAS. Only this file chooses the type of the arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.cuda.runtime.cupy_internals import get_cublas_handle, import_cublas
from fusedlstm.backends.cuda.runtime.strides import row_stride, with_contiguous_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

cublas: Any = import_cublas()
TYPES = {
    "float64": cupy.cuda.runtime.CUDA_R_64F,
    "float32": cupy.cuda.runtime.CUDA_R_32F,
    "float16": cupy.cuda.runtime.CUDA_R_16F,
    "bfloat16": cupy.cuda.runtime.CUDA_R_16BF,
}
# cuBLAS reads alpha and beta through pointers: 1 and 0, in the type of the arithmetic.
_FACTORS: dict[bool, Any] = {False: np.array([1, 0], np.float32), True: np.array([1, 0], np.float64)}
ALPHA_BETA = {wide: (f.ctypes.data, f.ctypes.data + f.itemsize) for wide, f in _FACTORS.items()}
_DEFAULT_MATH = cublas.CUBLAS_DEFAULT_MATH


class Product:
    """a @ weight.T, for any `a` and `out` with the layouts of the given ones.

    At precision "highest", float32 is multiplied as IEEE float32, whatever CUPY_TF32 or other users of CuPy's cuBLAS
    handle have set. At "high" it may be multiplied as TF32. The 16-bit types accumulate in float32.

    Args:
        out: (B, M), C-contiguous, in the inputs' dtype. For 16-bit inputs, float32 is also allowed.
        a: (B, K), with contiguous rows. B and K are at least 1.
        weight: (M, K), with contiguous rows, in a's dtype.
        precision: "highest" or "high".
        places: where `queue` finds the addresses of a and of out.
    """

    def __init__(self, out: Any, a: Any, weight: Any, precision: str, places: tuple[int, int] = (0, 1)) -> None:
        (B, K), M = a.shape, len(weight)
        operand, result = TYPES[weight.dtype.name], TYPES[out.dtype.name]
        alpha, beta = ALPHA_BETA[out.dtype == np.float64]
        # cuBLAS is column-major: it sees out.T = weight @ a.T, and our rows as its columns.
        weights = weight.data.ptr, operand, row_stride(weight)
        self._to_a = cublas.CUBLAS_OP_T, cublas.CUBLAS_OP_N, M, B, K, alpha, *weights
        self._to_out = operand, row_stride(a), beta
        self._rest = result, M, compute_type(weight.dtype, precision), cublas.CUBLAS_GEMM_DEFAULT
        self._places = places

    def queue(self, handle: int, addresses: Sequence[int]) -> None:
        """Queue it on the current stream, with the handle that `begin` returned."""
        a, out = self._places
        cublas.gemmEx(handle, *self._to_a, addresses[a], *self._to_out, addresses[out], *self._rest)


def begin() -> tuple[int, int]:
    """Return CuPy's handle of the current device, set for products, and the mode to give to `end`.

    In the default mode, COMPUTE_32F is IEEE float32. Another user may have set another mode.
    """
    handle = int(get_cublas_handle())
    mode = cublas.getMathMode(handle)
    if mode != _DEFAULT_MATH:
        cublas.setMathMode(handle, _DEFAULT_MATH)
    return handle, mode


def end(handle: int, mode: int) -> None:
    """Restore the mode of the handle."""
    if mode != _DEFAULT_MATH:
        cublas.setMathMode(handle, mode)


def write_product(out: Any, a: Any, weight: Any, precision: str) -> None:
    """Write a @ weight.T to `out`, on the current device and stream.

    The arguments are Product's, but `a` may have any strides, and B or K may be 0.
    """
    if 0 in a.shape:
        out.fill(0)
        return
    a = with_contiguous_rows(a)
    product = Product(out, a, weight, precision)
    handle, mode = begin()
    try:
        product.queue(handle, (a.data.ptr, out.data.ptr))
    finally:
        end(handle, mode)


def compute_type(dtype: np.dtype[Any], precision: str) -> int:
    """Return cuBLAS's type of the arithmetic for a dtype of the inputs."""
    if dtype == np.float64:
        return int(cublas.CUBLAS_COMPUTE_64F)
    if dtype == np.float32 and precision == "high":
        return int(cublas.CUBLAS_COMPUTE_32F_FAST_TF32)
    return int(cublas.CUBLAS_COMPUTE_32F)
