"""gemmEx from raw pointers, as cuBLAS reads them: column-major, with leading dimensions and transposes."""

import ctypes

import ml_dtypes
import numpy as np

from . import arrays, streams

CUBLAS_OP_N, CUBLAS_OP_T = 0, 1
CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_64F, CUBLAS_COMPUTE_32F_FAST_TF32 = 68, 70, 77
CUBLAS_GEMM_DEFAULT = -1
CUBLAS_DEFAULT_MATH, CUBLAS_TENSOR_OP_MATH = 0, 1

_R_32F, _R_64F, _R_16F, _R_16BF = 0, 1, 2, 14
_DTYPES = {_R_32F: np.float32, _R_64F: np.float64, _R_16F: np.float16, _R_16BF: ml_dtypes.bfloat16}

# The combinations of (A and B, C, compute type) in cuBLAS' documentation that are of use here.
_SUPPORTED = {
    (_R_64F, _R_64F, CUBLAS_COMPUTE_64F),
    (_R_32F, _R_32F, CUBLAS_COMPUTE_32F),
    (_R_32F, _R_32F, CUBLAS_COMPUTE_32F_FAST_TF32),
    (_R_16F, _R_16F, CUBLAS_COMPUTE_32F),
    (_R_16F, _R_32F, CUBLAS_COMPUTE_32F),
    (_R_16BF, _R_16BF, CUBLAS_COMPUTE_32F),
    (_R_16BF, _R_32F, CUBLAS_COMPUTE_32F),
}

_modes = {}  # handle -> math mode


class CUBLASError(RuntimeError):
    """A status that is not CUBLAS_STATUS_SUCCESS."""


def setMathMode(handle, mode):
    _modes[handle] = mode


def getMathMode(handle):
    return _modes.get(handle, CUBLAS_DEFAULT_MATH)


def gemmEx(
    handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, computeType, algo
):
    """C (m, n) <- alpha op(A) (m, k) @ op(B) (k, n) + beta C."""
    if handle != arrays.current_device + 1:
        raise CUBLASError("the handle is another device's")
    if min(m, n, k) <= 0 or algo != CUBLAS_GEMM_DEFAULT:
        raise CUBLASError("CUBLAS_STATUS_INVALID_VALUE")
    if Atype != Btype or (Atype, Ctype, computeType) not in _SUPPORTED:
        raise CUBLASError("CUBLAS_STATUS_NOT_SUPPORTED")
    streams.launched("gemm")
    scalar = ctypes.c_double if computeType == CUBLAS_COMPUTE_64F else ctypes.c_float
    alpha, beta = scalar.from_address(alpha).value, scalar.from_address(beta).value
    a = _operand(A, Atype, transa, m, k, lda)
    b = _operand(B, Btype, transb, k, n, ldb)
    if computeType == CUBLAS_COMPUTE_32F_FAST_TF32 or (Atype == _R_32F and getMathMode(handle)):
        a, b = _to_tf32(a), _to_tf32(b)
    wide = np.float64 if computeType == CUBLAS_COMPUTE_64F else np.float32
    c = _matrix(C, Ctype, m, n, ldc)
    with np.errstate(all="ignore"):
        product = wide(alpha) * (a.astype(wide) @ b.astype(wide))
        if beta:  # else C is not read
            product += wide(beta) * c.astype(wide)
        c[...] = product


def _operand(pointer, kind, transposed, rows, columns, ld):
    if transposed == CUBLAS_OP_N:
        return _matrix(pointer, kind, rows, columns, ld)
    return _matrix(pointer, kind, columns, rows, ld).T


def _matrix(pointer, kind, rows, columns, ld):
    """The column-major matrix (rows, columns) at an address, which must all be in one array."""
    if ld < max(1, rows):
        raise CUBLASError("CUBLAS_STATUS_INVALID_VALUE: a leading dimension is too small")
    dtype = np.dtype(_DTYPES[kind])
    if pointer % dtype.itemsize:
        raise CUBLASError("a pointer is not aligned")
    size = ((columns - 1) * ld + rows) * dtype.itemsize
    arrays.allocation(pointer, size)
    elements = np.frombuffer((ctypes.c_char * size).from_address(pointer), dtype)
    return np.lib.stride_tricks.as_strided(elements, (rows, columns), (dtype.itemsize, ld * dtype.itemsize))


def _to_tf32(a):
    """Rounded to TF32's ten bits of mantissa, to nearest even."""
    bits = np.ascontiguousarray(a).view(np.uint32)
    rounded = ((bits + 0xFFF + ((bits >> 13) & 1)) & ~np.uint32(0x1FFF)).view(np.float32)
    return np.where(np.isfinite(a), rounded, a)
