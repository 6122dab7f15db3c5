"""The whole step's kernels on the CPU, with every access checked.

step.cu and project.cu are compared with float64 for every tile and dtype. A row's bits must not depend on other rows.
Memory outside of rows, and between them, must not be touched.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from fusedlstm.backends.cuda.tiles import ROW_BYTES

from emulation import FORWARD, Module
from support.emulated import needs_emulation
from support.kernel_cases import DTYPES, FAR, GENERALS, PLAINS, SCHEDULES, assert_same_bits, spread
from support.places import KERNELS
from support.step_cases import (
    FAMILY_CASES,
    INSTANCES,
    PROJ_CLIP,
    PROJECTING,
    TICK,
    TILE_CASES,
    TILES,
    Layout,
    ProjectionLayout,
    Sizes,
    Step,
    assert_projected,
    assert_stepped,
    launch_projection,
    launch_step,
    like_others,
    parities,
    project_name,
    projecting_layouts,
    projection_layouts,
    random_projection,
    random_step,
    step_layouts,
    tiles_of_family,
)

pytestmark = needs_emulation


def cases_of_selected_tests(request, fixture):
    """Return the tiles and dtypes of the selected tests, each once."""
    items = [item for item in request.session.items if item.module is request.module]
    tests = [item for item in items if fixture in item.fixturenames]
    parameters = [test.callspec.params for test in tests]
    return dict.fromkeys(
        (tile, of["name"])
        for of in parameters
        for tile in (tiles_of_family(of["family"], of["name"]) if "family" in of else [of["tile"]])
    )


def compiled(file, names_of_case, cases):
    """Return functions by tile, dtype and name. A dtype's tiles compile together, two compilers at a time."""

    def functions(dtype):
        names = {(tile, name): names_of_case(tile, name) for tile, name in cases if name == dtype}
        module = Module(
            KERNELS / file, list(dict.fromkeys(name for each in names.values() for name in each)), mode="check"
        )
        return {(*case, name): module.function(name) for case, each in names.items() for name in each}

    with ThreadPoolExecutor(2) as pool:
        found = pool.map(functions, dict.fromkeys(name for _, name in cases))
        return {key: function for each in found for key, function in each.items()}


@pytest.fixture(scope="module")
def steps(request):
    """Return functions of lstm_step."""

    def names(tile, name):
        every = (*INSTANCES, *PROJECTING, like_others(tile, name))
        return [str(each) for each in every if (each.tile, each.dtype) == (tile, name)]

    found = compiled("step.cu", names, cases_of_selected_tests(request, "steps"))
    return lambda instance: found[instance.tile, instance.dtype, str(instance)]


def widths(tile):
    return (1, 2) if TILES[tile][0].pairs else (1,)


@pytest.fixture(scope="module")
def projections(request):
    """Return functions of lstm_project."""

    def names(tile, name):
        return [project_name(TILES[tile][0], name, width) for width in widths(tile)]

    found = compiled("project.cu", names, cases_of_selected_tests(request, "projections"))
    return lambda tile, name, width: found[tile, name, project_name(TILES[tile][0], name, width)]


DESCRIBE = """#include "simt.cuh"
#include "tensor_small.cuh"
template <class Tile> __global__ void described(int* numbers) {
  numbers[0] = Tile::ROWS, numbers[1] = Tile::UNITS, numbers[2] = Tile::THREADS;
  numbers[3] = Tile::STAGES * Tile::STAGE_BYTES, numbers[4] = Tile::THREAD_UNITS;
}
"""


def test_tiles_match_their_launches(tmp_path):
    """The kernels' tiles have the sizes that tiles.py states."""
    (tmp_path / "described.cu").write_text(DESCRIBE)
    names = {f"described<{TILES[tile][0].c_name(DTYPES[name])}>": TILES[tile][0] for tile, name in TILE_CASES}
    module = Module(tmp_path / "described.cu", list(names), mode="check", flags=[f"-I{KERNELS}"])
    for name, tile in names.items():
        numbers = np.zeros(5, np.int32)
        module.function(name)((1,), (1,), (numbers,))
        bytes_of_pipeline, pairs = tile.shared_bytes // tile.pipelines, 2 if tile.pairs else 1
        assert numbers.tolist() == [tile.rows, tile.units, tile.threads, bytes_of_pipeline, pairs], name


def step_parameters():
    """Return every instance in the first schedule, and one of each tile and dtype in the others."""
    firsts = {(each.tile, each.dtype): each for each in reversed(INSTANCES)}
    return [
        pytest.param(i.tile, i.dtype, i, schedule, id=f"{schedule}-{i.tile}-{i.dtype}-{k}")
        for k, i in enumerate(INSTANCES)
        for schedule in (SCHEDULES if i is firsts[i.tile, i.dtype] else SCHEDULES[:1])
    ]


@pytest.mark.sampled
@pytest.mark.parametrize(("tile", "name", "instance", "schedule"), step_parameters())
def test_step(steps, tile, name, instance, schedule):
    layouts = step_layouts(instance)
    for layout in layouts if schedule is FORWARD else layouts[1:5]:
        step = random_step(instance, layout)
        before = step.copy()
        flips = layout.where == "pool"
        launch_step(steps(instance), instance, step, layout.sizes, schedule, flips=flips)
        assert_stepped(instance, step, before, flips=flips)


def test_instances_cover_functions_and_options():
    """Each dtype has all plain activations, and each option on and off.

    float has all other functions, and 16-bit types have most of them.
    """
    for name in DTYPES:
        of_dtype = [each for each in INSTANCES if each.dtype == name]
        assert {each.functions for each in of_dtype} >= set(PLAINS)
        assert {each.functions for each in of_dtype} & set(GENERALS)
        assert {(each.peephole, each.clip) for each in of_dtype} == {
            (a, b) for a in (True, False) for b in (True, False)
        }
    assert {each.functions for each in INSTANCES if each.dtype == "float"} >= set(GENERALS)
    of_16_bits = {each.functions for each in INSTANCES if each.dtype in ("__half", "__nv_bfloat16")}
    assert len(of_16_bits & set(GENERALS)) == 10


@pytest.mark.parametrize(("tile", "name"), TILE_CASES)
def test_step_of_nan_and_infinities(steps, tile, name):
    """They spread as in NumPy, and stay in their row."""
    for instance in [each for each in INSTANCES if (each.tile, each.dtype) == (tile, name)][:2]:
        N = instance.shape.units + 2
        layout = Layout(Sizes(18, 19, N, N), "apart", True, "plain")
        step = random_step(instance, layout)
        specials = {"x": [np.nan, np.inf, -np.inf], "h": [-np.inf, np.nan, np.inf], "c": [np.inf, -np.inf, np.nan]}
        rows = iter(range(0, 18, 2))
        for where, values in specials.items():
            for k, value in enumerate(values):
                step.arrays[where][next(rows), 3 * k] = value
        before = step.copy()
        launch_step(steps(instance), instance, step, layout.sizes)
        assert_stepped(instance, step, before)
        assert np.isfinite(step.arrays["out"][1::2].astype(np.float64)).all()


@pytest.mark.parametrize("co_resident", [1, 100])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize(("tile", "name"), [("small8", "__half"), ("simt16", "float")])
def test_steps_of_a_pool(steps, tile, name, schedule, co_resident):
    """The second step reads what the first wrote, in whatever order blocks see flipped words."""
    instance = like_others(tile, name)
    R, U = instance.shape.rows, instance.shape.units
    N = U + 2
    layout = Layout(Sizes(R + 3, 5, N, N), "pool", True, "plain", ("zeros", "zeros"), readers=True)
    step = random_step(instance, layout)
    random = np.random.default_rng(0)
    for tick in (TICK, TICK + 1):
        before = step.copy()
        launch_step(steps(instance), instance, step, layout.sizes, schedule, tick=tick, co_resident=co_resident)
        assert_stepped(instance, step, before, tick=tick)
        slots = step.arrays["slots"]
        step.arrays["x"][...] = random.standard_normal(step.arrays["x"].shape)
        step.arrays["slots"][...] = random.permutation(len(slots) + 5)[: len(slots)]
        step.arrays["slots"][random.random(len(slots)) < 0.2] = -1
        step.arrays["is_first"][...] = random.random(len(slots)) < 0.3
        step.arrays["h"][np.isnan(step.arrays["h"])] = 0  # slots that were not reset yet may hold NaN
        step.arrays["c"][np.isnan(step.arrays["c"])] = 0


def chosen(base, instance, rows, where):
    """Return a step of some rows of `base` in this order, and which of them exist. Rows of -1 are NaN."""
    a, B = base.arrays, len(rows)
    I, N, P = a["x"].shape[1], a["c"].shape[1], a["h"].shape[1]
    step = random_step(instance, Layout(Sizes(B, I, N, P), where), seed=1)
    mine = step.arrays
    for name in ("weight", "bias", "peephole"):
        mine[name] = a[name]
    there = rows >= 0
    mine["x"][...] = np.where(there[:, None], a["x"][rows], np.nan)
    if where == "pool":
        mine["slots"][...] = at = np.random.default_rng(2).permutation(len(mine["c"]))[:B]
        mine["h"][at, parities(mine["words"][at])] = a["h"][rows]
        mine["c"][at] = a["c"][rows]
    else:
        mine["h"][...] = np.where(there[:, None], a["h"][rows], np.nan)
        mine["c"][...] = np.where(there[:, None], a["c"][rows], np.nan)
    return Step(mine, base.weight_ih, base.weight_hh), there


def stepped_rows(steps, instance, step, there):
    """Return c and m of the existing rows after the step."""
    a = step.arrays
    sizes = Sizes(len(a["x"]), a["x"].shape[1], a["c"].shape[1], a["h"].shape[-1])
    words = None if a["words"] is None else a["words"].copy()
    launch_step(steps(instance), instance, step, sizes)
    if words is None:
        return a["c_out"][there], a["out"][there]
    at = a["slots"][there]
    return a["c_out"][at], a["out"][at, 1 - parities(words[at])]


@pytest.mark.parametrize(("family", "name"), FAMILY_CASES)
def test_bits_of_a_row(steps, family, name):
    """A row's bits don't depend on other rows, its place, a pool, or which tile of a kernel runs.

    The medium and large tensor-core tiles can be compared only in the emulator, which adds products one by one.
    """
    # K has as many tiles as the warps of a small tile share, and one more.
    B, I, N = 129, 4 * ROW_BYTES // DTYPES[name].itemsize + 3 if family == "small" else 40, 10
    base, want = None, None
    random = np.random.default_rng(0)
    beside_nan = np.where(random.random(B) < 0.2, np.arange(B), -1)
    for tile in tiles_of_family(family, name):
        instance = like_others(tile, name)
        if base is None:
            base = random_step(instance, Layout(Sizes(B, I, N, N), "apart"))
        batches = {
            "all": (np.arange(B), "apart"),
            "another order": (random.permutation(B), "apart"),
            "one": (np.array([100]), "apart"),
            "seven": (random.permutation(B)[:7], "apart"),
            "64 in a pool": (random.permutation(B)[:64], "pool"),
            "beside NaN": (beside_nan, "apart"),
        }
        for about, (rows, where) in batches.items():
            step, there = chosen(base, instance, rows, where)
            got = stepped_rows(steps, instance, step, there)
            want = got if want is None else want
            for what, mine, all_rows in zip("ch", got, want, strict=True):
                assert_same_bits(f"{what}, {about}, {tile}", mine, all_rows[rows[there]])


def spread_rows(array):
    """Return the same numbers in rows so far apart that the last begins beyond 2^31 elements.

    In a pool's h, the last two rows do. In weights, every row from the last of the first tile on does.
    """
    pairs = array.ndim == 3
    last = 2 * len(array) - 3 if pairs else min(len(array), 128) - 1
    stride = -(-FAR // last // 4) * 8
    far = spread(array.dtype, array.shape, [2 * stride, stride, 1] if pairs else [stride, 1])
    far[...] = array
    return far


@pytest.mark.parametrize("where", ["apart", "pool"])
@pytest.mark.parametrize("far", [("x", "h", "weight"), ("c", "c_out"), ("out", "copy", "input", "reset_h", "reset_c")])
@pytest.mark.parametrize(("tile", "name"), [("large", "__half")])
def test_step_with_offsets_beyond_2_to_31(steps, tile, name, where, far):
    instance = like_others(tile, name)
    layout = Layout(Sizes(3, 8, 34, 34), where, True, "residual", ("rows", "rows"))
    step = random_step(instance, layout)
    a = step.arrays
    if where == "pool":
        a["slots"][...] = [1, 7, 0]
    for array in far:
        a[array] = spread_rows(a[array])
    if where == "pool":
        a["out"], a["c_out"] = a["h"], a["c"]
    a["is_first"][...] = [False, False, "reset_h" in far]
    before = step.copy()
    launch_step(steps(instance), instance, step, layout.sizes)
    assert_stepped(instance, step, before)


def projection_parameters():
    """Return every instance in the first schedule, and the widest of each tile and dtype in the others."""
    return [
        pytest.param(tile, name, width, schedule, id=f"{schedule}-{tile}-{name}-{width}")
        for tile, name in TILE_CASES
        for width in widths(tile)
        for schedule in (SCHEDULES if width == widths(tile)[-1] else SCHEDULES[:1])
    ]


@pytest.mark.sampled
@pytest.mark.parametrize(("tile", "name", "width", "schedule"), projection_parameters())
def test_project(projections, tile, name, width, schedule):
    for layout in projection_layouts(tile, name, width):
        projection = random_projection(tile, name, width, layout)
        before = projection.copy()
        launch_projection(projections(tile, name, width), tile, projection, layout, schedule)
        assert_projected(tile, name, projection, before, layout)


def projecting_parameters():
    """Return every tile in the first schedule, and those of some dtypes in the others."""
    return [
        pytest.param(i.tile, i.dtype, i, schedule, id=f"{schedule}-{i.tile}-{i.dtype}")
        for i in PROJECTING
        for schedule in (SCHEDULES if i.dtype in ("__half", "double") else SCHEDULES[:1])
    ]


@pytest.mark.sampled
@pytest.mark.parametrize(("tile", "name", "instance", "schedule"), projecting_parameters())
def test_step_that_projects(steps, tile, name, instance, schedule):
    for layout in projecting_layouts(instance):
        step = random_step(instance, layout)
        before = step.copy()
        launch_step(steps(instance), instance, step, layout.sizes, schedule)
        assert_stepped(instance, step, before)


@pytest.mark.sampled
@pytest.mark.parametrize(("tile", "name"), [(each.tile, each.dtype) for each in PROJECTING if each.aligned])
def test_step_projects_like_project_cu(steps, projections, tile, name):
    """h has the bits that project.cu computes from m, which the kernel writes as h if it doesn't project."""
    alone = like_others(tile, name)
    instance = replace(alone, project=True)
    N, P, B = 2 * alone.shape.units + 2, 4 * alone.shape.units + 2, alone.shape.rows + 2
    layout = Layout(Sizes(B, 7, N, P), "apart")
    step = random_step(instance, layout)
    launch_step(steps(instance), instance, step, layout.sizes)
    of_projection = ProjectionLayout(B, N, P, pool=False, copy="none", limit=PROJ_CLIP)
    projection = random_projection(tile, name, alone.width, of_projection)
    of_m = Step(dict(step.arrays, out=projection.arrays["m"], projection=None), step.weight_ih, step.weight_hh)
    launch_step(steps(alone), alone, of_m, layout.sizes)
    projection.arrays["weight"] = step.arrays["projection"]
    launch_projection(projections(tile, name, alone.width), tile, projection, of_projection)
    assert_same_bits("h", step.arrays["out"], projection.arrays["h"])


@pytest.mark.parametrize(("family", "name"), FAMILY_CASES)
def test_bits_of_a_projected_row(projections, family, name):
    """A row has the same bits among any rows, beside NaN, in both tiles of a kernel."""
    B, N, P = 129, 40, 10
    want = None
    for tile in tiles_of_family(family, name):
        width = widths(tile)[-1]
        for about, rows in (
            ("all", np.arange(B)),
            ("one", np.array([100])),
            ("beside NaN", np.array([-1, 3, 128, -1, 0])),
        ):
            layout = ProjectionLayout(len(rows), N, P, pool=False, copy="none", limit=np.inf)
            projection = random_projection(tile, name, width, layout)
            all_rows = random_projection(tile, name, width, ProjectionLayout(B, N, P, False, "none", np.inf))
            there = rows >= 0
            projection.arrays["weight"] = all_rows.arrays["weight"]
            projection.arrays["m"][...] = np.where(there[:, None], all_rows.arrays["m"][rows], np.nan)
            launch_projection(projections(tile, name, width), tile, projection, layout)
            got = projection.arrays["h"][there]
            want = got if want is None else want
            assert_same_bits(f"h, {about}, {tile}", got, want[rows[there]])


@pytest.mark.parametrize(("tile", "name"), [("small32", "__half")])
def test_project_of_nan_and_infinities(projections, tile, name):
    for limit in (np.inf, 0.3):
        layout = ProjectionLayout(9, 19, 6, pool=False, copy="plain", limit=limit)
        projection = random_projection(tile, name, 2, layout)
        for row, value in ((0, np.nan), (3, np.inf), (8, -np.inf)):
            projection.arrays["m"][row, 2 * row] = value
        before = projection.copy()
        launch_projection(projections(tile, name, 2), tile, projection, layout)
        assert_projected(tile, name, projection, before, layout)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize(("tile", "name"), [("large", "__half")])
def test_project_with_offsets_beyond_2_to_31(projections, tile, name, pool):
    layout = ProjectionLayout(3, 8, 130, pool=pool, copy="residual", limit=np.inf)
    projection = random_projection(tile, name, 2, layout)
    if pool:
        projection.arrays["slots"][...] = [1, -1, 7]
    for array in ("m", "h", "copy", "input", "weight"):
        projection.arrays[array] = spread_rows(projection.arrays[array])
    before = projection.copy()
    launch_projection(projections(tile, name, 2), tile, projection, layout)
    assert_projected(tile, name, projection, before, layout)
