"""The tiles of kernels/step.cu and project.cu: the rows and units of a block, and the resources that it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fusedlstm.backends.cuda.runtime.structs import C_NAMES
from fusedlstm.backends.kernel_choice import is_roomy

if TYPE_CHECKING:
    import numpy as np

ROW_BYTES = 64  # of an operand in a tile: K is cut into pieces of this size
# Dynamic shared memory of a block on any GPU that can run these kernels, and on any roomy one. Each is the limit less
# what kernels declare statically.
_MOST_SHARED, _MOST_IN_ROOMY = (99 << 10) - (6 << 10), (163 << 10) - (6 << 10)
# With this many blocks a GPU is full, even if each block has all units of its rows.
_ENOUGH_BLOCKS = 128
GATE_ROWS = 32  # of interleaved weights: four gates of 8 units


@dataclass(frozen=True)
class Tile:
    """One shape of tile.

    Attributes:
        template: its C++ name, with a placeholder for the dtype's.
        rows: rows of a block.
        units: units of a block, with four times as many columns of gates.
        threads: threads of a block.
        pairs: whether a thread has units in pairs, which it can move as one.
        pipelines: pipelines of a block, each with its own tiles.
        stages: tiles of a pipeline in shared memory. One is multiplied while the others are copied.
        most_shared: the most shared memory that a block may take, with m.
    """

    template: str
    rows: int
    units: int
    threads: int
    pairs: bool = True
    pipelines: int = 1
    stages: int = 4
    most_shared: int = _MOST_SHARED

    def c_name(self, dtype: np.dtype[Any]) -> str:
        """Return its C++ name for a dtype."""
        return self.template.format(C_NAMES[dtype.name])

    @property
    def shared_bytes(self) -> int:
        """The dynamic shared memory of a block."""
        return self.stages * self.pipelines * (self.rows + 4 * self.units) * ROW_BYTES

    def bytes_of_m(self, N: int, dtype: np.dtype[Any]) -> int:
        """Return the bytes of shared memory that a block's rows of m take, with N units each."""
        return -(-N * dtype.itemsize // ROW_BYTES) * ROW_BYTES * self.rows

    def projects(self, B: int, N: int, dtype: np.dtype[Any]) -> bool:
        """Whether the launch that steps B rows also projects m. Each block then has all N units of its rows.

        It does if one tile has all units, or if there are enough rows to fill a GPU with such blocks. In both cases m
        must fit beside the tiles.
        """
        fits = self.shared_bytes + self.bytes_of_m(N, dtype) <= self.most_shared
        return fits and (self.units >= N or self.rows * _ENOUGH_BLOCKS <= B)

    def grid(self, B: int, units: int) -> tuple[int, int]:
        """Return the grid for B rows of this many units."""
        return -(-B // self.rows), -(-units // self.units)


# Only roomy GPUs have enough shared memory for it.
TENSOR_WIDE = Tile("TensorWide<{}>", rows=128, units=64, threads=256, most_shared=_MOST_IN_ROOMY)
TENSOR_LARGE = Tile("TensorLarge<{}>", rows=128, units=32, threads=256)
TENSOR_MEDIUM = Tile("TensorMedium<{}>", rows=64, units=16, threads=128)
TENSOR_SMALL_8 = Tile("TensorSmall<{}, 8>", rows=8, units=8, threads=128, pipelines=4)
TENSOR_SMALL_32 = Tile("TensorSmall<{}, 32>", rows=32, units=8, threads=128, pipelines=4)
SIMT_LARGE = Tile("SimtLarge<{}>", rows=128, units=32, threads=256, pairs=False)
SIMT_LARGE_FLOAT64 = Tile("SimtLarge<{}>", rows=64, units=32, threads=256, pairs=False)
SIMT_MEDIUM = Tile("SimtMedium<{}>", rows=64, units=16, threads=128, pairs=False)
SIMT_SMALL = Tile("SimtSmall<{}>", rows=16, units=16, threads=128, pairs=False)
# With a stage less, a multiprocessor of a GPU that isn't roomy has three blocks at once, instead of two. The other
# tiles would gain none.
TENSOR_MEDIUM_SHORT = replace(TENSOR_MEDIUM, template="TensorMedium<{}, 3>", stages=3)
TENSOR_SMALL_8_SHORT = replace(TENSOR_SMALL_8, template="TensorSmall<{}, 8, 3>", stages=3)
SIMT_MEDIUM_SHORT = replace(SIMT_MEDIUM, template="SimtMedium<{}, 3>", stages=3)
_SHORT = {
    TENSOR_MEDIUM: TENSOR_MEDIUM_SHORT,
    TENSOR_SMALL_8: TENSOR_SMALL_8_SHORT,
    SIMT_MEDIUM: SIMT_MEDIUM_SHORT,
}
ALL = (
    *(TENSOR_WIDE, TENSOR_LARGE, TENSOR_MEDIUM, TENSOR_SMALL_8, TENSOR_SMALL_32),
    *(SIMT_LARGE, SIMT_LARGE_FLOAT64, SIMT_MEDIUM, SIMT_SMALL),
    *_SHORT.values(),
)

# Up to this many rows, a kernel takes a smaller tile. All tiles of a kernel give a row the same bits.
_FEW_TENSOR, _FEW_SIMT, _MORE_SIMT = 8, 64, 2048
# A wide tile's block is alone on a multiprocessor, where nothing overlaps its product and what follows that. It is no
# slower from this many units on, if this much of all rounds of blocks is full. A model says so
# (benchmarks/predictions.py).
_MANY_UNITS, _FULL = 256, 0.8


def tile_of(kernel: str, B: int, units: int, dtype: np.dtype[Any], capability: int) -> Tile:
    """Return the tile of a kernel.

    For B rows, all tiles of a kernel and dtype have the same number of rows.

    Args:
        kernel: its name in `kernel_choice.py`.
        B: the number of rows.
        units: the cell's units, or a quarter of a projection's columns.
        dtype: the dtype of x and h.
        capability: the GPU's compute capability, 90 for 9.0.
    """
    if kernel == "tensor_large":
        return TENSOR_WIDE if is_roomy(capability) and _fits_wide(B, units) else TENSOR_LARGE
    tile = _by_rows(kernel, B, dtype)
    return tile if is_roomy(capability) else _SHORT.get(tile, tile)


def _fits_wide(B: int, units: int) -> bool:
    """Return whether wide tiles fill a GPU, and waste no more units than large ones would.

    So weights that are interleaved and padded for large tiles suffice.
    """
    row_blocks, unit_blocks = TENSOR_WIDE.grid(B, units)
    whole = TENSOR_LARGE.grid(B, units)[1] % 2 == 0
    rounds = row_blocks * unit_blocks / _ENOUGH_BLOCKS
    return whole and units >= _MANY_UNITS and rounds >= max(1, _FULL * math.ceil(rounds))


def _by_rows(kernel: str, B: int, dtype: np.dtype[Any]) -> Tile:
    if kernel == "tensor_medium":
        return TENSOR_MEDIUM
    if kernel == "tensor_small":
        return TENSOR_SMALL_8 if B <= _FEW_TENSOR else TENSOR_SMALL_32
    if kernel != "simt":
        raise ValueError(f"kernel {kernel!r} has no tiles")
    if B <= _FEW_SIMT:
        return SIMT_SMALL
    if B <= _MORE_SIMT:
        return SIMT_MEDIUM
    return SIMT_LARGE_FLOAT64 if dtype.itemsize == 8 else SIMT_LARGE
