"""The stream that a call runs on, and the order of its work among the streams of several libraries."""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cupy

from fusedlstm.backends.cuda.runtime import fork
from fusedlstm.backends.cuda.runtime.cupy_internals import ForeignStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LEGACY = 1  # cudaStreamLegacy: another handle of the default stream, 0
_PER_THREAD = 2  # cudaStreamPerThread: one handle, but a different stream in each thread
_NOT_READY = 600  # cudaErrorNotReady: an event's work isn't done


class Order:
    """A context that queues a call's work on one stream, in order with the streams of its arguments.

    Inside, the GPU is the current device, and the stream is CuPy's current one. `follow(stream)` makes the work wait
    for everything that another stream holds by then. On leaving, that stream waits for the work. So its library may
    then read results, and overwrite or free inputs. A stream doesn't wait for itself. If the stream of a library is
    unknown, call `wait_on_host`. Then the host waits on leaving until the work is done.

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
        self._host_waits = False

    def __enter__(self) -> Order:
        _release_finished()
        self._device.__enter__()
        self._cupys = self._stream = cupy.cuda.get_current_stream()
        if self._wanted is not None and not _same(self._wanted, self._cupys.ptr):
            self._stream = ForeignStream(self._wanted, self._index)
            self._stream.__enter__()
        return self

    def follow(self, stream: int | None, index: int | None = None) -> None:
        """Make the work wait for another stream. On leaving, that stream waits for the work.

        Args:
            stream: its handle; None for CuPy's current stream of this GPU.
            index: its GPU; None for this one.
        """
        index = self._index if index is None else index
        if stream is None:
            current = self._cupys if index == self._index else cupy.cuda.get_current_stream(index)
            stream = int(current.ptr)
        if index == self._index and _same(stream, self._stream.ptr):
            return
        if (index, stream) not in self._followed:
            other = self._followed[index, stream] = ForeignStream(stream, index)
            self._stream.wait_event(_event_on(other, index))

    def keep(self, array: Any) -> None:
        """Keep an array alive until the work is done: its library can't be made to wait before it reuses the memory."""
        self._kept.append(array)

    def wait_on_host(self) -> None:
        """Make the host wait, on leaving, until the work is done, as nothing else orders reads of the results."""
        self._host_waits = True

    def __exit__(self, *_: object) -> None:
        try:
            if self._followed or self._kept or self._host_waits:
                self._order_what_follows()
        finally:
            if self._stream is not self._cupys:
                self._stream.__exit__()
                restore_current(self._cupys)
            self._device.__exit__()

    def _order_what_follows(self) -> None:
        """Make streams, memory and the host wait for the work."""
        event = _event_on(self._stream, self._index)
        for other in self._followed.values():
            other.wait_event(event)
        if self._host_waits:
            event.synchronize()
        elif self._kept:
            _keep_until(event, self._kept)


class Turns:
    """Orders calls on the same memory one after the other, whatever streams they are queued on.

    Args:
        index: the GPU.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self._last: Any = None
        self._event: Any = None

    def begin(self) -> Any:
        """Return CuPy's current stream of the GPU, after making it wait for earlier calls on other streams."""
        stream = cupy.cuda.get_current_stream(self._index)
        last, event = self._last, self._event
        try:
            if last is not None and (stream.ptr == _PER_THREAD or not _same(stream.ptr, last.ptr)):
                stream.wait_event(_event_on(last, self._index) if event is None else event)
        except cupy.cuda.runtime.CUDARuntimeError:  # its owner destroyed the stream, so there is nothing to wait for
            self._last, self._event = stream, None
            raise
        self._last, self._event = stream, None
        return stream

    def end(self, stream: Any) -> None:
        """Note that a call has been queued. A per-thread stream gets an event, as other threads can't refer to it."""
        if stream.ptr == _PER_THREAD:
            self._event = _event_on(stream, self._index)

    def call(self, work: Callable[..., None], *arguments: Any) -> None:
        """Queue what `work` queues as one call, with the GPU as the current device. This is `turn` without its cost."""
        fork.check_process()
        if cupy.cuda.runtime.getDevice() != self._index:
            with cupy.cuda.Device(self._index):
                self.call(work, *arguments)
            return
        stream = self.begin()
        try:
            work(*arguments)
        finally:
            self.end(stream)

    @contextlib.contextmanager
    def turn(self) -> Iterator[Any]:
        """Queue a call with the GPU as the current device, on its current stream, which is yielded."""
        fork.check_process()
        with cupy.cuda.Device(self._index):
            stream = self.begin()
            try:
                yield stream
            finally:
                self.end(stream)

    def keep_until_done(self, *held: Any) -> None:
        """Keep memory or a graph alive until all queued work is done, as CuPy would reuse the memory at once.

        A forked process can neither wait for the work nor free anything, so there it stays alive. A thread that is
        capturing keeps it, and the last stream, until `keep_deferred`: a capture may refuse to destroy graphs and
        streams. These turns stay alive, too, so that new weights still wait for the work.
        """
        if fork.forked:
            _leaked.append((self, held))
        elif fork.is_capturing():
            _deferred.append((self, held))
        elif self._last is not None:
            event = _event_on(self._last, self._index) if self._event is None else self._event
            _keep_until(event, [self, *held])


def is_captured(stream: int) -> bool:
    """Return whether a stream of the current device, given by its handle, is captured by the caller."""
    return stream not in (0, _LEGACY) and bool(cupy.cuda.runtime.streamIsCapturing(stream))


def check_not_captured(what: str, why: str) -> None:
    """Raise RuntimeError if the current stream of this device is captured by the caller."""
    if is_captured(cupy.cuda.get_current_stream().ptr):
        raise RuntimeError(f"{what} can't be captured: {why}")


class Exported:
    """An array to export by DLPack. Its consumer waits for the stream that was current when this was made.

    CuPy makes a consumer wait for the stream that is current during the export. A consumer built on CuPy may have
    made its own stream current by then, and would wait for nothing.
    """

    def __init__(self, array: Any) -> None:
        self._array, self._stream = array, cupy.cuda.get_current_stream()

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        with self._array.device:
            before = cupy.cuda.get_current_stream()
            try:
                with self._stream:
                    return self._array.__dlpack__(**options)
            finally:
                restore_current(before)


def restore_current(stream: Any) -> None:
    """Make a stream current again. CuPy itself restores only streams of `with`, not those of `use()`."""
    if cupy.cuda.get_current_stream() is not stream:
        stream.use()


def _same(a: int, b: int) -> bool:
    """Whether two handles of one GPU mean the same stream, as 0 and cudaStreamLegacy do."""
    return a == b or (a in (0, _LEGACY) and b in (0, _LEGACY))


def _event_on(stream: Any, index: int) -> Any:
    """Return an event that follows everything queued on a GPU's stream."""
    with cupy.cuda.Device(index):
        event = cupy.cuda.Event(disable_timing=True)
        event.record(stream)
    return event


_leaked: list[Any] = []
_deferred: deque[tuple[Turns, tuple[Any, ...]]] = deque()


def keep_deferred() -> None:
    """Keep what was freed during captures until its work is done. Call this after a capture."""
    while _deferred:
        with contextlib.suppress(IndexError, cupy.cuda.runtime.CUDARuntimeError):  # another thread did it; no stream
            turns, held = _deferred.popleft()
            turns.keep_until_done(*held)


@dataclass(eq=False, slots=True)
class _Kept:
    """Memory of queued work, and the event after it."""

    event: Any
    held: list[Any]


# Memory of queued work, oldest first. The next call frees it, up to the first work that isn't done. There is no lock: a
# finalizer or a signal handler may run in the middle of these functions and call them again, or interrupt them.
_unfinished: deque[_Kept] = deque()


def _keep_until(event: Any, held: list[Any]) -> None:
    _unfinished.append(_Kept(event, held))


def _release_finished() -> None:
    with contextlib.suppress(IndexError, ValueError):  # another call removed it first
        while _unfinished:
            first = _unfinished[0]
            if not _is_over(first.event):
                return
            _unfinished.remove(first)


def _is_over(event: Any) -> bool:
    """Whether the work before an event is done, or has failed: a GPU in error never says that it is done."""
    try:
        return bool(cupy.cuda.runtime.eventQuery(event.ptr) != _NOT_READY)
    except cupy.cuda.runtime.CUDARuntimeError:
        return True
