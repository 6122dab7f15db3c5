"""The graph of a model: which node makes the value of a name, in subgraphs and functions too, and its LSTM nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedlstm.convert.onnx.source import Model, Proto

# A function is walked once for each call of it, so that few bytes could ask for any number of nodes.
_MOST_NODES = 1_000_000
_MOST_LEVELS = 50
_NAME = 64  # bytes that one takes in a scope
_DOMAINS = ("", "ai.onnx")
# AttributeProto.AttributeType -> the field with the value.
_FIELDS = {1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings", 9: "tensors", 10: "graphs"}


@dataclass(eq=False)
class Scope:
    """The names that the nodes of a graph, or of one call of a function, see.

    Attributes:
        path: the names of the nodes that it is within.
        initializers: tensors by name.
        makers: the node of each output's name.
        inputs: the names that values come in by.
        outer: the scope whose names are visible, too; None for the model's graph and for functions.
        caller: the node that calls, and the scope of its names; of functions only.
        arguments: what the call gives for each input's name.
        attributes: what the call gives for each attribute's name.
    """

    path: tuple[str, ...]
    initializers: dict[str, Proto]
    makers: dict[str, Node]
    inputs: frozenset[str]
    outer: Scope | None = None
    caller: Scope | None = None
    arguments: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, Proto] = field(default_factory=dict)

    def look_up(self, name: str) -> Value:
        """Return where a name's value comes from."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.makers:
                return Value(scope, name, node=scope.makers[name])
            if name in scope.initializers:
                return Value(scope, name, tensor=scope.initializers[name])
            if name in scope.arguments and scope.caller is not None:
                scope, name = scope.caller, scope.arguments[name]
                continue
            if name in scope.inputs:
                return Value(scope, name, is_input=True)
            scope = scope.outer
        return Value(self, name)

    def attribute_of_call(self, name: str) -> Proto | None:
        """Return what the call that this is in gives for an attribute of the function."""
        scope: Scope | None = self
        while scope is not None and scope.caller is None:
            scope = scope.outer
        return None if scope is None else scope.attributes.get(name)


@dataclass(frozen=True)
class Value:
    """Where a value comes from: a node, a tensor, an input, or (none of these) nowhere; `name` is its name there."""

    scope: Scope
    name: str
    node: Node | None = None
    tensor: Proto | None = None
    is_input: bool = False


@dataclass(eq=False)
class Node:
    """A node and the scope of its inputs' names."""

    proto: Proto
    scope: Scope

    @property
    def op(self) -> str:
        """The operator, with its domain if that is not ONNX' own."""
        domain = self.proto.domain
        return self.proto.op_type if domain in _DOMAINS else f"{domain}.{self.proto.op_type}"

    @property
    def name(self) -> str:
        """Its name, or that of its first output."""
        name = self.proto.name or next(filter(None, self.proto.output), "")
        return name if isinstance(name, str) else bytes(name).decode(errors="replace")  # bytes that are no UTF-8

    def input(self, index: int) -> str:
        """Return the name of an input; empty where it has none."""
        return self.proto.input[index] if index < len(self.proto.input) else ""

    def attributes(self) -> dict[str, Any]:
        """Return the values of its attributes by name; those that refer to the function's are of its call."""
        values = {}
        for attribute in self.proto.attribute:
            given = self.scope.attribute_of_call(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
            if given is not None:
                values[attribute.name] = _value(given)
        return values

    def subgraphs(self) -> Iterator[tuple[str, Proto]]:
        """Yield the graphs among its attributes, with those attributes' names."""
        for attribute in self.proto.attribute:
            if attribute.HasField("g"):
                yield attribute.name, attribute.g
            for index, graph in enumerate(attribute.graphs):
                yield f"{attribute.name}[{index}]", graph


def _value(attribute: Proto) -> Any:
    """Return the value of an attribute: a number, bytes, a message, or a list of one kind; None for other kinds."""
    name = _FIELDS.get(attribute.type)
    if name is None:
        return None
    value = getattr(attribute, name)
    return list(value) if name.endswith("s") and name != "s" else value


def walk(model: Model) -> Iterator[Node]:
    """Yield every node that the model has, in order: those of subgraphs and of called functions after their node."""
    walker = _Walker(model)
    yield from walker.graph(model.proto.graph, (), None)


class _Walker:
    """Bounds how far a walk goes."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.functions = {_key(function): function for function in model.proto.functions}
        self.seen = 0

    def graph(self, graph: Proto, path: tuple[str, ...], outer: Scope | None) -> Iterator[Node]:
        self.count_names(len(graph.initializer) + len(graph.input))
        initializers = {tensor.name: tensor for tensor in graph.initializer}
        scope = Scope(path, initializers, {}, frozenset(value.name for value in graph.input), outer)
        yield from self.nodes(graph.node, scope)

    def nodes(self, protos: Any, scope: Scope) -> Iterator[Node]:
        if len(scope.path) > _MOST_LEVELS:
            self.model.refuse("its graph", f"at most {_MOST_LEVELS} levels", f"more, at {scope.path[0]!r}")
        nodes = [Node(proto, scope) for proto in protos]
        self.seen += len(nodes)
        if self.seen > _MOST_NODES:
            self.model.refuse("its graph", f"at most {_MOST_NODES} nodes", "more, with those of each call")
        self.count_names(sum(len(proto.output) + len(proto.attribute) for proto in protos))
        scope.makers.update({output: node for node in nodes for output in node.proto.output if output})
        for node in nodes:
            yield node
            for name, graph in node.subgraphs():
                yield from self.graph(graph, (*scope.path, node.name, name), scope)
            function = self.functions.get(_key(node.proto, node.proto.op_type))
            if function is not None:
                yield from self.call(node, function)

    def count_names(self, count: int) -> None:
        """Count names that are about to be made a scope's, once for each call of a function."""
        self.model.count_copy("its graph", _NAME * count)

    def call(self, node: Node, function: Proto) -> Iterator[Node]:
        self.count_names(len(function.input) + len(function.attribute) + len(function.attribute_proto))
        defaults = {attribute.name: attribute for attribute in function.attribute_proto}
        given = {
            attribute.name: found
            for attribute in node.proto.attribute
            if (found := _resolved(node.scope, attribute)) is not None
        }
        body = Scope(
            path=(*node.scope.path, node.name),
            initializers={},
            makers={},
            inputs=frozenset(function.input),
            caller=node.scope,
            arguments=dict(zip(function.input, node.proto.input, strict=False)),
            attributes=defaults | given,
        )
        yield from self.nodes(function.node, body)


def _key(proto: Proto, name: str | None = None) -> tuple[str, str, str]:
    """Return what tells a function: its domain, name and overload."""
    domain = "" if proto.domain in _DOMAINS else proto.domain
    return domain, proto.name if name is None else name, getattr(proto, "overload", "")


def _resolved(scope: Scope, attribute: Proto) -> Proto | None:
    return scope.attribute_of_call(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
