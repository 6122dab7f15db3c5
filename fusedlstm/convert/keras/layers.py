"""Layers of Keras as a tree, whether they came from objects or from files -> weights.

A cell's arrays are `kernel` (I, 4N), `recurrent_kernel` (N, 4N) and, with use_bias, `bias` (4N,), in our gate order, i,
f, g, o (g is Keras' "c"). unit_forget_bias writes ones into the new variable and adds nothing at run time.

CuDNNLSTM, which Keras 2 had for GPUs, has two biases in one, (8N,), whose halves are summed. Of its kernel each gate's
block has the numbers of a matrix (N, I) in the shape (I, N), and of its recurrent kernel each block is transposed.
Keras 2 itself makes an LSTM's arrays of them where it loads a file, with the same results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import log
from fusedlstm.checks import fail
from fusedlstm.convert.keras.functions import function_of
from fusedlstm.convert.layouts import LAYOUTS
from fusedlstm.convert.reading import read
from fusedlstm.functions import check_function
from fusedlstm.interop import to_host
from fusedlstm.stacked import StackedWeights
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from fusedlstm.dtypes import NumpyArray
    from fusedlstm.functions import Function

RECURRENT = ("LSTM", "CuDNNLSTM", "RNN")  # each with one cell, which may be a stack of them
CELLS = ("LSTMCell", "CuDNNLSTMCell")
_LAYERS = (*RECURRENT, *CELLS, "StackedRNNCells", "Bidirectional")
_NAMES = ("kernel", "recurrent_kernel", "bias")
_DEFAULTS: dict[str, Function] = {"activation": "tanh", "recurrent_activation": "sigmoid"}  # CuDNNLSTM's only ones
_MAX_DEPTH = 50  # of models in models


@dataclass
class Node:
    """A model, layer or cell, and what is in it.

    Attributes:
        kind: its class's name.
        name: its own.
        options: of its config, those that are known.
        keras: which version made it, 2 or 3; 0 where nothing says.
        module: of the class if it is not Keras' own, else "".
        parts: what is in it, by role: "layers", "layer", "forward_layer", "backward_layer", "cell", "cells".
        read: of a cell: returns its arrays.
        shapes: of a cell: those of its arrays.
        path: of a cell: where a file has its arrays.
    """

    kind: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    keras: int = 0
    module: str = ""
    parts: dict[str, list[Node]] = field(default_factory=dict)
    read: Callable[[], Sequence[Any]] | None = None
    shapes: Sequence[tuple[int, ...]] = ()
    path: str = ""

    def part(self, role: str) -> Node | None:
        """Return the only part in a role, or None."""
        return self.parts[role][0] if self.parts.get(role) else None

    def cells(self) -> Iterator[Node]:
        """Yield all cells in it."""
        if self.kind in CELLS:
            yield self
        for part in (part for parts in self.parts.values() for part in parts):
            yield from part.cells()


@dataclass(frozen=True)
class Found:
    """A layer that may be an LSTM, and its name: those of the models around it, and its own, with slashes."""

    name: str
    node: Node

    @property
    def is_lstm(self) -> bool:
        """Whether it is an LSTM, or what is called one."""
        return "LSTM" in self.node.kind or any(self.node.cells())

    @property
    def has_arrays(self) -> bool:
        """Whether its cells have arrays, or nothing is known of its cells."""
        cells = list(self.node.cells())
        return not cells or any(cell.read for cell in cells)

    @property
    def is_unknown(self) -> bool:
        """Whether there are arrays, and no config says of what."""
        return any(cell.read and not cell.options for cell in self.node.cells())


def find(node: Node, depth: int = 0) -> Iterator[Found]:
    """Yield all layers of a model that are not models or TimeDistributed themselves, in order."""
    if depth > _MAX_DEPTH:
        fail(ValueError, node.name, f"models nested at most {_MAX_DEPTH} deep", "more")
    role = "layer" if node.kind == "TimeDistributed" else "layers"
    inner = node.parts.get(role)
    if inner is None:
        yield Found(node.name, node)
        return
    for part in inner:
        for found in find(part, depth + 1):
            is_root = not depth and node.kind != "TimeDistributed"
            yield found if is_root else Found(f"{node.name}/{found.name}", found.node)


def choose(argument: str, root: Node, name: str | None) -> Found:
    """Return the layer of that name, or the only LSTM there is.

    Raises:
        ValueError: none, or several; all are listed.
    """
    found = list({id(one.node): one for one in find(root)}.values())  # two models may share a layer
    if name is None and found and found[0].node is root:  # which can say itself what it is instead
        return found[0]
    lstms = [one for one in found if one.is_lstm]
    if not any(one.is_unknown for one in lstms):
        lstms = [one for one in lstms if one.has_arrays] or lstms  # what models share, a file has once
    if name is None:
        if len(lstms) == 1:
            return lstms[0]
        if not lstms:
            fail(ValueError, argument, "a layer that is an LSTM", _listed(found, kinds=True) or "nothing")
        hint = f"Give name= one of {_listed(lstms)}, or several in the order in which they follow each other"
        fail(ValueError, argument, "one LSTM", f"{len(lstms)} of them", hint)
    for named in ([one for one in found if one.name == name], [one for one in found if one.name.endswith(f"/{name}")]):
        if len(named) == 1:
            return named[0]
        if named:
            fail(ValueError, "name", "the name of one layer", f"{name!r}, which is {_listed(named)}")
    fail(ValueError, "name", f"one of {_listed(lstms) or 'no LSTMs'}", repr(name))


def _listed(found: Sequence[Found], *, kinds: bool = False) -> str:
    names = [f"{one.name!r} ({one.node.kind})" if kinds else repr(one.name) for one in found]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


@dataclass(frozen=True)
class Given:
    """The functions that the caller gave, in the form of `fusedlstm.functions`; None for what a layer itself says."""

    activation: Function | None
    recurrent_activation: Function | None

    @classmethod
    def of(cls, activation: Any, recurrent_activation: Any) -> Given:
        """Return functions, checked."""
        return cls(
            None if activation is None else check_function("activation", activation),
            None if recurrent_activation is None else check_function("recurrent_activation", recurrent_activation),
        )


def weights_of(found: Found, given: Given) -> LSTMWeights | StackedWeights:
    """Return the weights of a layer, or of a cell.

    Raises:
        TypeError, ValueError: naming what in it no weights can say.
    """
    if found.node.kind == "LSTMCell":
        return _cell(found.node, found.name, given)
    layer = _Layer(found, given)
    _warn(layer, "go_backwards", "use LSTM(weights)(xs, reverse=True), whose outputs are not reversed as Keras' are")
    _warn(layer, "time_major", "inputs are (T, B, I), so don't give LSTM batch_first=True")
    return StackedWeights([each for both in layer.layers for each in both], bidirectional=layer.bidirectional)


def stack_of(several: Sequence[Found], given: Given) -> StackedWeights:
    """Return the weights of layers that follow each other."""
    layers = [_Layer(found, given) for found in several]
    for below, layer in zip([None, *layers[:-1]], layers, strict=True):
        if layer.bidirectional != layers[0].bidirectional:
            got = f"{layers[0].name!r} and {layer.name!r}"
            fail(ValueError, "name", "layers that are all Bidirectional, or none of them", got)
        if layer.options.get("go_backwards"):
            hint = "Its outputs are in reversed order: take it alone"
            fail(ValueError, f"{layer.name}.go_backwards", "False in one of several layers", "True", hint)
        if below is not None and below.options.get("return_sequences") is False:
            got = "False: only its last output"
            fail(ValueError, f"{below.name}.return_sequences", f"True, as {layer.name!r} follows", got)
    directions = [each for layer in layers for both in layer.layers for each in both]
    return StackedWeights(directions, bidirectional=layers[0].bidirectional)


def _warn(layer: _Layer, option: str, what: str) -> None:
    if layer.options.get(option):
        log.warning("%s has %s=True: %s", layer.name, option, what)


class _Layer:
    """One layer of Keras, with as many of ours as its cells are stacked.

    Attributes:
        layers: of each, the weights of its one or two directions.
        options: the layer's, or of a Bidirectional its forward layer's.
    """

    def __init__(self, found: Found, given: Given) -> None:
        self.name, node = found.name, found.node
        self.bidirectional = node.kind == "Bidirectional"
        self.layers: list[tuple[LSTMWeights, ...]]
        _check_kind(self.name, node, "LSTM")
        if self.bidirectional:
            forward, backward = self._directions(node)
            self.options = forward.options
            _check_both_ways(self.name, node, forward, backward)
            self.layers = [tuple(_cells(part, f"{self.name}/{part.name}", given)[0] for part in (forward, backward))]
        else:
            self.options = node.options
            self.layers = [(weights,) for weights in _cells(node, self.name, given)]

    def _directions(self, node: Node) -> tuple[Node, Node]:
        forward, backward = node.part("forward_layer"), node.part("backward_layer")
        if forward is None or backward is None:
            fail(ValueError, self.name, "a forward and a backward layer", "one of them")
        return forward, backward


def _check_kind(name: str, node: Node, wanted: str) -> None:
    if node.module:
        hint = "A class of another module may compute something else"
        fail(ValueError, name, f"Keras' own {wanted}", f"{node.module}.{node.kind}", hint)
    if node.kind not in _LAYERS:
        fail(ValueError, name, f"an {wanted}", f"Keras' {node.kind}, whose formula is another")


def _check_both_ways(name: str, node: Node, forward: Node, backward: Node) -> None:
    """Raise unless a Bidirectional does what both directions of an LSTM do."""
    mode = node.options.get("merge_mode", "concat")
    if mode != "concat":
        why = "'concat', as both directions' outputs stand side by side"
        fail(ValueError, f"{name}.merge_mode", why, repr(mode), "Take forward_layer and backward_layer apart")
    for part, wanted in ((forward, False), (backward, True)):
        got = bool(part.options.get("go_backwards", wanted))
        if got != wanted:
            fail(ValueError, f"{name}/{part.name}.go_backwards", str(wanted), str(got))
        number = sum(1 for _ in part.cells())
        if number > 1:
            hint = "Keras runs one direction through all cells before it looks at the other"
            fail(ValueError, f"{name}/{part.name}", "one cell in a Bidirectional", f"{number} of them", hint)


def _cells(node: Node, name: str, given: Given) -> list[LSTMWeights]:
    """Return the weights of each cell of a layer of one direction."""
    _check_kind(name, node, "LSTM")
    cell = node if node.kind in (*CELLS, "StackedRNNCells") else node.part("cell")
    if cell is None:
        fail(ValueError, name, "a layer with a cell", node.kind)
    stacked = cell.parts.get("cells", []) if cell.kind == "StackedRNNCells" and not cell.module else [cell]
    if not stacked:
        fail(ValueError, name, "cells", "none")
    return [_cell(each, name if each.name in ("", name) else f"{name}/{each.name}", given) for each in stacked]


def _cell(node: Node, name: str, given: Given) -> LSTMWeights:
    """Return the weights of one cell."""
    if node.kind not in CELLS or node.module:
        kind = f"{node.module}.{node.kind}" if node.module else f"Keras' {node.kind}"
        fail(ValueError, name, "cells that are Keras' own LSTMCell", kind)
    _check_plain(name, node)
    _warn_of_defaults(name, node, given)
    options: dict[str, Any] = {
        "activation": _function(name, node, "activation", given.activation),
        "gate_activation": _function(name, node, "recurrent_activation", given.recurrent_activation),
    }
    if node.read is None:
        fail(ValueError, name, "arrays", "none: it is not built, or they stand elsewhere")
    read_ = list(node.read())
    if len(read_) not in (2, 3):
        fail(ValueError, name, "kernel, recurrent_kernel and bias", f"{len(read_)} arrays")
    arrays = [to_host(f"{name}.{which}", array) for which, array in zip(_NAMES, read_, strict=False)]
    weights = LSTMWeights(**arrays_of(name, arrays), **options)
    _check_sizes(name, node, weights)
    _warn_of_dtype(name, node, weights)
    return weights


def _warn_of_defaults(name: str, node: Node, given: Given) -> None:
    unknown = [option for option in _DEFAULTS if option not in node.options and getattr(given, option) is None]
    if unknown and node.kind == "LSTMCell":
        taken = " and ".join(f"{option} {_DEFAULTS[option]!r}" for option in unknown)
        log.warning("%s: what Keras' cell had is not known, and its defaults are taken: %s", name, taken)


def _function(name: str, node: Node, option: str, given: Function | None) -> Function:
    """Return a cell's function: its own, which what was given must be; else what was given, or Keras' default."""
    own: Function
    if node.kind == "CuDNNLSTMCell":
        own = _DEFAULTS[option]
    elif option not in node.options:
        return _DEFAULTS[option] if given is None else given
    elif not node.keras and node.options[option] == "hard_sigmoid":
        got = "'hard_sigmoid', of which each has its own"
        fail(ValueError, f"{name}.{option}", "a file that says which Keras made it", got)
    else:
        own = function_of(f"{name}.{option}", node.options[option], node.keras or 3)
    if given is not None and given != own:
        fail(ValueError, option, f"{own!r}, as {name} has", repr(given))
    return own


def _check_plain(name: str, node: Node) -> None:
    """Raise for weights that are not what a step uses."""
    kind, policy = _policy(node)
    if "Quantized" in kind or node.options.get("quantization_mode"):
        fail(ValueError, f"{name}.dtype", "weights of floats", f"quantised ones ({policy or kind})")
    if node.options.get("lora_enabled") or node.options.get("lora_rank"):
        fail(ValueError, f"{name}.lora", "weights that are whole", "LoRA's", "Merge it into the kernels first")


def _policy(node: Node) -> tuple[str, str]:
    """Return the class and the name of a layer's dtype policy, as far as they are known."""
    policy = node.options.get("dtype")
    if not isinstance(policy, Mapping):
        return "", str(policy or "")
    config = policy.get("config")
    return str(policy.get("class_name")), str(config.get("name") if isinstance(config, Mapping) else "")


def _warn_of_dtype(name: str, node: Node, weights: LSTMWeights) -> None:
    """Warn of a layer that computes in another dtype than its variables have."""
    policy = _policy(node)[1]
    if policy.startswith("mixed_"):
        half = policy.removeprefix("mixed_")
        log.warning('%s computes in %s: its weights are %s, until .astype("%s")', name, half, weights.dtype, half)


def _check_sizes(name: str, node: Node, weights: LSTMWeights) -> None:
    """Raise unless arrays are what the config says."""
    for option, got in (("units", weights.hidden_size), ("use_bias", weights.bias is not None)):
        said = node.options.get(option, got)
        if said != got:
            fail(ValueError, f"{name}.{option}", f"{said}, as its config says", f"arrays for {got}")


def arrays_of(name: str, arrays: Sequence[NumpyArray]) -> dict[str, Any]:
    """Return what LSTMWeights takes of [kernel, recurrent_kernel(, bias)], be they an LSTM's or a CuDNNLSTM's."""
    if is_cudnn([array.shape for array in arrays]):
        arrays = _from_cudnn(*arrays)
    named = dict(zip(_NAMES, arrays, strict=False))
    return read(LAYOUTS["keras"], name, named, full_name=lambda array: f"{name}.{array}" if name else array)


def is_cell(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether arrays of these shapes are an LSTM's or a CuDNNLSTM's: no other layer of Keras has such."""
    if len(shapes) not in (2, 3) or any(len(shape) != 2 for shape in shapes[:2]):
        return False
    (_, columns), (N, of_h) = shapes[:2]
    return columns == of_h == 4 * N > 0 and (len(shapes) == 2 or shapes[2] in ((4 * N,), (8 * N,)))


def is_cudnn(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether they are a CuDNNLSTM's."""
    return is_cell(shapes) and len(shapes) == 3 and shapes[2] == (8 * shapes[1][0],)


def _from_cudnn(kernel: NumpyArray, recurrent_kernel: NumpyArray, bias: NumpyArray) -> list[NumpyArray]:
    """Return the arrays of an LSTM for those of a CuDNNLSTM."""
    N, (I, _) = recurrent_kernel.shape[0], kernel.shape
    gates = [block.reshape(N, I).T for block in np.split(kernel, 4, axis=1)]
    of_h = [block.T for block in np.split(recurrent_kernel, 4, axis=1)]
    with np.errstate(all="ignore"):  # of whatever numbers a file has
        total = bias[: 4 * N] + bias[4 * N :]
    return [np.concatenate(gates, axis=1), np.concatenate(of_h, axis=1), total]
