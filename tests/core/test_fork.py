"""CUDA calls in a forked process raise a clear error and don't hang."""

import os
import subprocess
import sys

import pytest

from support.backends import BACKENDS
from support.places import ROOT, TESTS, importing

CHILD = """
import os
import sys

sys.path.insert(0, {tests!r})
if {emulated}:
    import driver

    driver.install()

from fusedlstm import LSTM, LSTMCell, LSTMWeights, StatePool, available_backends

cell = LSTMCell(LSTMWeights.random(4, 4, seed=0), backend="cuda")
x, state = cell.asarray([[1.0] * 4]), cell.zero_state(1)
lstm, stepper, pool = LSTM(cell.weights, backend="cuda"), cell.stepper(1), StatePool(cell, 4)
sequencer = lstm.sequencer(2, 1)
slots = pool.allocate(1)
calls = {{
    "cell": lambda: cell(x, state),
    "asarray": lambda: cell.asarray([[1.0]]),
    "zero_state": lambda: cell.zero_state(1),
    "stepper": stepper.step,
    "stepper(x)": lambda: stepper.step(x),
    "sequencer": sequencer.run,
    "pool": lambda: pool.step(x, slots),
    "read": lambda: pool.read(slots),
    "allocate": lambda: pool.allocate(1),
    "a new stepper": lambda: cell.stepper(1),
    "a new sequencer": lambda: lstm.sequencer(2, 1),
    "a new pool": lambda: StatePool(cell, 4),
    "a new cell": lambda: LSTMCell(cell.weights, backend="cuda"),
}}
for call in calls.values():
    call()
child = os.fork()
if child == 0:
    for name, call in calls.items():
        try:
            call()
            print(name, "did not raise", flush=True)
        except RuntimeError as error:
            print(name, "raised" if "forked after CUDA had been used" in str(error) else error, flush=True)
    print(available_backends(), LSTMCell(cell.weights).backend, flush=True)
    del stepper, sequencer, pool, calls, call
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
cell(x, state)
stepper.step()
sequencer.run()
print("the parent goes on")
"""


@pytest.mark.skipif(BACKENDS == ["numpy"], reason="needs cuda, on a GPU or emulated")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_calls_in_a_forked_process_raise():
    script = CHILD.format(tests=str(TESTS), emulated="emulated" in BACKENDS)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=importing(ROOT), check=False)
    assert ended.returncode == 0, ended.stderr
    *calls, backends, parent = ended.stdout.splitlines()
    assert len(calls) == 13
    assert all(line.endswith(" raised") for line in calls), calls
    assert backends == "('numpy',) numpy"
    assert parent == "the parent goes on"
    assert "Error" not in ended.stderr or "emulated" not in BACKENDS  # CuPy may report errors in the child


def test_children_keep_pythonpath(monkeypatch):
    """They import from this checkout first, and then from PYTHONPATH."""
    for before, wanted in ((None, [ROOT]), ("", [ROOT]), (f"a{os.pathsep}b", [ROOT, "a", "b"])):
        monkeypatch.delenv("PYTHONPATH", raising=False)
        if before is not None:
            monkeypatch.setenv("PYTHONPATH", before)
        assert importing(ROOT) == {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, wanted))}
