"""The CUDA backend: CuPy's arrays, cuBLAS' matmul, and everything else of a step in one launch."""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any, TypeAlias

import cupy
import numpy as np

from fusedlstm.backends.cuda import fork
from fusedlstm.backends.cuda.batch import CudaBatch
from fusedlstm.backends.cuda.gemm import write_product
from fusedlstm.backends.cuda.launch import launch_add, launch_clip, launch_pointwise, launch_select
from fusedlstm.backends.cuda.layout import span
from fusedlstm.backends.cuda.matmul import check_can_plan
from fusedlstm.backends.cuda.packing import PackedWeights
from fusedlstm.backends.cuda.rows import CudaRows
from fusedlstm.backends.cuda.streams import Order, Turns
from fusedlstm.checks import check_no_grad, fail
from fusedlstm.interop import host_mask, to_host_reals
from fusedlstm.libraries import library_of, view_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from fusedlstm.libraries import Library
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.state import LSTMState
    from fusedlstm.weights import LSTMWeights

Reset: TypeAlias = tuple[Any, Any]  # the part of h in the gates, and the c, that rows are reset to
# Elements of the gates that the x of a sequence is multiplied to at once: 64 MiB of float32.
_CHUNK = 1 << 24


@functools.cache
def backend_on(index: int) -> CudaBackend:
    """Return the backend of one GPU."""
    return CudaBackend(index)


class StepPlan:
    """One step of a cell, for any batch: weights on the device; scratch comes from CuPy's pool."""

    def __init__(self, weights: LSTMWeights, precision: str) -> None:
        self.packed = PackedWeights(weights)
        self.precision = precision
        self.device = cupy.cuda.Device()
        self.turns: weakref.WeakSet[Turns] = weakref.WeakSet()  # of those whose graphs read the weights
        cupy.cuda.get_current_stream().synchronize()  # other streams may be the first to use the weights

    def with_weights(self, weights: LSTMWeights) -> StepPlan:
        """Overwrite the weights by others of the same form, in the order of the current stream; return this plan.

        Graphs that read them and were launched on other streams are waited for on the GPU, and wait when launched next.
        """
        with self.device:
            turns = list(self.turns)
            streams = [each.begin() for each in turns]
            try:
                self.packed.set(weights)
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
        fork.check_process()
        if len(x) == 0:
            return
        with self.device:
            gates = self._product(x, self.packed.weight_ih)
            self.run_gates(gates, h, c, h_out, c_out, is_first, reset)

    def steps_at_once(self, B: int) -> int:
        """Return for how many steps of a batch `input_gates` is best called: the more the better, in bounded memory."""
        return max(1, _CHUNK // max(1, 4 * self.packed.N * B))

    def input_gates(self, xs: Any) -> Any:
        """Return the part of x in the gates of several steps: xs (T, B, I) -> (T, B, 4N)."""
        T, B, I = xs.shape
        return self._product(xs.reshape(T * B, I), self.packed.weight_ih).reshape(T, B, -1)

    def prepare_reset(self, reset_h: Any, reset_c: Any) -> Reset:
        """Return what the steps reset to: the part of reset_h in the gates, and reset_c."""
        with self.device:
            return self._product(reset_h, self.packed.weight_hh), reset_c

    def run_gates(
        self, gates: Any, h: Any, c: Any, h_out: Any, c_out: Any, is_first: Any = None, reset: Reset | None = None
    ) -> None:
        """Write the next h and c, as `run` does, from the part of x in the gates (B, 4N), B at least 1.

        The part of h is a product of its own also without resets, which costs no more, so that the resets of
        some rows change no bit of others.
        """
        packed, (reset_gates, reset_c) = self.packed, reset or (None, None)
        m = h_out if packed.weight_hr is None else cupy.empty(c.shape, h_out.dtype)
        launch_pointwise(
            gates,
            c,
            m,
            c_out,
            gates_h=self._product(h, packed.weight_hh),
            bias=packed.bias,
            peephole=packed.peephole,
            cell_clip=packed.cell_clip,
            activation=packed.activation,
            is_first=is_first,
            reset_c=reset_c,
            reset_gates=reset_gates,
        )
        if packed.weight_hr is not None:
            write_product(h_out, m, packed.weight_hr, self.precision)
            if packed.proj_clip is not None:
                launch_clip(h_out, packed.proj_clip)

    def run_steps(self, xs: Any, h: Any, c: Any, ys: Any, c_out: Any) -> None:
        """Write every h of steps xs (T, B, I) without resets to ys, and the last c to c_out."""
        at_once = self.steps_at_once(len(c))
        for start in range(0, len(xs), at_once):
            part = slice(start, start + at_once)
            for gates, y in zip(self.input_gates(xs[part]), ys[part], strict=True):
                self.run_gates(gates, h, c, y, c_out)
                h, c = y, c_out

    def _product(self, a: Any, weight: Any) -> Any:
        """Return a @ weight.T in the dtype of the arithmetic."""
        out = cupy.empty((a.shape[0], weight.shape[0]), self.packed.gates_dtype)
        write_product(out, a, weight, self.precision)
        return out


class CudaBackend:
    """The backend of one GPU."""

    name = "cuda"
    array_type: type = cupy.ndarray
    xp: ModuleType = cupy

    def __init__(self, index: int) -> None:
        fork.note_use()
        self.device = f"cuda:{index}"
        self._index = index
        self._device = cupy.cuda.Device(index)

    def asarray(self, x: Any, dtype: np.dtype[Any]) -> Any:
        """Return `x` as a CuPy array of this dtype on this device; no copy where it is one."""
        fork.check_process()
        check_no_grad("x", x)
        if isinstance(x, cupy.ndarray):
            if x.device.id == self._index:
                with self._device:
                    return _cast(x, dtype)
            return self._from(x.device.id, x, None, dtype)
        library = library_of(x)
        place = "" if library is None else library.place(x)
        if place.startswith("cuda"):
            return self._from(int(place.partition(":")[2] or -1), x, library, dtype)
        with self._device:
            return cupy.asarray(to_host_reals("x", x, dtype))

    def _from(self, index: int, x: Any, library: Library | None, dtype: np.dtype[Any]) -> Any:
        """Return `asarray` of an array on a GPU, in the order of its library; -1 where only a view tells which GPU.

        On another GPU it is made contiguous first, as otherwise CuPy's copy does, there, in the order of nothing. The
        order of that GPU is left last, so that its streams wait for the copy.
        """
        if index < 0 and library is not None:
            index = view_of("x", x, library, self).array.device.id
        with Order(index, None) as there:
            array = x if library is None else self._borrow(x, library, there, index)
            if index == self._index:
                return _cast(array, dtype)
            array = cupy.ascontiguousarray(array)
            with Order(self._index, None) as here:
                here.follow(None, index)
                return _cast(array.copy(), dtype)

    def _borrow(self, x: Any, library: Library, order: Order, index: int) -> Any:
        """Return the view of an array on a GPU, with the work in order with its library's."""
        view = view_of("x", x, library, self).array
        stream = library.stream(index)
        if stream is None:
            order.keep(view)
        else:
            order.follow(stream)
        return view

    def mask(self, values: Any) -> Any:
        """Return a mask on this device; a host array of no booleans is returned as it is, to be refused."""
        if isinstance(values, cupy.ndarray):
            return values
        host = host_mask(values)
        if host.dtype != np.bool_:
            return host
        fork.check_process()
        with self._device:
            return cupy.asarray(host)

    def signature(self, x: Any, h: Any, c: Any) -> tuple[Any, ...]:
        """Return what the checks of these arrays depend on."""
        places = x.device.id, h.device.id, c.device.id
        return type(x), x.shape, x.dtype, type(h), h.shape, h.dtype, type(c), c.shape, c.dtype, places

    def device_of(self, array: Any) -> str:
        """Return "cuda:<index>" of an array."""
        return f"cuda:{array.device.id}"

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return an array of zeros."""
        fork.check_process()
        with self._device:
            return cupy.zeros(shape, dtype)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return an uninitialised array."""
        fork.check_process()
        with self._device:
            return cupy.empty(shape, dtype)

    def overlap(self, a: Any, b: Any) -> bool:
        """Whether the memory of two arrays may overlap: whether the spans of their addresses do."""
        if a.size == 0 or b.size == 0:
            return False
        a_start, a_end = span(a)
        b_start, b_end = span(b)
        return a_start < b_end and b_start < a_end

    def same_place(self, a: Any, b: Any) -> bool:
        """Whether two arrays are the same memory, element by element."""
        return bool(a.data.ptr == b.data.ptr and a.strides == b.strides)

    def computing(self) -> Any:
        """Return the context of a plan's `input_gates` and `run_gates`, of `select_rows` and of `add`: the device."""
        return cupy.cuda.Device(self._index)

    def select_rows(self, a: Any, rows: Any, value: Any) -> None:
        """Write zeros, or a row's own of `value`, to the rows marked of a contiguous (B, K)."""
        launch_select(a, rows, value)

    def add(self, a: Any, more: Any) -> None:
        """Write a + more to a, which is contiguous."""
        launch_add(a, more)

    def largest_over_1(self, h: Any, is_first: Any) -> float:
        """Return the largest |h| over 1, or 0, in rows that are not reset; waits for the device. NaN is none."""
        with self._device:
            sizes = cupy.abs(h.astype(np.float64))
            sizes = cupy.where(sizes > 1, sizes, 0)
            if is_first is not None:
                sizes = cupy.where(is_first[:, None], 0, sizes)
            return float(sizes.max()) if sizes.size else 0.0

    def step_plan(self, weights: LSTMWeights, precision: str, *, batch_invariant: bool = False) -> StepPlan:
        """Return the plan of a cell's step; a batch-invariant one is refused before."""
        del batch_invariant
        with self._device:
            return StepPlan(weights, precision)

    def batch(
        self,
        weights: StackedWeights,
        plans: Sequence[StepPlan],
        B: int,
        reset_to: Sequence[LSTMState] | None,
        *,
        host: bool,
    ) -> CudaBatch:
        """Return buffers of B rows, and graphs of their step."""
        check_can_plan()
        with self._device:
            return CudaBatch(self._index, plans, weights.residual, B, reset_to, host=host)

    def row_store(self, weights: StackedWeights, plans: Sequence[StepPlan], capacity: int) -> CudaRows:
        """Return the rows of a pool."""
        check_can_plan()
        with self._device:
            return CudaRows(self._index, weights.residual, plans, capacity)

    def pointwise(self, *arrays: Any, **options: Any) -> None:
        """Run `lstm_pointwise`."""
        with self._device:
            launch_pointwise(*arrays, **options)

    def order(self, stream: int | None) -> Order:
        """Return a context that queues work on a stream, CuPy's current one where it is None."""
        fork.check_process()
        return Order(self._index, stream)

    def from_dlpack(self, array: Any) -> Any:
        """Return the view of an array on this device; it makes the current stream wait for its producer's."""
        return cupy.from_dlpack(array)

    def from_interface(self, array: Any) -> Any:
        """Return the view of what has `__cuda_array_interface__`, on whichever device it is."""
        return cupy.asarray(array)


def _cast(array: Any, dtype: np.dtype[Any]) -> Any:
    """Return a CuPy array of real numbers in this dtype, itself where it is that already."""
    if array.dtype.kind == "c":
        fail(TypeError, "x", "real numbers", f"dtype {array.dtype}")
    return array.astype(dtype, copy=False)
