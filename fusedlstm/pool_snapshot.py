"""A snapshot of a pool: the states of slots at one moment, copied in parts while other calls go on."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray


class PoolSnapshot:
    """The states of slots at the moment of `begin`, in host memory.

    After `begin`, its owner calls `go_on` until `is_done`, and other calls may run in between. Before a call changes
    states, it passes their slots to `keep`, which copies them first. `keep` also copies the next part, so a snapshot
    ends even if other calls leave its owner no turn. These two run one at a time. Meanwhile the owner may call `place`.

    Attributes:
        slots: the slots, sorted.
        states: memory for their states, one for each layer.
        error: why the snapshot has failed, or None.
        is_over: whether the owner needs nothing more. It sets this whatever happens, so that no call copies in vain.
    """

    def __init__(self) -> None:
        self.slots, self.states = np.zeros(0, np.int64), list[LSTMState]()
        self.error: MemoryError | None = None
        self.is_over = False
        self._next = 0  # all slots before this index have been copied
        self._copied: deque[tuple[NumpyArray, Sequence[LSTMState]]] = deque()  # slots and their states, to be placed
        self._rows: int
        self._fetch: Callable[[NumpyArray], Sequence[LSTMState]]
        # Whether a slot's state must still be copied. The extra element, at index -1, is for padding rows.
        self._needed: NumpyArray

    def begin(
        self,
        slots: NumpyArray,
        states: list[LSTMState],
        capacity: int,
        rows: int,
        fetch: Callable[[NumpyArray], Sequence[LSTMState]],
    ) -> None:
        """Begin with the states that the slots have now.

        Args:
            slots: live slots, sorted.
            states: memory for their states, one for each layer.
            capacity: the number of the pool's slots.
            rows: the number of slots in a part.
            fetch: returns the states of slots, in host memory.
        """
        self.slots, self.states, self._rows, self._fetch = slots, states, rows, fetch
        self._needed = np.zeros(capacity + 1, np.bool_)
        self._needed[slots] = True

    @property
    def is_done(self) -> bool:
        """Whether all states have been copied, or the snapshot has failed or is over."""
        return self.is_over or self._next >= len(self.slots)

    def keep(self, slots: NumpyArray) -> None:
        """Copy the states of these slots, which are about to change, if that is still needed. -1 is ignored."""
        if not self.is_done:
            self._copy(slots[self._needed[slots]])
            self.go_on()

    def go_on(self) -> None:
        """Copy the next part."""
        if not self.is_done:
            part = self.slots[self._next : self._next + self._rows]
            self._copy(part[self._needed[part]])
            self._next += self._rows

    def finish(self) -> None:
        """Copy everything that is still needed."""
        while not self.is_done:
            self.go_on()

    def _copy(self, slots: NumpyArray) -> None:
        """Copy the states of slots. An interrupted copy is repeated before any of the states changes."""
        if not slots.size:
            return
        try:
            fetched = self._fetch(slots)
        except MemoryError as error:  # the owner raises it, not the call that changes these states
            self.error, self._next = error.with_traceback(None), len(self.slots)
            return
        self._copied.append((slots, fetched))
        self._needed[slots] = False

    def touch(self) -> None:
        """Write to all memory of `states`. The system provides it only then, which can take longer than a step."""
        for state in self.states:
            for array in (state.h, state.c):
                array.reshape(-1).view(np.uint8).fill(0)  # as bytes, so that other threads run meanwhile

    def place(self) -> None:
        """Move the states that have been copied to `states`."""
        while self._copied:
            slots, copied = self._copied.popleft()
            rows = np.searchsorted(self.slots, slots)
            for own, state in zip(self.states, copied, strict=True):
                own.h[rows], own.c[rows] = state.h, state.c
