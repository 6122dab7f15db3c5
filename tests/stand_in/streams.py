"""Streams that run nothing later, but write down what was ordered: who recorded, who waited, who launched.

While a stream captures, what is queued on it goes to the graph instead; see graphs.py.
"""

import itertools
import threading
import warnings

from . import arrays

LEGACY, PER_THREAD = 1, 2

# ("record", stream, event), ("wait", stream, event), ("launch", stream, what), ("graph", stream, graph), and, where the
# host waits for a stream, ("synchronize", stream), or for a device, ("synchronize", None).
log = []

_handles = itertools.count(0x1000, 16)
_events = itertools.count(1)
_made = {}  # handle -> (device, whether it and the default stream wait for each other), of what Stream() has made


class _Current(threading.local):
    def __init__(self):
        self.streams = {}  # what is current on each device, which `use` changes, and entering a stream
        self.stacks = {}  # what leaving goes back to, which `use` leaves alone
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
        """A stream that captures waits for events of its capture alone, and no other stream for one of those."""
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
        """Raise for an event in a capture, which says nothing about work that is done. Its capture ends in an error."""
        if self._capture is not None:
            self._capture.fail("cudaErrorCapturedEvent: the event was last recorded in a capturing stream")


def get_current_stream(device_id=-1):
    return _current.stream(arrays.current_device if device_id == -1 else device_id)


def device_of(ptr):
    """The device of a stream that was made here, and of any other the current one."""
    return _made[ptr][0] if ptr in _made else arrays.current_device


def synchronized(ptr):
    """Write down that the host waits for a stream, None for the whole device."""
    graphs.refuse("to synchronize")
    graphs.refuse_legacy(ptr)
    if graphs.capture_on(ptr):
        graphs.capture_on(ptr).fail("cudaErrorStreamCaptureUnsupported: the host waits for a stream that captures")
    log.append(("synchronize", ptr))


def launched(what):
    """Write down that work which no graph can hold was queued on the current stream."""
    graphs.refuse(what)
    graphs.refuse_legacy(get_current_stream().ptr)
    log.append(("launch", get_current_stream().ptr, what))


def submit(kind, name, spans, work, ptr=None):
    """Do work on a stream, or, if that captures, record it.

    Args:
        kind, name: what it is.
        spans: all the memory that it touches, of memory.Span.
        work: a function that does it and keeps no memory alive.
        ptr: the stream; None for the current one.
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
    """Make a consumer's stream wait for the current one, as DLPack has it: -1 for no order, and never 0."""
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
    """The stream of a handle, as other libraries than CuPy have it."""
    return _BaseStream(ptr, device_id)


from . import graphs  # noqa: E402, as graphs need streams, and streams graphs
