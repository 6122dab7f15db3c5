"""Each primitive of the kernels, compared with NumPy on random and special numbers. On a GPU, or emulated.

Run this first on a new GPU. A difference here shows everywhere else too.
"""

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from fusedlstm.backends.cuda.function_types import function_type
from fusedlstm.backends.cuda.runtime.structs import C_NAMES

from support.backends import needs_cuda
from support.cells import FUNCTIONS, NAMES
from support.places import KERNELS
from support.structs import plain_kernel

pytestmark = needs_cuda

FILE = Path(__file__).parent / "primitives.cu"
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in C_NAMES}
WIDE = {"float64": "float64", "float32": "float32", "float16": "float32", "bfloat16": "float32"}
SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 44.4, -44.4, 88.8, -88.8, 104.0, -104.0, 3e38, -3e38]


def numbers(dtype, count=4096):
    """Return random numbers of every size that matters to an activation, and special ones.

    There are no subnormals, as GPUs flush them to zero.
    """
    rng = np.random.default_rng(0)
    random = rng.normal(size=count) * 10.0 ** rng.uniform(-6, 2, count)
    with np.errstate(over="ignore"):
        return np.concatenate([SPECIAL, random, [0.625, 0.5, 2.0]]).astype(DTYPES[dtype])


def run(name, arrays, *numbers, grid=1, block=32):
    """Launch a kernel on arrays and then numbers, and return the last array's new content."""
    import cupy

    on_device = [cupy.asarray(array) for array in arrays]
    plain_kernel(FILE, name).bound((grid,), (block,), *on_device, *map(np.int64, numbers))()
    return on_device[-1].get()


def launch(name, values, out_dtype, per_thread=1):
    """Return what the kernel computes from the numbers."""
    out = np.zeros(values.size, DTYPES.get(out_dtype, out_dtype))
    return run(name, [values, out], values.size, grid=-(-values.size // (128 * per_thread)), block=128)


def assert_same(got, wanted):
    """Assert that the numbers are equal bit for bit, except for a NaN's payload."""
    nan = np.isnan(wanted.astype(float))
    np.testing.assert_array_equal(np.isnan(got.astype(float)), nan)
    assert got[~nan].tobytes() == wanted[~nan].tobytes()


def assert_near(got, exact, ulps):
    """Assert that numbers are within `ulps` of the exact values. Special values must be exact.

    `ulps` is one number, or one for each value.
    """
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
    allowed = np.broadcast_to(ulps, exact.shape)[normal]
    worst = int(np.argmax(off - allowed))
    assert (off <= allowed).all(), f"{off[worst]:.2f} ulp: {got[normal][worst]!r} for {rounded[normal][worst]!r}"
    # A GPU flushes a subnormal result to zero, and an emulator doesn't.
    assert (np.abs(got[~special & ~normal]) < 2 * tiny).all()


@pytest.mark.parametrize("dtype", C_NAMES)
def test_widen(dtype):
    values = numbers(dtype)
    assert_same(launch(f"widened<{C_NAMES[dtype]}>", values, WIDE[dtype]), values.astype(WIDE[dtype]))


@pytest.mark.parametrize("dtype", C_NAMES)
def test_narrow(dtype):
    """Rounding is to nearest even, and overflow gives infinity."""
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
    """In whole blocks, each thread reads what another wrote."""
    values = np.random.default_rng(0).standard_normal(4 * 128).astype(DTYPES[dtype])
    assert_same(launch(f"shared<{C_NAMES[dtype]}>", values, dtype), values.reshape(4, 128)[:, ::-1].reshape(-1))


def exact(function, x):
    """Return the function in NumPy's longest float, with parameters in x's dtype."""
    name, *parameters = (function,) if isinstance(function, str) else function
    parameters = [x.dtype.type(each).astype(np.longdouble) for each in parameters]
    x = x.astype(np.longdouble)
    with np.errstate(all="ignore"):
        return {
            "tanh": np.tanh,
            "relu": lambda x: np.where(x < 0, 0, x),
            "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
            "softsign": lambda x: x / (1 + np.abs(x)),
            "elu": lambda x, alpha=1: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
            "linear": lambda x: x,
            "softplus": lambda x: np.where(x < 0, 0, x) + np.log1p(np.exp(-np.abs(x))),
            "affine": lambda x, alpha, beta: alpha * x + beta,
            "leaky_relu": lambda x, alpha: np.where(x < 0, alpha * x, x),
            "thresholded_relu": lambda x, alpha: np.where(x <= alpha, 0, x),
            "scaled_tanh": lambda x, alpha, beta: alpha * np.tanh(beta * x),
            "hard_sigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
            "reciprocal": lambda x: 1 / x,
            "exp": np.exp,
            "expm1": np.expm1,
            "log1p": np.log1p,
        }[name](x, *parameters)


# CUDA's documentation promises 2 ulp for expf and tanhf, and 1 for expm1f and log1pf. The functions of doubles are no
# worse. A sigmoid adds a sum and a quotient, and others add a product.
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("function", FUNCTIONS, ids=NAMES)
def test_activations(function, dtype):
    values = numbers(dtype)
    got = launch(f"activated<{C_NAMES[dtype]}, {function_type(function)}>", values, dtype)
    assert_near(got, exact(function, values), ulps=4)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("kernel", "function"),
    [
        ("sigmoids", "sigmoid"),
        ("exponentials", "exp"),
        ("exponentials_minus_1", "expm1"),
        ("logs_of_1_plus", "log1p"),
    ],
)
def test_functions(kernel, function, dtype):
    values = numbers(dtype)
    assert_near(launch(f"{kernel}<{C_NAMES[dtype]}>", values, dtype), exact(function, values), ulps=4)


LARGE = [("scaled_tanh", 1.7159, 2 / 3), ("scaled_tanh", -2.0, 0.5), ("scaled_tanh", 1e4, 1e-4), ("scaled_tanh", -3, 1)]


@pytest.mark.parametrize("function", [*FUNCTIONS, *LARGE], ids=[*NAMES, *map(str, LARGE)])
def test_fast_activations(function):
    """The hardware's approximations for float are within 2^-20, absolute up to 1 and relative beyond. NaN gives NaN."""
    values = numbers("float32")
    got = launch(f"fast<{function_type(function)}>", values, "float32")
    wanted = exact(function, values).astype(np.float32)
    special = ~np.isfinite(wanted)
    np.testing.assert_array_equal(got[special], wanted[special])
    off = np.abs(got[~special].astype(float) - wanted[~special])
    assert (off <= 2.0**-20 * np.maximum(1, np.abs(wanted[~special]))).all()


@pytest.mark.parametrize("function", ["sigmoid", "tanh"])
def test_fast_activations_saturate(function):
    """They saturate exactly, and never exceed 1."""
    values = numbers("float32")
    got = launch(f"fast<{function_type(function)}>", values, "float32")
    assert (np.abs(got[~np.isnan(values)]) <= 1).all()
    far = np.abs(values) > 100
    np.testing.assert_array_equal(got[far], exact(function, values[far]).astype(np.float32))


def test_fast_products_of_gates():
    """They are as near as fast activations. NaN gives NaN, and saturated factors are exact: 0 and 1."""
    random, values = np.random.default_rng(0), numbers("float32")
    pairs = np.stack(np.meshgrid(np.float32(SPECIAL), np.float32(SPECIAL))).reshape(2, -1)
    x, y = np.concatenate([pairs, [random.permutation(values), random.permutation(values)]], axis=1)
    got = run("fast_products<float>", [np.concatenate([x, y]), np.zeros_like(x)], x.size, grid=40, block=128)
    wanted = (exact("sigmoid", x) * exact("tanh", y)).astype(float)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x) | np.isnan(y))
    there = ~np.isnan(got)
    assert (np.abs(got[there]) <= 1).all()
    assert (np.abs(got[there] - wanted[there]) <= 2.0**-20).all()
    np.testing.assert_array_equal(np.signbit(got[there]), np.signbit(y[there]))
    far = there & (np.abs(x) > 100) & (np.abs(y) > 100)
    np.testing.assert_array_equal(np.abs(got[far]), (x[far] > 0).astype(np.float32))


def test_numbers_of_bits():
    values = numbers("float64")
    assert_same(launch("numbers_of_bits<double>", values.view(np.uint64), "float64"), values)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_magnitude_and_clip(dtype):
    values = numbers(dtype)
    assert_same(launch(f"magnitudes<{C_NAMES[dtype]}>", values, dtype), np.abs(values))
    assert_same(launch(f"clipped<{C_NAMES[dtype]}>", values, dtype), np.clip(values, -0.75, 0.75).astype(values.dtype))


# CUDA's documentation promises 2 + 1.173 |x| ulp for __expf, and 2 for __fdividef with a normal result. Exponentials of
# [-1, 1] and reciprocals of [1, 2] have a relative error of at most 2^-21.
def test_approximations():
    values = numbers("float32")
    got = launch("exponentials_approx<float>", values, "float32")
    assert_near(got, exact("exp", values), ulps=2 + 1.173 * np.minimum(np.abs(values), 104))
    small = np.abs(values) <= 1
    np.testing.assert_allclose(got[small], exact("exp", values[small]).astype(float), rtol=2.0**-21)
    got = launch("reciprocals_approx<float>", values, "float32")
    assert_near(got, exact("reciprocal", values), ulps=2)
    np.testing.assert_array_equal(np.signbit(got[:2]), [False, True])
    values = np.linspace(1, 2, 4097, dtype=np.float32)
    got = launch("reciprocals_approx<float>", values, "float32")
    np.testing.assert_allclose(got, 1 / values.astype(float), rtol=2.0**-21)


def rounded_to_tf32(values):
    """Round to the nearest number of 10 bits, ties away from zero. float64 has room for this."""
    with np.errstate(over="ignore", invalid="ignore"):
        fraction, exponent = np.frexp(values.astype(float))
        whole = np.copysign(np.floor(np.abs(fraction) * 2.0**11 + 0.5), fraction)
        return np.where(np.isfinite(values), np.ldexp(whole, exponent - 11), values).astype(np.float32)


def test_to_tf32():
    """Rounding is exact.

    The largest numbers become infinite, and NaN stays NaN in the bits that a tensor core reads.
    """
    ties = np.float32([1 + 2**-11, 1 + 3 * 2**-11, 2 - 2**-11, 3 + 2**-10, 2.0**-126 * (1 + 2**-11)])
    near = np.concatenate([np.nextafter(ties, np.float32(0)), ties, np.nextafter(ties, np.float32(4))])
    largest = np.array([0x7F7FEFFF, 0x7F7FF000, 0x7F7FFFFF], np.uint32).view(np.float32)
    values = np.concatenate([numbers("float32"), near, -near, -largest, largest])
    got = launch("rounded_to_tf32<float>", values, np.uint32)
    nan = np.isnan(values)
    wanted = rounded_to_tf32(values)
    np.testing.assert_array_equal(np.isinf(wanted[-3:]), [False, True, True])
    np.testing.assert_array_equal(got[~nan], wanted[~nan].view(np.uint32))
    nans = np.array([0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0x7FC00001, 0xFFC12345], np.uint32)
    got = launch("rounded_to_tf32<float>", nans.view(np.float32), np.uint32)
    assert np.isnan((got & ~np.uint32(0x1FFF)).view(np.float32)).all()


def test_relaxed_words():
    """Whole 64-bit words pass from one block to another."""
    words = np.random.default_rng(0).integers(1, 2**64, 64, dtype=np.uint64)
    words[:3] = 1, 1 << 32, 2**64 - 1
    zeros = np.zeros_like(words)
    got = run("handed_over<unsigned long long>", [words, zeros, zeros], words.size, grid=2, block=64)
    np.testing.assert_array_equal(got, words)


def test_arrivals_are_counted_in_rounds():
    counter = np.zeros(1, np.uint32)
    got = run("arrived<unsigned>", [counter, np.zeros(3 * 7, np.uint32)], 7, grid=3 * 7, block=1)
    np.testing.assert_array_equal(np.sort(got), np.repeat(np.arange(7), 3))


def test_copies_of_every_length():
    """Zeros follow the copied bytes, up to 16 in all. The bytes beyond stay."""
    rows = np.random.default_rng(0).integers(1, 256, (17, 16)).astype(np.uint8)
    got = run("copied_in_part<unsigned char>", [rows, np.zeros((17, 32), np.uint8)], 17)
    copied = np.arange(16) < np.arange(17)[:, None]
    np.testing.assert_array_equal(got[:, :16], np.where(copied, rows, 0))
    np.testing.assert_array_equal(got[:, 16:], 0xAB)


@pytest.mark.parametrize("in_flight", [0, 1, 3])
def test_groups_of_copies(in_flight):
    """The oldest group has arrived when `in_flight` others remain, even with fewer steps than groups."""
    for steps in (1, 2, 11):
        values = np.random.default_rng(steps).random((steps, 32, 8), np.float32)
        got = run(f"pipelined<float, {in_flight}>", [values, np.zeros_like(values)], steps)
        np.testing.assert_array_equal(got, values[:, ::-1])


def test_load_matrix():
    """Of each matrix, lane l gets two elements of row l / 4, from 2 (l % 4) on. The first is in the lower bits."""
    rows = np.random.default_rng(0).permutation(1 << 16)[:256].astype(np.uint16).reshape(32, 8)
    got = run("matrices<unsigned short>", [rows, np.zeros((32, 4), np.uint32)])
    brought = rows[(np.arange(32) * 5 + 3) % 32].reshape(4, 8, 4, 2).astype(np.uint32)
    wanted = brought[..., 0] | brought[..., 1] << 16
    np.testing.assert_array_equal(got, wanted.reshape(4, 32).T)


TENSOR_DTYPES = ["float16", "bfloat16", "float32"]


def multiplied(a, b, d):
    return run(f"multiplied<{C_NAMES[a.dtype.name]}>", [a, b, d], grid=len(a))


def operands(dtype, count, make):
    """Return what `make` gives for the shapes (16, K), (8, K) and (16, 8)."""
    K = 32 // DTYPES[dtype].itemsize
    a, b, d = (make((count, *shape)).astype(np.float32) for shape in ((16, K), (8, K), (16, 8)))
    return a.astype(DTYPES[dtype]), b.astype(DTYPES[dtype]), d


@pytest.mark.parametrize("dtype", TENSOR_DTYPES)
def test_product_of_whole_numbers(dtype):
    """All elements of a matrix differ, so an exact result shows that none have changed places."""
    rng = np.random.default_rng(0)
    a, b, d = operands(dtype, 1, lambda shape: rng.permutation(np.prod(shape)).reshape(shape))
    wanted = d + a.astype(np.float32) @ b.astype(np.float32).transpose(0, 2, 1)
    np.testing.assert_array_equal(multiplied(a, b, d), wanted)


@pytest.mark.parametrize("dtype", TENSOR_DTYPES)
def test_product(dtype):
    """How a tensor core orders and rounds its sums is unspecified. The bound is relative to the added terms."""
    a, b, d = operands(dtype, 8, np.random.default_rng(0).standard_normal)
    exact_a, exact_b = ((rounded_to_tf32(x) if dtype == "float32" else x).astype(float) for x in (a, b))
    wanted = d + exact_a @ exact_b.transpose(0, 2, 1)
    added = np.abs(d) + np.abs(exact_a) @ np.abs(exact_b).transpose(0, 2, 1)
    assert (np.abs(multiplied(a, b, d) - wanted) <= 2.0**-21 * added).all()


@pytest.mark.parametrize("dtype", TENSOR_DTYPES)
def test_product_of_nan_and_infinities(dtype):
    """NaN and infinity reach only the results of their row of a, or of their column of b."""
    a, b, d = operands(dtype, 5, np.random.default_rng(0).standard_normal)
    a[3, 4, 7] = 0
    wanted = multiplied(a, b, d)
    assert np.isfinite(wanted).all()
    a[0, 3, 5] = b[1, 6, 2] = d[4, 2, 3] = np.nan
    wanted[0, 3] = wanted[1, :, 6] = wanted[4, 2, 3] = np.nan
    a[2, 9, 1], b[3, 0, 7], d[4, 11, 1] = np.inf, -np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        wanted[2, 9], wanted[3, :, 0] = np.inf * b[2, :, 1].astype(np.float32), -np.inf * a[3, :, 7].astype(np.float32)
    wanted[4, 11, 1] = -np.inf
    assert np.isnan(wanted[3, 4, 0])
    assert_same(multiplied(a, b, d), wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_multiply_add_rounds_as_named(dtype):
    """A sum with a product is rounded once or twice, never as the compiler likes."""
    values = np.random.default_rng(0).normal(size=4096).astype(dtype)
    before = np.concatenate([values[:1], values[:-1]])
    twice = values * values + before
    assert_same(launch(f"squares_added<{C_NAMES[dtype]}, false>", values, dtype), twice)
    once = launch(f"squares_added<{C_NAMES[dtype]}, true>", values, dtype)
    if dtype == "float32":
        assert_same(once, (values.astype("f8") ** 2 + before.astype("f8")).astype("f4"))
    assert (once != twice).mean() > 0.1
    np.testing.assert_allclose(once, twice, rtol=0, atol=4 * np.finfo(dtype).eps * 16)


def test_every_primitive_has_a_test():
    """A function added to the headers needs a kernel in primitives.cu."""
    test = FILE.read_text()
    for header in ("primitives.cuh", "activations.cuh"):
        names = set(re.findall(r"DEVICE [^;{(]*?(\w+)\(", (KERNELS / header).read_text()))
        assert names, header
        reached = {"exponential", "hyperbolic_tangent", "hyperbolic_tangent_fast"}  # activate reaches the latter two
        for name in names - reached:
            assert re.search(rf"\b{name}\b[<(]|::{name}\(", test), f"{header}: {name} has no kernel in {FILE.name}"
