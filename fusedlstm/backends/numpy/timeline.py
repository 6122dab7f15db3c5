"""The timeline of one direction through sequences: the order of its steps, resets and idle rows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.backends.sequence_run import SequenceRun


@dataclass(frozen=True)
class Timeline:
    """The timeline of one direction: its order of steps, the resets before them, and the idle rows.

    `idling` and `resetting` say for each step whether `idle` and `resets` mark any row.
    """

    order: range
    resets: NumpyArray | None  # (T, B) booleans
    resetting: list[bool]
    idle: NumpyArray | None  # (T, B) booleans
    idling: list[bool]

    def pieces(self, steps: int) -> Iterator[tuple[bool, range]]:
        """Yield the steps in order, in pieces: whether the piece is plain, and its steps.

        In a plain step no row is reset or idle. A plain piece is as long as possible. Other pieces have at most
        `steps` steps.
        """
        start = 0
        for plain, run in itertools.groupby(map(self._is_plain, self.order)):
            stop = start + sum(1 for _ in run)
            for first in (start,) if plain else range(start, stop, steps):
                yield plain, self.order[first : stop if plain else min(stop, first + steps)]
            start = stop

    def _is_plain(self, t: int) -> bool:
        """Return whether no row is reset or idle in a step."""
        return not (self.idling[t] or (self.resets is not None and self.resetting[t]))

    def part(self, start: int, stop: int) -> Timeline:
        """Return the timeline of steps start to stop alone, counted from 0."""
        T, part = stop - start, slice(start, stop)
        resets, idle = (None if flags is None else flags[part] for flags in (self.resets, self.idle))
        order = range(T)[:: self.order.step]
        return Timeline(order, resets, self.resetting[part], idle, self.idling[part])

    def resets_at(self, t: int) -> NumpyArray | None:
        """Return the rows to reset before a step, or None."""
        return None if self.resets is None or not self.resetting[t] else self.resets[t]


def timelines(run: SequenceRun, backward: Sequence[bool]) -> list[Timeline]:
    """Return the timeline of each layer and direction of a call. `backward` says which of them read backward."""
    T, active = len(run.xs), _active(run)
    ways = [run.reverse or each for each in backward]
    of_way = {}
    if False in ways:
        of_way[False] = _timeline(range(T), run.is_first, active)
    if True in ways:
        resets = None if run.is_first is None else _resets_backward(run.is_first, active)
        of_way[True] = _timeline(range(T)[::-1], resets, active)
    return [of_way[way] for way in ways]


def _active(run: SequenceRun) -> NumpyArray | None:
    """Return the steps that rows take as (T, B) booleans, or None if they take all."""
    active = run.mask
    if run.lengths is not None:
        active = np.arange(len(run.xs))[:, None] < run.lengths
    return None if active is None or active.all() else active


def _resets_backward(is_first: NumpyArray, active: NumpyArray | None) -> NumpyArray:
    """Return the rows to reset before each step of a backward direction: they just took a sequence's first step.

    A backward direction reaches the first step of a sequence last. So the row is reset before the step that it takes
    next.
    """
    resets, pending = np.zeros_like(is_first), np.zeros(is_first.shape[1], np.bool_)
    for t in range(len(is_first))[::-1]:
        resets[t] = pending  # an idle row ignores this, and its reset stays pending
        pending = is_first[t] if active is None else np.where(active[t], is_first[t], pending)
    return resets


def _timeline(order: range, resets: NumpyArray | None, active: NumpyArray | None) -> Timeline:
    resetting = [] if resets is None else _any_row(resets)
    if active is None:
        return Timeline(order, resets, resetting, None, [False] * len(order))
    idle = ~active
    return Timeline(order, resets, resetting, idle, _any_row(idle))


def _any_row(mask: NumpyArray) -> list[bool]:
    """Return for each step whether any row is marked."""
    return [bool(row.any()) for row in mask]
