"""Call: the answers of shards to one call, for threads and for asyncio."""

from __future__ import annotations

import time
from concurrent import futures
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

import ray

from fusedlstm.ray.errors import LateShardsError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.link import Sent

_Result = TypeVar("_Result")
LATE: Final = object()  # the answer of a shard that has not answered in time


class Waiting(NamedTuple):
    """What a call waits for, and what it has so far.

    Args:
        sent: the calls to shards.
        rows: the rows of each of them.
        delivered: (B,) booleans, False for rows that will not be delivered.
        result: what the call returns, if it is an array. Rows that are not delivered yet are zeros.
    """

    sent: Sequence[Sent]
    rows: Sequence[NumpyArray]
    delivered: NumpyArray
    result: Any

    def error(self, call: Call[Any], timeout: float) -> LateShardsError:
        """Return the error for a caller who has waited `timeout` seconds."""
        delivered = self.delivered.copy()
        for rows in self.rows:
            delivered[rows] = False
        result = None if self.result is None else self.result.copy()
        return LateShardsError(result, delivered, sorted({each.shard for each in self.sent}), call, timeout)


class Call(Generic[_Result]):
    """A call that has been sent to its shards. Wait for its result once, with `await call` or `call.result()`.

    Its shards do the call even if nobody waits for the result, or the wait is interrupted. After LateShardsError or an
    interrupt, you may wait again.

    Args:
        work: sends the call, yields what it waits for, gets the answers in return, exceptions among them or LATE, and
            returns the result. It may send several times.
        timeout: the seconds to wait for answers each time.
    """

    def __init__(self, work: Generator[Waiting, list[Any], _Result], timeout: float) -> None:
        self._work, self._timeout = work, timeout
        self._waiting = next(work)

    def result(self, timeout: float | None = None) -> _Result:
        """Wait for the shards and return the result.

        Args:
            timeout: the seconds to wait for answers. None means the pool's timeout.

        Raises:
            LateShardsError: a shard has not answered in time. Nothing is lost: call this again.
            SessionsLostError: a shard died. Other errors are those of the method that made this call.
        """
        seconds = self._timeout if timeout is None else timeout
        try:
            while True:
                self._go_on(self._get(seconds), seconds)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def __await__(self) -> Generator[Any, None, _Result]:
        return self._await().__await__()

    async def _await(self) -> _Result:
        while True:
            answers = await self._gather(self._timeout)
            try:
                self._go_on(answers, self._timeout)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    def _go_on(self, answers: list[Any], timeout: float) -> None:
        """Use the answers. Raise StopIteration with the result at the end, and LateShardsError if some are late."""
        self._waiting = self._work.send(answers)
        if any(answer is LATE for answer in answers):
            raise self._waiting.error(self, timeout)

    def _get(self, timeout: float) -> list[Any]:
        """Return the answers. An exception, or LATE, stands for an answer that didn't come."""
        references, end = [each.reference for each in self._waiting.sent], time.monotonic() + timeout
        try:
            return list(ray.get(references, timeout=timeout))
        except Exception:  # of one of them, or it is late, or a Future
            kinds: tuple[list[Any], list[Any]] = [], []
        for each in references:
            kinds[isinstance(each, futures.Future)].append(each)
        came = set()
        if kinds[0]:
            came |= set(ray.wait(kinds[0], num_returns=len(kinds[0]), timeout=max(0.0, end - time.monotonic()))[0])
        came |= futures.wait(kinds[1], timeout=max(0.0, end - time.monotonic())).done
        return [_value(each) if each in came else LATE for each in references]

    async def _gather(self, timeout: float) -> list[Any]:
        """Do what `_get` does, in an event loop."""
        import asyncio

        references = [each.reference for each in self._waiting.sent]
        own = [each if isinstance(each, futures.Future) else each.future() for each in references]
        wrapped = [asyncio.wrap_future(each) for each in own]
        if wrapped:
            await asyncio.wait(wrapped, timeout=timeout)
        for future in wrapped:
            future.add_done_callback(lambda done: done.cancelled() or done.exception())  # else asyncio complains
        return [(each.exception() or each.result()) if each.done() else LATE for each in wrapped]


def _value(reference: Any) -> Any:
    try:
        return reference.result() if isinstance(reference, futures.Future) else ray.get(reference)
    except Exception as error:
        return error
