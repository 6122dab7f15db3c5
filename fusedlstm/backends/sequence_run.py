"""A call of an LSTM on sequences, as a SequenceEngine gets it. This doesn't import CuPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.state import LSTMState


@dataclass(frozen=True)
class SequenceRun:
    """The arguments and results of a call, all time-major, in the backend's arrays. They have been checked.

    `lengths`, `mask` and `is_first` are as the user gave them: NumPy arrays in host memory, or arrays on the device. At
    most one of `lengths` and `mask` is given.

    Attributes:
        xs: (T, B, I), any strides.
        states: the state of each layer and direction before its first step, any strides.
        outputs: (T, B, width), to be written. Columns are contiguous, T and B may have any strides.
        finals: a state for each layer and direction, to be written. The arrays are contiguous, and no input.
        lengths: (B,) integers of any type. Those on a device are clamped to 0..T, the others lie in it.
        mask: (T, B) booleans, True for the steps that a row takes.
        is_first: (T, B) booleans.
        reset_to: the state to reset rows to, of B rows or of one, for each layer and direction; None for zeros.
        reverse: whether a single direction runs from the last step to the first.
        repeats: whether the outputs of idle rows repeat the last ones, instead of being zeros.
    """

    xs: Array
    states: Sequence[LSTMState]
    outputs: Array
    finals: Sequence[LSTMState]
    lengths: Array | None = None
    mask: Array | None = None
    is_first: Array | None = None
    reset_to: Sequence[LSTMState] | None = None
    reverse: bool = False
    repeats: bool = False
