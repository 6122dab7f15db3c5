"""Whole sequences on a GPU, through layers and directions. All work is queued, and nothing is read from the GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cupy

from fusedlstm.backends.base import SequenceEngine
from fusedlstm.backends.cuda.chunked_sequence import ChunkedSequence, chunks, kernels_of, most_steps
from fusedlstm.backends.cuda.runtime import fork
from fusedlstm.backends.cuda.runtime.pinned import Uploads
from fusedlstm.backends.cuda.runtime.streams import check_not_captured
from fusedlstm.backends.cuda.runtime.strides import copy_rows
from fusedlstm.backends.cuda.sequence_marks import Marks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.sequence_run import SequenceRun
    from fusedlstm.stacked import StackedWeights


class CudaSequence(SequenceEngine):
    """See `fusedlstm.backends.base.SequenceEngine`.

    With one direction, each chunk of steps passes through all layers. With two, each layer runs both directions through
    the whole sequence, one after the other.

    Args:
        index: the GPU.
        weights: the layers. Only their form matters, as `run` gets the engines.
    """

    def __init__(self, index: int, weights: StackedWeights) -> None:
        self._index, self._bidirectional, residual = index, weights.bidirectional, weights.residual
        self._top = len(weights.layers) - 1
        if weights.bidirectional:
            self._parts = [ChunkedSequence(index, residual[k // 2 : k // 2 + 1]) for k in range(len(weights.layers))]
        else:
            self._parts = [ChunkedSequence(index, residual)]
        self._uploads: list[Uploads] = []  # that no call is using

    def run(self, engines: Sequence[CudaCell], run: SequenceRun) -> None:
        fork.check_process()
        for engine in engines:
            engine.check()
        with cupy.cuda.Device(self._index):
            check_not_captured("an LSTM's call on sequences", "it launches graphs, whose buffers later calls use again")
            if 0 in run.xs.shape[:2]:
                self._keep_states(run)
                return
            marks = self._marks(run)
            if self._bidirectional:
                self._run_both(engines, run, marks)
            else:
                self._parts[0].run(engines, run, marks)

    def kernels(self, engines: Sequence[CudaCell], T: int, B: int) -> tuple[str, ...]:
        together = [engines]
        if self._bidirectional:
            together = [engines[k : k + 1] for k in range(len(engines))]
        found: tuple[str, ...] = ()
        for each in together:
            _, steps = next(chunks(T, most_steps(each, B)))  # the first chunk has the most steps
            found += kernels_of(each, steps, B)
        return found

    def _marks(self, run: SequenceRun) -> Marks:
        """Return the marks of a call, and queue their uploads."""
        try:
            uploads = self._uploads.pop()
        except IndexError:  # other calls use them all
            uploads = Uploads()
        try:
            return Marks.of(run, uploads)
        finally:
            self._uploads.append(uploads)

    def _keep_states(self, run: SequenceRun) -> None:
        """Do the work of a call without steps or rows."""
        for state, final in zip(run.states, run.finals, strict=True):
            copy_rows(final.h, state.h)
            copy_rows(final.c, state.c)

    def _run_both(self, engines: Sequence[CudaCell], run: SequenceRun, marks: Marks) -> None:
        """Run layer after layer, forward and backward. The results of lower layers are in memory of CuPy's pool."""
        xs: Any = run.xs
        for k in range(0, len(engines), 2):
            is_top = k + 1 == self._top
            widths = [engine.weights.P for engine in engines[k : k + 2]]
            whole = run.outputs if is_top else cupy.empty((*xs.shape[:2], sum(widths)), xs.dtype)
            halves = whole[:, :, : widths[0]], whole[:, :, widths[0] :]
            for d, half in enumerate(halves):
                only = slice(k + d, k + d + 1)
                own = replace(
                    run,
                    xs=xs,
                    states=run.states[only],
                    outputs=half,
                    finals=run.finals[only],
                    reset_to=None if run.reset_to is None else run.reset_to[only],
                    reverse=d == 1,
                    repeats=run.repeats and is_top,
                )
                self._parts[k + d].run(engines[only], own, marks)
            xs = whole
