"""Compare the readable formula with other systems' numbers, and NumPy's fast form with the formula."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedlstm import LSTM, LSTMCell, LSTMWeights, StackedWeights, StatePool, lstm_pointwise
from fusedlstm.backends.numpy import formula

from support import tolerances
from support.cells import FUNCTIONS, random_inputs, random_state
from support.oracle_cases import LAYERS, ROWS, Case, from_onnx, from_tf1, onnx_of, tf1_of
from support.oracle_files import Oracle, names

DTYPES = ["float64", "float32", "float16", "bfloat16"]

# Other systems.


def of_onnx(name, **options):
    """Return the case of a file from onnxruntime, with its attributes as our options."""
    return Case(f"onnx/{name}.npz", lambda oracle: dataclasses.replace(from_onnx(oracle), **options), onnx_of)


def residual_of_tf1(oracle):
    return from_tf1(oracle, residual=True)


FILES = [
    *(case for cases in ROWS.values() for case in cases),
    *(Case(name, from_tf1) for name in names("tf1/lstmcell_*.npz")),
    of_onnx("clip", gate_clip=0.5),
    of_onnx("input_forget", coupled_gate="forget"),
    of_onnx(
        "act_alpha",
        gate_activation=("hard_sigmoid", 0.3, 0.4),
        activation=("leaky_relu", 0.02),
        output_activation=("scaled_tanh", 0.8, 1.2),
    ),
    Case("tf1/dyn_residual.npz", residual_of_tf1, tf1_of),
    next(case for case in LAYERS["tf1"] if case.file == "tf1/dyn_multi3.npz"),
]


@pytest.mark.parametrize("case", FILES, ids=str)
def test_formula_gives_other_systems_numbers(case):
    oracle = Oracle(case.file)
    weights, sequence = case.weights(oracle), case.sequence(oracle)
    layers = weights if isinstance(weights, StackedWeights) else StackedWeights([weights])
    states = sequence.initial
    for x, wanted in zip(sequence.xs, sequence.outputs, strict=True):
        output, states = formula.step_layers(layers, x, states)
        assert np.abs(output - wanted).max() <= 3 * oracle.tolerance
    for (h, c), (wanted_h, wanted_c) in zip(states, sequence.finals, strict=True):
        assert np.abs(h - wanted_h).max() <= 3 * oracle.tolerance
        assert np.abs(c - wanted_c).max() <= 3 * oracle.tolerance


# The fast form.

FUNCTION = st.sampled_from(FUNCTIONS)
AFTER_THE_MATMUL = st.fixed_dictionaries(
    {
        "activation": FUNCTION,
        "output_activation": st.none() | FUNCTION,
        "cell_clip": st.none() | st.sampled_from([0.0, 0.7]),
    },
    optional={
        "gate_activation": FUNCTION,
        "gate_clip": st.sampled_from([0.0, 0.5, 2.0]),
        "coupled_gate": st.sampled_from(["input", "forget"]),
        "zoneout_c": st.sampled_from([0.0, 0.2, 1.0]),
    },
)


def merged(*parts):
    return {name: value for part in parts for name, value in part.items()}


ALL_OPTIONS = st.builds(
    merged,
    st.just({}) | st.fixed_dictionaries({"proj_size": st.integers(1, 9), "proj_clip": st.none() | st.just(0.1)}),
    st.just({"bias": False}) | st.fixed_dictionaries({"forget_bias": st.sampled_from([0.0, 1.0])}),
    st.fixed_dictionaries({"peephole": st.booleans(), "zoneout_h": st.sampled_from([0.0, 0.3, 1.0])}),
    AFTER_THE_MATMUL,
)


def assert_near(got, wanted, tolerance):
    """Assert equal shapes and close numbers. The tolerance is relative beyond 1, as some functions are unbounded."""
    assert got.shape == wanted.shape
    got, scale = got.astype(float), max(1.0, np.abs(wanted).max(initial=0))
    assert np.isfinite(got).all()
    assert np.abs(got - wanted).max(initial=0) <= tolerance * scale


def assert_state_near(got, wanted, tolerance):
    for array, exact in zip((got.h, got.c), wanted, strict=True):
        assert_near(array, exact, tolerance)


@settings(max_examples=200)
@given(
    B=st.integers(0, 4),
    N=st.integers(1, 9),
    bias=st.booleans(),
    peephole=st.booleans(),
    options=AFTER_THE_MATMUL,
    seed=st.integers(0, 99),
)
def test_fast_form_is_ulps_from_the_formula(B, N, bias, peephole, options, seed):
    """Without a matmul, which adds in another order, the two differ by a few ulps."""
    rng = np.random.default_rng(seed)
    gates, c = rng.normal(size=(B, 4 * N)), rng.normal(size=(B, N))
    arrays = {}
    if bias:
        arrays["bias"] = rng.normal(size=4 * N)
    if peephole:
        arrays["peephole"] = rng.normal(size=(3, N))
    got = lstm_pointwise(gates, c, **arrays, **options)
    weights = LSTMWeights(np.eye(4 * N), np.zeros((4 * N, N)), **arrays, **options)
    wanted = formula.step(weights, gates, np.zeros((B, N)), c)
    assert_state_near(got, wanted, 8 * np.finfo(float).eps)


@settings(max_examples=120)
@given(
    B=st.integers(0, 5),
    I=st.integers(0, 9),
    N=st.integers(1, 9),
    options=ALL_OPTIONS,
    reset=st.sampled_from(["no", "zero", "one row", "rows"]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_cell_computes_the_formula(B, I, N, options, reset, dtype, seed):
    cell = LSTMCell(LSTMWeights.random(I, N, dtype=dtype, seed=seed, **options), backend="numpy")
    x, state = random_inputs(cell, B, seed)
    rng, first, to, arrays = np.random.default_rng(seed), None, None, ()
    if reset != "no":
        first = rng.random(B) < 0.5
    if reset in ("one row", "rows"):
        to = random_state(cell, 1 if reset == "one row" else B, rng)
        arrays = to.h, to.c
    got = cell(x, state, is_first=first, reset_to=to)
    assert_state_near(got, formula.step(cell.weights, x, state.h, state.c, first, *arrays), tolerances.of(dtype, 100))


@settings(max_examples=60)
@given(
    B=st.integers(1, 5),
    residual=st.booleans(),
    options=ALL_OPTIONS,
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_layers_compute_the_formula(B, residual, options, dtype, seed):
    """Step two layers in an LSTM, a Stepper and a pool."""
    if "proj_size" in options:
        options = options | {"proj_size": 6}
    weights = StackedWeights.random(6, 6, 2, residual=residual, dtype=dtype, seed=seed, **options)
    lstm, rng = LSTM(weights, backend="numpy"), np.random.default_rng(seed)
    cell = LSTMCell(weights.layers[0], backend="numpy")
    x, states = lstm.asarray(rng.normal(size=(B, 6))), tuple(random_state(cell, B, rng) for _ in weights.layers)
    first = rng.random(B) < 0.5
    wanted, news = formula.step_layers(weights, x, [(s.h, s.c) for s in states], first)

    stepper, pool = lstm.stepper(B), StatePool(lstm, B)
    slots = pool.allocate(B)
    stepper.write(states)
    pool.write(slots, states)
    results = [
        lstm.step(x, states, is_first=first),
        (stepper.step(x, first), stepper.read()),
        (pool.step(x, slots, is_first=first), pool.read(slots)),
    ]
    tolerance = 4 * tolerances.of(dtype, 100)  # the upper layer reads what the lower one has rounded
    for output, after in results:
        assert_near(output, wanted, tolerance)
        for state, new in zip(after, news, strict=True):
            assert_state_near(state, new, tolerance)


@settings(max_examples=100)
@given(
    options=AFTER_THE_MATMUL,
    peephole=st.booleans(),
    values=st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 1e4, -1e4, 0.5]), min_size=5, max_size=5),
)
def test_fast_form_saturates_like_the_formula(options, peephole, values):
    """NaN and infinities appear where the formula has them, for NaN, infinite or huge gates and c."""
    gates, c = np.array([values[:4]]), np.array([values[4:]])
    arrays = {"peephole": np.array([[0.5], [-0.5], [0.5]])} if peephole else {}
    got = lstm_pointwise(gates, c, **arrays, **options)
    # Pass the gates as the bias, as a matmul would turn an infinity in one gate into NaN in others.
    weights = LSTMWeights(np.zeros((4, 0)), np.zeros((4, 1)), gates[0], **arrays, **options)
    wanted = formula.step(weights, np.zeros((1, 0)), np.zeros((1, 1)), c)
    for array, exact in zip((got.h, got.c), wanted, strict=True):
        np.testing.assert_allclose(array, exact, rtol=1e-12)


def test_reset_rows_lose_their_nan():
    weights = LSTMWeights.random(2, 3, seed=0, dtype="float64")
    h, c = np.full((2, 3), np.nan), np.full((2, 3), np.nan)
    got = formula.step(weights, np.ones((2, 2)), h, c, [True, False])
    zeros = np.zeros((1, 3))
    for array, wanted in zip(got, formula.step(weights, np.ones((1, 2)), zeros, zeros), strict=True):
        np.testing.assert_array_equal(array[:1], wanted)
        assert np.isnan(array[1]).all()
