"""Read an untrusted .npy file or stream a part of its first axis at a time, in memory for that part alone."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import npy
from fusedlstm.temporary_files import temporary_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from fusedlstm.arrays.dtypes import NumpyArray

_BLOCK = 2**20  # bytes read at once: a stream may claim any number, so memory grows with what comes


class Parts:
    """The array of a .npy file, of which parts of the first axis can be read.

    Args:
        header: the file's header.
        file: where the data is, from `header.start` on. If it can't seek, parts are read from the first to the last.
    """

    def __init__(self, header: npy.Header, file: BinaryIO) -> None:
        self._header, self._file = header, file
        self.seeks = file.seekable()  # whether parts can be read in any order
        self._at = 0  # the byte of the data that comes next

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole array. In a stream this is a claim, which the data may not fulfil."""
        return self._header.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the array."""
        return self._header.dtype

    def read(self, start: int, stop: int) -> NumpyArray:
        """Return array[start:stop] in a new array.

        Raises:
            ValueError: the data ends before `stop`.
        """
        shape = (stop - start, *self.shape[1:])
        if 0 in shape:
            return np.empty(shape, self.dtype)
        if self._header.by_columns:
            return self._read_columns(start, stop)
        row = self.dtype.itemsize * math.prod(self.shape[1:])
        return np.frombuffer(self._bytes(start * row, (stop - start) * row), self.dtype).reshape(shape)

    def _read_columns(self, start: int, stop: int) -> NumpyArray:
        """Return a part of a Fortran-ordered array: a piece of each of its columns."""
        size, others = self.dtype.itemsize, math.prod(self.shape[1:])
        pieces = bytearray()
        for column in range(others):
            pieces += self._bytes((column * self.shape[0] + start) * size, (stop - start) * size)
        return np.frombuffer(pieces, self.dtype).reshape(*self.shape[:0:-1], stop - start).T

    def _bytes(self, at: int, count: int) -> bytearray:
        """Return `count` bytes of the data, from byte `at` on."""
        if self.seeks:
            self._file.seek(self._header.start + at)
        elif at != self._at:
            raise RuntimeError(f"byte {at} of a stream was asked for at byte {self._at}: it needs anywhere=True")
        self._at = at + count
        data = bytearray()
        for block in _blocks(self._file, count, self._header):
            data += block  # joining them would take twice the memory
        return data


def _blocks(file: BinaryIO, count: int, header: npy.Header) -> Iterator[bytes]:
    """Yield the next `count` bytes of a file in blocks. Raise ValueError if it ends earlier."""
    left = count
    while left:
        block = file.read(min(left, _BLOCK))
        if not block:
            raise ValueError(f"{header.dtype} of shape {header.shape} claims {header.nbytes} bytes, but ends earlier")
        left -= len(block)
        yield block


@contextlib.contextmanager
def open_parts(file: BinaryIO, *, anywhere: bool = False, folder: str | None = None) -> Iterator[Parts]:
    """Give the array of a .npy file that is open for reading in binary mode.

    Args:
        file: at its header. A stream that can't seek, such as a pipe, gives its parts in order. With `anywhere`, or if
            its array is Fortran-ordered, it is first copied to an unnamed temporary file.
        anywhere: whether parts will be read in another order than from the first to the last.
        folder: where to put the temporary file; None for the system's folder.

    Raises:
        ValueError: it has no valid header, or less data than the header claims. NumPy may raise other errors.
        OSError: the temporary file can't be made or written. The error names its folder.
    """
    header = npy.read_header(file)
    if not header.nbytes:
        np.empty(header.shape, header.dtype)  # raises unless an array can have this shape
    if file.seekable():
        npy.check_size(header, file)
    elif anywhere or header.by_columns:
        with temporary_file(folder) as copy:
            for block in _blocks(file, header.nbytes, header):
                copy.write(block)
            yield Parts(header, copy)
        return
    yield Parts(header, file)
