"""Ticks: gather the rows of all clients, and send them together.

A session has at most one row in a tick, so its steps keep their order.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.ray.serve.open_sessions import NONE
from fusedlstm.ray.serve.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fusedlstm.ray.serve.limits import Limits
    from fusedlstm.ray.serve.messages import Message
    from fusedlstm.ray.serve.open_sessions import OpenSessions
    from fusedlstm.ray.serve.sender import Sender


class Ticks:
    """The ticks of a service.

    Args:
        sender: sends them.
        sessions: the open sessions.
        limits: how to gather rows.

    Attributes:
        count: how many were sent.
    """

    def __init__(self, sender: Sender, sessions: OpenSessions, limits: Limits) -> None:
        self._sender, self._sessions, self._limits = sender, sessions, limits
        self._waiting = Waiting(sessions.capacity, limits.max_waiting_rows, limits.max_session_rows)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.count = 0

    @property
    def waiting(self) -> int:
        """The number of rows that wait."""
        return self._waiting.count

    def add(self, message: Message) -> None:
        """Take a message's rows. Those for which there is no room are BUSY at once."""
        slots = self._sessions.find(message.handles)
        refused = self._waiting.add(message, slots, self._loop.time())
        if len(refused):
            self._sender.refuse(message, refused)
        self._sessions.used[slots[slots != NONE]] = self._loop.time()
        self._go()

    async def finish(self, seconds: float) -> None:
        """Wait until no row waits, and all ticks were answered or are late. After these seconds, rows are BUSY."""
        end = self._loop.time() + seconds
        while self._waiting.count or self._tasks:
            if self._waiting.count and self._loop.time() > end:
                batch = self._waiting.take_all()
                self._sender.refuse(batch, np.arange(len(batch)))
            await asyncio.sleep(0.005)

    def _go(self) -> None:
        """Send the ticks that are due, and come back when the next is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting.count and len(self._tasks) < self._limits.max_ticks:
            due = self._waiting.since() + self._limits.max_wait_ms / 1000
            if self._waiting.count < self._limits.max_rows and self._loop.time() < due:
                self._timer = self._loop.call_at(due, self._go)
                return
            answers = self._sender.send(self._waiting.take(self._limits.max_rows, self._sessions))
            if answers:
                self.count += 1
                task = self._loop.create_task(self._wait_for(answers))
                self._tasks.add(task)
                task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():  # as when the loop ends
            self._go()

    async def _wait_for(self, answers: list[Coroutine[Any, Any, None]]) -> None:
        await asyncio.gather(*answers)
