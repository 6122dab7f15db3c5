"""StatePool: slots, steps, other libraries, memory, threads and failures half-way."""

import copy
import itertools
import pickle
import sys
import threading
import tracemalloc

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, PoolFullError, StackedWeights, StatePool
from fusedlstm.backends.numpy import blas

from support import moments
from support.backends import WAYS, backend_in_a_way
from support.cells import host
from support.foreign import ON_CPU, ON_GPU, DlpackOnCpu
from support.pools import advance, assert_as_the_cells, layers_of, make_pool, random_layers, state_of

I, N, P = 3, 4, 2
DTYPES = ["float64", "float32", "float16", "bfloat16"]


@pytest.fixture(params=WAYS)
def backend(request, monkeypatch):
    """Each backend, and on a GPU both ways of stepping."""
    return backend_in_a_way(request, monkeypatch)


def plain_cell(backend, dtype="float32", seed=0, **options):
    return LSTMCell(LSTMWeights.random(I, N, dtype=dtype, seed=seed, **options), backend=backend)


def layered(backend, seed=0):
    layers = [
        LSTMWeights.random(I, N, proj_size=P, seed=seed),
        LSTMWeights.random(P, 5, proj_size=P, seed=seed + 1),
    ]
    return LSTM(StackedWeights(layers, residual=[False, True]), backend=backend)


def filled(owner, capacity, live, seed=0):
    """Return a pool whose first slots are live with random states, and those states."""
    pool = make_pool(owner, capacity)
    layers = random_layers(owner, live, np.random.default_rng(seed))
    pool.write(pool.allocate(live), state_of(owner, layers))
    return pool, layers


def inputs(owner, B, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(B, owner.weights.input_size)).astype(owner.dtype)


def contents(pool):
    """Return everything that a pool holds, in a form that can be compared."""
    slots = pool.slots
    layers = layers_of(pool._cell, pool.read(slots))
    return slots.tolist(), [(state.h.tobytes(), state.c.tobytes()) for state in layers]


# Slots.


def test_slots_are_allocated_in_order(backend):
    """Reuse the slots of the last release first, in the order given. Then take unused slots in ascending order."""
    pool = make_pool(plain_cell(backend), 6)
    assert (pool.capacity, pool.live, pool.slots.tolist()) == (6, 0, [])
    first = pool.allocate()
    assert (first.dtype, first.tolist(), type(first)) == (np.int64, [0], np.ndarray)
    assert pool.allocate(4).tolist() == [1, 2, 3, 4]
    assert pool.allocate(0).tolist() == []
    pool.release([3, 1])
    pool.release(0)
    assert (pool.live, pool.slots.tolist(), pool.slots.dtype) == (2, [2, 4], np.int64)
    assert pool.allocate(4).tolist() == [0, 3, 1, 5]
    assert pool.live == 6


def test_a_full_pool(backend):
    pool = make_pool(plain_cell(backend), 3)
    pool.allocate(2)
    with pytest.raises(PoolFullError, match=r"^n: wanted at most 1, the number of free slots \(of 3\); got 2$"):
        pool.allocate(2)
    assert pool.live == 2
    assert pool.allocate().tolist() == [2]
    assert issubclass(PoolFullError, RuntimeError)


def test_allocate_and_slots_return_copies(backend):
    pool = make_pool(plain_cell(backend), 4)
    slots = pool.allocate(2)
    slots[:] = 3
    assert pool.slots.tolist() == [0, 1]
    pool.slots[:] = 3
    assert pool.allocate(2).tolist() == [2, 3]


@pytest.mark.parametrize("make", [plain_cell, layered])
def test_a_slot_begins_with_zeros(make, backend):
    """Allocating or resetting a slot clears its state, even NaN and infinities."""
    owner = make(backend)
    pool, _ = filled(owner, 4, 4)
    poisoned = random_layers(owner, 4, np.random.default_rng(0))
    for layer in poisoned:
        layer.h[...], layer.c[...] = np.nan, np.inf
    pool.write([0, 1, 2, 3], state_of(owner, poisoned))
    pool.release([1, 3])
    for layer in layers_of(owner, pool.read(pool.allocate(2))):
        assert not layer.h.any()
        assert not layer.c.any()
    pool.reset(2)
    for layer in layers_of(owner, pool.read(2)):
        assert not layer.h.any()
        assert not layer.c.any()
    assert all(np.isnan(layer.h).all() for layer in layers_of(owner, pool.read(0)))


@pytest.mark.parametrize(
    "slots",
    [
        [2, 0],
        (2, 0),
        range(2, -1, -2),
        [np.int64(2), 0],
        *(np.array([2, 0], dtype) for dtype in ("i1", "u1", "<i2", ">i2", "u2", "i4", ">i4", "u4", "<i8", ">i8", "u8")),
        np.array([2, 9, 0, 9])[::2],
    ],
    ids=str,
)
def test_slots_accept_all_integer_sequences(slots, backend):
    owner = plain_cell(backend)
    pool, layers = filled(owner, 5, 4)
    got = layers_of(owner, pool.read(slots))[0]
    np.testing.assert_array_equal(got.h, layers[0].h[[2, 0]])
    x = inputs(owner, 2)
    wanted, _ = advance(owner, x, layers_of(owner, pool.read(slots)))
    assert_as_the_cells(owner, host(pool.step(owner.asarray(x), slots)), wanted)
    pool.reset(slots)
    pool.release(slots)
    assert pool.slots.tolist() == [1, 3]


@pytest.mark.parametrize("slot", [2, np.uint8(2), np.int64(2)])
def test_one_slot_may_be_an_int(slot, backend):
    owner = plain_cell(backend)
    pool, layers = filled(owner, 5, 4)
    assert layers_of(owner, pool.read(slot))[0].h.shape == (1, N)
    pool.write(slot, state_of(owner, random_layers(owner, 1, np.random.default_rng(9))))
    assert pool.step(owner.asarray(inputs(owner, 1)), slot).shape == (1, N)
    pool.reset(slot)
    pool.release(slot)
    assert pool.slots.tolist() == [0, 1, 3]


def test_no_slots(backend):
    owner = plain_cell(backend)
    pool, _ = filled(owner, 4, 2)
    before = contents(pool)
    for none in ([], (), np.zeros(0, np.int64), range(0)):
        pool.release(none)
        pool.reset(none)
        pool.write(none, owner.zero_state(0))
        state = pool.read(none)
        assert (state.h.shape, state.c.shape) == ((0, N), (0, N))
        assert pool.step(owner.asarray(np.zeros((0, I))), none, is_first=[]).shape == (0, N)
    assert contents(pool) == before


# Steps.


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_equals_the_cells(dtype, backend):
    """A step gives the cell's numbers, on NumPy bit for bit. Other slots don't change."""
    owner = plain_cell(backend, dtype, proj_size=P, peephole=True)
    pool, layers = filled(owner, 9, 7)
    slots = [5, 0, 3]
    x = inputs(owner, 3)
    wanted, news = advance(owner, x, [LSTMState(h=layers[0].h[slots], c=layers[0].c[slots])])
    got = pool.step(owner.asarray(x), slots)
    assert isinstance(got, owner.xp.ndarray)
    assert got.dtype == owner.dtype
    assert_as_the_cells(owner, host(got), wanted)
    (after,) = layers_of(owner, pool.read(slots))
    assert (after.h.dtype, after.c.dtype) == (owner.dtype, np.float32 if owner.dtype.itemsize == 2 else owner.dtype)
    assert_as_the_cells(owner, after.h, news[0].h)
    assert_as_the_cells(owner, after.c, news[0].c)
    (rest,) = layers_of(owner, pool.read([1, 2, 4, 6]))
    np.testing.assert_array_equal(rest.h, layers[0].h[[1, 2, 4, 6]])
    np.testing.assert_array_equal(rest.c, layers[0].c[[1, 2, 4, 6]])


def test_layers_step_like_the_lstm(backend):
    owner = layered(backend)
    pool, layers = filled(owner, 9, 7)
    slots = [5, 0, 3, 6]
    x = inputs(owner, 4)
    wanted, news = advance(owner, x, [LSTMState(h=layer.h[slots], c=layer.c[slots]) for layer in layers])
    assert_as_the_cells(owner, host(pool.step(owner.asarray(x), slots)), wanted)
    for after, new in zip(layers_of(owner, pool.read(slots)), news, strict=True):
        assert_as_the_cells(owner, after.h, new.h)
        assert_as_the_cells(owner, after.c, new.c)
    assert np.abs(wanted - news[-1].h).max() > 0, "the output should differ from h, as the top layer is residual"


@pytest.mark.parametrize("make", [plain_cell, layered])
@pytest.mark.parametrize("given_out", [False, True])
def test_padding_and_first_rows(make, given_out, backend):
    owner = make(backend)
    pool, layers = filled(owner, 9, 6)
    slots = np.array([-1, 4, -1, 0, 2, -1])
    first = np.array([True, False, False, True, False, True])
    x = inputs(owner, 6)
    x[slots < 0] = np.nan
    olds = [LSTMState(h=layer.h[[4, 0, 2]], c=layer.c[[4, 0, 2]]) for layer in layers]
    for old in olds:
        old.h[1], old.c[1] = 0, 0
    out = owner.asarray(np.full((6, owner._layers_of_weights.output_size), 7.0)) if given_out else None
    wanted, news = advance(owner, x[[1, 3, 4]], olds)
    got = pool.step(owner.asarray(x), slots, is_first=first, out=out)
    assert out is None or got is out
    assert_as_the_cells(owner, host(got)[[1, 3, 4]], wanted)
    assert not host(got)[[0, 2, 5]].any()
    for after, new in zip(layers_of(owner, pool.read([4, 0, 2])), news, strict=True):
        assert_as_the_cells(owner, after.h, new.h)
        assert_as_the_cells(owner, after.c, new.c)
    others = [1, 3, 5]
    for after, layer in zip(layers_of(owner, pool.read(others)), layers, strict=True):
        np.testing.assert_array_equal(after.c, layer.c[others])


def test_padding_alone(backend):
    owner = plain_cell(backend)
    pool, _ = filled(owner, 5, 3)
    before = contents(pool)
    got = pool.step(owner.asarray(inputs(owner, 7)), [-1] * 7, is_first=[True] * 7)
    assert got.shape == (7, N)
    assert not host(got).any()
    assert contents(pool) == before


def test_a_first_row_forgets_nan(backend):
    owner = plain_cell(backend)
    pool, _ = filled(owner, 3, 3)
    bad = random_layers(owner, 1, np.random.default_rng(0))
    bad[0].h[...], bad[0].c[...] = np.nan, np.inf
    pool.write(1, state_of(owner, bad))
    x = inputs(owner, 3)
    mask = owner.xp.asarray([False, True, False])
    assert np.isfinite(host(pool.step(owner.asarray(x), [0, 1, 2], is_first=mask))).all()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("rows", [7, 20_000])
def test_any_strides_of_x(padded, rows, backend):
    """x and is_first may have any strides, even with so many rows that they are gathered in parts."""
    if backend != "numpy" and rows > 7:
        pytest.skip("too large to emulate")
    owner = plain_cell(backend, "float64")
    pool, layers = filled(owner, rows, rows)
    slots = np.random.default_rng(3).permutation(rows)
    first = np.random.default_rng(4).random(rows) < 0.5
    if padded:
        slots[::3] = -1
    x = inputs(owner, rows)
    wanted = host(pool.step(owner.asarray(x), slots, is_first=first))
    wide = owner.asarray(np.repeat(x, 2, axis=1))
    turned = owner.asarray(np.ascontiguousarray(x.T))
    flags = np.repeat(first, 2)
    for strided, mask in ((wide[:, ::2], first), (turned.T, flags[::2])):
        pool.write(range(rows), state_of(owner, layers))
        np.testing.assert_allclose(host(pool.step(strided, slots, is_first=mask)), wanted, rtol=0, atol=1e-14)


def test_memory_mapped_inputs(tmp_path):
    owner = plain_cell("numpy")
    pool, layers = filled(owner, 4, 4)
    np.save(tmp_path / "x.npy", inputs(owner, 4))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for slots in ([3, 2, 1, 0], [3, -1, 1, 0]):
        got = pool.step(mapped, slots)
        pool.write(range(4), state_of(owner, layers))
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, pool.step(np.array(mapped), slots))
        pool.write(range(4), state_of(owner, layers))


def test_the_width_of_out_is_always_checked(backend):
    """out is checked against x, even if x alone has passed before."""
    owner = plain_cell(backend)
    pool, _ = filled(owner, 4, 2)
    x = owner.asarray(inputs(owner, 2))
    pool.step(x, [0, 1])
    with pytest.raises(ValueError, match=r"^out: wanted shape \(B, P\) = \(2, 4\); got shape \(2, 3\)$"):
        pool.step(x, [0, 1], out=owner.asarray(np.zeros((2, I))))


@pytest.mark.parametrize("make", [plain_cell, layered])
def test_set_weights_reaches_a_pool(make, backend):
    owner, other = make(backend), make(backend, seed=7)
    pool, layers = filled(owner, 5, 5)
    x = inputs(owner, 5)
    old = host(pool.step(owner.asarray(x), range(5))).copy()
    pool.write(range(5), state_of(owner, layers))
    owner.set_weights(other.weights)
    new = host(pool.step(owner.asarray(x), range(5)))
    assert_as_the_cells(owner, new, advance(other, x, layers)[0])
    assert np.abs(new - old).max() > 1e-3


def test_read_returns_copies(backend):
    owner = plain_cell(backend)
    pool, layers = filled(owner, 3, 3)
    state = pool.read([0, 1])
    state.h[...], state.c[...] = 9, 9
    np.testing.assert_array_equal(host(pool.read([0]).c), layers[0].c[:1])


def test_check_and_strict_change_nothing(backend):
    owner = plain_cell(backend)
    pool, layers = filled(owner, 3, 3)
    assert pool.check() is None
    x = owner.asarray(inputs(owner, 3))
    first = host(pool.step(x, [0, 1, 2], strict=True)).copy()
    pool.write([0, 1, 2], state_of(owner, layers))
    np.testing.assert_array_equal(host(pool.step(x, [0, 1, 2])), first)


# Other libraries.


@pytest.fixture(params=[*ON_CPU, *ON_GPU], ids=lambda library: library.__name__)
def library(request, monkeypatch):
    return request.param(monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_libraries(library, dtype):
    """Accept x, masks, slots and states of a library, and return results in the library of x."""
    owner = plain_cell(library.backend, dtype, proj_size=P)
    pool, layers = filled(owner, 6, 5)
    slots = np.array([4, -1, 0])
    x, first = inputs(owner, 3), np.array([False, True, True])
    wanted = host(pool.step(owner.asarray(x), slots, is_first=first)).copy()
    after = contents(pool)
    kind = library.type if library.gives else owner.xp.ndarray
    (state,) = layers
    for _ in range(2):
        pool.write(np.arange(5), LSTMState(h=library.make(state.h), c=library.make(state.c)))
        given = library.make(slots) if library.backend == "numpy" else slots
        got = pool.step(library.make(x), given, is_first=library.make(first))
        assert isinstance(got, kind)
        values = library.host(got) if library.gives else host(got)
        assert values.tobytes() == wanted.tobytes()
        assert contents(pool) == after
        read = pool.read([4], like=library.make(x))
        assert isinstance(read.h, kind)
        assert isinstance(read.c, kind)
        if library.written and not (isinstance(library, DlpackOnCpu) and dtype == "bfloat16"):
            pool.write(np.arange(5), state_of(owner, layers))
            out = library.make(np.zeros_like(wanted))
            assert pool.step(library.make(x), given, is_first=first, out=out) is out
            assert library.host(out).tobytes() == wanted.tobytes()


def test_states_of_layers_of_other_libraries(library):
    owner = layered(library.backend)
    pool, layers = filled(owner, 4, 4)
    slots = [2, 0]
    pool.write(
        slots, [LSTMState(h=library.make(layer.h[:2].copy()), c=library.make(layer.c[:2].copy())) for layer in layers]
    )
    read = pool.read(slots, like=library.make(inputs(owner, 1)))
    assert type(read) is tuple
    for state, layer in zip(layers_of(owner, pool.read(slots)), layers, strict=True):
        np.testing.assert_array_equal(state.h, layer.h[:2])
        np.testing.assert_array_equal(state.c, layer.c[:2])


# Memory.


@pytest.fixture
def traced(monkeypatch):
    """Trace memory, with all work in this thread, as other threads allocate their own scratch."""
    monkeypatch.setattr(blas, "threads", lambda: 1)
    tracemalloc.start()
    yield
    tracemalloc.stop()


def allocated(call, times):
    """Return the bytes that `times` calls keep, and the peak while they run."""
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    for _ in range(times):
        call()
    after, peak = tracemalloc.get_traced_memory()
    return after - before, peak - before


# Bytes that the interpreter itself keeps over a thousand calls. One object kept by each call would take 16,000.
KEPT = 2000


@pytest.mark.sampled
@pytest.mark.parametrize(("B", "units", "times"), [(1, 256, 1000), (1024, 256, 200), (50_000, 5, 20)])
@pytest.mark.parametrize("kind", ["plain", "first", "padded", "strided"])
def test_steps_allocate_nothing_large(kind, B, units, times, traced):
    owner = LSTMCell(LSTMWeights.random(4, units, seed=0), backend="numpy")
    pool = make_pool(owner, B + 10)
    pool.allocate(B + 10)
    rng = np.random.default_rng(0)
    slots, x = rng.permutation(B + 10)[:B], inputs(owner, B)
    out, options = np.empty((B, units), np.float32), {}
    if kind != "plain":
        options["is_first"] = rng.random(B) < 0.5
    if kind in ("padded", "strided"):
        slots[::2] = -1
    if kind == "strided":
        x = np.asfortranarray(x)
    call = lambda: pool.step(x, slots, out=out, **options)  # noqa: E731
    allocated(call, 50)  # NumPy 1.26's errstate keeps some objects of the first calls
    growth, peak = allocated(call, times)
    if growth >= KEPT:  # sometimes it keeps those of later calls, too, but not twice
        growth, peak = allocated(call, times)
    assert growth < KEPT
    assert peak <= 128 << 10


@pytest.mark.nightly
def test_a_thousand_steps_of_a_large_batch(traced):
    owner = LSTMCell(LSTMWeights.random(1, 256, seed=0), backend="numpy")
    pool = make_pool(owner, 1024)
    slots, x, out = pool.allocate(1024)[::-1], inputs(owner, 1024), np.empty((1024, 256), np.float32)
    call = lambda: pool.step(x, slots, out=out)  # noqa: E731
    allocated(call, 3)
    growth, peak = allocated(call, 1000)
    assert growth < KEPT
    assert peak <= 128 << 10


def test_prepare(traced):
    owner = layered("numpy")
    pool = make_pool(owner, 5000)
    small = pool.memory
    pool.prepare(5000)
    assert pool.memory.states == small.states
    assert pool.memory.plans > small.plans
    slots, x, out = pool.allocate(5000), inputs(owner, 5000), np.empty((5000, P), np.float32)
    _, peak = allocated(lambda: pool.step(x, slots, out=out), 1)
    assert peak <= 128 << 10
    held = pool.memory
    pool.prepare(10)
    assert pool.memory == held
    assert not any(layer.h.any() or layer.c.any() for layer in layers_of(owner, make_pool(owner, 2).read([])))


def test_prepare_changes_no_state(backend):
    pool, _ = filled(layered(backend), 4, 3)
    before = contents(pool)
    pool.prepare(9)
    assert contents(pool) == before


def test_memory_counts_states(backend):
    pool = make_pool(plain_cell(backend, "bfloat16", proj_size=P), 10)
    rows = 10 * (2 * P + 4 * N)
    assert pool.memory.states == rows if backend == "numpy" else rows <= pool.memory.states <= 4 * rows  # padded


def test_no_call_allocates_the_pools_size(traced):
    """No call allocates memory in proportion to the pool, so its size doesn't slow a call."""
    owner = LSTMCell(LSTMWeights.random(1, 1, seed=0), backend="numpy")
    pool = make_pool(owner, 2_000_000)
    x = inputs(owner, 2)

    def call():
        slots = pool.allocate(2)
        pool.step(x, slots)
        pool.reset(slots)
        pool.write(slots, pool.read(slots))
        pool.release(slots)

    allocated(call, 3)
    _, peak = allocated(call, 10)
    assert peak < 20_000


# Threads.


def test_threads_step_in_turn(backend):
    """Threads that step different slots give the same results as calls one after the other."""
    owner = layered(backend)
    threads, rows, steps = 4, 3, 60 if backend == "numpy" else 5
    pool, layers = filled(owner, threads * rows, threads * rows)
    alone, _ = filled(owner, threads * rows, threads * rows)
    xs = [inputs(owner, rows, seed) for seed in range(threads)]
    got, failures = {}, []

    def work(k):
        try:
            slots = np.arange(k, threads * rows, threads)
            for t in range(steps):
                got[k, t] = host(pool.step(owner.asarray(xs[k]), slots)).copy()
        except BaseException as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=work, args=(k,)) for k in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failures
    for k, t in itertools.product(range(threads), range(steps)):
        wanted = host(alone.step(owner.asarray(xs[k]), np.arange(k, threads * rows, threads)))
        np.testing.assert_array_equal(got[k, t], wanted)
    assert contents(pool) == contents(alone)


def test_threads_allocate_in_turn(backend):
    pool = make_pool(plain_cell(backend), 200)
    taken = []

    def work():
        for _ in range(20):
            slots = pool.allocate(5)
            pool.release(slots[:3])
            taken.append(slots[3:].tolist())

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    kept = sorted(itertools.chain(*taken))
    assert len(set(kept)) == 160
    assert pool.slots.tolist() == kept


def test_a_release_within_another_call(backend, monkeypatch):
    """A release inside another call, such as from `__del__`, neither deadlocks nor corrupts that call."""
    pool = make_pool(plain_cell(backend), 6)
    pool.allocate(3)
    clear, within = pool._engine.clear, [1]

    def clear_and_release(slots):
        clear(slots)
        while within:
            pool.release(within.pop())

    monkeypatch.setattr(pool._engine, "clear", clear_and_release)
    slots = pool.allocate(2)
    assert sorted([*slots.tolist(), 0, 2]) == pool.slots.tolist()
    assert len(set(pool.allocate(6 - pool.live).tolist()) & {0, 2, *slots.tolist()}) == 0


# Failures half-way.


def test_a_failed_allocate_takes_no_slots(backend, monkeypatch):
    pool, _ = filled(plain_cell(backend), 5, 2)
    before = contents(pool)

    def fail(slots):
        raise MemoryError("no memory to clear with")

    with monkeypatch.context() as patch:
        patch.setattr(pool._engine, "clear", fail)
        with pytest.raises(MemoryError):
            pool.allocate(2)
    assert contents(pool) == before
    assert pool.allocate(3).tolist() == [2, 3, 4]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_step_that_fails_changes_nothing(failing, monkeypatch):
    owner = layered("numpy")
    pool, _ = filled(owner, 5, 4)
    before = contents(pool)

    def fail(*_):
        raise MemoryError("no memory to step with")

    with monkeypatch.context() as patch:
        patch.setattr(owner._engines[failing], "run", fail)
        with pytest.raises(MemoryError):
            pool.step(inputs(owner, 3), [0, -1, 2])
    assert contents(pool) == before


CHANGES = ["allocate", "fork", "release", "reset", "write", "step", "load", "grow", "shrink"]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # Python closes the file if `open` is interrupted
@pytest.mark.parametrize("name", CHANGES)
def test_interrupted_at_any_moment(name, tmp_path):
    """A call interrupted at any moment has done all its work or none, and the pool stays usable."""
    owner = layered("numpy")
    other, _ = filled(owner, 8, 3, seed=5)
    other.save(tmp_path / "pool")
    layers = random_layers(owner, 2, np.random.default_rng(7))
    x = inputs(owner, 3)
    calls = {
        "allocate": lambda pool: pool.allocate(2),
        "fork": lambda pool: pool.fork([3, 1, 3]),
        "grow": lambda pool: pool.resize(11),
        "shrink": lambda pool: pool.resize(6),
        "release": lambda pool: pool.release([3, 1]),
        "reset": lambda pool: pool.reset([3, 1]),
        "write": lambda pool: pool.write([3, 1], state_of(owner, layers)),
        "step": lambda pool: pool.step(x, [3, -1, 1]),
        "load": lambda pool: pool.load(tmp_path / "pool"),
    }
    whole, _ = filled(owner, 8, 5)
    before = whole.capacity, contents(whole)
    calls[name](whole)
    after, found = (whole.capacity, contents(whole)), set()
    assert after != before
    for moment in itertools.count(1):
        pool, _ = filled(owner, 8, 5)
        calls[name](
            filled(owner, 8, 5)[0]
        )  # creates the scratch that the interrupted call lost, so each call has the same length
        if moments.interrupted(lambda pool=pool: calls[name](pool), moment) is None:
            break
        slots, _ = now = contents(pool)
        assert (pool.capacity, now) in (before, after), moment
        assert pool.live == len(slots)
        found.add((pool.capacity, now) == after)
        free = pool.allocate(pool.capacity - pool.live)
        assert not set(free.tolist()) & set(slots)
        assert len(set(free.tolist())) == len(free)
        assert not any(layer.h.any() or layer.c.any() for layer in layers_of(owner, pool.read(free)))
        with pytest.raises(PoolFullError):
            pool.allocate()
        pool.release(free)
        assert contents(pool) == now
    assert moment > 10
    assert found == {False, True}


# The object.


def test_pools_are_not_copied(backend):
    pool = make_pool(plain_cell(backend), 3)
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"^a StatePool can't be copied or pickled: use save\(path\), and load"):
            way(pool)


def test_repr(backend):
    owner = plain_cell(backend)
    pool, _ = filled(owner, 7, 2)
    assert repr(pool) == f"StatePool({owner!r}, capacity=7, live=2)"


def test_no_array_of_the_pool_is_public(backend):
    owner = plain_cell(backend)
    pool, _ = filled(owner, 7, 2)
    for name in dir(StatePool):
        if not name.startswith("_") and not callable(getattr(StatePool, name)):
            value = getattr(pool, name)
            assert not isinstance(value, owner.xp.ndarray) or name == "slots"


@pytest.mark.parametrize(("input_size", "units", "projected"), [(0, 3, None), (1, 1, None), (3, 1, 1), (5, 7, 6)])
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_odd_sizes(backend, input_size, units, projected, dtype):
    weights = LSTMWeights.random(input_size, units, proj_size=projected, seed=0, dtype=dtype)
    owner = LSTMCell(weights, backend=backend)
    pool, layers = filled(owner, 9, 7)
    x = np.random.default_rng(0).normal(size=(3, input_size)).astype(owner.dtype)
    wanted, news = advance(owner, x, [LSTMState(h=layers[0].h[[5, 0, 3]], c=layers[0].c[[5, 0, 3]])])
    assert_as_the_cells(owner, host(pool.step(owner.asarray(x), [5, 0, 3])), wanted)
    assert_as_the_cells(owner, layers_of(owner, pool.read([5, 0, 3]))[0].c, news[0].c)


def test_calls_wait_for_each_other(tmp_path):
    """Every method waits for the running one, except properties that are a single number."""
    owner = plain_cell("numpy")
    pool, layers = filled(owner, 9, 7)
    path, x = tmp_path / "pool", inputs(owner, 1)
    pool.save(path)
    calls = {
        "allocate": lambda: pool.allocate(1),
        "fork": lambda: pool.fork([2]),
        "resize": lambda: pool.resize(20),
        "release": lambda: pool.release([6]),
        "reset": lambda: pool.reset([1]),
        "read": lambda: pool.read([1]),
        "write": lambda: pool.write([1], owner.zero_state(1)),
        "step": lambda: pool.step(x, [1]),
        "prepare": lambda: pool.prepare(9),
        "check": pool.check,
        "save": lambda: pool.save(path),
        "load": lambda: pool.load(path),
        "slots": lambda: pool.slots,
        "memory": lambda: pool.memory,
    }
    for name, call in calls.items():
        done = threading.Event()
        thread = threading.Thread(target=lambda call=call, done=done: (call(), done.set()))
        with pool._calls.lock:
            thread.start()
            assert not done.wait(0.05), name
        assert done.wait(10), name
        thread.join()
