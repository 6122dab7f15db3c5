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

# (h, c); of an LSTM both stacked, (L, B, P) and (L, B, N).
PAIRS = Pairs("hc", tuple)


def state_from_torch(state: Any, *, dtype: Any = None) -> EitherState:
    """Return the states of PyTorch's LSTMCell and LSTM, whose order is h, c.

    The forms are those of PyTorch 2.13, and of cuDNN.

    Args:
        state: (h, c) of an LSTMCell, (B, N) each, or of an LSTM, (L, B, P) and (L, B, N), at index
            layer * D + direction. Two dimensions are always a cell's: an LSTM without a batch has (L, N), which
            nothing tells from (B, N); give h[:, None] and c[:, None] of that.
        dtype: the cell's; None is the arrays' own.

    Returns:
        An LSTMState of an LSTMCell; of an LSTM, even of one layer, a tuple of one for each layer and direction, of
        views.

    Raises:
        TypeError: `state` is no pair of arrays, or an LSTMState already; a tensor that requires grad; dtypes that no
            cell has.
        ValueError: a pair of other than two; wrong shapes, or different batches or layers.
    """
    if not isinstance(state, (tuple, list)) or not state:
        refuse_other(state, PAIRS.text)
    if has_parts(state):
        hint = "A torch.nn.LSTM returns output, (h, c): give the second alone. Pairs of several cells go one by one"
        fail(TypeError, "state", f"{PAIRS.text}, of arrays", f"a {type(state).__name__} with another in it", hint)
    given = [pair_of("state", state, PAIRS)]
    backend = backend_of_states(given)
    with Exchange(backend, given[0][1].c) as exchange:
        views, taken = cast_states(exchange, backend, given, dtype)
        one = taken[0][1]
        if one.c.ndim == 3:
            return unstack(exchange, "state.", one.h, one.c)
        return lend_states(exchange, backend, given, views, taken)[0]


def state_to_torch(state: LSTMState | Sequence[LSTMState]) -> tuple[Array, Array]:
    """Return states as PyTorch's LSTMCell and LSTM take them, in h's dtype.

    Args:
        state: an LSTMState; or a tuple or list of one for each layer and direction of an LSTM, of the same sizes.

    Returns:
        (h, c), (B, N) each; of a tuple, even of one, (L, B, P) and (L, B, N), new arrays.

    Raises:
        TypeError: no LSTMState, or dtypes that no cell has.
        ValueError: no state at all; arrays that are not two-dimensional, or of different batches or sizes.
    """
    if isinstance(state, LSTMState):
        pair: tuple[Array, Array] = to_pairs(state, PAIRS)
        return pair
    stacked = stack("state", state, "h")
    return stacked.h, stacked.c
