"""TensorFlow 1's two functions that read a checkpoint, with the variables of a small model."""

import sys
import types

import numpy as np


def checkpoint_variables():
    """Return a checkpoint's variables: a cell with I = 3 and N = 4, its optimiser's slots, and another layer."""
    rng = np.random.default_rng(0)
    cell = {
        "rnn/lstm_cell/kernel": rng.normal(size=(7, 16)).astype(np.float32),
        "rnn/lstm_cell/bias": rng.normal(size=16).astype(np.float32),
    }
    slots = {f"{name}/Adam": np.zeros_like(value) for name, value in cell.items()}
    return {**cell, **slots, "dense/kernel": np.zeros((4, 8), np.float32), "dense/bias": np.zeros(8, np.float32)}


def tensorflow_with_a_checkpoint(monkeypatch):
    """Let `import tensorflow` provide these functions alone. Every path leads to this checkpoint."""
    variables = checkpoint_variables()
    module = types.ModuleType("tensorflow")
    module.train = types.SimpleNamespace(
        list_variables=lambda path: [(name, list(value.shape)) for name, value in variables.items()],
        load_variable=lambda path, name: variables[name],
    )
    monkeypatch.setitem(sys.modules, "tensorflow", module)
