"""Weights are checked once, copied and sealed."""

import pickle

import ml_dtypes
import numpy as np
import pytest

from fusedlstm import LSTMWeights
from fusedlstm.weights import DEFAULTS

I, N, P = 3, 4, 2
DTYPES = ["float64", "float32", "float16", "bfloat16"]


def arrays(dtype="float32"):
    rng = np.random.default_rng(0)
    shapes = {
        "weight_ih": (4 * N, I),
        "weight_hh": (4 * N, P),
        "bias": (4 * N,),
        "peephole": (3, N),
        "weight_hr": (P, N),
    }
    dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def test_sizes_and_options():
    weights = LSTMWeights(**arrays(), cell_clip=3, proj_clip=np.float32(0.5), activation="relu")
    assert (weights.input_size, weights.hidden_size, weights.proj_size, weights.output_size) == (I, N, P, P)
    assert weights.options() == DEFAULTS | {
        "cell_clip": 3.0,
        "proj_clip": 0.5,
        "activation": "relu",
        "output_activation": None,
    }
    assert isinstance(weights.cell_clip, float)
    assert repr(weights) == (
        "LSTMWeights(I=3, N=4, P=2, float32, bias, peephole, cell_clip=3.0, proj_clip=0.5, activation=relu)"
    )
    plain = LSTMWeights(np.zeros((16, I)), np.zeros((16, N)))
    assert (plain.proj_size, plain.output_size, plain.bias) == (None, N, None)


def test_functions():
    weights = LSTMWeights(
        **arrays(),
        activation=["leaky_relu", 0.1],
        output_activation="tanh",
        gate_activation=("hard_sigmoid", np.float32(0.25), 1),
        gate_clip=2,
        coupled_gate="forget",
    )
    assert weights.options() == DEFAULTS | {
        "cell_clip": None,
        "proj_clip": None,
        "activation": ("leaky_relu", 0.1),
        "output_activation": "tanh",
        "gate_activation": ("hard_sigmoid", 0.25, 1.0),
        "gate_clip": 2.0,
        "coupled_gate": "forget",
    }
    assert repr(weights) == (
        "LSTMWeights(I=3, N=4, P=2, float32, bias, peephole, activation=('leaky_relu', 0.1), output_activation=tanh, "
        "gate_activation=('hard_sigmoid', 0.25, 1.0), gate_clip=2.0, coupled_gate=forget)"
    )
    for copy in (pickle.loads(pickle.dumps(weights)), weights.astype("float64"), weights.astype("float32")):
        assert copy.options() == weights.options()
        assert copy.functions == weights.functions
        assert hash(copy.functions) == hash(weights.functions)


def test_equal_functions_are_stated_once():
    for weights in (
        LSTMWeights(**arrays(), activation="relu", output_activation="relu"),
        LSTMWeights(**arrays(), activation="relu"),
    ):
        assert weights.output_activation is None
        assert (weights.functions.input, weights.functions.output) == ("relu", "relu")
    again = LSTMWeights(**arrays(), activation=("elu", 1.0), output_activation="elu")
    assert (again.activation, again.output_activation) == ("elu", None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_are_sealed_copies(dtype):
    given = arrays(dtype)
    given["weight_ih"] = np.asfortranarray(given["weight_ih"])
    weights = LSTMWeights(**given)
    for name, array in weights.arrays().items():
        np.testing.assert_array_equal(array, given[name])
        assert array.flags.c_contiguous
        assert not array.flags.writeable
        assert not np.shares_memory(array, given[name])
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.setflags(write=True)
    with pytest.raises(AttributeError):
        weights.bias = None


def test_pickle_is_sealed_too():
    weights = LSTMWeights(**arrays("bfloat16"), cell_clip=1.0)
    copy = pickle.loads(pickle.dumps(weights))
    assert copy.options() == weights.options()
    for name, array in copy.arrays().items():
        np.testing.assert_array_equal(array, getattr(weights, name))
        assert not array.flags.writeable


def test_astype():
    weights = LSTMWeights(**arrays("float64"), cell_clip=0.0)
    half = weights.astype("float16")
    assert half.dtype == np.float16
    assert half.cell_clip == 0.0
    np.testing.assert_array_equal(half.peephole, weights.peephole.astype(np.float16))
    assert weights.astype(np.float64) is weights
    with pytest.raises(TypeError, match="dtype: wanted one of float64, float32, float16, bfloat16; got int32"):
        weights.astype("int32")


def replaced(**changes):
    return {**arrays(), **changes}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (replaced(weight_ih=None), TypeError, "weight_ih: wanted an array; got None"),
        (replaced(weight_ih=np.zeros((15, I), "f4")), ValueError, r"weight_ih: wanted shape \(4N, I\).*\(15, 3\)"),
        (replaced(weight_ih=np.zeros((0, I), "f4")), ValueError, r"weight_ih: wanted shape \(4N, I\)"),
        (replaced(weight_ih=np.zeros(16, "f4")), ValueError, r"weight_ih: .*shape \(16,\)"),
        (replaced(weight_ih=np.zeros((16, I), int)), TypeError, "weight_ih: wanted dtype float64.*got dtype int64"),
        (replaced(weight_ih=np.zeros((16, I), complex)), TypeError, "weight_ih: .*complex128"),
        (replaced(weight_ih=np.zeros((16, I), ">f4")), TypeError, "weight_ih: .*>f4"),
        (replaced(weight_ih=[["a"]]), TypeError, "weight_ih: wanted an array of numbers"),
        (replaced(weight_ih=[[1.0], [1.0, 2.0]]), TypeError, "weight_ih: .*equally long lists"),
        (replaced(weight_hh=np.zeros((16, P))), TypeError, "weight_hh: wanted dtype float32 .*got dtype float64"),
        (replaced(weight_hh=np.zeros((P, 16), "f4")), ValueError, r"weight_hh: wanted shape \(4N, P\) = \(16, 2\)"),
        (replaced(bias=np.zeros((16, 1), "f4")), ValueError, r"bias: wanted shape \(4N,\) = \(16,\)"),
        (replaced(peephole=np.zeros(12, "f4")), ValueError, r"peephole: wanted shape \(3, N\) = \(3, 4\)"),
        (replaced(weight_hr=np.zeros((N, P), "f4")), ValueError, r"weight_hr: wanted shape \(P, N\) = \(4, 4\)"),
        (replaced(weight_hr=np.zeros((0, N), "f4")), ValueError, "weight_hr"),
        (replaced(cell_clip=-1), ValueError, "cell_clip: wanted a number >= 0"),
        (replaced(cell_clip=float("nan")), ValueError, "cell_clip"),
        (replaced(cell_clip="3"), TypeError, "cell_clip: wanted a number, or None"),
        (replaced(cell_clip=True), TypeError, "cell_clip"),
        (replaced(cell_clip=-(10**400)), ValueError, "cell_clip"),
        (replaced(proj_clip=-0.5), ValueError, "proj_clip"),
        (
            replaced(weight_hr=None, weight_hh=np.zeros((16, 4), "f4"), proj_clip=1),
            ValueError,
            "proj_clip: .*weight_hr",
        ),
        (replaced(activation="Tanh"), ValueError, "^activation: wanted one of 'tanh', .*'linear', .*; got 'Tanh'"),
        (replaced(activation=None), ValueError, "^activation: wanted one of .*; got None"),
        (replaced(output_activation="gelu"), ValueError, "^output_activation: wanted one of .*; got 'gelu'"),
        (replaced(gate_activation=None), ValueError, "^gate_activation: wanted one of .*; got None"),
        (replaced(gate_activation="hard_sigmoid"), ValueError, "^gate_activation: .*Keras 3 means"),
        (replaced(gate_clip=-1), ValueError, "^gate_clip: wanted a number >= 0"),
        (replaced(gate_clip="1"), TypeError, "^gate_clip: wanted a number, or None"),
        (replaced(coupled_gate="f"), ValueError, "^coupled_gate: wanted one of 'input', 'forget'; got 'f'"),
        (replaced(zoneout_c=1.1), ValueError, "^zoneout_c: wanted a number from 0 to 1; got 1.1"),
        (replaced(zoneout_h=2), ValueError, "^zoneout_h: wanted a number from 0 to 1; got 2"),
        (replaced(zoneout_c=-0.1), ValueError, "^zoneout_c: wanted a number from 0 to 1; got -0.1"),
        (replaced(zoneout_c=float("nan")), ValueError, "^zoneout_c: wanted a finite number"),
        (replaced(zoneout_c=None), TypeError, "^zoneout_c: wanted a number; got None"),
        (replaced(coupled_gate=True), ValueError, "^coupled_gate: wanted one of 'input', 'forget'; got True"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        LSTMWeights(**arguments)


def test_options_are_keyword_only():
    with pytest.raises(TypeError):
        LSTMWeights(*arrays().values(), 3.0)


def test_random():
    weights = LSTMWeights.random(5, 100, seed=1, dtype="float64", peephole=True, proj_size=7, forget_bias=1.0)
    assert weights.output_size == 7
    bound = 1 / np.sqrt(100)
    for name, array in weights.arrays().items():
        centred = array - (1.0 if name == "bias" else 0.0) * np.repeat([0, 1, 0, 0], 100) if name == "bias" else array
        assert np.abs(centred).max() <= bound
        assert np.abs(centred).max() > 0.9 * bound
    again = LSTMWeights.random(5, 100, seed=1, dtype="float32", peephole=True, proj_size=7, forget_bias=1.0)
    np.testing.assert_array_equal(again.weight_hh, weights.weight_hh.astype(np.float32))
    other = LSTMWeights.random(5, 100, seed=2, dtype="float64")
    assert not np.array_equal(other.weight_ih, weights.weight_ih)
    assert (other.peephole, other.weight_hr) == (None, None)
    assert LSTMWeights.random(0, 1, seed=0, bias=False, dtype="bfloat16").bias is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_size": -1}, ValueError, "input_size: wanted at least 0"),
        ({"hidden_size": 0}, ValueError, "hidden_size: wanted at least 1"),
        ({"hidden_size": 1.0}, TypeError, "hidden_size: wanted an int; got float"),
        ({"proj_size": 0}, ValueError, "proj_size"),
        ({"bias": False, "forget_bias": 1.0}, ValueError, "forget_bias: wanted 0 without a bias"),
        ({"dtype": "float8"}, TypeError, "dtype"),
        ({"dtype": None}, TypeError, "dtype"),
        ({"activation": "gelu"}, ValueError, "activation"),
        ({"cell_clp": 1.0}, TypeError, r"LSTMWeights\.random\(\) got an unexpected keyword argument 'cell_clp'"),
        ({"weight_hr": 1.0}, TypeError, r"LSTMWeights\.random\(\) got an unexpected keyword argument"),
    ],
)
def test_random_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        LSTMWeights.random(**{"input_size": 3, "hidden_size": 4, "seed": 0, **arguments})


def test_random_needs_a_seed():
    with pytest.raises(TypeError, match="seed"):
        LSTMWeights.random(3, 4)
