"""`fusedlstm run` with lengths, and with states named after layers. Other tests of it are in test_cli.py."""

import numpy as np
import pytest

from fusedlstm import LSTMCell, LSTMState, LSTMWeights
from fusedlstm.cli import main as command_line

T, B, I, N, P = 6, 5, 3, 4, 2


@pytest.fixture
def folder(tmp_path):
    """Write a cell's weights, inputs whose padding is NaN, lengths, and a state to start from."""
    LSTMWeights.random(I, N, proj_size=P, seed=0).save(tmp_path / "w.safetensors")
    rng = np.random.default_rng(0)
    lengths = np.array([6, 0, 1, 4, 5])
    inputs = rng.normal(size=(T, B, I))
    inputs[np.arange(T)[:, None] >= lengths] = np.nan
    np.save(tmp_path / "inputs.npy", inputs)
    np.save(tmp_path / "lengths.npy", lengths)
    np.savez(tmp_path / "state.npz", h=rng.uniform(-1, 1, (B, P)), c=rng.normal(size=(B, N)))
    return tmp_path


def run(folder, *arguments, weights="w.safetensors"):
    return command_line.main(["run", str(folder / weights), str(folder / "inputs.npy"), *map(str, arguments)])


def result(folder):
    with np.load(folder / "inputs.out.npz") as archive:
        return dict(archive)


def row_by_row(folder, dtype):
    """Run each row alone, up to its length. Return outputs and cells (T, B, ...), and the final h and c."""
    cell = LSTMCell(LSTMWeights.load(folder / "w.safetensors").astype(dtype), backend="numpy")
    wide = cell.zero_state(0).c.dtype
    start, inputs = np.load(folder / "state.npz"), np.load(folder / "inputs.npy")
    outputs, cells = np.zeros((T, B, P), wide), np.zeros((T, B, N), wide)
    final_h, final_c = np.zeros((B, P), wide), np.zeros((B, N), wide)
    for b, length in enumerate(np.load(folder / "lengths.npy")):
        state = LSTMState(h=cell.asarray(start["h"][b : b + 1]), c=cell.asarray(start["c"][b : b + 1], wide))
        for t in range(length):
            state = cell(cell.asarray(inputs[t, b : b + 1]), state)
            outputs[t, b], cells[t, b] = state.h[0], state.c[0]
        final_h[b], final_c[b] = state.h[0], state.c[0]
    return {"outputs": outputs, "cells": cells, "h": final_h, "c": final_c}


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_lengths_of_a_cell(dtype, folder, backend):
    """After a row's end, its outputs and cells are zero for any inputs. Its final state is the one at its end."""
    arguments = ("--state", folder / "state.npz", "--lengths", folder / "lengths.npy", "--dtype", dtype)
    assert run(folder, *arguments, "--backend", backend) == 0
    got = result(folder)
    tolerance = 1e-12 if dtype == "float64" else 6e-2
    for name, wanted in row_by_row(folder, dtype).items():
        assert got[name].dtype == wanted.dtype
        np.testing.assert_allclose(got[name], wanted, atol=tolerance, rtol=0, err_msg=name)
        np.testing.assert_array_equal(got[name][wanted == 0], 0)


def test_lengths_without_a_state(folder):
    assert run(folder, "--lengths", folder / "lengths.npy", "--backend", "numpy") == 0
    np.testing.assert_array_equal(result(folder)["c"][1], 0)  # the row of length 0
    assert np.isfinite(result(folder)["outputs"]).all()


def test_full_lengths_change_nothing(folder):
    np.save(folder / "inputs.npy", np.random.default_rng(0).normal(size=(T, B, I)))
    assert run(folder, "--backend", "numpy") == 0
    whole = result(folder)
    np.save(folder / "lengths.npy", np.full(B, T, np.uint8))
    assert run(folder, "--lengths", folder / "lengths.npy", "--backend", "numpy") == 0
    for name, array in result(folder).items():
        np.testing.assert_array_equal(array, whole[name])


def test_cell_takes_a_one_layer_state(folder):
    """The names h0 and c0 replace h and c."""
    assert run(folder, "--state", folder / "state.npz", "--backend", "numpy") == 0
    wanted = result(folder)
    with np.load(folder / "state.npz") as state:
        np.savez(folder / "layer.npz", h0=state["h"], c0=state["c"], outputs=np.zeros(3))
    assert run(folder, "--state", folder / "layer.npz", "--backend", "numpy") == 0
    for name, array in result(folder).items():
        np.testing.assert_array_equal(array, wanted[name])


@pytest.mark.parametrize("shape", [(0, B, I), (T, 0, I)])
def test_run_allows_no_steps_or_rows(shape, folder):
    np.save(folder / "inputs.npy", np.zeros(shape))
    np.save(folder / "lengths.npy", np.zeros(shape[1], int))
    assert run(folder, "--lengths", folder / "lengths.npy", "--backend", "numpy") == 0
    assert result(folder)["outputs"].shape == (*shape[:2], P)
    np.testing.assert_array_equal(result(folder)["c"], np.zeros((shape[1], N)))


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (np.zeros(B), "lengths.npy: wanted integers (B,); got dtype float64"),
        (np.zeros(B, bool), "lengths.npy: wanted integers (B,); got dtype bool"),
        (np.zeros(4, int), "lengths.npy: wanted shape (B,) = (5,); got shape (4,)"),
        (np.zeros((B, 1), int), "got shape (5, 1)"),
        (np.array([0, 1, 2, 3, 7]), "lengths.npy: wanted lengths from 0 to T = 6; got 0 to 7"),
        (np.array([-1, 1, 2, 3, 6]), "got -1 to 6"),
        (np.array([None] * B), "lengths.npy is not a .npy file of numbers"),
    ],
)
def test_bad_lengths(lengths, message, folder, capsys):
    np.save(folder / "lengths.npy", lengths)
    assert run(folder, "--lengths", folder / "lengths.npy", "--backend", "numpy") == 1
    assert message in capsys.readouterr().err
    assert not (folder / "inputs.out.npz").exists()


@pytest.mark.parametrize("content", [b"", b"some text, not an array"])
def test_damaged_lengths_are_named(content, folder, capsys):
    (folder / "lengths.npy").write_bytes(content)
    assert run(folder, "--lengths", folder / "lengths.npy", "--backend", "numpy") == 1
    assert capsys.readouterr().err.startswith(f"fusedlstm: {folder / 'lengths.npy'} is not a .npy file of numbers")


@pytest.mark.parametrize("names", [("h0", "c0", "h1", "c1"), ("h1", "c1"), ("h0",), ("h0", "c")])
def test_states_of_other_layers_are_refused(names, folder, capsys):
    np.savez(folder / "state.npz", **{name: np.zeros((B, P if name[0] == "h" else N)) for name in names})
    assert run(folder, "--state", folder / "state.npz", "--backend", "numpy") == 1
    assert f"wanted an archive with arrays named h and c; got {', '.join(names)}" in capsys.readouterr().err
