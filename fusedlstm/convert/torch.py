"""PyTorch's LSTMCell, and a layer of its LSTM -> LSTMWeights.

Names, gate order and layout are ours; its two biases are summed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusedlstm.checks import check_size, fail
from fusedlstm.interop import to_host
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from fusedlstm.dtypes import Array, NumpyArray


def from_torch(source: Any, *, prefix: str = "", layer: int | None = None, reverse: bool = False) -> LSTMWeights:
    """Return the weights of a torch.nn.LSTMCell, or of one layer of a torch.nn.LSTM.

    Args:
        source: the module, or its state_dict (of tensors on any device, or arrays). Values are detached
            and copied.
        prefix: what the names of a larger model's state_dict begin with, such as "encoder.lstm.".
        layer: which layer of an LSTM; None for an LSTMCell.
        reverse: whether to take the layer's backward direction.

    Raises:
        TypeError: `source` is neither a module nor a state_dict; mixed or unsupported dtypes.
        ValueError: a parameter is missing, one is of the wrong shape, or `source` is an LSTM and `layer`
            is not given.
    """
    everything = _state_dict(source)
    start = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
    parameters = {name.removeprefix(start): p for name, p in everything.items() if name.startswith(start)}
    suffix = _suffix(parameters, layer, reverse=reverse)
    arrays = {
        name: to_host(name, _detached(parameters[name + suffix]))
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        if name + suffix in parameters
    }
    for name in ("weight_ih", "weight_hh"):
        if name not in arrays:
            have = ", ".join(sorted(everything)[:8]) or "nothing"
            fail(ValueError, "source", f"a parameter {start + name + suffix!r}", have, _prefixes(everything))
    return LSTMWeights(
        arrays["weight_ih"], arrays["weight_hh"], _sum_of_biases(arrays), weight_hr=arrays.get("weight_hr")
    )


def _state_dict(source: Any) -> Mapping[str, Array]:
    if isinstance(source, Mapping):
        return {str(name): parameter for name, parameter in source.items()}
    if callable(getattr(source, "state_dict", None)):
        parameters: Mapping[str, Array] = source.state_dict()
        return parameters
    fail(TypeError, "source", "a torch.nn.LSTMCell or LSTM, or its state_dict", type(source).__name__)


def _prefixes(parameters: Mapping[str, Array]) -> str:
    """Say where in a larger model's state_dict LSTMs are, if there are any."""
    found = sorted({name.partition("weight_ih")[0] for name in parameters if "weight_ih" in name} - {""})
    return f"Give prefix= one of {', '.join(map(repr, found))}" if found else ""


def _suffix(parameters: Mapping[str, Array], layer: int | None, *, reverse: bool) -> str:
    """Return what the names of the layer's parameters end with."""
    if layer is not None:
        return f"_l{check_size('layer', layer, 0)}" + ("_reverse" if reverse else "")
    if reverse:
        fail(ValueError, "layer", "a number with reverse=True", "None")
    layers = sum(name.startswith("weight_ih_l") for name in parameters)
    if layers:
        hint = "Give layer=0 for its first (and reverse=True for a backward direction)"
        fail(ValueError, "layer", "a number for a torch.nn.LSTM", "None", hint)
    return ""


def _detached(tensor: Array) -> Array:
    return tensor.detach() if hasattr(tensor, "detach") else tensor


def _sum_of_biases(arrays: Mapping[str, NumpyArray]) -> Array | None:
    """Return b_ih + b_hh."""
    biases = [arrays[name] for name in ("bias_ih", "bias_hh") if name in arrays]
    if not biases:
        return None
    if len(biases) == 1:
        fail(ValueError, "source", "both biases or none", "one of bias_ih and bias_hh")
    b_ih, b_hh = biases
    if b_ih.shape != b_hh.shape or b_ih.dtype != b_hh.dtype:
        got = f"{b_ih.dtype} {b_ih.shape} and {b_hh.dtype} {b_hh.shape}"
        fail(ValueError, "bias_hh", "the shape and dtype of bias_ih", got)
    total: Array = b_ih + b_hh
    return total
