"""Describe a model's LSTMs for `list_onnx`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusedlstm.errors import WeightsFileError
from fusedlstm.files import blaming

if TYPE_CHECKING:
    from fusedlstm.convert.onnx.constants import Constants
    from fusedlstm.convert.onnx.units import Unit


@dataclass(frozen=True)
class OnnxLSTM:
    """One LSTM of a model: a node, or several that are one.

    Attributes:
        name: its name for `from_onnx`.
        direction: "forward", "reverse" or "bidirectional"; None if it is none of these.
        batch_first: whether it takes (B, T, I).
        input_size: I; None if the weights can't be read.
        hidden_size: N; likewise.
        dtype: the name of the weights' dtype; likewise.
        options: those of LSTMWeights, for each direction.
        problem: why its weights can't be read; "" if they can.
        also: names of other nodes that are the same LSTM: they have equal weights, in other branches of an If.
    """

    name: str
    direction: str | None = None
    batch_first: bool = False
    input_size: int | None = None
    hidden_size: int | None = None
    dtype: str | None = None
    options: tuple[dict[str, Any], ...] = ()
    problem: str = ""
    also: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.problem:
            return f"{self.name!r} (which can't be read)"
        direction = "" if self.direction == "forward" else f", {self.direction}"
        also = f", and in another branch {', '.join(map(repr, self.also))}" if self.also else ""
        return f"{self.name!r} (I={self.input_size}, N={self.hidden_size}, {self.dtype}{direction}{also})"


def describe(label: str, unit: Unit | None, problem: str, constants: Constants) -> OnnxLSTM:
    """Describe one LSTM. If it can't be read, `unit` is None and `problem` says why."""
    if unit is None:
        return OnnxLSTM(label, problem=problem)
    lstm, also = unit.named, tuple(other.label for other in unit.others)
    try:
        with blaming(constants.model.name):
            weights = lstm.weights(constants)
    except WeightsFileError as error:
        return OnnxLSTM(label, problem=str(error), also=also)
    first, options = weights[0], tuple(each.options() for each in weights)
    sizes = first.input_size, first.hidden_size, str(first.dtype)
    return OnnxLSTM(label, lstm.direction, lstm.batch_first, *sizes, options, also=also)
