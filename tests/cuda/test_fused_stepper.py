"""Fused Steppers on the emulated GPU, with one kernel a layer: what a step is, and where its arrays are."""

import gc
import types

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights
from fusedlstm.backends import kernel_choice

from driver import memory, observe
from support import tolerances
from support.backends import BACKENDS
from support.cells import host, random_inputs
from support.gpu_libraries import pretended_torch
from support.on_emulated_gpu import FORCED, TOLERANCE, bits, bits_of, nodes, settle

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
pytestmark = pytest.mark.skipif("emulated" not in BACKENDS, reason="needs the fake driver")

I, N = 7, 12
STEP, PROJECT = "lstm_step", "lstm_project"


def make(layers=1, kernel="simt", sizes=(I, N), **options):
    """Return a cell, or an LSTM of several layers."""
    if layers == 1:
        return LSTMCell(LSTMWeights.random(*sizes, seed=0, **options), backend="cuda", kernel=kernel)
    return LSTM(StackedWeights.random(*sizes, layers, seed=0, **options), backend="cuda", kernel=kernel)


def inputs(owner, B, seed=0):
    return owner.asarray(np.random.default_rng(seed).normal(size=(B, owner.weights.input_size)))


def widened(state):
    return LSTMState(h=state.h.astype("f8"), c=state.c.astype("f8"))


def address(array):
    return array.data.ptr, array.strides


# What a step is.

WHAT = [
    (1, {}, [STEP]),
    (3, {"peephole": True, "cell_clip": 1.0}, [STEP]),
    (1, {"proj_size": 4}, [STEP]),
    (1, {"sizes": (8, 40), "proj_size": 4}, [STEP, PROJECT]),
    (2, {"sizes": (8, 40), "proj_size": 8, "proj_clip": 0.5, "residual": True}, [STEP, PROJECT]),
]


@pytest.mark.parametrize(("layers", "options", "each"), WHAT)
def test_a_steps_graph(layers, options, each):
    """A layer is one kernel. With more units than a block, its projection is one more. Resets and flags take none."""
    stepper = make(layers, **options).stepper(5)
    assert nodes(stepper) == each * layers
    stepper.is_first[...] = True
    for _ in range(3):
        assert nodes(stepper) == each * layers
        stepper.step()


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_a_step_is_one_launch(resets, given):
    """A step is one graph on the current stream, after a copy of a given x. It doesn't allocate or wait."""
    stepper = make(3, sizes=(8, 8)).stepper(5)
    x = cupy.asarray(np.ones((5, 8), np.float32))
    if resets:
        stepper.is_first[...] = True
    made = memory.made()
    with cupy.cuda.Stream() as stream:
        stepper.step()
        observe.clear()
        for _ in range(4):
            stepper.step(x if given else None)
    each = [("launch", stream.ptr), ("graph", stream.ptr)] if given else [("graph", stream.ptr)]
    assert [entry[:2] for entry in observe.log()] == each * 4
    assert memory.made() == made


def test_nothing_else_is_captured(monkeypatch):
    """Making a Stepper captures a graph for each buffer of h, with and without resets. Steps capture nothing."""
    from fusedlstm.backends.cuda.runtime.graphs import captured

    made = []
    monkeypatch.setattr("fusedlstm.backends.cuda.stepper.captured", lambda queue: made.append(1) or captured(queue))
    stepper = make().stepper(5)
    assert len(made) == 4
    stepper.step(None, [True] * 5)
    stepper.step()
    assert len(made) == 4


# Where things are.


@pytest.mark.parametrize(
    "options", [{}, {"sizes": (8, 40), "proj_size": 4}, {"layers": 3, "sizes": (8, 8), "residual": True}]
)
def test_h_alternates_between_two_buffers(options):
    """All other arrays stay in place, and the h that a step has read is still there."""
    stepper = make(**options).stepper(5)
    x = inputs(stepper._owner, 5)
    stays = [address(array) for array in (stepper.x, stepper.c, stepper.is_first, stepper.output)]
    places = []
    for _ in range(6):
        before = stepper.h
        kept = bits(before)
        places.append(address(before))
        stepper.step(x)
        assert bits(before) == kept
        assert bits(stepper.h) != kept
        states = stepper.state if isinstance(stepper.state, tuple) else (stepper.state,)
        assert address(states[-1].h) == address(stepper.h)
        assert [address(array) for array in (stepper.x, stepper.c, stepper.is_first, stepper.output)] == stays
    assert len(set(places)) == 2
    assert places == places[:2] * 3


def test_h_and_the_output_begin_as_zeros():
    stepper = make(2, sizes=(8, 40), residual=True, proj_size=8).stepper(5)
    assert not host(stepper.output).any()
    for _ in range(2):
        assert not any(host(part).any() for state in stepper.state for part in (state.h, state.c))
        stepper._engine.current = 1 - stepper._engine.current
    assert not host(stepper.x).any()


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"proj_size": 5}, {"layers": 2, "sizes": (8, 8), "residual": True}])
def test_read_write_and_reset_after_any_steps(steps, options):
    owner = make(**options)
    stepper, x = owner.stepper(4), inputs(owner, 4)
    for _ in range(steps):
        stepper.step(x)
    saved = stepper.read()
    assert bits_of(saved) == bits_of(stepper.state)
    wanted = bits(stepper.step(x)) + bits_of(stepper.state)
    for _ in range(2):  # the second time, the other buffer is current
        stepper.write(saved)
        assert bits_of(stepper.read()) == bits_of(stepper.state) == bits_of(saved)
        assert bits(stepper.step(x)) + bits_of(stepper.state) == wanted
        stepper.step(x)
    stepper.reset()
    assert not any(np.frombuffer(each, np.uint8).any() for each in bits_of(stepper.state))
    fresh = owner.stepper(4)
    assert bits(stepper.step(x)) + bits_of(stepper.state) == bits(fresh.step(x)) + bits_of(fresh.state)


def test_state_before_a_step_can_be_written():
    """With a copy of c, a step can be undone."""
    owner = make()
    stepper, x = owner.stepper(4), inputs(owner, 4)
    stepper.step(x)
    h, c = stepper.h, stepper.c.copy()
    wanted = bits(stepper.step(x))
    stepper.write(LSTMState(h=h, c=c))
    assert bits(stepper.step(x)) == wanted


def test_a_stepper_takes_its_own_arrays():
    """Pass the output or either h as x, and the flags as flags."""
    owner = make(sizes=(8, 8))
    steppers, x = [owner.stepper(4) for _ in range(2)], inputs(owner, 4)
    for each in steppers:
        each.step(x)
    one, other = steppers
    for _ in range(3):
        assert bits(one.step(one.output)) == bits(other.step(other.output.copy()))
        assert bits(one.step(one.h)) == bits(other.step(other.h.copy()))
    one.is_first[...] = True
    assert bits(one.step(None, one.is_first)) == bits(other.step(None, [True] * 4))


@pytest.mark.parametrize("host_buffers", [False, True])
@pytest.mark.parametrize("B", [3, 70])
def test_flags_are_cleared_by_the_step(B, host_buffers):
    """Flagged rows are reset once, even if many blocks share a row."""
    owner = make(2, sizes=(40, 70))
    stepper, twin = owner.stepper(B, host=host_buffers), owner.stepper(B)
    x = inputs(owner, B)
    for first in (np.arange(B) % 3 == 0, np.ones(B, bool), np.arange(B) == B - 1):
        for _ in range(2):
            twin.step(x)
            stepper.step(host(x) if host_buffers else x)
        state = twin.read()
        twin.write(tuple(LSTMState(h=zeroed(each.h, first), c=zeroed(each.c, first)) for each in state))
        stepper.is_first[...] = first if host_buffers else owner.xp.asarray(first)
        got = stepper.step()
        assert bits(got) == bits(twin.step())
        assert not host(stepper.is_first).any()
        assert host_buffers or not host(stepper._engine._step._readers).any()


def zeroed(array, rows):
    copy = host(array).copy()
    copy[rows] = 0
    return cupy.asarray(copy)


@pytest.fixture
def torch(monkeypatch):
    with pretended_torch.installed(monkeypatch) as torch:
        yield torch


def test_tensors_are_views_of_both_buffers(torch):
    """Tensors are views of the buffers, created once each. Steps run on PyTorch's stream."""
    owner = make()
    stepper = owner.stepper(5, like=torch.Tensor(owner.asarray(np.zeros((1, 1)))))
    plain, x = owner.stepper(5), inputs(owner, 5)
    stream = cupy.cuda.Stream()
    torch.cuda.set_stream(stream)
    seen = []
    for _ in range(4):
        observe.clear()
        stepper.x.array[...] = x
        output = stepper.step()
        assert {entry[1] for entry in observe.log() if entry[0] == "graph"} == {stream.ptr}
        assert output is stepper.output
        assert bits(output.array) == bits(plain.step(x)) == bits(stepper.h.array)
        assert isinstance(stepper.h, torch.Tensor)
        assert stepper.h.data_ptr() == stepper._engine.states[0].h.data.ptr
        assert stepper.c.data_ptr() == stepper._engine.states[0].c.data.ptr
        seen.append(stepper.h)
    assert seen[0] is seen[2] is not seen[1]
    assert seen[1] is seen[3]


# Numbers, with every kernel that a dtype has.


@pytest.mark.parametrize(("kernel", "dtype", "precision"), FORCED)
@pytest.mark.parametrize("options", [{}, {"proj_size": 5, "proj_clip": 0.1, "peephole": True, "cell_clip": 0.8}])
@pytest.mark.parametrize("B", [1, 9, 70])
def test_kernels_are_near_float64(kernel, dtype, precision, options, B):
    """A call and a Stepper have the same bits, close to NumPy's in float64."""
    weights = LSTMWeights.random(23, 37, seed=0, dtype=dtype, **options)
    cell = LSTMCell(weights, backend="cuda", precision=precision, kernel=kernel)
    exact = LSTMCell(weights.astype("float64"), backend="numpy")
    x, state = random_inputs(cell, B)
    first = np.arange(B) % 3 == 1
    stepper = cell.stepper(B)
    assert stepper.kernels == (kernel,)
    stepper.write(state)
    for is_first in (None, first):
        old = state.to_numpy()
        state = cell(x, state, is_first=is_first)
        got = stepper.step(x, is_first)
        wanted = exact(host(x).astype("f8"), widened(old), is_first=is_first)
        tolerance = TOLERANCE.get(precision, tolerances.of(dtype, 60))
        np.testing.assert_allclose(host(state.h).astype("f8"), wanted.h, rtol=0, atol=tolerance)
        c_tolerance = {"float16": 3e-6, "bfloat16": 3e-6}.get(dtype, tolerance)
        np.testing.assert_allclose(host(state.c).astype("f8"), wanted.c, rtol=0, atol=c_tolerance)
        assert bits_of(stepper.state) == bits_of(state)
        assert bits(got) == bits(state.h)


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_tf32_is_not_ieee(precision):
    """Each kernel rounds only if it should, or the tolerances above would prove nothing."""
    kernel = "simt" if precision == "highest" else "tensor_medium"
    cell = LSTMCell(LSTMWeights.random(64, 64, seed=0), backend="cuda", precision=precision, kernel=kernel)
    exact = LSTMCell(cell.weights.astype("float64"), backend="numpy")
    x, state = random_inputs(cell, 8)
    old = state.to_numpy()
    wanted = exact(host(x).astype("f8"), LSTMState(h=old.h.astype("f8"), c=old.c.astype("f8")))
    error = np.abs(host(cell(x, state).h) - wanted.h).max()
    assert error < (3e-6 if precision == "highest" else 2e-3)
    assert precision == "highest" or error > 3e-6


@pytest.mark.parametrize(("kernel", "dtype", "precision"), FORCED)
def test_sequences_are_near_float64(kernel, dtype, precision):
    """Run sequences with lengths and resets, of both directions or with residual layers."""
    lstm_options = {"precision": precision, "kernel": kernel, "backend": "cuda"}
    both = StackedWeights.random(9, 9, 2, seed=0, dtype=dtype, bidirectional=True)
    rng, T, B = np.random.default_rng(0), 6, 5
    first, lengths = rng.random((T, B)) < 0.2, [6, 0, 3, 5, 1]
    tolerance = 8 * TOLERANCE.get(precision, tolerances.of(dtype, 40))
    xs = rng.normal(size=(T, B, 9))
    for weights, how in ((both, {}), (StackedWeights.random(9, 9, 2, seed=0, dtype=dtype, residual=True), {})):
        lstm, exact = LSTM(weights, **lstm_options), LSTM(weights.astype("float64"), backend="numpy")
        start = tuple(
            LSTMState(h=lstm.asarray(rng.uniform(-1, 1, s.h.shape)), c=lstm.asarray(s.c, s.c.dtype))
            for s in lstm.zero_state(B)
        )
        wide = tuple(widened(s.to_numpy()) for s in start)
        ones = tuple(LSTMState(h=s.h[:1], c=s.c[:1]) for s in start)
        wide_ones = tuple(LSTMState(h=s.h[:1], c=s.c[:1]) for s in wide)
        own = lstm.asarray(xs)
        for options in ({}, {"lengths": lengths}, {"is_first": first}, {"is_first": first, "lengths": lengths}):
            more = ({"reset_to": ones}, {"reset_to": wide_ones}) if "is_first" in options else ({}, {})
            ys, ends = lstm(own, start, **options, **how, **more[0])
            wanted, finals = exact(host(own).astype("f8"), wide, **options, **how, **more[1])
            np.testing.assert_allclose(host(ys).astype("f8"), wanted, rtol=0, atol=tolerance)
            for end, final in zip(ends, finals, strict=True):
                np.testing.assert_allclose(host(end.c).astype("f8"), final.c, rtol=0, atol=tolerance)


def test_layers_step_as_the_lstm():
    """A Stepper of layers of different sizes has the bits of the LSTM's own steps."""
    a = LSTMWeights.random(7, 12, seed=1, peephole=True)
    b = LSTMWeights.random(12, 9, seed=2, proj_size=5, proj_clip=0.1)
    c = LSTMWeights.random(5, 5, seed=3, cell_clip=0.5)
    lstm = LSTM(StackedWeights([a, b, c], residual=[False, False, True]), backend="cuda", kernel="simt")
    stepper, states, x = lstm.stepper(17), lstm.zero_state(17), inputs(lstm, 17)
    assert stepper.kernels == ("simt",) * 3
    for _ in range(5):
        output, states = lstm.step(x, states)
        assert bits(stepper.step(x)) == bits(output)
        assert bits_of(stepper.state) == bits_of(states)


def test_a_call_writes_c_in_place():
    """A call may write c in place, and takes arrays of any strides."""
    cell = make(proj_size=5)
    x, state = random_inputs(cell, 6)
    wanted = cell(x, state)
    out = LSTMState(h=cupy.zeros((6, 5), np.float32), c=state.c.copy())
    assert cell(x, LSTMState(h=state.h, c=out.c), out=out) is out
    assert bits_of(out) == bits_of(wanted)
    spread = [cupy.asarray(np.repeat(host(a), 2, axis=1))[:, ::2] for a in (x, state.h, state.c)]
    assert bits_of(cell(spread[0], LSTMState(h=spread[1], c=spread[2]))) == bits_of(wanted)
    off = [cupy.asarray(np.pad(host(a), ((0, 0), (1, 2))))[:, 1:-2] for a in (x, state.h, state.c)]
    assert bits_of(cell(off[0], LSTMState(h=off[1], c=off[2]))) == bits_of(wanted)


# Weights, memory, other GPUs.


@pytest.mark.parametrize("options", [{}, {"sizes": (I, 40), "proj_size": 5}])
def test_weights_are_set_in_turn(options):
    """The GPU rewrites the kernels' copies of the weights after earlier work, without a new capture."""
    owner = make(**options)
    stepper, stream, x = owner.stepper(5), cupy.cuda.Stream(), inputs(owner, 5)
    with stream:
        stepper.step(x)
    graph = stepper._engine._graph

    new = LSTMWeights.random(I, owner.weights.hidden_size, seed=1, proj_size=options.get("proj_size"))
    observe.clear()
    made = memory.made()
    owner.set_weights(new)
    assert memory.made() == made
    launches = [entry[1] for entry in observe.log() if entry[0] == "launch"]
    assert len(set(launches)) == 1
    observe.clear()
    with stream:
        stepper.step(x)
        stepper.step(x)
    assert stepper._engine._graph is graph
    kinds = [entry[0] for entry in observe.log()]
    assert kinds.index("wait") < kinds.index("graph")
    twin = LSTMCell(new, backend="cuda", kernel="simt").stepper(5)
    stepper.reset()
    for _ in range(3):
        assert bits(stepper.step(x)) == bits(twin.step(x))


def test_the_table_chooses_kernels(monkeypatch):
    """The table decides between one kernel a layer and a matmul."""
    lstm = LSTM(StackedWeights.random(128, 128, 2, seed=0, dtype="bfloat16"), backend="cuda")
    assert lstm.stepper(1).kernels == ("tensor_small",) * 2
    assert nodes(lstm.stepper(1)) == [STEP] * 2
    monkeypatch.setattr(
        kernel_choice, "_TABLE", kernel_choice._TABLE | {"bfloat16": ((float("inf"), ((float("inf"), "matmul"),)),)}
    )
    assert lstm.stepper(1).kernels == ("matmul",) * 2
    assert nodes(lstm.stepper(1)) == ["matmul", "lstm_planned"] * 2


def test_buffers_outlive_queued_work(monkeypatch):
    """If a stepper is deleted while a step runs, its memory and the weights stay until the step is done."""
    from fusedlstm.backends.cuda.runtime import streams as order

    owner = make(sizes=(I, 40), proj_size=5)
    stepper = owner.stepper(5)
    settle()
    before = memory.alive()
    running = [order._NOT_READY]
    monkeypatch.setattr(order.cupy.cuda.runtime, "eventQuery", lambda event: running[0])
    stepper.step()
    del stepper, owner
    gc.collect()
    assert memory.alive() == before
    running[0] = 0
    settle()
    assert memory.alive() < before


def test_memory_runs_out():
    """A stepper that can't be created leaves no memory allocated."""
    owner = make(sizes=(8, 8))
    owner.stepper(1)
    settle()
    before = memory.alive()
    for limit in (0, 1000, 4000, 1 << 18):
        with memory.limited(limit), pytest.raises(MemoryError):
            owner.stepper(5000)
        settle()
        assert memory.alive() == before
    owner.stepper(5).step()


def test_a_failed_launch_changes_nothing(monkeypatch):
    """If CUDA refuses a launch, the state stays and the next step continues from it."""
    owner = make()
    stepper, twin, x = owner.stepper(5), owner.stepper(5), inputs(owner, 5)
    stepper.step(x)
    twin.step(x)
    kept = address(stepper.h), bits_of(stepper.read())
    with monkeypatch.context() as patch:
        lost = cupy.cuda.runtime.CUDARuntimeError
        refusing = types.SimpleNamespace(launch=lambda *_: (_ for _ in ()).throw(lost(999)))
        patch.setattr(type(stepper._engine), "_graph", refusing)
        with pytest.raises(lost):
            stepper.step(x)
    assert (address(stepper.h), bits_of(stepper.read())) == kept
    for _ in range(2):
        assert bits(stepper.step(x)) == bits(twin.step(x))


def test_on_another_device():
    cell = LSTMCell(LSTMWeights.random(I, N, seed=0), backend="cuda:1", kernel="simt")
    stepper = cell.stepper(5)
    x = cell.asarray(np.ones((5, I)))
    for _ in range(2):
        stepper.step(x)
        assert stepper.h.device.id == stepper.output.device.id == 1
    first = make()
    wanted = first(first.asarray(np.ones((5, I))), first.zero_state(5))
    assert bits_of(cell(x, cell.zero_state(5))) == bits_of(wanted)


@pytest.mark.parametrize(("asked", "words"), [({"kernel": "simt"}, "kernel='simt'"), ({"batch_invariant": True},) * 2])
@pytest.mark.parametrize("kind", [LSTMCell, LSTM])
def test_old_gpus_refuse_fused_steps(kind, asked, words, monkeypatch):
    from fusedlstm.backends.cuda.backend import CudaBackend

    weights = LSTMWeights.random(I, N, seed=0)
    monkeypatch.setattr(CudaBackend, "_capability", 75)
    words = words if isinstance(words, str) else "batch_invariant=True"
    message = rf"^{words} can't run on cuda:0: steps in one kernel need compute capability 8\.0, .* has 7\.5$"
    with pytest.raises(RuntimeError, match=message):
        kind(weights, backend="cuda", **asked)
    assert kind(weights, backend="cuda").stepper(5).kernels == ("matmul",)
