"""Layers in one direction through sequences of any length: chunks of steps, each one launch of a graph."""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

from fusedlstm.backends import sequence_choice
from fusedlstm.backends.cuda.runtime.cublaslt import check_can_plan, why_not
from fusedlstm.backends.cuda.runtime.graphs import captured
from fusedlstm.backends.cuda.runtime.streams import Turns
from fusedlstm.backends.cuda.runtime.strides import copy_steps
from fusedlstm.backends.cuda.sequence_form import Form, even_rows
from fusedlstm.backends.cuda.static_sequence import StaticSequence, steps_that_fit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.cuda.sequence_marks import Marks
    from fusedlstm.backends.sequence_run import SequenceRun
    from fusedlstm.state import LSTMState

SIZES = (64, 32, 16, 8, 4, 2, 1)  # of chunks, in steps
_MOST_SETS = 8  # of graphs to keep; limiting single graphs would drop some of a set of SIZES, call after call


def chunks(T: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield chunks of T steps, each as its first step and its number of steps: one of SIZES, up to `most`."""
    start = 0
    for size in SIZES:
        while size <= most and T - start >= size:
            yield start, size
            start += size


def most_steps(engines: Sequence[CudaCell], form: Form) -> int:
    """Return how many steps a chunk has at most."""
    limit = steps_that_fit(engines, form)
    return next(size for size in SIZES if size <= limit)


def kernels_of(engines: Sequence[CudaCell], steps: int, B: int, *, scans: bool = True) -> tuple[str, ...]:
    """Return the kernel of each layer in graphs of at most `steps` steps of B rows.

    `fusedlstm.backends.sequence_choice.choose` explains the choice, and `scans`.

    Raises:
        BackendUnavailableError: a step needs matmul, which can't be planned here.
    """
    can_plan = why_not() is None
    found: list[str] = []
    for engine in engines:
        weights = engine.weights
        about = weights.dtype.name, engine.precision, weights.capability
        kernel = sequence_choice.choose(
            *(steps, B, (weights.I, weights.N, weights.P), *about),
            projects=weights.weight_hr is not None,
            forced=engine.sequence_kernel,
            can_plan=can_plan,
            measured=engine.measured,
            scans=scans,
        )
        found.append(kernel)
    if "matmul" in found:
        check_can_plan()
    return tuple(found)


class ChunkedSequence:
    """Runs sequences through layers in one direction. Several threads may do so at once, each on its own buffers.

    Args:
        index: the GPU.
        residual: whether each layer's output is its h plus its input.
    """

    def __init__(self, index: int, residual: Sequence[bool]) -> None:
        self._index, self._residual = index, tuple(residual)
        self._free: list[_Graphs] = []  # that no call is using; the one used last is at the end

    def run(self, engines: Sequence[CudaCell], run: SequenceRun, marks: Marks) -> None:
        """Queue the steps of these layers on the current stream. T and B are at least 1.

        Args:
            engines: an engine for each layer.
            run: the arguments and results for these layers, except the marks.
            marks: which rows take which steps, and where sequences begin.
        """
        reset_to = run.reset_to
        reset_to = None if marks.is_first is None or reset_to is None else even_rows(reset_to, run.xs.shape[1])
        reset_rows = 0 if reset_to is None else len(reset_to[0].h)
        repeats, cells = run.repeats and marks.any, run.cells is not None
        form = Form(run.xs.shape[1], marks.any, reset_rows, run.reverse, repeats, cells)
        graphs = self._take(engines, form)
        try:
            graphs.run(run, marks, reset_to)
        finally:
            self._give_back(graphs)

    def _take(self, engines: Sequence[CudaCell], form: Form) -> _Graphs:
        """Return graphs of this form that no other call uses."""
        for graphs in self._free[::-1]:
            if graphs.form == form:
                try:
                    self._free.remove(graphs)
                except ValueError:  # another thread has just taken them
                    continue
                return graphs
        return _Graphs(self._index, engines, self._residual, form)

    def _give_back(self, graphs: _Graphs) -> None:
        """Keep graphs for later calls. The least recently used ones are freed."""
        if not len(graphs):  # the call failed early
            return
        free = self._free
        free.append(graphs)
        while len(free) > _MOST_SETS:
            try:
                free.pop(0)
            except IndexError:  # another thread has just taken the last
                return


class _Graphs:
    """A StaticSequence, and its graphs by their numbers of steps. One call at a time uses them.

    Args:
        index: the GPU.
        engines: an engine for each layer. The graphs read their weights.
        residual: whether each layer's output is its h plus its input.
        form: what decides the launches.
    """

    def __init__(self, index: int, engines: Sequence[CudaCell], residual: Sequence[bool], form: Form) -> None:
        self.form = form
        self._most = most_steps(engines, form)
        kernels = kernels_of(engines, self._most, form.B, scans=not form.cells)
        self._static = StaticSequence(engines, residual, kernels, self._most, form)
        self._by_steps: dict[int, Any] = {}
        self._turns = Turns(index)
        stream = self._turns.begin()
        for engine in engines:
            engine.weights.wait_until_uploaded(stream)
            engine.turns.add(self._turns)
        held = self._static, tuple(engines), self._by_steps
        weakref.finalize(self, self._turns.keep_until_done, held).atexit = False
        weakref.finalize(self, self._static.close).atexit = False

    def __len__(self) -> int:
        return len(self._by_steps)

    def run(self, run: SequenceRun, marks: Marks, reset_to: Sequence[LSTMState] | None) -> None:
        """Queue the steps of a call."""
        static, reverse = self._static, self.form.reverse
        parts = list(chunks(len(run.xs), self._most))
        with self._turns.turn() as stream:
            for _, steps in parts:
                self._capture(steps)  # now, as this also runs the steps
            static.begin(run.states, reset_to)
            for start, steps in reversed(parts) if reverse else parts:
                stop = start + steps
                copy_steps(static.xs[:steps], run.xs[start:stop])
                if static.flags is not None:
                    marks.queue_flags(static.flags[:steps], start, reverse=reverse)
                self._by_steps[steps].launch(stream)
                copy_steps(run.outputs[start:stop], static.outputs[:steps])
                for cells, own in zip(run.cells or (), static.cells, strict=True):
                    copy_steps(cells.h[start:stop], own.h[:steps])
                    copy_steps(cells.c[start:stop], own.c[:steps])
            static.end(run.finals)

    def _capture(self, steps: int) -> None:
        """Capture the graph of this many steps, unless it is there."""
        if steps not in self._by_steps:
            self._static.prepare(steps)
            self._by_steps[steps] = captured(functools.partial(self._static.queue, steps))
