"""lstm_pointwise: the step without its matmul, for callers who do their own."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedlstm import LSTMCell, LSTMState, LSTMWeights, lstm_pointwise
from fusedlstm.backends.numpy import fast_pointwise, formula
from fusedlstm.functions import ACTIVATIONS

from support import tolerances

DTYPES = ["float64", "float32", "float16", "bfloat16"]


def maker(backend, dtype):
    """Return a function that puts numbers on the backend, in the gates' dtype or in c's."""
    cell = LSTMCell(LSTMWeights.random(1, 1, dtype=dtype, seed=0), backend=backend)
    c_dtype = cell.zero_state(0).c.dtype
    return lambda values, c=False: cell.asarray(values, c_dtype if c else dtype)


@settings(max_examples=60)
@given(
    B=st.integers(0, 4),
    N=st.integers(1, 9),
    gates_h=st.booleans(),
    bias=st.booleans(),
    peephole=st.booleans(),
    cell_clip=st.none() | st.sampled_from([0.0, 0.4]),
    activation=st.sampled_from(ACTIVATIONS),
    reset=st.sampled_from(["no", "zero", "one row", "rows"]),
    dtype=st.sampled_from(DTYPES),
)
def test_formula(backend_of_properties, B, N, gates_h, bias, peephole, cell_clip, activation, reset, dtype):
    """The reference is a cell whose input is its gates: weight_ih is the identity, and weight_hh is zero."""
    make, rng = maker(backend_of_properties, dtype), np.random.default_rng(B + N)
    gates, c = make(rng.normal(size=(B, 4 * N))), make(rng.normal(size=(B, N)), c=True)
    options = {"cell_clip": cell_clip, "activation": activation}
    arrays = {}
    if gates_h:
        arrays["gates_h"] = make(rng.normal(size=(B, 4 * N)))
    if bias:
        arrays["bias"] = make(rng.normal(size=4 * N))
    if peephole:
        arrays["peephole"] = make(rng.normal(size=(3, N)))
    if reset in ("one row", "rows"):
        arrays["reset_c"] = make(rng.normal(size=(1 if reset == "one row" else B, N)), c=True)
    first = None if reset == "no" else rng.random(B) < 0.5
    got = lstm_pointwise(gates, c, is_first=first, **arrays, **options).to_numpy()

    host = {name: LSTMState(h=a, c=a).to_numpy().h.astype(float) for name, a in arrays.items()}
    weights = LSTMWeights(
        np.eye(4 * N),
        np.zeros((4 * N, N)),
        host.get("bias"),
        host.get("peephole"),
        cell_clip=cell_clip,
        activation=activation,
    )
    parts = LSTMState(h=gates, c=c).to_numpy()
    z = parts.h.astype(float)
    if gates_h:
        z = z + (host["gates_h"] if first is None else np.where(first[:, None], 0, host["gates_h"]))
    h, wanted_c = formula.step(weights, z, np.zeros((B, N)), parts.c, first, None, host.get("reset_c"))
    tolerance = tolerances.of(dtype, 100)
    assert got.h.dtype == parts.h.dtype
    assert got.c.dtype == parts.c.dtype
    for array, wanted in ((got.h, h), (got.c, wanted_c)):
        assert np.isfinite(array.astype(float)).all()
        scale = max(1.0, np.abs(wanted).max(initial=0))
        assert np.abs(array.astype(float) - wanted).max(initial=0) <= tolerance * scale


@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_the_cell(dtype, backend):
    """A matmul and lstm_pointwise together equal the cell."""
    weights = LSTMWeights.random(6, 8, peephole=True, cell_clip=0.5, dtype=dtype, seed=0)
    cell = LSTMCell(weights, backend=backend)
    make, rng = maker(backend, dtype), np.random.default_rng(0)
    x, h, c = make(rng.normal(size=(5, 6))), make(rng.uniform(-1, 1, (5, 8))), make(rng.normal(size=(5, 8)), c=True)
    on_device = {name: make(array) for name, array in weights.arrays().items()}
    got = lstm_pointwise(
        make(x @ on_device["weight_ih"].T),
        c,
        gates_h=make(h @ on_device["weight_hh"].T),
        bias=on_device["bias"],
        peephole=on_device["peephole"],
        cell_clip=0.5,
    ).to_numpy()
    wanted = cell(x, LSTMState(h=h, c=c)).to_numpy()
    tolerance = 8 * tolerances.of(dtype, 100)  # gates rounded to the dtype
    assert np.abs(got.h.astype(float) - wanted.h.astype(float)).max() <= tolerance
    assert np.abs(got.c.astype(float) - wanted.c.astype(float)).max() <= tolerance


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_in_place_and_strides(dtype, backend):
    make, rng = maker(backend, dtype), np.random.default_rng(0)
    wide, c = make(rng.normal(size=(3, 2, 20))), make(rng.normal(size=(3, 5)), c=True)
    gates = wide[:, 1]
    before = LSTMState(h=wide, c=c).to_numpy().h.copy()
    wanted = lstm_pointwise(gates.copy(), c).to_numpy()
    out = LSTMState(h=make(np.full((3, 5), np.nan)), c=c)
    assert lstm_pointwise(gates, c, out=out) is out
    got = out.to_numpy()
    np.testing.assert_array_equal(got.h, wanted.h)
    np.testing.assert_array_equal(got.c, wanted.c)
    np.testing.assert_array_equal(LSTMState(h=wide, c=c).to_numpy().h, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1, 2])
def test_every_argument_may_be_strided(offset, dtype, backend):
    """Rows are parts of wider, unaligned ones, or have columns that are not adjacent."""
    make, rng = maker(backend, dtype), np.random.default_rng(0)
    B, N = 5, 8
    first = [True, False, True, False, False]
    shapes = {"gates": (B, 4 * N), "gates_h": (B, 4 * N), "bias": (4 * N,), "peephole": (3, N)}
    values = {name: make(rng.normal(size=shape)) for name, shape in shapes.items()}
    values |= {name: make(rng.normal(size=(B, N)), c=True) for name in ("c", "reset_c")}
    wanted = lstm_pointwise(is_first=first, **values).to_numpy()

    def inside(array):
        """Return the same values in rows of a wider array."""
        like = make(np.zeros((*array.shape[:-1], array.shape[-1] + 7)), c=array.dtype == values["c"].dtype)
        view = like[..., offset : offset + array.shape[-1]]
        view[...] = array
        return view

    def spread(array):
        """Return the same values as every second element of a longer row."""
        like = make(np.zeros((*array.shape[:-1], 2 * array.shape[-1])), c=array.dtype == values["c"].dtype)
        like[..., ::2] = array
        return like[..., ::2]

    for laid in (inside, spread):
        for name in values:
            got = lstm_pointwise(is_first=first, **{**values, name: laid(values[name])}).to_numpy()
            np.testing.assert_array_equal(got.h, wanted.h, err_msg=name)
            np.testing.assert_array_equal(got.c, wanted.c, err_msg=name)
    mask = make(np.zeros(2 * B))
    mask[::2] = make(np.array(first))
    got = lstm_pointwise(is_first=(mask > 0)[::2], **values).to_numpy()
    np.testing.assert_array_equal(got.c, wanted.c)


def test_nan_of_reset_rows_is_dropped(backend):
    make = maker(backend, "float32")
    gates, c = make(np.ones((2, 8))), make(np.array([[1.0, 2.0], [np.nan, np.inf]]), c=True)
    gates_h = make(np.stack([np.ones(8), np.full(8, np.nan)]))
    got = lstm_pointwise(gates, c, gates_h=gates_h, is_first=[False, True]).to_numpy()
    wanted = lstm_pointwise(gates, make(np.zeros((2, 2)), c=True)).to_numpy()
    np.testing.assert_array_equal(got.h[1], wanted.h[1])


GATES, C = np.zeros((2, 8), np.float32), np.zeros((2, 2), np.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"gates": [[0.0] * 8] * 2},
            TypeError,
            "gates: wanted an array of NumPy or CuPy, or of a library with DLPack; got list",
        ),
        ({"gates": GATES.astype(int)}, TypeError, "gates: wanted dtype float64, .*got dtype int64"),
        ({"gates": GATES[:, :7]}, ValueError, r"gates: wanted shape \(B, 4N\); got shape \(2, 7\)"),
        ({"gates": GATES[0]}, ValueError, r"gates: .*shape \(8,\)"),
        ({"gates": GATES[:, :0]}, ValueError, "gates"),
        ({"c": C[:1]}, ValueError, r"c: wanted shape \(B, N\) = \(2, 2\); got shape \(1, 2\)"),
        ({"c": C.astype(float)}, TypeError, "c: wanted dtype float32 .*got dtype float64"),
        ({"c": None}, TypeError, r"c: wanted a numpy\.ndarray"),
        ({"c": C.tolist()}, TypeError, r"got list. Use numpy\.asarray\(\.\.\.\) to make one"),
        ({"c": C.astype(float)}, TypeError, r"c: wanted dtype float32 \(that of gates\)"),
        ({"out": LSTMState(h=np.zeros((2, 2), "f4"), c=GATES[:, :2])}, ValueError, "C-contiguous"),
        ({"gates_h": GATES[:1]}, ValueError, "gates_h: wanted shape"),
        ({"bias": np.zeros(2, "f4")}, ValueError, r"bias: wanted shape \(4N,\) = \(8,\)"),
        ({"peephole": np.zeros(6, "f4")}, ValueError, r"peephole: wanted shape \(3, N\)"),
        ({"cell_clip": -1.0}, ValueError, "cell_clip"),
        ({"activation": "gelu"}, ValueError, "activation"),
        ({"is_first": [1, 0]}, TypeError, "is_first: wanted booleans"),
        ({"reset_c": C}, ValueError, "reset_c: wanted None without is_first"),
        ({"reset_c": C[:, :1], "is_first": [True, False]}, ValueError, "reset_c: wanted shape"),
        ({"out": LSTMState(h=C.copy(), c=C[::-1])}, ValueError, r"out\.c: wanted a C-contiguous array"),
        ({"out": LSTMState(h=C, c=C.copy())}, ValueError, r"out\.h: wanted memory apart from c"),
        ({"out": C}, TypeError, "out: wanted an LSTMState"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        lstm_pointwise(**{"gates": GATES, "c": C, **arguments})


def test_a_mask_in_the_memory_of_out():
    out = LSTMState(h=np.zeros((2, 2), "f4"), c=np.zeros((2, 2), "f4"))
    mask = out.c.reshape(-1).view(bool)[:2]
    with pytest.raises(ValueError, match=r"out\.c: wanted memory apart from is_first"):
        lstm_pointwise(GATES, C, is_first=mask, out=out)


def test_sixteen_bit_c_is_refused():
    with pytest.raises(TypeError, match=r"c: wanted dtype float32 \(c's, with a 16-bit h\); got dtype float16"):
        lstm_pointwise(GATES.astype(np.float16), C.astype(np.float16))


@pytest.mark.parametrize("block", [1 << 20, 8], ids=["one block", "blocks"])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("zoneout", [0.0, 0.25])
@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_bound_steps_have_the_bits_of_run(block, clip, zoneout, peephole, activation, monkeypatch):
    monkeypatch.setattr(fast_pointwise, "_BLOCK", block)
    weights = LSTMWeights.random(1, 3, seed=0, peephole=peephole, activation=activation, zoneout_c=zoneout)
    pointwise = fast_pointwise.pointwise_of(weights.peephole, clip, weights.functions, np.dtype("f"))
    rng = np.random.default_rng(0)
    z, c = rng.normal(size=(4, 5, 3)).astype("f"), rng.normal(size=(5, 3)).astype("f")
    results = []
    for bind in (lambda blocks: functools.partial(pointwise.run, blocks), pointwise.bound):
        gates, m, c_new = z.copy(), np.zeros_like(c), np.zeros_like(c)
        bind(fast_pointwise.GatePlanes.blocks(gates))(c, m, c_new)
        results.append((m, c_new))
    np.testing.assert_array_equal(*results)
