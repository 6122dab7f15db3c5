"""LSTM nodes on one another: whether the input of one is the output of another, as layers of one LSTM are.

Between the two are operators that only move axes. They are followed by what their axes are, T (time), B (batch), D
(directions) and N (units), so that layers are only taken for such where the upper one sees steps and rows as the lower
one had them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fusedlstm.convert.onnx.constants import few
from fusedlstm.files import WeightsFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedlstm.convert.onnx.constants import Constants
    from fusedlstm.convert.onnx.graph import Node, Scope
    from fusedlstm.convert.onnx.node import LSTM

_MOST_BETWEEN = 30
_Axes = list[str]


def as_chain(lstms: Sequence[LSTM], constants: Constants) -> list[LSTM] | None:
    """Return the nodes from the lowest to the highest if they are the layers of one LSTM, else None."""
    by_node = {id(lstm.node): lstm for lstm in lstms}
    below = {id(lstm): _below(lstm, by_node, constants) for lstm in lstms}
    above = {id(lower): lstm for lstm in lstms if (lower := below[id(lstm)]) is not None}
    lowest = [lstm for lstm in lstms if below[id(lstm)] is None]
    if len(lowest) != 1 or len(above) != len(lstms) - 1:
        return None
    chain = lowest
    while id(chain[-1]) in above and len(chain) < len(lstms):
        chain.append(above[id(chain[-1])])
    return chain if len(chain) == len(lstms) else None


def _below(upper: LSTM, by_node: dict[int, LSTM], constants: Constants) -> LSTM | None:
    """Return the node whose Y is the input of another, if there is one."""
    scope, name = upper.node.scope, upper.node.input(0)
    between: list[Node] = []
    while len(between) <= _MOST_BETWEEN:
        value = scope.look_up(name)
        node = value.node
        if node is None or not node.proto.output or node.proto.output[0] != value.name:
            return None
        if id(node) in by_node:
            return by_node[id(node)] if _fits(by_node[id(node)], upper, between[::-1], constants) else None
        if node.op not in _MOVES:
            return None
        between.append(node)
        scope, name = node.scope, node.input(0)
    return None


def _fits(lower: LSTM, upper: LSTM, between: Sequence[Node], constants: Constants) -> bool:
    """Whether these operators make of the lower node's Y what the upper one takes."""
    sizes = {"D": lower.num_directions, "N": _units(lower, constants)}
    axes = ["B", "T", "D", "N"] if lower.batch_first else ["T", "D", "B", "N"]
    for node in between:
        try:
            moved = _MOVES[node.op](_Move(node, constants, sizes), axes)
        except (WeightsFileError, ValueError, TypeError, LookupError):
            return False  # no chain: whoever wants these nodes names them
        if moved is None:
            return False
        axes = moved
    wanted = ["B", "T"] if upper.batch_first else ["T", "B"]
    width = ["DN"] if "DN" in axes or sizes["D"] == 2 else ["N"]
    return axes == [*wanted, *width]


def _units(lstm: LSTM, constants: Constants) -> int:
    what = f"R of the LSTM {lstm.label!r}"
    return int(constants.array(lstm.node.scope, lstm.node.input(2), what).shape[-1])


class _Move:
    """An operator between two nodes, and the sizes of the axes that are known."""

    def __init__(self, node: Node, constants: Constants, sizes: dict[str, int]) -> None:
        self.node, self.constants, self.sizes = node, constants, sizes
        self.attributes = node.attributes()

    def integers(self, name: str) -> list[int] | None:
        """Return the attribute of this name, or the second input; None for neither."""
        if name in self.attributes:
            return few(name, self.attributes[name])
        if not self.node.input(1):
            return None
        scope: Scope = self.node.scope
        return few(name, self.constants.array(scope, self.node.input(1), name).reshape(-1))

    def is_one(self, axis: str) -> bool:
        """Whether an axis has no place in the input of an LSTM: one of size 1, or the only direction."""
        return axis == "1" or (axis == "D" and self.sizes["D"] == 1)


def _same(move: _Move, axes: _Axes) -> _Axes:
    del move
    return axes


def _squeeze(move: _Move, axes: _Axes) -> _Axes:
    gone = move.integers("axes")
    if gone is None:  # T and B may be 1, too, which nobody can have meant
        return [axis for axis in axes if not move.is_one(axis)]
    places = [range(len(axes))[axis] for axis in gone]
    return [axis for index, axis in enumerate(axes) if index not in places]


def _unsqueeze(move: _Move, axes: _Axes) -> _Axes:
    new = move.integers("axes") or []
    result, old = ["1"] * (len(axes) + len(new)), iter(axes)
    added = {range(len(result))[axis] for axis in new}
    for index in range(len(result)):
        if index not in added:
            result[index] = next(old)
    return result


def _transpose(move: _Move, axes: _Axes) -> _Axes:
    order = move.attributes.get("perm", range(len(axes))[::-1])
    return [axes[axis] for axis in order]


def _reshape(move: _Move, axes: _Axes) -> _Axes | None:
    """Only what makes both directions of a unit's output one axis, the last of three."""
    moved = [axis for axis in axes if not move.is_one(axis)]
    first, width = moved[:2], moved[2:]
    if width not in (["D", "N"], ["N"], ["DN"]):
        return None
    try:
        shape = move.integers("shape")
    except WeightsFileError:
        return [*first, "DN"]  # computed from sizes of the input; the width of the layer above is checked anyway
    if shape is None or len(shape) != 3 or shape[2] not in (-1, math.prod(move.sizes.values())):
        return None
    return [*first, "DN"]


_MOVES: dict[str, Callable[[_Move, _Axes], _Axes | None]] = {
    "Identity": _same,
    "Dropout": _same,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Reshape": _reshape,
}
