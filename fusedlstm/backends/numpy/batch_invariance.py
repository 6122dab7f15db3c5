"""Test that a new batch-invariant cell is batch-invariant with its own weights.

Products of blocks of 8 rows were invariant in every BLAS that was tried, but no BLAS promises it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.backends.numpy import blas
from fusedlstm.backends.numpy.matmul import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.backends.numpy.cell import NumpyCell

# The test does about this many multiplications, in some 10 ms.
_WORK = 400_000_000
# Even large cells try at least this many places of a row.
_FEWEST_ROLLS = 2
# Extreme values for other rows, which must not change any row.
_WILD = (np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-40, 0.0, 1.0)


def check(engine: NumpyCell) -> None:
    """Raise RuntimeError if a row's bits depend on the size of its batch, its place or other rows."""
    rng, (I, N, P) = np.random.default_rng(0), engine.sizes
    wild = np.repeat(np.array(_WILD)[:, None], I + P + N, axis=1)
    with np.errstate(all="ignore"):  # one of the wild values underflows in float32
        rows = np.concatenate([rng.uniform(-1, 1, (BLOCK, I + P + N)), wild]).astype(engine.dtype)
    wanted = _step(engine, rows[:BLOCK])
    for which in _batches(_WORK // (3 * BLOCK * engine.work)):
        tame = which < BLOCK
        if not _same_bits(_step(engine, rows[which])[tame], wanted[which[tame]]):
            raise RuntimeError(
                "batch_invariant=True can't be kept here: a row's bits depend on its place, its batch or other rows, "
                f"with NumPy {np.__version__} and its BLAS ({blas.describe()})"
            )
    engine.scratch.forget()  # it is small, and its wild rows may be slow to multiply


def _batches(rolls: int) -> Iterator[NumpyArray]:
    """Yield batches as indices of rows: the first BLOCK rows in several places and batch sizes, or among wild ones."""
    tame, rolls = np.arange(BLOCK), min(max(rolls, _FEWEST_ROLLS), BLOCK)
    yield np.concatenate([np.roll(tame, roll) for roll in range(1, rolls + 1)])
    among = np.tile(tame + BLOCK, (rolls, 1))
    among[np.arange(rolls), np.arange(rolls)] = np.arange(rolls)[::-1]  # one in each block
    yield among.reshape(-1)
    for size in (1, BLOCK - 1, BLOCK + 1, 2 * BLOCK + 1):
        yield (size + np.arange(size)) % BLOCK


def _step(engine: NumpyCell, rows: NumpyArray) -> NumpyArray:
    """Return the next h and c, side by side, of rows [x | h | c]."""
    I, N, P = engine.sizes
    x, h, c = np.split(rows, [I, I + P], axis=1)
    h_out, c_out = np.empty((len(rows), P), engine.dtype), np.empty((len(rows), N), engine.dtype)
    engine.run(x, h, c, h_out, c_out)
    return np.concatenate([h_out, c_out], axis=1)


def _same_bits(a: NumpyArray, b: NumpyArray) -> bool:
    """Whether two arrays are equal bit for bit. A NaN equals any NaN."""
    bits = f"u{a.itemsize}"
    return bool(((a.view(bits) == b.view(bits)) | (np.isnan(a) & np.isnan(b))).all())
