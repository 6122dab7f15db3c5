"""Convert Keras's layers, as a tree from objects or files, to weights."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusedlstm import directions, log
from fusedlstm.arrays.host import to_host
from fusedlstm.convert.keras.arrays import NAMES, arrays_of
from fusedlstm.convert.keras.functions import function_of
from fusedlstm.convert.keras.graph import check_calls, check_follows, may_mask, policy_of
from fusedlstm.convert.keras.nodes import CELLS, LAYERS, Found, Node
from fusedlstm.convert.keras.options import check_options
from fusedlstm.functions import check_function
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.arguments import check_choice, fail
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.functions import Function

_CUDNN: dict[str, Function] = {"activation": "tanh", "recurrent_activation": "sigmoid"}  # CuDNNLSTM's only ones
WEIGHTS = "weights"  # the kind of the root of a file with only weights


@dataclass(frozen=True)
class Given:
    """The caller's arguments.

    Attributes:
        activation: in the form of `fusedlstm.functions`; None for the layer's own.
        recurrent_activation: likewise.
        separate: whether the caller reads constant initial states separately.
    """

    activation: Function | None
    recurrent_activation: Function | None
    separate: bool = False

    @classmethod
    def of(cls, activation: Any, recurrent_activation: Any, initial_state: str = "refuse") -> Given:
        """Check and return the caller's arguments."""
        check_choice("initial_state", initial_state, ("refuse", "separate"))
        return cls(
            None if activation is None else check_function("activation", activation),
            None if recurrent_activation is None else check_function("recurrent_activation", recurrent_activation),
            initial_state == "separate",
        )


def weights_of(root: Node, several: Sequence[Found], given: Given) -> LSTMWeights | StackedWeights:
    """Return the weights of a layer, of a cell, or of a stack of layers.

    Raises:
        TypeError, ValueError: weights can't represent it. The message names the option.
    """
    if len(several) > 1:
        return _stack_of(root, several, given)
    (found,) = several
    if found.node.kind == "LSTMCell":
        return _cell(found.node, found.name, given)
    layer = _KerasLayer(found, given)
    check_calls(root, found, separate=given.separate)
    ways = _directions_of([layer])
    _warn(layer, "time_major", "inputs are (T, B, I), so don't give LSTM batch_first=True")
    _warn(layer, "stateful", "its state is not in the weights: keep it, and give it to the next call")
    return StackedWeights([each for both in layer.layers for each in both], directions=ways)


def _stack_of(root: Node, several: Sequence[Found], given: Given) -> StackedWeights:
    """Return the weights of layers, each of which reads the outputs of the one before."""
    layers = [_KerasLayer(found, given) for found in several]
    for below, layer in zip([None, *layers[:-1]], layers, strict=True):
        if below is not None and below.turns and may_mask(root):
            why = "False in a layer below others in a model that may mask steps"
            hint = "Keras reverses the outputs, but not the mask"
            fail(ValueError, f"{below.name}.go_backwards", why, "True", hint)
        if bool(layer.options.get("time_major")) != bool(layers[0].options.get("time_major")):
            fail(ValueError, f"{layer.name}.time_major", f"that of {layers[0].name!r}", "a different one")
        if below is not None and not below.options.get("return_sequences", root.kind == WEIGHTS):
            got = "False: only its last output"
            fail(ValueError, f"{below.name}.return_sequences", f"True, as {layer.name!r} follows", got)
    _check_order(root, several, given)
    for layer in layers:
        _warn(layer, "stateful", "its state is not in the weights: keep it, and give it to the next call")
    _warn(layers[0], "time_major", "inputs are (T, B, I), so don't give LSTM batch_first=True")
    weights = [each for layer in layers for both in layer.layers for each in both]
    return StackedWeights(weights, directions=_directions_of(layers))


def _directions_of(layers: Sequence[_KerasLayer]) -> list[str]:
    """Return the direction of each of our layers, in the order of the inputs' steps. Log if the outputs have another.

    A layer with go_backwards=True returns its outputs in the order in which it steps.
    """
    turned, found = False, []
    for layer in layers:
        turned ^= layer.turns
        if turned and layer.bidirectional:
            why = "a layer that reads the steps in the inputs' order"
            fail(ValueError, layer.name, why, "a Bidirectional over an odd number of layers with go_backwards=True")
        direction = directions.BOTH if layer.bidirectional else directions.BACKWARD if turned else directions.FORWARD
        found += [direction] * len(layer.layers)
    if turned:
        log.warning(
            "%s returns its outputs in reversed order: ours belong to the inputs at their index", layers[-1].name
        )
    return found


def _check_order(root: Node, several: Sequence[Found], given: Given) -> None:
    """Raise unless each layer reads the outputs of the one before, as far as the graph is known."""
    if root.kind == WEIGHTS:
        names = ", ".join(repr(found.name) for found in several)
        log.warning("%s: a file with only weights doesn't tell whether these follow each other directly", names)
        return
    for found in several:
        check_calls(root, found, separate=given.separate)
    for below, layer in itertools.pairwise(several):
        check_follows(root, below, layer)


def _warn(layer: _KerasLayer, option: str, what: str) -> None:
    if layer.options.get(option):
        log.warning("%s has %s=True: %s", layer.name, option, what)


class _KerasLayer:
    """One layer of Keras, which becomes one of ours for each stacked cell.

    Attributes:
        layers: for each of ours, the weights of its one or two directions.
        turns: whether it reads the steps backward, and returns its outputs in that order.
        options: the layer's options; for a Bidirectional, its forward layer's.
    """

    def __init__(self, found: Found, given: Given) -> None:
        self.name, node = found.name, found.node
        self.bidirectional = node.kind == "Bidirectional"
        self.layers: list[tuple[LSTMWeights, ...]]
        _check_kind(self.name, node)
        if self.bidirectional:
            forward, backward = self._directions(node)
            self.options = forward.options
            _check_both_ways(self.name, node, forward, backward)
            self.layers = [tuple(_cells(part, f"{self.name}/{part.name}", given)[0] for part in (forward, backward))]
        else:
            self.options = node.options
            self.layers = [(weights,) for weights in _cells(node, self.name, given)]
        self.turns = not self.bidirectional and bool(self.options.get("go_backwards"))

    def _directions(self, node: Node) -> tuple[Node, Node]:
        forward, backward = node.part("forward_layer"), node.part("backward_layer")
        if forward is None or backward is None:
            fail(ValueError, self.name, "a forward and a backward layer", "one of them")
        return forward, backward


def _check_kind(name: str, node: Node) -> None:
    """Raise unless a layer is Keras's, may be an LSTM, and has only known options."""
    if node.module:
        hint = f"If it computes what Keras's LSTM does, give custom_classes=({node.kind!r},)"
        fail(ValueError, name, "Keras's own LSTM", f"{node.full_kind}, which may compute something else", hint)
    if node.kind not in LAYERS:
        fail(ValueError, name, "a Keras LSTM", f"{node.kind}, which has a different formula")
    check_options(name, node.options)


_EACH = "Pass the layer's forward_layer and backward_layer separately, in Keras"


def _check_both_ways(name: str, node: Node, forward: Node, backward: Node) -> None:
    """Raise unless a Bidirectional computes what both directions of our LSTM do."""
    mode = node.options.get("merge_mode", "concat")
    if mode != "concat":
        why = "'concat', as our LSTM concatenates both directions' outputs"
        fail(ValueError, f"{name}.merge_mode", why, repr(mode), _EACH)
    if bool(forward.options.get("time_major")) != bool(backward.options.get("time_major")):
        fail(ValueError, f"{name}.time_major", "the same in both directions", "different ones")
    for part, wanted in ((forward, False), (backward, True)):
        got = bool(part.options.get("go_backwards", wanted))
        if got != wanted:
            fail(ValueError, f"{name}/{part.name}.go_backwards", str(wanted), str(got))
        number = sum(1 for _ in part.cells())
        if number > 1:
            hint = "Keras runs each direction through all its cells before it joins both"
            fail(ValueError, f"{name}/{part.name}", "one cell in a Bidirectional", f"{number} of them", hint)


def _cells(node: Node, name: str, given: Given) -> list[LSTMWeights]:
    """Return the weights of each cell of a layer of one direction."""
    _check_kind(name, node)
    cell = node if node.kind in (*CELLS, "StackedRNNCells") else node.part("cell")
    if cell is None:
        fail(ValueError, name, "a layer with a cell", node.kind)
    if cell is not node:
        check_options(f"{name}.cell", {} if cell.module else cell.options)
    stacked = cell.parts.get("cells", []) if cell.kind == "StackedRNNCells" and not cell.module else [cell]
    if not stacked:
        fail(ValueError, name, "cells", "none")
    return [_cell(each, name if each.name in ("", name) else f"{name}/{each.name}", given) for each in stacked]


def _cell(node: Node, name: str, given: Given) -> LSTMWeights:
    """Return the weights of one cell."""
    if node.kind not in CELLS or node.module:
        hint = f"If it computes what LSTMCell does, give custom_classes=({node.kind!r},)" if node.module else ""
        fail(ValueError, name, "cells that are Keras's own LSTMCell", node.full_kind, hint)
    check_options(name, node.options)
    kind, policy = policy_of(node)
    if "Quantized" in kind:
        fail(ValueError, f"{name}.dtype", "float weights", f"quantised ones ({policy or kind})")
    options: dict[str, Any] = {
        "activation": _function(name, node, "activation", given.activation),
        "gate_activation": _function(name, node, "recurrent_activation", given.recurrent_activation),
    }
    if node.read is None:
        fail(ValueError, name, "arrays", "none: it is not built, or its arrays are elsewhere")
    read_ = list(node.read())
    if len(read_) not in (2, 3):
        fail(ValueError, name, "kernel, recurrent_kernel and bias", f"{len(read_)} arrays")
    arrays = [to_host(f"{name}.{which}", array) for which, array in zip(NAMES, read_, strict=False)]
    weights = LSTMWeights(**arrays_of(name, arrays), **options)
    _check_sizes(name, node, weights)
    _warn_of_dtype(name, node, weights)
    return weights


def _function(name: str, node: Node, option: str, given: Function | None) -> Function:
    """Return a cell's function: its own, else the caller's, else Keras's default. Raise if the first two differ."""
    own: Function
    if node.kind == "CuDNNLSTMCell":
        own = _CUDNN[option]
    elif option not in node.options:
        return _default(name, node, option) if given is None else given
    else:
        own = function_of(f"{name}.{option}", node.options[option], node.version.major)
    if given is not None and given != own:
        fail(ValueError, option, f"{own!r}, as in {name}", repr(given))
    return own


def _default(name: str, node: Node, option: str) -> Function:
    """Return Keras's default for an option, and log it."""
    version = node.version
    default = "tanh" if option == "activation" else version.gates
    if default is None:
        of = f"one from Keras {version.said}" if version.said else "one without a version"
        hint = f"Its default may be 'sigmoid' or ('hard_sigmoid', 0.2, 0.5): give {option}="
        fail(ValueError, f"{name}.{option}", "a file that tells which", of, hint)
    of = f" of Keras {version.said}" if version.said else ""
    log.warning("%s: its %s is unknown, so the default%s is used: %r", name, option, of, default)
    return default


def _warn_of_dtype(name: str, node: Node, weights: LSTMWeights) -> None:
    """Log a warning if a layer computes in a dtype other than that of its variables."""
    policy = policy_of(node)[1]
    if policy.startswith("mixed_"):
        half = policy.removeprefix("mixed_")
        log.warning('%s computes in %s, but its weights are %s: use .astype("%s")', name, half, weights.dtype, half)


def _check_sizes(name: str, node: Node, weights: LSTMWeights) -> None:
    """Raise unless the arrays agree with the config."""
    for option, got in (("units", weights.hidden_size), ("use_bias", weights.bias is not None)):
        said = node.options.get(option, got)
        if said != got:
            fail(ValueError, f"{name}.{option}", f"{said}, as its config says", f"arrays for {got}")
