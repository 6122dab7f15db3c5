"""Classify the initial states of LSTM nodes: absent, zero, constant, an input of the model, or computed by it.

A constant state is a tensor. If every row starts with the same one, exporters repeat it with Expand or Tile, by a batch
size from the input's shape. Such a state is evaluated for a few batch sizes, and is constant if all rows are the same.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.convert.onnx.constants import Constants
from fusedlstm.convert.onnx.tensors import to_array
from fusedlstm.errors import WeightsFileError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.onnx.graph import Node, Value
    from fusedlstm.convert.onnx.node import LSTM
    from fusedlstm.convert.onnx.source import Model

STATE_INPUTS = {"initial_h": 5, "initial_c": 6}
_SIZES = (1, 2, 5)  # the batch sizes to try
_MOST_LEVELS = 100  # operators in a chain
# Operators whose results are only numbers of their first input, and those that choose among them by another input.
_MOVING = ("Identity", "Cast", "Squeeze", "Unsqueeze", "Transpose", "Reshape", "Flatten", "Expand", "Tile")
_CHOOSING = ("Slice", "Gather", "Split")
_OF_SHAPES = ("Shape", "Size")


class Kind(enum.Enum):
    """Where a state's numbers come from."""

    ZERO = enum.auto()
    CONSTANT = enum.auto()
    INPUT = enum.auto()
    COMPUTED = enum.auto()


@dataclass(frozen=True)
class Initial:
    """The initial_h or initial_c of an LSTM node.

    Attributes:
        kinds: where its numbers come from; empty if it is absent.
        made: what makes it, for messages.
        array: (D, B, N) if it is constant, with B = 1 if all rows are the same; None if it can't be evaluated.
        problem: why it can't be evaluated.
    """

    kinds: frozenset[Kind] = frozenset()
    made: str = ""
    array: NumpyArray | None = None
    problem: str = ""

    @property
    def kind(self) -> Kind | None:
        """Return the kind that counts most: constant before computed before the others."""
        order = (Kind.CONSTANT, Kind.COMPUTED, Kind.INPUT, Kind.ZERO)
        return next((kind for kind in order if kind in self.kinds), None)


class InitialStates:
    """Classifies the initial states of a model's LSTM nodes."""

    def __init__(self, model: Model, constants: Constants) -> None:
        self.model, self.constants = model, constants
        self._sized = [Constants(model, size) for size in _SIZES]
        self._kinds: dict[tuple[int, str], frozenset[Kind]] = {}
        self._dependent: dict[tuple[int, str], bool] = {}

    def of(self, lstm: LSTM, name: str) -> Initial:
        """Return the initial_h or initial_c of a node."""
        value = lstm.node.value(STATE_INPUTS[name])
        if value is None:
            return Initial()
        kinds, made = self._kinds_of(value, 0), _made_by(value)
        if not kinds <= {Kind.ZERO, Kind.CONSTANT} or kinds == {Kind.ZERO}:
            return Initial(kinds, made)
        try:
            array = self._evaluated(lstm, name, value)
        except WeightsFileError as error:
            return Initial(kinds, made, None, str(error))
        return Initial(frozenset({Kind.CONSTANT if np.any(array != 0) else Kind.ZERO}), made, array)

    def _evaluated(self, lstm: LSTM, name: str, value: Value) -> NumpyArray:
        """Return a constant state as (D, B, N)."""
        what = f"{name} of the LSTM {lstm.label!r}"
        arrays = []
        for constants in self._sized:
            array = constants.array(value.scope, value.name, what)
            if array.ndim != 3 or array.dtype.kind not in "fV":
                got = f"shape {array.shape} and dtype {array.dtype}"
                self.model.refuse(what, "floats (D, B, N)", got)
            arrays.append(array.swapaxes(0, 1) if lstm.batch_first else array)
        N = lstm.arrays(self.constants)["R"].shape[-1]
        sized = [array.shape[1] == size for array, size in zip(arrays, _SIZES, strict=True)]
        fixed = all(array.shape == arrays[0].shape for array in arrays)
        if arrays[0].shape[::2] != (lstm.num_directions, N) or not (all(sized) or fixed):
            self.model.refuse(what, f"shape (D, B, N) = ({lstm.num_directions}, B, {N})", f"shape {arrays[0].shape}")
        first = arrays[0][:, :1]
        if all(_same(array, np.broadcast_to(first, array.shape)) for array in arrays):
            return first
        if fixed and all(_same(array, arrays[0]) for array in arrays):
            return arrays[0]
        self.model.refuse(what, "rows that don't depend on the batch size", "rows that do")

    def _kinds_of(self, value: Value, level: int) -> frozenset[Kind]:
        if value.key not in self._kinds:
            self._kinds[value.key] = frozenset({Kind.COMPUTED})  # a placeholder, in case the model has a cycle
            self._kinds[value.key] = self._find(value, level)
        return self._kinds[value.key]

    def _find(self, value: Value, level: int) -> frozenset[Kind]:
        node = value.node
        if level > _MOST_LEVELS:
            return frozenset({Kind.COMPUTED})
        if value.tensor is not None or (node is not None and node.op in ("Constant", "ConstantOfShape")):
            return frozenset({self._of_numbers(value)})
        if node is None:
            return self._of_input(value, level)
        bodies = [body for body in node.bodies.values() if node.op == "If" or "" in node.bodies]
        if bodies:
            inner = [body.look_up(body.outputs[value.output]) for body in bodies if value.output < len(body.outputs)]
            return self._of_all(inner, level)
        if node.op == "Concat":
            return self._of_all([node.scope.look_up(name) for name in node.proto.input], level)
        return self._of_operator(node, value, level)

    def _of_operator(self, node: Node, value: Value, level: int) -> frozenset[Kind]:
        below = node.value(0)
        if below is not None and node.op in _MOVING:
            return self._kinds_of(below, level + 1)
        if below is not None and node.op in _CHOOSING:
            kinds = self._kinds_of(below, level + 1)
            others = [other for index in range(1, len(node.proto.input)) if (other := node.value(index)) is not None]
            is_computed = kinds != {Kind.ZERO} and any(map(self._depends, others))
            return frozenset({Kind.COMPUTED}) if is_computed else kinds
        return frozenset({Kind.COMPUTED if self._depends(value) else Kind.CONSTANT})

    def _of_all(self, values: Iterable[Value], level: int) -> frozenset[Kind]:
        return frozenset().union(*(self._kinds_of(value, level + 1) for value in values))

    def _of_numbers(self, value: Value) -> Kind:
        """Return whether a tensor, or the output of a node without inputs, is zero."""
        node, what = value.node, f"the value {value.name!r}"
        if node is not None and node.op == "ConstantOfShape":
            tensor = node.attributes().get("value")
            return Kind.CONSTANT if tensor is not None and np.any(to_array(self.model, tensor, what)) else Kind.ZERO
        array = self.constants.array(value.scope, value.name, what)
        return Kind.CONSTANT if np.any(array != 0) else Kind.ZERO

    def _of_input(self, value: Value, level: int) -> frozenset[Kind]:
        """Return the kinds of an input: the model's own, or one that a Loop or Scan carries between steps."""
        owner = value.scope.owner
        if owner is None or not value.is_input:
            return frozenset({Kind.INPUT if value.is_input else Kind.COMPUTED})
        first = owner.value(list(value.scope.inputs).index(value.name))
        start = frozenset() if first is None else self._kinds_of(first, level + 1)
        return start | {Kind.COMPUTED}

    def _depends(self, value: Value) -> bool:
        """Return whether a value depends on the model's inputs, beyond their shapes."""
        waiting, seen = [value], set()
        while waiting:
            current = waiting.pop()
            if current.key in seen or self._dependent.get(current.key) is False:
                continue
            seen.add(current.key)
            if self._dependent.get(current.key) or (current.is_input and current.tensor is None):
                self._dependent[value.key] = True
                return True
            if current.node is not None and current.node.op not in _OF_SHAPES:
                waiting += _needed(current.node)
        self._dependent |= dict.fromkeys(seen, False)
        return False


def _needed(node: Node) -> list[Value]:
    """Return the values that a node's outputs may depend on."""
    needed = [value for index in range(len(node.proto.input)) if (value := node.value(index)) is not None]
    for body in node.bodies.values():
        needed += [body.look_up(name) for name in body.outputs]
    return needed


def _made_by(value: Value) -> str:
    if value.node is None:
        return repr(value.name)
    return f"{value.name!r}, made by {value.node.op} {value.node.name!r}"


def _same(one: NumpyArray, other: NumpyArray) -> bool:
    """Return whether arrays have the same numbers. NaNs are equal."""
    return one.shape == other.shape and one.tobytes() == other.tobytes()
