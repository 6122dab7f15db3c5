"""Sequences of a fixed size on a GPU: buffers that stay in place, and the graph of a run on them."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.cuda.chunked_sequence import kernels_of
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
    from fusedlstm.backends.sequence_run import SequencerForm
    from fusedlstm.stacked import StackedWeights


class CudaSequencer:
    """See `fusedlstm.backends.base.SequencerEngine`.

    With one direction, all layers are one StaticSequence. With two, each layer and direction is one. On a stream that
    the caller captures, calls only queue their kernels. They neither wait for earlier calls nor make later ones wait,
    as nobody knows when the caller's graph will run.

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
        with contextlib.ExitStack() as scope:
            scope.callback(_close, self._parts)
            xs, outputs = self._make_both(weights) if weights.bidirectional else self._make_one(weights)
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

    def _make_one(self, weights: StackedWeights) -> tuple[Any, Any]:
        """Make the only direction, and return its inputs and outputs."""
        self._add(slice(None), weights.residual, reverse=self._form.reverse, repeats=self._form.repeats)
        return self._parts[0].xs, self._parts[0].outputs

    def _make_both(self, weights: StackedWeights) -> tuple[Any, Any]:
        """Make both directions of each layer, and return the inputs and outputs of all.

        Each layer has one array of outputs, of which both directions write a half and which the next layer reads.
        """
        T, B, layers = self._form.T, self._form.B, weights.layers
        flags: list[Any] = [None, None]
        xs: Any = None
        first: Any = None
        for k in range(0, len(layers), 2):
            P, width = layers[k].output_size, layers[k].output_size + layers[k + 1].output_size
            whole, repeats = rows((T, B, width), weights.dtype), self._form.repeats and k + 2 == len(layers)
            for d, half in enumerate((whole[:, :, :P], whole[:, :, P:])):
                only, shared = slice(k + d, k + d + 1), {"xs": xs, "flags": flags[d], "outputs": half}
                part = self._add(only, weights.residual[k // 2 :][:1], reverse=d == 1, repeats=repeats, **shared)
                xs, flags[d] = part.xs, part.flags
            first, xs = xs if first is None else first, whole
        return first, xs

    def _add(
        self, which: slice, residual: Sequence[bool], *, reverse: bool, repeats: bool, **shared: Any
    ) -> StaticSequence:
        """Make the StaticSequence of some layers in one direction."""
        form = self._form
        reset_rows = 0 if self._resets is None else len(self._resets[0].h)
        launches = Form(form.B, self._marks.any, reset_rows, reverse, repeats and self._marks.any)
        part = StaticSequence(self._engines[which], residual, self.kernels[which], form.T, launches, **shared)
        self._parts.append(part)
        return part

    def _queue(self) -> None:
        """Queue a run on the current stream. It doesn't allocate or wait, so it can be captured."""
        for d, part in enumerate(self._parts[:2]):  # later layers have the same flags
            if part.flags is not None:
                self._marks.queue_flags(part.flags, 0, reverse=self._form.reverse or d == 1)
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
        if is_captured(cupy.cuda.get_current_stream()):
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
            is_ordered = not is_captured(cupy.cuda.get_current_stream())
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
