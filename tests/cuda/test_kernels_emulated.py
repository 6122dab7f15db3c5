"""kernels/*.cu on the CPU with every access checked, compared with the NumPy backend in float64."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

from fusedlstm import lstm_pointwise
from fusedlstm.backends.cuda.arguments import (
    AddArguments,
    Cell,
    ClipArguments,
    Matrix,
    PointwiseArguments,
    SelectArguments,
)
from fusedlstm.backends.cuda.function_types import functions_type
from fusedlstm.functions import Functions

from emulation import FORWARD, Module
from support.emulated import needs_emulation
from support.kernel_cases import (
    ARITHMETIC_TOLERANCE,
    CELL_CLIP,
    DTYPES,
    FAR,
    NAMES_OF_FUNCTIONS,
    OF_EXTREMES,
    PLAINS,
    SCHEDULES,
    THREADS,
    assert_near,
    assert_state_close,
    cases_of_functions,
    extreme_gates_and_c,
    far_apart,
    random_array,
    rows_and_columns,
    state_type,
)
from support.places import KERNELS
from support.structs import by_value, matrix

pytestmark = needs_emulation

# Types of the gates and of h. With 16-bit weights, a cell's matmul gives float32 gates, but lstm_pointwise takes 16-bit
# ones.
STORAGE = [
    ("double", "double"),
    ("float", "float"),
    ("float", "__half"),
    ("__half", "__half"),
    ("float", "__nv_bfloat16"),
    ("__nv_bfloat16", "__nv_bfloat16"),
]


@dataclass(frozen=True)
class Instance:
    """Template arguments of lstm_pointwise."""

    gates: str
    h: str
    width: int
    functions: Functions
    peephole: bool
    clip: bool
    reset: bool

    def __str__(self):
        flags = ", ".join(str(flag).lower() for flag in (self.peephole, self.clip, self.reset))
        return f"lstm_pointwise<{self.gates}, {self.h}, {self.width}, {functions_type(self.functions)}, {flags}>"


def instances(gates, h):
    """Return every activation at both widths. Every set of the three options occurs at least once."""
    options = list(product([False, True], repeat=3))
    return [Instance(gates, h, *case, *options[k % len(options)]) for k, case in enumerate(cases_of_functions(h))]


@pytest.fixture(scope="module")
def pointwise(request):
    """Return the modules that the selected tests need, by dtypes of gates and h. Two compilers run at a time."""
    tests = [item for item in request.session.items if "pointwise" in getattr(item, "fixturenames", ())]
    storages = list(dict.fromkeys(test.callspec.params["storage"] for test in tests))

    def compiled(storage):
        return Module(KERNELS / "pointwise.cu", [str(i) for i in instances(*storage)], mode="check")

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(storages, pool.map(compiled, storages), strict=True))


@dataclass(frozen=True)
class Layout:
    """Which arrays are passed, and their layout."""

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


def launch(function, width, arrays, h, c_out, schedule, cell_clip=CELL_CLIP, N=None):
    """Launch the kernel in blocks as the CUDA backend does. Arrays that are left out are null.

    With N, arrays are the first columns of rows of N units. No threads are launched for the other columns.
    """
    (B, units), get = c_out.shape, arrays.get
    arguments = PointwiseArguments(
        gates=matrix(arrays["gates"]),
        gates_h=matrix(get("gates_h")),
        cell=Cell(get("bias"), get("peephole"), clip=cell_clip, N=N or units),
        c=matrix(arrays["c"]),
        is_first=get("is_first"),
        reset_gates=matrix(get("reset_gates"), one_row_for_all=True),
        reset_c=matrix(get("reset_c"), one_row_for_all=True),
        h=matrix(h),
        c_out=matrix(c_out),
        B=B,
    )
    passed = by_value(arguments, G=arrays["gates"].dtype, T=h.dtype)
    return function(*rows_and_columns(B, -(-units // width)), [passed], schedule=schedule)


def wanted(instance, arrays):
    """Return what the NumPy backend computes in float64."""
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
        **instance.functions.options(),
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


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize(
    ("storage", "instance"),
    [pytest.param(storage, i, id=f"{'-'.join(storage)}-{i}") for storage in STORAGE for i in instances(*storage)],
)
def test_pointwise(pointwise, storage, instance, schedule):
    function = pointwise[storage].function(str(instance))
    for layout in LAYOUTS:
        arrays = random_arrays(instance, layout)
        expected = wanted(instance, arrays)
        c = arrays["c"]
        h = np.full(c.shape, np.nan, DTYPES[instance.h])
        c_out = c if layout.in_place else np.full(c.shape, np.nan, c.dtype)
        report = launch(function, instance.width, arrays, h, c_out, schedule)
        assert_state_close(instance, instance.h, h, c_out, expected)
        assert report.checked_accesses > c.size


@pytest.mark.parametrize("functions", OF_EXTREMES, ids=NAMES_OF_FUNCTIONS.get)
@pytest.mark.parametrize("storage", STORAGE[:2], ids="-".join)
def test_pointwise_at_extremes(pointwise, storage, functions):
    """Saturated, infinite, huge and NaN pre-activations give NumPy's results in the same dtype."""
    instance = next(i for i in instances(*storage) if i.width == 1 and i.functions == functions)
    dtype = DTYPES[instance.h]
    gates, c = extreme_gates_and_c(dtype)
    arrays = {"gates": gates, "c": c, "is_first": np.zeros(len(gates), bool) if instance.reset else None}
    arrays["peephole"] = np.ones((3, 1), dtype) if instance.peephole else None
    unwritten = 7
    h, c_out = np.full(c.shape, unwritten, dtype), np.full(c.shape, unwritten, dtype)
    launch(pointwise[storage].function(str(instance)), 1, arrays, h, c_out, FORWARD)
    clip = CELL_CLIP if instance.clip else None
    expected = lstm_pointwise(gates, c, peephole=arrays["peephole"], cell_clip=clip, **functions.options())
    tolerance = ARITHMETIC_TOLERANCE[instance.h]
    assert_near("c", c_out, expected.c, rtol=tolerance, atol=tolerance)
    assert_near("h", h, expected.h, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("functions", PLAINS, ids=NAMES_OF_FUNCTIONS.get)
@pytest.mark.parametrize("storage", STORAGE[:2], ids="-".join)
def test_pointwise_of_small_numbers(pointwise, storage, functions):
    """With open gates and no old state, small c and h are relatively as accurate as those near 1."""
    instance = next(i for i in instances(*storage) if i.width == 1 and i.functions == functions)
    dtype = DTYPES[instance.h]
    g = np.array([sign * size for sign in (1, -1) for size in (1e-30, 1e-8, 1e-5, 1e-3, 0.03, 0.5)])
    gates = np.stack([np.full_like(g, 44.4), np.zeros_like(g), g, np.full_like(g, 44.4)], axis=-1).astype(dtype)
    c, first = np.zeros((len(g), 1), dtype), np.zeros(len(g), bool)
    arrays = {"gates": gates, "c": c, "is_first": first if instance.reset else None}
    arrays["peephole"] = np.zeros((3, 1), dtype) if instance.peephole else None
    h, c_out = np.full_like(c, np.nan), np.full_like(c, np.nan)
    launch(pointwise[storage].function(str(instance)), 1, arrays, h, c_out, FORWARD)
    clip = CELL_CLIP if instance.clip else None
    wide = gates.astype(np.float64), c.astype(np.float64)
    expected = lstm_pointwise(*wide, cell_clip=clip, **functions.options())
    assert_near("c", c_out, expected.c, rtol=ARITHMETIC_TOLERANCE[instance.h], atol=0)
    assert_near("h", h, expected.h, rtol=ARITHMETIC_TOLERANCE[instance.h], atol=0)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("storage", [("__half", "__half")], ids="-".join)
def test_pointwise_with_offsets_beyond_2_to_31(pointwise, storage, width, first):
    """Rows have 2^30 units, of which only the first vector exists. Every array's index exceeds 32 bits."""
    instance = next(i for i in instances(*storage) if i.width == width and i.reset)
    random = np.random.default_rng(0)
    G, T, C, B = np.float16, np.float16, np.float32, 3
    gates = {name: far_apart(random, G, B, 4, width) for name in ("gates", "gates_h", "reset_gates")}
    arrays = gates | {name: far_apart(random, C, B, width) for name in ("c", "reset_c")}
    arrays |= {"is_first": np.full(B, first), "bias": far_apart(random, T, 4, width)}
    arrays["peephole"] = far_apart(random, T, 3, width) if instance.peephole else None
    h, c_out = far_apart(random, T, B, width), far_apart(random, C, B, width)
    launch(pointwise[storage].function(str(instance)), width, arrays, h, c_out, FORWARD, N=FAR)
    near = arrays | {name: array.reshape(B, 4 * width) for name, array in gates.items()}
    assert_state_close(instance, instance.h, h, c_out, wanted(instance, near | {"bias": arrays["bias"].reshape(-1)}))


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
    passed = by_value(ClipArguments(h, count, limit=0.5), T=h.dtype)
    clip.function(f"lstm_clip<{name}>")((-(-count // THREADS),), (THREADS,), [passed], schedule=schedule)
    assert_near("h", h, expected, rtol=0, atol=0)


@pytest.fixture(scope="module")
def select():
    return Module(KERNELS / "select.cu", [f"lstm_select<{name}>" for name in DTYPES], mode="check")


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("value", ["zeros", "one row", "rows"])
@pytest.mark.parametrize(("B", "K"), [(1, 1), (3, 127), (2, 129), (257, 2)])
def test_select(select, name, value, B, K, schedule):
    """Marked rows take zeros, one row, or one of several rows apart. Other rows keep every bit, even NaN."""
    random = np.random.default_rng(B)
    out = random.standard_normal((B, K)).astype(DTYPES[name])
    out[::2, -1] = np.nan
    mask = random.random(B) < 0.5
    mask[0] = True
    wide = random.standard_normal((1 if value == "one row" else B, K + 3)).astype(DTYPES[name])
    rows = wide[:, 1 : K + 1]
    expected = out.copy()
    expected[mask] = 0 if value == "zeros" else rows[0] if value == "one row" else rows[mask]
    source = Matrix() if value == "zeros" else Matrix(rows, K + 3 if value == "rows" else 0)
    passed = by_value(SelectArguments(out, mask, source, B, K), T=out.dtype)
    select.function(f"lstm_select<{name}>")(*rows_and_columns(B, K), [passed], schedule=schedule)
    assert_near("out", out, expected.astype(np.float64), rtol=0, atol=0)


def test_select_with_offsets_beyond_2_to_31(select):
    random = np.random.default_rng(0)
    out, value = (far_apart(random, np.float16, 3, 1) for _ in range(2))
    mask = np.array([False, True, True])
    expected = np.where(mask[:, None], value, out).astype(np.float64)
    passed = by_value(SelectArguments(out, mask, Matrix(value, FAR), 3, FAR), T=out.dtype)
    select.function("lstm_select<__half>")((3, 1), (1, 1), [passed], schedule=FORWARD)
    assert_near("out", out, expected, rtol=0, atol=0)


@pytest.fixture(scope="module")
def add():
    return Module(KERNELS / "add.cu", [f"lstm_add<{name}>" for name in DTYPES], mode="check")


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("count", [1, 255, 256, 257])
def test_add(add, name, count, schedule):
    """Every sum is exact, rounded once."""
    random = np.random.default_rng(count)
    a, b = (random.standard_normal(count).astype(DTYPES[name]) for _ in range(2))
    a[-1], b[count // 2] = np.nan, np.inf
    wide = np.float64 if name == "double" else np.float32
    expected = (a.astype(wide) + b.astype(wide)).astype(DTYPES[name])
    passed = by_value(AddArguments(a, b, count), T=a.dtype)
    add.function(f"lstm_add<{name}>")((-(-count // THREADS),), (THREADS,), [passed], schedule=schedule)
    assert_near("a", a, expected.astype(np.float64), rtol=0, atol=0)
