"""Find the LSTM nodes of a model: their names, which of them are the same LSTM, and which are layers of one."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fusedlstm.convert.onnx.chain import Chains
from fusedlstm.convert.onnx.constants import Constants, hint_of
from fusedlstm.convert.onnx.graph import Node, walk
from fusedlstm.convert.onnx.initial import InitialStates
from fusedlstm.convert.onnx.listing import describe
from fusedlstm.convert.onnx.node import LSTM
from fusedlstm.convert.onnx.units import Unit, as_units, why_not_on
from fusedlstm.directions import BACKWARD, BOTH, FORWARD
from fusedlstm.errors import WeightsFileError
from fusedlstm.files import blaming
from fusedlstm.validation.arguments import describe_type, fail

if TYPE_CHECKING:
    from fusedlstm.convert.onnx.listing import OnnxLSTM
    from fusedlstm.convert.onnx.source import Model

_MOST_LISTED = 20


class Found:
    """The LSTM nodes of a model, by name, and the LSTMs that they make up.

    Attributes:
        model: the model.
        constants: its constants.
        units: its LSTMs, in order.
        chains: the operators between them.
        states: their initial states.
    """

    def __init__(self, model: Model, *, required: bool = True) -> None:
        self.model, self.constants = model, Constants(model)
        with blaming(model.name):
            every = list(walk(model))
            self._nodes = _labelled(model, every, required=required)
            self._others = [node for node in every if _is_another_lstm(node)]
            self._problems: dict[str, str] = {}
            lstms = [lstm for label, node in self._nodes.items() if (lstm := self._read(node, label)) is not None]
            self.units = as_units(lstms, self.constants)
            self.chains = Chains(lstms, self.constants)
            self.states = InitialStates(model, self.constants)
        self._unit_of = {member.label: unit for unit in self.units for member in unit.members}

    def _read(self, node: Node, label: str) -> LSTM | None:
        """Return a node's LSTM; None if its attributes are wrong, as the caller may choose another one."""
        try:
            return LSTM(self.model, node, label)
        except WeightsFileError as error:
            self._problems[label] = str(error)
            return None

    def listed(self, most: int | None = None) -> list[OnnxLSTM]:
        """Return descriptions of all LSTMs, or of the first `most`, in order."""
        return [
            describe(label, self._unit_of.get(label), self._problems.get(label, ""), self.constants)
            for label in self._labels()[:most]
        ]

    def _labels(self) -> list[str]:
        """Return one name of each LSTM."""
        units = {label: self._unit_of.get(label) for label in self._nodes}
        return [label for label, unit in units.items() if unit is None or unit.members[0].label == label]

    def choose(self, name: str | Sequence[str] | None) -> list[Unit]:
        """Return the named LSTMs or, without a name, the only one or all layers of one. Raise as in `from_onnx`."""
        names = _names(name)
        if names is None:
            with blaming(self.model.name):
                return self._only()
        self._check_names(name, names)
        with blaming(self.model.name):
            for each in names:
                if each in self._problems:
                    raise WeightsFileError(self._problems[each])
            units = self._named(names)
            why = self._why_not_a_stack(units)
        if why:
            self._refuse_names(units, why)
        return units

    def _check_names(self, name: Any, names: Sequence[str]) -> None:
        for index, each in enumerate(names):
            which = "name" if isinstance(name, str) else f"name[{index}]"
            if each not in self._nodes:
                fail(ValueError, which, f"the name of an LSTM in {self.model.name}: {self._shown()}", repr(each))
            if each in names[:index]:
                fail(ValueError, which, "each layer once", f"{each!r} twice")

    def _named(self, names: Sequence[str]) -> list[Unit]:
        """Return the named LSTMs, each once, as several names may be of one LSTM in branches of an If."""
        named: dict[int, Unit] = {}
        for name in names:
            unit = self._unit_of[name]
            (member,) = (member for member in unit.members if member.label == name)
            named.setdefault(id(unit), Unit(unit.members, member))
        return list(named.values())

    def _why_not_a_stack(self, units: Sequence[Unit]) -> str:
        """Return why the units are not layers, lowest first; "" if they are."""
        for lower, upper in itertools.pairwise(units):
            why = why_not_on(upper, lower, self.chains)
            if why:
                return why
        for unit, turned in zip(units, self.turns(units), strict=True):
            if turned and unit.named.num_directions == 2:
                return f"{unit.named.label!r} reads both directions of a reversed sequence, so its halves are swapped"
        return ""

    def turns(self, units: Sequence[Unit]) -> list[bool]:
        """Return for each layer whether it reads the steps in an order that is reversed from that of the lowest one."""
        turned, found = False, []
        for k, unit in enumerate(units):
            turned ^= k > 0 and self.chains.below(unit.named).turned
            found.append(turned)
        return found

    def directions(self, units: Sequence[Unit]) -> list[str]:
        """Return each layer's direction in the order of the lowest one's steps."""
        turns = self.turns(units)
        return [
            BOTH if unit.named.num_directions == 2 else BACKWARD if is_reversed(unit, turned) else FORWARD
            for unit, turned in zip(units, turns, strict=True)
        ]

    def _refuse_names(self, units: Sequence[Unit], why: str) -> None:
        names = [unit.named.label for unit in units]
        with blaming(self.model.name):
            ordered = self._in_order(units)
        if ordered is not None:
            right = ", ".join(repr(unit.named.label) for unit in ordered)
            fail(ValueError, "name", f"layers, lowest first: {right}", ", ".join(map(repr, names)))
        wanted = "layers, each of which reads the output of the one before"
        hint = "Convert each one alone, and compute what is between them as the model does"
        fail(ValueError, "name", wanted, f"{', '.join(map(repr, names))}: {why}", hint)

    def _in_order(self, units: Sequence[Unit]) -> list[Unit] | None:
        """Return the units as layers, lowest first; None if they are not layers."""
        above: dict[int, Unit] = {}
        lowest = []
        lowers = {id(member) for unit in units for member in unit.members}
        for unit in units:
            below = [each for each in self.chains.below(unit.named).lowers if id(each) in lowers]
            if not below:
                lowest.append(unit)
            else:
                above[id(self._unit_of[below[0].label].members)] = unit
        chain = lowest[:1]
        while chain and len(chain) < len(units) and id(chain[-1].members) in above:
            chain.append(above[id(chain[-1].members)])
        is_all = len({id(unit) for unit in chain}) == len(units)
        return chain if is_all and not self._why_not_a_stack(chain) else None

    def _only(self) -> list[Unit]:
        """Return the only LSTM, or all of them if they are layers."""
        if len(self._nodes) == len(self._problems) == 1:
            raise WeightsFileError(*self._problems.values())
        if self._others:
            node = self._others[0]
            got = f"also {node.op} {node.name!r}, besides {self._shown()}"
            self.model.refuse("its graph", "only ONNX's operator LSTM", got, "Give name=")
        if len(self.units) == 1 and not self._problems:
            return self.units
        chain = None if self._problems else self._in_order(self.units)
        if chain is None:
            why = self._why_not_a_stack(self.units)
            hint = f"{why}. Give name=" if why else "Give name="
            got = f"{len(self._labels())}: {self._shown()}"
            self.model.refuse("its graph", "one LSTM, or the layers of one", got, hint)
        return chain

    def _shown(self) -> str:
        with blaming(self.model.name):
            listed = self.listed(_MOST_LISTED)
        count = len(self._labels())
        more = [f"{count - len(listed)} more"] if count > len(listed) else []
        return ", ".join([*map(str, listed), *more])


def is_reversed(unit: Unit, turned: bool) -> bool:
    """Return whether an LSTM of one direction reads backward, in an order that may be reversed itself."""
    return (unit.named.direction == "reverse") != turned


def _names(name: Any) -> tuple[str, ...] | None:
    if name is None or isinstance(name, str):
        return None if name is None else (name,)
    if not isinstance(name, Sequence) or not name or not all(isinstance(each, str) for each in name):
        fail(TypeError, "name", "a node's name, a sequence of them, or None", describe_type(name))
    return tuple(name)


def _is_another_lstm(node: Node) -> bool:
    """Return whether a node is an LSTM of another domain, such as a quantised one, and not a function call."""
    return "LSTM" in node.proto.op_type and node.op != "LSTM" and "" not in node.bodies


def _labelled(model: Model, every: Sequence[Node], *, required: bool = True) -> dict[str, Node]:
    """Return the LSTM nodes by name, or by path if a name is not unique. Raise if there is none but one is required."""
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
    """Return the total length of the nodes' paths, as a long name may be in all of them."""
    sizes: dict[int, int] = {}
    for node in nodes:
        if id(node.scope) not in sizes:
            sizes[id(node.scope)] = sum(map(len, node.scope.path))
    return sum(sizes[id(node.scope)] for node in nodes)


def _refuse_without(model: Model, every: Sequence[Node]) -> None:
    """Raise an error that says what the model has instead of an LSTM."""
    for node in every:
        if "LSTM" in node.proto.op_type:
            model.refuse("its graph", "ONNX's operator LSTM", f"{node.op} {node.name!r}", hint_of(node.op))
    common = ", ".join(op for op, _ in Counter(node.op for node in every).most_common(8)) or "no operator"
    hint = "Cells exported as arithmetic have no LSTM node: take their weights from the framework that trained them"
    model.refuse("its graph", "ONNX's operator LSTM", common, hint)
