"""Convert the states of Flax's LSTM cells, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.convert.states import Pairs, from_pairs, to_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.state import EitherState, LSTMState


# (c, h), or a tuple of pairs for several cells.
PAIRS = Pairs("ch", tuple)


def state_from_flax(state: Any, *, dtype: Any = None) -> EitherState:
    """Convert carries (c, h) of Flax's LSTM cells, linen's or nnx's, to LSTMStates.

    The order is tested against Flax 0.12.8.

    Args:
        state: the carry (c, h) of a cell, or a tuple or list of carries, of several cells or both directions.
        dtype: the cell's dtype; None for the arrays' own.

    Returns:
        An LSTMState, or a tuple of them for several carries.

    Raises:
        TypeError: `state` is neither a pair of arrays nor a tuple or list of pairs, or is already an LSTMState; no cell
            has its dtypes.
        ValueError: a pair doesn't have two elements; a shape is wrong; batch sizes differ.
    """
    return from_pairs(state, PAIRS, dtype)


def state_to_flax(state: LSTMState | Sequence[LSTMState]) -> tuple[Any, ...]:
    """Convert LSTMStates to carries of Flax's LSTM cells, in h's dtype.

    Returns:
        (c, h), or a tuple of pairs for several states.

    Raises:
        TypeError: `state` is neither an LSTMState nor a tuple or list of them; no cell has its dtypes.
        ValueError: `state` is empty; an array is not two-dimensional; batch sizes differ.
    """
    carry: tuple[Any, ...] = to_pairs(state, PAIRS)
    return carry
