"""The steps of a layer in two launches: x's part of the gates of many steps, then all of these steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cupy

from fusedlstm.backends.cuda.kernel_steps import KernelSteps
from fusedlstm.backends.cuda.runtime.strides import copy_rows
from fusedlstm.backends.cuda.scan_kernels import Scan, gates_launch, scan_launch
from fusedlstm.backends.cuda.sequence_form import rows
from fusedlstm.backends.sequence_choice import FEWEST_STEPS, OF_FEW_STEPS

if TYPE_CHECKING:
    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.cuda.sequence_form import Form, LayerBuffers


class ScanSteps(KernelSteps):
    """See `sequence_form.LayerSteps`. A row's state stays in its block from step to step.

    Parts of fewer than FEWEST_STEPS steps run as single steps.

    Args:
        engine: the engine of a layer that `sequence_choice` allows.
        form: what decides the launches.
        buffers: the inputs and outputs.
        gates: (most, B, 4N) in the arithmetic's dtype, for x's part of the gates of many steps. Layers may share it.
    """

    def __init__(self, engine: CudaCell, form: Form, buffers: LayerBuffers, gates: Any) -> None:
        super().__init__(engine, OF_FEW_STEPS, form, buffers)
        self._gates = gates
        self._last = None if buffers.last is None else rows((form.B, engine.weights.P), engine.weights.dtype)

    def queue(self, steps: int) -> None:
        """Queue the first `steps` steps of the buffers on the current stream."""
        form, most = self._form, len(self._gates)
        first, has_last = form.order(range(steps))[0], False
        for start in form.order(range(0, steps, most)):
            part = range(start, min(start + most, steps))
            if len(part) < FEWEST_STEPS:
                self._queue_each(form.order(part), first)
                continue
            if self._last is not None and not has_last:
                copy_rows(self._last, self._buffers.last_of(form, form.order(part)[0], first))
                has_last = True  # each scan leaves it for the next one
            self._part(slice(part.start, part.stop))

    def _part(self, part: slice) -> None:
        """Queue a part of the steps in two launches."""
        xs = self._buffers.xs[part]
        T, B, I = xs.shape
        if not B:
            return
        gates = self._gates[:T]
        flat = cupy.ndarray((T * B, I), xs.dtype, xs.data, strides=xs.strides[1:])
        gates_launch(self._weights, flat, gates.reshape(T * B, -1), B).queue()
        self._scan(part, gates)

    def _scan(self, part: slice, gates: Any) -> None:
        """Queue a part of the steps, given x's part of their gates."""
        buffers, state = self._buffers, self.state
        reset_h, reset_c = self._reset_pair
        scan = Scan(
            self._weights,
            gates,
            *(state.h, state.c, state.h, state.c),
            buffers.outputs[part],
            input=buffers.xs[part] if buffers.residual else None,
            flags=None if buffers.flags is None else buffers.flags[part],
            reset_h=reset_h,
            reset_c=reset_c,
            last=self._last,
            reverse=self._form.reverse,
        )
        scan_launch([scan], self._weights.capability).queue()
