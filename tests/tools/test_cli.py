"""The command line."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import fusedlstm
from fusedlstm import LSTMCell, LSTMState, LSTMWeights
from fusedlstm.cli import main as command_line
from fusedlstm.cli import run as running

from support.places import ROOT


@pytest.fixture
def files(tmp_path):
    """Write weights, inputs (T, B, I), and a state to start from."""
    weights = LSTMWeights.random(3, 4, proj_size=2, seed=0)
    weights.save(tmp_path / "w.safetensors")
    rng = np.random.default_rng(0)
    np.save(tmp_path / "inputs.npy", rng.normal(size=(6, 5, 3)))
    np.savez(tmp_path / "state.npz", h=rng.uniform(-1, 1, (5, 2)), c=rng.normal(size=(5, 4)))
    return tmp_path


def stepped(folder, dtype="float32", start=True):
    weights = LSTMWeights.load(folder / "w.safetensors").astype(dtype)
    cell = LSTMCell(weights, backend="numpy")
    state, wide = cell.zero_state(5), cell.zero_state(0).c.dtype
    if start:
        given = np.load(folder / "state.npz")
        state = LSTMState(h=cell.asarray(given["h"]), c=cell.asarray(given["c"], wide))
    states = []
    for x in cell.asarray(np.load(folder / "inputs.npy")):
        state = cell(x, state)
        states.append(state)
    return [np.stack([getattr(s, part) for s in states]).astype(wide) for part in "hc"]


def command(folder, *arguments):
    return command_line.main(["run", str(folder / "w.safetensors"), str(folder / "inputs.npy"), *map(str, arguments)])


def test_run(files, capsys, backend):
    out = files / "out.npz"
    assert command(files, "--state", files / "state.npz", "--out", out, "--backend", backend) == 0
    assert f"{out}: 6 steps of 5 rows on " in capsys.readouterr().out
    h, c = stepped(files)
    with np.load(out) as result:
        assert sorted(result.files) == ["c", "cells", "h", "outputs"]
        for name, wanted in (("outputs", h), ("cells", c), ("h", h[-1]), ("c", c[-1])):
            np.testing.assert_allclose(result[name], wanted, atol=1e-6)


def test_run_from_zeros_to_default_out(files):
    assert command(files, "--backend", "numpy") == 0
    with np.load(files / "inputs.out.npz") as result:
        np.testing.assert_array_equal(result["outputs"], stepped(files, start=False)[0])


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_run_in_other_dtypes(dtype, files):
    """16-bit results are written as float32, which every reader of .npz files knows."""
    assert command(files, "--state", files / "state.npz", "--backend", "numpy", "--dtype", dtype) == 0
    h, c = stepped(files, dtype)
    with np.load(files / "inputs.out.npz") as result:
        for name, wanted in (("outputs", h), ("cells", c), ("h", h[-1]), ("c", c[-1])):
            assert result[name].dtype == (np.float64 if dtype == "float64" else np.float32)
            np.testing.assert_array_equal(result[name], wanted)


def test_result_is_a_state_for_the_next_run(files):
    inputs = np.load(files / "inputs.npy")
    assert command(files, "--backend", "numpy", "--out", files / "whole.npz") == 0
    np.save(files / "inputs.npy", inputs[:2])
    assert command(files, "--backend", "numpy", "--out", files / "first.npz") == 0
    np.save(files / "inputs.npy", inputs[2:])
    rest = ("--backend", "numpy", "--state", files / "first.npz", "--out", files / "rest.npz")
    assert command(files, *rest) == 0
    with np.load(files / "whole.npz") as whole, np.load(files / "rest.npz") as last:
        np.testing.assert_array_equal(last["c"], whole["c"])
        np.testing.assert_array_equal(last["outputs"], whole["outputs"][2:])


def spoil_inputs(folder, array):
    np.save(folder / "inputs.npy", array)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "w.safetensors").write_bytes(b"garbage garbage"), "w.safetensors is not a safetensors file"),
        (lambda f: (f / "w.safetensors").unlink(), "No such file"),
        (
            lambda f: spoil_inputs(f, np.zeros((5, 3))),
            "inputs.npy: wanted shape (T, B, I) with I = 3; got shape (5,",
        ),
        (lambda f: spoil_inputs(f, np.zeros((6, 5, 4))), "got shape (6, 5, 4)"),
        (lambda f: spoil_inputs(f, np.zeros((6, 5, 3), complex)), "wanted real numbers; got dtype complex128"),
        (
            lambda f: np.savez(f / "state.npz", h=np.zeros((5, 2))),
            "wanted an archive with arrays named h and c; got h",
        ),
        (lambda f: np.savez(f / "state.npz", c=np.zeros((5, 2)), h=np.zeros((5, 4))), "h and c look swapped"),
        (
            lambda f: np.save(f / "state.npz.npy", np.zeros(3)) or os.replace(f / "state.npz.npy", f / "state.npz"),
            "state.npz",
        ),
        (
            lambda f: os.replace(f / "state.npz", f / "inputs.npy"),
            "is not a .npy file of numbers",
        ),
        (lambda f: (f / "inputs.npy").write_bytes(b"\x80\x04nonsense"), "fusedlstm: "),
    ],
)
def test_run_refuses(spoil, message, files, capsys):
    """The command prints one line on standard error, exits with 1, and keeps an older result."""
    out = files / "out.npz"
    out.write_bytes(b"older")
    spoil(files)
    assert command(files, "--state", files / "state.npz", "--out", out, "--backend", "numpy") == 1
    error = capsys.readouterr().err
    assert error.startswith("fusedlstm: ")
    assert message in error
    assert error.count("\n") == 1
    assert out.read_bytes() == b"older"


@pytest.mark.parametrize("name", ["inputs.npy", "state.npz"])
@pytest.mark.parametrize("damage", [lambda c: b"", lambda c: c[: len(c) // 2], lambda c: b"some text, not an array"])
def test_damaged_arrays_are_named(name, damage, files, capsys):
    (files / name).write_bytes(damage((files / name).read_bytes()))
    assert command(files, "--state", files / "state.npz", "--backend", "numpy") == 1
    error = capsys.readouterr().err
    assert re.match(rf"fusedlstm: {files / name} is (not a|damaged, or not a) \.np", error)


def test_flipped_byte_in_a_state_fails(files, capsys):
    content = (files / "state.npz").read_bytes()
    (files / "state.npz").write_bytes(content.replace(content[200:208], b"\xff" * 8))
    assert command(files, "--state", files / "state.npz", "--backend", "numpy") == 1
    assert "state.npz is damaged: h: Bad CRC-32" in capsys.readouterr().err


def test_missing_folder_fails_before_work(files, capsys, monkeypatch):
    monkeypatch.setattr(running, "_write", lambda *_, **__: pytest.fail("work was done"))
    assert command(files, "--out", files / "absent" / "o.npz", "--backend", "numpy") == 1
    assert f"--out: wanted a file in a folder that exists; got {files}" in capsys.readouterr().err


def test_interrupt_is_one_line(files, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "_write", interrupt)
    assert command(files, "--backend", "numpy") == 130
    assert capsys.readouterr().err == "fusedlstm: interrupted\n"


def test_closed_standard_output_is_allowed(files, monkeypatch):
    """The result is still written."""
    monkeypatch.setattr(command_line.sys, "stdout", None)
    assert command(files, "--backend", "numpy") == 0
    assert (files / "inputs.out.npz").is_file()


def test_progress_bar_on_a_terminal(files, monkeypatch, capsys):
    """A bar appears after one second, if standard error is a terminal. Here it appears at once."""
    tqdm = pytest.importorskip("tqdm", reason="tqdm is not installed")
    bars = []
    real = tqdm.tqdm

    def bar(*arguments, **options):
        bars.append(options)
        return real(*arguments, **{**options, "delay": 0, "disable": False})

    monkeypatch.setattr(tqdm, "tqdm", bar)
    assert command(files, "--backend", "numpy") == 0
    assert bars == [{"total": 6, "unit": "step", "delay": 1, "disable": None}]
    assert "6/6" in capsys.readouterr().err


def test_no_bar_without_tqdm(files, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert command(files, "--backend", "numpy") == 0
    assert capsys.readouterr().err == ""


def test_info(capsys):
    assert command_line.main(["info"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    lines = {key.strip(): value.strip() for key, value in lines.items()}
    assert lines["fusedlstm"] == fusedlstm.__version__
    assert lines["numpy"] == np.__version__
    assert lines["backend numpy"] == "runs"
    assert lines["backend cuda"] == "runs" or lines["backend cuda"].startswith("can't run: ")
    assert lines["cache folder"]


def test_demo(capsys, backend):
    """Classify real inputs, and agree with PyTorch's own predictions."""
    assert command_line.main(["demo", "--backend", backend]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "450 handwritten digits, 8 rows of pixels each, stepped as one batch"
    values = {line[:19].strip(): line[21:] for line in lines[1:]}
    assert values["backend"].startswith(backend)
    assert float(values["accuracy"].split("%")[0]) > 95
    assert values["agrees with PyTorch"].startswith("450 of 450")
    assert float(values["largest difference"].split()[0]) < 1e-4
    assert "steps a second of 450 rows" in values["speed"]


def test_demo_fails_when_numbers_disagree(monkeypatch, capsys):
    from fusedlstm.cli.demo import digits

    load = LSTMWeights.load

    def wrong(path):
        weights = load(path)
        return LSTMWeights(weights.weight_ih[::-1], weights.weight_hh, weights.bias)

    monkeypatch.setattr(digits.LSTMWeights, "load", wrong)
    assert command_line.main(["demo", "--backend", "numpy"]) == 1
    assert "450 of 450" not in capsys.readouterr().out


def test_demo_files_are_small():
    folder = ROOT / "fusedlstm" / "cli" / "demo"
    assert sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) < 300_000


def test_usage_errors(capsys):
    for arguments in ([], ["walk"], ["run"], ["demo", "--nonsense"], ["run", "w", "x", "--dtype", "int8"]):
        with pytest.raises(SystemExit) as caught:
            command_line.main(arguments)
        assert caught.value.code == 2
        assert "usage: fusedlstm" in capsys.readouterr().err
    assert command_line.main(["demo", "--backend", "tpu"]) == 1
    assert "backend: wanted 'numpy', 'cuda'" in capsys.readouterr().err


@pytest.mark.parametrize("before", [[], ["-v"], ["--verbose"]])
@pytest.mark.parametrize("after", [[], ["-v"], ["--verbose"]])
def test_verbose_before_and_after_a_command(before, after):
    parse = command_line.parser().parse_args
    for command_ in (["info"], ["run", "w", "x"], ["convert", "m", "w"], ["demo"]):
        assert ("verbose" in parse([*before, *command_, *after])) == bool(before or after)


def test_version_after_a_command(capsys):
    for arguments in (["--version"], ["info", "--version"]):
        with pytest.raises(SystemExit) as ended:
            command_line.main(arguments)
        assert ended.value.code == 0
        assert capsys.readouterr().out == f"fusedlstm {fusedlstm.__version__}\n"


def test_verbose_module_logs_the_cell():
    result = subprocess.run(
        [sys.executable, "-m", "fusedlstm", "--verbose", "demo", "--backend", "numpy"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 0
    assert "LSTMCell(LSTMWeights(I=8, N=64, float32, bias), backend='numpy') on cpu" in result.stderr


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        command_line.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"fusedlstm {fusedlstm.__version__}\n"
