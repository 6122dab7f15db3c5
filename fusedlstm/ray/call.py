"""Call: the answers of shards to one call, for threads and for asyncio."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent import futures
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

import ray

from fusedlstm.ray.errors import LateShardsError
from fusedlstm.validation.arguments import check_real, fail

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.link import Sent

_Result = TypeVar("_Result")
LATE: Final = object()  # the answer of a shard that has not answered in time
# A call waits for at most these seconds for a shard whose connection was lost. If its machine died, Ray takes 10 to 20
# seconds to restart it. Other shards' rows don't wait for that.
DOUBT = 1.0
_LONGEST = 1e9  # seconds, some 30 years
_INTERRUPTED = "an interrupt came while this call used its answers. Shards did the call, but its result is lost"


class Waiting(NamedTuple):
    """What a call waits for, and what it has so far.

    Args:
        sent: the calls to shards.
        rows: the rows of each of these calls, and then those of calls that come later.
        delivered: (B,) booleans, False for rows that will not be delivered.
        result: what the call returns, if it is an array. Rows that are not delivered yet are zeros.
    """

    sent: Sequence[Sent]
    rows: Sequence[NumpyArray]
    delivered: NumpyArray
    result: Any

    def error(self, call: Call[Any], timeout: float) -> LateShardsError:
        """Return the error for a caller who has waited `timeout` seconds, or DOUBT if only shards in doubt are late."""
        delivered = self.delivered.copy()
        for rows in self.rows:
            delivered[rows] = False
        result = None if self.result is None else self.result.copy()
        if all(isinstance(each.reference, futures.Future) for each in self.sent):
            timeout = min(timeout, DOUBT)
        return LateShardsError(result, delivered, sorted({each.shard for each in self.sent}), call, timeout)


class Call(Generic[_Result]):
    """A call that has been sent to its shards. Wait for its result with `await call` or `call.result()`.

    Its shards do the call even if nobody waits for the result, or the wait is interrupted. After LateShardsError or an
    interrupt, you may wait again. Several threads and tasks may wait for one call. All get the same result or error,
    also if they ask again.

    Args:
        work: a generator. It sends the call, yields what it waits for, gets the answers, some of which may be
            exceptions or LATE, and returns the result. It may send and yield several times.
        timeout: the seconds to wait for answers each time.
    """

    def __init__(self, work: Generator[Waiting, list[Any], _Result], timeout: float) -> None:
        self._work, self._timeout = work, timeout
        self._lock = threading.Lock()  # held while the work uses answers
        self._end: futures.Future[_Result] = futures.Future()
        self._waiting = next(work)

    def result(self, timeout: float | None = None) -> _Result:
        """Wait for the shards and return the result.

        Args:
            timeout: the seconds to wait for answers, 0 or more. None means the pool's timeout.

        Raises:
            LateShardsError: a shard has not answered in time. To wait longer, call this again.
            SessionsLostError: a shard died. Other errors are those of the method that made this call.
            TypeError: `timeout` is not a number or None.
            ValueError: `timeout` is negative or not finite.
        """
        seconds = self._timeout if timeout is None else check_seconds("timeout", timeout)
        while not self._end.done():
            waiting = self._waiting
            self._go_on(waiting, _get(waiting.sent, seconds), seconds)
        return self._end.result()

    def __await__(self) -> Generator[Any, None, _Result]:
        return self.within().__await__()

    async def within(self, timeout: float | None = None) -> _Result:
        """Wait and return the result as `result` does, but in an event loop. `await call` is `await call.within()`."""
        seconds = self._timeout if timeout is None else check_seconds("timeout", timeout)
        while not self._end.done():
            waiting = self._waiting
            self._go_on(waiting, await _gather(waiting.sent, seconds), seconds)
        return self._end.result()

    def follow(self, delivered: NumpyArray) -> Generator[Waiting, list[Any], _Result]:
        """Wait for this call as a part of another call's work, which has delivered these rows, (B,)."""
        while not self._end.done():
            waiting = self._waiting
            self._use(waiting, (yield waiting._replace(delivered=waiting.delivered & delivered)))
        return self._end.result()

    def _go_on(self, waiting: Waiting, answers: list[Any], timeout: float) -> None:
        """Use the answers. Raise LateShardsError if some are late."""
        left = self._use(waiting, answers)
        if left is not None and any(answer is LATE for answer in answers):
            raise left.error(self, timeout)

    def _use(self, waiting: Waiting, answers: list[Any]) -> Waiting | None:
        """Let the work use answers. Return what it waits for then; None at the end, or if others were faster."""
        with self._lock:
            if waiting is not self._waiting or self._end.done():
                return None
            try:
                try:
                    self._waiting = self._work.send(answers)
                except StopIteration as end:
                    self._end.set_result(end.value)
                    return None
                except Exception as error:
                    self._end.set_exception(error)
                    return None
            except BaseException:  # the work has ended, or would use these answers twice
                if not self._end.done():
                    self._end.set_exception(RuntimeError(_INTERRUPTED))
                raise
            return self._waiting


def check_seconds(name: str, seconds: Any, *, least: float = 0.0) -> float:
    """Return seconds as a float, no longer than Python and Ray can wait. Raise if they are below `least`."""
    checked = check_real(name, seconds)
    if checked < least:
        fail(ValueError, name, f"at least {least:g} seconds", str(seconds))
    return min(checked, _LONGEST)


def _get(sent: Sequence[Sent], timeout: float) -> list[Any]:
    """Return the answers. An exception, or LATE, stands for an answer that didn't come."""
    references, end = [each.reference for each in sent], time.monotonic() + timeout
    asked, in_doubt = _by_kind(references)
    if not in_doubt:
        with contextlib.suppress(Exception):  # a shard failed or is late
            return list(ray.get(references, timeout=timeout))
    came = set()
    if asked:
        came |= set(ray.wait(asked, num_returns=len(asked), timeout=max(0.0, end - time.monotonic()))[0])
    came |= futures.wait(in_doubt, timeout=min(DOUBT, max(0.0, end - time.monotonic()))).done
    return [_value(each) if each in came else LATE for each in references]


async def _gather(sent: Sequence[Sent], timeout: float) -> list[Any]:
    """Do what `_get` does, in an event loop."""
    import asyncio

    references, end = [each.reference for each in sent], time.monotonic() + timeout
    own = {each: each if isinstance(each, futures.Future) else each.future() for each in references}
    wrapped = {each: asyncio.wrap_future(future) for each, future in own.items()}
    for future in wrapped.values():
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # else asyncio complains
    for kind, longest in zip(_by_kind(references), (timeout, DOUBT), strict=True):
        if kind:
            left = max(0.0, end - time.monotonic())
            await asyncio.wait([wrapped[each] for each in kind], timeout=min(longest, left))
    came = [wrapped[each] for each in references]
    return [(each.exception() or each.result()) if each.done() else LATE for each in came]


def _by_kind(references: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return Ray's references, and the Futures of shards in doubt."""
    kinds: tuple[list[Any], list[Any]] = [], []
    for each in references:
        kinds[isinstance(each, futures.Future)].append(each)
    return kinds


def _value(reference: Any) -> Any:
    try:
        return reference.result() if isinstance(reference, futures.Future) else ray.get(reference)
    except Exception as error:
        return error
