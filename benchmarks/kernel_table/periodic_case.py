"""A case whose rows repeat after a prime number of rows: quickly made, and few rows give the exact result of all.

The period is prime so that rows which a kernel swaps, or takes from another tile, differ.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cases import Case, Data, Result
from fusedlstm import LSTMCell, LSTMState, StackedWeights

if TYPE_CHECKING:
    from benchmarks.kernel_table.sizes import Size

PERIOD = 97
_MOST_ROWS = 1024  # compared one by one; all others must be finite


@dataclass(frozen=True)
class PeriodicCase(Case):
    """One step, N = I."""

    @property
    def weights(self) -> StackedWeights:
        return _weights(self.N, self.dtype)

    @property
    def data(self) -> Data:
        return _data(self.B, self.N, self.dtype)

    @property
    def rows(self) -> np.ndarray:
        return np.unique(np.linspace(0, self.B - 1, min(self.B, _MOST_ROWS)).astype(int))

    @property
    def exact(self) -> Result:
        h, c = _exact(self.N, self.dtype)
        at = self.rows % PERIOD
        return Result(h[None, at], c[None, at])

    def assert_ordinary(self, result: Result) -> None:
        """Do what Case does, for the rows that are compared: the median of all takes seconds."""
        super().assert_ordinary(Result(result.h[:, self.rows], result.c[:, self.rows]))


def case_of(size: Size) -> PeriodicCase:
    """Return the case of a row of the table."""
    return PeriodicCase("step", "step", 1, size.B, size.N, size.N, dtype=size.dtype, precision=size.precision)


@functools.lru_cache(maxsize=4)
def _weights(N: int, dtype: str) -> StackedWeights:
    return StackedWeights.random(N, N, seed=0, dtype=dtype)


@functools.lru_cache(maxsize=4)
def _one_period(N: int, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return random x, h and c. c is exact in the weights' dtype, as some peers keep it in 16 bits."""
    rng, dtype_ = np.random.default_rng(1), _weights(N, dtype).dtype
    x, h, c = (rng.standard_normal((PERIOD, N), np.float32).astype(dtype_) for _ in range(3))
    return x, h, c.astype(np.float32)


@functools.lru_cache(maxsize=1)
def _data(B: int, N: int, dtype: str) -> Data:
    at = np.arange(B) % PERIOD
    return Data(*(array[None, at] for array in _one_period(N, dtype)), None)


@functools.lru_cache(maxsize=4)
def _exact(N: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return h and c in float64."""
    x, h, c = (array.astype(np.float64) for array in _one_period(N, dtype))
    cell = LSTMCell(_weights(N, dtype).layers[0].astype("float64"), backend="numpy")
    state = cell(x, LSTMState(h=h, c=c))
    return state.h, state.c
