"""A fixed batch on a GPU: buffers, and graphs of a step on them, each queued by one call."""

from __future__ import annotations

import contextlib
import functools
import weakref
from typing import TYPE_CHECKING, Any, Protocol

import cupy
import numpy as np

from fusedlstm.backends.cuda.fused_stepper import FusedStepper
from fusedlstm.backends.cuda.matmul_stepper import MatmulStepper
from fusedlstm.backends.cuda.runtime import fork, pinned
from fusedlstm.backends.cuda.runtime.graphs import captured
from fusedlstm.backends.cuda.runtime.streams import Turns
from fusedlstm.backends.cuda.runtime.strides import copy_rows
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import Empty
    from fusedlstm.backends.cuda.cell import CudaCell

_BOOL = np.dtype(np.bool_)


class Body(Protocol):
    """The buffers of a batch on the GPU, all zeros, and what a step queues on them.

    Attributes:
        turns: 2 where a step reads h in one place and writes it in another, and the next the other way round, else 1.
        x: (B, I).
        output: (B, width) of the top layer.
        states: before a step of each turn, for each layer.
    """

    turns: int
    x: Any
    output: Any
    states: tuple[tuple[LSTMState, ...], ...]

    def queue(self, turn: int, is_first: Any) -> None:
        """Queue a step on the current stream. Rows where is_first are reset, and the flags cleared."""

    def clear(self, turn: int) -> None:
        """Queue zeros for all states."""

    def zero(self) -> None:
        """Queue zeros for all buffers."""

    def close(self) -> None:
        """Forget what only `queue` needs, when that has been captured."""


class CudaStepper:
    """See `fusedlstm.backends.base.StepperEngine`."""

    is_torn = False

    def __init__(
        self,
        index: int,
        engines: Sequence[CudaCell],
        residual: Sequence[bool],
        B: int,
        reset_to: Sequence[LSTMState] | None,
        *,
        host: bool,
        kernels: tuple[str, ...],
    ) -> None:
        fork.check_process()
        self._index, self._host = index, host
        self._engines = tuple(engines)  # whose weights the graphs read
        self.kernels = kernels
        body: Body = (
            MatmulStepper(engines, residual, B, reset_to)
            if "matmul" in kernels
            else FusedStepper(engines, residual, B, reset_to, kernels)
        )
        self._body, self.all_states, self.turn = body, body.states, 0
        self.x, self.output = body.x, body.output
        if host:
            self.x, self.output = (pinned.zeros(array.shape, array.dtype) for array in (body.x, body.output))
        flags = self._device_flags = cupy.zeros((B,), _BOOL)
        self._flags = pinned.zeros((B,), _BOOL) if host else flags
        self._resets = False  # whether steps look at the flags
        # Their first run, before they are captured, is on zeros, and ends in what is cleared.
        with contextlib.closing(body):
            self._graphs = {
                (resets, turn): captured(functools.partial(self._queue, turn, resets=resets))
                for resets in (True, False)
                for turn in range(body.turns)
            }
        body.zero()
        self._turns = Turns(index)
        self._turns.begin()
        held = (body, flags, self._graphs, self.x, self._flags, self.output)
        for engine in engines:
            engine.turns.add(self._turns)
        weakref.finalize(self, self._turns.keep_until_done, held).atexit = False

    def _queue(self, turn: int, *, resets: bool) -> None:
        """Queue what is captured: copies from and to the host, and the step."""
        body = self._body
        if self._host:
            pinned.queue_upload(body.x, self.x)
            if resets:
                pinned.queue_upload(self._device_flags[None], self._flags[None])
        body.queue(turn, self._device_flags if resets else None)
        if self._host:
            pinned.queue_download(self.output, body.output)

    @property
    def _graph(self) -> Any:
        """The graph of the next step."""
        return self._graphs[self._resets, self.turn]

    @property
    def states(self) -> tuple[LSTMState, ...]:
        """For each layer the state as it is now."""
        return self.all_states[self.turn]

    @property
    def is_first(self) -> Any:
        """(B,), all cleared by a step; from the first time that it is asked for, steps look at it."""
        self._resets = True
        return self._flags

    def load(self, x: Any) -> None:
        """Copy x (B, I) to the buffer."""
        self._copy(self.x, x)

    def mark(self, is_first: Any) -> None:
        """Copy flags (B,), which may be NumPy's with buffers on the host, to theirs."""
        fork.check_process()
        self.is_torn = True
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

    def _begin_anew(self) -> None:
        if self.is_torn:
            self._flags.fill(False)
        self.is_torn = True

    def write(self, states: Sequence[LSTMState]) -> None:
        """Copy states to the buffers, of the device, or with buffers on the host NumPy's."""
        with self._turns.turn() as stream:
            self._begin_anew()
            for mine, new in zip(self.states, states, strict=True):
                for to, rows in ((mine.h, new.h), (mine.c, new.c)):
                    copy_rows(to, cupy.asarray(rows) if self._host else rows)
            if self._host:
                stream.synchronize()  # CuPy doesn't wait for copies from pinned memory, which the caller may write next
            self.is_torn = False

    def clear(self) -> None:
        """Write zeros to all states."""
        with self._turns.turn():
            self._begin_anew()
            self._body.clear(self.turn)
            self.is_torn = False

    def run(self, engines: Sequence[CudaCell]) -> None:
        """Queue a step on the current stream; with buffers on the host, wait for it."""
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
        self.turn = (self.turn + 1) % self._body.turns
        if self._host:
            stream.synchronize()
            self._flags.fill(False)  # as the kernel has done with the copy
        self.is_torn = False
