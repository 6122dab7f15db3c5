"""Pieces of work on several streams. Without a wait, a piece may give another number if its work is late.

python -m support.late_work TIMES    run each piece this often; print its numbers and the arguments of `piece` as JSON
"""

import json
import sys

import driver

driver.install()

import cupy  # noqa: E402
import numpy as np  # noqa: E402

runtime = cupy.cuda.runtime
TO_HOST, TO_DEVICE = runtime.memcpyDeviceToHost, runtime.memcpyHostToDevice
PUT = cupy.RawKernel('extern "C" __global__ void put(double* to, double value) { *to = value; }', "put")
ADD = cupy.RawKernel('extern "C" __global__ void add(double* to) { *to += 1; }', "add")
PIECES = {}


def piece(in_order, late, between=None):
    """Add a function of Streams, with the numbers that it returns if its work is in order, and if it is late.

    In random order it may return both, and also `between`.
    """

    def add(function):
        PIECES[function.__name__] = function, in_order, late, between
        return function

    return add


class Streams:
    """Two non-blocking streams, a blocking one, the default one, and a zero in a GPU's and in pinned memory."""

    def __init__(self):
        self.ours, self.theirs = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
        self.blocking, self.default = cupy.cuda.Stream(), cupy.cuda.Stream.null
        self.zero = cupy.zeros(1)
        self.pinned = pinned()
        for kernel in (PUT, ADD):
            kernel.compile()  # not possible in a capture
        runtime.deviceSynchronize()


def put(to, value, stream):
    """Queue a kernel that writes a number."""
    with stream:
        PUT((1,), (1,), (to, np.float64(value)))


def copy(to, source, kind, stream):
    """Queue a copy of a number."""
    at = [array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr for array in (to, source)]
    runtime.memcpyAsync(*at, 8, kind, stream.ptr)


def pinned():
    memory = cupy.cuda.alloc_pinned_memory(8)
    array = np.frombuffer(memory, np.float64, 1)
    array[0] = 0
    return array


def read(array, stream):
    """Return an array's number, read on this stream."""
    to = pinned()
    copy(to, array, TO_HOST, stream)
    stream.synchronize()
    return to[0]


@piece(1, late=1)
def same_stream(s):
    put(s.zero, 1, s.ours)
    return read(s.zero, s.ours)


@piece(1, late=0)
def other_stream(s):
    put(s.zero, 1, s.ours)
    return read(s.zero, s.theirs)


@piece(1, late=1)
def waited_event(s):
    put(s.zero, 1, s.ours)
    s.theirs.wait_event(s.ours.record())
    return read(s.zero, s.theirs)


@piece(1, late=0)
def event_before_the_work(s):
    event = s.ours.record()
    put(s.zero, 1, s.ours)
    s.theirs.wait_event(event)
    return read(s.zero, s.theirs)


@piece(1, late=1)
def host_waits_for_an_event(s):
    put(s.zero, 1, s.ours)
    s.ours.record().synchronize()
    return read(s.zero, s.theirs)


@piece(1, late=1)
def host_waits_for_a_stream(s):
    put(s.zero, 1, s.ours)
    s.ours.synchronize()
    return read(s.zero, s.theirs)


@piece(1, late=1)
def host_waits_for_the_device(s):
    put(s.zero, 1, s.ours)
    runtime.deviceSynchronize()
    return read(s.zero, s.theirs)


@piece(1, late=1)
def host_asks_until_it_is_done(s):
    """Some queries run a task, so such loops end."""
    for _ in range(3):
        put(s.zero, 1, s.ours)
    event = s.ours.record()
    while not event.done:
        pass
    return read(s.zero, s.theirs)


@piece(1, late=1)
def default_stream_waits(s):
    put(s.zero, 1, s.blocking)
    return read(s.zero, s.default)


@piece(1, late=1)
def blocking_stream_waits(s):
    put(s.zero, 1, s.default)
    return read(s.zero, s.blocking)


@piece(1, late=0)
def non_blocking_stream_does_not_wait(s):
    put(s.zero, 1, s.default)
    return read(s.zero, s.ours)


@piece(1, late=0)
def default_stream_does_not_wait_for_it(s):
    put(s.zero, 1, s.ours)
    return read(s.zero, s.default)


@piece(1, late=0)
def default_streams_of_devices_are_apart(s):
    with cupy.cuda.Device(1):
        blocking = cupy.cuda.Stream()
    put(s.zero, 1, s.default)
    blocking.synchronize()
    return read(s.zero, s.ours)


@piece(1, late=2)
def pinned_source_is_read_late(s):
    s.pinned[0] = 1
    copy(s.zero, s.pinned, TO_DEVICE, s.ours)
    s.pinned[0] = 2
    return read(s.zero, s.ours)


@piece(1, late=1)
def pageable_source_is_read_at_once(s):
    host = np.ones(1)
    copy(s.zero, host, TO_DEVICE, s.ours)
    host[0] = 2
    return read(s.zero, s.ours)


@piece(1, late=0)
def pinned_target_is_written_late(s):
    put(s.zero, 1, s.ours)
    copy(s.pinned, s.zero, TO_HOST, s.ours)
    return s.pinned[0]


@piece(1, late=1)
def pageable_target_is_written_at_once(s):
    host = np.zeros(1)
    put(s.zero, 1, s.ours)
    copy(host, s.zero, TO_HOST, s.ours)
    return host[0]


@piece(1, late=0)
def waiting_copy_of_pageable_memory(s):
    """It returns once the source has been read. CUDA lets the number arrive later."""
    runtime.memcpy(s.zero.data.ptr, np.ones(1).ctypes.data, 8, TO_DEVICE)
    return read(s.zero, s.ours)


@piece(1, late=0)
def waiting_copy_on_the_device(s):
    """Between places on a GPU, `memcpy` doesn't wait."""
    one = cupy.ones(1)
    runtime.memcpy(s.zero.data.ptr, one.data.ptr, 8, runtime.memcpyDeviceToDevice)
    return read(s.zero, s.ours)


@piece(1, late=1)
def waiting_copy_of_pinned_memory(s):
    s.pinned[0] = 1
    runtime.memcpy(s.zero.data.ptr, s.pinned.ctypes.data, 8, TO_DEVICE)
    return read(s.zero, s.ours)


@piece(1, late=1)
def waiting_copy_to_the_host(s):
    put(s.zero, 1, s.default)
    runtime.memcpy(s.pinned.ctypes.data, s.zero.data.ptr, 8, TO_HOST)
    return s.pinned[0]


@piece(5, late=1)
def memory_that_nobody_keeps(s):
    """CuPy's pool reuses the memory while `theirs` may still write to it."""
    with s.ours:
        freed = cupy.empty(1)
    put(freed, 1, s.theirs)
    del freed
    with s.ours:
        reused = cupy.empty(1)
    put(reused, 5, s.ours)
    s.ours.synchronize()
    s.theirs.synchronize()
    return read(reused, s.ours)


@piece(1, late=0)
def graph_without_a_wait(s):
    s.ours.begin_capture()
    put(s.zero, 1, s.ours)
    s.ours.end_capture().launch(s.ours)
    return read(s.zero, s.theirs)


@piece(1, late=1)
def event_after_a_graph(s):
    s.ours.begin_capture()
    put(s.zero, 1, s.ours)
    s.ours.end_capture().launch(s.ours)
    s.theirs.wait_event(s.ours.record())
    return read(s.zero, s.theirs)


@piece(0, late=0, between=1)
def graph_that_is_half_done(s):
    """Work on another stream may run between its steps."""
    s.theirs.begin_capture()
    for value in (1, 0):
        put(s.zero, value, s.theirs)
    s.theirs.end_capture().launch(s.theirs)
    return read(s.zero, s.ours)


@piece(2, late=2)
def launches_of_one_graph(s):
    """They run one after the other, even on different streams."""
    s.ours.begin_capture()
    with s.ours:
        ADD((1,), (1,), (s.zero,))
    graph = s.ours.end_capture()
    graph.launch(s.ours)
    graph.launch(s.theirs)
    return read(s.zero, s.theirs)


@piece(1, late=1)
def host_asks_until_the_default_stream_is_done(s):
    """A query of the default stream includes blocking streams."""
    put(s.zero, 1, s.blocking)
    while not s.default.done:
        pass
    return read(s.zero, s.ours)


def by_the_other_device(s, wait):
    """Copy a 1 to pinned memory on one GPU, and from there to the other GPU."""
    put(s.zero, 1, s.ours)
    copy(s.pinned, s.zero, TO_HOST, s.ours)
    event = s.ours.record()
    with cupy.cuda.Device(1):
        there, stream = cupy.zeros(1), cupy.cuda.Stream(non_blocking=True)
        runtime.deviceSynchronize()  # waits for this GPU alone
        wait(stream, event)
        copy(there, s.pinned, TO_DEVICE, stream)
        return read(there, stream)


@piece(1, late=0)
def other_device(s):
    return by_the_other_device(s, lambda stream, event: None)


@piece(1, late=1)
def other_device_waits(s):
    return by_the_other_device(s, lambda stream, event: stream.wait_event(event))


def numbers_of(work, times):
    """Return the distinct numbers that a piece of work gives."""
    numbers = set()
    for _ in range(times):
        streams = Streams()
        numbers.add(float(work(streams)))
        runtime.deviceSynchronize()  # before their memory is reused
    return sorted(numbers)


if __name__ == "__main__":
    pieces = {name: (numbers_of(work, int(sys.argv[1])), *numbers) for name, (work, *numbers) in PIECES.items()}
    print(json.dumps(pieces))
