"""Sequences of a fixed size on a GPU: buffers that stay in place, and the graph of a run on them."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.cuda.chunked_sequence import kernels_of
from fusedlstm.backends.cuda.groups import groups_of, width_of
from fusedlstm.backends.cuda.runtime import fork
from fusedlstm.backends.cuda.runtime.graphs import captured
from fusedlstm.backends.cuda.runtime.streams import Turns, check_not_captured, is_captured
from fusedlstm.backends.cuda.runtime.strides import bits, copy_rows, copy_steps
from fusedlstm.backends.cuda.sequence_form import Form, even_rows, rows
from fusedlstm.backends.cuda.sequence_marks import Marks
from fusedlstm.backends.cuda.static_sequence import StaticSequence
from fusedlstm.backends.sequence_run import SequenceRun
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fusedlstm.arrays.dtypes import Empty
    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.cuda.groups import Part
    from fusedlstm.backends.sequence_run import SequencerForm
    from fusedlstm.stacked import StackedWeights


class CudaSequencer:
    """See `fusedlstm.backends.base.SequencerEngine`.

    Each part of `groups.py` is one StaticSequence. On a stream that the caller captures, calls only queue their
    kernels. They neither wait for earlier calls nor make later ones wait, as nobody knows when the caller's graph will
    run.

    Args:
        index: the GPU, which is the current one.
        weights: the weights of the layers and directions.
        engines: an engine for each of them. The graph reads their weights.
        form: what all runs have in common.
    """

    is_torn = False

    def __init__(self, index: int, weights: StackedWeights, engines: Sequence[CudaCell], form: SequencerForm) -> None:
        fork.check_process()
        self._index, self._engines, self._form = index, tuple(engines), form
        self.kernels = kernels_of(engines, form.T, form.B)
        given = form.flags(cupy)
        self._marks = Marks(form.T, **given)
        self._resets: Any = None  # of each layer and direction
        if form.reset_to is not None:
            copies = [LSTMState(h=each.h.copy(), c=each.c.copy()) for each in form.reset_to]
            self._resets = even_rows(copies, form.B)
        self._parts: list[StaticSequence] = []
        self._flags: dict[bool, Any] = {}  # by whether the direction is backward
        with contextlib.ExitStack() as scope:
            scope.callback(_close, self._parts)
            xs, outputs = self._make(weights)
            self._states = tuple(state for part in self._parts for state in part.states)
            for part in self._parts:
                part.prepare(form.T)
            self._graph = captured(self._queue)  # which also runs it
            scope.pop_all()
        bits(outputs).fill(0)
        self._zero()
        self.buffers = SequenceRun(xs, self._states, outputs, self._states, **given)
        self._turns = Turns(index)
        stream = self._turns.begin()
        for engine in engines:
            engine.weights.wait_until_uploaded(stream)
            engine.turns.add(self._turns)
        held = self._parts, self._engines, self._marks, self._resets, self._graph
        weakref.finalize(self, self._turns.keep_until_done, held).atexit = False
        weakref.finalize(self, _close, self._parts).atexit = False

    def _make(self, weights: StackedWeights) -> tuple[Any, Any]:
        """Make the StaticSequence of each part, and return the inputs and outputs of all.

        The parts of a group read the same inputs, and write to one array, which the next group reads.
        """
        form, groups = self._form, groups_of(weights)
        first: Any = None
        xs: Any = None
        for group in groups:
            repeats = form.repeats and group is groups[-1]
            whole = rows((form.T, form.B, width_of(group)), weights.dtype)
            for part in group:
                made = self._add(part, xs, whole[:, :, part.columns], repeats=repeats)
                xs = made.xs
            first, xs = xs if first is None else first, whole
        return first, xs

    def _add(self, part: Part, xs: Any, outputs: Any, *, repeats: bool) -> StaticSequence:
        """Make the StaticSequence of a part. All parts of one direction have the same flags."""
        form, reverse = self._form, self._form.reverse or part.backward
        reset_rows = 0 if self._resets is None else len(self._resets[0].h)
        launches = Form(form.B, self._marks.any, reset_rows, reverse, repeats and self._marks.any)
        made = StaticSequence(
            self._engines[part.which],
            part.residual,
            self.kernels[part.which],
            form.T,
            launches,
            xs=xs,
            flags=self._flags.get(reverse),
            outputs=outputs,
        )
        self._parts.append(made)
        if made.flags is not None:
            self._flags[reverse] = made.flags
        return made

    def _queue(self) -> None:
        """Queue a run on the current stream. It doesn't allocate or wait, so it can be captured."""
        for reverse, flags in self._flags.items():
            self._marks.queue_flags(flags, 0, reverse=reverse)
        done = 0
        for part in self._parts:
            stop = done + len(part.states)
            part.begin(part.states, None if self._resets is None else self._resets[done:stop])
            part.queue(self._form.T)
            done = stop

    def load(self, to: Any, values: Any) -> None:
        """Copy an array to a buffer, in order with other calls."""
        with self._turn():
            if to is self.buffers.xs:
                copy_steps(to, values)
                return
            if isinstance(values, np.ndarray):
                check_not_captured(
                    "an argument in host memory", "each replay would read memory that is freed after the call"
                )
            values = cupy.asarray(values)
            if values.dtype == np.uint64:  # of lengths; without a copy, which a caller's graph would outlive
                cupy.minimum(values, np.uint64(self._form.T), out=to.view(np.uint64))
            else:
                to[...] = values

    def run(self, engines: Sequence[CudaCell]) -> None:
        """Queue a run on the current stream."""
        for engine in engines:  # the graph reads their memory
            engine.check()
        if cupy.cuda.runtime.getDevice() != self._index:
            with cupy.cuda.Device(self._index):
                self._run()
        else:
            self._run()

    def _run(self) -> None:
        if is_captured(cupy.cuda.get_current_stream().ptr):
            self._queue()
            return
        stream = self._turns.begin()
        try:
            self.is_torn = True
            self._graph.launch(stream)
        except cupy.cuda.runtime.CUDARuntimeError:  # nothing was queued
            self.is_torn = False
            raise
        finally:
            self._turns.end(stream)
        self.is_torn = False

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Queue a call on the current stream, in order with other calls unless the caller captures it."""
        fork.check_process()
        with cupy.cuda.Device(self._index):
            is_ordered = not is_captured(cupy.cuda.get_current_stream().ptr)
            with self._turns.turn() if is_ordered else contextlib.nullcontext():
                yield

    def read(self, empty: Empty) -> tuple[LSTMState, ...]:
        """Return copies of the states, in arrays that `empty` makes."""
        with self._turn():
            copies = tuple(
                LSTMState(h=empty(state.h.shape, state.h.dtype), c=empty(state.c.shape, state.c.dtype))
                for state in self._states
            )
            _copy(copies, self._states)
        return copies

    def write(self, states: Sequence[LSTMState]) -> None:
        """Copy states to the buffers."""
        with self._turn():
            self.is_torn = True
            _copy(self._states, states)
            self.is_torn = False

    def clear(self) -> None:
        """Write zeros to all states."""
        with self._turn():
            self.is_torn = True
            self._zero()
            self.is_torn = False

    def _zero(self) -> None:
        for state in self._states:
            bits(state.h).fill(0)
            state.c.fill(0)


def _copy(to: Sequence[LSTMState], states: Sequence[LSTMState]) -> None:
    for mine, other in zip(to, states, strict=True):
        copy_rows(mine.h, other.h)
        copy_rows(mine.c, other.c)


def _close(parts: Sequence[StaticSequence]) -> None:
    """Free what is not memory."""
    for part in parts:
        part.close()
