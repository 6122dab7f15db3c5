"""A shard that is alive loses nothing, however slow it is, and whatever happens to the connection."""

import asyncio
import contextlib
import os
import signal
import threading
from concurrent.futures import Future

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed")

from fusedlstm import LSTMCell, LSTMState
from fusedlstm.ray import LateShardsError, SessionsLostError
from fusedlstm.ray.link import Link
from fusedlstm.ray.reviver import Reviver
from fusedlstm.ray.shards import Shards

from support.remembered import Remembered, inputs, tick, told
from support.sharded import INVARIANT, WEIGHTS

KEYS = list(range(9))


@pytest.fixture
def known(pool):
    """Return the model of 9 open sessions."""
    known = Remembered(LSTMCell(WEIGHTS[0], **INVARIANT))
    known.open(KEYS)
    pool.open(KEYS)
    return known


@pytest.fixture
def stopped(pool, known):
    """Stop the process of shard 1, until the test calls this."""
    process = pool.stats()[1].process
    os.kill(process, signal.SIGSTOP)
    yield lambda: os.kill(process, signal.SIGCONT)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)


def test_stopped_shard_is_late_and_exact(pool, known, stopped):
    before, x = pool.stats(), inputs()
    call, wanted = pool.aio.step(x, KEYS), known.step(x, KEYS)
    for _ in range(2):
        with pytest.raises(
            LateShardsError, match=r"no answer from shards \[1\] after 0.2 seconds. They may still do the call"
        ) as raised:
            call.result(timeout=0.2)
        late = raised.value
        assert (late.shards, late.delivered.sum()) == ([1], 6)
        np.testing.assert_array_equal(late.result[late.delivered], wanted[late.delivered])
        assert not late.result[~late.delivered].any()
    second, wanted_second = pool.aio.step(x, KEYS), known.step(x, KEYS)
    stopped()
    np.testing.assert_array_equal(second.result(), wanted_second)
    np.testing.assert_array_equal(late.call.result(), wanted)
    known.compare(pool)
    assert [each.process for each in pool.stats()] == [each.process for each in before]
    assert [each.lives for each in pool.stats()] == [each.lives for each in before]


def test_await_again_after_a_late_shard(pool, known, stopped, monkeypatch):
    monkeypatch.setattr(pool._shards, "timeout", 0.2)

    async def work(x):
        call = pool.aio.step(x, KEYS)
        with pytest.raises(LateShardsError) as raised:
            await call
        assert raised.value.delivered.sum() == 6
        stopped()
        pool._shards.timeout = raised.value.call._timeout = 60.0
        return await raised.value.call

    x = inputs()
    np.testing.assert_array_equal(asyncio.run(work(x)), known.step(x, KEYS))
    known.compare(pool)


def test_calls_that_return_nothing_may_be_late(pool, known, stopped, monkeypatch):
    monkeypatch.setattr(pool._shards, "timeout", 0.2)
    with pytest.raises(LateShardsError) as raised:
        pool.open(["new", "more", "last"])
    assert raised.value.result is None
    stopped()
    raised.value.call.result(timeout=60)
    monkeypatch.undo()
    assert not pool.read(["new", "more", "last"]).h.any()


def test_unreachable_shard_holds_no_others(pool, known, snapping, monkeypatch):
    """As if its machine had died, so that nobody knows what it did until Ray restarts it."""
    asked, stop = threading.Event(), Reviver.stop
    monkeypatch.setattr(Reviver, "stop", lambda *arguments: asked.wait() and stop(*arguments))
    monkeypatch.setattr("fusedlstm.ray.call.DOUBT", 0.05)
    for _ in range(9):
        assert tick(pool, known, KEYS) is None
    os.kill(pool.stats()[1].process, signal.SIGKILL)
    with pytest.raises(LateShardsError, match=r"no answer from shards \[1\] after 0.05 seconds") as raised:
        while True:
            x = inputs()
            wanted = known.step(x, KEYS)
            np.testing.assert_array_equal(pool.step(x, KEYS), wanted)
    late = raised.value
    assert late.delivered.sum() == 6
    np.testing.assert_array_equal(late.result[late.delivered], wanted[late.delivered])
    alive = [key for key, came in zip(KEYS, late.delivered, strict=True) if came]
    for _ in range(3):
        assert tick(pool, known, alive) is None
    error = tick(pool, known, KEYS)
    assert error.back == dict.fromkeys(set(KEYS) - set(alive), 1), "this tick, which was not sent"
    monkeypatch.undo()
    asked.set()
    error = told(known, late.call.result)
    assert set(error.back) == set(KEYS) - set(alive)
    assert pool.wait(60)
    known.compare(pool)


def test_hung_shard_is_restarted(pool, known, stopped):
    """A shard that never answers is killed. What its sessions lack is told, and others are exact."""
    before = pool.stats()
    call, _ = pool.aio.step(inputs(), KEYS), known.step(inputs(), KEYS)
    with pytest.raises(LateShardsError):
        call.result(timeout=0.1)
    lost = set(pool._shards.sessions.keys_of(1))
    pool.restart(1)
    with pytest.raises(SessionsLostError) as raised:
        call.result(timeout=60)
    assert set(raised.value.lost) == lost
    assert raised.value.delivered.sum() == 6
    assert "it was restarted by ShardedPool.restart" in raised.value.causes[1]
    assert pool.wait(60)
    assert [now.lives - then.lives for now, then in zip(pool.stats(), before, strict=True)] == [0, 1, 0]
    pool.open(sorted(lost))


def test_restarted_shard_has_its_last_snapshot(pool, known, snapping):
    for _ in range(9):
        assert tick(pool, known, KEYS) is None
    pool._shards.snapshots = None
    assert tick(pool, known, KEYS) is None, "no snapshot has this tick"
    for _ in range(2):
        pool.restart(1)
    assert pool.wait(60)
    lacking = pool._shards.sessions.keys_of(1)
    error = tick(pool, known, KEYS)
    assert not error.delivered.any(), "the news come first"
    assert {key for key, changes in error.back.items() if changes > 1} == set(lacking)
    known.compare(pool)


@pytest.mark.parametrize(("shard", "kind"), [(3, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)])
def test_restart_of_no_shard_raises(shard, kind, pool):
    with pytest.raises(kind, match="shard: wanted"):
        pool.restart(shard)


class LosesCalls:
    """Stands for an actor's `call`: some calls don't reach the actor, and some answers get lost."""

    def __init__(self, call, rng, chance):
        self._call, self._rng, self._chance = call, rng, chance
        self.lost = 0

    def options(self, **_):
        return self._call.options(**_)

    def remote(self, message):
        luck = self._rng.random()
        reference = None if luck < self._chance / 2 else self._call.remote(message)
        if luck >= self._chance:
            return reference
        self.lost += 1
        future = Future()
        future.set_exception(ray.exceptions.ActorUnavailableError("planted", None))
        return future


@pytest.fixture
def lossy(pool, monkeypatch):
    """Let a tenth of the calls to shards be lost, with or without being done."""
    rng = np.random.default_rng(1)
    planted = [LosesCalls(link._call, rng, 0.1) for link in pool._shards.links]
    for link, call in zip(pool._shards.links, planted, strict=True):
        monkeypatch.setattr(link, "_call", call)
    return planted


def churn(pool, known, rng, number):
    """Step some sessions, open one and close one, and do what errors say. Return the errors."""
    keys = rng.permutation(np.array(list(known.states)))[: rng.integers(1, 12)].tolist()
    errors = [tick(pool, known, keys)]
    known.open([1000 + number])
    errors.append(told(known, lambda: pool.open([1000 + number])))
    pool.wait(60)
    closed = [key for key in keys[:1] if key in known.states and len(known.states) > 6]
    known.close(closed)
    errors.append(told(known, lambda: pool.close(closed)))
    pool.wait(60)
    return [error for error in errors if error is not None]


def test_lost_calls_lose_no_session(pool, known, lossy):
    """All sessions are exact or named, no process dies, and only sessions whose `open` was lost are lost."""
    before, rng, errors = pool.stats(), np.random.default_rng(0), []
    for number in range(60):
        found = churn(pool, known, rng, number)
        for error in found:
            assert set(error.lost) <= {1000 + number}
            assert set(error.back.values()) <= {1}
        errors += found
    assert pool.wait(60)
    for each in lossy:
        each._chance = 0
    known.compare(pool)
    assert sum(each.lost for each in lossy) > 5
    assert any(error.back for error in errors)
    assert [each.process for each in pool.stats()] == [each.process for each in before]


def forgets(self, record, tick):
    """Believe that all calls were done."""


@pytest.mark.nightly
def test_planted_forgotten_calls_are_found(pool, known, lossy, monkeypatch):
    monkeypatch.setattr(Link, "undo", forgets)
    with pytest.raises(AssertionError):
        test_lost_calls_lose_no_session(pool, known, lossy)


@pytest.fixture
def doubted(pool, known, monkeypatch):
    """Return what loses a call to shard 1, before it is done, and ends it with LateShardsError before the shard tells.

    Then the shard is asked, and is back.
    """
    asked, stop, link = threading.Event(), Reviver.stop, pool._shards.links[1]
    monkeypatch.setattr(Reviver, "stop", lambda *arguments: asked.wait() and stop(*arguments))

    def lose(call, *arguments):
        asked.clear()
        with monkeypatch.context() as patch:
            patch.setattr(link, "_call", LosesCalls(link._call, Unlucky(), 1.0))
            sent = call(*arguments)
        with pytest.raises(LateShardsError) as raised:
            sent.result(timeout=0)
        asked.set()
        assert pool.wait(60)
        return raised.value.call

    yield lose
    asked.set()


class Unlucky:
    """Stands for a generator of random numbers, by which each call is lost before it is done."""

    def random(self):
        return 0.0


def test_lost_snapshot_ends_a_save(pool, known, monkeypatch, tmp_path):
    link = pool._shards.links[1]
    with monkeypatch.context() as patch:
        patch.setattr(link, "_call", LosesCalls(link._call, Unlucky(), 1.0))
        with pytest.raises(SessionsLostError) as raised:
            pool.save(tmp_path)
    assert (raised.value.delivered.tolist(), raised.value.back) == ([True, False, True], {})
    assert not os.listdir(tmp_path)
    assert pool.wait(60)
    pool.save(tmp_path)
    known.compare(pool)


def next_calls(pool):
    """Return changes of all sessions, by name."""
    x, state = inputs(), LSTMState(h=np.ones((9, 8), np.float32), c=np.ones((9, 8), np.float32))
    return {
        "step": lambda: pool.step(x, KEYS),
        "reset": lambda: pool.reset(KEYS),
        "write": lambda: pool.write(KEYS, state),
    }


@pytest.mark.parametrize("name", ["step", "reset", "write"])
def test_untold_sessions_are_told_first(name, pool, known, doubted):
    x = inputs()
    known.step(x, KEYS)
    late = doubted(pool.aio.step, x, KEYS)
    lacking = pool._shards.sessions.keys_of(1)
    known.step(x, KEYS)  # stands for the change, which is not done
    with pytest.raises(SessionsLostError) as raised:
        next_calls(pool)[name]()
    assert raised.value.back == {key: 2 if key in lacking else 1 for key in KEYS}
    assert (raised.value.delivered.any(), raised.value.lost) == (False, [])
    known.hear(raised.value)
    known.compare(pool)
    with pytest.raises(SessionsLostError) as again:
        late.result()
    assert (again.value.back, again.value.delivered.sum()) == ({}, 9 - len(lacking))
    np.testing.assert_array_equal(pool.step(x, KEYS), known.step(x, KEYS))
    known.compare(pool)


def test_sessions_without_news_go_on(pool, known, doubted):
    x = inputs()
    known.step(x, KEYS)
    doubted(pool.aio.step, x, KEYS)
    others = [key for key in KEYS if key not in pool._shards.sessions.keys_of(1)]
    wanted = known.step(x[: len(others)], others)
    with pytest.raises(SessionsLostError) as raised:
        pool.step(x[: len(others)], others)
    assert raised.value.delivered.all()
    np.testing.assert_array_equal(raised.value.result, wanted)
    known.hear(raised.value)
    known.compare(pool)


def test_untold_news_precede_copies(pool, known, doubted):
    x = inputs()
    for call in (lambda: pool.fork(KEYS, range(100, 109)), lambda: pool.read(KEYS)):
        known.step(x, KEYS)
        doubted(pool.aio.step, x, KEYS)
        lacking = pool._shards.sessions.keys_of(1)
        with pytest.raises(SessionsLostError) as raised:
            call()
        assert raised.value.back == dict.fromkeys(lacking, 1)
        assert not raised.value.delivered.any()
        known.hear(raised.value)
        known.compare(pool)


def test_untold_lost_sessions_are_told_first(pool, known, doubted):
    new, x = ["new", "more", "last"], inputs()
    for call in (pool.open, pool.read, pool.reset, lambda keys: pool.step(x[:3], keys)):
        doubted(pool.aio.open, new)
        (lost,) = (key for key in new if key not in pool)
        with pytest.raises(SessionsLostError) as raised:
            call([lost, *KEYS[:2]] if call != pool.open else [lost])
        assert raised.value.lost == [lost]
        assert lost not in pool
        known.open([key for key in new if key != lost])
        if raised.value.back:
            assert raised.value.back == dict.fromkeys(KEYS[:2], 1)
        known.compare(pool)
        pool.close([key for key in new if key != lost])
        known.close([key for key in new if key != lost])


def test_close_ends_sessions_that_are_lost(pool, known, doubted):
    doubted(pool.aio.open, ["new", "more", "last"])
    with pytest.raises(SessionsLostError) as raised:
        pool.close(["new", "more", "last"])
    assert len(raised.value.lost) == 1
    known.compare(pool)


def tells_afterwards(self, places):
    """Believe that there is no news."""
    return False


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["step", "reset", "write"])
def test_planted_late_news_are_found(name, pool, known, doubted, monkeypatch):
    monkeypatch.setattr(Shards, "has_news_of", tells_afterwards)
    with pytest.raises(AssertionError):
        test_untold_sessions_are_told_first(name, pool, known, doubted)
