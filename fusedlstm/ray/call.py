"""Call: the answers of shards to one call, for threads and for asyncio."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import ray

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from fusedlstm.ray.link import Sent

_Result = TypeVar("_Result")
_PATIENCE = 0.05  # seconds without an answer after which to look whether a shard is dead


class NoAnswerError(RuntimeError):
    """A shard has not answered in time."""


class DeadShardError(RuntimeError):
    """A shard has died before it answered."""


class Call(Generic[_Result]):
    """A call that has been sent to its shards. Wait for its result once, with `await call` or `call.result()`.

    A call whose result nobody waits for, or whose wait is interrupted, is done all the same.

    Args:
        work: sends the call, yields what it has sent, gets the answers in return, or exceptions for those that are
            missing, and returns the result. It may send several times.
        timeout: the seconds to wait for answers each time.
        is_dead: whether there will be no answer.
    """

    def __init__(
        self, work: Generator[list[Sent], list[Any], _Result], timeout: float, is_dead: Callable[[Sent], bool]
    ) -> None:
        self._work, self._timeout, self._is_dead = work, timeout, is_dead
        self._sent = next(work)

    def result(self) -> _Result:
        """Wait for the shards and return the result.

        Raises:
            SessionsLostError: a shard died; see there. Other errors are those of the method that made this call.
        """
        try:
            while True:
                self._sent = self._work.send(self._get())
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def __await__(self) -> Generator[Any, None, _Result]:
        return self._await().__await__()

    async def _await(self) -> _Result:
        try:
            while True:
                self._sent = self._work.send(await self._gather())
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _get(self) -> list[Any]:
        """Return the answers, or for each that is missing an exception. Nobody waits for dead shards."""
        references, start = [each.reference for each in self._sent], time.monotonic()
        try:
            return list(ray.get(references, timeout=_PATIENCE))
        except Exception:  # of one of them: the others must be delivered
            answers: dict[Any, Any] = {}
        while True:
            waiting = [each for each in references if each not in answers]
            if not waiting:
                return [answers[each] for each in references]
            ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=_PATIENCE)
            answers |= {each: _value(each) for each in ready}
            answers |= self._missing(answers, start)

    async def _gather(self) -> list[Any]:
        """Do what `_get` does, in an event loop."""
        import asyncio

        start = time.monotonic()
        futures = {each.reference: asyncio.wrap_future(each.reference.future()) for each in self._sent}
        answers: dict[Any, Any] = {}
        while len(answers) < len(futures):
            await asyncio.wait([futures[each] for each in futures.keys() - answers.keys()], timeout=_PATIENCE)
            for reference, future in futures.items():
                if future.done() and reference not in answers:
                    answers[reference] = future.exception() or future.result()
            answers |= self._missing(answers, start)
        for future in futures.values():
            future.add_done_callback(lambda done: done.cancelled() or done.exception())  # else asyncio complains
        return [answers[each.reference] for each in self._sent]

    def _missing(self, answers: dict[Any, Any], start: float) -> dict[Any, Exception]:
        """Return an exception for each answer that will not come."""
        left: Sequence[Sent] = [each for each in self._sent if each.reference not in answers]
        if time.monotonic() - start > self._timeout:
            return {each.reference: NoAnswerError(f"no answer after {self._timeout:g} seconds") for each in left}
        return {each.reference: DeadShardError("the shard has died") for each in left if self._is_dead(each)}


def _value(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except Exception as error:
        return error
