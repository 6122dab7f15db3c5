"""The kernels of sequences, emulated with every access checked: flags, and steps in which rows are reset or idle.

Steps are compared with float64. Idle rows must keep every bit of h and c.
"""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest

from fusedlstm import lstm_pointwise
from fusedlstm.backends.cuda.arguments import (
    Booleans,
    Cell,
    Copy,
    FinishArguments,
    PointwiseArguments,
    SequenceFlagsArguments,
)
from fusedlstm.backends.cuda.function_types import functions_type, zoneout_argument
from fusedlstm.functions import Functions

from emulation import FORWARD, Module
from support.emulated import needs_emulation
from support.kernel_cases import (
    ARITHMETIC_TOLERANCE,
    CELL_CLIP,
    DTYPES,
    FAR,
    GENERALS,
    ROUNDING,
    SCHEDULES,
    assert_near,
    assert_same_bits,
    assert_state_close,
    assert_sums,
    copies,
    far_apart,
    random_array,
    rows_and_columns,
    state_type,
    wide,
)
from support.places import KERNELS
from support.step_cases import (
    TILES,
    Layout,
    ProjectionLayout,
    Sizes,
    assert_projected,
    assert_stepped,
    kept,
    launch_projection,
    launch_step,
    like_others,
    project_name,
    random_projection,
    random_step,
    some_flags,
)
from support.structs import by_value, matrix

pytestmark = needs_emulation

RESET, IDLE = 1, 2


@pytest.fixture(scope="module")
def flags_of_sequence():
    return Module(KERNELS / "sequence_flags.cu", ["lstm_sequence_flags"], mode="check").function("lstm_sequence_flags")


def expected_flags(T, B, lengths, mask, is_first, *, reverse):
    """Walk through the sequences in order, one row after the other."""
    flags = np.zeros((T, B), np.uint8)
    for row in range(B):
        pending = False
        for t in range(T)[:: -1 if reverse else 1]:
            if (lengths is not None and t >= lengths[row]) or (mask is not None and not mask[t, row]):
                flags[t, row] = IDLE
                continue
            marked = is_first is not None and is_first[t, row]
            flags[t, row] = RESET if (pending if reverse else marked) else 0
            pending = marked
    return flags


def strided_booleans(random, T, B, part, *, batch_first):
    """Return booleans (T, B) with gaps between their rows and columns."""
    larger = random.random((2 * B, 3 * T) if batch_first else (2 * T, 3 * B)) < part
    return larger[::2, ::3].T if batch_first else larger[::2, ::3]


def launch_flags(function, flags, start, T, lengths, mask, is_first, schedule=FORWARD, *, reverse):
    S, B = flags.shape
    arguments = SequenceFlagsArguments(
        flags=matrix(flags),
        lengths=lengths,
        lengths_stride=0 if lengths is None else lengths.strides[0] // lengths.itemsize,
        mask=Booleans.of(mask),
        is_first=Booleans.of(is_first),
        reverse=reverse,
        start=start,
        S=S,
        T=T,
        B=B,
    )
    return function(*rows_and_columns(S, B), [by_value(arguments)], schedule=schedule)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("T", "B", "chunk"), [(1, 1, 1), (9, 3, 2), (7, 130, 7), (300, 2, 64)])
def test_flags(flags_of_sequence, T, B, chunk, reverse, schedule):
    """Chunks of any number of steps have the flags of the whole sequence. Memory between rows is not touched."""
    random = np.random.default_rng(T)
    for has_lengths, has_mask, has_first in product([False, True], repeat=3):
        lengths = random.integers(-1, T + 2, 2 * B)[::2] if has_lengths else None
        mask = strided_booleans(random, T, B, 0.6, batch_first=B % 2 == 1) if has_mask else None
        is_first = strided_booleans(random, T, B, 0.4, batch_first=B % 2 == 0) if has_first else None
        want = expected_flags(T, B, lengths, mask, is_first, reverse=reverse)
        for start in range(0, T, chunk):
            S = min(chunk, T - start)
            room = np.full((S, B + 2), 7, np.uint8)
            whole = (T, lengths, mask, is_first, schedule)
            launch_flags(flags_of_sequence, room[:, 1:-1].view(np.bool_), start, *whole, reverse=reverse)
            assert_same_bits("flags", room[:, 1:-1], want[start : start + S])
            assert (room[:, [0, -1]] == 7).all()


@pytest.mark.parametrize("lengths", [[0, 1, 9], [-(2**63), 2**63 - 1, 2**32]])
@pytest.mark.parametrize("reverse", [False, True])
def test_flags_of_extreme_lengths(flags_of_sequence, lengths, reverse):
    """Lengths that are too small or too large are clamped. Every step of a row is the first of its sequence."""
    T, is_first = 9, np.ones((9, 3), bool)
    flags = np.zeros((T, 3), bool)
    lengths = np.array(lengths)
    launch_flags(flags_of_sequence, flags, 0, T, lengths, None, is_first, reverse=reverse)
    want = expected_flags(T, 3, np.clip(lengths, 0, T), None, is_first, reverse=reverse)
    assert_same_bits("flags", flags.view(np.uint8), want)


@dataclass(frozen=True)
class Instance:
    """Template arguments of lstm_pointwise in a sequence."""

    dtype: str
    width: int
    functions: Functions
    peephole: bool
    clip: bool
    reset: bool

    def __str__(self):
        options = (self.peephole, self.clip, self.reset, True)
        flags = ", ".join(str(flag).lower() for flag in options)
        types = f"{state_type(self.dtype)}, {self.dtype}, {self.width}"
        return f"lstm_pointwise<{types}, {functions_type(self.functions)}, {flags}>"


def instances(name):
    """Return both widths, with and without flags. Options and functions take turns."""
    k = list(DTYPES).index(name)
    return [
        Instance(name, 1, GENERALS[k], True, False, True),
        Instance(name, 4, Functions(), False, True, True),
        Instance(name, 4, GENERALS[k + 4], True, True, True),
        Instance(name, 4, Functions(), False, False, False),
        Instance(name, 1, Functions(), True, True, False),
    ]


@pytest.fixture(scope="module")
def sequence_pointwise():
    return {name: Module(KERNELS / "pointwise.cu", list(map(str, instances(name))), mode="check") for name in DTYPES}


@dataclass(frozen=True)
class StepLayout:
    """The arrays of a step: their sizes, which of them are passed, and the rows' flags."""

    B: int
    vectors: int  # N divided by the width
    strided: bool  # the arrays are columns of larger ones
    bias: bool
    copy: str  # "none", "plain" or "residual"
    last: bool  # whether idle rows repeat their last output
    reset_gates: int  # rows of it: none, one for all, or one each
    reset_c: int
    flags: str = "any"  # of all rows: "any", or one of NUMBERS


NUMBERS = {"none": 0, "reset": RESET, "idle": IDLE, "both": RESET + IDLE}
LAYOUTS = [
    StepLayout(5, 127, strided=True, bias=True, copy="residual", last=True, reset_gates=5, reset_c=1),
    StepLayout(257, 1, strided=True, bias=False, copy="plain", last=True, reset_gates=0, reset_c=257),
    StepLayout(2, 129, strided=False, bias=True, copy="residual", last=False, reset_gates=1, reset_c=0),
    StepLayout(3, 3, strided=True, bias=True, copy="none", last=False, reset_gates=3, reset_c=3),
    *(
        StepLayout(
            3, 2, strided=True, bias=True, copy="residual", last=k % 2 == 0, reset_gates=0, reset_c=0, flags=kind
        )
        for k, kind in enumerate(NUMBERS)
    ),
]


def random_arrays(instance, layout):
    """Return arrays of a step. What no row may read is NaN: gates of idle rows, and old states of reset ones."""
    random = np.random.default_rng(layout.B)
    B, N, strided = layout.B, layout.vectors * instance.width, layout.strided
    T, A = DTYPES[instance.dtype], DTYPES[state_type(instance.dtype)]
    arrays = {
        "gates": random_array(random, (B, 4 * N), A, strided=strided),
        "gates_h": random_array(random, (B, 4 * N), A, strided=strided),
        "bias": random_array(random, (4 * N,), T) if layout.bias else None,
        "peephole": random_array(random, (3, N), T) if instance.peephole else None,
        "c": random_array(random, (B, N), A, strided=strided),
        "flags": None,
        "reset_gates": random_array(random, (layout.reset_gates, 4 * N), A) if layout.reset_gates else None,
        "reset_c": random_array(random, (layout.reset_c, N), A) if layout.reset_c else None,
        "h": random_array(random, (B, N), T, strided=strided),
        "copy": None if layout.copy == "none" else random_array(random, (B, N), T, strided=strided),
        "input": random_array(random, (B, N), T, strided=strided) if layout.copy == "residual" else None,
        "last": random_array(random, (B, N + 4), T, strided=strided)[:, 4:] if layout.last else None,
    }
    if instance.reset:
        flags = some_flags(random, B) if layout.flags == "any" else np.full(B, NUMBERS[layout.flags], np.uint8)
        arrays["flags"] = flags.view(np.bool_)
        resets, idles = states_of_rows(arrays)
        for name, rows in (("gates", idles), ("gates_h", idles | resets), ("input", idles), ("c", resets)):
            if arrays[name] is not None:
                arrays[name][rows] = np.nan
    return arrays


def states_of_rows(arrays):
    """Return which rows are reset, and which are idle."""
    if arrays["flags"] is None:
        return np.zeros((2, len(arrays["h"])), bool)
    flags = arrays["flags"].view(np.uint8)
    return flags == RESET, flags & IDLE > 0


def launch_in_sequence(function, width, arrays, schedule=FORWARD, N=None):
    """Launch lstm_pointwise as the CUDA backend does in a sequence. With N, only the first columns have threads."""
    B, units = arrays["c"].shape
    arguments = PointwiseArguments(
        gates=matrix(arrays["gates"]),
        gates_h=matrix(arrays["gates_h"]),
        cell=Cell(arrays["bias"], arrays["peephole"], clip=CELL_CLIP, N=N or units),
        c=matrix(arrays["c"]),
        is_first=arrays["flags"],
        reset_gates=matrix(arrays["reset_gates"], one_row_for_all=True),
        reset_c=matrix(arrays["reset_c"], one_row_for_all=True),
        h=matrix(arrays["h"]),
        c_out=matrix(arrays["c"]),
        B=B,
        copy=Copy(matrix(arrays["copy"]), matrix(arrays["input"])),
        last=matrix(arrays["last"]),
    )
    passed = by_value(arguments, G=arrays["gates"].dtype, T=arrays["h"].dtype)
    return function(*rows_and_columns(B, -(-units // width)), [passed], schedule=schedule)


def assert_in_sequence(instance, arrays, before):
    """Assert that a step did to each row what its flags say."""
    resets, idles = states_of_rows(before)
    steps, reset = ~idles, resets[:, None]
    gates_h = np.where(reset, 0.0 if before["reset_gates"] is None else before["reset_gates"], before["gates_h"])
    c = np.where(reset, 0.0 if before["reset_c"] is None else before["reset_c"], before["c"])
    expected = lstm_pointwise(
        (wide(before["gates"]) + wide(gates_h))[steps],
        wide(c)[steps],
        bias=wide(before["bias"]),
        peephole=wide(before["peephole"]),
        cell_clip=CELL_CLIP if instance.clip else None,
        **instance.functions.options(),
    )
    assert_state_close(instance, instance.dtype, arrays["h"][steps], arrays["c"][steps], expected)
    for name in ("h", "c"):
        assert_same_bits(f"{name} of idle rows", arrays[name][idles], before[name][idles])
    assert_outputs(instance.dtype, arrays, before, steps)
    if before["flags"] is not None:
        assert_same_bits("flags", arrays["flags"], before["flags"])


def assert_outputs(name, arrays, before, steps):
    """Assert that the copy has h, plus a residual layer's input, and for other rows zeros or their last output."""
    copy, more, last = arrays["copy"], before["input"], before["last"]
    if copy is None:
        return
    assert_same_bits("copy of idle rows", copy[~steps], (np.zeros_like(copy) if last is None else last)[~steps])
    if more is None:
        assert_same_bits("copy", copy[steps], arrays["h"][steps])
    else:
        assert_sums(name, copy[steps], arrays["h"][steps], more[steps])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize(
    ("name", "instance"), [pytest.param(name, i, id=f"{name}-{i}") for name in DTYPES for i in instances(name)]
)
def test_step_after_a_product(sequence_pointwise, name, instance, schedule):
    """lstm_pointwise uses the flags, writes the copy, and lets idle rows repeat their last output."""
    for layout in LAYOUTS:
        arrays = random_arrays(instance, layout)
        before = copies(arrays)
        launch_in_sequence(sequence_pointwise[name].function(str(instance)), instance.width, arrays, schedule)
        assert_in_sequence(instance, arrays, before)


@pytest.mark.parametrize("width", [1, 4])
def test_step_after_a_product_beyond_2_to_31(sequence_pointwise, width):
    """Rows have 2^30 units, but only the first vector of each exists. Indices of every array exceed 32 bits."""
    instance = next(i for i in instances("__half") if i.width == width and i.reset and i.peephole)
    random, B = np.random.default_rng(0), 3
    gates = {name: far_apart(random, np.float32, B, 4, width) for name in ("gates", "gates_h", "reset_gates")}
    arrays = gates | {name: far_apart(random, np.float32, B, width) for name in ("c", "reset_c")}
    arrays |= {name: far_apart(random, np.float16, B, width) for name in ("h", "copy", "input", "last")}
    arrays |= {"bias": far_apart(random, np.float16, 4, width), "peephole": far_apart(random, np.float16, 3, width)}
    for flag in (0, RESET, IDLE):
        arrays["flags"] = np.full(B, flag, np.uint8).view(np.bool_)
        before = copies(arrays)
        launch_in_sequence(sequence_pointwise["__half"].function(str(instance)), width, arrays, N=FAR)
        near = before | {name: before[name].reshape(B, -1) for name in gates} | {"bias": before["bias"].reshape(-1)}
        assert_in_sequence(instance, arrays, near)


LIMIT, PART = 0.4, 0.3


def finish_name(name, part):
    return f"lstm_finish<{name}{zoneout_argument(part, then=True)}>"


@pytest.fixture(scope="module")
def finish():
    names = [finish_name(name, part) for name in DTYPES for part in (0.0, PART)]
    module = Module(KERNELS / "finish.cu", names, mode="check")
    return {name: module.function(name) for name in names}


def launch_finish(function, arrays, schedule=FORWARD):
    B, P = arrays["projected"].shape
    arguments = FinishArguments(
        projected=matrix(arrays["projected"]),
        h=matrix(arrays["h"]),
        slot_of_row=None,
        copy=Copy(matrix(arrays["copy"]), matrix(arrays["input"])),
        limit=LIMIT,
        B=B,
        P=P,
        old_h=matrix(arrays["h"]),
        flags=arrays["flags"],
        reset_h=matrix(arrays["reset_h"], one_row_for_all=True),
        last=matrix(arrays["last"]),
    )
    return function(*rows_and_columns(B, P), [by_value(arguments, T=arrays["h"].dtype)], schedule=schedule)


def assert_finished(name, part, arrays, before):
    resets, idles = states_of_rows(before)
    steps = ~idles
    old = np.where(resets[:, None], 0.0 if before["reset_h"] is None else before["reset_h"], before["h"])
    want = kept(part, wide(old), np.clip(wide(before["projected"]), -LIMIT, LIMIT))[steps]
    tolerance = ARITHMETIC_TOLERANCE[state_type(name)] + ROUNDING[name]  # of the clipped number and of the sum
    assert_near("h", arrays["h"][steps], want, rtol=ROUNDING[name], atol=tolerance)
    assert_same_bits("h of idle rows", arrays["h"][idles], before["h"][idles])
    assert_outputs(name, arrays, before, steps)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("part", [0.0, PART])
@pytest.mark.parametrize("name", DTYPES)
def test_end_of_a_step(finish, name, part, schedule):
    """lstm_finish runs after a projection, or with zoneout of h."""
    T = DTYPES[name]
    cases = [("residual", True, 5), ("plain", False, 0), ("residual", False, 1), ("none", True, 5)]
    for (copy, repeats, reset_rows), (B, P), flags in zip(
        cases, [(5, 129), (257, 2), (4, 3), (5, 1)], [some_flags, some_flags, None, some_flags], strict=True
    ):
        random = np.random.default_rng(B)
        names = ("projected", "h", "copy", "input", "last")
        arrays = {each: random_array(random, (B, P), T, strided=True) for each in names}
        arrays["reset_h"] = random_array(random, (reset_rows, P), T, strided=True) if reset_rows else None
        arrays["flags"] = flags and flags(random, B)
        resets, idles = states_of_rows(arrays)
        arrays["projected"][idles] = arrays["input"][idles] = arrays["h"][resets] = np.nan
        absent = [*(["copy", "input"] if copy == "none" else ["input"] if copy == "plain" else [])]
        arrays |= dict.fromkeys([*absent, *([] if repeats else ["last"])])
        before = copies(arrays)
        launch_finish(finish[finish_name(name, part)], arrays, schedule)
        assert_finished(name, part, arrays, before)


def test_end_of_a_step_beyond_2_to_31(finish):
    random = np.random.default_rng(0)
    names = ("projected", "h", "copy", "input", "last", "reset_h")
    arrays = {each: far_apart(random, np.float16, 3, 2) for each in names}
    for flag in (RESET, IDLE):
        arrays["flags"] = np.full(3, flag, np.uint8).view(np.bool_)
        before = copies(arrays)
        launch_finish(finish[finish_name("__half", PART)], arrays)
        assert_finished("__half", PART, arrays, before)


# The smallest tiles, for tensor cores and for fma, and the tiles with most rows for a warp to copy.
SMALLEST = [("small8", "__half"), ("simt16", "double")]
TILE_CASES = [*SMALLEST, ("large", "__nv_bfloat16"), ("medium", "float")]
ZONEOUT = Functions(zoneout_c=0.2, zoneout_h=PART)


def idle_instances(tile, name):
    """Return instances with idle rows: with all options, with projection, and with zoneout of h."""
    plain = replace(like_others(tile, name), idle=True)
    projects = replace(plain, project=True)
    return [plain, projects, replace(plain, functions=ZONEOUT), replace(projects, functions=ZONEOUT)]


@pytest.fixture(scope="module")
def steps(request):
    """Return functions of lstm_step for the tiles of the selected tests, by name."""
    tests = [item for item in request.session.items if "steps" in getattr(item, "fixturenames", ())]
    cases = dict.fromkeys(
        (t.callspec.params["tile"], t.callspec.params["name"]) for t in tests if t.module is request.module
    )
    names = [str(each) for case in cases for each in idle_instances(*case)]
    module = Module(KERNELS / "step.cu", names, mode="check")
    return {name: module.function(name) for name in names}


def idle_layouts(instance):
    """Return layouts with idle rows at the edges of a tile, with h in several blocks of units or of columns."""
    R, U, W = instance.shape.rows, instance.shape.units, instance.width

    def sizes(B, I, N, P=None):
        N += -N % W
        return Sizes(B, I, N, P + -P % W if P else N)

    if instance.project:
        shapes = [sizes(R + 3, 5, 2 * U + 1, 4 * U + 1), sizes(R - 1, 9, 3, 2)]
    elif instance.functions.zoneout_h:
        shapes = [sizes(R + 3, 5, 2 * U + 1), sizes(R - 1, 9, 3)]
    else:  # P differs from N where project.cu follows: then `out` is m
        shapes = [sizes(R + 3, 5, 2 * U + 1), sizes(R + 1, 9, U + 1, 35), sizes(R - 1, 3, 40, 4)]
    resets, copies_of = [("rows", "one row"), ("zeros", "rows"), ("one row", "zeros")], ["residual", "plain", "plain"]
    return [
        Layout(shape, "in place", copy=copy, reset=reset, idle=("last", "zeros", "last")[k])
        for k, (shape, reset, copy) in enumerate(zip(shapes, resets, copies_of, strict=False))
    ]


@pytest.mark.sampled
@pytest.mark.parametrize("kind", range(4), ids=["plain", "projects", "zoneout", "projects with zoneout"])
@pytest.mark.parametrize(("tile", "name"), TILE_CASES)
def test_idle_rows_of_a_step(steps, tile, name, kind):
    """lstm_step copies the h of idle rows to the other buffer. Their c stays."""
    instance = idle_instances(tile, name)[kind]
    for layout in idle_layouts(instance):
        step = random_step(instance, layout)
        before = step.copy()
        launch_step(steps[str(instance)], instance, step, layout.sizes)
        assert_stepped(instance, step, before)


@pytest.mark.parametrize(("tile", "name"), SMALLEST)
def test_rows_that_are_all_idle(steps, tile, name):
    instance = idle_instances(tile, name)[0]
    for layout in idle_layouts(instance):
        step = random_step(instance, layout)
        step.arrays["is_first"].view(np.uint8)[...] = IDLE
        before = step.copy()
        launch_step(steps[str(instance)], instance, step, layout.sizes)
        assert_stepped(instance, step, before)


@pytest.fixture(scope="module")
def projections():
    """Return functions of lstm_project with idle rows, by tile, dtype and the part of h to keep."""
    names = {
        (*case, part): project_name(TILES[case[0]][0], case[1], like_others(*case).width, part, idle=True)
        for case in SMALLEST
        for part in (0.0, PART)
    }
    module = Module(KERNELS / "project.cu", list(names.values()), mode="check")
    return {case: module.function(name) for case, name in names.items()}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("part", [0.0, PART])
@pytest.mark.parametrize(("tile", "name"), SMALLEST)
def test_idle_rows_of_a_projection(projections, tile, name, part, schedule):
    """lstm_project doesn't write the h of idle rows, as lstm_step has copied it."""
    shape, width = TILES[tile][0], like_others(tile, name).width
    for B, copy in ((2 * shape.rows + 1, "residual"), (2 * shape.rows + 2, "plain")):
        layout = ProjectionLayout(
            B, 7, 8 * shape.units + 2, pool=False, copy=copy, limit=LIMIT, zoneout=part, idle=True
        )
        projection = random_projection(tile, name, width, layout)
        before = projection.copy()
        launch_projection(projections[tile, name, part], tile, projection, layout, schedule)
        assert_projected(tile, name, projection, before, layout)
