"""The steps of a layer in one kernel each, which multiplies x and h. Some projections add a launch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.backends.cuda.kernels import Destinations
from fusedlstm.backends.cuda.runtime.strides import copy_rows
from fusedlstm.backends.cuda.sequence_form import LayerSteps, rows
from fusedlstm.backends.cuda.step_kernels import Resets, interleaved_for, launches, needs_m

if TYPE_CHECKING:
    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.cuda.sequence_form import Form, LayerBuffers


class KernelSteps(LayerSteps):
    """See `sequence_form.LayerSteps`. Many blocks read h while others write the next one, so h has a double buffer.

    Args:
        engine: the layer's engine.
        kernel: a name of `kernel_choice.py`, other than "matmul".
        form: what decides the launches.
        buffers: the inputs and outputs.
    """

    def __init__(self, engine: CudaCell, kernel: str, form: Form, buffers: LayerBuffers) -> None:
        weights, B = engine.weights, form.B
        super().__init__(weights, form, buffers)
        self._kernel = kernel
        interleaved_for(weights, kernel)  # now, as the first call synchronizes
        self._other = rows((B, weights.P), weights.dtype)
        self._m = rows((B, weights.N), weights.dtype) if needs_m(weights, kernel, B) else None

    def queue(self, steps: int) -> None:
        """Queue the first `steps` steps of the buffers on the current stream."""
        order = self._form.order(range(steps))
        self._queue_each(order, order[0])

    def _queue_each(self, order: range, first: int) -> None:
        """Queue the steps in `order`. `first` is the first step that `queue` takes."""
        h, other = self.state.h, self._other
        for t in order:
            self._step(t, first, h, other)
            h, other = other, h
            self._queue_cells(t, h)
        if h is not self.state.h:
            copy_rows(self.state.h, h)

    def _step(self, t: int, first: int, h: Any, next_h: Any) -> None:
        """Queue step t. `first` is as in `_queue_each`."""
        buffers, c = self._buffers, self.state.c
        x = buffers.xs[t]
        to = Destinations(
            next_h,
            copy=buffers.outputs[t],
            input=x if buffers.residual else None,
            last=buffers.last_of(self._form, t, first),
        )
        resets = Resets(None)
        if buffers.flags is not None:
            resets = Resets(buffers.flags[t], *self._reset_pair, idle=True)
        for launch in launches(self._weights, self._kernel, x, h, c, c, to, self._m, resets=resets):
            launch.queue()
