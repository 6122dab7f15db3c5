"""Eight threads fork and step their own sessions in one pool, while others resize and save it."""

import sys
import threading

import numpy as np
import pytest

from fusedlstm import LSTMCell, LSTMState, LSTMWeights, StatePool

from support.backends import WAYS, backend_in_a_way
from support.cells import host
from support.pools import assert_as_the_cells

THREADS, BEAMS, I, N = 8, 3, 5, 8


@pytest.fixture(params=WAYS)
def backend(request, monkeypatch):
    """Each backend, and on a GPU both ways of stepping."""
    return backend_in_a_way(request, monkeypatch)


class Search:
    """A beam search with random parents, and the states that a cell gives its beams."""

    def __init__(self, pool, seed):
        self.pool, self.cell, self.rng = pool, pool._cell, np.random.default_rng(seed)
        self.beams, self.state = pool.allocate(BEAMS), self.cell.zero_state(BEAMS)

    def step(self):
        x = self.cell.asarray(self.rng.normal(size=(BEAMS, I)))
        parents = self.rng.integers(BEAMS, size=BEAMS)
        got = self.pool.step(x, self.beams)
        self.state = self.cell(x, self.state)
        assert_as_the_cells(self.cell, host(got), host(self.state.h))
        children = self.pool.fork(self.beams[parents])
        self.pool.release(self.beams)
        self.beams = children
        self.state = LSTMState(h=self.state.h[parents], c=self.state.c[parents])

    def check(self):
        state = self.pool.read(self.beams)
        assert_as_the_cells(self.cell, host(state.h), host(self.state.h))
        assert_as_the_cells(self.cell, host(state.c), host(self.state.c))


def in_threads(works):
    """Run functions in a thread each. Raise the first error."""
    errors = []

    def run(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]


def test_threads_fork_resize_and_save(backend, tmp_path):
    """The pool always has room for each session and its children, so no slot beyond that is ever used."""
    cell = LSTMCell(LSTMWeights.random(I, N, seed=0), backend=backend, batch_invariant=backend == "numpy")
    least = 2 * BEAMS * THREADS
    pool = StatePool(cell, least)
    searches = [Search(pool, seed) for seed in range(THREADS)]
    steps, left = (40 if backend == "numpy" else 3), list(range(THREADS))

    def search(k):
        for _ in range(steps):
            searches[k].step()
        left.pop()

    def until_done(work):
        work()
        while left:
            work()

    def resize():
        for capacity in (least + 50, least, least + 7):
            pool.resize(capacity)

    others = (lambda: until_done(resize)), (lambda: until_done(lambda: pool.save(tmp_path / "pool")))
    in_threads([*(lambda k=k: search(k) for k in range(THREADS)), *others])
    for each in searches:
        each.check()
    assert pool.live == BEAMS * THREADS
    assert pool.slots.max() < least
    other = StatePool(cell, pool.capacity)
    other.load(tmp_path / "pool")
    assert BEAMS * THREADS <= other.live <= least
