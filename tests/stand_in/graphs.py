"""Captures of streams, and graphs that repeat the captured work at each launch, with the same memory."""

import itertools
import threading
import weakref
from dataclasses import dataclass, field

from . import arrays, streams
from .errors import CUDARuntimeError

GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2

_captures = {}  # handle of the stream -> Capture, while it lasts
_graphs = weakref.WeakValueDictionary()  # graphExec -> Graph
_handles = itertools.count(0x9000, 16)


@dataclass
class Node:
    """Recorded work. It doesn't keep memory alive, but knows whether its memory has been freed."""

    kind: str
    name: str | None
    spans: tuple
    work: object

    def run(self):
        for span in self.spans:
            span.check()
        self.work()


@dataclass
class Capture:
    """What a stream records between begin_capture and end_capture."""

    device: int
    mode: int
    blocking: bool
    thread: int = field(default_factory=threading.get_ident)
    nodes: list = field(default_factory=list)
    valid: bool = True

    def add(self, kind, name, spans, work):
        """Record work. `spans` are all memory that it touches."""
        self.nodes.append(Node(kind, name, tuple(spans), work))

    def fail(self, what):
        """Invalidate the capture, as CUDA does, and raise."""
        self.valid = False
        raise CUDARuntimeError(what)


def capture_on(ptr):
    """Return the capture of a stream, or None."""
    return _captures.get(ptr)


def begin(ptr, device, mode, blocking):
    if ptr in (0, streams.LEGACY):
        raise RuntimeError("cannot capture on the default (legacy) stream")
    if ptr in _captures:
        raise CUDARuntimeError("cudaErrorIllegalState: the stream is capturing already")
    _captures[ptr] = Capture(device, mode, blocking)


def end(ptr):
    capture = _captures.get(ptr)
    if capture is None:
        raise CUDARuntimeError("cudaErrorIllegalState: the stream is not capturing")
    if capture.mode != RELAXED and capture.thread != threading.get_ident():
        capture.fail("cudaErrorStreamCaptureWrongThread: another thread has begun the capture")
    del _captures[ptr]
    if not capture.valid:
        raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: operation failed due to a previous error")
    return Graph._of(capture)


def refuse(what, error=CUDARuntimeError):
    """Raise, for work that can't be recorded, if this thread captures or a capture's mode is global."""
    for capture in _captures.copy().values():
        if capture.mode == GLOBAL or capture.thread == threading.get_ident():
            capture.valid = False
            raise error(f"cudaErrorStreamCaptureUnsupported: {what} is not permitted when stream is capturing")


def refuse_legacy(ptr):
    """Raise if the stream is the default one while a stream that waits for it captures."""
    if ptr not in (0, streams.LEGACY):
        return
    for capture in _captures.copy().values():
        if capture.blocking and capture.device == arrays.current_device:
            capture.fail("cudaErrorStreamCaptureImplicit: the default stream, while a blocking stream is capturing")


class Graph:
    """cupy.cuda.Graph: a launch runs its nodes in order, at once."""

    def __init__(self, *args, **kwargs):
        raise NotImplementedError(
            "currently this class cannot be initiated by the user and must be created via stream capture"
        )

    @classmethod
    def _of(cls, capture):
        graph = cls.__new__(cls)
        graph.graph, graph.graphExec = 0, next(_handles)
        graph._nodes, graph._device = tuple(capture.nodes), capture.device
        _graphs[graph.graphExec] = graph
        return graph

    def launch(self, stream=None):
        stream = streams.get_current_stream() if stream is None else stream
        self._run(stream.ptr, stream.device_id)

    def upload(self, stream=None):
        stream = streams.get_current_stream() if stream is None else stream
        self._check(stream.ptr, stream.device_id)

    def _run(self, ptr, device):
        self._check(ptr, device)
        streams.log.append(("graph", ptr, self))
        with arrays.Device(self._device):
            for node in self._nodes:
                node.run()

    def _check(self, ptr, device):
        device = streams.device_of(ptr) if device < 0 else device
        if device != self._device:
            raise CUDARuntimeError(f"cudaErrorInvalidValue: a graph of device {self._device} on a stream of {device}")
        refuse_legacy(ptr)
        if ptr in _captures:
            _captures[ptr].fail("cudaErrorStreamCaptureUnsupported: the stand-in records no graphs in graphs")


def of_handle(graph_exec):
    """Return the graph of a graphExec."""
    if graph_exec not in _graphs:
        raise CUDARuntimeError("cudaErrorInvalidValue: no such graph is alive")
    return _graphs[graph_exec]


def end_all():
    """End all captures, and return the streams that captured."""
    left = list(_captures)
    _captures.clear()
    return left


def kinds(graph):
    """Return the kinds of a graph's nodes in order: "kernel", "matmul", "memcpy", "memcpy2D" or "memset"."""
    return [node.kind for node in graph._nodes]


def kernels(graph):
    """Return the names of the kernels in a graph, in order."""
    return [node.name for node in graph._nodes if node.kind == "kernel"]
