"""Sequences of a fixed size in NumPy, in buffers that stay in place."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.arrays.dtypes import state_dtype
from fusedlstm.backends.numpy.sequence import NumpySequence
from fusedlstm.backends.numpy.states import StatesInPlace
from fusedlstm.backends.sequence_run import SequenceRun
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.backends.numpy.cell import NumpyCell
    from fusedlstm.backends.sequence_run import SequencerForm
    from fusedlstm.stacked import StackedWeights


class NumpySequencer(StatesInPlace):
    """See `fusedlstm.backends.base.SequencerEngine`. A run that fails leaves the state unchanged."""

    def __init__(self, weights: StackedWeights, form: SequencerForm) -> None:
        T, B, dtype, c_dtype = form.T, form.B, weights.dtype, state_dtype(weights.dtype)
        super().__init__(
            [
                LSTMState(h=np.zeros((B, layer.output_size), dtype), c=np.zeros((B, layer.hidden_size), c_dtype))
                for layer in weights.layers
            ]
        )
        resets = form.reset_to
        self.buffers = SequenceRun(
            xs=np.zeros((T, B, weights.input_size), dtype),
            states=self.states,
            outputs=np.zeros((T, B, weights.output_size), dtype),
            finals=self.states,
            reset_to=None if resets is None else [LSTMState(h=np.array(each.h), c=np.array(each.c)) for each in resets],
            reverse=form.reverse,
            repeats=form.repeats,
            **form.flags(np),
        )
        finals = [LSTMState(h=np.empty_like(state.h), c=np.empty_like(state.c)) for state in self.states]
        self._sequence, self._run = NumpySequence(weights), dataclasses.replace(self.buffers, finals=finals)
        self.kernels = ("numpy",) * len(weights.layers)

    def load(self, to: NumpyArray, values: NumpyArray) -> None:
        """Copy an array to a buffer."""
        to[...] = values

    def run(self, engines: Sequence[NumpyCell]) -> None:
        """Step the sequences, and then write the final state."""
        self._sequence.run(engines, self._run)
        self.write(self._run.finals)
