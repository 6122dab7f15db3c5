"""Each primitive of the kernels on random and special numbers, beside its twin in NumPy. On a GPU, or emulated.

The first thing to run on a new GPU: what differs here differs everywhere.
"""

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from fusedlstm.weights import ACTIVATIONS

from conftest import needs_cuda

pytestmark = needs_cuda

HERE = Path(__file__).parent
FILE = HERE / "primitives.cu"
KERNELS = HERE.parent / "kernels"
C_NAMES = {
    "float64": "double",
    "float32": "float",
    "float16": "__half",
    "bfloat16": "__nv_bfloat16",
}
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in C_NAMES}
WIDE = {"float64": "float64", "float32": "float32", "float16": "float32", "bfloat16": "float32"}
SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 44.4, -44.4, 88.8, -88.8, 104.0, -104.0, 3e38, -3e38]


def numbers(dtype, count=4096):
    """Random numbers of every size that matters to an activation, and special ones; no subnormals, which flush."""
    rng = np.random.default_rng(0)
    random = rng.normal(size=count) * 10.0 ** rng.uniform(-6, 2, count)
    with np.errstate(over="ignore"):
        return np.concatenate([SPECIAL, random, [0.625, 0.5, 2.0]]).astype(DTYPES[dtype])


def launch(name, values, out_dtype, per_thread=1):
    """What the kernel makes of the numbers."""
    import cupy

    from fusedlstm.backends.cuda.compile import Kernel

    kernel = Kernel(str(FILE), name, (values.dtype, DTYPES[out_dtype], "i64"))
    out = cupy.zeros(values.size, DTYPES[out_dtype])
    blocks = -(-values.size // (128 * per_thread))
    kernel((blocks,), (128,), cupy.asarray(values), out, values.size)
    return out.get()


def assert_same(got, wanted):
    """The same numbers, bit for bit, but for a NaN's payload."""
    nan = np.isnan(wanted.astype(float))
    np.testing.assert_array_equal(np.isnan(got.astype(float)), nan)
    assert got[~nan].tobytes() == wanted[~nan].tobytes()


def assert_near(got, exact, ulps):
    """Within so many units in the last place of the exact value; special values exactly."""
    exact = np.asarray(exact, np.longdouble)
    with np.errstate(over="ignore"):
        rounded = exact.astype(got.dtype)
    special = ~np.isfinite(rounded) | (rounded == 0)
    np.testing.assert_array_equal(got[special], rounded[special])
    tiny = np.finfo(got.dtype).tiny
    normal = ~special & (np.abs(exact) >= tiny)
    unit = np.spacing(np.abs(rounded[normal]))
    off = np.abs(got[normal].astype(np.longdouble) - exact[normal]) / unit
    assert np.isfinite(off).all()
    worst = int(np.argmax(off))
    assert off.max() <= ulps, f"{off.max():.2f} ulp: {got[normal][worst]!r} for {rounded[normal][worst]!r}"
    # Where the exact value is subnormal a GPU flushes it, and an emulator does not.
    assert (np.abs(got[~special & ~normal]) < 2 * tiny).all()


@pytest.mark.parametrize("dtype", C_NAMES)
def test_widen(dtype):
    values = numbers(dtype)
    assert_same(launch(f"widened<{C_NAMES[dtype]}>", values, WIDE[dtype]), values.astype(WIDE[dtype]))


@pytest.mark.parametrize("dtype", C_NAMES)
def test_narrow(dtype):
    """Rounds to nearest even, overflows to infinity."""
    halfway = np.array([1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-9, 1 + 3 * 2**-9, 65519.0, 65520.0, 6.1e-5, 5.9e-8])
    values = np.concatenate([numbers(WIDE[dtype]), halfway.astype(WIDE[dtype])])
    with np.errstate(over="ignore"):
        wanted = values.astype(DTYPES[dtype])
    assert_same(launch(f"narrowed<{C_NAMES[dtype]}>", values, dtype), wanted)


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("dtype", C_NAMES)
def test_load_and_store(dtype, width):
    values = numbers(dtype)
    values = values[: values.size // width * width]
    assert_same(launch(f"moved<{C_NAMES[dtype]}, {width}>", values, dtype, width), values)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shared_array(dtype):
    """Whole blocks, in which each thread reads what another wrote."""
    values = np.random.default_rng(0).standard_normal(4 * 128).astype(DTYPES[dtype])
    assert_same(launch(f"shared<{C_NAMES[dtype]}>", values, dtype), values.reshape(4, 128)[:, ::-1].reshape(-1))


def exact(name, x):
    """The functions in the longest float that NumPy has."""
    x = x.astype(np.longdouble)
    with np.errstate(all="ignore"):
        return {
            "tanh": np.tanh,
            "relu": lambda x: np.where(x < 0, 0, x),
            "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
            "softsign": lambda x: x / (1 + np.abs(x)),
            "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
            "linear": lambda x: x,
            "exp": np.exp,
            "expm1": np.expm1,
        }[name](x)


# CUDA's documentation promises 2 ulp for expf and tanhf, 1 for expm1f and the functions of doubles are no worse; a
# sigmoid adds a sum and a quotient.
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, dtype):
    values = numbers(dtype)
    got = launch(f"activated<{C_NAMES[dtype]}, {ACTIVATIONS.index(activation)}>", values, dtype)
    assert_near(got, exact(activation, values), ulps=4)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("kernel", "function"), [("sigmoids", "sigmoid"), ("exponentials", "exp"), ("exponentials_minus_1", "expm1")]
)
def test_functions(kernel, function, dtype):
    values = numbers(dtype)
    assert_near(launch(f"{kernel}<{C_NAMES[dtype]}>", values, dtype), exact(function, values), ulps=4)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_magnitude_and_clip(dtype):
    values = numbers(dtype)
    assert_same(launch(f"magnitudes<{C_NAMES[dtype]}>", values, dtype), np.abs(values))
    assert_same(launch(f"clipped<{C_NAMES[dtype]}>", values, dtype), np.clip(values, -0.75, 0.75).astype(values.dtype))


def test_every_primitive_has_a_test():
    """A function that is added to the headers needs a kernel here."""
    test = FILE.read_text()
    for header in ("primitives.cuh", "activations.cuh"):
        names = set(re.findall(r"DEVICE [^;{(]*?(\w+)\(", (KERNELS / header).read_text()))
        assert names, header
        reached = {"exponential", "hyperbolic_tangent"}  # the latter by activate<TANH>
        for name in names - reached:
            assert re.search(rf"\b{name}\b[<(]|::{name}\(", test), f"{header}: {name} has no kernel in {FILE.name}"
