"""Refuse CUDA calls in a process that was forked after CUDA's first use, and in a thread that captures a graph.

After a fork, CUDA fails or hangs in the child. While a thread captures a graph, anything else that it queues would
become part of the graph. So a call in the middle of a capture, in a signal handler or a finalizer, raises.
"""

from __future__ import annotations

import os
import threading

_in_use = False
forked = False  # whether CUDA was in use when this process was forked

REASON = (
    "this process was forked after CUDA had been used, and CUDA does not survive that: start processes with "
    'multiprocessing.get_context("spawn"), or fork before the first use of CUDA'
)


_CAPTURES = (
    "this thread is capturing a CUDA graph, for a new Stepper, or for sequences or a pool's step of a new number of "
    "rows. This call came in the middle of that, from a signal handler or a finalizer: call afterwards"
)
capturing: set[int] = set()  # the threads that are capturing


def note_use() -> None:
    """Note that this process uses CUDA."""
    global _in_use  # noqa: PLW0603
    _in_use = True


def check_process() -> None:
    """Raise RuntimeError in a process that was forked after CUDA's first use, or in a thread that is capturing."""
    if forked:
        raise RuntimeError(REASON)
    if is_capturing():
        raise RuntimeError(_CAPTURES)


def is_capturing() -> bool:
    """Return whether this thread is capturing."""
    return bool(capturing) and threading.get_ident() in capturing


def _after_fork() -> None:
    global forked  # noqa: PLW0603
    forked = forked or _in_use


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
