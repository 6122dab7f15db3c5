"""Captured streams and graphs in the stand-in for CuPy: like CUDA's, and stricter."""

import contextlib
import gc
import threading

import numpy as np
import pytest

import stand_in
from stand_in import arrays, cublas, graphs, memory, streams
from stand_in.errors import CUDARuntimeError
from stand_in.runtime import runtime
from support.backends import BACKENDS, needs_cuda, needs_cupy


@needs_cupy
def test_names_are_cupys():
    real = stand_in.real["cupy"].cuda
    names = {name for name in vars(graphs.Graph) if not name.startswith("_")}
    assert names | {"graph", "graphExec"} <= set(dir(real.Graph))
    for name in names:
        assert getattr(real.Graph, name).__doc__.startswith(f"Graph.{name}(self, stream=None)")
    for kind in (real.Graph, graphs.Graph):
        with pytest.raises(NotImplementedError, match="must be created via stream capture"):
            kind()


# Like CUDA's.


@pytest.fixture
def capturing(library):
    """Return a stream that captures and doesn't wait for the default stream."""
    stream = library.cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        yield stream
        with contextlib.suppress(RuntimeError):
            stream.end_capture()


def test_a_graph_replays_queued_work(library):
    """Work is done at each launch, not before, with the memory's content at that time."""
    cupy, runtime = library.cupy, library.cupy.cuda.runtime
    a, b = cupy.asarray(np.arange(4.0)), cupy.zeros(4)
    runtime.deviceSynchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    assert not stream.is_capturing()
    stream.begin_capture()
    assert stream.is_capturing()
    assert runtime.streamIsCapturing(stream.ptr)
    runtime.memcpyAsync(b.data.ptr, a.data.ptr, 32, runtime.memcpyDeviceToDevice, stream.ptr)
    runtime.memsetAsync(b.data.ptr, 0, 8, stream.ptr)
    graph = stream.end_capture()
    assert not stream.is_capturing()
    assert isinstance(graph, cupy.cuda.Graph)
    np.testing.assert_array_equal(b.get(), 0)
    graph.upload(stream)
    graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(b.get(), [0, 1, 2, 3])
    a.fill(5)
    runtime.deviceSynchronize()
    with stream:
        graph.launch()
    stream.synchronize()
    np.testing.assert_array_equal(b.get(), [0, 5, 5, 5])
    b.fill(0)
    runtime.deviceSynchronize()
    runtime.graphLaunch(graph.graphExec, stream.ptr)
    stream.synchronize()
    np.testing.assert_array_equal(b.get(), [0, 5, 5, 5])


def test_the_default_stream_does_not_capture(library):
    with pytest.raises(RuntimeError, match="cannot capture on the default"):
        library.cupy.cuda.Stream.null.begin_capture()


def test_a_capture_begins_and_ends_once(library, capturing):
    error = library.cupy.cuda.runtime.CUDARuntimeError
    with pytest.raises(error, match="cudaErrorIllegalState"):
        capturing.begin_capture()
    with pytest.raises(error, match="cudaErrorIllegalState"):
        library.cupy.cuda.Stream().end_capture()


def test_a_capture_waits_only_for_its_own_events(library):
    """Waiting for another event is an error that ends the capture."""
    cuda = library.cupy.cuda
    stream, other = cuda.Stream(non_blocking=True), cuda.Stream(non_blocking=True)
    event = other.record()
    stream.begin_capture()
    stream.wait_event(stream.record())
    with pytest.raises(cuda.runtime.CUDARuntimeError, match="cudaErrorStreamCaptureIsolation"):
        stream.wait_event(event)
    with pytest.raises(cuda.runtime.CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated"):
        stream.end_capture()
    assert not stream.is_capturing()


def test_default_stream_raises_during_capture(library):
    """Only a capture on a blocking stream, which waits for the default stream, forbids its use."""
    cupy, runtime = library.cupy, library.cupy.cuda.runtime
    array = cupy.zeros(4)
    for non_blocking in (True, False):
        stream = cupy.cuda.Stream(non_blocking=non_blocking)
        stream.begin_capture()
        if non_blocking:
            runtime.memsetAsync(array.data.ptr, 0, 32, 0)
            stream.end_capture()
        else:
            with pytest.raises(runtime.CUDARuntimeError, match="cudaErrorStreamCaptureImplicit"):
                runtime.memsetAsync(array.data.ptr, 0, 32, 0)
            with pytest.raises(runtime.CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated"):
                stream.end_capture()


# Kernels of the tested backend.


@needs_cuda
def test_kernels_are_recorded():
    """A graph reads memory at each launch, and keeps the numbers of the capture."""
    import cupy

    from fusedlstm.backends.cuda.kernels import launch_add, launch_clip, launch_select

    h, more = cupy.zeros(8, np.float32), cupy.asarray(np.arange(8, dtype=np.float32))
    rows, value = cupy.asarray(np.array([True, False])), cupy.asarray(np.full((1, 2), 9, np.float32))
    wide = cupy.zeros((2, 2), np.float32)
    stream = cupy.cuda.Stream(non_blocking=True)
    launch_add(cupy.zeros(8, np.float32), more)  # load the kernels first, as CUDA may refuse to during a capture
    launch_clip(cupy.zeros(8, np.float32), 5.0)
    launch_select(cupy.zeros((2, 2), np.float32), rows, value)
    cupy.cuda.runtime.deviceSynchronize()
    with stream:
        stream.begin_capture()
        launch_add(h[4:], more[2:6])
        launch_clip(h, 5.0)
        launch_select(wide, rows, value)
        graph = stream.end_capture()
        np.testing.assert_array_equal(h.get(), 0)
        for times in (1, 2):
            graph.launch()
            np.testing.assert_array_equal(h.get()[4:], np.minimum(times * np.arange(2.0, 6), 5))
        np.testing.assert_array_equal(wide.get(), [[9, 9], [0, 0]])
    if "emulated" in BACKENDS:
        assert graphs.kinds(graph) == ["kernel"] * 3
        assert graphs.kernels(graph) == ["lstm_add<float>", "lstm_clip<float>", "lstm_select<float>"]


@pytest.mark.skipif("emulated" not in BACKENDS, reason="only the stand-in knows which memory is freed")
def test_kernels_of_freed_memory_are_found():
    import cupy

    from fusedlstm.backends.cuda.kernels import launch_add

    kept, freed = cupy.zeros(8, np.float32), cupy.zeros(8, np.float32)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        launch_add(kept, freed)
        graph = stream.end_capture()
    graph.launch(stream)
    alive = memory.alive()
    del freed
    assert memory.alive() == alive - 32
    with pytest.raises(MemoryError, match="the graph uses freed memory"):
        graph.launch(stream)


# Stricter than CUDA.


@pytest.fixture
def stream():
    """Return a stream of the stand-in that captures."""
    stream = streams.Stream(non_blocking=True)
    stream.begin_capture()
    yield stream
    graphs.end_all()


def copied(stream, to, source):
    runtime.memcpyAsync(to.data.ptr, source.data.ptr, to.nbytes, runtime.memcpyDeviceToDevice, stream.ptr)


def test_a_graph_knows_its_nodes():
    a, b = arrays.zeros((2, 4)), arrays.zeros((2, 4))
    stream = streams.Stream(non_blocking=True)
    streams.log.clear()
    stream.begin_capture()
    copied(stream, a, b)
    runtime.memsetAsync(a.data.ptr, 0, 8, stream.ptr)
    runtime.memcpy2DAsync(a.data.ptr, 32, b.data.ptr, 32, 8, 2, runtime.memcpyDeviceToDevice, stream.ptr)
    graph = stream.end_capture()
    assert graphs.kinds(graph) == ["memcpy", "memset", "memcpy2D"]
    assert graphs.kernels(graph) == []
    assert streams.log == []
    graph.launch(stream)
    assert streams.log == [("graph", stream.ptr, graph)]


def refused():
    """Return the work that a graph can't hold."""
    device, host = arrays.asarray(np.arange(4, dtype=np.float32)), np.zeros(4, np.float32)
    event = streams.Stream.null.record()
    one = np.ones(1, np.float32)

    def assign():
        device[...] = 3

    def product():
        factor, at = one.ctypes.data, device.data.ptr
        cublas.gemmEx(1, 1, 0, 1, 1, 1, factor, at, 0, 1, at, 0, 1, factor, at, 0, 1, cublas.CUBLAS_COMPUTE_32F, -1)

    return {
        "empty": lambda: arrays.empty(3),
        "zeros": lambda: arrays.zeros(3),
        "asarray": lambda: arrays.asarray(host),
        "copy": device.copy,
        "astype": lambda: device.astype(np.float64),
        "sum": lambda: device * device,
        "rows": lambda: device[arrays.ndarray(np.array([0]), 0)],
        "fill": lambda: device.fill(0),
        "assign": assign,
        "get": device.get,
        "set": lambda: device.set(host),
        "bool": lambda: bool(device[0]),
        "synchronize": streams.Stream.null.synchronize,
        "event": event.synchronize,
        "device": runtime.deviceSynchronize,
        "gemm": product,
    }


@pytest.mark.parametrize("what", refused())
def test_a_capture_refuses(what):
    """Refused work ends the capture in an error and changes nothing. It works afterwards."""
    work, stream = refused()[what], streams.Stream(non_blocking=True)
    made = memory.made()
    with stream:
        stream.begin_capture()
        error = NotImplementedError if what == "gemm" else CUDARuntimeError
        with pytest.raises(error, match="StreamCaptureUnsupported.*not permitted"):
            work()
        assert memory.made() == made
        with pytest.raises(CUDARuntimeError, match="Invalidated"):
            stream.end_capture()
        work()


def test_other_threads_may_allocate(stream):
    """Other threads may allocate during a capture unless its mode is "global"."""
    found = []

    def allocate():
        try:
            arrays.zeros(3)
        except CUDARuntimeError as error:
            found.append(error)

    def run():
        thread = threading.Thread(target=allocate)
        thread.start()
        thread.join()

    run()
    assert not found
    stream.end_capture()
    stream.begin_capture(runtime.streamCaptureModeGlobal)
    run()
    assert len(found) == 1


def test_a_capture_ends_in_its_thread(stream):
    """Only a capture in the mode "relaxed", CuPy's default, may end in another thread."""
    stream.end_capture()
    other = threading.Thread(target=stream.begin_capture, args=(runtime.streamCaptureModeThreadLocal,))
    other.start()
    other.join()
    with pytest.raises(CUDARuntimeError, match="WrongThread"):
        stream.end_capture()


def test_freed_memory_is_found():
    """Freed memory is found as source or target, even if new memory has its address."""
    for freed in ("to", "source"):
        stream = streams.Stream(non_blocking=True)
        both = {"to": arrays.zeros(4), "source": arrays.zeros(4)}
        stream.begin_capture()
        copied(stream, **both)
        graph = stream.end_capture()
        graph.launch(stream)
        address = both[freed].data.ptr
        alive = memory.alive()
        del both[freed]
        assert memory.alive() == alive - 32
        with pytest.raises(MemoryError, match="the graph uses freed memory"):
            graph.launch(stream)
        memory._alive[address] = memory.Allocation(next(memory._serials), address, 32, 0)
        with pytest.raises(MemoryError, match="the graph uses freed memory"):
            graph.launch(stream)
        del memory._alive[address]


def test_pinned_memory_is_freed_too():
    pointer, array = memory.alloc_pinned_memory(32), arrays.zeros(4)
    stream = streams.Stream(non_blocking=True)
    stream.begin_capture()
    runtime.memcpyAsync(array.data.ptr, pointer.ptr, 32, runtime.memcpyHostToDevice, stream.ptr)
    graph = stream.end_capture()
    np.frombuffer(pointer, np.float64)[:4] = 6
    graph.launch(stream)
    np.testing.assert_array_equal(array.get(), 6)
    del pointer
    gc.collect()
    with pytest.raises(MemoryError, match="the graph uses freed memory"):
        graph.launch(stream)


def test_a_graph_belongs_to_one_device(stream):
    graph = stream.end_capture()
    graph.launch(streams.Stream.null)
    with arrays.Device(1):
        other = streams.Stream()
        for launch in (graph.launch, graph.upload, lambda: runtime.graphLaunch(graph.graphExec, other.ptr)):
            with pytest.raises(CUDARuntimeError, match="a graph of device 0 on a stream of 1"):
                launch(*(() if launch.__name__ == "<lambda>" else (other,)))
        with pytest.raises(CUDARuntimeError, match="a graph of device 0 on a stream of 1"):
            graph.launch(streams.Stream.null)
        graph.launch(stream)


def test_kernels_run_on_the_graphs_device():
    """The device that is current at the launch doesn't matter."""
    array = arrays.zeros(4)
    stream = streams.Stream(non_blocking=True)
    stream.begin_capture()
    graphs.capture_on(stream.ptr).add("kernel", "look", (), lambda: seen.append(arrays.current_device))
    graph, seen = stream.end_capture(), []
    with arrays.Device(1):
        graph.launch(stream)
    assert seen == [0]


def test_graphs_live_as_long_as_they_are_held(stream):
    graph = stream.end_capture()
    number = graph.graphExec
    runtime.graphUpload(number, stream.ptr)
    del graph
    with pytest.raises(CUDARuntimeError, match="no such graph is alive"):
        runtime.graphLaunch(number, stream.ptr)


def test_graphs_are_not_launched_into_captures(stream):
    graph = stream.end_capture()
    stream.begin_capture()
    with pytest.raises(CUDARuntimeError, match="no graphs in graphs"):
        graph.launch(stream)


def test_events_of_a_capture_are_refused_outside(stream):
    event, other = stream.record(), streams.Stream()
    for wait in (event.synchronize, lambda: other.wait_event(event)):
        with pytest.raises(CUDARuntimeError, match="CapturedEvent"):
            wait()
    with pytest.raises(CUDARuntimeError, match="Invalidated"):
        stream.end_capture()
    event.record(other)
    event.synchronize()


def test_the_host_does_not_wait_for_a_capture(stream):
    """Nor does it wait for a capture of another thread."""
    thread_of_capture = graphs.capture_on(stream.ptr)
    thread_of_capture.thread = -1
    streams.Stream.null.synchronize()
    with pytest.raises(CUDARuntimeError, match="waits for a stream that captures"):
        stream.synchronize()
