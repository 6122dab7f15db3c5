"""The interfaces of a backend and of its engines for a cell, sequences, a Stepper and a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import ModuleType

    import numpy as np

    from fusedlstm.arrays.dtypes import Array, Empty, NumpyArray
    from fusedlstm.backends.sequence_run import SequencerForm, SequenceRun
    from fusedlstm.gradients import LSTMGradients
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.state import LSTMState
    from fusedlstm.weights import LSTMWeights


class CellEngine(Protocol):
    """One step of a cell, prepared once and run for any batch.

    Attributes:
        is_whole: False while `set_weights` overwrites the weights on a GPU, and after that failed. Steps then raise.
    """

    is_whole: bool

    def run(
        self,
        x: Array,
        h: Array,
        c: Array,
        h_out: Array,
        c_out: Array,
        is_first: Array | None = None,
        reset: Any = None,
    ) -> None:
        """Write the next h to h_out and the next c to c_out, which may be c. Arguments have been checked.

        Rows that is_first marks start from `reset`, which `prepare_reset` made, or from zeros.
        """

    def prepare_reset(self, reset_h: Array, reset_c: Array) -> Any:
        """Return a `reset` for `run`, from a state of one row or of B."""

    def with_weights(self, weights: LSTMWeights) -> CellEngine:
        """Return an engine with other weights of the same form.

        NumPy returns a new engine, so calls in progress keep the old weights. CUDA overwrites the weights in stream
        order and returns this engine. Everything that shares them then steps with the new ones.
        """


class SequenceEngine(Protocol):
    """Runs all layers and directions of an LSTM through whole sequences. Several threads may do so at once."""

    def run(self, engines: Sequence[Any], run: SequenceRun) -> None:
        """Do the work of a call with these engines, one for each layer and direction.

        On a GPU this only queues the work on the current stream. It reads nothing from the GPU. It waits only if many
        earlier uploads of host arrays are still under way.
        """

    def kernels(self, engines: Sequence[Any], T: int, B: int) -> tuple[str, ...]:
        """Return each layer's and direction's kernel for T steps of B rows.

        Each is a name of `sequence_choice`, or "numpy".
        """


class TrainingEngine(Protocol):
    """Runs all layers and directions through whole sequences forward, and backward for their gradients.

    Weights are in float32 or float64, without zoneout. Memory for the backward pass is a flat list of arrays, which
    only the engine interprets. Several threads may call an engine at once.
    """

    def forward(
        self, engines: Sequence[Any], run: SequenceRun, *, every: int | None = None, is_step: bool = False
    ) -> list[Array]:
        """Do the work of `SequenceEngine.run`, bit for bit, and return new arrays for the backward pass.

        None of them is an array of `run`, whose `cells` must be None.

        Args:
            engines: an engine for each layer and direction.
            run: as for `SequenceEngine.run`.
            every: the number of steps between checkpoints. The backward pass takes the steps in between again. None
                keeps what it needs of every step.
            is_step: whether this is a cell's step. There is one engine, and T is 1.
        """

    def release(self, saved: list[Array]) -> None:
        """Take back what `forward` returned. The next call of the same sizes may overwrite and return it."""

    def backward(
        self,
        engines: Sequence[Any],
        run: SequenceRun,
        saved: Sequence[Array],
        d_outputs: Array | None,
        d_finals: Sequence[LSTMState] | None,
        *,
        every: int | None = None,
        wants_xs: bool = True,
        wants_weights: Sequence[bool] | bool = True,
    ) -> LSTMGradients:
        """Return the gradients, in new arrays. Nothing is changed, so this may be called again.

        Args:
            engines: as in `forward`.
            run: as in `forward`. Its outputs and finals aren't used.
            saved: what `forward` returned.
            d_outputs: (T, B, width), any strides; None for zeros.
            d_finals: a gradient of each final state, any strides; None for zeros.
            every: as in `forward`.
            wants_xs: whether to compute the gradient of xs. Otherwise it is None.
            wants_weights: whether to compute the gradients of the weights, for each layer and direction or for all.
                None for those that aren't needed.
        """


class InPlaceEngine(Protocol):
    """A batch of B rows whose buffers stay in place, and what all layers do to its state.

    Arguments have been checked. Calls are made one at a time.

    Attributes:
        is_torn: whether `run`, `write` or `clear` was interrupted or failed while it changed the state. The state may
            then mix old and new values. `write` and `clear` replace all of it.
    """

    is_torn: bool

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernel that steps each layer: one of `sequence_choice.NAMES`, or "numpy"."""

    def run(self, engines: Sequence[Any]) -> None:
        """Step with these engines, one for each layer and direction. Their weights may be new since the last call."""

    def read(self, empty: Empty) -> tuple[LSTMState, ...]:
        """Return copies of the states, in arrays that `empty` makes."""

    def write(self, states: Sequence[LSTMState]) -> None:
        """Copy one state for each layer and direction, with any strides, to the buffers."""

    def clear(self) -> None:
        """Write zeros to all states."""


class StepperEngine(InPlaceEngine, Protocol):
    """The buffers of a Stepper. `run` takes one step. After a torn state, `write` and `clear` also clear the flags."""

    @property
    def x(self) -> Array:
        """(B, I): the input of the next step."""

    @property
    def output(self) -> Array:
        """(B, width): the output of the last step."""

    @property
    def all_states(self) -> Sequence[Sequence[LSTMState]]:
        """One or two buffers of the state on the device. Each has h (B, P) and c (B, N) of every layer."""

    @property
    def current(self) -> int:
        """The index in `all_states` of the current state, which the next step reads."""

    @property
    def is_first(self) -> Array:
        """(B,) booleans: rows to reset before the next step, which clears the flags.

        Steps ignore it until this property is first read.
        """

    def load(self, x: Array) -> None:
        """Copy an array (B, I) with any strides to `x`."""

    def mark(self, is_first: Array) -> None:
        """Copy (B,) booleans to `is_first` for the next `run`. `is_torn` is set until that run is done."""

    def copy_output(self, to: Array) -> None:
        """Copy `output` to a contiguous array."""


class SequencerEngine(InPlaceEngine, Protocol):
    """The buffers of a Sequencer. `run` steps whole sequences.

    Attributes:
        buffers: the inputs and results of every run, on the device. They stay in place, and `finals` is `states`. They
            begin as zeros, but lengths as T and the mask as True.
    """

    buffers: SequenceRun

    def load(self, to: Array, values: Array) -> None:
        """Copy an array, in host memory or on the device, to a buffer of inputs. Both have any strides."""


class PoolEngine(Protocol):
    """The states of all slots of a pool, one row for each slot, and steps of some of the rows.

    Arguments have been checked: slots are int64 in host memory, without duplicates, and live or about to be. Don't keep
    the arrays, as the next call may overwrite them. Calls are made one at a time. A call that raises changes no row. A
    call that is interrupted while it writes rows still writes all of them.
    """

    @property
    def nbytes(self) -> int:
        """The bytes of all rows."""

    @property
    def scratch_nbytes(self) -> int:
        """The bytes of the buffers and of everything else that is kept for steps."""

    def kernels(self, B: int) -> tuple[str, ...]:
        """Return the kernel of each layer for a step of B rows: one of `kernel_choice.NAMES`, or "numpy"."""

    def clear(self, slots: NumpyArray) -> None:
        """Write zeros to the rows of these slots."""

    def read(self, slots: NumpyArray, empty: Empty) -> tuple[LSTMState, ...]:
        """Return copies of the rows of these slots, one state for each layer, in arrays that `empty` makes."""

    def write(self, slots: NumpyArray, states: Sequence[LSTMState]) -> None:
        """Write one state for each layer, with any strides, to the rows of these slots."""

    def copy(self, parents: NumpyArray, slots: NumpyArray) -> None:
        """Copy row parents[k] to row slots[k]. The slots are free. Parents may repeat."""

    def step(self, engines: Sequence[Any], x: Array, slots: Array, is_first: Array | None, out: Array) -> None:
        """Step row slots[k] with x[k], and write the top layer's output to out[k].

        `out` is contiguous and doesn't overlap x. If slots[k] is -1, nothing is stepped and out[k] is zeros. If
        is_first[k] is set, the row starts from zeros. After a step of as many rows, or after `prepare`, a step
        allocates nothing.

        After `audit`, slots may also be on the device, in any integer type. They are checked there. Those that can't be
        stepped count as -1, and `problems` reports them.
        """

    def prepare(self, engines: Sequence[Any], largest: int) -> None:
        """Allocate everything that steps of up to `largest` rows need."""

    def take_over(self, engines: Sequence[Any], before: PoolEngine) -> None:
        """Take the place of an engine with another capacity, whose rows have been written to this one.

        Prepare for as many rows of a step as that one was prepared for, and keep its `problems`.
        """

    def retire(self) -> None:
        """Free the memory once queued work is done. This engine is no longer used.

        A finalizer does this, too, but an interrupt in a finalizer would be ignored.
        """

    def audit(self, live: NumpyArray) -> None:
        """Set which slots are live, (capacity,) booleans. Call it before the first step with slots on the device."""

    def mark(self, slots: NumpyArray, *, live: bool) -> None:
        """Mark slots as live or not. Before `audit` this isn't needed."""

    def problems(self) -> Sequence[tuple[int, int]]:
        """Return a count and one slot for each of `slots.PROBLEMS`, as found on the device since the last call.

        This waits for the device.
        """


class Order(Protocol):
    """A context that orders a call's work among the streams of several libraries; see `cuda.runtime.streams`."""

    def __enter__(self) -> Order: ...

    def __exit__(self, *_: object) -> None: ...

    def follow(self, stream: int | None, index: int | None = None) -> None:
        """Make the work wait for a stream, and the stream for the work. None is the backend's current stream."""

    def keep(self, array: Array) -> None:
        """Keep an array alive until the work is done."""

    def wait_on_host(self) -> None:
        """Make the host wait for the work when the context ends."""


class Backend(Protocol):
    """Runs cells in one place: NumPy on the CPU, or one GPU. It doesn't check arguments, and doesn't know LSTMCell."""

    @property
    def name(self) -> str:
        """Its name: "numpy" or "cuda"."""

    @property
    def device(self) -> str:
        """Its device: "cpu", "cuda:0", ..."""

    @property
    def array_type(self) -> type:
        """The class of its arrays."""

    @property
    def xp(self) -> ModuleType:
        """The module of its arrays: numpy or cupy."""

    def asarray(self, x: Any, dtype: np.dtype[Any]) -> Array:
        """Return `x`, from any device, as an array of this dtype on this device."""

    def mask(self, values: Any) -> Array:
        """Return a mask, given as an array or a list, as an array on this device."""

    def signature(self, x: Array, h: Array, c: Array) -> tuple[Any, ...]:
        """Return everything that checks look at in these arrays. Raise AttributeError if one isn't an array."""

    def device_of(self, array: Array) -> str:
        """Return the name of the device that one of the backend's arrays is on."""

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array of zeros."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an uninitialised array."""

    def overlap(self, a: Array, b: Array) -> bool:
        """Whether the memory of two arrays may overlap."""

    def same_place(self, a: Array, b: Array) -> bool:
        """Whether two arrays of one shape are the same memory, element by element."""

    def compute(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of `work`, which may call `add`.

        Meanwhile CUDA's current device is the backend's, and NumPy's warnings are off.
        """

    def add(self, a: Array, more: Array) -> None:
        """Write a + more to `a`, which is contiguous."""

    def largest_over_1(self, h: Array, is_first: Array | None) -> float:
        """Return the largest |h| above 1 in rows that are not reset, or 0. This waits for the device."""

    def cell_engine(
        self,
        weights: LSTMWeights,
        precision: str,
        *,
        batch_invariant: bool = False,
        kernel: str | None = None,
        threads: int | None = None,
    ) -> CellEngine:
        """Return an engine for a cell.

        Args:
            weights: the weights of the cell.
            precision: the precision of float32 matmuls on a GPU.
            batch_invariant: whether to make each row bitwise independent of the rest of its batch.
            kernel: one of `kernel_choice.NAMES` to step with on a GPU; None leaves the choice to the backend.
            threads: the most CPU threads a call may use, the same for all layers; None for NumPy's BLAS's own number.

        Raises:
            RuntimeError: steps can't be batch-invariant here, the threads of NumPy's BLAS can't be set, or the GPU is
                too old for the kernel.
        """

    def sequence_engine(self, weights: StackedWeights, engines: Sequence[Any]) -> SequenceEngine:
        """Return an engine for whole sequences. Only the form of the weights matters, as calls pass their engines."""

    def training_engine(self, weights: StackedWeights) -> TrainingEngine:
        """Return an engine for gradients. Only the form of the weights matters, as calls pass their engines.

        Raises:
            NotImplementedError: this backend has none. The message names one that has.
        """

    def training_shapes(
        self, sizes: tuple[int, int], dtype: np.dtype[Any], T: int, B: int, *, proj_clip: bool, every: int | None
    ) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return the shape and dtype of each array that `TrainingEngine.forward` returns for one direction.

        Args:
            sizes: N and P.
            dtype: the dtype of the weights.
            T: the number of steps.
            B: the number of rows.
            proj_clip: whether the cell clips its projection.
            every: the number of steps between checkpoints, or None.

        Raises:
            NotImplementedError: as `training_engine`.
        """

    def stepper_engine(
        self,
        weights: StackedWeights,
        engines: Sequence[Any],
        B: int,
        reset_to: Sequence[LSTMState] | None,
        *,
        host: bool,
    ) -> StepperEngine:
        """Return an engine for a Stepper of layers of one direction. Its states are zeros.

        Args:
            weights: the weights of the layers.
            engines: an engine for each layer.
            B: the number of rows.
            reset_to: for each layer a state of one row or of B, which is copied; None for zeros.
            host: whether x, is_first, output and the states that are read and written are in host memory.
        """

    def sequencer_engine(self, weights: StackedWeights, engines: Sequence[Any], form: SequencerForm) -> SequencerEngine:
        """Return an engine for a Sequencer.

        Args:
            weights: the weights of the layers and directions.
            engines: an engine for each of them.
            form: what all runs have in common. Its `reset_to` is copied.
        """

    def pool_engine(self, weights: StackedWeights, engines: Sequence[Any], capacity: int) -> PoolEngine:
        """Return an engine for a pool of `capacity` slots and layers of one direction. Its states are zeros."""

    def pool_nbytes(self, weights: StackedWeights, engines: Sequence[Any], capacity: int) -> int:
        """Return `PoolEngine.nbytes` of the engine that `pool_engine` would return, without allocating it."""

    def pointwise(self, *arrays: Array | None, **options: Any) -> None:
        """Run `lstm_pointwise`."""

    def order(self, stream: int | None) -> Order:
        """Return a context that queues work on a stream; None for the current one of the backend's own library."""

    def is_captured(self, streams: Iterable[int]) -> bool:
        """Return whether the caller captures the current stream of the backend's own library, or one of these."""

    def from_dlpack(self, array: Any) -> Array:
        """Return a view of an array on this device that has `__dlpack__`."""

    def exported(self, array: Array) -> Any:
        """Return an object that exports an array by DLPack. Its consumer waits for the stream that is current now."""

    def from_interface(self, array: Any, address: int = 0) -> Array:
        """Return a view of an array that has `__cuda_array_interface__`.

        Args:
            array: the array, on the current device unless `address` is given.
            address: the address of its memory, if that may be on any device. 0 for an empty array.
        """
