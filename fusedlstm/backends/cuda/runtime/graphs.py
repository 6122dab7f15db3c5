"""CUDA graphs: work that is recorded once, and then queued by one call each time."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import cupy

from fusedlstm.backends.cuda.runtime import collector, fork
from fusedlstm.backends.cuda.runtime.streams import keep_deferred, restore_current

if TYPE_CHECKING:
    from collections.abc import Callable


def captured(queue: Callable[[], None]) -> Any:
    """Return the graph of the work that `queue` queues on the current stream. `queue` must not allocate or wait.

    It is called twice. The work of the first call runs, so that nothing is loaded during the capture. What it does to
    buffers must do no harm.
    """
    before = cupy.cuda.get_current_stream()
    stream = _stream_after(before)
    try:
        with stream:
            return _captured_on(stream, queue)
    finally:
        restore_current(before)


def _captured_on(stream: Any, queue: Callable[[], None]) -> Any:
    """Return the graph of the work that `queue` queues on a stream, which is the current one."""
    thread = threading.get_ident()
    try:
        fork.capturing.add(thread)
        return _captured_alone(stream, queue)
    finally:
        fork.capturing.discard(thread)
        keep_deferred()


def _captured_alone(stream: Any, queue: Callable[[], None]) -> Any:
    """Do the work of `_captured_on`, while this thread refuses other calls."""
    queue()
    stream.synchronize()
    # During the capture, CUDA refuses allocations by this thread. Other threads aren't restricted.
    with collector.paused():
        try:
            stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
            queue()
            graph = stream.end_capture()
        except BaseException:
            with contextlib.suppress(Exception):  # the capture may be invalid or over; keep the first error
                stream.end_capture()
            raise
    graph.upload(stream)  # otherwise the first launch would
    stream.synchronize()
    return graph


def _stream_after(other: Any) -> Any:
    """Return a new stream that waits for what another one has queued. The default stream can't be captured."""
    stream = cupy.cuda.Stream(non_blocking=True)
    stream.wait_event(other.record())
    return stream
