"""Programs on users' pages do what the pages say, on each backend. test_docs.py tests that all code runs."""

import re
from pathlib import Path

import numpy as np
import pytest

from fusedlstm import LSTMCell, StatePool, convert

from support.backends import BACKENDS
from support.cells import host
from support.old_tensorflow import checkpoint_variables, tensorflow_with_a_checkpoint
from support.pages import DOCS, run


def execute(name):
    """Run a page, and return its names."""
    names, missing = run(name, (DOCS / name).read_text(encoding="utf-8"))
    assert not missing
    return names


def test_from_tensorflow_1(backend, monkeypatch, tmp_path):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", backend)
    monkeypatch.chdir(tmp_path)
    tensorflow_with_a_checkpoint(monkeypatch)
    names = execute("from-tensorflow-1.md")
    cell = names["cell"]
    assert cell.backend == backend
    # In the checkpoint, f is the third of i, g, f, o.
    kernel = checkpoint_variables()["rnn/lstm_cell/kernel"]
    np.testing.assert_array_equal(names["weights"].weight_ih[4:8], kernel[:3, 8:12].T)
    # The second row ended after 12 steps.
    outputs = host(names["outputs"])
    assert outputs.shape == (2, 20, 4)
    assert not outputs[1, 12:].any()
    assert outputs[0, 12:].any()
    # Both layers of the stack, packed in TensorFlow's order.
    lower, upper = (state.to_numpy() for state in names["states"])
    assert lower.c.any()
    np.testing.assert_array_equal(host(names["output"]), upper.h)
    packed = convert.state_to_tf1(names["states"], packed=True)
    np.testing.assert_array_equal(host(packed), np.concatenate([lower.c, lower.h, upper.c, upper.h], axis=1))
    assert names["again"][1]._fields == ("c", "h")


def test_from_tensorflow_1_packs_c_before_h(monkeypatch, tmp_path):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", "numpy")
    monkeypatch.chdir(tmp_path)
    tensorflow_with_a_checkpoint(monkeypatch)
    names = execute("from-tensorflow-1.md")
    state = names["state"]
    np.testing.assert_array_equal(convert.state_to_tf1(state, packed=True), np.concatenate([state.c, state.h], axis=1))


def test_from_pytorch(monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setenv("FUSEDLSTM_BACKEND", "numpy")
    torch.manual_seed(0)
    names = execute("from-pytorch.md")
    trained = convert.from_torch(names["core"])
    np.testing.assert_array_equal(names["actor"].weights.weight_hh, trained.weight_hh)  # those after the last update
    assert len({tensor.data_ptr() for tensor in names["kept"]}) == 20
    assert not names["begin"].h.is_inference()  # autograd can use it
    assert not names["rollout"].is_inference()


def test_converting(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", "numpy")
    monkeypatch.chdir(tmp_path)
    execute("converting.md")
    assert capsys.readouterr().out.startswith("weights: cell_clip: wanted None, as Keras's LSTM")


def test_converting_names_every_function():
    page = (DOCS / "converting.md").read_text(encoding="utf-8")
    kinds = "from|to|list|state_from|state_to|initial_state_from"
    named = set(re.findall(rf"`((?:{kinds})_[a-z0-9_]+|tf1_arguments)", page))
    assert named == {name for name in convert.__all__ if not name.startswith("state_to")} | {"state_to_tf1"}


def test_sequences(backend, monkeypatch):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", backend)
    names = execute("sequences.md")
    assert names["both"].shape == (50, 16, 128)
    assert names["backward"].shape == (50, 16, 64)
    assert names["outputs"].shape == (50, 16, 64)
    assert [each.c.shape for each in names["cells"]] == [(50, 16, 64)] * 2
    assert names["ys"] is names["sequencer"].outputs
    assert host(names["ys"]).any()
    assert names["output"].shape == (16, 64)


def test_layers_and_directions(backend, monkeypatch):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", backend)
    pytest.importorskip("torch")
    names = execute("layers-and-directions.md")
    assert len(names["states"]) == 4


def test_stepping_without_overhead(backend, monkeypatch):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", backend)
    names = execute("stepping-without-overhead.md")
    saved = names["saved"].to_numpy()
    cell = names["cell"]
    wanted, rng = cell.zero_state(256), np.random.default_rng(0)
    for _ in range(10):
        wanted = cell(cell.asarray(rng.normal(size=(256, 8))), wanted)
    np.testing.assert_allclose(saved.h, host(wanted.h), atol=1e-5)
    np.testing.assert_allclose(saved.c, host(wanted.c), atol=1e-5)
    assert names["stepper"].batch == 256
    assert names["h"].any()


def test_many_sessions(backend, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", backend)
    monkeypatch.chdir(tmp_path)
    names = execute("many-sessions.md")
    assert capsys.readouterr().out.startswith("500 (500, 64)\n")
    assert names["y"] is names["out"]
    rest = names["slots"][600:]  # not stepped since the save
    wanted = host(names["pool"].read(rest).c)
    np.testing.assert_array_equal(host(names["restarted"].read(rest).c), wanted)
    assert wanted.any()
    assert Path("pool.safetensors").exists()


def test_running_a_pool(backend, monkeypatch, tmp_path):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", backend)
    monkeypatch.chdir(tmp_path)
    names = execute("running-a-pool.md")
    pool, beams, ready = names["pool"], names["beams"], names["ready"]
    assert names["ended"].size == 0
    assert sorted(pool.slots) == sorted([*names["slots"], *beams])
    saved, now = names["restored"].read(ready), pool.read(ready)
    np.testing.assert_array_equal(host(saved.c), host(now.c))
    assert sorted(names["part"].slots) == sorted(ready)
    assert len(names["restored"].slots) == len(names["live"])


def test_idle_sessions_end(monkeypatch, tmp_path):
    """The recipe, with a clock of its own: a session that doesn't step for longer than allowed ends."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSEDLSTM_BACKEND", "numpy")
    names = execute("running-a-pool.md")
    pool, last = StatePool(names["cell"], 5), np.zeros(5)
    last[pool.allocate(3)] = 10
    last[pool.allocate(1)] = 12
    last[[1]] = 15
    assert names["end_idle"](pool, last, 15, seconds=5).tolist() == []
    assert names["end_idle"](pool, last, 16, seconds=5).tolist() == [0, 2]
    assert names["end_idle"](pool, last, 18, seconds=5).tolist() == [3]
    assert pool.slots.tolist() == [1]


def test_next_beams_copy_only_what_forks(monkeypatch, tmp_path):
    """The recipe gives each beam its parent's state, in a pool without a spare slot."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSEDLSTM_BACKEND", "numpy")
    names = execute("running-a-pool.md")
    cell, rng = names["cell"], np.random.default_rng(0)
    pool = StatePool(cell, 6)
    beams = pool.allocate(6)
    for _ in range(50):
        pool.step(cell.asarray(rng.normal(size=(6, 8))), beams)
        before, parents = pool.read(beams), rng.integers(6, size=6)
        beams, old = names["next_beams"](pool, beams, parents), beams
        np.testing.assert_array_equal(pool.read(beams).c, before.c[parents])
        assert pool.live == 6
        assert set(old[parents]) <= set(beams)


def test_resets(monkeypatch):
    """Run on a GPU if PyTorch has one, otherwise on the CPU. PyTorch has no emulated GPU."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    monkeypatch.setenv("FUSEDLSTM_BACKEND", "cuda" if "cuda" in BACKENDS and torch.cuda.is_available() else "numpy")
    names = execute("resets.md")
    assert isinstance(names["cell"], LSTMCell)
    assert type(names["state"].h) is torch.Tensor
    assert names["state"].h.abs().max() > 0.01
    assert_cart_pole(names["CartPoles"](3, "cpu"), np.array([True, False, True]))


def assert_cart_pole(poles, right):
    """Compare with a step by Newton's equations of both bodies, solved as a linear system."""
    import torch

    states = torch.tensor([[0.1, 0.5, 0.05, -0.4], [0.0, -1.0, -0.1, 0.8], [2.39, 3.0, 0.0, 0.0]])
    poles.states = states.clone()
    observed, done = poles.step(torch.from_numpy(right))
    mass, pole, half, g, tau = 1.0, 0.1, 0.5, 9.8, 0.02
    for row, (_, speed, angle, spin) in enumerate(states.double().numpy()):
        sine, cosine = np.sin(angle), np.cos(angle)
        # The rates of speed and of spin are unknown. First the forces along the track, then the pole about its pivot.
        system = [[mass + pole, pole * half * cosine], [cosine, 4 / 3 * half]]
        rates = np.linalg.solve(system, [(10 if right[row] else -10) + pole * half * spin**2 * sine, g * sine])
        wanted = states[row].double().numpy() + tau * np.array([speed, rates[0], spin, rates[1]])
        if abs(wanted[0]) > 2.4 or abs(wanted[2]) > np.radians(12):
            assert done[row]
            assert observed[row].abs().max() <= 0.05
        else:
            assert not done[row]
            np.testing.assert_allclose(observed[row], wanted, rtol=1e-5, atol=1e-6)
    assert done.tolist() == [False, False, True]
