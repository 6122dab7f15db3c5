"""Gradients of an LSTM's call, by its vjp and by torch.autograd of the independent formula."""

import importlib

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMState

from support.training_cases import random_states


def in_torch():
    """Return PyTorch and the module of the independent formula, or skip the test."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    return torch, importlib.import_module("support.torch_formula")


def seeds_of(case, seed=1):
    """Return random gradients of a case's outputs and of its final states."""
    rng = np.random.default_rng(seed)
    T, B, _ = case.xs.shape
    return rng.normal(size=(T, B, case.weights.output_size)), random_states(rng, case.weights, B)


def named(xs, states, reset_to, weights):
    """Return all gradients by name. `states` and `reset_to` are pairs, and `weights` are dictionaries."""
    arrays = {"xs": xs}
    for k, (h, c) in enumerate(states):
        arrays |= {f"state[{k}].h": h, f"state[{k}].c": c}
    for k, (h, c) in enumerate(reset_to or []):
        arrays |= {f"reset_to[{k}].h": h, f"reset_to[{k}].c": c}
    for k, each in enumerate(weights):
        arrays |= {f"weights[{k}].{name}": array for name, array in each.items()}
    return arrays


def by_name(gradients):
    """Return the arrays of an LSTMGradients by name."""
    states, resets = (
        None if each is None else [(state.h, state.c) for state in each]
        for each in (gradients.state, gradients.reset_to)
    )
    return named(gradients.xs, states, resets, [each.arrays() for each in gradients.weights])


def ours(case, d_outputs, d_state, **vjp_options):
    """Return the gradients by name, from NumPy's vjp."""
    _, _, pullback = LSTM(case.weights, backend="numpy").vjp(case.xs, case.states, **case.options, **vjp_options)
    return by_name(pullback(d_outputs, d_state))


def exact(case, d_outputs, d_state):
    """Return the gradients by name, from torch.autograd of the independent formula."""
    torch, torch_formula = in_torch()
    layers = torch_formula.Layers.of(case.weights, requires_grad=True)
    options = dict(case.options)
    reset_to = options.pop("reset_to", None)
    resets = None if reset_to is None else torch_formula.tensors_of(reset_to, requires_grad=True)
    xs = torch_formula.tensor(case.xs, requires_grad=True)
    states = torch_formula.tensors_of(case.states, requires_grad=True)
    outputs, finals = torch_formula.lstm(layers, xs, states, reset_to=resets, **options)
    loss = (outputs * torch.from_numpy(d_outputs)).sum()
    for final, d in zip(finals, d_state, strict=True):
        loss = loss + sum((part * torch.from_numpy(own)).sum() for part, own in zip(final, (d.h, d.c), strict=True))
    loss.backward()

    def of(tensor):
        return np.zeros(tuple(tensor.shape)) if tensor.grad is None else tensor.grad.numpy()

    weights = [{name: of(value) for name, value in cell.tensors().items()} for cell in layers.cells]
    pairs = None if resets is None else [tuple(map(of, pair)) for pair in resets]
    return named(of(xs), [tuple(map(of, pair)) for pair in states], pairs, weights)


def largest_difference(got, wanted):
    """Return the largest difference of named gradients, relative above 1. Another shape, infinity or NaN gives inf."""
    assert got.keys() == wanted.keys()
    largest = 0.0
    for name, array in wanted.items():
        if got[name].shape != array.shape or not (np.isfinite(got[name]).all() and np.isfinite(array).all()):
            return np.inf
        scale = max(1.0, np.abs(array).max(initial=0))
        largest = max(largest, np.abs(got[name] - array).max(initial=0) / scale)
    return largest


def states_like(states, value):
    """Return states whose arrays are filled with a value."""
    return tuple(LSTMState(h=np.full_like(s.h, value), c=np.full_like(s.c, value)) for s in states)
