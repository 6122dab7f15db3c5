"""The steps of a layer in one kernel each, which multiplies x and h. Some projections add a launch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.backends.cuda.kernels import Destinations
from fusedlstm.backends.cuda.runtime.strides import copy_rows
from fusedlstm.backends.cuda.sequence_form import rows
from fusedlstm.backends.cuda.step_kernels import Resets, interleaved_for, launches, needs_m
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.cuda.sequence_form import Form, LayerBuffers


class KernelSteps:
    """See `sequence_form.LayerSteps`. Many blocks read h while others write the next one, so h has a double buffer.

    Args:
        engine: the layer's engine.
        kernel: a name of `kernel_choice.py`, other than "matmul".
        form: what decides the launches.
        buffers: the inputs and outputs.
    """

    def __init__(self, engine: CudaCell, kernel: str, form: Form, buffers: LayerBuffers) -> None:
        weights = self._weights = engine.weights
        self._kernel, self._form, self._buffers = kernel, form, buffers
        interleaved_for(weights, kernel)  # now, as the first call synchronizes
        P, N, dtype, wide = weights.P, weights.N, weights.dtype, weights.gates_dtype
        self.state = LSTMState(h=rows((form.B, P), dtype), c=rows((form.B, N), wide))
        self._other = rows((form.B, P), dtype)
        self._m = rows((form.B, N), dtype) if needs_m(weights, kernel, form.B) else None
        self._reset: LSTMState | None = None
        if form.reset_rows:
            self._reset = LSTMState(h=rows((form.reset_rows, P), dtype), c=rows((form.reset_rows, N), wide))

    def reset_to(self, state: LSTMState) -> None:
        """Copy the state that rows are reset to, on the current stream."""
        assert self._reset is not None
        copy_rows(self._reset.h, state.h)
        copy_rows(self._reset.c, state.c)

    def queue_reset(self) -> None:
        """Do nothing: each step multiplies the h that rows are reset to."""

    def prepare(self, steps: int) -> None:
        """Do nothing: `queue` needs nothing more."""

    def queue(self, steps: int) -> None:
        """Queue the first `steps` steps of the buffers on the current stream."""
        order, h, other = self._form.order(range(steps)), self.state.h, self._other
        for t in order:
            self._step(t, order[0], h, other)
            h, other = other, h
        if h is not self.state.h:
            copy_rows(self.state.h, h)

    def _step(self, t: int, first: int, h: Any, next_h: Any) -> None:
        """Queue step t. `first` is the step that the direction takes first."""
        buffers, c, reset = self._buffers, self.state.c, self._reset
        x = buffers.xs[t]
        to = Destinations(
            next_h,
            copy=buffers.outputs[t],
            input=x if buffers.residual else None,
            last=buffers.last_of(self._form, t, first),
        )
        resets = Resets(None)
        if buffers.flags is not None:
            reset_h, reset_c = (None, None) if reset is None else (reset.h, reset.c)
            resets = Resets(buffers.flags[t], reset_h, reset_c, idle=True)
        for launch in launches(self._weights, self._kernel, x, h, c, c, to, self._m, resets=resets):
            launch.queue()

    def close(self) -> None:
        """Do nothing: there is only memory."""
