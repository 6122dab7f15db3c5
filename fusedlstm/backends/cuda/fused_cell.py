"""The step of cells that name a kernel: one launch, and another for some projections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cupy

from fusedlstm.backends.cuda.cell import CudaCell
from fusedlstm.backends.cuda.device_weights import padded
from fusedlstm.backends.cuda.kernels import Destinations
from fusedlstm.backends.cuda.runtime.strides import with_contiguous_rows
from fusedlstm.backends.cuda.sequence import FusedSequence
from fusedlstm.backends.cuda.step_kernels import Resets, interleaved_for, launches, needs_m

if TYPE_CHECKING:
    from fusedlstm.backends.cuda.cell import Reset
    from fusedlstm.weights import LSTMWeights


class FusedCell(CudaCell):
    """One step of a cell, for any batch, with the kernel that `kernel` names."""

    kernel: str

    def __init__(self, weights: LSTMWeights, precision: str, kernel: str) -> None:
        super().__init__(weights, precision, kernel)
        interleaved_for(self.weights, kernel)  # now, as the first call may be in a capture, where it can't wait

    def run(
        self, x: Any, h: Any, c: Any, h_out: Any, c_out: Any, is_first: Any = None, reset: Reset | None = None
    ) -> None:
        """Write the next h and c on the current stream. c_out may be c."""
        self.check()
        if len(x) == 0:
            return
        weights, kernel = self.weights, self.kernel
        with self.device:
            m = self._room_for_m(len(x)) if needs_m(weights, kernel, len(x)) else None
            reset_h, reset_c, _ = reset or (None, None, None)
            x, h, c, reset_h, reset_c = (
                None if a is None else with_contiguous_rows(a) for a in (x, h, c, reset_h, reset_c)
            )
            flags = None if is_first is None else cupy.ascontiguousarray(is_first)
            resets = Resets(flags, reset_h, reset_c)
            step = launches(weights, kernel, x, h, c, c_out, Destinations(h_out), m, resets=resets)
            for launch in step:
                launch.kernel.load()  # all of them, before the first overwrites c
            for launch in step:
                launch.queue()

    def _room_for_m(self, B: int) -> Any:
        N, dtype = self.weights.N, self.weights.dtype
        return cupy.empty((B, padded(N, dtype)), dtype)[:, :N]

    @property
    def sequence(self) -> FusedSequence:
        """An engine that steps sequences with the weights of this one."""
        return FusedSequence(self)

    def prepare_reset(self, reset_h: Any, reset_c: Any) -> Reset:
        """Return a `reset` for `run`."""
        return reset_h, reset_c, reset_h
