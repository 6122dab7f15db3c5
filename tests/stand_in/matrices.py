"""Matrices at raw pointers, as cuBLAS and cuBLASLt read them: column-major with leading dimensions. And products."""

import ctypes
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from . import memory

OP_N, OP_T = 0, 1
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
R_32F, R_64F, R_16F, R_16BF = 0, 1, 2, 14
DTYPES = {R_32F: np.float32, R_64F: np.float64, R_16F: np.float16, R_16BF: ml_dtypes.bfloat16}

# The combinations of (A and B, C, compute type) in cuBLAS's documentation that are used here.
SUPPORTED = {
    (R_64F, R_64F, COMPUTE_64F),
    (R_32F, R_32F, COMPUTE_32F),
    (R_32F, R_32F, COMPUTE_32F_FAST_TF32),
    (R_16F, R_16F, COMPUTE_32F),
    (R_16F, R_32F, COMPUTE_32F),
    (R_16BF, R_16BF, COMPUTE_32F),
    (R_16BF, R_32F, COMPUTE_32F),
}


class Invalid(ValueError):
    """An error that both libraries call CUBLAS_STATUS_INVALID_VALUE."""


@dataclass(frozen=True)
class Layout:
    """The layout of a column-major matrix in memory."""

    kind: int
    rows: int
    columns: int
    ld: int

    def check(self):
        if min(self.rows, self.columns) <= 0:
            raise Invalid("a matrix is empty")
        if self.ld < self.rows:
            raise Invalid("a leading dimension is too small")

    def at(self, pointer):
        """Return the matrix at an address."""
        self.check()
        return Matrix(self, pointer)


class Matrix(memory.Span):
    """A matrix that lies wholly in one live allocation."""

    def __init__(self, layout, pointer):
        self._layout, self.dtype = layout, np.dtype(DTYPES[layout.kind])
        if pointer % self.dtype.itemsize:
            raise Invalid("a pointer is not aligned")
        super().__init__(pointer, ((layout.columns - 1) * layout.ld + layout.rows) * self.dtype.itemsize)

    def array(self):
        """Return the matrix as a NumPy array (rows, columns)."""
        shape, step = (self._layout.rows, self._layout.columns), self.dtype.itemsize
        elements = self.bytes().view(self.dtype)
        return np.lib.stride_tricks.as_strided(elements, shape, (step, self._layout.ld * step))


def scalar(pointer, compute):
    """Return a factor in host memory, in the arithmetic's type."""
    return (ctypes.c_double if compute == COMPUTE_64F else ctypes.c_float).from_address(pointer).value


def stored(transposed, rows, columns):
    """Return the shape in memory of an operand (rows, columns)."""
    return (columns, rows) if transposed != OP_N else (rows, columns)


def multiply(d, a, b, c, *, transposed, alpha, beta, compute, tf32):
    """Compute D <- alpha op(A) @ op(B) + beta C for Matrix objects. C is not read if beta is 0."""
    a, b = (m.array().T if t != OP_N else m.array() for m, t in zip((a, b), transposed, strict=True))
    if tf32:
        a, b = to_tf32(a), to_tf32(b)
    wide = np.float64 if compute == COMPUTE_64F else np.float32
    with np.errstate(all="ignore"):
        product = wide(alpha) * (a.astype(wide) @ b.astype(wide))
        if beta:
            product += wide(beta) * c.array().astype(wide)
        d.array()[...] = product


def to_tf32(a):
    """Round to TF32's ten bits of mantissa, to nearest even."""
    bits = np.ascontiguousarray(a).view(np.uint32)
    rounded = ((bits + 0xFFF + ((bits >> 13) & 1)) & ~np.uint32(0x1FFF)).view(np.float32)
    return np.where(np.isfinite(a), rounded, a)
