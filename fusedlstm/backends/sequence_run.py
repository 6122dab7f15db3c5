"""What engines get of an LSTM's call on sequences, and of a Sequencer. This doesn't import CuPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.state import LSTMState


MASKED_OUTPUTS = ("zero", "last")  # the outputs of steps that a row does not take


@dataclass(slots=True)
class SequenceRun:
    """The arguments and results of a call, all time-major, in the backend's arrays. They have been checked.

    `lengths`, `mask` and `is_first` are as the user gave them: NumPy arrays in host memory, or arrays on the device. At
    most one of `lengths` and `mask` is given.

    Attributes:
        xs: (T, B, I), any strides.
        states: the state of each layer and direction before its first step, any strides.
        outputs: (T, B, width), to be written. Columns are contiguous, T and B may have any strides.
        finals: a state for each layer and direction, to be written. The arrays are contiguous. In a call, none is an
            input.
        lengths: (B,) integers of any type. Those on a device are clamped to 0 and T. The others are from 0 to T.
        mask: (T, B) booleans, True for the steps that a row takes.
        is_first: (T, B) booleans.
        reset_to: the state to reset rows to, of B rows or of one, for each layer and direction; None for zeros.
        reverse: whether a single direction runs from the last step to the first.
        repeats: whether the outputs of idle rows repeat the last ones, instead of being zeros.
        cells: the state of each layer and direction after every step, to be written: h (T, B, P) and c (T, B, N) with
            contiguous columns, T and B of any strides. None if it isn't wanted.
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
    cells: Sequence[LSTMState] | None = None


@dataclass(frozen=True)
class SequencerForm:
    """What the runs of a Sequencer have in common, besides its weights. The attributes have been checked.

    Attributes:
        T: the number of steps.
        B: the number of rows.
        lengths: whether there is a buffer of lengths. Likewise mask and is_first.
        reset_to: the state to reset rows to, of B rows or of one, for each layer and direction; None for zeros.
        reverse: whether a single direction runs from the last step to the first.
        repeats: whether the outputs of idle rows repeat the last ones, instead of being zeros.
    """

    T: int
    B: int
    lengths: bool
    mask: bool
    is_first: bool
    reset_to: Sequence[LSTMState] | None
    reverse: bool
    repeats: bool

    def flags(self, xp: ModuleType) -> dict[str, Array]:
        """Return new buffers of lengths, mask and is_first, as asked. Rows take all steps, and none is reset."""
        made: dict[str, Array] = {}
        if self.lengths:
            made["lengths"] = xp.full((self.B,), self.T, xp.int64)
        if self.mask:
            made["mask"] = xp.ones((self.T, self.B), xp.bool_)
        if self.is_first:
            made["is_first"] = xp.zeros((self.T, self.B), xp.bool_)
        return made
