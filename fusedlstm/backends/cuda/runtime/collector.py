"""Pause Python's garbage collector while threads capture graphs.

A collection runs in whichever thread allocates next. In a capture it could free anyone's dead graphs, streams and
memory, which CUDA may refuse there, and the capture would fail.
"""

from __future__ import annotations

import gc
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCK = threading.RLock()  # reentrant, as a signal handler may run while this thread holds it
_paused_by: set[int] = set()  # the threads for which the collector is paused
_owed: set[str] = set()  # "enable" if the collector was enabled before the first of them


@contextmanager
def paused() -> Iterator[None]:
    """Pause the collector until the last thread has left this context. A collector that was disabled stays so."""
    thread = threading.get_ident()
    try:
        with _LOCK:
            if not _paused_by and gc.isenabled():
                _owed.add("enable")
            _paused_by.add(thread)
            gc.disable()
        yield
    finally:
        try:
            _resume(thread)
        except BaseException:  # interrupted
            _resume(thread)
            raise


def _resume(thread: int) -> None:
    """Note that a thread needs no pause. After the last one, enable the collector again. This may be repeated."""
    with _LOCK:
        _paused_by.discard(thread)
        if _owed and not _paused_by:
            gc.enable()
            _owed.clear()


def _after_fork() -> None:
    """Enable the collector in a child, where the threads that paused it don't run."""
    if _owed:
        gc.enable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
