"""Shards are killed: each session is exact or named, other shards' rows are delivered, and old calls are refused."""

import itertools
import os
import re
import threading

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed")

from fusedlstm import LSTMCell, PoolFullError
from fusedlstm.ray import SessionsLostError, Snapshots, shards
from fusedlstm.ray.sessions import Sessions
from fusedlstm.ray.shard import StaleCallError

from support import faulty_shards
from support.remembered import Remembered, inputs, tick, told
from support.sharded import INVARIANT, WEIGHTS, kill


def model():
    return Remembered(LSTMCell(WEIGHTS[0], **INVARIANT))


def under_load(pool, kills, seed=0):
    """Kill shards at random moments while sessions are opened, stepped and closed. Return the errors."""
    rng, known, names, errors = np.random.default_rng(seed), model(), map(str, itertools.count()), []
    for _ in range(kills):
        before = lives(pool)
        threading.Timer(rng.uniform(0, 0.05), kill, (pool, int(rng.integers(pool._shards.count)))).start()
        while lives(pool) == before:
            errors += churn(pool, known, rng, names)
        errors += churn(pool, known, rng, names)
        assert pool.wait(60)
        known.compare(pool)
    return errors


def lives(pool):
    return sum(shard.lives for shard in pool.stats())


def churn(pool, known, rng, names):
    """Step some sessions, open some and close some. Return the errors."""
    keys = rng.permutation(list(known.states))[: rng.integers(1, 20)].tolist()
    errors = [tick(pool, known, keys)]
    new = [next(names) for _ in range(rng.integers(3))] if len(known.states) < 18 else []
    known.open(new)
    errors.append(told(known, lambda: pool.open(new)))
    closed = [key for key in keys[: rng.integers(3)] if key in known.states]
    for key in closed:
        del known.states[key]
    errors.append(told(known, lambda: pool.close(closed)))
    return [error for error in errors if error is not None]


def test_killed_shards_under_load(pool, snapping):
    before = lives(pool)
    errors = under_load(pool, 5)
    assert lives(pool) == before + 5
    assert any(error.back for error in errors)
    assert any(not error.delivered.all() for error in errors)


@pytest.mark.nightly
def test_fifty_killed_shards_under_load(pool, snapping):
    before = lives(pool)
    under_load(pool, 50, seed=1)
    assert lives(pool) == before + 50


@pytest.mark.nightly
def test_killed_shards_with_files(make, tmp_path):
    when = Snapshots(ticks=2, folder=tmp_path)
    pool = make(WEIGHTS[0], shards=1, capacity=24, options=INVARIANT, snapshot=when)
    killed_once(pool)
    assert list(tmp_path.glob("snapshot-*.safetensors"))
    pool.shutdown()
    assert not os.listdir(tmp_path)


def quiet_fall_back(self, shard, record):
    kept, _, lost = FALL_BACK(self, shard, record)
    return kept, {}, lost


FALL_BACK = Sessions.fall_back


def one_less(self, shard, record):
    kept, back, lost = FALL_BACK(self, shard, record)
    return kept, {key: changes - 1 for key, changes in back.items() if changes > 1}, lost


@pytest.mark.nightly
@pytest.mark.parametrize("wrong", [quiet_fall_back, one_less])
def test_planted_silence_is_found(wrong, pool, snapping, monkeypatch):
    monkeypatch.setattr(Sessions, "fall_back", wrong)
    with pytest.raises(AssertionError):
        killed_once(pool)


@pytest.mark.nightly
@pytest.mark.parametrize("wrong", [faulty_shards.RestoresOtherRows, faulty_shards.RestoresNothing])
def test_planted_wrong_states_are_found(wrong, make, monkeypatch):
    ray.cloudpickle.register_pickle_by_value(faulty_shards)
    monkeypatch.setattr(shards, "Shard", wrong)
    pool = make(WEIGHTS[0], shards=1, capacity=12, options=INVARIANT, snapshot=Snapshots(ticks=4))
    with pytest.raises(AssertionError, match="neither exact nor named"):
        killed_once(pool)


def killed_once(pool):
    """Kill a shard between ticks, and compare all sessions. Return the first error."""
    known, keys = model(), [f"s{k}" for k in range(9)]
    known.open(keys)
    pool.open(keys)
    for _ in range(14):
        assert tick(pool, known, keys) is None
    kill(pool, 0)
    error = None
    while error is None:
        error = tick(pool, known, keys)
    assert pool.wait(60)
    known.compare(pool)
    return error


def test_dead_shard_goes_back_to_its_snapshot(pool, snapping):
    error = killed_once(pool)
    assert len(error.back) == 3
    assert set(error.back.values()) <= set(range(1, 12))
    assert not error.lost
    assert error.delivered.sum() == 6


def test_sessions_without_a_snapshot_are_lost(pool):
    error = killed_once(pool)
    assert len(error.lost) == 3
    assert not error.back
    with pytest.raises(ValueError, match="is not open"):
        pool.read(error.lost)
    pool.open(error.lost)


def test_others_go_on_while_a_shard_is_dead(pool, snapping, gate):
    known, keys = model(), list(range(9))
    known.open(keys)
    pool.open(keys)
    kill(pool, 1)
    while tick(pool, known, keys) is None:
        pass
    alive, gone = list(known.states), [key for key in keys if key not in known.states]
    assert len(gone) == 3, "they were opened after the last snapshot"
    for _ in range(5):
        assert tick(pool, known, alive) is None
    pool.open(gone)
    known.open(gone)
    assert [shard.sessions for shard in pool.stats()].count(0) == 1
    with pytest.raises(PoolFullError, match="in 2 of 3 shards that are ready"):
        pool.open(range(100, 124))
    pool.close(gone)
    assert not pool.wait(0)
    gate.set()
    assert pool.wait(60)


def test_changes_of_waiting_rows_are_named(pool, snapping, gate):
    """Rows of a shard that is not back are not done, and the error says so each time."""
    known, keys = model(), list(range(9))
    known.open(keys)
    pool.open(keys)
    for _ in range(9):
        assert tick(pool, known, keys) is None
    kill(pool, 1)
    while not (error := tick(pool, known, keys)):
        pass
    dead = [key for key, row in zip(keys, error.delivered, strict=True) if not row]
    assert set(error.back) == set(dead)
    for _ in range(2):
        error = tick(pool, known, keys)
        assert error.back == dict.fromkeys(dead, 1)
    with pytest.raises(SessionsLostError) as raised:
        pool.reset(dead)
    assert raised.value.back == dict.fromkeys(dead, 1)
    with pytest.raises(SessionsLostError) as raised:
        pool.read(dead)
    assert not raised.value.back
    pool.close(dead[:1])
    del known.states[dead[0]]
    new = WEIGHTS[1]
    pool.set_weights(new)
    known.owner.set_weights(new)
    gate.set()
    assert pool.wait(60)
    known.compare(pool)
    assert tick(pool, known, keys) is None, "the shard should have the new weights"


def test_restarted_shard_refuses_old_calls(pool, snapping, gate):
    """Send calls with the stamps of the dead shard's epoch. Ray runs them on the fresh actor."""
    pool.open(range(9))
    link = pool._shards.links[2]
    stamp = link.epoch, link.calls + 1
    kill(pool, 2)
    slots = np.array([0])
    seen = set()
    while "refused" not in seen:
        try:
            ray.get(link.actor.step.remote(stamp, inputs(1), slots, None))
            seen.add("stepped")
        except StaleCallError:
            seen.add("refused")
        except ray.exceptions.RayActorError:
            seen.add("dead")
    assert "stepped" not in seen


def test_lost_snapshots_lose_sessions_aloud(pool, snapping, gate):
    """If the snapshot is gone when the shard restarts, the next call names its sessions as lost."""
    pool.open(range(9))
    for _ in range(9):
        pool.step(inputs(9), range(9))
    kill(pool, 0)
    with pytest.raises(SessionsLostError) as raised:
        while True:
            pool.step(inputs(9), range(9))
    named = set(raised.value.back)
    pool._shards.links[0].last = pool._shards.links[0].last._replace(content="/nowhere/at/all")
    gate.set()
    assert pool.wait(60)
    with pytest.raises(SessionsLostError) as raised:
        pool.step(inputs(3), [key for key in range(9) if key not in named][:3])
    assert set(raised.value.lost) == named
    assert raised.value.delivered.all()
    assert raised.value.result.any()


def test_error_names_the_cause_of_each_shard(pool):
    error = killed_once(pool)
    assert list(error.causes) == [0]
    assert re.fullmatch(r"Actor\w+Error: .+", error.causes[0])
    assert f". Shard 0: {error.causes[0]}. See" in str(error)


def test_error_inside_a_shard_restores_it(pool, snapping):
    """Nobody knows the states of a shard whose call failed, so it goes back to its snapshot."""
    known, keys = model(), list(range(9))
    known.open(keys)
    pool.open(keys)
    for _ in range(9):
        assert tick(pool, known, keys) is None
    pool._shards.snapshots = None
    assert tick(pool, known, keys) is None, "no snapshot has this tick"
    sent = pool._shards.links[1].send("step", "nonsense", np.array([0]), None)
    with pytest.raises(TypeError) as raised:
        ray.get(sent.reference)
    pool._shards.settle(sent, raised.value)
    assert pool.wait(60)
    error = told(known, lambda: pool.read([]))
    assert set(error.back) | set(error.lost)
    assert "TypeError" in error.causes[1]
    known.compare(pool)
