"""The CUDA backend, on CuPy's arrays."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.arrays.host import host_mask, to_host_reals
from fusedlstm.arrays.libraries import library_of, view_of
from fusedlstm.backends import kernel_choice, sequence_choice
from fusedlstm.backends.cuda.cell import CudaCell
from fusedlstm.backends.cuda.kernels import launch_add, launch_pointwise
from fusedlstm.backends.cuda.layer_step import batch_step, slot_nbytes, slot_step
from fusedlstm.backends.cuda.pool import CudaPool
from fusedlstm.backends.cuda.runtime import fork, tuned
from fusedlstm.backends.cuda.runtime.cublaslt import check_can_plan, why_not
from fusedlstm.backends.cuda.runtime.streams import Exported, Order, Turns, check_not_captured, is_captured
from fusedlstm.backends.cuda.runtime.strides import span
from fusedlstm.backends.cuda.sequence import CudaSequence
from fusedlstm.backends.cuda.sequencer import CudaSequencer
from fusedlstm.backends.cuda.stepper import CudaStepper
from fusedlstm.backends.measured import Layer
from fusedlstm.validation.arguments import check_no_grad, fail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import ModuleType
    from typing import NoReturn

    from fusedlstm.arrays.libraries import Library
    from fusedlstm.backends.sequence_run import SequencerForm
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.state import LSTMState
    from fusedlstm.weights import LSTMWeights


@functools.cache
def backend_on(index: int) -> CudaBackend:
    """Return the backend of one GPU."""
    return CudaBackend(index)


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
        """Return `x` as a CuPy array of this dtype on this device, without a copy if it already is one."""
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
        """Do `asarray` for an array on a GPU, in order with its library. `index` is -1 if only a view can tell it.

        An array on another GPU is made contiguous there first. Otherwise CuPy's copy would do it, without
        waiting for other work. That GPU's order is left last, so that its streams wait for the copy.
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
        """Return a view of an array on a GPU, and put the work in order with its library's."""
        view = view_of("x", x, library, self).array
        stream = library.stream(index)
        if stream is None:
            order.keep(view)
        else:
            order.follow(stream)
        return view

    def mask(self, values: Any) -> Any:
        """Return a mask on this device. A host array that isn't boolean is returned unchanged, for checks to refuse.

        Raises:
            RuntimeError: a host array can't be uploaded, as the caller captures the current stream.
        """
        if isinstance(values, cupy.ndarray):
            return values
        host = host_mask(values)
        if host.dtype != np.bool_:
            return host
        fork.check_process()
        with self._device:
            check_not_captured("flags in host memory", "each replay would read memory that is freed after the call")
            return cupy.asarray(host)

    def signature(self, x: Any, h: Any, c: Any) -> tuple[Any, ...]:
        """Return everything that the checks of these arrays look at."""
        places = x.device.id, h.device.id, c.device.id
        return type(x), x.shape, x.dtype, type(h), h.shape, h.dtype, type(c), c.shape, c.dtype, places

    def device_of(self, array: Any) -> str:
        """Return "cuda:<index>" of the GPU that an array is on."""
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
        """Whether the memory of two arrays may overlap, judged by the spans of their addresses."""
        if a.size == 0 or b.size == 0:
            return False
        a_start, a_end = span(a)
        b_start, b_end = span(b)
        return a_start < b_end and b_start < a_end

    def same_place(self, a: Any, b: Any) -> bool:
        """Whether two arrays are the same memory, element by element."""
        return bool(a.data.ptr == b.data.ptr and a.strides == b.strides)

    def compute(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of `work`, which may call `add`."""
        with cupy.cuda.Device(self._index):
            return work(*arguments)

    def add(self, a: Any, more: Any) -> None:
        """Write a + more to `a`, which is contiguous."""
        launch_add(a, more)

    def largest_over_1(self, h: Any, is_first: Any) -> float:
        """Return the largest |h| above 1 in rows that are not reset, or 0; NaN is ignored. Waits for the device."""
        with self._device:
            sizes = cupy.abs(h.astype(np.float64))
            sizes = cupy.where(sizes > 1, sizes, 0)
            if is_first is not None:
                sizes = cupy.where(is_first[:, None], 0, sizes)
            return float(sizes.max()) if sizes.size else 0.0

    def cell_engine(
        self,
        weights: LSTMWeights,
        precision: str,
        *,
        batch_invariant: bool = False,
        kernel: str | None = None,
        threads: int | None = None,
    ) -> CudaCell:
        """Return an engine for a cell. `threads` is ignored.

        Raises:
            RuntimeError: this GPU is too old for the kernel or for batch-invariant steps.
        """
        del threads
        asked = "batch_invariant=True" if batch_invariant else f"kernel={kernel!r}"
        if batch_invariant:
            kernel = kernel_choice.invariant(weights.dtype.name, precision)
        if kernel is not None:
            about = weights.hidden_size, weights.dtype.name, precision
            reason = sequence_choice.reason_against_kernel(kernel, *about, self._capability)
            if reason is not None:
                raise RuntimeError(f"{asked} can't run on {self.device}: {reason}")
        chooses = sequence_choice.of_steps(kernel) is None
        measured = tuned.read(self._index, Layer.of(weights, precision)) if chooses else None
        with self._device:
            return CudaCell(weights, precision, kernel, measured)

    @property
    def _capability(self) -> int:
        return int(self._device.compute_capability)

    def _kernels(self, weights: StackedWeights, engines: Sequence[CudaCell], B: int) -> tuple[str, ...]:
        """Return the kernel of each layer: the one that the engines name, else the choice of `kernel_choice`.

        If that is matmul, but it can't be planned here, one-kernel steps take its place.

        Raises:
            BackendUnavailableError: the step needs matmul, which can't be planned here.
        """
        sizes = tuple((layer.input_size, layer.hidden_size, layer.output_size) for layer in weights.layers)
        about = weights.dtype.name, engines[0].precision
        kernels = kernel_choice.runnable_layers(
            *(B, sizes, *about, self._capability),
            forced=engines[0].kernel,
            can_plan=why_not() is None,
            measured=tuple(engine.measured for engine in engines),
        )
        if "matmul" in kernels:
            check_can_plan()
        return kernels

    def sequence_engine(self, weights: StackedWeights, engines: Sequence[CudaCell]) -> CudaSequence:
        """Return an engine for whole sequences. `engines` is ignored, as every call passes its own."""
        del engines
        return CudaSequence(self._index, weights)

    def training_engine(self, weights: StackedWeights) -> NoReturn:
        """Raise NotImplementedError: gradients are computed on the CPU."""
        del weights
        self._refuse_training()

    def training_shapes(self, *_: Any, **__: Any) -> NoReturn:
        """Raise NotImplementedError, as `training_engine` does."""
        self._refuse_training()

    def _refuse_training(self) -> NoReturn:
        raise NotImplementedError(
            f"vjp computes gradients on the CPU, and not yet on {self.device}. "
            'Make the cell or LSTM with backend="numpy"'
        )

    def stepper_engine(
        self,
        weights: StackedWeights,
        engines: Sequence[CudaCell],
        B: int,
        reset_to: Sequence[LSTMState] | None,
        *,
        host: bool,
    ) -> CudaStepper:
        """Return an engine for a Stepper: buffers of B rows, and graphs of their step."""
        fork.check_process()
        kernels = self._kernels(weights, engines, B)
        with self._device:
            step = batch_step(engines, weights.residual, B, reset_to, kernels, host=host)
            return CudaStepper(self._index, engines, step, kernels, host=host)

    def sequencer_engine(
        self, weights: StackedWeights, engines: Sequence[CudaCell], form: SequencerForm
    ) -> CudaSequencer:
        """Return an engine for a Sequencer: buffers, and the graph of a run on them."""
        fork.check_process()
        with self._device:
            return CudaSequencer(self._index, weights, engines, form)

    def pool_engine(self, weights: StackedWeights, engines: Sequence[CudaCell], capacity: int) -> CudaPool:
        """Return an engine for a pool."""
        fork.check_process()
        kernels = self._pool_kernels(weights, engines, capacity)
        with self._device:
            check_not_captured("making a StatePool", "its memory is allocated and filled with zeros once")
            turns = Turns(self._index)
            return CudaPool(engines, slot_step(engines, weights.residual, capacity, kernels, turns), turns)

    def pool_nbytes(self, weights: StackedWeights, engines: Sequence[CudaCell], capacity: int) -> int:
        """Return the bytes of the states of all slots of a pool."""
        return slot_nbytes(engines, capacity, self._pool_kernels(weights, engines, capacity))

    def _pool_kernels(self, weights: StackedWeights, engines: Sequence[CudaCell], capacity: int) -> tuple[str, ...]:
        return self._kernels(weights, engines, min(capacity, kernel_choice.ROWS_OF_A_POOL))

    def pointwise(self, *arrays: Any, **options: Any) -> None:
        """Run `lstm_pointwise`."""
        with self._device:
            launch_pointwise(*arrays, **options)

    def order(self, stream: int | None) -> Order:
        """Return a context that queues work on a stream; None for CuPy's current one."""
        fork.check_process()
        return Order(self._index, stream)

    def is_captured(self, streams: Iterable[int]) -> bool:
        """Return whether the caller, and not this package, captures CuPy's current stream, or one of these."""
        if fork.forked or fork.is_capturing():  # calls say so
            return False
        with self._device:
            return any(map(is_captured, (int(cupy.cuda.get_current_stream().ptr), *streams)))

    def from_dlpack(self, array: Any) -> Any:
        """Return a view of an array on this device. The current stream waits for the producer's."""
        return cupy.from_dlpack(array)

    def exported(self, array: Any) -> Exported:
        """Return an object that exports an array by DLPack. Its consumer waits for the stream that is current now."""
        return Exported(array)

    def from_interface(self, array: Any, address: int = 0) -> Any:
        """Return a view of an array that has `__cuda_array_interface__`. See base.py for `address`."""
        if not address:
            return cupy.asarray(array)
        with cupy.cuda.Device(cupy.cuda.runtime.pointerGetAttributes(address).device):  # else CuPy would copy it
            return cupy.asarray(array)


def _cast(array: Any, dtype: np.dtype[Any]) -> Any:
    """Return a CuPy array in this dtype, without a copy if it already has it. Raise TypeError for complex numbers."""
    if array.dtype.kind == "c":
        fail(TypeError, "x", "real numbers", f"dtype {array.dtype}")
    return array.astype(dtype, copy=False)
