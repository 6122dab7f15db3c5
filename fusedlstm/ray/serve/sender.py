"""Sender: step the rows of a tick, and tell each client what became of them.

What happens to a row is decided when its tick is sent:

- Its number is the session's next: it is stepped. A row without a number is the next, too.
- Its number is the one before: it is not stepped again. The output is read from the session's state.
- It has another number, no session, or its deadline has passed: it is not stepped.

When a step is sent, the session's next number grows by 1. If steps get lost with their shard, it shrinks by as many.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fusedlstm import log
from fusedlstm.frames import Status
from fusedlstm.ray.errors import LateShardsError, SessionsLostError
from fusedlstm.ray.serve.open_sessions import NONE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.serve.messages import Message
    from fusedlstm.ray.serve.open_sessions import OpenSessions
    from fusedlstm.ray.serve.pools import Pool
    from fusedlstm.ray.serve.waiting import Batch

LAST = 2**32 - 2  # the number of a session's last step, so that the next one is a uint32
_ATTEMPTS = 10  # a call that only reports news is sent again


class _Rows(NamedTuple):
    """Rows of a batch that one call does."""

    batch: Batch
    rows: NumpyArray
    sequence: NumpyArray
    status: Status

    def some(self, flags: NumpyArray) -> _Rows:
        return self._replace(rows=self.rows[flags], sequence=self.sequence[flags])


class Sender:
    """Sends the rows of ticks to a pool.

    Args:
        pool: the states.
        sessions: the open sessions.
        hear: is called with each SessionsLostError, to change `sessions`.
        seconds: how long a call may take. Then its sessions are late, and the other shards' rows are settled.

    Attributes:
        rows: how many rows were stepped.
    """

    def __init__(
        self, pool: Pool, sessions: OpenSessions, hear: Callable[[SessionsLostError], None], seconds: float
    ) -> None:
        self._pool, self._sessions, self._hear, self._seconds = pool, sessions, hear, seconds
        self._loop = asyncio.get_running_loop()
        self._late: set[asyncio.Task[None]] = set()
        self.rows = 0

    def refuse(self, message: Message | Batch, rows: NumpyArray) -> None:
        """Set rows BUSY."""
        message.settle(rows, Status.BUSY, self._next(self._sessions.find(message.handles[rows])), None)

    def send(self, batch: Batch) -> list[Coroutine[Any, Any, None]]:
        """Send the calls for a tick's rows, and settle those that need none. Return coroutines that settle the others.

        Rows of a batch must be of different sessions.
        """
        answers: list[Coroutine[Any, Any, None]] = []
        rows, attempts = np.arange(len(batch)), 0
        while len(rows) and attempts < _ATTEMPTS:
            rows = self._send(batch, rows, answers)
            attempts += 1
        batch.settle(rows, Status.BUSY, self._next(self._sessions.find(batch.handles[rows])), None)
        return answers

    def _next(self, slots: NumpyArray) -> NumpyArray:
        return np.where(slots == NONE, 0, self._sessions.next[slots])

    def _send(self, batch: Batch, rows: NumpyArray, answers: list[Coroutine[Any, Any, None]]) -> NumpyArray:
        """Send the calls for these rows, and settle those that need none. Return the rows to look at again."""
        slots = self._sessions.find(batch.handles[rows])
        after, given = self._next(slots), batch.sequence[rows]
        sequence = np.where(given == 0, after, given)
        status = self._status(slots, batch.deadlines[rows], given, sequence, after)
        is_settled = (status != Status.OK) & (status != Status.REPEATED)
        batch.settle(rows[is_settled], status[is_settled], after[is_settled], None)
        left = ~is_settled
        for kind in (Status.REPEATED, Status.OK):
            chosen = status == kind
            if chosen.any():
                if not self._call(_Rows(batch, rows[chosen], sequence[chosen], kind), slots[chosen], answers):
                    break  # the call only reported news, which may be about any session
                left &= ~chosen
        again: NumpyArray = rows[left]
        return again

    def _status(
        self, slots: NumpyArray, deadlines: NumpyArray, given: NumpyArray, sequence: NumpyArray, after: NumpyArray
    ) -> NumpyArray:
        """Return OK for rows to step, REPEATED for rows to read, and what to tell the clients of others."""
        is_back = self._sessions.is_back[slots] & (slots != NONE)
        is_untold = is_back & (given == 0)  # its client counts no steps, so tell it once
        self._sessions.is_back[slots[is_untold]] = False
        status = np.select(
            [
                slots == NONE,
                deadlines < self._loop.time(),
                self._sessions.is_late[slots],
                (after > LAST) & (sequence >= after),
                is_untold | (is_back & (sequence > after)),
                sequence == after,
                (sequence == after - 1) & (sequence > 0),
            ],
            [
                Status.NOT_OPEN,
                Status.LATE,
                Status.BUSY,
                Status.OUT_OF_ORDER,
                Status.WENT_BACK,
                Status.OK,
                Status.REPEATED,
            ],
            Status.OUT_OF_ORDER,
        )
        return status.astype(np.uint8)

    def _call(self, rows: _Rows, slots: NumpyArray, answers: list[Coroutine[Any, Any, None]]) -> bool:
        """Step or read these rows. Return False if the call did nothing but report news."""
        sessions, aio, keys = self._sessions, self._pool.aio, self._sessions.keys_at(slots)
        is_step = rows.status is Status.OK
        sessions.next[slots] += is_step  # an error that reports news counts this step among the lost ones
        try:
            if is_step:
                call: Awaitable[Any] = aio.step(rows.batch.x[rows.rows].astype(self._pool.weights.dtype), keys)
            else:
                call = aio.read(keys)
        except SessionsLostError as error:
            self._hear(error)
            return False
        except Exception as error:
            log.warning("a tick of %d rows was not sent: %s", len(keys), error)
            sessions.next[slots] -= is_step
            self._settle_undone(rows)
            return True
        if is_step:
            sessions.is_back[slots] = False
            self.rows += len(keys)
        answers.append(self._answer(call, rows))
        return True

    async def _answer(self, call: Awaitable[Any], rows: _Rows) -> None:
        """Settle rows by the answer of their call."""
        late: Awaitable[Any] | None = None
        delivered = np.ones(len(rows.rows), np.bool_)
        try:
            result = await within(call, self._seconds)
        except SessionsLostError as error:
            self._hear(error)
            result, delivered = error.result, error.delivered
        except LateShardsError as error:
            result, delivered, late = error.result, error.delivered, error.call
        except Exception as error:
            log.warning("a tick of %d rows failed: %s", len(delivered), error)
            result = None
        if result is None:
            delivered[:] = False
        if delivered.any():
            self._settle_done(rows.some(delivered), self._outputs(result, rows.status)[delivered])
        if not delivered.all():
            undone = rows.some(~delivered)
            self._settle_undone(undone)
            if late is not None:
                task = self._loop.create_task(self._wait_longer(late, undone.batch.handles[undone.rows]))
                self._late.add(task)
                task.add_done_callback(self._late.discard)

    async def _wait_longer(self, call: Awaitable[Any], handles: NumpyArray) -> None:
        """Take no rows of sessions whose shard is late, until it has answered."""
        slots = self._sessions.find(handles)
        self._sessions.is_late[slots[slots != NONE]] = True
        waits = True
        while waits:
            try:
                await call
                waits = False
            except LateShardsError as error:
                call = error.call
            except SessionsLostError as error:
                self._hear(error)
                waits = False
            except Exception as error:
                log.warning("a late shard's call failed: %s", error)
                waits = False
        slots = self._sessions.find(handles)
        self._sessions.is_late[slots[slots != NONE]] = False

    def _outputs(self, result: Any, status: Status) -> NumpyArray:
        """Return the outputs that a call returned: those of a step, or the top layer's part of what was read."""
        if status is Status.OK:
            return result  # type: ignore[no-any-return]
        top = result[-1] if isinstance(result, tuple) else result
        return top.h  # type: ignore[no-any-return]

    def _settle_done(self, rows: _Rows, h: NumpyArray) -> None:
        after = self._next(self._sessions.find(rows.batch.handles[rows.rows]))
        rows.batch.settle(rows.rows, rows.status, after, h)

    def _settle_undone(self, rows: _Rows) -> None:
        """Settle rows without outputs."""
        slots = self._sessions.find(rows.batch.handles[rows.rows])
        after = self._next(slots)
        status = np.select(
            [slots == NONE, after == rows.sequence, after < rows.sequence],
            [Status.NOT_OPEN, Status.BUSY, Status.WENT_BACK],
            Status.FAILED,
        )
        rows.batch.settle(rows.rows, status, after, None)


def within(call: Awaitable[Any], seconds: float) -> Awaitable[Any]:
    """Return what waits for a call of a pool. After these seconds, it raises LateShardsError, if the call can."""
    wait = getattr(call, "within", None)
    return call if wait is None else wait(seconds)
