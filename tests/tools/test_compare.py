"""`python -m benchmarks compare`: processes take turns, fill one file of results, and failures are named."""

import copy
import importlib.util
import json
import os
import re
import subprocess
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import compare, peers, runs
from benchmarks.comparisons import comparisons

from support.places import ROOT

OPTIONS = ["--threads", "2", "-k", "rollout"]


def content(library, number):
    """Return a process's results: two rows of ours, or one of another library, which takes twice as long."""
    ways = ("fusedlstm", "fusedlstm Stepper") if library == "fusedlstm" else (library,)
    entries = []
    for way in ways:
        info = {"kind": "step", "B": 1, "I": 128, "N": 128, "dtype": "float32", "threads": 1, "device": "cpu"}
        seconds = (1 + number / 100) * (1e-5 if library == "fusedlstm" else 2e-5)
        entries.append(
            {
                "group": "step, B = 1",
                "name": f"test_step[{way}]",
                "extra_info": info | {"peer": way, "ours": library == "fusedlstm"},
                "stats": {"median": seconds, "p10": seconds, "p90": seconds, "rounds": 5},
            }
        )
    facts = {"cpu": "Abacus 7", "cores": 2, "missing": {"JAX jit": "jax is not installed"}, "load": [number + 0.5]}
    facts |= {"limits": {}, "versions": {"fusedlstm": "1.2"}, "commit": "c" * 40}
    return {
        "machine_info": {"facts": facts},
        "commit_info": {"id": "c" * 40},
        "datetime": "2030-01-02T03:04:05",
        "benchmarks": entries,
    }


@pytest.fixture
def turns(monkeypatch):
    """Replace the processes. Return a list of the libraries that ran, in order, which also decides what fails."""
    ran = []

    def run(library, options):
        assert options == OPTIONS
        ran.append(library)
        number = ran.count(library) - 1
        return compare.FAILS.get((library, number), (content(library, number), ""))

    monkeypatch.setattr(compare, "installed", lambda: ["fusedlstm", "torch"])
    monkeypatch.setattr(compare, "run", run)
    monkeypatch.setattr(compare, "FAILS", {}, raising=False)
    monkeypatch.setattr(compare.report, "_draw", lambda runs: None)
    return ran


def test_libraries_take_turns(turns, tmp_path, capsys):
    """The order is reversed in every other round. Results have each process's median, and a verdict."""
    assert command.main(["compare", "--out", str(tmp_path), "--rounds", "8", *OPTIONS]) == 0
    assert turns == ["fusedlstm", "torch", "torch", "fusedlstm"] * 4
    run = runs.load(tmp_path / "results.json")
    assert [(row.peer, len(row.processes)) for row in run.rows] == [
        ("fusedlstm", 8),
        ("fusedlstm Stepper", 8),
        ("torch", 8),
    ]
    assert run.rows[0].processes == pytest.approx([1e-5 * (1 + number / 100) for number in range(8)])
    assert run.rows[0].median == pytest.approx(1.035e-5)
    found = comparisons(run.rows)
    assert [(row.peer, one.word, round(one.ratio, 9)) for row, one in found.items()] == [
        ("fusedlstm", "faster", 2.0),
        ("fusedlstm Stepper", "faster", 2.0),
    ]
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "faster than the fastest other library in 2 of 2 rows, slower in 0, and ties in 0." in text
    assert "**Load average:** 0.5 to 7.5" in text
    assert capsys.readouterr().out.split()[0] == str(tmp_path / "results.json")


def test_picking_the_fastest_gives_no_verdict(tmp_path):
    """Six libraries are as fast as ours. The fastest of them looks faster than it is, so all of them count."""
    entries = [entry for library in ("fusedlstm", *"abcdef") for entry in content(library, 0)["benchmarks"]]
    path, rng, found = tmp_path / "one.json", np.random.default_rng(0), Counter()
    path.write_text(json.dumps({**content("fusedlstm", 0), "benchmarks": entries}))
    ours, _, *peers = runs.load(path).rows
    for _ in range(400):
        times = np.exp(rng.normal(0, 0.005, (7, 8)) + 0.06 * (rng.random((7, 8)) < 0.5))  # some processes are slower
        timed = zip((ours, *peers), times.tolist(), strict=True)
        (one,) = comparisons(
            [replace(row, median=float(np.median(each)), processes=tuple(each)) for row, each in timed]
        ).values()
        found[one.word] += 1
    assert found.total() - found["tie"] <= 4


def test_failed_process_loses_only_its_round(turns, tmp_path, capsys):
    """Seven rounds give no verdict. The report says what failed, and so does the exit status."""
    broken = content("fusedlstm", 3)
    del broken["benchmarks"][1]
    compare.FAILS["fusedlstm", 3] = broken, "FAILED test_step[Stepper]"
    compare.FAILS["torch", 7] = None, "Killed"
    assert command.main(["compare", "--out", str(tmp_path), "--rounds", "8", *OPTIONS]) == 1
    assert "2 processes failed" in capsys.readouterr().err
    run = runs.load(tmp_path / "results.json")
    there = [[number for number, median in enumerate(row.processes) if median is None] for row in run.rows]
    assert there == [[], [3], [7]]
    assert [one.verdict for one in comparisons(run.rows).values()] == [None, None]
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for words in ("fusedlstm in round 4: FAILED test\\_step", "torch in round 8: Killed", "JAX jit: jax is not"):
        assert words in text


def test_library_without_rows_runs_once(turns, tmp_path):
    """The options may leave none of them."""
    compare.FAILS["torch", 0] = None, ""
    compare.compare(tmp_path, 8, OPTIONS)
    assert turns == ["fusedlstm", "torch", *["fusedlstm"] * 7]
    assert {row.ours for row in runs.load(tmp_path / "results.json").rows} == {True}


def test_limits_are_those_of_any_process():
    """Only ours calibrates, and isn't always the first."""
    ours, torch = content("fusedlstm", 0), content("torch", 0)
    ours["machine_info"]["facts"]["limits"] = {"cpu": "calibrated"}
    found = compare.merged([[torch, ours], [torch]], {})
    assert found["machine_info"]["facts"]["limits"] == {"cpu": "calibrated"}
    assert found["machine_info"]["facts"]["rounds"] == 2
    assert [entry["stats"]["rounds"] for entry in found["benchmarks"]] == [2, 1, 1]


def test_interrupted_comparison_keeps_its_rounds(turns, tmp_path):
    def stopped():
        raise KeyboardInterrupt

    class Fails(dict):
        def get(self, key, default):
            return stopped() if key == ("fusedlstm", 5) else default

    compare.FAILS = Fails()
    with pytest.raises(KeyboardInterrupt):
        compare.compare(tmp_path, 8, OPTIONS)
    assert {len(row.processes) for row in runs.load(tmp_path / "results.json").rows} == {5}


def test_few_rounds_are_refused(turns, tmp_path, capsys):
    assert command.main(["compare", "--out", str(tmp_path / "new"), "--rounds", "7", *OPTIONS]) == 1
    assert "--rounds: wanted 8 or more; got 7" in capsys.readouterr().err
    assert not turns
    assert not (tmp_path / "new").exists()


def test_nothing_timed_raises(turns, tmp_path, capsys):
    compare.FAILS = {(library, 0): (None, "ERROR no such option") for library in ("fusedlstm", "torch")}
    assert command.main(["compare", "--out", str(tmp_path), *OPTIONS]) == 1
    assert "fusedlstm in round 1: ERROR no such option" in capsys.readouterr().err


def test_other_commands_refuse_unknown_options(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["report", str(tmp_path / "a.json"), "--quick"])
    assert "unrecognized arguments: --quick" in capsys.readouterr().err


@pytest.fixture
def own_process(monkeypatch):
    """Processes don't inherit what is set for this one, which may be an xdist worker."""
    if importlib.util.find_spec("pytest_benchmark") is None:
        pytest.skip("pytest-benchmark is not installed")
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        monkeypatch.delenv(name)


def test_process_times_one_library(own_process):
    found, words = compare.run("numpy", ["-k", "audio or first_call", "--quick", "--benchmark-max-time=0.01"])
    assert words == ""
    (row,) = found["benchmarks"]
    assert row["extra_info"]["peer"] == "NumPy"
    facts = found["machine_info"]["facts"]
    assert facts["limits"] == {}, "one library's processes calibrate"
    assert len(facts["load"]) == 1


def test_process_says_what_went_wrong(own_process):
    assert compare.run("numpy", ["-k", "nothing_has_this_name", "--quick"]) == (None, "")
    found, words = compare.run("numpy", ["--no-such-option"])
    assert found is None
    assert "--no-such-option" in words


@pytest.fixture
def ends(monkeypatch):
    """Return a function that replaces processes. They end with this text and status, and leave a file of results."""

    def end(said, status, results=""):
        commands = []

        def run(command, **_):
            commands.append(command)
            Path(command[-1].partition("=")[2]).write_text(results, encoding="utf-8")
            return subprocess.CompletedProcess(command, status, said, "")

        monkeypatch.setattr(compare.subprocess, "run", run)
        return commands

    return end


def test_process_killed_while_writing_has_failed(ends):
    ends("", -9, '{"machine_info": {')
    assert compare.run("numpy", []) == (None, "exit status -9")


def test_library_whose_rows_all_fail_has_failed(ends):
    """pytest-benchmark also says then that there are no benchmarks."""
    ends("no benchmarks have been run\nFAILED benchmarks/test_step.py::test_step[NumPy]", 1)
    assert compare.run("numpy", []) == (None, "FAILED benchmarks/test_step.py::test_step[NumPy]")


def test_options_win_over_those_of_compare(ends):
    """pytest takes the last of two."""
    commands = ends("", 0)
    compare.run("numpy", ["--benchmark-max-time=2"])
    assert [word for word in commands[0] if "max-time" in word][-1] == "--benchmark-max-time=2"


def test_every_library_has_processes():
    """Ours comes first. All peers of one package share a process."""
    found = compare.installed()
    assert found[:2] == ["fusedlstm", "numpy"]
    assert len(found) == len(set(found))


def test_library_that_cannot_run_has_no_processes(monkeypatch):
    monkeypatch.setattr(compare, "devices", lambda: ["nothing runs there"])
    assert compare.installed() == []


def test_documented_line_installs_the_peers():
    """The page's command installs every library that is compared on a CPU, beside the extra."""
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    line = re.search(r"pip install -e '\.\[bench\]' (.*)", text)[1]
    wanted = {peer.package for peer in peers.all_peers() if "cpu" in peer.devices and not peer.ours} - {"numpy"}
    assert set(line.split()) == wanted | {"onnx"}
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert "bench" in tomllib.load(file)["project"]["optional-dependencies"]


def test_documented_outputs_are_ignored():
    """What the commands on the page write never shows in git."""
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    written = re.findall(r"--benchmark-json=(\S+?)[`\s]", text)
    assert written
    latest = compare.LATEST.relative_to(ROOT)
    for path in (*written, "report.md", "report.html", "pictures/1-a.png", f"{latest}/results.json", "results-2.json"):
        try:
            result = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False)
        except OSError:
            pytest.skip("git is not installed")
        if result.returncode > 1:
            pytest.skip("this is not a git checkout")
        assert result.returncode == 0, f"{path} is not ignored"


def test_content_is_what_pytest_writes(tmp_path):
    """The processes above have the form of a real result."""
    path = tmp_path / "one.json"
    path.write_text(json.dumps(copy.deepcopy(content("fusedlstm", 0))))
    assert len(runs.load(path).rows) == 2
