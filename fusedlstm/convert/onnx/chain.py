"""Find out whether an LSTM node reads the output of another one, as the layers of one LSTM do.

Only the graph decides. Between two nodes there may be operators that move axes (see axes.py), both branches of an If,
and calls of functions. Each value is followed once, from the upper node's X down, by the names of its axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusedlstm.convert.onnx.axes import MOVES, BrokenChainError, Flow, Move, joined, moved
from fusedlstm.convert.onnx.dims import ONE, Dim, Dims
from fusedlstm.convert.onnx.frames import Frame, framed
from fusedlstm.convert.onnx.lengths import Lengths
from fusedlstm.errors import WeightsFileError
from fusedlstm.files import blaming

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fusedlstm.convert.onnx.constants import Constants
    from fusedlstm.convert.onnx.graph import Node, Scope, Value
    from fusedlstm.convert.onnx.node import LSTM

_LENGTHS = 4  # of a node's inputs: sequence_lens
_MOST_BETWEEN = 30  # operators between two layers; exporters stay below five


@dataclass(frozen=True)
class Below:
    """The input of an LSTM node.

    Attributes:
        lowers: the LSTM nodes whose Y it reads; several if they are in branches of an If.
        turned: whether it reads the steps of Y in reversed order.
        why: what it reads instead; "" if it reads an LSTM's Y.
    """

    lowers: tuple[LSTM, ...] = ()
    turned: bool = False
    why: str = ""


class Chains:
    """Follows the operators between a model's LSTM nodes.

    Args:
        lstms: all LSTM nodes that can be read.
        constants: the model's constants.
    """

    def __init__(self, lstms: Sequence[LSTM], constants: Constants) -> None:
        self.constants = constants
        self.dims = Dims(constants, self._dims_of)
        self.lengths = Lengths(constants, self.dims, self.frame)
        self._by_node = {id(lstm.node): lstm for lstm in lstms}
        self._flows: dict[tuple[int, str], tuple[Flow, ...] | BrokenChainError] = {}
        self._frames: dict[int, Frame] = {}
        self._below: dict[int, Below] = {}
        self._waiting = list(lstms)[::-1]

    def below(self, upper: LSTM) -> Below:
        """Return the nodes whose Y is an LSTM's X, or why there is none."""
        while self._waiting:  # follow nodes from the first one on, so that recursion stays shallow
            self.frame(self._waiting.pop())
        return self._found_below(upper)

    def _found_below(self, upper: LSTM) -> Below:
        if id(upper) not in self._below:
            try:
                with blaming(upper.label):
                    self._below[id(upper)] = self._looked_below(upper)
            except WeightsFileError as error:
                self._below[id(upper)] = Below(why=str(error))
        return self._below[id(upper)]

    def _looked_below(self, upper: LSTM) -> Below:
        try:
            flows = self._read(upper)
            return Below(tuple(flow.lower for flow in flows), flows[0].turned)
        except BrokenChainError as error:
            return Below(why=str(error))

    def frame(self, lstm: LSTM) -> Frame:
        """Return what is known about T and B in an LSTM's input."""
        if id(lstm) not in self._frames:
            self._frames[id(lstm)] = Frame()  # a placeholder, in case the model has a cycle
            lowers = self._found_below(lstm).lowers
            first = framed(lstm, self.constants)
            self._frames[id(lstm)] = first.within(self.frame(lowers[0])) if lowers else first
        return self._frames[id(lstm)]

    def _read(self, upper: LSTM) -> tuple[Flow, ...]:
        value = upper.node.value(0)
        if value is None:
            raise BrokenChainError("nothing")
        flows = self._followed(value, 0)
        for flow in flows:
            self._check(flow, upper)
            if flow.turned != flows[0].turned:
                raise BrokenChainError(f"the output of {flow.lower.label!r} in an order that depends on an If")
        return flows

    def _check(self, flow: Flow, upper: LSTM) -> None:
        """Raise unless a flow has the axes, dtype and lengths that an LSTM reads."""
        lower, width = flow.lower, "DN" if flow.lower.num_directions == 2 else "N"
        wanted = ("B", "T", width) if upper.batch_first else ("T", "B", width)
        has_all = len(flow.axes) == len(wanted) and all(map(flow.are_alike, flow.axes, wanted))
        if flow.part is not None or not has_all:
            got = f"one direction of {lower.label!r}" if flow.part is not None else f"the output of {lower.label!r}"
            raise BrokenChainError(f"{got} as ({', '.join(flow.axes)}), not as ({', '.join(wanted)})")
        if flow.dtype != flow.own:
            raise BrokenChainError(f"the output of {lower.label!r} in {flow.dtype}")
        self._check_context(lower, upper)
        if not self.lengths.are_alike(lower, upper):
            raise BrokenChainError(f"the output of {lower.label!r}, which has different sequence_lens")
        if flow.turned and upper.node.value(_LENGTHS) is not None:
            raise BrokenChainError(f"the output of {lower.label!r} in reversed order, padding included")

    @staticmethod
    def _check_context(lower: LSTM, upper: LSTM) -> None:
        """Raise if the upper node is in a loop and the lower one is outside of it."""
        outside = [id(owner) for owner, _ in lower.node.ancestry()]
        for owner, branch in upper.node.ancestry():
            if id(owner) not in outside and branch and owner.op != "If":
                raise BrokenChainError(
                    f"the output of {lower.label!r}, which is outside of the {owner.op} that the upper one is in"
                )

    def _followed(self, value: Value, level: int) -> tuple[Flow, ...]:
        """Return the flows of a value; several if it comes from branches of an If."""
        if value.key not in self._flows:
            self._flows[value.key] = BrokenChainError("a cycle")
            try:
                self._flows[value.key] = self._source(value, level)
            except BrokenChainError as error:
                self._flows[value.key] = error
        found = self._flows[value.key]
        if isinstance(found, BrokenChainError):
            raise BrokenChainError(str(found))
        return found

    def _source(self, value: Value, level: int) -> tuple[Flow, ...]:
        node = value.node
        if node is None:
            raise BrokenChainError(_origin(value))
        if id(node) in self._by_node:
            return (self._output(self._by_node[id(node)], value.output),)
        if level > _MOST_BETWEEN:
            raise BrokenChainError(f"the output of a chain of more than {_MOST_BETWEEN} operators")
        bodies = [body for body in _bodies(node) if value.output < len(body.outputs)]
        if bodies:
            return self._of_bodies([body.look_up(body.outputs[value.output]) for body in bodies], node, level)
        below = node.value(0)
        if below is None or node.op not in (*MOVES, "Concat"):
            raise BrokenChainError(_made_by(node))
        if node.op == "Concat":
            return self._joined(node, level)
        flows = self._followed(below, level + 1)
        return _each_once(moved(Move(node, flow, self.constants, self.dims, value.output)) for flow in flows)

    def _of_bodies(self, values: Sequence[Value], node: Node, level: int) -> tuple[Flow, ...]:
        flows: list[Flow] = []
        for value in values:
            try:
                flows += self._followed(value, level + 1)
            except BrokenChainError as error:
                raise BrokenChainError(f"{_made_by(node)}, which is {error}") from None
        return _each_once(flows)

    def _joined(self, node: Node, level: int) -> tuple[Flow, ...]:
        """Return the flows of a Concat of both directions. Each may come from several branches of an If."""
        try:
            values = [node.scope.look_up(name) for name in node.proto.input[:3]]
            parts = [self._followed(value, level + 1) for value in values]
        except BrokenChainError:
            raise BrokenChainError(_made_by(node)) from None
        lowers = [{id(flow.lower): flow for flow in part} for part in parts]
        if len({frozenset(each) for each in lowers}) != 1:
            raise BrokenChainError(_made_by(node))
        return tuple(joined(node, [each[lower] for each in lowers]) for lower in lowers[0])

    def _output(self, lower: LSTM, index: int) -> Flow:
        if index:
            which = ("Y", "Y_h", "Y_c")[min(index, 2)]
            raise BrokenChainError(f"{which} of the LSTM {lower.label!r}, not its Y")
        node, frame = lower.node, self.frame(lower)
        R = self.constants.array(node.scope, node.input(2), f"R of the LSTM {lower.label!r}")
        D, N = lower.num_directions, int(R.shape[-1])
        sizes = {"T": frame.T, "B": frame.B, "D": (D, ()), "N": (N, ()), "DN": (D * N, ()), "1": ONE}
        axes = ("B", "T", "D", "N") if lower.batch_first else ("T", "D", "B", "N")
        return Flow(lower, axes, str(R.dtype), str(R.dtype), tuple(sizes.items()))

    def _dims_of(self, value: Value, lstm: LSTM) -> list[Dim] | None:
        """Return the sizes of a value's axes if it is an LSTM's output or leads to its input."""
        try:
            for flow in self._followed(value, 0):
                if flow.lower is lstm:
                    return flow.dims()
        except BrokenChainError:
            pass
        return self.frame(lstm).dims(value)


def _each_once(flows: Iterable[Flow]) -> tuple[Flow, ...]:
    return tuple(dict.fromkeys(flows))


def _made_by(node: Node) -> str:
    return f"the output of {node.op} {node.name!r}"


def _origin(value: Value) -> str:
    """Describe a value that no node makes."""
    if value.tensor is not None:
        return f"the constant {value.name!r}"
    owner = value.scope.owner
    if value.is_input:
        return f"the input {value.name!r} of {'the model' if owner is None else f'{owner.op} {owner.name!r}'}"
    return f"{value.name!r}, which no node makes"


def _bodies(node: Node) -> list[Scope]:
    """Return the graphs whose outputs are a node's outputs: both branches of an If, or a function's body."""
    if "" in node.bodies:
        return [node.bodies[""]]
    if node.op == "If" and set(node.bodies) == {"then_branch", "else_branch"}:
        return list(node.bodies.values())
    return []
