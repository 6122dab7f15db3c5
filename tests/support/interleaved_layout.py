"""The layout of interleave.cu, written as plain loops."""

from itertools import product

import numpy as np

from support.kernel_cases import assert_same_bits


def tiles(columns, dtype):
    """Return a number of columns rounded up to 64 bytes."""
    each = 64 // dtype.itemsize
    return -(-columns // each) * each


def to_tf32(a):
    """Return the nearest numbers with 11 significant bits, the first of them implicit. Ties round away from zero."""
    sizes = np.abs(np.where(np.isfinite(a), a, 0).astype(np.float64))
    exponent = np.maximum(np.frexp(sizes)[1], -125)  # subnormals are as far apart as the smallest normal numbers
    with np.errstate(over="ignore"):
        rounded = np.ldexp(np.floor(np.ldexp(sizes, 11 - exponent) + 0.5), exponent - 11).astype(np.float32)
    return np.where(np.isfinite(a), np.copysign(rounded, a), a)


def interleaved(weight_ih, weight_hh):
    """Return the interleaved weights, element by element."""
    (gates, I), P = weight_ih.shape, weight_hh.shape[1]
    N, KX, KH = gates // 4, tiles(I, weight_ih.dtype), tiles(P, weight_ih.dtype)
    to = np.zeros((-(-N // 32) * 128, KX + KH), weight_ih.dtype)
    for r in range(len(to)):
        u, j = r // 32 * 8 + r % 8, r % 32 // 8
        if u < N:
            for k in range(I):
                to[r, k] = weight_ih[j * N + u, k]
            for k in range(P):
                to[r, KX + k] = weight_hh[j * N + u, k]
    return to


def padded(projection):
    P, N = projection.shape
    to = np.zeros((-(-P // 128) * 128, tiles(N, projection.dtype)), projection.dtype)
    for r, k in product(range(P), range(N)):
        to[r, k] = projection[r, k]
    return to


def assert_rounded(got, want):
    """Compare bits, but treat all NaNs as equal."""
    nan = np.isnan(want)
    np.testing.assert_array_equal(np.isnan(got), nan)
    assert_same_bits("rounded", np.where(nan, 0, got), np.where(nan, 0, to_tf32(want)))
