"""A fixed batch on a GPU: buffers, and graphs of a step on them, each queued by one call."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.cuda import fork, pinned
from fusedlstm.backends.cuda.graphs import captured
from fusedlstm.backends.cuda.launch import launch_reset
from fusedlstm.backends.cuda.layout import bits, copy_rows
from fusedlstm.backends.cuda.planned import Planned
from fusedlstm.backends.cuda.streams import Turns
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.backends.cuda.backend import StepPlan
    from fusedlstm.dtypes import Empty

_BOOL = np.dtype(np.bool_)


class CudaBatch:
    """See `fusedlstm.backends.Batch`."""

    def __init__(
        self,
        index: int,
        plans: Sequence[StepPlan],
        residual: Sequence[bool],
        B: int,
        reset_to: Sequence[LSTMState] | None,
        *,
        host: bool,
    ) -> None:
        fork.check_process()
        self._index, self._host = index, host
        self._plans = tuple(plans)  # whose weights the graphs read
        self._planned = planned = Planned(plans, residual, B)
        columns = planned.columns
        x = planned.operand[:, columns.inputs[0]]
        self.x, self.output = x, planned.output
        if host:
            self.x, self.output = (pinned.zeros(array.shape, array.dtype) for array in (x, planned.output))
        self.states = tuple(
            LSTMState(h=planned.operand[:, h], c=planned.c[:, c]) for h, c in zip(columns.hs, columns.cs, strict=True)
        )
        resets = (None, None) if reset_to is None else self._rows_of(reset_to)
        flags = self._device_flags = cupy.zeros((B,), _BOOL)
        self._flags = pinned.zeros((B,), _BOOL) if host else flags
        # Their first run, before they are captured, is on zeros, and ends in what is cleared.
        with contextlib.closing(planned):
            self._with_resets = captured(lambda: self._queue(resets))
            self._graph = captured(lambda: self._queue(None))
        planned.operand.fill(0)
        planned.c.fill(0)
        self._turns = Turns(index)
        self._turns.begin()
        held = (planned, resets, flags, self._with_resets, self._graph, self.x, self._flags, self.output)
        for plan in plans:
            plan.turns.add(self._turns)
        weakref.finalize(self, self._turns.keep_until_done, held).atexit = False

    def _rows_of(self, states: Sequence[LSTMState]) -> tuple[Any, Any]:
        """Return states (B, ...) or of one row as two matrices, with the columns of the buffers."""
        planned, columns = self._planned, self._planned.columns
        B = max(len(state.h) for state in states)  # one row is every row's
        h = cupy.zeros((B, columns.X + columns.H), planned.operand.dtype)
        c = cupy.zeros((B, columns.C), planned.c.dtype)
        for state, at_h, at_c in zip(states, columns.hs, columns.cs, strict=True):
            for to, rows in ((h[:, at_h], state.h), (c[:, at_c], state.c)):
                copy_rows(to, cupy.broadcast_to(bits(rows), to.shape))
        return h[:, columns.X :], c

    def _queue(self, resets: tuple[Any, Any] | None) -> None:
        """Queue what is captured: copies from and to the host, resets, if they are given, and the step."""
        planned = self._planned
        if self._host:
            pinned.queue_upload(planned.operand[:, planned.columns.inputs[0]], self.x)
        if resets is not None:
            if self._host:
                pinned.queue_upload(self._device_flags[None], self._flags[None])
            state = planned.operand[:, planned.columns.X :]
            launch_reset(self._device_flags, None, state, resets[0], planned.c, resets[1])
        planned.queue()
        if self._host:
            pinned.queue_download(self.output, planned.output)

    @property
    def is_first(self) -> Any:
        """(B,), all cleared by a step; from the first time that it is asked for, steps look at it."""
        self._graph = self._with_resets
        return self._flags

    def load(self, x: Any) -> None:
        """Copy x (B, I) to the buffer."""
        self._copy(self.x, x)

    def mark(self, is_first: Any) -> None:
        """Copy flags (B,), which may be NumPy's with buffers on the host, to theirs."""
        flags = self.is_first
        self._copy(flags[None], is_first[None])

    def _copy(self, to: Any, rows: Any) -> None:
        """Copy rows to a buffer of x or flags, in turn."""
        if self._host:
            to[...] = rows
        else:
            with self._turns.turn():
                copy_rows(to, rows)

    def copy_output(self, to: Any) -> None:
        """Copy the output to a contiguous array."""
        self._copy(to, self.output)

    def read(self, empty: Empty) -> tuple[LSTMState, ...]:
        """Return copies of the states, of the device, or with buffers on the host NumPy's."""
        with self._turns.turn():
            return tuple(LSTMState(h=self._read(state.h, empty), c=self._read(state.c, empty)) for state in self.states)

    def _read(self, array: Any, empty: Empty) -> Any:
        if self._host:
            return array.get()
        copy = empty(array.shape, array.dtype)
        copy_rows(copy, array)
        return copy

    def write(self, states: Sequence[LSTMState]) -> None:
        """Copy states to the buffers, of the device, or with buffers on the host NumPy's."""
        with self._turns.turn() as stream:
            for mine, new in zip(self.states, states, strict=True):
                for to, rows in ((mine.h, new.h), (mine.c, new.c)):
                    copy_rows(to, cupy.asarray(rows) if self._host else rows)
            if self._host:
                stream.synchronize()  # CuPy doesn't wait for copies from pinned memory, which the caller may write next

    def clear(self) -> None:
        """Write zeros to all states."""
        planned = self._planned
        with self._turns.turn():
            launch_reset(None, None, planned.operand[:, planned.columns.X :], None, planned.c, None)

    def run(self, plans: Sequence[StepPlan]) -> None:
        """Queue a step on the current stream; with buffers on the host, wait for it."""
        del plans  # whose memory the graphs read
        fork.check_process()
        if cupy.cuda.runtime.getDevice() != self._index:
            with cupy.cuda.Device(self._index):
                self._run()
        else:
            self._run()

    def _run(self) -> None:
        stream = self._turns.begin()
        try:
            self._graph.launch(stream)
        finally:
            self._turns.end(stream)
        if self._host:
            stream.synchronize()
            self._flags.fill(False)  # as the kernel has done with the copy
