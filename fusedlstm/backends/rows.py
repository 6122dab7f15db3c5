"""Rows of a batch shared out among threads: as many as NumPy's BLAS has, where its products are cut and run on one.

Rows are independent, so a thread takes its own through whole steps, and through all steps of a sequence that follow
each other: the threads meet once. NumPy lets others run while it computes.
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fusedlstm import blas
from fusedlstm.backends.products import has_small_kernels

if TYPE_CHECKING:
    from collections.abc import Callable

# Of fewer rows, a thread would pass all weights by for little work; fewer than two threads' are not shared out.
_FEWEST = 8
SHARED = 2 * _FEWEST
# Multiplications below which another thread is not awake in time, some 50 microseconds.
_LEAST_WORK = 10_000_000


def shares(B: int, each: int) -> list[slice]:
    """Return which rows each thread takes: all of them in one share, or about as many in each.

    Args:
        B: rows.
        each: multiplications of a row.
    """
    if B < SHARED or B * each < _LEAST_WORK or not has_small_kernels():
        return [slice(0, B)]
    threads = min(B // _FEWEST, blas.threads() or 1)
    return [slice(B * k // threads, B * (k + 1) // threads) for k in range(threads)]


def share_out(work: Callable[[slice], None], rows: list[slice]) -> None:
    """Call work with each share, all at once in threads of their own but the first, and return when all are done."""
    first, *others = rows
    if not others:
        work(first)
        return
    pool = _pool(len(others))
    pending = [pool.submit(work, share) for share in others]
    try:
        work(first)
    finally:  # whatever happens, nobody may be writing any more
        errors = [future.exception() for future in pending]
    for error in errors:
        if error is not None:
            raise error


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="fusedlstm")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of the threads
