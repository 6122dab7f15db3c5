"""Read and write each layout, and compare every block."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusedlstm import LSTMWeights
from fusedlstm.convert.layout import Layout, each
from fusedlstm.convert.reading import read
from fusedlstm.convert.writing import refuse, write

from support.layouts import LAYOUTS

I, N, P = 3, 4, 2
DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


def bits(array):
    return None if array is None else (array.dtype, array.shape, array.tobytes())


def cell(layout, dtype=np.float32, zeros=(), **options):
    """Return random weights that fit the layout, with zeros in the block of a coupled gate.

    Some elements of the bias become 0.0 or -0.0.
    """
    options = {"peephole": bool(layout.peephole), "proj_size": P if layout.weight_hr else None} | options
    weights = LSTMWeights.random(I, N, seed=0, dtype=dtype, **options)
    arrays = {name: np.array(array) for name, array in weights.arrays().items()}
    for k, zero in zeros if "bias" in arrays else ():
        arrays["bias"][k] = zero
    for gate in set("ifgo") - set(layout.gates):
        for name in {"weight_ih", "weight_hh", "bias"} & set(arrays):
            arrays[name].reshape(4, N, -1)["ifgo".index(gate)] = 0
        if "peephole" in arrays:
            arrays["peephole"]["ifo".index(gate)] = 0
    return LSTMWeights(**arrays)


def assert_equal(weights, wanted):
    for part in ("weight_ih", "weight_hh", "bias", "peephole", "weight_hr"):
        assert bits(getattr(weights, part)) == bits(getattr(wanted, part)), part


@pytest.mark.parametrize("name", LAYOUTS)
@given(data=st.data())
def test_layout_round_trip(name, data):
    """Layouts without a forget bias keep every bit, signs of zeros included."""
    layout = LAYOUTS[name]
    weights = cell(
        layout,
        dtype=data.draw(st.sampled_from(DTYPES)),
        peephole=bool(layout.peephole) and data.draw(st.booleans()),
        proj_size=data.draw(st.sampled_from([None, 1, 5])) if layout.weight_hr else None,
        bias=layout.has_bias or data.draw(st.booleans()),
        zeros=data.draw(st.lists(st.tuples(st.integers(0, 4 * N - 1), st.sampled_from([0.0, -0.0])))),
    )
    arrays = write(layout, weights, forget_bias=0.0)
    assert all(array.flags.c_contiguous for array in arrays.values())
    assert_equal(LSTMWeights(**read(layout, "arrays", arrays, forget_bias=0.0)), weights)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_allow_no_inputs(name):
    """I = 0 is allowed."""
    layout = LAYOUTS[name]
    peepholes = np.ones((3, N), np.float32) if layout.peephole else None
    weights = LSTMWeights(np.ones((16, 0), "f"), np.ones((16, N), "f"), np.ones(16, "f"), peepholes)
    again = LSTMWeights(**read(layout, "arrays", write(layout, weights, forget_bias=0.0), forget_bias=0.0))
    assert (again.input_size, again.hidden_size) == (0, N)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if LAYOUTS[name].forget_bias])
def test_forget_bias_is_added_and_removed(name):
    """Reading adds the system's forget bias to ours, and writing subtracts it, up to rounding."""
    layout = LAYOUTS[name]
    weights = cell(layout)
    arrays = write(layout, weights)
    again = LSTMWeights(**read(layout, "arrays", arrays))
    np.testing.assert_allclose(again.bias, weights.bias, rtol=0, atol=np.finfo(np.float32).eps)
    added = read(layout, "arrays", arrays)["bias"] - read(layout, "arrays", arrays, forget_bias=0.0)["bias"]
    np.testing.assert_allclose(added.reshape(4, N), np.repeat([[0], [1], [0], [0]], N, 1), rtol=0, atol=1e-6)


def test_missing_bias_is_zeros_or_forget_bias():
    """A missing bias becomes zeros if the system always has one, and the forget bias if it adds that."""
    weights = LSTMWeights.random(I, N, seed=0, bias=False)
    assert "bias" not in write(LAYOUTS["keras"], weights)
    assert not write(LAYOUTS["haiku"], weights, forget_bias=0.0)["b"].any()
    layout = Layout(gates="ifgo", columns=True, weight_ih="kernel", forget_bias=0.5)
    bias = read(layout, "arrays", {"kernel": np.ones((5, 16))})["bias"]
    np.testing.assert_array_equal(bias, [0] * N + [0.5] * N + [0] * 2 * N)


def test_order_of_rows_and_columns():
    """Check every element in each order of gates."""
    N = 2
    x, h = np.arange(8.0), 10 + np.arange(16.0).reshape(8, 2)  # rows of gates k, units n: 2k + n
    bias = {"bias": 50 + np.arange(8.0)}

    def ours(layout, **arrays):
        return read(layout, "arrays", arrays)

    rows = Layout("iofg", columns=False, weight_ih="x", weight_hh="h", biases=("bias",), peephole="p", peepholes="oif")
    got = ours(rows, x=x[:, None], h=h, p=np.arange(6.0), **bias)
    np.testing.assert_array_equal(got["weight_ih"].T, [[0, 1, 4, 5, 6, 7, 2, 3]])
    np.testing.assert_array_equal(got["weight_hh"], h[[0, 1, 4, 5, 6, 7, 2, 3]])
    np.testing.assert_array_equal(got["bias"], [50, 51, 54, 55, 56, 57, 52, 53])
    np.testing.assert_array_equal(got["peephole"], [[2, 3], [4, 5], [0, 1]])
    columns = Layout("igfo", columns=True, weight_ih="w", weight_hr="r")
    got = ours(columns, w=np.concatenate([x[None], h.T[:1]]), r=np.array([[1.0], [2.0]]))
    np.testing.assert_array_equal(got["weight_ih"].T, [[0, 1, 4, 5, 2, 3, 6, 7]])
    np.testing.assert_array_equal(got["weight_hh"].T, h.T[:1, [0, 1, 4, 5, 2, 3, 6, 7]])
    np.testing.assert_array_equal(got["weight_hr"], [[1, 2]])
    interleaved = Layout("gifo", columns=False, weight_ih="x", weight_hh="h", interleaved=True)
    got = ours(interleaved, x=x[:, None], h=h)
    np.testing.assert_array_equal(got["weight_ih"].T, [[1, 5, 2, 6, 0, 4, 3, 7]])
    apart = Layout("ogfi", columns=True, weight_ih=each("x{}", "0123"), weight_hh=each("h{}", "0123"))
    parts = {f"x{k}": x[None, 2 * k : 2 * k + 2] for k in range(4)}
    got = ours(apart, **parts, **{f"h{k}": h[2 * k : 2 * k + 2].T for k in range(4)})
    np.testing.assert_array_equal(got["weight_ih"].T, [[6, 7, 4, 5, 2, 3, 0, 1]])
    coupled = Layout("gfo", columns=False, weight_ih="x", weight_hh="h", peephole=("", "p", "q"))
    got = ours(coupled, x=x[:6, None], h=h[:6], p=np.ones(N), q=np.full(N, 2.0))
    np.testing.assert_array_equal(got["weight_ih"].T, [[0, 0, 2, 3, 0, 1, 4, 5]])
    np.testing.assert_array_equal(got["peephole"], [[0, 0], [1, 1], [2, 2]])


@pytest.mark.parametrize(
    ("layout", "change", "error", "message"),
    [
        (
            "tf1",
            {"kernel": None},
            ValueError,
            "arrays: wanted an array named 'cell/kernel'; got bias, projection/kernel",
        ),
        ("tf1", {"kernel": np.ones((6, 18), "f")}, ValueError, r"cell/kernel: wanted shape \(I \+ P, 4N\); got"),
        ("tf1", {"kernel": np.ones((1, 16), "f")}, ValueError, r"cell/kernel: .* with at least P = 2 rows for h"),
        ("tf1", {"bias": np.ones(15, "f")}, ValueError, r"cell/bias: wanted shape \(4N,\) = \(16,\); got"),
        ("tf1", {"bias": np.ones(16)}, TypeError, r"cell/bias: wanted dtype float32 \(that of cell/kernel\); got"),
        ("tf1", {"bias": None}, ValueError, "arrays: wanted an array named 'cell/bias'"),
        ("tf1", {"w_f_diag": None}, ValueError, "all of cell/w_i_diag, .*; got no cell/w_f_diag"),
        ("tf1", {"w_f_diag": np.ones(3, "f")}, ValueError, r"cell/w_f_diag: wanted shape \(N,\) = \(4,\)"),
        ("tf1", {"projection/kernel": np.ones((3, 2), "f")}, ValueError, r"kernel: wanted shape \(N, P\) = \(4, 2\)"),
        ("tf1", {"projection/kernel": np.ones(3, "f")}, ValueError, r"kernel: wanted shape \(N, P\); got shape \(3,\)"),
        ("torch", {"weight_ih": np.ones((15, 3), "f")}, ValueError, r"weight_ih: wanted shape \(4N, I\); got"),
        ("torch", {"weight_hh": np.ones((16, 3), "f")}, ValueError, r"weight_hh: wanted shape \(4N, P\) = \(16, 2\)"),
        ("torch", {"bias_hh": None}, ValueError, "both biases or none; got cell/bias_ih, but cell/bias_hh is missing"),
        ("torch", {"bias_ih": None}, ValueError, "both biases or none; got cell/bias_hh, but cell/bias_ih is missing"),
        ("flax", {"hi/bias": None}, ValueError, "arrays: wanted an array named 'cell/hi/bias'"),
        ("cudnn", {"b0": None}, ValueError, "arrays: wanted an array named 'cell/b0'"),
        ("flax", {"ig/kernel": np.ones((4, 4), "f")}, ValueError, r"cell/ig/kernel: wanted shape \(I, N\) = \(3, 4\)"),
        ("flax", {"hg/kernel": np.ones((4, 3), "f")}, ValueError, r"cell/hg/kernel: wanted shape \(P, N\) = \(4, 4\)"),
        ("flax", {"ii/kernel": np.ones((3, 0), "f")}, ValueError, r"cell/ii/kernel: wanted shape \(I, N\); got"),
        ("onnx", {"P": np.ones(11, "f")}, ValueError, r"cell/P: wanted shape \(3N,\) = \(12,\)"),
        ("onnx", {"P": np.ones((2, 4), "f")}, ValueError, r"cell/P: wanted shape \(3, N\) = \(3, 4\)"),
    ],
)
def test_bad_arrays(layout, change, error, message):
    layout = LAYOUTS[layout]
    arrays = write(layout, cell(layout)) | change
    arrays = {name: array for name, array in arrays.items() if array is not None}
    with pytest.raises(error, match=message):
        read(layout, "arrays", arrays, full_name="cell/{}".format)


@pytest.mark.parametrize(
    ("options", "places", "message"),
    [
        ({"peephole": True}, (), r"peephole: wanted None, as Keras supports nothing else; got shape \(3, 4\)"),
        ({"proj_size": 2}, ("peephole",), r"weight_hr: wanted None, as Keras"),
        ({"cell_clip": 0.0}, (), "cell_clip: wanted None, as Keras supports nothing else; got 0.0. It clips nothing"),
        ({"activation": "relu"}, (), "activation: wanted 'tanh', as Keras supports nothing else; got 'relu'"),
    ],
)
def test_refuse_names_the_option(options, places, message):
    weights = LSTMWeights.random(I, N, seed=0, **options)
    with pytest.raises(ValueError, match=message):
        refuse(weights, "Keras", places, {"cell_clip": "It clips nothing"})
    refuse(weights, "Keras", tuple("weight_hr" if name == "proj_size" else name for name in options))


def test_infinite_biases_sum_silently():
    """Their sum, NaN, raises no warning."""
    arrays = write(LAYOUTS["torch"], LSTMWeights.random(I, N, seed=0))
    arrays["bias_ih"] = np.full(4 * N, np.inf, np.float32)
    arrays["bias_hh"] = np.full(4 * N, -np.inf, np.float32)
    assert np.isnan(read(LAYOUTS["torch"], "arrays", arrays)["bias"]).all()
