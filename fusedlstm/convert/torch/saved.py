"""The two formats of torch.save, and the archives that hold such a file: Stable-Baselines3's and TorchScript's."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from dataclasses import dataclass
from typing import Any, BinaryIO

from fusedlstm.convert.archives import may_become, read_member
from fusedlstm.convert.torch.pickled import Global, Stream
from fusedlstm.convert.torch.tensors import Storage, is_size, size_of, storage_dtype
from fusedlstm.convert.torch.unpickling import Unpickler

PICKLE = b"\x80\x02"  # how torch.save's files began before PyTorch 1.6
ZIP = b"PK\x03\x04"
POLICY = "policy.pth"  # the state_dict in a .zip of Stable-Baselines3, beside its optimizers' files
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of such a file
# A small pickle can make objects of a hundred times its size.
_MOST_PICKLE_GROWTH, _ALWAYS_PICKLE = 32, 1 << 20


@dataclass(frozen=True)
class Content:
    """What torch.save wrote: a file, or a part of one.

    Attributes:
        where: the file's path, or the part itself.
        size: its size in bytes.
    """

    where: str | bytes
    size: int

    @classmethod
    def of(cls, path: str) -> Content:
        """Return the content of a file, or of the member of a .zip of Stable-Baselines3 that has the weights."""
        with open(path, "rb") as file:
            is_zip = file.read(len(ZIP)) == ZIP
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                if POLICY in archive.namelist():
                    member = read_member(archive, POLICY)
                    return cls(member, len(member))
        return cls(path, os.path.getsize(path))

    def open(self) -> BinaryIO:
        """Open it for reading."""
        return open(self.where, "rb") if isinstance(self.where, str) else io.BytesIO(self.where)

    def archive(self) -> zipfile.ZipFile:
        """Open it as a zip file."""
        return zipfile.ZipFile(self.where if isinstance(self.where, str) else io.BytesIO(self.where))

    def read(self) -> SavedZip | SavedPickles:
        """Read the pickled object. Tensors are read later.

        Raises:
            ValueError: it is damaged, or holds objects that are not parameters.
        """
        with self.open() as file:
            is_zip = file.read(len(ZIP)) == ZIP
        return SavedZip(self) if is_zip else SavedPickles(self)


class SavedZip:
    """The format since PyTorch 1.6: a zip file with a pickle, and one member for each storage.

    Attributes:
        content: the pickled object.
        is_plain: see Unpickler.
        is_script: whether it is a TorchScript archive.
    """

    def __init__(self, whole: Content) -> None:
        self._archive = whole.archive()  # stays open: listing many members takes long
        self._members = {info.filename: info for info in self._archive.infolist()}
        self._check_members(whole.size)
        self._storages: dict[str, Storage] = {}
        self._read: dict[str, bytes] = {}
        self._folder = next(iter(self._members)).partition("/")[0]
        order = read_member(self._archive, self._name("byteorder")) if self._name("byteorder") in self._members else b""
        if order not in (b"", b"little", b"big"):
            raise ValueError("its byteorder is neither little nor big")
        self._big_endian = order == b"big"
        self.is_script = self._name("constants.pkl") in self._members  # its code and constants are not read
        pickle = read_member(self._archive, self._name("data.pkl"))
        unpickler = Unpickler(Stream(io.BytesIO(pickle), len(pickle)), self._storage, is_script=self.is_script)
        self.content, self.is_plain = unpickler.load(), unpickler.is_plain

    def _check_members(self, there: int) -> None:
        """Raise for members that claim more than this size allows, or that zip readers may confuse."""
        claimed = sum(info.file_size for info in self._members.values())
        if claimed > may_become(there):
            raise ValueError(f"it is damaged: its {there} bytes claim to expand to {claimed}")
        if len({name.casefold() for name in self._members}) != len(self._archive.infolist()):
            raise ValueError("it is damaged: two of its members have the same name")
        if len({name.partition("/")[0] for name in self._members}) != 1:
            raise ValueError("its members are not in one folder, where torch.save puts them")
        folder = next(iter(self._members)).partition("/")[0]
        pickle = self._members.get(f"{folder}/data.pkl")
        if pickle is None:
            raise ValueError(f"it is damaged: it has no {folder}/data.pkl")
        if pickle.file_size > max(_ALWAYS_PICKLE, _MOST_PICKLE_GROWTH * pickle.compress_size):
            size = pickle.compress_size
            raise ValueError(f"it is damaged: its pickle of {size} bytes claims to expand to {pickle.file_size}")

    def _name(self, record: str) -> str:
        return f"{self._folder}/{record}"

    def _storage(self, identity: tuple[Any, ...]) -> Storage:
        key, dtype, nbytes = _claimed(identity, 5)
        known = self._storages.get(key)
        if known is not None:
            return _same(known, dtype, nbytes)
        member = self._members.get(self._name(f"data/{key}"))
        if member is None or member.file_size < nbytes:
            there = "no bytes" if member is None else f"{member.file_size} bytes"
            raise ValueError(f"it is damaged: its storage {key} claims {nbytes} bytes, but has {there}")
        made = Storage(key, dtype, nbytes, lambda: self._bytes(key), self._big_endian)
        self._storages[key] = made
        return made

    def _bytes(self, key: str) -> bytes:
        """Return a storage's bytes. Each is read once, as an LSTM's tensors may share one."""
        if key not in self._read:
            self._read[key] = read_member(self._archive, self._name(f"data/{key}"))
        return self._read[key]


class SavedPickles:
    """The format before PyTorch 1.6: five pickles, one after the other, and then the storages.

    Attributes:
        content: the object in the fourth pickle.
        is_plain: see Unpickler.
    """

    is_script = False

    def __init__(self, whole: Content) -> None:
        self._whole = whole
        self._storages: dict[str, Storage] = {}
        self._places: dict[str, int] = {}
        self._read: dict[str, bytes] = {}
        with whole.open() as file:
            stream = Stream(file, whole.size)
            if (self._plain(stream), self._plain(stream)) != (_MAGIC, _VERSION):
                raise ValueError("it is a pickle that torch.save didn't write")
            self._plain(stream)  # about the machine that saved it
            unpickler = Unpickler(stream, self._storage)
            self.content = unpickler.load()
            self.is_plain = unpickler.is_plain
            keys = self._plain(stream)
            self._find(file, stream, keys if isinstance(keys, list) else [])

    def _plain(self, stream: Stream) -> Any:
        """Return the object in a pickle that refers to no storages."""

        def refuse(_: tuple[Any, ...]) -> Storage:
            raise ValueError("it is damaged: it refers to a storage where there can't be one")

        return Unpickler(stream, refuse).load()

    def _storage(self, identity: tuple[Any, ...]) -> Storage:
        key, dtype, nbytes = _claimed(identity, 6)
        root = self._storages.get(key)
        if root is None:
            root = self._storages[key] = Storage(key, dtype, nbytes, lambda: self._bytes(key))
        return _same(root, dtype, nbytes) if identity[5] is None else _view(root, identity[5])

    def _find(self, file: BinaryIO, stream: Stream, keys: list[Any]) -> None:
        """Find the storages. Each is its number of elements, in eight bytes, and then its values."""
        for key in keys:
            storage = self._storages.get(key) if isinstance(key, str) else None
            if storage is None or key in self._places:
                raise ValueError("it is damaged: it names a storage that no tensor uses")
            (count,) = struct.unpack("<q", stream.take(8))
            if count * size_of(storage.dtype) != storage.nbytes or storage.nbytes > stream.left:
                raise ValueError(f"it is damaged: its storage {key} doesn't have the {storage.nbytes} bytes it claims")
            self._places[key] = file.tell()
            file.seek(storage.nbytes, os.SEEK_CUR)
            stream.left -= storage.nbytes
        if len(self._places) != len(self._storages):
            raise ValueError("it is truncated: values of tensors are missing")

    def _bytes(self, key: str) -> bytes:
        if key not in self._read:
            with self._whole.open() as file:
                file.seek(self._places[key])
                self._read[key] = file.read(self._storages[key].nbytes)
        return self._read[key]


def _claimed(identity: tuple[Any, ...], length: int) -> tuple[str, str, int]:
    """Return a storage's key, dtype and size in bytes, given what a pickle says of it.

    A pickle gives "storage", its class, key, device and number of elements.

    Raises:
        ValueError: the pickle gives something else.
    """
    if len(identity) == length and identity[0] == "storage" and isinstance(identity[1], Global):
        _, kind, key, _, numel = identity[:5]
        dtype = storage_dtype(kind.name)
        if dtype is not None and isinstance(key, str) and is_size(numel):
            return key, dtype, numel * size_of(dtype)
    raise ValueError("its pickle is damaged: it refers to a storage in a way that torch.save doesn't")


def _view(root: Storage, view: Any) -> Storage:
    """Return a part of a storage. PyTorch before 0.4 saved its key, offset and size, in elements."""
    if not isinstance(view, tuple) or len(view) != 3 or not (is_size(view[1]) and is_size(view[2])):
        raise ValueError("its pickle is damaged: it refers to a part of a storage in a way that torch.save doesn't")
    first, nbytes = (number * size_of(root.dtype) for number in view[1:])
    if first + nbytes > root.nbytes:
        raise ValueError(f"it is damaged: a part of its storage {root.key} reaches beyond the storage")
    return Storage(root.key, root.dtype, nbytes, lambda: root.read()[first : first + nbytes])


def _same(known: Storage, dtype: str, nbytes: int) -> Storage:
    if (known.dtype, known.nbytes) != (dtype, nbytes):
        raise ValueError(f"it is damaged: its storage {known.key} has two dtypes or sizes")
    return known
