"""For tests of emulated kernels: dtypes, schedules, grids, arrays as kernels see them, and comparisons."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest

from fusedlstm.functions import ACTIVATIONS, Functions, split

from emulation import FORWARD, REVERSE, preempting
from support.cells import GENERAL, functions_of

SCHEDULES = [FORWARD, REVERSE, preempting(seed=3)]
DTYPES = {
    "double": np.dtype(np.float64),
    "float": np.dtype(np.float32),
    "__half": np.dtype(np.float16),
    "__nv_bfloat16": np.dtype(ml_dtypes.bfloat16),
}
# Tolerance of the arithmetic: a few units in the last place of sums and products of size 1 + |c|.
ARITHMETIC_TOLERANCE = {"double": 1e-14, "float": 2e-6}
# Tolerance of rounding h to its dtype: half a unit in the last place of 53, 24, 11 and 8 bits.
ROUNDING = {"double": 2.0**-53, "float": 2.0**-24, "__half": 2.0**-11, "__nv_bfloat16": 2.0**-8}
CELL_CLIP = 0.7
# Template arguments: cells with a single activation, and cells with each function in each role.
PLAINS = [Functions.of(activation=name) for name in ACTIVATIONS]
GENERALS = [Functions.of(**functions_of(k)) for k in range(len(GENERAL))]
NAMES_OF_FUNCTIONS = dict(zip(PLAINS, ACTIVATIONS, strict=True))
NAMES_OF_FUNCTIONS |= {each: f"gates of {name}" for each, name in zip(GENERALS, GENERAL, strict=True)}
THREADS = 256
UNITS_OF_A_BLOCK = 128

# Functions with bounded values. Others may overflow or not, depending on the order of roundings.
OF_EXTREMES = [
    each
    for each in NAMES_OF_FUNCTIONS
    if split(each.gate)[0] in ("tanh", "sigmoid", "softsign", "hard_sigmoid", "scaled_tanh")
]


def cases_of_functions(name):
    """Return pairs of a width and functions for a dtype of h, by its C name. 16-bit types share float's code."""
    wide = name in ("double", "float")
    general = [(1, each) for each in GENERALS] if wide else [(4, each) for each in GENERALS[::4]]
    return [*((width, each) for width in (1, 4) for each in PLAINS), *general]


def state_type(h_type):
    return "double" if h_type == "double" else "float"


def rows_and_columns(B, columns):
    """Return grid and block as in the CUDA backend: a thread for each row and column, adjacent threads for columns."""
    threads = min(UNITS_OF_A_BLOCK, 1 << (columns - 1).bit_length())
    rows = THREADS // threads
    return (-(-B // rows), -(-columns // threads)), (threads, rows)


def whole_rows(B, columns):
    """Return grid and block for kernels whose blocks loop over all columns of their rows."""
    (blocks, _), block = rows_and_columns(B, columns)
    return (blocks,), block


def random_array(random, shape, dtype, *, strided=False):
    """Return normal values. If strided, they are a view into a larger array, without its first 4 and last 8 columns."""
    if not strided:
        return random.standard_normal(shape).astype(dtype)
    larger = random.standard_normal((shape[0], shape[1] + 12)).astype(dtype)
    return larger[:, 4:-8]


def row_stride(array, *, one_row_for_all=False):
    """Return the row stride in elements: 0 to repeat one row, or, without an array, a number that no kernel may use."""
    if array is None:
        return np.int64(8)
    return np.int64(0 if one_row_for_all and len(array) == 1 else array.strides[0] // array.itemsize)


def wide(array):
    return None if array is None else array.astype(np.float64)


def copies(arrays):
    return {name: None if array is None else array.copy() for name, array in arrays.items()}


def assert_all(good, what, got, want):
    """Fail unless all numbers are good, and name the first bad one."""
    wrong = np.argwhere(~good)
    if len(wrong):
        first = tuple(wrong[0])
        numbers = f"{float(got[first]):.9g}, not {float(want[first]):.9g}"
        where = ", ".join(map(str, first))
        pytest.fail(f"{what}: {len(wrong)} of {good.size} numbers are wrong, the first at [{where}]: {numbers}")


def assert_near(what, got, want, rtol, atol):
    """Compare within the sum of both tolerances. NaNs and infinities must be in the same places."""
    got, want = got.astype(np.float64), want.astype(np.float64)
    assert_all(np.isclose(got, want, rtol=rtol, atol=atol, equal_nan=True), what, got, want)


def assert_same_bits(what, got, want):
    """Compare bit for bit, including NaNs and signs of zeros: for copies, and for memory that no kernel may touch."""
    assert (got.shape, got.dtype) == (want.shape, want.dtype), what
    as_bits = np.dtype(f"u{got.itemsize}")
    good = np.ascontiguousarray(got).view(as_bits) == np.ascontiguousarray(want).view(as_bits)
    assert_all(good, what, got, want)


def assert_state_close(about, h_type, h, c, expected):
    """Compare h and c of an instance with float64. NaN, where nothing was written, fails."""
    # h comes from the new c, before zoneout.
    size = 1 + np.maximum(np.abs(expected.c), np.abs(expected.h))
    tolerance = ARITHMETIC_TOLERANCE[state_type(h_type)] * size
    for name, got, want, allowed in (
        ("c", c, expected.c, tolerance),
        ("h", h, expected.h, tolerance + ROUNDING[h_type] * np.abs(expected.h)),
    ):
        got = got.astype(np.float64)
        assert_all(np.abs(got - want) <= allowed, f"{name} of {about}", got, want)


def assert_sums(name, got, h, more):
    """Check that each number is h, rounded to its dtype, plus another number, rounded once."""
    exact = np.dtype(DTYPES[state_type(name)])
    with np.errstate(invalid="ignore"):
        want = (h.astype(exact) + more.astype(exact)).astype(h.dtype)
    assert_near("copy", got, want, rtol=0, atol=0)


EXTREMES = [0.0, -0.0, 1e-30, 44.4, -45, 88.8, -104, 710, -746, 3e38, -3e38, np.inf, -np.inf, np.nan]


def extreme_gates_and_c(dtype):
    """Return gates of rows with one unit, in all pairs of extreme i and f, with some g; and c."""
    i_f_g_o = np.meshgrid(EXTREMES, EXTREMES, [104.0, np.nan], [0.5], indexing="ij")
    gates = np.stack(i_f_g_o, axis=-1).reshape(-1, 4).astype(dtype)
    # No huge c: below 2^-126 NumPy's float32 sigmoid is 0, but the kernel's is not, which a factor of 3e38 would
    # reveal.
    return gates, np.resize(EXTREMES[:9], (len(gates), 1)).astype(dtype)


FAR = 1 << 30  # elements: twice as many overflow an int


def spread(dtype, shape, strides):
    """Return an array with these strides in elements. Memory between elements is never touched, so it costs nothing."""
    last = sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    room = np.empty(last + 1, dtype)
    return np.lib.stride_tricks.as_strided(room, shape, [stride * room.itemsize for stride in strides])


def far_apart(random, dtype, *shape):
    """Return normal values. On each axis but the last, index 2 is more than 2^31 elements away.

    Rows of gates don't overlap, because they are another 16 elements apart.
    """
    array = spread(dtype, shape, [FAR + 16, FAR, 1] if len(shape) == 3 else [FAR, 1])
    array[...] = random.standard_normal(shape)
    return array


@dataclass(frozen=True)
class Sizes:
    """The sizes of a pool's step, with the state in vectors of 16 bytes."""

    B: int
    M: int
    I: int
    vectors: int
    C: int
    capacity: int


SIZES = [
    Sizes(B=1, M=1, I=1, vectors=1, C=1, capacity=1),
    Sizes(B=3, M=5, I=130, vectors=2, C=3, capacity=7),
    Sizes(B=9, M=9, I=5, vectors=129, C=300, capacity=20),
    Sizes(B=257, M=300, I=3, vectors=1, C=2, capacity=400),
]

TICK = (1 << 32) + 5

OUT_OF_RANGE, RELEASED, TWICE = range(3)


def with_problems(random, sizes):
    """Return slots with problems, and which slots are live.

    Of every 7 rows, the second is padding, the third is out of range, and the fourth's slot was released. The fifth and
    sixth repeat slots of first rows.
    """
    slots = random.permutation(sizes.capacity)[: sizes.B]
    live = np.ones(sizes.capacity, bool)
    slots[1::7] = -1
    beyond = [-2, sizes.capacity, (1 << 32) + slots[0], (1 << 32) - 1, (1 << 63) - 1, -1 << 63]
    slots[2::7] = np.resize(np.array(beyond), len(slots[2::7]))
    live[slots[3::7]] = False
    slots[4::7] = slots[0::7][: len(slots[4::7])][::-1]
    slots[5::7] = slots[0::7][: len(slots[5::7])]
    return slots, live
