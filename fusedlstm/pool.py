"""StatePool: the states of many live sequences on the device, stepped by the numbers of their slots."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, overload

import numpy as np

from fusedlstm.arrays.exchange import Exchange, in_order, is_captured
from fusedlstm.errors import OtherWeightsWarning
from fusedlstm.owner_states import first_array
from fusedlstm.pool_calls import PoolCalls
from fusedlstm.pool_slots import PoolSlots
from fusedlstm.pool_step import PoolStep
from fusedlstm.state import LSTMState, State
from fusedlstm.validation.arguments import check_bool, check_path, check_size, fail
from fusedlstm.validation.weights import check_owner

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import Array, NumpyArray
    from fusedlstm.backends.base import PoolEngine
    from fusedlstm.cell import LSTMCell
    from fusedlstm.lstm import LSTM
    from fusedlstm.validation.arguments import AnyPath

_MOST_SLOTS = 2**31 - 1  # kernels number slots in 32 bits


class PoolMemory(NamedTuple):
    """The bytes that a pool holds.

    Args:
        states: the bytes of the states of all slots, live or not.
        plans: the bytes that the pool itself keeps for steps. On NumPy these are scratch buffers. On a GPU they are
            buffers between layers, or with "matmul" all buckets. After `prepare`, or after the first step with slots
            on the GPU, they include the flags used to check slots there.
    """

    states: int
    plans: int


class StatePool(Generic[State]):
    """The states of up to `capacity` live sequences, which stay on the device.

    Each sequence has a slot, which is a number. Allocate a slot when a sequence begins, and release it when the
    sequence ends. A step names the slots of the sequences that got an input, in any order, and advances them in place.
    Each step uses the cell's weights at that time.

    Pass one slot as an int. Pass several as a list, tuple, range, or integer array in host memory, from any library.
    Slots must be integers (not bools), live and distinct. This is checked before any work. A step also takes an integer
    array on the GPU.

    A call with bad arguments changes nothing. A call that fails or is interrupted changes all of its slots or none. So
    h and c of a slot always belong together. There are three exceptions. `out` may be partly written. A step with
    `strict` raises after it is done. After a CUDA error the states being written are undefined.

    Several threads may call methods at once. The calls then run one after the other. But a call in the middle of
    another one in the same thread, such as from a signal handler, can't wait and raises RuntimeError. `release` is the
    exception, so that finalizers can use it: it frees its slots when the other call ends. `live`, `slots`, `memory`
    and `kernels` may be read at any time.

    Calls can't be part of your own CUDA graph. While you capture CuPy's or PyTorch's current stream, they raise
    RuntimeError before any work. `release` then frees its slots in the next call.

    On NumPy, slots that were never allocated take no memory on most systems. On a GPU, a layer is one kernel, which
    finds its rows by their slots. If `kernels` says "matmul", steps use buckets of buffers instead. The number of
    rows in a bucket is a power of two. If all buckets together take more than 256 MiB, the least recently used are
    dropped. Those that `prepare` has made are always kept.

    Args:
        cell: an LSTMCell, or an LSTM whose layers are all forward.
        capacity: the number of slots, which are 0 to capacity - 1.

    Raises:
        TypeError: `cell` is not an LSTMCell or an LSTM, or `capacity` is not an int.
        ValueError: a layer of the LSTM reads backward, or `capacity` is below 1 or at least 2^31.
    """

    @overload
    def __init__(self: StatePool[LSTMState], cell: LSTMCell, capacity: int) -> None: ...
    @overload
    def __init__(self: StatePool[tuple[LSTMState, ...]], cell: LSTM, capacity: int) -> None: ...
    def __init__(self, cell: LSTMCell | LSTM, capacity: int) -> None:
        check_owner("cell", cell)
        weights, capacity = cell._layers_of_weights, _checked_capacity(capacity)
        self._cell = cell
        self._maker = cell._maker
        self._backend = cell._backend
        self._owner_states = cell._owner_states()
        self._slots = PoolSlots(self._backend, self._owner_states, partial(_new_engine, cell), capacity, self._maker)
        first = self._owner_states.layer_checks[0]
        self._run_step = PoolStep(self._backend, first, weights.output_size, self._slots, self._maker)
        captured = None if self._backend.name == "numpy" else partial(is_captured, self._backend)
        self._calls = PoolCalls(self._slots, captured)

    @property
    def _engine(self) -> PoolEngine:
        return self._slots.engine

    @staticmethod
    def memory_for(cell: LSTMCell | LSTM, capacity: int) -> PoolMemory:
        """Return the bytes that `StatePool(cell, capacity)` would hold, without allocating them.

        `plans` is 0, as in a pool that hasn't stepped yet. During `resize`, a pool holds the states of both capacities.

        Raises:
            TypeError, ValueError: as for `StatePool(cell, capacity)`.
        """
        check_owner("cell", cell)
        capacity = _checked_capacity(capacity)
        states = cell._backend.pool_nbytes(cell._layers_of_weights, cell._engines, capacity)
        return PoolMemory(states=states, plans=0)

    @property
    def capacity(self) -> int:
        """The number of slots."""
        return self._slots.table.capacity

    @property
    def live(self) -> int:
        """The number of live slots."""
        return self._slots.table.live_count - len(self._slots.table.ending_slots())

    @property
    def slots(self) -> NumpyArray:
        """The live slots, sorted: a new int64 array in host memory."""
        with self._calls.lock:
            return np.setdiff1d(self._slots.table.live_slots(), self._slots.table.ending_slots(), assume_unique=True)

    @property
    def memory(self) -> PoolMemory:
        """The bytes that the pool holds, for the states and for steps."""
        with self._calls.lock:
            return PoolMemory(states=self._engine.nbytes, plans=self._engine.scratch_nbytes)

    def kernels(self, batch: int) -> tuple[str, ...]:
        """Return each layer's kernel for steps of `batch` rows: "numpy", or on a GPU a name from LSTMCell's `kernel`.

        Raises:
            TypeError: `batch` is not an int.
            ValueError: `batch` is less than 1.
        """
        B = check_size("batch", batch, 1)
        with self._calls.lock:
            return self._engine.kernels(B)

    def allocate(self, n: int = 1) -> NumpyArray:
        """Make n free slots live, with states of zeros, and return them: an int64 array (n,) in host memory.

        The same calls always give the same slots. Released slots come first. Those of the latest `release` come before
        others, in the order of its argument. All other free slots follow, lowest first. After `load`, all free slots
        come lowest first.

        Raises:
            TypeError: `n` is not an int.
            ValueError: `n` is negative.
            PoolFullError: fewer than n slots are free. No slot is allocated then.
        """
        return self._calls.run(self._slots.allocate, check_size("n", n, 0))

    def fork(self, parents: Any) -> NumpyArray:
        """Allocate a slot for each parent, with a copy of its state. Return the slots as an int64 array (n,).

        Parents may repeat, as in a beam search, and stay live. The slots are those that `allocate(n)`
        would return. On a GPU the copies stay there, and the host doesn't wait.

        Args:
            parents: (n,) live slots, in any order.

        Raises:
            TypeError: the parents are not integers.
            ValueError: a parent is out of range or inactive.
            PoolFullError: there are fewer free slots than parents. No slot is allocated then.
        """
        return self._calls.run(self._slots.fork, parents)

    def release(self, slots: Any) -> None:
        """End the sequences of these slots, and free the slots.

        This also works in the middle of another call in the same thread, such as in the `__del__` of an object that
        owns a slot. The slots are then freed when the other call ends.

        Raises:
            TypeError: the slots are not integers.
            ValueError: a slot is out of range, inactive or duplicate.
        """
        self._calls.release(slots)

    def reset(self, slots: Any) -> None:
        """Set the states of these slots to zeros: each begins a new sequence.

        Raises:
            TypeError: the slots are not integers.
            ValueError: a slot is out of range, inactive or duplicate.
        """
        self._calls.run(self._slots.reset, slots)

    def read(self, slots: Any, like: Any = None) -> State:
        """Return copies of the states of B slots, in new arrays on the device.

        Args:
            slots: live slots, each once.
            like: an array of the library that the states should be in. None gives NumPy or CuPy arrays.

        Returns:
            h (B, P) and c (B, N), or for an LSTM's pool a tuple of them, one for each layer.

        Raises:
            TypeError: the slots are not integers, or `like` is not an array.
            ValueError: a slot is out of range, inactive or duplicate; `like` is on another device.
        """
        return self._calls.run(self._read, slots, like)

    def _read(self, slots: Any, like: Any) -> State:
        with Exchange(self._backend, like, self._maker) as exchange:
            if like is not None:
                exchange.check_place("like", like)
            states = self._engine.read(self._slots.checked(slots), exchange.empty)
            lent: State = self._owner_states.given([exchange.lend_state(state) for state in states])
            return lent

    def write(self, slots: Any, state: State) -> None:
        """Set the states of B slots.

        Args:
            slots: live slots, each once.
            state: like the result of `read`: h (B, P) and c (B, N) in the cell's dtypes, or for an LSTM a tuple of
                them. The arrays are from any library, on the device, with any strides.

        Raises:
            TypeError: the slots are not integers; the state has the wrong kind, dtype or library.
            ValueError: a slot is out of range, inactive or duplicate; the state has the wrong shape or device.
        """
        self._calls.run(self._write, slots, state)

    def _write(self, slots: Any, state: Any) -> None:
        with Exchange(self._backend, first_array(state), self._maker) as exchange:
            checked = self._slots.checked(slots)
            self._slots.write(checked, self._owner_states.taken(exchange, "state", state, len(checked)))

    def step(
        self, x: Array, slots: Any, *, is_first: Any = None, out: Array | None = None, strict: bool = False
    ) -> Array:
        """Advance the sequence of slots[k] by the input x[k], for each of B rows, and return the outputs.

        Args:
            x: (B, I) in the cell's dtype, on its device, from any library, with any strides. B may be 0.
            slots: (B,) live slots, each once, in any order. -1 marks a padding row: its x is ignored, its output is
                zeros, and no sequence advances. Slots in an array on a GPU are checked there, without waiting for it.
                A row whose slot can't be stepped then counts as padding, and `check` reports it.
            is_first: (B,) booleans, in an array on the device, a host array or a list. True marks a row that begins a
                new sequence. Its state is set to zeros before this step. Flags of padding rows are ignored.
            out: (B, width), C-contiguous, in x's dtype, to write the outputs to and to return. It must not overlap x or
                is_first. With `out`, memory that grows with B is allocated only the first time a step has that many
                rows, and never after `prepare`.
            strict: whether to call `check()` after the step, which waits for a GPU.

        Returns:
            (B, width), the top layer's output: `out`, or a new array in the library of x.

        Raises:
            TypeError: an argument has the wrong kind, dtype or library (nothing is cast, moved or broadcast).
            ValueError: an argument has the wrong shape or device, `out` can't be written, or a slot is out of range,
                inactive or duplicate.
        """
        if strict is not False:  # fast path: skip the call for the default
            check_bool("strict", strict)
        return self._calls.run(self._step, x, slots, is_first, out, strict)

    def _step(self, x: Array, slots: Any, is_first: Any, out: Array | None, strict: bool) -> Array:
        result = self._run_step(self._cell._engines, x, slots, is_first, out)
        if strict:
            self._slots.check_steps()
        return result

    def resize(self, capacity: int) -> None:
        """Change the number of slots. Live slots keep their numbers and states.

        If memory runs out, or anything else fails, the pool is unchanged. The states move to new memory, so the pool
        briefly holds both. Steps stay prepared for as many rows as before. Added slots are free, and are allocated
        after other free slots. On a GPU, steps use the kernels of a new pool of this capacity.

        Raises:
            TypeError: `capacity` is not an int.
            ValueError: `capacity` is below 1 or at least 2^31, or a live slot isn't below it. The error names one.
            RuntimeError: the current stream is being captured into a CUDA graph.
        """
        self._calls.run(self._resize, _checked_capacity(capacity))

    def _resize(self, capacity: int) -> None:
        self._slots.resize(capacity, self._cell._engines)

    def prepare(self, max_batch: int) -> None:
        """Allocate everything that steps of up to `max_batch` rows need. On NumPy this is for the calling thread only.

        Raises:
            TypeError: `max_batch` is not an int.
            ValueError: `max_batch` is negative.
        """
        self._calls.run(self._prepare, check_size("max_batch", max_batch, 0))

    def _prepare(self, largest: int) -> None:
        with in_order(self._backend):
            self._slots.table.checks.prepare(largest)
            self._engine.prepare(self._cell._engines, largest)
            self._slots.tell_what_is_live()

    def check(self) -> None:
        """Raise if steps since the last check got invalid slots in arrays on a GPU. This waits for the GPU.

        Slots in host memory are checked before each step, so this never reports them.

        Raises:
            ValueError: slots were out of range, inactive or duplicate in a step. Rows with out-of-range or inactive
                slots were skipped. Of the rows that shared a slot, one was stepped, and it may be any of them.
        """
        self._calls.run(self._slots.check_steps)

    def save(self, path: AnyPath, *, slots: Any = None) -> None:
        """Write slots and their states to one file. A file of that name is replaced whole or not at all.

        The states are those of one moment, which is early in the call. Other threads may use the pool meanwhile. Their
        calls wait for at most 1 MiB of states to be copied. A call that changes states which the file still needs first
        copies those, too. On a GPU it waits for that. The copies take as much host memory as the states, or for a
        moment about twice as much if such a call changes nearly all states.

        An interrupt leaves the old file or the new one. The next save removes the temporary file of a killed save.

        Args:
            path: the path of the file.
            slots: live slots, each once, in any order. None saves all live slots.

        Raises:
            OSError: the file can't be written, or is read-only. The error names `path`, and an older file is unchanged.
            TypeError: `path` is not a path, or the slots are not integers. File descriptors and open files are not
                accepted.
            ValueError: a slot is out of range, inactive or duplicate.
        """
        from fusedlstm import pool_files

        name = check_path("path", path)
        weights = self._cell._layers_of_weights  # those of that moment
        saved, states = self._calls.snapshot(slots)
        pool_files.save(name, weights, saved, states)

    def load(self, path: AnyPath) -> None:
        """Replace the pool's content with that of a file. A pool on any backend may have saved it.

        Slots keep their numbers. Afterwards only the file's slots are live. The file's layers must have this pool's
        sizes and dtype. Its slots must be below this pool's capacity, which may differ from that of the saved pool.

        If the saved pool's weights were not bitwise those of this pool's cell, this warns with OtherWeightsWarning.

        Raises:
            WeightsFileError: the file is damaged, truncated, of another kind or from a newer version, or doesn't fit
                this pool. The pool is unchanged.
            OSError: the file can't be read. The error names `path`.
            TypeError: `path` is not a path. File descriptors and open files are not accepted.
        """
        from fusedlstm import pool_files

        weights, name = self._cell._layers_of_weights, check_path("path", path)
        slots, states, made_by = pool_files.load(name, pool_files.StateSizes.of(weights), self.capacity)
        if made_by is not None and made_by != pool_files.fingerprint(weights):
            said = f"{name} holds states of other weights than this pool's. Was its model trained since?"
            warnings.warn(said, OtherWeightsWarning, stacklevel=2)

        def replace() -> None:
            pool_files.check_capacity(name, slots, self.capacity)  # again, as another thread may have resized the pool
            self._slots.replace(slots, states)

        self._calls.run(replace)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a StatePool can't be copied or pickled: use save(path), and load(path) of another pool")

    def __repr__(self) -> str:
        return f"StatePool({self._cell!r}, capacity={self.capacity}, live={self.live})"


def _checked_capacity(capacity: Any) -> int:
    """Return the number of a pool's slots, or raise."""
    checked = check_size("capacity", capacity, 1)
    if checked > _MOST_SLOTS:
        fail(ValueError, "capacity", f"at most {_MOST_SLOTS}", str(checked))
    return checked


def _new_engine(cell: LSTMCell | LSTM, capacity: int) -> PoolEngine:
    return cell._backend.pool_engine(cell._layers_of_weights, cell._engines, capacity)
