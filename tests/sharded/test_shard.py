"""A shard refuses calls of another epoch or out of turn. These tests run it without an actor."""

import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from fusedlstm import LSTMState, LSTMWeights, StatePool
from fusedlstm.ray.link import Link
from fusedlstm.ray.shard import OWN, Shard, StaleCallError
from fusedlstm.ray.snapshots import SnapshotError

WEIGHTS = LSTMWeights.random(3, 4, seed=0)
NONE = np.zeros(0, np.int64)
X = np.ones((2, 3), np.float32)


def begun(epoch=1, content=None, kept=NONE):
    shard = Shard(5, {"backend": "numpy"})
    shard.begin(epoch, WEIGHTS, content, kept, 0)
    return shard


def filled():
    shard = begun()
    shard.allocate((1, 1), np.array([0, 1]))
    shard.step((1, 2), X, np.array([0, 1]), None)
    return shard


def states(shard, tick):
    (state,) = shard.read((shard._epoch, tick), np.array([0, 1]))
    return state.h.tobytes(), state.c.tobytes()


@pytest.mark.parametrize("stamp", [(0, 3), (2, 3), (2, 1), (1, 2), (1, 4), (1, 0), (0, 0)])
def test_wrong_stamps_change_nothing(stamp):
    shard, same = filled(), filled()
    slots = np.array([0, 1])
    for call in (
        lambda: shard.step(stamp, X, slots, None),
        lambda: shard.allocate(stamp, np.array([2])),
        lambda: shard.fork(stamp, slots[:1], np.array([2])),
        lambda: shard.release(stamp, slots),
        lambda: shard.reset(stamp, slots),
        lambda: shard.write(stamp, slots, [LSTMState(h=np.ones((2, 4), np.float32), c=np.ones((2, 4), np.float32))]),
        lambda: shard.read(stamp, slots),
        lambda: shard.set_weights(stamp, LSTMWeights.random(3, 4, seed=1)),
        lambda: shard.begin_snapshot(stamp),
        lambda: shard.replace(stamp, [LSTMState(h=np.ones((1, 4), np.float32), c=np.ones((1, 4), np.float32))]),
    ):
        with pytest.raises(StaleCallError, match=r"next are \(1, 3\)"):
            call()
    assert states(shard, 3) == states(same, 3)
    np.testing.assert_array_equal(shard.step((1, 4), X, slots, None)[0], same.step((1, 4), X, slots, None)[0])


def test_fresh_shards_refuse_all_calls():
    for stamp in ((1, 1), (0, 1), (0, 0), (1, 7)):
        with pytest.raises(StaleCallError):
            Shard(5, {}).allocate(stamp, np.array([0]))


def test_shard_that_could_not_begin_refuses():
    shard = filled()
    with pytest.raises(SnapshotError, match="the snapshot nowhere can't be read"):
        shard.begin(2, WEIGHTS, "nowhere", NONE, 0)
    for stamp in ((1, 3), (2, 1), (0, 1)):
        with pytest.raises(StaleCallError):
            shard.read(stamp, np.array([0]))


def test_begin_keeps_some_slots_of_a_snapshot():
    shard = filled()
    shard.allocate((1, 3), np.array([2]))
    wanted = states(shard, 4)
    shard.begin_snapshot((1, 5))
    _, content = shard.snapshot((1, 5))
    again = begun(2, content, np.array([0, 1]))
    assert states(again, 1) == wanted
    again.allocate((2, 2), np.array([2, 3]))


def test_stopped_shard_begins_with_its_own_states():
    shard = filled()
    wanted = states(shard, 3)
    assert shard.stop(0) == (1, 3), "a stop of an epoch before is late"
    assert states(shard, 4) == wanted
    for _ in range(2):
        assert shard.stop(1) == (1, 4)
    with pytest.raises(StaleCallError):
        shard.read((1, 5), np.array([0]))
    shard.begin(2, WEIGHTS, OWN, np.array([0, 1]), 0)
    assert states(shard, 1) == wanted
    shard.begin(3, WEIGHTS, OWN, np.array([1]), 0)
    shard.allocate((3, 1), np.array([0]))
    assert not shard.read((3, 2), np.array([0]))[0].h.any()
    fresh = Shard(5, {"backend": "numpy"})
    assert fresh.stop(3) == (0, 0)
    with pytest.raises(StaleCallError, match="it was restarted"):
        fresh.begin(4, WEIGHTS, OWN, NONE, 0)


def test_slots_that_differ_are_found():
    with pytest.raises(RuntimeError, match="a bug of fusedlstm"):
        begun().allocate((1, 1), np.array([1]))


@pytest.mark.parametrize(("error", "is_gone"), [(ProcessLookupError, True), (PermissionError, False), (None, False)])
def test_process_of_another_user_is_not_gone(error, is_gone, monkeypatch):
    def kill(process, number):
        assert (process, number) == (7, 0)
        if error is not None:
            raise error

    link = Link(0, SimpleNamespace(call=None))
    link.become_ready(7, "", "here")
    monkeypatch.setattr("fusedlstm.ray.link.place", lambda: "here")
    monkeypatch.setattr(os, "kill", kill)
    assert link.is_gone() == is_gone


def test_snapshot_is_of_its_moment():
    shard, same = filled(), filled()
    wanted = states(same, 3)
    shard.begin_snapshot((1, 3))
    shard.step((1, 4), X, np.array([0, 1]), None)
    small, (slots, (state,)) = shard.snapshot((1, 3))
    assert (small, slots.tolist()) == (True, [0, 1])
    assert (state.h.tobytes(), state.c.tobytes()) == wanted
    with pytest.raises(StaleCallError, match="no snapshot began"):
        shard.snapshot((1, 3))


def waiting(shard, stamp):
    """Fetch a snapshot in a thread, which waits. Return the thread and a list for what comes."""
    came = []

    def fetch():
        try:
            came.append(shard.snapshot(stamp))
        except StaleCallError as error:
            came.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    while not shard._changed._waiters:
        time.sleep(0.001)
    return thread, came


def test_snapshot_waits_for_its_begin():
    shard = filled()
    thread, came = waiting(shard, (1, 4))
    shard.step((1, 3), X, np.array([0, 1]), None)
    assert not came
    shard.begin_snapshot((1, 4))
    thread.join(60)
    assert came[0][1][0].tolist() == [0, 1]


@pytest.mark.parametrize("end", [lambda shard: shard.stop(1), lambda shard: shard.begin(2, WEIGHTS, OWN, NONE, 0)])
def test_snapshot_that_never_begins_is_refused(end):
    shard = filled()
    thread, came = waiting(shard, (1, 4))
    end(shard)
    thread.join(60)
    assert isinstance(came[0], StaleCallError)
    for stamp in ((1, 9), (1, 1), (3, 1)):
        with pytest.raises(StaleCallError, match="no snapshot began"):
            shard.snapshot(stamp)


def test_failed_snapshot_is_refused(monkeypatch):
    shard = filled()
    thread, came = waiting(shard, (1, 3))
    monkeypatch.setattr(shard._pool._calls, "begin_snapshot", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        shard.begin_snapshot((1, 3))
    thread.join(60)
    assert isinstance(came[0], StaleCallError)


def test_unfetched_snapshots_are_bounded():
    shard = filled()
    for tick in range(3, 10):
        shard.begin_snapshot((1, tick))
    assert list(shard._begun) == [(1, tick) for tick in range(6, 10)]
    shard.step((1, 10), X, np.array([0, 1]), None)
    for tick in range(6, 10):
        assert shard.snapshot((1, tick))[0]
    assert not shard._pool._slots._unfinished()


def test_shards_prepare_again_when_they_begin(monkeypatch):
    prepared = []
    monkeypatch.setattr(StatePool, "prepare", lambda self, max_batch: prepared.append(max_batch))
    shard = filled()
    shard.prepare((1, 3), 4)
    shard.begin(2, WEIGHTS, OWN, NONE, 4)
    assert prepared == [0, 4, 4]
