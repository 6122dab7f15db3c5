"""NumPy's .npy files that nobody vouches for: a header is believed only as far as there are bytes for its claim."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from typing import BinaryIO

    from fusedlstm.dtypes import NumpyArray

# Whatever else is wrong is raised as NumPy raises it: `files.reading` names the file.


@dataclass(frozen=True)
class Header:
    """What a .npy file says of its array: shape, order, dtype, and where its data starts."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]
    start: int

    @property
    def nbytes(self) -> int:
        """The bytes of the data that it claims."""
        total = self.dtype.itemsize  # in Python's integers, which don't overflow
        for size in self.shape:
            total *= size
        return total


def read_header(file: BinaryIO) -> Header:
    """Return the header that a file begins with.

    Raises:
        ValueError: it is none, or tells of an array that is never read; NumPy raises others.
    """
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, by_columns, dtype = reader(file)
    except MemoryError:  # of Python's parser, whose stack is bounded: headers are Python literals
        raise ValueError("its header is nested too deep") from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never unpickled")
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {shape}")
    if dtype.itemsize == 0:
        raise ValueError(f"{dtype} of shape {shape}, whose elements have no bytes")
    return Header(shape, by_columns, dtype, file.tell())


def from_bytes(content: bytes) -> NumpyArray:
    """Return the array of a whole .npy file, over its memory."""
    header = read_header(io.BytesIO(content))
    data = memoryview(content)[header.start :]
    if header.nbytes != len(data):
        raise ValueError(f"{header.dtype} of shape {header.shape} in {len(data)} bytes")
    return _array(data, header)


def read(path: str) -> NumpyArray:
    """Return the array of a .npy file, of which no more is read than its header claims."""
    with open(path, "rb") as file:
        header = read_header(file)
        _check_size(header, file)
        data = file.read(header.nbytes)
    return _array(data, header)


def open_mapped(path: str) -> NumpyArray:
    """Return the array of a .npy file, left on the disk until it is read."""
    with open(path, "rb") as file:
        header = read_header(file)
        _check_size(header, file)
        if not header.nbytes:
            return np.empty(header.shape, header.dtype)
        order: Any = "F" if header.by_columns else "C"
        return np.memmap(file, header.dtype, "r", header.start, header.shape, order)


def _array(data: Any, header: Header) -> NumpyArray:
    return np.frombuffer(data, header.dtype).reshape(header.shape, order="F" if header.by_columns else "C")


def _check_size(header: Header, file: BinaryIO) -> None:
    """Raise if a header claims more bytes than a file has; np.save may have appended another array."""
    there = os.fstat(file.fileno()).st_size - header.start
    if header.nbytes > there:
        raise ValueError(f"{header.dtype} of shape {header.shape} claims {header.nbytes} bytes, and there are {there}")
