"""When CUDA must not be called: in a process that was forked after its first use, and by a thread that captures.

CUDA that was in use when a process was forked fails in it, or hangs. While a thread captures a graph, whatever else it
queues would end up in the graph: a call in the middle of that, in a signal handler or a finalizer, is refused.
"""

from __future__ import annotations

import os
import threading

_in_use = False
forked = False  # whether CUDA was in use when this process was forked

REASON = (
    "this process was forked after CUDA had been used, and CUDA does not survive that: start processes by "
    'multiprocessing.get_context("spawn"), or fork before the first use of CUDA'
)


_CAPTURES = (
    "this thread is capturing a CUDA graph: a Stepper is being made, or a pool steps so many rows for the first time. "
    "This call began in the middle of that, in a signal handler or a finalizer: make it after"
)
capturing: set[int] = set()  # the threads that do


def note_use() -> None:
    """Note that this process uses CUDA."""
    global _in_use  # noqa: PLW0603
    _in_use = True


def check_process() -> None:
    """Raise RuntimeError in a process that was forked after CUDA had been used, and in a thread that captures."""
    if forked:
        raise RuntimeError(REASON)
    if capturing and threading.get_ident() in capturing:
        raise RuntimeError(_CAPTURES)


def _after_fork() -> None:
    global forked  # noqa: PLW0603
    forked = forked or _in_use


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
