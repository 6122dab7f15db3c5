"""Zoneout at inference keeps parts of c and h, on every backend and in every way of stepping."""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, StatePool, lstm_pointwise
from fusedlstm.backends.numpy import formula

from support import tolerances
from support.backends import WAYS, backend_in_a_way, needs_cuda
from support.cells import host, random_inputs, random_state

B, I, N = 5, 6, 9
ZONEOUT = {"zoneout_c": 0.3, "zoneout_h": 0.4}
PROJECTIONS = {"no projection": {}, "projection": {"proj_size": 4}, "clipped": {"proj_size": 4, "proj_clip": 0.05}}
KERNELS = [
    ("matmul", "float64", "highest"),
    ("matmul", "bfloat16", "highest"),
    ("simt", "float64", "highest"),
    ("simt", "float32", "highest"),
    ("tensor_small", "float16", "highest"),
    ("tensor_medium", "float32", "high"),
    ("tensor_large", "bfloat16", "highest"),
]


@pytest.fixture(params=WAYS)
def stepping(request, monkeypatch):
    """Each backend, and on a GPU both ways of stepping."""
    return backend_in_a_way(request, monkeypatch)


def assert_near(got, wanted, tolerance):
    for array, exact in zip((got.h, got.c), wanted, strict=True):
        assert np.abs(host(array).astype(float) - exact).max() <= tolerance


def exact_state(state):
    return host(state.h).astype(float), host(state.c).astype(float)


def check_all_ways(cell, tolerance, B=B):
    """Check two steps of a call, a Stepper and a pool. In the second, every fourth row is reset."""
    weights, rng = cell.weights, np.random.default_rng(0)
    xs = [cell.asarray(rng.normal(size=(B, I))) for _ in range(2)]
    state, to = random_state(cell, B, rng), random_state(cell, 1, rng)
    first = np.arange(B) % 4 == 0
    wanted = formula.step(weights, host(xs[0]), *exact_state(state))
    wanted = formula.step(weights, host(xs[1]), *wanted, first, *exact_state(to))
    zeros = formula.step(weights, host(xs[0]), *exact_state(state))
    zeros = formula.step(weights, host(xs[1]), *zeros, first)

    assert_near(cell(xs[1], cell(xs[0], state), is_first=first, reset_to=to), wanted, tolerance)
    for reset_to, exact in ((to, wanted), (None, zeros)):
        stepper = cell.stepper(B, reset_to=reset_to)
        stepper.write(state)
        stepper.step(xs[0])
        stepper.step(xs[1], is_first=cell.xp.asarray(first))
        assert_near(stepper.state, exact, tolerance)
        assert np.abs(host(stepper.output).astype(float) - exact[0]).max() <= tolerance
        again = formula.step(weights, host(xs[0]), *exact_state(stepper.state))
        stepper.step(xs[0])  # the step before cleared the flags
        assert_near(stepper.state, again, tolerance)
    pool = StatePool(cell, 2 * B)
    slots = pool.allocate(2 * B)[::-2]
    pool.write(slots, state)
    pool.step(xs[0], slots)
    out = pool.step(xs[1], slots, is_first=cell.xp.asarray(first))
    assert_near(pool.read(slots), zeros, tolerance)
    assert np.abs(host(out).astype(float) - zeros[0]).max() <= tolerance


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("name", PROJECTIONS)
def test_cell_stepper_and_pool_match_formula(name, dtype, stepping):
    weights = LSTMWeights.random(I, N, seed=0, dtype=dtype, **ZONEOUT, **PROJECTIONS[name])
    check_all_ways(LSTMCell(weights, backend=stepping), 2 * tolerances.of(dtype, 100))


@needs_cuda
@pytest.mark.parametrize("projects", [False, True])
@pytest.mark.parametrize(("kernel", "dtype", "precision"), KERNELS)
def test_all_kernels_match_the_formula(kernel, dtype, precision, projects, monkeypatch):
    from fusedlstm.backends.cuda import tiles

    monkeypatch.setattr(tiles.Tile, "projects", lambda *_: projects)
    weights = LSTMWeights.random(I, N, seed=0, dtype=dtype, proj_size=4, proj_clip=0.05, **ZONEOUT)
    tolerance = 3e-3 if precision == "high" else 3 * tolerances.of(dtype, 100)
    check_all_ways(LSTMCell(weights, backend="cuda", precision=precision, kernel=kernel), tolerance)


@needs_cuda
@pytest.mark.parametrize(("kernel", "dtype", "precision"), KERNELS)
def test_kernels_match_without_a_projection(kernel, dtype, precision):
    weights = LSTMWeights.random(I, N, seed=0, dtype=dtype, peephole=True, **ZONEOUT)
    tolerance = 3e-3 if precision == "high" else 3 * tolerances.of(dtype, 100)
    check_all_ways(LSTMCell(weights, backend="cuda", precision=precision, kernel=kernel), tolerance)


@pytest.mark.parametrize("residual", [False, True])
def test_layers_and_sequences_match_the_formula(residual, stepping):
    """Each layer's h' goes to the next. A residual layer adds its input to the output, not to the state."""
    T, rng = 3, np.random.default_rng(1)
    layers = [LSTMWeights.random(N, N, seed=k, dtype="float64", zoneout_c=0.1 * k, zoneout_h=0.2) for k in range(3)]
    lstm = LSTM(StackedWeights(layers, residual=residual), backend=stepping)
    xs = lstm.asarray(rng.normal(size=(T, B, N)))
    states = [(np.zeros((B, N)), np.zeros((B, N))) for _ in layers]
    outputs, finals = lstm(xs)
    stepper, pool = lstm.stepper(B), StatePool(lstm, B)
    slots = pool.allocate(B)
    for t, x in enumerate(host(xs)):
        output, states = formula.step_layers(lstm.weights, x, states)
        for got in (outputs[t], stepper.step(xs[t]), pool.step(xs[t], slots)):
            assert np.abs(host(got) - output).max() <= 1e-13
    for final, exact in zip(finals, states, strict=True):
        assert_near(final, exact, 1e-13)


def test_sequences_of_different_lengths_match(backend):
    """Rows that have ended keep their state. Reset rows keep a part of the state they are reset to."""
    T, rng = 4, np.random.default_rng(2)
    weights = LSTMWeights.random(I, N, seed=0, dtype="float64", proj_size=4, **ZONEOUT)
    lstm = LSTM(weights, backend=backend)
    xs, lengths = lstm.asarray(rng.normal(size=(T, B, I))), [4, 1, 3, 2, 4]
    first = np.zeros((T, B), bool)
    first[2, 0] = first[1, 4] = True
    start = random_state(LSTMCell(weights, backend=backend), B, rng)
    outputs, (final,) = lstm(xs, (start,), lengths=lengths, is_first=first)
    h, c = exact_state(start)
    for t, x in enumerate(host(xs)):
        h_new, c_new = formula.step(weights, x, h, c, first[t])
        runs = (t < np.array(lengths))[:, None]
        h, c = np.where(runs, h_new, h), np.where(runs, c_new, c)
        assert np.abs(host(outputs[t]) - np.where(runs, h_new, 0)).max() <= 1e-13
    assert_near(final, (h, c), 1e-13)


@pytest.mark.parametrize("part", [0.0, 1.0])
def test_zoneout_of_0_or_1_is_exact(part, backend):
    options = {"zoneout_c": part, "zoneout_h": part}
    weights = LSTMWeights.random(I, N, seed=0, dtype="float64", **options)
    cell = LSTMCell(weights, backend=backend)
    x, state = random_inputs(cell, B)
    got = cell(x, state)
    plain = LSTMCell(LSTMWeights.random(I, N, seed=0, dtype="float64"), backend=backend)(x, state)
    wanted = state if part else plain
    assert host(got.h).tobytes() == host(wanted.h).tobytes()
    assert host(got.c).tobytes() == host(wanted.c).tobytes()


def test_pointwise_keeps_only_c(backend):
    """lstm_pointwise can't keep a part of h, as it doesn't get the old h."""
    rng, cell = np.random.default_rng(0), LSTMCell(LSTMWeights.random(1, 1, seed=0, dtype="float64"), backend=backend)
    gates, c = cell.asarray(rng.normal(size=(B, 4 * N))), cell.asarray(rng.normal(size=(B, N)))
    plain, kept = lstm_pointwise(gates, c), lstm_pointwise(gates, c, zoneout_c=0.25)
    assert host(kept.h).tobytes() == host(plain.h).tobytes()
    assert np.abs(host(kept.c) - (0.25 * host(c) + 0.75 * host(plain.c))).max() <= 1e-15
    with pytest.raises(TypeError, match="zoneout_h"):
        lstm_pointwise(gates, c, zoneout_h=0.1)


def test_out_may_be_the_state(backend):
    weights = LSTMWeights.random(I, N, seed=0, dtype="float64", **ZONEOUT)
    cell = LSTMCell(weights, backend=backend)
    x, state = random_inputs(cell, B)
    wanted = cell(x, state).to_numpy()
    out = LSTMState(h=cell.zero_state(B).h, c=state.c)
    cell(x, state, out=out)
    assert host(out.c).tobytes() == wanted.c.tobytes()
    assert host(out.h).tobytes() == wanted.h.tobytes()


def test_a_reset_leaves_the_callers_state(backend):
    """Zoneout reads the old h with its reset rows replaced, which must happen in a copy."""
    cell = LSTMCell(LSTMWeights.random(I, N, seed=0, **ZONEOUT), backend=backend)
    x, state = random_inputs(cell, B)
    before = [host(array).copy() for array in (state.h, state.c)]
    cell(x, state, is_first=[True] * B)
    for array, old in zip((state.h, state.c), before, strict=True):
        np.testing.assert_array_equal(host(array), old)
