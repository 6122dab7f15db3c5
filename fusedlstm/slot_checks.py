"""Checks of the slots in a call's arguments: integers, in range, live, and distinct unless they may repeat.

Checking a step's slots in an array allocates memory in proportion to the rows only if no earlier step had as many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from fusedlstm.validation.arguments import check_shape, describe_type, fail
from fusedlstm.validation.subclasses import check_plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedlstm.arrays.dtypes import NumpyArray

# Rows to compare at a time, so that comparing takes little memory.
_BLOCK = 4096
_ROWS = np.arange(_BLOCK)
_LEAST, _MOST, _ALL = np.minimum.reduce, np.maximum.reduce, np.logical_and.reduce  # methods take longer
PADDING = -1  # the slot of a padding row


class Wanted(NamedTuple):
    """What slots must be.

    Args:
        name: the name of the argument.
        text: what was wanted, for messages.
        lowest: the lowest number: 0, or -1 if rows may be padding.
        distinct: whether slots must not repeat.
    """

    name: str
    text: str
    lowest: int = 0
    distinct: bool = True


SLOTS = Wanted("slots", "live slots, each once")
SLOTS_OF_A_STEP = Wanted("slots", "live slots, each once, or -1 for a padding row", lowest=PADDING)
PARENTS = Wanted("parents", "live slots", distinct=False)


class SlotChecks:
    """Checks slots against flags that say which are live.

    Args:
        live: (capacity + 1,) booleans, which their owner changes. The extra element, at index -1, is for padding rows,
            and always True.
        largest: the number of rows of a step for which to allocate memory at first.
    """

    def __init__(self, live: NumpyArray, largest: int = 0) -> None:
        self._live, self._capacity = live, len(live) - 1
        self._row_of = np.empty(len(live), np.int64)  # scratch: the last row that named a slot
        self._of_step = np.empty(largest, np.int64)

    @property
    def largest(self) -> int:
        """The number of rows that a step's memory has room for."""
        return len(self._of_step)

    def prepare(self, largest: int) -> None:
        """Grow the memory for steps of up to `largest` rows if needed."""
        if largest > self.largest:
            self._of_step = np.empty(largest, np.int64)

    def check(self, slots: Any, wanted: Wanted = SLOTS) -> NumpyArray:
        """Return slots (an int, or a sequence or host array of ints) as a new int64 array, checked.

        Raises:
            TypeError: they are not integers.
            ValueError: a slot is out of range or inactive, or repeats although it must not; an array has the
                wrong shape.
        """
        own = self._integers(slots, wanted).astype(np.int64)
        self._check_values(own, wanted)
        return own

    def check_step(self, slots: Any, B: int) -> NumpyArray:
        """Return the slots of a step's B rows like `check`, in memory that the next call overwrites.

        -1 is a padding row, and may occur many times.
        """
        given = self._integers(slots, SLOTS_OF_A_STEP, B)
        self.prepare(B)
        own = self._of_step[:B]
        own[...] = given
        self._check_values(own, SLOTS_OF_A_STEP)
        return own

    def check_besides(self, slots: Any, others: NumpyArray) -> NumpyArray:
        """Return slots like `check`, even while another method is running. They must not be among `others`, either."""
        own = self._integers(slots, SLOTS).astype(np.int64)
        seen = set(others.tolist())
        for row, slot in enumerate(own.tolist()):
            if not 0 <= slot < self._capacity:
                self._fail_range(slot, row, SLOTS)
            if slot in seen or not self._live[slot]:
                _fail(f"{slot} (row {row}), which is not live, or is a duplicate", SLOTS)
            seen.add(slot)
        return own

    def _integers(self, slots: Any, wanted: Wanted, B: int | None = None) -> NumpyArray:
        """Return slots as an array (B,) of integers that int64 can hold, or raise."""
        name = wanted.name
        if isinstance(slots, (int, np.integer)) and not isinstance(slots, bool):
            slots = (slots,)
        if isinstance(slots, (list, tuple, range)):
            slots = self._from_elements(slots, wanted)
        if not isinstance(slots, np.ndarray):
            fail(TypeError, name, "integers in host memory", describe_type(slots))
        if type(slots) is not np.ndarray:
            check_plain(name, slots)
        if slots.dtype.kind not in "iu":
            hint = "For a mask, use numpy.flatnonzero(mask)" if slots.dtype == np.bool_ else ""
            fail(TypeError, name, "integers", f"dtype {slots.dtype}", hint)
        if slots.ndim != 1:
            fail(ValueError, name, "shape (B,)", f"shape {slots.shape}")
        if B is not None and slots.shape != (B,):
            check_shape(name, slots.shape, "B", {"B": B})
        if slots.dtype == np.uint64 and slots.size and slots.max() > np.iinfo(np.int64).max:
            row = int(slots.argmax())
            self._fail_range(int(slots[row]), row, wanted)
        return slots

    def _from_elements(self, slots: list[Any] | tuple[Any, ...] | range, wanted: Wanted) -> NumpyArray:
        if not set(map(type, slots)) <= {int}:  # NumPy would convert a mixed list to a common dtype
            for row, slot in enumerate(slots):
                if isinstance(slot, bool) or not isinstance(slot, (int, np.integer)):
                    fail(TypeError, f"{wanted.name}[{row}]", "an int", describe_type(slot))
        try:
            return np.array(slots, np.int64)
        except OverflowError:
            row, slot = next((row, slot) for row, slot in enumerate(slots) if abs(int(slot)) >> 63)
            self._fail_range(int(slot), row, wanted)

    def _check_values(self, own: NumpyArray, wanted: Wanted) -> None:
        """Raise unless all slots are as wanted."""
        lowest = wanted.lowest
        if own.size < 2 and all(lowest <= slot < self._capacity and self._live[slot] for slot in own.tolist()):
            return  # several times faster than the checks below
        if 1 < own.size <= _BLOCK and self._are_fine(own, wanted):
            return
        if own.min() < lowest or own.max() >= self._capacity:
            row = int(np.flatnonzero((own < lowest) | (own >= self._capacity))[0])
            self._fail_range(int(own[row]), row, wanted)
        for start, part in _blocks(own):
            live = self._live[part]
            if not live.all():
                row = start + int(live.argmin())
                _fail(f"{own[row]} (row {row}), which is not live", wanted)
        if wanted.distinct:
            self._check_distinct(own, wanted)

    def _check_distinct(self, own: NumpyArray, wanted: Wanted) -> None:
        """Raise if a slot comes twice. Any number of rows may be padding."""
        # Each row writes its number to its slot's place. A row that then reads another number shares its slot.
        for start, part in _blocks(own):
            self._row_of[part] = np.arange(start, start + len(part))
        for start, part in _blocks(own):
            shares = self._row_of[part] != np.arange(start, start + len(part))
            shares &= part >= 0
            if shares.any():
                row = start + int(shares.argmax())
                other = int(self._row_of[own[row]])
                _fail(f"{own[row]} twice (rows {row} and {other})", wanted)

    def _are_fine(self, own: NumpyArray, wanted: Wanted) -> bool:
        """Fast path: return whether a few slots are as wanted, without finding which isn't."""
        least = _LEAST(own)
        if least < wanted.lowest or _MOST(own) >= self._capacity or not _ALL(self._live[own]):
            return False
        if not wanted.distinct:
            return True
        rows, row_of = _ROWS[: own.size], self._row_of
        row_of[own] = rows
        alone = row_of[own] == rows
        if least == PADDING:
            alone |= own < 0
        return bool(_ALL(alone))

    def _fail_range(self, slot: int, row: int, wanted: Wanted) -> NoReturn:
        hint = "Only a step takes -1, for a padding row" if slot == PADDING else ""
        outside = f"{slot} (row {row})" if slot < 0 else f"{slot} (row {row}), and the capacity is {self._capacity}"
        _fail(outside, wanted, hint)


def _fail(got: str, wanted: Wanted, hint: str = "") -> NoReturn:
    fail(ValueError, wanted.name, wanted.text, got, hint)


def _blocks(a: NumpyArray) -> Iterator[tuple[int, NumpyArray]]:
    """Yield the index of each block's first element, and the block."""
    for start in range(0, len(a), _BLOCK):
        yield start, a[start : start + _BLOCK]
