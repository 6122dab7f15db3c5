"""Checks of the weights that a cell or an LSTM takes, and of the owner that a pool or a Stepper takes."""

from __future__ import annotations

from typing import Any

from fusedlstm import directions
from fusedlstm.placement import Placed
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.advice import holds_states, use_weights_of, weights_call
from fusedlstm.validation.arguments import describe_type, fail
from fusedlstm.weights import LSTMWeights


def check_one_layer(weights: Any, *, new_owner: bool = True) -> None:
    """Raise TypeError unless `weights` is an LSTMWeights. `new_owner` is False if they replace a cell's weights."""
    if isinstance(weights, LSTMWeights):
        return
    if isinstance(weights, StackedWeights):
        hint = _use_layers("weights.layers", len(weights.layers), "LSTM(weights)" if new_owner else "")
    elif _are_cells(weights):
        hint = _use_layers("weights", len(weights), "LSTM(StackedWeights(weights))" if new_owner else "")
    else:
        hint = use_weights_of(weights)
    fail(TypeError, "weights", "an LSTMWeights", describe_type(weights), hint)


def _use_layers(cells: str, count: int, lstm: str) -> str:
    """Return the hint for several cells' weights passed to one cell. `lstm` is the call that takes them all."""
    one = f"{cells}[0], the only one" if count == 1 else f"one of {cells}[0] ... {cells}[{count - 1}]"
    return f"Use {lstm}, which takes layers, or {one}" if lstm else f"A cell takes one layer: use {one}"


def check_weights(weights: Any) -> None:
    """Raise TypeError unless these are weights, of a cell or of layers."""
    if isinstance(weights, (LSTMWeights, StackedWeights)):
        return
    hint = "Use StackedWeights(weights)" if _are_cells(weights) else use_weights_of(weights)
    fail(TypeError, "weights", "an LSTMWeights or a StackedWeights", describe_type(weights), hint)


def as_layers(weights: Any) -> StackedWeights:
    """Return weights as a StackedWeights. Those of a cell become one layer. Raise TypeError if they aren't weights."""
    check_weights(weights)
    layers: StackedWeights = StackedWeights([weights]) if isinstance(weights, LSTMWeights) else weights
    return layers


def _are_cells(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and bool(value) and isinstance(value[0], LSTMWeights)


def check_owner(name: str, owner: Any) -> None:
    """Raise unless `owner` is a cell or an LSTM of forward layers, which pools and Steppers can be made from."""
    if isinstance(owner, Placed):
        check_causal(name, owner._layers_of_weights, "a cell, or an LSTM whose layers are all forward")
        return
    fail(TypeError, name, "an LSTMCell or an LSTM", describe_type(owner), _use_owner(owner))


def check_causal(name: str, weights: StackedWeights, wanted: str) -> None:
    """Raise ValueError unless all layers are forward, and so can be stepped."""
    if not weights.is_causal:
        got = directions.as_argument(weights.directions)
        fail(ValueError, name, wanted, got, "The backward direction needs whole sequences")


def check_lstm(name: str, owner: Any) -> None:
    """Raise TypeError unless `owner` is an LSTM, which Sequencers can be made from."""
    if isinstance(owner, Placed):
        if owner._is_cell:
            fail(TypeError, name, "an LSTM", "an LSTMCell", "Use LSTM(cell.weights)")
        return
    fail(TypeError, name, "an LSTM", describe_type(owner), _use_owner(owner, cells=False))


def _use_owner(owner: Any, *, cells: bool = True) -> str:
    """Return the hint for anything else passed as an owner. `cells` says whether it may be a cell."""
    if holds_states(owner):
        hint = "Use its cell or LSTM" if cells else "Use its LSTM"
    elif isinstance(owner, LSTMWeights):
        hint = "Use LSTMCell(weights)" if cells else "Use LSTM(weights)"
    elif isinstance(owner, StackedWeights):
        hint = "Use LSTM(weights)"
    elif _are_cells(owner):
        hint = "Use LSTM(StackedWeights(weights))"
    elif call := weights_call(owner):
        hint = f"Use LSTM({call})"
    else:
        hint = use_weights_of(owner)
    return hint


def check_replacement(old: Any, new: Any) -> None:
    """Raise unless `new` can replace `old` in a cell or an LSTM, whose class `old` has."""
    if isinstance(old, LSTMWeights):
        check_one_layer(new, new_owner=False)
        check_same_form("weights", old, new)
        return
    new = as_layers(new)
    for name in ("num_layers", "directions", "residual"):
        before, now = getattr(old, name), getattr(new, name)
        if before != now:
            fail(ValueError, "weights", f"{name} {before}, as in the old weights", str(now))
    for index, layers in enumerate(zip(old.layers, new.layers, strict=True)):
        check_same_form(f"weights.layers[{index}]", *layers)


def check_same_form(name: str, old: LSTMWeights, new: LSTMWeights) -> None:
    """Raise ValueError if the old and new weights differ in sizes, dtype or options. The error says which."""
    for what, before in _form(old).items():
        now = _form(new)[what]
        if now != before:
            hint = "set_weights keeps sizes, dtype and options. For these weights, make a new cell or LSTM"
            fail(ValueError, name, f"{what} {before}, as in the old weights", str(now), hint)


def _form(weights: LSTMWeights) -> dict[str, Any]:
    """Return everything that weights have except their values, by name."""
    sizes = {name: getattr(weights, name) for name in ("dtype", "input_size", "hidden_size", "proj_size")}
    has = {name: "given" if getattr(weights, name) is not None else "missing" for name in ("bias", "peephole")}
    return sizes | has | weights.options()
