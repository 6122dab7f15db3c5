"""How arrays lie in memory: strides, alignment, spans of addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def with_contiguous_rows(a: Any) -> Any:
    """Return `a`, or a C-contiguous copy if its rows overlap, are not contiguous or are too far apart."""
    return a if _has_contiguous_rows(a) else cupy.ascontiguousarray(a)


def _has_contiguous_rows(a: Any) -> bool:
    """Whether the rows of `a` don't overlap, are contiguous and not too far apart."""
    B, K = a.shape
    row, column = a.strides
    rows_apart = B == 1 or (row >= K * a.itemsize and row % a.itemsize == 0)
    return bool((K == 1 or column == a.itemsize) and rows_apart and row_stride(a) < 2**31)


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
    if a.flags.c_contiguous or a.size == 0:  # the usual case, in a third of the time
        return start, start + a.nbytes
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
    """Copy `a` (B, K) to `to` on the current stream, without allocating, as a user may capture it.

    Both have the same dtype, and the rows of `to` are contiguous.
    """
    to, a = bits(to), bits(a)
    if not _has_contiguous_rows(a):
        to[...] = a
        return
    is_itself = a.data.ptr == to.data.ptr and row_stride(a) == row_stride(to)
    if a.size and not is_itself:
        RowCopy(to, a, (0, 1)).queue(cupy.cuda.get_current_stream().ptr, (to.data.ptr, a.data.ptr))


def copy_steps(to: Any, a: Any) -> None:
    """Copy `a` (S, B, K) to `to` on the current stream, without allocating. Both have the same dtype, any strides."""
    if not a.size:
        return
    of_to, of_a = _one_matrix(to), _one_matrix(a)
    if of_to is None or of_a is None:
        bits(to)[...] = bits(a)
    else:
        copy_rows(of_to, of_a)


def _one_matrix(a: Any) -> Any:
    """Return an array (S, B, K) as (S B, K) with contiguous rows, or None if its rows aren't evenly spaced."""
    (S, B, K), (step, row, column) = a.shape, a.strides
    if column != a.itemsize and K > 1:
        return None
    row = row if B > 1 else step if S > 1 else K * a.itemsize
    if (S > 1 and step != B * row) or row < K * a.itemsize:
        return None
    return cupy.ndarray((S * B, K), a.dtype, a.data, strides=(row, a.itemsize))


class RowCopy:
    """A copy of rows, for any arrays with the layouts of the given ones.

    Args:
        to: (B, K), with contiguous rows.
        a: likewise.
        places: where `queue` finds the addresses of both.
    """

    def __init__(self, to: Any, a: Any, places: tuple[int, int]) -> None:
        B, K = a.shape
        self._to_pitch, self._pitch = (row_stride(array) * array.itemsize for array in (to, a))
        self._size = K * a.itemsize, B, cupy.cuda.runtime.memcpyDeviceToDevice
        self._places = places

    def queue(self, stream: int, addresses: Sequence[int]) -> None:
        """Queue it on a stream, given by its handle."""
        to, a = (addresses[place] for place in self._places)
        cupy.cuda.runtime.memcpy2DAsync(to, self._to_pitch, a, self._pitch, *self._size, stream)


class Zeros:
    """Zeros for any contiguous array as large as this. `queue` finds its address at a place."""

    def __init__(self, array: Any, place: int) -> None:
        self._nbytes, self._place = array.nbytes, place

    def queue(self, stream: int, addresses: Sequence[int]) -> None:
        """Queue it on a stream, given by its handle."""
        cupy.cuda.runtime.memsetAsync(addresses[self._place], 0, self._nbytes, stream)
