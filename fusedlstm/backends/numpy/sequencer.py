"""Sequences of a fixed size in NumPy, in buffers that stay in place."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.backends.numpy.sequence import NumpySequence
from fusedlstm.backends.numpy.states import StatesInPlace
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.backends.numpy.cell import NumpyCell
    from fusedlstm.backends.sequence_run import SequenceRun
    from fusedlstm.stacked import StackedWeights


class NumpySequencer(StatesInPlace):
    """See `fusedlstm.backends.base.SequencerEngine`. A run that fails leaves the state unchanged."""

    def __init__(self, weights: StackedWeights, buffers: SequenceRun) -> None:
        super().__init__(buffers.states)
        finals = [LSTMState(h=np.empty_like(state.h), c=np.empty_like(state.c)) for state in buffers.states]
        self._sequence, self._run = NumpySequence(weights), dataclasses.replace(buffers, finals=finals)
        self.kernels = ("numpy",) * len(weights.layers)

    def load(self, to: NumpyArray, values: NumpyArray) -> None:
        """Copy an array to a buffer."""
        to[...] = values

    def run(self, engines: Sequence[NumpyCell]) -> None:
        """Step the sequences, and then write the final state."""
        self._sequence.run(engines, self._run)
        self.write(self._run.finals)
