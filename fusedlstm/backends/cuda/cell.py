"""A cell's step for any batch, and what it keeps for the next one like it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import cupy

from fusedlstm.backends import kernel_choice, sequence_choice
from fusedlstm.backends.base import CellEngine
from fusedlstm.backends.cuda.device_weights import DeviceWeights
from fusedlstm.backends.cuda.repeated_step import Operands, RepeatedStep
from fusedlstm.backends.cuda.runtime import fork
from fusedlstm.backends.cuda.runtime.cublas import write_product
from fusedlstm.backends.cuda.runtime.strides import with_contiguous_rows
from fusedlstm.backends.cuda.step_kernels import interleaved_for

if TYPE_CHECKING:
    from fusedlstm.backends.cuda.runtime.streams import Turns
    from fusedlstm.backends.measured import Measured
    from fusedlstm.weights import LSTMWeights

_MOST_STEPS = 256  # that are kept
_VECTOR = 16  # bytes that a kernel moves at once, from addresses that are multiples of it


class CudaCell(CellEngine):
    """One step of a cell, for any batch. Its weights are on the device. Scratch comes from CuPy's memory pool."""

    is_whole = True

    def __init__(
        self, weights: LSTMWeights, precision: str, kernel: str | None = None, measured: Measured | None = None
    ) -> None:
        self.weights = own = DeviceWeights(weights)
        self.precision, self.measured = precision, measured
        self.kernel, self.sequence_kernel = sequence_choice.of_steps(kernel), kernel
        self.device = cupy.cuda.Device()
        self._index = self.device.id
        self._about = own.I, own.N, own.P, own.dtype.name, precision, own.capability
        self._steps: dict[tuple[Any, ...], RepeatedStep] = {}  # by what they depend on
        self.turns: weakref.WeakSet[Turns] = weakref.WeakSet()  # of Steppers and pools that read the weights
        for each in kernel_choice.choices(*self._about, forced=self.kernel, measured=measured) - {"matmul"}:
            interleaved_for(own, each)  # now, as the first call may be in a capture, where it can't wait
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

    def kernel_for(self, B: int) -> str:
        """Return the kernel of a call with B rows: the named one, or that of `kernel_choice`."""
        return kernel_choice.choose(B, *self._about, forced=self.kernel, measured=self.measured)

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
        if x.shape[0] == 0:
            return
        if cupy.cuda.runtime.getDevice() == self._index:
            self._queue(x, h, c, h_out, c_out, is_first, reset)
        else:
            with self.device:
                self._queue(x, h, c, h_out, c_out, is_first, reset)

    def prepare_reset(self, reset_h: Any, reset_c: Any) -> Reset:
        """Return a `reset` for `run`."""
        self.check()
        with self.device:
            return Reset(self, reset_h, reset_c)

    def _queue(self, x: Any, h: Any, c: Any, h_out: Any, c_out: Any, is_first: Any, reset: Reset | None) -> None:
        """Queue a step on the current stream of this device.

        The addresses of arrays are new each time. All else is looked up by what it depends on.
        """
        addresses: tuple[int, ...] = (x.data.ptr, h.data.ptr, c.data.ptr, h_out.data.ptr, c_out.data.ptr)
        low_bits = addresses[0] | addresses[1] | addresses[2] | addresses[3] | addresses[4]
        more: tuple[Any, ...] = ()
        layouts: tuple[Any, ...] = ()
        if is_first is not None:
            multiplies = self.kernel_for(len(x)) == "matmul"
            of_reset = () if reset is None else reset.arrays(with_gates=multiplies)
            for array in of_reset:
                low_bits |= array.data.ptr
            more = (cupy.ascontiguousarray(is_first), *of_reset)
            layouts = tuple((len(array), array.strides) for array in more)
            addresses += tuple(array.data.ptr for array in more)
        unaligned = low_bits % _VECTOR and tuple(address % _VECTOR for address in addresses)
        key = x.shape, x.strides, h.strides, c.strides, unaligned, layouts
        step = self._steps.get(key)
        if step is None:
            operands = Operands(x, h, c, h_out, c_out, *more)
            rows = [with_contiguous_rows(array) for array in operands[:3]]
            if any(row is not given for row, given in zip(rows, operands, strict=False)):
                self._queue(rows[0], rows[1], rows[2], h_out, c_out, is_first, reset)
                return
            step = self._new_step(key, operands)
        step.queue(cupy.cuda.get_current_stream().ptr, addresses)

    def _new_step(self, key: tuple[Any, ...], operands: Operands) -> RepeatedStep:
        """Return the step of these operands, and keep it under a key."""
        step = RepeatedStep(self.weights, self.kernel_for(len(operands.c)), self.precision, operands)
        if len(self._steps) >= _MOST_STEPS:
            self._steps.clear()
        self._steps[key] = step
        return step

    def product(self, a: Any, weight: Any) -> Any:
        """Return a @ weight.T in the dtype of the arithmetic."""
        out = cupy.empty((a.shape[0], weight.shape[0]), self.weights.gates_dtype)
        write_product(out, a, weight, self.precision)
        return out


class Reset:
    """The state that rows are reset to, of B rows or one, and its h's part of the gates once a product needs it."""

    def __init__(self, cell: CudaCell, h: Any, c: Any) -> None:
        self._cell, self._h, self._c = cell, with_contiguous_rows(h), with_contiguous_rows(c)
        self._gates: Any = None

    def arrays(self, *, with_gates: bool) -> tuple[Any, ...]:
        """Return h and c, and the gates if they are wanted."""
        if not with_gates:
            return self._h, self._c
        if self._gates is None:
            self._gates = self._cell.product(self._h, self._cell.weights.weight_hh)
        return self._h, self._c, self._gates
