"""kernels/scan.cu on the CPU, with every access checked.

It sums in the order of step.cu, so it must give the bits of single steps.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from fusedlstm import lstm_pointwise
from fusedlstm.backends.cuda.arguments import GatesArguments
from fusedlstm.backends.cuda.scan_kernels import gate_order, gates_kernel
from fusedlstm.backends.cuda.scan_tiles import LAST, NO_FLAGS, ZEROS, ScanTile
from fusedlstm.backends.cuda.tiles import TENSOR_LARGE, TENSOR_MEDIUM
from fusedlstm.functions import Functions

from emulation import FORWARD, REVERSE, Module, preempting
from support.bank_conflicts import costs_by_line
from support.cells import functions_of
from support.emulated import needs_emulation
from support.kernel_cases import CELL_CLIP, DTYPES, assert_same_bits, assert_state_close, copies, wide
from support.places import KERNELS
from support.scan_cases import (
    Instance,
    Layout,
    by_steps,
    launch_scan,
    random_scan,
    sequential_gates,
    sliced,
)
from support.step_cases import columns_of, interleaved, to_tf32
from support.structs import by_value, matrix

pytestmark = needs_emulation

SMALL, MORE = ScanTile(32, 8), ScanTile(32, 16)
KEPT_FLAGS = 4  # steps whose flags a block keeps
SCHEDULES = [FORWARD, REVERSE, preempting(seed=3)]
ZONEOUT = Functions(zoneout_c=0.1, zoneout_h=0.2)


def general(k):
    return Functions.of(**functions_of(k), zoneout_h=0.25 if k % 3 == 0 else 0.0)


# All dtypes, options and kinds of flags, each pair of two of them at least once.
INSTANCES = [
    Instance("__nv_bfloat16", SMALL),
    Instance("__nv_bfloat16", SMALL, Functions(), True, True, LAST, 2),
    Instance("__nv_bfloat16", MORE, ZONEOUT, False, True, ZEROS, 1),
    Instance("__half", MORE, Functions(), True, False, ZEROS, 2),
    Instance("__half", SMALL, general(11), False, False, LAST, 1),
    Instance("__half", SMALL, ZONEOUT, True, True, NO_FLAGS, 1),
    Instance("float", SMALL, Functions(), False, True, LAST, 1),
    Instance("float", MORE, general(3), True, True, ZEROS, 2),
    Instance("float", MORE, Functions(), True, False, NO_FLAGS, 2),
    Instance("float", SMALL, ZONEOUT, True, False, LAST, 2),
    Instance("__half", MORE, general(7), False, True, LAST, 2),
    Instance("__nv_bfloat16", MORE, general(2), True, False, NO_FLAGS, 2),
]
# All other sizes of a block, in the smaller of two dtypes.
LARGER = [
    *(Instance("__nv_bfloat16", ScanTile(units, 8), Functions(), True, True, LAST) for units in (64, 96, 128)),
    *(Instance("float", ScanTile(units, 8), Functions(), True, True, LAST) for units in (64, 96, 128)),
    *(Instance("__half", ScanTile(32, rows)) for rows in (32, 64)),
]


@pytest.fixture(scope="module")
def functions():
    """Return functions by instance, of lstm_scan and of lstm_step, compiled when first asked for."""
    found = {}

    def of(instance):
        if instance not in found:
            modules = (Module(KERNELS / file, [name], mode="check") for file, name in names(instance))
            found[instance] = [module.function(module.names[0]) for module in modules]
        return found[instance]

    return of


def names(instance):
    return ("scan.cu", str(instance)), ("step.cu", instance.step)


def layouts(instance):
    """Return sizes around the edges of steps, rows and units."""
    R, U, W = instance.tile.rows, instance.tile.units, instance.width

    def units(N):
        return N + N % W

    return [
        Layout(5, R + 1, units(U - 1), residual=True),
        Layout(1, R, U, ("zeros", "one row"), "every", reverse=True, in_place=False),
        Layout(4, R - 1, units(1), ("one row", "zeros"), "ends", bias=False, states=False),
        Layout(0, 3, units(5)),
        Layout(6, 1, units(U // 2 + 1), ("rows", "zeros"), "every", reverse=True, residual=True),
        Layout(2, 2 * R + 3, units(17), ("zeros", "rows"), "idle", states=False, residual=True),
        Layout(7, 9, units(16), ("one row", "one row"), reverse=True),
    ]


def assert_same(instance, a, expected):
    h, c, outputs, last = expected
    assert_same_bits("outputs", a["out"], outputs)
    assert_same_bits("h", a["h_out"], h)
    assert_same_bits("c", a["c_out"], c)
    if instance.flags == LAST:
        assert_same_bits("last", a["last"], last)


def instances():
    """Return INSTANCES. One of each dtype always runs, the others at night."""
    for k, instance in enumerate(INSTANCES):
        usual = k == next(number for number, each in enumerate(INSTANCES) if each.dtype == instance.dtype)
        yield pytest.param(instance, id=f"{instance.dtype}-{k}", marks=[] if usual else [pytest.mark.nightly])


@pytest.mark.sampled
@pytest.mark.parametrize("instance", list(instances()))
def test_scan_has_the_bits_of_steps(functions, instance):
    scan, step = functions(instance)
    for k, layout in enumerate(layouts(instance)):
        a = random_scan(instance, layout, seed=k)
        before = copies(a)
        launch_scan(scan, instance, (layout, a))
        assert_same(instance, a, by_steps(step, instance, layout, before))


def larger():
    """Return the larger blocks. The largest of each dtype, and the one with most rows, always run; others at night."""
    for instance in LARGER:
        usual = (instance.tile.units, instance.tile.rows) in ((128, 8), (32, 64)) or str(instance).count("float, 96")
        name = f"{instance.dtype}-{instance.tile.units}-{instance.tile.rows}"
        yield pytest.param(instance, id=name, marks=[] if usual else [pytest.mark.nightly])


@pytest.mark.sampled
@pytest.mark.parametrize("instance", list(larger()))
def test_larger_blocks_have_the_bits_of_steps(functions, instance):
    scan, step = functions(instance)
    R, U = instance.tile.rows, instance.tile.units
    for k, layout in enumerate([Layout(3, R + 1, U - 2, residual=True), Layout(2, R - 7, U - 30, reverse=True)]):
        a = random_scan(instance, layout, seed=k)
        before = copies(a)
        launch_scan(scan, instance, (layout, a))
        assert_same(instance, a, by_steps(step, instance, layout, before))


# Projections in each dtype, with all kinds of flags and both sizes of a block that are told apart.
PROJECTS, MORE_PROJECTS = replace(SMALL, projects=True), replace(MORE, projects=True)
PROJECTING = [
    pytest.param(Instance("__nv_bfloat16", PROJECTS), id="plain"),
    pytest.param(Instance("__half", MORE_PROJECTS, ZONEOUT, True, True, LAST, 2), id="all options"),
    pytest.param(
        Instance("__nv_bfloat16", PROJECTS, general(3), False, True, ZEROS, 1),
        id="functions",
        marks=pytest.mark.nightly,
    ),
    pytest.param(
        Instance("__nv_bfloat16", ScanTile(64, 16, True), Functions(), True, False, LAST, 1),
        id="wide",
        marks=pytest.mark.nightly,
    ),
    pytest.param(Instance("__half", ScanTile(96, 8, True), Functions(), True, True, LAST, 2), id="wider"),
]


@pytest.mark.parametrize("instance", PROJECTING)
def test_scan_projects(functions, instance):
    """h has P columns, up to as many as there are units. The clip takes effect."""
    scan, step = functions(instance)
    R, U, W = instance.tile.rows, instance.tile.units, instance.width
    for k, layout in enumerate(
        [
            Layout(5, R + 1, U - 2, residual=True, P=U - 2),
            Layout(3, R, U, ("zeros", "one row"), "every", reverse=True, in_place=False, P=W),
            Layout(4, R - 1, U - 4 * W, ("one row", "zeros"), "ends", bias=False, states=False, P=U // 2 + W),
            Layout(0, 3, U, P=U),
            Layout(4, 9, U - W, ("rows", "zeros"), reverse=True, residual=True, P=U // 2 - W),
        ]
    ):
        a = random_scan(instance, layout, seed=k)
        before = copies(a)
        launch_scan(scan, instance, (layout, a))
        assert_same(instance, a, by_steps(step, instance, layout, before))


EDGES = [
    pytest.param(Instance("__nv_bfloat16", SMALL, width=1), id="plain", marks=pytest.mark.nightly),
    pytest.param(Instance("float", SMALL, ZONEOUT, True, True, LAST, 1), id="all options", marks=pytest.mark.nightly),
]


@pytest.mark.parametrize("instance", EDGES)
def test_edges_of_scans(functions, instance):
    """All sizes around the flags kept, the rows of a block, and its units. More units take the next larger block."""
    sizes = (0, 1, KEPT_FLAGS - 1, KEPT_FLAGS, KEPT_FLAGS + 1), (1, 7, 8, 9), (1, 31, 32, 33)
    for seed, (T, B, N) in enumerate(itertools.product(*sizes)):
        units = 32 if N <= 32 else 64
        each, layout = replace(instance, tile=ScanTile(units, 8)), Layout(T, B, N, residual=True, reverse=seed % 2 == 1)
        a = random_scan(each, layout, seed)
        before = copies(a)
        scan, step = functions(each)
        launch_scan(scan, each, (layout, a))
        assert_same(each, a, by_steps(step, each, layout, before))


@pytest.mark.parametrize("schedule", SCHEDULES[1:], ids=str)
@pytest.mark.parametrize("instance", INSTANCES[1:3], ids=["narrow", "wide"])
def test_scan_in_any_order_of_threads(functions, instance, schedule):
    """Both directions run in one launch."""
    scan, step = functions(instance)
    forward = Layout(4, instance.tile.rows + 2, 20, residual=True)
    pairs = [(layout, random_scan(instance, layout, seed=1)) for layout in (forward, replace(forward, reverse=True))]
    expected = [by_steps(step, instance, layout, copies(a)) for layout, a in pairs]
    launch_scan(scan, instance, *pairs, schedule=schedule)
    for (_, a), want in zip(pairs, expected, strict=True):
        assert_same(instance, a, want)


@pytest.mark.parametrize("instance", INSTANCES[1:3], ids=["narrow", "wide"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("sizes", [[1] * 7, [3, 4], [0, 6, 1], [2, 5]], ids=str)
def test_chunks_have_the_same_bits(functions, instance, sizes, reverse):
    """A chunk begins with the state and the last outputs that the chunk before left, and has its part of the flags."""
    scan, _ = functions(instance)
    layout = Layout(7, 9, 18, reverse=reverse, residual=True)
    whole, parts = (random_scan(instance, layout, seed=2) for _ in range(2))
    launch_scan(scan, instance, (layout, whole))
    starts = np.cumsum([0, *sizes])
    chunks = list(itertools.pairwise(starts))
    for start, stop in reversed(chunks) if reverse else chunks:
        launch_scan(scan, instance, sliced(layout, parts, start, stop))
    assert_same(instance, parts, [whole[name] for name in ("h_out", "c_out", "out", "last")])


def test_rows_and_tiles_have_the_same_bits(functions):
    """A row's bits don't depend on the rows beside it, even NaN, or on the number of a block's rows."""
    instance, layout = INSTANCES[1], Layout(4, 19, 18, residual=True)
    base = random_scan(instance, layout, seed=3)
    want = copies(base)
    launch_scan(functions(instance)[0], instance, (layout, want))
    random = np.random.default_rng(0)
    for tile, rows in ((MORE, np.arange(19)), (SMALL, random.permutation(19)), (MORE, random.permutation(19)[:5])):
        other = replace(instance, tile=tile)
        few = replace(layout, B=len(rows))
        a = random_scan(other, few, seed=4)
        for name in ("h", "c", "reset_h", "reset_c", "last"):
            a[name][...] = base[name][rows]
        for name in ("gates", "input", "flags"):
            a[name][...] = base[name][:, rows]
        for name in ("weight", "bias", "peephole"):
            a[name] = base[name]
        a["gates"][:, 1] = a["h"][1] = np.nan
        launch_scan(functions(other)[0], other, (few, a))
        others = np.arange(len(rows)) != 1
        assert_same_bits("outputs", a["out"][:, others], want["out"][:, rows[others]])
        assert_same_bits("c", a["c_out"][others], want["c_out"][rows[others]])


@pytest.mark.parametrize("name", ["__nv_bfloat16", "float"])
def test_scan_is_near_the_formula(functions, name):
    """Each step follows fusedlstm.lstm_pointwise in float64, from the state that the kernel left."""
    instance = next(each for each in INSTANCES if each.dtype == name and not each.functions.zoneout_h)
    layout = Layout(1, 11, 22)
    a = random_scan(instance, layout, seed=5)
    for seed in range(4):
        fresh = random_scan(instance, layout, seed=seed)
        a["gates"][...] = fresh["gates"]
        if a["flags"] is not None:
            a["flags"][...] = 0
        h, c = (a[each].astype(np.float64) for each in ("h", "c"))
        if seed == 0:
            h, c = np.nan_to_num(h), np.nan_to_num(c)
            a["h"][...], a["c"][...] = h, c
        z = a["gates"][0].astype(np.float64).reshape(11, 22, 4).swapaxes(1, 2).reshape(11, 88)
        z += (to_tf32(a["h"]) if name == "float" else a["h"]).astype(np.float64) @ a["weight_hh"].astype(np.float64).T
        limit = CELL_CLIP if instance.clip else None
        want = lstm_pointwise(z, c, bias=wide(a["bias"]), peephole=wide(a["peephole"]), cell_clip=limit)
        launch_scan(functions(instance)[0], instance, (layout, a))
        assert_state_close(str(instance), name, a["h_out"], a["c_out"], want)
        assert_same_bits("outputs", a["out"][0], a["h_out"])


@pytest.mark.parametrize(
    "schedule",
    [pytest.param(each, marks=[pytest.mark.nightly] * (each != SCHEDULES[0])) for each in SCHEDULES],
    ids=str,
)
@pytest.mark.parametrize("name", ["__half", "__nv_bfloat16", "float"])
@pytest.mark.parametrize("tile", [TENSOR_MEDIUM, TENSOR_LARGE], ids=["medium", "large"])
def test_gates(tile, name, schedule):
    """lstm_gates sums in the order of K, whatever its tile, and whether rows can be staged or can't."""
    dtype, R, U, each = DTYPES[name], tile.rows, tile.units, 64 // DTYPES[name].itemsize
    module = Module(KERNELS / "gates.cu", [gates_name(tile, name, aligned) for aligned in (True, False)], mode="check")
    for aligned in (True, False):
        for rows, I, N in ((1, 1, 1), (R, each, U), (R + 1, 5 * each + 1, 2 * U + 1), (R - 1, 0, U - 1)):
            random = np.random.default_rng(I)
            x = columns_of(random, rows, I, dtype, 16 // dtype.itemsize if aligned else 1)
            weight = random.standard_normal((4 * N, I)).astype(dtype)
            if name == "float":
                weight = to_tf32(weight).astype(dtype)
            want = sequential_gates(to_tf32(x)[None] if name == "float" else x[None], weight)[0][:, gate_order(N)]
            gates = columns_of(random, rows, 4 * N, np.dtype(np.float32), 4)
            packed = interleaved(weight, weight[:, :0], U)
            arguments = GatesArguments(matrix(x), matrix(packed), matrix(gates), rows, I, N)
            module.function(gates_name(tile, name, aligned))(
                tile.grid(rows, N),
                (tile.threads,),
                [by_value(arguments, T=dtype)],
                shared_mem=tile.shared_bytes,
                schedule=schedule,
            )
            assert_same_bits(f"gates of {rows} rows", gates + 0.0, want.astype(np.float32) + 0.0)


def gates_name(tile, name, aligned):
    return gates_kernel(tile, DTYPES[name], aligned).name


@pytest.mark.parametrize("name", ["__nv_bfloat16", "float"])
def test_scans_have_no_bank_conflicts(name):
    """x's part, h, c, weights and last outputs take as few wavefronts as possible."""
    instance = Instance(name, ScanTile(96, 16), flags=LAST)
    layout = Layout(2, 16, 96, residual=True)
    scan = Module(KERNELS / "scan.cu", [str(instance)], mode="check").function(str(instance))
    found = costs_by_line(launch_scan(scan, instance, (layout, random_scan(instance, layout)), trace=True).trace)
    assert {size for _, _, size in found} >= {2 * DTYPES[name].itemsize, 8, 16}
    assert {access: cost for access, cost in found.items() if cost.wavefronts != cost.fewest} == {}


DESCRIBE = """#include "scan_gates.cuh"
template <class Tile> __global__ void described(int* numbers) {
  numbers[0] = Tile::ROWS, numbers[1] = Tile::UNITS, numbers[2] = Tile::THREADS;
  numbers[3] = ScanGates<Tile>::BYTES + 2 * Tile::H_BYTES + Tile::WEIGHT_BYTES;
}
"""


def test_tiles_match_their_launches(tmp_path):
    """The kernel's tiles have the sizes that scan_kernels.py states."""
    (tmp_path / "described.cu").write_text(DESCRIBE)
    tiles = [(ScanTile(units, rows), name) for units in (32, 64, 96, 128) for rows in (8, 64) for name in DTYPES]
    names = {
        f"described<{tile.c_name(DTYPES[name])}>": (tile, DTYPES[name]) for tile, name in tiles if name != "double"
    }
    module = Module(tmp_path / "described.cu", list(names), mode="check", flags=[f"-I{KERNELS}"])
    for name, (tile, dtype) in names.items():
        numbers = np.zeros(4, np.int32)
        module.function(name)((1,), (1,), (numbers,))
        of_c = 4 * tile.rows * tile.units if tile.rows > 8 else 0
        of_last = tile.rows * tile.units * dtype.itemsize
        assert numbers[:3].tolist() == [tile.rows, tile.units, tile.threads]
        assert numbers[3] + of_c == tile.shared_bytes(dtype, ZEROS) == tile.shared_bytes(dtype, LAST) - of_last
