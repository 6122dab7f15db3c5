"""Read the parameters in PyTorch's files by name, without executing anything in them."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from fusedlstm import files
from fusedlstm.convert.archives import may_become, open_archive, read_member
from fusedlstm.convert.torch.pickled import Global, Stream
from fusedlstm.convert.torch.tensors import Other, Storage, StoredTensor, is_size, size_of, storage_dtype
from fusedlstm.convert.torch.unpickling import Unpickler
from fusedlstm.convert.trees import flatten
from fusedlstm.errors import WeightsFileError

_PICKLE = b"\x80\x02"  # how torch.save's files began before PyTorch 1.6
_ZIP = b"PK\x03\x04"
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of such a file
# A small pickle can make objects of a hundred times its size.
_MOST_PICKLE_GROWTH, _ALWAYS_PICKLE = 32, 1 << 20


def open_parameters(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Return the parameters in a file by name; arrays are read on access.

    The content tells the kind of file. Names of nested dicts, as in {"model": state_dict, "epoch": 3}, are joined by
    dots. PyTorch is not needed.

    Raises:
        WeightsFileError, ValueError: the file is damaged, of another kind, or holds objects that are not parameters.
        OSError: the file can't be read.
    """
    if is_of_torch(path):
        return SavedParameters(os.fspath(path))
    archive = open_archive(path)
    if not zipfile.is_zipfile(path) and files.is_ours(path):
        raise WeightsFileError(f"{os.fspath(path)} is fusedlstm's own file: use fusedlstm.load_weights")
    return archive


def is_of_torch(path: str | os.PathLike[str]) -> bool:
    """Return whether torch.save wrote the file: a zip file with a pickle in it or, before PyTorch 1.6, a pickle."""
    with open(path, "rb") as file:
        start = file.read(len(_ZIP))
    if start != _ZIP:
        return start.startswith(_PICKLE)
    with files.reading(path), zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def shape_of(parameters: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """Return a parameter's shape without reading its values; () if it has none."""
    if isinstance(parameters, SavedParameters):
        return parameters.shape(name)
    return tuple(getattr(parameters[name], "shape", ()))


class SavedParameters(Mapping[str, Any]):
    """The content of a file of torch.save by name: arrays, and whatever else it holds.

    Attributes:
        is_plain: whether PyTorch's own safe mode needs no more work to read the file than this reader.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with open(path, "rb") as file:
            is_zip = file.read(len(_ZIP)) == _ZIP
        saved: _Zip | _Legacy = _Zip(path) if is_zip else _Legacy(path)
        if not isinstance(saved.content, Mapping):
            kind = {"StoredTensor": "Tensor", "Other": "object"}.get(type(saved.content).__name__)
            kind = kind or type(saved.content).__name__
            article = "an" if kind[0] in "aeiou" else "a"
            raise WeightsFileError(f"{path} holds {article} {kind}, not a state_dict or a dict with one")
        self._values = flatten("source", saved.content, ".")
        self.is_plain = saved.is_plain
        self._most = may_become(os.path.getsize(path))  # bytes, for all arrays together
        self._used: set[str] = set()
        self._bytes = 0

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        if isinstance(value, Other):
            what = "not a plain tensor with values in the file"
            raise WeightsFileError(f"{self._path}: {name} is {what}: it is {value.kind}")
        return self._read(name, value) if isinstance(value, StoredTensor) else value

    def _read(self, name: str, tensor: StoredTensor) -> Any:
        """Return a tensor's values. Its elements may share few bytes, so bound what is read."""
        if name not in self._used:
            self._used.add(name)
            self._bytes += tensor.nbytes
        there = tensor.storage.nbytes
        if tensor.nbytes > max(self._most, there):
            raise WeightsFileError(f"{self._path}: {name} claims {tensor.nbytes} bytes; its storage has {there}")
        if self._bytes > self._most:
            raise WeightsFileError(f"{self._path}: {name} and others share too few bytes for their sizes")
        with files.blaming(f"{self._path}: {name}"):
            return tensor.array()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor; () for anything else."""
        value = self._values[name]
        return value.shape if isinstance(value, StoredTensor) else ()

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class _Zip:
    """The format since PyTorch 1.6: a zip file with a pickle, and one member for each storage.

    Attributes:
        content: the pickled object.
        is_plain: see Unpickler.
    """

    def __init__(self, path: str) -> None:
        self._archive = zipfile.ZipFile(path)  # stays open: listing many members takes long
        self._members = {info.filename: info for info in self._archive.infolist()}
        self._check_members(path)
        self._storages: dict[str, Storage] = {}
        self._read: dict[str, bytes] = {}
        self._folder = next(iter(self._members)).partition("/")[0]
        order = read_member(self._archive, self._name("byteorder")) if self._name("byteorder") in self._members else b""
        if order not in (b"", b"little", b"big"):
            raise ValueError("its byteorder is neither little nor big")
        self._big_endian = order == b"big"
        pickle = read_member(self._archive, self._name("data.pkl"))
        unpickler = Unpickler(Stream(io.BytesIO(pickle), len(pickle)), self._storage)
        self.content, self.is_plain = unpickler.load(), unpickler.is_plain

    def _check_members(self, path: str) -> None:
        """Raise for members that claim too much, or that zip readers may confuse."""
        claimed, there = sum(info.file_size for info in self._members.values()), os.path.getsize(path)
        if claimed > may_become(there):
            raise ValueError(f"it is damaged: its {there} bytes claim to expand to {claimed}")
        if len({name.casefold() for name in self._members}) != len(self._archive.infolist()):
            raise ValueError("it is damaged: two of its members have the same name")
        if len({name.partition("/")[0] for name in self._members}) != 1:
            raise ValueError("its members are not in one folder, where torch.save puts them")
        folder = next(iter(self._members)).partition("/")[0]
        if f"{folder}/constants.pkl" in self._members:
            raise ValueError(
                "it is a TorchScript archive, which is a program: if you trust it, pass torch.jit.load(path) as source"
            )
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


class _Legacy:
    """The format before PyTorch 1.6: five pickles, one after the other, and then the storages.

    Attributes:
        content: the object in the fourth pickle.
        is_plain: see Unpickler.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._storages: dict[str, Storage] = {}
        self._places: dict[str, int] = {}
        self._read: dict[str, bytes] = {}
        with open(path, "rb") as file:
            stream = Stream(file, os.path.getsize(path))
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
        if len(identity) > 1 and identity[0] == "module":
            raise ValueError("it holds a whole module, and modules are not unpickled: save module.state_dict()")
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
            with open(self._path, "rb") as file:
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
    return Storage(f"{root.key}+{first}", root.dtype, nbytes, lambda: root.read()[first : first + nbytes])


def _same(known: Storage, dtype: str, nbytes: int) -> Storage:
    if (known.dtype, known.nbytes) != (dtype, nbytes):
        raise ValueError(f"it is damaged: its storage {known.key} has two dtypes or sizes")
    return known
