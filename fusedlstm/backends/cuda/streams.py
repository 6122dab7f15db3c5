"""The stream that a call runs on, and the order of its work between the current streams of several libraries."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import cupy

_LEGACY = 1  # cudaStreamLegacy: another handle of the default stream, 0


class Order:
    """A context in which a call's work is queued on one stream, in order with the streams of its arguments.

    Inside, the GPU is the current device and the stream CuPy's current one. `follow(stream)` makes the work
    wait for all that another stream holds by then; on leaving, that stream waits for the work, so that
    what its library does next to the arguments (read a result, overwrite or free an input) comes after it.
    Nothing is queued between a stream and itself, and nothing waits on the host.

    Args:
        index: the GPU.
        stream: the handle of the stream to run on; None for CuPy's current one.
    """

    def __init__(self, index: int, stream: int | None) -> None:
        self._index = index
        self._device = cupy.cuda.Device(index)
        self._wanted = stream
        self._followed: dict[tuple[int, int], Any] = {}
        self._kept: list[Any] = []

    def __enter__(self) -> Order:
        _release_finished()
        self._device.__enter__()
        self._cupys = self._stream = cupy.cuda.get_current_stream()
        if self._wanted is not None and not _same(self._wanted, self._cupys.ptr):
            self._stream = ForeignStream(self._wanted, self._index)
            self._stream.__enter__()
        return self

    def follow(self, stream: int | None, index: int | None = None) -> None:
        """Make the work wait for another stream, and, once it is queued, that stream for the work.

        Args:
            stream: its handle; None for CuPy's current stream of this GPU.
            index: its GPU; None for this one.
        """
        index = self._index if index is None else index
        other = self._cupys if stream is None else ForeignStream(stream, index)
        if index == self._index and _same(other.ptr, self._stream.ptr):
            return
        if (index, other.ptr) not in self._followed:
            self._followed[index, other.ptr] = other
            self._stream.wait_event(_event_on(other, index))

    def keep(self, array: Any) -> None:
        """Keep an array alive until the work is done: its library can't be told to wait before it reuses memory."""
        self._kept.append(array)

    def __exit__(self, *_: object) -> None:
        if self._followed or self._kept:
            event = _event_on(self._stream, self._index)
            for other in self._followed.values():
                other.wait_event(event)
            if self._kept:
                _keep_until(event, self._kept)
        if self._stream is not self._cupys:
            self._stream.__exit__()
        self._device.__exit__()


class ForeignStream(cupy.cuda.ExternalStream):  # type: ignore[misc]
    """Another library's stream, which its owner keeps alive and destroys.

    Made without ExternalStream's own constructor, which warns that it is deprecated: its successor takes
    stream objects of a protocol, and here is a handle.
    """

    def __init__(self, handle: int, index: int) -> None:
        super(cupy.cuda.ExternalStream, self).__init__(handle, index)


def _same(a: int, b: int) -> bool:
    """Whether two handles of one GPU are one stream: 0 and cudaStreamLegacy are."""
    return a == b or (a in (0, _LEGACY) and b in (0, _LEGACY))


def _event_on(stream: Any, index: int) -> Any:
    """Return an event after all that a stream of a GPU holds."""
    with cupy.cuda.Device(index):
        event = cupy.cuda.Event(disable_timing=True)
        event.record(stream)
    return event


# Arrays of finished and unfinished work; those that are done go when the next call comes.
_lock = threading.Lock()
_unfinished: deque[tuple[Any, list[Any]]] = deque()


def _keep_until(event: Any, arrays: list[Any]) -> None:
    with _lock:
        _unfinished.append((event, arrays))


def _release_finished() -> None:
    if not _unfinished:
        return
    with _lock:
        for _ in range(len(_unfinished)):
            event, arrays = _unfinished.popleft()
            if not event.done:
                _unfinished.append((event, arrays))
