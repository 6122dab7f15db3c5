"""A file of results that is standard output: a command's own words go to standard error."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load

from fusedlstm import LSTMWeights, convert


@pytest.fixture
def folder(tmp_path):
    np.savez(tmp_path / "tf1.npz", **convert.to_tf1(LSTMWeights.random(3, 4, seed=0)))
    LSTMWeights.random(3, 4, seed=0).save(tmp_path / "cell")
    np.save(tmp_path / "x.npy", np.zeros((5, 2, 3), np.float32))
    return tmp_path


def outputs(folder, arguments):
    """Run a command, and return the bytes of standard output, and standard error."""
    command = [sys.executable, "-m", "fusedlstm", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=300, check=True)
    return done.stdout, done.stderr.decode()


COMMANDS = {
    "convert": (["convert", "tf1.npz", "/dev/stdout"], lambda out: load(out)["weight_hh"], "read as tf1"),
    "run": (
        ["run", "cell", "x.npy", "--out", "/dev/stdout"],
        lambda out: np.load(io.BytesIO(out))["outputs"],
        "row-steps in",
    ),
    "bench": (["bench", "cell", "--no-peers", "--seconds", "0.1", "--json", "/dev/stdout"], json.loads, "B = 1"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_words_are_not_among_results(command, folder):
    arguments, read, words = COMMANDS[command]
    out, errors = outputs(folder, arguments)
    assert len(read(out))
    assert words in errors


def test_words_beside_a_file_stay_on_stdout(folder):
    out, errors = outputs(folder, ["convert", "tf1.npz", "weights"])
    assert b"read as tf1" in out
    assert errors == ""
