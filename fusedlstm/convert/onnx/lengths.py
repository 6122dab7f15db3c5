"""Tell whether an LSTM node's sequence_lens is all steps of every row, and whether two nodes have the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusedlstm import log
from fusedlstm.errors import WeightsFileError
from fusedlstm.files import blaming

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.convert.onnx.constants import Constants
    from fusedlstm.convert.onnx.dims import Dims
    from fusedlstm.convert.onnx.frames import Frame
    from fusedlstm.convert.onnx.graph import Value
    from fusedlstm.convert.onnx.node import LSTM

_INPUT = 4  # the index of sequence_lens among a node's inputs
_MOST_BETWEEN = 30
_UNCHANGED = ("Identity", "Cast")


@dataclass(frozen=True)
class _Kind:
    """Where lengths come from: all steps, a constant's numbers, or another value."""

    is_full: bool = False
    numbers: tuple[int, ...] | None = None
    value: Value | None = None


class Lengths:
    """Classifies sequence_lens of a model's LSTM nodes."""

    def __init__(self, constants: Constants, dims: Dims, frame: Callable[[LSTM], Frame]) -> None:
        self.constants, self.dims, self.frame = constants, dims, frame

    def are_alike(self, lower: LSTM, upper: LSTM) -> bool:
        """Return whether two adjacent layers have the same lengths."""
        one, other = self._kind(lower, lower), self._kind(upper, lower)
        if one.value is not None and other.value is not None:
            return one.value.key == other.value.key
        return one == other

    def warn(self, lstm: LSTM) -> None:
        """Log a warning if lengths are neither all steps nor an input of the model, as weights don't hold them."""
        kind = self._kind(lstm, lstm)
        if kind.numbers is not None:
            shown = ", ".join(map(str, kind.numbers[:8])) + (", ..." if len(kind.numbers) > 8 else "")
            log.warning("sequence_lens of the LSTM %r is constant: pass lengths=[%s] at each call", lstm.label, shown)
        elif kind.value is not None and not kind.value.is_input:
            made = "nothing" if kind.value.node is None else f"{kind.value.node.op} {kind.value.node.name!r}"
            log.warning("the model computes sequence_lens of the LSTM %r (%s): pass lengths=", lstm.label, made)

    def _kind(self, lstm: LSTM, frame_of: LSTM) -> _Kind:
        value = lstm.node.value(_INPUT)
        if value is None:
            return _Kind(is_full=True)
        T = self.frame(frame_of).T
        try:
            with blaming(lstm.label):
                dims = self.dims.vector(value, frame_of, repeated=True)
            if dims and all(dim == T for dim in dims):
                return _Kind(is_full=True)
        except WeightsFileError:
            pass
        try:
            with blaming(lstm.label):
                array = self.constants.array(value.scope, value.name, f"sequence_lens of the LSTM {lstm.label!r}")
            return _Kind(numbers=tuple(int(number) for number in array.reshape(-1)))
        except WeightsFileError:
            return _Kind(value=unmoved(value))


def unmoved(value: Value) -> Value:
    """Return the value before any Cast or Identity."""
    for _ in range(_MOST_BETWEEN):
        if value.node is None or value.node.op not in _UNCHANGED or value.output:
            break
        below = value.node.value(0)
        if below is None:
            break
        value = below
    return value
