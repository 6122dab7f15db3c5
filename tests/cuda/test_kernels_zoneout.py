"""Zoneout in the kernels, emulated with every access checked, compared with float64."""

from dataclasses import replace

import numpy as np
import pytest

from fusedlstm.backends.cuda.arguments import Copy, FinishArguments
from fusedlstm.backends.cuda.function_types import zoneout_argument
from fusedlstm.functions import Functions

from emulation import FORWARD, Module
from support.emulated import needs_emulation
from support.kernel_cases import (
    ARITHMETIC_TOLERANCE,
    DTYPES,
    ROUNDING,
    SCHEDULES,
    assert_near,
    assert_same_bits,
    far_apart,
    random_array,
    rows_and_columns,
    state_type,
)
from support.places import KERNELS
from support.step_cases import (
    TILES,
    ProjectionLayout,
    assert_projected,
    assert_stepped,
    kept,
    launch_projection,
    launch_step,
    like_others,
    project_name,
    projecting_layouts,
    random_projection,
    random_step,
    step_layouts,
)
from support.structs import by_value, matrix

pytestmark = needs_emulation

PART = 0.3
LIMIT = 0.4
# One small tile for tensor cores and one for fma.
SMALLEST = [("small8", "__half"), ("simt16", "double")]


def finish_name(name):
    return f"lstm_finish<{name}{zoneout_argument(PART)}>"


@pytest.fixture(scope="module")
def finish():
    module = Module(KERNELS / "finish.cu", list(map(finish_name, DTYPES)), mode="check")
    return {name: module.function(finish_name(name)) for name in DTYPES}


def check_finish(function, name, projected, h, old_h, rows=None, schedule=FORWARD):
    """Launch lstm_finish and check h. `rows` has each row's slot, or -1."""
    B, P = projected.shape
    before, old = h.copy(), old_h.astype(np.float64)
    arguments = FinishArguments(matrix(projected), matrix(h), rows, Copy(), LIMIT, B, P, matrix(old_h))
    function(*rows_and_columns(B, P), [by_value(arguments, T=h.dtype)], schedule=schedule)
    at = np.arange(B) if rows is None else rows
    new = np.clip(projected.astype(np.float64), -LIMIT, LIMIT)
    want = kept(PART, old, new)[at >= 0]
    # The clipped number is rounded to its dtype, and then the sum.
    tolerance = ARITHMETIC_TOLERANCE[state_type(name)] + ROUNDING[name]
    assert_near("h", h[at[at >= 0]], want, rtol=ROUNDING[name], atol=tolerance)
    others = [np.delete(each, at[at >= 0], axis=0) for each in (h, before)]
    assert_same_bits("rows of h without a step", *others)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("where", ["in place", "apart", "slots"])
def test_zoneout_of_finish(finish, name, where, schedule):
    random, (B, P), T = np.random.default_rng(0), (5, 129), DTYPES[name]
    projected, h = (random_array(random, (rows, P), T, strided=True) for rows in (B, B if where != "slots" else B + 3))
    old_h = h if where == "in place" else random_array(random, (B, P), T)
    rows = np.array([6, -1, 0, 3, 1], np.int32) if where == "slots" else None
    check_finish(finish[name], name, projected, h, old_h, rows, schedule)


def test_zoneout_of_finish_beyond_2_to_31(finish):
    random = np.random.default_rng(0)
    projected, h, old_h = (far_apart(random, np.float16, 3, 2) for _ in range(3))
    check_finish(finish["__half"], "__half", projected, h, old_h)


def of_zoneout(tile, name, *, project):
    """Return an instance that keeps different parts of c and h."""
    return replace(like_others(tile, name), functions=Functions(zoneout_c=0.2, zoneout_h=PART), project=project)


@pytest.fixture(scope="module")
def steps():
    """Return functions of lstm_step, by name."""
    names = [str(of_zoneout(*case, project=project)) for case in SMALLEST for project in (False, True)]
    module = Module(KERNELS / "step.cu", names, mode="check")
    return {name: module.function(name) for name in names}


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize(("tile", "name"), SMALLEST)
def test_zoneout_of_a_step(steps, tile, name, project):
    instance = of_zoneout(tile, name, project=project)
    layouts = projecting_layouts(instance) if project else step_layouts(instance)
    # The h of a layer that doesn't project is as wide as its old h.
    for layout in [each for each in layouts if project or each.sizes.P == each.sizes.N]:
        step = random_step(instance, layout)
        before = step.copy()
        launch_step(steps[str(instance)], instance, step, layout.sizes)
        assert_stepped(instance, step, before)


@pytest.fixture(scope="module")
def projections():
    """Return functions of lstm_project, by tile and dtype."""
    names = {case: project_name(TILES[case[0]][0], case[1], width_of(*case), PART) for case in SMALLEST}
    module = Module(KERNELS / "project.cu", list(names.values()), mode="check")
    return {case: module.function(name) for case, name in names.items()}


def width_of(tile, name):
    return like_others(tile, name).width


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize(("tile", "name"), SMALLEST)
def test_zoneout_of_a_projection(projections, tile, name, schedule, pool):
    """Rows are reset to zeros or to rows, in several blocks of rows and columns."""
    shape, width = TILES[tile][0], width_of(tile, name)
    for B in (2 * shape.rows + 1, 2 * shape.rows + 2):
        layout = ProjectionLayout(B, 7, 8 * shape.units + 2, pool=pool, copy="residual", limit=LIMIT, zoneout=PART)
        projection = random_projection(tile, name, width, layout)
        before = projection.copy()
        launch_projection(projections[tile, name], tile, projection, layout, schedule)
        assert_projected(tile, name, projection, before, layout)
