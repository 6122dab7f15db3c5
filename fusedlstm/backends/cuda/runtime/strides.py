"""How arrays lie in memory: strides, alignment, spans of addresses."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np


def with_contiguous_rows(a: Any) -> Any:
    """Return `a`, or a C-contiguous copy if its rows overlap, are not contiguous or are too far apart."""
    B, K = a.shape
    row, column = a.strides
    rows_apart = B == 1 or (row >= K * a.itemsize and row % a.itemsize == 0)
    fits = row_stride(a) < 2**31 if rows_apart else False
    return a if (K == 1 or column == a.itemsize) and rows_apart and fits else cupy.ascontiguousarray(a)


def row_stride(a: Any) -> int:
    """Return the number of elements from row to row. With fewer than two rows it is a row's length, at least 1."""
    B, K = a.shape
    return int(a.strides[0]) // int(a.itemsize) if B > 1 else max(1, K)


def is_aligned(a: Any, elements: int) -> bool:
    """Whether rows are aligned so that vectors of this many elements, up to 16 bytes, can be moved at once."""
    step = min(16, elements * a.itemsize)
    rows_fit = a.ndim == 1 or a.shape[0] == 1 or a.strides[0] % step == 0
    return bool(a.data.ptr % step == 0 and rows_fit)


def span(a: Any) -> tuple[int, int]:
    """Return the first address of an array and the one after its last. They are equal if it is empty."""
    start = end = a.data.ptr
    if a.size == 0:
        return start, end
    for length, stride in zip(a.shape, a.strides, strict=True):
        if stride < 0:
            start += (length - 1) * stride
        else:
            end += (length - 1) * stride
    return start, end + a.itemsize


def bits(a: Any) -> Any:
    """Return 16-bit numbers viewed as integers, which CuPy supports fully, and other arrays unchanged."""
    return a.view(np.int16) if a.dtype.itemsize == 2 else a


def copy_rows(to: Any, a: Any) -> None:
    """Copy `a` (B, K) to `to` on the current stream. Both have the same dtype, and the rows of `to` are contiguous."""
    a = with_contiguous_rows(bits(a))
    B, K = a.shape
    is_itself = a.data.ptr == to.data.ptr and row_stride(a) == row_stride(to)
    if a.size and not is_itself:
        kind, stream = cupy.cuda.runtime.memcpyDeviceToDevice, cupy.cuda.get_current_stream().ptr
        pitches = [row_stride(array) * array.itemsize for array in (to, a)]
        width = K * a.itemsize
        cupy.cuda.runtime.memcpy2DAsync(to.data.ptr, pitches[0], a.data.ptr, pitches[1], width, B, kind, stream)
