"""Waiting: the rows that wait for a tick, and Batch, those of one tick."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fusedlstm.ray.serve.open_sessions import NONE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.frames import Status
    from fusedlstm.ray.serve.messages import Message
    from fusedlstm.ray.serve.open_sessions import OpenSessions


class Part(NamedTuple):
    """Some rows of a message, in order, and when they came."""

    message: Message
    rows: NumpyArray
    since: float


class Batch:
    """Rows of several messages, joined.

    Attributes:
        handles: (B,) uint64.
        sequence: (B,) int64.
        x: (B, I).
        deadlines: (B,).
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        lengths = [len(part.rows) for part in parts]
        self._ends = np.cumsum(lengths)
        self.handles = np.concatenate([part.message.handles[part.rows] for part in parts])
        self.sequence = np.concatenate([part.message.sequence[part.rows] for part in parts])
        self.x = np.concatenate([part.message.x[part.rows] for part in parts])
        self.deadlines = np.repeat([part.message.deadline for part in parts], lengths)

    def __len__(self) -> int:
        return len(self.handles)

    def settle(self, rows: NumpyArray, status: NumpyArray | Status, after: NumpyArray, h: NumpyArray | None) -> None:
        """Set the result of some rows, which are sorted, in their messages. See `Message.settle`."""
        status = np.broadcast_to(status, rows.shape)
        start = 0
        for part, end, stop in zip(self._parts, self._ends, np.searchsorted(rows, self._ends), strict=True):
            if stop > start:
                own = part.rows[rows[start:stop] - (end - len(part.rows))]
                outputs = None if h is None else h[start:stop]
                part.message.settle(own, status[start:stop], after[start:stop], outputs)
            start = stop


class Waiting:
    """The rows that wait, in the order in which they came.

    Args:
        capacity: the most sessions.
        most: the most rows.
        most_of_one: the most rows of one session.
    """

    def __init__(self, capacity: int, most: int, most_of_one: int) -> None:
        self._most, self._most_of_one = most, most_of_one
        self._parts: deque[Part] = deque()
        self.count = 0
        # The last tick that took a row of a session, and scratch. The last element is of rows without a session.
        self._taken_in = np.zeros(capacity + 1, np.int64)
        self._row_of = np.empty(capacity + 1, np.int64)
        self._tick = 0
        self._count_of = np.zeros(capacity + 1, np.int64)  # the rows of each slot's session that wait

    def since(self) -> float:
        """Return when the first row came."""
        return self._parts[0].since

    def add(self, message: Message, slots: NumpyArray, now: float) -> NumpyArray:
        """Add a message's rows, whose slots are given. Return those for which there is no room."""
        has_room = self._count_of[slots] + _ranks(slots) < self._most_of_one
        has_room |= slots == NONE
        has_room[np.flatnonzero(has_room)[self._most - self.count :]] = False
        rows = np.flatnonzero(has_room)
        message.slots = slots
        if len(rows):
            self._parts.append(Part(message, rows, now))
            self.count += len(rows)
            np.add.at(self._count_of, slots[rows], 1)
        return np.flatnonzero(~has_room)

    def take_all(self) -> Batch:
        """Remove all rows."""
        taken = self._pop(self.count)
        self._forget(taken)
        return Batch(taken)

    def _forget(self, parts: Sequence[Part]) -> None:
        """Count rows as removed."""
        for part in parts:
            self.count -= len(part.rows)
            np.subtract.at(self._count_of, part.message.slots[part.rows], 1)

    def take(self, most: int, sessions: OpenSessions) -> Batch:
        """Remove up to `most` rows of different sessions, the first that came. The others keep their order."""
        self._tick += 1
        taken: list[Part] = []
        later: list[Part] = []
        left = most
        while self._parts and left:
            looked_at = self._pop(left)
            is_taken = self._claim(
                sessions.find(np.concatenate([part.message.handles[part.rows] for part in looked_at]))
            )
            start = 0
            for part in looked_at:
                flags = is_taken[start : start + len(part.rows)]
                start += len(part.rows)
                for parts, rows in ((taken, part.rows[flags]), (later, part.rows[~flags])):
                    if len(rows):
                        parts.append(part._replace(rows=rows))
            left -= int(is_taken.sum())
        self._parts.extendleft(reversed(later))
        self._forget(taken)
        return Batch(taken)

    def _pop(self, most: int) -> list[Part]:
        """Remove the first rows, up to `most`."""
        parts = []
        while self._parts and most:
            part = self._parts.popleft()
            if len(part.rows) > most:
                self._parts.appendleft(part._replace(rows=part.rows[most:]))
                part = part._replace(rows=part.rows[:most])
            most -= len(part.rows)
            parts.append(part)
        return parts

    def _claim(self, slots: NumpyArray) -> NumpyArray:
        """Return whether each row is the first of its session in this tick. Rows without a session always are."""
        rows = np.arange(len(slots))
        self._row_of[slots[::-1]] = rows[::-1]  # of several, the last assignment stays
        is_first = (self._row_of[slots] == rows) & (self._taken_in[slots] != self._tick)
        self._taken_in[slots[is_first]] = self._tick
        found: NumpyArray = is_first | (slots == NONE)
        return found


def _ranks(slots: NumpyArray) -> NumpyArray:
    """Return for each row how many rows before it have the same slot."""
    order = np.argsort(slots, kind="stable")
    ordered, rows = slots[order], np.arange(len(slots))
    is_new = np.r_[True, ordered[1:] != ordered[:-1]][: len(slots)]
    ranks = np.empty_like(rows)
    ranks[order] = rows - np.maximum.accumulate(np.where(is_new, rows, 0))
    return ranks
