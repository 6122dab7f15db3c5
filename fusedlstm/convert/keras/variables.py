"""Find arrays by names of variables, in `.h5` files of model.save, and of save_weights in Keras 2.

An array's path is model_weights/LAYER/VARIABLE, or LAYER/VARIABLE from save_weights. LAYER is a layer of the model, and
may itself be a model. VARIABLE is .../lstm_cell/kernel (or kernel:0), recurrent_kernel or bias. Keras loads arrays in
the order of its own lists, where those of frozen cells are last. This reader goes by the names.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusedlstm.convert.keras.arrays import is_cell
from fusedlstm.convert.keras.nodes import Found, Node, find
from fusedlstm.convert.keras.paths import ROLES, give, in_order, join, layer_of, others_in, paired

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fusedlstm.convert.keras.hdf5 import HDF5
    from fusedlstm.convert.keras.versions import Version

_VARIABLE = re.compile(r"(?:(.*)/)?(kernel|recurrent_kernel|bias)(_\d+)?(?::0)?")
_VARIABLES = ("kernel", "recurrent_kernel", "bias")
_STACK_NAME = re.compile(r"stacked_rnn_cells(?:_\d+)?")
_CELL_NAME = re.compile(rf"(?:lstm_cell|cu_dnnlstm_cell)(?:_(\d+))?|{_STACK_NAME.pattern}")


@dataclass(frozen=True)
class Entry:
    """The arrays of one cell in a `.h5` file, found by names of variables.

    Attributes:
        where: the path of its variables, which begins with the name of a layer of the model.
        paths: the paths of its arrays, in Keras's order.
        shapes: the shapes of its arrays.
    """

    where: str
    paths: list[str]
    shapes: list[tuple[int, ...]]

    @property
    def names(self) -> list[str]:
        """The names along its path, without the layer's."""
        return self.where.split("/")[1:]

    @property
    def layer(self) -> str:
        """The path without the names that Keras itself gives to cells."""
        names = self.where.split("/")
        while len(names) > 1 and _CELL_NAME.fullmatch(names[-1]):
            names.pop()
        return join(*names)


def entries_in(hdf5: HDF5, top: str) -> list[Entry]:
    """Return the cells of LSTMs below a group, by the names of their variables."""
    cells: dict[str, dict[str, str]] = {}
    for path in hdf5.datasets:
        match = _VARIABLE.fullmatch(path.removeprefix(f"{top}/") if top else path)
        if match and match[1] and match[1].split("/")[0] != "optimizer_weights":
            where = match[1] + (f"/lstm_cell{match[3]}" if match[3] else "")
            cells.setdefault(where, {})[match[2]] = path
    entries = []
    for where, arrays in sorted(cells.items(), key=lambda item: in_order(item[0])):
        paths = [arrays[name] for name in sorted(arrays, key=_VARIABLES.index)]
        shapes = [hdf5.shape(path) for path in paths]
        if "recurrent_kernel" in arrays and is_cell(shapes):
            entries.append(Entry(where, paths, shapes))
    return entries


def entries_below(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Map each beginning of an entry's path to all entries that have it."""
    below: dict[str, list[Entry]] = {}
    for entry in entries:
        names = entry.where.split("/")
        for k in range(1, len(names) + 1):
            below.setdefault("/".join(names[:k]), []).append(entry)
    return below


def of_entries(hdf5: HDF5, entries: Sequence[Entry], version: Version) -> list[Node]:
    """Return layers, given only the names of their variables."""
    layers: dict[str, list[Node]] = {}
    for entry in entries:
        cell = Node("LSTMCell", entry.names[-1] if entry.names else entry.where, version=version)
        give(cell, entry.where, entry.paths, hdf5)
        layers.setdefault(entry.layer, []).append(cell)
    for folder, stacked in _in_stacks(entries).items():
        others = others_in(folder, stacked.keys(), hdf5)
        for layer in set(stacked.values()):
            layers[layer] += others
    nodes = {path: layer_of(path, cells, is_cell=False) for path, cells in layers.items()}
    for path, node in nodes.items():
        if len(layers[path]) == 1:
            node.parts["cell"][0].name = ""
    several = paired(nodes, _role_in_names, str)
    groups = [node.name.partition("/")[0] for node in several]
    counts = Counter(groups)
    for node, group in zip(several, groups, strict=True):
        if counts[group] == 1:
            node.name = group
    return several


def _in_stacks(entries: Sequence[Entry]) -> dict[str, dict[str, str]]:
    """Map each folder of stacked cells to the names of its LSTM cells, with their layers."""
    folders: dict[str, dict[str, str]] = {}
    for entry in entries:
        folder, name = entry.paths[0].rsplit("/", 2)[:2]
        if _STACK_NAME.fullmatch(folder.rpartition("/")[2]):
            folders.setdefault(folder, {})[name] = entry.layer
    return folders


def _role_in_names(path: str) -> str:
    """Return which part of a Bidirectional a path of variables is: LAYER/BIDIRECTIONAL/forward_LSTM; else ""."""
    names = path.split("/")
    if len(names) < 3:
        return ""
    return next((role for role in ROLES if names[-1].startswith(role.removesuffix("layer"))), "")


def assign(layer: Node, entries: Sequence[Entry], hdf5: HDF5) -> None:
    """Give the cells in a layer of the model's config the arrays below its name in a `.h5`."""
    lstms = [found for found in find(layer) if any(found.node.cells())]
    claims: dict[str, list[Found]] = {}
    for found in lstms:
        claims.setdefault(found.node.name, []).append(found)
    by_name: dict[str, list[Entry]] = {name: [] for name in claims}
    for entry in entries:
        for name in claims.keys() & entry.names:
            by_name[name].append(entry)
    for found in lstms:
        own = entries if len(lstms) == 1 else _claimed(by_name[found.node.name], claims)
        for cell, entry in _matched(found, own):
            give(cell, entry.where, entry.paths, hdf5)


def _claimed(own: list[Entry], claims: Mapping[str, Sequence[Found]]) -> list[Entry]:
    """Return a layer's entries. Raise if the names along an entry's path are those of several layers."""
    for entry in own:
        claimants = [one.name for name in dict.fromkeys(entry.names) for one in claims.get(name, ())]
        if len(claimants) > 1:
            raise ValueError(f"the arrays at {entry.where!r} may be those of {' or '.join(map(repr, claimants))}")
    return own


def _matched(found: Found, entries: Sequence[Entry]) -> list[tuple[Node, Entry]]:
    """Return each cell of a layer with its arrays."""
    cells = list(found.node.cells())
    if not entries:
        return []
    if len(entries) != len(cells):
        raise ValueError(f"{found.name}: its config has {len(cells)} cells, but there are arrays for {len(entries)}")
    if len(cells) == 1:
        return [(cells[0], entries[0])]
    if found.node.base == "Bidirectional":
        return [pair for role in ROLES for pair in _of_direction(found, role, entries)]
    by_name = {entry.names[-1]: entry for entry in entries if entry.names}
    if set(by_name) == {cell.name for cell in cells}:
        return [(cell, by_name[cell.name]) for cell in cells]
    if not all(_CELL_NAME.fullmatch(name) for name in by_name):
        raise ValueError(f"{found.name}: names don't tell which arrays belong to which cell: {', '.join(by_name)}")
    return list(zip(cells, entries, strict=True))  # both are in the order of their numbers


def _of_direction(found: Found, role: str, entries: Sequence[Entry]) -> list[tuple[Node, Entry]]:
    """Return the one cell of a direction with its arrays; nothing for several, which are refused later."""
    part = found.node.part(role)
    cells = list(part.cells()) if part else []
    if part is None or len(cells) != 1:
        return []
    names = {part.name, role.removesuffix("layer") + part.name}
    own = [entry for entry in entries if names.intersection(entry.names)]
    if len(own) != 1:
        there = ", ".join(entry.where for entry in entries)
        raise ValueError(f"{found.name}: names don't tell which arrays belong to its {role}: {there}")
    return [(cells[0], own[0])]
