"""For tests of step.cu and project.cu: interleaved weights, tiles, and launches like the CUDA backend's."""

from dataclasses import dataclass, replace

import numpy as np

from fusedlstm import lstm_pointwise
from fusedlstm.backends.cuda import tiles
from fusedlstm.backends.cuda.arguments import Cell, Copy, ProjectArguments, Rows, SlotRows, StepArguments
from fusedlstm.backends.cuda.function_types import functions_type, zoneout_argument
from fusedlstm.functions import Functions

from emulation import FORWARD
from support.kernel_cases import (
    CELL_CLIP,
    DTYPES,
    GENERALS,
    PLAINS,
    ROUNDING,
    assert_all,
    assert_same_bits,
    assert_sums,
    state_type,
)
from support.structs import by_value, matrix

# Dtypes by their names in C. Tensor-core tiles multiply float as TF32. Tiles with a stage less are tested in one dtype.
TILES = {
    "large": (tiles.TENSOR_LARGE, ("__half", "__nv_bfloat16", "float")),
    "medium": (tiles.TENSOR_MEDIUM, ("__half", "__nv_bfloat16", "float")),
    "small8": (tiles.TENSOR_SMALL_8, ("__half", "__nv_bfloat16", "float")),
    "small32": (tiles.TENSOR_SMALL_32, ("__half", "__nv_bfloat16", "float")),
    "simt": (tiles.SIMT_LARGE, ("float",)),
    "simt64": (tiles.SIMT_LARGE_FLOAT64, ("double",)),
    "simt_medium": (tiles.SIMT_MEDIUM, ("float", "double")),
    "simt16": (tiles.SIMT_SMALL, ("float", "double")),
    "medium3": (tiles.TENSOR_MEDIUM_SHORT, ("__half",)),
    "small8_3": (tiles.TENSOR_SMALL_8_SHORT, ("__half",)),
    "simt_medium3": (tiles.SIMT_MEDIUM_SHORT, ("float",)),
    "wide": (tiles.TENSOR_WIDE, ("__half", "__nv_bfloat16", "float")),
}
# Tiles with another's template: their instances have the same options as its.
LIKE = {"medium3": "medium", "small8_3": "small8", "simt_medium3": "simt_medium", "wide": "large"}
TILE_CASES = [(tile, name) for tile, (_, names) in TILES.items() for name in names]
# For c, which sums hundreds of products, and for TF32, whose inputs the test doesn't round.
TOLERANCE = {"double": 1e-13, "float": 4e-6}
TF32_TOLERANCE = 3e-3
TICK = 7
PROJ_CLIP = 0.6

# A dtype has fewer instances than functions, so the 16-bit dtypes start elsewhere in the list.
FIRST_GENERAL = {"double": 1, "float": 0, "__half": 2, "__nv_bfloat16": 7}


@dataclass(frozen=True)
class Sizes:
    """The sizes of a step. P is the width of h."""

    B: int
    I: int
    N: int
    P: int


@dataclass(frozen=True)
class Instance:
    """Template arguments of lstm_step, with the tile by its name in TILES."""

    tile: str
    dtype: str
    functions: Functions
    peephole: bool
    clip: bool
    aligned: bool
    width: int
    project: bool = False
    idle: bool = False

    def __str__(self):
        return step_name(self.shape, self.dtype, *self.options)

    @property
    def shape(self):
        return TILES[self.tile][0]

    @property
    def options(self):
        return self.functions, self.peephole, self.clip, self.project, self.aligned, self.width, self.idle

    @property
    def tf32(self):
        return self.dtype == "float" and self.shape.pairs


def step_name(tile, name, functions, peephole, clip, project, aligned, width, idle):
    flags = ", ".join(str(flag).lower() for flag in (peephole, clip, project, aligned))
    last = ", true" if idle else ""
    return f"lstm_step<{tile.c_name(DTYPES[name])}, {functions_type(functions)}, {flags}, {width}{last}>"


def project_name(tile, name, width, zoneout=0.0, *, idle=False):
    return f"lstm_project<{tile.c_name(DTYPES[name])}, {width}{zoneout_argument(zoneout, then=idle)}>"


def _instances():
    """Return all tiles and dtypes, with aligned and unaligned rows, at both widths if there are two.

    In each dtype the functions take turns, starting with those of one activation. So do the options.
    """
    found = []
    for tile, name in TILE_CASES:
        if tile in LIKE:
            found += [replace(each, tile=tile) for each in found if (each.tile, each.dtype) == (LIKE[tile], name)]
            continue
        shape = TILES[tile][0]
        pairs = [(True, 2), (False, 1), (True, 1)] if shape.pairs else [(True, 1), (False, 1), (True, 1)]
        for aligned, width in pairs:
            k = sum(each.dtype == name for each in found)
            general = k - len(PLAINS)
            functions = PLAINS[k] if general < 0 else GENERALS[(general + FIRST_GENERAL[name]) % len(GENERALS)]
            options = ((k + k // 6) % 2 == 0, k // 2 % 2 == 0)
            found.append(Instance(tile, name, functions, *options, aligned, width))
    return found


INSTANCES = _instances()
# Tiles that give a row the same bits, with their dtypes. No other has more units than the first.
FAMILIES = {
    "small": (("small8", "small32", "small8_3"), ("__half", "__nv_bfloat16", "float")),
    "tensor": (("wide", "large", "medium", "medium3"), ("__half", "__nv_bfloat16", "float")),
    "simt": (("simt", "simt_medium", "simt16", "simt_medium3"), ("float",)),
    "simt64": (("simt64", "simt_medium", "simt16"), ("double",)),
}
FAMILY_CASES = [(family, name) for family, (_, names) in FAMILIES.items() for name in names]


def tiles_of_family(family, name):
    return [tile for tile in FAMILIES[family][0] if name in TILES[tile][1]]


def like_others(tile, name):
    """Return an instance that every tile and dtype has: all options, aligned rows, the widest vectors."""
    return Instance(tile, name, Functions(), True, True, True, 2 if TILES[tile][0].pairs else 1)


# Instances that project m themselves, one for each tile and dtype, with aligned and unaligned rows in turn.
PROJECTING = [
    replace(like_others(*case), project=True, **({} if k % 2 == 0 else {"aligned": False, "width": 1}))
    for k, case in enumerate(TILE_CASES)
]


@dataclass(frozen=True)
class Layout:
    """The sizes of a step and the layout of its arrays. If it projects, N is the width of m alone.

    Args:
        sizes: the step's.
        where: the place of the new c: "apart" or "in place"; or "pool", with slots. In a pool, `out` is the
            pool's h with P = N or, with "m apart", a separate array for a projection to read.
        bias: whether there is a bias.
        copy: "none", "plain" or "residual".
        reset: the new h and c of reset rows: "zeros", "one row" or "rows"; None without resets.
        readers: whether flags are cleared.
        idle: what the copies of idle rows get, "zeros" or "last"; None without idle rows. With them, c is in place.
    """

    sizes: Sizes
    where: str
    bias: bool = True
    copy: str = "none"
    reset: tuple[str, str] | None = None
    readers: bool = False
    idle: str | None = None

    @property
    def pool(self):
        return self.where.startswith("pool")


def step_layouts(instance):
    """Return sizes around all edges of a tile: rows and units of a block, tiles of K, and tiles being copied."""
    R, U, E = instance.shape.rows, instance.shape.units, tiles.ROW_BYTES // DTYPES[instance.dtype].itemsize
    W = instance.width
    stages = instance.shape.stages * instance.shape.pipelines

    def sizes(B, I, N, P=None):
        N += -N % W
        return Sizes(B, I, N, P or N)

    rows = 3 * R + 2 if R <= 32 else R + 2
    return [
        Layout(sizes(1, 1, 1), "apart"),
        Layout(sizes(R - 1, E + 1, U - 1), "in place", False, "residual", ("rows", "rows"), readers=True),
        Layout(sizes(R, 2 * E, 2 * U + 1), "pool", True, "residual", ("zeros", "rows"), readers=True),
        Layout(sizes(R + 1, 4 * E + 3, U), "apart", True, "plain", ("one row", "one row")),
        Layout(sizes(R + 1, 3, U + 1, E - 1), "pool, m apart", True, "none", ("rows", "zeros"), readers=True),
        Layout(sizes(rows, E - 1, 3), "pool", False, "plain"),
        Layout(sizes(7, E // 2, 8, 2 * E + 1), "in place", True, "plain", ("zeros", "one row"), readers=True),
        Layout(sizes(9, (stages + 1) * E + 1, 5, 3 * E + 2), "pool, m apart", True, "residual", ("one row", "zeros")),
    ]


def projecting_layouts(instance):
    """Return layouts like those of `step_layouts`, with several tiles of units and of columns in a block."""
    R, U, E = instance.shape.rows, instance.shape.units, tiles.ROW_BYTES // DTYPES[instance.dtype].itemsize
    W = instance.width

    def sizes(B, I, N, P):
        return Sizes(B, I, N + -N % W, P + -P % W)

    return [
        Layout(sizes(1, 1, 1, 1), "apart"),
        Layout(
            sizes(R - 1, E + 1, 2 * U + 1, 4 * U - 1), "in place", False, "residual", ("rows", "rows"), readers=True
        ),
        Layout(sizes(R + 1, 5, 5 * E + 3, 5), "pool", True, "residual", ("zeros", "one row"), readers=True),
        Layout(sizes(9, E, U, 4 * U + 1), "pool", True, "plain"),
    ]


def to_tf32(a):
    """Return the nearest numbers with 10-bit mantissas. Ties round away from zero."""
    bits = (a.astype(np.float32).view(np.uint32).astype(np.uint64) + 0x1000) & 0xFFFFE000
    return np.where(np.isfinite(a), bits.astype(np.uint32).view(np.float32), a)


def whole_tiles(columns, dtype):
    each = tiles.ROW_BYTES // dtype.itemsize
    return -(-columns // each) * each


def interleaved(weight_ih, weight_hh, units):
    """Return weights (4N, I) and (4N, P), interleaved as the kernel reads them, by tiles of this many units or 32."""
    (rows, I), P, dtype = weight_ih.shape, weight_hh.shape[1], weight_ih.dtype
    N, KX = rows // 4, whole_tiles(I, dtype)
    packed = np.zeros((padded_rows(4 * N, units), KX + whole_tiles(P, dtype)), dtype)
    for unit in range(N):
        for gate in range(4):
            to = packed[unit // 8 * 32 + gate * 8 + unit % 8]
            to[:I] = weight_ih[gate * N + unit]
            to[KX : KX + P] = weight_hh[gate * N + unit]
    return packed


def padded_rows(rows, units):
    each = 4 * max(units, 32)
    return -(-rows // each) * each


def padded_projection(weight_hr, units):
    (P, N), dtype = weight_hr.shape, weight_hr.dtype
    packed = np.zeros((padded_rows(P, units), whole_tiles(N, dtype)), dtype)
    packed[:P, :N] = weight_hr
    return packed


def each_16_bytes(dtype):
    return 16 // dtype.itemsize


def columns_of(random, B, width, dtype, multiple):
    """Return a matrix (B, width) within a larger one of NaN. Rows begin at odd multiples of `multiple` elements.

    If `multiple` is 16 bytes, rows begin at any multiple.
    """
    each = each_16_bytes(dtype)
    extra = multiple % each
    room = (-(-width // each) + 2) * each + extra
    flat = np.full(B * room + 2 * each, np.nan, dtype)
    start = -(flat.ctypes.data // dtype.itemsize) % each + extra
    larger = flat[start : start + B * room].reshape(B, room)
    larger[:, :width] = random.standard_normal((B, width))
    return larger[:, :width]


def some_slots(random, B, capacity):
    """Return a different slot for each row. Every fourth row, from the third on, has -1."""
    slots = random.permutation(capacity)[:B].astype(np.int64)
    slots[2::4] = -1
    return slots


def some_words(random, capacity, tick=TICK):
    """Return words with ticks before this one, of both parities."""
    return (2 * random.integers(0, tick, capacity) + random.integers(0, 2, capacity)).astype(np.uint64)


@dataclass
class Step:
    """One launch's arrays by parameter name, and the weights before interleaving."""

    arrays: dict
    weight_ih: np.ndarray
    weight_hh: np.ndarray
    weight_hr: np.ndarray | None = None

    def copy(self):
        """Return a copy of all arrays, to keep their content from before a launch."""
        return replace(self, arrays={k: None if a is None else a.copy() for k, a in self.arrays.items()})


def reset_rows(kind, random, B, columns, dtype, multiple):
    if kind == "zeros":
        return None
    return columns_of(random, 1 if kind == "one row" else B, columns, dtype, multiple)


def random_step(instance, layout, seed=None):
    """Return random arrays for a step. Rows that no kernel may read are NaN in x, the input and old states."""
    s = layout.sizes
    B, I, N, P, W = s.B, s.I, s.N, s.P, instance.width
    random = np.random.default_rng(B if seed is None else seed)
    T, A = DTYPES[instance.dtype], DTYPES[state_type(instance.dtype)]
    of_operand = each_16_bytes(T) if instance.aligned else 1
    of_h = max(of_operand, W) if layout.where == "pool" else of_operand  # out, too, is the pool's h
    capacity = B + 5
    scale = 1 / np.sqrt(I + P)
    of_out, weight_hr = (P if instance.project else N), None
    weight_ih, weight_hh = ((scale * random.standard_normal((4 * N, width))).astype(T) for width in (I, P))
    round_weights = (lambda a: to_tf32(a).astype(T)) if instance.tf32 else (lambda a: a)
    a = {
        "x": columns_of(random, B, I, T, of_operand),
        "h": columns_of(random, B, P, T, of_h),
        "c": columns_of(random, capacity if layout.pool else B, N, A, W),
        "slots": None,
        "words": None,
        "is_first": None,
        "readers": None,
        "reset_h": None,
        "reset_c": None,
        "weight": interleaved(round_weights(weight_ih), round_weights(weight_hh), instance.shape.units),
        "bias": random.standard_normal(4 * N).astype(T) if layout.bias else None,
        "peephole": random.standard_normal((3, N)).astype(T) if instance.peephole else None,
        "copy": None if layout.copy == "none" else columns_of(random, B, of_out, T, W),
        "input": columns_of(random, B, of_out, T, W) if layout.copy == "residual" else None,
        "projection": None,
    }
    if instance.project:
        weight_hr = (random.standard_normal((P, N)) / np.sqrt(N)).astype(T)
        a["projection"] = padded_projection(round_weights(weight_hr), instance.shape.units)
    if layout.pool:
        a["slots"], a["words"] = some_slots(random, B, capacity), some_words(random, capacity)
        a["h"] = columns_of(random, 2 * capacity, P, T, of_h).reshape(capacity, 2, P)
        a["x"][a["slots"] < 0] = np.nan
        if a["input"] is not None:
            a["input"][a["slots"] < 0] = np.nan
    a["c_out"] = columns_of(random, len(a["c"]), N, A, W) if layout.where == "apart" else a["c"]
    a["out"] = a["h"] if layout.where == "pool" else columns_of(random, B, of_out, T, W)
    if layout.reset:
        a["is_first"] = random.random(B) < 0.5
        a["is_first"][0] = True
        if layout.idle:
            a["is_first"] = some_flags(random, B)
        a["reset_h"] = reset_rows(layout.reset[0], random, B, P, T, of_operand)
        a["reset_c"] = reset_rows(layout.reset[1], random, B, N, A, W)
        first = a["is_first"] & ~idle_rows(a)
        if layout.pool:
            first &= a["slots"] >= 0
        if layout.pool:
            at = a["slots"][first]
            a["h"][at, parities(a["words"][at])] = a["c"][at] = np.nan
        else:
            a["h"][first] = a["c"][first] = np.nan
    if layout.readers:
        a["readers"] = np.zeros(instance.shape.grid(B, N)[0], np.uint32)
    if layout.idle:
        a["x"][idle_rows(a)] = np.nan
        if a["input"] is not None:
            a["input"][idle_rows(a)] = np.nan
        a["next_h"] = a["out"] if of_out == P else columns_of(random, B, P, T, 1)
        a["last"] = columns_of(random, B, of_out, T, W) if layout.idle == "last" else None
    return Step(a, weight_ih, weight_hh, weight_hr)


def some_flags(random, B):
    """Return flags of kernels/flags.cuh: the first row is reset, the last one idle, and the others anything."""
    flags = random.integers(0, 4, B).astype(np.uint8)
    flags[0], flags[-1] = 1, 2
    return flags.view(np.bool_)


def idle_rows(arrays):
    """Return which rows the flags make idle. Plain booleans make none."""
    return arrays["is_first"].view(np.uint8) & 2 > 0


def takes_step(arrays, B):
    """Return which rows take a step: those with a slot that are not idle."""
    slots, flags = (arrays.get(name) for name in ("slots", "is_first"))
    own = np.ones(B, bool) if slots is None else slots >= 0
    return own if flags is None else own & ~idle_rows(arrays)


def parities(words):
    return (words & np.uint64(1)).astype(np.int64)


def flat(array):
    """Return the rows of a matrix, or of a pool's h."""
    return array.reshape(-1, array.shape[-1]) if array.ndim == 3 else array


def launch_step(
    function,
    instance,
    step,
    sizes,
    schedule=FORWARD,
    *,
    tick=TICK,
    flips=True,
    cell_clip=CELL_CLIP,
    proj_clip=PROJ_CLIP,
    co_resident=4,
    trace=False,
):
    """Launch lstm_step as the CUDA backend does, and return the emulator's report."""
    a, tile = step.arrays, instance.shape
    arguments = StepArguments(
        rows=Rows(
            **{name: matrix(flat(a[name])) for name in ("x", "h", "c", "c_out", "out")},
            out_by_slot=a["out"].ndim == 3,
            pool=SlotRows(a["slots"], a["words"], tick, flips),
            is_first=a["is_first"],
            reset_h=matrix(a["reset_h"], one_row_for_all=True),
            reset_c=matrix(a["reset_c"], one_row_for_all=True),
            B=sizes.B,
        ),
        readers=a["readers"],
        weight=matrix(a["weight"]),
        cell=Cell(a["bias"], a["peephole"], cell_clip, sizes.N),
        copy=Copy(matrix(a["copy"]), matrix(a["input"])),
        projection=matrix(a["projection"]),
        proj_clip=proj_clip,
        I=sizes.I,
        P=sizes.P,
        next_h=matrix(a.get("next_h")),
        last=matrix(a.get("last")),
    )
    passed = by_value(arguments, T=DTYPES[instance.dtype])
    shared_mem = tile.shared_bytes + (tile.bytes_of_m(sizes.N, a["x"].dtype) if instance.project else 0)
    options = {"shared_mem": shared_mem, "schedule": schedule, "co_resident": co_resident, "trace": trace}
    return function(tile.grid(sizes.B, 1 if instance.project else sizes.N), (tile.threads,), [passed], **options)


def selected(old, first, value, stepped):
    """Return the rows of a state, with the marked rows reset."""
    if first is not None:
        new = np.zeros_like(old) if value is None else np.broadcast_to(value[0], old.shape)
        if value is not None and len(value) > 1:
            new = value[stepped]
        old = np.where(first[stepped][:, None], new, old)
    return old.astype(np.float64)


def expected_step(instance, before, *, rounded=True, cell_clip=CELL_CLIP):
    """Return the rows that step, their slots, m and c in float64, and the old h as given.

    `rounded` rounds inputs to TF32 if the tile does.
    """
    a = before.arrays
    B = len(a["x"])
    slots = np.arange(B) if a["slots"] is None else a["slots"]
    stepped = takes_step(a, B)
    at = slots[stepped]
    h = a["h"][at] if a["words"] is None else a["h"][at, parities(a["words"][at])]
    h = old_h = selected(h, a["is_first"], a["reset_h"], stepped)
    c = selected(a["c"][at], a["is_first"], a["reset_c"], stepped)
    x, weight_ih, weight_hh = (
        each.astype(np.float64) for each in (a["x"][stepped], before.weight_ih, before.weight_hh)
    )
    if instance.tf32 and rounded:
        x, h, weight_ih, weight_hh = (to_tf32(each).astype(np.float64) for each in (x, h, weight_ih, weight_hh))
    with np.errstate(invalid="ignore"):
        z = x @ weight_ih.T + h @ weight_hh.T
    peephole, bias = (None if a[name] is None else a[name].astype(np.float64) for name in ("peephole", "bias"))
    options = {"cell_clip": cell_clip if instance.clip else None, **instance.functions.options()}
    return stepped, at, lstm_pointwise(z, c, bias=bias, peephole=peephole, **options), old_h


def kept(part, old, new):
    """Mix a part of the old numbers into the new ones, like zoneout."""
    return part * old + (1 - part) * new if part else new


def near(got, want, tolerance, rounding=0.0):
    """Return whether numbers are near, relative to 1 + |want|, or are the same special values."""
    with np.errstate(invalid="ignore"):
        good = np.abs(got - want) <= tolerance * (1 + np.abs(want)) + rounding * np.abs(want)
    return good | (got == want) | (np.isnan(got) & np.isnan(want))


def assert_copied(name, step, before, stepped, rows):
    """Check that the copy has the rows that stepped. Other rows have zeros or their last outputs."""
    copy, more, last = step.arrays["copy"], before.arrays["input"], before.arrays.get("last")
    if copy is None:
        return
    others = np.zeros_like(copy) if last is None else last
    assert_same_bits("copy of skipped rows", copy[~stepped], others[~stepped])
    if more is None:
        assert_same_bits("copy", copy[stepped], rows)
    else:
        assert_sums(name, copy[stepped], rows, more[stepped])


def assert_others_keep_their_bits(name, after, before, *at):
    """Check that all rows, except those at these places, kept their bits."""
    stayed = np.ones(after.shape[: len(at)], bool)
    stayed[at] = False
    assert_same_bits(f"rows of {name} that take no step", after[stayed], before[stayed])


def assert_words(after, before, at, tick, flips):
    want = before.copy()
    if flips:
        want[at] = 2 * tick + 1 - parities(before[at])
    assert_same_bits("words", after, want)


def assert_projection_of_m(instance, h, m, weight_hr, old_h):
    """Compare h, allowing for m's rounding to its dtype or TF32. test_step_projects_like_project_cu compares bits."""
    weight_hr = weight_hr.astype(np.float64)
    want = kept(instance.functions.zoneout_h, old_h, np.clip(m @ weight_hr.T, -PROJ_CLIP, PROJ_CLIP))
    allowed = TF32_TOLERANCE if instance.tf32 else TOLERANCE[state_type(instance.dtype)] + 4 * ROUNDING[instance.dtype]
    assert_all(near(h, want, allowed), f"h of {instance}", h, want)


def assert_stepped(instance, step, before, *, tick=TICK, flips=True, cell_clip=CELL_CLIP):
    """Check that the right rows have stepped, and that everything else kept its bits."""
    a, old = step.arrays, before.arrays
    stepped, at, want, old_h = expected_step(instance, before, cell_clip=cell_clip)
    by_slot = a["out"].ndim == 3
    places = (at, 1 - parities(old["words"][at])) if by_slot else (np.flatnonzero(stepped),)
    c, m = a["c_out"][at], a["out"][places]
    wide_c, wide_m = c.astype(np.float64), m.astype(np.float64)
    tolerance, rounding = TOLERANCE[state_type(instance.dtype)], ROUNDING[instance.dtype]
    assert_all(near(wide_c, want.c, tolerance), f"c of {instance}", wide_c, want.c)
    if instance.project:
        assert_projection_of_m(instance, wide_m, want.h, before.weight_hr, old_h)
    else:
        part = instance.functions.zoneout_h
        h, rounding_of_m = kept(part, old_h, want.h), rounding * np.abs(want.h) if part else 0.0
        assert_all(near(wide_m, h, tolerance + rounding_of_m, rounding), f"h of {instance}", wide_m, h)
    if instance.tf32:
        _, _, unrounded, _ = expected_step(instance, before, rounded=False, cell_clip=cell_clip)
        assert_all(near(wide_c, unrounded.c, TF32_TOLERANCE), f"c of {instance}", wide_c, unrounded.c)
    assert_others_keep_their_bits("c", a["c_out"], old["c_out"], at)
    if instance.idle:
        assert_same_bits("h of idle rows", a["next_h"][~stepped], old["h"][~stepped])
    if a.get("next_h") is not a["out"]:
        assert_others_keep_their_bits("out", a["out"], old["out"], *places)
    assert_copied(instance.dtype, step, before, stepped, m)
    if a["words"] is not None:
        assert_words(a["words"], old["words"], at, tick, flips)
    if a["is_first"] is not None:
        cleared = old["is_first"] if a["readers"] is None else np.zeros_like(old["is_first"])
        assert_same_bits("flags", a["is_first"], cleared)
    if a["readers"] is not None:
        assert not a["readers"].any(), "readers are not reset to zeros"


@dataclass(frozen=True)
class ProjectionLayout:
    """The sizes and arrays of a projection, m (B, N) -> h (B, P).

    Args:
        B, N, P: its sizes.
        pool: whether h is a pool's.
        copy: as in Layout.
        limit: the clip's limit.
        flips: whether the words are flipped.
        zoneout: the part of the old h that is kept.
        idle: whether rows can be idle. Their copies get zeros if B is even.
    """

    B: int
    N: int
    P: int
    pool: bool
    copy: str
    limit: float
    flips: bool = True
    zoneout: float = 0.0
    idle: bool = False


def projection_layouts(tile, name, width):
    shape, T = TILES[tile][0], DTYPES[name]
    R, C, E = shape.rows, 4 * shape.units, tiles.ROW_BYTES // T.itemsize
    stages = shape.stages * shape.pipelines

    def even(P):
        return P + -P % width

    return [
        ProjectionLayout(1, 1, even(1), pool=False, copy="none", limit=np.inf),
        ProjectionLayout(R - 1, E + 1, even(C - 1), pool=False, copy="residual", limit=0.3),
        ProjectionLayout(R, 2 * E, even(5), pool=True, copy="residual", limit=np.inf, flips=False),
        ProjectionLayout(R + 1, E - 1, even(C + 1), pool=True, copy="plain", limit=0.3),
        ProjectionLayout(9, (stages + 3) * E + 1, even(C // 2 + 3), pool=True, copy="none", limit=0.3),
    ]


@dataclass
class Projection:
    """One launch's arrays by parameter name, and the weights before interleaving."""

    arrays: dict
    weight_hr: np.ndarray

    def copy(self):
        return replace(self, arrays={k: None if a is None else a.copy() for k, a in self.arrays.items()})


def is_tf32(tile, name):
    return name == "float" and TILES[tile][0].pairs


def random_projection(tile, name, width, layout):
    B, N, P = layout.B, layout.N, layout.P
    random, T = np.random.default_rng(B), DTYPES[name]
    weight_hr = (random.standard_normal((P, N)) / np.sqrt(N)).astype(T)
    capacity = B + 5
    a = {
        "m": columns_of(random, B, N, T, each_16_bytes(T)),
        "h": columns_of(random, B, P, T, width),
        "slots": None,
        "words": None,
        "weight": padded_projection(
            to_tf32(weight_hr).astype(T) if is_tf32(tile, name) else weight_hr, TILES[tile][0].units
        ),
        "copy": None if layout.copy == "none" else columns_of(random, B, P, T, width),
        "input": columns_of(random, B, P, T, width) if layout.copy == "residual" else None,
    }
    if layout.pool:
        a["h"] = columns_of(random, 2 * capacity, P, T, width).reshape(capacity, 2, P)
        a["slots"], a["words"] = some_slots(random, B, capacity), some_words(random, capacity)
        for array in (a["m"], a["input"]):
            if array is not None:
                array[a["slots"] < 0] = np.nan
    if layout.zoneout:
        a["old_h"] = a["h"] if layout.pool else columns_of(random, B, P, T, width)
        a["is_first"] = random.random(B) < 0.5
        a["reset_h"] = None if B % 2 else columns_of(random, B, P, T, width)
        a["readers"] = np.zeros(-(-B // TILES[tile][0].rows), np.uint32)
    if layout.idle:
        a["is_first"], a["readers"] = some_flags(random, B), None
        a["last"] = columns_of(random, B, P, T, width) if B % 2 else None
        for array in (a["m"], a["input"]):
            if array is not None:
                array[idle_rows(a)] = np.nan
    return Projection(a, weight_hr)


def launch_projection(function, tile, projection, layout, schedule=FORWARD):
    """Launch lstm_project as the CUDA backend does."""
    a, shape = projection.arrays, TILES[tile][0]
    arguments = ProjectArguments(
        m=matrix(a["m"]),
        h=matrix(flat(a["h"])),
        pool=SlotRows(a["slots"], a["words"], TICK, layout.flips),
        weight=matrix(a["weight"]),
        copy=Copy(matrix(a["copy"]), matrix(a["input"])),
        limit=layout.limit,
        B=layout.B,
        N=layout.N,
        P=layout.P,
        is_first=a.get("is_first"),
        last=matrix(a.get("last")),
    )
    if layout.zoneout:
        old_h, reset_h = matrix(flat(a["old_h"])), matrix(a["reset_h"])
        arguments = replace(arguments, old_h=old_h, is_first=a["is_first"], readers=a["readers"], reset_h=reset_h)
    passed = by_value(arguments, T=a["m"].dtype)
    grid = -(-layout.B // shape.rows), -(-layout.P // (4 * shape.units))
    return function(grid, (shape.threads,), [passed], shared_mem=shape.shared_bytes, schedule=schedule)


def assert_projected(tile, name, projection, before, layout):
    a, old = projection.arrays, before.arrays
    slots = np.arange(layout.B) if a["slots"] is None else a["slots"]
    stepped = takes_step(old, layout.B)
    m, weight = old["m"][stepped], before.weight_hr
    if is_tf32(tile, name):
        m, weight = to_tf32(m), to_tf32(weight)
    with np.errstate(invalid="ignore"):
        want = np.clip(m.astype(np.float64) @ weight.astype(np.float64).T, -layout.limit, layout.limit)
    places = (slots[stepped], 1 - parities(old["words"][slots[stepped]])) if layout.pool else (slots[stepped],)
    tolerance = TOLERANCE[state_type(name)]
    if layout.zoneout:
        old_h = old["h"][places[0], 1 - places[1]] if layout.pool else old["old_h"][stepped]
        tolerance = tolerance + ROUNDING[name] * np.abs(want)
        want = kept(layout.zoneout, selected(old_h, old["is_first"], old["reset_h"], stepped), want)
    if a.get("readers") is not None:
        assert not a["is_first"].any(), "flags are not cleared"
        assert not a["readers"].any(), "readers are not reset to zeros"
    h = a["h"][places]
    wide = h.astype(np.float64)
    good = near(wide, want, tolerance, ROUNDING[name])
    assert_all(good, f"h of {tile}, {name}", wide, want)
    assert_others_keep_their_bits("h", a["h"], old["h"], *places)
    assert_copied(name, projection, before, stepped, h)
    if layout.pool:
        assert_words(a["words"], old["words"], slots[stepped], TICK, layout.flips)
