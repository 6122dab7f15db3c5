"""Convert the states of Flax's LSTM cells, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.convert.states import Pairs, from_pairs, to_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.state import EitherState, LSTMState


# (c, h); of several cells a tuple of them.
PAIRS = Pairs("ch", tuple)


def state_from_flax(state: Any, *, dtype: Any = None) -> EitherState:
    """Return the states of Flax's LSTM cells, of linen and of nnx, whose carry is c, h.

    The order is that of Flax 0.12.8's numbers.

    Args:
        state: the carry (c, h) of a cell; or a tuple or list of such, of several cells or both directions.
        dtype: the cell's; None is the arrays' own.

    Returns:
        An LSTMState; of several carries a tuple of one for each.

    Raises:
        TypeError: `state` is no pair of arrays, nor a tuple or list of such; an LSTMState; dtypes that no cell has.
        ValueError: a pair of other than two; wrong shapes, or different batches.
    """
    return from_pairs(state, PAIRS, dtype)


def state_to_flax(state: LSTMState | Sequence[LSTMState]) -> tuple[Any, ...]:
    """Return states as Flax's LSTM cells take them, in h's dtype: (c, h), of several a tuple of such.

    Raises:
        TypeError: no LSTMState, or dtypes that no cell has.
        ValueError: no state at all; arrays that are not two-dimensional, or of different batches.
    """
    carry: tuple[Any, ...] = to_pairs(state, PAIRS)
    return carry
