"""Pools on the emulated GPU: what a step queues, which engines are kept, and slots from the device."""

import contextlib
import gc

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMWeights, StackedWeights, StatePool

from driver import memory, observe
from support.backends import BACKENDS
from support.cells import host
from support.gpu_libraries import pretended_torch
from support.on_emulated_gpu import assert_after, cupys_kernels, needs_own_memory, nodes_of, on_device, settle

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
pytestmark = pytest.mark.skipif("emulated" not in BACKENDS, reason="needs the emulated GPU")

I, N = 5, 8


def make(capacity=40, layers=1, kernel="matmul", **options):
    """Return an owner, and a pool of it whose slots are all live with random states."""
    if layers == 1:
        owner = LSTMCell(LSTMWeights.random(I, N, seed=0, **options), backend="cuda", kernel=kernel)
    else:
        owner = LSTM(StackedWeights.random(I, N, layers, seed=0, **options), backend="cuda", kernel=kernel)
    pool = StatePool(owner, capacity)
    slots = pool.allocate(capacity)
    pool.step(inputs(owner, capacity), slots)
    return owner, pool


def inputs(owner, B, seed=0):
    return owner.asarray(np.random.default_rng(seed).normal(size=(B, I)))


@pytest.mark.parametrize(
    ("layers", "options", "each"),
    [
        (1, {}, ["matmul", "lstm_planned"]),
        (3, {"residual": [False, True, True]}, ["matmul", "lstm_planned"]),
        (1, {"proj_size": 3}, ["matmul", "lstm_planned", "matmul", "lstm_finish"]),
        (2, {"proj_size": 3, "proj_clip": 0.1}, ["matmul", "lstm_planned", "matmul", "lstm_finish"]),
    ],
)
def test_a_steps_graph(layers, options, each):
    """A layer is a matmul and a kernel, and a projection adds two more. Gathering comes before the graph."""
    _, pool = make(layers=layers, **options)
    assert nodes_of(pool._engine._step._buckets[64].graph) == each * layers


def test_a_steps_queued_work():
    """A step uploads slots, gathers rows, launches the graph and copies the output. `out` avoids allocation."""
    owner, pool = make()
    x, out = inputs(owner, 7), owner.asarray(np.zeros((7, N)))
    first = cupy.asarray(np.arange(7) % 2 == 0)
    slots = np.arange(7)
    for _ in range(9):
        pool.step(x, slots, out=out)
    made = memory.made()
    with cupy.cuda.Stream() as stream:
        pool.step(x, slots, out=out)
        observe.clear()
        pool.step(x, slots, is_first=first, out=out)
    queued = [entry for entry in observe.log() if entry[0] in ("launch", "graph")]
    assert [entry[0] for entry in queued] == ["launch", "launch", "graph", "launch"]
    assert {entry[1] for entry in queued} == {stream.ptr}
    assert memory.made() == made


def test_memory_of_uploads_is_not_reused_early():
    """The host waits before it overwrites slots that the GPU may not have read yet."""
    owner, pool = make()
    other, at_once = StatePool(owner, 40), pool._engine._step._uploads.AT_ONCE
    other.allocate(40)
    other.write(range(40), pool.read(range(40)))
    x, out = inputs(owner, 7), owner.asarray(np.zeros((7, N)))
    observe.clear()
    for first in range(2 * at_once + 1):
        pool.step(x, range(first, first + 7), out=out)
    assert [entry[0] for entry in observe.log()].count("synchronize") >= at_once
    for first in range(2 * at_once + 1):
        other.step(x, range(first, first + 7), strict=True)
    np.testing.assert_array_equal(host(pool.read(range(40)).h), host(other.read(range(40)).h))


def test_slots_of_a_larger_batch_are_uploaded():
    """Larger uploads may follow smaller ones."""
    owner, pool = make(200)
    for B in (3, 200, 5, 200):
        for _ in range(pool._engine._step._uploads.AT_ONCE):
            twin = StatePool(owner, 200)
            twin.allocate(200)
            slots = np.random.default_rng(B).permutation(200)[:B]
            twin.write(range(200), pool.read(range(200)))
            x = inputs(owner, B)
            np.testing.assert_array_equal(host(pool.step(x, slots)), host(twin.step(x, slots)))


def test_slots_and_flags_of_any_strides():
    owner, pool = make()
    x, twin = inputs(owner, 4), StatePool(owner, 40)
    twin.allocate(40)
    twin.write(range(40), pool.read(range(40)))
    slots, first = np.array([3, 0, 9, 0, 1, 0, 7, 0]), np.array([True, False, False, True, True, False, True, True])
    got = pool.step(x, on_device(slots)[::2], is_first=cupy.asarray(first)[::2])
    np.testing.assert_array_equal(host(got), host(twin.step(x, slots[::2], is_first=first[::2])))


# Engines.


def test_buckets_are_powers_of_two():
    owner, pool = make()
    for B in (1, 15, 16, 17, 31, 33, 40):
        pool.step(inputs(owner, B), range(B))
    assert sorted(pool._engine._step._buckets) == [16, 32, 64]


def test_prepared_buckets_are_kept(monkeypatch):
    """Prepared buckets stay, however large, and steps up to that size don't create others."""
    from fusedlstm.backends.cuda import matmul_slots

    monkeypatch.setattr(matmul_slots, "_MOST_BYTES", 0)
    owner, pool = make()
    pool.prepare(40)
    assert sorted(pool._engine._step._buckets) == [16, 32, 64]
    before, made = pool.memory, memory.made()
    out = {B: owner.asarray(np.zeros((B, N))) for B in (1, 20, 40)}
    x = {B: inputs(owner, B) for B in out}
    made = memory.made()
    for B in (1, 20, 40, 20, 1):
        pool.step(x[B], range(B), out=out[B])
    assert memory.made() == made
    assert pool.memory == before


@needs_own_memory
def test_least_recently_used_buckets_are_dropped(monkeypatch):
    """Buckets are dropped, and their memory freed, if they are too large together."""
    from fusedlstm.backends.cuda import matmul_slots

    owner, pool = make(128)
    for B in (16, 32, 64):
        pool.step(inputs(owner, B), range(B))
    sizes = {M: bucket.nbytes for M, bucket in pool._engine._step._buckets.items()}
    assert pool.memory.plans == sum(sizes.values())
    other = StatePool(owner, 128)
    slots = other.allocate(128)
    monkeypatch.setattr(matmul_slots, "_MOST_BYTES", sizes[16] + sizes[64] + sizes[128])
    for B in (16, 32, 64, 16):
        other.step(inputs(owner, B), slots[:B])
    settle()
    before = memory.alive()
    other.step(inputs(owner, 128), slots)
    assert list(other._engine._step._buckets) == [64, 16, 128]
    assert other.memory.plans <= matmul_slots._MOST_BYTES
    settle()
    assert memory.alive() - before < sizes[128] * 1.3 - sizes[32]


@needs_own_memory
def test_a_pools_memory_is_as_reported():
    owner = LSTMCell(LSTMWeights.random(I, N, seed=0), backend="cuda")
    settle()
    before = memory.alive()
    pool = StatePool(owner, 1000)
    assert memory.alive() - before >= pool.memory.states > 0
    assert memory.alive() - before <= pool.memory.states + 2048
    between = memory.alive()
    pool.prepare(100)
    settle()
    assert memory.alive() - between == pytest.approx(pool.memory.plans, rel=0.3)


@needs_own_memory
@pytest.mark.parametrize("others", [False, True])
def test_memory_runs_out_while_making_a_bucket(others):
    """The pool is unchanged and steps on. Buckets that were not prepared are dropped first."""
    owner, pool = make()
    x, wanted = inputs(owner, 40), [host(pool.read(range(40)).h), host(pool.read(range(40)).c)]
    if not others:
        pool._engine._step._buckets.clear()
    settle()
    kept = dict(pool._engine._step._buckets)
    with memory.limited(1000), pytest.raises(MemoryError):
        pool.step(inputs(owner, 3), [1, 2, 3])
    after = pool.read(range(40))
    np.testing.assert_array_equal(host(after.h), wanted[0])
    np.testing.assert_array_equal(host(after.c), wanted[1])
    assert not others or set(pool._engine._step._buckets) <= set(kept)
    got = host(pool.step(x, range(40)))
    other = StatePool(owner, 40)
    other.allocate(40)
    other.write(range(40), after)
    np.testing.assert_array_equal(got, host(other.step(x, range(40))))


@needs_own_memory
def test_memory_runs_out_when_a_pool_is_made():
    owner = LSTMCell(LSTMWeights.random(I, N, seed=0), backend="cuda")
    settle()
    before = memory.alive()
    with memory.limited(1000), pytest.raises(MemoryError):
        StatePool(owner, 10_000)
    settle()
    assert memory.alive() == before


# Slots on the device.


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_slots_of_the_device(dtype):
    """They give the same numbers as slots on the host, without waiting."""
    owner, pool = make()
    other = StatePool(owner, 40)
    other.allocate(40)
    other.write(range(40), pool.read(range(40)))
    slots, x = [3, 39, 0, 17], inputs(owner, 4)
    pool.step(inputs(owner, 1), on_device([5]))
    other.step(inputs(owner, 1), [5])
    observe.clear()
    got = pool.step(x, on_device(slots, dtype), is_first=[True, False, False, True])
    assert "synchronize" not in {entry[0] for entry in observe.log()}
    np.testing.assert_array_equal(host(got), host(other.step(x, slots, is_first=[True, False, False, True])))
    for part in ("h", "c"):
        mine, theirs = (host(getattr(each.read(range(40)), part)) for each in (pool, other))
        np.testing.assert_array_equal(mine, theirs)
    pool.check()


def test_bad_slots_of_the_device():
    """Their rows are padding, other rows step, and `check` raises once."""
    owner, pool = make()
    pool.release([7])
    before = host(pool.read([3, 5]).c)
    got = host(pool.step(inputs(owner, 6), on_device([3, 40, -2, 7, -1, 5])))
    assert not got[[1, 2, 3, 4]].any()
    assert got[[0, 5]].any(axis=1).all()
    assert (host(pool.read([3, 5]).c) != before).any(axis=1).all()
    message = (
        r"^slots: wanted live slots, each once, or -1 for a padding row; got 2 out of range \(one is (40|-2)\), "
        r"1 not live \(one is 7\)\. They came from a GPU"
    )
    with pytest.raises(ValueError, match=message):
        pool.check()
    pool.check()


def test_duplicate_slots_on_the_device():
    """One of the rows steps, and the other is padding."""
    owner, pool = make()
    x, before = inputs(owner, 3), pool.read([4])
    candidates = []
    for row in (0, 2):
        candidates.append(host(pool.step(x[row : row + 1], [4]))[0])
        pool.write([4], before)
    with pytest.raises(ValueError, match=r"got 1 twice in a step \(one is 4\)"):
        pool.step(x, on_device([4, 9, 4]), out=(out := owner.asarray(np.ones((3, N)))), strict=True)
    got = host(out)[[0, 2]]
    assert (got == 0).all(axis=1).sum() == 1
    winner = int(got.any(axis=1).argmax())
    np.testing.assert_allclose(got[winner], candidates[winner], atol=1e-6)
    np.testing.assert_array_equal(host(pool.read([4]).h)[0], got[winner])
    pool.step(x, on_device([4, 9, 5]), strict=True)  # the slot may step again in another step


def test_the_device_knows_which_slots_are_live():
    """Slots allocated or released after the first step are updated on the device."""
    owner, pool = make(10)

    def refused(slot):
        pool.step(inputs(owner, 1), on_device([slot]))
        try:
            pool.check()
        except ValueError as error:
            return f"1 not live (one is {slot})" in str(error)
        return False

    assert not refused(3)
    pool.release([3, 4])
    assert refused(3)
    assert pool.allocate(1).tolist() == [3]
    assert not refused(3)
    assert refused(4)


def test_loading_tells_the_device(tmp_path):
    owner, pool = make(10)
    path = tmp_path / "pool"
    pool.release([1, 2])
    pool.save(path)
    pool.step(inputs(owner, 1), on_device([0]), strict=True)
    pool.release([5])
    pool.load(path)
    pool.step(inputs(owner, 2), on_device([5, 0]), strict=True)
    with pytest.raises(ValueError, match=r"got 2 not live \(one is [12]\)"):
        pool.step(inputs(owner, 2), on_device([1, 2]), strict=True)


def test_errors_of_slots_on_the_device():
    owner, pool = make()
    x = inputs(owner, 2)
    with pytest.raises(TypeError, match=r"^slots: wanted integers; got dtype float32$"):
        pool.step(x, on_device([1, 2], np.float32))
    with pytest.raises(ValueError, match=r"^slots: wanted shape \(B,\) = \(2,\); got shape \(3,\)"):
        pool.step(x, on_device([1, 2, 3]))
    with cupy.cuda.Device(1):
        elsewhere = on_device([1, 2])
    with pytest.raises(ValueError, match=r"^slots: wanted an array on cuda:0; got one on cuda:1$"):
        pool.step(x, elsewhere)
    for call in (pool.release, pool.reset, pool.read):
        with pytest.raises(TypeError, match=r"^slots: wanted integers in host memory; got cupy"):
            call(on_device([1]))
    with pytest.raises(TypeError, match=r"^slots: wanted integers that int64 can hold; got dtype uint64"):
        pool.step(x, on_device([1, 2], np.uint64))


# Streams and other libraries.


def test_streams_take_turns():
    owner, pool = make()
    x = inputs(owner, 3)
    one, other = cupy.cuda.Stream(), cupy.cuda.Stream()
    with one:
        pool.step(x, [0, 1, 2])
    calls = [
        lambda: pool.step(x, [0, 1, 2]),
        lambda: pool.read([1]),
        lambda: pool.reset([1]),
        lambda: pool.write([1], pool.read([1])),
        lambda: pool.prepare(3),
        lambda: pool.allocate(0),
        lambda: pool.fork([]),
        lambda: pool.resize(pool.capacity + 1),
        lambda: pool.fork([1]),
    ]
    for call in calls:
        observe.clear()
        with other:
            call()
        assert_after(one.ptr, other.ptr)
        one, other = other, one


def test_two_pools_share_no_buffers():
    """Pools may therefore step on two streams at the same time."""
    owner, pool = make()
    other = StatePool(owner, 40)
    other.allocate(40)
    other.step(inputs(owner, 40), range(40))
    spans = []
    for each in (pool, other):
        step = each._engine._step._buckets[64].step
        layer = step._layers[0]
        own = (step.operand, step.c, step.output, step._workspace, layer._gates, each._engine._all_h)
        spans.append({array.data.ptr for array in own})
    assert not spans[0] & spans[1]


@pytest.fixture
def torch(monkeypatch):
    with pretended_torch.installed(monkeypatch) as torch:
        yield torch


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors(torch, dtype):
    """x, slots, flags and `out` may be PyTorch's, and the step runs on PyTorch's stream."""
    owner, pool = make(dtype=dtype)
    x = inputs(owner, 3)
    state = pool.read([4, 2, 0])
    wanted = host(pool.step(x, [4, 2, 0]))
    pool.write([4, 2, 0], state)
    torch.cuda.set_stream(stream := cupy.cuda.Stream())
    tensors = [torch.Tensor(array) for array in (x, on_device([4, 2, 0], np.int16), owner.asarray(np.zeros((3, N))))]
    observe.clear()
    got = pool.step(tensors[0], tensors[1], out=tensors[2], strict=True)
    assert got is tensors[2]
    assert {entry[1] for entry in observe.log() if entry[0] == "graph"} == {stream.ptr}
    np.testing.assert_array_equal(host(got), wanted)
    assert isinstance(pool.step(tensors[0], [1, 2, 3]), torch.Tensor)
    assert isinstance(pool.read([1], like=tensors[0]).h, torch.Tensor)


CALLS_IN_CAPTURES = {
    "step": lambda pool, x, slots, state: pool.step(x, [0, 1, 2]),
    "device step": lambda pool, x, slots, state: pool.step(x, slots),
    "allocate": lambda pool, x, slots, state: pool.allocate(1),
    "fork": lambda pool, x, slots, state: pool.fork([1]),
    "reset": lambda pool, x, slots, state: pool.reset([1]),
    "read": lambda pool, x, slots, state: pool.read([1]),
    "write": lambda pool, x, slots, state: pool.write([1], state),
    "resize": lambda pool, x, slots, state: pool.resize(50),
    "prepare": lambda pool, x, slots, state: pool.prepare(64),
    "check": lambda pool, x, slots, state: pool.check(),
    "save": lambda pool, x, slots, state: pool.save("never"),
}


@pytest.mark.parametrize("library", ["cupy", "torch"])
@pytest.mark.parametrize("kernel", ["matmul", "simt"])
def test_a_users_capture_refuses_calls(kernel, library, torch, tmp_path, monkeypatch):
    """They raise before any work. The capture stays valid, and slots that it releases are freed later."""
    monkeypatch.chdir(tmp_path)
    owner, pool = make(kernel=kernel)
    x, kept = inputs(owner, 3), on_device([0, 1, 2])
    pool.release([7])
    pool.step(x, kept)
    before, state = host(pool.read([0, 1, 2]).c), owner.zero_state(1)
    stream = cupy.cuda.Stream(non_blocking=True)
    if library == "torch":
        torch.cuda.set_stream(stream)
    with stream if library == "cupy" else contextlib.nullcontext():
        stream.begin_capture()
        observe.clear()
        for call in CALLS_IN_CAPTURES.values():
            with pytest.raises(RuntimeError, match="^a StatePool's calls can't be captured into a CUDA graph: "):
                call(pool, x, kept, state)
        pool.release([3, 4])
        assert not observe.log()
        stream.end_capture()
    assert pool.live == 37
    np.testing.assert_array_equal(host(pool.read([0, 1, 2]).c), before)
    assert pool.allocate(3).tolist() == [3, 4, 7]
    assert not any(tmp_path.iterdir())


@needs_own_memory
def test_memory_outlives_queued_work(monkeypatch):
    from fusedlstm.backends.cuda.runtime import streams as order

    owner, pool = make()
    x, slots = inputs(owner, 3), on_device([0, 1, 2])
    pool.step(x, slots)
    settle()
    before = memory.alive()
    running = [order._NOT_READY]
    monkeypatch.setattr(order.cupy.cuda.runtime, "eventQuery", lambda event: running[0])
    pool.step(x, slots)
    del pool
    gc.collect()
    assert memory.alive() == before
    running[0] = 0
    settle()
    assert memory.alive() < before


def test_new_bucket_leaves_the_current_stream():
    """The whole step that makes the bucket runs on that stream."""
    owner, pool = make()
    used = cupy.cuda.Stream()
    used.use()
    observe.clear()
    pool.step(inputs(owner, 3), [0, 1, 2])
    last = [entry for entry in observe.log() if entry[0] in ("launch", "graph")][-4:]
    assert {entry[1] for entry in last} == {used.ptr}
    assert cupy.cuda.get_current_stream() is used
    cupy.cuda.Stream.null.use()


def test_strict_waits():
    """strict=True waits even with slots on the host, so that errors of the GPU are raised."""
    owner, pool = make()
    observe.clear()
    pool.step(inputs(owner, 3), [0, 1, 2], strict=True)
    assert observe.log()[-1][0] == "synchronize"


@needs_own_memory
@pytest.mark.parametrize("what", ["save", "load"])
def test_files_of_a_pool_when_memory_is_scarce(what, tmp_path, monkeypatch):
    """States are copied to and from the host in parts."""
    from fusedlstm import pool_slots
    from fusedlstm.backends.cuda import pool as cuda_pool

    owner, pool = make(2000)
    path = tmp_path / "pool"
    pool.save(path)
    wanted = host(pool.read(range(2000)).c)
    monkeypatch.setattr(pool_slots, "_AT_ONCE", pool.memory.states // 20)
    monkeypatch.setattr(cuda_pool, "_AT_ONCE", pool.memory.states // 20)
    settle()
    with memory.limited(pool.memory.states // 2):
        pool.save(path) if what == "save" else pool.load(path)
    np.testing.assert_array_equal(host(pool.read(range(2000)).c), wanted)
    other = StatePool(owner, 2000)
    other.load(path)
    np.testing.assert_array_equal(host(other.read(range(2000)).c), wanted)


@needs_own_memory
def test_read_and_write_work_in_parts(monkeypatch):
    """They take little memory beyond the states themselves."""
    from fusedlstm.backends.cuda import pool as cuda_pool

    _, pool = make(2000)
    monkeypatch.setattr(cuda_pool, "_AT_ONCE", pool.memory.states // 20)
    settle()
    with memory.limited(int(1.3 * pool.memory.states)):
        state = pool.read(range(2000))
    settle()
    with memory.limited(pool.memory.states // 3):
        pool.write(range(2000), state)
    np.testing.assert_array_equal(host(pool.read(range(2000)).c), host(state.c))


@needs_own_memory
def test_prepared_buckets_survive_out_of_memory():
    owner, pool = make(900)
    pool.prepare(64)
    settle()
    before = [size for size in pool._engine._step._buckets if size <= 64]
    with memory.limited(1000), pytest.raises(MemoryError):
        pool.prepare(3600)
    assert [size for size in pool._engine._step._buckets if size <= 64] == before


@needs_own_memory
def test_other_buckets_make_room(monkeypatch):
    """Buckets that were not prepared are dropped one by one, after their work is done."""
    owner, pool = make(300)
    for B in (16, 32, 64, 128):
        pool.step(inputs(owner, B), range(B))
    x, out = inputs(owner, 300), owner.asarray(np.zeros((300, N)))
    room = pool._engine._step._buckets.pop(512).nbytes
    settle()
    observe.clear()
    with memory.limited(int(room * 0.9)):
        pool.step(x, range(300), out=out)
    assert ("synchronize", 0) in [entry[:2] for entry in observe.log()]
    assert 512 in pool._engine._step._buckets
    assert 16 not in pool._engine._step._buckets
    assert 128 in pool._engine._step._buckets


def test_a_pool_on_another_device():
    owner = LSTMCell(LSTMWeights.random(I, N, seed=0), backend="cuda:1")
    pool = StatePool(owner, 5)
    slots = pool.allocate(3)
    y = pool.step(inputs(owner, 3), slots)
    assert y.device.id == pool.read(slots).h.device.id == 1
    assert cupy.cuda.Device().id == 0


def test_a_prepared_pool_loads_nothing(monkeypatch):
    """Steps compile, load and pin nothing, as `prepare` has done it all."""
    from fusedlstm.backends.cuda import kernels, slot_kernels
    from fusedlstm.backends.cuda.runtime import pinned
    from fusedlstm.backends.cuda.runtime.kernel import Kernel

    for made in (slot_kernels.gather_kernel, kernels.planned_kernel, kernels.finish_kernel, kernels.reset_kernel):
        made.cache_clear()
    owner = LSTMCell(LSTMWeights.random(I, N, seed=0, dtype="float64", activation="elu", proj_size=2), backend="cuda")
    pool = StatePool(owner, 40)
    slots = pool.allocate(40)
    pool.prepare(40)
    monkeypatch.setattr(Kernel, "_load", lambda self, device: pytest.fail(f"{self.name} was loaded"))
    monkeypatch.setattr(pinned, "zeros", lambda *shape: pytest.fail("memory was pinned"))
    observe.clear()
    for B in (1, 17, 40):
        pool.step(inputs(owner, B), slots[:B], is_first=[True] * B)
        pool.step(inputs(owner, B), on_device(slots[:B]))
    assert not cupys_kernels()


# Forks and other capacities.


def test_a_fork_stays_on_the_device():
    """The host neither waits nor fetches. The fork runs after other streams' work."""
    owner, pool = make()
    pool.resize(60)
    pool.fork([1, 1])  # so that CuPy has its kernels
    observe.clear()
    with cupy.cuda.Stream() as stream:
        children = pool.fork([3, 39, 3])
    kinds = {entry.what for entry in observe.log()}
    assert "synchronize" not in {entry[0] for entry in observe.log()}
    assert {entry[1] for entry in observe.log() if entry[0] == "launch"} == {stream.ptr}
    assert kinds
    np.testing.assert_array_equal(host(pool.read(children).c), host(pool.read([3, 39]).c)[[0, 1, 0]])


@needs_own_memory
@pytest.mark.parametrize("kernel", ["matmul", "simt"])
def test_memory_runs_out_while_resizing(kernel):
    """The pool is unchanged and steps on."""
    owner, pool = make(kernel=kernel)
    x, wanted = inputs(owner, 40), pool.read(range(40))
    settle()
    before = memory.alive()
    for room in (1000, pool.memory.states + 20_000):
        with memory.limited(room), pytest.raises(MemoryError):
            pool.resize(100_000)
        settle()
        assert memory.alive() == before
    assert pool.capacity == 40
    np.testing.assert_array_equal(host(pool.read(range(40)).c), host(wanted.c))
    pool.step(x, range(40))


@needs_own_memory
@pytest.mark.parametrize("kernel", ["matmul", "simt"])
def test_resizing_frees_the_old_memory(kernel):
    owner, pool = make(1000, kernel=kernel)
    pool.prepare(100)
    pool.resize(1001)  # drops the buffers of more rows
    settle()
    before = memory.alive()
    for capacity in (2000, 1000, 4000, 1001):
        pool.resize(capacity)
    settle()
    assert memory.alive() == before


@pytest.mark.parametrize("kernel", ["matmul", "simt"])
def test_a_resized_pool_allocates_nothing(kernel):
    """If it was prepared before, it still is."""
    owner, pool = make(kernel=kernel)
    pool.prepare(40)
    pool.resize(70)
    x, out = inputs(owner, 40), owner.asarray(np.zeros((40, N)))
    made = memory.made()
    for _ in range(9):
        pool.step(x, range(40), out=out)
    assert memory.made() == made


def test_a_resized_pool_reports_earlier_problems():
    owner, pool = make(10)
    pool.step(inputs(owner, 2), on_device([3, 12]))
    pool.resize(20)
    pool.step(inputs(owner, 2), on_device([3, 12]))
    with pytest.raises(ValueError, match=r"got 1 out of range \(one is 12\), 1 not live \(one is 12\)"):
        pool.check()
    pool.check()
    pool.allocate(10)
    pool.step(inputs(owner, 2), on_device([3, 12]), strict=True)


def test_a_pools_memory_is_not_made_in_a_capture():
    owner, pool = make()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            for call in (lambda: pool.resize(50), lambda: StatePool(owner, 5)):
                with pytest.raises(RuntimeError, match=r"^(a|making a) StatePool('s calls)? can't be captured"):
                    call()
        finally:
            stream.end_capture()
    assert pool.capacity == 40
    pool.resize(50)
