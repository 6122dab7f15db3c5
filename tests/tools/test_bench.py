"""The command bench. Apart from one test, its times are made up, and no test looks at a real one."""

import json
import subprocess
import sys

import numpy as np
import pytest

import fusedlstm
from fusedlstm import LSTMWeights
from fusedlstm.bench import child
from fusedlstm.cli import main as command_line

from support import scripted_bench
from support.places import ENVIRONMENT

N = 4
WEIGHTS = LSTMWeights.random(3, N, seed=0)


@pytest.fixture
def scripted(monkeypatch):
    """Replace the processes."""
    return scripted_bench.install(monkeypatch)


@pytest.fixture
def weights(tmp_path):
    WEIGHTS.save(tmp_path / "weights")
    return str(tmp_path / "weights")


def bench(*arguments):
    return command_line.main(["bench", *map(str, arguments)])


def test_bench_writes_table_and_json(scripted, weights, tmp_path, capsys):
    out = tmp_path / "out.json"
    options = ("--every", "500us", "--seconds", 0.1, "--step", "out", "--threads", 1, "--dtype", "float64")
    assert bench(weights, "--batch", 3, "--batch", 5, *options, "--backend", "numpy", "--json", out) == 0
    said = capsys.readouterr().out
    assert "float64" in said
    assert "threads=1)\nB = 3, calls with out=, one every 500 us, for 0.1 s\n" in said
    assert "B = 5, " in said
    first, second = json.loads(out.read_text())
    assert (first["batch"], second["batch"], first["every"], first["step"]) == (3, 5, 5e-4, "out")


def test_bench_fails_if_results_are_wrong(scripted, weights, capsys):
    scripted.spoilt["torch"] = child.Ready("torch 2", 1e-3, None, [(np.ones((1, N)), np.ones((1, N)))])
    assert bench(weights, "--backend", "numpy") == 1
    assert "not timed: torch: its results are WRONG: " in capsys.readouterr().out
    assert bench(weights, "--backend", "numpy", "--no-peers") == 0


@pytest.mark.parametrize(
    ("text", "every"),
    [("10ms", 0.01), ("500us", 5e-4), ("2s", 2.0), ("0.5ms", 5e-4), ("0", None), ("0ms", None), ("1e-3s", 1e-3)],
)
def test_paces(scripted, weights, text, every):
    assert bench(weights, "--every", text, "--no-peers", "--backend", "numpy") == 0
    assert scripted.begun[-1][1] == (None if every is None else pytest.approx(every))


@pytest.mark.parametrize("text", ["10", "ms", "-1ms", "infms", "nans", "10 min", ""])
def test_wrong_paces_are_usage_errors(text, weights, capsys):
    with pytest.raises(SystemExit) as raised:
        bench(weights, f"--every={text}")
    assert raised.value.code == 2
    assert f"wanted a time such as 10ms, 500us or 1s, or 0; got {text!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent"], "No such file"),
        (["WEIGHTS", "--json", "WEIGHTS"], "--json: wanted a file other than WEIGHTS, which would be lost"),
        (["WEIGHTS", "--json", "absent/x"], "--json: wanted a file in a folder that exists"),
    ],
)
def test_bench_refuses_in_one_line(arguments, words, scripted, weights, capsys):
    assert bench(*[weights if each == "WEIGHTS" else each for each in arguments]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    assert not scripted.begun


def test_bench_steps_in_processes(weights, tmp_path):
    """The real command, with a real process. Nothing here depends on how fast it is."""
    out = tmp_path / "out.json"
    command = [
        sys.executable,
        "-m",
        "fusedlstm",
        "bench",
        weights,
        "--backend",
        "numpy",
        "--no-peers",
        "--threads",
        "1",
    ]
    run = subprocess.run(
        [*command, "--every", "0", "--seconds", "0.01", "--json", str(out)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert f"fusedlstm {fusedlstm.__version__}" in run.stdout
    (found,) = json.loads(out.read_text())
    (ours,) = found["libraries"]
    assert ours["steps"] >= 1
    assert ours["threads"] == 1
