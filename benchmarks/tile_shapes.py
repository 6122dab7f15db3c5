"""The tiles of a step's kernels, as `predictions` needs them: their sizes, and the work of a K-tile.

A K-tile is what a block's pipeline copies at a time: 64 bytes of each row and column. See kernels/pipeline.cuh.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.backends.cuda import tiles

if TYPE_CHECKING:
    from benchmarks.constants import Gpu


@dataclass(frozen=True)
class Tile:
    """The tile that a block multiplies at a time.

    Attributes:
        rows: rows of x and h.
        columns: columns of the gates, four for each unit.
        warps: warps of a block. Eight on a multiprocessor keep its tensor cores or fma units busy.
        blocks: blocks at once on a multiprocessor, by registers.
        shares: warps that split K, each with its own K-tiles.
        loads: loads of a K-tile from shared memory by all its warps, of 512 bytes each.
        instructions: instructions of a warp for a K-tile.
        copies: those before the product, most of which queue copies.
        reads_early: whether c, bias and peepholes are read before the product.
        splits: blocks that split K. Their sums go through the L2.
        stages: K-tiles in shared memory. One is multiplied while the others are being loaded.
        k_tile: bytes of a row in a K-tile.
        library: whether the products are a library's.
    """

    rows: int
    columns: int
    warps: int
    blocks: int
    shares: int = 1
    loads: int = 0
    instructions: int = 0
    copies: int = 0
    reads_early: bool = False
    splits: int = 1
    stages: int = 4
    k_tile: int = 64
    library: bool = False

    @property
    def shared(self) -> int:
        """Bytes of shared memory that a K-tile moves: those copied and loaded, and a pointer for each 16 of a row."""
        if self.library:
            return 0  # the measured rate includes it
        return (self.rows + self.columns) * self.k_tile + self.rows * 4 * 8 + self.loads * 512

    def room(self, gpu: Gpu) -> int:
        """Return how many blocks a multiprocessor runs at once, by shared memory and registers."""
        if self.library:
            return self.blocks
        stages = self.stages * self.shares * (self.rows + self.columns) * self.k_tile
        return min(self.blocks, int(gpu.shared_size // (stages + self.rows * 40 + 1024)))  # pointers, the driver's part


def _tensor(warps_r: int, warps_c: int, m: int, g: int, blocks: int, instructions: int, copies: int) -> Tile:
    """Return a Tensor of kernels/tensor.cuh, with the arguments of its template."""
    rows, columns, warps = warps_r * m * 16, warps_c * g * 32, warps_r * warps_c
    loads = 2 * warps * (m + 2 * g)
    early = m * g <= 2
    return Tile(rows, columns, warps, blocks, 1, loads, instructions, copies, reads_early=early)


def _small(rows: int, blocks: int, instructions: int, copies: int) -> Tile:
    """Return a TensorSmall of kernels/tensor_small.cuh. Each of its warps has K-tiles of its own."""
    return Tile(rows, 32, 4, blocks, 4, rows // 8 + 4, instructions, copies, reads_early=True)


def _simt(r: int, lanes: int, blocks: int, instructions: int, copies: int) -> Tile:
    """Return a Simt of kernels/simt.cuh, with the arguments R and L of its template."""
    warps, chunks = lanes // 2, 4
    return Tile(16 * r, 8 * lanes, warps, blocks, 1, chunks * (8 + r) * warps, instructions, copies)


# From the machine code for sm_90, by NVRTC 13.5: how many blocks registers leave room for, and the instructions of a
# K-tile, in all and before the product.
_WIDE = {"bfloat16": _tensor(2, 4, 4, 2, 1, 184, 22), "tf32": _tensor(2, 4, 4, 2, 1, 280, 40)}
_LARGE = {"bfloat16": _tensor(4, 2, 2, 2, 2, 167, 101), "tf32": _tensor(4, 2, 2, 2, 2, 200, 100)}
_MEDIUM = {"bfloat16": _tensor(2, 2, 2, 1, 4, 132, 97), "tf32": _tensor(2, 2, 2, 1, 4, 165, 91)}
_SMALL_8 = {"bfloat16": _small(8, 6, 111, 85), "tf32": _small(8, 6, 120, 81)}
_SMALL_32 = {"bfloat16": _small(32, 4, 217, 176), "tf32": _small(32, 4, 249, 171)}
_SIMT_LARGE = {"float32": _simt(8, 16, 2, 1452, 100), "float64": _simt(4, 16, 1, 546, 100)}
_SIMT_MEDIUM = {"float32": _simt(4, 8, 4, 809, 125), "float64": _simt(4, 8, 3, 597, 125)}
_SIMT_SMALL = {"float32": _simt(1, 8, 4, 290, 80), "float64": _simt(1, 8, 4, 235, 80)}
_BY_ARITHMETIC = (_WIDE, _LARGE, _MEDIUM, _SMALL_8, _SMALL_32, _SIMT_LARGE, _SIMT_MEDIUM, _SIMT_SMALL)
OWN = [tile for each in _BY_ARITHMETIC for tile in each.values()]


def tile_of(kernel: str, B: int, columns: int, arithmetic: str) -> Tile:
    """Return the tile of one of our kernels for B rows and some columns, on an H200."""
    dtype = np.dtype("float64" if arithmetic == "float64" else "float32")
    return shape_of(tiles.tile_of(kernel, B, -(-columns // 4), dtype, 90), arithmetic)


def shape_of(used: tiles.Tile, arithmetic: str) -> Tile:
    """Return a tile of the CUDA backend as a tile of the model."""
    return next(
        tile
        for tile in (each[arithmetic] for each in _BY_ARITHMETIC if arithmetic in each)
        if (tile.rows, tile.columns) == (used.rows, 4 * used.units)
    )


# The tiles that cuBLASLt chooses from.
LIBRARY = [
    Tile(rows, columns, warps=8, blocks=1, splits=splits, stages=6, k_tile=128, library=True)
    for rows, columns, splits in product((64, 128, 256), (64, 128, 256), (1, 2, 4))
    if rows * columns <= 128 * 256
]
