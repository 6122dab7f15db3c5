"""A type checker sees one LSTMState for a cell, and a tuple of them for an LSTM."""

import importlib.util
import os
import subprocess
import sys

import pytest

from support.pages import DOCS, blocks
from support.places import ROOT

# `assert_type` fails for another type, and `ignore` fails if there is no error to ignore.
PROGRAM = """
from typing import Any, assert_type
from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, Sequencer, StackedWeights, StatePool, Stepper
from fusedlstm import convert, load_weights

cell, lstm = LSTMCell(LSTMWeights.random(3, 4, seed=0)), LSTM(StackedWeights.random(3, 4, seed=0))
one, several = cell.zero_state(5), lstm.zero_state(5)
assert_type(one, LSTMState)
assert_type(several, tuple[LSTMState, ...])

LSTMState(h=one.h, c=one.c)
LSTMState(one.h, one.c)  # type: ignore[call-arg]
LSTMState(h=one.h)  # type: ignore[call-arg]

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
for sequencer in (lstm.sequencer(6, 5), lstm.sequencer(6, 5, is_first=True, reset_to=several), Sequencer(lstm, 6, 5)):
    assert_type(sequencer, Sequencer)
    assert_type(sequencer.state, tuple[LSTMState, ...])
    assert_type(sequencer.read(), tuple[LSTMState, ...])
    sequencer.write(several)
    sequencer.write(one)  # type: ignore[arg-type]
Sequencer(cell, 6, 5)  # type: ignore[arg-type]
cell.sequencer(6, 5)  # type: ignore[attr-defined]
lstm.sequencer(6, 5, reset_to=one)  # type: ignore[arg-type]
cell.stepper(5, reset_to=several)  # type: ignore[arg-type]
lstm.stepper(5, reset_to=one)  # type: ignore[arg-type]


def of_either(either: LSTM | LSTMCell) -> None:
    assert_type(StatePool(either, 3).read([1]), LSTMState | tuple[LSTMState, ...])
    assert_type(either.stepper(5).state, LSTMState | tuple[LSTMState, ...])
    assert_type(Stepper(either, 3).read(), LSTMState | tuple[LSTMState, ...])


Stepper(cell, 5, reset_to=several)  # type: ignore[call-overload]
Stepper(lstm, 5, reset_to=one)  # type: ignore[call-overload]


def of_converted(module: object, array: Any) -> None:
    LSTMCell(convert.from_torch(module))
    LSTM(convert.from_torch(module))
    assert_type(convert.from_torch(module, layer=0), LSTMWeights)
    LSTMCell(convert.from_tf1({}))
    LSTMCell(convert.from_chainer({}))
    LSTMCell(convert.from_coreml({}))
    LSTMCell(convert.from_flax({}))
    LSTMCell(convert.from_mxnet({}))
    LSTMCell(load_weights("path"))
    convert.from_keras("path").layers
    convert.from_tf1("path").layers
    load_weights("path").layers
    assert_type(convert.from_haiku({}), LSTMWeights)
    assert_type(convert.from_haiku({}, "lstm"), LSTMWeights)
    assert_type(convert.from_haiku({}, ["lstm", "lstm_1"]), StackedWeights)
    for state_from in (
        convert.state_from_torch,
        convert.state_from_keras,
        convert.state_from_flax,
        convert.state_from_haiku,
        convert.state_from_equinox,
    ):
        cell(array, state_from((array, array)))
        lstm(array, state_from((array, array)))
    cell(array, convert.state_from_tf1((array, array)))
    lstm(array, convert.state_from_tf1(((array, array), (array, array))))
    assert_type(convert.state_from_tf1(array, hidden_size=4), LSTMState)
    assert_type(convert.state_from_tf1(array, hidden_size=(4, 4)), tuple[LSTMState, ...])
    assert_type(lstm(array, several), tuple[Any, tuple[LSTMState, ...]])
    assert_type(lstm(array, cells=False, reverse=True), tuple[Any, tuple[LSTMState, ...]])
    assert_type(lstm(array, several, cells=True), tuple[Any, tuple[LSTMState, ...], tuple[LSTMState, ...]])
    lstm(array, cells=bool(array))
    lstm(array, cells=1)  # type: ignore[call-overload]
    lstm(array, lenghts=array)  # type: ignore[call-overload]
"""


def check(folder, programs, *more):
    """Check programs, given by name, as a user's type checker does."""
    for name, text in programs.items():
        (folder / f"{name}.py").write_text(text)
    options = ["--strict", "--no-site-packages", "--follow-imports=silent", "--config-file=", "--cache-dir", os.devnull]
    environment = {**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "mypy", *options, *more, *(f"{name}.py" for name in programs)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False, cwd=folder
    )
    files = "1 source file" if len(programs) == 1 else f"{len(programs)} source files"
    assert (done.stdout, done.returncode) == (f"Success: no issues found in {files}\n", 0)


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_states_of_cells_and_lstms_have_types(tmp_path):
    check(tmp_path, {"program": PROGRAM})


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_programs_of_pages_have_right_types(tmp_path):
    """Check the README and each page as one program.

    Their functions have no annotations, and packages may be missing.
    """
    programs = {
        path.stem.replace("-", "_"): "\n".join(found)
        for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
        if (found := [block for _, block in blocks(path.read_text(encoding="utf-8"), "python")])
    }
    check(tmp_path, programs, "--ignore-missing-imports", "--allow-untyped-defs", "--allow-untyped-calls")
