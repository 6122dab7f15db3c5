"""One step on every backend: the formula, resets, out, strides and dtypes."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedlstm import LSTMCell, LSTMState, LSTMWeights
from fusedlstm.backends.numpy import formula
from fusedlstm.functions import ACTIVATIONS

from support import tolerances
from support.cells import host, random_inputs, random_state

DTYPES = ["float64", "float32", "float16", "bfloat16"]


def assert_is_formula(cell, got, x, state, **reset):
    weights = cell.weights
    arrays = {name: host(value) for name, value in reset.items() if name != "is_first"}
    h, c = formula.step(weights, host(x), host(state.h), host(state.c), reset.get("is_first"), **arrays)
    tolerance = tolerances.of(cell.dtype, weights.input_size + weights.output_size)
    got = got.to_numpy()
    assert got.h.dtype == cell.dtype
    assert got.c.dtype == (np.float32 if cell.dtype.itemsize == 2 else cell.dtype)
    for array, wanted in ((got.h, h), (got.c, c)):
        assert array.shape == wanted.shape
        assert array.flags.c_contiguous
        assert np.isfinite(array.astype(float)).all()
        scale = max(1.0, np.abs(wanted).max(initial=0))
        assert np.abs(array.astype(float) - wanted).max(initial=0) <= tolerance * scale


@settings(max_examples=60)
@given(
    B=st.integers(0, 5),
    I=st.integers(0, 9),
    N=st.integers(1, 9),
    P=st.none() | st.integers(1, 9),
    bias=st.booleans(),
    peephole=st.booleans(),
    cell_clip=st.none() | st.sampled_from([0.0, 0.3, 2.0]),
    proj_clip=st.none() | st.sampled_from([0.0, 0.1]),
    activation=st.sampled_from(ACTIVATIONS),
    dtype=st.sampled_from(DTYPES),
    reset=st.sampled_from(["no", "zero", "one row", "rows"]),
    seed=st.integers(0, 99),
)
def test_formula(
    backend_of_properties, B, I, N, P, bias, peephole, cell_clip, proj_clip, activation, dtype, reset, seed
):
    weights = LSTMWeights.random(
        I,
        N,
        proj_size=P,
        bias=bias,
        peephole=peephole,
        cell_clip=cell_clip,
        proj_clip=proj_clip if P else None,
        activation=activation,
        forget_bias=0.5 if bias else 0.0,
        dtype=dtype,
        seed=seed,
    )
    cell = LSTMCell(weights, backend=backend_of_properties)
    x, state = random_inputs(cell, B, seed)
    options = {}
    if reset != "no":
        options["is_first"] = np.random.default_rng(seed).random(B) < 0.5
    if reset in ("one row", "rows"):
        options["reset_to"] = random_state(cell, 1 if reset == "one row" else B, np.random.default_rng(seed + 1))
    got = cell(x, state, **options)
    to = options.pop("reset_to", None)
    arrays = {} if to is None else {"reset_h": to.h, "reset_c": to.c}
    assert_is_formula(cell, got, x, state, **options, **arrays)


def assert_near_formula(weights, B, backend, seed=0, is_first=None, rows=None):
    cell = LSTMCell(weights, backend=backend)
    x, state = random_inputs(cell, B, seed)
    reset_to = None if rows is None else random_state(cell, rows, np.random.default_rng(seed + 1))
    got = cell(x, state, is_first=is_first, reset_to=reset_to).to_numpy()
    to = () if reset_to is None else (host(reset_to.h), host(reset_to.c))
    wanted = formula.step(weights, host(x), host(state.h), host(state.c), is_first, *to)
    tolerance = tolerances.of(weights.dtype, weights.input_size + weights.output_size)
    for a, b in zip((got.h, got.c), wanted, strict=True):
        assert np.isfinite(a.astype(float)).all()
        assert (np.abs(a.astype(float) - b) <= tolerance * np.maximum(1, np.abs(b))).all()


@settings(max_examples=40)
@given(
    B=st.integers(0, 70),
    I=st.integers(0, 70),
    N=st.integers(1, 140),
    P=st.none() | st.integers(1, 140),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_any_size(backend_of_properties, B, I, N, P, dtype, seed):
    weights = LSTMWeights.random(I, N, proj_size=P, peephole=True, dtype=dtype, seed=seed)
    assert_near_formula(weights, B, backend_of_properties, seed)


@pytest.mark.parametrize(
    ("B", "I", "N", "P"), [(3, 130, 257, None), (65, 1, 129, 3), (257, 7, 33, 64), (2, 5, 600, None)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_larger_sizes(B, I, N, P, dtype, backend):
    """Each case exceeds every tile, in rows or in units."""
    assert_near_formula(LSTMWeights.random(I, N, proj_size=P, peephole=True, dtype=dtype, seed=1), B, backend)


# One below, at and above the edges: vectors of 4 units, 128 threads of 1 or 4 units, 256 threads of one row each.
EDGES = [
    (255, 4),
    (256, 4),
    (257, 4),
    (257, 5),
    (8, 3),
    (9, 1),
    (1, 127),
    (2, 128),
    (3, 129),
    (1, 511),
    (2, 512),
    (3, 513),
]
OPTIONS = {
    "plain": {},
    "everything": {"peephole": True, "cell_clip": 0.4, "proj_size": 3, "proj_clip": 0.1, "activation": "softsign"},
    "reset": {"peephole": True, "activation": "elu"},
    "reset to rows": {"cell_clip": 0.4, "bias": False},
}


ROWS_TO_RESET_TO = {"everything": "1", "reset to rows": "B"}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("B", "N"), EDGES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_edges_of_vectors_and_blocks(B, N, options, dtype, backend):
    weights = LSTMWeights.random(2, N, dtype=dtype, seed=0, **OPTIONS[options])
    resets = {}
    if options != "plain":
        resets["is_first"] = np.arange(B) % 3 == 0
    if options in ROWS_TO_RESET_TO:
        resets["rows"] = B if ROWS_TO_RESET_TO[options] == "B" else 1
    assert_near_formula(weights, B, backend, **resets)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_call_gives_the_same_bits(dtype, backend):
    cell = LSTMCell(LSTMWeights.random(20, 30, proj_size=10, dtype=dtype, seed=0), backend=backend)
    x, state = random_inputs(cell, 17)
    first, again = cell(x, state).to_numpy(), cell(x, state).to_numpy()
    assert first.h.tobytes() == again.h.tobytes()
    assert first.c.tobytes() == again.c.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("proj_size", [None, 3])
@pytest.mark.parametrize("in_place", [False, True])
def test_out_equals_the_returned_state(dtype, proj_size, in_place, backend):
    cell = LSTMCell(LSTMWeights.random(6, 8, proj_size=proj_size, peephole=True, dtype=dtype, seed=0), backend=backend)
    x, state = random_inputs(cell, 5)
    wanted = cell(x, state).to_numpy()
    out = cell.zero_state(5)
    out.h[...], out.c[...] = np.nan, np.nan
    if in_place:
        out = LSTMState(h=out.h, c=state.c)
    assert cell(x, state, out=out) is out
    np.testing.assert_array_equal(host(out.h), wanted.h)
    np.testing.assert_array_equal(host(out.c), wanted.c)


def test_out_with_resets_in_place(backend):
    cell = LSTMCell(LSTMWeights.random(6, 8, dtype="float64", seed=0), backend=backend)
    x, state = random_inputs(cell, 5)
    reset_to = random_state(cell, 1, np.random.default_rng(9))
    first = [True, False, True, False, False]
    wanted = cell(x, state, is_first=first, reset_to=reset_to).to_numpy()
    out = LSTMState(h=cell.zero_state(5).h, c=state.c)
    cell(x, state, is_first=first, reset_to=reset_to, out=out)
    np.testing.assert_array_equal(host(out.h), wanted.h)
    np.testing.assert_array_equal(host(out.c), wanted.c)


def test_inputs_are_left_alone(backend):
    cell = LSTMCell(LSTMWeights.random(6, 8, peephole=True, seed=0), backend=backend)
    x, state = random_inputs(cell, 5)
    before = [host(a).copy() for a in (x, state.h, state.c)]
    cell(x, state, is_first=[True] * 5)
    for array, old in zip((x, state.h, state.c), before, strict=True):
        np.testing.assert_array_equal(host(array), old)


def test_alternating_states(backend):
    """Alternating between two states gives the numbers of fresh states."""
    cell = LSTMCell(LSTMWeights.random(4, 6, seed=0), backend=backend)
    xs = cell.asarray(np.random.default_rng(0).normal(size=(7, 3, 4)))
    fresh, now, then = cell.zero_state(3), cell.zero_state(3), cell.zero_state(3)
    for x in xs:
        fresh = cell(x, fresh)
        cell(x, now, out=then)
        now, then = then, now
    np.testing.assert_array_equal(host(now.h), host(fresh.h))
    np.testing.assert_array_equal(host(now.c), host(fresh.c))


def assert_equal_values(got, wanted):
    """Assert equality up to the order of sums, which cuBLAS may choose by the arrays' layout."""
    tolerance = 2 * tolerances.ONE_STEP[str(wanted.h.dtype)]
    for a, b in ((got.h, wanted.h), (got.c, wanted.c)):
        np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_any_strides(dtype, backend):
    cell = LSTMCell(LSTMWeights.random(6, 8, dtype=dtype, seed=0), backend=backend)
    B, T = 5, 4
    xs = cell.asarray(np.random.default_rng(0).normal(size=(B, T, 6)))
    _, state = random_inputs(cell, B)
    contiguous = cell.asarray(host(xs)[:, 2].copy())
    wanted = cell(contiguous, state).to_numpy()
    wide = cell.asarray(np.zeros((B, 6 * 3)))
    wide[:, ::3] = contiguous
    turned = cell.xp.ascontiguousarray(contiguous.T)
    padded = LSTMState(h=state.h, c=cell.xp.concatenate([state.c, state.c], axis=1)[:, :8])
    offset = cell.xp.concatenate([state.c[:, :1], state.c], axis=1)[:, 1:]  # not aligned to a vector
    backwards = LSTMState(h=state.h[::-1].copy()[::-1], c=state.c[:, ::-1].copy()[:, ::-1])
    for x, s in (
        (xs[:, 2], state),
        (wide[:, ::3], state),
        (turned.T, state),
        (contiguous[::-1].copy()[::-1], state),
        (contiguous, padded),
        (contiguous, LSTMState(h=state.h, c=offset)),
        (contiguous, backwards),
    ):
        assert_equal_values(cell(x, s).to_numpy(), wanted)
    one = cell.asarray(np.random.default_rng(1).normal(size=(1, 6)))
    broadcast = cell.xp.broadcast_to(one, (B, 6))
    assert_equal_values(cell(broadcast, state).to_numpy(), cell(one.repeat(B, axis=0), state).to_numpy())


def test_memory_mapped_inputs(tmp_path):
    """Arrays larger than memory can be stepped from a file."""
    cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend="numpy")
    xs = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    np.save(tmp_path / "xs.npy", xs)
    mapped = np.load(tmp_path / "xs.npy", mmap_mode="r")
    got = cell(mapped[1], cell.zero_state(5))
    np.testing.assert_array_equal(got.h, cell(xs[1], cell.zero_state(5)).h)
    assert type(got.h) is np.ndarray


# Resets.


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("to", ["zero", "one row", "rows"])
def test_a_reset_forgets_nan(bad, to, backend):
    cell = LSTMCell(LSTMWeights.random(3, 4, peephole=True, seed=0), backend=backend)
    x, state = random_inputs(cell, 3)
    reset_to = None if to == "zero" else random_state(cell, 1 if to == "one row" else 3, np.random.default_rng(5))
    poisoned = LSTMState(h=state.h.copy(), c=state.c.copy())
    poisoned.h[1], poisoned.c[1] = bad, bad
    first = [False, True, False]
    got = cell(x, poisoned, is_first=first, reset_to=reset_to).to_numpy()
    wanted = cell(x, state, is_first=first, reset_to=reset_to).to_numpy()
    assert np.isfinite(got.h).all()
    np.testing.assert_array_equal(got.h, wanted.h)
    np.testing.assert_array_equal(got.c, wanted.c)


def test_a_reset_row_is_a_fresh_sequence(backend):
    """is_first may be a list, a tuple, a host array or an array on the device."""
    cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend=backend)
    x, state = random_inputs(cell, 3)
    fresh, kept = cell(x, cell.zero_state(3)).to_numpy(), cell(x, state).to_numpy()
    first = [True, False, True]
    for mask in (first, np.array(first), cell.xp.asarray(first), tuple(first)):
        got = cell(x, state, is_first=mask).to_numpy()
        np.testing.assert_array_equal(got.h[[0, 2]], fresh.h[[0, 2]])
        np.testing.assert_allclose(got.h[1], kept.h[1], atol=1e-6)


def test_nan_neighbours_change_no_bit(backend):
    cell = LSTMCell(LSTMWeights.random(30, 40, seed=0), backend=backend)
    x, state = random_inputs(cell, 9)
    clean = cell(x, state).to_numpy()
    x[4], state.h[7], state.c[8] = np.nan, np.inf, np.nan
    got = cell(x, state).to_numpy()
    rows = [0, 1, 2, 3, 5, 6]
    assert got.h[rows].tobytes() == clean.h[rows].tobytes()
    assert got.c[rows].tobytes() == clean.c[rows].tobytes()
    assert np.isnan(got.h[4]).all()
    assert np.isnan(got.c[8]).all()


# Numerics.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_extreme_pre_activations(dtype, activation, backend, recwarn):
    """Values are accurate where functions saturate, without overflow or warnings."""
    values = [0.0, -0.0, 44.4, -44.4, 45, 88.8, -88.8, 104, -104, 1e4, -1e4]
    weights = LSTMWeights(np.ones((4, 1)), np.zeros((4, 1)), activation=activation).astype(dtype)
    cell = LSTMCell(weights, backend=backend)
    x = cell.asarray(np.array(values)[:, None])
    state = cell.zero_state(len(values))
    state.c[...] = 1
    got = cell(x, state).to_numpy()
    h, c = formula.step(weights, host(x), host(state.h), host(state.c))
    rounding = {"float64": 1e-15, "float32": 3e-7, "float16": 1e-3, "bfloat16": 8e-3}[dtype]
    np.testing.assert_allclose(got.c.astype(float), c, rtol=2e-6 if dtype != "float64" else 4e-15, atol=1e-35)
    finite = np.abs(h) < 6e4 if dtype == "float16" else slice(None)
    np.testing.assert_allclose(got.h.astype(float)[finite], h[finite], rtol=rounding, atol=rounding * 1e-3)
    assert not recwarn.list


def test_c_accumulates_small_increments(backend):
    """Take 10,000 steps whose increment is below bfloat16's resolution of c."""
    N = 1
    weights = LSTMWeights(
        np.zeros((4, 1)), np.zeros((4, N)), np.array([-5.0, 100.0, 100.0, 0.0]), activation="tanh"
    ).astype("bfloat16")
    cell = LSTMCell(weights, backend=backend)
    steps, x, state = 10_000, cell.asarray([[0.0]]), cell.zero_state(1)
    for _ in range(steps):
        state = cell(x, state)
    wanted = steps * formula.apply("sigmoid", -5.0)
    assert abs(float(state.to_numpy().c[0, 0]) - wanted) < 1e-3 * wanted


def test_bfloat16_states_have_their_dtypes(backend):
    cell = LSTMCell(LSTMWeights.random(3, 4, dtype="bfloat16", seed=0), backend=backend)
    assert cell.dtype == ml_dtypes.bfloat16
    state = cell.zero_state(2)
    assert (state.h.dtype, state.c.dtype) == (ml_dtypes.bfloat16, np.float32)


def test_high_precision_is_near(backend):
    """On a GPU, "high" is TF32, with ten bits of mantissa. On NumPy it changes nothing."""
    weights = LSTMWeights.random(64, 64, seed=0)
    exact, fast = LSTMCell(weights, backend=backend), LSTMCell(weights, backend=backend, precision="high")
    x, state = random_inputs(exact, 8)
    np.testing.assert_allclose(fast(x, state).to_numpy().h, exact(x, state).to_numpy().h, atol=1e-3)
