"""Evaluate the values that a model does not compute from its inputs: tensors, and the results of a few operators.

Only these operators are evaluated, in NumPy, each once.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from fusedlstm.convert.onnx import operators, quantised
from fusedlstm.convert.onnx.operators import Arguments
from fusedlstm.convert.onnx.tensors import to_array
from fusedlstm.errors import WeightsFileError
from fusedlstm.files import blaming

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.onnx.graph import Node, Scope, Value
    from fusedlstm.convert.onnx.source import Model

_MOST_LEVELS = 100  # operators in a chain; exporters stay below ten
_MOST_UNKNOWN = 8  # assumed number of dims, if it is unknown
_BOOL = 9  # TensorProto.DataType
OPERATORS = operators.OPERATORS | quantised.OPERATORS
_QUANTISED = re.compile("quantize|qlinear|integer")


def hint_of(op: str) -> str:
    """Return a hint about an unknown operator if it belongs to quantised models."""
    if not _QUANTISED.search(op.lower()):
        return ""
    return "Its weights are integers with scales: export the model before it is quantised"


class NotConstantError(WeightsFileError):
    """Raised if a value depends on the model's inputs or on an operator that is not supported."""


class Constants:
    """The constants of a model, each evaluated once.

    Args:
        model: the model.
        size: a size for the open dims of the model's inputs, so that values that depend only on shapes are constants,
            too; None if they are not.
    """

    def __init__(self, model: Model, size: int | None = None) -> None:
        self.model, self.size = model, size
        self._known: dict[tuple[int, str], NumpyArray] = {}

    def array(self, scope: Scope, name: str, what: str, level: int = 0) -> NumpyArray:
        """Return the constant with a name.

        Args:
            scope: the scope of the name.
            name: the value's name.
            what: its description in errors.
            level: how many operators are between it and the value that was asked for.

        Raises:
            WeightsFileError: it is not a constant, or takes more memory than a model of this size needs.
        """
        value = scope.look_up(name)
        if value.key not in self._known:
            self._known[value.key] = self._evaluate(value, what, level)
        return self._known[value.key]

    def truth(self, scope: Scope, name: str, what: str) -> bool:
        """Return a constant that is a single bool."""
        value = scope.look_up(name)
        tensor = value.tensor
        if value.node is not None and value.node.op == "Constant":
            tensor = value.node.attributes().get("value")
        stored = b"" if tensor is None or tensor.data_type != _BOOL else tensor.raw_data or bytes(tensor.int32_data)
        if len(stored) != 1:
            self._refuse(what, "a constant that is a bool", repr(value.name))
        return stored != b"\0"

    def shape(self, scope: Scope, name: str, what: str, level: int) -> list[int]:
        """Return the shape of a value. If it is not a constant, return its declared dims, with `size` for open ones.

        If it declares none, several open dims are assumed.

        Raises:
            NotConstantError: it is not a constant, and `size` is None.
        """
        try:
            return list(self.array(scope, name, what, level).shape)
        except NotConstantError:
            if self.size is None:
                raise
        declared = scope.look_up(name).declared_dims()
        dims = [None] * _MOST_UNKNOWN if declared is None else declared
        return [self.size if dim is None else dim for dim in dims]

    def _evaluate(self, value: Value, what: str, level: int) -> NumpyArray:
        if level > _MOST_LEVELS:
            self.model.refuse(what, f"at most {_MOST_LEVELS} operators in a chain", "more, or a cycle")
        if value.tensor is not None:
            return to_array(self.model, value.tensor, f"{what} ({value.name!r})")
        if value.node is None:
            got = f"{value.name!r}, an input" if value.is_input else f"{value.name!r}, which no node makes"
            self._refuse(what, "a constant of the model", got)
        node = value.node
        if node.op == "Constant":
            return self._constant(node, what)
        if node.op not in OPERATORS:
            wanted = f"a constant, or {', '.join(OPERATORS)} of constants"
            self._refuse(what, wanted, f"{value.name!r}, made by {node.op} {node.name!r}", hint_of(node.op))
        with blaming(self.model.name, f": {what}: {node.op} {node.name!r}"):
            return OPERATORS[node.op](Arguments(self, node, what, level, value.output))

    def _refuse(self, what: str, wanted: str, got: str, hint: str = "") -> NoReturn:
        self.model.refuse(what, wanted, got, hint, NotConstantError)

    def _constant(self, node: Node, what: str) -> NumpyArray:
        attributes = node.attributes()
        for name, dtype in (("value_float", "f4"), ("value_floats", "f4"), ("value_int", "i8"), ("value_ints", "i8")):
            if name in attributes:
                return np.array(attributes[name], dtype)
        if "value" not in attributes:
            got = ", ".join(attributes) or "none"
            self.model.refuse(what, "a Constant with numbers as its value", got)
        return to_array(self.model, attributes["value"], f"{what} ({node.name!r})")
