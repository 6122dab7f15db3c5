"""Follow an LSTM's X to the model's input, whose dims may fix T and B."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fusedlstm.convert.onnx.dims import ONE, Dim
from fusedlstm.convert.onnx.operators import few
from fusedlstm.errors import WeightsFileError
from fusedlstm.files import blaming

if TYPE_CHECKING:
    from fusedlstm.convert.onnx.constants import Constants
    from fusedlstm.convert.onnx.graph import Node, Value
    from fusedlstm.convert.onnx.node import LSTM

_MOST_BEFORE = 30
_UNCHANGED = ("Identity", "Dropout", "Cast")


@dataclass
class Frame:
    """Facts about the axes of an LSTM's X.

    Attributes:
        T: the number of steps: the letter, or a fixed number.
        B: the number of rows, likewise.
        axes: the names of the axes of each value that leads to X, by its key: T, B, I or 1.
        lower: the frame of the LSTM whose Y is X, if there is one.
    """

    T: Dim = (1, ("T",))
    B: Dim = (1, ("B",))
    axes: dict[tuple[int, str], list[str]] = field(default_factory=dict)
    lower: Frame | None = None

    def within(self, lower: Frame) -> Frame:
        """Return the frame of an LSTM that reads another LSTM's output."""
        return Frame(lower.T, lower.B, self.axes, lower)

    def dims(self, value: Value) -> list[Dim] | None:
        """Return the sizes of a value's axes; None if they are unknown."""
        frame: Frame | None = self
        while frame is not None:
            if value.key in frame.axes:
                sizes: dict[str, Dim] = {"T": frame.T, "B": frame.B, "I": (1, ("I",)), "1": ONE}
                return [sizes[axis] for axis in frame.axes[value.key]]
            frame = frame.lower
        return None


def framed(lstm: LSTM, constants: Constants) -> Frame:
    """Return what the values that lead to an LSTM's X tell about T and B."""
    frame, value = Frame(), lstm.node.value(0)
    if value is not None:
        axes = ["B", "T", "I"] if lstm.batch_first else ["T", "B", "I"]
        source, moved = traced(value, axes, constants, frame.axes)
        if source is not None:
            _fix(frame, source, moved)
    return frame


def traced(
    value: Value, axes: list[str], constants: Constants, passed: dict[tuple[int, str], list[str]] | None = None
) -> tuple[Value | None, list[str]]:
    """Follow a value back through operators that move axes to an input of the model.

    Args:
        value: the value.
        axes: the names of its axes.
        constants: the model's constants.
        passed: where to record the axes of each value on the way, by its key.

    Returns:
        The input, or None if the value comes from elsewhere; and the names of its axes.
    """
    current: Value | None = value
    try:
        with blaming(value.name):
            for _ in range(_MOST_BEFORE):
                if current is None:
                    break
                if passed is not None:
                    passed[current.key] = axes
                if current.node is None or current.output:
                    break
                axes = _before(current.node, axes, constants)
                current = current.node.value(0)
    except WeightsFileError:
        return None, axes
    is_input = current is not None and current.is_input and current.scope.owner is None
    return (current if is_input else None), axes


def _before(node: Node, axes: list[str], constants: Constants) -> list[str]:
    """Return the axes of an operator's input, given those of its output.

    Raises:
        WeightsFileError: the operator doesn't only move axes.
    """
    attributes = node.attributes()
    if node.op in _UNCHANGED:
        return axes
    if node.op == "Transpose":
        order = attributes.get("perm", list(range(len(axes)))[::-1])
        return [axis for _, axis in sorted(zip(order, axes, strict=True))]
    if node.op not in ("Squeeze", "Unsqueeze"):
        raise WeightsFileError(f"made by {node.op}")
    moved = attributes.get("axes")
    if moved is None:
        moved = constants.array(node.scope, node.input(1), "axes").reshape(-1)
    moved = few("axes", moved)
    if node.op == "Squeeze":
        rank, old = len(axes) + len(moved), iter(axes)
        gone = {range(rank)[axis] for axis in moved}
        return ["1" if index in gone else next(old) for index in range(rank)]
    new = {range(len(axes))[axis] for axis in moved}
    return [axis for index, axis in enumerate(axes) if index not in new]


def _fix(frame: Frame, source: Value, axes: list[str]) -> None:
    """Take T and B from the dims that the model's input declares. An added axis has size 1."""
    declared = source.declared_dims()
    for letter in "TB":
        if letter not in axes:
            setattr(frame, letter, ONE)
        elif declared is not None and len(declared) == len(axes):
            dim = declared[axes.index(letter)]
            if dim is not None:
                setattr(frame, letter, (dim, ()))
