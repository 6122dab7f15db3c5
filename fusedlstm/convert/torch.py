"""PyTorch's LSTMCell -> LSTMWeights; its LSTM -> StackedWeights, or LSTMWeights of one layer.

Names, gate order and layout are ours, the order of layers and directions too; its two biases are summed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, overload

from fusedlstm import log
from fusedlstm.checks import check_size, fail
from fusedlstm.interop import to_host
from fusedlstm.stacked import StackedWeights
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from fusedlstm.dtypes import Array, NumpyArray

_OF_A_LAYER = re.compile(r"(?:weight|bias)_(?:ih|hh|hr)_l([0-9]+)(_reverse)?")


@overload
def from_torch(source: Any, *, prefix: str = "", layer: int, reverse: bool = False) -> LSTMWeights: ...


@overload
def from_torch(source: Any, *, prefix: str = "", layer: None = None) -> LSTMWeights | StackedWeights: ...


def from_torch(
    source: Any, *, prefix: str = "", layer: int | None = None, reverse: bool = False
) -> LSTMWeights | StackedWeights:
    """Return the weights of a torch.nn.LSTMCell, of a torch.nn.LSTM, or of one of its layers.

    How many layers an LSTM has, and whether it has both directions, its parameters' names say. Dropout
    between layers, which is off at inference, is left out. Whether it is batch_first is no matter of weights: that
    is an argument of fusedlstm.LSTM, of which the log warns.

    Args:
        source: the module, or its state_dict (of tensors on any device, or arrays). Values are detached
            and copied.
        prefix: what the names of a larger model's state_dict begin with, such as "encoder.lstm.".
        layer: which layer of an LSTM; None for all of them, or for an LSTMCell.
        reverse: whether to take the backward direction of that one layer.

    Returns:
        LSTMWeights of an LSTMCell, or of the layer given; else StackedWeights, even of one layer.

    Raises:
        TypeError: `source` is neither a module nor a state_dict; mixed or unsupported dtypes.
        ValueError: a parameter is missing, or of the wrong shape; `reverse` without `layer`.
    """
    parameters = _Parameters(_state_dict(source), prefix)
    if layer is not None:
        return parameters.weights(_suffix(check_size("layer", layer, 0), backward=reverse))
    if reverse:
        fail(ValueError, "layer", "a number with reverse=True", "None")
    if parameters.num_layers:
        if getattr(source, "batch_first", False):
            log.warning("the torch.nn.LSTM is batch_first: use LSTM(weights, batch_first=True), as weights don't say")
        return parameters.stacked_weights()
    return parameters.weights("")


class _Parameters:
    """The parameters of a state_dict whose names begin with a prefix."""

    def __init__(self, everything: Mapping[str, Array], prefix: str) -> None:
        self.start = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
        self.everything = everything
        of_layers = [match.groups() for name in everything if (match := _OF_A_LAYER.fullmatch(self._within(name)))]
        self.num_layers = max((int(number) + 1 for number, _ in of_layers), default=0)
        self.bidirectional = any(backward for _, backward in of_layers)

    def _within(self, name: str) -> str:
        """Return a parameter's name without the prefix, or nothing where it lacks that."""
        return name.removeprefix(self.start) if name.startswith(self.start) else ""

    def stacked_weights(self) -> StackedWeights:
        """Return the weights of all layers."""
        directions = (False, True) if self.bidirectional else (False,)
        layers = [
            self.weights(_suffix(layer, backward=backward))
            for layer in range(self.num_layers)
            for backward in directions
        ]
        return StackedWeights(layers, bidirectional=self.bidirectional)

    def weights(self, suffix: str) -> LSTMWeights:
        """Return one layer's weights in one direction: the parameters whose names end with `suffix`."""
        arrays = {
            name: to_host(name + suffix, _detached(self.everything[self.start + name + suffix]))
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
            if self.start + name + suffix in self.everything
        }
        for name in ("weight_ih", "weight_hh"):
            if name not in arrays:
                have = ", ".join(sorted(self.everything)[:8]) or "nothing"
                wanted = f"a parameter {self.start + name + suffix!r}"
                fail(ValueError, "source", wanted, have, _prefixes(self.everything))
        bias = _sum_of_biases(arrays, suffix)
        return LSTMWeights(arrays["weight_ih"], arrays["weight_hh"], bias, weight_hr=arrays.get("weight_hr"))


def _suffix(layer: int, *, backward: bool) -> str:
    """Return what the names of a layer's parameters end with, in one direction."""
    return f"_l{layer}_reverse" if backward else f"_l{layer}"


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


def _detached(tensor: Array) -> Array:
    return tensor.detach() if hasattr(tensor, "detach") else tensor


def _sum_of_biases(arrays: Mapping[str, NumpyArray], suffix: str) -> Array | None:
    """Return b_ih + b_hh."""
    biases = [arrays[name] for name in ("bias_ih", "bias_hh") if name in arrays]
    if not biases:
        return None
    if len(biases) == 1:
        fail(ValueError, "source", "both biases or none", f"one of bias_ih{suffix} and bias_hh{suffix}")
    b_ih, b_hh = biases
    if b_ih.shape != b_hh.shape or b_ih.dtype != b_hh.dtype:
        got = f"{b_ih.dtype} {b_ih.shape} and {b_hh.dtype} {b_hh.shape}"
        fail(ValueError, f"bias_hh{suffix}", f"the shape and dtype of bias_ih{suffix}", got)
    total: Array = b_ih + b_hh
    return total
