"""PyTorch's LSTMCell and LSTM <-> LSTMWeights and StackedWeights.

Names, gate order and layout are ours, the order of layers and directions too; its two biases are summed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from fusedlstm import files, log
from fusedlstm.checks import check_size, describe_type, fail
from fusedlstm.convert.layouts import LAYOUTS
from fusedlstm.convert.reading import read
from fusedlstm.convert.torch.files import open_parameters
from fusedlstm.convert.trees import flatten, names_below, scope_of
from fusedlstm.convert.writing import refuse, write
from fusedlstm.stacked import StackedWeights
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from fusedlstm.dtypes import NumpyArray

_LAYOUT = LAYOUTS["torch"]
PARAMETER = re.compile(r"(?:weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_l([0-9]+)(_reverse)?)?")
# What tells the scope of an LSTM or LSTMCell, a plain one or not, in a name.
_FIRST = re.compile(
    r"((?:.*\.)?)(?:parametrizations\.)?(?:weight_ih|_packed_weight_ih|_all_weight_values)[^.]*(?:\..*)?"
)
# What else PyTorch keeps in an LSTM's scope, and what to do about it.
_ARRAY = "(?:weight|bias)_(?:ih|hh|hr).*"
_NOT_PLAIN = {
    r"_all_weight_values\..*|_packed_.*": "It is quantised: give the LSTM that it was made of",
    rf"parametrizations\.{_ARRAY}": "Call torch.nn.utils.parametrize.remove_parametrizations, which computes them",
    rf"{_ARRAY}_[gv]": "weight_norm computes weights of these: call torch.nn.utils.remove_weight_norm",
    rf"{_ARRAY}_(?:orig|mask|u)": "Weights are computed of these: call prune.remove, or remove_spectral_norm",
}
# Modules in a cell's scope that normalise its gates, as layernorm_i.weight in PyTorch's own benchmarks, or ln_ih.bias.
_NORMALISING = re.compile(r"(?i)[^.]*(?:norm|(?<![a-z])[lb]n(?![a-z]))[^.]*\..*")


@dataclass(frozen=True)
class TorchLSTM:
    """What a state_dict has at one prefix.

    Attributes:
        prefix: what the names of its parameters begin with.
        num_layers: None for an LSTMCell.
        bidirectional: whether it has both directions.
        input_size: I; None where its parameters are not plain ones.
        hidden_size: N; None where its parameters are not plain ones.
        proj_size: P, or None without a projection.
    """

    prefix: str
    num_layers: int | None
    bidirectional: bool
    input_size: int | None
    hidden_size: int | None
    proj_size: int | None = None

    def __str__(self) -> str:
        if self.hidden_size is None:
            return f"{self.prefix!r} (not plain)"
        sizes = f"I={self.input_size}, N={self.hidden_size}" + (f", P={self.proj_size}" if self.proj_size else "")
        if self.num_layers is None:
            return f"{self.prefix!r} (an LSTMCell, {sizes})"
        directions = ", both directions" if self.bidirectional else ""
        return f"{self.prefix!r} (LSTM, layers: {self.num_layers}{directions}, {sizes})"


@overload
def from_torch(source: Any, *, prefix: str | None = None, layer: int, reverse: bool = False) -> LSTMWeights: ...


@overload
def from_torch(source: Any, *, prefix: str | None = None, layer: None = None) -> LSTMWeights | StackedWeights: ...


def from_torch(
    source: Any, *, prefix: str | None = None, layer: int | None = None, reverse: bool = False
) -> LSTMWeights | StackedWeights:
    """Return the weights of a torch.nn.LSTMCell, of a torch.nn.LSTM, or of one of its layers.

    How many layers an LSTM has, and whether it has both directions, its parameters' names say. Dropout
    between layers, which is off at inference, is left out. Whether it is batch_first is no matter of weights: that
    is an argument of fusedlstm.LSTM, of which the log warns.

    The gate order i, f, g, o is checked by numbers of PyTorch 2.13.

    Args:
        source: the module, or one that holds it; its state_dict (of tensors on any device, or arrays), or a dict that
            holds one, such as a checkpoint; or the path of a file of either: what torch.save wrote (.pt, .pth, .bin
            or .ckpt; nothing in it is executed), a .safetensors or a .npz of arrays, which its content tells. Values
            are detached and copied.
        prefix: what the names of a larger model's state_dict begin with, such as "encoder.lstm."; with the keys of
            nested dicts before it, such as "model.encoder.lstm."; "" is none. None finds the only LSTM or LSTMCell.
        layer: which layer of an LSTM; None for all of them, or for an LSTMCell.
        reverse: whether to take the backward direction of that one layer.

    Returns:
        LSTMWeights of an LSTMCell, or of the layer given; else StackedWeights, even of one layer.

    Raises:
        TypeError: `source` is neither a module nor a state_dict; mixed or unsupported dtypes.
        ValueError: a parameter is missing, or of the wrong shape; parameters that a plain LSTM has not, such as
            quantised ones or those of weight_norm; `reverse` without `layer`.
        WeightsFileError: the file is damaged, holds objects that are no parameters, or has no such LSTM.
        OSError: the file can't be read.
    """
    if prefix is not None:
        scope_of(prefix, ".")  # refuses what is no string
    if layer is not None:
        check_size("layer", layer, 0)
    elif reverse:
        fail(ValueError, "layer", "a number with reverse=True", "None")
    with files.reading(source):
        everything = _parameters(source)
        parameters = _Parameters(everything, only_prefix(everything) if prefix is None else prefix)
        if layer is not None:
            return parameters.weights(_suffix(layer, backward=reverse))
        if not parameters.num_layers:
            return parameters.weights("")
        weights = parameters.stacked_weights()
    _warn_of_batch_first(source, parameters.start)
    return weights


def _warn_of_batch_first(source: Any, prefix: str) -> None:
    """Say so where a module's LSTM is batch_first."""
    for part in filter(None, prefix.split(".")):
        source = getattr(source, part, None)
    if getattr(source, "batch_first", False):
        log.warning("the torch.nn.LSTM is batch_first: use LSTM(weights, batch_first=True), as weights don't say")


def list_torch(source: Any) -> list[TorchLSTM]:
    """Return the LSTMs and LSTMCells that a source of `from_torch` holds.

    Raises:
        TypeError, WeightsFileError, OSError: as from_torch.
    """
    return _find(_parameters(source))


def to_torch(weights: LSTMWeights | StackedWeights) -> dict[str, Any]:
    """Return the state_dict of a torch.nn.LSTMCell (for LSTMWeights) or torch.nn.LSTM (for StackedWeights).

    from_torch gives the weights again, bit for bit: bias_ih is our bias, and bias_hh -0.0.

    Args:
        weights: what has no options that PyTorch lacks. An LSTM's layers and directions have one size.

    Returns:
        Tensors of the weights' dtype on the CPU, by name, which `load_state_dict` takes. The module is made with
        bias=False where there is none.

    Raises:
        TypeError: `weights` are of another type.
        ValueError: peepholes, a clip, another function, a coupled gate, residual layers, layers of different N or
            P, a bias in some layers and not in others, or a projection of a single cell, which PyTorch has no
            place for.
    """
    if isinstance(weights, StackedWeights):
        _check_uniform(weights)
        suffixes = [_suffix(k, backward=back) for k in range(weights.num_layers) for back in _directions(weights)]
        cells = dict(zip(suffixes, weights.layers, strict=True))
    elif isinstance(weights, LSTMWeights):
        cells = {"": weights}
    else:
        fail(TypeError, "weights", "LSTMWeights or StackedWeights", describe_type(weights))
    state_dict: dict[str, Any] = {}
    for suffix, cell in cells.items():
        if suffix:
            refuse(cell, "torch.nn.LSTM", ("weight_hr",))
        else:
            hint = "An LSTM has one: use to_torch(StackedWeights([weights]))"
            refuse(cell, "torch.nn.LSTMCell", (), {"weight_hr": hint})
        state_dict |= {name + suffix: to_tensor(array) for name, array in write(_LAYOUT, cell).items()}
    return state_dict


def _check_uniform(weights: StackedWeights) -> None:
    """Raise for layers that one torch.nn.LSTM can't have together."""
    if any(weights.residual):
        fail(ValueError, "residual", "False, as torch.nn.LSTM has nothing else", repr(weights.residual))
    if weights.input_size == 0:
        fail(ValueError, "input_size", "at least 1, as torch.nn.LSTM wants", "0")
    first = weights.layers[0]
    if first.proj_size is not None and first.proj_size >= first.hidden_size:
        wanted = f"fewer rows than N = {first.hidden_size}, as torch.nn.LSTM projects to fewer"
        fail(ValueError, "weight_hr", wanted, str(first.proj_size))
    for index, cell in enumerate(weights.layers):
        for what in ("hidden_size", "proj_size"):
            wanted, got = getattr(first, what), getattr(cell, what)
            if got != wanted:
                fail(ValueError, f"layers[{index}]", f"{what} {wanted}, as torch.nn.LSTM has one for all", str(got))
        if (cell.bias is None) != (first.bias is None):
            have = "a bias" if cell.bias is not None else "no bias"
            fail(ValueError, f"layers[{index}]", "a bias in all layers or in none, as torch.nn.LSTM has them", have)


def to_tensor(array: NumpyArray) -> Any:
    """Return a tensor on the CPU of a writeable array, whose memory it shares."""
    import torch

    if array.dtype.name == "bfloat16":  # which PyTorch does not take from NumPy
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16)
    return torch.from_numpy(array)


class _Parameters:
    """The parameters of a state_dict whose names begin with a prefix."""

    def __init__(self, everything: Mapping[str, Any], prefix: str) -> None:
        self.everything = everything
        self.start = scope_of(prefix, ".")
        self.own = names_below(everything, self.start)
        of_layers = [match.groups() for name in self.own if (match := PARAMETER.fullmatch(name)) and match[1]]
        self.num_layers = max((int(number) + 1 for number, _ in of_layers), default=0)
        self.bidirectional = any(backward for _, backward in of_layers)
        self._refuse_others()

    def _refuse_others(self) -> None:
        """Raise for parameters beside those of an LSTM, which make another formula or are what weights are made of."""
        others = [name for name in self.own if not PARAMETER.fullmatch(name)]
        for pattern, hint in _NOT_PLAIN.items():
            found = [name for name in others if re.fullmatch(pattern, name)]
            if found:
                self._refuse(found, hint)
        direct = [name for name in others if "." not in name]
        if direct and len(others) < len(self.own):
            hint = "equinox' LSTMCell has one bias: use from_equinox" if direct == ["bias"] else ""
            self._refuse(direct, hint or "A module with more parameters has another formula")
        normalising = [name for name in others if _NORMALISING.fullmatch(name)]
        if normalising and len(others) < len(self.own):
            self._refuse(normalising, "A module that normalises its gates has another formula")
        if self.num_layers and {"weight_ih", "weight_hh"} & set(self.own):
            self._refuse(["weight_ih", "weight_ih_l0"], "Those of a cell and of layers are not one module's")

    def _refuse(self, names: list[str], hint: str) -> None:
        wanted = "the parameters of a plain torch.nn.LSTMCell or LSTM alone"
        fail(ValueError, "source", wanted, ", ".join(self.start + name for name in sorted(names)[:4]), hint)

    def stacked_weights(self) -> StackedWeights:
        """Return the weights of all layers."""
        layers = [
            self.weights(_suffix(layer, backward=backward))
            for layer in range(self.num_layers)
            for backward in _directions(self)
        ]
        return StackedWeights(layers, bidirectional=self.bidirectional)

    def weights(self, suffix: str) -> LSTMWeights:
        """Return one layer's weights in one direction: the parameters whose names end with `suffix`."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        arrays = {name: self.everything[self.own[name + suffix]] for name in names if name + suffix in self.own}
        for name in ("weight_ih", "weight_hh"):
            if name not in arrays:
                have = ", ".join(sorted(self.everything)[:8]) or "nothing"
                found = ", ".join(str(lstm) for lstm in _find(self.everything) if lstm.prefix)
                hint = f"Give prefix= one of {found}" if found else ""
                fail(ValueError, "source", f"a parameter {self.start + name + suffix!r}", have, hint)
        arrays = {name: _detached(array) for name, array in arrays.items()}
        _refuse_other_cells(self.start + "weight_hh" + suffix, arrays["weight_hh"])
        ours: dict[str, Any] = read(_LAYOUT, "source", arrays, full_name=lambda name: self.start + name + suffix)
        return LSTMWeights(**ours)


def _suffix(layer: int, *, backward: bool) -> str:
    """Return what the names of a layer's parameters end with, in one direction."""
    return f"_l{layer}_reverse" if backward else f"_l{layer}"


def _directions(weights: StackedWeights | _Parameters) -> tuple[bool, ...]:
    """Return, for each direction of a layer, whether it is the backward one."""
    return (False, True) if weights.bidirectional else (False,)


def _parameters(source: Any) -> Mapping[str, Any]:
    if isinstance(source, (str, os.PathLike)):
        return open_parameters(source)
    if not isinstance(source, Mapping) and callable(getattr(source, "state_dict", None)):
        source = source.state_dict()
    if not isinstance(source, Mapping):
        wanted = "a torch.nn.LSTMCell or LSTM, or its state_dict, or the path of a file of one"
        fail(TypeError, "source", wanted, describe_type(source))
    return flatten("source", source, ".")


def _prefixes(parameters: Mapping[str, Any]) -> list[str]:
    """Return where there are LSTMs among a model's parameters."""
    found = {match[1].removesuffix("parametrizations.") for name in parameters if (match := _FIRST.fullmatch(name))}
    return sorted(found)


def _find(parameters: Mapping[str, Any]) -> list[TorchLSTM]:
    """Return what LSTMs there are among a model's parameters, by prefix."""
    directly_below: dict[str, dict[str, str]] = {}
    for whole in parameters:
        start, dot, name = whole.rpartition(".")
        directly_below.setdefault(start + dot, {})[name] = whole
    return [_describe(parameters, prefix, directly_below.get(prefix, {})) for prefix in _prefixes(parameters)]


def only_prefix(parameters: Mapping[str, Any]) -> str:
    """Return the prefix of the only LSTM; of several, and of none, that of the names themselves."""
    prefixes = _prefixes(parameters)
    return prefixes[0] if len(prefixes) == 1 else ""


def _describe(parameters: Mapping[str, Any], prefix: str, own: Mapping[str, str]) -> TorchLSTM:
    of_layers = [match.groups() for name in own if (match := PARAMETER.fullmatch(name)) and match[1]]
    suffix = "_l0" if of_layers else ""

    def shape(name: str) -> tuple[int, ...]:
        name += suffix
        return tuple(getattr(parameters[own[name]], "shape", ())) if name in own else ()

    rows, columns = shape("weight_ih") if len(shape("weight_ih")) == 2 else (None, None)
    return TorchLSTM(
        prefix,
        max(int(number) + 1 for number, _ in of_layers) if of_layers else None,
        any(backward for _, backward in of_layers),
        columns,
        None if rows is None else rows // 4,
        next(iter(shape("weight_hr")), None),
    )


def _refuse_other_cells(name: str, weight_hh: Any) -> None:
    """Raise for PyTorch's other recurrent modules, whose parameters have these names, too."""
    shape = tuple(getattr(weight_hh, "shape", ()))
    for gates, kind in ((1, "an RNN's"), (3, "a GRU's")):
        if len(shape) == 2 and shape[0] == gates * shape[1] > 0:
            fail(ValueError, name, "shape (4N, P)", f"shape {shape}", f"It looks like {kind}")


def _detached(tensor: Any) -> Any:
    return tensor.detach() if hasattr(tensor, "detach") else tensor
