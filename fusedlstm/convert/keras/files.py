"""Files of Keras -> the tree of `layers`. Nothing in them is executed, and Lambda layers are not looked at.

There are three formats, told by what is in a file, whatever it is called:

- `.h5` of model.save and, in Keras 2, of save_weights: arrays by the names of variables (`variables`). model.save
  keeps the model's config in the attribute "model_config", and the version in "keras_version".
- `.weights.h5`: arrays by paths of attributes (`paths`).
- `.keras`: a zip file of such a model.weights.h5, the config.json, and the metadata.json with the version.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from fusedlstm.convert.archives import read_member
from fusedlstm.convert.keras.hdf5 import HDF5, MAGIC
from fusedlstm.convert.keras.layers import Found, Node, find
from fusedlstm.convert.keras.paths import cells_in, of_paths, place
from fusedlstm.convert.keras.variables import assign, entries_below, entries_in, of_entries
from fusedlstm.files import WeightsFileError

_ZIP = b"PK\x03\x04"
# What reading damaged content, or content of any shape where another was meant, may raise.
_UNREADABLE = (
    *(OSError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError),
    *(EOFError, MemoryError, zipfile.BadZipFile, zlib.error),
)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Node]:
    """Open a file of Keras: a model whose cells' arrays can be read as long as it is open.

    Raises:
        WeightsFileError: for whatever fails while it is open, naming the path and what is wrong.
        ImportError: h5py is not installed.
        OSError: the file can't be opened.
    """
    with open(path, "rb") as file:
        try:
            with contextlib.ExitStack() as stack:
                yield _root(file, stack)
        except ImportError:
            raise
        except _UNREADABLE as error:
            what = f"there is no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
            raise WeightsFileError(f"{os.fspath(path)}: {what}") from error


def _root(file: BinaryIO, stack: contextlib.ExitStack) -> Node:
    start = file.read(len(MAGIC))
    if start == MAGIC:
        hdf5 = stack.enter_context(contextlib.closing(HDF5(file)))
        return _of_hdf5(hdf5)
    if start.startswith(_ZIP):
        archive = stack.enter_context(zipfile.ZipFile(file))
        return _of_archive(archive, stack)
    raise ValueError("it is neither HDF5 (.h5) nor a zip file (.keras), as Keras' files are")


@dataclass(frozen=True)
class Listed:
    """A layer that a file has.

    Attributes:
        name: as `from_keras` takes it.
        kind: its class in Keras; "LSTM" or "LSTMCell" where a file of weights alone doesn't tell.
        sizes: (input size, hidden size) of each cell, the backward one's last.
        options: what its config says and weights depend on, by Keras' names; nothing in a file of weights alone.
    """

    name: str
    kind: str
    sizes: tuple[tuple[int, int], ...]
    options: dict[str, Any]


def list_keras(path: str | os.PathLike[str]) -> list[Listed]:
    """Return the LSTMs in a file of Keras, in order, whether `from_keras` can take them or not.

    Raises:
        WeightsFileError: the file is damaged, or none of Keras'.
        ImportError: h5py is not installed.
        OSError: the file can't be opened.
    """
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
        there = ", ".join(members[:8]) or "nothing"
        raise ValueError(f"it is no file of Keras': it lacks {' and '.join(missing)}, and holds {there}")
    about = _json(read_member(archive, "metadata.json")) if "metadata.json" in members else {}
    version = _version(about.get("keras_version") if isinstance(about, Mapping) else None)
    root = _of_config(_json(read_member(archive, "config.json")), version)
    hdf5 = HDF5(io.BytesIO(read_member(archive, "model.weights.h5")))
    stack.enter_context(contextlib.closing(hdf5))
    place(root, "", hdf5)
    described = {cell.path for cell in root.cells()}
    # Those in layers of the user's own classes, of which the config has no more than the user put there.
    others = of_paths(hdf5, [path for path in cells_in(hdf5) if path not in described])
    if others:
        root.parts["layers"] = [*root.parts.get("layers", []), *others]
    return root


def _of_hdf5(hdf5: HDF5) -> Node:
    """Return the model of a .h5 or .weights.h5 file."""
    top = "model_weights" if "model_weights" in hdf5.groups else ""
    entries = entries_in(hdf5, top)
    if not entries and "model_config" not in hdf5.groups[""].attrs:
        return Node("Model", "", parts={"layers": of_paths(hdf5, cells_in(hdf5))})
    version = _version(hdf5.text("", "keras_version") or hdf5.text(top, "keras_version"))
    config = hdf5.text("", "model_config")
    root = _of_config(_json(config), version) if config else Node("Model", "")
    if "layers" not in root.parts:  # of a class of the user's own
        root.parts["layers"] = of_entries(hdf5, entries)
        return root
    below = entries_below(entries)
    for layer in root.parts["layers"]:
        assign(layer, below.get(layer.name, []), hdf5)
    return root


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its config is nested too deep") from error
    except ValueError as error:
        raise ValueError(f"its config can't be read ({error})") from error


def _version(said: Any) -> int:
    """Return 2 or 3; 0 if nothing is said."""
    first = str(said).partition(".")[0] if said else "0"
    if first not in ("0", "2", "3"):
        raise ValueError(f"it is of Keras {said!s:.20}, and files of Keras 2 and 3 are read")
    return int(first)


def _of_config(config: Any, keras: int, *, is_in_two: bool = False) -> Node:
    """Return a model or layer as its config describes it; one in a Bidirectional is there twice."""
    if not isinstance(config, Mapping) or not isinstance(config.get("class_name"), str):
        raise ValueError("its config is none of a model: there is something without a class_name")
    options = config.get("config")
    if isinstance(options, list):  # of a Sequential, before Keras 2.3
        options = {"layers": options}
    options = options if isinstance(options, Mapping) else {}
    module, _, kind = config["class_name"].rpartition(">")  # a class registered by its user is named package>class
    if not _is_own(config.get("module")) or ">" in str(config.get("registered_name")):
        module = str(config.get("registered_name") or config.get("module"))
    node = Node(kind, str(options.get("name", config.get("name", kind))), options, keras, module)
    if kind == "Bidirectional" and is_in_two:
        raise ValueError(f"{node.name!r} is a Bidirectional in another, which Keras does not make")
    is_in_two = is_in_two or kind == "Bidirectional"
    if kind in ("LSTM", "CuDNNLSTM"):
        node.parts["cell"] = [Node(f"{kind}Cell", "", options, keras, module)]
    for role in ("layers", "cells"):
        if isinstance(options.get(role), list):
            node.parts[role] = [_of_config(part, keras, is_in_two=is_in_two) for part in options[role]]
    for role in ("layer", "cell"):
        if isinstance(options.get(role), Mapping):
            node.parts[role] = [_of_config(options[role], keras, is_in_two=is_in_two)]
    if kind == "Bidirectional" and "layer" in node.parts:
        _split_directions(node, keras)
    return node


def _is_own(module: Any) -> bool:
    """Whether a module is of Keras; older files name none."""
    return module is None or str(module).partition(".")[0] in ("keras", "tf_keras", "tensorflow")


def _split_directions(node: Node, keras: int) -> None:
    """Make a forward and a backward layer of a Bidirectional's one, unless it has a backward one of its own."""
    (forward,) = node.parts.pop("layer")
    again = node.options.get("backward_layer")
    if isinstance(again, Mapping):
        backward = _of_config(again, keras, is_in_two=True)
    else:
        backward = _of_config(node.options["layer"], keras, is_in_two=True)
        backward.options = {**backward.options, "go_backwards": not forward.options.get("go_backwards", False)}
    node.parts |= {"forward_layer": [forward], "backward_layer": [backward]}
