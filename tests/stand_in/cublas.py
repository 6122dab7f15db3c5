"""gemmEx with raw pointers, as cuBLAS reads them."""

from . import arrays, graphs, matrices, streams

CUBLAS_OP_N, CUBLAS_OP_T = matrices.OP_N, matrices.OP_T
CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_64F = matrices.COMPUTE_32F, matrices.COMPUTE_64F
CUBLAS_COMPUTE_32F_FAST_TF32 = matrices.COMPUTE_32F_FAST_TF32
CUBLAS_GEMM_DEFAULT = -1
CUBLAS_DEFAULT_MATH, CUBLAS_TENSOR_OP_MATH = 0, 1

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
    """Compute C (m, n) <- alpha op(A) (m, k) @ op(B) (k, n) + beta C."""
    graphs.refuse("cuBLAS", NotImplementedError)
    if handle != arrays.current_device + 1:
        raise CUBLASError("the handle is another device's")
    if min(m, n, k) <= 0 or algo != CUBLAS_GEMM_DEFAULT:
        raise CUBLASError("CUBLAS_STATUS_INVALID_VALUE")
    if Atype != Btype or (Atype, Ctype, computeType) not in matrices.SUPPORTED:
        raise CUBLASError("CUBLAS_STATUS_NOT_SUPPORTED")
    try:
        a = matrices.Layout(Atype, *matrices.stored(transa, m, k), lda).at(A)
        b = matrices.Layout(Btype, *matrices.stored(transb, k, n), ldb).at(B)
        c = matrices.Layout(Ctype, m, n, ldc).at(C)
    except matrices.Invalid as error:
        raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: {error}") from None
    streams.launched("gemm")
    matrices.multiply(
        *(c, a, b, c),
        transposed=(transa, transb),
        alpha=matrices.scalar(alpha, computeType),
        beta=matrices.scalar(beta, computeType),
        compute=computeType,
        tf32=computeType == CUBLAS_COMPUTE_32F_FAST_TF32 or (Atype == matrices.R_32F and getMathMode(handle)),
    )
