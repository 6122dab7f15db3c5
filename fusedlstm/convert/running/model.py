"""What a model's own run tells about its LSTM: the numbers that go into it and come out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.dtypes import NumpyArray


class ModelNotRunError(ValueError):
    """A model that can't be run as a whole; the message says why, such as an input that is not one float tensor."""


@dataclass(frozen=True)
class Tapped:
    """What went into an LSTM's lowest layer, and came out of its highest, while the whole model ran on random input.

    Attributes:
        xs: the inputs (T, B, I), in the order in which the forward direction reads them.
        states: the initial (h (B, P), c (B, N)) of each layer and direction.
        lengths: the steps of each row that count, (B,); None where all do.
        outputs: (T, B, width), zero past the end of a row; None where the model does not compute them.
        finals: the final (h, c) of each layer and direction; None for each that the model does not compute.
    """

    xs: NumpyArray
    states: Sequence[tuple[NumpyArray, NumpyArray]]
    lengths: NumpyArray | None
    outputs: NumpyArray | None
    finals: Sequence[tuple[NumpyArray | None, NumpyArray | None]]
