"""Read a model's graph from the calls in its config, in the formats of Keras 2 and 3.

Keras 3 writes each call of a layer as {"args": [...], "kwargs": {...}} with tensors as {"class_name":
"__keras_tensor__", "config": {"keras_history": [layer, call, output]}}. Keras 2 writes one list of [layer, call,
output, kwargs] for each call, with an LSTM's initial states after its input; tensors among kwargs are [layer, call,
output]. In Keras 2, calls of a model with its own inputs are numbered from 1, as making it counts as a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusedlstm.convert.keras.nodes import LAYERS, MODELS, Call, Graph, Node, Ref

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_ARGUMENTS = ("inputs", "initial_state", "mask", "training")  # of Keras 3's recurrent layers, by position
_CONSTANTS = ("__tensor__", "__numpy__")
NOWHERE = Ref(-1, 0)  # a tensor of unknown origin


def graph_of_config(kind: str, options: Mapping[str, Any], layers: Sequence[Node]) -> Graph:
    """Return the graph of a Sequential or Functional model."""
    if kind == "Sequential":
        return chain(layers)
    return _Parser(options, layers).graph()


def chain(layers: Sequence[Node]) -> Graph:
    """Return the graph of a chain of layers. Each gets the output of the one before."""
    has_input = bool(layers) and layers[0].base == "InputLayer"
    nodes = list(layers) if has_input else [Node("InputLayer", "input"), *layers]
    calls = [Call(node, (Ref(k - 1, 0),) if k else ()) for k, node in enumerate(nodes)]
    return Graph(calls, (0,), (Ref(len(calls) - 1, 0),))


def call_of(node: Node, args: Sequence[Any], kwargs: Mapping[str, Any], leaves: Callable[[Any], Iterator[Any]]) -> Call:
    """Return the call of a layer with these arguments.

    Args:
        node: the layer.
        args: the positional arguments.
        kwargs: the keyword arguments.
        leaves: a function that yields an argument's parts: Refs, constants, and None for anything else.
    """
    given = dict(kwargs)
    if node.base in LAYERS:
        given |= dict(zip(_ARGUMENTS[1:], args[1:], strict=False))
        more = len(args) - len(_ARGUMENTS)
    else:
        more = len(args) - 1
    first = list(leaves(args[0])) if args else []
    inputs = tuple(leaf if isinstance(leaf, Ref) else None for leaf in first)
    states = list(leaves(given.pop("initial_state", None)))
    if node.base in LAYERS:
        inputs, states = inputs[:1], [*first[1:], *states]
    mask = given.pop("mask", None)
    masks = [leaf for leaf in leaves(mask) if leaf is not None]
    training = list(leaves(given.pop("training", None)))
    others = [name for name, value in given.items() if any(leaf is not None for leaf in leaves(value))]
    return Call(
        node,
        inputs,
        tuple(state for state in states if state is not None),
        masks[0] if len(masks) == 1 and isinstance(masks[0], Ref) else mask if masks else None,
        any(leaf is not None and (isinstance(leaf, Ref) or bool(leaf)) for leaf in training),
        (*others, *["an argument without a name"] * (more > 0)),
    )


class _Parser:
    """Reads the calls of one Functional model's config."""

    def __init__(self, options: Mapping[str, Any], layers: Sequence[Node]) -> None:
        described = options.get("layers")
        if not isinstance(described, list) or len(described) != len(layers):
            raise ValueError("its layers and their calls don't match")
        self._options = options
        self._calls: list[tuple[Node, Any]] = []
        self._places: dict[tuple[str, int], int] = {}  # keyed by a layer's name and the number of its call
        named: dict[str, set[int]] = {}  # the numbers that refer to each layer's calls
        for layer in described:
            _collect(layer.get("inbound_nodes") if isinstance(layer, Mapping) else None, named)
        _collect([options.get("output_layers")], named)
        for layer, node in zip(described, layers, strict=True):
            self._number(layer, node, named)

    def _number(self, layer: Any, node: Node, named: Mapping[str, set[int]]) -> None:
        """Number the calls of a layer."""
        nodes = layer.get("inbound_nodes") if isinstance(layer, Mapping) else None
        calls = nodes if isinstance(nodes, list) else []
        name = str(layer.get("name", node.name)) if isinstance(layer, Mapping) else node.name
        if not calls and node.base == "InputLayer":
            calls = [None]
        start = _first_number(node, calls, named.get(name, set()))
        for number, call in enumerate(calls):
            if start is not None:
                self._places[name, start + number] = len(self._calls)
            self._calls.append((node, call))

    def graph(self) -> Graph:
        """Return the model's graph."""
        calls = [self._call(node, call) for node, call in self._calls]
        inputs = [ref.call for ref in self._refs(self._options.get("input_layers"))]
        return Graph(calls, inputs, list(self._refs(self._options.get("output_layers"))))

    def _call(self, node: Node, call: Any) -> Call | None:
        if call is None:
            return Call(node)
        if isinstance(call, Mapping):  # Keras 3
            args, kwargs = call.get("args"), call.get("kwargs")
            if isinstance(args, list) and isinstance(kwargs, Mapping):
                return call_of(node, args, kwargs, self._leaves)
        if isinstance(call, list):
            kwargs = {}
            for spec in _specs(call):
                kwargs |= spec[3] if len(spec) > 3 and isinstance(spec[3], Mapping) else {}
            return call_of(node, [call], kwargs, self._leaves)
        return None

    def _refs(self, value: Any) -> Iterator[Ref]:
        return (leaf if isinstance(leaf, Ref) else NOWHERE for leaf in self._leaves(value))

    def _leaves(self, value: Any) -> Iterator[Any]:
        """Yield Refs, constants and None."""
        if isinstance(value, Mapping):
            config = value.get("config")
            if value.get("class_name") == "__keras_tensor__" and isinstance(config, Mapping):
                yield self._ref(config.get("keras_history"))
            elif value.get("class_name") in _CONSTANTS and isinstance(config, Mapping):
                yield config.get("value")
            else:  # an object, or named arguments, whose order in the model may differ
                yield NOWHERE
        elif _is_spec(value):
            yield self._ref(value)
        elif isinstance(value, list) and not all(isinstance(each, (int, float)) for each in value):
            for each in value:
                yield from self._leaves(each)
        elif value != []:
            yield value

    def _ref(self, spec: Any) -> Ref:
        if not _is_spec(spec):
            return NOWHERE
        place = self._places.get((spec[0], spec[1]))
        return NOWHERE if place is None or spec[2] < 0 else Ref(place, spec[2])


def _is_spec(value: Any) -> bool:
    """Return whether a value is [layer, call, output], maybe with more items."""
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and all(type(number) is int for number in value[1:3])
    )


def _specs(value: Any) -> Iterator[list[Any]]:
    """Yield all [layer, call, output, ...] in a config of Keras 2."""
    if _is_spec(value):
        yield value
    elif isinstance(value, (list, Mapping)):
        for each in value if isinstance(value, list) else value.values():
            yield from _specs(each)


def _collect(value: Any, named: dict[str, set[int]]) -> None:
    """Add the numbers by which a config refers to each layer's calls."""
    for spec in _specs(value):
        named.setdefault(spec[0], set()).add(spec[1])
        if len(spec) > 3:
            _collect(spec[3], named)


def _first_number(node: Node, calls: Sequence[Any], numbers: set[int]) -> int | None:
    """Return the number of a layer's first call; None if it may be 0 or 1."""
    if node.base not in MODELS or not calls or isinstance(calls[0], Mapping) or 0 in numbers:
        return 0
    has_inputs = node.base != "Sequential" or any(part.base == "InputLayer" for part in node.parts.get("layers", []))
    return 1 if has_inputs or len(calls) in numbers else None
