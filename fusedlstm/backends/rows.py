"""Rows of a batch shared out among threads: as many as NumPy's BLAS has, where its products are cut and run on one.

Rows are independent, so a thread takes its own through whole steps, and through all steps of a sequence between two
resets: the threads meet once. NumPy lets others run while it computes. The last bits of a row may depend on which
others its thread takes, as they do where the BLAS has several; those of an invariant plan don't.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from fusedlstm import blas

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future, ThreadPoolExecutor

# Of fewer rows, a thread would pass all weights by for little work; fewer than two threads' are not shared out.
_FEWEST = 8
SHARED = 2 * _FEWEST
# Multiplications below which another thread is not awake in time, some 50 microseconds, and those of a step below which
# Python takes most of its time, which lets no others run meanwhile.
_LEAST_WORK = 10_000_000
_LEAST_STEP = 1_000_000


def shares(B: int, each: int, steps: int = 1, unit: int = 1) -> list[slice]:
    """Return which rows each thread takes: all of them in one share, or about as many in each.

    Args:
        B: rows.
        each: multiplications of a row in a step.
        steps: how many steps they take.
        unit: what all but the last take multiples of.
    """
    if B < SHARED or B * each < _LEAST_STEP or B * each * steps < _LEAST_WORK:
        return [slice(0, B)]
    threads = min(B // _FEWEST, blas.threads() or 1)
    ends = [B * k // threads // unit * unit for k in range(threads)] + [B]
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def share_out(work: Callable[[slice], None], rows: list[slice]) -> None:
    """Call work with each share, in as many threads as there are free, this one among them; return when all are done.

    Raises:
        Exception: the first of those that work raised, when nobody works any more.
    """
    left = deque(rows)

    def take() -> None:
        while left:
            try:
                share = left.popleft()
            except IndexError:  # another took the last
                return
            work(share)

    helpers: list[Future[None]] = []
    with contextlib.suppress(RuntimeError):  # no more threads, as when a program ends: those there are do it
        helpers.extend(_pool().submit(take) for _ in rows[1:])
    try:
        take()
    finally:
        left.clear()
        _wait(helpers)
    for helper in helpers:
        if not helper.cancelled():
            helper.result()


def _wait(helpers: list[Future[Any]]) -> None:
    """Wait for those who have begun, through interruptions too: nobody may be writing when the call ends."""
    interruption = None
    for helper in helpers:
        while not (helper.cancel() or helper.done()):
            try:
                _until_done(helper)
            except KeyboardInterrupt as error:
                interruption = error
    if interruption is not None:
        raise interruption


def _until_done(helper: Future[Any]) -> None:
    helper.exception()  # waits, and raises nothing; it is half as long as `concurrent.futures.wait`


@functools.cache
def _pool() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor  # which takes as long to import as much of this package

    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="fusedlstm")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of the threads
