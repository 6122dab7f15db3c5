"""The fake driver: captures, what they forbid, and graphs."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from support import driver_child

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
pytestmark = driver_child.of_the_driver

runtime = cupy.cuda.runtime
RELAXED, THREAD_LOCAL, GLOBAL = (
    runtime.streamCaptureModeRelaxed,
    runtime.streamCaptureModeThreadLocal,
    runtime.streamCaptureModeGlobal,
)


def fails(error):
    return pytest.raises(runtime.CUDARuntimeError, match=f"cudaError{error}")


@pytest.fixture
def stream():
    """Yield a non-blocking stream. End its capture afterwards, if there is one."""
    made = cupy.cuda.Stream(non_blocking=True)
    yield made
    with contextlib.suppress(RuntimeError):
        made.end_capture()


def error_of(work):
    """Do some work, and return its error or None."""
    try:
        work()
    except RuntimeError as error:
        return error


def elsewhere(work):
    """Do some work in another thread, and return its error or None."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(error_of, work).result()


def test_a_graph_replays_what_was_queued(stream):
    """Captured work doesn't run before a launch. It then reads current memory, but keeps its arguments."""
    a, b = cupy.asarray(np.arange(4.0)), cupy.zeros(4)
    scale = cupy.RawKernel('extern "C" __global__ void scale(double* a, double by) { a[0] *= by; }', "scale")
    scale((1,), (1,), (cupy.ones(1), np.float64(1)))  # loads it
    runtime.deviceSynchronize()
    with stream:
        stream.begin_capture(THREAD_LOCAL)
        runtime.memcpyAsync(b.data.ptr, a.data.ptr, 32, runtime.memcpyDeviceToDevice, stream.ptr)
        scale((1,), (1,), (b[1:], np.float64(3)))
        graph = stream.end_capture()
    np.testing.assert_array_equal(b.get(), 0)
    for _ in range(2):
        graph.launch(stream)
        stream.synchronize()
        np.testing.assert_array_equal(b.get(), a.get() * [1, 3, 1, 1])
        a += 1
        runtime.deviceSynchronize()


def unsafe_calls():
    """Return calls that may wait, allocate or free, by name."""
    event, stream, array = cupy.cuda.Event(), runtime.streamCreate(), cupy.zeros(2)
    event.record()
    return {
        "malloc": lambda: runtime.malloc(8),
        "free": lambda: runtime.free(array.data.ptr),
        "pinned": lambda: runtime.hostAlloc(8, 0),
        "event": event.synchronize,
        "memcpy": lambda: runtime.memcpy(array.data.ptr, array.data.ptr, 8, runtime.memcpyDeviceToDevice),
        "stream": lambda: runtime.streamDestroy(stream),
        "module": lambda: cupy.cuda.Module().load(b""),
    }


@pytest.mark.parametrize("call", sorted(unsafe_calls()))
def test_unsafe_calls_by_mode(stream, call):
    """They invalidate global captures, and thread-local ones of the same thread, but not relaxed ones."""
    for mode, forbidding in ((RELAXED, ()), (THREAD_LOCAL, (error_of,)), (GLOBAL, (error_of, elsewhere))):
        for caller in (error_of, elsewhere):
            work = unsafe_calls()[call]
            stream.begin_capture(mode)
            error = str(caller(work)).replace("_", "").upper()
            is_refused = caller in forbidding
            assert ("CAPTUREUNSUPPORTED" in error) == is_refused, (mode, error)
            with fails("StreamCaptureInvalidated") if is_refused else contextlib.nullcontext():
                stream.end_capture()


def test_arrays_cant_be_made_in_captures(stream):
    """The tests' allocator refuses memory, as CuPy's pool may not have a free block."""
    stream.begin_capture(THREAD_LOCAL)
    assert elsewhere(lambda: cupy.empty(3)) is None
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.empty(3)
    with fails("StreamCaptureInvalidated"):
        stream.end_capture()


def test_waits_for_a_capture_are_refused(stream):
    array = cupy.zeros(4)
    for wait in (runtime.deviceSynchronize, stream.synchronize):
        stream.begin_capture(RELAXED)
        with fails("StreamCaptureUnsupported"):
            wait()
        with fails("StreamCaptureInvalidated"):
            runtime.memsetAsync(array.data.ptr, 0, 8, stream.ptr)
        with fails("StreamCaptureInvalidated"):
            stream.end_capture()


def test_a_capture_lets_other_devices_wait(stream):
    stream.begin_capture(RELAXED)
    with cupy.cuda.Device(1):
        runtime.deviceSynchronize()
    stream.end_capture()


def test_captures_begin_and_end_once(stream):
    with pytest.raises(RuntimeError, match="cannot capture on the default"):
        cupy.cuda.Stream.null.begin_capture()
    with fails("IllegalState"):
        stream.end_capture()
    stream.begin_capture()
    with fails("IllegalState"):
        stream.begin_capture()


def test_only_relaxed_captures_end_elsewhere(stream):
    for mode in (THREAD_LOCAL, GLOBAL):
        stream.begin_capture(mode)
        assert "WrongThread" in str(elsewhere(stream.end_capture))
        stream.end_capture()
    stream.begin_capture(RELAXED)
    assert elsewhere(stream.end_capture) is None


def test_captures_are_isolated(stream):
    """A capture can't wait for work outside it, and nothing outside can wait for its work."""
    other = cupy.cuda.Stream(non_blocking=True)
    outside = other.record()
    stream.begin_capture()
    inside = stream.record()
    stream.wait_event(inside)
    with fails("CapturedEvent"):
        inside.synchronize()
    with fails("StreamCaptureIsolation"):
        stream.wait_event(outside)
    with fails("StreamCaptureInvalidated"):
        stream.end_capture()


def test_a_stream_joins_a_capture(stream):
    array, other, third = cupy.zeros(4), cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
    runtime.deviceSynchronize()
    stream.begin_capture()
    other.wait_event(stream.record())
    assert other.is_capturing()
    runtime.memsetAsync(array.data.ptr, 0xFF, 32, other.ptr)
    third.begin_capture()
    with fails("StreamCaptureMerge"):
        third.wait_event(other.record())
    with fails("StreamCaptureInvalidated"):
        third.end_capture()
    with fails("StreamCaptureUnmatched"):  # it did not begin this capture
        other.end_capture()
    stream.wait_event(other.record())
    graph = stream.end_capture()
    assert not other.is_capturing()
    assert not np.isnan(array.get()).any()
    graph.launch(stream)
    stream.synchronize()
    assert np.isnan(array.get()).all()


def test_unjoined_streams_fail_a_capture(stream):
    """The capture fails if its first stream doesn't wait for all work of the others."""
    array, other = cupy.zeros(4), cupy.cuda.Stream(non_blocking=True)
    runtime.deviceSynchronize()
    stream.begin_capture()
    other.wait_event(stream.record())
    runtime.memsetAsync(array.data.ptr, 0, 8, other.ptr)
    early = other.record()
    runtime.memsetAsync(array.data.ptr, 0, 8, other.ptr)
    stream.wait_event(early)
    with fails("StreamCaptureUnjoined"):
        stream.end_capture()
    assert not other.is_capturing()


def test_events_of_ended_captures_are_refused(stream):
    other = cupy.cuda.Stream(non_blocking=True)
    stream.begin_capture()
    event = stream.record()
    stream.end_capture()
    with fails("CapturedEvent"):
        other.wait_event(event)
    assert not other.is_capturing()


def test_the_default_stream_cant_join_a_capture(stream):
    stream.begin_capture()
    event = stream.record()
    with fails("StreamCaptureImplicit"):
        cupy.cuda.Stream.null.wait_event(event)
    with fails("StreamCaptureInvalidated"):
        stream.end_capture()


def test_invalid_captures_record_no_events(stream):
    stream.begin_capture()
    inside = stream.record()
    with fails("StreamCaptureUnsupported"):
        stream.synchronize()
    with fails("StreamCaptureInvalidated"):
        stream.record()
    with fails("StreamCaptureInvalidated"):
        cupy.cuda.Stream(non_blocking=True).wait_event(inside)


def test_capture_queries_do_no_harm():
    """Asking about the default stream fails while a blocking stream captures, but the capture stays valid."""
    blocking = cupy.cuda.Stream()
    blocking.begin_capture()
    with fails("StreamCaptureImplicit"):
        runtime.streamIsCapturing(0)
    blocking.end_capture()


def test_the_default_stream_during_a_capture(stream):
    """It waits for blocking streams, and so invalidates their captures. Other captures go on."""
    array = cupy.zeros(4)
    stream.begin_capture()
    runtime.memsetAsync(array.data.ptr, 0, 32, 0)
    stream.end_capture()
    blocking = cupy.cuda.Stream()
    for work in (lambda: runtime.memsetAsync(array.data.ptr, 0, 32, 0), cupy.cuda.Stream.null.synchronize):
        blocking.begin_capture()
        with fails("StreamCaptureImplicit"):
            work()
        with fails("StreamCaptureInvalidated"):
            blocking.end_capture()


def test_graphs_are_not_destroyed_in_captures(stream):
    """This is stricter than CUDA. A destroyed graph can't be launched."""
    stream.begin_capture()
    graph = stream.end_capture()
    handle = graph.graphExec
    stream.begin_capture(THREAD_LOCAL)
    with fails("StreamCaptureUnsupported"):
        runtime.graphExecDestroy(handle)
    with fails("StreamCaptureInvalidated"):
        stream.end_capture()
    del graph
    with fails("InvalidValue"):
        runtime.graphLaunch(handle, stream.ptr)


def test_a_graph_of_freed_memory_crashes():
    program = """
        a, b, stream = cupy.zeros(4), cupy.zeros(4), cupy.cuda.Stream(non_blocking=True)
        stream.begin_capture()
        runtime.memcpyAsync(b.data.ptr, a.data.ptr, 32, runtime.memcpyDeviceToDevice, stream.ptr)
        graph = stream.end_capture()
        graph.launch(stream)
        stream.synchronize()
        print("right", flush=True)
        del a
        graph.launch(stream)
        print("wrong", flush=True)
    """
    done = driver_child.run(program)
    assert (done.returncode, done.stdout) == (-11, "right\n")
