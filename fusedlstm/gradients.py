"""The gradients that a pullback returns: those of inputs, states and weights, under the names of the arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.state import LSTMState


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WeightGradients:
    """The gradients of one cell's weights. Names, shapes and the dtype are those of the LSTMWeights.

    Attributes:
        weight_ih: (4N, I).
        weight_hh: (4N, P).
        bias: (4N,), or None without a bias. It is also the gradient of each of PyTorch's two biases.
        peephole: (3, N), or None without peepholes.
        weight_hr: (P, N), or None without a projection.
    """

    weight_ih: Array
    weight_hh: Array
    bias: Array | None = None
    peephole: Array | None = None
    weight_hr: Array | None = None

    def arrays(self) -> dict[str, Array]:
        """Return the arrays that are not None, by name, as `LSTMWeights.arrays` does."""
        arrays = {name: getattr(self, name) for name in self.__slots__}
        return {name: array for name, array in arrays.items() if array is not None}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CellGradients:
    """The gradients of a cell's step, from the pullback of `LSTMCell.vjp`.

    Attributes:
        x: (B, I).
        state: h (B, P) and c (B, N), of the state before the step. Rows that were reset have zeros.
        reset_to: h and c in the shape of `reset_to`; None without it. If it has one row, this is the sum over all rows
            that were reset.
        weights: the gradients of the weights, summed over the batch.
    """

    x: Array
    state: LSTMState
    reset_to: LSTMState | None
    weights: WeightGradients


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LSTMGradients:
    """The gradients of an LSTM's call, from the pullback of `LSTM.vjp`.

    Attributes:
        xs: in the shape of xs. Steps that a row did not take have zeros.
        state: for each layer and direction, h (B, P) and c (B, N) of the state before the first step.
        reset_to: for each layer and direction, h and c in the shape of `reset_to`; None without it. A state of one row
            gets the sum over all resets. In a state of B rows, each row gets the sum over its own resets.
        weights: for each layer and direction, in the order of `weights.layers`, the gradients of its weights, summed
            over steps and rows.
    """

    xs: Array
    state: tuple[LSTMState, ...]
    reset_to: tuple[LSTMState, ...] | None
    weights: tuple[WeightGradients, ...]
