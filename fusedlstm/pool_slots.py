"""A pool's slots and their states: change both together, and copy states to and from host memory."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays.exchange import Exchange, in_order
from fusedlstm.arrays.host import to_host
from fusedlstm.arrays.libraries import library_of
from fusedlstm.slot_checks import PARENTS, SLOTS, Wanted
from fusedlstm.slots import PROBLEMS, SlotTable
from fusedlstm.state import LSTMState
from fusedlstm.validation.arguments import check_shape, fail

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedlstm.arrays.dtypes import Array, NumpyArray
    from fusedlstm.backends.base import Backend, PoolEngine
    from fusedlstm.owner_states import OwnerStates
    from fusedlstm.pool_snapshot import PoolSnapshot

_AT_ONCE = 1 << 26  # bytes of states to copy to or from the host at once
# Bytes of states that one turn of a snapshot copies. Other calls wait for a turn, so it must be short.
_A_TURN = 1 << 20


class PoolSlots:
    """The table of a pool's slots and the engine that holds their states. Both always agree on which slots are live.

    Args:
        backend: the backend of the states' arrays.
        owner: the checks of states, and their form.
        new_engine: returns an engine of a given capacity, whose states are zeros.
        capacity: the number of slots.
        maker: the name of the function that makes arrays, for messages.

    Attributes:
        table: which slots are live. `resize` and `replace` replace it.
        engine: holds and steps the states. `resize` replaces it.
    """

    def __init__(
        self,
        backend: Backend,
        owner: OwnerStates,
        new_engine: Callable[[int], PoolEngine],
        capacity: int,
        maker: str,
    ) -> None:
        self.table = SlotTable(capacity)
        self.engine = new_engine(capacity)
        self._backend = backend
        self._layer_checks = owner.layer_checks
        self._new_engine = new_engine
        self._maker = maker
        # Those that may still need states. Their owners alone keep them and their memory alive.
        self.snapshots: list[weakref.ref[PoolSnapshot]] = []
        self._is_audited = False  # whether the engine knows which slots are live, to check slots on a device
        self._ending: NumpyArray | None = None  # those that `release_ending` freed last

    def allocate(self, n: int) -> NumpyArray:
        """Make n free slots live, with states of zeros, and return them."""
        with in_order(self._backend):
            slots = self.table.next_free(n)
            self.keep(slots)
            self.engine.clear(slots)
            self._take(slots)
            return slots

    def fork(self, parents: Any) -> NumpyArray:
        """Make free slots live, with copies of the parents' states, and return them."""
        with in_order(self._backend):
            checked = self.checked(parents, PARENTS)
            slots = self.table.next_free(len(checked), "parents")
            self.keep(slots)
            self.engine.copy(checked, slots)
            self._take(slots)
            return slots

    def _take(self, slots: NumpyArray) -> None:
        """Make free slots live, whose states have been written."""
        try:
            self.engine.mark(slots, live=True)
            self.table.take(slots)
        except BaseException:
            self._is_audited = False
            raise

    def release(self, slots: Any) -> None:
        """Free these slots."""
        with in_order(self._backend):
            checked = self.checked(slots)
            try:
                self.engine.mark(checked, live=False)
                self.table.give_back(checked)
            except BaseException:
                self._is_audited = False
                raise

    def release_later(self, slots: Any) -> None:
        """Check slots now, and let `release_ending` free them."""
        self.table.end_later(self._on_host(slots))

    def release_ending(self) -> None:
        """Free the slots that were released in the middle of a call, such as by finalizers.

        If this fails or is interrupted, the next call frees those that are left.
        """
        ending = self.table.ending
        while ending:
            slots = ending[0]
            is_over = slots is self._ending and not self.table.are_live(slots)  # freed, but then interrupted
            self._ending = slots
            try:
                if not is_over:
                    self.release(slots)
            except ValueError:  # the call itself has released them, too
                ending.popleft()
                raise
            ending.popleft()

    def reset(self, slots: Any) -> None:
        """Set the states of these slots to zeros."""
        with in_order(self._backend):
            checked = self.checked(slots)
            self.keep(checked)
            self.engine.clear(checked)

    def write(self, slots: NumpyArray, states: Sequence[LSTMState]) -> None:
        """Write the states of slots, which have been checked, one for each layer."""
        self.keep(slots)
        self.engine.write(slots, states)

    def checked(self, slots: Any, wanted: Wanted = SLOTS) -> NumpyArray:
        """Return a caller's slots as an int64 array. Raise if any is not as wanted."""
        return self.table.checks.check(self._on_host(slots, wanted.name), wanted)

    def _on_host(self, slots: Any, name: str = SLOTS.name) -> Any:
        """Return a NumPy view of another library's array of slots, or anything else unchanged. Nothing is checked."""
        if isinstance(slots, np.ndarray) or library_of(slots) is None:
            return slots
        with Exchange(self._backend, slots, self._maker) as exchange:
            return exchange.borrow_mask(name, slots)

    def checked_for_step(self, slots: Any, B: int) -> Array:
        """Return the slots of a step of B rows, or raise. On a device only their shape and dtype are checked."""
        is_host = self._backend.array_type is np.ndarray or not isinstance(slots, self._backend.array_type)
        return self.table.checks.check_step(slots, B) if is_host else self._check_device_slots(slots, B)

    def _check_device_slots(self, slots: Array, B: int) -> Array:
        """Return slots on the device, or raise if their shape or dtype is wrong. The step checks their values."""
        if slots.dtype.kind not in "iu":
            fail(TypeError, "slots", "integers", f"dtype {slots.dtype}")
        check_shape("slots", slots.shape, "B", {"B": B})
        place = self._backend.device_of(slots)
        if place != self._backend.device:
            fail(ValueError, "slots", f"an array on {self._backend.device}", f"one on {place}")
        if slots.dtype == np.uint64:
            fail(TypeError, "slots", "integers that int64 can hold", "dtype uint64", 'Use slots.astype("int64")')
        self.tell_what_is_live()
        return slots

    def tell_what_is_live(self) -> None:
        """Tell the engine which slots are live, so that it can check those on a device."""
        if not self._is_audited:
            self.engine.audit(self.table.live_flags())
            self._is_audited = True

    def check_steps(self) -> None:
        """Raise if steps since the last check got invalid slots in arrays on a device."""
        with in_order(self._backend):
            problems = self.engine.problems()
        texts = [
            f"{count} {what} (one is {slot})" for what, (count, slot) in zip(PROBLEMS, problems, strict=True) if count
        ]
        if texts:
            hint = "They came from a GPU. Steps skipped these rows. Of rows that share a slot, one was stepped"
            fail(ValueError, "slots", "live slots, each once, or -1 for a padding row", ", ".join(texts), hint)

    # Snapshots. Every method that changes states first passes the slots to `keep`.

    def begin_snapshot(self, snapshot: PoolSnapshot, slots: Any) -> None:
        """Begin a snapshot of these slots, or with None of all live slots. It is over when its owner says so."""
        chosen = self.table.live_slots() if slots is None else np.sort(self.checked(slots))
        capacity = self.table.capacity
        rows = max(1, _A_TURN * capacity // self.engine.nbytes)
        snapshot.begin(chosen, self._empty(len(chosen)), capacity, rows, self._fetched)
        self.snapshots = [weakref.ref(each) for each in (*self._unfinished(), snapshot)]

    def go_on(self, snapshot: PoolSnapshot) -> None:
        """Copy the next part of a snapshot."""
        with in_order(self._backend):
            snapshot.go_on()

    def keep(self, slots: Array) -> None:
        """Copy the states of slots, which are about to change, for the snapshots that still need them.

        A step's slots may be on a device. They are then fetched, and invalid slots are ignored.
        """
        if not self.snapshots:
            return
        snapshots = self._unfinished()
        if snapshots and not isinstance(slots, np.ndarray):
            fetched = np.unique(to_host("slots", slots).astype(np.int64, copy=False))
            slots = fetched[(fetched >= 0) & (fetched < self.table.capacity)]
        for snapshot in snapshots:
            snapshot.keep(slots)
        self.snapshots = [weakref.ref(snapshot) for snapshot in snapshots if not snapshot.is_done]

    def _finish_snapshots(self) -> None:
        """Copy everything that snapshots still need, as all states are about to change or move."""
        for snapshot in self._unfinished():
            snapshot.finish()

    def _unfinished(self) -> list[PoolSnapshot]:
        found = [ref() for ref in self.snapshots]
        return [snapshot for snapshot in found if snapshot is not None and not snapshot.is_done]

    def replace(self, slots: NumpyArray, states: Sequence[LSTMState]) -> None:
        """Make these slots live, and no others, with these states, one for each layer."""
        with in_order(self._backend):
            before = self.table
            table = SlotTable(before.capacity, slots, before.checks.largest)
            old_slots = before.live_slots()
            old = self._fetched(old_slots)
            self._finish_snapshots()
            try:
                self._put(slots, states)
                self.engine.mark(old_slots, live=False)
                self.engine.mark(slots, live=True)
                self.table = table
            except BaseException:
                self.table = before
                self._is_audited = False
                self._put(old_slots, old)
                raise

    def resize(self, capacity: int, engines: Sequence[Any]) -> None:
        """Change the capacity, and keep the live slots and their states. `engines` step the pool."""
        slots, before = self.table.live_slots(), (self.table, self.engine)
        if slots.size and slots[-1] >= capacity:
            hint = "Release it first. To keep its state, use read, and write it to another slot"
            fail(ValueError, "capacity", f"more than {slots[-1]}, which is a live slot", str(capacity), hint)
        if capacity == self.table.capacity:
            return
        with in_order(self._backend):
            table, engine = self.table.resized(capacity), self._new_engine(capacity)
            for part in self._parts(len(slots)):
                engine.write(slots[part], self.engine.read(slots[part], self._backend.empty))
            engine.take_over(engines, self.engine)
            if self._is_audited:
                engine.audit(table.live_flags())
            self._finish_snapshots()
            try:
                self.table, self.engine = table, engine
            except BaseException:
                self.table, self.engine = before
                raise
            before[1].retire()

    # States are copied between a GPU and the host in parts, so that a pool may fill nearly all memory.

    def _fetched(self, slots: NumpyArray) -> list[LSTMState]:
        """Return copies of the states of slots in host memory, one for each layer."""
        fetched = self._empty(len(slots))
        for part in self._parts(len(slots)):
            for own, state in zip(fetched, self.engine.read(slots[part], self._backend.empty), strict=True):
                host = state.to_numpy()
                own.h[part], own.c[part] = host.h, host.c
        return fetched

    def _empty(self, B: int) -> list[LSTMState]:
        """Return host memory for the states of B slots, one for each layer."""
        return [
            LSTMState(h=np.empty((B, layer.sizes["P"]), layer.dtype), c=np.empty((B, layer.sizes["N"]), layer.c_dtype))
            for layer in self._layer_checks
        ]

    def _put(self, slots: NumpyArray, states: Sequence[LSTMState]) -> None:
        """Write the states of slots, one for each layer, from host memory."""
        asarray, first = self._backend.asarray, self._layer_checks[0]
        for part in self._parts(len(slots)):
            own = [
                LSTMState(h=asarray(state.h[part], first.dtype), c=asarray(state.c[part], first.c_dtype))
                for state in states
            ]
            self.engine.write(slots[part], own)

    def _parts(self, B: int) -> list[slice]:
        rows = max(1, _AT_ONCE * self.table.capacity // self.engine.nbytes)
        return [slice(start, start + rows) for start in range(0, B, rows)]
