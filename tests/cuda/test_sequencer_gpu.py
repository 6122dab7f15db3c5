"""Sequencers on the emulated GPU: what is captured and replayed, on which streams, and how long memory lives."""

import gc

import numpy as np
import pytest

from fusedlstm import LSTM, BackendUnavailableError, LSTMCell, LSTMState, StackedWeights
from fusedlstm.backends.cuda.runtime import fork

from driver import memory, observe
from support.backends import BACKENDS
from support.cells import host
from support.gpu_libraries import pretended_torch
from support.gpu_libraries.dlpack import Immutable
from support.on_emulated_gpu import assert_after, bits_of, needs_own_memory, nodes, settle

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
pytestmark = pytest.mark.skipif("emulated" not in BACKENDS, reason="needs the fake driver")

B, I = 5, 8
ALL = {"lengths": True, "is_first": True, "masked_outputs": "last"}


def make(layers=2, kernel="matmul", device="cuda", **options):
    return LSTM(StackedWeights.random(I, 8, layers, seed=0, **options), backend=device, kernel=kernel)


def inputs(lstm, T, rng):
    """Return random inputs for a Sequencer with ALL options."""
    xs, is_first = rng.normal(size=(T, B, I)), rng.random((T, B)) < 0.3
    return {"xs": lstm.asarray(xs), "lengths": rng.integers(0, T + 1, B), "is_first": is_first}


LAUNCHES = [
    (kernel, both, options, T)
    for T in (1, 7, 64)
    for kernel in ("matmul", "simt")
    for both in (False, True)
    for options in ({}, ALL)
]


@pytest.mark.parametrize(
    ("kernel", "both", "options", "T"),
    [*LAUNCHES, pytest.param("matmul", True, ALL, 1000, id="long")],
    ids=lambda value: None if isinstance(value, (str, int)) else "all" if value else "plain",
)
def test_a_run_is_one_launch(kernel, both, options, T):
    """A run is one graph on the current stream. It doesn't allocate, record an event, copy to the host or wait."""
    sequencer = make(kernel=kernel, bidirectional=both).sequencer(T, B, **options)
    with cupy.cuda.Stream() as stream:
        sequencer.run()
        made = memory.made()
        observe.clear()
        for _ in range(3):
            sequencer.run()
    assert [entry[:2] for entry in observe.log()] == [("graph", stream.ptr)] * 3
    assert memory.made() == made


@pytest.mark.parametrize("T", [1, 7])
def test_a_runs_graph(T):
    """A step of a layer is a product and a kernel, after one product of all x. Flags are one more kernel."""
    plain, marked = ["matmul", "lstm_pointwise"] * T, ["lstm_sequence_flags"]
    assert nodes(make().sequencer(T, B)) == ["matmul", *plain] * 2
    assert nodes(make().sequencer(T, B, is_first=True)) == [*marked, *["matmul", *plain] * 2]
    both = make(bidirectional=True).sequencer(T, B, mask=True)
    assert nodes(both) == [*marked * 2, *["matmul", *plain] * 4]
    one_kernel = ["lstm_step"] * T + ["memcpy2D"] * (T % 2)  # as steps read h from one buffer and write the other
    assert nodes(make(kernel="simt").sequencer(T, B)) == one_kernel * 2


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kernel", ["matmul", "simt"])
def test_runs_in_a_callers_graph(kernel, both):
    """On a stream that is captured, calls queue their kernels. The caller's graph then does the same as the calls."""
    lstm = make(kernel=kernel, bidirectional=both)
    rng = np.random.default_rng(0)
    reset_to = tuple(
        LSTMState(h=lstm.asarray(rng.normal(size=(1, 8))), c=lstm.asarray(rng.normal(size=(1, 8))))
        for _ in lstm.weights.layers
    )
    captured, called = (lstm.sequencer(7, B, reset_to=reset_to, **ALL) for _ in range(2))
    stream, made = cupy.cuda.Stream(non_blocking=True), inputs(lstm, 7, rng)
    for name, values in made.items():
        getattr(captured, name)[...] = cupy.asarray(values)
    cupy.cuda.Device().synchronize()
    allocated = memory.made()
    with stream:
        observe.clear()
        stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
        outputs = captured.run()
        captured.run()
        graph = stream.end_capture()
        assert not {entry.kind for entry in observe.log()} & {"graph", "wait", "record", "synchronize"}
        assert memory.made() == allocated
        assert not host(outputs).any(), "nothing should run during the capture"
        graph.launch(stream)
        graph.launch(stream)
    stream.synchronize()
    called.run(**made)
    for _ in range(3):
        called.run()
    np.testing.assert_array_equal(host(outputs), host(called.outputs))
    assert bits_of(captured.state) == bits_of(called.state)
    captured.run()
    assert bits_of(captured.read()) == bits_of((called.run(), called.read())[1])


def test_other_calls_in_a_callers_graph():
    """A captured `reset` makes each launch begin anew, and a captured argument is copied at each launch."""
    lstm = make()
    sequencer, other = lstm.sequencer(3, B), lstm.sequencer(3, B)
    xs = lstm.asarray(np.random.default_rng(0).normal(size=(3, B, I)))
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
        sequencer.reset()
        sequencer.run(xs)
        graph = stream.end_capture()
        for _ in range(2):
            graph.launch(stream)
    stream.synchronize()
    other.run(xs)
    assert bits_of(sequencer.read()) == bits_of(other.read())


@pytest.mark.parametrize("owner", ["sequencer", "stepper", "cell"])
def test_captures_refuse_host_arguments(owner):
    """A replay would read the copy of the argument after its memory was used again."""
    lstm = make(1)
    cell = LSTMCell(lstm.weights.layers[0], backend="cuda", kernel="simt")
    sequencer, stepper = lstm.sequencer(7, B, **ALL), cell.stepper(B)
    x, state = cell.asarray(np.zeros((B, I))), cell.zero_state(B)
    calls = {
        "sequencer": lambda: sequencer.run(lengths=np.full(B, 3)),
        "stepper": lambda: stepper.step(is_first=[True] * B),
        "cell": lambda: cell(x, state, is_first=[True] * B),
    }
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
        with pytest.raises(RuntimeError, match="in host memory can't be captured: each replay would read"):
            calls[owner]()
        stream.end_capture()


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint64"])
def test_a_capture_makes_no_copies(dtype):
    """A caller's graph would use their memory after they are freed."""
    lstm, rng = make(), np.random.default_rng(0)
    captured, called = (lstm.sequencer(7, B, lengths=True) for _ in range(2))
    wide = lstm.asarray(rng.normal(size=(B, 16)))
    states = (LSTMState(h=wide[:, ::2], c=wide[::-1, 1::2]),) * 2
    lengths, xs = cupy.asarray(rng.integers(0, 8, B).astype(dtype)), lstm.asarray(rng.normal(size=(7, B, I)))
    called.write(states)  # which also loads the kernels
    wanted = host(called.run(xs, lengths=lengths))
    made, pool = [], cupy.get_default_memory_pool()

    def counted(nbytes):
        made.append(nbytes)
        return pool.malloc(nbytes)

    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream, cupy.cuda.using_allocator(counted):
        stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)
        captured.write(states)
        captured.run(xs, lengths=lengths)
        graph = stream.end_capture()
        assert not made
        graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(host(captured.outputs), wanted)
    assert bits_of(captured.read()) == bits_of(called.read())


def test_streams_take_turns():
    """Work on another stream waits for the run before."""
    lstm = make()
    sequencer = lstm.sequencer(3, B, lengths=True)
    xs, lengths = sequencer.xs.copy(), sequencer.lengths.copy()
    one, other = cupy.cuda.Stream(), cupy.cuda.Stream()
    with one:
        sequencer.run()
    for call in [
        sequencer.run,
        sequencer.read,
        sequencer.reset,
        lambda: sequencer.write(sequencer.read()),
        lambda: sequencer.run(xs),
        lambda: sequencer.run(lengths=lengths),
        lambda: sequencer.run(lengths=[1] * B),
    ]:
        observe.clear()
        with other:
            call()
        kinds = [entry[0] for entry in observe.log()]
        assert assert_after(one.ptr, other.ptr) < min(kinds.index(k) for k in ("graph", "launch") if k in kinds)
        one, other = other, one


def test_weights_are_set_in_turn():
    """Setting weights waits for a run on another stream. The next run there waits for the weights."""
    lstm = make()
    sequencer, stream = lstm.sequencer(3, B), cupy.cuda.Stream()
    graph = sequencer._engine._graph
    with stream:
        sequencer.run()
    observe.clear()
    lstm.set_weights(StackedWeights.random(I, 8, 2, seed=1))
    kinds = [entry[0] for entry in observe.log()]
    assert assert_after(stream.ptr, 0) < kinds.index("launch")
    observe.clear()
    with stream:
        sequencer.run()
    assert assert_after(0, stream.ptr) < [entry[0] for entry in observe.log()].index("graph")
    assert sequencer._engine._graph is graph


def test_lengths_on_the_gpu_are_clamped():
    lstm, rng = make(), np.random.default_rng(0)
    sequencer = lstm.sequencer(7, B, lengths=True)
    xs = lstm.asarray(rng.normal(size=(7, B, I)))
    wanted = host(sequencer.run(xs, lengths=[0, 0, 4, 7, 7])).copy()
    for lengths in ([-3, 0, 4, 7, 99], [-(2**63), 0, 4, 7, 2**63 - 1], np.array([0, 0, 4, 7, 2**64 - 1], np.uint64)):
        sequencer.reset()
        np.testing.assert_array_equal(host(sequencer.run(lengths=cupy.asarray(lengths))), wanted)
    sequencer.reset()
    sequencer.lengths[...] = cupy.asarray([-3, 0, 4, 7, 99])
    np.testing.assert_array_equal(host(sequencer.run()), wanted)


def test_a_sequencer_on_another_device():
    lstm = make(device="cuda:1")
    sequencer = lstm.sequencer(3, B, is_first=True)
    assert {array.device.id for array in (sequencer.xs, sequencer.outputs, sequencer.is_first)} == {1}
    xs = np.random.default_rng(0).normal(size=(3, B, I))
    with cupy.cuda.Device(1):
        sequencer.xs[...] = lstm.asarray(xs)
    sequencer.run()
    assert cupy.cuda.Device().id == 0
    first = make()
    np.testing.assert_array_equal(host(sequencer.outputs), host(first(first.asarray(xs))[0]))


@pytest.fixture
def torch(monkeypatch):
    with pretended_torch.installed(monkeypatch) as torch:
        yield torch


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_buffers_of_pytorch(torch, dtype):
    """Buffers are tensors over the Sequencer's memory, and a run is on PyTorch's stream."""
    lstm = LSTM(StackedWeights.random(I, 8, seed=0, dtype=dtype), backend="cuda", batch_first=True)
    sequencer = lstm.sequencer(3, B, mask=True, like=torch.Tensor(lstm.asarray(np.zeros((1, 1)))))
    buffers = sequencer._engine.buffers
    for tensor, array in (
        (sequencer.xs, buffers.xs),
        (sequencer.mask, buffers.mask),
        (sequencer.outputs, buffers.outputs),
        (sequencer.state[0].h, buffers.states[0].h),
        (sequencer.state[0].c, buffers.states[0].c),
    ):
        assert isinstance(tensor, torch.Tensor)
        assert tensor.data_ptr() == array.data.ptr
    assert tuple(sequencer.xs.shape) == (B, 3, I)
    stream = cupy.cuda.Stream(non_blocking=True)
    torch.cuda.set_stream(stream)
    observe.clear()
    assert sequencer.run() is sequencer.outputs
    assert {entry[1] for entry in observe.log() if entry[0] == "graph"} == {stream.ptr}
    assert isinstance(sequencer.read()[0].h, torch.Tensor)


def test_xs_of_another_library(torch):
    """xs is copied after its library's work, and the run is on the stream of the buffers' library."""
    lstm = make()
    sequencer, stream = lstm.sequencer(3, B), cupy.cuda.Stream(non_blocking=True)
    torch.cuda.set_stream(stream)
    xs = torch.Tensor(lstm.asarray(np.ones((3, B, I))))
    sequencer.run()
    observe.clear()
    outputs = sequencer.run(xs)
    assert {entry[1] for entry in observe.log() if entry[0] in ("launch", "graph")} == {0}
    assert_after(stream.ptr, 0)
    assert_after(0, stream.ptr)
    assert isinstance(outputs, cupy.ndarray)


def test_immutable_libraries_are_refused():
    with pytest.raises(TypeError, match=r"^like: wanted an array that can be written; got a jaxlib"):
        make().sequencer(3, B, like=Immutable(cupy.zeros((1, 1))))


@needs_own_memory
def test_buffers_outlive_queued_work(monkeypatch):
    """If a Sequencer is deleted during a run, its memory stays until the run is done."""
    from fusedlstm.backends.cuda.runtime import streams as order

    lstm = make()
    sequencer = lstm.sequencer(3, B, is_first=True)
    settle()
    before = memory.alive()
    running = [order._NOT_READY]
    monkeypatch.setattr(order.cupy.cuda.runtime, "eventQuery", lambda event: running[0])
    sequencer.run()
    del sequencer
    gc.collect()
    assert memory.alive() == before
    lstm.zero_state(1, like=lstm.zero_state(1)[0].h)
    running[0] = 0
    settle()
    assert memory.alive() < before


@needs_own_memory
def test_failed_allocation_frees_all_memory():
    """CuPy's error is raised, and a Sequencer that can't be created leaves no memory allocated."""
    lstm = make(bidirectional=True)
    lstm.sequencer(2, 1)
    settle()
    before = memory.alive()
    for limit in (0, 1000, 4000, 1 << 20):
        with memory.limited(limit), pytest.raises(MemoryError):
            lstm.sequencer(50, 5000, mask=True)
        settle()
        assert memory.alive() == before
    lstm.sequencer(2, B).run()


def test_a_failed_launch_changes_nothing(monkeypatch):
    """If the graph can't be launched, the state is intact."""
    sequencer = make().sequencer(3, B)
    sequencer.run()
    before = bits_of(sequencer.read())

    class Failing:
        def launch(self, stream):
            raise cupy.cuda.runtime.CUDARuntimeError(2)

    with monkeypatch.context() as patch:
        patch.setattr(sequencer._engine, "_graph", Failing())
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
            sequencer.run()
    assert bits_of(sequencer.read()) == before


def test_matmul_without_nvmath_raises(monkeypatch):
    """kernel="matmul" raises and says what to install. Otherwise one kernel steps."""
    from fusedlstm.backends.cuda.runtime import cublaslt

    planned, free = make(), make(kernel=None)
    monkeypatch.setattr(cublaslt.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match="nvmath-python is not installed .fusedlstm's extra cuda13"):
        planned.sequencer(3, B)
    assert set(free.sequencer(3, B).kernels) == {"simt"}


def test_calls_in_a_forked_process_raise(monkeypatch):
    sequencer = make().sequencer(3, B)
    monkeypatch.setattr(fork, "forked", True)
    for call in (sequencer.run, sequencer.read, sequencer.reset):
        with pytest.raises(RuntimeError, match="this process was forked after CUDA had been used"):
            call()
