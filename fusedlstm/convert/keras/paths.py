"""Find arrays by paths of attributes, in `.weights.h5` files of save_weights of Keras 3 and tf.keras.

A cell's arrays are PATH/vars/0, 1 and 2. A path consists of attributes: layers/lstm_1/cell,
layers/bidirectional/forward_layer/cell, layers/rnn/cell/cells/lstm_cell_1, or layers/functional/layers/... in a nested
model. Elements of lists are named by their class in snake case and a number. Keras 3 keeps a layer's name in the
attribute "name" of its vars.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fusedlstm.convert.keras.arrays import is_cell, is_cudnn
from fusedlstm.convert.keras.nodes import CELLS, Node
from fusedlstm.convert.keras.versions import OF_PATHS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from fusedlstm.convert.keras.hdf5 import HDF5
    from fusedlstm.convert.keras.versions import Version

ROLES = ("forward_layer", "backward_layer")
_LAYERS, _OLD_LAYERS = "layers", "_layer_checkpoint_dependencies"  # the latter in Keras 2.12 and 2.13


def place(node: Node, path: str, hdf5: HDF5) -> None:
    """Give all cells of a config the arrays at their paths in a `.weights.h5`."""
    node.path = path
    if node.base in CELLS:
        give(node, path, _vars(hdf5, path), hdf5)
    used: dict[str, int] = {}
    for role, parts in node.parts.items():
        for part in parts:
            if part.kind == "CuDNNLSTMCell":
                below = path
            elif role in ("layers", "cells"):
                below = join(path, role, _unique(_snake_case(part.kind), used))
            else:
                below = join(path, role)
            place(part, below, hdf5)


def owned(root: Node, paths: Sequence[str], hdf5: HDF5) -> list[str]:
    """Assign arrays in an LSTM's layout to layers of the user's own classes, and return the other paths."""
    owners = {node.path: node for node in root.nodes() if node.module and node.path}
    left = []
    for path in paths:
        owner = owners.get(path.removesuffix("/cell"))
        if owner is None or owner.parts or owner.base not in ("", "LSTM", "LSTMCell"):
            left.append(path)
        elif path == owner.path:
            owner.base = "LSTMCell"
            give(owner, path, _vars(hdf5, path), hdf5)
        else:
            owner.base = "LSTM"
            owner.parts["cell"] = [Node("LSTMCell", "", owner.options, owner.version)]
            give(owner.parts["cell"][0], path, _vars(hdf5, path), hdf5)
    return left


def join(*names: str) -> str:
    """Join the names that are not empty to a path."""
    return "/".join(name for name in names if name)


def _snake_case(kind: str) -> str:
    """Return a class's name as Keras writes it in paths."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()


def _unique(name: str, used: dict[str, int]) -> str:
    number = used[name] = used.get(name, -1) + 1
    return f"{name}_{number}" if number else name


def _vars(hdf5: HDF5, path: str) -> list[str]:
    """Return the paths of a cell's numbered arrays."""
    for start in (f"{path}/vars", f"{_renamed(path, _LAYERS, _OLD_LAYERS)}/vars"):
        paths = [f"{start}/{k}" for k in range(4) if f"{start}/{k}" in hdf5.datasets]
        if paths:
            return paths
    return []


def _renamed(path: str, old: str, new: str) -> str:
    return "/".join(new if name == old else name for name in path.split("/"))


def give(cell: Node, path: str, paths: Sequence[str], hdf5: HDF5) -> None:
    """Let a cell read the arrays at these paths."""
    cell.path = path
    if paths:
        cell.shapes = [hdf5.shape(each) for each in paths]
        cell.read = lambda: [hdf5.array(each) for each in paths]


def cells_in(hdf5: HDF5) -> list[str]:
    """Return the paths of all groups that have the arrays of an LSTM cell."""
    groups = [path.removesuffix("/vars") for path in hdf5.groups if path.endswith("/vars")]
    cells = [path for path in groups if is_cell([hdf5.shape(each) for each in _vars(hdf5, path)])]
    return sorted((_renamed(path, _OLD_LAYERS, _LAYERS) for path in cells), key=in_order)


def in_order(path: str) -> list[tuple[str, int]]:
    """Return a sort key that puts "lstm_2" before "lstm_10"."""
    pairs = (re.fullmatch(r"(.*?)(?:_(\d+))?", name, re.DOTALL) for name in path.split("/"))
    return [(match[1], int(match[2] or 0)) for match in pairs if match]


def of_paths(hdf5: HDF5, paths: Sequence[str], version: Version = OF_PATHS) -> list[Node]:
    """Return layers, given only the paths of their cells."""
    stacks: dict[str, list[Node]] = {}
    for path in paths:
        cell = Node("LSTMCell", "", version=version)
        give(cell, path, _vars(hdf5, path), hdf5)
        *above, last = path.split("/")
        if above[-1:] == ["cells"]:
            cell.name = last
            owner = join(*above[:-2]) if above[-2:-1] == ["cell"] else join(*above[:-1])
        elif last == "cell" and above:
            owner = join(*above)
        else:
            owner = path
        stacks.setdefault(owner, []).append(cell)
    for cells in stacks.values():
        folder, _, last = cells[0].path.rpartition("/")
        if cells[0].name == last and f"/{folder}".endswith("/cells"):
            cells += others_in(folder, {cell.name for cell in cells}, hdf5)
    layers = {
        owner: layer_of(_full_name(hdf5, owner), cells, owner == cells[0].path) for owner, cells in stacks.items()
    }
    return paired(layers, _role_in_path, lambda path: _full_name(hdf5, path))


def others_in(folder: str, known: Collection[str], hdf5: HDF5) -> list[Node]:
    """Return nodes for other arrays in the folder of a stack's cells, so that a stack with other cells is refused."""
    paths = (_renamed(path, _OLD_LAYERS, _LAYERS) for path in hdf5.datasets)
    names = {path.removeprefix(f"{folder}/").partition("/")[0] for path in paths if path.startswith(f"{folder}/")}
    return [Node(name, name) for name in sorted(names.difference(known))]


def _role_in_path(path: str) -> str:
    """Return which part of a Bidirectional a path of attributes is, else ""."""
    last = path.rpartition("/")[2]
    return last if last in ROLES else ""


def layer_of(name: str, cells: list[Node], is_cell: bool) -> Node:
    """Return a layer with these cells, given no config."""
    if len(cells) == 1 and is_cudnn(cells[0].shapes):
        cells[0].kind = cells[0].base = "CuDNNLSTMCell"
        return Node("CuDNNLSTM", name, parts={"cell": cells})
    if is_cell:
        cells[0].name = name
        return cells[0]
    if len(cells) == 1:
        return Node("LSTM", name, parts={"cell": cells})
    return Node("RNN", name, parts={"cell": [Node("StackedRNNCells", name, parts={"cells": cells})]})


def _full_name(hdf5: HDF5, path: str) -> str:
    """Return the names of the layers along a path: those that Keras 3 stored, else those in the path."""
    names, above = [], ""
    for name in path.split("/"):
        above = join(above, name)
        own = hdf5.text(f"{above}/vars", "name") if f"{above}/vars" in hdf5.groups else None
        if name not in (_LAYERS, _OLD_LAYERS):
            names.append(own or name)
    return join(*names)


def paired(layers: Mapping[str, Node], role_of: Callable[[str], str], name_of: Callable[[str], str]) -> list[Node]:
    """Return layers. A forward and a backward one below the same path become one Bidirectional."""
    ways: dict[str, dict[str, Node]] = {}
    for path, layer in layers.items():
        ways.setdefault(path.rpartition("/")[0], {})[role_of(path)] = layer
    nodes = []
    for path, layer in layers.items():
        above, role = path.rpartition("/")[0], role_of(path)
        both = [ways[above].get(each) for each in ROLES]
        if not role or None in both:
            nodes.append(layer)
        elif layer is both[0]:
            parts = {each: [ways[above][each]] for each in ROLES}
            nodes.append(Node("Bidirectional", name_of(above), parts=parts))
    return nodes
