"""Each access to shared memory in a whole step takes as few wavefronts as possible.

The emulator traces the addresses, and support/bank_conflicts.py counts the wavefronts. Only a GPU shows the time.
"""

import functools
from dataclasses import replace

import mutations
import pytest

from fusedlstm.backends.cuda.tiles import ALL, ROW_BYTES

from emulation import Module
from support.bank_conflicts import ROWS, Cost, costs, wavefronts
from support.emulated import needs_emulation
from support.kernel_cases import DTYPES
from support.places import KERNELS
from support.step_cases import TILE_CASES, TILES, Layout, Sizes, launch_step, like_others, random_step

SUM = ("tensor_small.cuh: sum", "load", 4)
STAGED = {
    *((f"staging.cuh: stage_{what}", "store", 16) for what in ("rows", "weights")),
    *((ROWS, "store", 8), (ROWS, "load", 8)),
}
PROJECTING = [False, True]


def instance_of(tile, name, project):
    return replace(like_others(tile, name), peephole=False, clip=False, project=project)


@functools.cache
def module(name, project):
    """Return all tiles of a dtype, compiled together."""
    instances = [instance_of(tile, dtype, project) for tile, dtype in TILE_CASES if dtype == name]
    return Module(KERNELS / "step.cu", list(map(str, instances)), mode="check")


def costs_of_a_block(compiled, instance, kernels=KERNELS):
    """Return the costs of a block's step. Each pipeline has a tile of x, and then those of h."""
    tile, each = instance.shape, ROW_BYTES // DTYPES[instance.dtype].itemsize
    sizes = Sizes(tile.rows, tile.pipelines * each, tile.units, 8 if instance.project else tile.units)
    step = random_step(instance, Layout(sizes, "apart", True, "residual"))
    return costs(launch_step(compiled.function(str(instance)), instance, step, sizes, trace=True).trace, kernels)


def conflicts(found):
    return {access: cost.wavefronts / cost.fewest for access, cost in found.items() if cost.wavefronts != cost.fewest}


def file_of(tile):
    if not tile.pairs:
        return "simt.cuh"
    return "tensor_small.cuh" if "Small" in tile.template else "tensor.cuh"


def accesses_of(instance):
    """Return the accesses that a step must have, so that the names in a trace can't change unnoticed."""
    file = file_of(instance.shape)
    operands = ("load_a", "load_b") if file == "tensor.cuh" else ("multiply_tile",)
    wanted = STAGED | {(f"{file}: {function}", "load", 16) for function in operands}
    if file == "tensor_small.cuh":
        wanted |= {SUM, (f"{file}: share", "store", 8)}
    if instance.project:
        size = DTYPES[instance.dtype].itemsize * instance.width
        wanted |= {("staging.cuh: clear", "store", 16), ("staging.cuh: put", "store", size)}
    return wanted


@pytest.mark.sampled
@needs_emulation
@pytest.mark.parametrize("project", PROJECTING, ids=["step", "with projection"])
@pytest.mark.parametrize(("tile", "name"), TILE_CASES)
def test_steps_have_no_bank_conflicts(tile, name, project):
    instance = instance_of(tile, name, project)
    found = costs_of_a_block(module(name, project), instance)
    assert accesses_of(instance) <= set(found)
    assert conflicts(found) == {}


def test_every_tile_is_traced():
    assert {TILES[tile][0] for tile, _ in TILE_CASES} == set(ALL)


# Without the swizzle, chunks of every second row are in the same banks.
SWIZZLE = "(row & 2 | row >> 2 & 1)"
PLANTED = [
    ("chunks not swizzled", SWIZZLE, "0", 4),
    ("chunks swizzled by 4 rows", SWIZZLE, "(row >> 2 & 1)", 2),
]
# Conflicts after the loop over K, of two rows or units each: tile, dtype, file, what, old, new, access.
PUT = "staging.cuh: put", "store"
PLANTED_AFTER = [
    ("medium", "float", "staging.cuh", "halves of rows in the same banks", SWIZZLE, "(row >> 1 & 3)", (*PUT, 8)),
    ("simt", "float", "simt.cuh", "groups of units far apart", "(256 / L) + L / 8 * g", "(256 / L) * 2 + g", (*PUT, 4)),
    ("small8", "__half", "tensor_small.cuh", "units in order", "unit ^ unit >> 2", "unit", SUM),
]


@pytest.fixture(scope="module")
def _own_libraries(tmp_path_factory):
    """Keep libraries of changed kernels out of the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMULATION_CACHE", str(tmp_path_factory.mktemp("libraries")))
        yield


def conflicts_with(mutation, instance):
    with mutations.mutated(mutation) as kernels:
        compiled = Module(kernels / "step.cu", [str(instance)], mode="check")
        return conflicts(costs_of_a_block(compiled, instance, kernels))


@needs_emulation
@pytest.mark.nightly
@pytest.mark.usefixtures("_own_libraries")
@pytest.mark.parametrize(("what", "old", "new", "times"), PLANTED, ids=[what for what, *_ in PLANTED])
@pytest.mark.parametrize(("tile", "name"), [("small8", "__half"), ("simt16", "float")])
def test_a_planted_layout_conflicts(tile, name, what, old, new, times):
    instance = instance_of(tile, name, project=False)
    found = conflicts_with(mutations.Mutation("staging.cuh", what, old, new), instance)
    fragments = found[f"{file_of(instance.shape)}: multiply_tile", "load", 16]
    assert (
        fragments == times if instance.shape.pairs else 1 < fragments < times
    )  # simt's rows are the same in all lanes


@needs_emulation
@pytest.mark.nightly
@pytest.mark.usefixtures("_own_libraries")
@pytest.mark.parametrize(
    ("tile", "name", "file", "what", "old", "new", "access"),
    PLANTED_AFTER,
    ids=[what for *_, what, _, _, _ in PLANTED_AFTER],
)
def test_a_planted_order_conflicts(tile, name, file, what, old, new, access):
    found = conflicts_with(mutations.Mutation(file, what, old, new), instance_of(tile, name, project=access != SUM))
    assert found[access] == 2


@pytest.mark.parametrize(
    ("stride", "size", "lanes", "wanted"),
    [
        (4, 4, 32, Cost(1, 1)),
        (0, 4, 32, Cost(1, 1)),  # one word goes to all lanes at once
        (2, 2, 32, Cost(1, 1)),  # two lanes share a word
        (8, 4, 32, Cost(2, 1)),
        (128, 4, 32, Cost(32, 1)),
        (128, 4, 3, Cost(3, 1)),
        (8, 8, 32, Cost(2, 2)),
        (16, 8, 32, Cost(4, 2)),
        (16, 16, 32, Cost(4, 4)),
        (32, 16, 32, Cost(8, 4)),
        (128, 16, 32, Cost(32, 4)),
        (16, 16, 8, Cost(1, 1)),  # only a quarter of the warp is active
    ],
)
def test_wavefronts(stride, size, lanes, wanted):
    assert wavefronts({lane: 4096 + stride * lane for lane in range(lanes)}, size) == wanted
