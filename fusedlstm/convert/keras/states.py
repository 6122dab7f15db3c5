"""Convert the states of Keras's LSTM cells and layers, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.convert.states import Pairs, cell_states, from_pairs, has_parts, pair_of, to_pairs
from fusedlstm.validation.arguments import check_bool, describe_type, fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.state import EitherState, LSTMState


# [h, c]; of a Bidirectional layer [hf, cf, hb, cb]; of StackedRNNCells [[h0, c0], [h1, c1]].
PAIRS = Pairs("hc", list, list)


def state_from_keras(state: Any, *, dtype: Any = None) -> EitherState:
    """Return the states of Keras' LSTM cells and layers, whose order is h, c.

    The forms are those of Keras 3.15.1, of which tf_keras 2 has the same.

    Args:
        state: [h, c] of an LSTMCell, or of an LSTM layer; [hf, cf, hb, cb] of a Bidirectional one; or a list of
            [h, c], as RNN(StackedRNNCells(...)) has it. With `return_state=True` a layer returns its output first,
            which is no part of it: give the rest.
        dtype: the cell's; None is the arrays' own.

    Returns:
        An LSTMState; of Bidirectional a tuple of the forward and the backward one; of a list of [h, c] a tuple of one
        for each. (A fusedlstm.LSTM takes tuples alone: of a single layer, a tuple of one.)

    Raises:
        TypeError: `state` is no list or tuple of arrays or of pairs; an LSTMState; dtypes that no cell has.
        ValueError: other than two or four arrays; wrong shapes, or different batches.
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
    """Return states as Keras' LSTM cells and layers take them, in h's dtype.

    Args:
        state: an LSTMState; or a tuple or list of one for each of stacked cells, or for both directions.
        bidirectional: whether two states are those of a Bidirectional layer.

    Returns:
        [h, c]; of several states [[h0, c0], [h1, c1] ...]; of both directions [hf, cf, hb, cb].

    Raises:
        TypeError: no LSTMState, or dtypes that no cell has.
        ValueError: no state at all, or other than two of both directions; arrays that are not two-dimensional, or of
            different batches.
    """
    check_bool("bidirectional", bidirectional)
    if bidirectional and not (isinstance(state, (tuple, list)) and len(state) == 2):
        count = f"{len(state)} of them" if isinstance(state, (tuple, list)) else describe_type(state)
        fail(ValueError, "state", "two states, forward and backward, with bidirectional=True", count)
    given: list[Any] = to_pairs(state, PAIRS)
    return [*given[0], *given[1]] if bidirectional else given
