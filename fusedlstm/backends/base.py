"""The interface of a backend, and of its engines: they step a cell, a sequence, a Stepper and a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    import numpy as np

    from fusedlstm.arrays.dtypes import Array, Empty, NumpyArray
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.state import LSTMState
    from fusedlstm.weights import LSTMWeights


class CellEngine(Protocol):
    """One step of a cell, prepared once and run for any batch.

    Attributes:
        is_whole: whether its weights are complete. While `set_weights` overwrites them on a GPU, steps raise.
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
        """Write the next h and c; c_out may be c. Arguments have been checked.

        Rows where is_first start from `reset`, which `prepare_reset` made, or from zeros.
        """

    def prepare_reset(self, reset_h: Array, reset_c: Array) -> Any:
        """Return a `reset` for `run`, from a state of one row or of B."""

    @property
    def sequence(self) -> SequenceEngine:
        """An engine that steps sequences with the weights of this one."""

    def with_weights(self, weights: LSTMWeights) -> CellEngine:
        """Return an engine with other weights of the same form.

        NumPy returns a new engine, so calls that run with this one keep its weights. A GPU returns this engine with its
        memory overwritten in stream order. Whatever shares that memory then steps with the new weights.
        """


class SequenceEngine(Protocol):
    """Steps a cell through a sequence: first the part of x in the gates of many steps, then the rest step by step.

    Call it inside the backend's `compute`, with B at least 1. Arguments have been checked. Only the engine knows the
    form of the gates and of the reset.
    """

    def steps_at_once(self, B: int) -> int:
        """Return how many steps to pass to `input_gates` at once; if 1, call the cell's `run` instead.

        This bounds the memory of the gates.
        """

    def input_gates(self, xs: Array) -> Any:
        """Return the part of x in the gates of the steps xs (T, B, I), as a sequence of length T."""

    def run_gates(
        self,
        gates: Any,
        h: Array,
        c: Array,
        h_out: Array,
        c_out: Array,
        is_first: Array | None = None,
        reset: Any = None,
    ) -> None:
        """Write the next h and c like the cell's `run`, but from the gates of one step."""

    def run_steps(self, xs: Array, h: Array, c: Array, ys: Array, c_out: Array) -> None:
        """Take the steps xs (T, B, I) without resets. Write every h to ys (T, B, P) and the last c to c_out."""


class StepperEngine(Protocol):
    """A batch of B rows whose buffers stay in place, and the step of all layers on them.

    Arguments have been checked. One call is made at a time.

    Attributes:
        is_torn: whether `run`, `write` or `clear` was interrupted or failed while it changed the state. The state may
            then be a mixture of old and new. `write` and `clear` set it whole again, and clear the flags.
    """

    is_torn: bool

    @property
    def x(self) -> Array:
        """(B, I): the input of the next step."""

    @property
    def output(self) -> Array:
        """(B, width): the output of the last step."""

    @property
    def all_states(self) -> Sequence[Sequence[LSTMState]]:
        """The one or two buffers of the state, on the device: for each layer h (B, P) and c (B, N)."""

    @property
    def current(self) -> int:
        """The index in `all_states` of the current state, which the next step reads."""

    @property
    def kernels(self) -> tuple[str, ...]:
        """For each layer the kernel that steps it: one of `kernel_choice.NAMES`, or "numpy"."""

    @property
    def is_first(self) -> Array:
        """(B,) booleans: rows to reset before the next step, which clears the flags.

        Steps ignore it until this property is first read.
        """

    def load(self, x: Array) -> None:
        """Copy (B, I), any strides, to `x`."""

    def mark(self, is_first: Array) -> None:
        """Copy (B,) booleans to `is_first` for the next `run`. `is_torn` is set until that run is done."""

    def run(self, engines: Sequence[Any]) -> None:
        """Take one step with these engines of the layers, whose weights may differ from those at the start."""

    def copy_output(self, to: Array) -> None:
        """Copy `output` to a contiguous array."""

    def read(self, empty: Empty) -> tuple[LSTMState, ...]:
        """Return copies of the states, in arrays that `empty` makes."""

    def write(self, states: Sequence[LSTMState]) -> None:
        """Copy one state for each layer, with any strides, to the buffers."""

    def clear(self) -> None:
        """Write zeros to all states."""


class PoolEngine(Protocol):
    """The states of all slots of a pool, one row a slot, and steps of some of them.

    Arguments have been checked: slots are int64 in host memory, without duplicates, and live or about to be. Don't keep
    them, as the next call may write to their memory. One call is made at a time. A call that raises leaves all rows as
    they were. A call that is interrupted while it writes rows writes them all.
    """

    @property
    def nbytes(self) -> int:
        """The bytes of all rows."""

    @property
    def scratch_nbytes(self) -> int:
        """The bytes of the buffers and of everything else that is kept for steps."""

    def kernels(self, B: int) -> tuple[str, ...]:
        """Return for each layer the kernel that steps B rows: one of `kernel_choice.NAMES`, or "numpy"."""

    def clear(self, slots: NumpyArray) -> None:
        """Write zeros to the rows of these slots."""

    def read(self, slots: NumpyArray, empty: Empty) -> tuple[LSTMState, ...]:
        """Return copies of the rows of these slots, one state for each layer, in arrays that `empty` makes."""

    def write(self, slots: NumpyArray, states: Sequence[LSTMState]) -> None:
        """Write one state for each layer, with any strides, to the rows of these slots."""

    def step(self, engines: Sequence[Any], x: Array, slots: Array, is_first: Array | None, out: Array) -> None:
        """Step row slots[k] with x[k], and write the top layer's output to out[k].

        `out` is contiguous and doesn't overlap x. If slots[k] is -1, nothing is stepped and out[k] is zeros. If
        is_first[k], the row starts from zeros. A step allocates nothing after one of as many rows, or after `prepare`.

        Slots may also be on the device, in any integer type, after a call of `audit`. They are checked there. Those
        that can't be stepped count as -1 and are reported by `problems`.
        """

    def prepare(self, engines: Sequence[Any], largest: int) -> None:
        """Allocate everything that steps of up to `largest` rows need."""

    def audit(self, live: NumpyArray) -> None:
        """Set which slots are live, (capacity,) booleans. Call it before the first step with slots on the device."""

    def mark(self, slots: NumpyArray, *, live: bool) -> None:
        """Mark slots as live or not. There is no need to before `audit`."""

    def problems(self) -> Sequence[tuple[int, int]]:
        """Return a count and one slot for each of `slots.PROBLEMS`: those found on the device since the last call.

        This waits for the device.
        """


class Order(Protocol):
    """The order of a call's work among the streams of several libraries, as a context; see `cuda.runtime.streams`."""

    def __enter__(self) -> Order: ...

    def __exit__(self, *_: object) -> None: ...

    def follow(self, stream: int | None, index: int | None = None) -> None:
        """Make the work wait for a stream, and the stream for the work. None is the stream of the backend's library."""

    def keep(self, array: Array) -> None:
        """Keep an array alive until the work is done."""

    def wait_on_host(self) -> None:
        """Make the host wait for the work when the context ends."""


class Backend(Protocol):
    """The place where a cell runs. A backend doesn't check arguments, and knows nothing of LSTMCell."""

    @property
    def name(self) -> str:
        """ "numpy" or "cuda"."""

    @property
    def device(self) -> str:
        """ "cpu", "cuda:0", ..."""

    @property
    def array_type(self) -> type:
        """The class of its arrays."""

    @property
    def xp(self) -> ModuleType:
        """The module of its arrays: numpy or cupy."""

    def asarray(self, x: Any, dtype: np.dtype[Any]) -> Array:
        """Return `x`, wherever it is, as an array on this device."""

    def mask(self, values: Any) -> Array:
        """Return a mask as an array on this device. It may come as a host array or a list."""

    def signature(self, x: Array, h: Array, c: Array) -> tuple[Any, ...]:
        """Return everything that the checks of these three look at. Raise AttributeError if one isn't an array."""

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
        """Return the result of `work`, which may call a SequenceEngine, `select_rows` and `add`.

        Meanwhile the backend's device is current on a GPU, and warnings are off on NumPy.
        """

    def select_rows(self, a: Array, rows: Array, value: Array | None) -> None:
        """Write zeros, or the rows of `value` (B, K) or (1, K), to the marked rows of `a`, contiguous (B, K)."""

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
    ) -> CellEngine:
        """Return an engine for a cell.

        Args:
            weights: the cell's.
            precision: of float32 matmuls on a GPU.
            batch_invariant: whether to make each row bitwise independent of the rest of its batch.
            kernel: one of `kernel_choice.NAMES` to step with on a GPU; None leaves the choice to the backend.

        Raises:
            RuntimeError: steps can't be batch-invariant here, or the GPU is too old for the kernel.
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
            weights: the layers'.
            engines: the layers'.
            B: the number of rows.
            reset_to: for each layer a state of one row or of B, which is copied; None for zeros.
            host: whether x, is_first, output and the states that are read and written are in host memory.
        """

    def pool_engine(self, weights: StackedWeights, engines: Sequence[Any], capacity: int) -> PoolEngine:
        """Return an engine for a pool of `capacity` slots and layers of one direction. Its states are zeros."""

    def pointwise(self, *arrays: Array | None, **options: Any) -> None:
        """Run `lstm_pointwise`."""

    def order(self, stream: int | None) -> Order:
        """Return a context that queues work on a stream; None for the current one of the backend's own library."""

    def from_dlpack(self, array: Any) -> Array:
        """Return a view of an array on this device that has `__dlpack__`."""

    def from_interface(self, array: Any) -> Array:
        """Return a view of an array that has `__cuda_array_interface__`."""
