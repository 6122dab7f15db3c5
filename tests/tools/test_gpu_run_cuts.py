"""A run on a GPU that is cut off leaves everything that it had, wherever the cut comes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from support.gpu_runs import archived, recorded, statuses
from support.places import ENVIRONMENT

RUN = """
import sys
from benchmarks.gpu.stopping import Stop
from support import gpu_runs

place, folder = sys.argv[1:]
grace = 2 if place == "ignores" else 30  # a busy machine takes long to end a process
with Stop().listening() as stop:
    sys.exit(gpu_runs.begin(gpu_runs.cut_in(place, folder), folder, stop=stop, grace=grace))
"""


def started(place, folder):
    """Start a run, and wait until it is at the place."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, place, str(folder)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    here = Path(folder) / "here"
    while place != "between" and process.poll() is None and not (here.exists() and here.read_text()):
        time.sleep(0.02)
    return process


BEFORE = {"facts": 0, "tests": 1, "ignores": 2, "times": 3, "between": 4}  # parts that ended


@pytest.mark.sampled
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["interrupt", "terminate"])
@pytest.mark.parametrize("place", BEFORE)
def test_cut_run_keeps_everything(place, number, tmp_path):
    process = started(place, tmp_path)
    if place != "between":
        process.send_signal(number)
    said, _ = process.communicate(timeout=50)
    name = "SIGINT" if place == "between" else number.name
    assert process.returncode == 130, said
    found = recorded(tmp_path)
    names = list(found["parts"])
    ended, running = names[: BEFORE[place]], [] if place == "between" else [place]
    assert statuses(tmp_path) == {
        **dict.fromkeys(names, "not run"),
        **dict.fromkeys(ended, "passed"),
        **dict.fromkeys(running, "interrupted"),
    }
    assert found["parts"]["last"]["why"] == f"{name} ended the run before it"
    assert found["ended"] == f"by {name}"
    assert found["gpu"] == "one"
    files = archived(tmp_path)
    assert json.loads(files["gpu.json"])["parts"] == list(found["parts"].values())
    assert b"== facts" in files["log.txt"]
    if place == "tests":
        assert found["parts"]["tests"]["tests"]["passed"] == 1
        assert [test.partition("::")[2] for test in found["parts"]["tests"]["running"]] == ["test_two"]
        assert b"KeyboardInterrupt" in files["log.txt"]
    if place in ("times", "between"):
        timed = [entry["name"] for entry in json.loads(files["benchmarks.json"])["benchmarks"]]
        assert timed == ["test_one"] + (["test_two"] if place == "between" else [])
    assert said.splitlines()[-len(names)].startswith("facts ")


def test_killed_run_shows_where_it_was(tmp_path):
    """SIGKILL gives no time to write anything. Outcomes and the archive of the parts before are there."""
    process = started("times", tmp_path)
    process.kill()
    process.communicate()
    os.kill(int((tmp_path / "here").read_text()), signal.SIGKILL)
    assert statuses(tmp_path) == {
        **dict.fromkeys(("facts", "tests", "ignores"), "passed"),
        "times": "running",
        **dict.fromkeys(("middle", "last"), "not run"),
    }
    assert recorded(tmp_path)["ended"] == "no"
    outcomes = [json.loads(line) for line in (tmp_path / "results" / "outcomes.jsonl").read_text().splitlines()]
    assert [(entry["part"], entry["outcome"]) for entry in outcomes[-3:]] == [
        ("times", "began"),
        ("times", "passed"),
        ("times", "began"),
    ]
    assert [part["status"] for part in json.loads(archived(tmp_path)["gpu.json"])["parts"]][:3] == ["passed"] * 3


def test_run_in_the_background_can_be_cut(tmp_path):
    """A shell's background jobs ignore SIGINT. The parts must not inherit that."""
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    program = f"""
        import signal, sys
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        from benchmarks.gpu.stopping import Stop
        from support import gpu_runs
        with Stop().listening() as stop:
            gpu_runs.begin([gpu_runs.program("looks", {code!r})], {str(tmp_path)!r}, stop=stop)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=ENVIRONMENT, check=True)
    assert (tmp_path / "results" / "log.txt").read_text().endswith("True\n")
