"""Read Keras's files into a tree of `nodes`. Nothing in them is executed, and Lambda layers are ignored.

There are three formats. A file's content tells its format, whatever its name:

- `.h5` of model.save and, in Keras 2, of save_weights: arrays by the names of variables (`variables`). model.save
  keeps the model's config in the attribute "model_config", and the version in "keras_version".
- `.weights.h5`: arrays by paths of attributes (`paths`).
- `.keras`: a zip file of a model.weights.h5 in this format, config.json, and metadata.json with the version.
"""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from fusedlstm.convert.archives import read_member
from fusedlstm.convert.containers import START, what_file, what_zip
from fusedlstm.convert.keras.configs import node_of_config, parsed
from fusedlstm.convert.keras.hdf5 import HDF5, MAGIC
from fusedlstm.convert.keras.nodes import Found, Node, find
from fusedlstm.convert.keras.paths import cells_in, of_paths, owned, place
from fusedlstm.convert.keras.variables import assign, entries_below, entries_in, of_entries
from fusedlstm.convert.keras.versions import OF_PATHS, version_of
from fusedlstm.files import reading, refuse_pipe
from fusedlstm.validation.advice import fail_source

_ZIP = b"PK\x03\x04"


@contextlib.contextmanager
def opened(path: str | bytes | os.PathLike[str]) -> Iterator[Node]:
    """Open a Keras file and yield its model. The cells' arrays can be read while the file is open.

    Raises:
        WeightsFileError: something fails while the file is open. The message gives the path and the reason.
        ImportError: h5py is not installed.
        OSError: the file can't be opened.
    """
    refuse_pipe(path)
    with reading(path), open(path, "rb") as file, contextlib.ExitStack() as stack:
        yield _root(file, stack)


@dataclass(frozen=True)
class Parts:
    """The parts of a file, for Keras itself to load.

    Attributes:
        config: the model's config; None in a file with only weights.
        stored: the total size of the arrays in bytes.
        content: the file's bytes.
        weights: the HDF5 file in a .keras file; None in others.
        metadata: the metadata.json in a .keras file.
    """

    config: Any
    stored: int
    content: bytes = b""
    weights: bytes | None = None
    metadata: bytes = b"{}"


def parts_of(path: str | os.PathLike[str]) -> Parts:
    """Check all arrays and attributes in a file, and return its parts.

    Raises:
        WeightsFileError, ImportError, OSError: see `opened`.
    """
    with reading(path), open(path, "rb") as file:
        content = file.read()
        if not content.startswith(_ZIP):
            with contextlib.closing(HDF5(io.BytesIO(content))) as hdf5:
                config = hdf5.text("", "model_config")
                return Parts(parsed(config) if config else None, hdf5.check_all(), content)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            weights = read_member(archive, "model.weights.h5")
            config = parsed(read_member(archive, "config.json"))
            metadata = read_member(archive, "metadata.json")
        with contextlib.closing(HDF5(io.BytesIO(weights))) as hdf5:
            return Parts(config, hdf5.check_all(), weights=weights, metadata=metadata)


def _root(file: BinaryIO, stack: contextlib.ExitStack) -> Node:
    start = file.read(len(MAGIC))
    if start == MAGIC:
        hdf5 = stack.enter_context(contextlib.closing(HDF5(file)))
        return _of_hdf5(hdf5)
    if start.startswith(_ZIP):
        archive = stack.enter_context(zipfile.ZipFile(file))
        return _of_archive(archive, stack)
    what = what_file(start + file.read(START - len(start)))
    raise ValueError(f"it is {what or 'not a Keras file, which is HDF5 (.h5) or a zip file (.keras)'}")


@dataclass(frozen=True)
class Listed:
    """An LSTM in a Keras file.

    Attributes:
        name: its name, as `from_keras` takes it.
        kind: its class in Keras; "LSTM" or "LSTMCell" if a file with only weights doesn't tell.
        sizes: (input size, hidden size) of each cell, the backward one's last.
        options: the options in its config that matter here, by Keras's names; empty for a file with only weights.
    """

    name: str
    kind: str
    sizes: tuple[tuple[int, int], ...]
    options: dict[str, Any]


def list_keras(path: str | bytes | os.PathLike[str]) -> list[Listed]:
    """Return the LSTMs in a Keras file, in order, including those that `from_keras` refuses.

    Raises:
        TypeError: `path` is not a path. Unlike `from_keras`, this doesn't take layers or models.
        WeightsFileError: the file is damaged, or is not a Keras file.
        ImportError: h5py is not installed.
        OSError: the file can't be opened.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        fail_source("path", "the path of a Keras file", path)
    with opened(path) as root:
        return [_listed(found) for found in find(root) if found.is_lstm]


def _listed(found: Found) -> Listed:
    cells = list(found.node.cells())
    sizes = [shapes for cell in cells if (shapes := cell.shapes)]
    shown = ("activation", "recurrent_activation", "use_bias", "go_backwards", "merge_mode", "return_sequences")
    known = dict(cells[0].options) if cells else {}
    known |= found.node.options
    options = {option: known[option] for option in shown if option in known}
    return Listed(found.name, found.node.kind, tuple((x[0], h[0]) for x, h, *_ in sizes), options)


def _of_archive(archive: zipfile.ZipFile, stack: contextlib.ExitStack) -> Node:
    """Return the model of a .keras file."""
    members = archive.namelist()
    missing = [name for name in ("config.json", "model.weights.h5") if name not in members]
    if missing:
        if len(missing) == 2 and (what := what_zip(members)):
            raise ValueError(f"it is {what}")
        there = ", ".join(members[:8]) or "nothing"
        raise ValueError(f"it is not a Keras file: it lacks {' and '.join(missing)}, and holds {there}")
    about = parsed(read_member(archive, "metadata.json")) if "metadata.json" in members else {}
    version = version_of(about.get("keras_version") if isinstance(about, Mapping) else None)
    root = node_of_config(parsed(read_member(archive, "config.json")), version)
    hdf5 = HDF5(io.BytesIO(read_member(archive, "model.weights.h5")))
    stack.enter_context(contextlib.closing(hdf5))
    place(root, "", hdf5)
    described = {cell.path for cell in root.cells()}
    # Cells in layers of the user's own classes. For these the config has only what the user put there.
    left = owned(root, [path for path in cells_in(hdf5) if path not in described], hdf5)
    if others := of_paths(hdf5, left, version if version.gates else OF_PATHS):
        root.parts["layers"] = [*root.parts.get("layers", []), *others]
    return root


def _of_hdf5(hdf5: HDF5) -> Node:
    """Return the model of a .h5 or .weights.h5 file."""
    top = "model_weights" if "model_weights" in hdf5.groups else ""
    entries = entries_in(hdf5, top)
    if not entries and "model_config" not in hdf5.groups[""].attrs:
        return Node("weights", "", parts={"layers": of_paths(hdf5, cells_in(hdf5))})
    version = version_of(hdf5.text("", "keras_version") or hdf5.text(top, "keras_version"))
    config = hdf5.text("", "model_config")
    root = node_of_config(parsed(config), version) if config else Node("weights", "")
    if "layers" not in root.parts:  # of the user's own class
        root.parts["layers"] = of_entries(hdf5, entries, version)
        return root
    below = entries_below(entries)
    for layer in root.parts["layers"]:
        assign(layer, below.get(layer.name, []), hdf5)
    return root
