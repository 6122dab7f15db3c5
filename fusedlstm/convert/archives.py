"""Files of named arrays that any program may have written, .npz and .safetensors, as mappings that read at use.

Nothing in them is executed, and nothing is allocated by a size that a file merely claims.
"""

from __future__ import annotations

import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import dtypes
from fusedlstm.convert.trees import LONGEST_NAME
from fusedlstm.files import WeightsFileError

if TYPE_CHECKING:
    from fusedlstm.dtypes import NumpyArray

_ZIP = b"PK"
_HEADER = b"{"  # of a safetensors file, after the eight bytes of its length
# What a member of a zip file may grow to: weights are noise, and hardly do.
_MOST_GROWTH, _ALWAYS_ALLOWED = 64, 1 << 24
# What Python's and NumPy's readers raise for what they can't read. NumPy's headers are Python literals, whose parser
# runs out of stack with a MemoryError or a RecursionError. An OSError comes of seeking to where no file can be.
DAMAGED = (
    *(ValueError, TypeError, EOFError, KeyError, RuntimeError, NotImplementedError, OSError),
    *(tokenize.TokenError, SyntaxError, RecursionError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_OTHERS = {
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U64": "u8",
    "U32": "u4",
    "U16": "u2",
    "U8": "u1",
    "BOOL": "?",
}


def open_archive(path: str | os.PathLike[str]) -> Mapping[str, NumpyArray]:
    """Return the arrays of a .npz or .safetensors file by name, whichever it is; each is read when it is asked for.

    Raises:
        WeightsFileError: the file is neither or is damaged; also when an array is asked for that is damaged, or has
            a dtype that NumPy doesn't know.
        OSError: the file can't be read.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    if start.startswith(_ZIP):
        return _Npz(os.fspath(path))
    if start[8:] == _HEADER:
        return _Safetensors(os.fspath(path))
    raise WeightsFileError(f"{os.fspath(path)} is neither a .npz nor a .safetensors file")


def may_become(size: int) -> int:
    """Return how many bytes so many in a file may expand to."""
    return max(_ALWAYS_ALLOWED, _MOST_GROWTH * size)


def check_names(path: str, names: Iterable[str]) -> None:
    """Raise WeightsFileError for names that no program gives."""
    for name in names:
        if len(name) > LONGEST_NAME:
            got = f"{name[:40]!r}..., of {len(name)} characters"
            raise WeightsFileError(f"{path} has the name {got}: at most {LONGEST_NAME} are read")


class _Npz(Mapping[str, Any]):
    """The arrays of a .npz file, without its pickled objects."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._archive = zipfile.ZipFile(path)  # stays open: to list the members takes as long as there are many
        except DAMAGED as error:
            raise WeightsFileError(f"{path} is damaged, or no .npz file: {error}") from error
        members = self._archive.namelist()
        self._members = {name.removesuffix(".npy"): name for name in members if name.endswith(".npy")}
        check_names(path, self._members)
        self._most = may_become(os.path.getsize(path))  # bytes, of all that is read
        self._read: set[str] = set()
        self._bytes = 0

    def __getitem__(self, name: str) -> NumpyArray:
        member = self._members[name]
        try:
            content = read_member(self._archive, member)
            if name not in self._read:
                self._read.add(name)
                self._bytes += len(content)
            if self._bytes > self._most:
                raise ValueError(f"with those before it, more than the {self._most} bytes that the file may become")
            return _npy(content)
        except DAMAGED as error:
            raise WeightsFileError(f"{self._path} is damaged: {name}: {error}") from error

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def read_member(archive: zipfile.ZipFile, member: str) -> bytes:
    """Return what a member of a zip file holds.

    Raises:
        ValueError: it claims to grow more than files of weights do.
        zipfile.BadZipFile, zlib.error, ...: the archive is damaged.
    """
    info = archive.getinfo(member)
    if info.file_size > may_become(info.compress_size):
        raise ValueError(f"{info.compress_size} bytes that claim to become {info.file_size}")
    with archive.open(info) as file:
        # Not all at once: a member may yield more than it claims.
        content = file.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise ValueError(f"{info.file_size} bytes were claimed, there are others")
    return content


def _npy(content: bytes) -> NumpyArray:
    """Return the array of a .npy file, whose header is trusted with nothing."""
    import io

    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = reader(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never unpickled")
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {shape}")
    data = memoryview(content)[file.tell() :]
    if dtype.itemsize == 0 or np.dtype(dtype).itemsize * _product(shape) != len(data):
        raise ValueError(f"{dtype} of shape {shape} in {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")


def _product(shape: tuple[int, ...]) -> int:
    total = 1  # in Python's integers, which don't overflow
    for size in shape:
        total *= size
    return total


class _Safetensors(Mapping[str, Any]):
    """The arrays of a safetensors file, without those of dtypes that NumPy doesn't know."""

    def __init__(self, path: str) -> None:
        from safetensors import SafetensorError, deserialize

        self._path = path
        with open(path, "rb") as file:
            content = file.read()
        try:
            self._entries = dict(deserialize(content))
        except (SafetensorError, *DAMAGED) as error:
            raise WeightsFileError(f"{path} is damaged, or no safetensors file: {error}") from error
        check_names(path, self._entries)

    def __getitem__(self, name: str) -> NumpyArray:
        entry = self._entries[name]
        kind = entry["dtype"]
        if kind not in _FLOATS and kind not in _OTHERS:
            raise WeightsFileError(f"{self._path}: {name} has the dtype {kind}")
        dtype = dtypes.resolve(_FLOATS[kind]) if kind in _FLOATS else np.dtype(_OTHERS[kind])
        try:
            return np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
        except ValueError as error:
            raise WeightsFileError(f"{self._path} is damaged: {name}: {error}") from error

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
