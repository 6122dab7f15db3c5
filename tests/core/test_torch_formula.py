"""The formula in PyTorch, the reference for gradients, agrees with LSTM and torch.nn.LSTM."""

import numpy as np
import pytest
from hypothesis import given, settings

from fusedlstm import LSTM, convert

from support.training_cases import CASES_WITH_ZONEOUT

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

from support import torch_formula  # noqa: E402


def outcome(outputs, states):
    """Return all arrays of a call's results by name."""
    arrays = {"outputs": outputs}
    for k, (h, c) in enumerate(states):
        arrays |= {f"h{k}": h, f"c{k}": c}
    return arrays


def assert_close(got, wanted, tolerance=1e-12):
    assert got.keys() == wanted.keys()
    for name, array in got.items():
        other = np.asarray(wanted[name])
        assert array.shape == other.shape, name
        assert np.isfinite(other).all(), name
        assert (np.abs(array - other) <= tolerance * np.maximum(1, np.abs(other).max(initial=0))).all(), name


@settings(max_examples=150)
@given(case=CASES_WITH_ZONEOUT)
def test_formula_gives_the_numbers_of_lstm(case):
    outputs, states = LSTM(case.weights, backend="numpy")(case.xs, case.states, **case.options)
    options = dict(case.options)
    if "reset_to" in options:
        options["reset_to"] = torch_formula.tensors_of(options["reset_to"])
    layers, xs = torch_formula.Layers.of(case.weights), torch_formula.tensor(case.xs)
    got, finals = torch_formula.lstm(layers, xs, torch_formula.tensors_of(case.states), **options)
    assert_close(outcome(outputs, [(s.h, s.c) for s in states]), outcome(got, finals))


@pytest.mark.parametrize("proj_size", [0, 2])
def test_gradients_are_those_of_a_torch_lstm(proj_size):
    torch.manual_seed(0)
    module = torch.nn.LSTM(3, 4, 2, proj_size=proj_size, bidirectional=True, dtype=torch.float64)
    P = proj_size or 4
    xs, h0, c0 = (torch.randn(*shape, dtype=torch.float64) for shape in ((5, 3, 3), (4, 3, P), (4, 3, 4)))
    weights = convert.from_torch(module)
    layers = torch_formula.Layers.of(weights, requires_grad=True)
    inputs = [each.requires_grad_() for each in (xs, h0, c0)]
    wanted, (h1, c1) = module(xs, (h0, c0))
    outputs, states = torch_formula.lstm(layers, xs, [(h0[k], c0[k]) for k in range(4)])
    torch.testing.assert_close(outputs, wanted, rtol=0, atol=1e-13)
    aims = [torch.randn_like(each) for each in (wanted, h1, c1)]
    h, c = (torch.stack(parts) for parts in zip(*states, strict=True))
    got = torch.autograd.grad(sum((a * b).sum() for a, b in zip(aims, (outputs, h, c), strict=True)), [
        *inputs, *(cell.weight_ih for cell in layers.cells)
    ])  # fmt: skip
    right = torch.autograd.grad(sum((a * b).sum() for a, b in zip(aims, (wanted, h1, c1), strict=True)), [
        *inputs, *(value for name, value in module.named_parameters() if name.startswith("weight_ih"))
    ])  # fmt: skip
    for a, b in zip(got, right, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
