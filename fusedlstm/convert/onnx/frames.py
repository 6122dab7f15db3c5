"""Where an LSTM's T and B come from: followed from its X to the model's input, whose dims may be fixed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fusedlstm.convert.onnx.dims import ONE, Dim
from fusedlstm.convert.onnx.operators import few
from fusedlstm.files import WeightsFileError, blaming

if TYPE_CHECKING:
    from fusedlstm.convert.onnx.constants import Constants
    from fusedlstm.convert.onnx.graph import Node, Value
    from fusedlstm.convert.onnx.node import LSTM

_MOST_BEFORE = 30
_UNCHANGED = ("Identity", "Dropout", "Cast")


@dataclass
class Frame:
    """What is known of the axes where an LSTM reads.

    Attributes:
        T: how many steps: the letter, or a fixed number.
        B: how many rows.
        axes: what the axes of values that lead to X are, by the values' keys: T, B, I or 1.
        source: the model's input that X is, moved; None if it is computed.
        lower: the frame of the LSTM whose Y is X, if it is one's.
    """

    T: Dim = (1, ("T",))
    B: Dim = (1, ("B",))
    axes: dict[tuple[int, str], list[str]] = field(default_factory=dict)
    source: Value | None = None
    lower: Frame | None = None

    def within(self, lower: Frame) -> Frame:
        """Return the frame of an LSTM that reads what another one made."""
        return Frame(lower.T, lower.B, self.axes, None, lower)

    def dims(self, value: Value) -> list[Dim] | None:
        """Return the sizes of a value's axes, or None where they are not known."""
        frame: Frame | None = self
        while frame is not None:
            if value.key in frame.axes:
                sizes: dict[str, Dim] = {"T": frame.T, "B": frame.B, "I": (1, ("I",)), "1": ONE}
                return [sizes[axis] for axis in frame.axes[value.key]]
            frame = frame.lower
        return None


def framed(lstm: LSTM, constants: Constants) -> Frame:
    """Return what is known of an LSTM's T and B by what leads to its X."""
    frame = Frame()
    value, axes = lstm.node.value(0), ["B", "T", "I"] if lstm.batch_first else ["T", "B", "I"]
    try:
        with blaming(lstm.label):
            for _ in range(_MOST_BEFORE):
                if value is None:
                    break
                frame.axes[value.key] = axes
                if value.node is None or value.output:
                    break
                axes = _before(value.node, axes, constants)
                value = value.node.value(0)
    except WeightsFileError:
        return frame
    _fix(frame, value)
    return frame


def _before(node: Node, axes: list[str], constants: Constants) -> list[str]:
    """Return the axes of what an operator made a value with these axes of.

    Raises:
        WeightsFileError: it is not one that moves axes.
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


def _fix(frame: Frame, value: Value | None) -> None:
    """Take T and B from what the model's input declares, and note an axis that was put in as of size 1."""
    if value is None or not value.is_input or value.key not in frame.axes:
        return
    axes, declared = frame.axes[value.key], value.declared_dims()
    frame.source = value
    for letter in "TB":
        if letter not in axes:
            setattr(frame, letter, ONE)
        elif declared is not None and len(declared) == len(axes):
            dim = declared[axes.index(letter)]
            if dim is not None:
                setattr(frame, letter, (dim, ()))
