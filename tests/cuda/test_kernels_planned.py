"""The kernels of planned steps on the CPU, with every access checked.

planned.cu is compared with the NumPy backend in float64, and finish.cu, reset.cu and gather.cu bit for bit. Memory
outside of rows, and between them, must not be touched.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

from fusedlstm import lstm_pointwise
from fusedlstm.backends.cuda.arguments import (
    Audit,
    Cell,
    Copy,
    FinishArguments,
    GatherArguments,
    PlannedArguments,
    ResetArguments,
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
    OUT_OF_RANGE,
    RELEASED,
    SCHEDULES,
    SIZES,
    TICK,
    TWICE,
    assert_near,
    assert_same_bits,
    assert_state_close,
    assert_sums,
    cases_of_functions,
    copies,
    extreme_gates_and_c,
    far_apart,
    random_array,
    rows_and_columns,
    spread,
    state_type,
    whole_rows,
    wide,
    with_problems,
)
from support.places import KERNELS
from support.structs import by_value, matrix

pytestmark = needs_emulation


def some_slots(random, B, capacity, dtype=np.int32):
    """Return a distinct slot for each row, but -1 for every third row from the second on."""
    slots = random.permutation(capacity)[:B].astype(dtype)
    slots[1::3] = -1
    return slots


@dataclass(frozen=True)
class Instance:
    """Template arguments of lstm_planned."""

    dtype: str
    width: int
    functions: Functions
    peephole: bool
    clip: bool

    def __str__(self):
        flags = ", ".join(str(flag).lower() for flag in (self.peephole, self.clip))
        return f"lstm_planned<{self.dtype}, {self.width}, {functions_type(self.functions)}, {flags}>"


def instances(name):
    """Return every activation at both widths. Every set of the two options occurs at both."""
    options = list(product([False, True], repeat=2))
    return [Instance(name, *case, *options[k % len(options)]) for k, case in enumerate(cases_of_functions(name))]


@pytest.fixture(scope="module")
def planned(request):
    """Return the modules that the selected tests need, by dtype. Two compilers run at a time."""
    tests = [item for item in request.session.items if "planned" in getattr(item, "fixturenames", ())]
    names = list(dict.fromkeys(test.callspec.params["name"] for test in tests))

    def compiled(name):
        return Module(KERNELS / "planned.cu", [str(i) for i in instances(name)], mode="check")

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(compiled, names), strict=True))


@dataclass(frozen=True)
class Layout:
    """Which arrays are passed, and their layout."""

    B: int
    vectors: int  # N in units of the width
    strided: bool  # c, h, copy and input are columns of larger arrays
    slots: int  # rows of c, or 0 if c has the batch's rows
    h_by_slot: bool
    copy: str
    bias: bool


LAYOUTS = [
    Layout(1, 1, strided=False, slots=0, h_by_slot=True, copy="none", bias=True),
    Layout(3, 127, strided=True, slots=0, h_by_slot=True, copy="residual", bias=False),
    Layout(5, 129, strided=True, slots=7, h_by_slot=True, copy="residual", bias=True),
    Layout(255, 1, strided=False, slots=300, h_by_slot=False, copy="plain", bias=True),
    Layout(257, 1, strided=True, slots=260, h_by_slot=True, copy="none", bias=False),
    Layout(2, 128, strided=True, slots=0, h_by_slot=False, copy="plain", bias=True),
    Layout(4, 3, strided=True, slots=4, h_by_slot=False, copy="residual", bias=True),
]


def columns_of_one(random, count, B, N, dtype):
    """Return `count` arrays (B, N) side by side in a larger one with gaps, like columns of an operand."""
    larger = random.standard_normal((B, 4 + count * (N + 4))).astype(dtype)
    starts = [4 + k * (N + 4) for k in range(count)]
    return [larger[:, start : start + N] for start in starts]


def random_arrays(instance, layout):
    """Return arrays of a step. Rows of slot -1 have NaN in gates and input, which must not be read."""
    random = np.random.default_rng(layout.B)
    B, N, slots = layout.B, layout.vectors * instance.width, layout.slots
    T, A = DTYPES[instance.dtype], DTYPES[state_type(instance.dtype)]
    if layout.strided:
        h, copy = columns_of_one(random, 2, B, N, T)
        residual = random_array(random, (B, N), T, strided=True)
    else:
        h, copy, residual = (random_array(random, (B, N), T) for _ in range(3))
    if slots and layout.h_by_slot:
        h = random_array(random, (slots, N), T, strided=layout.strided)
    arrays = {
        "gates": random_array(random, (B, 4 * N), A),
        "bias": random_array(random, (4 * N,), T) if layout.bias else None,
        "peephole": random_array(random, (3, N), T) if instance.peephole else None,
        "c": random_array(random, (slots or B, N), A, strided=layout.strided),
        "slot_of_row": some_slots(random, B, slots) if slots else None,
        "h": h,
        "copy": None if layout.copy == "none" else copy,
        "input": residual if layout.copy == "residual" else None,
    }
    if slots:
        arrays["gates"][arrays["slot_of_row"] < 0] = residual[arrays["slot_of_row"] < 0] = np.nan
    return arrays


def launch_planned(function, width, arrays, h_by_slot, schedule, N=None):
    """Launch the kernel in blocks as the CUDA backend does.

    With N, arrays are the first columns of rows of N units. No threads are launched for the other columns.
    """
    B, units = len(arrays["gates"]), arrays["c"].shape[1]
    arguments = PlannedArguments(
        gates=arrays["gates"],
        cell=Cell(arrays["bias"], arrays["peephole"], clip=CELL_CLIP, N=N or units),
        c=matrix(arrays["c"]),
        slot_of_row=arrays["slot_of_row"],
        h=matrix(arrays["h"]),
        h_by_slot=h_by_slot,
        copy=Copy(matrix(arrays["copy"]), matrix(arrays["input"])),
        B=B,
    )
    passed = by_value(arguments, T=arrays["h"].dtype)
    return function(*rows_and_columns(B, -(-units // width)), [passed], schedule=schedule)


def assert_stepped(instance, arrays, before, h_by_slot):
    """Assert that rows with a slot have stepped, and that everything else has the same bits as before."""
    own = np.arange(len(before["gates"]))
    slots = own if before["slot_of_row"] is None else before["slot_of_row"]
    stepped = slots >= 0
    at = slots[stepped]
    expected = lstm_pointwise(
        wide(before["gates"])[stepped],
        wide(before["c"])[at],
        bias=wide(before["bias"]),
        peephole=wide(before["peephole"]),
        cell_clip=CELL_CLIP if instance.clip else None,
        **instance.functions.options(),
    )
    h_at = at if h_by_slot else own[stepped]
    h = arrays["h"][h_at]
    assert_state_close(instance, instance.dtype, h, arrays["c"][at], expected)
    for name, rows in (("c", at), ("h", h_at)):
        others = [np.delete(each[name], rows, axis=0) for each in (arrays, before)]
        assert_same_bits(f"rows of {name} that take no step", *others)
    copy, more = arrays["copy"], before["input"]
    if copy is None:
        return
    assert_same_bits("copy of skipped rows", copy[~stepped], np.zeros_like(copy[~stepped]))
    if more is None:
        assert_same_bits("copy", copy[stepped], h)
    else:
        assert_sums(instance.dtype, copy[stepped], h, more[stepped])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize(
    ("name", "instance"), [pytest.param(name, i, id=f"{name}-{i}") for name in DTYPES for i in instances(name)]
)
def test_planned(planned, name, instance, schedule):
    function = planned[name].function(str(instance))
    for layout in LAYOUTS:
        arrays = random_arrays(instance, layout)
        before = copies(arrays)
        report = launch_planned(function, instance.width, arrays, layout.h_by_slot, schedule)
        assert_stepped(instance, arrays, before, layout.h_by_slot)
        assert report.checked_accesses >= layout.B * layout.vectors


@pytest.mark.parametrize("functions", OF_EXTREMES, ids=NAMES_OF_FUNCTIONS.get)
@pytest.mark.parametrize("name", ["double", "float"])
def test_planned_at_extremes(planned, name, functions):
    """Saturated, infinite, huge and NaN pre-activations give NumPy's results in the same dtype."""
    instance = next(i for i in instances(name) if i.width == 1 and i.functions == functions)
    gates, c = extreme_gates_and_c(DTYPES[name])
    peephole = np.ones((3, 1), c.dtype) if instance.peephole else None
    options = {"cell_clip": CELL_CLIP if instance.clip else None, **functions.options()}
    expected = lstm_pointwise(gates, c, peephole=peephole, **options)
    h = np.full_like(c, 7)  # not yet written
    arrays = {"gates": gates, "peephole": peephole, "c": c, "h": h}
    arrays |= dict.fromkeys(("bias", "slot_of_row", "copy", "input"))
    launch_planned(planned[name].function(str(instance)), 1, arrays, h_by_slot=False, schedule=FORWARD)
    tolerance = ARITHMETIC_TOLERANCE[name]
    assert_near("c", c, expected.c, rtol=tolerance, atol=tolerance)
    assert_near("h", h, expected.h, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("B", "N"), [(3, FAR // 4), (1, FAR)])
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("name", ["__half"])
def test_planned_with_offsets_beyond_2_to_31(planned, name, width, B, N):
    """Three rows test offsets of gates and strides. Rows of 2^30 units test offsets of a unit."""
    instance = next(i for i in instances(name) if i.width == width and i.peephole)
    random = np.random.default_rng(0)
    T, A = np.float16, np.float32
    arrays = {
        "gates": spread(A, (B, 4, width), [4 * N, N, 1]),
        "bias": spread(T, (4, width), [N, 1]),
        "peephole": spread(T, (3, width), [N, 1]),
        "c": far_apart(random, A, 3, width),
        "slot_of_row": np.array([2, 0, 1], np.int32)[:B],
        "h": far_apart(random, T, 3, width),
        "copy": far_apart(random, T, B, width),
        "input": far_apart(random, T, B, width),
    }
    for each in ("gates", "bias", "peephole"):
        arrays[each][...] = random.standard_normal(arrays[each].shape)
    before = copies(arrays)
    launch_planned(planned[name].function(str(instance)), width, arrays, h_by_slot=True, schedule=FORWARD, N=N)
    near = before | {"gates": before["gates"].reshape(B, -1), "bias": before["bias"].reshape(-1)}
    assert_stepped(instance, arrays, near, h_by_slot=True)


@pytest.fixture(scope="module")
def finish():
    return Module(KERNELS / "finish.cu", [f"lstm_finish<{name}>" for name in DTYPES], mode="check")


def launch_finish(function, arrays, limit, schedule):
    projected, h, copy, more = (matrix(arrays[name]) for name in ("projected", "h", "copy", "input"))
    B, P = projected.at.shape
    arguments = FinishArguments(projected, h, arrays["slot_of_row"], Copy(copy, more), limit, B, P)
    passed = by_value(arguments, T=h.at.dtype)
    return function(*rows_and_columns(B, P), [passed], schedule=schedule)


def assert_finished(name, arrays, before, limit):
    own = np.arange(len(before["projected"]))
    slots = own if before["slot_of_row"] is None else before["slot_of_row"]
    finished = slots >= 0
    exact = DTYPES[state_type(name)]
    clipped = np.clip(before["projected"].astype(exact), exact.type(-limit), exact.type(limit))
    want = before["h"].copy()
    want[slots[finished]] = clipped[finished].astype(want.dtype)
    assert_near("h", arrays["h"], want, rtol=0, atol=0)
    others = [np.delete(each["h"], slots[finished], axis=0) for each in (arrays, before)]
    assert_same_bits("rows of h without a step", *others)
    copy = arrays["copy"]
    if copy is None:
        return
    assert_same_bits("copy of skipped rows", copy[~finished], np.zeros_like(copy[~finished]))
    if before["input"] is None:
        assert_near("copy", copy[finished], want[slots[finished]], rtol=0, atol=0)
    else:
        assert_sums(name, copy[finished], want[slots[finished]], before["input"][finished])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("limit", [0.3, np.inf])
@pytest.mark.parametrize("where", ["in place", "apart", "slots"])
@pytest.mark.parametrize(("B", "P"), [(1, 1), (4, 127), (2, 129), (257, 2)])
def test_finish(finish, name, where, limit, B, P, schedule):
    """NaN passes. A finite limit clips infinities."""
    random = np.random.default_rng(B)
    T = DTYPES[name]
    for copy in ("none", "plain", "residual"):
        (h, to), more = columns_of_one(random, 2, B, P, T), random_array(random, (B, P), T, strided=True)
        projected = h if where == "in place" else random_array(random, (B, P), T, strided=B % 2 == 0)
        for k, special in enumerate((np.inf, -np.inf, np.nan)):
            projected[k % B, k // B % P] = special
        rows = None
        if where == "slots":
            h, rows = random_array(random, (B + 3, P), T, strided=True), some_slots(random, B, B + 3)
        arrays = {"projected": projected, "h": h, "slot_of_row": rows}
        arrays |= {"copy": None if copy == "none" else to, "input": more if copy == "residual" else None}
        before = copies(arrays)
        launch_finish(finish.function(f"lstm_finish<{name}>"), arrays, limit, schedule)
        assert_finished(name, arrays, before, limit)


def test_finish_with_offsets_beyond_2_to_31(finish):
    random = np.random.default_rng(0)
    arrays = {name: far_apart(random, np.float16, 3, 2) for name in ("projected", "h", "copy", "input")}
    arrays["slot_of_row"] = np.array([2, 0, 1], np.int32)
    before = copies(arrays)
    launch_finish(finish.function("lstm_finish<__half>"), arrays, 0.3, FORWARD)
    assert_finished("__half", arrays, before, 0.3)


@pytest.fixture(scope="module")
def reset():
    return Module(KERNELS / "reset.cu", [f"lstm_reset<{name}>" for name in DTYPES], mode="check")


def reset_values(kind, random, B, columns, dtype):
    """Return what rows are reset to: None for zeros, one row for all, or rows of a larger array."""
    if kind == "zeros":
        return None
    return random_array(random, (1 if kind == "one row" else B, columns), dtype, strided=True)


def launch_reset(function, arrays, schedule, *, clears=True):
    flags, slots, h, c = (arrays[name] for name in ("is_first", "slots", "h", "c"))
    B = len(slots) if slots is not None else len(flags) if flags is not None else len(h)
    H, C = h.shape[1], c.shape[1]
    reset_h, reset_c = (matrix(arrays[name], one_row_for_all=True) for name in ("reset_h", "reset_c"))
    arguments = ResetArguments(flags, clears, slots, matrix(h), reset_h, H, matrix(c), reset_c, C, B)
    passed = by_value(arguments, T=h.dtype)
    return function(*whole_rows(B, max(H, C)), [passed], schedule=schedule)


def assert_reset(arrays, before, B, *, clears=True):
    first = np.ones(B, bool) if before["is_first"] is None else before["is_first"]
    slots = np.arange(B) if before["slots"] is None else before["slots"]
    for name in ("h", "c"):
        want, value = before[name].copy(), before[f"reset_{name}"]
        want[slots[first]] = 0 if value is None else value[0] if len(value) == 1 else value[first]
        assert_same_bits(name, arrays[name], want)
    if arrays["is_first"] is not None:
        np.testing.assert_array_equal(arrays["is_first"], first & ~np.bool_(clears))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("values", [("zeros", "rows"), ("one row", "zeros"), ("rows", "one row")], ids=str)
@pytest.mark.parametrize(("B", "H", "C"), [(1, 1, 1), (3, 127, 2), (2, 1, 300), (5, 300, 9), (257, 3, 2)])
def test_reset(reset, name, values, B, H, C, schedule):
    """Marked rows, or all, take zeros, one row or one row each. Others keep every bit. Flags are cleared."""
    for of_slots, marked in product([False, True], repeat=2):
        random = np.random.default_rng(B)
        rows = B + 4 if of_slots else B
        T, A = DTYPES[name], DTYPES[state_type(name)]
        arrays = {
            "is_first": random.random(B) < 0.5 if marked else None,
            "slots": random.permutation(rows)[:B] if of_slots else None,
            "h": random_array(random, (rows, H), T, strided=True),
            "reset_h": reset_values(values[0], random, B, H, T),
            "c": random_array(random, (rows, C), A, strided=True),
            "reset_c": reset_values(values[1], random, B, C, A),
        }
        for a in (arrays["h"], arrays["c"]):
            a[::2, -1] = np.nan
        if marked:
            arrays["is_first"][0] = True
        before = copies(arrays)
        launch_reset(reset.function(f"lstm_reset<{name}>"), arrays, schedule)
        assert_reset(arrays, before, B)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_reset_leaves_flags_of_the_host(reset, schedule):
    random = np.random.default_rng(0)
    arrays = {"is_first": np.arange(5) % 2 == 0, "slots": None, "reset_h": None, "reset_c": None}
    arrays |= {name: random_array(random, (5, 9), np.float32) for name in ("h", "c")}
    before = copies(arrays)
    launch_reset(reset.function("lstm_reset<float>"), arrays, schedule, clears=False)
    assert_reset(arrays, before, 5, clears=False)


def test_reset_with_offsets_beyond_2_to_31(reset):
    random = np.random.default_rng(0)
    arrays = {name: far_apart(random, np.float16, 3, 2) for name in ("h", "reset_h")}
    arrays |= {name: far_apart(random, np.float32, 3, 2) for name in ("c", "reset_c")}
    arrays |= {"is_first": np.array([True, False, True]), "slots": np.array([2, 0, 1])}
    before = copies(arrays)
    launch_reset(reset.function("lstm_reset<__half>"), arrays, FORWARD)
    assert_reset(arrays, before, 3)


def gather_instance(name):
    return f"lstm_gather<{name}, {16 // DTYPES[name].itemsize}>"


@pytest.fixture(scope="module")
def gather():
    return Module(KERNELS / "gather.cu", [gather_instance(name) for name in DTYPES], mode="check")


def pool_arrays(random, sizes, name):
    """Return the arrays of a pool and of a step, without slots. Operands have gaps between rows and padding after x."""
    T, A, W = DTYPES[name], DTYPES[state_type(name)], 16 // DTYPES[name].itemsize
    H, X = sizes.vectors * W, -(-sizes.I // W) * W + W
    all_h = random_array(random, (sizes.capacity, H), T)
    all_h[::2, -1] = np.nan
    return {
        "operand": random.standard_normal((sizes.M, X + H + 2 * W)).astype(T)[:, W:-W],
        "x": random_array(random, (sizes.B, sizes.I), T, strided=True),
        "all_h": all_h,
        "c": random_array(random, (sizes.capacity, sizes.C), A),
        "is_first": None,
        "slot_of_row": np.full(sizes.M, 99, np.int32),
        "live": None,
        "claims": None,
        "problems": None,
    }


def launch_gather(function, arrays, schedule, capacity=None):
    """Launch the kernel as the CUDA backend does. Pass `capacity` if `all_h` has gaps."""
    operand, x, all_h, c = (arrays[name] for name in ("operand", "x", "all_h", "c"))
    (B, I), (M, width), (slots, H) = x.shape, operand.shape, all_h.shape
    arguments = GatherArguments(
        operand=matrix(operand),
        X=width - H,
        x=matrix(x),
        I=I,
        all_h=all_h,
        H=H,
        c=c,
        C=c.shape[1],
        **{name: arrays[name] for name in ("slots", "is_first", "slot_of_row")},
        audit=Audit(arrays["live"], arrays["claims"], TICK, arrays["problems"]),
        capacity=capacity or slots,
        B=B,
        M=M,
    )
    passed = by_value(arguments, T=x.dtype)
    return function(*whole_rows(M, max(I, H * all_h.itemsize // 16)), [passed], schedule=schedule)


def assert_gathered(arrays, before, at):
    """Check each row. `at` has its row in all_h and c, or -1."""
    operand, c = before["operand"].copy(), before["c"].copy()
    I, H = before["x"].shape[1], before["all_h"].shape[1]
    for row, slot in enumerate(at):
        if slot >= 0:
            first = before["is_first"] is not None and before["is_first"][row]
            operand[row, :I] = before["x"][row]
            operand[row, -H:] = 0 if first else before["all_h"][slot]
            if first:
                c[slot] = 0
    assert_same_bits("operand", arrays["operand"], operand)
    assert_same_bits("c", arrays["c"], c)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"B={sizes.B}")
@pytest.mark.parametrize("marked", [False, True])
def test_gather(gather, name, sizes, marked, schedule):
    """The host has checked these slots."""
    random = np.random.default_rng(sizes.B)
    arrays = pool_arrays(random, sizes, name)
    arrays["slots"] = slots = some_slots(random, sizes.B, sizes.capacity, np.int64)
    if marked:
        arrays["is_first"] = np.resize([True, False], sizes.B)
    before = copies(arrays)
    launch_gather(gather.function(gather_instance(name)), arrays, schedule)
    np.testing.assert_array_equal(arrays["slot_of_row"][: sizes.B], slots)
    assert (arrays["slot_of_row"][sizes.B :] == -1).all()
    assert_gathered(arrays, before, arrays["slot_of_row"])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"B={sizes.B}")
def test_gather_that_checks_slots(gather, name, sizes, schedule):
    """One of the rows with the same slot steps. Problems are counted, each with an example slot."""
    random = np.random.default_rng(sizes.B)
    arrays = pool_arrays(random, sizes, name)
    slots, live = with_problems(random, sizes)
    # Earlier ticks, and distant ones with as many equal bits as possible.
    claims = np.resize(np.array([0, TICK - 1, TICK % (1 << 32), TICK + (1 << 32)], np.uint64), sizes.capacity)
    problems = np.array([[1, 77], [20, 78], [300, 79]], np.uint64)
    arrays |= {"slots": slots, "live": live, "claims": claims, "problems": problems}
    arrays["is_first"] = random.random(sizes.B) < 0.5
    before = copies(arrays)
    launch_gather(gather.function(gather_instance(name)), arrays, schedule)

    wrong = [list(slots[(slots != -1) & ((slots < 0) | (slots >= sizes.capacity))])]
    inside = slots[(slots >= 0) & (slots < sizes.capacity)]
    wrong.append(list(inside[~live[inside]]))
    steppable, counts = np.unique(inside[live[inside]], return_counts=True)
    wrong.append(list(np.repeat(steppable, counts - 1)))
    for kind in (OUT_OF_RANGE, RELEASED, TWICE):
        count, slot = problems[kind]
        count_before, slot_before = before["problems"][kind]
        assert count - count_before == len(wrong[kind])
        assert slot.astype(np.int64) in wrong[kind] if wrong[kind] else slot == slot_before

    rows = arrays["slot_of_row"]
    stepped = rows[: sizes.B] >= 0
    assert sorted(rows[: sizes.B][stepped]) == list(steppable)
    np.testing.assert_array_equal(rows[: sizes.B][stepped], slots[stepped])
    assert (rows[rows < 0] == -1).all()
    assert (rows[sizes.B :] == -1).all()
    claimed = before["claims"].copy()
    claimed[steppable] = TICK
    np.testing.assert_array_equal(claims, claimed)
    assert_gathered(arrays, before, rows)


@pytest.mark.parametrize("first", [False, True])
def test_gather_with_offsets_beyond_2_to_31(gather, first):
    """Gather slots 0 and 2^28, with 8 elements each."""
    random = np.random.default_rng(0)
    far, H, C = FAR // 4, 8, 8
    arrays = {
        "operand": far_apart(random, np.float16, 3, 8 + H),
        "x": far_apart(random, np.float16, 3, 2),
        "all_h": spread(np.float16, (2, H), [far * H, 1]),
        "c": spread(np.float32, (2, C), [far * C, 1]),
        "slots": np.array([0, -1, far]),
        "is_first": np.full(3, first),
        "slot_of_row": np.full(3, 99, np.int32),
        "live": spread(np.bool_, (2,), [far]),
        "claims": spread(np.uint64, (2,), [far]),
        "problems": np.zeros((3, 2), np.uint64),
    }
    for name in ("all_h", "c"):
        arrays[name][...] = random.standard_normal(arrays[name].shape)
    arrays["live"][...], arrays["claims"][...] = True, 0
    before = copies(arrays)
    launch_gather(gather.function(gather_instance("__half")), arrays, FORWARD, capacity=far + 1)
    assert arrays["slot_of_row"].tolist() == [0, -1, far]
    assert arrays["claims"].tolist() == [TICK, TICK]
    assert not arrays["problems"].any()
    assert_gathered(arrays, before, [0, -1, 1])
