"""interleave.cu on the CPU with every access checked, compared bit for bit with plain Python loops."""

from itertools import cycle

import numpy as np
import pytest

from fusedlstm.backends.cuda.arguments import InterleaveArguments, PadArguments

from emulation import FORWARD, Module
from support.emulated import needs_emulation
from support.interleaved_layout import assert_rounded, interleaved, padded, tiles, to_tf32
from support.kernel_cases import DTYPES, SCHEDULES, assert_same_bits, row_stride, rows_and_columns, spread
from support.places import KERNELS
from support.structs import by_value, matrix

pytestmark = needs_emulation

# At the edges of tiles of 8, 16 and 32 columns, of 8 adjacent units, and of 32 units in whole rows.
UNITS = [1, 7, 8, 9, 31, 32, 33, 40]
COLUMNS = [1, 15, 16, 17, 31, 32, 33]
SHAPES = list(zip(cycle(COLUMNS), UNITS, [33, 1, 16, 31, 17, 32, 15, 8], strict=False))
SHAPES += [(0, 5, 3), (33, 9, 7), (31, 2, 9), (16, 32, 32), (15, 40, 40)]


def numbers(random, shape, dtype):
    """Return normal numbers. In every row, one is special, such as NaN or -0.0, and an inexact copy could change it."""
    array = random.standard_normal(shape).astype(dtype)
    tiny = np.finfo(np.float32).smallest_subnormal if dtype.itemsize == 4 else 0
    special = cycle([np.nan, -0.0, np.inf, -np.inf, tiny, -1.0])
    for row in array if array.size else ():
        row[random.integers(len(row))] = next(special)
    return array


@pytest.fixture(scope="module")
def functions():
    names = [f"{kernel}<{name}, false>" for kernel in ("lstm_interleave", "lstm_pad") for name in DTYPES]
    names += [f"{kernel}<float, true>" for kernel in ("lstm_interleave", "lstm_pad")]
    module = Module(KERNELS / "interleave.cu", names, mode="check")
    return {name: module.function(name) for name in names}


def launch_interleave(function, to, KX, weight, X, shape, schedule):
    """Launch as the CUDA backend does, for the columns that `to` has."""
    arguments = InterleaveArguments(to, row_stride(to), KX, matrix(weight), X, *shape)
    passed = by_value(arguments, T=to.dtype)
    return function(*rows_and_columns(*to.shape), [passed], schedule=schedule)


def launch_pad(function, to, projection, shape, schedule):
    arguments = PadArguments(to, row_stride(to), matrix(projection), *shape)
    return function(*rows_and_columns(*to.shape), [by_value(arguments, T=to.dtype)], schedule=schedule)


def unwritten(shape, dtype):
    """Return an array without a single correct element."""
    return np.full(shape, 7, dtype)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize(("I", "N", "P"), SHAPES)
@pytest.mark.parametrize("name", DTYPES)
def test_interleave(functions, name, I, N, P, schedule):
    """Columns between the weights of x and of h, and after them, are not read."""
    random, dtype = np.random.default_rng(N), DTYPES[name]
    X = I + 3
    weight = random.standard_normal((4 * N, X + P + 2)).astype(dtype)
    weight[:, :I] = numbers(random, (4 * N, I), dtype)
    weight[:, X : X + P] = numbers(random, (4 * N, P), dtype)
    before = weight.copy()
    want = interleaved(weight[:, :I], weight[:, X : X + P])
    to = unwritten(want.shape, dtype)
    report = launch_interleave(
        functions[f"lstm_interleave<{name}, false>"], to, tiles(I, dtype), weight, X, (I, P, N), schedule
    )
    assert_same_bits("interleaved", to, want)
    assert_same_bits("weight", weight, before)
    assert report.checked_accesses == to.size + 4 * N * (I + P), "each element should be accessed once"


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize(("P", "N"), [(1, 1), (7, 31), (33, 8), (127, 17), (128, 32), (129, 33), (40, 15), (5, 70)])
@pytest.mark.parametrize("name", DTYPES)
def test_pad(functions, name, P, N, schedule):
    random, dtype = np.random.default_rng(N), DTYPES[name]
    projection = numbers(random, (P, N + 5), dtype)
    before = projection.copy()
    want = padded(projection[:, :N])
    to = unwritten(want.shape, dtype)
    report = launch_pad(functions[f"lstm_pad<{name}, false>"], to, projection, (P, N), schedule)
    assert_same_bits("padded", to, want)
    assert_same_bits("projection", projection, before)
    assert report.checked_accesses == to.size + P * N, "each element should be accessed once"


def halves_of_tf32(random, shape):
    """Return numbers of every size. In every other column, they are at or near the midpoint of two TF32 numbers."""
    bits = random.integers(0, 1 << 32, shape, np.uint32)
    near = random.integers(0x0FFF, 0x1002, shape, np.uint32)
    bits[:, ::2] = (bits[:, ::2] & ~np.uint32(0x1FFF)) | near[:, ::2]
    bits[-1, :1] = 0x7F7FFFFF  # the largest of all
    return bits.view(np.float32)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_rounding(functions, schedule):
    random, (I, N, P) = np.random.default_rng(0), (17, 33, 15)
    weight, projection = halves_of_tf32(random, (4 * N, I + P)), halves_of_tf32(random, (P, N))
    weight[5, :3] = np.nan, np.inf, -0.0
    want = interleaved(weight[:, :I], weight[:, I:])
    to = unwritten(want.shape, np.float32)
    KX = tiles(I, to.dtype)
    launch_interleave(functions["lstm_interleave<float, true>"], to, KX, weight, I, (I, P, N), schedule)
    assert_rounded(to, want)
    to = unwritten((128, tiles(N, to.dtype)), np.float32)
    launch_pad(functions["lstm_pad<float, true>"], to, projection, (P, N), schedule)
    assert_rounded(to, padded(projection))


def test_to_tf32_rounds_correctly():
    """In TF32, 1 and its neighbour above are 2^-10 apart, and 1 and the one below 2^-11."""
    up, down = 1 + 2.0**-10, 1 - 2.0**-11
    cases = {1: 1, 1 + 2.0**-11: up, 1 + 2.0**-12: 1, -1 - 2.0**-11: -up, 1 - 2.0**-12: 1, 1 - 2.0**-11: down}
    cases |= {1.5 * up: 1.5 * up + 2.0**-11, 3.4028235e38: np.inf, 2.0**-149: 0, 2.0**-137: 2.0**-136}
    got = to_tf32(np.array(list(cases), np.float32))
    np.testing.assert_array_equal(got, np.array(list(cases.values()), np.float32))


def test_offsets_beyond_2_to_31(functions):
    """128 rows are 2^25 elements apart. Only their first columns exist and have threads."""
    random, dtype, far = np.random.default_rng(0), DTYPES["__half"], (1 << 25) + 32
    I, N, P, KX = 3, 32, 3, 32
    weight = spread(dtype, (128, 8), [far, 1])
    weight[...] = random.standard_normal(weight.shape)
    want = interleaved(weight[:, :I], weight[:, 4 : 4 + P])

    to = spread(dtype, want.shape, [far, 1])
    to[...] = 7
    launch_interleave(functions["lstm_interleave<__half, false>"], to, KX, weight, 4, (I, P, N), FORWARD)
    assert_same_bits("interleaved", to, want)
    to[...] = 7
    launch_pad(functions["lstm_pad<__half, false>"], to, weight, (127, 7), FORWARD)
    assert_same_bits("padded", to[:, :32], padded(weight[:127, :7]))
    assert not to[:, 32:].any()
