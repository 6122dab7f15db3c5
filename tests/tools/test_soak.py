"""The soak: a short run passes, and planted faults are found."""

import os
import subprocess
import sys

import pytest

from support.places import ROOT, TESTS

pytestmark = pytest.mark.nightly

# Each fault is Python code that runs before the soak.
FAULTS = {
    "scratch of a thread": """
from fusedlstm.backends.numpy.scratch import Scratch, Workspace
def take(self):
    if not self._unused:
        self._unused.append(Workspace(self._spec))
    return self._unused[-1]
Scratch.take, Scratch.give_back = take, lambda self, workspace: None
""",
    "a pool that does not wait": """
from fusedlstm.pool_calls import PoolCalls
PoolCalls.run = lambda self, work, *arguments: work(*arguments)
""",
    "a run that is written in part": """
import numpy as np
from fusedlstm.backends.numpy.sequencer import NumpySequencer
def write(self, states):
    for mine, other in zip(self.states, states):
        for part in ("h", "c"):
            for row, values in zip(getattr(mine, part), np.array(getattr(other, part))):
                row[:] = values
NumpySequencer.write = write
""",
    "a step that is written in part": """
from fusedlstm.backends.numpy.pool import NumpyPool
NumpyPool._write = NumpyPool._write_all
def write(self, slots, values):
    for pair, state in zip(self._rows, values):
        for rows, new in zip(pair, state):
            for slot, row in zip(slots.tolist(), range(len(slots))):
                rows[slot] = new[row] if hasattr(new, "shape") else new
NumpyPool._write = write
""",
}


def run(*arguments, fault=""):
    script = f"{fault}\nimport sys, soak\nsys.exit(soak.main(sys.argv[1:]))"
    paths = os.pathsep.join([str(TESTS), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)


def test_short_soak_passes():
    ended = run("--operations", "250", "--seed", "3")
    assert ended.returncode == 0, ended.stderr
    *lines, last = ended.stdout.splitlines()
    counts = {name.strip(): int(count) for count, name in (line.split(maxsplit=1) for line in lines)}
    assert last.startswith("seed 3, ")
    assert last.endswith(" 0 failures")
    assert {
        "signals",
        "finalizers",
        "call_cell",
        "step_pool",
        "step_stepper",
        "run_sequencer",
        "save_all",
        "load",
    } <= counts.keys()
    assert counts["step_pool"] > 8 * 250 / 10


@pytest.mark.parametrize("name", FAULTS)
def test_soak_finds_planted_faults(name):
    ended = run("--operations", "20000", fault=FAULTS[name])
    assert ended.returncode == 1, ended.stdout
    assert "thread" in ended.stderr


def test_soak_checks_its_arguments():
    assert run().returncode == 2
    assert run("--seconds", "1", "--operations", "1").returncode == 2
