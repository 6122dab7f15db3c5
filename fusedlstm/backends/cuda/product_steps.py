"""The steps of a layer with cuBLASLt: one product for the x of many steps. Then each step is a product and a launch."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import cupy

from fusedlstm.backends.cuda.kernels import Destinations
from fusedlstm.backends.cuda.runtime.cublaslt import Matmul
from fusedlstm.backends.cuda.sequence_form import LayerSteps, rows
from fusedlstm.backends.cuda.sequence_kernels import finish_step_launch, step_launch
from fusedlstm.backends.cuda.step_kernels import Resets

if TYPE_CHECKING:
    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.cuda.sequence_form import Form, LayerBuffers, Workspace


class ProductSteps(LayerSteps):
    """See `sequence_form.LayerSteps`. A projection adds a product and a launch to a step. Zoneout of h adds a launch.

    The launch follows the product that reads h, so it updates h in place, and idle rows keep theirs.

    Args:
        engine: the layer's engine.
        form: what decides the launches.
        buffers: the inputs and outputs.
        gates: (most, B, 4N), for x's part of the gates of at most so many steps. Layers may share the memory.
        workspace: the workspace of the products. Layers share it.
    """

    def __init__(self, engine: CudaCell, form: Form, buffers: LayerBuffers, gates: Any, workspace: Workspace) -> None:
        super().__init__(engine.weights, form, buffers)
        self._precision, self._gates, self._workspace = engine.precision, gates, workspace
        self._scope = contextlib.ExitStack()
        self._of_x: dict[int, list[tuple[range, Matmul | None]]] = {}
        self._reset_gates: Any = None
        self._of_reset: Matmul | None = None
        self._m: Any = None
        self._projected: Any = None
        self._of_m: Matmul | None = None
        try:
            self._make(form.B)
        except BaseException:
            self.close()
            raise

    def _make(self, B: int) -> None:
        """Make the products of a step, and their results."""
        weights = self._weights
        P, N, dtype, wide = weights.P, weights.N, weights.dtype, weights.gates_dtype
        self._gates_h = cupy.zeros((B, 4 * N), wide)
        self._of_h = self._product(self._gates_h, self.state.h, weights.weight_hh)
        if self._reset is not None:
            self._reset_gates = cupy.zeros((len(self._reset.h), 4 * N), wide)
            self._of_reset = self._product(self._reset_gates, self._reset.h, weights.weight_hh)
        if weights.projection is not None:
            padded_m = cupy.zeros((B, weights.projection.shape[1]), dtype)
            self._m, self._projected = padded_m[:, :N], rows((B, P), dtype)
            self._of_m = self._product(self._projected, padded_m, weights.projection)
        elif weights.functions.zoneout_h:
            self._m = self._projected = rows((B, N), dtype)

    def _product(self, out: Any, a: Any, weight: Any) -> Matmul:
        product = Matmul(out, a, weight, self._precision)
        self._scope.callback(product.close)
        self._workspace.reserve(product.workspace_bytes)
        return product

    def queue_reset(self) -> None:
        """Queue the product of the h that rows are reset to, on the current stream."""
        if self._of_reset is not None:
            self._of_reset.queue(self._workspace.array)

    def prepare(self, steps: int) -> None:
        """Make the products of x for `steps` steps."""
        if steps in self._of_x:
            return
        most, found = len(self._gates), []
        for start in self._form.order(range(0, steps, most)):
            part = range(start, min(start + most, steps))
            found.append((part, self._of_part(part)))
        self._of_x[steps] = found

    def _of_part(self, part: range) -> Matmul | None:
        """Return the product of x for a part of the steps, or None without inputs."""
        weights, count = self._weights, len(part) * self._form.B
        if not weights.I:
            return None
        xs = self._buffers.xs[part.start : part.stop]
        flat = cupy.ndarray((count, weights.I), xs.dtype, xs.data, strides=xs.strides[1:])
        return self._product(self._gates[: len(part)].reshape(count, -1), flat, weights.weight_ih)

    def queue(self, steps: int) -> None:
        """Queue the first `steps` steps of the buffers on the current stream."""
        order = self._form.order(range(steps))
        for part, of_x in self._of_x[steps]:
            if of_x is None:
                self._gates[: len(part)].fill(0)
            else:
                of_x.queue(self._workspace.array)
            for t in self._form.order(part):
                self._step(t, order[0], self._gates[t - part.start])
                self._queue_cells(t, self.state.h)

    def _step(self, t: int, first: int, gates: Any) -> None:
        """Queue step t. `first` is the step that the direction takes first."""
        weights, buffers, state = self._weights, self._buffers, self.state
        flags = None if buffers.flags is None else buffers.flags[t]
        reset_h, reset_c = self._reset_pair
        to = Destinations(
            h=state.h,
            copy=buffers.outputs[t],
            input=buffers.xs[t] if buffers.residual else None,
            old_h=state.h if weights.functions.zoneout_h else None,
            last=buffers.last_of(self._form, t, first),
        )
        has_flags = flags is not None
        self._of_h.queue(self._workspace.array)
        of_m = to if self._m is None else Destinations(self._m)
        resets = Resets(flags, c=reset_c, idle=has_flags)
        step_launch(weights, gates, self._gates_h, state.c, of_m, resets, self._reset_gates).queue()
        if self._m is None:
            return
        if self._of_m is not None:
            self._of_m.queue(self._workspace.array)
        finish_step_launch(weights, self._projected, to, Resets(flags, h=reset_h, idle=has_flags)).queue()

    def close(self) -> None:
        """Destroy cuBLASLt's descriptors. Captured graphs no longer need them."""
        self._scope.close()
