"""Pipes in place of files, as a shell's <(command) and >(command): commands use them, or refuse them by name."""

import io
import json
import os

import numpy as np
import pytest

from fusedlstm import LSTMWeights, WeightsFileError, convert, load_weights
from fusedlstm.cli import main as command_line
from fusedlstm.convert.recognise import recognise

from support import scripted_bench
from support.streams import shell_pipe, shell_target

I, N = 3, 4
REASON = "is a pipe or device, but must be read more than once: save it to a file first"
pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs pipes as links, as in Linux")


def content():
    """Return a .npz file of PyTorch's arrays."""
    file = io.BytesIO()
    np.savez(file, weight_ih_l0=np.zeros((4 * N, I), "f"), weight_hh_l0=np.zeros((4 * N, N), "f"))
    return file.getvalue()


def run(*arguments):
    return command_line.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("system", ["auto", "torch", "keras", "onnx", "tf1", "flax"])
def test_sources_are_not_pipes(system, tmp_path, capsys):
    with shell_pipe(content()) as path:
        assert run("convert", path, tmp_path / "w", "--from", system) == 1
        assert capsys.readouterr().err == f"fusedlstm: {path} {REASON}\n"


@pytest.mark.parametrize("read", [recognise, convert.from_torch, convert.from_keras, convert.from_tf1])
def test_importers_refuse_pipes(read):
    with shell_pipe(content()) as path, pytest.raises(WeightsFileError, match=f"^{path} {REASON}$"):
        read(path)


def test_weights_may_be_converted_to_a_pipe(tmp_path):
    """It exists, but nothing in it is overwritten, so --force isn't needed."""
    (tmp_path / "m.npz").write_bytes(content())
    with shell_target() as (path, came):
        assert run("convert", tmp_path / "m.npz", path) == 0
        (tmp_path / "w").write_bytes(came())
    assert load_weights(tmp_path / "w").num_layers == 1
    assert run("convert", tmp_path / "m.npz", os.devnull) == 0


def test_bench_writes_json_to_a_pipe_once(tmp_path, monkeypatch):
    scripted_bench.install(monkeypatch)
    LSTMWeights.random(I, N, seed=0).save(tmp_path / "w")
    weights = (tmp_path / "w").read_bytes()
    with shell_pipe(weights) as given, shell_target() as (path, came):
        assert run("bench", given, "--batch", 1, "--batch", 2, "--backend", "numpy", "--json", path) == 0
        assert [found["batch"] for found in json.loads(came())] == [1, 2]


def test_selftest_writes_json_to_a_pipe_once():
    with shell_target() as (path, came):
        run("selftest", "--backend", "numpy", "--dtype", "float64", "--seconds", 1e-9, "--json", path)
        assert json.loads(came())["status"] == 3
