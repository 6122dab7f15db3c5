"""Cells with functions other than sigmoid and one activation, and with clipped or coupled gates."""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, StatePool, lstm_pointwise
from fusedlstm.backends.numpy import formula

from support import tolerances
from support.backends import WAYS, backend_in_a_way
from support.cells import GENERAL, host, random_inputs, random_state

DTYPES = ["float64", "float32", "float16", "bfloat16"]


@pytest.fixture(params=WAYS)
def stepping(request, monkeypatch):
    """Each backend, and on a GPU both ways of stepping."""
    return backend_in_a_way(request, monkeypatch)


def assert_near(got, wanted, tolerance):
    """Assert that both parts of a state are close. Errors are relative beyond 1, as some functions are unbounded."""
    for array, exact in zip((got.h, got.c), wanted, strict=True):
        assert array.shape == exact.shape
        assert np.isfinite(array.astype(float)).all()
        assert (np.abs(array.astype(float) - exact) <= tolerance * np.maximum(1, np.abs(exact).max(initial=0))).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GENERAL)
def test_formula(name, dtype, backend):
    weights = LSTMWeights.random(5, 9, seed=1, dtype=dtype, **GENERAL[name])
    cell = LSTMCell(weights, backend=backend)
    x, state = random_inputs(cell, 4)
    to = random_state(cell, 1, np.random.default_rng(5))
    first = [True, False, False, False]
    got = cell(x, state, is_first=first, reset_to=to).to_numpy()
    wanted = formula.step(weights, *(host(a) for a in (x, state.h, state.c)), first, host(to.h), host(to.c))
    assert_near(got, wanted, tolerances.of(dtype, 100))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GENERAL)
def test_pointwise(name, dtype, backend):
    """lstm_pointwise has the same options as a cell whose input is its gates."""
    B, N, rng = 3, 8, np.random.default_rng(2)
    options = {key: value for key, value in GENERAL[name].items() if key not in ("proj_size", "peephole", "zoneout_h")}
    owner = LSTMCell(LSTMWeights.random(1, 1, dtype=dtype, seed=0), backend=backend)
    gates, bias, peephole = (owner.asarray(rng.normal(size=shape)) for shape in ((B, 4 * N), (4 * N,), (3, N)))
    c = owner.asarray(rng.normal(size=(B, N)), owner.zero_state(0).c.dtype)
    got = lstm_pointwise(gates, c, bias=bias, peephole=peephole, **options).to_numpy()
    exact = [host(a).astype(float) for a in (gates, c, bias, peephole)]
    weights = LSTMWeights(np.eye(4 * N), np.zeros((4 * N, N)), *exact[2:], **options)
    assert_near(got, formula.step(weights, exact[0], np.zeros((B, N)), exact[1]), tolerances.of(dtype, 100))


@pytest.mark.parametrize(("coupled", "block"), [("input", 0), ("forget", 1)])
def test_values_of_a_coupled_gate_are_ignored(coupled, block, backend):
    N = 4
    weights = LSTMWeights.random(3, N, seed=0, peephole=True, coupled_gate=coupled)
    arrays = {name: array.copy() for name, array in weights.arrays().items()}
    arrays["peephole"][block] = np.nan
    for name in ("weight_ih", "weight_hh", "bias"):
        arrays[name][block * N : (block + 1) * N] = np.nan
    cell, other = (LSTMCell(w, backend=backend) for w in (weights, LSTMWeights(**arrays, coupled_gate=coupled)))
    x, state = random_inputs(cell, 3)
    wanted, got = cell(x, state).to_numpy(), other(x, state).to_numpy()
    assert got.h.tobytes() == wanted.h.tobytes()
    assert got.c.tobytes() == wanted.c.tobytes()


@pytest.mark.parametrize("name", GENERAL)
def test_nan_and_infinities_stay_in_their_rows(name, backend, recwarn):
    cell = LSTMCell(LSTMWeights.random(5, 9, seed=1, **GENERAL[name]), backend=backend)
    x, state = random_inputs(cell, 5)
    clean = cell(x, state).to_numpy()
    x[0], state.h[2], state.c[4] = np.nan, np.inf, np.nan
    got = cell(x, state).to_numpy()
    for row in (1, 3):
        assert got.h[row].tobytes() == clean.h[row].tobytes()
        assert got.c[row].tobytes() == clean.c[row].tobytes()
    assert np.isnan(got.h[[0, 4]]).all()
    assert np.isnan(got.c[[0, 4]]).all()
    assert not recwarn.list


def test_gate_clip_clips_all_gates_but_not_c(backend):
    """With linear functions, pre-activations are 1, 2, 3 and 4, and the old c is 10."""
    options = {"activation": "linear", "gate_activation": "linear", "gate_clip": 1.5}
    weights = LSTMWeights(np.array([[1.0], [2.0], [3.0], [4.0]]), np.zeros((4, 1)), **options)
    cell = LSTMCell(weights, backend=backend)
    state = LSTMState(h=cell.asarray([[0.0]]), c=cell.asarray([[10.0]]))
    got = cell(cell.asarray([[1.0]]), state).to_numpy()
    assert got.c.item() == 1.5 * 10 + 1 * 1.5
    assert got.h.item() == 1.5 * got.c.item()


def two_layers(dtype):
    """Return a layer with clipped hard-sigmoid gates and peepholes, and one with coupled gates and a projection."""
    gates = {"gate_activation": ("hard_sigmoid", 0.2, 0.5), "gate_clip": 0.8, "peephole": True}
    coupled = {"coupled_gate": "input", "activation": ("scaled_tanh", 1.3, 0.6), "output_activation": "softsign"}
    return StackedWeights(
        [
            LSTMWeights.random(5, 9, seed=1, dtype=dtype, output_activation=("leaky_relu", 0.1), **gates),
            LSTMWeights.random(9, 8, seed=2, dtype=dtype, proj_size=4, **coupled),
        ]
    )


def outputs_of(weights, xs):
    """Run the formula over a sequence (T, B, I) from zeros.

    Return outputs (T, B, P) and c of each layer, in float64.
    """
    states = [(np.zeros((xs.shape[1], w.output_size)), np.zeros((xs.shape[1], w.hidden_size))) for w in weights.layers]
    outputs = []
    for x in xs:
        output, states = formula.step_layers(weights, x, states)
        outputs.append(output)
    return np.stack(outputs), [c for _, c in states]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_steps_of_layers(dtype, stepping):
    """Sequences, Steppers and pools match the formula for three steps."""
    T, B = 3, 6
    lstm = LSTM(two_layers(dtype), backend=stepping)
    xs = lstm.asarray(np.random.default_rng(0).normal(size=(T, B, 5)))
    wanted, cs = outputs_of(lstm.weights, host(xs))
    tolerance = 2 * T * tolerances.of(dtype, 100)
    outputs, states = lstm(xs)
    for state, c in zip(states, cs, strict=True):
        assert np.abs(host(state.c) - c).max() <= tolerance
    stepper, pool = lstm.stepper(B), StatePool(lstm, 2 * B)
    slots = pool.allocate(2 * B)[::-2]
    for t, x in enumerate(xs):
        for got in (outputs[t], stepper.step(x), pool.step(x, slots)):
            assert np.isfinite(host(got).astype(float)).all()
            assert np.abs(host(got).astype(float) - wanted[t]).max() <= tolerance
