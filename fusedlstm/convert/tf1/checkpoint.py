"""Read variables by name, from checkpoints through TensorFlow itself, and from archives of arrays."""

from __future__ import annotations

import errno
import glob
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fusedlstm import files
from fusedlstm.convert.archives import check_names, open_archive
from fusedlstm.errors import WeightsFileError

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray

_FILES = re.compile(r"(.+)\.(index|meta|data-\d+-of-\d+)")  # of one checkpoint; the common beginning is its name
_EXPORT = (
    "checkpoints are read through TensorFlow, which can't be imported here ({why}). Where TensorFlow is installed, run "
    "this program, and pass its variables.npz: import numpy as np, tensorflow as tf; "
    'reader = tf.train.load_checkpoint({checkpoint!r}); np.savez("variables.npz", '
    "**{{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}})"
)


def open_variables(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Return the variables of a checkpoint, or the arrays of an archive, by name. Each is read on access.

    Args:
        path: the path of a checkpoint, as `train.Saver.save` returns it ("model.ckpt-1000"), or of one of its files; of
            a folder with checkpoints, whose file `checkpoint` names the last one; of a SavedModel's folder; or of a
            .npz or .safetensors file.

    Raises:
        WeightsFileError: the file is damaged, or none of these. Reading a variable raises it, too.
        OSError: there is nothing at the path, or it can't be read.
        ImportError: it is a checkpoint, and TensorFlow is not installed.
    """
    given = os.fspath(path)
    checkpoint = _checkpoint_at(given)
    if checkpoint is not None:
        return Checkpoint(checkpoint)
    if not os.path.exists(given):
        raise FileNotFoundError(errno.ENOENT, "No such file, and no such checkpoint (with .index added)", given)
    return open_archive(given)


def is_checkpoint(path: str) -> bool:
    """Whether a path leads to a checkpoint: its prefix, its index, its folder, or a SavedModel's folder."""
    if path.endswith(".index") or os.path.isfile(f"{path}.index"):
        return True
    places = ("checkpoint", os.path.join("variables", "variables.index"), "variables.index")
    return os.path.isdir(path) and any(os.path.isfile(os.path.join(path, place)) for place in places)


def _checkpoint_at(path: str) -> str | None:
    """Return the prefix of the checkpoint at a path; None without one."""
    match = _FILES.fullmatch(path)
    for name in (path, match[1] if match else path):
        if os.path.isfile(f"{name}.index"):
            return name
    return _checkpoint_in(path) if os.path.isdir(path) else None


def _checkpoint_in(folder: str) -> str:
    for name in (os.path.join(folder, "variables", "variables"), os.path.join(folder, "variables")):
        if os.path.isfile(f"{name}.index"):  # a SavedModel's
            return name
    if os.path.isfile(os.path.join(folder, "checkpoint")):
        tensorflow = _tensorflow(folder)
        with files.blaming(folder):
            last = tensorflow.train.latest_checkpoint(folder)
        if last is not None:
            return str(last)
    have = ", ".join(sorted(name for name in os.listdir(folder) if name.endswith(".index"))[:8]) or "there is none"
    raise FileNotFoundError(errno.ENOENT, f"No latest checkpoint found: give a checkpoint's path ({have})", folder)


def _tensorflow(checkpoint: str) -> Any:
    try:
        import tensorflow
    except ImportError as error:
        raise ImportError(_EXPORT.format(why=error, checkpoint=checkpoint)) from error
    return tensorflow


class Checkpoint(Mapping[str, Any]):
    """The named variables of a checkpoint."""

    def __init__(self, path: str) -> None:
        tensorflow = _tensorflow(path)
        self._path = path
        with files.blaming(path):
            self._reader = tensorflow.train.load_checkpoint(path)
            self._shapes = dict(self._reader.get_variable_to_shape_map())
            self._dtypes = dict(self._reader.get_variable_to_dtype_map())
        check_names(path, self._shapes)

    def __getitem__(self, name: str) -> NumpyArray:
        if name not in self._shapes:
            raise KeyError(name)
        self._check_size(name)
        with files.blaming(self._path):
            array: NumpyArray = self._reader.get_tensor(name)
        return array

    def _check_size(self, name: str) -> None:
        """Raise for a variable that claims to be larger than the checkpoint, before memory is allocated for it."""
        there = sum(os.path.getsize(file) for file in glob.glob(f"{glob.escape(self._path)}.data-*"))
        claimed = math.prod(self._shapes[name]) * (self._dtypes[name].size or 1)
        if claimed > there:
            raise WeightsFileError(f"{self._path}: {name} claims {claimed} bytes; the files have {there}")

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a variable's shape without reading its values."""
        return tuple(self._shapes[name])

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)
