"""Limit the threads of NumPy's BLAS during a call.

OpenBLAS has one number of threads for the whole process. So while calls with limits run, it is the smallest limit of
all of them, whichever threads they are in. When the last one ends, it is what it was before the first one began.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from fusedlstm.backends.numpy import blas
from fusedlstm.backends.numpy.context import quietly

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")


class _Limits:
    """The limits of the calls in progress.

    A signal handler may make such a call in the middle of any function here. It leaves everything as it was, so the
    order of the lines matters. The lock is for other threads.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._limits: dict[Any, int] = {}
        self._without: int | None = None  # the number of threads without a limit, while there is one

    def begin(self, call: Any, limit: int) -> None:
        """Limit the BLAS until `end` of the same call. A call is a tuple that begins with its thread."""
        with self._lock:
            self._limits[call] = limit
            before = blas.threads()
            if self._without is None:
                self._without = before
            wanted = min(self._limits.values())
            if wanted != before:
                blas.set_threads(wanted)

    def end(self, call: Any) -> None:
        """Remove a call's limit. This may be repeated if it was interrupted, and even if `begin` was."""
        with self._lock:
            without = self._without
            self._limits.pop(call, None)
            if without is None:
                return
            wanted = min(self._limits.values(), default=without)
            if wanted != blas.threads():
                blas.set_threads(wanted)
            if not self._limits:
                self._without = None

    def forget_other_threads(self) -> None:
        """In the child of a fork, remove the limits of threads that don't exist there."""
        self._lock = threading.RLock()
        for call in [call for call in self._limits if call[0] != threading.get_ident()]:
            self.end(call)


_limits = _Limits()


def quietly_limited(limit: int, work: Callable[..., _Result], *arguments: object) -> _Result:
    """Return work(*arguments), as `context.quietly` does, with at most `limit` threads of the BLAS meanwhile."""
    call = threading.get_ident(), object()
    try:
        _limits.begin(call, limit)
        return quietly(work, *arguments)
    finally:
        # Whatever a signal handler raises, no limit may stay. This is not a separate function: one that is interrupted
        # at its start would do nothing.
        interruption = None
        while True:
            try:
                _limits.end(call)
                break
            except BaseException as error:
                interruption = error
        if interruption is not None:
            raise interruption


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_limits.forget_other_threads)
