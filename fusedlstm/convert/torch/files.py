"""Read the parameters in PyTorch's files by name, without executing anything in them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from fusedlstm import files
from fusedlstm.convert.archives import may_become, open_archive
from fusedlstm.convert.containers import START, is_safetensors
from fusedlstm.convert.torch import numpy_values
from fusedlstm.convert.torch.pickled import Global
from fusedlstm.convert.torch.saved import PICKLE, POLICY, ZIP, Content
from fusedlstm.convert.torch.scripts import ClassName
from fusedlstm.convert.torch.tensors import Other, StoredTensor
from fusedlstm.convert.trees import flatten
from fusedlstm.errors import WeightsFileError

# What errors call the content of files that have no dict.
_KINDS = {StoredTensor: "Tensor", numpy_values.Array: "NumPy array"}
_KINDS |= dict.fromkeys((Other, Global, numpy_values.Text, numpy_values.Dtype), "object")


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
    """Return whether torch.save, torch.jit.save or Stable-Baselines3 wrote the file.

    It is a zip file with a pickle, or with such a file, in it. Before PyTorch 1.6 it was a pickle.
    """
    files.refuse_pipe(path)
    with open(path, "rb") as file:
        start = file.read(START)
    if not start.startswith(ZIP):
        return start.startswith(PICKLE) and not is_safetensors(start)
    with files.reading(path), zipfile.ZipFile(path) as archive:
        return any(name == POLICY or name.endswith("/data.pkl") for name in archive.namelist())


def shape_of(parameters: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """Return a parameter's shape without reading its values; () if it has none."""
    if isinstance(parameters, SavedParameters):
        return parameters.shape(name)
    return tuple(getattr(parameters[name], "shape", ()))


class SavedParameters(Mapping[str, Any]):
    """The content of a file of torch.save by name: arrays, and whatever else it holds. From TorchScript, only tensors.

    Attributes:
        content: what torch.save wrote.
        classes: the classes of TorchScript's modules by the prefix of their parameters' names; else none.
        is_plain: whether PyTorch's own safe mode needs no more work to read the file than this reader.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.content = Content.of(path)
        saved = self.content.read()
        if not isinstance(saved.content, Mapping):
            kind = _KINDS.get(type(saved.content), type(saved.content).__name__)
            article = "an" if kind[0] in "aeiou" else "a"
            raise WeightsFileError(f"{path} holds {article} {kind}, not a state_dict or a dict with one")
        values = {name: numpy_values.plain(each) for name, each in flatten("source", saved.content, ".").items()}
        self.classes = {name[: -len(ClassName.KEY)]: v.name for name, v in values.items() if isinstance(v, ClassName)}
        if saved.is_script:
            values = {name: value for name, value in values.items() if isinstance(value, (StoredTensor, Other))}
            if not values:
                what = "is a TorchScript program without parameters, as torch.jit.freeze makes them constants"
                raise WeightsFileError(f"{path} {what}: save it before it is frozen")
        self._values = values
        self.is_plain = saved.is_plain
        self._most = may_become(self.content.size)  # bytes, for all arrays together
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
