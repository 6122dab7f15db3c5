"""The graph of a model: which node makes the value of a name, in subgraphs and functions too, and its LSTM nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedlstm.convert.onnx.source import Model, Proto

# A function is walked once for each call of it, so a few bytes could ask for any number of nodes.
_MOST_NODES = 1_000_000
_MOST_LEVELS = 50
_NAME = 64  # bytes that a name takes in a scope
DOMAINS = ("", "ai.onnx")  # both are ONNX's own
# AttributeProto.AttributeType -> the field with the value.
_FIELDS = {1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings", 9: "tensors", 10: "graphs"}


@dataclass(eq=False)
class Scope:
    """The names that the nodes of a graph, or of one call of a function, see.

    Attributes:
        path: the names of the nodes that it is within.
        initializers: tensors by name.
        makers: nodes by the names of their outputs.
        inputs: the names of its inputs, with their types if declared.
        outer: the enclosing scope, whose names are visible, too; None for the model's graph and for functions.
        caller: for functions, the scope of the node that calls.
        arguments: the call's values by input name.
        attributes: the call's values by attribute name.
        outputs: the names of its results.
        owner: the node that has this graph or calls this function; None for the model's graph.
        branch: the owner's attribute that is this graph; "" for calls.
        opset: the version of ONNX's operators in this scope.
    """

    path: tuple[str, ...]
    initializers: dict[str, Proto]
    makers: dict[str, Node]
    inputs: dict[str, Proto]
    outer: Scope | None = None
    caller: Scope | None = None
    arguments: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, Proto] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    owner: Node | None = None
    branch: str = ""
    opset: int = 0

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
        """Return the value that the enclosing call gives to an attribute of the function; None without one."""
        scope: Scope | None = self
        while scope is not None and scope.caller is None:
            scope = scope.outer
        return None if scope is None else scope.attributes.get(name)


@dataclass(frozen=True)
class Value:
    """Where a value comes from: a node, a tensor or an input, or none of these. `name` is its name in that scope."""

    scope: Scope
    name: str
    node: Node | None = None
    tensor: Proto | None = None
    is_input: bool = False

    @property
    def key(self) -> tuple[int, str]:
        """Return a key that is equal for two names of the same value."""
        return id(self.scope), self.name

    @property
    def output(self) -> int:
        """Return the index of this value among its node's outputs."""
        assert self.node is not None
        return list(self.node.proto.output).index(self.name)

    def declared_dims(self) -> list[int | None] | None:
        """Return the dims that an input of the model declares, with None for open ones; None if it declares none."""
        if not self.is_input or self.scope.owner is not None:
            return None
        tensor = self.scope.inputs[self.name].type.tensor_type
        if not tensor.HasField("shape"):
            return None
        return [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]


@dataclass(eq=False)
class Node:
    """A node and the scope of its inputs' names.

    Attributes:
        proto: the NodeProto.
        scope: the scope of its inputs' names.
        bodies: the scopes of the graphs among its attributes, by name; "" is the body of a function that it calls.
    """

    proto: Proto
    scope: Scope
    bodies: dict[str, Scope] = field(default_factory=dict)

    @property
    def op(self) -> str:
        """Return the operator's name, with its domain if that is not ONNX's own."""
        domain = self.proto.domain
        return self.proto.op_type if domain in DOMAINS else f"{domain}.{self.proto.op_type}"

    @property
    def name(self) -> str:
        """Its name, or that of its first output."""
        name = self.proto.name or next(filter(None, self.proto.output), "")
        return name if isinstance(name, str) else bytes(name).decode(errors="replace")  # bytes that are not UTF-8

    def input(self, index: int) -> str:
        """Return the name of an input; "" if the node doesn't have it."""
        return self.proto.input[index] if index < len(self.proto.input) else ""

    def value(self, index: int) -> Value | None:
        """Return an input's value; None if the node has no such input, or the call leaves it out."""
        if not self.input(index):
            return None
        value = self.scope.look_up(self.input(index))
        is_omitted = value.is_input and value.scope.caller is not None
        return None if is_omitted or not value.name else value

    def ancestry(self) -> list[tuple[Node, str]]:
        """Return the nodes around this one, outermost first, each with the graph that this one is in."""
        within, scope = [], self.scope
        while scope.owner is not None:
            within.append((scope.owner, scope.branch))
            scope = scope.owner.scope
        return within[::-1]

    def attributes(self) -> dict[str, Any]:
        """Return the values of its attributes by name. References to a function's attributes get the call's values."""
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
    yield from walker.graph(model.proto.graph, Scope((), {}, {}, {}, opset=_opset(model.proto)))


class _Walker:
    """Yields a model's nodes, and bounds their number."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.functions = {_key(function): function for function in model.proto.functions}
        for domain, name, _ in self.functions:
            if domain == "":  # ONNX doesn't say whether the function or the operator takes precedence
                self.model.refuse("its functions", "names in domains of their own", f"{name!r} in ONNX's domain")
        self.seen = 0

    def graph(self, graph: Proto, scope: Scope) -> Iterator[Node]:
        """Yield the nodes of a graph, and add their names to its scope."""
        self.count_names(len(graph.initializer) + len(graph.input) + len(graph.output))
        scope.initializers.update({tensor.name: tensor for tensor in graph.initializer})
        scope.inputs.update({value.name: value for value in graph.input})
        scope.outputs = tuple(value.name for value in graph.output)
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
                path = (*scope.path, node.name, name)
                inner = Scope(path, {}, {}, {}, scope, owner=node, branch=name, opset=scope.opset)
                node.bodies[name] = inner
                yield from self.graph(graph, inner)
            function = self.functions.get(_key(node.proto, node.proto.op_type))
            if function is not None:
                yield from self.call(node, function)

    def count_names(self, count: int) -> None:
        """Count names that are about to be added to a scope, once for each call of a function."""
        self.model.count_copy("its graph", _NAME * count)

    def call(self, node: Node, function: Proto) -> Iterator[Node]:
        names = function.input, function.output, function.attribute, function.attribute_proto
        self.count_names(sum(map(len, names)))
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
            inputs=dict.fromkeys(function.input),
            caller=node.scope,
            arguments=dict(zip(function.input, node.proto.input, strict=False)),
            attributes=defaults | given,
            outputs=tuple(function.output),
            owner=node,
            opset=_opset(function),
        )
        node.bodies[""] = body
        yield from self.nodes(function.node, body)


def _opset(proto: Proto) -> int:
    """Return the version of ONNX's operators in a model or function; 0 if it doesn't say."""
    return max((each.version for each in proto.opset_import if each.domain in DOMAINS), default=0)


def _key(proto: Proto, name: str | None = None) -> tuple[str, str, str]:
    """Return what identifies a function: its domain, name and overload."""
    domain = "" if proto.domain in DOMAINS else proto.domain
    return domain, proto.name if name is None else name, getattr(proto, "overload", "")


def _resolved(scope: Scope, attribute: Proto) -> Proto | None:
    return scope.attribute_of_call(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
