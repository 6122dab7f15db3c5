"""Read the named arrays of .npz and .safetensors files that any program may have written.

Nothing in a file is executed. Sizes that it claims are checked before memory is allocated.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import npy
from fusedlstm.arrays import dtypes
from fusedlstm.convert.containers import START, is_safetensors, what_file, what_zip
from fusedlstm.convert.trees import LONGEST_NAME
from fusedlstm.errors import WeightsFileError
from fusedlstm.files import reading, refuse_pipe
from fusedlstm.validation.arguments import check_path

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.validation.arguments import AnyPath

_ZIP = b"PK"
# How much a file may expand. Weights are noise, which hardly compresses.
_MOST_GROWTH, _ALWAYS_ALLOWED = 64, 1 << 24
# But pruned weights and new biases are zeros, which compress a thousandfold. So any file may inflate to a gigabyte. A
# machine that runs such weights has that much.
_ALWAYS_INFLATED = 1 << 30
_LZMA_DICTIONARY = 1 << 26  # bytes: the most that 7-Zip uses by default
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


def open_archive(path: AnyPath) -> Mapping[str, NumpyArray]:
    """Return the arrays of a .npz or .safetensors file by name. The content tells which it is.

    Arrays of a .npz file are read on access.

    Raises:
        WeightsFileError: the file is neither, is damaged, or is a pipe. Accessing an array raises it too, if the array
            is damaged or NumPy doesn't know its dtype.
        OSError: the file can't be read.
        TypeError: `path` is not a path.
    """
    name = check_path("path", path)
    refuse_pipe(name)
    with reading(name):
        with open(name, "rb") as file:
            start = file.read(START)
        if start.startswith(_ZIP):
            return _Npz(name)
        if is_safetensors(start):
            return _Safetensors(name)
        if what := what_file(start):
            raise WeightsFileError(f"{name} is {what}")
        raise WeightsFileError(f"{name} is neither a .npz nor a .safetensors file")


def open_npz(path: AnyPath) -> Mapping[str, NumpyArray]:
    """Return the arrays of a .npz file by name, as `open_archive` does. A pipe or a device is read to its end."""
    name = check_path("path", path)
    with reading(name):
        with open(name, "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return _Npz(name)
            content = file.read(len(_ZIP))
            if content == _ZIP:  # otherwise it may have no end
                content += file.read()
        return _Npz(name, content)


def may_become(size: int) -> int:
    """Return how many bytes an uncompressed file of `size` bytes may expand to in memory."""
    return max(_ALWAYS_ALLOWED, _MOST_GROWTH * size)


def may_inflate_to(size: int) -> int:
    """Return how many bytes a compressed file of `size` bytes may inflate to."""
    return max(_ALWAYS_INFLATED, _MOST_GROWTH * size)


def check_names(path: str, names: Iterable[str]) -> None:
    """Raise WeightsFileError if a name is longer than any program writes."""
    for name in names:
        if len(name) > LONGEST_NAME:
            got = f"{name[:40]!r}..., of {len(name)} characters"
            raise WeightsFileError(f"{path} has the name {got}: at most {LONGEST_NAME} are supported")


class _Npz(Mapping[str, Any]):
    """The arrays of a .npz file. Accessing a pickled object raises."""

    def __init__(self, path: str, content: bytes | None = None) -> None:
        self._path = path
        with reading(path, " is damaged, or not a .npz file"):
            file = path if content is None else io.BytesIO(content)
            self._archive = zipfile.ZipFile(file)  # stays open, as listing many members takes long
        self._members: dict[str, str] = {}
        for member in self._archive.namelist():
            name = member.removesuffix(".npy")
            if name in self._members:
                raise WeightsFileError(f"{path} has two arrays named {name[:40]!r}")
            if name != member:
                self._members[name] = member
        if not self._members and (what := what_zip(self._archive.namelist())):
            raise WeightsFileError(f"{path} is {what}")
        check_names(path, self._members)
        size = os.path.getsize(path) if content is None else len(content)
        self._most = may_inflate_to(size)  # bytes, for all arrays together
        self._read: set[str] = set()
        self._bytes = 0

    def __getitem__(self, name: str) -> NumpyArray:
        member = self._members[name]
        with reading(self._path, f" is damaged: {name}"):
            self._count(name, self._archive.getinfo(member).file_size)
            return npy.from_bytes(read_member(self._archive, member, may_inflate_to))

    def _count(self, name: str, size: int) -> None:
        """Raise if this array brings the total size of those read to more than the file may inflate to."""
        if name not in self._read:
            self._read.add(name)
            self._bytes += size
        if self._bytes > self._most:
            raise ValueError(
                f"it claims {size} bytes, {self._bytes} with the arrays read before; at most {self._most} are "
                "read from a file of this size. If you trust it, pass the arrays themselves: dict(numpy.load(path))"
            )

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def read_member(archive: zipfile.ZipFile, member: str, may_grow_to: Callable[[int], int] = may_become) -> bytes:
    """Return the content of a zip file's member.

    Args:
        archive: the zip file.
        member: the member's name.
        may_grow_to: maps the member's compressed size to the most that it may inflate to. Keras and PyTorch don't
            compress.

    Raises:
        ValueError: the member claims to inflate to more. For other damage, zipfile raises its own errors.
    """
    info = archive.getinfo(member)
    if info.file_size > may_grow_to(info.compress_size):
        raise ValueError(f"its {info.compress_size} bytes claim to expand to {info.file_size}")
    if info.compress_type == zipfile.ZIP_LZMA:
        _check_dictionary(archive, info)
    with archive.open(info) as file:
        # Read one byte more than the member claims, as it may yield more.
        content = file.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise ValueError(f"it claims {info.file_size} bytes, but has a different number")
    return content


def _check_dictionary(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Raise if a member claims a large dictionary, which LZMA's reader would allocate at once."""
    file: Any = archive.fp
    file.seek(info.header_offset + 26)  # the lengths of the name and of the extra field before the data
    lengths = file.read(4)
    file.seek(sum(int.from_bytes(lengths[k : k + 2], "little") for k in (0, 2)), os.SEEK_CUR)
    size = int.from_bytes(file.read(9)[5:], "little")  # after a version, a length and the other properties
    if size > _LZMA_DICTIONARY:
        raise ValueError(f"its LZMA dictionary claims {size} bytes; at most {_LZMA_DICTIONARY} are supported")


class _Safetensors(Mapping[str, Any]):
    """The arrays of a safetensors file. Accessing one whose dtype NumPy doesn't know raises."""

    def __init__(self, path: str) -> None:
        from safetensors import deserialize

        self._path = path
        with open(path, "rb") as file:
            content = file.read()
        with reading(path, " is damaged, or not a safetensors file"):
            self._entries = dict(deserialize(content))
        check_names(path, self._entries)

    def __getitem__(self, name: str) -> NumpyArray:
        entry = self._entries[name]
        kind = entry["dtype"]
        if kind not in _FLOATS and kind not in _OTHERS:
            raise WeightsFileError(f"{self._path}: {name} has the dtype {kind}")
        with reading(self._path, f" is damaged: {name}"):
            dtype = dtypes.resolve(_FLOATS[kind]) if kind in _FLOATS else np.dtype(_OTHERS[kind])
            return np.frombuffer(entry["data"], dtype).reshape(entry["shape"])

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
