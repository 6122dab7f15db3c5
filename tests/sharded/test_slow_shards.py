"""A shard that is alive loses nothing, however slow it is, and whatever happens to the connection."""

import asyncio
import os
import signal
from concurrent.futures import Future

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed")

from fusedlstm import LSTMCell
from fusedlstm.ray import LateShardsError, SessionsLostError
from fusedlstm.ray.link import Link

from support.sharded import INVARIANT, WEIGHTS, Remembered

RNG = np.random.default_rng(0)
KEYS = list(range(9))


def inputs(B=9):
    return RNG.normal(size=(B, 3)).astype(np.float32)


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
    os.kill(process, signal.SIGCONT)


def test_stopped_shard_is_late_and_exact(pool, known, stopped):
    before, x = pool.stats(), inputs()
    call, wanted = pool.aio.step(x, KEYS), known.step(x, KEYS)
    for _ in range(2):
        with pytest.raises(
            LateShardsError, match=r"no answer of shards \[1\] after 0.2 seconds. Nothing is lost"
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
    """Step, open, reset and close some sessions, and do what errors say."""
    errors = []
    keys = rng.permutation(np.array(list(known.states)))[: rng.integers(1, 12)].tolist()
    x = inputs(len(keys))
    wanted = known.step(x, keys)
    try:
        got, delivered = pool.step(x, keys), np.ones(len(keys), bool)
    except SessionsLostError as error:
        got, delivered = error.result, error.delivered
        known.hear(error)
        errors.append(error)
    np.testing.assert_array_equal(got[delivered], wanted[delivered])
    new = [1000 + number]
    closed = [key for key in keys[:1] if key in known.states and len(known.states) > 6]
    calls = [lambda: known.open(new), lambda: pool.open(new)], [lambda: known.close(closed), lambda: pool.close(closed)]
    for told, sent in calls:
        told()
        try:
            sent()
        except SessionsLostError as error:
            known.hear(error)
            errors.append(error)
        pool.wait(60)
    return errors


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
