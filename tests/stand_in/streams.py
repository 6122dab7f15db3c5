"""Streams that run nothing later, but write down what was ordered: who recorded, who waited, who launched."""

import itertools
import threading
import warnings

from . import arrays

LEGACY, PER_THREAD = 1, 2

# ("record", stream, event), ("wait", stream, event), ("launch", stream, what), and, where the host waits for a stream,
# ("synchronize", stream).
log = []

_handles = itertools.count(0x1000, 16)
_events = itertools.count(1)


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
        if event._recorded is None:
            raise AssertionError("a stream waits for an event that nobody has recorded")
        log.append(("wait", self.ptr, event.ptr))


class Stream(_BaseStream):
    null = None

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        if null or ptds:
            super().__init__(PER_THREAD if ptds else 0, -1)
        else:
            super().__init__(next(_handles), arrays.current_device)


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
        self._recorded = None

    def record(self, stream=None):
        stream = get_current_stream() if stream is None else stream
        if stream.device_id not in (-1, self.device_id) or arrays.current_device != self.device_id:
            raise RuntimeError("cudaErrorInvalidResourceHandle: the event and the stream are of different devices")
        self._recorded = stream.ptr
        log.append(("record", stream.ptr, self.ptr))

    def synchronize(self):
        if self._recorded is None:
            raise AssertionError("the host waits for an event that nobody has recorded")
        synchronized(self._recorded)


def get_current_stream(device_id=-1):
    return _current.stream(arrays.current_device if device_id == -1 else device_id)


def synchronized(ptr):
    """Write down that the host waits for a stream."""
    log.append(("synchronize", ptr))


def launched(what):
    """Write down that work was queued on the current stream."""
    log.append(("launch", get_current_stream().ptr, what))


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
