"""Gradients of an LSTM's and a cell's vjp: torch.autograd and finite differences give the same ones."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights
from fusedlstm.backends.numpy import formula_vjp

from support.gradients import exact, in_torch, largest_difference, named, ours, seeds_of
from support.training_cases import CASES, random_case, random_states, small_case

CLOSE = 1e-10  # relative beyond 1, in float64


@settings(max_examples=150)
@given(case=CASES, checkpoint_every=st.none() | st.integers(1, 4))
def test_gradients_match_autograd(case, checkpoint_every):
    d_outputs, d_state = seeds_of(case)
    got = ours(case, d_outputs, d_state, checkpoint_every=checkpoint_every)
    assert largest_difference(got, exact(case, d_outputs, d_state)) <= CLOSE


@pytest.mark.parametrize("directions", [["forward"], ["both", "backward"]], ids=str)
@pytest.mark.parametrize("checkpoint_every", [None, 100])
def test_long_sequences(directions, checkpoint_every):
    """Products are over at most 64 steps."""
    case = random_case(3, 150, 2, directions, "mask", "rows", "zero")
    d_outputs, d_state = seeds_of(case)
    got = ours(case, d_outputs, d_state, checkpoint_every=checkpoint_every)
    assert largest_difference(got, exact(case, d_outputs, d_state)) <= CLOSE


def one_step(seed, reset):
    """Return a cell's weights, x, the old state, a gradient of the new one, is_first, and reset_to."""
    case = random_case(seed, 1, 3, ["forward"], None, reset, "zero")
    weights, rng = case.weights.layers[0], np.random.default_rng(seed)
    (d_state,) = random_states(rng, case.weights, 3)
    first, (to,) = case.options.get("is_first"), case.options.get("reset_to", (None,))
    return weights, case.xs[0], case.states[0], d_state, None if first is None else first[0], to


@pytest.mark.parametrize("reset", [None, "zero", "one row", "rows"])
def test_step_of_no_rows(reset):
    weights, x, state, d_state, first, to = one_step(0, reset)
    nothing, none = (LSTMState(h=each.h[:0], c=each.c[:0]) for each in (state, d_state))
    to = LSTMState(h=to.h[:0], c=to.c[:0]) if reset == "rows" else to
    first = None if first is None else first[:0]
    new, pullback = LSTMCell(weights, backend="numpy").vjp(x[:0], nothing, is_first=first, reset_to=to)
    assert new.h.shape == (0, weights.output_size)
    got = pullback(none)
    assert got.x.shape == (0, weights.input_size)
    assert all(array.shape == weights.arrays()[name].shape for name, array in got.weights.arrays().items())
    assert not any(array.any() for array in of_cell(got).values())


RESETS = st.sampled_from([None, "zero", "one row", "rows"])


@settings(max_examples=150)
@given(seed=st.integers(0, 1 << 30), reset=RESETS)
def test_derivative_of_the_formula(seed, reset):
    torch, torch_formula = in_torch()
    weights, x, state, d_state, first, to = one_step(seed, reset)
    arrays = () if to is None else (to.h, to.c)
    got = of_cell(formula_vjp.step(weights, x, state.h, state.c, d_state.h, d_state.c, first, *arrays))

    cell = torch_formula.Cell.of(weights, requires_grad=True)
    x = torch_formula.tensor(x, requires_grad=True)
    old, *resets = torch_formula.tensors_of([state] if to is None else [state, to], requires_grad=True)
    rows = torch.zeros(len(x), dtype=torch.bool) if first is None else torch.as_tensor(first)
    new = torch_formula.step(cell, x, *torch_formula.reset(old, rows, resets[0] if resets else None))
    wanted = [x, *old, *(part for pair in resets for part in pair), *cell.tensors().values()]
    d = [torch.from_numpy(part) for part in (d_state.h, d_state.c)]
    found = torch.autograd.grad(new, wanted, d, allow_unused=True, materialize_grads=True)
    exact = dict(zip(got, (gradient.numpy() for gradient in found), strict=True))
    assert largest_difference(got, exact) <= CLOSE


@settings(max_examples=100)
@given(seed=st.integers(0, 1 << 30), reset=RESETS)
def test_cell_computes_the_derivative(seed, reset):
    weights, x, state, d_state, first, to = one_step(seed, reset)
    cell = LSTMCell(weights, backend="numpy")
    new, pullback = cell.vjp(x, state, is_first=first, reset_to=to)
    called = cell(x, state, is_first=first, reset_to=to)
    np.testing.assert_array_equal(new.h, called.h)
    np.testing.assert_array_equal(new.c, called.c)
    got = pullback(d_state)
    arrays = () if to is None else (to.h, to.c)
    wanted = formula_vjp.step(weights, x, state.h, state.c, d_state.h, d_state.c, first, *arrays)
    assert largest_difference(of_cell(got), of_cell(wanted)) <= 1e-13


def of_cell(gradients):
    pairs = [[(each.h, each.c)] if each is not None else None for each in (gradients.state, gradients.reset_to)]
    return named(gradients.x, *pairs, [gradients.weights.arrays()])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"threads": 1}, {"threads": 2}, {"batch_invariant": True}], ids=str)
@pytest.mark.parametrize(("T", "B", "I", "N"), [(40, 1, 3, 8), (9, 3, 5, 7), (5, 64, 16, 128), (3, 200, 300, 96)])
def test_forward_has_the_bits_of_a_call(T, B, I, N, options, dtype):
    plain = LSTMWeights.random(I, N, seed=0, dtype=dtype)
    above = LSTMWeights.random(
        *(N, N),
        seed=1,
        dtype=dtype,
        proj_size=6,
        proj_clip=0.1,
        peephole=True,
        cell_clip=0.3,
        gate_activation="softsign",
    )
    lstm, rng = LSTM(StackedWeights([plain, above]), backend="numpy", **options), np.random.default_rng(0)
    xs = rng.normal(size=(T, B, I)).astype(dtype)
    calls = [{}, {"is_first": rng.random((T, B)) < 0.1}, {"lengths": rng.integers(0, T + 1, B)}, {"reverse": True}]
    for call in calls:
        for every in (None, 3):
            outputs, states, _ = lstm.vjp(xs, **call, checkpoint_every=every)
            wanted, finals = lstm(xs, **call)
            np.testing.assert_array_equal(outputs, wanted)
            for state, final in zip(states, finals, strict=True):
                np.testing.assert_array_equal(state.h, final.h)
                np.testing.assert_array_equal(state.c, final.c)


@settings(max_examples=40)
@given(case=CASES)
def test_finite_differences(case):
    """Along a random direction of all arguments at once, the loss changes as the gradients say."""
    case = dataclasses.replace(case, weights=without_corners(case.weights))
    d_outputs, d_state = seeds_of(case)
    got, rng = ours(case, d_outputs, d_state), np.random.default_rng(0)
    directions = {name: rng.normal(size=array.shape) for name, array in got.items()}
    eps = 1e-6
    ends = [loss_along(case, directions, sign * eps, d_outputs, d_state) for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * eps)
    wanted = sum((got[name] * directions[name]).sum() for name in got)
    assert abs(slope - wanted) <= 1e-5 * max(1, abs(wanted))


def without_corners(weights):
    """Return weights whose functions are smooth, and that clip nothing: a difference across a corner would be wrong."""
    functions = {"activation": "softsign", "gate_activation": "sigmoid", "output_activation": ("scaled_tanh", 0.9, 1.1)}
    clips = dict.fromkeys(("cell_clip", "gate_clip", "proj_clip"))
    layers = [dataclasses.replace(layer, **functions, **clips) for layer in weights.layers]
    return StackedWeights(layers, directions=weights.directions, residual=weights.residual)


def loss_along(case, directions, eps, d_outputs, d_state):
    def moved(name, array):
        return array + eps * directions[name]

    def moved_states(name, states):
        return tuple(
            LSTMState(h=moved(f"{name}[{k}].h", state.h), c=moved(f"{name}[{k}].c", state.c))
            for k, state in enumerate(states)
        )

    layers = [
        dataclasses.replace(layer, **{name: moved(f"weights[{k}].{name}", a) for name, a in layer.arrays().items()})
        for k, layer in enumerate(case.weights.layers)
    ]
    weights = StackedWeights(layers, directions=case.weights.directions, residual=case.weights.residual)
    options = dict(case.options)
    if "reset_to" in options:
        options["reset_to"] = moved_states("reset_to", options["reset_to"])
    outputs, finals = LSTM(weights, backend="numpy")(
        moved("xs", case.xs), moved_states("state", case.states), **options
    )
    parts = [(outputs * d_outputs).sum()]
    parts += [(final.h * d.h).sum() + (final.c * d.c).sum() for final, d in zip(finals, d_state, strict=True)]
    return sum(parts)


@pytest.mark.parametrize("options", [{}, {"peephole": True, "cell_clip": 1.0, "proj_size": 20}], ids=str)
def test_float32_is_close_to_float64(options):
    weights = StackedWeights.random(12, 24, 2, seed=0, dtype="float64", directions=["both", "forward"], **options)
    rng = np.random.default_rng(0)
    case = dataclasses.replace(small_case(), weights=weights, xs=rng.normal(size=(6, 3, 12)))
    case = dataclasses.replace(case, states=random_states(rng, weights, 3))
    d_outputs, d_state = seeds_of(case)
    wanted = ours(case, d_outputs, d_state)

    def narrow(states):
        return tuple(LSTMState(h=s.h.astype("float32"), c=s.c.astype("float32")) for s in states)

    case = dataclasses.replace(case, weights=weights.astype("float32"), xs=case.xs.astype("float32"))
    case = dataclasses.replace(case, states=narrow(case.states))
    got = ours(case, d_outputs.astype("float32"), narrow(d_state))
    assert {array.dtype.name for array in got.values()} == {"float32"}
    assert largest_difference(got, wanted) <= 3e-5
