"""Convert the states of PyTorch's LSTMCell and LSTM, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.arrays.exchange import Exchange
from fusedlstm.convert.states import Pairs, cast_states, has_parts, lend_states, pair_of, refuse_other, to_pairs
from fusedlstm.packing import stack, unstack
from fusedlstm.state import LSTMState
from fusedlstm.validation.arguments import fail
from fusedlstm.validation.state import backend_of_states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.state import EitherState

# (h, c), for an LSTM stacked to (L, B, P) and (L, B, N).
PAIRS = Pairs("hc", tuple)


def state_from_torch(state: Any, *, dtype: Any = None) -> EitherState:
    """Convert the state (h, c) of PyTorch's LSTMCell or LSTM to an LSTMState, or to a tuple of them.

    The forms are those of PyTorch 2.13, and of cuDNN.

    Args:
        state: (h, c) of an LSTMCell, (B, N) each, or of an LSTM, (L, B, P) and (L, B, N), at index
            layer * D + direction. Arrays with two dimensions are read as a cell's. An LSTM without a batch has (L, N),
            which looks the same as (B, N): pass its h[:, None] and c[:, None].
        dtype: the cell's dtype; None for the arrays' own.

    Returns:
        An LSTMState for an LSTMCell. For an LSTM, even with one layer, a tuple of views, one state for each layer and
        direction.

    Raises:
        TypeError: `state` is not a pair of arrays, or is already an LSTMState; a tensor requires grad; no cell has its
            dtypes.
        ValueError: the pair doesn't have two elements; a shape is wrong; batch sizes or numbers of layers differ.
    """
    if not isinstance(state, (tuple, list)) or not state:
        refuse_other(state, PAIRS.text)
    if has_parts(state):
        hint = "A torch.nn.LSTM returns output, (h, c): pass only the second. Pass pairs of several cells one by one"
        fail(TypeError, "state", f"{PAIRS.text}, of arrays", f"a nested {type(state).__name__}", hint)
    given = [pair_of("state", state, PAIRS)]
    backend = backend_of_states(given)
    with Exchange(backend, given[0][1].c) as exchange:
        views, taken = cast_states(exchange, backend, given, dtype)
        one = taken[0][1]
        if one.c.ndim == 3:
            return unstack(exchange, "state.", one.h, one.c)
        return lend_states(exchange, backend, given, views, taken)[0]


def state_to_torch(state: LSTMState | Sequence[LSTMState]) -> tuple[Array, Array]:
    """Convert LSTMStates to a state of PyTorch's LSTMCell or LSTM, in h's dtype.

    Args:
        state: an LSTMState; or a tuple or list with one for each layer and direction of an LSTM, of the same sizes.

    Returns:
        (h, c), (B, N) each. For a tuple, even of one state, (L, B, P) and (L, B, N) in new arrays.

    Raises:
        TypeError: `state` is neither an LSTMState nor a tuple or list of them; no cell has its dtypes.
        ValueError: `state` is empty; an array is not two-dimensional; batch sizes or other sizes differ.
    """
    if isinstance(state, LSTMState):
        pair: tuple[Array, Array] = to_pairs(state, PAIRS)
        return pair
    stacked = stack("state", state, "h")
    return stacked.h, stacked.c
