"""The sessions of a sharded pool: each key's shard and slot, and how often each session was changed.

A place is a number for a shard and a slot: shard * capacity + slot. The tables of slots here mirror those of the pools.
They take the same calls in the same order, so a call knows the slots of new sessions before their shard does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from fusedlstm.errors import PoolFullError
from fusedlstm.slots import SlotTable
from fusedlstm.validation.arguments import describe_type, fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray

Key: TypeAlias = "int | str"
_OPEN = "keys of open sessions, each once"
_NEW = "keys of no open session, each once"


class Record(NamedTuple):
    """The sessions of one shard at some moment, by slot: their numbers (0 for a free slot), and their changes."""

    numbers: NumpyArray
    changes: NumpyArray


class Sessions:
    """The open sessions. This has no lock.

    Args:
        shards: the number of shards.
        capacity: the number of slots of each.
    """

    def __init__(self, shards: int, capacity: int) -> None:
        self.capacity = capacity
        self._places: dict[Key, int] = {}
        self._keys: NumpyArray = np.full(shards * capacity, None, object)
        self._numbers = np.zeros(shards * capacity, np.int64)  # no two sessions share one; 0 for a free slot
        self._changes = np.zeros(shards * capacity, np.int64)
        self._row_of = np.empty(shards * capacity, np.int64)  # scratch: the last row that named a place
        self._tables = [SlotTable(capacity) for _ in range(shards)]
        self._opened = 0
        self.replaced = 0  # how often all sessions were replaced

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def keys(self) -> list[Key]:
        """Return the keys of all sessions, in the order in which they were opened."""
        return list(self._places)

    def keys_at(self, places: NumpyArray) -> list[Key]:
        """Return the keys of the sessions at these places."""
        found: list[Key] = self._keys[places].tolist()
        return found

    def keys_of(self, shard: int) -> list[Key]:
        """Return the keys of a shard's sessions, in the order of their slots."""
        return self.keys_at(shard * self.capacity + self._tables[shard].live_slots())

    def live(self, shard: int) -> int:
        """Return the number of a shard's sessions."""
        return self._tables[shard].live_count

    def find(self, name: str, keys: Any, *, repeated: bool = False) -> NumpyArray:
        """Return the places of open sessions, (B,). With `repeated`, keys may be repeated.

        Raises:
            TypeError: the keys are not ints or strs.
            ValueError: a session is not open, or a key is repeated.
        """
        return self.places(name, listed(name, keys), repeated=repeated)

    def places(self, name: str, given: Sequence[Key], *, repeated: bool = False) -> NumpyArray:
        """Do what `find` does, for keys that `listed` has returned."""
        try:
            places = np.fromiter(map(self._places.__getitem__, given), np.int64, len(given))
        except KeyError:
            row = next(row for row, key in enumerate(given) if key not in self._places)
            fail(ValueError, name, _OPEN, f"{given[row]!r} (row {row}), which is not open")
        rows = np.arange(len(given))
        self._row_of[places] = rows
        if not repeated and (self._row_of[places] != rows).any():
            _fail_twice(name, _OPEN, given)
        return places

    def check_new(self, name: str, keys: Any) -> list[Key]:
        """Return the keys as a list. Raise unless they can be those of new sessions."""
        given = listed(name, keys)
        if not self._places.keys().isdisjoint(given):
            row = next(row for row, key in enumerate(given) if key in self._places)
            fail(ValueError, name, _NEW, f"{given[row]!r} (row {row}), which is open")
        if len(set(given)) < len(given):
            _fail_twice(name, _NEW, given)
        return list(given)

    def spread(self, name: str, n: int, usable: Sequence[int], reserved: int = 0) -> NumpyArray:
        """Return the shards of n new sessions, sorted. The emptiest of the usable shards come first.

        As many slots as `reserved` stay free.

        Raises:
            PoolFullError: these shards have fewer free slots.
        """
        lives = [self.live(shard) for shard in usable]
        free = max(0, sum(self.capacity - live for live in lives) - reserved)
        if n > free:
            out_of = f"{len(usable) * self.capacity} in {len(usable)} of {len(self._tables)} shards that are ready"
            fail(
                PoolFullError,
                name,
                f"at most {free} new sessions, the number of free slots (of {out_of})",
                str(n),
            )
        # The places of the next sessions, by the number of sessions that each would find in its shard.
        levels = [np.arange(live, min(live + n, self.capacity)) for live in lives]
        shards = np.repeat(np.array(usable, np.int64), [len(level) for level in levels])
        order = np.argsort(np.concatenate([np.zeros(0, np.int64), *levels]), kind="stable")
        return np.sort(shards[order[:n]])

    def next_slots(self, shard: int, n: int) -> NumpyArray:
        """Return the slots that the next n sessions of a shard will get."""
        return self._tables[shard].next_free(n)

    def open(self, keys: Sequence[Key], shard: int, slots: NumpyArray) -> None:
        """Add sessions with zero changes in free slots of a shard, those of `next_slots`."""
        self._tables[shard].take(slots)
        self._add(keys, shard, slots)

    def _add(self, keys: Sequence[Key], shard: int, slots: NumpyArray) -> None:
        places = shard * self.capacity + slots
        self._numbers[places] = np.arange(self._opened + 1, self._opened + 1 + len(keys))
        self._opened += len(keys)
        self._changes[places] = 0
        self._keys[places] = np.fromiter(keys, object, len(keys))
        self._places.update(zip(keys, places.tolist(), strict=True))

    def close(self, shard: int, slots: NumpyArray) -> None:
        """Remove sessions of one shard, and free their slots."""
        self._remove(shard * self.capacity + slots)
        self._tables[shard].give_back(slots)

    def _remove(self, places: NumpyArray) -> None:
        for key in self._keys[places].tolist():
            del self._places[key]
        self._keys[places] = None
        self._numbers[places] = 0

    def change(self, places: NumpyArray) -> None:
        """Count a change of these sessions."""
        self._changes[places] += 1

    def replace(self, keys: Sequence[Sequence[Key]]) -> None:
        """Replace all sessions: keys[s] are in slots 0, 1, ... of shard s."""
        self.replaced += 1
        self._remove(np.flatnonzero(self._numbers))
        for shard, own in enumerate(keys):
            slots = np.arange(len(own))
            self._tables[shard] = SlotTable(self.capacity, slots)
            self._add(own, shard, slots)

    def record(self, shard: int) -> Record:
        """Return the sessions of one shard."""
        part = slice(shard * self.capacity, (shard + 1) * self.capacity)
        return Record(self._numbers[part].copy(), self._changes[part].copy())

    def fall_back(self, shard: int, record: Record | None) -> tuple[NumpyArray, dict[Key, int], list[Key]]:
        """Take a shard's sessions back to a record, or remove them all.

        Sessions that were closed since stay closed.

        Returns:
            The slots that stay live, sorted; how many changes each session lost, if any; and the keys of removed ones.
        """
        now = self.record(shard)
        is_live = now.numbers != 0
        stays = np.zeros_like(is_live) if record is None else is_live & (now.numbers == record.numbers)
        first = shard * self.capacity
        gone = first + np.flatnonzero(is_live & ~stays)
        lost = self.keys_at(gone)
        self._remove(gone)
        kept = np.flatnonzero(stays)
        back: dict[Key, int] = {}
        if record is not None:
            missing = now.changes[kept] - record.changes[kept]
            moved = np.flatnonzero(missing)
            back = dict(zip(self.keys_at(first + kept[moved]), missing[moved].tolist(), strict=True))
            self._changes[first + kept] = record.changes[kept]
        self._tables[shard] = SlotTable(self.capacity, kept)
        return kept, back, lost


def listed(name: str, keys: Any) -> Sequence[Key]:
    """Return keys as a list, tuple or range of ints and strs. One key alone becomes a list of one.

    Raises:
        TypeError: a key is not an int or a str, or the keys are not a list, tuple, range or array.
        ValueError: an array is not (B,).
    """
    if isinstance(keys, (str, int, np.integer)) and not isinstance(keys, bool):
        keys = [keys]
    if isinstance(keys, np.ndarray):
        if keys.ndim != 1:
            fail(ValueError, name, "shape (B,)", f"shape {keys.shape}")
        if keys.dtype.kind not in "iuUO":
            fail(TypeError, name, "ints or strs", f"dtype {keys.dtype}")
        keys = keys.tolist()
    elif not isinstance(keys, (list, tuple, range)):
        fail(TypeError, name, "a list, tuple, range or NumPy array of ints or strs", describe_type(keys))
    given: Sequence[Any] = keys
    if isinstance(given, range) or set(map(type, given)) <= {int, str}:
        return given
    return [_key(f"{name}[{row}]", key) for row, key in enumerate(given)]


def _key(name: str, key: Any) -> Key:
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return int(key)
    if isinstance(key, str):
        return str(key)
    fail(TypeError, name, "an int or a str", describe_type(key))


def _fail_twice(name: str, wanted: str, given: Sequence[Key]) -> None:
    first: dict[Key, int] = {}
    for row, key in enumerate(given):
        if first.setdefault(key, row) != row:
            fail(ValueError, name, wanted, f"{key!r} twice (rows {first[key]} and {row})")
