"""Convert LSTMWeights and StackedWeights to the parameters of Flax's cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.convert.flax.layouts import LAYOUTS
from fusedlstm.convert.flax.tree import DIRECTIONS
from fusedlstm.convert.trees import unflatten
from fusedlstm.convert.writing import refuse, refuse_directions, write
from fusedlstm.validation.arguments import check_choice, fail
from fusedlstm.validation.weights import check_weights
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from fusedlstm.stacked import StackedWeights

_APIS = {"linen": "flax", "nnx": "flax_dense"}


def to_flax(weights: LSTMWeights | StackedWeights, api: str = "linen") -> dict[str, Any]:
    """Convert weights to the parameters of Flax's cells: nested dicts of NumPy arrays.

    Args:
        weights: LSTMWeights for a cell; StackedWeights of one layer for an RNN or a Bidirectional. Flax's cells
            always have a bias, so a missing one becomes zeros.
        api: "linen" for the params of an LSTMCell or OptimizedLSTMCell; "nnx" for the pure dict of an
            OptimizedLSTMCell.

    Raises:
        TypeError: `weights` is neither an LSTMWeights nor a StackedWeights.
        ValueError: these cells or their parameters can't represent the weights: peepholes, a projection, a clip, other
            functions, a coupled gate, zoneout, residual layers, several layers, a backward layer.
    """
    check_choice("api", api, tuple(_APIS))
    check_weights(weights)
    if isinstance(weights, LSTMWeights):
        return _cell(weights, api)
    if any(weights.residual):
        fail(ValueError, "residual", "False, as Flax's RNN supports nothing else", repr(weights.residual))
    if weights.num_layers > 1:
        hint = "The model chooses the layers' names, so convert each layer by itself"
        fail(ValueError, "weights", "one layer", f"{weights.num_layers} of them", hint)
    refuse_directions(weights, "a Flax RNN's parameters")
    rnns = [{"cell": _cell(cell, api)} for cell in weights.layers]
    return dict(zip(DIRECTIONS, rnns, strict=True)) if weights.bidirectional else rnns[0]


def _cell(weights: LSTMWeights, api: str) -> dict[str, Any]:
    hint = "Flax's parameters don't record it"
    refuse(weights, "Flax's LSTMCell", (), {"activation": hint, "gate_activation": hint})
    return unflatten(write(LAYOUTS[_APIS[api]], weights), "/")
