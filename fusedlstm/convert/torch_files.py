"""Files of PyTorch's parameters -> those parameters by name, without executing anything in the files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusedlstm.convert.archives import open_archive
from fusedlstm.convert.trees import flatten
from fusedlstm.files import WeightsFileError

_ARCHIVES = (".npz", ".safetensors")
_PICKLES = (".pt", ".pth", ".bin", ".ckpt")


def open_parameters(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Return the parameters in a file by name, tensors or arrays; a lazy mapping where that is possible.

    What kind of file it is its name's ending says. Names of nested dicts, as in {"model": state_dict, "epoch": 3},
    are joined by dots.

    Raises:
        WeightsFileError: the file is damaged, of another kind, or holds objects that are no parameters.
        ValueError: the name ends in nothing known.
        OSError: the file can't be read.
        ImportError: a file that PyTorch has written, without PyTorch.
    """
    suffix = Path(path).suffix.lower()
    if suffix in _ARCHIVES:
        archive = open_archive(path)
        if suffix == ".safetensors":
            _refuse_own(path)
        return archive
    if suffix in _PICKLES:
        return _load(path)
    known = ", ".join(_PICKLES + _ARCHIVES)
    raise ValueError(f"source: wanted a file whose name ends in one of {known}; got {os.fspath(path)!r}")


def _refuse_own(path: str | os.PathLike[str]) -> None:
    """Raise for a file of this package, whose names are alike but which has options, too."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
    if "fusedlstm" in metadata:
        raise WeightsFileError(f"{os.fspath(path)} is a file of fusedlstm's own: use fusedlstm.load_weights")


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
        except OSError:
            raise
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
