"""Pools on the emulated GPU that step each layer with one kernel: what a step queues, and which states change."""

import gc
import weakref

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, StatePool
from fusedlstm.backends import kernel_choice
from fusedlstm.backends.cuda import tiles
from fusedlstm.backends.cuda.runtime import fork

from driver import memory, observe
from support import tolerances
from support.backends import BACKENDS
from support.cells import host, random_inputs
from support.on_emulated_gpu import (
    FORCED,
    TOLERANCE,
    assert_after,
    bits,
    bits_of,
    cupys_kernels,
    needs_own_memory,
    nodes,
    on_device,
    settle,
)

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
pytestmark = pytest.mark.skipif("emulated" not in BACKENDS, reason="needs the emulated GPU")

I, N = 5, 8
OWNERS = {
    "a cell": {},
    "a projection in the step": {"proj_size": 3, "proj_clip": 0.5},
    "a projection": {"N": 40, "proj_size": 6, "proj_clip": 0.5},
    "layers": {"N": 40, "layers": 3, "residual": [False, True, True]},
    "projections": {"N": 40, "layers": 3, "proj_size": 5, "residual": True},
}


def make(capacity=40, layers=1, kernel="simt", N=N, **options):
    """Return an owner, and a pool of it whose slots are all live with random states."""
    if layers == 1:
        owner = LSTMCell(LSTMWeights.random(I, N, seed=0, **options), backend="cuda", kernel=kernel)
    else:
        owner = LSTM(StackedWeights.random(I, N, layers, seed=0, **options), backend="cuda", kernel=kernel)
    pool = StatePool(owner, capacity)
    slots = pool.allocate(capacity)
    pool.step(inputs(owner, capacity), slots)
    return owner, pool


@pytest.fixture(params=OWNERS)
def options(request):
    return OWNERS[request.param]


def inputs(owner, B, seed=0):
    return owner.asarray(np.random.default_rng(seed).normal(size=(B, I)))


def twin_of(owner, pool, capacity=None):
    """Return another pool with the same slots, all live, and the same states."""
    other = StatePool(owner, capacity or pool.capacity)
    other.allocate(pool.capacity)
    other.write(pool.slots, pool.read(pool.slots))
    return other


def everything(pool):
    """Return the bits of everything that any step could change."""
    rows = pool._engine
    return bits(rows._all_h, rows._c, rows._step._words)


def states(pool, slots=None):
    return bits_of(pool.read(pool.slots if slots is None else slots))


def launched():
    """Return the name of each kernel launched since the log was cleared, in order."""
    return [entry.name.partition("<")[0] for entry in observe.log() if entry.what == "kernel"]


# What a step queues.


@pytest.mark.parametrize("where", ["host", "device"])
def test_a_steps_launches(where, options):
    """A layer takes one kernel. Slots on a device need one more, before the layers.

    If a cell has more units than a block, its projection takes one more kernel. Resets take none.
    """
    owner, pool = make(**options)
    B, each = 7, ["lstm_step", "lstm_project"] if {"N", "proj_size"} <= options.keys() else ["lstm_step"]
    slots = np.arange(B) if where == "host" else on_device(range(B))
    x, first = inputs(owner, B), cupy.asarray(np.arange(B) % 2 == 0)
    out = owner.asarray(np.zeros((B, owner.weights.output_size)))
    for _ in range(9):  # so that uploads have their memory and events
        pool.step(x, slots, out=out)
    made = memory.made()
    with cupy.cuda.Stream() as stream:
        pool.step(x, slots, out=out)
        for is_first in (None, first):
            observe.clear()
            pool.step(x, slots, is_first=is_first, out=out)
            before = [] if where == "host" else ["lstm_check"]
            names = launched()
            assert names == before + each * options.get("layers", 1)
            launches = len(names) + (where == "host")  # plus an upload
            assert [e[:2] for e in observe.log() if e[0] in ("launch", "graph")] == [("launch", stream.ptr)] * launches
            assert "wait" not in {e[0] for e in observe.log()}
    assert memory.made() == made


def test_memory_of_uploads_is_not_reused_early():
    """The host waits before it overwrites slots that the GPU may not have read yet."""
    owner, pool = make()
    other, at_once = twin_of(owner, pool), pool._engine._step._uploads.AT_ONCE
    x, out = inputs(owner, 7), owner.asarray(np.zeros((7, N)))
    observe.clear()
    for first in range(2 * at_once + 1):
        pool.step(x, range(first, first + 7), out=out)
    assert [entry[0] for entry in observe.log()].count("synchronize") >= at_once
    for first in range(2 * at_once + 1):
        other.step(x, range(first, first + 7), strict=True)
    assert states(pool) == states(other)


def unaligned(array, before):
    """Return the same numbers, `before` elements past a multiple of 16 bytes, with gaps between rows."""
    return cupy.asarray(np.pad(host(array), ((0, 0), (before, 6 - before))))[:, before : array.shape[1] + before]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_x_of_any_strides(options, dtype):
    """Strides and alignment of x change no bits."""
    owner, pool = make(dtype=dtype, **options)
    B, slots = 9, np.random.default_rng(0).permutation(40)[:9]
    x = inputs(owner, B)
    saved = pool.read(slots)
    wanted = bits(pool.step(x, slots)) + states(pool)
    ways = [unaligned(x, k) for k in range(4)]
    ways += [cupy.asarray(np.repeat(host(x), 2, axis=1))[:, ::2], cupy.asarray(host(x)[::-1].copy())[::-1]]
    for way in ways:
        pool.write(slots, saved)
        assert bits(pool.step(way, slots)) + states(pool) == wanted
    same = cupy.asarray(np.ones((1, I), dtype))
    for way in (cupy.asarray(np.ones((B, I), dtype)), cupy.asarray(np.broadcast_to(np.ones(I, dtype), (B, I)))):
        pool.write(slots, saved)
        got = bits(pool.step(way, slots))
    pool.write(slots[:1], tuple(row(s, 0) for s in saved) if isinstance(saved, tuple) else row(saved, 0))
    assert bits(pool.step(same, slots[:1]))[0] == got[0][: len(got[0]) // B]


def row(state, k):
    return LSTMState(h=state.h[k : k + 1], c=state.c[k : k + 1])


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("options", [{}, {"proj_size": 4}, {"N": 40, "proj_size": 4}, {"layers": 2}])
def test_out_at_any_address(offset, options):
    """An even width is written in pairs where addresses allow."""
    owner, pool = make(**options)
    other, B, width = twin_of(owner, pool), 6, owner.weights.output_size
    memory_of_out = cupy.asarray(np.full(B * width + 2, 7, np.float32))
    out = memory_of_out[offset : offset + B * width].reshape(B, width)
    x = inputs(owner, B)
    assert pool.step(x, range(B), out=out) is out
    assert bits(out) == bits(other.step(x, range(B)))
    assert host(memory_of_out)[offset + B * width :].tolist() == [7] * (2 - offset)
    assert host(memory_of_out)[:offset].tolist() == [7] * offset


# Which states change.


def test_idle_slots_keep_their_bits(options):
    """States and words keep every bit while other slots step an odd or even number of times."""
    owner, pool = make(**options)
    rng = np.random.default_rng(0)
    asleep, at_times = np.arange(0, 40, 4), np.arange(1, 40, 4)
    other = twin_of(owner, pool)
    kept, words = states(pool, asleep), host(pool._engine._step._words)[asleep].copy()
    for t in range(7):
        slots = np.concatenate([np.arange(2, 40, 4), at_times if t % 3 == 0 else []]).astype(int)
        x = rng.normal(size=(40, I))
        order = rng.permutation(slots)
        got = host(pool.step(owner.asarray(x[order]), order))
        # The twin steps the same rows one by one, so that no two share a launch.
        for k, slot in enumerate(order):
            alone = other.step(owner.asarray(x[slot : slot + 1]), [slot])
            assert bits(alone) == [got[k : k + 1].tobytes()]
        assert states(pool, asleep) == kept
        assert (host(pool._engine._step._words)[asleep] == words).all()
        assert states(pool) == states(other)


def test_words_say_which_row_is_the_state(options):
    """A slot's other row is the previous state, and is the only one that the next step writes."""
    owner, pool = make(**options)
    x, rows = inputs(owner, 3), pool._engine
    for t in range(4):
        before, words = host(rows._all_h).copy(), host(rows._step._words).copy()
        pool.step(x, [3, 17, 39])
        after, now = host(rows._all_h), host(rows._step._words)
        changed = np.flatnonzero((before != after).any(axis=1))
        assert changed.tolist() == [2 * s + 1 - int(words[s] & np.uint64(1)) for s in (3, 17, 39)]
        turned = np.flatnonzero(words != now)
        assert turned.tolist() == [3, 17, 39]
        assert ((words ^ now)[turned] & np.uint64(1) == 1).all()
        assert (now[turned] >> np.uint64(1) == pool._engine._step._tick).all(), t


def test_padding(options):
    """Rows of slot -1 give zeros, change no state, and x is not read for them."""
    owner, pool = make(**options)
    other = twin_of(owner, pool)
    x = inputs(owner, 6)
    x[1::2] = np.nan
    got = host(pool.step(x, [4, -1, 9, -1, 0, -1]))
    assert got[::2].tobytes() == host(other.step(x[::2], [4, 9, 0])).tobytes()
    assert not got[1::2].any()
    assert states(pool) == states(other)
    kept = everything(pool)
    assert not host(pool.step(x, [-1] * 6)).any()
    assert not host(pool.step(x, on_device([-1] * 6), is_first=[True] * 6)).any()
    assert everything(pool) == kept
    pool.check()


def test_bad_slots_of_the_device(options):
    """They are reported as usual, and only the slots that step change."""
    owner, pool = make(**options)
    pool.release([7, 8])
    kept = everything(pool)
    x = inputs(owner, 6)
    assert not host(pool.step(x, on_device([40, -2, 7, -1, 8, 1 << 40]), is_first=[True] * 6)).any()
    assert everything(pool) == kept
    with pytest.raises(ValueError, match=r"got 3 out of range \(one is .*\), 2 not live \(one is [78]\)"):
        pool.check()
    other = StatePool(owner, 40)
    other.allocate(40)
    other.write(range(40), twin_of_all(owner, pool))
    got = host(pool.step(x, on_device([3, 40, 7, 5, 3, -1])))
    with pytest.raises(ValueError, match=r"got 1 out of range \(one is 40\), 1 not live \(one is 7\), 1 twice"):
        pool.check()
    stepped = [k for k in (0, 3, 4) if got[k].any()]
    assert len(stepped) == 2
    assert 3 in stepped
    assert not np.delete(got, stepped, axis=0).any()
    wanted = other.step(x[stepped], [(3, 40, 7, 5, 3)[k] for k in stepped])
    assert bits(wanted) == [got[stepped].tobytes()]
    live = pool.slots
    assert states(pool, live) == states(other, live)


def twin_of_all(owner, pool):
    """Return the states of all slots, with zeros for the free ones."""
    live = pool.slots
    read = pool.read(live)

    def spread(part):
        full = np.zeros((40, part.shape[1]), part.dtype)
        full[live] = host(part)
        return cupy.asarray(full)

    def whole(state):
        return LSTMState(h=spread(state.h), c=spread(state.c))

    return tuple(map(whole, read)) if isinstance(read, tuple) else whole(read)


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("steps", [0, 1])
def test_resets(steps, where, options):
    """is_first has the effect of `reset`, whichever of a slot's two rows is current."""
    owner, pool = make(**options)
    slots, x = [3, 39, 0, 17], inputs(owner, 4)
    for _ in range(steps):
        pool.step(x[:2], slots[:2])
    other = twin_of(owner, pool)
    other.reset([3, 17])
    first = np.array([True, False, False, True])
    if where == "device":
        got = pool.step(x, on_device(slots), is_first=cupy.asarray(first))
    else:
        got = pool.step(x, slots, is_first=first)
    assert bits(got) == bits(other.step(x, slots))
    assert states(pool) == states(other)


def test_read_write_and_reset_after_any_steps(options):
    owner, pool = make(**options)
    x = inputs(owner, 4)
    for steps in range(4):
        for _ in range(steps):
            pool.step(x, [1, 2, 3, 4])
        saved, kept = pool.read([4, 2]), states(pool, [0, 1, 3])
        wanted = bits(pool.step(x[:2], [4, 2]))
        pool.write([4, 2], saved)
        assert states(pool, [4, 2]) == bits_of(saved)
        assert states(pool, [0, 1, 3]) == kept
        assert bits(pool.step(x[:2], [4, 2])) == wanted
        pool.reset([2])
        assert not any(np.frombuffer(each, np.uint8).any() for each in states(pool, [2]))
        pool.release([4])
        assert pool.allocate(1).tolist() == [4]
        assert not any(np.frombuffer(each, np.uint8).any() for each in states(pool, [4]))
        fresh = StatePool(owner, 2)
        assert bits(pool.step(x[:2], [4, 2])) == bits(fresh.step(x[:2], fresh.allocate(2)))
        assert states(pool, [0, 1, 3]) == kept


@pytest.mark.parametrize("capacity", [45, 60])
def test_forks_after_any_steps(capacity, options):
    """Children have their parents' states, whichever rows of their slots are current, also in a resized pool."""
    owner, pool = make(**options)
    x = inputs(owner, 4)
    pool.resize(capacity)
    for steps in range(4):
        for _ in range(steps):
            pool.step(x, [1, 2, 3, 4])
        kept = states(pool, range(40))
        children = pool.fork([4, 2, 4, 9])
        assert states(pool, range(40)) == kept
        assert [states(pool, [child]) for child in children] == [states(pool, [k]) for k in (4, 2, 4, 9)]
        twin = twin_of(owner, pool)
        assert bits(pool.step(x, children)) == bits(twin.step(x, children))
        pool.release(children)
        assert states(pool, range(40)) == kept


def test_files_after_an_odd_number_of_steps(tmp_path, options):
    """A pool of another capacity loads the file, though its slots have other current rows."""
    owner, pool = make(**options)
    x = inputs(owner, 13)
    for slots in (range(13), range(5, 18), range(20)[:13], [1, 39]):
        pool.step(x[: len(slots)], slots)
    pool.release([2, 3])
    path = tmp_path / "pool"
    pool.save(path)
    other = StatePool(owner, 57)
    for n in (9, 20):
        other.step(x[:9], other.allocate(n)[:9])
    other.load(path)
    assert other.slots.tolist() == pool.slots.tolist()
    for _ in range(2):
        assert states(other) == states(pool)
        assert bits(other.step(x[:4], [0, 1, 17, 39])) == bits(pool.step(x[:4], [0, 1, 17, 39]))
    cpu = StatePool(type(owner)(owner.weights, backend="numpy"), 41)
    cpu.load(path)
    pool.load(path)
    assert [bits_of(cpu.read(cpu.slots))] == [states(pool)]


def test_ticks_beyond_32_bits():
    owner, pool = make()
    other, x = twin_of(owner, pool), inputs(owner, 5)
    for tick in ((1 << 31) - 2, (1 << 32) - 2, (1 << 33) - 2, (1 << 62) - 9):
        pool._engine._step._tick = tick
        for slots in ([1, 2, 3, 4, 5], [3, 4, 5, 6, 7], [1, 3, 5, 7, 9], [39, 38, 37, 36, 35]):
            assert bits(pool.step(x, slots)) == bits(other.step(x, slots))
        assert states(pool) == states(other)


def test_two_pools_of_one_cell():
    owner, one = make()
    other = twin_of(owner, one)
    x, kept = inputs(owner, 8), everything(other)
    wanted = [bits(one.step(x, range(8))) for _ in range(3)]
    assert everything(other) == kept
    one.step(inputs(owner, 40), range(40))
    assert [bits(other.step(x, range(8))) for _ in range(3)] == wanted


@pytest.mark.parametrize("failing", ["lstm_step", "lstm_project", "the second lstm_step"])
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_launch_that_fails_midway(failing, error, monkeypatch):
    """Words and other slots don't change, and the pool steps on."""
    from fusedlstm.backends.cuda.runtime.packed import PackedLaunch

    owner, pool = make(layers=2, N=40, proj_size=5)
    x, steps, bind = inputs(owner, 3), [], PackedLaunch.bound
    others, words = states(pool, range(3, 40)), bits(pool._engine._step._words)

    def fail():
        raise error("lost")

    def bound(self, *launch):
        name = self.name.partition("<")[0]
        steps.append(name)
        if name == failing.rpartition(" ")[2] and (steps.count(name) == 2 or not failing.startswith("the")):
            return fail
        return bind(self, *launch)

    with monkeypatch.context() as patch:
        patch.setattr(PackedLaunch, "bound", bound)
        with pytest.raises(error, match="lost"):
            pool.step(x, [0, 1, 2])
    assert bits(pool._engine._step._words) == words
    assert states(pool, range(3, 40)) == others
    other = twin_of(owner, pool)
    for _ in range(3):
        assert bits(pool.step(x, [0, 1, 2])) == bits(other.step(x, [0, 1, 2]))
    assert states(pool) == states(other)


# Numbers, with every kernel.


@pytest.mark.parametrize(("kernel", "dtype", "precision"), FORCED)
@pytest.mark.parametrize("projected", [{}, {"proj_size": 5, "proj_clip": 0.1, "peephole": True, "cell_clip": 0.8}])
def test_a_pool_equals_its_cell_and_float64(kernel, dtype, precision, projected):
    """A pool has the bits of the cell with the same kernel, and both are close to float64."""
    weights = LSTMWeights.random(23, 37, seed=0, dtype=dtype, **projected)
    cell = LSTMCell(weights, backend="cuda", precision=precision, kernel=kernel)
    exact = LSTMCell(weights.astype("float64"), backend="numpy")
    pool, rng = StatePool(cell, 90), np.random.default_rng(0)
    pool.allocate(90)
    assert pool.kernels(5) == pool.kernels(5000) == (kernel,)
    for B in (3, 9, 70):
        slots, x = rng.permutation(90)[:B], cell.asarray(rng.normal(size=(B, 23)))
        old = pool.read(slots)
        first = rng.random(B) < 0.3
        got = pool.step(x, slots, is_first=first)
        new = cell(x, old, is_first=first)
        assert bits(got) == bits(new.h)
        assert states(pool, slots) == bits_of(new)
        wide = LSTMState(h=host(old.h).astype("f8"), c=host(old.c).astype("f8"))
        wanted = exact(host(x).astype("f8"), wide, is_first=first)
        tolerance = TOLERANCE.get(precision, tolerances.of(dtype, 60))
        np.testing.assert_allclose(host(got).astype("f8"), wanted.h, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_pool_equals_the_lstm(dtype, options):
    owner, pool = make(dtype=dtype, **options)
    rng = np.random.default_rng(0)
    for B in (1, 17, 33):
        slots, x = rng.permutation(40)[:B], owner.asarray(rng.normal(size=(B, I)))
        old = pool.read(slots)
        if isinstance(owner, LSTM):
            wanted, new = owner.step(x, old)
        else:
            new = owner(x, old)
            wanted = new.h
        assert bits(pool.step(x, slots)) == bits(wanted)
        assert states(pool, slots) == bits_of(new)


def test_kernels_depend_on_the_batch():
    """Batches of other sizes may use other kernels, whose sums have another order."""
    owner = LSTMCell(LSTMWeights.random(256, 256, seed=0, dtype="bfloat16"), backend="cuda")
    pool = StatePool(owner, 300)
    pool.allocate(300)
    assert [pool.kernels(B) for B in (1, 64, 300)] == [("tensor_small",), ("tensor_small",), ("tensor_medium",)]
    rng = np.random.default_rng(0)
    x = owner.asarray(rng.normal(size=(300, 256)))
    few = host(pool.step(x[:5], range(5))).astype(float)
    pool.reset(range(5))
    np.testing.assert_allclose(host(pool.step(x, range(300)))[:5].astype(float), few, atol=2**-8)
    large = LSTMCell(LSTMWeights.random(2048, 2048, seed=0, dtype="bfloat16"), backend="cuda")
    assert kernel_choice.choose_layers(5, [(2048, 2048, None)], "bfloat16", "highest", 90) == ("matmul",)
    assert StatePool(large, 5).kernels(5) == ("matmul",)


# Projections, in the step's launch or in their own.


def in_one_launch(monkeypatch, *, projects):
    monkeypatch.setattr(tiles.Tile, "projects", lambda *_: projects)


@pytest.mark.sampled
@pytest.mark.parametrize(("kernel", "dtype", "precision"), FORCED)
@pytest.mark.parametrize("P", [19, 4])
def test_projections_agree_in_one_or_two_launches(kernel, dtype, precision, P, monkeypatch):
    """Calls, Steppers and pools have the same bits either way."""
    options = {"proj_size": P, "proj_clip": 0.3, "dtype": dtype}
    cell = LSTMCell(LSTMWeights.random(9, 70, seed=0, **options), backend="cuda", precision=precision, kernel=kernel)
    B, results = 70, {}
    x, state = random_inputs(cell, B)
    slots = np.random.default_rng(0).permutation(100)[:B]
    for projects in (True, False):
        with monkeypatch.context() as patch:
            in_one_launch(patch, projects=projects)
            stepper, pool = cell.stepper(B), StatePool(cell, 100)
            assert nodes(stepper) == ["lstm_step"] + ["lstm_project"] * (not projects)
            stepper.write(state)
            pool.allocate(100)
            pool.write(slots, state)
            for _ in range(2):
                stepper.step(x)
                got = pool.step(x, slots)
            results[projects] = bits_of(cell(x, state)), bits_of(stepper.state), states(pool, slots)
            assert bits(got) == bits(stepper.output) == bits(stepper.h)
            assert states(pool, slots) == bits_of(stepper.state)
    assert results[True] == results[False]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_bits_agree_if_launches_depend_on_batch(dtype, monkeypatch):
    """In a batch-invariant pool, larger batches project in one launch and others in two."""
    monkeypatch.setattr(tiles, "_ENOUGH_BLOCKS", 1)
    weights = LSTMWeights.random(9, 70, seed=0, proj_size=19, dtype=dtype)
    cell = LSTMCell(weights, backend="cuda", batch_invariant=True)
    pool, one = StatePool(cell, 150), StatePool(cell, 150)
    for each in (pool, one):
        each.allocate(150)
    rng, seen = np.random.default_rng(0), set()
    for B in (3, 150, 20, 64, 1, 70, 15, 150, 2):
        slots, x = rng.permutation(150)[:B], cell.asarray(rng.normal(size=(B, 9)))
        observe.clear()
        got = host(pool.step(x, slots))
        seen.add(tuple(launched()))
        for k in (0, B // 2, B - 1):
            row = one.read(slots[k : k + 1])
            assert bits(cell(x[k : k + 1], row).h) == [got[k : k + 1].tobytes()]
        one.write(slots, cell(x, one.read(slots)))
        assert states(pool, slots) == states(one, slots)
    assert seen == {("lstm_step",), ("lstm_step", "lstm_project")}


def test_batches_of_any_order(options):
    """Larger and smaller batches alternate, and buffers grow. Results equal stepping one by one."""
    owner, pool = make(100, **options)
    pool = twin_of(owner, pool)  # without buffers
    other, rng = twin_of(owner, pool), np.random.default_rng(0)
    for B in (1, 2, 17, 1, 70, 3, 65, 100, 64, 16, 33, 1):
        slots, x = rng.permutation(100)[:B], owner.asarray(rng.normal(size=(B, I)))
        first = rng.random(B) < 0.2 if B % 2 else None
        got = host(pool.step(x, slots, is_first=first))
        for k, slot in enumerate(slots):
            flags = None if first is None else first[k : k + 1]
            assert host(other.step(x[k : k + 1], [slot], is_first=flags)).tobytes() == got[k : k + 1].tobytes()
    assert states(pool) == states(other)


@pytest.mark.sampled
def test_callers_arrays_are_not_kept(options):
    """x, `out`, flags and slots are released after the step."""
    owner, pool = make(**options)
    for made in (np.arange, lambda n: on_device(range(n))):
        slots = made(7)
        x, out = inputs(owner, 7), owner.asarray(np.zeros((7, owner.weights.output_size)))
        first = cupy.asarray(np.ones(7, bool))
        pool.step(x, slots, is_first=first, out=out)
        pool.step(x, slots)
        held = [weakref.ref(each) for each in (x, out, first, slots)]
        del x, out, first, slots
        settle()
        assert not any(ref() is not None for ref in held)


# Weights.


@pytest.mark.parametrize("where", ["host", "device"])
def test_weights_are_set_in_turn(where, options):
    """Weights change after a step on another stream and before the next. The GPU rewrites the kernels' copies."""
    owner, pool = make(**options)
    more = {"num_layers": 3} if "layers" in options else {}
    more |= {name: value for name, value in options.items() if name not in ("layers", "N")}
    new = type(owner.weights).random(I, options.get("N", N), seed=1, **more)
    x, stream = inputs(owner, 4), cupy.cuda.Stream()
    slots = [1, 2, 3, 4] if where == "host" else on_device([1, 2, 3, 4])
    with stream:
        pool.step(x, slots)
        saved = pool.read(range(40))
    observe.clear()
    owner.set_weights(new)
    assert "wait" in [entry[0] for entry in observe.log()], "setting weights should wait for the step and the read"
    with stream:
        observe.clear()
        got = pool.step(x, slots)
    kinds = [entry[0] for entry in observe.log()]
    assert kinds.index("wait") < kinds.index("launch")
    assert_after(0, stream.ptr)
    fresh = type(owner)(new, backend="cuda", kernel="simt")
    other = StatePool(fresh, 40)
    other.allocate(40)
    other.write(range(40), saved)
    assert bits(got) == bits(other.step(x, [1, 2, 3, 4]))
    assert states(pool) == states(other)


# Memory.


def test_growth_keeps_buffers_of_queued_work(monkeypatch):
    """A larger batch takes larger buffers. Smaller ones live until queued work is done."""
    from fusedlstm.backends.cuda.runtime import streams as order

    owner, pool = make(200, layers=2, N=40, proj_size=5)
    other = StatePool(owner, 200)
    other.allocate(200)
    other.step(inputs(owner, 3), range(3))
    monkeypatch.setattr(order.cupy.cuda.runtime, "eventQuery", lambda event: order._NOT_READY)
    room = other._engine._step._room
    held = [weakref.ref(array) for array in (room.slots, room.m, *room.between)]
    assert room.rows == 16
    del room
    other.step(inputs(owner, 100), range(100))
    gc.collect()
    assert other._engine._step._room.rows == 128
    assert all(ref() is not None for ref in held)
    other.step(inputs(owner, 3), range(3))
    assert other._engine._step._room.rows == 128
    monkeypatch.undo()
    settle()
    assert not any(ref() is not None for ref in held)
    del pool


@needs_own_memory
def test_memory_outlives_queued_work(monkeypatch):
    from fusedlstm.backends.cuda.runtime import streams as order

    owner, pool = make(N=40, proj_size=3)
    x, slots = inputs(owner, 3), on_device([0, 1, 2])
    pool.step(x, slots)
    settle()
    before = memory.alive()
    running = [order._NOT_READY]
    monkeypatch.setattr(order.cupy.cuda.runtime, "eventQuery", lambda event: running[0])
    pool.step(x, slots, out=owner.asarray(np.zeros((3, 3))))
    del pool, owner
    gc.collect()
    assert memory.alive() >= before
    running[0] = 0
    settle()
    assert memory.alive() < before


@needs_own_memory
def test_a_pools_memory_is_as_reported(options):
    owner, _ = make(**options)
    settle()
    before = memory.alive()
    pool = StatePool(owner, 1000)
    assert memory.alive() - before >= pool.memory.states > 0
    assert memory.alive() - before <= pool.memory.states + 2048
    between = memory.alive()
    pool.prepare(1000)
    settle()
    assert memory.alive() - between == pytest.approx(pool.memory.plans, rel=0.3)


def test_a_state_takes_two_h_and_one_c():
    owner = LSTMCell(LSTMWeights.random(8, 64, seed=0, dtype="bfloat16"), backend="cuda", kernel="tensor_small")
    pool = StatePool(owner, 1000)
    assert pool.memory.states == 1000 * (2 * 64 * 2 + 64 * 4 + 8)


@needs_own_memory
def test_memory_runs_out():
    """If making buffers fails, the pool is unchanged and steps on."""
    owner, pool = make(2000, N=40, proj_size=3)
    small = twin_of(owner, pool)
    small.step(inputs(owner, 3), [1, 2, 3])
    settle()
    kept, held = everything(small), small.memory
    for call in (lambda: small.step(inputs(owner, 2000), range(2000)), lambda: small.prepare(2000)):
        with memory.limited(20_000), pytest.raises(MemoryError):
            call()
        settle()
        assert everything(small) == kept
        assert small.memory == held
    small.step(inputs(owner, 2000), range(2000))


@pytest.mark.parametrize("width", [4, I])
@pytest.mark.parametrize(("kernel", "units"), [("simt", 8), ("simt", 40), (None, 40)])
def test_a_prepared_pool_allocates_nothing(width, kernel, units, monkeypatch):
    """Steps up to the prepared size compile or load no kernel, and allocate or pin no memory."""
    from fusedlstm.backends.cuda import kernels as launch
    from fusedlstm.backends.cuda import slot_kernels, step_kernels
    from fusedlstm.backends.cuda.runtime import pinned
    from fusedlstm.backends.cuda.runtime.kernel import Kernel

    for made in (step_kernels.step_kernel, step_kernels.project_kernel, slot_kernels.check_kernel, launch.reset_kernel):
        made.cache_clear()
    monkeypatch.setattr(kernel_choice, "choose_layers", lambda B, sizes, *_, **__: ("tensor_small",) * len(sizes))
    dtype = "float64" if kernel else "bfloat16"
    weights = StackedWeights.random(width, units, 2, seed=0, dtype=dtype, activation="elu", proj_size=4)
    owner = LSTM(weights, backend="cuda", kernel=kernel)
    pool = StatePool(owner, 150)
    slots = pool.allocate(150)
    pool.prepare(150)
    xs = {B: owner.asarray(np.ones((B, width))) for B in (1, 8, 9, 17, 64, 65, 150)}
    outs = {B: owner.asarray(np.zeros((B, 4))) for B in xs}
    of_device = {B: on_device(slots[:B]) for B in xs}
    firsts = {B: cupy.asarray(np.ones(B, bool)) for B in xs}
    off = {B: unaligned(x, 1) for B, x in xs.items()}
    monkeypatch.setattr(Kernel, "_load", lambda self, device: pytest.fail(f"{self.name} was loaded"))
    monkeypatch.setattr(pinned, "zeros", lambda *shape: pytest.fail("memory was pinned"))
    made = memory.made()
    observe.clear()
    for B, x in xs.items():
        for each in (x, off[B]):
            pool.step(each, slots[:B], is_first=firsts[B], out=outs[B])
            pool.step(each, of_device[B], out=outs[B])
    assert memory.made() == made
    assert not cupys_kernels()


def test_preparing_changes_no_state(options):
    owner, pool = make(**options)
    kept = everything(pool)
    pool.prepare(200)
    assert everything(pool) == kept
    for most in (0, 1):
        empty = StatePool(owner, 3)
        empty.prepare(most)


def test_rooms_are_shared_by_batches():
    from fusedlstm.backends.cuda import fused_slots

    owner, pool = make()
    rooms = set()
    for B in (40, 1, 33, 17):
        pool.step(inputs(owner, B), range(B))
        rooms.add(pool._engine._step._room)
    assert len(rooms) == 1
    fewest = StatePool(owner, 3)
    fewest.step(inputs(owner, 1), fewest.allocate(1))
    assert fewest._engine._step._room.rows == fused_slots._FEWEST


# Streams and processes.


def test_streams_take_turns():
    owner, pool = make()
    x = inputs(owner, 3)
    one, other = cupy.cuda.Stream(), cupy.cuda.Stream()
    with one:
        pool.step(x, [0, 1, 2])
    calls = [
        lambda: pool.step(x, [0, 1, 2]),
        lambda: pool.step(x, on_device([0, 1, 2])),
        lambda: pool.read([1]),
        lambda: pool.reset([1]),
        lambda: pool.write([1], pool.read([1])),
        lambda: pool.prepare(3),
        lambda: pool.allocate(0),
    ]
    for call in calls:
        observe.clear()
        with other:
            call()
        assert_after(one.ptr, other.ptr)
        one, other = other, one


def test_a_finalizer_may_run_anywhere():
    """A pool may be freed while other memory is freed, without a deadlock."""
    from fusedlstm.backends.cuda.runtime import streams as order

    _, pool = make()
    noted = weakref.ref(pool)
    order._keep_until(cupy.cuda.Event(), [pool])
    del pool
    settle()
    assert noted() is None


def test_calls_in_a_forked_process_raise(monkeypatch):
    owner, pool = make()
    x, kept = inputs(owner, 2), everything(pool)
    tick = pool._engine._step._tick
    monkeypatch.setattr(fork, "forked", True)
    for call in (
        lambda: pool.step(x, [1, 2]),
        lambda: pool.read([1]),
        lambda: pool.reset([1]),
        lambda: pool.prepare(9),
    ):
        with pytest.raises(RuntimeError, match="this process was forked after CUDA had been used"):
            call()
    monkeypatch.undo()
    assert everything(pool) == kept
    assert pool._engine._step._tick == tick


def test_a_pool_on_another_device():
    owner = LSTMCell(LSTMWeights.random(I, N, seed=0), backend="cuda:1", kernel="simt")
    pool = StatePool(owner, 5)
    slots = pool.allocate(3)
    with cupy.cuda.Device(1):
        of_device = on_device(slots)
    for given in (slots, of_device):
        y = pool.step(inputs(owner, 3), given)
        assert y.device.id == pool.read(slots).h.device.id == 1
        assert cupy.cuda.Device().id == 0
    pool.check()


@needs_own_memory
@pytest.mark.parametrize("kernel", ["simt", "matmul"])
@pytest.mark.parametrize("kind", ["cell", "pool", "stepper"])
def test_dead_objects_free_their_memory_at_once(kind, kernel):
    """They are not in a cycle, so their memory doesn't wait for a garbage collection."""
    from fusedlstm.backends.cuda.runtime.streams import _release_finished

    def use():
        cell = LSTMCell(LSTMWeights.random(I, 40, seed=0, proj_size=5), backend="cuda", kernel=kernel)
        x = cell.asarray(np.zeros((3, I)))
        if kind == "cell":
            cell(x, cell.zero_state(3), is_first=[True] * 3, reset_to=cell.zero_state(1))
        elif kind == "pool":
            pool = StatePool(cell, 50)
            pool.step(x, pool.allocate(3))
        else:
            cell.stepper(3).step(x)
        cupy.cuda.Device().synchronize()

    use()
    settle()
    before = memory.alive()
    gc.disable()
    try:
        use()
        _release_finished()
        assert memory.alive() == before
    finally:
        gc.enable()
