"""Sequences of a fixed size on a GPU, in buffers that stay in place."""

from __future__ import annotations

import dataclasses
import weakref
from typing import TYPE_CHECKING, Any

import cupy

from fusedlstm.backends.cuda.runtime import fork
from fusedlstm.backends.cuda.runtime.streams import Turns
from fusedlstm.backends.cuda.runtime.strides import copy_rows
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import Empty
    from fusedlstm.backends.base import SequenceEngine
    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.sequence_run import SequenceRun


class CudaSequencer:
    """See `fusedlstm.backends.base.SequencerEngine`.

    Args:
        index: the GPU, which is the current one.
        engines: an engine for each layer and direction.
        sequence: runs the sequences.
        buffers: the inputs and results of every run.
    """

    is_torn = False

    def __init__(self, index: int, engines: Sequence[CudaCell], sequence: SequenceEngine, buffers: SequenceRun) -> None:
        fork.check_process()
        self._index, self._sequence, self._states = index, sequence, buffers.states
        B = buffers.xs.shape[1]
        self.kernels = tuple(engine.kernel_for(B) for engine in engines)
        finals = [LSTMState(h=cupy.empty_like(state.h), c=cupy.empty_like(state.c)) for state in buffers.states]
        self._run = dataclasses.replace(buffers, finals=finals)
        self._turns = Turns(index)
        stream = self._turns.begin()
        for engine in engines:
            engine.weights.wait_until_uploaded(stream)
            engine.turns.add(self._turns)
        weakref.finalize(self, self._turns.keep_until_done, (tuple(engines), self._run)).atexit = False

    def load(self, to: Any, values: Any) -> None:
        """Copy an array to a buffer, in order with other calls."""
        with self._turns.turn():
            to[...] = cupy.asarray(values)

    def run(self, engines: Sequence[CudaCell]) -> None:
        """Queue the sequences on the current stream."""
        with self._turns.turn():
            self.is_torn = True
            self._sequence.run(engines, self._run)
            _copy(self._states, self._run.finals)
            self.is_torn = False

    def read(self, empty: Empty) -> tuple[LSTMState, ...]:
        """Return copies of the states, in arrays that `empty` makes."""
        with self._turns.turn():
            copies = tuple(
                LSTMState(h=empty(state.h.shape, state.h.dtype), c=empty(state.c.shape, state.c.dtype))
                for state in self._states
            )
            _copy(copies, self._states)
        return copies

    def write(self, states: Sequence[LSTMState]) -> None:
        """Copy states to the buffers."""
        with self._turns.turn():
            self.is_torn = True
            _copy(self._states, states)
            self.is_torn = False

    def clear(self) -> None:
        """Write zeros to all states."""
        with self._turns.turn():
            self.is_torn = True
            for state in self._states:
                state.h.fill(0)
                state.c.fill(0)
            self.is_torn = False


def _copy(to: Sequence[LSTMState], states: Sequence[LSTMState]) -> None:
    for mine, other in zip(to, states, strict=True):
        copy_rows(mine.h, other.h)
        copy_rows(mine.c, other.c)
