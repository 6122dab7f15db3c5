"""Snapshots of shards: copied beside calls, kept through errors that pass, and removed at the end."""

import errno
import os
import time

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed")

from fusedlstm import LSTMCell, LSTMWeights, WeightsFileError, pool_files
from fusedlstm.ray import ShardedPool, Snapshots, shards, snapshots
from fusedlstm.ray.reviver import Reviver
from fusedlstm.ray.snapshot_taker import SnapshotTaker
from fusedlstm.ray.snapshots import SnapshotError

from support import faulty_shards
from support.remembered import Remembered, tick
from support.sharded import INVARIANT, WEIGHTS, kill

KEYS = list(range(6))


def opened(pool):
    known = Remembered(LSTMCell(WEIGHTS[0], **INVARIANT))
    known.open(KEYS)
    pool.open(KEYS)
    return known


def first_error(pool, known):
    while (error := tick(pool, known, KEYS)) is None:
        pass
    return error


def test_steps_go_on_while_a_snapshot_is_fetched(make, monkeypatch, tmp_path):
    """The snapshot has the states of the moment when it began, whatever was stepped meanwhile."""
    ray.cloudpickle.register_pickle_by_value(faulty_shards)
    monkeypatch.setattr(shards, "Shard", faulty_shards.SnapsSlowly)
    monkeypatch.setattr(shards, "dict", lambda options: {**options, "gate": str(tmp_path / "gate")}, raising=False)
    pool = make(WEIGHTS[0], shards=1, capacity=9, options=INVARIANT, snapshot=Snapshots(ticks=4))
    known, link = opened(pool), pool._shards.links[0]
    for _ in range(9):
        assert tick(pool, known, KEYS) is None
    assert link.last is None
    (tmp_path / "gate").touch()
    assert ray.wait([link._pending.done], timeout=60)[0]
    kill(pool, 0)
    error = first_error(pool, known)
    assert set(error.back.values()) == {len(error.back) and error.back[0]}
    assert error.back[0] >= 6, "the snapshot began after the third tick"
    assert pool.wait(60)
    known.compare(pool)


def fails(times, error):
    """Return a `begin` that raises an error so often."""
    begin, left = Reviver.begin, [error] * times

    def failing(*arguments):
        if left:
            raise left.pop()
        begin(*arguments)

    return failing


@pytest.mark.parametrize(
    "error",
    [MemoryError("planted"), SnapshotError("planted", False)],
    ids=lambda error: type(error).__name__,
)
def test_passing_errors_keep_the_snapshot(error, pool, snapping, monkeypatch):
    known = opened(pool)
    for _ in range(9):
        assert tick(pool, known, KEYS) is None
    monkeypatch.setattr(Reviver, "begin", fails(3, error))
    kill(pool, 1)
    told = first_error(pool, known)
    assert (len(told.back), told.lost) == (2, [])
    assert pool.wait(60)
    known.compare(pool)
    assert not tick(pool, known, KEYS)


@pytest.mark.parametrize(
    "error",
    [SnapshotError("planted", True), ray.exceptions.ObjectLostError("0" * 56, None, "")],
    ids=lambda error: type(error).__name__,
)
def test_lost_snapshots_are_dropped(error, pool, snapping, monkeypatch):
    known = opened(pool)
    for _ in range(9):
        assert tick(pool, known, KEYS) is None
    monkeypatch.setattr(Reviver, "begin", fails(1, error))
    kill(pool, 1)
    first_error(pool, known)
    assert pool.wait(60)
    while len(known.states) > 4:
        tick(pool, known, KEYS)
    known.compare(pool)


def test_unreadable_snapshots_are_dropped_late(pool, snapping, monkeypatch):
    known = opened(pool)
    for _ in range(9):
        assert tick(pool, known, KEYS) is None
    monkeypatch.setattr(Reviver, "begin", fails(10**6, SnapshotError("planted", False)))
    kill(pool, 1)
    first_error(pool, known)
    monkeypatch.setattr(pool._shards, "timeout", 0.2)
    while pool._shards.links[1].last is not None:
        time.sleep(0.01)
    monkeypatch.undo()
    assert pool.wait(60)


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (FileNotFoundError("planted"), True),
        (WeightsFileError("planted"), True),
        (PermissionError("planted"), False),
        (OSError(errno.EIO, "planted"), False),
    ],
)
def test_unreadable_files_are_lost_or_not(error, is_lost, monkeypatch):
    def load(*_):
        raise error

    monkeypatch.setattr(pool_files, "load", load)
    with pytest.raises(SnapshotError, match="the snapshot a.safetensors can't be read: .*planted") as raised:
        snapshots.load("a.safetensors", LSTMWeights.random(2, 3, seed=0), 4)
    again = ray.cloudpickle.loads(ray.cloudpickle.dumps(raised.value))
    assert (again.is_lost, str(again)) == (is_lost, str(raised.value))


def left_files(make, monkeypatch, folder):
    """Shut a pool down while files are being written. Return the files that are there afterwards."""
    ray.cloudpickle.register_pickle_by_value(faulty_shards)
    monkeypatch.setattr(snapshots, "write", faulty_shards.write_slowly)
    pool = make(WEIGHTS[0], shards=2, capacity=9, snapshot=Snapshots(ticks=1, folder=folder))
    pool.open(KEYS)
    pool.step(np.ones((6, 3), np.float32), KEYS)
    writes = pool._shards.snapshots._writes
    time.sleep(0.5)  # the states are there, and being written
    pool.shutdown()
    ray.wait(writes, num_returns=len(writes), timeout=60)
    return os.listdir(folder)


def test_shutdown_waits_for_files(make, monkeypatch, tmp_path):
    assert left_files(make, monkeypatch, tmp_path) == []


@pytest.mark.nightly
def test_planted_early_removal_is_found(make, monkeypatch, tmp_path):
    monkeypatch.setattr(SnapshotTaker, "_running", lambda self, timeout: [])
    assert left_files(make, monkeypatch, tmp_path)


def test_snapshots_say_what_is_wrong():
    for kind, says, options in (
        (ValueError, "ticks: wanted at least 1", {"ticks": 0}),
        (TypeError, "ticks: wanted an int", {"ticks": 1.5}),
        (ValueError, "seconds: wanted a positive number", {"seconds": 0}),
        (ValueError, "None for both", {"seconds": None}),
        (ValueError, "folder: wanted a folder that exists", {"folder": "/nowhere/at/all"}),
    ):
        with pytest.raises(kind, match=says):
            Snapshots(**options)
    assert Snapshots(ticks=5).is_due(5, 0.0)
    assert not Snapshots(ticks=5, seconds=None).is_due(4, 1e9)
    assert Snapshots(seconds=2).is_due(1, 2.0)
    assert not Snapshots(seconds=2).is_due(0, 2.0)
    assert ShardedPool.__init__.__kwdefaults__["snapshot"] == Snapshots(seconds=10)
