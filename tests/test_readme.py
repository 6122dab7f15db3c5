"""The README's code runs as it stands there, and its commands exist."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from fusedlstm import LSTMWeights, cli

ROOT = Path(__file__).parents[1]
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
    # The second row's second sequence began anew at step 12.
    fresh = wanted(names["sequences"][:, 12], wanted.zero_state(2)).to_numpy()
    outputs = names["outputs"] if isinstance(names["outputs"], np.ndarray) else names["outputs"].get()
    np.testing.assert_allclose(outputs[1, 12], fresh.h[1], atol=1e-6)
    assert np.abs(outputs[0, 12] - fresh.h[0]).max() > 1e-3


def test_coming_from_pytorch(backend, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    monkeypatch.setenv("FUSEDLSTM_BACKEND", backend)
    execute(SECTIONS["Coming from PyTorch"], {})


def test_commands_exist(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    LSTMWeights.random(3, 4, seed=0).save("weights.safetensors")
    np.save("inputs.npy", np.zeros((2, 5, 3)))
    commands = re.findall(r"^fusedlstm (.*?) *(?:#.*)?$", README, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["info", "run", "demo"]
    for command in commands:
        assert cli.main(command.split()) == 0, command
    assert "3" in capsys.readouterr().out


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
