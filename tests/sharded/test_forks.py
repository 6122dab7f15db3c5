"""Children whose parents' shards are full open in other shards, and calls that name them keep their order."""

import contextlib
import os
import signal

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from fusedlstm import LSTMCell, PoolFullError
from fusedlstm.ray import LateShardsError, SessionsLostError, whole_pool
from fusedlstm.ray.forks import Forks

from support.remembered import inputs
from support.sharded import INVARIANT, WEIGHTS, kill


@pytest.fixture(scope="module")
def kept_small(nodes):
    from fusedlstm.ray import ShardedPool

    options = {"num_cpus": 0}
    with ShardedPool(
        WEIGHTS[0], shards=2, capacity=3, options=INVARIANT, snapshot=None, actor_options=options
    ) as small:
        yield small


@pytest.fixture
def small(kept_small):
    """Return a pool of two shards with three slots each, with two sessions that have states."""
    assert kept_small.wait(60)
    kept_small._calls.finish_forks()
    kept_small.close(kept_small.keys)
    kept_small.open(["a", "b"])
    kept_small.step(inputs(2), ["a", "b"])
    return kept_small


@pytest.fixture
def stopped(small):
    """Stop the process of the shard of "a", until the test calls this."""
    process = small.stats()[shard_of(small, "a")].process
    os.kill(process, signal.SIGSTOP)
    yield lambda: os.kill(process, signal.SIGCONT)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)


def shard_of(pool, key):
    sessions = pool._shards.sessions
    return int(sessions.find("keys", [key])[0]) // sessions.capacity


def stepped(state, *xs):
    """Return the outputs of a session with this state."""
    cell, outputs = LSTMCell(WEIGHTS[0], **INVARIANT), []
    for x in xs:
        state = cell(x, state)
        outputs.append(state.h)
    return outputs


def test_forks_move_when_a_shard_is_full(small):
    small.fork(["a", "a", "b", "a"], [1, 2, 3, 4])
    state, rows = small.read(["a", "b", 1, 2, 3, 4]), [0, 1, 0, 0, 1, 0]
    np.testing.assert_array_equal(state.h, state.h[:2][rows])
    np.testing.assert_array_equal(state.c, state.c[:2][rows])
    assert [shard.sessions for shard in small.stats()] == [3, 3]


def in_order(small):
    before, xs = small.read(["a"]), [inputs(1) for _ in range(3)]
    call = small.aio.fork(["a", "a", "a"], [1, 2, 3])
    change = small.aio.step(inputs(1), ["a"])
    steps = [small.aio.step(x, [3]) for x in xs]
    got = [each.result() for each in reversed(steps)][::-1]
    assert call.result() is None
    change.result()
    np.testing.assert_array_equal(np.concatenate(got), np.concatenate(stepped(before, *xs)))
    assert shard_of(small, 3) != shard_of(small, "a")


def test_calls_name_children_on_their_way(small):
    in_order(small)
    for call in (small.aio.reset, small.aio.read, small.aio.close, lambda key: small.aio.fork(key, ["child"])):
        small.close([key for key in small.keys if key not in ("a", "b")])
        fork = small.aio.fork(["a", "a", "a"], [1, 2, 3])
        call([3]).result()
        fork.result()
        assert (3 in small) == (call != small.aio.close)


@pytest.mark.nightly
def test_planted_impatience_is_found(small, monkeypatch):
    monkeypatch.setattr(Forks, "finish", lambda self, keys=None: None)
    with pytest.raises(ValueError, match="which is not open"):
        in_order(small)


def test_slots_of_children_on_their_way_are_kept(small, stopped):
    call = small.aio.fork(["a", "a", "a"], [1, 2, 3])
    with pytest.raises(ValueError, match=r"keys: wanted keys of no open session, each once; got 3 .* which is open"):
        small.aio.open([3])
    with pytest.raises(PoolFullError, match="at most 1 new sessions"):
        small.aio.open(["c", "d"])
    opening = small.aio.open(["c"])
    stopped()
    call.result()
    opening.result()
    assert set(small.keys) == {"a", "b", "c", 1, 2, 3}


def test_forks_of_slow_shards_hold_no_others(small, stopped, monkeypatch):
    monkeypatch.setattr(small._shards, "timeout", 0.2)
    call = small.aio.fork(["a", "a", "a"], [1, 2, 3])
    with pytest.raises(LateShardsError) as raised:
        call.result()
    assert not raised.value.delivered.any()
    small.step(inputs(1), ["b"])
    with pytest.raises(TimeoutError, match="sessions of this call are being forked, and shards .* not answered yet"):
        small.step(inputs(1), [3])
    stopped()
    monkeypatch.undo()
    small.step(inputs(1), [3])
    call.result()
    raised.value.call.result()


def test_saves_and_loads_wait_for_children(small, tmp_path):
    small.aio.fork(["a", "a", "a"], [1, 2, 3])
    small.save(tmp_path)
    small.close([1, 2, 3])
    small.aio.fork(["a", "a", "a"], [4, 5, 6])
    small.load(tmp_path)
    assert set(small.keys) == {"a", "b", 1, 2, 3}
    state = small.read(["a", 1, 2, 3])
    np.testing.assert_array_equal(state.c, state.c[:1].repeat(4, 0))


def test_load_replaces_children_on_their_way(small, monkeypatch, tmp_path):
    """As if another thread forked while `load` waits for a shard."""
    small.fork(["a", "a", "a"], [1, 2, 3])
    small.save(tmp_path)
    wanted, calls, wait = small.read([1, 2, 3, "a", "b"]), [], whole_pool._wait
    small.close([1, 2, 3])
    small.step(inputs(1), ["a"])

    def forks(shards):
        calls.append(small.aio.fork(["a", "a", "a"], [1, 2, 3]))
        wait(shards)

    monkeypatch.setattr(whole_pool, "_wait", forks)
    small.load(tmp_path)
    assert calls[0].result() is None
    assert sum(shard.sessions for shard in small.stats()) == len(small) == 5
    np.testing.assert_array_equal(small.read([1, 2, 3, "a", "b"]).h, wanted.h)


def test_children_of_dead_shards_are_not_open(small, stopped):
    call = small.aio.fork(["a", "a", "a"], [1, 2, 3])
    kill(small, shard_of(small, "a"))
    with pytest.raises(SessionsLostError) as raised:
        call.result()
    assert (raised.value.delivered.any(), set(raised.value.lost)) == (False, {"a", 1, 2})
    assert small.wait(60)
    assert small.keys == ["b"]
    with pytest.raises(ValueError, match="which is not open"):
        small.step(inputs(1), [3])
    small.open([3])
