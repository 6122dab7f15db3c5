"""Message: the rows of one request, and what becomes of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.frames import Status

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray

NO_DEADLINE = float("inf")


class Message:
    """The steps that one request asks for. `await message.done` waits until all rows have a status.

    Args:
        handles: (B,) uint64.
        sequence: (B,) integers. A row of number 0 is the session's next step, whatever its number.
        x: (B, I).
        width: the width of an output.
        deadline: the clock's time after which rows that wait are not stepped.

    Attributes:
        status: the `Status` of each row, (B,) uint8.
        next: the sequence number of each session's next step, (B,); 0 if it is not open.
        h: the outputs, (B, width) float32.
        slots: the sessions' slots when the message arrived.
        done: a future, done when all rows have their status.
    """

    def __init__(
        self, handles: NumpyArray, sequence: NumpyArray, x: NumpyArray, width: int, deadline: float = NO_DEADLINE
    ) -> None:
        B = len(handles)
        self.handles, self.sequence, self.x, self.deadline = handles, sequence.astype(np.int64), x, deadline
        self.status = np.full(B, Status.FAILED, np.uint8)
        self.next = np.zeros(B, np.int64)
        self.h = np.zeros((B, width), np.float32)
        self.slots = np.zeros(0, np.int64)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = B
        self._finish_if_done()

    def __len__(self) -> int:
        return len(self.handles)

    def _finish_if_done(self) -> None:
        if not self._left and not self.done.done():  # a client that went away cancels it
            self.done.set_result(None)

    def settle(self, rows: NumpyArray, status: NumpyArray | Status, after: NumpyArray, h: NumpyArray | None) -> None:
        """Set the result of some rows, each once. Without h, their outputs are zeros."""
        self.status[rows] = status
        self.next[rows] = after
        if h is not None:
            self.h[rows] = h
        self._left -= len(rows)
        self._finish_if_done()
