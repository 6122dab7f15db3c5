"""`threads=` limits only the threads of NumPy's BLAS, and only during a call."""

import itertools
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMWeights, StackedWeights, StatePool
from fusedlstm.backends.numpy import blas, thread_limit
from fusedlstm.backends.numpy import cell as numpy_cell
from fusedlstm.backends.numpy import threads as shared
from fusedlstm.backends.numpy.matmul import Product
from fusedlstm.cli import main as command_line

from support import moments
from support.places import ENVIRONMENT

I, N = 3, 4
WITHOUT = 5  # the threads of the BLAS while no call runs


@pytest.fixture
def counts(monkeypatch):
    """Replace the BLAS's number of threads, and return a list: the number at each product."""
    number, seen, run = [WITHOUT], [], Product.run
    made = thread_limit.Limits(lambda: number[0], lambda count: number.__setitem__(0, count))

    def run_and_look(product, weight):
        seen.append(blas.threads())
        run(product, weight)

    monkeypatch.setattr(blas, "threads", lambda: number[0])
    monkeypatch.setitem(thread_limit._ONLY, "", made)
    monkeypatch.setattr(numpy_cell, "limits", lambda: made)
    monkeypatch.setattr(thread_limit, "limits", lambda: made)
    monkeypatch.setattr(blas, "why_threads_are_fixed", lambda: None)
    monkeypatch.setattr(Product, "run", run_and_look)
    yield seen
    assert number == [WITHOUT]
    assert not made._limits
    assert made._without is None


def cell_with(threads, **options):
    return LSTMCell(LSTMWeights.random(I, N, seed=0), backend="numpy", threads=threads, **options)


def ones(*shape):
    return np.ones(shape, np.float32)


def step(cell, B=2):
    return cell(ones(B, I), cell.zero_state(B))


def test_a_call_has_its_own_number_of_threads(counts):
    for threads, most in ((1, 1), (3, 3), (WITHOUT, WITHOUT), (WITHOUT + 2, WITHOUT), (None, WITHOUT)):
        step(cell_with(threads))
        assert set(counts) == {most}
        counts.clear()


def test_everything_that_steps_inherits_threads(counts):
    lstm = LSTM(StackedWeights.random(I, N, 2, seed=0), backend="numpy", threads=2)
    cell = cell_with(2)
    pool = StatePool(lstm, 4)
    pool.step(ones(3, I), pool.allocate(3))
    lstm.step(ones(2, I), lstm.zero_state(2))
    lstm(ones(6, 2, I))
    lstm(ones(6, 2, I), is_first=np.arange(12).reshape(6, 2) % 3 == 0)
    lstm.stepper(2).step(ones(2, I))
    lstm.sequencer(6, 2).run(ones(6, 2, I))
    cell.stepper(2).step(ones(2, I))
    cell.set_weights(LSTMWeights.random(I, N, seed=1))
    step(cell)
    step(pickle.loads(pickle.dumps(cell)))
    assert set(counts) == {2}
    assert "threads=2)" in repr(cell)
    assert "threads=2)" in repr(lstm)
    assert "threads" not in repr(cell_with(None))


def test_rows_are_shared_by_that_many_threads(counts, monkeypatch):
    monkeypatch.setattr(numpy_cell, "is_cut", lambda *_: True)
    monkeypatch.setattr(shared, "_LEAST_STEP", 0)
    monkeypatch.setattr(shared, "_LEAST_WORK", 0)
    found = [len(cell_with(threads)._engine.shares(64)) for threads in (1, 2, 3, 8, None)]
    assert found == [1, 2, 3, WITHOUT, WITHOUT]
    stepper = cell_with(3).stepper(64)
    assert len(stepper._engine._shares) == 3
    stepper.step(ones(64, I))
    step(cell_with(3), 64)
    assert set(counts) == {3}


def test_failed_calls_restore_the_number(counts, monkeypatch):
    def fail(*_):
        raise MemoryError("planted")

    cell = cell_with(1)
    monkeypatch.setattr(Product, "run", fail)
    with pytest.raises(MemoryError, match="planted"):
        step(cell)
    assert blas.threads() == WITHOUT


def test_calls_at_once_have_the_smallest_limit(counts):
    """A call ends in the middle of another one, in another thread: the other's limit stays."""
    limits, first, second = thread_limit.limits(), "first", "second"
    for begins in itertools.permutations([(first, 4), (second, 2)]):
        for ends in itertools.permutations([first, second]):
            for call, limit in begins:
                limits.begin(call, limit)
            assert blas.threads() == 2
            limits.end(ends[0])
            assert blas.threads() == {first: 2, second: 4}[ends[0]]
            limits.end(ends[1])
            assert blas.threads() == WITHOUT


def test_larger_limits_have_no_effect(counts):
    """This also holds during another call's limit, which doesn't change the number of shares."""
    limits = thread_limit.limits()
    limits.begin("other", 2)
    limits.begin("large", WITHOUT + 3)
    assert blas.threads() == 2
    assert [thread_limit.at_most(limit) for limit in (1, WITHOUT + 3, None)] == [1, WITHOUT, WITHOUT]
    limits.end("other")
    assert blas.threads() == WITHOUT
    limits.end("large")


def test_first_cells_at_once_share_limits(monkeypatch):
    """Each thread finds the BLAS before any has its limits."""
    both, found = threading.Barrier(2, timeout=60), []

    def functions():
        both.wait()
        return (lambda: 1), (lambda count: None)

    monkeypatch.setattr(thread_limit, "_ONLY", {})
    monkeypatch.setattr(blas, "thread_functions", functions)
    make = thread_limit.limits.__wrapped__
    users = [threading.Thread(target=lambda: found.append(make())) for _ in range(2)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert found[0] is found[1]


def test_many_threads_leave_the_number(counts):
    cells = [cell_with(threads) for threads in (1, 2, 3, 6)]

    def work(cell):
        for _ in range(200):
            step(cell)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        users = [threading.Thread(target=work, args=(cell,)) for cell in cells]
        for user in users:
            user.start()
        for user in users:
            user.join()
    finally:
        sys.setswitchinterval(before)
    assert max(counts) <= WITHOUT


def test_interrupts_leave_no_limit(counts):
    cell = cell_with(1)
    step(cell)
    for moment in itertools.count(1):
        ended = moments.interrupted(lambda: step(cell), moment)
        assert blas.threads() == WITHOUT, moment
        if ended is None:
            break
    assert moment > 20


def test_inner_calls_leave_the_number(counts):
    """A signal handler makes a call before each line of another one."""
    outer, inner = cell_with(3), cell_with(1)
    step(outer)
    step(inner)

    counts.clear()
    _, lines = moments.lines(lambda: step(outer), lambda: step(inner))
    assert lines > 20
    assert sorted(counts) == [1] * lines + [3]


FORK = """
import os, threading
from fusedlstm.backends.numpy import blas, thread_limit
limits, held = thread_limit.limits(), threading.Event()
limits._put(2)
def hold():
    limits.begin("other", 1)
    with limits._lock:
        held.set()
        threading.Event().wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
assert blas.threads() == 1
child = os.fork()
if not child:
    assert blas.threads() == 2
    assert limits.quietly(1, blas.threads) == 1
    os._exit(0 if blas.threads() == 2 else 1)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_forgets_limits_of_other_threads():
    if blas.why_threads_are_fixed():
        pytest.skip(blas.why_threads_are_fixed())
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_real_blas_is_limited():
    if blas.why_threads_are_fixed():
        pytest.skip(blas.why_threads_are_fixed())
    before = blas.threads()
    assert thread_limit.limits().quietly(1, blas.threads) == 1
    assert thread_limit.limits().quietly(before + 1, blas.threads) == before
    assert blas.threads() == before
    np.testing.assert_array_equal(step(cell_with(1)).h, step(cell_with(2)).h)


@pytest.mark.parametrize("make", [cell_with, lambda threads: LSTM(LSTMWeights.random(I, N, seed=0), threads=threads)])
@pytest.mark.parametrize(
    ("threads", "kind", "words"),
    [
        (0, ValueError, "threads: wanted at least 1; got 0"),
        (-2, ValueError, "threads: wanted at least 1; got -2"),
        (1.0, TypeError, "threads: wanted an int; got float"),
        (True, TypeError, "threads: wanted an int; got bool"),
        ("1", TypeError, "threads: wanted an int; got str"),
    ],
)
def test_wrong_threads_raise(make, threads, kind, words):
    with pytest.raises(kind, match=words):
        make(threads)


def test_a_gpu_ignores_threads(backend):
    cell = LSTMCell(LSTMWeights.random(I, N, seed=0), backend=backend, threads=1)
    assert cell(cell.asarray(ones(2, I)), cell.zero_state(2)).h.shape == (2, N)
    with pytest.raises(ValueError, match="threads: wanted at least 1"):
        LSTMCell(LSTMWeights.random(I, N, seed=0), backend=backend, threads=0)


@pytest.mark.parametrize(
    ("parallel", "words"),
    [(None, "isn't OpenBLAS, or its library wasn't found"), (0, "built without threads"), (2, "built with OpenMP")],
)
def test_a_blas_with_fixed_threads_raises(parallel, words, monkeypatch):
    function = blas._function

    def find(library, name, result):
        if name == "get_parallel":
            return None if parallel is None else lambda: parallel
        return print if name == "set_num_threads" else function(library, name, result)

    monkeypatch.setattr(blas, "_function", find)
    with pytest.raises(RuntimeError, match=rf"^threads=1 can't be kept here: .*{words}.* Set OPENBLAS_NUM_THREADS"):
        cell_with(1)
    cell_with(None)


def test_run_has_threads(counts, tmp_path, capsys):
    LSTMWeights.random(I, N, seed=0).save(tmp_path / "cell")
    StackedWeights.random(I, N, 2, seed=0).save(tmp_path / "layers")
    np.save(tmp_path / "inputs.npy", ones(4, 2, I))
    for name in ("cell", "layers"):
        run = ["run", str(tmp_path / name), str(tmp_path / "inputs.npy"), "--backend", "numpy"]
        assert command_line.main([*run, "--threads", "2"]) == 0
        assert set(counts) == {2}
        counts.clear()
    with pytest.raises(SystemExit):
        command_line.main([*run, "--threads", "0"])
    assert "argument --threads: wanted a number of at least 1; got '0'" in capsys.readouterr().err
