"""A pool is saved in parts while other calls go on, and the file still has the states of one moment."""

import itertools
import threading
import weakref

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMWeights, StackedWeights, files, pool_calls, pool_slots
from fusedlstm.pool_snapshot import PoolSnapshot

from support import moments
from support.backends import WAYS, backend_in_a_way
from support.pools import layers_of, make_pool, random_layers, state_of

I, N, P = 3, 4, 2
LIVE, CAPACITY, PART = 30, 40, 4  # PART: slots in a part


@pytest.fixture(params=WAYS)
def backend(request, monkeypatch):
    """Each backend, and on a GPU both ways of stepping."""
    return backend_in_a_way(request, monkeypatch)


def weights_of(seed=0):
    return StackedWeights([LSTMWeights.random(I, N, proj_size=P, seed=seed), LSTMWeights.random(P, 5, seed=1)])


def owner_of(backend):
    return LSTM(weights_of(), backend=backend)


def filled(owner, monkeypatch, seed=0):
    """Return a pool with random states, whose snapshots have parts of PART slots."""
    made = make_pool(owner, CAPACITY)
    made.write(made.allocate(LIVE), state_of(owner, random_layers(owner, LIVE, np.random.default_rng(seed))))
    made.release([1, 4])
    monkeypatch.setattr(pool_slots, "_A_TURN", PART * made.memory.states // CAPACITY)
    return made


def bits(slots, states):
    return slots.tolist(), [(state.h.tobytes(), state.c.tobytes()) for state in states]


def contents(some):
    slots = some.slots
    return bits(slots, layers_of(some._cell, some.read(slots)))


def begun(some, slots=None):
    """Return a snapshot that has begun."""
    snapshot = PoolSnapshot()
    some._slots.begin_snapshot(snapshot, slots)
    return snapshot


def unfinished(some):
    """Return the snapshots for which calls still copy states."""
    return some._slots._unfinished()


def taken(snapshot):
    """Return what a snapshot has copied, once it is done."""
    snapshot.touch()
    snapshot.place()
    return bits(snapshot.slots, snapshot.states)


def inputs(owner, B, seed=1):
    return owner.asarray(np.random.default_rng(seed).normal(size=(B, I)))


def in_file(path, owner, monkeypatch):
    other = filled(owner, monkeypatch, seed=9)
    other.load(path)
    return contents(other)


def reuse(some):
    """Release slots, and give them to other sequences."""
    some.release([29, 5])
    assert some.allocate(2).tolist() == [29, 5]


def fork_over(some):
    some.release([28, 6])
    assert some.fork([7, 7]).tolist() == [28, 6]


# Calls that change states, each in its own way.
CHANGES = {
    "step": lambda some: some.step(inputs(some._cell, 3), [29, 2, 15]),
    "padded step": lambda some: some.step(inputs(some._cell, 4), [-1, 29, 2, -1]),
    "first step": lambda some: some.step(inputs(some._cell, 2), [20, 21], is_first=[True, False]),
    "one slot": lambda some: some.step(inputs(some._cell, 1), 25),
    "device step": lambda some: some.step(inputs(some._cell, 4), some._cell.xp.asarray([29, 2, -1, 1])),
    "write": lambda some: some.write([27, 3], some._cell.zero_state(2)),
    "reset": lambda some: some.reset([26, 8, 9]),
    "reuse": reuse,
    "fork": fork_over,
    "grow": lambda some: some.resize(some.capacity + 9),
    "shrink": lambda some: some.resize(30),
}


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_kept_out(change, before, backend, monkeypatch):
    """A snapshot has the states from its beginning, whatever changes after `before` parts, and again later."""
    if change == "device step" and backend == "numpy":
        pytest.skip("needs slots on a device")
    some = filled(owner_of(backend), monkeypatch)
    wanted = contents(some)
    snapshot = begun(some)
    for _ in range(before):
        some._slots.go_on(snapshot)
    for _ in range(2):
        CHANGES[change](some)
        some._slots.go_on(snapshot)
    while not snapshot.is_done:
        some._slots.go_on(snapshot)
    assert taken(snapshot) == wanted
    if change not in ("grow", "shrink"):
        assert contents(some) != wanted
    some.reset([])
    assert not some._slots.snapshots


def test_loading_is_kept_out(backend, monkeypatch, tmp_path):
    owner = owner_of(backend)
    some = filled(owner, monkeypatch)
    filled(owner, monkeypatch, seed=2).save(tmp_path / "other")
    wanted = contents(some)
    snapshot = begun(some)
    some._slots.go_on(snapshot)
    some.load(tmp_path / "other")
    assert contents(some) != wanted
    assert snapshot.is_done
    assert taken(snapshot) == wanted


def test_a_busy_pool_ends_a_snapshot(backend, monkeypatch):
    """If the save itself gets no turn, calls that change states copy the parts."""
    some = filled(owner_of(backend), monkeypatch)
    wanted = contents(some)
    snapshot = begun(some)
    x = inputs(some._cell, 1)
    for _ in range(-(-LIVE // PART)):
        some.step(x, 0)
    assert snapshot.is_done
    assert taken(snapshot) == wanted
    assert not some._slots.snapshots


# What a turn may copy.


def rows_by_turn(some, monkeypatch):
    """Return a list. Each later call of the pool appends the number of slots whose states it reads."""
    run, read, turns = some._calls.run, some._engine.read, []

    def counted_run(*arguments):
        turns.append(0)
        return run(*arguments)

    def counted_read(slots, empty):
        turns[-1] += len(slots)
        return read(slots, empty)

    monkeypatch.setattr(some._calls, "run", counted_run)
    monkeypatch.setattr(some._engine, "read", counted_read)
    return turns


def test_a_save_takes_short_turns(backend, monkeypatch, tmp_path):
    """The pool is locked while a few states are copied, never while all are."""
    some = filled(owner_of(backend), monkeypatch)
    turns = rows_by_turn(some, monkeypatch)
    some.save(tmp_path / "pool")
    assert sum(turns) == some.live == LIVE - 2
    assert max(turns) == PART
    assert len(turns) == 1 + LIVE // PART  # the beginning, and a turn for each part


def test_a_step_copies_its_own_slots_and_a_part(backend, monkeypatch):
    some = filled(owner_of(backend), monkeypatch)
    slots, x = [29, 2, 15, 20, 21, 22, 23], inputs(some._cell, 7)
    snapshot = begun(some)
    snapshot.touch()
    turns = rows_by_turn(some, monkeypatch)
    for _ in range(9):
        some.step(x, slots)
    assert snapshot.is_done
    assert turns[0] == 7 + PART - 1, "the first part includes slot 2"
    assert max(turns[1:]) <= PART
    assert sum(turns) == LIVE - 2, "each state should be copied once"
    assert not any(state.c.any() for state in snapshot.states), "the system may be slow to provide this memory"


def test_parts_have_a_mebibyte():
    owner = LSTMCell(LSTMWeights.random(1, 256, seed=0), backend="numpy")
    some = make_pool(owner, 5000)
    some.allocate(5000)
    snapshot = begun(some)
    some._slots.go_on(snapshot)
    assert snapshot._next * 2 * 256 * 4 == 1 << 20


# Threads.


class Worker:
    """A thread that makes random calls until it is told to stop, and notes them."""

    def __init__(self, some, seed):
        self.some, self.rng, self.done, self.calls = some, np.random.default_rng(seed), threading.Event(), []
        self.thread = threading.Thread(target=self.work)

    def work(self):
        while not self.done.is_set() or len(self.calls) < 20:
            call = self.drawn()
            self.calls.append(call)
            call(self.some)

    def drawn(self):
        kind, live = self.rng.integers(10), self.some.slots
        slots = self.rng.permutation(live)[: self.rng.integers(2, len(live) + 1)]
        x, zeros = inputs(self.some._cell, len(slots), int(self.rng.integers(99))), self.some._cell.zero_state(2)
        if len(live) > CAPACITY - 5 or kind == 0:
            return lambda some: some.release(slots[:5])
        if len(live) < CAPACITY // 2 or kind == 1:
            return lambda some: some.allocate(5)
        if kind == 2:
            return lambda some: some.fork(slots[[0, 1, 0]])
        if kind == 3:
            return lambda some: some.write(live[:2], zeros)
        return lambda some: some.step(x, slots)


def saved_beside_a_worker(owner, monkeypatch, path, seed):
    """Save while a worker runs. Return the file's content, and all contents that the pool had."""
    some, twin = filled(owner, monkeypatch), filled(owner, monkeypatch)
    worker = Worker(some, seed)
    worker.thread.start()
    for _ in range(3):
        some.save(path)
    worker.done.set()
    worker.thread.join()
    history = [contents(twin)]
    for call in worker.calls:
        call(twin)
        history.append(contents(twin))
    return in_file(path, owner, monkeypatch), history


@pytest.mark.parametrize("seed", range(5))
def test_a_save_beside_steps_is_of_one_moment(seed, monkeypatch, tmp_path):
    content, history = saved_beside_a_worker(owner_of("numpy"), monkeypatch, tmp_path / "pool", seed)
    assert len(history) > 20
    assert content in history


def test_a_torn_save_is_found(monkeypatch, tmp_path):
    """Plant a fault and find it: states aren't kept before they change."""
    monkeypatch.setattr(pool_slots.PoolSlots, "keep", lambda self, slots: None)
    monkeypatch.setattr(pool_calls, "_PAUSES", 50.0)  # so that the worker makes calls between two parts
    owner = owner_of("numpy")
    saves = [saved_beside_a_worker(owner, monkeypatch, tmp_path / f"pool{seed}", seed) for seed in range(3)]
    assert any(content not in history for content, history in saves)


def test_two_saves_at_once(monkeypatch, tmp_path):
    some = filled(owner_of("numpy"), monkeypatch)
    wanted = contents(some)
    one, other = begun(some), begun(some, [3, 29, 7])
    some._slots.go_on(one)
    some.reset([29, 2])
    for snapshot in (other, one):
        while not snapshot.is_done:
            some._slots.go_on(snapshot)
    assert taken(one) == wanted
    assert taken(other)[0] == [3, 7, 29]
    places = np.searchsorted(one.slots, other.slots)
    for some_states, all_states in zip(other.states, one.states, strict=True):
        np.testing.assert_array_equal(some_states.c, all_states.c[places])


def test_a_save_names_the_weights_of_its_moment(monkeypatch, tmp_path):
    owner, path = owner_of("numpy"), tmp_path / "pool"
    some, weights, go_on = filled(owner, monkeypatch), owner.weights, PoolSnapshot.go_on

    def go_on_with_others(snapshot):
        go_on(snapshot)
        owner.set_weights(weights_of(seed=5))

    monkeypatch.setattr(PoolSnapshot, "go_on", go_on_with_others)
    some.save(path)
    owner.set_weights(weights)
    some.load(path)  # no warning about other weights


# Failures.


def without_memory(slots):
    raise MemoryError("no memory for a copy")


def test_memory_runs_out_for_a_snapshot(backend, monkeypatch, tmp_path):
    """Only the save fails. The step that needed the memory goes on, and an older file stays."""
    owner = owner_of(backend)
    some, path = filled(owner, monkeypatch), tmp_path / "pool"
    some.save(path)
    before, go_on = path.read_bytes(), some._slots.go_on

    def step_without_memory(snapshot):
        go_on(snapshot)
        fetch, snapshot._fetch = snapshot._fetch, without_memory
        some.step(inputs(owner, 2), [29, 2])
        snapshot._fetch = fetch

    twin = filled(owner, monkeypatch)
    twin.step(inputs(owner, 2), [29, 2])
    with monkeypatch.context() as patch:
        patch.setattr(some._calls, "run", lambda work, *arguments: work(*arguments))  # steps in the middle of a turn
        patch.setattr(some._slots, "go_on", step_without_memory)
        with pytest.raises(MemoryError, match="no memory for a copy"):
            some.save(path)
    assert path.read_bytes() == before
    assert contents(some) == contents(twin)
    assert not unfinished(some)
    some.save(path)
    assert in_file(path, owner, monkeypatch) == contents(some)


def test_a_snapshot_is_interrupted(monkeypatch, tmp_path):
    """The pool is unchanged. No call copies states for a save that has failed, even if its error is kept."""
    monkeypatch.setattr(pool_calls, "_PAUSES", 0.0)
    owner, path = owner_of("numpy"), tmp_path / "pool"
    some = filled(owner, monkeypatch)
    errors = []

    def save():
        try:
            some._calls.snapshot(None)
        except BaseException as error:
            errors[:] = [error]
            raise

    for moment in itertools.count(1, 9):
        before = contents(some)
        if moments.interrupted(save, moment) is None:
            break
        assert not unfinished(some), moment
        assert contents(some) == before
    assert moment > 100
    assert errors
    some.save(path)
    assert in_file(path, owner, monkeypatch) == contents(some)


def test_a_save_frees_its_memory(monkeypatch, tmp_path):
    """It does so at once, whether or not the pool is called again."""
    some, made = filled(owner_of("numpy"), monkeypatch), []
    begin = some._slots.begin_snapshot

    def seen(snapshot, slots):
        made.append(weakref.ref(snapshot))
        begin(snapshot, slots)

    monkeypatch.setattr(some._slots, "begin_snapshot", seen)
    some.save(tmp_path / "pool")
    with pytest.raises(FileNotFoundError):
        some.save(tmp_path / "none" / "pool")
    monkeypatch.setattr(some._slots, "_fetched", without_memory)
    with pytest.raises(MemoryError):
        some.save(tmp_path / "pool")
    assert [ref() for ref in made] == [None] * 3


def test_an_interrupted_step_is_kept_out(monkeypatch):
    """A step that is interrupted while it copies states for a snapshot has changed no state, or all of its states."""
    owner = owner_of("numpy")
    x, slots = inputs(owner, 3), [29, 2, 15]
    for moment in itertools.count(1, 5):
        some = filled(owner, monkeypatch)
        wanted = contents(some)
        snapshot = begun(some)
        some._slots.go_on(snapshot)
        ended = moments.interrupted(lambda some=some: some.step(x, slots), moment) is None
        some.step(x, slots)
        while not snapshot.is_done:
            some._slots.go_on(snapshot)
        assert taken(snapshot) == wanted, moment
        if ended:
            break
    assert moment > 50


# Some of the slots.


def test_some_slots_are_saved(backend, monkeypatch, tmp_path):
    """They keep their numbers, and may be given in any order."""
    owner, path = owner_of(backend), tmp_path / "part"
    some = filled(owner, monkeypatch)
    some.save(path, slots=[29, 0, 7])
    other = filled(owner, monkeypatch, seed=3)
    other.load(path)
    assert other.slots.tolist() == [0, 7, 29]
    assert contents(other)[1] == bits(np.array([]), layers_of(owner, some.read([0, 7, 29])))[1]
    some.save(path, slots=5)
    assert files.load(path, "StatePool")[0]["slots"].tolist() == [5]
    some.save(path, slots=[])
    assert in_file(path, owner, monkeypatch) == ([], contents(make_pool(owner, 1))[1])


@pytest.mark.parametrize(
    ("slots", "error", "message"),
    [
        ([0, 1], ValueError, r"^slots: wanted live slots, each once; got 1 \(row 1\), which is not live$"),
        ([3, 3], ValueError, r"^slots: wanted live slots, each once; got 3 twice \(rows 0 and 1\)$"),
        ([0.5], TypeError, r"^slots\[0\]: wanted an int; got float$"),
    ],
)
def test_bad_slots_are_not_saved(slots, error, message, backend, monkeypatch, tmp_path):
    some = filled(owner_of(backend), monkeypatch)
    with pytest.raises(error, match=message):
        some.save(tmp_path / "pool", slots=slots)
    assert not list(tmp_path.iterdir())
    assert not unfinished(some)
