"""Every tile of kernels/step.cu, and every kernel with one, is complete. A failure names the file to edit.

The steps are a recipe of CONTRIBUTING.md.
"""

import re
from itertools import product

import numpy as np
import pytest

from benchmarks import tile_shapes
from fusedlstm.backends import kernel_choice
from fusedlstm.selftest import checks

from support.recipes import Place, assert_all_missing, assert_complete, keys_of, text_of

try:
    import resources

    from fusedlstm.backends.cuda import tiles

    from support.on_emulated_gpu import KERNELS
    from support.step_cases import TILES
except ImportError as error:  # CuPy is not installed
    pytest.skip(f"the CUDA backend can't be imported here: {error}", allow_module_level=True)

# Tiles: a name in tiles.py, and the tile. Kernels: a name in kernel_choice.py.


def tiles_of_kernels():
    kernels = [name for name in kernel_choice.NAMES if name != "matmul"]
    rows, units, dtypes = [1 << k for k in range(20)], (8, 1024), (np.dtype("f4"), np.dtype("f8"))
    return [tiles.tile_of(*each) for each in product(kernels, rows, units, dtypes, resources.WITH_TF32)]


def is_modelled(name, tile):
    about = tile.rows, 4 * tile.units, tile.threads // 32, tile.pipelines
    return any(about == (one.rows, one.columns, one.warps, one.shares) for one in tile_shapes.OWN)


def is_in_table(name, tile):
    dtypes = [dtype for each, dtype in resources.TILES if each == tile]
    kept = text_of("tests/data/resources.json")
    return dtypes and all(f'"lstm_step<{tile.c_name(dtype)}, ' in kept for dtype in dtypes)


PLACES_OF_A_TILE = [
    Place(
        "kernels/tensor.cuh, tensor_small.cuh or simt.cuh",
        "define the template of {}",
        lambda name, tile: re.search(
            rf"\b(using|struct) {tile.template.partition('<')[0]}\b", text_of("kernels/*.cuh")
        ),
    ),
    Place("fusedlstm/backends/cuda/tiles.py", "add {} to ALL", lambda name, tile: tile in tiles.ALL),
    Place(
        "fusedlstm/backends/cuda/tiles.py",
        "let tile_of return {} for a kernel of fusedlstm/backends/kernel_choice.py",
        lambda name, tile: tile in tiles_of_kernels(),
    ),
    Place(
        "tests/support/step_cases.py",
        "add {} to TILES",
        lambda name, tile: tile in [each for each, _ in TILES.values()],
    ),
    Place("benchmarks/tile_shapes.py", "add the shape of {} to OWN", is_modelled),
    Place("tests/data/resources.json", "python tests/resources.py --write, as it lacks {}", is_in_table),
    *(
        Place(
            "tests/cuda/test_compile.py",
            f"add the template of {{}} to {table}",
            lambda name, tile, table=table: tile.template in keys_of("tests/cuda/test_compile.py", table),
        )
        for table in ("BLOCKS", "PRODUCTS")
    ),
]
PLACES_OF_A_KERNEL = [
    Place(
        "fusedlstm/backends/cuda/tiles.py",
        "let tile_of know the kernel '{}'",
        lambda kernel: tiles.tile_of(kernel, 1, 1, np.dtype("f4"), 90),
    ),
    Place(
        "tests/support/on_emulated_gpu.py",
        "add the kernel '{}' to KERNELS",
        lambda kernel: any(kernel in kernels for kernels in KERNELS.values()),
    ),
    Place(
        "fusedlstm/selftest/checks.py",
        "add the kernel '{}' to ROWS",
        lambda kernel: kernel in checks.ROWS,
    ),
    Place(
        "benchmarks/predictions.md",
        "python -m benchmarks predictions, as it lacks the kernel '{}'",
        lambda kernel: f" {kernel} |" in text_of("benchmarks/predictions.md"),
    ),
    *(
        Place(file, "describe the kernel '{}'", lambda kernel, file=file: f'"{kernel}"' in text_of(file))
        for file in ("fusedlstm/cell.py", "docs/backends-and-gpus.md")
    ),
]


def templates():
    """Return the names of the tiles in the headers."""
    headers = text_of("kernels/tensor.cuh", "kernels/tensor_small.cuh", "kernels/simt.cuh")
    return re.findall(r"\busing (\w+) = (?:Tensor|Simt)\w*<", headers)


PLACES_OF_A_TEMPLATE = [
    Place(
        "fusedlstm/backends/cuda/tiles.py",
        "add a Tile for {} of kernels/",
        lambda template: any(tile.template.startswith(f"{template}<") for tile in tiles.ALL),
    )
]


def test_tiles_are_complete():
    assert_complete(PLACES_OF_A_TILE, [each for each in vars(tiles).items() if isinstance(each[1], tiles.Tile)])
    assert_complete(PLACES_OF_A_KERNEL, [(name,) for name in kernel_choice.NAMES if name != "matmul"])
    assert_complete(PLACES_OF_A_TEMPLATE, [(template,) for template in templates()])


def test_forgotten_tiles_are_found():
    assert_all_missing(PLACES_OF_A_TILE, ("NOBODYS", tiles.Tile("Nobodys<{}>", rows=256, units=32, threads=256)))
    assert_all_missing(PLACES_OF_A_KERNEL, ("nobodys",))
    assert_all_missing(PLACES_OF_A_TEMPLATE, ("Nobodys",))
    assert {"TensorLarge", "SimtSmall"} <= set(templates())
