"""Check what a model calls its layers with, and whether each LSTM reads the outputs of the one below.

A call's tensors refer to outputs of other calls. So a tensor can be followed back to the layer that computed it: out of
the model that it is in, into other models, and through layers that change nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fusedlstm.convert.keras.nodes import Call, Found, Graph, Node, Ref, find
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Layers that return their input, with its mask, outside of training.
_IDENTITIES = (
    *("Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout"),
    *("ActivityRegularization", "Activation", "Identity"),
)
_MAX_STEPS = 10_000  # from a tensor back to its source
_MAX_CALLS = 100  # for one layer
_MAX_LOOKED_AT = 1_000_000  # calls examined to find those of one layer


@dataclass(frozen=True)
class Place:
    """A call, and the calls of the models around it, the outermost first."""

    around: tuple[tuple[Graph, int], ...]
    graph: Graph
    index: int

    @property
    def call(self) -> Call | None:
        """The call itself."""
        return self.graph.calls[self.index]


@dataclass(frozen=True)
class Source:
    """The source of a tensor.

    Attributes:
        place: the call that computes it; None if unknown.
        output: its index among the call's outputs.
        through: the layers in between, which return their input.
        why: why the place is unknown; "" if it is known.
    """

    place: Place | None
    output: int = 0
    through: Sequence[Node] = ()
    why: str = ""


def _places(
    found: Found, depth: int, around: tuple[tuple[Graph, int], ...], looked_at: Iterator[int]
) -> Iterator[Place]:
    """Yield the calls of a layer in all calls of the models around it."""
    graph = graph_of(found.around[depth])
    inner = found.around[depth + 1] if depth + 1 < len(found.around) else found.node
    for k, call in enumerate(graph.calls):
        if next(looked_at) > _MAX_LOOKED_AT:
            fail(ValueError, found.name, "a layer in models that are called a few times", "many calls of nested models")
        if call is None or call.node is not inner:
            continue
        if inner is found.node:
            yield Place(around, graph, k)
        else:
            yield from _places(found, depth + 1, (*around, (graph, k)), looked_at)


def graph_of(model: Node) -> Graph:
    """Return a model's graph.

    Raises:
        ValueError: the graph is unknown.
    """
    if model.module or model.graph is None:
        got = (
            f"{model.full_kind}, a class with its own code" if model.module else f"{model.kind}, whose graph is unknown"
        )
        fail(ValueError, model.name, "a Sequential or Functional Keras model", got, _APART)
    return model.graph()


_APART = "Convert each layer by itself, and compute what is between them as the model does"


def source_of(place: Place, ref: Ref | None) -> Source:
    """Follow a call's tensor back to its source, through layers that return their input."""
    around, graph = place.around, place.graph
    through: list[Node] = []
    for _ in range(_MAX_STEPS):
        if ref is None:
            return Source(None, why="a tensor that is not a layer's output")
        call = graph.calls[ref.call] if 0 <= ref.call < len(graph.calls) else None
        if call is None:
            return Source(None, why="the output of a call that can't be read")
        if call.node.base == "InputLayer":
            if not around:
                return Source(None, why="the model's input")
            outer, index = around[-1]
            ref = _given(outer.calls[index], graph, ref.call)
            around, graph = around[:-1], outer
        elif call.node.graph is not None and not call.node.module and not call.others:
            inner = call.node.graph()
            around, graph = (*around, (graph, ref.call)), inner
            ref = inner.outputs[ref.output] if ref.output < len(inner.outputs) else None
        elif ref.output == 0 and _is_identity(call) and not _is_training(around):
            through.append(call.node)
            ref = call.inputs[0]
        else:
            return Source(Place(around, graph, ref.call), ref.output, through)
    return Source(None, why="outputs of layers that call each other in circles")


def _given(caller: Call | None, graph: Graph, index: int) -> Ref | None:
    """Return the tensor that a model's caller passes for one of its inputs."""
    position = graph.inputs.index(index) if index in graph.inputs else -1
    return caller.inputs[position] if caller is not None and 0 <= position < len(caller.inputs) else None


def _is_training(around: Sequence[tuple[Graph, int]]) -> bool:
    """Return whether a model around is called with training=True, which applies to all layers in it."""
    calls = (graph.calls[index] for graph, index in around)
    return any(call is None or call.is_training for call in calls)


def _is_identity(call: Call) -> bool:
    """Return whether a call returns its only input unchanged."""
    node = call.node
    if node.module or call.is_training or call.others or len(call.inputs) != 1 or call.mask is not None:
        return False
    if node.base == "TimeDistributed":
        inner = node.part("layer")
        return inner is not None and _is_identity(Call(inner, call.inputs))
    if node.base == "Activation":
        return node.options.get("activation") == "linear"
    return node.base in _IDENTITIES


def check_calls(root: Node, found: Found, *, separate: bool) -> None:
    """Raise ValueError if a layer is called with arguments that weights can't represent.

    Constants as initial_state are allowed if the caller reads them separately. An unknown graph is not checked.
    """
    if not found.around or any(model.graph is None or model.module for model in found.around):
        return
    for place in all_places(root, found):
        call = place.call
        if call is None:
            continue
        if call.others:
            fail(
                ValueError,
                found.name,
                "a layer that is called with only inputs, states and a mask",
                ", ".join(call.others),
            )
        if (call.is_training or _is_training(place.around)) and _drops(found.node):
            fail(ValueError, found.name, "a layer whose dropout is inactive", "one that is called with training=True")
        for state in call.states:
            if not separate and not isinstance(state, Ref) and not _is_zero(state):
                hint = 'Give initial_state="separate", and read them with initial_state_from_keras'
                fail(ValueError, f"{found.name}.initial_state", "zeros, or tensors of the model", "constants", hint)


def _drops(node: Node) -> bool:
    return any(part.options.get(rate) for part in node.nodes() for rate in ("dropout", "recurrent_dropout"))


def _is_zero(state: Any) -> bool:
    try:
        return not np.any(np.asarray(state, np.float64) != 0)
    except (TypeError, ValueError):  # not numbers
        return False


def all_places(root: Node, found: Found) -> list[Place]:
    """Return all calls of a layer, in all models that contain it."""
    looked_at = itertools.count()
    same = (one for one in find(root) if one.node is found.node)
    everywhere = (place for one in same for place in _places(one, 0, (), looked_at))
    places = list(itertools.islice(everywhere, _MAX_CALLS + 1))
    if len(places) > _MAX_CALLS:
        fail(ValueError, found.name, f"a layer that is called at most {_MAX_CALLS} times", "more")
    return places


def check_follows(root: Node, below: Found, layer: Found) -> None:
    """Raise ValueError unless every call of a layer reads the outputs of the one below.

    Layers that return their input may be between them: dropout and noise, which only act in training.
    """
    places = all_places(root, layer)
    if not places:
        fail(ValueError, "name", "layers that the model calls", f"{layer.name!r}, which it doesn't call")
    for place in places:
        inputs = place.call.inputs if place.call else ()
        source = source_of(place, inputs[0] if inputs else None)
        call = source.place.call if source.place else None
        if source.place is None or call is None:
            _refuse(below, layer, source.why)
        if call.node is not below.node:
            _refuse(below, layer, f"those of {call.node.name!r} ({call.node.full_kind})")
        if source.output:
            _refuse(below, layer, f"its output {source.output}, a state")
        _check_dtypes(below, layer, source)
        _check_masks(root, below, layer, source, place)


def _refuse(below: Found, layer: Found, got: str) -> NoReturn:
    wanted = f"layers that follow each other: the outputs of {below.name!r} as the inputs of {layer.name!r}"
    fail(ValueError, "name", wanted, got, _APART)


def _check_dtypes(below: Found, layer: Found, source: Source) -> None:
    """Raise if a layer in between rounds its input to another dtype."""
    wanted = policy_of(below.node)[1]
    for node in source.through:
        got = policy_of(node)[1]
        if wanted and got and got != wanted:
            _refuse(below, layer, f"those of {node.name!r} ({node.full_kind}), which makes them {got}")


def _check_masks(root: Node, below: Found, layer: Found, source: Source, place: Place) -> None:
    """Raise unless both layers have the same mask, or none."""
    assert source.place is not None
    call, other = place.call, source.place.call
    assert call is not None
    assert other is not None
    if call.mask is not None or other.mask is not None:
        if call.mask != other.mask or source.place.around != place.around:
            _refuse(below, layer, "outputs with another mask")
        return
    if not may_mask(root):
        return
    dropping = [node for node in source.through if not _keeps_masks(node)]
    has_states = layer.node.version.major != 2 and (call.states or other.states)  # with states, Keras 3 drops masks
    if place.around or source.place.around or dropping or has_states:
        why = f"{dropping[0].name!r} ({dropping[0].full_kind}) drops" if dropping else "calls of the model drop"
        _refuse(below, layer, f"outputs that may have a mask, which {why}")


def _keeps_masks(node: Node) -> bool:
    return node.base != "TimeDistributed" and not (node.base == "Identity" and node.version.major != 3)


def may_mask(root: Node) -> bool:
    """Return whether any layer of a model may make a mask."""
    for node in root.nodes():
        if node.module or node.base in ("Masking", "Lambda") or node.options.get("mask_zero"):
            return True
        if node.graph is not None and any(call is None or call.mask is not None for call in node.graph().calls):
            return True
    return False


def policy_of(node: Node) -> tuple[str, str]:
    """Return the class and the name of a layer's dtype policy; "" for what is unknown."""
    policy = node.options.get("dtype")
    if not isinstance(policy, Mapping):
        return "", str(policy or "")
    config = policy.get("config")
    return str(policy.get("class_name")), str(config.get("name") if isinstance(config, Mapping) else "")
