"""Read untrusted .npy files. A header's claims are checked against the size of the data."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from typing import BinaryIO

    from fusedlstm.arrays.dtypes import NumpyArray

# Other errors are NumPy's own: `files.reading` names the file.


@dataclass(frozen=True)
class Header:
    """The header of a .npy file: its array's shape, order and dtype, and where the data starts; 0 in a stream."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]
    start: int

    @property
    def nbytes(self) -> int:
        """The size of the data that the header claims, in bytes."""
        total = self.dtype.itemsize  # Python's integers don't overflow
        for size in self.shape:
            total *= size
        return total


def read_header(file: BinaryIO) -> Header:
    """Return the header at the start of a file.

    Raises:
        ValueError: it is not a header, or its array is not supported. NumPy may raise other errors.
    """
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers of Python 2, which are read correctly, and odd literals
            shape, by_columns, dtype = reader(file)
    except MemoryError:  # headers are Python literals, and the stack of Python's parser is bounded
        raise ValueError("its header is nested too deep") from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never unpickled")
    if any(size < 0 for size in shape):
        raise ValueError(f"its shape {shape} has a negative size")
    if dtype.itemsize == 0:
        raise ValueError(f"its dtype {dtype} has elements of 0 bytes")
    return Header(shape, by_columns, dtype, file.tell() if file.seekable() else 0)


def from_bytes(content: bytes) -> NumpyArray:
    """Return the array in the bytes of a .npy file, without a copy."""
    header = read_header(io.BytesIO(content))
    data = memoryview(content)[header.start :]
    if header.nbytes != len(data):
        raise ValueError(f"{header.dtype} of shape {header.shape} claims {header.nbytes} bytes, not {len(data)}")
    return _array(data, header)


def _array(data: Any, header: Header) -> NumpyArray:
    return np.frombuffer(data, header.dtype).reshape(header.shape, order="F" if header.by_columns else "C")


def check_size(header: Header, file: BinaryIO) -> None:
    """Raise if a header claims more bytes than its file has. More bytes are allowed, as np.save can append arrays."""
    there = os.fstat(file.fileno()).st_size - header.start
    if header.nbytes > there:
        raise ValueError(f"{header.dtype} of shape {header.shape} claims {header.nbytes} bytes, but there are {there}")
