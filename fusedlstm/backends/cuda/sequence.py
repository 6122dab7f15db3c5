"""Whole sequences on a GPU, through layers and directions. All work is queued, and nothing is read from the GPU."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cupy

from fusedlstm.backends.base import SequenceEngine
from fusedlstm.backends.cuda.chunked_sequence import ChunkedSequence, chunks, kernels_of, most_steps
from fusedlstm.backends.cuda.groups import groups_of, width_of
from fusedlstm.backends.cuda.runtime import fork
from fusedlstm.backends.cuda.runtime.pinned import Uploads
from fusedlstm.backends.cuda.runtime.streams import check_not_captured
from fusedlstm.backends.cuda.runtime.strides import copy_rows
from fusedlstm.backends.cuda.sequence_form import Form
from fusedlstm.backends.cuda.sequence_marks import Marks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.sequence_run import SequenceRun
    from fusedlstm.stacked import StackedWeights


class CudaSequence(SequenceEngine):
    """See `fusedlstm.backends.base.SequenceEngine`.

    The parts of `groups.py` run through the whole sequence, one after the other. In each part, a chunk of steps passes
    through all layers before the next chunk.

    Args:
        index: the GPU.
        weights: the layers. Only their form matters, as `run` gets the engines.
    """

    def __init__(self, index: int, weights: StackedWeights) -> None:
        self._index = index
        self._groups = [
            [(part, ChunkedSequence(index, part.residual)) for part in group] for group in groups_of(weights)
        ]
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
            self._run_groups(engines, run, self._marks(run))

    def kernels(self, engines: Sequence[CudaCell], T: int, B: int) -> tuple[str, ...]:
        found: tuple[str, ...] = ()
        for part, _ in itertools.chain.from_iterable(self._groups):
            each = engines[part.which]
            _, steps = next(chunks(T, most_steps(each, Form(B))))  # the first chunk has the most steps
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

    def _run_groups(self, engines: Sequence[CudaCell], run: SequenceRun, marks: Marks) -> None:
        """Run the groups in turn. The outputs of lower groups are in memory from CuPy's pool."""
        xs: Any = run.xs
        for group in self._groups:
            is_top = group is self._groups[-1]
            width = width_of([part for part, _ in group])
            whole = run.outputs if is_top else cupy.empty((*xs.shape[:2], width), xs.dtype)
            for part, sequence in group:
                own = replace(
                    run,
                    xs=xs,
                    states=run.states[part.which],
                    outputs=whole[:, :, part.columns],
                    finals=run.finals[part.which],
                    reset_to=None if run.reset_to is None else run.reset_to[part.which],
                    reverse=run.reverse or part.backward,
                    repeats=run.repeats and is_top,
                    cells=None if run.cells is None else run.cells[part.which],
                )
                sequence.run(engines[part.which], own, marks)
            xs = whole
