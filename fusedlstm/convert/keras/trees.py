"""Read objects of Keras 3 and tf_keras into a tree of `nodes`, with their graphs."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.convert.keras.calls import NOWHERE, call_of, chain
from fusedlstm.convert.keras.nodes import LAYERS, MODELS, Graph, Node, Ref
from fusedlstm.convert.keras.versions import Version
from fusedlstm.validation.advice import fail_source, refuse_foreign_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fusedlstm.convert.keras.nodes import Call

_ROLES = ("layer", "cell")  # in Keras 2's Bidirectional, "layer" is only the original of its copies
_OF_LAYERS = ("go_backwards", "return_sequences", "time_major", "merge_mode", "stateful", "zero_output_for_mask")
_OF_ANY = ("quantization_mode", "lora_enabled", "mask_zero")
_CONFIGURED = ("LSTM", "LSTMCell", "CuDNNLSTM", "Activation")  # classes whose configs hold no other layers
_KERAS = {"keras": 3, "tf_keras": 2, "tensorflow": 2}  # packages; the version of keras itself may be 2


def node_of(source: Any, known: dict[int, Node] | None = None) -> Node:
    """Return a layer, cell or model of Keras as a tree of nodes. An object in several models has one node."""
    known = {} if known is None else known
    if id(source) in known:
        return known[id(source)]
    kind, module = type(source).__name__, type(source).__module__
    keras = _version(module)
    if keras and ".ops." in module:
        kind = f"ops.{kind}"  # some are named like layers
    foreign = module if not keras else f"{module} (changed)" if _is_changed(source, kind) else ""
    node = Node(kind, str(getattr(source, "name", kind)), _options(source), Version(keras), foreign)
    node.base = kind if not foreign else _base_of(type(source))
    known[id(source)] = node
    if node.base in _CONFIGURED:
        node.options = {**node.options, **_config(source, node)}
    if node.base in ("LSTMCell", "CuDNNLSTM"):
        node.read = _reader(source)
    if node.base == "CuDNNLSTM":
        node.parts["cell"] = [Node("CuDNNLSTMCell", "", node.options, node.version, read=node.read)]
        return node
    roles = _ROLES if node.base != "Bidirectional" else ("forward_layer", "backward_layer")
    for role in roles:
        if hasattr(source, role):
            node.parts[role] = [node_of(getattr(source, role), known)]
    for role in ("layers", "cells"):
        if isinstance(getattr(source, role, None), (list, tuple)):
            node.parts[role] = [node_of(part, known) for part in getattr(source, role)]
    if node.base == "LSTM" and "cell" in node.parts:
        node.parts["cell"][0].name = ""
    if node.base in MODELS:
        node.graph = _graph_of(source, node, known)
    return node


def root_of(source: Any, wanted: str = "a layer, cell or model of Keras, or the path of a file") -> Node:
    """Return the tree of what a user passes as a layer, cell or model of Keras. Raise TypeError for other objects."""
    refuse_foreign_source("source", wanted, source, "from_keras")
    if not any(hasattr(source, attribute) for attribute in ("get_config", "layers")):
        fail_source("source", wanted, source)
    return node_of(source)


def _version(module: str) -> int:
    """Return the version of Keras that a module belongs to: 2, 3, or 0 for none."""
    package = module.partition(".")[0]
    if package == "keras":
        return 2 if str(getattr(sys.modules.get("keras"), "__version__", "3")).startswith(("0.", "1.", "2.")) else 3
    return _KERAS.get(package, 0)


def _is_changed(source: Any, kind: str) -> bool:
    """Return whether a Keras layer has its own method in place of its class's."""
    return kind in LAYERS and any(name in getattr(source, "__dict__", {}) for name in ("call", "__call__"))


def _base_of(kind: type) -> str:
    """Return the Keras class that a class derives from, if it matters here."""
    names = (each.__name__ for each in kind.__mro__ if _version(each.__module__))
    return next((name for name in names if name in (*LAYERS, *MODELS, "Wrapper")), "")


def _options(source: Any) -> dict[str, Any]:
    """Return the options in a layer's attributes."""
    options = {option: getattr(source, option) for option in (*_OF_LAYERS, *_OF_ANY) if hasattr(source, option)}
    if getattr(source, "_num_constants", None):
        options["num_constants"] = source._num_constants
    policy = getattr(getattr(source, "dtype_policy", None), "name", None)
    return options if policy is None else {**options, "dtype": policy}


def _config(source: Any, node: Node) -> dict[str, Any]:
    """Return a layer's config. The user's functions get their modules' names, as Keras may have the same name."""
    try:
        config = dict(source.get_config())
    except Exception:  # the user's own class, which is refused unless they vouch for it
        if not node.module:
            raise
        return {}
    for option in ("activation", "recurrent_activation"):
        function = getattr(source, option, None)
        module = str(getattr(function, "__module__", None) or type(function).__module__)
        if function is not None and not _version(module):
            name = getattr(function, "__name__", type(function).__name__)
            config[option] = {"registered_name": f"{module}.{name}"}
    return config


def _reader(cell: Any) -> Callable[[], Sequence[Any]] | None:
    """Return a function that reads a cell's variables by name, as get_weights() puts trainable ones first."""
    variables = [getattr(cell, name, None) for name in ("kernel", "recurrent_kernel", "bias")]
    if variables[0] is None or variables[1] is None:
        return None
    return lambda: [np.asarray(variable) for variable in variables if variable is not None]


def _graph_of(model: Any, node: Node, known: dict[int, Node]) -> Callable[[], Graph] | None:
    """Return a function that reads a model's graph; None if there is none, as for the user's own class."""
    if node.base == "Sequential":
        return functools.cache(lambda: chain(node.parts.get("layers", [])))
    by_depth = getattr(model, "_nodes_by_depth", None)
    if not isinstance(by_depth, dict) or not by_depth:
        return None
    return functools.cache(lambda: _Reader(model, known).graph())


class _Reader:
    """Reads the calls of a Functional model, which Keras calls nodes."""

    def __init__(self, model: Any, known: dict[int, Node]) -> None:
        self._model = model
        self._known = known
        self._calls = [call for depth in model._nodes_by_depth.values() for call in depth]
        self._places = {id(call): k for k, call in enumerate(self._calls)}

    def graph(self) -> Graph:
        """Return the model's graph."""
        inputs = [ref.call for ref in self._refs(self._model.inputs)]
        return Graph([self._call(call) for call in self._calls], inputs, self._refs(self._model.outputs))

    def _call(self, call: Any) -> Call:
        layer = getattr(call, "operation", None) or call.layer
        arguments = getattr(call, "arguments", None)
        args, kwargs = (call.call_args, call.call_kwargs) if arguments is None else (arguments.args, arguments.kwargs)
        return call_of(node_of(layer, self._known), args or (), kwargs or {}, self._leaves)

    def _refs(self, tensors: Any) -> list[Ref]:
        return [leaf if isinstance(leaf, Ref) else NOWHERE for leaf in self._leaves(tensors)]

    def _leaves(self, value: Any) -> Iterator[Any]:
        """Yield Refs, constants and None."""
        if hasattr(value, "_keras_history"):
            yield self._ref(*value._keras_history)
        elif isinstance(value, (list, tuple)):
            for each in value:
                yield from self._leaves(each)
        elif isinstance(value, dict):  # named arguments, whose order in the model may differ
            yield NOWHERE
        else:
            yield value

    def _ref(self, layer: Any, number: int, output: int) -> Ref:
        calls = layer._inbound_nodes
        place = self._places.get(id(calls[number])) if 0 <= number < len(calls) else None
        return NOWHERE if place is None else Ref(place, output)
