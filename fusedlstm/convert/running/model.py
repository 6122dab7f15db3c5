"""Record an LSTM's inputs and outputs in a run of its whole model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray


class ModelNotRunError(ValueError):
    """Raised if a model can't be run as a whole. The message says why, such as an input that is not a float tensor."""


@dataclass(frozen=True)
class Tapped:
    """The inputs of an LSTM's lowest layer and the outputs of its highest, from a run of the model on random input.

    Attributes:
        xs: the inputs (T, B, I), in the order of the lowest layer's steps, as are the outputs.
        states: the initial (h (B, P), c (B, N)) of each layer and direction.
        lengths: the number of steps in each row, (B,); None if all rows have T.
        outputs: (T, B, width), zero past the end of a row; None if the model doesn't compute them.
        finals: the final (h, c) of each layer and direction; None for each one that the model doesn't compute.
    """

    xs: NumpyArray
    states: Sequence[tuple[NumpyArray, NumpyArray]]
    lengths: NumpyArray | None
    outputs: NumpyArray | None
    finals: Sequence[tuple[NumpyArray | None, NumpyArray | None]]
