"""The table of a pool's slots: which are live, and which are allocated next.

The table is in host memory and has no lock. Only the constructor, `resized`, `live_slots` and `live_flags` take time
in proportion to the capacity.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.errors import PoolFullError
from fusedlstm.slot_checks import PADDING, SlotChecks
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray

# What may be wrong with a slot that is checked on a GPU, numbered as in kernels/slots.cuh.
PROBLEMS = ("out of range", "not live", "twice in a step")


class SlotTable:
    """Slots 0 to capacity - 1, each live or free.

    Free slots are a stack. Released slots come first. Those of the latest release come before others, in its order. All
    other free slots follow, lowest first.

    Args:
        capacity: the number of slots, at least 1.
        live: the slots that are live at first, in range and distinct.
        largest: the number of rows of a step for which to allocate memory at first.

    Attributes:
        checks: checks slots in a call's arguments against this table.
    """

    def __init__(self, capacity: int, live: NumpyArray | None = None, largest: int = 0) -> None:
        self.capacity = capacity
        self._live = np.zeros(capacity + 1, np.bool_)
        self._live[PADDING] = True
        if live is not None:
            self._live[live] = True
        free = np.flatnonzero(~self._live)[::-1]
        self._free = np.empty(capacity, np.int64)
        self._free[: len(free)] = free
        self._free_count = len(free)
        self.ending: deque[NumpyArray] = deque()  # live slots, from `end_later`, to be freed
        self.checks = SlotChecks(self._live, largest)

    def resized(self, capacity: int) -> SlotTable:
        """Return a table of another capacity. All live slots must be below it. Free slots keep their order."""
        table = SlotTable(capacity, self.live_slots(), self.checks.largest)
        free = self._free[: self._free_count]
        later = np.arange(self.capacity, capacity)[::-1]  # new slots
        table._free[: table._free_count] = np.concatenate([later, free[free < capacity]])
        table.ending = self.ending
        return table

    @property
    def live_count(self) -> int:
        """The number of live slots."""
        return self.capacity - self._free_count

    def live_slots(self) -> NumpyArray:
        """Return all live slots, sorted, as a new int64 array."""
        return np.flatnonzero(self._live[:PADDING]).astype(np.int64, copy=False)

    def live_flags(self) -> NumpyArray:
        """Return whether each slot is live, as a new boolean array (capacity,)."""
        return self._live[:PADDING].copy()

    def next_free(self, n: int, name: str = "n") -> NumpyArray:
        """Return the next n free slots as a new int64 array. They stay free until `take`.

        Raises:
            PoolFullError: there are fewer. `name` is the argument's, for the message.
        """
        free = self._free_count
        if n > free:
            fail(PoolFullError, name, f"at most {free}, the number of free slots (of {self.capacity})", str(n))
        return self._free[free - n : free][::-1].copy()

    def take(self, slots: NumpyArray) -> None:
        """Make slots from `next_free` live."""
        before = self._free_count
        try:
            self._live[slots] = True
            self._free_count = before - len(slots)
        except BaseException:
            self._free_count = before
            self._live[slots] = False
            raise

    def give_back(self, slots: NumpyArray) -> None:
        """Free live slots, which have been checked. They come next."""
        before = self._free_count
        after = before + len(slots)
        try:
            self._free[before:after] = slots[::-1]
            self._live[slots] = False
            self._free_count = after
        except BaseException:
            self._free_count = before
            self._live[slots] = True
            raise

    def end_later(self, slots: Any) -> None:
        """Check slots as `SlotChecks.check` does, even while another method is running, and add them to `ending`."""
        self.ending.append(self.checks.check_besides(slots, self.ending_slots()))

    def ending_slots(self) -> NumpyArray:
        """Return all slots in `ending` that are still live."""
        slots = np.concatenate([np.zeros(0, np.int64), *list(self.ending)])
        return slots.compress(self._live[slots])

    def are_live(self, slots: NumpyArray) -> bool:
        """Return whether all of these slots are live."""
        return bool(self._live[slots].all())
