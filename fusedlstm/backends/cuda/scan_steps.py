"""The steps of a layer in two launches: x's part of the gates of many steps, then all of these steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.cuda.runtime.strides import copy_rows
from fusedlstm.backends.cuda.scan_kernels import Scan, gates_launch, scan_fits, scan_launch
from fusedlstm.backends.cuda.sequence_form import rows
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.cuda.sequence_form import Form, LayerBuffers


def can_scan(engine: CudaCell) -> bool:
    """Whether a layer can be stepped so."""
    weights = engine.weights
    projects = weights.weight_hr is not None
    return not projects and scan_fits(weights.N, weights.P, weights.dtype, engine.precision, engine.weights.capability)


class ScanSteps:
    """See `sequence_form.LayerSteps`. A row's state stays in its block from step to step.

    Args:
        engine: the layer's engine, for which `can_scan` is true.
        form: what decides the launches.
        buffers: the inputs and outputs.
        gates: (most, B, 4N) in the arithmetic's dtype, for x's part of the gates of so many steps. Layers may share it.
    """

    def __init__(self, engine: CudaCell, form: Form, buffers: LayerBuffers, gates: Any) -> None:
        weights = self._weights = engine.weights
        self._capability, self._form, self._buffers, self._gates = engine.weights.capability, form, buffers, gates
        weights.interleaved(weights.dtype == np.float32)  # now, as the first call synchronizes
        N, dtype, wide = weights.N, weights.dtype, weights.gates_dtype
        self.state = LSTMState(h=rows((form.B, N), dtype), c=rows((form.B, N), wide))
        self._last = None if buffers.last is None else rows((form.B, N), dtype)
        self._reset: LSTMState | None = None
        if form.reset_rows:
            self._reset = LSTMState(h=rows((form.reset_rows, N), dtype), c=rows((form.reset_rows, N), wide))

    def reset_to(self, state: LSTMState) -> None:
        """Copy the state that rows are reset to, on the current stream."""
        assert self._reset is not None
        copy_rows(self._reset.h, state.h)
        copy_rows(self._reset.c, state.c)

    def queue_reset(self) -> None:
        """Do nothing: each step multiplies the h that rows are reset to."""

    def prepare(self, steps: int) -> None:
        """Do nothing: any number of steps needs the same."""

    def queue(self, steps: int) -> None:
        """Queue the first `steps` steps of the buffers on the current stream."""
        if self._last is not None:
            copy_rows(self._last, self._buffers.last)
        most = len(self._gates)
        for start in self._form.order(range(0, steps, most)):
            self._part(slice(start, min(start + most, steps)))

    def _part(self, part: slice) -> None:
        """Queue a part of the steps."""
        buffers, state = self._buffers, self.state
        xs = buffers.xs[part]
        T, B, I = xs.shape
        if not B:
            return
        gates = self._gates[:T]
        flat = cupy.ndarray((T * B, I), xs.dtype, xs.data, strides=xs.strides[1:])
        gates_launch(self._weights, flat, gates.reshape(T * B, -1)).queue()
        reset_h, reset_c = (None, None) if self._reset is None else (self._reset.h, self._reset.c)
        scan = Scan(
            self._weights,
            gates,
            *(state.h, state.c, state.h, state.c),
            buffers.outputs[part],
            input=xs if buffers.residual else None,
            flags=None if buffers.flags is None else buffers.flags[part],
            reset_h=reset_h,
            reset_c=reset_c,
            last=self._last,
            reverse=self._form.reverse,
        )
        scan_launch([scan], self._capability).queue()

    def close(self) -> None:
        """Do nothing: there is only memory."""
