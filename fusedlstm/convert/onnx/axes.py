"""Follow the axes of an LSTM node's Y through the operators that lead to the node above.

Axes have names: T (time), B (batch), D (directions), N (units), DN (directions and units joined on one axis), and 1 for
an added axis. Operators between layers only move, drop or join these. Any other operator breaks the chain.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fusedlstm.convert.onnx.dims import ONE, Dim, product, quotient
from fusedlstm.convert.onnx.operators import few
from fusedlstm.convert.onnx.tensors import FLOATS
from fusedlstm.errors import WeightsFileError
from fusedlstm.files import blaming

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fusedlstm.convert.onnx.constants import Constants
    from fusedlstm.convert.onnx.dims import Dims
    from fusedlstm.convert.onnx.graph import Node
    from fusedlstm.convert.onnx.node import LSTM

# For each dtype, the dtypes that hold all of its numbers.
_HOLDERS = {
    "float16": ("float16", "float32", "float64"),
    "bfloat16": ("bfloat16", "float32", "float64"),
    "float32": ("float32", "float64"),
    "float64": ("float64",),
}
_BEFORE_ALL = -(1 << 31)  # the end of a slice with step -1 that includes the first element
_OPSET_OF_INFERENCE = 7  # before it, Dropout is in training mode unless is_test is set


class BrokenChainError(WeightsFileError):
    """Raised if a value is not an LSTM's output, moved or cast. The message says what it is."""


@dataclass(frozen=True)
class Flow:
    """A value with the numbers of an LSTM's Y, moved or cast.

    Attributes:
        lower: the LSTM.
        axes: the names of its axes.
        own: the dtype of Y.
        dtype: the dtype that it is cast to.
        sizes: the known sizes of axes.
        part: its only direction; None if it has all.
        turned: whether the steps are in reversed order.
    """

    lower: LSTM
    axes: tuple[str, ...]
    own: str
    dtype: str
    sizes: tuple[tuple[str, Dim], ...]
    part: int | None = None
    turned: bool = False

    def size(self, axis: str) -> Dim:
        """Return the size of an axis."""
        return dict(self.sizes)[axis]

    def are_alike(self, axis: str, other: str) -> bool:
        """Return whether two axes hold the same numbers in the same order. Axes of size 1 don't count."""
        one, another = ([letter for letter in each if self.size(letter) != ONE] for each in (axis, other))
        return one == another

    def dims(self) -> list[Dim]:
        """Return the sizes of all axes."""
        return [self.size(axis) for axis in self.axes]


class Move:
    """An operator applied to a flow."""

    def __init__(self, node: Node, flow: Flow, constants: Constants, dims: Dims, output: int) -> None:
        self.node, self.flow, self.constants, self.dims, self.output = node, flow, constants, dims, output
        self.attributes = node.attributes()
        self.why: BrokenChainError | None = None

    @contextlib.contextmanager
    def unbroken(self) -> Iterator[None]:
        """Record why a chain is broken."""
        try:
            yield
        except BrokenChainError as error:
            self.why = error
            raise

    def integers(self, name: str, index: int = 1) -> list[int] | None:
        """Return an attribute or a constant input; None if there is neither."""
        if name in self.attributes:
            return few(name, self.attributes[name])
        if self.node.value(index) is None:
            return None
        array = self.constants.array(self.node.scope, self.node.input(index), name)
        return few(name, array.reshape(-1))

    def is_of_directions(self, axis: int) -> bool:
        """Return whether an axis is that of two directions."""
        return self.flow.axes[axis] == "D" and self.flow.size("D") == (2, ())

    def broken(self, why: str) -> BrokenChainError:
        """Return an error about this operator."""
        return BrokenChainError(f"the output of {self.node.op} {self.node.name!r}, {why}")


def moved(move: Move) -> Flow:
    """Return the result of an operator on a flow.

    Raises:
        BrokenChainError: the operator may not stand between layers.
    """
    if move.node.op not in MOVES:
        raise BrokenChainError(f"the output of {move.node.op} {move.node.name!r}")
    if move.output and move.node.op != "Split":
        raise move.broken("and not its first output")
    try:
        with blaming(move.node.name), move.unbroken():
            return MOVES[move.node.op](move)
    except WeightsFileError:
        raise move.why or move.broken("whose arguments can't be followed") from None


def joined(node: Node, flows: Sequence[Flow]) -> Flow:
    """Join flows of single directions into one with both directions of Y on the axis of units."""
    first = flows[0]
    axis = node.attributes().get("axis")
    alike = len(flows) == 2 and flows[1] == replace(first, part=1) and first.part == 0
    if not alike or not isinstance(axis, int) or not -len(first.axes) <= axis < len(first.axes):
        raise BrokenChainError(f"the output of {node.op} {node.name!r}")
    if first.axes[axis] != "N":
        raise BrokenChainError(f"the output of {node.op} {node.name!r}, which joins an axis other than that of units")
    axes = list(first.axes)
    axes[axis] = "DN"
    return replace(first, axes=tuple(axes), part=None)


def _same(move: Move) -> Flow:
    return move.flow


def _dropout(move: Move) -> Flow:
    training = "which is in training mode"
    if move.node.scope.opset < _OPSET_OF_INFERENCE:
        if not move.attributes.get("is_test"):
            raise move.broken(training)
    elif move.node.value(2) is not None:
        name = move.node.input(2)
        try:
            is_training = move.constants.truth(move.node.scope, name, "training_mode")
        except WeightsFileError:
            raise move.broken("which may be in training mode") from None
        if is_training:
            raise move.broken(training)
    return move.flow


def _cast(move: Move) -> Flow:
    to = FLOATS.get(move.attributes.get("to", 0))
    own = move.flow.own
    if to not in _HOLDERS[own]:
        raise move.broken(f"to {to or 'another dtype'}, which can't hold every number of {own}")
    return replace(move.flow, dtype=to)


def _squeeze(move: Move) -> Flow:
    axes, gone = move.flow.axes, move.integers("axes")
    if gone is None:  # T and B may be of size 1, even in a model that can't run with that
        places = [index for index, axis in enumerate(axes) if move.flow.size(axis) == ONE]
    else:
        places = [range(len(axes))[axis] for axis in gone]
    if any(move.flow.size(axes[place]) != ONE for place in places):
        raise move.broken("which drops an axis that is not of size 1")
    return replace(move.flow, axes=tuple(axis for index, axis in enumerate(axes) if index not in places))


def _unsqueeze(move: Move) -> Flow:
    axes, new = move.flow.axes, move.integers("axes") or []
    rank = len(axes) + len(new)
    added = {range(rank)[axis] for axis in new}
    if len(added) != len(new):
        raise move.broken("which adds the same axis twice")
    old = iter(axes)
    return replace(move.flow, axes=tuple("1" if index in added else next(old) for index in range(rank)))


def _transpose(move: Move) -> Flow:
    axes = move.flow.axes
    order = move.attributes.get("perm", list(range(len(axes)))[::-1])
    if sorted(order) != list(range(len(axes))):
        raise move.broken("whose perm is not a permutation")
    return replace(move.flow, axes=tuple(axes[axis] for axis in order))


def _reshape(move: Move) -> Flow:
    """Follow a Reshape that joins both directions of the outputs, or adds or drops axes of size 1."""
    shape = _new_shape(move)
    total = product(move.flow.dims())
    known = product(dim for dim in shape if dim is not None)
    rest = quotient(total, known)
    if rest is None or (rest != ONE and None not in shape) or shape.count(None) > 1:
        raise move.broken("whose shape is not one of T, B and both directions' units")
    wanted = [rest if dim is None else dim for dim in shape]
    left = [axis for axis in move.flow.axes if move.flow.size(axis) != ONE]
    axes = [_taken(move, left, dim) for dim in wanted]
    if left:
        raise move.broken("whose shape is not one of T, B and both directions' units")
    return replace(move.flow, axes=tuple(axes))


def _new_shape(move: Move) -> list[Dim | None]:
    """Return the dims that a Reshape asks for; None for the one that it infers."""
    if "shape" in move.attributes:
        shape: list[Dim] = [(size, ()) for size in few("shape", move.attributes["shape"])]
    else:
        shape = move.dims.vector(move.node.scope.look_up(move.node.input(1)), move.flow.lower)
    result: list[Dim | None] = []
    for index, dim in enumerate(shape):
        if dim == (0, ()):
            if move.attributes.get("allowzero"):
                raise move.broken("whose shape has a 0")
            result.append(move.flow.size(move.flow.axes[index]))
        else:
            result.append(None if dim == (-1, ()) else dim)
    return result


def _taken(move: Move, left: list[str], size: Dim) -> str:
    """Take the leading axes that join to an axis of this size, and return its name."""
    group: list[str] = []
    while product(move.flow.size(axis) for axis in group) != size:
        if not left:
            raise move.broken("whose shape is not one of T, B and both directions' units")
        group.append(left.pop(0))
    names = {(): "1", ("D", "N"): "DN"} | {(axis,): axis for axis in group}
    if tuple(group) not in names:
        raise move.broken(f"which mixes {' and '.join(group)}")
    return names[tuple(group)]


def _split(move: Move) -> Flow:
    axis, sizes = move.attributes.get("axis", 0), move.integers("split")
    if not move.is_of_directions(axis) or sizes not in (None, [1, 1]) or len(move.node.proto.output) != 2:
        raise move.broken("which splits an axis other than that of directions")
    return _direction(move, axis, move.output)


def _slice(move: Move) -> Flow:
    starts, ends, axes, steps = (
        move.integers(name, 1 + k) for k, name in enumerate(("starts", "ends", "axes", "steps"))
    )
    if starts is None or ends is None or len(starts) != 1:
        raise move.broken("which slices several axes")
    (axis,) = [0] if axes is None else axes
    if move.flow.axes[axis] == "T" and (starts, steps) == ([-1], [-1]) and ends[0] <= _BEFORE_ALL:
        return replace(move.flow, turned=not move.flow.turned)
    chosen = range(2)[slice(starts[0], ends[0], *(steps or [1]))]
    if not move.is_of_directions(axis) or len(chosen) != 1:
        raise move.broken("which splits an axis other than that of directions")
    return _direction(move, axis, chosen[0])


def _gather(move: Move) -> Flow:
    axis = move.attributes.get("axis", 0)
    index = move.constants.array(move.node.scope, move.node.input(1), "indices")
    if not move.is_of_directions(axis) or index.size != 1 or index.ndim > 1:
        raise move.broken("which takes from an axis other than that of directions")
    one = _direction(move, axis, range(2)[int(index.reshape(-1)[0])])
    if index.ndim:
        return one
    axis = range(len(one.axes))[axis]
    return replace(one, axes=one.axes[:axis] + one.axes[axis + 1 :])


def _direction(move: Move, axis: int, part: int) -> Flow:
    axes = list(move.flow.axes)
    axes[axis] = "1"
    return replace(move.flow, axes=tuple(axes), part=part)


MOVES: dict[str, Callable[[Move], Flow]] = {
    "Identity": _same,
    "Dropout": _dropout,
    "Cast": _cast,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
}
