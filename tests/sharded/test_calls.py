"""A Call keeps its result or error, for as many waiters as there are. Waits have sensible times."""

import asyncio
import math
import threading
from concurrent.futures import Future

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from fusedlstm.ray import LateShardsError
from fusedlstm.ray import call as calls
from fusedlstm.ray.call import LATE, Call, Waiting
from fusedlstm.ray.link import Sent


def waiting(reference):
    return Waiting([Sent(2, 1, 1, reference)], [np.arange(3)], np.ones(3, np.bool_), np.ones(3))


def asking(reference, result):
    """Wait for a reference twice, and return or raise `result`."""
    answer = LATE
    while answer is LATE:
        (answer,) = yield waiting(reference)
    (again,) = yield waiting(reference)
    assert answer == again == "answer"
    if isinstance(result, Exception):
        raise result
    return result


def answered(answer="answer"):
    future = Future()
    future.set_result(answer)
    return future


def awaited(call):
    async def work():
        return await call

    return asyncio.run(work())


@pytest.mark.parametrize("wait", [Call.result, awaited])
def test_results_are_kept(wait):
    call, result = Call(asking(answered(), object()), 60.0), object()
    assert wait(call) is call.result() is wait(call)
    error = ValueError("planted")
    call = Call(asking(answered(), error), 60.0)
    for _ in range(2):
        with pytest.raises(ValueError, match="planted") as raised:
            wait(call)
        assert raised.value is error


def test_results_reach_all_threads():
    reference, result, got = Future(), object(), []
    call = Call(asking(reference, result), 60.0)
    threads = [threading.Thread(target=lambda: got.append(call.result())) for _ in range(8)]
    for thread in threads:
        thread.start()
    reference.set_result("answer")
    for thread in threads:
        thread.join(60)
    assert got == [result] * 8


def test_results_reach_all_tasks():
    async def work():
        call = Call(asking(answered(), "result"), 60.0)
        return await asyncio.gather(*(call for _ in range(8)))

    assert asyncio.run(work()) == ["result"] * 8


def test_interrupts_end_a_call_aloud():
    def interrupted():
        yield waiting(answered())
        raise KeyboardInterrupt

    call = Call(interrupted(), 60.0)
    with pytest.raises(KeyboardInterrupt):
        call.result()
    with pytest.raises(RuntimeError, match="an interrupt came while this call used its answers"):
        call.result()


@pytest.mark.parametrize("wait", [Call.result, awaited])
def test_shards_in_doubt_hold_others_shortly(wait, monkeypatch):
    monkeypatch.setattr(calls, "DOUBT", 0.01)
    reference = Future()
    call = Call(asking(reference, "result"), 60.0)
    for _ in range(2):
        with pytest.raises(LateShardsError, match=r"shards \[2\] after 0.01 seconds") as raised:
            wait(call)
        assert not raised.value.delivered.any()
    reference.set_result("answer")
    assert raised.value.call.result() == "result"


def within(call, timeout):
    async def work():
        return await call.within(timeout)

    return asyncio.run(work())


@pytest.mark.parametrize("wait", [Call.result, within])
def test_late_answers_are_waited_for_again(wait):
    reference = Future()
    call = Call(asking(reference, "result"), 60.0)
    for _ in range(2):
        with pytest.raises(LateShardsError, match=r"shards \[2\] after 0.01 seconds"):
            wait(call, 0.01)
    reference.set_result("answer")
    assert wait(call, 1) == "result"


@pytest.mark.parametrize(
    ("seconds", "kind", "says"),
    [
        (-1, ValueError, "timeout: wanted at least 0 seconds; got -1"),
        (math.nan, ValueError, "timeout: wanted a finite number; got nan"),
        (math.inf, ValueError, "timeout: wanted a finite number; got inf"),
        ("1", TypeError, "timeout: wanted a number; got str"),
        (True, TypeError, "timeout: wanted a number; got bool"),
    ],
)
def test_bad_timeouts_raise(seconds, kind, says, pool):
    pool.open(["a"])
    call = pool.aio.reset(["a"])
    for wait in (call.result, pool.wait, lambda seconds: within(call, seconds)):
        with pytest.raises(kind, match=says):
            wait(seconds)
    assert call.result(1e300) is within(call, 1e300) is None
    assert pool.wait(1e300)


class InterruptedEnd(Future):
    """An interrupt comes before a result is kept."""

    def set_result(self, result):
        raise KeyboardInterrupt


def test_interrupted_end_is_not_a_result():
    def work():
        yield Waiting([], [], np.ones(0, bool), None)
        return "result"

    call = Call(work(), 1.0)
    call._end = InterruptedEnd()
    with pytest.raises(KeyboardInterrupt):
        call.result()
    with pytest.raises(RuntimeError, match="an interrupt came while this call used its answers"):
        call.result()
