"""The buffers and the step of a fixed batch: a matmul and a launch for each layer, and more for projections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cupy

from fusedlstm.backends.cuda.kernels import launch_reset
from fusedlstm.backends.cuda.matmul_step import MatmulStep
from fusedlstm.backends.cuda.runtime import pinned
from fusedlstm.backends.cuda.runtime.strides import bits, copy_rows
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.backends.cuda.cell import CudaCell


class MatmulBatch:
    """See `layer_step.BatchStep`. A separate launch resets rows before the matmul reads h.

    The matmul needs x and h side by side, so x is copied from the host. The output is written there directly.
    """

    buffers = 1

    def __init__(
        self,
        engines: Sequence[CudaCell],
        residual: Sequence[bool],
        B: int,
        reset_to: Sequence[LSTMState] | None,
        *,
        host: bool,
    ) -> None:
        first, top = engines[0].weights, engines[-1].weights
        output = pinned.zeros((B, top.P), top.dtype) if host else None
        self._step = step = MatmulStep(engines, residual, B, output=None if output is None else pinned.mapped(output))
        columns, self._host = step.columns, host
        self._x = step.operand[:, columns.inputs[0]]
        self.x = pinned.zeros((B, first.I), first.dtype) if host else self._x
        self.output = step.output if output is None else output
        self._output_is_h = not (host or residual[-1])
        self.states: tuple[tuple[LSTMState, ...], ...] = (
            tuple(LSTMState(h=step.operand[:, h], c=step.c[:, c]) for h, c in zip(columns.hs, columns.cs, strict=True)),
        )
        self._resets = (None, None) if reset_to is None else self._rows_of(reset_to)

    def _rows_of(self, states: Sequence[LSTMState]) -> tuple[Any, Any]:
        """Return states, of B rows or of one, as two matrices with the columns of the buffers."""
        step, columns = self._step, self._step.columns
        B = max(len(state.h) for state in states)  # one row serves all
        h = cupy.zeros((B, columns.X + columns.H), step.operand.dtype)
        c = cupy.zeros((B, columns.C), step.c.dtype)
        for state, at_h, at_c in zip(states, columns.hs, columns.cs, strict=True):
            for to, rows in ((h[:, at_h], state.h), (c[:, at_c], state.c)):
                copy_rows(to, cupy.broadcast_to(bits(rows), to.shape))
        return h[:, columns.X :], c

    def queue(self, current: int, is_first: Any) -> None:
        """Queue a step on the current stream, with the rows that is_first marks reset."""
        del current
        if self._host:
            pinned.queue_upload(self._x, self.x)
        if is_first is not None:
            self._reset(is_first, *self._resets)
        self._step.queue()

    def clear(self, current: int) -> None:
        """Write zeros to `states[0]`, the only buffer, on the current stream."""
        del current
        self._reset(None, None, None)

    def _reset(self, is_first: Any, reset_h: Any, reset_c: Any) -> None:
        step = self._step
        h = step.operand[:, step.columns.X :]
        launch_reset(is_first, None, h, reset_h, step.c, reset_c, clears=not self._host)

    def zero(self) -> None:
        """Write zeros to all buffers that a caller can see, on the current stream."""
        self._step.operand.fill(0)
        self._step.c.fill(0)
        if not self._output_is_h:
            self.output.fill(0)

    def close(self) -> None:
        """Free what only `queue` needs, once it has been captured."""
        self._step.close()
