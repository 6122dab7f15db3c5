"""Share the rows of a batch among threads, because the BLAS runs small pieces of a product in one thread.

There are as many threads as NumPy's BLAS has, but at most the cell's `threads`.

Rows are independent, so a thread takes its rows through whole steps, and in a sequence through all steps between two
resets. Threads wait for each other once, at the end. NumPy releases the GIL while it computes. The last bits of a row
may depend on the other rows of its thread, as they do in a multithreaded BLAS. With an invariant engine they don't.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING

from fusedlstm.backends.numpy.thread_limit import at_most

if TYPE_CHECKING:
    from collections.abc import Callable

# With fewer rows, a thread would read all weights for little work. Rows for fewer than two threads aren't shared out.
_FEWEST = 8
SHARED = 2 * _FEWEST
# With fewer multiplications, the work is done before another thread wakes up, which takes some 50 microseconds. With
# fewer in a step, Python takes most of the time and holds the GIL.
_LEAST_WORK = 10_000_000
_LEAST_STEP = 1_000_000


def shares(B: int, each: int, steps: int = 1, unit: int = 1, most: int | None = None) -> list[slice]:
    """Return the rows for each thread: all in one share, or shares of about the same size.

    Args:
        B: the number of rows.
        each: the multiplications of a row in a step.
        steps: the number of steps.
        unit: all shares but the last are multiples of this.
        most: the most threads; None for as many as the BLAS has.
    """
    if B < SHARED or B * each < _LEAST_STEP or B * each * steps < _LEAST_WORK:
        return [slice(0, B)]
    threads = min(B // _FEWEST, at_most(most) or 1)
    ends = [B * k // threads // unit * unit for k in range(threads)] + [B]
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def share_out(work: Callable[[slice], None], rows: list[slice]) -> None:
    """Call `work` with each share, in this thread and all free helpers, and return when all are done.

    This takes no lock that the thread may already hold: a call from a signal handler would wait for it for ever.

    Raises:
        Exception: the first exception of `work`, after all threads have stopped.
    """
    left = deque(rows)
    begun: list[None] = []
    ended: list[BaseException | None] = []
    news: SimpleQueue[None] = SimpleQueue()

    def take() -> None:
        while left:
            try:
                share = left.popleft()
            except IndexError:  # another thread took the last one
                return
            work(share)

    def help_out() -> None:
        begun.append(None)  # before it takes a share
        error: BaseException | None = None
        try:
            take()
        except BaseException as raised:
            error = raised
        ended.append(error)
        news.put(None)

    interruption: BaseException | None = None
    try:
        _helpers().call(help_out, len(rows) - 1)
        take()
    finally:
        # Whatever a signal handler raises, no thread may be writing when the call ends. This is not a separate
        # function: one that is interrupted at its start would do nothing.
        while True:
            try:
                left.clear()  # helpers that begin later find nothing to do
                while len(ended) < len(begun):
                    news.get()
                break
            except BaseException as error:
                interruption = error
        if interruption is not None:
            raise interruption
    for failure in ended:
        if failure is not None:
            raise failure


class _Helpers:
    """Helper threads: as many as one call has asked for, and at most one for each processor.

    The standard library's executors hold locks during `submit`. A signal handler that runs during one would wait for
    ever. This queue may be used at any time.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._most = os.cpu_count() or 1

    def call(self, work: Callable[[], None], times: int) -> None:
        """Queue `work` this many times for other threads. If there are no threads, it is not called."""
        with contextlib.suppress(RuntimeError):  # no thread can start, for example at exit: use the running ones
            while len(self._threads) < min(times, self._most):
                thread = threading.Thread(target=self._run, name=f"fusedlstm_{len(self._threads)}", daemon=True)
                thread.start()
                self._threads.append(thread)
        if self._threads:
            for _ in range(times):
                self._calls.put(work)

    def _run(self) -> None:
        while True:
            work = self._calls.get()
            work()
            del work  # free its arrays before waiting for the next one


@functools.cache
def _helpers() -> _Helpers:
    return _Helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.cache_clear)  # threads don't survive a fork
