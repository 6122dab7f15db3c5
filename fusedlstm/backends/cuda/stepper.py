"""A fixed batch on a GPU: buffers, and graphs of a step on them, each queued by one call."""

from __future__ import annotations

import contextlib
import functools
import weakref
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.cuda.runtime import fork, pinned
from fusedlstm.backends.cuda.runtime.graphs import captured
from fusedlstm.backends.cuda.runtime.streams import Turns
from fusedlstm.backends.cuda.runtime.strides import copy_rows
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import Empty
    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.cuda.layer_step import BatchStep

_BOOL = np.dtype(np.bool_)


class CudaStepper:
    """See `fusedlstm.backends.base.StepperEngine`.

    Args:
        index: the GPU, which is the current one.
        engines: an engine for each layer. The graphs read their weights.
        step: holds the buffers and queues steps on them.
        kernels: the kernel that steps each layer.
        host: whether x, is_first and output are in host memory. The host then waits for each step, as only that orders
            its accesses and the kernels'.
    """

    is_torn = False

    def __init__(
        self,
        index: int,
        engines: Sequence[CudaCell],
        step: BatchStep,
        kernels: tuple[str, ...],
        *,
        host: bool,
    ) -> None:
        fork.check_process()
        self._index, self._host = index, host
        self._engines = tuple(engines)
        self.kernels = kernels
        self._step, self.all_states, self.current = step, step.states, 0
        self.x, self.output = step.x, step.output
        B = len(step.x)
        self._flags = pinned.zeros((B,), _BOOL) if host else cupy.zeros((B,), _BOOL)
        self._no_flags = bytes(B)
        flags = pinned.mapped(self._flags) if host else self._flags
        self._resets = False  # whether steps look at the flags
        # `captured` also runs what it captures. `step.zero` clears the results.
        with contextlib.closing(step):
            self._graphs = {
                (resets, current): captured(functools.partial(step.queue, current, flags if resets else None))
                for resets in (True, False)
                for current in range(step.buffers)
            }
        step.zero()
        self._turns = Turns(index)
        stream = self._turns.begin()
        held = (step, self._engines, flags, self._graphs, self.x, self._flags, self.output)
        for engine in engines:
            engine.weights.wait_until_uploaded(stream)
            engine.turns.add(self._turns)
        weakref.finalize(self, self._turns.keep_until_done, held).atexit = False

    @property
    def _graph(self) -> Any:
        """The graph of the next step. Flags on the host are checked first, as steps without resets are faster."""
        resets = self._resets
        if resets and self._host:
            resets = self._flags.tobytes() != self._no_flags
        return self._graphs[resets, self.current]

    @property
    def states(self) -> tuple[LSTMState, ...]:
        """The current state of each layer."""
        return self.all_states[self.current]

    @property
    def is_first(self) -> Any:
        """(B,) flags, which a step clears. Steps ignore them until this property is first read."""
        self._resets = True
        return self._flags

    def load(self, x: Any) -> None:
        """Copy x (B, I) to the buffer."""
        self._copy(self.x, x)

    def mark(self, is_first: Any) -> None:
        """Copy flags (B,) to the buffer. With host buffers they may be a NumPy array."""
        fork.check_process()
        self.is_torn = True
        flags = self.is_first
        self._copy(flags[None], is_first[None])

    def _copy(self, to: Any, rows: Any) -> None:
        """Copy rows, in order with other calls."""
        if self._host:
            to[...] = rows
        else:
            self._turns.call(copy_rows, to, rows)

    def copy_output(self, to: Any) -> None:
        """Copy the output to a contiguous array."""
        self._copy(to, self.output)

    def read(self, empty: Empty) -> tuple[LSTMState, ...]:
        """Return copies of the states: arrays on the device, or NumPy arrays with host buffers."""
        with self._turns.turn():
            return tuple(LSTMState(h=self._read(state.h, empty), c=self._read(state.c, empty)) for state in self.states)

    def _read(self, array: Any, empty: Empty) -> Any:
        if self._host:
            return array.get()
        copy = empty(array.shape, array.dtype)
        copy_rows(copy, array)
        return copy

    def _begin_anew(self) -> None:
        if self.is_torn:
            self._flags.fill(False)
        self.is_torn = True

    def write(self, states: Sequence[LSTMState]) -> None:
        """Copy states to the buffers: arrays on the device, or NumPy arrays with host buffers."""
        with self._turns.turn() as stream:
            self._begin_anew()
            for mine, new in zip(self.states, states, strict=True):
                for to, rows in ((mine.h, new.h), (mine.c, new.c)):
                    copy_rows(to, cupy.asarray(rows) if self._host else rows)
            if self._host:
                stream.synchronize()  # CuPy doesn't wait for copies from pinned memory, which the caller may overwrite
            self.is_torn = False

    def clear(self) -> None:
        """Write zeros to all states."""
        with self._turns.turn():
            self._begin_anew()
            self._step.clear(self.current)
            self.is_torn = False

    def run(self, engines: Sequence[CudaCell]) -> None:
        """Queue a step on the current stream. With host buffers, wait for it."""
        for engine in engines:  # the graphs read their memory
            engine.check()
        if cupy.cuda.runtime.getDevice() != self._index:
            with cupy.cuda.Device(self._index):
                self._run()
        else:
            self._run()

    def _run(self) -> None:
        stream, was_marked = self._turns.begin(), self.is_torn
        try:
            self.is_torn = True
            self._graph.launch(stream)
        except cupy.cuda.runtime.CUDARuntimeError:  # nothing was queued
            self.is_torn = was_marked
            raise
        finally:
            self._turns.end(stream)
        self.current = (self.current + 1) % self._step.buffers
        if self._host:
            stream.synchronize()
            self._flags.fill(False)  # as kernels clear only flags on the GPU
        self.is_torn = False
