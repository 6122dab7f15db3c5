"""Which system wrote a file: by what it begins with, and by the names of its arrays; never by its name alone."""

from __future__ import annotations

import os
import re
import zipfile
from typing import TYPE_CHECKING

from fusedlstm import files
from fusedlstm.convert.archives import open_archive
from fusedlstm.errors import WeightsFileError
from fusedlstm.validation.arguments import check_path

if TYPE_CHECKING:
    from collections.abc import Collection

    from fusedlstm.validation.arguments import AnyPath

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80\x02"  # of torch.save before PyTorch 1.6
_SAFETENSORS = re.compile(rb".{8}\{", re.DOTALL)
_MODEL_PROTO = b"\x08"  # its first field: ir_version

# What names of arrays tell, in this order: equinox' and Keras' would do for those below them. "" is more than one.
_NAMES = (
    ("torch", r"(.*\.)?(weight|bias)_[ih]h_l\d+(_reverse)?|(.*\.)?bias_ih"),
    ("equinox", r"(.*\.)?weight_ih"),
    ("", r"(.*[/.])?recurrent_kernel(:0)?"),
    ("flax", r"(.*[/.])?(ii|dense_i)[/.]kernel([/.]value)?"),
    ("haiku", r"(.*/)?linear/w"),
    ("sonnet1", r"(.*/)?w_gates(:0)?"),
    ("sonnet2", r"(.*/)?w_i(:0)?"),
    ("mxnet", r"(.*[._])?i2h_weight"),
    ("chainer", r"(.*[/.])?(upward[/.]W|0[/.]w0)"),
    ("tf1", r"(.*/)?(kernel|W_0)(:0)?"),
)

# What is known, and can't be read.
_REFUSED = (
    (re.compile(rb".{4}TFL3", re.DOTALL), "a TFLite model: give its tensors to fusedlstm.convert.from_tflite"),
    (re.compile(rb"GGUF"), "a GGUF file, which no LSTM is read from"),
    (re.compile(rb"\x80[\x03-\x05]"), "a Python pickle, which is never read: it can run any program"),
)


def recognise(path: AnyPath) -> str:
    """Return the system whose file or folder this is, such as "torch": that of `fusedlstm.convert.from_torch`.

    Raises:
        WeightsFileError: it is of none that is read here, of our own format, or can't be told.
        OSError: it can't be read.
        TypeError: `path` is not a path.
    """
    name = check_path("path", path)
    if is_tf1_checkpoint(name):
        return "tf1"
    with files.reading(name):
        return _of_file(name)


def _of_file(name: str) -> str:
    with open(name, "rb") as file:
        start = file.read(16)
    if start.startswith(_HDF5):
        return "keras"
    if start.startswith(_ZIP):
        return _of_zip(name)
    if start.startswith(_PICKLE):
        return "torch"
    for pattern, what in _REFUSED:
        if pattern.match(start):
            raise WeightsFileError(f"{name} is {what}")
    if _SAFETENSORS.match(start):
        if files.is_ours(name):
            raise WeightsFileError(f"{name} is a file of fusedlstm's own already, which load_weights reads")
        return _of_names(name, open_archive(name))
    if start.startswith(_MODEL_PROTO):
        return "onnx"
    raise WeightsFileError(f"{name} is of no kind that is known here. {_HINT}")


_HINT = "Say which with --from, or call its function of fusedlstm.convert"

_OF_KERAS_OR_HASTE = (
    "has a recurrent_kernel, as Keras' LSTM and haste's have, whose gates differ. Of haste say --from haste; of Keras "
    "give the file that it saved, or the arrays to fusedlstm.convert.from_keras"
)


def is_tf1_checkpoint(path: str) -> bool:
    """Whether a path is a TensorFlow checkpoint's: its prefix, its index, or the folder of it or of a SavedModel."""
    if path.endswith(".index") or os.path.isfile(f"{path}.index"):
        return True
    places = ("checkpoint", os.path.join("variables", "variables.index"), "variables.index")
    return os.path.isdir(path) and any(os.path.isfile(os.path.join(path, place)) for place in places)


def _of_zip(path: str) -> str:
    """Return the system of a zip file: .keras, PyTorch's, or .npz."""
    with files.reading(path, " is a damaged zip file"), zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    if "config.json" in members and "model.weights.h5" in members:
        return "keras"
    if any(member.endswith("/data.pkl") for member in members):
        return "torch"
    if any(member.endswith(".npy") for member in members):
        return _of_names(path, open_archive(path))
    some = ", ".join(members[:4]) or "nothing"
    raise WeightsFileError(f"{path} is a zip file of no kind that is known here: it has {some}. {_HINT}")


def _of_names(path: str, names: Collection[str]) -> str:
    """Return the system that has names like these, of the arrays in a file of any program."""
    system = system_of_names(names)
    if system:
        return system
    if system is not None:
        raise WeightsFileError(f"{path} {_OF_KERAS_OR_HASTE}")
    some = ", ".join(sorted(names)[:6]) or "nothing"
    raise WeightsFileError(f"{path} has no arrays whose names tell of an LSTM: {some}. {_HINT}")


def system_of_names(names: Collection[str]) -> str | None:
    """Return the system whose arrays have names like these: "" for Keras's or haste's, None for none."""
    for system, pattern in _NAMES:
        if any(re.fullmatch(pattern, name) for name in names):
            return system
    return None
