"""A call that fails inside a shard leaves no wrong state behind, and one that changes nothing loses nothing."""

import contextlib
import logging
import shutil
import threading
import time

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed")

from fusedlstm import LSTMCell
from fusedlstm.ray import SessionsLostError, Snapshots, shards
from fusedlstm.ray.call import Call
from fusedlstm.ray.gather import gather
from fusedlstm.ray.link import Sent
from fusedlstm.ray.reviver import Reviver
from fusedlstm.ray.shard import Shard, StaleCallError

from support import faulty_shards
from support.remembered import Remembered, inputs, tick, told
from support.sharded import INVARIANT, WEIGHTS

KEYS = list(range(6))


@pytest.fixture
def faulty(make, monkeypatch):
    """Return what makes a pool of a kind of shards, with 6 open sessions, and their model."""
    ray.cloudpickle.register_pickle_by_value(faulty_shards)

    def opened(kind, snapshot):
        monkeypatch.setattr(shards, "Shard", kind)
        pool = make(WEIGHTS[0], shards=2, capacity=9, options=INVARIANT, snapshot=snapshot)
        known = Remembered(LSTMCell(WEIGHTS[0], **INVARIANT))
        known.open(KEYS)
        pool.open(KEYS)
        return pool, known

    return opened


def settled(pool, tried):
    """Wait until a snapshot that was tried for this many ticks is whole or has failed."""
    for link in pool._shards.links:
        assert link._tried[0] >= tried
        while not link.settle_snapshot():
            time.sleep(0.01)


@pytest.mark.parametrize("first", [0, 1])
def test_failed_step_is_in_no_snapshot(first, faulty):
    """Snapshots are due after each step, so one would follow the step that fails. So does a second step."""
    pool, known = faulty(faulty_shards.FailsToStep, Snapshots(ticks=1))
    assert tick(pool, known, KEYS) is None
    settled(pool, 1)
    x, y = inputs(6), inputs(6)
    x[0] = faulty_shards.FAILS
    known.step(x, KEYS)
    wanted = known.step(y, KEYS)
    calls = [pool.aio.step(x, KEYS), pool.aio.step(y, KEYS)]
    settled(pool, 1)
    errors = {}
    for number in (first, 1 - first):
        with pytest.raises(SessionsLostError) as raised:
            calls[number].result()
        errors[number] = raised.value
        known.hear(raised.value)
    delivered = errors[1].delivered
    assert delivered.sum() == 3
    np.testing.assert_array_equal(errors[1].result[delivered], wanted[delivered])
    assert not delivered[0]
    assert pool.wait(60)
    known.compare(pool)


def test_failed_shard_says_so_when_it_is_stopped():
    shard = Shard(5, {"backend": "numpy"})
    shard.begin(1, WEIGHTS[0], None, np.zeros(0, np.int64), 0)
    shard.call(("allocate", (1, 1), np.array([0])))
    with pytest.raises(TypeError):
        shard.call(("step", (1, 2), "nonsense", np.array([0]), None))
    for method in ("read", "begin_snapshot"):
        with pytest.raises(StaleCallError):
            shard.call((method, (1, 3), *[np.array([0])][: method == "read"]))
    with pytest.raises(StaleCallError, match="no snapshot began"):
        shard.snapshot((1, 3))
    assert shard.stop(1)[0] < 0
    shard.begin(2, WEIGHTS[0], None, np.zeros(0, np.int64), 0)
    shard.call(("allocate", (2, 1), np.array([0])))


def test_failed_shard_is_killed_by_any_doubt(faulty):
    """The failed step's error is not what is heard first."""
    pool, known = faulty(faulty_shards.FailsToStep, None)
    before, x = pool.stats(), inputs(6)
    x[0] = faulty_shards.FAILS
    call = pool.aio.step(x, KEYS)
    with pool._shards.lock:
        pool._shards._reviver.doubt(pool._shards.links[0], ray.exceptions.ActorUnavailableError("planted", None))
    with pytest.raises(SessionsLostError) as raised:
        call.result()
    assert set(raised.value.lost) == {key for key, row in zip(KEYS, raised.value.delivered, strict=True) if not row}
    assert pool.wait(60)
    assert [now.process == then.process for now, then in zip(pool.stats(), before, strict=True)] == [False, True]


def test_failed_copies_lose_nothing(faulty, tmp_path):
    pool, known = faulty(faulty_shards.FailsToCopy, None)
    assert tick(pool, known, KEYS) is None
    before = pool.stats()
    for call, rows in ((lambda: pool.read(KEYS), 6), (lambda: pool.save(tmp_path), 2)):
        with pytest.raises(SessionsLostError) as raised:
            call()
        assert (raised.value.delivered.tolist(), raised.value.back, raised.value.lost) == ([False] * rows, {}, [])
        assert "no memory; nothing has changed: planted" in raised.value.causes[1]
    assert tick(pool, known, KEYS) is None
    assert [each.process for each in pool.stats()] == [each.process for each in before]


def test_unbegun_copies_lose_nothing(faulty, tmp_path):
    pool, known = faulty(faulty_shards.FailsToBeginCopies, None)
    before = pool.stats()
    with pytest.raises(SessionsLostError) as raised:
        pool.save(tmp_path)
    assert not raised.value.lost
    known.compare(pool)
    assert [(each.process, each.calls) for each in pool.stats()] == [
        (each.process, each.calls + 2) for each in before
    ], "no shard was asked what it did"


def test_failed_preparation_loses_nothing(faulty):
    pool, known = faulty(faulty_shards.FailsToPrepare, Snapshots(ticks=1))
    assert tick(pool, known, KEYS) is None
    before = pool.stats()
    with pytest.raises(SessionsLostError) as raised:
        pool.prepare(5)
    assert (raised.value.delivered.tolist(), raised.value.back, raised.value.lost) == ([False, False], {}, [])
    assert tick(pool, known, KEYS) is None
    assert [each.process for each in pool.stats()] == [each.process for each in before]
    settled(pool, 1)
    pool.restart(1)
    assert pool.wait(60), "it should begin without this preparation"
    told(known, lambda: pool.read([]))
    known.compare(pool)


def test_failed_snapshots_are_logged(make, caplog, tmp_path):
    folder = tmp_path / "snapshots"
    folder.mkdir()
    pool = make(WEIGHTS[0], shards=1, capacity=9, snapshot=Snapshots(ticks=1, folder=folder))
    pool.open(KEYS)
    shutil.rmtree(folder)
    pool.step(inputs(6), KEYS)
    with caplog.at_level(logging.WARNING, "fusedlstm"):
        settled(pool, 1)
    assert any("a snapshot of shard 0 failed: " in said for said in caplog.messages)
    assert pool._shards.links[0].last is None


def test_shutdown_ends_all_waits(make, monkeypatch):
    asked = threading.Event()
    monkeypatch.setattr(Reviver, "stop", lambda *_: asked.wait() and (0, 0))
    pool = make(WEIGHTS[0], shards=2, capacity=9, snapshot=None)
    pool.open(KEYS)
    call, ends = pool.aio.step(inputs(6), KEYS), []
    with pool._shards.lock:
        pool._shards._reviver.doubt(pool._shards.links[1], ray.exceptions.ActorUnavailableError("planted", None))
    in_doubt = Call(gather(pool._shards, 1, [np.array([0])], [Sent(1, 1, 1, pool._shards.links[1].told)]), 60)

    def until_it_ends(wait):
        with pytest.raises(RuntimeError, match="this ShardedPool has been shut down") as raised:
            wait()
        ends.append(raised.value)

    threads = [threading.Thread(target=until_it_ends, args=(wait,)) for wait in (pool.wait, in_doubt.result)]
    for thread in threads:
        thread.start()
    pool.shutdown()
    for thread in threads:
        thread.join(60)
    asked.set()
    assert len(ends) == 2
    with contextlib.suppress(RuntimeError):
        call.result(timeout=60)
