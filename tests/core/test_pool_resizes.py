"""StatePool.resize and memory_for: pools grow and shrink, and their memory is known in advance."""

import numpy as np
import pytest

from fusedlstm import (
    LSTM,
    LSTMCell,
    LSTMWeights,
    PoolFullError,
    StackedWeights,
    StatePool,
    WeightsFileError,
    pool_files,
)

from support.backends import WAYS, backend_in_a_way
from support.cells import host
from support.pools import assert_as_the_cells, layers_of, make_pool, random_layers, state_of

I, N, P = 3, 4, 2
DTYPES = ["float64", "float32", "float16", "bfloat16"]


@pytest.fixture(params=WAYS)
def backend(request, monkeypatch):
    """Each backend, and on a GPU both ways of stepping."""
    return backend_in_a_way(request, monkeypatch)


def cell_of(backend, dtype="float32", **options):
    return LSTMCell(LSTMWeights.random(I, N, dtype=dtype, seed=0, **options), backend=backend)


def layered(backend, dtype="float32"):
    layers = [LSTMWeights.random(I, N, proj_size=P, dtype=dtype, seed=0), LSTMWeights.random(P, 5, dtype=dtype, seed=1)]
    return LSTM(StackedWeights(layers), backend=backend)


def filled(owner, capacity, live):
    """Return a pool whose live slots have stepped once, some of them twice, from random states."""
    pool = make_pool(owner, capacity)
    slots = pool.allocate(live)
    pool.write(slots, state_of(owner, random_layers(owner, live, np.random.default_rng(0))))
    x = inputs(owner, live)
    pool.step(x, slots)
    pool.step(x[::2], slots[::2])
    return pool


def inputs(owner, B, seed=1):
    return owner.asarray(np.random.default_rng(seed).normal(size=(B, I)))


def contents(pool):
    slots = pool.slots
    return slots.tolist(), [(s.h.tobytes(), s.c.tobytes()) for s in layers_of(pool._cell, pool.read(slots))]


@pytest.mark.parametrize("capacity", [5, 8, 9, 40])
@pytest.mark.parametrize("make", [cell_of, layered])
def test_resize_keeps_slots_and_states(make, capacity, backend):
    owner = make(backend)
    pool = filled(owner, 9, 5)
    pool.release([1, 3])
    before = contents(pool)
    pool.resize(capacity)
    assert contents(pool) == before
    assert (pool.capacity, pool.live) == (capacity, 3)
    assert pool.memory.states == make_pool(owner, capacity).memory.states
    assert f"capacity={capacity}" in repr(pool)


def test_a_resized_pool_steps_like_the_old_one(backend):
    owner = layered(backend)
    pool, twin = filled(owner, 6, 5), filled(owner, 6, 5)
    for capacity in (20, 5, 7):
        pool.resize(capacity)
        x, slots = inputs(owner, 3, capacity), [4, 0, 2]
        first = [False, True, False]
        got, wanted = pool.step(x, slots, is_first=first), twin.step(x, slots, is_first=first)
        assert_as_the_cells(owner, host(got), host(wanted))
    for mine, its in zip(layers_of(owner, pool.read(range(5))), layers_of(owner, twin.read(range(5))), strict=True):
        assert_as_the_cells(owner, mine.c, its.c)


def test_free_slots_keep_their_order(backend):
    """Added slots come after all others, and slots above a smaller capacity are gone."""
    pool = filled(cell_of(backend), 6, 5)
    pool.release([3, 1])
    pool.resize(8)
    assert pool.allocate(5).tolist() == [3, 1, 5, 6, 7]
    with pytest.raises(PoolFullError, match=r"^n: wanted at most 0, the number of free slots \(of 8\); got 1$"):
        pool.allocate()
    pool.release([7, 2, 6, 1])
    pool.resize(6)
    assert pool.allocate(2).tolist() == [2, 1]
    with pytest.raises(PoolFullError):
        pool.allocate()


def test_added_slots_begin_with_zeros(backend):
    owner = cell_of(backend)
    pool = filled(owner, 3, 3)
    pool.resize(6)
    added = pool.allocate(3)
    assert added.tolist() == [3, 4, 5]
    (state,) = layers_of(owner, pool.read(added))
    assert not state.h.any()
    assert not state.c.any()


def test_live_slots_must_fit(backend):
    pool = filled(cell_of(backend), 9, 7)
    pool.release([4, 6])
    before, memory = contents(pool), pool.memory
    message = (
        r"^capacity: wanted more than 5, which is a live slot; got 5\. Release it first\. To keep its state, use read"
    )
    with pytest.raises(ValueError, match=message):
        pool.resize(5)
    assert (contents(pool), pool.capacity, pool.memory) == (before, 9, memory)
    pool.resize(6)
    assert contents(pool) == before


def test_an_empty_pool_may_shrink_to_one_slot(backend):
    pool = make_pool(cell_of(backend), 9)
    pool.resize(1)
    assert pool.allocate(1).tolist() == [0]


@pytest.mark.parametrize("failing", ["write", "take_over"])
def test_a_failed_resize_changes_nothing(failing, backend, monkeypatch):
    owner = cell_of(backend)
    pool = filled(owner, 9, 5)
    pool.release([2])
    before, memory, kind = contents(pool), pool.memory, type(pool._engine)

    def fail(*_):
        raise MemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(kind, failing, fail)
        with pytest.raises(MemoryError):
            pool.resize(20)
    assert (contents(pool), pool.capacity, pool.memory) == (before, 9, memory)
    assert pool.allocate(5).tolist() == [2, 5, 6, 7, 8]
    pool.step(inputs(owner, 2), [0, 8])


def test_prepared_steps_stay_prepared(backend):
    """A resized pool has buffers for as many rows as before."""
    owner = cell_of(backend)
    pool = filled(owner, 9, 5)
    pool.prepare(40)
    plans = pool.memory.plans
    pool.resize(60)
    assert pool.memory.plans >= plans
    held = pool.memory
    pool.allocate(35)
    pool.step(inputs(owner, 40), range(40), out=owner.asarray(np.zeros((40, N))))
    assert pool.memory == held


def test_a_slot_released_within_a_resize(backend, monkeypatch):
    """A finalizer may run in the middle."""
    pool = filled(cell_of(backend), 6, 4)
    write, within = type(pool._engine).write, [2]

    def release_and_write(self, slots, states):
        while within:
            pool.release(within.pop())
        write(self, slots, states)

    monkeypatch.setattr(type(pool._engine), "write", release_and_write)
    pool.resize(9)
    assert pool.slots.tolist() == [0, 1, 3]
    assert pool.allocate(1).tolist() == [2]


@pytest.mark.parametrize("capacity", [3, 5])
def test_a_pool_shrinks_while_a_file_is_read(capacity, backend, monkeypatch, tmp_path):
    """Another thread may do that. The file must fit the pool that gets its states."""
    owner = cell_of(backend)
    filled(owner, 9, 6).save(tmp_path / "pool")
    pool, load = filled(owner, 9, 3), pool_files.load
    before = contents(pool)

    def load_and_shrink(*arguments):
        found = load(*arguments)
        pool.resize(capacity)
        return found

    monkeypatch.setattr(pool_files, "load", load_and_shrink)
    with pytest.raises(WeightsFileError, match=f"pool holds live slots up to 5; this pool's capacity is {capacity}"):
        pool.load(tmp_path / "pool")
    assert contents(pool) == before


# Memory told beforehand.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [cell_of, layered])
def test_memory_for_is_what_a_pool_holds(make, dtype, backend):
    owner = make(backend, dtype)
    for capacity in (1, 7, 5000):
        assert StatePool.memory_for(owner, capacity) == StatePool(owner, capacity).memory


@pytest.mark.parametrize(("units", "projected"), [(1, None), (5, 3), (33, 9)])
def test_memory_for_odd_sizes(units, projected, backend):
    owner = LSTMCell(LSTMWeights.random(I, units, proj_size=projected, seed=0), backend=backend)
    assert StatePool.memory_for(owner, 11) == StatePool(owner, 11).memory


def test_memory_for_allocates_nothing(backend):
    """It works for capacities beyond any machine's memory."""
    owner = cell_of(backend)
    some, many = StatePool.memory_for(owner, 2048), StatePool.memory_for(owner, 2**31 - 1)
    assert 2048 * many.states == (2**31 - 1) * some.states
    assert many.plans == 0
