"""The tiles of kernels/scan.cu and gates.cu: the units and rows of a block. This doesn't import CuPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusedlstm.backends.cuda import tiles
from fusedlstm.backends.cuda.runtime.structs import C_NAMES
from fusedlstm.backends.kernel_choice import is_roomy

if TYPE_CHECKING:
    import numpy as np

_GROUP = 32  # units of the two warps that a block has at least
_ROWS = (8, 16, 32, 64)  # of a block
_MOST_STEPS = 8  # of K, whose weights are in registers; the others wait in shared memory
_ENOUGH_BLOCKS = 128  # for a GPU; then more blocks would only have fewer rows
# Bytes of shared memory of a block by compute capability; others have at least the least of them.
_SHARED = {80: 163 << 10, 87: 163 << 10, 90: 227 << 10, 100: 227 << 10, 103: 227 << 10, 110: 227 << 10}
_LEAST_SHARED = 99 << 10
_STATIC_BYTES = 4 << 10  # at most, of what the kernel declares itself: flags, bias and peepholes
NO_FLAGS, ZEROS, LAST = range(3)  # as in kernels/scan.cu
# (N, B): with up to N units and up to B rows, x's part is computed in medium tiles. With more rows, large tiles are no
# slower for 16 steps, and faster for more, according to a model (benchmarks/sequence_model.py).
_MEDIUM_ROWS = ((32, 512), (64, 256), (128, 128))


@dataclass(frozen=True)
class ScanTile:
    """The units and rows of a block of kernels/scan.cu: `ScanTile` of kernels/scan_tile.cuh.

    Attributes:
        units: all units of the layer, rounded up to a multiple of 32.
        rows: rows of a block.
        projects: whether the block also projects m.
    """

    units: int
    rows: int
    projects: bool = False

    @property
    def threads(self) -> int:
        """The threads of a block."""
        return 2 * self.units

    def c_name(self, dtype: np.dtype[Any]) -> str:
        """Return its C++ name for a dtype."""
        projects = ", true" if self.projects else ""
        return f"ScanTile<{C_NAMES[dtype.name]}, {self.units}, {self.rows}{projects}>"

    def shared_bytes(self, dtype: np.dtype[Any], flags: int) -> int:
        """Return the dynamic shared memory of a block."""
        gates, h, c = (self.rows * self.units * each for each in (16, dtype.itemsize, 4))
        steps = self.units * dtype.itemsize // 32  # of K
        weights = max(steps - _MOST_STEPS, 0) * 4 * self.threads * 16
        projection = steps * self.threads * 16 + h if self.projects else 0  # its weights, and m
        return gates + 2 * h + weights + projection + (c if self.rows > _ROWS[0] else 0) + (h if flags == LAST else 0)


def scan_tile(
    B: int,
    N: int,
    dtype: np.dtype[Any],
    capability: int,
    *,
    directions: int = 1,
    flags: int = LAST,
    projects: bool = False,
) -> ScanTile:
    """Return the tile for B rows of N units, which `sequence_choice` allows. All tiles give a row the same bits."""
    tiles_of_rows = (ScanTile(_units(N), rows, projects) for rows in _ROWS)
    fitting = [tile for tile in tiles_of_rows if _fits(tile, dtype, flags, capability)]
    return next((tile for tile in fitting if -(-B // tile.rows) * directions <= _ENOUGH_BLOCKS), fitting[-1])


def _units(N: int) -> int:
    return -(-N // _GROUP) * _GROUP


def _fits(tile: ScanTile, dtype: np.dtype[Any], flags: int, capability: int) -> bool:
    return tile.shared_bytes(dtype, flags) + _STATIC_BYTES <= _SHARED.get(capability, _LEAST_SHARED)


def gates_tile(B: int, N: int, dtype: np.dtype[Any], capability: int) -> tiles.Tile:
    """Return the tile of kernels/gates.cu for steps of B rows and N units.

    It doesn't depend on the number of steps. So a sequence has the same bits however it is cut into parts.
    """
    medium = next(rows for most, rows in _MEDIUM_ROWS if most >= N) >= B or not is_roomy(capability)
    return tiles.tile_of("tensor_medium" if medium else "tensor_large", B, N, dtype, capability)
