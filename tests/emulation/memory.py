"""Copies of arrays as a GPU would hold them: whole allocations with the same layout and guards around them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# CUDA's alignment of allocations. A view keeps its offset from the allocation's start.
_ALIGNMENT = 256
_GUARD = 1 << 14  # bytes on either side. An access less than half of it beyond an array is nearest to that array.
# NaN in each floating dtype, so that mistaken reads show, as do writes.
_CANARY = 0xFF
# Gaps in larger allocations don't get canaries, as allocations may be far larger than the part in use.
_MOST_FILLED = 64 << 20


@dataclass(frozen=True)
class Extent:
    """Memory that an array covers: `count` rows of `row_bytes`, `stride` bytes apart, from address `first` on."""

    first: int
    row_bytes: int
    stride: int
    count: int


class Allocation:
    """Memory that several arrays share, and its copy for a kernel.

    Args:
        begin: the address of its first byte.
        end: the address after its last.
    """

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end
        size = end - begin
        self._bytes = np.empty(size + 2 * _GUARD + _ALIGNMENT, np.uint8)
        self._offset = _GUARD + -(self._bytes.ctypes.data + _GUARD) % _ALIGNMENT
        self._guards = [self._bytes[: self._offset], self._bytes[self._offset + size :]]
        self._filled = [self._bytes] if size <= _MOST_FILLED else self._guards
        for part in self._filled:
            part[...] = _CANARY

    def twin(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the view of the copy that corresponds to an array of the original."""
        return self._view(array, array.shape, array.dtype, array.strides)

    def was_written_outside(self, arrays: Iterable[np.ndarray[Any, Any]]) -> bool:
        """Return whether a byte outside all arrays has changed. Overwrites the copies of the arrays."""
        for array in arrays:
            as_bytes = self._view(array, (*array.shape, array.itemsize), np.uint8, (*array.strides, 1))
            as_bytes[...] = _CANARY
        return any((part != _CANARY).any() for part in self._filled)

    def _view(
        self, array: np.ndarray[Any, Any], shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...]
    ) -> np.ndarray[Any, Any]:
        """Return a view of the copy that begins where an array begins in the original."""
        offset = self._offset + array.ctypes.data - self.begin
        return np.ndarray(shape, dtype, self._bytes, offset, strides)


def allocations(arrays: Iterable[np.ndarray[Any, Any]]) -> list[Allocation]:
    """Return the allocations of arrays, each once. Overlapping memory is one allocation."""
    spans: list[tuple[int, int]] = []
    for begin, end in sorted(_span(_root(array)) for array in arrays):
        if spans and begin < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((begin, end))
    return [Allocation(begin, end) for begin, end in dict.fromkeys(spans)]


def allocation_of(array: np.ndarray[Any, Any], among: Iterable[Allocation]) -> Allocation:
    """Return the allocation that an array is in."""
    begin, end = _span(array)
    return next(a for a in among if a.begin <= begin and end <= a.end)


def _root(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the array at the end of the chain of bases."""
    owner: Any = array
    while (owner := getattr(owner, "base", None)) is not None:
        if isinstance(owner, np.ndarray):
            array = owner
    return array


def _span(array: np.ndarray[Any, Any]) -> tuple[int, int]:
    """Return the first address of an array and the one after its last. They are equal for an empty array."""
    begin = end = array.ctypes.data
    if array.size == 0:
        return begin, end
    for length, stride in zip(array.shape, array.strides, strict=True):
        begin += min(0, (length - 1) * stride)
        end += max(0, (length - 1) * stride)
    return begin, end + array.itemsize


def extents(array: np.ndarray[Any, Any]) -> Iterator[Extent]:
    """Yield the memory that an array covers, in as few extents as its strides allow."""
    if array.size == 0:
        return
    first = array.ctypes.data
    axes = []
    for length, stride in zip(array.shape, array.strides, strict=True):
        if length > 1 and stride != 0:
            first += min(0, (length - 1) * stride)
            axes.append((abs(stride), length))
    axes.sort()
    row_bytes = array.itemsize
    while axes and axes[0][0] == row_bytes:  # contiguous, so the row goes on
        row_bytes *= axes.pop(0)[1]
    stride, count = axes.pop(0) if axes else (row_bytes, 1)
    for index in np.ndindex(*(length for _, length in axes)):
        offset = sum(i * step for i, (step, _) in zip(index, axes, strict=True))
        yield Extent(first + offset, row_bytes, stride, count)


def granule(arrays: Iterable[np.ndarray[Any, Any]], begin: int) -> int:
    """Return the largest power of two, at most 8, that divides all addresses, strides and elements."""
    numbers = [8]
    for array in arrays:
        numbers += [array.ctypes.data - begin, array.itemsize, *map(abs, array.strides)]
    return math.gcd(*numbers)
