"""The LSTM nodes of an ONNX model, and the weights of those that are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusedlstm import log
from fusedlstm.checks import describe_type, fail
from fusedlstm.convert.onnx.chain import as_chain
from fusedlstm.convert.onnx.constants import Constants, hint_of
from fusedlstm.convert.onnx.graph import Node, walk
from fusedlstm.convert.onnx.node import LSTM
from fusedlstm.convert.onnx.source import Model, open_model
from fusedlstm.files import WeightsFileError
from fusedlstm.stacked import StackedWeights

if TYPE_CHECKING:
    import os

    from fusedlstm.convert.onnx.source import Proto

_MOST_LISTED = 20


@dataclass(frozen=True)
class OnnxLSTM:
    """What a model has in one LSTM node.

    Attributes:
        name: what `from_onnx` knows it by.
        direction: "forward", "reverse" or "bidirectional"; None if it is none of these.
        batch_first: whether it takes (B, T, I).
        input_size: I; None where the weights can't be read, as for the next two.
        hidden_size: N.
        dtype: of the weights, by name.
        options: those of LSTMWeights, for each direction.
        problem: why its weights can't be read; empty if they can.
    """

    name: str
    direction: str | None = None
    batch_first: bool = False
    input_size: int | None = None
    hidden_size: int | None = None
    dtype: str | None = None
    options: tuple[dict[str, Any], ...] = ()
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"{self.name!r} (which can't be read)"
        direction = "" if self.direction == "forward" else f", {self.direction}"
        return f"{self.name!r} (I={self.input_size}, N={self.hidden_size}, {self.dtype}{direction})"


def from_onnx(
    source: str | os.PathLike[str] | bytes | Proto, name: str | Sequence[str] | None = None
) -> StackedWeights:
    """Return the weights of an LSTM node of an ONNX model, or of several that are the layers of one LSTM.

    Nodes are looked for in the model's graph, in those of If, Loop and Scan, and in its own functions. Weights are
    constants: initializers, Constant nodes, and what Identity, Squeeze, Unsqueeze, Transpose, Reshape, Slice, Concat
    and Cast (between floats) make of them. All opsets, functions and attributes are taken. Numbers of attributes,
    which are float32, become the shortest decimals that are them (0.2 is 0.2), or in float64 weights what is stored.
    The biases of x and h are summed, in the dtype of the weights.

    A model says more than weights do. Of a node that reads in reverse (in one direction), and of one of layout 1, the
    log warns: use LSTM.__call__'s reverse=True, and LSTM(batch_first=True). Initial states, constant ones too, and
    sequence_lens are arguments of a call. A row of length 0 has a final state of zeros in onnxruntime (1.32, measured);
    here it keeps its initial state.

    Files are not trusted: nothing is executed, external data is read from the model's own folder and below, and
    nothing is allocated by a size that the file declares.

    Args:
        source: the path of a model, its bytes, or an onnx.ModelProto.
        name: of a node, or that of its first output where it has none; several names are layers, from the lowest
            on. None is the only LSTM, or all of them if each one's input is the one before's output, through
            operators that move axes: so exporters write an LSTM of several layers. Nodes that share a name, in
            subgraphs, are told by their path, as the error says them.

    Returns:
        A layer for each node; both directions of nodes that are bidirectional.

    Raises:
        WeightsFileError: the model is damaged, has no LSTM or several that are no layers of one, weights that are no
            constants, or what no cell here has; the message says where, and what. It is a ValueError.
        TypeError: `source` or `name` is of another kind.
        ValueError: the model has no LSTM of that name; names of nodes in different directions.
        OSError: the file can't be read.
        ImportError: the package onnx is not installed.
    """
    model = open_model(source)
    constants = Constants(model)
    chosen = choose(model, constants, name)
    with model.blamed():
        layers = [weights for lstm in chosen for weights in lstm.weights(constants)]
        stacked = StackedWeights(layers, bidirectional=chosen[0].num_directions == 2)
    _warn(chosen)
    return stacked


def list_onnx(source: str | os.PathLike[str] | bytes | Proto) -> list[OnnxLSTM]:
    """Return what LSTM nodes a model has; see `from_onnx`.

    Raises:
        WeightsFileError: the model is damaged.
        TypeError: `source` is no model.
        OSError: the file can't be read.
        ImportError: the package onnx is not installed.
    """
    model = open_model(source)
    with model.blamed():
        constants = Constants(model)
        return [_description(model, node, label, constants) for label, node in _labelled(model, required=False).items()]


def choose(model: Model, constants: Constants, name: str | Sequence[str] | None) -> list[LSTM]:
    """Return the nodes of names, or the only one, or all that are layers; raise as `from_onnx` says."""
    names = _names(name)
    with model.blamed():
        nodes = _labelled(model)
        if names is None:
            return _only(model, nodes, constants)
        listed = "" if set(names) <= set(nodes) else _listed(model, nodes, constants)
    for index, each in enumerate(names):
        if each not in nodes:
            which = "name" if isinstance(name, str) else f"name[{index}]"
            fail(ValueError, which, f"that of an LSTM of {model.name}: {listed}", repr(each))
    with model.blamed():
        chosen = [LSTM(model, nodes[each], each) for each in names]
    directions = {lstm.direction for lstm in chosen}
    if len(directions) > 1:
        fail(ValueError, "name", "nodes of one direction, as layers are", ", ".join(sorted(directions)))
    return chosen


def _names(name: Any) -> tuple[str, ...] | None:
    if name is None or isinstance(name, str):
        return None if name is None else (name,)
    if not isinstance(name, Sequence) or not name or not all(isinstance(each, str) for each in name):
        fail(TypeError, "name", "a node's name, a sequence of them, or None", describe_type(name))
    return tuple(name)


def _labelled(model: Model, *, required: bool = True) -> dict[str, Node]:
    """Return the LSTM nodes by name, with their path where a name alone is not theirs; raise if one is required."""
    every = list(walk(model))
    nodes = [node for node in every if node.op == "LSTM"]
    if required and not nodes:
        _refuse_without(model, every)
    ways = (
        lambda node: node.name,
        lambda node: "/".join([*node.scope.path, node.name]),
        lambda node: "/".join([*node.scope.path, next(filter(None, node.proto.output), "")]),
    )
    for way in ways:
        if way is not ways[0]:
            model.count_copy("the paths of its nodes", _bytes_of_paths(nodes))
        labels = [way(node) for node in nodes]
        if len(set(labels)) == len(labels):
            return dict(zip(labels, nodes, strict=True))
    model.count_copy("the paths of its nodes", _bytes_of_paths(nodes))
    return {f"{ways[-1](node)}[{index}]": node for index, node in enumerate(nodes)}


def _bytes_of_paths(nodes: Sequence[Node]) -> int:
    """Return how long the paths of nodes are: a long name may be in all of them."""
    sizes: dict[int, int] = {}
    for node in nodes:
        if id(node.scope) not in sizes:
            sizes[id(node.scope)] = sum(map(len, node.scope.path))
    return sum(sizes[id(node.scope)] for node in nodes)


def _refuse_without(model: Model, every: Sequence[Node]) -> None:
    """Say what there is instead of an LSTM."""
    for node in every:
        if "LSTM" in node.proto.op_type:
            model.refuse("its graph", "ONNX' operator LSTM", f"{node.op} {node.name!r}", hint_of(node.op))
    common = ", ".join(op for op, _ in Counter(node.op for node in every).most_common(8)) or "no operator"
    hint = "Cells that were exported as their arithmetic have no node: take their weights from where they were trained"
    model.refuse("its graph", "ONNX' operator LSTM", common, hint)


def _only(model: Model, nodes: dict[str, Node], constants: Constants) -> list[LSTM]:
    """Return the only node, or the layers that all nodes are."""
    lstms = [LSTM(model, node, label) for label, node in nodes.items()]
    if len(lstms) == 1:
        return lstms
    chain = as_chain(lstms, constants)
    if chain is None or len({lstm.direction for lstm in chain}) > 1:
        listed = _listed(model, nodes, constants)
        hint = "Give name=, of one or of several that are layers"
        model.refuse("its graph", "one LSTM, or the layers of one", f"{len(lstms)}: {listed}", hint)
    return chain


def _listed(model: Model, nodes: dict[str, Node], constants: Constants) -> str:
    shown = list(nodes.items())[:_MOST_LISTED]
    more = [f"{len(nodes) - len(shown)} more"] if len(nodes) > len(shown) else []
    return ", ".join([*(str(_description(model, node, label, constants)) for label, node in shown), *more])


def _description(model: Model, node: Node, label: str, constants: Constants) -> OnnxLSTM:
    try:
        with model.blamed():
            lstm = LSTM(model, node, label)
            weights = lstm.weights(constants)
    except WeightsFileError as error:
        return OnnxLSTM(label, problem=str(error))
    first, options = weights[0], tuple(each.options() for each in weights)
    sizes = first.input_size, first.hidden_size, str(first.dtype)
    return OnnxLSTM(label, lstm.direction, lstm.batch_first, *sizes, options)


def _warn(chosen: Sequence[LSTM]) -> None:
    """Warn of what weights don't say."""
    first = chosen[0]
    if first.direction == "reverse":
        log.warning("the LSTM %r reads in reverse: use lstm(xs, reverse=True), as weights don't say", first.label)
    if first.batch_first:
        log.warning("the LSTM %r has layout 1: use LSTM(weights, batch_first=True), as weights don't say", first.label)
