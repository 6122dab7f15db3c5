"""The NumPy backend, which runs on any CPU."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays.host import host_mask, to_host_reals
from fusedlstm.backends.numpy import blas, cores
from fusedlstm.backends.numpy.cell import NumpyCell
from fusedlstm.backends.numpy.context import quietly
from fusedlstm.backends.numpy.fast_pointwise import pointwise
from fusedlstm.backends.numpy.memory import empty
from fusedlstm.backends.numpy.pool import NumpyPool, nbytes_of
from fusedlstm.backends.numpy.sequence import NumpySequence
from fusedlstm.backends.numpy.sequencer import NumpySequencer
from fusedlstm.backends.numpy.stepper import NumpyStepper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import ModuleType

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.backends.numpy.training import NumpyTraining
    from fusedlstm.backends.sequence_run import SequencerForm
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.state import LSTMState
    from fusedlstm.weights import LSTMWeights


class NumpyBackend:
    """The backend that runs everywhere."""

    name = "numpy"
    device = "cpu"
    array_type: type = np.ndarray
    xp: ModuleType = np

    def asarray(self, x: Any, dtype: np.dtype[Any]) -> NumpyArray:
        """Return `x` as a NumPy array of this dtype, without a copy if it already is one."""
        return to_host_reals("x", x, dtype)

    def mask(self, values: Any) -> Any:
        """Return a mask, given as an array or a list, as a NumPy array of its own dtype."""
        return host_mask(values)

    def signature(self, x: NumpyArray, h: NumpyArray, c: NumpyArray) -> tuple[Any, ...]:
        """Return everything that the checks of these arrays look at."""
        return type(x), x.shape, x.dtype, type(h), h.shape, h.dtype, type(c), c.shape, c.dtype

    def device_of(self, array: NumpyArray) -> str:
        """Return "cpu", where every NumPy array is."""
        del array
        return self.device

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NumpyArray:
        """Return an array of zeros."""
        return np.zeros(shape, dtype)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NumpyArray:
        """Return an uninitialised array."""
        return empty(shape, dtype)

    def overlap(self, a: NumpyArray, b: NumpyArray) -> bool:
        """Whether the memory of two arrays may overlap, judged by the spans of their addresses."""
        return np.may_share_memory(a, b)

    def same_place(self, a: NumpyArray, b: NumpyArray) -> bool:
        """Whether two arrays are the same memory, element by element."""
        return a is b or (
            a.__array_interface__["data"][0] == b.__array_interface__["data"][0] and a.strides == b.strides
        )

    def cell_engine(
        self,
        weights: LSTMWeights,
        precision: str,
        *,
        batch_invariant: bool = False,
        kernel: str | None = None,
        threads: int | None = None,
    ) -> NumpyCell:
        """Return an engine for a cell. `kernel` and `precision` are ignored: float32 is always IEEE float32 here.

        Raises:
            RuntimeError: NumPy or its BLAS can't guarantee `batch_invariant`, or can't limit its threads to `threads`.
        """
        del precision, kernel
        reason = None if threads is None else blas.why_threads_are_fixed()
        if reason is not None:
            hint = "Set OPENBLAS_NUM_THREADS, OMP_NUM_THREADS or MKL_NUM_THREADS before Python starts instead"
            raise RuntimeError(f"threads={threads} can't be kept here: {reason}. {hint}")
        cores.warn_if_crowded(threads)
        engine = NumpyCell(weights, invariant=batch_invariant, threads=threads)
        if batch_invariant:
            from fusedlstm.backends.numpy import batch_invariance

            batch_invariance.check(engine)
        return engine

    def sequence_engine(self, weights: StackedWeights, engines: Sequence[Any]) -> NumpySequence:
        """Return an engine for whole sequences. `engines` is ignored, as every call passes its own."""
        del engines
        return NumpySequence(weights)

    def training_engine(self, weights: StackedWeights) -> NumpyTraining:
        """Return an engine for gradients. Only the form of the weights matters, as calls pass their engines."""
        from fusedlstm.backends.numpy.training import NumpyTraining

        return NumpyTraining(weights)

    def training_shapes(
        self, sizes: tuple[int, int], dtype: np.dtype[Any], T: int, B: int, *, proj_clip: bool, every: int | None
    ) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return the shape and dtype of each array of a Record."""
        from fusedlstm.backends.numpy.recording import Record

        return Record.shapes(sizes, dtype, T, B, proj_clip=proj_clip, every=every)

    def stepper_engine(
        self,
        weights: StackedWeights,
        engines: Sequence[NumpyCell],
        B: int,
        reset_to: Sequence[LSTMState] | None,
        *,
        host: bool,
    ) -> NumpyStepper:
        """Return an engine for a Stepper. `host` is ignored, as all memory is the host's."""
        del host
        return NumpyStepper(engines, weights.residual, B, reset_to)

    def sequencer_engine(self, weights: StackedWeights, engines: Sequence[Any], form: SequencerForm) -> NumpySequencer:
        """Return an engine for a Sequencer. `engines` is ignored, as every run passes its own."""
        del engines
        return NumpySequencer(weights, form)

    def pool_engine(self, weights: StackedWeights, engines: Sequence[Any], capacity: int) -> NumpyPool:
        """Return an engine for a pool. `engines` is ignored, as every step passes its own."""
        del engines
        return NumpyPool(weights, capacity)

    def pool_nbytes(self, weights: StackedWeights, engines: Sequence[Any], capacity: int) -> int:
        """Return the bytes of the states of all slots of a pool."""
        del engines
        return nbytes_of(weights, capacity)

    def pointwise(self, *arrays: Any, **options: Any) -> None:
        """Run `lstm_pointwise`."""
        plain: dict[str, Any] = {name: np.asarray(a) if isinstance(a, np.ndarray) else a for name, a in options.items()}
        quietly(functools.partial(pointwise, **plain), *map(np.asarray, arrays))

    def compute(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of `work`, which may call `add`."""
        return quietly(work, *arguments)

    def add(self, a: NumpyArray, more: NumpyArray) -> None:
        """Write a + more to a."""
        np.add(a, more, out=a)

    def largest_over_1(self, h: NumpyArray, is_first: NumpyArray | None) -> float:
        """Return the largest |h| above 1 in rows that are not reset, or 0. NaN is ignored."""
        kept = h if is_first is None else h[~is_first]
        sizes = np.abs(kept.astype(np.float64))
        return float(np.max(sizes, where=sizes > 1, initial=0))

    def order(self, stream: int | None) -> Unordered:
        """Return a context that does nothing: on a CPU, work is done when a call returns."""
        del stream
        return _UNORDERED

    def is_captured(self, streams: Iterable[int]) -> bool:
        """Return False."""
        del streams
        return False

    def from_dlpack(self, array: Any) -> NumpyArray:
        """Return a view of an array in host memory. It is read-only unless its producer says that it is writable."""
        return np.from_dlpack(array)

    def exported(self, array: NumpyArray) -> NumpyArray:
        """Return the array itself: on a CPU, work is done when a call returns."""
        return array

    def from_interface(self, array: Any, address: int = 0) -> NumpyArray:
        """Raise TypeError: an array with only `__cuda_array_interface__` is on a GPU."""
        del address
        raise TypeError(f"NumPy can't view a {type(array).__name__}")


class Unordered:
    """The order of work where there are no streams."""

    def __enter__(self) -> Unordered:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def follow(self, stream: int | None, index: int | None = None) -> None:
        """Do nothing."""

    def keep(self, array: Any) -> None:
        """Do nothing."""

    def wait_on_host(self) -> None:
        """Do nothing."""


_UNORDERED = Unordered()
