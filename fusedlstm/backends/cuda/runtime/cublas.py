"""Row-major matrix products with cuBLAS. Only this file chooses the type of the arithmetic."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
from cupy_backends.cuda.libs import cublas

from fusedlstm.backends.cuda.runtime.strides import row_stride, with_contiguous_rows

TYPES = {
    "float64": cupy.cuda.runtime.CUDA_R_64F,
    "float32": cupy.cuda.runtime.CUDA_R_32F,
    "float16": cupy.cuda.runtime.CUDA_R_16F,
    "bfloat16": cupy.cuda.runtime.CUDA_R_16BF,
}
# cuBLAS reads alpha and beta through pointers: 1 and 0, in the type of the arithmetic.
_FACTORS: dict[bool, Any] = {False: np.array([1, 0], np.float32), True: np.array([1, 0], np.float64)}
ALPHA_BETA = {wide: (f.ctypes.data, f.ctypes.data + f.itemsize) for wide, f in _FACTORS.items()}


def write_product(out: Any, a: Any, weight: Any, precision: str) -> None:
    """Write a @ weight.T to `out`, on the current device and stream.

    At precision "highest", float32 is multiplied as IEEE float32, whatever CUPY_TF32 or other users of CuPy's cuBLAS
    handle have set. At "high" it may be multiplied as TF32. The 16-bit types accumulate in float32.

    Args:
        out: (B, M), C-contiguous, in the inputs' dtype. For 16-bit inputs, float32 is also allowed.
        a: (B, K), with contiguous rows and any row stride.
        weight: (M, K), with contiguous rows, in a's dtype.
        precision: "highest" or "high".
    """
    B, K = a.shape
    M = weight.shape[0]
    if B == 0:
        return
    if K == 0:
        out.fill(0)
        return
    a = with_contiguous_rows(a)
    alpha, beta = ALPHA_BETA[out.dtype == np.float64]
    # cuBLAS is column-major: it sees out.T = weight @ a.T, and our rows as its columns.
    # Another user may have set the mode of CuPy's handle, so restore it afterwards.
    handle = cupy.cuda.device.get_cublas_handle()
    mode = cublas.getMathMode(handle)
    try:
        if mode != cublas.CUBLAS_DEFAULT_MATH:  # in the default mode COMPUTE_32F is IEEE float32
            cublas.setMathMode(handle, cublas.CUBLAS_DEFAULT_MATH)
        cublas.gemmEx(
            int(handle),
            cublas.CUBLAS_OP_T,
            cublas.CUBLAS_OP_N,
            M,
            B,
            K,
            alpha,
            weight.data.ptr,
            TYPES[weight.dtype.name],
            row_stride(weight),
            a.data.ptr,
            TYPES[a.dtype.name],
            row_stride(a),
            beta,
            out.data.ptr,
            TYPES[out.dtype.name],
            M,
            compute_type(weight.dtype, precision),
            cublas.CUBLAS_GEMM_DEFAULT,
        )
    finally:
        if mode != cublas.CUBLAS_DEFAULT_MATH:
            cublas.setMathMode(handle, mode)


def compute_type(dtype: np.dtype[Any], precision: str) -> int:
    """Return cuBLAS's type of the arithmetic for a dtype of the inputs."""
    if dtype == np.float64:
        return int(cublas.CUBLAS_COMPUTE_64F)
    if dtype == np.float32 and precision == "high":
        return int(cublas.CUBLAS_COMPUTE_32F_FAST_TF32)
    return int(cublas.CUBLAS_COMPUTE_32F)
