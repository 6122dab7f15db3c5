"""Files of PyTorch's parameters -> those parameters by name, without executing anything in the files."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from fusedlstm import files
from fusedlstm.convert.archives import DAMAGED, may_become, open_archive
from fusedlstm.convert.trees import flatten
from fusedlstm.files import WeightsFileError

_PICKLE = b"\x80\x02"  # what torch.save wrote before PyTorch 1.6 begins with


def open_parameters(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Return the parameters in a file by name, tensors or arrays; a lazy mapping where that is possible.

    Its content tells what kind of file it is. Names of nested dicts, as in {"model": state_dict, "epoch": 3}, are
    joined by dots.

    Raises:
        WeightsFileError: the file is damaged, of another kind, or holds objects that are no parameters.
        OSError: the file can't be read.
        ImportError: a file that PyTorch has written, without PyTorch.
    """
    if is_of_torch(path):
        return _load(path)
    archive = open_archive(path)
    if not zipfile.is_zipfile(path) and files.is_ours(path):
        raise WeightsFileError(f"{os.fspath(path)} is a file of fusedlstm's own: use fusedlstm.load_weights")
    return archive


def is_of_torch(path: str | os.PathLike[str]) -> bool:
    """Whether torch.save wrote a file: a zip file with a pickle in it, or, before PyTorch 1.6, a pickle."""
    with open(path, "rb") as file:
        if file.read(len(_PICKLE)) == _PICKLE:
            return True
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except DAMAGED:
        return False


def _load(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Return what torch.save has written, which must be a dict."""
    _check_growth(os.fspath(path))
    with open(path, "rb") as file:
        try:
            import torch
        except ImportError:
            raise ImportError(f"{os.fspath(path)} needs PyTorch to be read: a .safetensors file does not") from None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what is refused here anyway
                loaded = torch.load(file, weights_only=True, map_location="cpu")
        except Exception as error:  # damage makes PyTorch raise whatever its parsers come to
            raise WeightsFileError(f"{os.fspath(path)} {_why_not(error)}") from error
    if not isinstance(loaded, Mapping):
        kind = type(loaded).__name__
        raise WeightsFileError(f"{os.fspath(path)} holds a {kind}, not a state_dict or a dict with one")
    return _Loaded(os.fspath(path), flatten("source", loaded, "."))


def _check_growth(path: str) -> None:
    """Raise if members of a zip file claim to be much larger than it: torch.save compresses none."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            claimed, there = sum(info.file_size for info in archive.infolist()), os.path.getsize(path)
    except DAMAGED as error:
        raise WeightsFileError(f"{path} is damaged: {error}") from error
    if claimed > may_become(there):
        raise WeightsFileError(f"{path} is damaged: {there} bytes that claim to become {claimed}")


class _Loaded(Mapping[str, Any]):
    """What was in a file, by name. Of a tensor few bytes may be there, however large it is: it is checked at use."""

    def __init__(self, path: str, values: Mapping[str, Any]) -> None:
        self._path, self._values = path, values
        self._most = may_become(os.path.getsize(path))  # bytes, of all that is used
        self._used: set[str] = set()
        self._bytes = 0

    def __getitem__(self, name: str) -> Any:
        import torch

        value = self._values[name]
        if isinstance(value, torch.Tensor):
            self._check(name, value)
        return value

    def _check(self, name: str, tensor: Any) -> None:
        if tensor.is_nested or str(tensor.layout) != "torch.strided" or tensor.device.type != "cpu":
            kind = "nested" if tensor.is_nested else f"{tensor.layout} on {tensor.device}"
            raise WeightsFileError(f"{self._path}: {name} is no plain tensor with values in the file: it is {kind}")
        size, there = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if size > there:
            raise WeightsFileError(f"{self._path}: {name} claims {size} bytes, of {there} that there are")
        if name not in self._used:
            self._used.add(name)
            self._bytes += size
        if self._bytes > self._most:
            raise WeightsFileError(f"{self._path}: its tensors share their bytes out of proportion: {name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _why_not(error: Exception) -> str:
    """Say what a file is that torch.load refuses."""
    text = str(error)
    if "TorchScript" in text:
        return "is a TorchScript archive, which is a program: if you trust it, give torch.jit.load(path) as source"
    if "Unsupported global" in text or "Unsupported class" in text:
        return (
            "holds Python objects, such as a whole module, which are not unpickled: save module.state_dict(), or, "
            "if you trust it, give torch.load(path, weights_only=False) as source"
        )
    return f"is damaged, or was not written by torch.save: {text.splitlines()[0] if text else type(error).__name__}"
