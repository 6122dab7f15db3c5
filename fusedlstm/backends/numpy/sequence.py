"""Layers and directions through whole sequences, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.backends.base import SequenceEngine
from fusedlstm.backends.numpy.memory import empty
from fusedlstm.backends.numpy.scan import clear_idle, repeat_in_idle, scan
from fusedlstm.backends.numpy.timeline import timelines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.backends.numpy.cell import NumpyCell
    from fusedlstm.backends.numpy.timeline import Timeline
    from fusedlstm.backends.sequence_run import SequenceRun
    from fusedlstm.stacked import StackedWeights


class NumpySequence(SequenceEngine):
    """See `fusedlstm.backends.base.SequenceEngine`.

    Args:
        weights: the layers. Only their form matters, as `run` gets the engines.
    """

    def __init__(self, weights: StackedWeights) -> None:
        self._residual, self._slices, self._backward = weights.residual, weights.slices, weights.backward
        self._widths = [sum(layer.output_size for layer in weights.layers[which]) for which in weights.slices]

    def run(self, engines: Sequence[NumpyCell], run: SequenceRun) -> None:
        engines[0].quietly(self._run, engines, run)  # all engines have the same number of threads

    def kernels(self, engines: Sequence[NumpyCell], T: int, B: int) -> tuple[str, ...]:  # noqa: ARG002
        return ("numpy",) * len(engines)

    def _run(self, engines: Sequence[NumpyCell], run: SequenceRun) -> None:
        found = timelines(run, self._backward)
        (T, B, _), xs, top = run.xs.shape, run.xs, len(self._widths) - 1
        for layer, (width, which) in enumerate(zip(self._widths, self._slices, strict=True)):
            whole = run.outputs if layer == top else empty((T, B, width), run.outputs.dtype)
            start = 0
            for k in range(which.start, which.stop):
                stop = start + engines[k].sizes[2]
                part = whole if stop - start == width else whole[:, :, start:stop]
                self._run_direction(engines[k], layer, k, xs, found[k], run, part)
                start = stop
            xs = whole

    def _run_direction(
        self,
        engine: NumpyCell,
        layer: int,
        k: int,
        xs: NumpyArray,
        timeline: Timeline,
        run: SequenceRun,
        outputs: NumpyArray,
    ) -> None:
        """Run a direction of a layer, number k of all, and write its outputs."""
        hs = self._scan(engine, k, xs, timeline, run, outputs)
        if self._residual[layer]:
            np.add(hs, xs, out=outputs)
        elif hs is not outputs:
            outputs[...] = hs
        if layer == len(self._widths) - 1:
            (repeat_in_idle if run.repeats else clear_idle)(outputs, timeline)

    def _scan(
        self, engine: NumpyCell, k: int, xs: NumpyArray, timeline: Timeline, run: SequenceRun, outputs: NumpyArray
    ) -> NumpyArray:
        """Run direction k, and return h after each step. It may be in the memory of the outputs."""
        hs, cs = _contiguous(outputs), None if run.cells is None else _contiguous(run.cells[k].c)
        reset_to = None if run.reset_to is None else run.reset_to[k]
        scan(engine, xs, run.states[k], timeline, reset_to, hs, run.finals[k], cs)
        if run.cells is not None:
            run.cells[k].h[...] = hs
            if cs is not run.cells[k].c:
                run.cells[k].c[...] = cs
        return hs


def _contiguous(array: NumpyArray) -> NumpyArray:
    """Return an array to write, or a new one in its place if it isn't contiguous."""
    return array if array.flags.c_contiguous else empty(array.shape, array.dtype)
