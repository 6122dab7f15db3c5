"""A cell's step: two matmuls with cuBLAS, then one launch. Projections, their clip and zoneout of h add to these."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, TypeAlias

import cupy

from fusedlstm.backends.base import CellEngine
from fusedlstm.backends.cuda.device_weights import DeviceWeights
from fusedlstm.backends.cuda.kernels import Destinations, launch_clip, launch_finish, launch_pointwise, launch_select
from fusedlstm.backends.cuda.runtime import fork
from fusedlstm.backends.cuda.runtime.cublas import write_product
from fusedlstm.backends.cuda.runtime.strides import with_contiguous_rows
from fusedlstm.backends.cuda.sequence import CudaSequence

if TYPE_CHECKING:
    from fusedlstm.backends.cuda.runtime.streams import Turns
    from fusedlstm.weights import LSTMWeights

Reset: TypeAlias = tuple[Any, Any, Any]  # for rows that are reset: h's part of the gates (FusedCell: h), c and h


class CudaCell(CellEngine):
    """One step of a cell, for any batch. Its weights are on the device. Scratch comes from CuPy's memory pool."""

    is_whole = True

    def __init__(self, weights: LSTMWeights, precision: str, kernel: str | None = None) -> None:
        self.weights = DeviceWeights(weights)
        self.precision, self.kernel = precision, kernel
        self.device = cupy.cuda.Device()
        self.turns: weakref.WeakSet[Turns] = weakref.WeakSet()  # of Steppers and pools that read the weights
        cupy.cuda.get_current_stream().synchronize()  # other streams may be the first to use the weights

    def check(self) -> None:
        """Raise RuntimeError if a step can't be queued: CUDA can't be called here, or the weights are being written."""
        fork.check_process()
        if not self.is_whole:
            raise RuntimeError(
                "the weights are being set: set_weights is running in another thread, or was interrupted by this call "
                "(in a signal handler, finalizer or callback), or has failed. Step after it, or set them again"
            )

    def with_weights(self, weights: LSTMWeights) -> CudaCell:
        """Overwrite the weights in the order of the current stream, and return this engine.

        On the GPU, this waits for graphs on other streams that read the weights. Their next launches wait for this.
        """
        with self.device:
            turns = list(self.turns)
            streams = [each.begin() for each in turns]
            try:
                self.weights.set(weights)
            finally:
                for each, stream in zip(turns, streams, strict=True):
                    each.end(stream)
        return self

    def run(
        self,
        x: Any,
        h: Any,
        c: Any,
        h_out: Any,
        c_out: Any,
        is_first: Any = None,
        reset: Reset | None = None,
    ) -> None:
        """Write the next h and c on the current stream. c_out may be c."""
        self.check()
        if len(x) == 0:
            return
        with self.device:
            gates = self.product(x, self.weights.weight_ih)
            self.step_from_x_gates(gates, h, c, h_out, c_out, is_first, reset)

    def prepare_reset(self, reset_h: Any, reset_c: Any) -> Reset:
        """Return a `reset` for `run`: reset_h's part of the gates, reset_c and reset_h."""
        self.check()
        with self.device:
            return self.product(reset_h, self.weights.weight_hh), reset_c, reset_h

    @property
    def sequence(self) -> CudaSequence:
        return CudaSequence(self)

    def step_from_x_gates(
        self, gates: Any, h: Any, c: Any, h_out: Any, c_out: Any, is_first: Any = None, reset: Reset | None = None
    ) -> None:
        """Write the next h and c from x's part of the gates (B, 4N), with B at least 1.

        h's part is a separate product, even without resets, as that costs no more. So resetting some rows changes no
        bit of the others.
        """
        weights, (reset_gates, reset_c, reset_h) = self.weights, reset or (None, None, None)
        old_h = self._old_h(h, is_first, reset_h) if weights.functions.zoneout_h else None
        m = h_out if weights.weight_hr is None else cupy.empty(c.shape, h_out.dtype)
        launch_pointwise(
            gates,
            c,
            m,
            c_out,
            gates_h=self.product(h, weights.weight_hh),
            bias=weights.bias,
            peephole=weights.peephole,
            cell_clip=weights.cell_clip,
            functions=weights.functions_of_m,
            is_first=is_first,
            reset_c=reset_c,
            reset_gates=reset_gates,
        )
        if weights.weight_hr is not None:
            write_product(h_out, m, weights.weight_hr, self.precision)
        if old_h is not None:
            launch_finish(h_out, Destinations(h_out, old_h=old_h), weights.proj_clip, weights.functions.zoneout_h)
        elif weights.proj_clip is not None:
            launch_clip(h_out, weights.proj_clip)

    def _old_h(self, h: Any, is_first: Any, reset_h: Any) -> Any:
        """Return the old h for zoneout, with the reset rows replaced."""
        if is_first is None:
            return with_contiguous_rows(h)
        old_h = cupy.ascontiguousarray(h).copy()
        launch_select(old_h, is_first, reset_h)
        return old_h

    def product(self, a: Any, weight: Any) -> Any:
        """Return a @ weight.T in the dtype of the arithmetic."""
        out = cupy.empty((a.shape[0], weight.shape[0]), self.weights.gates_dtype)
        write_product(out, a, weight, self.precision)
        return out
