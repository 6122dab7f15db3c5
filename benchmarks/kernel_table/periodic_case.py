"""A case whose rows repeat as in `periodic.Periodic`: quickly made, and few rows give the exact result of all."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cases import Case, Data, Result
from fusedlstm import StackedWeights
from fusedlstm.tuning.periodic import PERIOD, Periodic

if TYPE_CHECKING:
    from benchmarks.kernel_table.sizes import Size

_MOST_ROWS = 1024  # compared one by one; all others must be finite
_ROWS_OF_SEQUENCES = 8


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
        return Result(*(part[None, self.rows % PERIOD] for part in _periodic(self.N, self.dtype).wanted))

    def assert_ordinary(self, result: Result) -> None:
        """Do what Case does, for the rows that are compared: the median of all takes seconds."""
        super().assert_ordinary(Result(result.h[:, self.rows], result.c[:, self.rows]))


class SequenceCase(Case):
    """T steps, N = I. Few rows are compared, as their exact results take long. All others must be finite."""

    @property
    def rows(self) -> np.ndarray:
        return np.unique(np.linspace(0, self.B - 1, min(self.B, _ROWS_OF_SEQUENCES)).astype(int))


def case_of(size: Size) -> Case:
    """Return the case of a row of a table."""
    kind, of_kind = ("step", PeriodicCase) if size.T == 1 else ("sequence", SequenceCase)
    return of_kind(kind, kind, size.T, size.B, size.N, size.N, dtype=size.dtype, precision=size.precision)


@functools.lru_cache(maxsize=4)
def _weights(N: int, dtype: str) -> StackedWeights:
    return StackedWeights.random(N, N, seed=0, dtype=dtype)


@functools.lru_cache(maxsize=4)
def _periodic(N: int, dtype: str) -> Periodic:
    return Periodic(_weights(N, dtype).layers[0], dtype)


@functools.lru_cache(maxsize=1)
def _data(B: int, N: int, dtype: str) -> Data:
    periodic, at = _periodic(N, dtype), np.arange(B) % PERIOD
    return Data(*(array[None, at] for array in (periodic.x, periodic.h, periodic.c)), None)
