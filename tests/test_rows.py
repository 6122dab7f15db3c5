"""Rows shared out among threads: the same numbers, and nobody writes after the call."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, blas
from fusedlstm.backends import rows


@pytest.fixture
def threads(monkeypatch):
    """Three threads, for work of any size."""
    monkeypatch.setattr(rows, "has_small_kernels", lambda: True)
    monkeypatch.setattr(rows, "_LEAST_WORK", 0)
    monkeypatch.setattr(blas, "threads", lambda: 3)


@pytest.mark.parametrize("B", [0, 1, 15, 16, 23, 24, 25, 1000])
def test_shares_are_all_rows(B, threads):
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
    monkeypatch.setattr(rows, "has_small_kernels", lambda: False)
    assert len(rows.shares(100, 10)) == 1


def test_each_share_is_done_in_a_thread_of_its_own_at_once():
    meeting = threading.Barrier(3, timeout=20)
    seen = []

    def work(share):
        meeting.wait()
        seen.append((share, threading.get_ident()))

    shares = [slice(0, 1), slice(1, 2), slice(2, 3)]
    rows.share_out(work, shares)
    assert {share.start for share, _ in seen} == {0, 1, 2}
    assert len({thread for _, thread in seen}) == 3
    assert {share.start: thread for share, thread in seen}[0] == threading.get_ident()


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_comes_when_all_are_done(bad):
    done = []

    def work(share):
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
    """... with and without resets to one row, to a row's own, and to zeros, and with lengths: beside one thread."""
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
    """NumPy's warnings are switched off by thread."""
    weights = LSTMWeights.random(3, 4, seed=0)
    cell = LSTMCell(weights, backend="numpy")
    x = np.full((40, 3), 1e30, np.float32)
    state = cell(x, cell.zero_state(40))
    assert np.isfinite(state.h).all()


# A process that has used its threads forks: the child has none of them.
FORK = """
import os, numpy as np
from fusedlstm import LSTMCell, LSTMWeights, blas
from fusedlstm.backends import rows
rows.has_small_kernels, rows._LEAST_WORK, blas.threads = (lambda: True), 0, (lambda: 3)
cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend="numpy")
x, state = np.ones((40, 3), np.float32), cell.zero_state(40)
wanted = cell(x, state).h
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(cell(x, state).h, wanted) else 1)
print("child:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks of programs with threads are safe enough on Linux only")
def test_a_child_has_threads_of_its_own():
    result = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "child: 0\n"
