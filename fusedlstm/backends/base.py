"""What a backend offers: the contracts of the engines that step a cell, a sequence, a Stepper and a pool, said once."""

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
        """Return what the steps reset to: a state of one row or of B."""

    @property
    def sequence(self) -> SequenceEngine:
        """The steps of a sequence, with the weights of this engine."""

    def with_weights(self, weights: LSTMWeights) -> CellEngine:
        """Return an engine with other weights of the same form.

        In NumPy it is another engine, so that what runs with this one goes on as it began. On a GPU it is this one: its
        memory is overwritten in stream order, which what holds the memory sees.
        """


class SequenceEngine(Protocol):
    """A cell's steps of a sequence: the part of x in the gates of many steps first, then the rest, step by step.

    Call it inside the backend's `compute`, with B at least 1. Arguments have been checked. The gates and the reset are
    the engine's own business.
    """

    def steps_at_once(self, B: int) -> int:
        """Return for how many steps of a batch `input_gates` is best called; for 1, call the cell's `run` instead.

        It bounds the memory of the gates.
        """

    def input_gates(self, xs: Array) -> Any:
        """Return the part of x in the gates of several steps, xs (T, B, I): a sequence of T."""

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
        """Write the next h and c, as the cell's `run` does, from the gates of one step."""

    def run_steps(self, xs: Array, h: Array, c: Array, ys: Array, c_out: Array) -> None:
        """Write every h of steps xs (T, B, I) without resets to ys (T, B, P), and the last c to c_out."""


class StepperEngine(Protocol):
    """A fixed batch of B rows in buffers that stay where they are, and the step of all layers on them.

    Arguments have been checked. One call is made at a time.

    Attributes:
        is_torn: whether `run`, `write` or `clear` was interrupted or failed while it changed the state. The state may
            then be neither the old nor the new one, until `write` or `clear` sets it and clears the flags.
    """

    is_torn: bool

    @property
    def x(self) -> Array:
        """(B, I): what the next step reads."""

    @property
    def output(self) -> Array:
        """(B, width): what the last step has written."""

    @property
    def all_states(self) -> Sequence[Sequence[LSTMState]]:
        """Where the state may be, one or two places: for each layer h (B, P) and c (B, N), on the device."""

    @property
    def turn(self) -> int:
        """In which of these the state is now: the next step reads it there."""

    @property
    def kernels(self) -> tuple[str, ...]:
        """For each layer what steps it: one of `kernel_choice.NAMES`, or "numpy"."""

    @property
    def is_first(self) -> Array:
        """(B,) booleans: rows to reset before the next step, which clears them.

        Steps look at it once it was asked for.
        """

    def load(self, x: Array) -> None:
        """Copy (B, I), any strides, to `x`."""

    def mark(self, is_first: Array) -> None:
        """Copy (B,) booleans to `is_first` for the next `run`, and set `is_torn` until that is done."""

    def run(self, engines: Sequence[Any]) -> None:
        """Take one step. The engines are those that the batch was made with, or have its memory, or other weights."""

    def copy_output(self, to: Array) -> None:
        """Copy `output` to a contiguous array."""

    def read(self, empty: Empty) -> tuple[LSTMState, ...]:
        """Return copies of the states in arrays of `empty`."""

    def write(self, states: Sequence[LSTMState]) -> None:
        """Copy a state for each layer, any strides, to the buffers."""

    def clear(self) -> None:
        """Write zeros to all states."""


class PoolEngine(Protocol):
    """The states of all slots of a pool, a row each, and steps of some of them.

    Arguments have been checked: slots are int64 in host memory, live or about to be, each once, and must not be
    kept, as the next call may write to their memory. One call is made at a time. What raises leaves all rows as
    they were, or, where it is interrupted while it writes them, writes them all.
    """

    @property
    def nbytes(self) -> int:
        """The bytes of all rows."""

    @property
    def scratch_nbytes(self) -> int:
        """The bytes of the buffers, and of what else is kept for steps."""

    def kernels(self, B: int) -> tuple[str, ...]:
        """Return for each layer what steps B rows: one of `kernel_choice.NAMES`, or "numpy"."""

    def clear(self, slots: NumpyArray) -> None:
        """Write zeros to rows."""

    def read(self, slots: NumpyArray, empty: Empty) -> tuple[LSTMState, ...]:
        """Return copies of rows in arrays of `empty`: a state for each layer."""

    def write(self, slots: NumpyArray, states: Sequence[LSTMState]) -> None:
        """Write a state for each layer, of any strides, to rows."""

    def step(self, engines: Sequence[Any], x: Array, slots: Array, is_first: Array | None, out: Array) -> None:
        """Step row slots[k] with x[k], and write the top layer's output to out[k], contiguous, apart from x.

        Slots may also be on the device, in any integer type, where they are checked, after `audit`: those that can't
        be stepped are as -1, and `problems` tells. Where slots[k] is -1, nothing is stepped and out[k] is zeros.
        Where is_first[k], the row starts from zeros. Nothing is allocated after a step of as many rows, or `prepare`.
        """

    def prepare(self, engines: Sequence[Any], largest: int) -> None:
        """Allocate what steps of up to so many rows need."""

    def audit(self, live: NumpyArray) -> None:
        """Be told which slots are live, (capacity,) booleans, before the first step with slots on the device."""

    def mark(self, slots: NumpyArray, *, live: bool) -> None:
        """Be told that slots are live from now on, or no more; of no use before `audit`."""

    def problems(self) -> Sequence[tuple[int, int]]:
        """Return for each of `slots.PROBLEMS` how many slots on the device have had it since the last call, and one.

        It waits for the device.
        """


class Order(Protocol):
    """The order of a call's work among the streams of several libraries, as a context; see `cuda.streams`."""

    def __enter__(self) -> Order: ...

    def __exit__(self, *_: object) -> None: ...

    def follow(self, stream: int | None, index: int | None = None) -> None:
        """Make the work wait for a stream (None: the backend's own library's), and that stream for the work."""

    def keep(self, array: Array) -> None:
        """Keep an array alive until the work is done."""

    def wait_on_host(self) -> None:
        """Have the host wait, on leaving, until the work is done."""


class Backend(Protocol):
    """What a cell needs of the place where it runs. A backend checks no arguments and knows no cell."""

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
        """Return `x`, from wherever it is, as an array on this device."""

    def mask(self, values: Any) -> Array:
        """Return a mask, which may also be a host array or a list, on this device."""

    def signature(self, x: Array, h: Array, c: Array) -> tuple[Any, ...]:
        """Return all that the checks of these three depend on; AttributeError where one is no array."""

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

        On a GPU the backend's device is current meanwhile. On NumPy warnings are off.
        """

    def select_rows(self, a: Array, rows: Array, value: Array | None) -> None:
        """Write zeros, or a row's own of `value` (B, K) or (1, K), to the rows marked of `a` (B, K), contiguous."""

    def add(self, a: Array, more: Array) -> None:
        """Write a + more to `a`, contiguous."""

    def largest_over_1(self, h: Array, is_first: Array | None) -> float:
        """Return the largest |h| over 1, or 0, in rows that are not reset; on a device this waits for it."""

    def cell_engine(
        self,
        weights: LSTMWeights,
        precision: str,
        *,
        batch_invariant: bool = False,
        kernel: str | None = None,
    ) -> CellEngine:
        """Return the engine of a cell's step.

        Args:
            weights: the cell's.
            precision: of float32 matmuls on a GPU.
            batch_invariant: whether a row's bits are to be its own.
            kernel: one of `kernel_choice.NAMES` that a GPU is to step by; None leaves the choice to it.

        Raises:
            RuntimeError: the bits of rows can't be their own here, or the GPU is too old for the kernel.
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
        """Return buffers of B rows, all zeros, for layers of one direction and their engines.

        Args:
            weights: of the layers.
            engines: theirs.
            B: rows.
            reset_to: for each layer a state of one row or of B, which is copied; None for zeros.
            host: whether x, is_first and output are in host memory, and what is written and read.
        """

    def pool_engine(self, weights: StackedWeights, engines: Sequence[Any], capacity: int) -> PoolEngine:
        """Return the rows of a pool of so many slots, all zeros, for layers of one direction and their engines."""

    def pointwise(self, *arrays: Array | None, **options: Any) -> None:
        """Run `lstm_pointwise`."""

    def order(self, stream: int | None) -> Order:
        """Return a context that queues work on a stream; None for the current one of the backend's own library."""

    def from_dlpack(self, array: Any) -> Array:
        """Return the view of an array with `__dlpack__` on this device."""

    def from_interface(self, array: Any) -> Array:
        """Return the view of an array with `__cuda_array_interface__`."""
