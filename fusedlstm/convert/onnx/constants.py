"""Values that a model does not compute from its inputs: tensors, and operators that only move their elements.

Nothing is executed but these operators, in NumPy, each once.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import dtypes
from fusedlstm.convert.onnx.tensors import FLOATS, MOST_DIMS, to_array
from fusedlstm.files import WeightsFileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.convert.onnx.graph import Node, Scope, Value
    from fusedlstm.convert.onnx.source import Model
    from fusedlstm.dtypes import NumpyArray

_MOST_LEVELS = 100  # of operators on one another; exporters stay below ten
_QUANTISED = re.compile("quantize|qlinear|integer")


def hint_of(op: str) -> str:
    """Say why an operator is none that is known, if it is for quantised models."""
    if not _QUANTISED.search(op.lower()):
        return ""
    return "Its weights are integers with scales: export the model before it is quantised"


class Constants:
    """The constants of a model, each evaluated once."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._known: dict[tuple[int, str], NumpyArray] = {}

    def array(self, scope: Scope, name: str, what: str, level: int = 0) -> NumpyArray:
        """Return the constant of a name.

        Args:
            scope: where the name is known.
            name: of the value.
            what: what an error calls it.
            level: how many operators it is below what was asked for.

        Raises:
            WeightsFileError: it is no constant, or more than a model of this size needs.
        """
        value = scope.look_up(name)
        key = id(value.scope), value.name
        if key not in self._known:
            self._known[key] = self._evaluate(value, what, level)
        return self._known[key]

    def _evaluate(self, value: Value, what: str, level: int) -> NumpyArray:
        if level > _MOST_LEVELS:
            self.model.refuse(what, f"at most {_MOST_LEVELS} operators on one another", "more, or a cycle")
        if value.tensor is not None:
            return to_array(self.model, value.tensor, f"{what} ({value.name!r})")
        if value.node is None:
            got = f"{value.name!r}, an input" if value.is_input else f"{value.name!r}, which nothing in it makes"
            self.model.refuse(what, "a constant of the model", got)
        node = value.node
        if node.op == "Constant":
            return self._constant(node, what)
        if node.op not in _OPERATORS:
            wanted = f"a constant, or {', '.join(_OPERATORS)} of constants"
            self.model.refuse(what, wanted, f"{value.name!r}, made by {node.op} {node.name!r}", hint_of(node.op))
        try:
            return _OPERATORS[node.op](_Arguments(self, node, what, level))
        except WeightsFileError:
            raise
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            self.model.refuse(what, f"a valid {node.op} {node.name!r}", str(error))

    def _constant(self, node: Node, what: str) -> NumpyArray:
        attributes = node.attributes()
        for name, dtype in (("value_float", "f4"), ("value_floats", "f4"), ("value_int", "i8"), ("value_ints", "i8")):
            if name in attributes:
                return np.array(attributes[name], dtype)
        if "value" not in attributes:
            got = ", ".join(attributes) or "none"
            self.model.refuse(what, "a Constant with numbers as its value", got)
        return to_array(self.model, attributes["value"], f"{what} ({node.name!r})")


def few(name: str, values: Any) -> list[int]:
    """Return integers about axes, of which no array has many; what is done with each may take as long as there are."""
    if len(values) > MOST_DIMS:
        raise ValueError(f"{len(values)} numbers as {name}")
    return [int(value) for value in values]


class _Arguments:
    """What an operator takes, read where it is asked for."""

    def __init__(self, constants: Constants, node: Node, what: str, level: int) -> None:
        self.constants, self.node, self.what, self.level = constants, node, what, level
        self.attributes = node.attributes()

    def input(self, index: int) -> NumpyArray:
        """Return an input."""
        name = self.node.input(index)
        return self.constants.array(self.node.scope, name, self.what, self.level + 1)

    def integers(self, name: str, index: int) -> list[int] | None:
        """Return integers that are an attribute in earlier versions of the operator and an input in later ones."""
        if name in self.attributes:
            return few(name, self.attributes[name])
        if not self.node.input(index):
            return None
        array = self.input(index)
        if array.dtype.kind != "i" or array.ndim > 1:
            raise ValueError(f"{name} of dtype {array.dtype} and shape {array.shape}")
        return few(name, array.reshape(-1))

    def count(self, size: int) -> None:
        """Count bytes that are about to be allocated."""
        self.constants.model.count_copy(self.what, size)


def _identity(given: _Arguments) -> NumpyArray:
    return given.input(0)


def _squeeze(given: _Arguments) -> NumpyArray:
    axes = given.integers("axes", 1)
    return np.squeeze(given.input(0), None if axes is None else tuple(axes))


def _unsqueeze(given: _Arguments) -> NumpyArray:
    axes = given.integers("axes", 1)
    if axes is None:
        raise ValueError("no axes")
    return np.expand_dims(given.input(0), tuple(axes))


def _transpose(given: _Arguments) -> NumpyArray:
    return np.transpose(given.input(0), given.attributes.get("perm"))


def _reshape(given: _Arguments) -> NumpyArray:
    array, shape = given.input(0), given.integers("shape", 1)
    if shape is None:
        raise ValueError("no shape")
    if not given.attributes.get("allowzero"):
        shape = [array.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    given.count(array.nbytes)  # one that is transposed is copied
    return array.reshape(shape)


def _slice(given: _Arguments) -> NumpyArray:
    array, starts, ends = given.input(0), given.integers("starts", 1), given.integers("ends", 2)
    if starts is None or ends is None:
        raise ValueError("no starts or no ends")
    axes, steps = given.integers("axes", 3), given.integers("steps", 4)
    axes = list(range(len(starts))) if axes is None else [range(array.ndim)[axis] for axis in axes]
    steps = [1] * len(starts) if steps is None else steps
    index: list[Any] = [slice(None)] * array.ndim
    # Python's slices are ONNX': negative numbers count from the end, and those beyond it stop there.
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return np.asarray(array[tuple(index)])


def _concat(given: _Arguments) -> NumpyArray:
    arrays = [given.input(index) for index in range(len(given.node.proto.input))]
    if len({array.dtype for array in arrays}) != 1:
        raise ValueError(f"dtypes {', '.join(str(array.dtype) for array in arrays) or 'of nothing'}")
    given.count(sum(array.nbytes for array in arrays))
    return np.concatenate(arrays, given.attributes["axis"])


def _cast(given: _Arguments) -> NumpyArray:
    array, to = given.input(0), FLOATS.get(given.attributes.get("to", 0))
    if to is None or array.dtype.name not in dtypes.NAMES:
        raise ValueError(f"from {array.dtype} to {to or 'another dtype'}, and not between floats")
    dtype = dtypes.resolve(to)
    given.count(array.size * dtype.itemsize)
    with np.errstate(all="ignore"):  # what is too large for the new dtype is an infinity, in ONNX too
        return array.astype(dtype)


_OPERATORS: dict[str, Callable[[_Arguments], NumpyArray]] = {
    "Identity": _identity,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Slice": _slice,
    "Concat": _concat,
    "Cast": _cast,
}
