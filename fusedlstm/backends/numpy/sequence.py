"""Layers and directions through whole sequences, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.backends.base import SequenceEngine
from fusedlstm.backends.numpy.context import quietly
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
        self._residual, self._bidirectional = weights.residual, weights.bidirectional
        self._widths = [
            sum(layer.output_size for layer in weights.layers[k : k + weights.num_directions])
            for k in range(0, len(weights.layers), weights.num_directions)
        ]

    def run(self, engines: Sequence[NumpyCell], run: SequenceRun) -> None:
        quietly(self._run, engines, run)

    def kernels(self, engines: Sequence[NumpyCell], T: int, B: int) -> tuple[str, ...]:  # noqa: ARG002
        return ("numpy",) * len(engines)

    def _run(self, engines: Sequence[NumpyCell], run: SequenceRun) -> None:
        directions = timelines(run, bidirectional=self._bidirectional)
        (T, B, _), xs, k, top = run.xs.shape, run.xs, 0, len(self._widths) - 1
        for layer, width in enumerate(self._widths):
            whole = run.outputs if layer == top else empty((T, B, width), run.outputs.dtype)
            start = 0
            for timeline in directions:
                stop = start + engines[k].sizes[2]
                part = whole if stop - start == width else whole[:, :, start:stop]
                self._run_direction(engines[k], layer, k, xs, timeline, run, part)
                start, k = stop, k + 1
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
        ys = outputs if outputs.flags.c_contiguous else empty(outputs.shape, outputs.dtype)
        scan(engine, xs, run.states[k], timeline, None if run.reset_to is None else run.reset_to[k], ys, run.finals[k])
        if self._residual[layer]:
            np.add(ys, xs, out=ys)
        if layer == len(self._widths) - 1:
            (repeat_in_idle if run.repeats else clear_idle)(ys, timeline)
        if ys is not outputs:
            outputs[...] = ys
