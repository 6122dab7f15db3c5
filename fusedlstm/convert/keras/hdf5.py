"""Reader for untrusted HDF5 files: groups, attributes and arrays of numbers, checked before memory is allocated.

HDF5 can do more than hold arrays. A link may lead to another file, or back to its own group. An array may be stored in
another file, or be assembled from other arrays. An array that was never written takes no space, whatever its shape.
Keras's files have none of these, so all are refused.
"""

from __future__ import annotations

import importlib
import os
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from fusedlstm.arrays import dtypes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedlstm.arrays.dtypes import NumpyArray

MAGIC = b"\x89HDF\r\n\x1a\n"
_MAX_DEPTH = 100
_MAX_OBJECTS = 1_000_000
# Compressed data may expand by this factor, and always to this many bytes.
_MAX_EXPANSION = 100
_SMALL = 1 << 20
_MOST_TEXT = 1 << 26  # bytes of an attribute
_MOST_CHUNKS = 10_000  # HDF5 goes through all of them to find one
_BFLOAT16 = np.dtype("V2")  # HDF5 has no such type, so h5py keeps the bytes
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3  # HDF5's numbers of filters
_HEAP = b"GCOL\x01"
_HEAP_HEADER, _HEAP_LEAST = 16, 4096  # bytes
_REFERENCE = 16  # bytes
_PIECE = 1 << 24  # bytes of the file to read at a time
_WRITTEN = "Write it again without compression: h5repack -f NONE"


class HDF5:
    """An open file: its groups and arrays, by path without a leading slash.

    Args:
        file: a binary file that stays open for reading while this object is used.

    Attributes:
        groups: by path; "" is the root.
        datasets: by path.

    Raises:
        ImportError: h5py is not installed.
        ValueError: there is a soft link or a link to another file; an object has two names; groups are nested too
            deeply; there are too many objects.
        OSError, RuntimeError, KeyError: h5py raises these for damaged files.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._h5py = _import_h5py()
        self._size = file.seek(0, os.SEEK_END)
        self._read = 0  # bytes of the file that were read as arrays
        self._made = 0  # bytes that they expanded to
        file.seek(0)
        self._longest = _check_heaps(file, self._size)
        self._file = self._h5py.File(file, mode="r")
        self.groups: dict[str, Any] = {"": self._file}
        self.datasets: dict[str, Any] = {}
        try:
            self._walk()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close HDF5's side of the file."""
        self.groups.clear()
        self.datasets.clear()
        self._file.close()

    def _walk(self) -> None:
        """Find all groups and arrays."""
        seen = {self._address(self._file)}
        ahead = [("", self._file, 0)]
        while ahead:
            path, group, depth = ahead.pop()
            for name, child in self._children(path, group):
                full = f"{path}/{name}" if path else name
                address = self._address(child)
                if address in seen:
                    raise ValueError(f"{full!r} is the same object as another, under a second name")
                seen.add(address)
                if depth >= _MAX_DEPTH or len(seen) > _MAX_OBJECTS:
                    raise ValueError(
                        f"groups are nested deeper than {_MAX_DEPTH}, or there are more than {_MAX_OBJECTS} objects"
                    )
                if isinstance(child, self._h5py.Group):
                    self.groups[full] = child
                    ahead.append((full, child, depth + 1))
                elif isinstance(child, self._h5py.Dataset):
                    self.datasets[full] = child

    def _address(self, item: Any) -> Any:
        info = self._h5py.h5o.get_info(item.id)
        return info.fileno, info.addr

    def _children(self, path: str, group: Any) -> Iterator[tuple[str, Any]]:
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, self._h5py.HardLink):
                kind = "a link to another file" if isinstance(link, self._h5py.ExternalLink) else "a soft link"
                raise ValueError(f"{path}/{name} is {kind}, which no file of weights needs")
            yield name, group[name]

    def text(self, path: str, name: str) -> str | None:
        """Return a group's attribute, which must be a single string; None if it doesn't exist."""
        attributes = self.groups[path].attrs
        if name not in attributes:
            return None
        # In an array of strings, all could refer to the same long one. A single string can't be longer than the file.
        found = attributes.get_id(name)
        is_text = self._h5py.check_string_dtype(found.dtype) is not None
        if not is_text or found.shape != () or found.get_storage_size() > self._size:
            raise ValueError(f"the attribute {name!r} of {path!r} is not a string")
        value = attributes[name]
        value = value.decode("utf-8") if isinstance(value, bytes) else value
        if not isinstance(value, str):
            raise ValueError(f"the attribute {name!r} of {path!r} is not a string")
        return value

    def check_all(self) -> int:
        """Check all arrays and attributes, and return the total size of the arrays in bytes.

        Raises:
            ValueError: see `array`; or an attribute may be too large.
        """
        for path, item in (*self.groups.items(), *self.datasets.items()):
            for name in item.attrs:
                found = item.attrs.get_id(name)
                # All elements of an array of strings may refer to the longest string.
                each = self._longest if found.dtype.kind == "O" else found.dtype.itemsize
                if int(np.prod(found.shape or (), dtype=object)) * each > _MOST_TEXT:
                    raise ValueError(f"the attribute {name!r} of {path!r} may have more than {_MOST_TEXT} bytes")
        return sum(self.array(path).nbytes for path in self.datasets)

    def shape(self, path: str) -> tuple[int, ...]:
        """Return an array's shape; () if it has none."""
        return tuple(self.datasets[path].shape or ())

    def array(self, path: str) -> NumpyArray:
        """Return an array of numbers, in the machine's byte order.

        Raises:
            ValueError: it is stored elsewhere, is incomplete, is compressed too much, or is not an array of numbers.
        """
        dataset = self.datasets[path]
        self._check_storage(path, dataset)
        values = np.asarray(dataset[()])
        if values.dtype == _BFLOAT16:
            return values.view(dtypes.resolve("bfloat16"))
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    def _check_storage(self, path: str, dataset: Any) -> None:
        if dataset.external or dataset.is_virtual:
            raise ValueError(f"{path} is stored in other files, which are not read")
        # Elements of other types may be stored elsewhere, with any size, and all may be the same one.
        if dataset.dtype.kind not in "fiu" and dataset.dtype != _BFLOAT16:
            raise ValueError(f"{path} is not an array of numbers: its dtype is {dataset.dtype}")
        size, stored = dataset.nbytes, dataset.id.get_storage_size()
        self._read += stored
        if self._read > self._size:
            raise ValueError(f"{path} is damaged: its {stored} bytes are more than are left of the file's {self._size}")
        filters = _filters(dataset)
        if not filters:
            if size > stored:
                raise ValueError(f"{path} is incomplete: its shape needs {size} bytes, and the file has {stored}")
        elif not {_DEFLATE, _SHUFFLE, _FLETCHER32}.issuperset(filters) or filters.count(_DEFLATE) > 1:
            raise ValueError(f"{path} is compressed in an unsupported way (filters {filters}). {_WRITTEN}")
        limit = max(_SMALL, _MAX_EXPANSION * stored)
        chunk = int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize if dataset.chunks else 0
        if max(size, chunk) > limit:
            raise ValueError(f"{path} would expand from {stored} bytes to {max(size, chunk)}. {_WRITTEN}")
        self._made += size
        if self._made > _SMALL + _MAX_EXPANSION * self._size:
            raise ValueError(f"{path} would expand, with those before it, to {self._made} bytes. {_WRITTEN}")
        if _DEFLATE in filters:
            _check_deflated(path, dataset, chunk, filters.index(_DEFLATE))


def _check_heaps(file: BinaryIO, size: int) -> int:
    """Return the size of the longest string. Raise if a heap of strings is damaged.

    A damaged heap can send HDF5 into an endless loop.

    A heap is 16 bytes ("GCOL", the version, and at byte 8 its size), then objects: a number at byte 0, its size at byte
    8, and from byte 16 its bytes, padded to a multiple of 8. Object 0 is the free space. Its size includes its first
    16 bytes.
    """
    start = file.read(16)
    sizes = start[13:15] if start[8:9] in (b"\0", b"\1") else start[9:11]
    if sizes != b"\x08\x08":
        raise ValueError("its addresses and lengths must have 8 bytes, as in Keras's files")
    heaps: dict[int, dict[int, int]] = {}  # a heap's first byte -> an object's number -> its size
    end = 0  # of the last heap
    for at, piece in _pieces(file, size, len(_HEAP) - 1):
        found = piece.find(_HEAP)
        while found >= 0:
            end = _check_heap(file, at + found, size, end, heaps)
            found = piece.find(_HEAP, found + 1)
    if heaps:
        _check_strings(file, size, heaps)
    file.seek(0)
    return max((length for objects in heaps.values() for number, length in objects.items() if number), default=0)


def _pieces(file: BinaryIO, size: int, more: int) -> Iterator[tuple[int, bytes]]:
    """Yield where each piece of the file begins, and its bytes with `more` bytes of the next."""
    for at in range(0, size, _PIECE):
        file.seek(at)
        yield at, file.read(_PIECE + more)


def _check_heap(file: BinaryIO, at: int, size: int, end: int, heaps: dict[int, dict[int, int]]) -> int:
    """Add the heap at this byte and return where it ends. If it isn't a heap, return the last one's end."""
    file.seek(at + 8)
    length = int.from_bytes(file.read(8), "little")
    if not _HEAP_LEAST <= length <= size - at:
        return end  # HDF5 sees no heap here: these may be an array's bytes
    if at < end:
        raise ValueError(f"it is damaged: the heap of strings at byte {at} is inside another")
    file.seek(at)
    heap = file.read(length)
    objects = heaps[at] = {}
    ahead = _HEAP_HEADER
    while length - ahead >= _HEAP_HEADER:
        number = int.from_bytes(heap[ahead : ahead + 2], "little")
        taken = objects[number] = int.from_bytes(heap[ahead + 8 : ahead + 16], "little")
        if number:
            taken = _HEAP_HEADER + (taken + 7) // 8 * 8
        if not _HEAP_HEADER <= taken <= length - ahead:
            raise ValueError(f"its heap of strings at byte {at} is damaged")
        ahead += taken
    return at + length


def _check_strings(file: BinaryIO, size: int, heaps: dict[int, dict[int, int]]) -> None:
    """Raise for a string that claims to be longer than its object in a heap. HDF5 allocates what the string claims.

    A string is 16 bytes anywhere in the file: its length (4), its heap's first byte (8), its object's number (4).
    """
    starts = np.array(sorted(heaps), np.uint64)
    for at, piece in _pieces(file, size, _REFERENCE - 1):
        for shift in range(8):
            words = np.frombuffer(piece, "<u8", max(0, len(piece) - shift) // 8, shift)
            few = np.flatnonzero((words >= starts[0]) & (words <= starts[-1]))
            for k in few[np.isin(words[few], starts)].tolist():
                _check_string(piece, shift + 8 * k, at, heaps[int(words[k])])


def _check_string(piece: bytes, place: int, at: int, objects: dict[int, int]) -> None:
    """Raise if the bytes around the address at this place claim a length that the object doesn't have."""
    if place < 4 or place + 12 > len(piece):
        return  # the piece before or after has all of it
    length, number = (int.from_bytes(piece[k : k + 4], "little") for k in (place - 4, place + 8))
    if number and length > objects.get(number, length):
        raise ValueError(f"it is damaged: the string at byte {at + place - 4}, if it is one, is shorter than it claims")


def _filters(dataset: Any) -> list[int]:
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(k)[0] for k in range(properties.get_nfilters())]


def _check_deflated(path: str, dataset: Any, chunk: int, filter_: int) -> None:
    """Raise if a chunk expands to more than its size. HDF5 itself allocates whatever zlib asks for."""
    number = dataset.id.get_num_chunks()
    if number > _MOST_CHUNKS:
        raise ValueError(f"{path} has {number} chunks; at most {_MOST_CHUNKS} are supported. {_WRITTEN}")
    for k in range(number):
        skipped, content = dataset.id.read_direct_chunk(dataset.id.get_chunk_info(k).chunk_offset)
        if not skipped >> filter_ & 1:
            unpacking = zlib.decompressobj()
            if len(unpacking.decompress(content, chunk + 64)) > chunk + 4 or not unpacking.eof:
                raise ValueError(f"{path} is damaged: a chunk expands to more than its {chunk} bytes")


def _import_h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise ImportError("Keras's files need h5py: pip install h5py") from error
