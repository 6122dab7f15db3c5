"""The service, step by step: what it says of lost and late sessions, when it closes them, and how it ends."""

import asyncio
import json
import os
import re
import shutil

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from fusedlstm import (
    LSTMWeights,
    OtherWeightsWarning,
    PoolFullError,
    StackedWeights,
    WeightsFileError,
    atomic_write,
)
from fusedlstm.frames import Status
from fusedlstm.ray import LateShardsError, SessionsLostError
from fusedlstm.ray.serve import Limits, LocalPool, build
from fusedlstm.ray.serve import saved as saves
from fusedlstm.ray.serve.open_sessions import OpenSessions
from fusedlstm.ray.serve.service import DrainingError, Service

from support.kills import kill_while_saving
from support.shaky_pool import INVARIANT, WEIGHTS, ShakyPool, run_fast

X = np.ones((1, 3), np.float32)


class ScriptedPool(LocalPool):
    """A local pool whose next calls raise what a test says."""

    def __init__(self, capacity=4, weights=WEIGHTS):
        super().__init__(weights, capacity, **INVARIANT)
        self.script = []  # a call's name, and the error that it raises at once or later, or what it returns instead

    @property
    def aio(self):
        pool, calls = self, super().aio

        class Calls:
            def __getattr__(self, name):
                def call(*arguments):
                    if not pool.script or pool.script[0][0] != name:
                        return getattr(calls, name)(*arguments)
                    _, when, error = pool.script.pop(0)
                    if when == "at once":
                        raise error
                    if when == "instead":
                        return error
                    getattr(calls, name)(*arguments)
                    return failing(error)

                return call

        return Calls()


async def failing(error):
    raise error


def lost(rows=1, back=None, gone=()):
    return SessionsLostError(np.zeros((rows, 4), np.float32), np.zeros(rows, np.bool_), back or {}, list(gone), {})


def run(play, pool=None, folder=None, **limits):
    """Run a coroutine function of a started service and a function that steps one session."""
    pool = ScriptedPool() if pool is None else pool

    async def main():
        service = Service(pool, Limits(**limits), folder)
        await service.start()

        async def step(key, sequence=0, deadline_ms=0):
            message = service.submit(service.find([key])[0], np.array([sequence]), X, deadline_ms)
            await message.done
            return Status(message.status[0]).name, int(message.next[0])

        return await play(service, step)

    return run_fast(main())


def test_sessions_that_went_back_are_told():
    pool = ScriptedPool()

    async def play(service, step):
        await service.open(["a", "b"])
        for number in (1, 2, 3):
            assert await step("a", number) == ("OK", number + 1)
        pool.script = [("step", "later", lost(back={"a": 3}))]
        assert await step("a", 4) == ("WENT_BACK", 2)
        assert await step("a", 5) == ("WENT_BACK", 2)
        assert await step("a") == ("WENT_BACK", 2), "a row without a number is told once"
        assert await step("a") == ("OK", 3)
        assert await step("a", 5) == ("OUT_OF_ORDER", 3)
        pool.script = [("step", "later", lost(gone=["a"]))]
        assert await step("a", 3) == ("NOT_OPEN", 0)
        assert service.stats()["lost_sessions"] == 1

    run(play, pool)


def test_undone_steps_may_be_sent_again():
    """If only this step was lost, the session is as it was before."""
    pool = ScriptedPool()

    async def play(service, step):
        await service.open(["a"])
        pool.script = [("step", "later", lost(back={"a": 1}))]
        assert await step("a", 1) == ("BUSY", 1)
        pool.script = [("step", "later", lost())]
        assert await step("a", 1) == ("FAILED", 2), "the step was done, and its output is missing"
        assert await step("a", 1) == ("REPEATED", 2)
        pool.script = [("read", "later", RuntimeError("planted"))]
        assert await step("a", 1) == ("FAILED", 2)
        pool.script = [("step", "at once", RuntimeError("planted"))]
        assert await step("a", 2) == ("BUSY", 2)
        assert await step("a", 2) == ("OK", 3)

    run(play, pool)


def test_calls_with_news_are_sent_again():
    """A call that only reports news did nothing, so the service hears it and tries again."""
    pool = ScriptedPool()

    async def play(service, step):
        pool.script = [("open", "at once", lost(back={"z": 1}))]
        assert await service.open(["a", "b"]) == [True, True]
        pool.script = [("step", "at once", lost(back={"a": 1}))]
        assert await step("a", 1) == ("OK", 2)
        pool.script = [("read", "at once", lost(gone=["b"]))]
        assert await step("a", 1) == ("REPEATED", 2)
        assert await step("b", 1) == ("NOT_OPEN", 0)
        pool.script = [("step", "at once", lost(back={"a": 1}))] * 99
        assert await step("a", 2) == ("BUSY", 2)
        pool.script = [("open", "at once", lost())] * 99
        with pytest.raises(PoolFullError, match="restarting"):
            await service.open(["c"])
        pool.script = [("open", "later", lost(gone=["c"]))]
        await service.open(["c"])
        assert service.find(["c"])[0] == 0
        pool.script = [("close", "later", lost(back={"a": 1}))]
        await service.close(["a"])
        assert len(service.find(["a"])[0]) == 1

    run(play, pool)


def test_late_sessions_are_busy():
    pool = ScriptedPool()

    async def play(service, step):
        await service.open(["a", "b"])
        answered = asyncio.get_running_loop().create_future()
        late = LateShardsError(np.zeros((1, 4), np.float32), np.zeros(1, np.bool_), [0], answered, 1.0)
        pool.script = [("step", "later", late)]
        assert await step("a", 1) == ("FAILED", 2)
        for number in (1, 2):
            assert await step("a", number) == ("BUSY", 2)
        assert await step("b", 1) == ("OK", 2)
        answered.set_result(None)
        await asyncio.sleep(0)
        assert await step("a", 1) == ("REPEATED", 2)
        assert await step("a", 2) == ("OK", 3)
        pool.script = [
            ("read", "later", LateShardsError(None, np.zeros(1, np.bool_), [0], failing(lost(back={"a": 2})), 1))
        ]
        assert await step("a", 2) == ("FAILED", 3)
        await asyncio.sleep(0.1)
        assert await step("a", 3) == ("WENT_BACK", 1)

    run(play, pool)


class SlowCall:
    """A call like a ShardedPool's, of a shard that dies after the caller's time."""

    def __init__(self):
        self.waited = []

    async def within(self, seconds):
        self.waited.append(seconds)
        raise LateShardsError(None, np.zeros(1, np.bool_), [0], failing(lost(gone=["a"])), seconds)


def test_calls_wait_as_long_as_the_limit_says():
    pool, call = ScriptedPool(), SlowCall()

    async def play(service, step):
        await service.open(["a"])
        pool.script = [("step", "instead", call)]
        assert await step("a", 1) == ("FAILED", 2)
        await asyncio.sleep(0.1)
        assert await step("a", 1) == ("NOT_OPEN", 0)

    run(play, pool, answer_seconds=0.5)
    assert call.waited == [0.5]


def test_deadlines_and_full_ticks():
    async def play(service, step):
        await service.open(["a", "b", "c"])
        loop = asyncio.get_running_loop()
        start = loop.time()
        assert await step("a", 1, deadline_ms=50) == ("LATE", 1)
        assert loop.time() - start >= 0.1
        assert await step("a", 1, deadline_ms=500) == ("OK", 2)
        start = loop.time()
        await asyncio.gather(step("a"), step("b"), step("c"))
        assert loop.time() - start < 0.001, "a full tick waits for nothing"
        assert service.stats()["ticks"] == 2

    run(play, max_rows=3, max_wait_ms=100)


def test_idle_sessions_are_closed():
    async def play(service, step):
        await service.open(["a", "b"])
        for _ in range(10):
            await asyncio.sleep(5)
            await step("a")
        assert await step("b") == ("NOT_OPEN", 0)
        assert service.stats() | {"sessions": 1, "idle_sessions": 1} == service.stats()
        await service.open(["b"])
        await asyncio.sleep(30)
        assert service.stats()["sessions"] == 0

    run(play, idle_seconds=20)


def test_many_sessions_open_at_once():
    """This takes long if any work is done for each key and all others."""

    async def play(service, step):
        keys = [str(k) for k in range(20_000)]
        assert await service.open(keys) == [True] * len(keys)
        assert await service.open(keys) == [False] * len(keys)
        handles, numbers = service.find(keys)
        message = service.submit(handles, numbers, np.ones((len(keys), 3), np.float32))
        await message.done
        assert (message.status == Status.OK).all()
        await service.close(keys)
        assert service.stats()["sessions"] == 0

    run(play, ScriptedPool(20_000), max_waiting_rows=20_000)


def test_slots_and_handles_are_used_again():
    sessions = OpenSessions(3)
    seen = set()
    for _ in range(20):
        sessions.add(["a", "b", "c"], 0.0)
        slots = sessions.slots(["a", "b", "c"])
        handles = sessions.handles(slots)
        np.testing.assert_array_equal(sessions.find(handles), slots)
        assert seen.isdisjoint(handles.tolist())
        assert handles.max() < 2**53
        seen |= set(handles.tolist())
        sessions.next[slots] = 7
        sessions.remove(["a", "b", "c", "d"])
        assert (sessions.find(handles) == -1).all()
    assert (sessions.find(np.array([0, 1, 2, 3, 2**64 - 1], np.uint64)) == -1).all()
    with pytest.raises(ValueError, match="capacity: wanted at most 8388608 sessions in all shards"):
        OpenSessions(2**23 + 1)


def drained(pool, folder, play=None, **limits):
    """Run a service over a pool, in a loop of real time. Return what it says at the end."""

    async def main():
        service = Service(pool, Limits(**limits), folder)
        await service.start()
        result = None if play is None else await play(service)
        await service.drain()
        with pytest.raises(DrainingError):
            await service.open(["late"])
        return result, service.stats()

    return asyncio.run(main())


async def step_all(service, keys, steps):
    await service.open(keys)
    handles, numbers = service.find(keys)
    for k in range(steps):
        message = service.submit(handles, numbers + k, np.ones((len(keys), 3), np.float32))
        await message.done
    return message.next.tolist(), message.h


def test_drained_service_goes_on_elsewhere(tmp_path):
    folder = str(tmp_path / "sessions")
    (after, _), stats = drained(LocalPool(WEIGHTS, 4, **INVARIANT), folder, lambda s: step_all(s, ["a", "b"], 3))
    assert after == [4, 4]
    assert stats["draining"]
    (after, h), _ = drained(LocalPool(WEIGHTS, 9, **INVARIANT), folder, lambda s: step_all(s, ["b", "a"], 2))
    assert after == [6, 6]
    (_, wanted), _ = drained(LocalPool(WEIGHTS, 9, **INVARIANT), None, lambda s: step_all(s, ["a"], 5))
    np.testing.assert_array_equal(h, wanted[[0, 0]])
    assert len(list(tmp_path.glob("sessions/sessions-*"))) == 1


def test_changed_sessions_are_not_loaded_again(tmp_path):
    """If a service fails, the folder's states are too old. Sessions that it closed must not come back."""
    folder = str(tmp_path)
    drained(LocalPool(WEIGHTS, 4, **INVARIANT), folder, lambda s: step_all(s, ["a"], 3))

    async def fail(change):
        service = Service(LocalPool(WEIGHTS, 4, **INVARIANT), Limits(), folder)
        await service.start()
        if change == "close":
            await service.close(["a"])
        elif change == "open":
            await service.open(["b"])
        elif change == "step":
            service.submit(service.find(["a"])[0], np.array([4]), X)
        elif change == "nothing":
            await service.open(["a"])
            await service.close(["unknown"])
            service.submit(np.array([1], np.uint64), np.array([1]), X)
        service._lock.close()
        return service.stats()["sessions"]

    for change in (None, "nothing"):
        assert asyncio.run(fail(change)) == 1
    for change, left in (("close", 0), ("open", 2), ("step", 1)):
        assert asyncio.run(fail(change)) == left
        assert asyncio.run(fail(None)) == 0
        os.rename(tmp_path / "retired.json", tmp_path / "current.json")


def test_lost_folder_stops_nothing(tmp_path, caplog):
    """The service logs it once, and saves its sessions at the end."""
    folder = str(tmp_path / "sessions")
    drained(LocalPool(WEIGHTS, 4, **INVARIANT), folder, lambda s: step_all(s, ["a"], 3))

    async def play(service):
        shutil.rmtree(folder)
        await service.open(["b"])
        return await step_all(service, ["a", "b"], 2)

    (after, _), _ = drained(LocalPool(WEIGHTS, 4, **INVARIANT), folder, play)
    assert after == [6, 3]
    assert len([record for record in caplog.records if "can't be changed" in record.message]) == 1
    (after, _), _ = drained(LocalPool(WEIGHTS, 4, **INVARIANT), folder, lambda s: step_all(s, ["a", "b"], 1))
    assert after == [7, 4]


def test_retired_folders_are_synced(tmp_path, monkeypatch):
    """Else old states might come back after a power cut."""
    drained(LocalPool(WEIGHTS, 4, **INVARIANT), str(tmp_path), lambda s: step_all(s, ["a"], 1))
    synced = []
    monkeypatch.setattr(atomic_write, "sync_folder", lambda folder: synced.append((folder, os.listdir(folder))))
    saves.retire(str(tmp_path))
    [(folder, names)] = synced
    assert folder == str(tmp_path)
    assert "retired.json" in names


@pytest.mark.parametrize("sizes", [(3, 4), (3, 5)])
def test_other_weights_are_refused(tmp_path, sizes):
    folder, others = str(tmp_path), LSTMWeights.random(*sizes, seed=99)
    drained(LocalPool(WEIGHTS, 4, **INVARIANT), folder, lambda s: step_all(s, ["a"], 1))
    says = re.escape(f"{folder} has sessions of other weights. Give the weights that they were saved with, or another")
    with pytest.raises(WeightsFileError, match=says):
        drained(LocalPool(others, 4, **INVARIANT), folder)
    assert drained(LocalPool(WEIGHTS, 4, **INVARIANT), folder)[1]["sessions"] == 1


def test_local_pools_warn_of_other_weights(tmp_path):
    LocalPool(WEIGHTS, 4, **INVARIANT).save(str(tmp_path))
    with pytest.warns(OtherWeightsWarning, match="states of other weights") as warned:
        LocalPool(LSTMWeights.random(3, 4, seed=99), 4, **INVARIANT).load(str(tmp_path))
    assert warned[0].filename == __file__


def test_folder_is_tried_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        drained(LocalPool(WEIGHTS, 4, **INVARIANT), str(tmp_path / "file"))


def test_services_share_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(saves, "LOCK_SECONDS", 0.2)

    async def play(service):
        other = Service(LocalPool(WEIGHTS, 4, **INVARIANT), Limits(), str(tmp_path))
        with pytest.raises(OSError, match="another service uses this folder.*" + re.escape(str(tmp_path))):
            await other.start()

    for _ in range(2):
        drained(LocalPool(WEIGHTS, 4, **INVARIANT), str(tmp_path), play)


def test_nothing_is_closed_while_draining(tmp_path):
    async def play(service):
        await service.open(["a"])
        service.is_draining = True
        with pytest.raises(DrainingError):
            await service.close(["a"])
        service.is_draining = False

    drained(LocalPool(WEIGHTS, 4, **INVARIANT), str(tmp_path), play)


def test_drain_ends_in_time():
    """Rows that wait longer are BUSY."""

    async def play(service):
        await service.open(["a"])
        message = service.submit(np.repeat(service.find(["a"])[0], 60), np.zeros(60, int), np.repeat(X, 60, axis=0))
        await service.drain()
        told = message.status.tolist()
        assert told.index(Status.BUSY) > 1
        assert told == sorted(told)

    async def main():
        service = Service(SlowPool(4), Limits(max_ticks=1, drain_seconds=1.0))
        await service.start()
        await play(service)

    run_fast(main())


class SlowPool(ScriptedPool):
    """A pool whose steps take 0.1 seconds."""

    @property
    def aio(self):
        calls = super().aio

        class Calls:
            def __getattr__(self, name):
                return getattr(calls, name)

            async def step(self, x, keys):
                await asyncio.sleep(0.1)
                return await calls.step(x, keys)

        return Calls()


def test_one_session_waits_with_few_rows():
    async def play(service, step):
        await service.open(["a", "b"])
        handles = np.repeat(service.find(["a"])[0], 10)
        messages = [service.submit(handles, np.zeros(10, int), np.repeat(X, 10, axis=0)) for _ in range(2)]
        other = service.submit(service.find(["b"])[0], np.array([1]), X)
        for message in (*messages, other):
            await message.done
        told = np.concatenate([message.status for message in messages]).tolist()
        assert told == [Status.OK] * 12 + [Status.BUSY] * 8
        assert other.status == [Status.OK]
        assert await step("a") == ("OK", 14)
        many = service.submit(np.full(50, 3, np.uint64), np.ones(50, int), np.repeat(X, 50, axis=0))
        await many.done
        assert set(many.status) == {Status.NOT_OPEN}
        assert not service._ticks._waiting._count_of.any()

    run(play, max_session_rows=12, max_ticks=1)


def test_last_number_is_not_passed():
    async def play(service, step):
        await service.open(["a"])
        service._sessions.next[service._sessions.slot("a")] = 2**32 - 2
        assert await step("a") == ("OK", 2**32 - 1)
        assert await step("a", 2**32 - 2) == ("REPEATED", 2**32 - 1)
        for number in (0, 2**32 - 1):
            assert await step("a", number) == ("OUT_OF_ORDER", 2**32 - 1)

    run(play)


def test_drain_finishes_waiting_rows():
    async def play(service):
        await service.open(["a"])
        message = service.submit(service.find(["a"])[0], np.array([1]), X)
        await service.drain()
        assert message.status.tolist() == [Status.OK]
        message = service.submit(service.find(["a"])[0], np.array([2]), X)
        assert message.status.tolist() == [Status.BUSY]

    drained(LocalPool(WEIGHTS, 4, **INVARIANT), None, play, max_wait_ms=30)


def test_damaged_folders_are_refused(tmp_path):
    folder, pool = str(tmp_path), LocalPool(WEIGHTS, 4, **INVARIANT)
    drained(pool, folder, lambda s: step_all(s, ["a", "b"], 1))
    current, (numbers,) = tmp_path / "current.json", tmp_path.glob("sessions-*/next.json")
    for path, content in (
        (current, "{"),
        (current, json.dumps({"version": 2, "folder": "sessions-0123456789abcdef"})),
        (current, json.dumps({"version": 1, "folder": "sessions-0123456789abcdef"})),
        (current, json.dumps({"version": 1, "folder": "../elsewhere"})),
        (numbers, json.dumps({"a": 1})),
        (numbers, json.dumps({"a": 1, "b": 0})),
        (numbers, json.dumps([1, 2])),
    ):
        kept = path.read_text()
        path.write_text(content)
        with pytest.raises(WeightsFileError, match=path.name):
            saves.load(folder, LocalPool(WEIGHTS, 4, **INVARIANT))
        path.write_text(kept)
    assert saves.load(folder, LocalPool(WEIGHTS, 4, **INVARIANT)) == {"a": 2, "b": 2}


@pytest.mark.nightly
def test_killed_saves_leave_old_or_new(tmp_path):
    pools = []
    for number in (1, 2):
        pool = LocalPool(WEIGHTS, 4, **INVARIANT)
        asyncio.run(opened(pool, number))
        pools.append((pool, {"a": number}))

    def save_both():
        for each in pools:
            saves.save(str(tmp_path), *each)

    save_both()
    for k in range(30):
        kill_while_saving(save_both, k / 1000)
        pool = LocalPool(WEIGHTS, 4, **INVARIANT)
        number = saves.load(str(tmp_path), pool)["a"]
        asyncio.run(compared(pool, number))


async def opened(pool, number):
    await pool.aio.open(["a"])
    for _ in range(number):
        await pool.aio.step(X, ["a"])


async def compared(pool, number):
    other = LocalPool(WEIGHTS, 4, **INVARIANT)
    await opened(other, number)
    assert (await pool.aio.read(["a"])).h.tolist() == (await other.aio.read(["a"])).h.tolist()


def test_stacks_repeat_their_top_layer():
    weights = StackedWeights([LSTMWeights.random(3, 5, seed=0), LSTMWeights.random(5, 4, seed=1)])

    async def play(service, step):
        await service.open(["a"])
        rows = []
        for _ in range(2):
            message = service.submit(service.find(["a"])[0], np.array([1]), X)
            await message.done
            rows.append(message.h)
        np.testing.assert_array_equal(*rows)
        assert rows[0].any()

    run(play, ScriptedPool(weights=weights))


def test_bad_arguments_raise():
    with pytest.raises(ValueError, match="max_rows: wanted at least 1"):
        Limits(max_rows=0)
    with pytest.raises(TypeError, match="max_wait_ms: wanted a number"):
        Limits(max_wait_ms="2")
    with pytest.raises(ValueError, match="max_wait_ms: wanted a number >= 0"):
        Limits(max_wait_ms=-1)
    with pytest.raises(ValueError, match="drain_seconds: wanted a positive number"):
        Limits(drain_seconds=0)
    with pytest.raises(ValueError, match="idle_seconds: wanted a positive number, or None"):
        Limits(idle_seconds=0)
    for options, says in (
        ({"capacity": 2**23}, "capacity: wanted at most 8388608 sessions in all shards; got 16777216"),
        ({"num_gpus": -1}, "num_gpus: wanted a number >= 0"),
        ({"max_connections": 0}, "max_connections: wanted at least 1"),
        ({"shards": 0}, "shards: wanted at least 1"),
    ):
        with pytest.raises(ValueError, match=says):
            build(WEIGHTS, **({"shards": 2, "capacity": 2} | options))
    square = LSTMWeights.random(4, 4, seed=0)
    with pytest.raises(ValueError, match="pool: wanted weights whose top layer is not residual"):
        run(None, ScriptedPool(weights=StackedWeights([square], residual=True)))
    with pytest.raises(ValueError, match="weights: wanted weights whose top layer is not residual"):
        build(StackedWeights([square], residual=True), shards=1, capacity=1)
    pool = ShakyPool(3, np.random.default_rng(0))
    pool.shards[0]["a"] = None
    with pytest.raises(ValueError, match="pool: wanted a pool without sessions; got 1 sessions"):
        run(None, pool)
