"""Files of PyTorch's parameters -> those parameters by name, without executing anything in the files."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

from fusedlstm import files
from fusedlstm.convert.archives import DAMAGED, open_archive
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
    return flatten("source", loaded, ".")


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
