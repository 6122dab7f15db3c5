"""Matrix products with weights that are laid out so that NumPy's BLAS is fast.

A BLAS copies a large matrix into its own order before it multiplies. With few rows and large weights, as in a step, the
copy takes longer than the product. OpenBLAS has kernels for AVX-512 that read the operands in place, but uses them only
for products of up to a million multiplications. So where it has them, the weights are cut into narrow blocks of
columns, and the rows into groups. The product of a group and a block is small enough. A block stays in a cache while
all groups are multiplied by it.

The last bits of a row depend on the number of rows, its place among them and the number of threads. A BLAS has separate
code for the edges of a product. Batch-invariant products therefore have 8 rows, which every kernel treats alike. They
have so few columns that one thread computes each.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.backends.numpy import blas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fusedlstm.arrays.dtypes import NumpyArray

# Up to this many multiplications, OpenBLAS reads the operands in place if it has one of these kernels.
_SMALL = 1_000_000
_SMALL_KERNELS = frozenset({"skylakex", "cooperlake", "sapphirerapids"})
# The fewest rows of such a product. With one row, another kernel would multiply a vector.
_FEWEST_ROWS = 4
# These kernels take so many rows at a time, and the rest of a group more slowly.
_TILE = 6
# Bytes of a row of a block of columns: four AVX-512 registers.
_WIDTH = 256
# Rows of every batch-invariant product. OpenBLAS's kernels don't treat 16 rows all alike.
BLOCK = 8
# Up to this many multiplications, OpenBLAS uses one thread.
_ONE_THREAD = 262_144
# The width of a batch-invariant product's blocks is rounded down to a multiple of this, if it is larger.
_UNIT = 8


class Weight:
    """A matrix to multiply rows by, in layouts that are made when they are first used.

    Args:
        make: returns the matrix as planes (S, K, N) of any strides. x (B, K) times it is (S, B, N).
        invariant: whether it is for batch-invariant products.
    """

    def __init__(self, make: Callable[[], NumpyArray], *, invariant: bool = False) -> None:
        self._make, self._invariant = make, invariant

    @functools.cached_property
    def planes(self) -> NumpyArray:
        """A view (S, K, N) of `wide`."""
        planes = self._make()
        return np.ascontiguousarray(planes.swapaxes(0, 1)).swapaxes(0, 1)

    @functools.cached_property
    def wide(self) -> NumpyArray:
        """The planes side by side, in one matrix (K, S * N)."""
        rows = self.planes.swapaxes(0, 1)
        K, S, N = rows.shape
        return rows.reshape(K, S * N)

    @functools.cached_property
    def columns(self) -> list[NumpyArray]:
        """Blocks of columns of one width (S, blocks, 1, K, width), and the rest as a narrower block."""
        planes = self._make()
        S, K, N = planes.shape
        width = _block_width(K, N, planes.itemsize) if self._invariant else _width(N, planes.itemsize)
        cut = [planes[:, :, left:right].reshape(S, K, -1, width) for left, right, width in _cut(N, width)]
        return [np.ascontiguousarray(columns.swapaxes(1, 2))[:, :, None] for columns in cut]

    def lay_out_as(self, other: Weight) -> None:
        """Make the layouts that `other` has, so that calls with this weight in its place don't wait for them."""
        for layout in ("planes", "wide", "columns"):
            if layout in vars(other):
                self.lay_out(layout)

    def lay_out(self, layout: str) -> None:
        """Make `planes`, `wide` or `columns`, if it is missing."""
        getattr(self, layout)

    def of_rows(self, rows: slice) -> Weight:
        """Return the rows that multiply some columns of x, as views of this weight's layouts."""
        return _Part(self, rows)


class _Part(Weight):
    """Some rows of a weight."""

    def __init__(self, whole: Weight, rows: slice) -> None:
        self._whole = whole
        self._rows = rows

    @functools.cached_property
    def planes(self) -> NumpyArray:
        return self._whole.planes[:, self._rows]

    @functools.cached_property
    def columns(self) -> list[NumpyArray]:
        return [columns[..., self._rows, :] for columns in self._whole.columns]


class Product:
    """x @ weight with x and the result in fixed arrays: (B, K) @ (S, K, N) -> (S, B, N).

    Rows of both are contiguous. With one row, the whole result is contiguous.

    Args:
        x: (B, K).
        out: (S, B, N).
        invariant: whether the product is batch-invariant. B is then a multiple of BLOCK, and the weight is
            invariant, too, and not part of another one.
        tiled: whether cut products are in whole tiles of rows, if possible. They take up to a tenth less time, but some
            have other bits: those with a single row left.
    """

    def __init__(self, x: NumpyArray, out: NumpyArray, *, invariant: bool = False, tiled: bool = False) -> None:
        self._x, self._out = x, out
        self._row = (x[0], out.reshape(-1)) if len(x) == 1 else None  # all planes at once: a vector times a matrix
        cut = invariant or is_cut(x.shape[0], x.shape[1], out.shape[2], x.itemsize)
        self._pieces = list(_pieces(x, out, invariant=invariant, tiled=tiled)) if cut else None

    def run(self, weight: Weight) -> None:
        """Write the result."""
        if self._row is not None:
            x, out = self._row
            np.dot(x, weight.wide, out)
        elif self._pieces is None:
            np.matmul(self._x, weight.planes, out=self._out)
        else:
            for x, k, out in self._pieces:
                np.matmul(x, weight.columns[k], out=out)


def is_cut(B: int, K: int, N: int, itemsize: int) -> bool:
    """Whether a product (B, K) @ (K, N) is cut into pieces, for kernels whose speed depends little on B."""
    return B > 1 and K > 0 and _SMALL // (K * _width(N, itemsize)) >= _FEWEST_ROWS and has_small_kernels()


@functools.cache
def has_small_kernels() -> bool:
    """Whether NumPy's BLAS has kernels that read small operands in place. They run on one thread."""
    return str(blas.kernel()).lower() in _SMALL_KERNELS


def _pieces(
    x: NumpyArray, out: NumpyArray, *, invariant: bool = False, tiled: bool = False
) -> Iterator[tuple[NumpyArray, int, NumpyArray]]:
    """Yield (x, k, out): one matmul of x (groups, rows, K) by `columns[k]` to out (S, blocks, groups, rows, width).

    Those with the same k follow each other.
    """
    (B, K), (S, _, N) = x.shape, out.shape
    widest = _block_width(K, N, out.itemsize) if invariant else _width(N, out.itemsize)
    for k, (left, right, width) in enumerate(_cut(N, widest)):
        for top, bottom, rows in [(0, B, BLOCK)] if invariant else _groups(B, _SMALL // (K * width), tiled=tiled):
            shape = S, (bottom - top) // rows, rows, (right - left) // width, width
            to = out[:, top:bottom, left:right].reshape(shape).transpose(0, 3, 1, 2, 4)  # a view: axes are only split
            yield x[top:bottom].reshape(shape[1], rows, K), k, to


def _width(N: int, itemsize: int) -> int:
    """Return the width of the blocks that N columns are cut into."""
    width = _WIDTH // itemsize
    return width if width + width // 2 < N else N


def _block_width(K: int, N: int, itemsize: int) -> int:
    """Return the width for batch-invariant products. One thread computes each (BLOCK, K) @ (K, width)."""
    most = max(2, (_SMALL if has_small_kernels() else _ONE_THREAD) // (BLOCK * K))
    width = min(_WIDTH // itemsize, most)
    if N == 1 or width + width // 2 >= N <= most:
        return N
    if width > _UNIT:
        width -= width % _UNIT
    while width > 2 and N % width == 1:  # another kernel would multiply a single column
        width -= 1
    return width


def _groups(B: int, most: int, *, tiled: bool) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, rows) of the groups of B rows: first for those with more rows, then for the others."""
    if tiled and most >= _TILE:
        yield from _cut(B, min(B, most - most % _TILE))
        return
    groups = -(-B // most)
    rows, more = divmod(B, groups)
    if more:
        yield 0, more * (rows + 1), rows + 1
    yield more * (rows + 1), B, rows


def _cut(size: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, width) for the part of `size` that is cut into this width, and for the rest, if any."""
    rest = size % width
    yield 0, size - rest, width
    if rest:
        yield size - rest, size, rest
