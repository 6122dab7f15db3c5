"""The README's code runs as it stands there, and its commands exist."""

import re
import sys
import types

import numpy as np
import pytest

from fusedlstm import LSTMWeights, convert
from fusedlstm.cli import main as command_line

from support.backends import BACKENDS
from support.cells import host
from support.places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTIONS = {
    section.split("\n", 1)[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for section in re.split(r"^## ", README, flags=re.MULTILINE)[1:]
}


def execute(blocks, names):
    """Run a section's blocks one after the other, as a reader does."""
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    return names


def checkpoint_variables():
    """What a checkpoint of TensorFlow 1 would hold: a cell, its optimiser's slots, and another layer."""
    rng = np.random.default_rng(0)
    cell = {
        "rnn/lstm_cell/kernel": rng.normal(size=(7, 16)).astype(np.float32),
        "rnn/lstm_cell/bias": rng.normal(size=16).astype(np.float32),
    }
    slots = {f"{name}/Adam": np.zeros_like(value) for name, value in cell.items()}
    return {**cell, **slots, "dense/kernel": np.zeros((4, 8), np.float32), "dense/bias": np.zeros(8, np.float32)}


@pytest.fixture
def tensorflow(monkeypatch):
    """TensorFlow 1's two functions that read a checkpoint, over those variables."""
    variables = checkpoint_variables()
    train = types.SimpleNamespace(
        list_variables=lambda path: [(name, list(value.shape)) for name, value in variables.items()],
        load_variable=lambda path, name: variables[name],
    )
    module = types.ModuleType("tensorflow")
    module.train = train
    monkeypatch.setitem(sys.modules, "tensorflow", module)


def test_every_block_is_in_a_tested_section():
    assert {title for title, blocks in SECTIONS.items() if blocks} == {
        "Ten lines",
        "Coming from TensorFlow 1.x",
        "Coming from PyTorch",
        "Weights from everywhere, and back",
        "Sequences and layers",
        "Steps without overhead",
        "Many live sequences",
        "A recurrent policy, with PyTorch around it",
    }


def test_ten_lines(backend, monkeypatch, capsys):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", backend)
    execute(SECTIONS["Ten lines"], {})
    assert capsys.readouterr().out.startswith(f"{backend} (1024, 64) (1024, 64) ")
    assert len([line for line in SECTIONS["Ten lines"][0].splitlines() if line.strip()]) == 9


def test_coming_from_tensorflow(backend, monkeypatch, tensorflow, tmp_path):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", backend)
    monkeypatch.chdir(tmp_path)
    names = execute(SECTIONS["Coming from TensorFlow 1.x"], {})
    assert names["cell"].backend == backend
    assert names["outputs"].shape == (2, 20, 4)
    packed = names["packed"]
    packed = packed if isinstance(packed, np.ndarray) else packed.get()
    kernel = checkpoint_variables()["rnn/lstm_cell/kernel"]
    np.testing.assert_array_equal(names["weights"].weight_ih[4:8], kernel[:3, 8:12].T)  # f stands third there
    assert packed.shape == (2, 8)
    wanted = names["cell"]
    state = wanted(wanted.asarray(np.ones((2, 3))), wanted.zero_state(2)).to_numpy()
    np.testing.assert_array_equal(packed, np.concatenate([state.c, state.h], axis=1))
    # The second row ended after 12 steps.
    outputs, (final,) = host(names["outputs"]), names["states"]
    assert not outputs[1, 12:].any()
    assert outputs[0, 12:].any()
    np.testing.assert_array_equal(final.to_numpy().h, [outputs[0, 19], outputs[1, 11]])


def test_coming_from_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    execute(SECTIONS["Coming from PyTorch"], {})


def test_weights_from_everywhere(capsys):
    execute(SECTIONS["Weights from everywhere, and back"], {})
    assert capsys.readouterr().out.startswith("weights: cell_clip: wanted None, as Keras's LSTM")


def test_every_system_of_the_tables_is_there():
    """The README's tables name every function of convert."""
    section = re.search(r"## Weights from everywhere, and back(.*?)\n## ", README, re.DOTALL)[1]
    named = set(
        re.findall(r"`((?:from|to|list|state_from|state_to|initial_state_from)_[a-z0-9_]+|tf1_arguments)", section)
    )
    assert named == {name for name in convert.__all__ if not name.startswith("state_to")} | {"state_to_tf1"}


def test_sequences_and_layers(backend, monkeypatch):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", backend)
    names = execute(SECTIONS["Sequences and layers"], {})
    assert names["outputs"].shape == (50, 16, 64)
    assert len(names["states"]) == 2
    assert names["output"] is names["states"][1].h


def test_steps_without_overhead(backend, monkeypatch):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", backend)
    names = execute(SECTIONS["Steps without overhead"], {})
    cell, state, rng = names["cell"], names["cell"].zero_state(256), np.random.default_rng(0)
    for _ in range(10):
        state = cell(cell.asarray(rng.normal(size=(256, 8))), state)
    np.testing.assert_allclose(host(names["h"]), host(state.h), atol=1e-5)
    np.testing.assert_array_equal(host(names["saved"].h), host(names["h"]))


def test_many_live_sequences(backend, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("FUSEDLSTM_BACKEND", backend)
    monkeypatch.chdir(tmp_path)
    names = execute(SECTIONS["Many live sequences"], {})
    assert capsys.readouterr().out == "500 (500, 64)\n"
    assert names["y"] is names["out"]
    kept = names["slots"][500:]
    wanted = host(names["pool"].read(kept).c)
    np.testing.assert_array_equal(host(names["restarted"].read(kept).c), wanted)
    assert wanted.any()


def test_recurrent_policy(monkeypatch):
    """On a GPU with PyTorch's tensors there, else on the CPU: PyTorch has no emulated GPU."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    monkeypatch.setenv("FUSEDLSTM_BACKEND", "cuda" if "cuda" in BACKENDS and torch.cuda.is_available() else "numpy")
    names = execute(SECTIONS["A recurrent policy, with PyTorch around it"], {})
    assert type(names["state"].h) is torch.Tensor
    assert names["state"].h.abs().max() > 0.01
    poles = names["CartPoles"](3, "cpu")
    assert_cart_pole(poles, np.array([True, False, True]))


def assert_cart_pole(poles, right):
    """One step by Newton's equations of the two bodies, solved as a linear system: nothing is taken from the README."""
    import torch

    states = torch.tensor([[0.1, 0.5, 0.05, -0.4], [0.0, -1.0, -0.1, 0.8], [2.39, 3.0, 0.0, 0.0]])
    poles.states = states.clone()
    observed, done = poles.step(torch.from_numpy(right))
    mass, pole, half, g, tau = 1.0, 0.1, 0.5, 9.8, 0.02
    for row, (_, speed, angle, spin) in enumerate(states.double().numpy()):
        sine, cosine = np.sin(angle), np.cos(angle)
        # Unknown are the rates of speed and of spin. First the forces along the track, then the pole about its pivot.
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


def test_commands_exist(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    LSTMWeights.random(3, 4, seed=0).save("weights.safetensors")
    np.save("inputs.npy", np.zeros((2, 5, 3)))
    np.save("lengths.npy", [2, 1, 0, 2, 1])
    commands = re.findall(r"^fusedlstm (.*?) *(?:#.*)?$", README, re.MULTILINE)
    assert [command.split()[0] for command in commands] == [*["convert"] * 4, "info", "run", "run", "convert", "demo"]
    for command in commands:
        if command.startswith("convert "):  # of files that only their frameworks make
            command_line._parser().parse_args(command.split())
            continue
        assert command_line.main(command.split()) == 0, command
    assert "3" in capsys.readouterr().out


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
