"""`fusedlstm run` with StackedWeights: in parts of the steps, with states named after layers."""

import re

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMState, StackedWeights
from fusedlstm.cli import main as command_line
from fusedlstm.cli import run_steps

from support import sequences

T, B, I = 7, 3, 2
STACKS = {
    "three": StackedWeights.random(I, 4, 3, seed=0, residual=[False, True, True]),
    "projected": StackedWeights.random(I, 4, 2, seed=1, proj_size=3, dtype="float64"),
    "both ways": StackedWeights.random(I, 4, 2, seed=2, bidirectional=True),
    "mixed": StackedWeights.random(I, 4, 2, seed=6, directions=["both", "backward"]),
    "one": StackedWeights.random(I, 4, seed=3),
    "half": StackedWeights.random(I, 4, 2, seed=4, dtype="bfloat16"),
}
LENGTHS = np.array([7, 0, 3])


def states_of(weights, seed=5):
    rng = np.random.default_rng(seed)
    c_dtype = np.float32 if weights.dtype.itemsize == 2 else weights.dtype
    return [
        LSTMState(
            h=rng.uniform(-1, 1, (B, one.output_size)).astype(weights.dtype),
            c=rng.normal(size=(B, one.hidden_size)).astype(c_dtype),
        )
        for one in weights.layers
    ]


def named(states):
    """Return the arrays of an archive of states; 16-bit ones as float32."""
    arrays = {}
    for k, state in enumerate(states):
        arrays |= {f"h{k}": state.h.astype(state.c.dtype), f"c{k}": state.c}
    return arrays


@pytest.fixture
def inputs(tmp_path):
    inputs = np.random.default_rng(0).normal(size=(T, B, I))
    np.save(tmp_path / "inputs.npy", inputs)
    np.save(tmp_path / "lengths.npy", LENGTHS)
    return inputs


def command(folder, weights, *arguments):
    weights.save(folder / "w.safetensors")
    return command_line.main(["run", str(folder / "w.safetensors"), str(folder / "inputs.npy"), *map(str, arguments)])


def result(folder, name="inputs.out.npz"):
    with np.load(folder / name) as archive:
        return dict(archive)


def assert_close(got, weights, outputs, states):
    tolerance = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.1}[str(weights.dtype)]
    wanted = {"outputs": outputs, **named(states)}
    if len(states) == 1:
        wanted |= {"h": wanted["h0"], "c": wanted["c0"]}
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        assert got[name].dtype == (np.float64 if weights.dtype == np.float64 else np.float32)
        np.testing.assert_allclose(got[name], array.astype(float), atol=tolerance, rtol=0, err_msg=name)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_run(name, lengths, backend, tmp_path, inputs, capsys):
    weights = STACKS[name]
    start = states_of(weights)
    np.savez(tmp_path / "state.npz", **named(start))
    arguments = ["--state", tmp_path / "state.npz", "--backend", backend]
    if lengths is not None:
        arguments += ["--lengths", tmp_path / "lengths.npy"]
    assert command(tmp_path, weights, *arguments) == 0
    said = capsys.readouterr().out
    assert "inputs.out.npz: 7 steps of 3 rows on " in said
    assert f": {'21' if lengths is None else '10 of 21'} row-steps in " in said
    outputs, finals = sequences.run(weights, inputs.astype(weights.dtype), start, lengths)
    assert_close(result(tmp_path), weights, outputs, finals)


@pytest.fixture
def calls(monkeypatch):
    """Return a list that records the number of steps, and the lengths, of each LSTM call."""
    calls, real = [], LSTM.__call__

    def call(self, xs, state=None, *, lengths=None, **options):
        calls.append((len(xs), None if lengths is None else list(lengths)))
        return real(self, xs, state, lengths=lengths, **options)

    monkeypatch.setattr(LSTM, "__call__", call)
    return calls


def test_run_in_parts_agrees(tmp_path, inputs, calls, monkeypatch):
    """A part is short enough for the widest layer's gates to fit, and the outputs don't change."""
    weights = STACKS["three"]
    monkeypatch.setattr(run_steps, "_PART", 3 * B * 16 + 15)
    assert command(tmp_path, weights, "--backend", "numpy", "--lengths", tmp_path / "lengths.npy") == 0
    assert calls == [(3, [3, 0, 3]), (3, [3, 0, 0]), (1, [1, 0, 0])]
    zeros = [LSTMState(h=np.zeros((B, 4), "f4"), c=np.zeros((B, 4), "f4"))] * 3
    assert_close(result(tmp_path), weights, *sequences.run(weights, inputs.astype("f4"), zeros, LENGTHS))
    calls.clear()
    monkeypatch.setattr(run_steps, "_PART", 1)
    assert command(tmp_path, weights, "--backend", "numpy") == 0
    assert calls == [(1, None)] * T
    assert_close(result(tmp_path), weights, *sequences.run(weights, inputs.astype("f4"), zeros))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("steps", [1, 3, T])
def test_both_directions_in_parts_agree(steps, lengths, residual, backend, tmp_path, inputs, monkeypatch):
    """The backward direction begins in the last part. A row's later parts change nothing."""
    lower = StackedWeights.random(I, 4, seed=2, bidirectional=True, proj_size=3)
    upper = StackedWeights.random(6, 4, seed=3, bidirectional=True, proj_size=6)
    weights = StackedWeights([*lower.layers, *upper.layers], bidirectional=True, residual=[False, residual])
    monkeypatch.setattr(run_steps, "_PART", steps * B * 16)
    start = states_of(weights)
    np.savez(tmp_path / "state.npz", **named(start))
    arguments = ["--state", tmp_path / "state.npz", "--backend", backend]
    if lengths is not None:
        arguments += ["--lengths", tmp_path / "lengths.npy"]
    assert command(tmp_path, weights, *arguments) == 0
    assert_close(result(tmp_path), weights, *sequences.run(weights, inputs.astype("f4"), start, lengths))


@pytest.mark.parametrize("shape", [(0, B, I), (T, 0, I)])
@pytest.mark.parametrize("name", ["three", "both ways"])
def test_layers_allow_no_steps_or_rows(name, shape, tmp_path):
    np.save(tmp_path / "inputs.npy", np.zeros(shape))
    assert command(tmp_path, STACKS[name], "--backend", "numpy") == 0
    assert result(tmp_path)["outputs"].shape == (*shape[:2], STACKS[name].output_size)
    np.testing.assert_array_equal(result(tmp_path)["c2"], np.zeros((shape[1], 4)))


@pytest.mark.parametrize("name", ["three", "one"])
def test_result_is_a_state_for_the_next_run(name, tmp_path, inputs):
    weights = STACKS[name]
    assert command(tmp_path, weights, "--backend", "numpy", "--out", tmp_path / "whole.npz") == 0
    np.save(tmp_path / "inputs.npy", inputs[:2])
    assert command(tmp_path, weights, "--backend", "numpy", "--out", tmp_path / "first.npz") == 0
    np.save(tmp_path / "inputs.npy", inputs[2:])
    rest = ("--backend", "numpy", "--state", tmp_path / "first.npz", "--out", tmp_path / "rest.npz")
    assert command(tmp_path, weights, *rest) == 0
    whole, last = (result(tmp_path, f"{part}.npz") for part in ("whole", "rest"))
    np.testing.assert_allclose(last["outputs"], whole["outputs"][2:], atol=1e-6)
    np.testing.assert_allclose(last["c0"], whole["c0"], atol=1e-6)


def test_one_layer_takes_a_cells_state(tmp_path, inputs):
    weights, (start,) = STACKS["one"], states_of(STACKS["one"])
    np.savez(tmp_path / "state.npz", h=start.h, c=start.c)
    assert command(tmp_path, weights, "--backend", "numpy", "--state", tmp_path / "state.npz") == 0
    assert_close(result(tmp_path), weights, *sequences.run(weights, inputs.astype("f4"), [start]))


@pytest.mark.parametrize("names", [("h", "c"), ("h0", "c0", "h1", "c1"), ("h0", "c0", "h1", "c1", "h2")])
def test_states_of_other_layers_are_refused(names, tmp_path, inputs, capsys):
    np.savez(tmp_path / "state.npz", **{name: np.zeros((B, 4)) for name in names})
    assert command(tmp_path, STACKS["three"], "--backend", "numpy", "--state", tmp_path / "state.npz") == 1
    wanted = f"wanted an archive with arrays named h0, c0, h1, c1, h2, c2; got {', '.join(names)}"
    assert wanted in capsys.readouterr().err


def test_states_of_more_layers_are_refused(tmp_path, inputs, capsys):
    np.savez(tmp_path / "state.npz", **named(states_of(STACKS["three"])), h3=np.zeros(3), c3=np.zeros(3))
    assert command(tmp_path, STACKS["three"], "--backend", "numpy", "--state", tmp_path / "state.npz") == 1
    assert "got h0, c0, h1, c1, h2, c2, h3, c3" in capsys.readouterr().err


def test_other_dtype(tmp_path, inputs):
    weights = STACKS["three"]
    assert command(tmp_path, weights, "--backend", "numpy", "--dtype", "float64") == 0
    zeros = [LSTMState(h=np.zeros((B, 4)), c=np.zeros((B, 4)))] * 3
    double = weights.astype("float64")
    assert_close(result(tmp_path), double, *sequences.run(double, inputs, zeros))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: a | {"h1": a["h1"][:2]}, r"s\.npz: h1: wanted shape \(3, 4\); got shape \(2, 4\)"),
        (lambda a: a | {"c2": a["c2"] * 1j}, r"s\.npz: c2: wanted real numbers; got dtype complex"),
        (lambda a: a | {"h0": a["h0"].astype(str)}, r"s\.npz: h0: wanted real numbers; got dtype <U"),
    ],
)
@pytest.mark.parametrize("steps", [T, 0])
def test_bad_states_fail(tmp_path, inputs, capsys, spoil, message, steps):
    """The message names the file and the array, even if there are no steps."""
    np.save(tmp_path / "inputs.npy", inputs[:steps])
    np.savez(tmp_path / "s.npz", **spoil(named(states_of(STACKS["three"]))))
    assert command(tmp_path, STACKS["three"], "--state", tmp_path / "s.npz") == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "inputs.out.npz").exists()


def test_out_must_not_be_a_folder(tmp_path, inputs, capsys):
    assert command(tmp_path, STACKS["one"], "--out", tmp_path) == 1
    assert "--out: wanted a file in a folder that exists" in capsys.readouterr().err


def test_small_unsigned_lengths_in_parts(tmp_path, inputs, monkeypatch):
    monkeypatch.setattr(run_steps, "_PART", 100)
    np.save(tmp_path / "lengths.npy", LENGTHS.astype(np.uint8))
    weights = STACKS["three"]
    assert command(tmp_path, weights, "--lengths", tmp_path / "lengths.npy") == 0
    zeros = states_of(weights)
    zeros = [LSTMState(h=state.h * 0, c=state.c * 0) for state in zeros]
    assert_close(result(tmp_path), weights, *sequences.run(weights, inputs.astype("f4"), zeros, LENGTHS))
