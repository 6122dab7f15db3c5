"""The table of a pool's slots: which are live, which come next, and the checks of a call's slots.

The table is in host memory and has no lock. Only the constructor, `live_slots` and `live_flags` take longer in a
larger pool. Checking a step's slots in an array allocates nothing that grows with the rows, unless no earlier step had
as many.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fusedlstm.errors import PoolFullError
from fusedlstm.validation.arguments import check_shape, describe_type, fail
from fusedlstm.validation.subclasses import check_plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedlstm.arrays.dtypes import NumpyArray

# Rows to compare at a time, so that comparing takes little memory.
_BLOCK = 4096
_ROWS = np.arange(_BLOCK)
_LEAST, _MOST, _ALL = np.minimum.reduce, np.maximum.reduce, np.logical_and.reduce  # methods take longer
_PADDING = -1


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
    """

    def __init__(self, capacity: int, live: NumpyArray | None = None, largest: int = 0) -> None:
        self.capacity = capacity
        # The extra element, at index -1, is padding, which is always live to a step.
        self._live = np.zeros(capacity + 1, np.bool_)
        self._live[_PADDING] = True
        if live is not None:
            self._live[live] = True
        free = np.flatnonzero(~self._live)[::-1]
        self._free = np.empty(capacity, np.int64)
        self._free[: len(free)] = free
        self._free_count = len(free)
        self._row_of = np.empty(capacity + 1, np.int64)  # scratch: the last row that named a slot
        self.ending: deque[NumpyArray] = deque()  # live slots, from `end_later`, to be freed
        self._of_step = np.empty(largest, np.int64)

    @property
    def live_count(self) -> int:
        """The number of live slots."""
        return self.capacity - self._free_count

    @property
    def largest(self) -> int:
        """The number of rows that a step's memory has room for."""
        return len(self._of_step)

    def live_slots(self) -> NumpyArray:
        """Return all live slots, sorted, as a new int64 array."""
        return np.flatnonzero(self._live[:_PADDING]).astype(np.int64, copy=False)

    def live_flags(self) -> NumpyArray:
        """Return whether each slot is live, as a new boolean array (capacity,)."""
        return self._live[:_PADDING].copy()

    def next_free(self, n: int) -> NumpyArray:
        """Return the next n free slots as a new int64 array. They stay free until `take`.

        Raises:
            PoolFullError: there are fewer.
        """
        free = self._free_count
        if n > free:
            fail(PoolFullError, "n", f"at most {free}, the number of free slots (of {self.capacity})", str(n))
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
        """Free live slots, as from `check`. They come next."""
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
        """Check slots as `check` does, even while another method is running, and add them to `ending`."""
        own = self._integers(slots).astype(np.int64)
        seen = set(self.ending_slots().tolist())
        for row, slot in enumerate(own.tolist()):
            if not 0 <= slot < self.capacity:
                self._fail_range(slot, row, padded=False)
            if slot in seen or not self._live[slot]:
                self._fail(f"{slot} (row {row}), which is not live, or is a duplicate", padded=False)
            seen.add(slot)
        self.ending.append(own)

    def ending_slots(self) -> NumpyArray:
        """Return all slots in `ending`."""
        return np.concatenate([np.zeros(0, np.int64), *list(self.ending)])

    def are_live(self, slots: NumpyArray) -> bool:
        """Return whether all of these slots are live."""
        return bool(self._live[slots].all())

    def check(self, slots: Any) -> NumpyArray:
        """Return slots (an int, or a sequence or host array of ints) as a new int64 array, all live and distinct.

        Raises:
            TypeError: they are not integers.
            ValueError: a slot is out of range, inactive or duplicate; an array has the wrong shape.
        """
        given = self._integers(slots)
        own = given.astype(np.int64)
        self._check_values(own, padded=False)
        return own

    def check_step(self, slots: Any, B: int) -> NumpyArray:
        """Return the slots of a step's B rows like `check`, in memory that the next call overwrites.

        -1 is a padding row, and may occur many times.
        """
        given = self._integers(slots, B)
        self.prepare(B)
        own = self._of_step[:B]
        own[...] = given
        self._check_values(own, padded=True)
        return own

    def prepare(self, largest: int) -> None:
        """Grow the memory for steps of up to `largest` rows if needed."""
        if largest > self.largest:
            self._of_step = np.empty(largest, np.int64)

    def _integers(self, slots: Any, B: int | None = None) -> NumpyArray:
        """Return slots as an array (B,) of integers that int64 can hold, or raise."""
        if isinstance(slots, (int, np.integer)) and not isinstance(slots, bool):
            slots = (slots,)
        if isinstance(slots, (list, tuple, range)):
            slots = self._from_elements(slots, padded=B is not None)
        if not isinstance(slots, np.ndarray):
            fail(TypeError, "slots", "integers in host memory", describe_type(slots))
        if type(slots) is not np.ndarray:
            check_plain("slots", slots)
        if slots.dtype.kind not in "iu":
            hint = "For a mask, use numpy.flatnonzero(mask)" if slots.dtype == np.bool_ else ""
            fail(TypeError, "slots", "integers", f"dtype {slots.dtype}", hint)
        if slots.ndim != 1:
            fail(ValueError, "slots", "shape (B,)", f"shape {slots.shape}")
        if B is not None and slots.shape != (B,):
            check_shape("slots", slots.shape, "B", {"B": B})
        if slots.dtype == np.uint64 and slots.size and slots.max() > np.iinfo(np.int64).max:
            row = int(slots.argmax())
            self._fail_range(int(slots[row]), row, padded=B is not None)
        return slots

    def _from_elements(self, slots: list[Any] | tuple[Any, ...] | range, *, padded: bool) -> NumpyArray:
        if not set(map(type, slots)) <= {int}:  # NumPy would convert a mixed list to a common dtype
            for row, slot in enumerate(slots):
                if isinstance(slot, bool) or not isinstance(slot, (int, np.integer)):
                    fail(TypeError, f"slots[{row}]", "an int", describe_type(slot))
        try:
            return np.array(slots, np.int64)
        except OverflowError:
            row, slot = next((row, slot) for row, slot in enumerate(slots) if abs(int(slot)) >> 63)
            self._fail_range(int(slot), row, padded=padded)

    def _check_values(self, own: NumpyArray, *, padded: bool) -> None:
        """Raise unless all slots are live and distinct. With `padded`, any slot may also be -1."""
        lowest = _PADDING if padded else 0
        if own.size < 2 and all(lowest <= slot < self.capacity and self._live[slot] for slot in own.tolist()):
            return  # several times faster than the checks below
        if 1 < own.size <= _BLOCK and self._are_fine(own, lowest):
            return
        if own.min() < lowest or own.max() >= self.capacity:
            row = int(np.flatnonzero((own < lowest) | (own >= self.capacity))[0])
            self._fail_range(int(own[row]), row, padded=padded)
        for start, part in _blocks(own):
            live = self._live[part]
            if not live.all():
                row = start + int(live.argmin())
                self._fail(f"{own[row]} (row {row}), which is not live", padded=padded)
        # Each row writes its number to its slot's place. A row that then reads another number shares its slot.
        for start, part in _blocks(own):
            self._row_of[part] = np.arange(start, start + len(part))
        for start, part in _blocks(own):
            shares = self._row_of[part] != np.arange(start, start + len(part))
            if padded:
                shares &= part >= 0
            if shares.any():
                row = start + int(shares.argmax())
                other = int(self._row_of[own[row]])
                self._fail(f"{own[row]} twice (rows {row} and {other})", padded=padded)

    def _are_fine(self, own: NumpyArray, lowest: int) -> bool:
        """Return whether a few slots are live and distinct, in less time than it takes to say which isn't."""
        least = _LEAST(own)
        if least < lowest or _MOST(own) >= self.capacity or not _ALL(self._live[own]):
            return False
        rows, row_of = _ROWS[: own.size], self._row_of
        row_of[own] = rows
        alone = row_of[own] == rows
        if least == _PADDING:
            alone |= own < 0
        return bool(_ALL(alone))

    def _fail_range(self, slot: int, row: int, *, padded: bool) -> NoReturn:
        hint = "Only a step takes -1, for a padding row" if slot == _PADDING else ""
        outside = f"{slot} (row {row})" if slot < 0 else f"{slot} (row {row}), and the capacity is {self.capacity}"
        self._fail(outside, hint, padded=padded)

    @staticmethod
    def _fail(got: str, hint: str = "", *, padded: bool) -> NoReturn:
        wanted = "live slots, each once" + (", or -1 for a padding row" if padded else "")
        fail(ValueError, "slots", wanted, got, hint)


def _blocks(a: NumpyArray) -> Iterator[tuple[int, NumpyArray]]:
    """Yield the index of each block's first element, and the block."""
    for start in range(0, len(a), _BLOCK):
        yield start, a[start : start + _BLOCK]
