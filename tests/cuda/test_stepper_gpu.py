"""Steppers on the emulated GPU: what is captured and replayed, on which streams, and how long memory lives."""

import contextlib
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fusedlstm import (
    LSTM,
    BackendUnavailableError,
    LSTMCell,
    LSTMState,
    LSTMWeights,
    StackedWeights,
    StatePool,
)
from fusedlstm.backends.cuda.runtime import fork, graphs

from driver import memory, observe
from support.backends import BACKENDS
from support.cells import host
from support.gpu_libraries import pretended_torch
from support.gpu_libraries.dlpack import Immutable
from support.on_emulated_gpu import assert_after, needs_own_memory, nodes, settle

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
pytestmark = pytest.mark.skipif("emulated" not in BACKENDS, reason="needs the fake driver")

PLANNED, FINISH, RESET = "lstm_planned", "lstm_finish", "lstm_reset"


def make(layers=1, kernel="matmul", **options):
    """Return a cell, or an LSTM of several layers."""
    if layers == 1:
        return LSTMCell(LSTMWeights.random(8, 8, seed=0, **options), backend="cuda", kernel=kernel)
    return LSTM(StackedWeights.random(8, 8, layers, seed=0, **options), backend="cuda", kernel=kernel)


@pytest.mark.parametrize(
    ("layers", "options", "each"),
    [
        (1, {}, ["matmul", PLANNED]),
        (3, {"peephole": True, "cell_clip": 1.0}, ["matmul", PLANNED]),
        (1, {"proj_size": 4}, ["matmul", PLANNED, "matmul"]),
        (1, {"proj_size": 4, "proj_clip": 0.5}, ["matmul", PLANNED, "matmul", FINISH]),
        (2, {"proj_size": 8, "proj_clip": 0.5, "residual": True}, ["matmul", PLANNED, "matmul", FINISH]),
    ],
)
def test_a_steps_graph(layers, options, each):
    """A layer is a matmul and a kernel, and a projection adds one or two nodes. Resets add a kernel once used."""
    stepper = make(layers, **options).stepper(5)
    assert nodes(stepper) == each * layers
    stepper.is_first[...] = False
    assert nodes(stepper) == [RESET, *each * layers]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_residual_output_begins_as_zeros(dtype):
    """The output is an array apart from h."""
    assert not host(make(2, residual=True, dtype=dtype).stepper(5).output).any()


@pytest.mark.parametrize("resets", [False, True])
def test_a_step_is_one_launch(resets):
    """A step is one graph on the current stream. It doesn't allocate, record an event or wait."""
    stepper = make(3).stepper(5)
    if resets:
        stepper.is_first[...] = True
    made = memory.made()
    with cupy.cuda.Stream() as stream:
        stepper.step()
        observe.clear()
        for _ in range(3):
            stepper.step()
    assert [entry[:2] for entry in observe.log()] == [("graph", stream.ptr)] * 3
    assert memory.made() == made


def test_an_argument_adds_a_copy():
    stepper = make().stepper(5)
    x = cupy.asarray(np.ones((5, 8), np.float32))
    wide = cupy.asarray(np.ones((5, 11), np.float32))[:, 2:10]
    made = memory.made()
    for array in (x, wide):
        observe.clear()
        stepper.step(array)
        assert [entry[0] for entry in observe.log()] == ["launch", "graph"]
    assert memory.made() == made


def test_a_step_with_buffers_on_the_host_waits():
    stepper = make().stepper(5, host=True)
    with cupy.cuda.Stream() as stream:
        stepper.step()
        observe.clear()
        stepper.step()
    assert [entry[:2] for entry in observe.log()] == [("graph", stream.ptr), ("synchronize", stream.ptr)]


@pytest.mark.parametrize("entered", [False, True])
def test_planning_leaves_the_current_stream(entered):
    """The current stream stays, whether entered or set by `use()`."""
    cell, used = make(), cupy.cuda.Stream()
    with cupy.cuda.Stream() if entered else contextlib.nullcontext():
        used.use()
        stepper = cell.stepper(5)
        stepper.step()
        assert cupy.cuda.get_current_stream() is used
        assert observe.log()[-1][:2] == ("graph", used.ptr)
    cupy.cuda.Stream.null.use()


def test_buffers_are_zeroed_before_the_capture():
    """The capturing stream waits for the one that zeroes the buffers."""
    cell, stream = make(), cupy.cuda.Stream()
    with stream:
        observe.clear()
        cell.stepper(5)
    launched = {entry[1] for entry in observe.log() if entry[0] == "launch"} - {stream.ptr}
    assert len(launched) == 2, "each of two graphs should have a stream"
    for capturing in launched:
        assert_after(stream.ptr, capturing)


def test_streams_take_turns():
    """Work on another stream waits for the step before."""
    stepper = make().stepper(5)
    x = stepper.x.copy()
    one, other = cupy.cuda.Stream(), cupy.cuda.Stream()
    with one:
        stepper.step()
    calls = [
        stepper.step,
        stepper.read,
        stepper.reset,
        lambda: stepper.write(stepper.read()),
        lambda: stepper.step(x),
        lambda: stepper._engine.load(x),
    ]
    for call in calls:
        observe.clear()
        with other:
            call()
        kinds = [entry[0] for entry in observe.log()]
        assert assert_after(one.ptr, other.ptr) < min(kinds.index(k) for k in ("graph", "launch") if k in kinds)
        one, other = other, one


def test_a_per_thread_stream_records_an_event():
    """Its handle means another stream in every thread, so it can't be queried later."""
    stepper = make().stepper(5)
    own = cupy.cuda.Stream(ptds=True)
    with own:
        observe.clear()
        stepper.step()
    assert [entry[0] for entry in observe.log() if entry[0] in ("graph", "record")][-2:] == ["graph", "record"]
    event = observe.log()[-1][2]
    with own:
        stepper.step()
    assert ("wait", own.ptr, event) in [entry[:3] for entry in observe.log()]


def test_weights_are_set_in_turn():
    """Setting weights waits for a step on another stream. The next step there waits for the weights."""
    cell = make(2)
    stepper, stream = cell.stepper(5), cupy.cuda.Stream()
    with stream:
        stepper.step()
    observe.clear()
    cell.set_weights(StackedWeights.random(8, 8, 2, seed=1))
    kinds = [entry[0] for entry in observe.log()]
    assert assert_after(stream.ptr, 0) < kinds.index("launch")
    observe.clear()
    with stream:
        stepper.step()
    assert assert_after(0, stream.ptr) < [entry[0] for entry in observe.log()].index("graph")


def test_a_finalizer_may_run_anywhere():
    """A stepper may be freed while other memory is freed, without a deadlock."""
    from fusedlstm.backends.cuda.runtime import streams as order

    stepper = make().stepper(5)
    stepper.step()
    noted = weakref.ref(stepper)
    order._keep_until(cupy.cuda.Event(), [stepper])
    del stepper
    settle()
    assert noted() is None


def test_a_stepper_takes_its_own_arrays():
    """Pass x, the flags and the state themselves, and the output as the next input."""
    cell = make()
    stepper, other = cell.stepper(5), cell.stepper(5)
    x = inputs_of(cell)
    for each in (stepper, other):
        each.step(x)
    got, want = stepper.step(stepper.x), other.step(x)
    np.testing.assert_array_equal(host(got), host(want))
    got, want = stepper.step(stepper.output), other.step(other.output.copy())
    np.testing.assert_array_equal(host(got), host(want))
    stepper.write(stepper.state)
    stepper.is_first[...] = True
    other.is_first[...] = True
    np.testing.assert_array_equal(host(stepper.step(None, stepper.is_first)), host(other.step()))


def inputs_of(cell, B=5):
    return cell.asarray(np.random.default_rng(0).normal(size=(B, 8)))


def test_flags_on_the_host_last_one_step():
    cell = make()
    stepper, plain = cell.stepper(5, host=True), cell.stepper(5)
    x = inputs_of(cell)
    for first in (None, [True, False, True, False, True], None, None):
        got, want = stepper.step(host(x), first), plain.step(x, first)
        np.testing.assert_array_equal(got, host(want))
        assert not stepper.is_first.any()


def test_layers_share_the_largest_workspace():
    """The largest workspace may be the first layer's or another's."""
    for sizes in ((8, 64), (64, 8)):
        layers = [LSTMWeights.random(8, sizes[0], seed=0), LSTMWeights.random(sizes[0], sizes[1], seed=1)]
        lstm = LSTM(StackedWeights(layers), backend="cuda")
        stepper = lstm.stepper(40)
        x = inputs_of(lstm, 40)
        output, _ = lstm.step(x, lstm.zero_state(40))
        np.testing.assert_allclose(host(stepper.step(x)), host(output), atol=3e-6)


def test_captures_are_thread_local(monkeypatch):
    """In this mode a capture refuses to allocate from CUDA, unlike in CuPy's default mode."""
    modes = []

    class Stream(cupy.cuda.Stream):
        def begin_capture(self, mode=None):
            modes.append(mode)
            super().begin_capture(mode)

    monkeypatch.setattr(cupy.cuda, "Stream", Stream)
    make().stepper(5)
    assert modes == [cupy.cuda.runtime.streamCaptureModeThreadLocal] * 2


def test_other_threads_may_use_the_default_stream():
    """They may even during a capture, as its stream doesn't wait for the default one."""
    array = cupy.zeros(4)

    def work():
        cupy.cuda.runtime.memsetAsync(array.data.ptr, 0, array.nbytes, 0)

    def queue():
        with ThreadPoolExecutor(1) as thread:
            thread.submit(work).result()

    graphs.captured(queue)


def test_weights_are_set_without_another_capture():
    cell = make()
    stepper = cell.stepper(5)
    graph, x = stepper._engine._graph, cell.asarray(np.ones((5, 8)))
    new = LSTMWeights.random(8, 8, seed=1)
    made = memory.made()
    cell.set_weights(new)
    assert memory.made() == made
    stepper.step(x)
    assert stepper._engine._graph is graph
    wanted = LSTMCell(new, backend="numpy")(host(x), LSTMCell(new, backend="numpy").zero_state(5))
    np.testing.assert_allclose(host(stepper.h), wanted.h, atol=3e-6)


def test_a_stepper_on_another_device():
    cell = LSTMCell(LSTMWeights.random(8, 8, seed=0), backend="cuda:1")
    stepper = cell.stepper(5)
    assert stepper.x.device.id == stepper.h.device.id == stepper.is_first.device.id == 1
    with cupy.cuda.Device(1):
        stepper.x[...] = cell.asarray(np.ones((5, 8)))
    stepper.step()
    assert cupy.cuda.Device().id == 0
    first = make()
    state = first(first.asarray(np.ones((5, 8))), first.zero_state(5))
    np.testing.assert_allclose(host(stepper.h), host(state.h), atol=3e-6)


@pytest.fixture
def torch(monkeypatch):
    with pretended_torch.installed(monkeypatch) as torch:
        yield torch


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_buffers_of_pytorch(torch, dtype):
    """Buffers are tensors over the stepper's memory, and a step runs on PyTorch's stream."""
    cell = LSTMCell(LSTMWeights.random(8, 8, seed=0, dtype=dtype), backend="cuda")
    like = torch.Tensor(cell.asarray(np.zeros((1, 1))))
    stepper = cell.stepper(5, like=like)
    batch = stepper._engine
    for tensor, array in (
        (stepper.x, batch.x),
        (stepper.h, batch.states[0].h),
        (stepper.c, batch.states[0].c),
        (stepper.is_first, batch.is_first),
        (stepper.output, batch.output),
    ):
        assert isinstance(tensor, torch.Tensor)
        assert tensor.data_ptr() == array.data.ptr
        assert tensor.array.strides == array.strides
    stream = cupy.cuda.Stream(non_blocking=True)
    torch.cuda.set_stream(stream)
    observe.clear()
    output = stepper.step()
    assert output is stepper.output
    assert {entry[1] for entry in observe.log() if entry[0] == "graph"} == {stream.ptr}
    assert isinstance(stepper.step(copy=True), torch.Tensor)
    assert isinstance(stepper.read().h, torch.Tensor)


def test_immutable_libraries_are_refused():
    with pytest.raises(TypeError, match=r"^like: wanted an array that can be written; got a jaxlib"):
        make().stepper(5, like=Immutable(cupy.zeros((1, 1))))


def test_x_of_another_library(torch):
    """x is copied on its library's stream, and the step runs there too."""
    cell = make()
    stepper = cell.stepper(5)
    stream = cupy.cuda.Stream(non_blocking=True)
    torch.cuda.set_stream(stream)
    x = torch.Tensor(cell.asarray(np.ones((5, 8))))
    stepper.step()
    observe.clear()
    output = stepper.step(x)
    assert {entry[1] for entry in observe.log() if entry[0] in ("launch", "graph")} == {stream.ptr}
    assert_after(0, stream.ptr)
    assert isinstance(output, cupy.ndarray)
    assert isinstance(stepper.step(x, copy=True), torch.Tensor)


@needs_own_memory
def test_buffers_outlive_queued_work(monkeypatch):
    """If a stepper is deleted while a step runs, its memory stays until the step is done."""
    from fusedlstm.backends.cuda.runtime import streams as order

    cell = make()
    stepper = cell.stepper(5)
    settle()
    before = memory.alive()
    running = [order._NOT_READY]
    monkeypatch.setattr(order.cupy.cuda.runtime, "eventQuery", lambda event: running[0])
    stepper.step()
    del stepper
    gc.collect()
    assert memory.alive() == before
    cell.zero_state(1, like=cell.zero_state(1).h)
    running[0] = 0
    settle()
    assert memory.alive() < before


@needs_own_memory
def test_memory_runs_out():
    """CuPy's error is raised, and a stepper that can't be created leaves no memory allocated."""
    cell = make()
    settle()
    before = memory.alive()
    for limit in (0, 1000, 4000, 1 << 20):
        with memory.limited(limit), pytest.raises(MemoryError):
            cell.stepper(5000)
        settle()
        assert memory.alive() == before
    cell.stepper(5).step()


def test_without_nvmath(monkeypatch):
    """kernel="matmul" raises and says what to install. Otherwise one kernel steps. Cells don't need nvmath."""
    from fusedlstm.backends import kernel_choice
    from fusedlstm.backends.cuda.runtime import cublaslt

    cells = make(), make(kernel=None)
    monkeypatch.setattr(cublaslt.importlib.util, "find_spec", lambda name: None)
    words = "nvmath-python is not installed .fusedlstm's extra cuda13"
    with pytest.raises(BackendUnavailableError, match=words):
        cells[0].stepper(5)
    assert cells[1].stepper(5).kernels == ("simt",)
    assert StatePool(cells[1], 5).kernels(3) == ("simt",)
    monkeypatch.setattr(kernel_choice, "OLDEST", 100)  # so that this GPU can't step in one kernel
    with pytest.raises(BackendUnavailableError, match=words):
        cells[1].stepper(5)
    for cell in cells:
        cell(cell.asarray(np.ones((5, 8))), cell.zero_state(5))


def test_calls_in_a_forked_process_raise(monkeypatch):
    stepper = make().stepper(5)
    monkeypatch.setattr(fork, "forked", True)
    for call in (stepper.step, stepper.read, stepper.reset):
        with pytest.raises(RuntimeError, match="this process was forked after CUDA had been used"):
            call()


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_precision(precision):
    """float32 is IEEE at "highest" precision, and TF32 at "high"."""
    weights = LSTMWeights.random(64, 64, seed=0)
    cell = LSTMCell(weights, backend="cuda", precision=precision)
    random = np.random.default_rng(0)
    x, h = random.normal(size=(8, 64)).astype("f4"), random.uniform(-1, 1, (8, 64)).astype("f4")
    stepper = cell.stepper(8)
    stepper.write(LSTMState(h=cell.asarray(h), c=cell.asarray(h)))
    stepper.step(cell.asarray(x))
    exact = LSTMCell(weights.astype("float64"), backend="numpy")
    wanted = exact(x.astype("f8"), LSTMState(h=h.astype("f8"), c=h.astype("f8")))
    error = np.abs(host(stepper.h) - wanted.h).max()
    assert error < (3e-6 if precision == "highest" else 2e-3)
    assert precision == "highest" or error > 3e-6
