"""A stream waits for another stream's late work. Tests compare values, and time nothing.

A kernel spins before it writes, so anything that doesn't wait for it reads or writes too early. Streams are
non-blocking, so nothing orders them with the default stream. The fake driver's work is late with DRIVER_ORDER=late.
"""

import types

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StatePool

from support.backends import BACKENDS, NO_GPU, ONE_KERNEL, WAYS, backend_in_a_way, needs_cuda
from support.gpu_libraries.dlpack import OnlyDlpack, WithNamespace
from support.gpu_libraries.interface import OnlyInterface

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
pytestmark = needs_cuda

B, I, N = 33, 20, 24
TIMES = range(5)
STEPS_OF_RUNS = 3
CYCLES, STEPS = (30_000_000, 200) if "cuda" in BACKENDS else (0, 20)  # about 15 ms

LATE = r"""
extern "C" __global__ void late(float* to, const float* from, int size, long long cycles) {
    const long long start = clock64();
    while (clock64() - start < cycles) {
    }
    for (int k = threadIdx.x; k < size; k += blockDim.x) {
        to[k] = from[k];
    }
}
"""


class Gpu:
    """A cell, its arguments on the GPU, its expected results, and two streams."""

    def __init__(self):
        self._late = cupy.RawKernel(LATE, "late")
        self.cell = LSTMCell(LSTMWeights.random(I, N, seed=0), backend="cuda")
        rng = np.random.default_rng(0)
        self.x, self.h, self.c = (
            cupy.asarray(array.astype(np.float32))
            for array in (rng.normal(size=(B, I)), rng.uniform(-1, 1, (B, N)), rng.normal(size=(B, N)))
        )
        self.state = LSTMState(h=self.h, c=self.c)
        self.wanted = self.cell(self.x, self.state).to_numpy()  # also compiles and loads the kernels
        self.ours, self.theirs = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
        self.late(self.nan(self.x), self.x, self.ours)
        self.settle()

    def settle(self):
        """Wait for all work, and empty CuPy's pool, so that it can reuse only memory that is freed later."""
        cupy.cuda.Device().synchronize()
        cupy.get_default_memory_pool().free_all_blocks()

    def nan(self, like):
        """Return memory that holds no correct value yet."""
        return cupy.asarray(np.full(like.shape, np.nan, np.float32))

    def copy(self, array):
        return cupy.asarray(array.get())

    def late(self, to, values, stream):
        """Write values on a stream, late."""
        with stream:
            self._late((1,), (256,), (to, values, np.int32(to.size), np.int64(CYCLES)))

    def spoil(self, array, stream):
        """Overwrite memory that the stream's library believes to be free, at once if the stream doesn't wait."""
        with stream:
            array.fill(np.nan)
        stream.synchronize()

    def assert_right(self, state, stream=None):
        """Read and compare on a stream, by default CuPy's current one."""
        with stream or cupy.cuda.get_current_stream():
            for got, wanted in ((state.h.get(), self.wanted.h), (state.c.get(), self.wanted.c)):
                np.testing.assert_array_equal(got, wanted)


@pytest.fixture
def gpu():
    if NO_GPU and "cuda" in BACKENDS:
        pytest.fail(f"cuda was asked for and can't run here: {NO_GPU}")
    made = Gpu()
    yield made
    made.settle()


def test_cupys_current_stream(gpu):
    """Late work on CuPy's current stream comes before the call's."""
    for _ in TIMES:
        x = gpu.nan(gpu.x)
        gpu.settle()
        gpu.late(x, gpu.x, gpu.ours)
        with gpu.ours:
            gpu.assert_right(gpu.cell(x, gpu.state))


@pytest.mark.parametrize("kind", [OnlyDlpack, OnlyInterface])
@pytest.mark.parametrize("argument", ["x", "h"])
def test_a_call_waits_for_late_arguments(gpu, kind, argument):
    """A call waits for arguments that are late on their library's stream."""
    for _ in TIMES:
        values = {"x": gpu.x, "h": gpu.h, "c": gpu.c}
        late = gpu.nan(values[argument])
        gpu.settle()
        gpu.late(late, values[argument], gpu.theirs)
        values[argument] = kind(late, gpu.theirs)
        with gpu.ours:
            gpu.assert_right(gpu.cell(values["x"], LSTMState(h=values["h"], c=values["c"])))


def test_the_interfaces_stream_waits_for_the_call(gpu):
    """The call is late, and later work on the array's stream comes after it."""
    for _ in TIMES:
        x, held = gpu.copy(gpu.x), gpu.nan(gpu.x)
        gpu.settle()
        gpu.late(held, gpu.x, gpu.ours)
        with gpu.ours:
            got = gpu.cell(OnlyInterface(x, gpu.theirs), gpu.state)
        gpu.spoil(x, gpu.theirs)
        gpu.assert_right(got, gpu.ours)


def out_of(kind, gpu, stream):
    h, c = gpu.nan(gpu.h), gpu.nan(gpu.c)
    return types.SimpleNamespace(h=h, c=c), LSTMState(h=kind(h, stream), c=kind(c, stream))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", [OnlyDlpack, OnlyInterface])
def test_out_is_read_on_another_stream(gpu, kind, named):
    """Reading waits: by stream order if `out` names a stream, else because the host has waited."""
    for _ in TIMES:
        memory, target = out_of(kind, gpu, gpu.theirs if named else None)
        held = gpu.nan(gpu.x)
        gpu.settle()
        gpu.late(held, gpu.x, gpu.ours)
        with gpu.ours:
            gpu.cell(gpu.x, gpu.state, out=target)
        gpu.assert_right(memory, gpu.theirs)


def test_a_namespace_waits_for_its_results(gpu):
    """The library's stream waits for its results."""
    for _ in TIMES:
        held = gpu.nan(gpu.x)
        gpu.settle()
        gpu.late(held, gpu.x, gpu.ours)
        with gpu.ours:
            got = gpu.cell(WithNamespace(gpu.x, gpu.theirs), gpu.state)
        gpu.assert_right(types.SimpleNamespace(h=got.h.array, c=got.c.array), gpu.theirs)


# Weights: their uploads may be late, and another stream may be the first to use them.


@pytest.mark.parametrize("kernel", [None, "simt"])
def test_new_weights_on_another_stream(gpu, kernel):
    from fusedlstm.backends.cuda import step_kernels

    wanted = LSTMCell(gpu.cell.weights, backend="cuda", kernel=kernel)(gpu.x, gpu.state).to_numpy()
    for _ in TIMES:
        held = gpu.nan(gpu.x)
        gpu.settle()
        gpu.late(held, gpu.x, gpu.ours)
        with gpu.ours:
            cell = LSTMCell(gpu.cell.weights, backend="cuda", kernel=kernel)
        if kernel is not None:  # make its copy of the weights again, as a Stepper of another kernel would
            weights = cell._engine.weights
            weights.interleaved(False).weight.fill(np.nan)
            gpu.settle()
            weights._interleaved.clear()
            with gpu.ours:
                step_kernels.interleaved_for(weights, kernel)
        with gpu.theirs:
            assert_same(cell(gpu.x, gpu.state).to_numpy(), wanted)


# With PyTorch.


@pytest.fixture
def torch(gpu):
    """Return PyTorch, with CuPy's other stream as its current one."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no GPU here")
    with torch.cuda.stream(torch.cuda.ExternalStream(gpu.theirs.ptr)):
        yield torch


def tensor_of(torch, array):
    """Return a tensor in PyTorch's memory, ordered by the host."""
    return torch.from_numpy(array.get()).to("cuda")


@pytest.mark.parametrize("used", [False, True])
def test_torch_on_its_current_stream(gpu, torch, used):
    """Late work on PyTorch's stream comes before the call. CuPy's current stream doesn't matter, and stays."""
    for _ in TIMES:
        x = tensor_of(torch, gpu.nan(gpu.x))
        state = LSTMState(h=tensor_of(torch, gpu.h), c=tensor_of(torch, gpu.c))
        gpu.settle()
        gpu.late(cupy.asarray(x), gpu.x, gpu.theirs)
        try:
            if used:
                gpu.ours.use()
            before = cupy.cuda.get_current_stream()
            got = gpu.cell(x, state)
            assert cupy.cuda.get_current_stream() is before
        finally:
            cupy.cuda.Stream.null.use()
        np.testing.assert_array_equal(got.h.cpu().numpy(), gpu.wanted.h)
        np.testing.assert_array_equal(got.c.cpu().numpy(), gpu.wanted.c)


def test_torch_waits_for_cupys_stream(gpu, torch):
    """x is CuPy's, and the call is late. PyTorch then overwrites the state on its own stream."""
    for _ in TIMES:
        held = gpu.nan(gpu.x)
        state = LSTMState(h=tensor_of(torch, gpu.h), c=tensor_of(torch, gpu.c))
        gpu.settle()
        gpu.late(held, gpu.x, gpu.ours)
        with gpu.ours:
            got = gpu.cell(gpu.x, state)
        state.h.fill_(float("nan"))
        state.c.fill_(float("nan"))
        gpu.assert_right(got, gpu.ours)


def test_results_are_freed_in_torchs_order(gpu, torch):
    """`record_stream` keeps a result's memory from reuse while the recorded stream reads it."""
    other = torch.cuda.ExternalStream(gpu.ours.ptr)
    for _ in TIMES:
        x = tensor_of(torch, gpu.x)
        state = LSTMState(h=tensor_of(torch, gpu.h), c=tensor_of(torch, gpu.c))
        got, seen = gpu.cell(x, state), gpu.nan(gpu.h)
        gpu.settle()
        gpu.late(seen, cupy.asarray(got.h), gpu.ours)
        got.h.record_stream(other)
        del got
        for _ in range(20):  # either library could reuse the memory
            torch.full((B, N), float("nan"), device="cuda")
            with gpu.theirs:
                cupy.full((B, N), np.nan, np.float32)
        with gpu.ours:
            np.testing.assert_array_equal(seen.get(), gpu.wanted.h)


# Steppers, Sequencers and pools: calls on several streams take turns, with "matmul" and with one kernel. Some kernels
# sum in another order than the cell's. So results are compared with those of a step without late work.


@pytest.fixture(params=[way for way in WAYS if way != "numpy"])
def either(request, monkeypatch):
    """Return a Gpu whose Steppers and pools step in one of the two ways."""
    backend_in_a_way(request, monkeypatch)
    made = Gpu()
    kernels = made.cell.stepper(B).kernels, StatePool(made.cell, B).kernels(B)
    assert set(kernels) == {("simt",) if request.param.endswith(ONE_KERNEL) else ("matmul",)}
    yield made
    made.settle()


def stepped(gpu):
    """Return a stepper with the state, and the h and c after a step from it."""
    stepper = gpu.cell.stepper(B)
    stepper.write(gpu.state)
    stepper.step(gpu.x)
    wanted = stepper.read().to_numpy()
    gpu.settle()
    return stepper, wanted


def assert_same(got, wanted):
    np.testing.assert_array_equal(got.h, wanted.h)
    np.testing.assert_array_equal(got.c, wanted.c)


def test_a_steppers_calls_take_turns(either):
    """x is late on one stream, the step is on another, and the read on a third."""
    stepper, wanted = stepped(either)
    for _ in TIMES:
        x = either.nan(either.x)
        stepper.write(either.state)
        either.settle()
        either.late(x, either.x, either.ours)
        with either.ours:
            stepper.step(x)
        with either.theirs:
            read = stepper.read()
            assert_same(read.to_numpy(), wanted)


def test_weights_of_a_stepper_are_set_in_turn(either):
    """Weights change after a late step on another stream, and before the next step."""
    stepper, wanted = stepped(either)
    old, new = either.cell.weights, LSTMWeights.random(I, N, seed=1)
    either.cell.set_weights(new)
    stepper.write(either.state)
    stepper.step(either.x)
    wanted_new = stepper.read().to_numpy()
    either.cell.set_weights(old)
    for _ in TIMES:
        x = either.nan(either.x)
        stepper.write(either.state)
        either.settle()
        either.late(x, either.x, either.ours)
        with either.ours:
            stepper.step(x)
        either.cell.set_weights(new)
        assert_same(stepper.read().to_numpy(), wanted)
        stepper.write(either.state)
        with either.theirs:
            stepper.step(either.x)
            assert_same(stepper.read().to_numpy(), wanted_new)
        either.cell.set_weights(old)


def test_set_weights_before_a_stepper_is_made(either):
    """A Stepper, and then a pool, is made on another stream than set_weights ran on. Both may interleave weights."""
    new = LSTMWeights.random(I, N, seed=1)
    stepper = LSTMCell(new, backend="cuda").stepper(B)
    stepper.step(either.x)
    wanted = stepper.read().to_numpy()
    for _ in TIMES:
        cell = LSTMCell(either.cell.weights, backend="cuda")
        held = either.nan(either.x)
        either.settle()
        either.late(held, either.x, either.ours)
        with either.ours:
            cell.set_weights(new)
        with either.theirs:
            stepper = cell.stepper(B)
            stepper.step(either.x)
            assert_same(stepper.read().to_numpy(), wanted)
        cell.set_weights(either.cell.weights)
        either.settle()
        either.late(held, either.x, either.ours)
        with either.ours:
            cell.set_weights(new)
        with either.theirs:
            pool = StatePool(cell, B)
            slots = pool.allocate(B)
            pool.step(either.x, slots)
            assert_same(pool.read(slots).to_numpy(), wanted)


def run_once(gpu, weights=None):
    """Return an LSTM, its Sequencer, inputs, and the outputs of a run with these weights and without late work."""
    lstm = LSTM(gpu.cell.weights, backend="cuda")
    xs = cupy.stack([gpu.x] * STEPS_OF_RUNS)
    sequencer = lstm.sequencer(STEPS_OF_RUNS, B)
    if weights is not None:
        lstm.set_weights(weights)
    wanted = sequencer.run(xs).get()
    lstm.set_weights(gpu.cell.weights)
    gpu.settle()
    return lstm, sequencer, xs, wanted


def test_a_sequencers_calls_take_turns(either):
    """xs is late on one stream, the run is on another, and the read on a third."""
    _, sequencer, values, wanted = run_once(either)
    for _ in TIMES:
        sequencer.reset()
        xs = either.nan(values)
        either.settle()
        either.late(xs, values, either.ours)
        with either.ours:
            outputs = sequencer.run(xs)
        with either.theirs:
            np.testing.assert_array_equal(sequencer.read()[0].h.get(), wanted[-1])
            np.testing.assert_array_equal(outputs.get(), wanted)


def test_set_weights_before_a_sequencer_is_made(either):
    """A Sequencer is made on a stream other than that of set_weights."""
    new = LSTMWeights.random(I, N, seed=1)
    _, _, xs, wanted = run_once(either, new)
    for _ in TIMES:
        lstm, held = LSTM(either.cell.weights, backend="cuda"), either.nan(either.x)
        either.settle()
        either.late(held, either.x, either.ours)
        with either.ours:
            lstm.set_weights(new)
        with either.theirs:
            np.testing.assert_array_equal(lstm.sequencer(STEPS_OF_RUNS, B).run(xs).get(), wanted)


def test_weights_of_a_sequencer_are_set_in_turn(either):
    """A late run reads the old weights, though new ones are set on another stream."""
    lstm, sequencer, values, wanted = run_once(either)
    for _ in TIMES:
        sequencer.reset()
        xs = either.nan(values)
        either.settle()
        either.late(xs, values, either.ours)
        with either.ours:
            outputs = sequencer.run(xs)
        with either.theirs:
            lstm.set_weights(LSTMWeights.random(I, N, seed=1))
        with either.ours:
            np.testing.assert_array_equal(outputs.get(), wanted)
        lstm.set_weights(either.cell.weights)


def test_a_sequencer_deleted_while_it_runs(either):
    """Its memory isn't reused while a late run needs it."""
    lstm, _, values, wanted = run_once(either)
    for _ in TIMES:
        sequencer = lstm.sequencer(STEPS_OF_RUNS, B)
        xs, out = either.nan(values), either.nan(values[:, :, :1]).repeat(N, axis=2)
        either.settle()
        either.late(xs, values, either.ours)
        with either.ours:
            out[...] = sequencer.run(xs)
        del sequencer
        taken = take_what_is_free()
        with either.ours:
            np.testing.assert_array_equal(out.get(), wanted)
        assert not any(each.any() for each in taken)


def test_a_pools_calls_take_turns(either):
    pool = StatePool(either.cell, 2 * B)
    slots = pool.allocate(2 * B)[::2]
    pool.write(slots, either.state)
    pool.step(either.x, slots)
    wanted = pool.read(slots).to_numpy()
    for _ in TIMES:
        x = either.nan(either.x)
        pool.write(slots, either.state)
        either.settle()
        either.late(x, either.x, either.ours)
        with either.ours:
            pool.step(x, slots)
        with either.theirs:
            assert_same(pool.read(slots).to_numpy(), wanted)


def test_slots_of_queued_steps(either):
    """A call copies its slots, which are read when its step runs, long after later calls have copied theirs."""
    count = 20  # more than the uploads that may be queued at once
    pool = StatePool(either.cell, count)
    slots = pool.allocate(count)
    wanted = None
    for late in (False, *(True for _ in TIMES)):
        pool.reset(slots)
        held = either.nan(either.x)
        either.settle()
        if late:
            either.late(held, either.x, either.ours)
        with either.ours:
            for k in range(count):
                pool.step(either.x[k : k + 1], slots[k : k + 1])
                if not late:
                    either.settle()
        with either.theirs:
            got = pool.read(slots).to_numpy()
        wanted = got if wanted is None else wanted
        assert_same(got, wanted)


def test_pools_on_two_streams(either):
    """Each pool steps many times on its own stream, with the bits that it has alone."""
    pools = [StatePool(either.cell, B) for _ in range(2)]
    slots = [pool.allocate(B) for pool in pools]
    xs = [either.x, cupy.asarray(either.x.get()[::-1].copy())]
    for pool, own, x in zip(pools, slots, xs, strict=True):
        for _ in range(STEPS):
            pool.step(x, own)
    wanted = [pool.read(own).to_numpy() for pool, own in zip(pools, slots, strict=True)]
    for pool, own in zip(pools, slots, strict=True):
        pool.reset(own)
    either.settle()
    for _ in range(STEPS):
        for pool, own, x, stream in zip(pools, slots, xs, (either.ours, either.theirs), strict=True):
            with stream:
                pool.step(x, own)
    for pool, own, want in zip(pools, slots, wanted, strict=True):
        assert_same(pool.read(own).to_numpy(), want)


def take_what_is_free():
    """Take and clear memory that CuPy believes to be free on its default stream."""
    taken = [cupy.zeros((size,), np.float32) for size in (4 * B * N, 16 * N, 128) for _ in range(20)]
    cupy.cuda.Stream.null.synchronize()
    return taken


def test_a_written_state_may_be_overwritten(either):
    """With host buffers, `write` returns only after it has read the state, even from pinned memory."""
    from fusedlstm.backends.cuda.runtime import pinned

    wanted = stepped(either)[1]
    stepper = either.cell.stepper(B, host=True)
    arrays = [pinned.zeros(array.shape, array.dtype) for array in (either.h, either.c)]
    for _ in TIMES:
        for own, array in zip(arrays, (either.h, either.c), strict=True):
            own[...] = array.get()
        stepper.write(LSTMState(h=arrays[0], c=arrays[1]))
        for own in arrays:
            own.fill(np.nan)
        stepper.step(either.x.get())
        assert_same(stepper.read(), wanted)


def test_a_stepper_that_is_deleted_while_it_runs(either):
    """Its memory isn't reused while a late step needs it."""
    wanted = stepped(either)[1]
    for _ in TIMES:
        stepper = either.cell.stepper(B)
        stepper.write(either.state)
        x, out = either.nan(either.x), either.nan(either.h)
        either.settle()
        either.late(x, either.x, either.ours)
        with either.ours:
            stepper.step(x)
            out[...] = stepper.h
        del stepper
        taken = take_what_is_free()
        with either.ours:
            np.testing.assert_array_equal(out.get(), wanted.h)
        assert not any(each.any() for each in taken)


def test_a_pool_that_is_deleted_while_it_runs(either):
    """Its memory isn't reused while a late step needs it."""
    wanted = stepped(either)[1]
    for _ in TIMES:
        pool = StatePool(either.cell, B)
        slots = pool.allocate(B)
        pool.write(slots, either.state)
        pool.step(either.x, slots)  # makes the buffers
        pool.write(slots, either.state)
        x, out = either.nan(either.x), either.nan(either.h)
        either.settle()
        either.late(x, either.x, either.ours)
        with either.ours:
            pool.step(x, slots, out=out)
        del pool
        taken = take_what_is_free()
        with either.ours:
            np.testing.assert_array_equal(out.get(), wanted.h)
        assert not any(each.any() for each in taken)


def test_a_pool_that_grows_while_it_runs(either, monkeypatch):
    """A larger step takes larger buffers. Those of a late step aren't reused early."""
    from fusedlstm.backends.cuda import matmul_slots

    monkeypatch.setattr(matmul_slots, "_MOST_BYTES", 0)  # so that the smaller ones are dropped
    few, many = 3, B
    x = either.copy(either.x)
    wanted = None
    for late in (False, *(True for _ in TIMES)):
        pool = StatePool(either.cell, 2 * B)
        slots = pool.allocate(2 * B)
        pool.step(x[:few], slots[:few])  # makes the buffers
        pool.write(slots[:B], either.state)
        first = either.nan(x) if late else x
        either.settle()
        if late:
            either.late(first, x, either.ours)
        with either.ours:
            pool.step(first[:few], slots[:few])
        with either.theirs:
            pool.step(x, slots[:many])
        taken = take_what_is_free()
        with either.theirs:
            got = pool.read(slots[:many]).to_numpy()
        wanted = got if wanted is None else wanted
        assert_same(got, wanted)
        assert not any(each.any() for each in taken)
