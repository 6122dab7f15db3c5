"""Convert the states of Keras's LSTM cells and layers, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.convert.states import Pairs, cell_states, from_pairs, has_parts, pair_of, to_pairs
from fusedlstm.validation.arguments import check_bool, describe_type, fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.state import EitherState, LSTMState


# [h, c]; [hf, cf, hb, cb] for a Bidirectional layer; [[h0, c0], [h1, c1]] for StackedRNNCells.
PAIRS = Pairs("hc", list, list)


def state_from_keras(state: Any, *, dtype: Any = None) -> EitherState:
    """Convert states [h, c] of Keras's LSTM cells and layers to LSTMStates.

    The forms are those of Keras 3.15.1, and of tf_keras 2.

    Args:
        state: [h, c] of an LSTMCell or an LSTM layer; [hf, cf, hb, cb] of a Bidirectional layer; or a list of [h, c],
            as from RNN(StackedRNNCells(...)). With `return_state=True` a layer returns its output first, which is not
            part of the state: pass the rest.
        dtype: the cell's dtype; None for the arrays' own.

    Returns:
        An LSTMState for [h, c]. For a Bidirectional layer, a tuple of the forward and the backward one. For a list of
        [h, c], a tuple with one for each. (A fusedlstm.LSTM takes only tuples: for a single layer, a tuple of one.)

    Raises:
        TypeError: `state` is not a list or tuple of arrays or of pairs, or is already an LSTMState; no cell has its
            dtypes.
        ValueError: there are not two or four arrays; a shape is wrong; batch sizes differ.
    """
    if isinstance(state, (tuple, list)) and not hasattr(state, "_fields") and not has_parts(state):
        if len(state) == 4:
            return cell_states(
                [pair_of("state[0:2]", state[:2], PAIRS), pair_of("state[2:4]", state[2:], PAIRS)], dtype
            )
        if len(state) in (3, 5):
            hint = "A layer with return_state=True returns its output first: give the rest, [1:]"
            fail(ValueError, "state", "[h, c], or [hf, cf, hb, cb]", f"{len(state)} arrays", hint)
    return from_pairs(state, PAIRS, dtype)


def state_to_keras(state: LSTMState | Sequence[LSTMState], *, bidirectional: bool = False) -> list[Any]:
    """Convert LSTMStates to states of Keras's LSTM cells and layers, in h's dtype.

    Args:
        state: an LSTMState; or a tuple or list with one for each stacked cell, or for each direction.
        bidirectional: whether two states are those of a Bidirectional layer.

    Returns:
        [h, c]; [[h0, c0], [h1, c1] ...] for several states; [hf, cf, hb, cb] for both directions.

    Raises:
        TypeError: `state` is neither an LSTMState nor a tuple or list of them; no cell has its dtypes.
        ValueError: `state` is empty, or doesn't have two states with `bidirectional`; an array is not two-dimensional;
            batch sizes differ.
    """
    check_bool("bidirectional", bidirectional)
    if bidirectional and not (isinstance(state, (tuple, list)) and len(state) == 2):
        count = f"{len(state)} of them" if isinstance(state, (tuple, list)) else describe_type(state)
        fail(ValueError, "state", "two states, forward and backward, with bidirectional=True", count)
    given: list[Any] = to_pairs(state, PAIRS)
    return [*given[0], *given[1]] if bidirectional else given
