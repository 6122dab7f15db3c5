"""Uninitialised arrays."""

from __future__ import annotations

import math
import mmap
import os
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray

# Blocks of at least this many bytes come fresh from the system each time. C libraries reuse smaller ones.
_LARGE = 1 << 25
# Private memory whose pages are allocated all at once is faster than shared memory, Python's default.
_FLAGS = ("MAP_PRIVATE", "MAP_ANONYMOUS", "MAP_POPULATE")
_OPTIONS: dict[str, Any] = {"flags": sum(getattr(mmap, name, 0) for name in _FLAGS)} if os.name == "posix" else {}


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NumpyArray:
    """Return an uninitialised array.

    NumPy asks for huge pages for large arrays. Some virtual machines return freed huge pages to their host, and take
    milliseconds to get each one back. That was a quarter of the time of a long sequence. Large arrays here use small
    pages, which stay.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < _LARGE:
        return np.empty(shape, dtype)
    return np.frombuffer(mmap.mmap(-1, size, **_OPTIONS), dtype).reshape(shape)
