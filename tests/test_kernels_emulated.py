"""kernels/*.cu on the CPU, every access checked, against the NumPy backend in float64."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import ml_dtypes
import numpy as np
import pytest

from fusedlstm import lstm_pointwise
from fusedlstm.weights import ACTIVATIONS

from emulated import KERNELS, needs_emulation
from emulation import FORWARD, REVERSE, Module, preempting

pytestmark = needs_emulation

SCHEDULES = [FORWARD, REVERSE, preempting(seed=3)]
DTYPES = {
    "double": np.dtype(np.float64),
    "float": np.dtype(np.float32),
    "__half": np.dtype(np.float16),
    "__nv_bfloat16": np.dtype(ml_dtypes.bfloat16),
}
# Of the gates and of h: a cell's matmul gives float32 gates for 16-bit weights, callers of lstm_pointwise have 16 bits.
STORAGE = [
    ("double", "double"),
    ("float", "float"),
    ("float", "__half"),
    ("__half", "__half"),
    ("float", "__nv_bfloat16"),
    ("__nv_bfloat16", "__nv_bfloat16"),
]
# Of the arithmetic, whose error is a few units in the last place of sums and products of size 1 + |c|.
ARITHMETIC_TOLERANCE = {"double": 1e-14, "float": 2e-6}
# Of the rounding of h to its dtype: half a unit in the last place, of 53, 24, 11 and 8 bits.
ROUNDING = {"double": 2.0**-53, "float": 2.0**-24, "__half": 2.0**-11, "__nv_bfloat16": 2.0**-8}
CELL_CLIP = 0.7
THREADS = 256
UNITS_OF_A_BLOCK = 128


def state_type(h_type):
    return "double" if h_type == "double" else "float"


@dataclass(frozen=True)
class Instance:
    """Template arguments of lstm_pointwise."""

    gates: str
    h: str
    width: int
    activation: str
    peephole: bool
    clip: bool
    reset: bool

    def __str__(self):
        flags = ", ".join(str(flag).lower() for flag in (self.peephole, self.clip, self.reset))
        number = ACTIVATIONS.index(self.activation)
        return f"lstm_pointwise<{self.gates}, {self.h}, {self.width}, {number}, {flags}>"


def instances(gates, h):
    """Every activation at both widths, and with them every set of the three options at least once."""
    options = list(product([False, True], repeat=3))
    cases = list(product([1, 4], ACTIVATIONS))
    return [Instance(gates, h, *case, *options[k % len(options)]) for k, case in enumerate(cases)]


@pytest.fixture(scope="module")
def pointwise():
    """The modules, by the dtypes of gates and h; two compilers run at a time."""

    def compiled(storage):
        return Module(KERNELS / "pointwise.cu", [str(i) for i in instances(*storage)], mode="check")

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(STORAGE, pool.map(compiled, STORAGE), strict=True))


@dataclass(frozen=True)
class Layout:
    """Which arrays there are, and how they lie."""

    B: int
    vectors: int  # N in units of the width
    strided: bool  # gates and c are columns of larger arrays
    in_place: bool  # c_out is c
    gates_h: bool
    bias: bool
    reset_gates: int  # rows of it: none, one for all, or one each
    reset_c: int


LAYOUTS = [
    Layout(1, 1, strided=False, in_place=False, gates_h=True, bias=True, reset_gates=0, reset_c=0),
    Layout(3, 127, strided=True, in_place=False, gates_h=True, bias=False, reset_gates=1, reset_c=1),
    Layout(5, 129, strided=True, in_place=False, gates_h=False, bias=True, reset_gates=5, reset_c=5),
    Layout(255, 1, strided=False, in_place=True, gates_h=True, bias=True, reset_gates=0, reset_c=1),
    Layout(257, 1, strided=True, in_place=False, gates_h=False, bias=False, reset_gates=1, reset_c=0),
    Layout(2, 128, strided=False, in_place=True, gates_h=True, bias=True, reset_gates=2, reset_c=0),
]


def random_array(random, shape, dtype, *, strided=False):
    """Normal values; strided, they are every row's columns but the first 4 and last 8 of a larger array."""
    if not strided:
        return random.standard_normal(shape).astype(dtype)
    larger = random.standard_normal((shape[0], shape[1] + 12)).astype(dtype)
    return larger[:, 4:-8]


def row_stride(array, *, one_row_for_all):
    """In elements; 0 for a null pointer, and for a single row that serves all."""
    none = array is None or (one_row_for_all and len(array) == 1)
    return np.int64(0 if none else array.strides[0] // array.itemsize)


def launch(function, width, arrays, h, c_out, schedule, cell_clip=CELL_CLIP):
    """Launch the kernel in blocks as the CUDA backend does; arrays by name, those left out are null."""
    B, N = c_out.shape
    threads = min(UNITS_OF_A_BLOCK, 1 << (-(-N // width) - 1).bit_length())
    rows = THREADS // threads
    values = []
    for name in ("gates", "gates_h", "bias", "peephole", "c", "is_first", "reset_gates", "reset_c"):
        array = arrays.get(name)
        values.append(array)
        if name not in ("bias", "peephole", "is_first"):
            values.append(row_stride(array, one_row_for_all=name.startswith("reset")))
    values += [h, c_out, np.float64(cell_clip), np.int64(B), np.int64(N)]
    grid = (-(-B // rows), -(-N // (threads * width)))
    return function(grid, (threads, rows), values, schedule=schedule)


def wanted(instance, arrays):
    """What the NumPy backend gives in float64."""
    wide = {name: a if a is None else a.astype(np.float64) for name, a in arrays.items() if name != "is_first"}
    first = arrays["is_first"]
    z, part_of_h = wide["gates"], wide["gates_h"]
    if first is not None:
        reset = 0.0 if wide["reset_gates"] is None else wide["reset_gates"]
        part_of_h = np.where(first[:, None], reset, 0.0 if part_of_h is None else part_of_h)
    if part_of_h is not None:
        z = z + part_of_h
    return lstm_pointwise(
        z,
        wide["c"],
        bias=wide["bias"],
        peephole=wide["peephole"],
        cell_clip=CELL_CLIP if instance.clip else None,
        activation=instance.activation,
        is_first=first,
        reset_c=wide["reset_c"],
    )


def random_arrays(instance, layout):
    random = np.random.default_rng(layout.B)
    B, N = layout.B, layout.vectors * instance.width
    G, T, C = DTYPES[instance.gates], DTYPES[instance.h], DTYPES[state_type(instance.h)]
    reset_gates = layout.reset_gates if instance.reset else 0
    reset_c = layout.reset_c if instance.reset else 0
    return {
        "gates": random_array(random, (B, 4 * N), G, strided=layout.strided),
        "gates_h": random_array(random, (B, 4 * N), G) if layout.gates_h else None,
        "bias": random_array(random, (4 * N,), T) if layout.bias else None,
        "peephole": random_array(random, (3, N), T) if instance.peephole else None,
        "c": random_array(random, (B, N), C, strided=layout.strided),
        "is_first": random.random(B) < 0.5 if instance.reset else None,
        "reset_gates": random_array(random, (reset_gates, 4 * N), G) if reset_gates else None,
        "reset_c": random_array(random, (reset_c, N), C) if reset_c else None,
    }


def assert_close(instance, h, c, expected):
    tolerance = ARITHMETIC_TOLERANCE[state_type(instance.h)] * (1 + np.abs(expected.c))
    for name, got, want, allowed in (
        ("c", c, expected.c, tolerance),
        ("h", h, expected.h, tolerance + ROUNDING[instance.h] * np.abs(expected.h)),
    ):
        got = got.astype(np.float64)
        assert np.isfinite(got).all(), name
        assert (np.abs(got - want) <= allowed).all(), name


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("instance", [i for storage in STORAGE for i in instances(*storage)], ids=str)
def test_pointwise(pointwise, instance, schedule):
    function = pointwise[instance.gates, instance.h].function(str(instance))
    for layout in LAYOUTS:
        arrays = random_arrays(instance, layout)
        expected = wanted(instance, arrays)
        c = arrays["c"]
        h = np.full(c.shape, np.nan, DTYPES[instance.h])
        c_out = c if layout.in_place else np.full(c.shape, np.nan, c.dtype)
        report = launch(function, instance.width, arrays, h, c_out, schedule)
        assert report.checked_accesses > c.size
        assert_close(instance, h, c_out, expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("h_type", ["double", "float"])
def test_pointwise_at_extremes(pointwise, h_type, activation):
    """Saturated, infinite, huge and NaN pre-activations give what NumPy gives in the same dtype, row by row."""
    instance = next(i for i in instances(h_type, h_type) if i.width == 1 and i.activation == activation)
    dtype = DTYPES[h_type]
    extremes = [0.0, -0.0, 1e-30, 44.4, -45, 88.8, -104, 710, -746, 3e38, -3e38, np.inf, -np.inf, np.nan]
    i_f_g_o = np.meshgrid(extremes, extremes, [44.4, np.nan], [0.5], indexing="ij")
    gates = np.stack(i_f_g_o, axis=-1).reshape(-1, 4).astype(dtype)
    # No huge c: NumPy's float32 sigmoid is 0 below 2^-126 and the kernel's is not, which 3e38 times either would show.
    c = np.resize(extremes[:9], (len(gates), 1)).astype(dtype)
    arrays = {"gates": gates, "c": c, "is_first": np.zeros(len(gates), bool) if instance.reset else None}
    arrays["peephole"] = np.ones((3, 1), dtype) if instance.peephole else None
    unwritten = 7
    h, c_out = np.full(c.shape, unwritten, dtype), np.full(c.shape, unwritten, dtype)
    launch(pointwise[h_type, h_type].function(str(instance)), 1, arrays, h, c_out, FORWARD)
    clip = CELL_CLIP if instance.clip else None
    expected = lstm_pointwise(gates, c, peephole=arrays["peephole"], cell_clip=clip, activation=activation)
    tolerance = ARITHMETIC_TOLERANCE[h_type]
    np.testing.assert_allclose(c_out, expected.c, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(h, expected.h, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("width", [1, 4])
def test_pointwise_with_rows_beyond_two_to_the_31(pointwise, width):
    """Row 2 of these gates is 2^31 elements from row 0. Only the pages that are touched cost memory."""
    instance = next(i for i in instances("__half", "__half") if i.width == width and not i.reset and not i.peephole)
    B, N, stride = 3, 8, 1 << 30
    gates = np.lib.stride_tricks.as_strided(np.empty(2 * stride + 4 * N, np.float16), (B, 4 * N), (2 * stride, 2))
    random = np.random.default_rng(0)
    gates[...] = random_array(random, gates.shape, np.float16)
    arrays = dict.fromkeys(("gates_h", "bias", "peephole", "is_first", "reset_gates", "reset_c"))
    arrays |= {"gates": gates, "c": random_array(random, (B, N), np.float32)}
    h, c_out = np.full((B, N), np.nan, np.float16), np.full((B, N), np.nan, np.float32)
    launch(pointwise["__half", "__half"].function(str(instance)), width, arrays, h, c_out, FORWARD)
    assert_close(instance, h, c_out, wanted(instance, arrays))


@pytest.fixture(scope="module")
def clip():
    return Module(KERNELS / "clip.cu", [f"lstm_clip<{name}>" for name in DTYPES], mode="check")


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("count", [1, 255, 256, 257])
def test_clip(clip, name, count, schedule):
    h = np.random.default_rng(count).standard_normal(count).astype(DTYPES[name])
    h[0] = np.inf
    if count > 2:
        h[1:3] = -np.inf, np.nan
    expected = np.clip(h.astype(np.float64), -0.5, 0.5)
    clip.function(f"lstm_clip<{name}>")(
        (-(-count // THREADS),), (THREADS,), (h, np.int64(count), np.float64(0.5)), schedule=schedule
    )
    np.testing.assert_array_equal(h.astype(np.float64), expected)
