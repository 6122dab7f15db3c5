"""OpenSessions: the sessions of a service, in arrays, so that a message's rows are looked up at once.

A session has a slot here, which doesn't depend on its shard. Its handle has the slot in the lower 24 bits, and above
them a number that is new each time the slot is used. So the handle of a closed session doesn't name a later one. A
handle has at most 53 bits, which a JavaScript number holds exactly.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.slots import SlotTable
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray

_SLOT_BITS = 24
_SLOT = np.uint64(2**_SLOT_BITS - 1)
_GENERATIONS = np.uint64(2**29 - 1)
NONE = -1  # the slot of a handle that is not open


class OpenSessions:
    """The open sessions of a service.

    Args:
        capacity: the most sessions in the pool. Those that it lost stay here until it reports them, so there is room
            for twice as many.

    Raises:
        ValueError: the capacity is too large for handles.

    Attributes:
        next: the sequence number of each slot's next step, (capacity,) int64. The first is 1.
        used: when each slot's session was last used, (capacity,), in the seconds of a clock.
        is_back: whether a session lost steps, and has not been stepped since.
        is_late: whether a step or a read of a session has not been answered in time.
    """

    def __init__(self, capacity: int) -> None:
        check_capacity(capacity)
        self.capacity = capacity = 2 * capacity
        self.next = np.ones(capacity, np.int64)
        self.used = np.zeros(capacity)
        self.is_back = np.zeros(capacity, np.bool_)
        self.is_late = np.zeros(capacity, np.bool_)
        self._table = SlotTable(capacity)
        self._slots: dict[str, int] = {}
        self._keys: NumpyArray = np.full(capacity, None, object)
        self._handles = np.zeros(capacity, np.uint64)  # 0 for a free slot
        self._generation = secrets.randbits(29)  # handles of an earlier process are refused, too

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, key: object) -> bool:
        return key in self._slots

    def keys(self) -> list[str]:
        """Return the keys of all sessions."""
        return list(self._slots)

    def slot(self, key: str) -> int:
        """Return the slot of a session, or NONE."""
        return self._slots.get(key, NONE)

    def slots(self, keys: Iterable[str]) -> NumpyArray:
        """Return the slots of open sessions."""
        return np.fromiter(map(self._slots.__getitem__, keys), np.int64)

    def handles(self, slots: NumpyArray) -> NumpyArray:
        """Return the handles of the sessions in these slots."""
        found: NumpyArray = self._handles[slots]
        return found

    def keys_at(self, slots: NumpyArray) -> list[str]:
        """Return the keys of the sessions in these slots."""
        found: list[str] = self._keys[slots].tolist()
        return found

    def find(self, handles: NumpyArray) -> NumpyArray:
        """Return the slot of each handle, or NONE."""
        low = handles & _SLOT
        slots = np.minimum(low, np.uint64(self.capacity - 1)).astype(np.int64)
        return np.where((self._handles[slots] == handles) & (handles != 0), slots, NONE)

    def add(self, keys: Sequence[str], now: float, next_numbers: Iterable[int] | None = None) -> None:
        """Add sessions, which must fit. Their first step has number 1, unless numbers are given."""
        slots = self._table.next_free(len(keys))
        self._table.take(slots)
        self._slots.update(zip(keys, slots.tolist(), strict=True))
        self._keys[slots] = np.fromiter(keys, object, len(keys))
        generations = np.arange(self._generation, self._generation + len(keys), dtype=np.uint64) % _GENERATIONS
        self._generation += len(keys)
        self._handles[slots] = (generations + np.uint64(1)) << np.uint64(_SLOT_BITS) | slots.astype(np.uint64)
        self.next[slots] = 1 if next_numbers is None else np.fromiter(next_numbers, np.int64, len(keys))
        self.used[slots] = now
        self.is_back[slots] = self.is_late[slots] = False

    def remove(self, keys: Iterable[Any]) -> None:
        """Remove those of these sessions that are open."""
        slots = np.array([self._slots.pop(key) for key in keys if key in self._slots], np.int64)
        self._keys[slots] = None
        self._handles[slots] = 0
        self._table.give_back(slots)

    def go_back(self, changes: Mapping[Any, int]) -> None:
        """Take those of these sessions that are open back by so many steps."""
        keys = [key for key in changes if key in self._slots]
        slots = self.slots(keys)
        self.next[slots] -= np.fromiter((changes[key] for key in keys), np.int64, len(keys))
        self.is_back[slots] = True

    def numbers(self) -> dict[str, int]:
        """Return the number of each session's next step, by its key."""
        return dict(zip(self._slots, self.next[list(self._slots.values())].tolist(), strict=True))

    def unused_since(self, when: float) -> list[str]:
        """Return the keys of sessions that were last used before `when`."""
        return self.keys_at(np.flatnonzero((self._handles != 0) & (self.used < when)))


def check_capacity(capacity: int) -> None:
    """Raise ValueError if handles can't name so many sessions."""
    most = 2 ** (_SLOT_BITS - 1)
    if capacity > most:
        fail(ValueError, "capacity", f"at most {most} sessions in all shards", str(capacity), "Use several services")
