"""StatePool.fork: new slots with copies of other slots' states, as a beam search needs."""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMWeights, PoolFullError, StackedWeights

from support.backends import WAYS, backend_in_a_way
from support.cells import host
from support.foreign import ON_CPU
from support.pools import assert_as_the_cells, layers_of, make_pool, random_layers, state_of

I, N, P = 3, 4, 2
DTYPES = ["float64", "float32", "float16", "bfloat16"]


@pytest.fixture(params=WAYS)
def backend(request, monkeypatch):
    """Each backend, and on a GPU both ways of stepping."""
    return backend_in_a_way(request, monkeypatch)


def cell_of(backend, dtype="float32"):
    return LSTMCell(LSTMWeights.random(I, N, proj_size=P, dtype=dtype, seed=0), backend=backend)


def layered(backend, dtype="float32"):
    layers = [LSTMWeights.random(I, N, proj_size=P, dtype=dtype, seed=0), LSTMWeights.random(P, 5, dtype=dtype, seed=1)]
    return LSTM(StackedWeights(layers), backend=backend)


def filled(owner, capacity, live):
    """Return a pool whose live slots have stepped once, some of them twice, from random states."""
    pool = make_pool(owner, capacity)
    slots = pool.allocate(live)
    pool.write(slots, state_of(owner, random_layers(owner, live, np.random.default_rng(0))))
    x = owner.asarray(np.random.default_rng(1).normal(size=(live, I)))
    pool.step(x, slots)
    pool.step(x[::2], slots[::2])
    return pool


def bits(pool, slots):
    return [(s.h.tobytes(), s.c.tobytes()) for s in layers_of(pool._cell, pool.read(slots))]


def rows(pool, slots):
    """Return the bits of each slot on its own."""
    return [bits(pool, [slot]) for slot in slots]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [cell_of, layered])
def test_children_are_copies(make, dtype, backend):
    """Each child has its parent's bits, and no other slot changes."""
    pool = filled(make(backend, dtype), 9, 5)
    before, parents = rows(pool, range(5)), [3, 0, 3, 4]
    children = pool.fork(parents)
    assert (children.dtype, children.shape, type(children)) == (np.int64, (4,), np.ndarray)
    assert children.tolist() == [5, 6, 7, 8]
    assert rows(pool, children) == [before[parent] for parent in parents]
    assert rows(pool, range(5)) == before
    assert pool.slots.tolist() == list(range(9))


@pytest.mark.parametrize("steps", [0, 1])
def test_children_step_independently(steps, backend):
    """A child steps like any slot with the same state, and its parent doesn't change."""
    owner = layered(backend)
    pool, twin = filled(owner, 8, 4), make_pool(owner, 8)
    pool.release([1])
    for slot in (2, 0, 2):
        twin.write(twin.allocate(), pool.read(slot))
    x = owner.asarray(np.random.default_rng(3).normal(size=(3, I)))
    children = pool.fork([2, 0, 2])
    assert children.tolist() == [1, 4, 5]
    parents = rows(pool, [0, 2])
    for _ in range(steps + 1):
        got, wanted = pool.step(x, children), twin.step(x, [0, 1, 2])
    assert_as_the_cells(owner, host(got), host(wanted))
    for mine, its in zip(layers_of(owner, pool.read(children)), layers_of(owner, twin.read([0, 1, 2])), strict=True):
        assert_as_the_cells(owner, mine.c, its.c)
    assert rows(pool, [0, 2]) == parents


def test_special_values_are_copied(backend):
    owner = cell_of(backend, "float64")
    pool = make_pool(owner, 3)
    layers = random_layers(owner, 1, np.random.default_rng(0))
    layers[0].c[0] = [np.nan, -0.0, np.inf, 5e-324]
    pool.write(pool.allocate(1), state_of(owner, layers))
    assert bits(pool, pool.fork([0])) == bits(pool, [0]) == [(layers[0].h.tobytes(), layers[0].c.tobytes())]


@pytest.mark.parametrize("parents", [2, (2,), range(2, 3), np.array([2], np.uint8), np.int64(2)], ids=repr)
def test_parents_may_be_any_integers(parents, backend):
    pool = filled(cell_of(backend), 4, 3)
    assert bits(pool, pool.fork(parents)) == bits(pool, [2])


@pytest.mark.parametrize("library", ON_CPU, ids=lambda library: library.__name__)
def test_parents_of_other_libraries(library, monkeypatch):
    made = library(monkeypatch)
    pool = filled(cell_of("numpy"), 6, 3)
    assert pool.fork(made.make(np.array([2, 0, 2]))).tolist() == [3, 4, 5]
    assert rows(pool, [3, 4, 5]) == rows(pool, [2, 0]) + rows(pool, [2])


def test_no_parents(backend):
    pool = filled(cell_of(backend), 3, 3)
    assert pool.fork([]).tolist() == []
    assert pool.live == 3


def test_a_fork_that_does_not_fit(backend):
    """No slot is allocated, even if some would fit."""
    pool = filled(cell_of(backend), 6, 4)
    before = rows(pool, range(4))
    with pytest.raises(PoolFullError, match=r"^parents: wanted at most 2, the number of free slots \(of 6\); got 3$"):
        pool.fork([0, 0, 1])
    assert pool.slots.tolist() == [0, 1, 2, 3]
    assert rows(pool, range(4)) == before
    assert pool.fork([0, 0]).tolist() == [4, 5]


def test_a_failed_fork_takes_no_slots(backend, monkeypatch):
    pool = filled(cell_of(backend), 6, 4)

    def fail(parents, slots):
        raise MemoryError("no memory to copy with")

    with monkeypatch.context() as patch:
        patch.setattr(pool._engine, "copy", fail)
        with pytest.raises(MemoryError):
            pool.fork([0, 1])
    assert pool.live == 4
    assert pool.fork([0, 1]).tolist() == [4, 5]


def test_many_parents(backend):
    """Many rows are copied in parts, and a parent may be in several."""
    owner = cell_of(backend)
    pool = filled(owner, 3000, 1000)
    parents = np.random.default_rng(0).integers(1000, size=2000)
    children = pool.fork(parents)
    (of,), (to,) = layers_of(owner, pool.read(range(1000))), layers_of(owner, pool.read(children))
    np.testing.assert_array_equal(to.h, of.h[parents])
    np.testing.assert_array_equal(to.c, of.c[parents])
