"""Rows shared out among threads: the numbers don't change, and no thread writes after the call."""

import functools
import queue
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights
from fusedlstm.backends.numpy import blas, matmul
from fusedlstm.backends.numpy import threads as rows


@pytest.fixture
def threads(monkeypatch):
    """Use three threads, for work of any size."""
    monkeypatch.setattr(matmul, "has_small_kernels", lambda: True)
    monkeypatch.setattr(rows, "_LEAST_WORK", 0)
    monkeypatch.setattr(rows, "_LEAST_STEP", 0)
    monkeypatch.setattr(blas, "threads", lambda: 3)


@pytest.mark.parametrize("B", [0, 1, 15, 16, 23, 24, 25, 1000])
def test_shares_cover_all_rows(B, threads):
    shares = rows.shares(B, 100)
    assert len(shares) == max(1, min(3, B // 8))
    assert [row for share in shares for row in range(B)[share]] == list(range(B))
    sizes = [len(range(B)[share]) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_small_work_is_not_shared(threads, monkeypatch):
    monkeypatch.setattr(rows, "_LEAST_WORK", 1000)
    assert len(rows.shares(100, 9)) == 1
    assert len(rows.shares(100, 10)) == 3
    monkeypatch.setattr(blas, "threads", lambda: None)
    assert len(rows.shares(100, 10)) == 1
    monkeypatch.setattr(blas, "threads", lambda: 3)
    assert len(rows.shares(100, 9, steps=2)) == 3
    monkeypatch.setattr(rows, "_LEAST_STEP", 901)
    assert len(rows.shares(100, 9, steps=2)) == 1


def test_shares_run_at_once_in_their_own_threads():
    meeting = threading.Barrier(3, timeout=20)
    seen = {}

    def work(share):
        meeting.wait()
        seen[share.start] = threading.get_ident()

    rows.share_out(work, [slice(0, 1), slice(1, 2), slice(2, 3)])
    assert seen.keys() == {0, 1, 2}
    assert len(set(seen.values())) == 3
    assert threading.get_ident() in seen.values()


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_is_raised_after_all_threads_end(bad):
    meeting, done = threading.Barrier(2, timeout=20), []

    def work(share):
        meeting.wait()
        if share.start == bad:
            raise MemoryError("here")
        time.sleep(0.1)
        done.append(share.start)

    with pytest.raises(MemoryError, match="here"):
        rows.share_out(work, [slice(0, 1), slice(1, 2)])
    assert done == [1 - bad]


OPTIONS = [
    {"input_size": 5, "hidden_size": 9},
    {"input_size": 5, "hidden_size": 9, "proj_size": 4, "proj_clip": 0.2},
    {"input_size": 5, "hidden_size": 9, "peephole": True, "cell_clip": 0.4, "bias": False},
    {"input_size": 5, "hidden_size": 9, "dtype": "float16"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "projection", "peephole", "float16"])
def test_steps_and_sequences(options, threads, monkeypatch):
    """Compare with one thread: resets to zeros, to one row and to a row each, and lengths."""
    weights = LSTMWeights.random(seed=0, **options)
    cell, lstm = LSTMCell(weights, backend="numpy"), LSTM(weights, backend="numpy")
    rng, B, T = np.random.default_rng(0), 50, 6
    xs = cell.asarray(rng.normal(size=(T, B, 5)))
    is_first = rng.random((T, B)) < 0.2

    def state(B):
        zeros = cell.zero_state(B)
        h, c = (rng.normal(size=part.shape).astype(part.dtype) for part in (zeros.h, zeros.c))
        return LSTMState(h=h, c=c)

    start, one, own = state(B), state(1), state(B)
    lengths = rng.integers(0, T + 1, B)

    def everything():
        yield from (part for reset in (None, one, own) for part in cell_results(reset))
        for more in ({}, {"lengths": lengths}, {"is_first": is_first}, {"reverse": True}):
            outputs, (final,) = lstm(xs, (start,), **more)
            yield from (outputs, final.h, final.c)
        outputs, (final,) = lstm(xs, (start,), is_first=is_first, reset_to=(own,))
        yield from (outputs, final.h, final.c)

    def cell_results(reset):
        out = cell.zero_state(B)
        first = {} if reset is None else {"is_first": is_first[1], "reset_to": reset}
        cell(xs[0], start, out=out, **first)
        own_c = LSTMState(h=start.h, c=start.c.copy())
        cell(xs[0], own_c, out=LSTMState(h=np.empty_like(out.h), c=own_c.c), **first)
        return out.h, out.c, own_c.c

    shared_out, share_out = [], rows.share_out
    monkeypatch.setattr(rows, "share_out", lambda work, shares: shared_out.append(shares) or share_out(work, shares))
    shared = list(everything())
    assert max(map(len, shared_out)) == 3
    monkeypatch.setattr(blas, "threads", lambda: 1)
    atol = 1e-2 if options.get("dtype") else 1e-6
    for got, wanted in zip(shared, everything(), strict=True):
        np.testing.assert_allclose(got, wanted, atol=atol)


def test_saturated_gates_warn_in_no_thread(threads):
    """NumPy's warnings must be switched off in each thread."""
    weights = LSTMWeights.random(3, 4, seed=0)
    cell = LSTMCell(weights, backend="numpy")
    x = np.full((40, 3), 1e30, np.float32)
    state = cell(x, cell.zero_state(40))
    assert np.isfinite(state.h).all()


# A process forks after it has used its threads. The child doesn't inherit them.
FORK = """
import os, signal, numpy as np
from fusedlstm import LSTMCell, LSTMWeights
from fusedlstm.backends.numpy import blas, matmul as products, threads as rows
products.has_small_kernels, blas.threads = (lambda: True), (lambda: 3)
rows._LEAST_WORK = rows._LEAST_STEP = 0
cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend="numpy")
x, state = np.ones((40, 3), np.float32), cell.zero_state(40)
wanted = cell(x, state).h
child = os.fork()
if child == 0:
    signal.alarm(30)
    os._exit(0 if np.array_equal(cell(x, state).h, wanted) else 1)
print("child:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forking with threads is safe enough only on Linux")
def test_a_forked_child_starts_its_own_threads():
    result = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "child: 0\n"


# A thread makes a call after the main thread has ended, when no thread can be started.
LATE = """
import threading, time, numpy as np
from fusedlstm import LSTMCell, LSTMWeights
from fusedlstm.backends.numpy import blas, matmul as products, threads as rows
products.has_small_kernels, blas.threads = (lambda: True), (lambda: 3)
rows._LEAST_WORK = rows._LEAST_STEP = 0
cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend="numpy")
x, state = np.ones((40, 3), np.float32), cell.zero_state(40)
def late():
    threading.main_thread().join()
    time.sleep(0.2)
    print("late:", cell(x, state).h.shape)
threading.Thread(target=late).start()
"""


def test_a_call_after_the_main_thread_ended():
    result = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "late: (40, 4)\n", result.stderr


def test_fewer_threads_suffice_if_starting_fails(monkeypatch):
    started, done, real = [], [], threading.Thread.start

    def start(thread):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(rows, "_helpers", functools.cache(rows._Helpers))
    monkeypatch.setattr(rows.os, "cpu_count", lambda: 5)
    rows.share_out(lambda share: done.append(share.start), [slice(k, k + 1) for k in range(5)])
    assert sorted(done) == list(range(5))
    assert len(started) == 1


def test_a_program_without_threads_queues_nothing(monkeypatch):
    """Work that no thread would do isn't queued, so its arrays aren't kept alive."""

    def start(thread):
        raise RuntimeError("can't start new thread")

    helpers, done = rows._Helpers(), []
    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(rows, "_helpers", lambda: helpers)
    rows.share_out(lambda share: done.append(share.start), [slice(k, k + 1) for k in range(5)])
    assert done == list(range(5))
    assert helpers._calls.empty()


class Interrupted(Exception):  # noqa: N818, named like KeyboardInterrupt
    """The exception that a signal handler raises."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, Interrupted])
def test_an_interrupt_waits_for_other_threads(error, monkeypatch):
    """An interrupt is raised only after the other threads are done."""
    began, done, waits = threading.Event(), [], []

    class News(queue.SimpleQueue):
        def get(self):
            waits.append(len(done))
            if len(waits) < 3:
                raise error
            return super().get()

    def work(share):
        if threading.current_thread() is threading.main_thread():
            assert began.wait(20)
            return
        began.set()
        time.sleep(0.2)
        done.append(share.start)

    helpers = rows._Helpers()
    monkeypatch.setattr(rows, "_helpers", lambda: helpers)
    monkeypatch.setattr(rows, "SimpleQueue", News)
    with pytest.raises(error):
        rows.share_out(work, [slice(0, 1), slice(1, 2)])
    assert len(done) == 1
    assert waits == [0, 0, 0]


def test_a_helpers_error_is_raised(monkeypatch):
    """The error is raised after all threads are done."""
    done = []

    def work(share):
        if threading.current_thread() is threading.main_thread():
            while not done:
                time.sleep(0.001)
            return
        done.append(share.start)
        raise MemoryError("not here")

    with pytest.raises(MemoryError, match="not here"):
        rows.share_out(work, [slice(0, 1), slice(1, 2)])
    assert done in ([0], [1])


# A signal handler may run inside an executor's `submit`, which holds locks of the whole process. Another submit hangs.
WITHIN_A_SUBMIT = """
import concurrent.futures, sys, threading, faulthandler, numpy as np
from concurrent.futures import thread
from fusedlstm import LSTMCell, LSTMWeights
from fusedlstm.backends.numpy import blas, matmul as products, threads as rows
faulthandler.dump_traceback_later(60, exit=True)
products.has_small_kernels, blas.threads = (lambda: True), (lambda: 3)
rows._LEAST_WORK = rows._LEAST_STEP = 0
cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend="numpy")
x, state = np.ones((40, 3), np.float32), cell.zero_state(40)
wanted = cell(x, state).h
with thread._global_shutdown_lock:
    assert np.array_equal(cell(x, state).h, wanted)
print("done")
"""


def test_a_call_within_an_executors_submit():
    result = subprocess.run(
        [sys.executable, "-c", WITHIN_A_SUBMIT], capture_output=True, text=True, timeout=90, check=False
    )
    assert result.stdout == "done\n", result.stderr


@pytest.mark.parametrize("B", [16, 23, 31, 50])
def test_a_rows_bits_do_not_depend_on_others(B, threads):
    """Resets and lengths of other rows change how steps are grouped, but no bit of this row."""
    lstm = LSTM(LSTMWeights.random(33, 70, seed=0), backend="numpy")
    rng, T = np.random.default_rng(0), 9
    xs = rng.normal(size=(T, B, 33)).astype(np.float32)
    wanted, (final,) = lstm(xs)
    is_first = np.zeros((T, B), bool)
    is_first[[3, 4], 0] = True
    lengths = np.full(B, T)
    lengths[0] = 5
    for options in ({"is_first": is_first}, {"lengths": lengths}):
        outputs, (ended,) = lstm(xs, **options)
        assert not np.array_equal(outputs[:, 0], wanted[:, 0])
        np.testing.assert_array_equal(outputs[:, 1:], wanted[:, 1:])
        np.testing.assert_array_equal(ended.c[1:], final.c[1:])


def test_weights_set_during_a_shared_call(threads, monkeypatch):
    """All shares use the weights that the call began with."""
    old, new = (LSTMWeights.random(3, 4, seed=seed) for seed in (0, 1))
    cell = LSTMCell(old, backend="numpy")
    x, state = np.ones((40, 3), np.float32), cell.zero_state(40)
    wanted, share_out = cell(x, state).h, rows.share_out

    def later(work, shares):
        cell.set_weights(new)
        share_out(work, shares)

    with monkeypatch.context() as patch:
        patch.setattr(rows, "share_out", later)
        np.testing.assert_array_equal(cell(x, state).h, wanted)
    assert not np.array_equal(cell(x, state).h, wanted)


def test_threads_may_share_out_rows_at_once(threads):
    cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend="numpy")
    x, state = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), cell.zero_state(40)
    wanted, wrong = cell(x, state).h, []

    def loop():
        wrong.extend(1 for _ in range(200) if not np.array_equal(cell(x, state).h, wanted))

    users = [threading.Thread(target=loop) for _ in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert not wrong
