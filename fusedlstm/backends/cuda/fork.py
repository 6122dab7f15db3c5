"""What a forked process may not do: CUDA that was in use when it was forked fails in it, or hangs."""

from __future__ import annotations

import os

_in_use = False
forked = False  # whether CUDA was in use when this process was forked

REASON = (
    "this process was forked after CUDA had been used, and CUDA does not survive that: start processes by "
    'multiprocessing.get_context("spawn"), or fork before the first use of CUDA'
)


def note_use() -> None:
    """Note that this process uses CUDA."""
    global _in_use  # noqa: PLW0603
    _in_use = True


def check_process() -> None:
    """Raise RuntimeError in a process that was forked after CUDA had been used."""
    if forked:
        raise RuntimeError(REASON)


def _after_fork() -> None:
    global forked  # noqa: PLW0603
    forked = forked or _in_use


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
