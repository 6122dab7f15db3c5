"""Represent Keras's models, layers and calls, from objects or files, as a tree, and find an LSTM in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from fusedlstm.convert.keras.options import KNOWN
from fusedlstm.convert.keras.versions import UNKNOWN
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from fusedlstm.convert.keras.versions import Version

RECURRENT = ("LSTM", "CuDNNLSTM", "RNN")  # each has one cell, which may be a stack
CELLS = ("LSTMCell", "CuDNNLSTMCell")
LAYERS = (*RECURRENT, *CELLS, "StackedRNNCells", "Bidirectional")
MODELS = ("Sequential", "Functional", "Model")
_PACKAGES = ("keras", "tf_keras", "tensorflow")  # Keras's own
_MAX_DEPTH = 50  # of nested models


@dataclass(eq=False)
class Node:
    """A model, layer or cell, and its parts.

    Attributes:
        kind: its class's name.
        name: its own name.
        options: the known options of its config.
        version: the Keras that made it.
        module: the module of a class that is not Keras's; else "".
        base: the Keras class that it is, derives from or has the config of; "" if unknown.
        parts: its parts by role: "layers", "layer", "forward_layer", "backward_layer", "cell", "cells".
        graph: for a model, a function that returns its graph; None if that is unknown.
        read: for a cell, a function that returns its arrays.
        shapes: for a cell, the shapes of its arrays.
        path: the path of its arrays in a file.
    """

    kind: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    version: Version = UNKNOWN
    module: str = ""
    base: str = ""
    parts: dict[str, list[Node]] = field(default_factory=dict)
    graph: Callable[[], Graph] | None = None
    read: Callable[[], Sequence[Any]] | None = None
    shapes: Sequence[tuple[int, ...]] = ()
    path: str = ""

    def __post_init__(self) -> None:
        if not self.module and not self.base:
            self.base = self.kind

    @property
    def full_kind(self) -> str:
        """Return its class, with the module or package if that is not Keras's."""
        if not self.module or self.module.rpartition(">")[2] == self.kind:
            return self.module or self.kind
        return f"{self.module}.{self.kind}"

    def part(self, role: str) -> Node | None:
        """Return the only part in a role, or None."""
        return self.parts[role][0] if self.parts.get(role) else None

    def cells(self) -> Iterator[Node]:
        """Yield all cells in this node."""
        return (node for node in self.nodes() if node.base in CELLS)

    def nodes(self) -> Iterator[Node]:
        """Yield this node and all nodes in it."""
        yield self
        for part in (part for parts in self.parts.values() for part in parts):
            yield from part.nodes()


class Ref(NamedTuple):
    """An output of a call: the call's index in its graph, and the output's index."""

    call: int
    output: int


@dataclass(frozen=True)
class Call:
    """A layer's call.

    Attributes:
        node: the layer.
        inputs: the tensors of the first argument, in order; None for those that are not in the graph.
        states: the tensors and constants of initial_state.
        mask: the tensor of the mask, or a constant.
        is_training: whether training is True, or may be.
        others: the names of other arguments.
    """

    node: Node
    inputs: tuple[Ref | None, ...] = ()
    states: tuple[Any, ...] = ()
    mask: Any = None
    is_training: bool = False
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graph:
    """A model's calls (None for one that can't be read), those that are its inputs, and its outputs."""

    calls: Sequence[Call | None] = ()
    inputs: Sequence[int] = ()
    outputs: Sequence[Ref | None] = ()


@dataclass(frozen=True)
class Found:
    """A layer that may be an LSTM. Its name begins with those of the models around it, joined by slashes.

    Attributes:
        around: the models and TimeDistributed around it, outermost first.
    """

    name: str
    node: Node
    around: tuple[Node, ...] = ()

    @property
    def is_lstm(self) -> bool:
        """Return whether this is an LSTM, by its class or its parts."""
        return self.node.base in ("LSTM", "CuDNNLSTM") or any(self.node.cells())

    @property
    def has_arrays(self) -> bool:
        """Return whether its cells have arrays, or its cells are unknown."""
        cells = list(self.node.cells())
        return not cells or any(cell.read for cell in cells)

    @property
    def is_unknown(self) -> bool:
        """Return whether it has arrays without a config."""
        return any(cell.read and not cell.options for cell in self.node.cells())


def find(node: Node, around: tuple[Node, ...] = ()) -> Iterator[Found]:
    """Yield all layers of a model that are not models or TimeDistributed themselves, in order."""
    if len(around) > _MAX_DEPTH:
        fail(ValueError, node.name, f"models nested at most {_MAX_DEPTH} deep", "more")
    is_wrapper = node.base == "TimeDistributed" or (node.base == "Wrapper" and not node.module)
    inner = node.parts.get("layer" if is_wrapper else "layers")
    if inner is None:
        yield Found(node.name, node, around)
        return
    for part in inner:
        for found in find(part, (*around, node)):
            is_root = not around and not is_wrapper
            yield found if is_root else Found(f"{node.name}/{found.name}", found.node, found.around)


# Neither a model in memory nor an .h5 file lists the layers inside other classes.
_INSIDE = "Pass the LSTM inside this layer, or the model's .keras file and the LSTM's name="


def choose(argument: str, root: Node, name: str | None) -> Found:
    """Return the layer with this name, or the only LSTM.

    Raises:
        ValueError: there is none, or there are several. The message lists them.
    """
    found = list({id(one.node): one for one in find(root)}.values())  # two models may share a layer
    if name is None and found and found[0].node is root:  # checking it gives a better error
        return found[0]
    lstms = [one for one in found if one.is_lstm]
    if not any(one.is_unknown for one in lstms):
        lstms = [one for one in lstms if one.has_arrays] or lstms  # a file has the arrays of a shared layer once
    if name is None:
        if len(lstms) == 1:
            return lstms[0]
        if not lstms:
            hint = _INSIDE if any(one.node.module for one in found) else ""
            fail(ValueError, argument, "a layer that is an LSTM", _listed(found, kinds=True) or "nothing", hint)
        hint = f"Give name= one of {_listed(lstms)}, or several, lowest layer first"
        fail(ValueError, argument, "one LSTM", f"{len(lstms)} of them", hint)
    for named in ([one for one in found if one.name == name], [one for one in found if one.name.endswith(f"/{name}")]):
        if len(named) == 1:
            return named[0]
        if named:
            fail(ValueError, "name", "the name of one layer", f"{name!r}, which may be {_listed(named)}")
    fail(ValueError, "name", f"one of {_listed(lstms) or 'no LSTMs'}", repr(name))


def _listed(found: Sequence[Found], *, kinds: bool = False) -> str:
    """Return names, with the class if `kinds` is set or the class is not Keras's."""
    names = [f"{one.name!r} ({one.node.kind})" if kinds or one.node.module else repr(one.name) for one in found]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def vouch(root: Node, classes: Sequence[str]) -> None:
    """Treat layers of the named classes as the Keras classes that they derive from.

    Raises:
        ValueError: no layer has that class, or the class that it derives from is unknown.
    """
    for kind in classes:
        nodes = [node for node in root.nodes() if node.module and node.kind == kind]
        if not nodes:
            there = ", ".join(dict.fromkeys(node.kind for node in root.nodes() if node.module)) or "none"
            wanted = "classes in the source that are not Keras's"
            fail(ValueError, "custom_classes", wanted, f"{kind!r}; it has {there}")
        for node in nodes:
            if not node.base:
                wanted = "classes that derive from Keras's LSTM or wrap it"
                fail(ValueError, "custom_classes", wanted, repr(kind), _INSIDE)
            node.module, node.kind = "", node.base
            said = node.options
            for part in (node, *node.parts.get("cell", [])):
                if part.options is said:
                    part.options = {option: value for option, value in said.items() if option in KNOWN}


def class_of(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name of a config's class, and its module or package if that is not Keras's."""
    # A class registered by its user is named package>class.
    module, _, kind = str(config.get("class_name")).rpartition(">")
    where = config.get("module")
    if str(where).startswith("keras.") and ".ops." in str(where):
        return f"ops.{kind}", module  # some are named like layers
    registered = config.get("registered_name")
    if not _is_own(where, registered):
        module = str(registered or where)
    return kind, module


def _is_own(module: Any, registered: Any) -> bool:
    """Return whether a class is Keras's own.

    Keras 3 may write a user's class without a module, but then with the name that it is registered by. Older files have
    neither, and only classes that were registered are named package>class.
    """
    if module is None:
        return not registered
    return str(module).partition(".")[0] in _PACKAGES and ">" not in str(registered)
