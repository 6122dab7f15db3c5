"""What a type checker knows of states: one LSTMState for a cell, a tuple of them for an LSTM."""

import importlib.util
import os
import subprocess
import sys

import pytest

from support.places import ROOT

# `assert_type` fails for another type, and `ignore` where there is no error to ignore.
PROGRAM = """
from typing import assert_type
from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, StatePool, Stepper

cell, lstm = LSTMCell(LSTMWeights.random(3, 4, seed=0)), LSTM(StackedWeights.random(3, 4, seed=0))
one, several = cell.zero_state(5), lstm.zero_state(5)
assert_type(one, LSTMState)
assert_type(several, tuple[LSTMState, ...])

assert_type(StatePool(cell, 3), StatePool[LSTMState])
assert_type(StatePool(lstm, 3), StatePool[tuple[LSTMState, ...]])
assert_type(StatePool(cell, 3).read([1]), LSTMState)
assert_type(StatePool(lstm, 3).read([1]), tuple[LSTMState, ...])
StatePool(cell, 3).write([1], one)
StatePool(lstm, 3).write([1], several)
StatePool(cell, 3).write([1], several)  # type: ignore[arg-type]
StatePool(lstm, 3).write([1], one)  # type: ignore[arg-type]

for stepper in (cell.stepper(5), cell.stepper(5, reset_to=one), Stepper(cell, 5, reset_to=one)):
    assert_type(stepper, Stepper[LSTMState])
    assert_type(stepper.state, LSTMState)
    assert_type(stepper.read(), LSTMState)
    stepper.write(one)
    stepper.write(several)  # type: ignore[arg-type]
for many in (lstm.stepper(5), lstm.stepper(5, reset_to=several), Stepper(lstm, 5, reset_to=several)):
    assert_type(many, Stepper[tuple[LSTMState, ...]])
    assert_type(many.state, tuple[LSTMState, ...])
    assert_type(many.read(), tuple[LSTMState, ...])
    many.write(several)
    many.write(one)  # type: ignore[arg-type]
cell.stepper(5, reset_to=several)  # type: ignore[arg-type]
lstm.stepper(5, reset_to=one)  # type: ignore[arg-type]


def of_either(either: LSTM | LSTMCell) -> None:
    assert_type(StatePool(either, 3).read([1]), LSTMState | tuple[LSTMState, ...])
    assert_type(either.stepper(5).state, LSTMState | tuple[LSTMState, ...])
"""


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_states_of_cells_and_lstms_have_types(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    options = ["--strict", "--no-site-packages", "--follow-imports=silent", "--config-file=", "--cache-dir", os.devnull]
    environment = {**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "mypy", *options, str(tmp_path / "program.py")]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path
    )
    assert (done.stdout, done.returncode) == ("Success: no issues found in 1 source file\n", 0)
