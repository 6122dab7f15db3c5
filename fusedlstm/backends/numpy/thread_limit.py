"""Limit the threads of NumPy's BLAS during a call.

OpenBLAS has one number of threads for the whole process. So while calls with limits run, it is the smallest of
their limits, whichever threads they are in. It never exceeds the number before the first of them, which the last one
restores.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import TYPE_CHECKING, TypeVar

from fusedlstm.backends.numpy import blas
from fusedlstm.backends.numpy.context import quietly

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")


class Limits:
    """The limits of the calls in progress.

    A signal handler may make such a call in the middle of any function here. It leaves everything as it was, so the
    order of the lines matters. The lock is for other threads. This code runs at each step, so it makes few calls.

    Args:
        get: returns the number of threads of the BLAS.
        put: sets it.
    """

    def __init__(self, get: Callable[[], int], put: Callable[[int], object]) -> None:
        self._get, self._put = get, put
        self._lock = threading.RLock()
        self._limits: dict[object, int] = {}  # by call
        self._without: int | None = None  # the number of threads without a limit, while there is one

    def begin(self, call: object, limit: int) -> None:
        """Limit the BLAS until `end` of the same call."""
        with self._lock:
            limits = self._limits
            limits[call] = limit
            before = self._get()
            if self._without is None:
                self._without = before
            if len(limits) > 1:
                limit = min(limits.values())
            limit = min(limit, self._without)
            if limit != before:
                self._put(limit)

    def end(self, call: object) -> None:
        """Remove a call's limit. If this or `begin` was interrupted, it may be called again."""
        with self._lock:
            without, limits = self._without, self._limits
            limits.pop(call, None)
            if without is not None:
                self._put(min(without, *limits.values()) if limits else without)
                if not limits:
                    self._without = None

    def quietly(self, limit: int, work: Callable[..., _Result], *arguments: object) -> _Result:
        """Return work(*arguments), as `context.quietly` does, with at most `limit` threads of the BLAS meanwhile."""
        call = object()
        try:
            self.begin(call, limit)
            return quietly(work, *arguments)
        finally:
            # Whatever a signal handler raises, no limit may stay. This is not a separate function: one that is
            # interrupted at its start would do nothing.
            interruption = None
            while True:
                try:
                    self.end(call)
                    break
                except BaseException as error:
                    interruption = error
            if interruption is not None:
                raise interruption

    def forget(self) -> None:
        """Remove all limits. A forked child needs this, because the threads of most calls don't exist there."""
        self._lock = threading.RLock()
        self._limits.clear()
        self.end(None)


_ONLY: dict[str, Limits] = {}


def at_most(limit: int | None) -> int | None:
    """Return how many threads a call with this limit uses at most; None if unknown.

    A limit above the BLAS's own number has no effect. That number ignores the limits of other calls.
    """
    made = _ONLY.get("")
    own = (made._without if made else None) or blas.threads()
    return own if limit is None or own is None else min(limit, own)


@functools.cache
def limits() -> Limits:
    """Return the limits of this process. `blas.why_threads_are_fixed()` must be None."""
    # Threads that make their first cells at once must get the same one, or each would restore the other's limit. A lock
    # would block a signal handler that makes a cell, too.
    made = _ONLY.setdefault("", Limits(*blas.thread_functions()))
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=made.forget)
    return made
