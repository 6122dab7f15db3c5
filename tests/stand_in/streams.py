"""Streams that run work at once, and log the order: records, waits and launches.

While a stream captures, its work goes to the graph instead. See graphs.py.
"""

import itertools
import threading
import warnings

from . import arrays

LEGACY, PER_THREAD = 1, 2

# Entries are ("record", stream, event), ("wait", stream, event), ("launch", stream, what) and ("graph", stream, graph).
# When the host waits, they are ("synchronize", stream), with None for a whole device.
log = []

_handles = itertools.count(0x1000, 16)
_events = itertools.count(1)
_made = {}  # handle -> (device, whether it and the default stream wait for each other), for streams from Stream()


class _Current(threading.local):
    def __init__(self):
        self.streams = {}  # the current stream of each device, changed by `use` and by entering a stream
        self.stacks = {}  # the streams that leaving goes back to, which `use` doesn't change
        self.entered = []

    def stream(self, device):
        return self.streams.get(device, Stream.null)

    def push(self, stream, device):
        self.stacks.setdefault(device, [Stream.null]).append(stream)
        self.entered.append(device)
        self.streams[device] = stream

    def pop(self):
        device = self.entered.pop()
        self.stacks[device].pop()
        self.streams[device] = self.stacks[device][-1]


class _BaseStream:
    def __init__(self, ptr, device_id):
        self.ptr, self.device_id = ptr, device_id

    def __eq__(self, other):
        return isinstance(other, _BaseStream) and self.ptr == other.ptr

    def __hash__(self):
        return self.ptr

    def _check_device(self):
        device = arrays.current_device
        if self.device_id not in (-1, device):
            raise RuntimeError(f"The device that the stream is created on ({self.device_id}) does not match ({device})")
        return device

    def __enter__(self):
        _current.push(self, self._check_device())
        return self

    def __exit__(self, *_):
        _current.pop()

    def use(self):
        _current.streams[self._check_device()] = self
        return self

    def synchronize(self):
        synchronized(self.ptr)

    def record(self, event=None):
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event):
        """Wait for an event. A capture waits only for its own events, and no other stream waits for those."""
        if event._recorded is None:
            raise AssertionError("a stream waits for an event that nobody has recorded")
        graphs.refuse_legacy(self.ptr)
        capture = graphs.capture_on(self.ptr)
        if capture is None:
            event._check_is_not_captured()
            log.append(("wait", self.ptr, event.ptr))
        elif event._capture is not capture:
            capture.fail("cudaErrorStreamCaptureIsolation: the event is of what is not captured")

    def begin_capture(self, mode=None):
        device = device_of(self.ptr) if self.device_id < 0 else self.device_id
        _, blocking = _made.get(self.ptr, (device, True))
        graphs.begin(self.ptr, device, graphs.RELAXED if mode is None else mode, blocking)

    def end_capture(self):
        return graphs.end(self.ptr)

    def is_capturing(self):
        return graphs.capture_on(self.ptr) is not None


class Stream(_BaseStream):
    null = None

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        if null or ptds:
            super().__init__(PER_THREAD if ptds else 0, -1)
        else:
            super().__init__(next(_handles), arrays.current_device)
            _made[self.ptr] = self.device_id, not non_blocking


class ExternalStream(_BaseStream):
    def __init__(self, ptr, device_id=-1):
        warnings.warn("ExternalStream is deprecated.", DeprecationWarning, stacklevel=2)
        super().__init__(ptr, device_id)


Stream.null = Stream(null=True)
_current = _Current()


class Event:
    """An event."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.ptr = next(_events)
        self.device_id = arrays.current_device
        self._recorded = self._capture = None

    def record(self, stream=None):
        stream = get_current_stream() if stream is None else stream
        if stream.device_id not in (-1, self.device_id) or arrays.current_device != self.device_id:
            raise RuntimeError("cudaErrorInvalidResourceHandle: the event and the stream are of different devices")
        graphs.refuse_legacy(stream.ptr)
        self._recorded, self._capture = stream.ptr, graphs.capture_on(stream.ptr)
        if self._capture is None:
            log.append(("record", stream.ptr, self.ptr))

    def synchronize(self):
        if self._recorded is None:
            raise AssertionError("the host waits for an event that nobody has recorded")
        self._check_is_not_captured()
        synchronized(self._recorded)

    def _check_is_not_captured(self):
        """Raise for a captured event, as it doesn't mark real work, and make its capture fail."""
        if self._capture is not None:
            self._capture.fail("cudaErrorCapturedEvent: the event was last recorded in a capturing stream")


def get_current_stream(device_id=-1):
    return _current.stream(arrays.current_device if device_id == -1 else device_id)


def device_of(ptr):
    """Return the device of a stream made here, or the current device for any other."""
    return _made[ptr][0] if ptr in _made else arrays.current_device


def synchronized(ptr):
    """Log that the host waits for a stream, or for the whole device if `ptr` is None."""
    graphs.refuse("to synchronize")
    graphs.refuse_legacy(ptr)
    if graphs.capture_on(ptr):
        graphs.capture_on(ptr).fail("cudaErrorStreamCaptureUnsupported: the host waits for a stream that captures")
    log.append(("synchronize", ptr))


def launched(what):
    """Log work on the current stream that a graph can't hold."""
    graphs.refuse(what)
    graphs.refuse_legacy(get_current_stream().ptr)
    log.append(("launch", get_current_stream().ptr, what))


def submit(kind, name, spans, work, ptr=None):
    """Do work on a stream, or record it if the stream captures.

    Args:
        kind, name: the kind of the work, and its name.
        spans: all memory that the work touches, as memory.Span.
        work: a function that does the work, and doesn't keep memory alive.
        ptr: the stream, or None for the current one.
    """
    ptr = get_current_stream().ptr if ptr is None else ptr
    graphs.refuse_legacy(ptr)
    capture = graphs.capture_on(ptr)
    if capture is None:
        log.append(("launch", ptr, kind))
        work()
    else:
        capture.add(kind, name, spans, work)


def order_export(stream, device_id):
    """Make a consumer's stream wait for the current one, as DLPack specifies: -1 for no order, never 0."""
    if stream is None:
        stream = LEGACY
    if not isinstance(stream, int) or stream < -1 or stream == 0:
        raise ValueError(
            f"On CUDA, the valid stream for the DLPack protocol is -1, 1, 2, or any larger value: {stream}"
        )
    with arrays.Device(device_id):
        current = get_current_stream()
        if stream >= 0 and stream != (current.ptr or LEGACY):
            consumer = _BaseStream(stream, device_id)
            consumer.wait_event(current.record())


def handle(ptr, device_id):
    """Return the stream of a handle, as libraries other than CuPy have it."""
    return _BaseStream(ptr, device_id)


from . import graphs  # noqa: E402, as graphs and streams need each other
