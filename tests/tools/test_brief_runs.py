"""What the short runs on a GPU share: rows that survive, restarts after a death or a hang, and timing by events."""

import json
import os
import subprocess
import sys
import textwrap
import time
import types

import pytest

from benchmarks.brief import children, event_time
from benchmarks.brief.rows import ENDED, Rows

from support.places import ENVIRONMENT, ROOT

UNITS = ["first", "second", "third"]
CHILD = """
    import os, sys, time
    from pathlib import Path
    from benchmarks.brief.rows import Rows

    BEFORE
    rows = Rows(Path(sys.argv[1]))
    for unit in rows.left(["first", "second", "third"]):
        rows.begin(unit)
        rows.add({"unit": unit})
        if unit == "second":
            WRONG
        rows.end(unit)
"""


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """Return a function that runs a child whose second unit goes wrong, and returns the rows."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, tmp_path))))

    def run(wrong, seconds=60.0, patience=60.0, before="pass"):
        code = textwrap.dedent(CHILD).replace("WRONG", wrong).replace("BEFORE", before)
        (tmp_path / "measuring.py").write_text(code)
        path = tmp_path / "rows.json"
        Rows(path, {})
        until = time.time() + seconds
        return children.run(["measuring", str(path)], path, UNITS, until=until, patience=patience).content

    return run


@pytest.mark.parametrize(
    ("wrong", "why"),
    [("os._exit(3)", "the process ended with 3"), (f"os._exit({children.BROKEN})", "CUDA was broken after it")],
)
def test_next_process_goes_on_after_a_death(wrong, why, attempt):
    content = attempt(wrong)
    assert content["units"] == {"first": ENDED, "second": why, "third": ENDED}
    assert [row["unit"] for row in content["rows"]] == ["first", "second", "third"]


def test_hung_process_is_replaced(attempt):
    content = attempt("time.sleep(60)", patience=2.0)
    assert content["units"] == {"first": ENDED, "second": "nothing came for 2 seconds", "third": ENDED}


def test_slow_start_is_not_a_hang(attempt):
    """A busy machine may take longer to start a process than any unit takes."""
    assert attempt("pass", patience=1.0, before="time.sleep(2)")["units"] == dict.fromkeys(UNITS, ENDED)


def test_process_ends_with_the_time(attempt, monkeypatch):
    monkeypatch.setattr(children, "_GRACE", 0.5)
    content = attempt("time.sleep(60)", seconds=2.0)
    assert content["units"] == {"first": ENDED, "second": "the time was up"}


def test_process_that_never_begins_runs_once(attempt):
    content = attempt("this is no Python")
    assert content["units"] == {}
    assert content["facts"]["failed"] == "the process ended with 1"


def test_interrupted_run_keeps_its_rows(attempt, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(children.time, "sleep", interrupt)
    assert attempt("pass")["facts"]["failed"] == "interrupted"


def test_file_is_whole_after_each_row(tmp_path):
    path = tmp_path / "rows.json"
    rows = Rows(path, {"dry": False})
    rows.begin("a unit")
    rows.add({"seconds": 1.5})
    kept = json.loads(path.read_text())
    assert kept == {"facts": {"dry": False}, "running": "a unit", "units": {}, "rows": [{"seconds": 1.5}]}
    again = Rows(path)
    again.end("a unit")
    assert again.left(["a unit", "another"]) == ["another"]


class Gpu:
    """A fake CuPy with a GPU whose work takes known times."""

    longest = 1000  # pieces of work that can be queued

    def __init__(self):
        self.now = self.free = 0.0
        self.ends = []  # of queued work
        self.cuda = types.SimpleNamespace(
            Event=self.event, get_elapsed_time=lambda first, last: 1e3 * (last.time - first.time)
        )

    def work(self, host, gpu):
        """Queue some work: the seconds of the host, and then those of the GPU."""
        self.now += host
        self.ends = [end for end in self.ends if end > self.now]
        if len(self.ends) >= self.longest:
            self.now = self.ends.pop(0)
        self.free = max(self.free, self.now) + gpu
        self.ends.append(self.free)

    def spin(self, grid, block, arguments):
        self.work(2e-6, int(arguments[0]) / 1e9)

    def synchronize(self):
        self.now = max(self.now, self.free)

    def event(self):
        event = types.SimpleNamespace(synchronize=self.synchronize)
        event.record = lambda stream: setattr(event, "time", max(self.now, self.free))
        return event


@pytest.fixture
def gpu(monkeypatch):
    fake = Gpu()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(event_time, "_stream", lambda: fake)
    monkeypatch.setattr(event_time.time, "perf_counter", lambda: fake.now)
    return fake


@pytest.fixture
def timer(gpu):
    made = object.__new__(event_time.Timer)
    made.dry, made._spin = False, gpu.spin
    return made


@pytest.mark.parametrize(("host", "work"), [(5e-6, 2e-6), (1e-6, 5e-3), (2e-4, 1e-6), (2e-3, 1e-5)])
def test_times_of_gpu_and_host_are_separate(host, work, gpu, timer):
    """The GPU's time doesn't include waits for the host, however slow that is."""
    times = timer.times(lambda: [gpu.work(host, work) for _ in range(10)], calls=10)
    assert times.gpu == pytest.approx({"median": work, "p10": work, "p90": work})
    assert times.host == pytest.approx({"median": host, "p10": host, "p90": host})


def test_slow_host_gives_no_time_of_the_gpu(gpu, timer):
    times = timer.times(lambda: gpu.work(0.1, 1e-6))
    assert times.gpu is None
    assert times.host["median"] == pytest.approx(0.1)


def test_full_queue_gives_no_time_of_the_gpu(gpu, timer):
    """If the queue is full, the host waits for the GPU."""
    times = timer.times(lambda: [gpu.work(1e-5, 1e-6) for _ in range(900)])
    assert times.gpu["median"] == pytest.approx(900e-6)
    assert timer.times(lambda: [gpu.work(1e-5, 1e-6) for _ in range(1500)]).gpu is None


def dry_run(module, tmp_path, *options):
    """Run a module on the fake driver. Return its output and its file."""
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", module, str(result), "--dry-run", "--seconds", "300", *options]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False)
    if "no dry run" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(result.read_text())


def test_dry_run_of_probes(tmp_path):
    from benchmarks.probes.child import PROBES

    output, content = dry_run("benchmarks.probes", tmp_path)
    assert content["units"] == dict.fromkeys(PROBES, ENDED), output
    assert {row["probe"] for row in content["rows"]} == set(PROBES)
    assert {row["state"] for row in content["rows"]} == {"dry"}
    assert content["facts"]["not_measured"] == {}


@pytest.mark.parametrize("options", [(), ("--sequences",)], ids=["steps", "sequences"])
def test_dry_run_of_the_kernel_table(options, tmp_path):
    from benchmarks.kernel_table.sizes import sizes

    output, content = dry_run("benchmarks.kernel_table", tmp_path, *options)
    rows = sizes(dry=True, sequences=bool(options))
    assert content["units"] == {size.id: ENDED for size in rows}, output
    for size, row in zip(rows, content["rows"], strict=True):
        names = [name for name in row["figures"] if name.removeprefix("x of ") in size.kernels]
        assert {row["figures"][name]["state"] for name in names} == {"dry"}
        assert names[0] == "matmul"
        assert ("x of matmul" in names) == bool(options)
        assert row["choice"] in size.kernels
    assert "Not measured, by reason: none" in output
