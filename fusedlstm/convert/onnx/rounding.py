"""Refuse models that round an LSTM's input or state to integers, which no weights represent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.convert.onnx.axes import MOVES
from fusedlstm.convert.onnx.constants import NotConstantError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.convert.onnx.constants import Constants
    from fusedlstm.convert.onnx.graph import Value
    from fusedlstm.convert.onnx.node import LSTM

_MOST_BETWEEN = 30  # operators between a DequantizeLinear and an LSTM
_HINT = "Weights can't represent that: export the model before it is quantised"


def refuse_rounded(constants: Constants, lowest: Sequence[LSTM], every: Sequence[LSTM]) -> None:
    """Raise WeightsFileError if the model rounds the lowest layer's X, or a layer's state, to integers.

    Args:
        constants: the model's constants.
        lowest: the nodes of the lowest layer.
        every: those of all layers.
    """
    inputs: list[tuple[str, int, Any]] = [("X", 0, lowest), ("initial_h", 5, every), ("initial_c", 6, every)]
    for name, index, lstms in inputs:
        for lstm in lstms:
            node = _rounding(lstm.node.value(index), constants)
            if node is not None:
                wanted, got = "its values as they are", f"{node.op} {node.name!r}, which rounds them to integers"
                constants.model.refuse(f"{name} of the LSTM {lstm.label!r}", wanted, got, _HINT)


def _rounding(value: Value | None, constants: Constants) -> Any:
    """Return the DequantizeLinear that a value comes from; None without one, or if it is of a constant."""
    for _ in range(_MOST_BETWEEN):
        if value is None or value.node is None:
            return None
        node = value.node
        if node.op.removeprefix("com.microsoft.") == "DequantizeLinear":
            try:
                constants.array(node.scope, node.input(0), "its values")
            except NotConstantError:
                return node
            return None
        if node.op not in (*MOVES, "Identity"):
            return None
        value = node.value(0)
    return None
