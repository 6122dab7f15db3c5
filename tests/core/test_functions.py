"""The functions of a cell: how they are written, and what NumPy computes."""

import math
import re
import tracemalloc

import numpy as np
import pytest

from fusedlstm import functions
from fusedlstm.backends.numpy import formula
from fusedlstm.backends.numpy.functions import in_place
from fusedlstm.functions import Functions, check_function

from support.cells import FUNCTIONS, NAMES


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("tanh", "tanh"),
        (("tanh",), "tanh"),
        (["softplus"], "softplus"),
        (("elu", 1), "elu"),
        (("elu", 2), ("elu", 2.0)),
        (["affine", 1, np.float32(0.5)], ("affine", 1.0, 0.5)),
        (("leaky_relu", -0.0), ("leaky_relu", 0.0)),
        (("hard_sigmoid", 1 / 6, 0.5), ("hard_sigmoid", 1 / 6, 0.5)),
    ],
)
def test_check_function_normalizes(value, wanted):
    got = check_function("f", value)
    assert got == wanted
    assert repr(got) == repr(wanted), "numbers should be floats, without a negative zero"
    assert check_function("f", got) == got


def test_all_functions_are_tested():
    assert {function if isinstance(function, str) else function[0] for function in FUNCTIONS} == set(functions.NAMES)
    assert {name for name in FUNCTIONS if isinstance(name, str)} == set(functions.ACTIVATIONS)
    assert [check_function("f", function) for function in FUNCTIONS] == FUNCTIONS


ALL = "one of 'tanh', 'relu', 'sigmoid', 'softsign', 'elu' or ('elu', alpha), 'linear', 'softplus', "


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("gelu", ValueError, f"f: wanted {ALL}"),
        ((), ValueError, "f: wanted one of"),
        (math.tanh, ValueError, "f: wanted one of"),
        ((("tanh",),), ValueError, "f: wanted one of"),
        (("tanh", 1.0), ValueError, "f: wanted 'tanh'; got ('tanh', 1.0)"),
        (("elu", 1.0, 2.0), ValueError, "f: wanted 'elu' or ('elu', alpha); got ('elu', 1.0, 2.0)"),
        (
            "hard_sigmoid",
            ValueError,
            "f: wanted ('hard_sigmoid', alpha, beta); got 'hard_sigmoid'. Keras 3 means "
            '("hard_sigmoid", 1/6, 0.5), ONNX and Keras 2 ("hard_sigmoid", 0.2, 0.5)',
        ),
        (("hard_sigmoid",), ValueError, "Keras 3 means"),
        ("leaky_relu", ValueError, 'Keras 3 means ("leaky_relu", 0.2), ONNX and PyTorch ("leaky_relu", 0.01)'),
        ("thresholded_relu", ValueError, 'ONNX means ("thresholded_relu", 1.0), but onnxruntime takes 0.0'),
        ("affine", ValueError, "f: wanted ('affine', alpha, beta); got 'affine'"),
        (("hard_sigmoid", 0.2), ValueError, "f: wanted ('hard_sigmoid', alpha, beta); got ('hard_sigmoid', 0.2)"),
        (("leaky_relu", "0.1"), TypeError, "f[1]: wanted a number; got str"),
        (("leaky_relu", True), TypeError, "f[1]: wanted a number; got bool"),
        (("leaky_relu", 1j), TypeError, "f[1]: wanted a number; got complex"),
        (("affine", 1.0, math.nan), ValueError, "f[2]: wanted a finite number; got nan"),
        (("affine", math.inf, 1.0), ValueError, "f[1]: wanted a finite number; got inf"),
        (("affine", 1.0, -1e39), ValueError, "f[2]: wanted a number that float32 can hold; got -1e+39"),
    ],
)
def test_check_function_refuses(value, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check_function("f", value)


def test_functions_return_their_options():
    options = {
        "activation": ("affine", 1.0, 2.0),
        "output_activation": "elu",
        "gate_activation": "relu",
        "gate_clip": 0.0,
        "coupled_gate": "input",
        "zoneout_c": 0.1,
    }
    assert Functions.of(**options, zoneout_h=0.2).options() == Functions().options() | options
    assert Functions.of(activation="tanh") == Functions()
    assert Functions.of(activation="relu") == Functions("relu", "relu")


# The formulas in the docstring of `fusedlstm.functions`.
WRITTEN = {
    "tanh": math.tanh,
    "relu": lambda x: max(x, 0),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "softsign": lambda x: x / (1 + abs(x)),
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "linear": lambda x: x,
    "softplus": lambda x: math.log(1 + math.exp(x)),
    ("elu", 0.6): lambda x: x if x > 0 else 0.6 * (math.exp(x) - 1),
    ("affine", 0.7, 0.2): lambda x: 0.7 * x + 0.2,
    ("leaky_relu", 0.1): lambda x: x if x >= 0 else 0.1 * x,
    ("thresholded_relu", 0.137): lambda x: x if x > 0.137 else 0,
    ("scaled_tanh", 1.3, 0.6): lambda x: 1.3 * math.tanh(0.6 * x),
    ("hard_sigmoid", 0.2, 0.5): lambda x: max(0, min(1, 0.2 * x + 0.5)),
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=NAMES)
def test_formula_matches_written_functions(function):
    values = np.array([-3.0, -1.0, -0.1, 0.0, 0.1, 0.137, 0.2, 1.0, 3.0])
    wanted = [WRITTEN[function](x) for x in values.tolist()]
    np.testing.assert_allclose(formula.apply(function, values), wanted, rtol=1e-14, atol=1e-16)


SPECIAL = [
    0.0,
    -0.0,
    1e-30,
    -1e-30,
    1e-4,
    -1e-4,
    0.137,
    1.0,
    -1.0,
    2.5,
    -2.5,
    44.4,
    -44.4,
    88.8,
    -88.8,
    104.0,
    -104.0,
    1e4,
    -1e4,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=NAMES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_values(function, dtype):
    rng = np.random.default_rng(0)
    values = np.concatenate([SPECIAL, rng.normal(0, 1, 200), rng.normal(0, 10, 200)]).astype(dtype)
    with np.errstate(over="ignore"):
        wanted = formula.apply(function, values.astype(float))
    ulp = np.finfo(dtype).eps
    for z, out in arrangements(values):
        with np.errstate(over="ignore"):
            in_place(function, np.dtype(dtype))(z, out, np.full_like(z, np.nan))
        # Where terms cancel, the error is relative to the terms.
        assert (np.abs(out - wanted) <= ulp * (4 * np.abs(wanted) + 2 * np.abs(values) + 1)).all()


def arrangements(values):
    """Yield z and out, first in separate memory, then as the same array."""
    yield values.copy(), np.full_like(values, np.nan)
    both = values.copy()
    yield both, both


INFINITE = {
    "tanh": (1, -1),
    "relu": (math.inf, 0),
    "sigmoid": (1, 0),
    "softsign": (math.nan, math.nan),
    "elu": (math.inf, -1),
    "linear": (math.inf, -math.inf),
    "softplus": (math.inf, 0),
    "elu 0.6": (math.inf, -0.6),
    "affine 0.7 0.2": (math.inf, -math.inf),
    "leaky_relu 0.1": (math.inf, -math.inf),
    "thresholded_relu 0.137": (math.inf, 0),
    "scaled_tanh 1.3 0.6": (1.3, -1.3),
    "hard_sigmoid 0.2 0.5": (1, 0),
}


@pytest.mark.parametrize(("function", "name"), list(zip(FUNCTIONS, NAMES, strict=True)), ids=NAMES)
def test_nan_and_infinities(function, name):
    for z, out in arrangements(np.array([np.nan, np.inf, -np.inf])):
        with np.errstate(all="ignore"):
            in_place(function, z.dtype)(z, out, np.zeros(3))
        np.testing.assert_array_equal(out, [np.nan, *INFINITE[name]])


@pytest.mark.parametrize("function", FUNCTIONS, ids=NAMES)
def test_functions_allocate_no_memory(function):
    z, out, free = np.random.default_rng(0).normal(size=(3, 300, 400))
    apply = in_place(function, z.dtype)
    apply(z, out, free)
    tracemalloc.start()
    try:
        apply(z, out, free)
        apply(z, z, free)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 128 << 10  # buffers of some versions of NumPy. An array would take 960,000 bytes
