"""CUDA graphs: work that is queued once, recorded, and from then on queued again by one call."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import cupy

from fusedlstm.backends.cuda.runtime import fork

if TYPE_CHECKING:
    from collections.abc import Callable


def captured(queue: Callable[[], None]) -> Any:
    """Return the graph of what `queue` queues on the current stream, which must allocate nothing and not wait.

    It is called twice. The first call runs, so that what is loaded at first use isn't loaded while capturing: what it
    does to buffers must do no harm.
    """
    before = cupy.cuda.get_current_stream()
    stream = _stream_after(before)
    try:
        with stream:
            return _captured_on(stream, queue)
    finally:
        # CuPy goes back to the last stream that was entered, which is not the one that `use()` made current.
        if cupy.cuda.get_current_stream() is not before:
            before.use()


def _captured_on(stream: Any, queue: Callable[[], None]) -> Any:
    """Return the graph of what is queued on a stream, which is the current one."""
    thread = threading.get_ident()
    try:
        fork.capturing.add(thread)
        return _captured_alone(stream, queue)
    finally:
        fork.capturing.discard(thread)


def _captured_alone(stream: Any, queue: Callable[[], None]) -> Any:
    """Do the same as `_captured_on`, while this thread refuses other calls."""
    queue()
    stream.synchronize()
    # An allocation from CUDA by this thread is refused then, and other threads may do what they like.
    try:
        stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
        queue()
        graph = stream.end_capture()
    except BaseException:
        with contextlib.suppress(Exception):  # the capture may be invalid or over; keep the first error
            stream.end_capture()
        raise
    graph.upload(stream)  # or the first launch would
    stream.synchronize()
    return graph


def _stream_after(other: Any) -> Any:
    """Return a stream of its own, as the default one can't be captured, that waits for what another has queued."""
    stream = cupy.cuda.Stream(non_blocking=True)
    stream.wait_event(other.record())
    return stream
