"""Checks of the weights that a cell or an LSTM takes, and of the owner that a pool or a Stepper takes."""

from __future__ import annotations

from typing import Any

from fusedlstm.placement import Placed
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.advice import use_weights_of, weights_of
from fusedlstm.validation.arguments import describe_type, fail
from fusedlstm.weights import LSTMWeights


def check_one_layer(weights: Any) -> None:
    """Raise TypeError unless these are the weights of a cell."""
    if isinstance(weights, LSTMWeights):
        return
    hint = use_weights_of(weights)
    if isinstance(weights, StackedWeights):
        is_one = len(weights.layers) == 1
        hint = "Use LSTM(weights), which takes layers" + (", or weights.layers[0], the only one" if is_one else "")
    fail(TypeError, "weights", "an LSTMWeights", describe_type(weights), hint)


def as_layers(weights: Any) -> StackedWeights:
    """Return weights as a StackedWeights; a cell's become one layer. Raise TypeError if these aren't weights."""
    if isinstance(weights, StackedWeights):
        return weights
    if isinstance(weights, LSTMWeights):
        return StackedWeights([weights])
    hint = use_weights_of(weights)
    if isinstance(weights, (tuple, list)) and weights and isinstance(weights[0], LSTMWeights):
        hint = "Use StackedWeights(weights)"
    fail(TypeError, "weights", "a StackedWeights or an LSTMWeights", describe_type(weights), hint)


def check_owner(name: str, owner: Any) -> None:
    """Raise TypeError unless this is a cell or an LSTM. Pools and Steppers are made of these."""
    if isinstance(owner, Placed):
        return
    made = weights_of(owner)
    hint = f"Use LSTM({made})" if made else ""
    if isinstance(owner, LSTMWeights):
        hint = "Use LSTMCell(weights)"
    elif isinstance(owner, StackedWeights):
        hint = "Use LSTM(weights)"
    fail(TypeError, name, "an LSTMCell or an LSTM", describe_type(owner), hint)


def check_same_form(name: str, old: LSTMWeights, new: LSTMWeights) -> None:
    """Raise ValueError unless the new weights have the sizes, dtype and options of the old, saying what differs."""
    for what, before in _form(old).items():
        now = _form(new)[what]
        if now != before:
            hint = "Weights are exchanged for others of the same form: for these, make a new one"
            fail(ValueError, name, f"{what} {before}, as it was made with", str(now), hint)


def _form(weights: LSTMWeights) -> dict[str, Any]:
    """Return, by name, all that weights have but their values."""
    sizes = {name: getattr(weights, name) for name in ("dtype", "input_size", "hidden_size", "proj_size")}
    has = {name: "given" if getattr(weights, name) is not None else "None" for name in ("bias", "peephole")}
    return sizes | has | weights.options()
