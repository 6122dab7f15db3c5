"""A use of weights: what will be made of them and stepped on a GPU. This doesn't import CuPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.stacked import EitherWeights

OBJECTS = ("cell", "sequence", "stepper", "pool")


@dataclass(frozen=True)
class Use:
    """Weights, how they are stepped, and in which objects.

    Args:
        weights: LSTMWeights or StackedWeights. Their numbers don't matter.
        precision: as in LSTMCell.
        batch_invariant: as in LSTMCell.
        kernel: as in LSTM.
        batches: numbers of rows of cells, sequences and Steppers, and the most rows of pools' steps; None for any.
        objects: some of OBJECTS.
        contiguous: whether all arrays that are passed are contiguous. If not, they may have any strides.
    """

    weights: EitherWeights
    precision: str = "highest"
    batch_invariant: bool = False
    kernel: str | None = None
    batches: Sequence[int] | None = None
    objects: Sequence[str] = OBJECTS
    contiguous: bool = False
