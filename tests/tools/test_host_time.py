"""The benchmark of the host's time on a GPU, without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusedlstm.backends import sequence_choice

import driver

ROOT = Path(__file__).parents[2]
CALLS = {
    *("cell(x, state)", "cell(x, state, out=out)", "cell(x, state, is_first=first)"),
    *("stepper.step()", "stepper.step(x)", "pool.step(x, slots, out=y)", "pool.step(x, device_slots, out=y)"),
    *("stepper.step(), host=True", "stepper.step(x), host=True", "stepper.step(x, first), host=True"),
    *("the next step() without flags", "lstm(xs), a step of 20", "sequencer.run()"),
}


def run(*arguments, **environment):
    command = [sys.executable, "-m", "benchmarks", "host", *map(str, arguments)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DRIVER_", "FUSEDLSTM_"))}
    return subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(driver.missing() is not None, reason="needs CuPy and the fake driver")
def test_every_call_is_timed(tmp_path):
    done = run(tmp_path / "host.json")
    assert not done.returncode, done.stderr
    found = json.loads((tmp_path / "host.json").read_text())
    assert {(row["dtype"], row["call"]) for row in found["rows"]} == {
        (dtype, call) for dtype in ("float32", "bfloat16") for call in CALLS
    }
    assert all(row["kernel"] in sequence_choice.NAMES and row["seconds"] > 0 < row["adds"] for row in found["rows"])
    title, *table = done.stdout.splitlines()
    assert title.startswith("The host's time of a call, B = 64, I = N = 128, CuPy ")
    assert [line.split()[0] for line in table] == [row["dtype"] for row in found["rows"]]
    assert found["driver"] in ("fake", "NVIDIA's")


def test_without_the_driver_the_reason_is_given():
    program = (
        "import driver, sys; driver.missing = lambda: 'this test says so'; from benchmarks import host_time, __main__;"
    )
    program += "host_time.has_driver = lambda: False; sys.exit(__main__.main(['host']))"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    said = "python -m benchmarks: the host's time can't be measured: there is no GPU, and this test says so"
    assert done.stderr.strip() == said
