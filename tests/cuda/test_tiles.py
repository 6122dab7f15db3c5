"""A kernel's tile depends on the GPU, but the bits of cells, Steppers and pools don't."""

from itertools import product

import ml_dtypes
import numpy as np
import pytest

from fusedlstm import LSTMCell, LSTMWeights, StatePool
from fusedlstm.backends import kernel_choice, select
from fusedlstm.backends.uses import Use

from support.backends import needs_cuda
from support.cells import random_inputs

try:
    import resources

    from fusedlstm.backends.cuda import tiles
    from fusedlstm.backends.cuda.fused_slots import FusedSlots
    from fusedlstm.backends.cuda.instances import instances

    from support.on_emulated_gpu import bits, bits_of
    from support.whole_use import everything, noted
except ImportError as error:
    pytest.skip(f"needs CuPy: {error}", allow_module_level=True)

BF16 = np.dtype(ml_dtypes.bfloat16)
ROOMY = (80, 87, 90, 100, 103)


@pytest.mark.parametrize(
    ("B", "units", "capability", "wanted"),
    [
        *((4096, 512, capability, "wide") for capability in ROOMY),
        *((4096, 512, capability, "large") for capability in (86, 89, 120, 121, 999)),
        (1921, 512, 90, "wide"),  # 16 blocks of rows times 8 of units
        (1920, 512, 90, "large"),
        (1 << 20, 255, 90, "large"),  # too few units
        (2048, 768, 90, "large"),  # 192 blocks would run in two rounds
        (1 << 20, 544, 90, "large"),  # half of a block's units would be missing
        (1 << 20, 545, 90, "wide"),
    ],
)
def test_wide_tiles_need_room_and_work(B, units, capability, wanted):
    tile = {"wide": tiles.TENSOR_WIDE, "large": tiles.TENSOR_LARGE}[wanted]
    assert tiles.tile_of("tensor_large", B, units, BF16, capability) == tile


@pytest.mark.parametrize(
    ("kernel", "B", "long", "short"),
    [
        ("tensor_medium", 500, tiles.TENSOR_MEDIUM, tiles.TENSOR_MEDIUM_SHORT),
        ("tensor_small", 8, tiles.TENSOR_SMALL_8, tiles.TENSOR_SMALL_8_SHORT),
        ("tensor_small", 9, tiles.TENSOR_SMALL_32, tiles.TENSOR_SMALL_32),
        ("simt", 64, tiles.SIMT_SMALL, tiles.SIMT_SMALL),
        ("simt", 65, tiles.SIMT_MEDIUM, tiles.SIMT_MEDIUM_SHORT),
        ("simt", 2049, tiles.SIMT_LARGE, tiles.SIMT_LARGE),
    ],
)
def test_tiles_are_short_where_memory_is(kernel, B, long, short):
    for capability in ROOMY:
        assert tiles.tile_of(kernel, B, 64, np.dtype("f4"), capability) == long
    for capability in (86, 89, 120):
        assert tiles.tile_of(kernel, B, 64, np.dtype("f4"), capability) == short


def test_a_projections_tile_has_the_steps_rows():
    """The blocks of both launches share the counters of rows' readers."""
    for kernel, k, capability in product(["simt", *kernel_choice.TENSOR], range(18), (80, 86)):
        found = {tiles.tile_of(kernel, 1 << k, units, BF16, capability).rows for units in (1, 600, 4096)}
        assert len(found) == 1


def test_tiles_end_within_the_interleaved_weights():
    """Those are padded to 128 rows."""
    for units, k in product(range(1, 1200), range(7, 20)):
        tile = tiles.tile_of("tensor_large", 1 << k, units, BF16, 90)
        assert tile.grid(1, units)[1] * 4 * tile.units <= -(-4 * units // 128) * 128


def test_blocks_fit_the_gpus_that_use_them():
    """A block's dynamic and static shared memory fits, even with its widest projection."""
    _, kept = resources.kept()
    nearly_full = set()
    for (tile, dtype), architecture in product(resources.TILES, resources.WITH_TF32):
        if tile not in resources.tiles_of(dtype, architecture):
            continue
        rows = [row for name, row in kept.items() if f"<{tile.c_name(dtype)}," in name]
        static = max(row[architecture].shared for row in rows if architecture in row)
        widest = max((N for N in range(1, 2049) if tile.projects(1 << 20, N, dtype)), default=0)
        needed = static + tile.shared_bytes + (tile.bytes_of_m(widest, dtype) if widest else 0)
        room = resources.MULTIPROCESSORS[architecture][1] << 10
        assert needed <= room, (tile, dtype, architecture)
        if needed > room - (9 << 10):
            nearly_full.add((tile, architecture))
    assert {(tiles.TENSOR_WIDE, 80), (tiles.TENSOR_MEDIUM_SHORT, 86)} <= nearly_full
    assert not any(tiles.TENSOR_LARGE.projects(B, 40, np.dtype(np.float16)) for B in (1, 1000))


# Stand-ins for GPUs: one that wide tiles of few rows and units fill, and one with little shared memory.


def with_wide_tiles(patch):
    if not kernel_choice.is_roomy(select.capability(0)):
        pytest.skip("wide tiles need more shared memory")
    patch.setattr(tiles, "_ENOUGH_BLOCKS", 1)
    patch.setattr(tiles, "_MANY_UNITS", 1)


def with_little_memory(patch):
    patch.setattr(kernel_choice, "_ROOMY", frozenset())


CASES = [
    ("tensor_large", "float16", with_wide_tiles, "TensorWide<"),
    ("tensor_medium", "bfloat16", with_little_memory, ", 3>"),
    ("tensor_small", "float16", with_little_memory, ", 8, 3>"),
    ("simt", "float32", with_little_memory, ", 3>"),
]
FORMS = {
    "plain": {},
    "projection": {"proj_size": 160, "proj_clip": 0.3},
    "zoneout": {"proj_size": 160, "zoneout_h": 0.2},
}


def everywhere(weights, kernel, B):
    """Return the bits after steps of a cell, a Stepper and a pool."""
    cell = LSTMCell(weights, backend="cuda", kernel=kernel)
    x, state = random_inputs(cell, B)
    first = np.arange(B) % 3 == 0
    stepper, pool = cell.stepper(B), StatePool(cell, B)
    stepper.write(state)
    pool.write(pool.allocate(B), state)
    found = [bits_of(cell(x, state, is_first=first))]
    for each in (first, ~first):
        found += [bits(stepper.step(x, is_first=each)), bits(pool.step(x, range(B), is_first=each))]
    return [*found, bits_of(stepper.state), bits_of(pool.read(range(B)))]


@pytest.mark.sampled
@needs_cuda
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kernel", "dtype", "made_so", "name"), CASES, ids=[kernel for kernel, *_ in CASES])
def test_another_gpus_tile_has_the_same_bits(kernel, dtype, made_so, name, form, monkeypatch):
    B = 8 if kernel == "tensor_small" else 70
    weights = LSTMWeights.random(9, 40, seed=0, dtype=dtype, **FORMS[form])
    wanted = everywhere(weights, kernel, B)
    made_so(monkeypatch)
    with noted(monkeypatch) as loaded:
        assert everywhere(weights, kernel, B) == wanted
    steps = [each for file, each in loaded if file in ("step.cu", "project.cu")]
    assert steps
    assert all(name in each for each in steps), steps


@pytest.mark.nightly
@needs_cuda
@pytest.mark.parametrize(("kernel", "dtype", "made_so", "name"), CASES, ids=[kernel for kernel, *_ in CASES])
def test_another_gpus_tiles_are_listed(kernel, dtype, made_so, name, monkeypatch):
    """`fusedlstm compile` compiles what is loaded."""
    made_so(monkeypatch)
    weights = LSTMWeights.random(8, 40, seed=0, dtype=dtype, proj_size=160)
    use = Use(weights, kernel=kernel, batches=(5, 70))
    listed = {(each.file, each.name) for each in instances(use, select.capability(0))}
    with noted(monkeypatch) as loaded:
        everything(use)
    assert loaded == listed
    assert any(name in each for _, each in listed)


@needs_cuda
def test_prepared_pools_have_loaded_all_tiles(monkeypatch):
    """Wide tiles begin at any number of rows, not only above a power of two."""
    rows, ready = [], FusedSlots._ready
    monkeypatch.setattr(FusedSlots, "_ready", lambda step, x, *rest: rows.append(len(x)) or ready(step, x, *rest))
    monkeypatch.setattr(FusedSlots, "_launch", lambda *_: None)
    StatePool(LSTMCell(LSTMWeights.random(1, 1, seed=0), backend="cuda", kernel="simt"), 3).prepare(3000)

    def tile(B):
        (kernel,) = kernel_choice.one_kernel_layers(B, ((640, 640, None),), "float16", "highest", 90)
        return tiles.tile_of(kernel, B, 640, np.dtype("f2"), 90)

    assert {tile(B) for B in rows} == {tile(B) for B in range(1, 3001)}
