"""Convert the states of TensorFlow 1's cells, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, overload

from fusedlstm.convert.states import Pairs, from_pairs, is_array, refuse_other, to_pairs
from fusedlstm.packing import pack, unpack
from fusedlstm.validation.arguments import check_bool, fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.state import EitherState, LSTMState


class LSTMStateTuple(NamedTuple):
    """TensorFlow 1's pair: to TensorFlow, tuples of one name and the same fields have one structure."""

    c: Array
    h: Array


# (c, h), an LSTMStateTuple; of a MultiRNNCell a tuple of them. Packed: [c | h], of several [c0 | h0 | c1 | h1].
PAIRS = Pairs("ch", LSTMStateTuple._make)


@overload
def state_from_tf1(state: Any, *, hidden_size: int, proj_size: int | None = None, dtype: Any = None) -> LSTMState: ...


@overload
def state_from_tf1(
    state: Any,
    *,
    hidden_size: Sequence[int],
    proj_size: int | Sequence[int | None] | None = None,
    dtype: Any = None,
) -> tuple[LSTMState, ...]: ...


@overload
def state_from_tf1(
    state: Any, *, hidden_size: None = None, proj_size: None = None, dtype: Any = None
) -> EitherState: ...


def state_from_tf1(
    state: Any,
    *,
    hidden_size: int | Sequence[int] | None = None,
    proj_size: int | Sequence[int | None] | None = None,
    dtype: Any = None,
) -> LSTMState | tuple[LSTMState, ...]:
    """Return the states of TensorFlow 1's cells, whose order is c, h.

    The order is that of TensorFlow 1.15.5's numbers; articles that say [h, c] describe Keras.

    Args:
        state: an LSTMStateTuple, or another pair (c, h), of c (B, N) and h (B, P); a MultiRNNCell's tuple of such,
            or the two of bidirectional_dynamic_rnn; or, with `state_is_tuple=False`, one packed array [c | h] or
            [c0 | h0 | c1 | h1 ...]. (A tuple of two packed arrays looks like a pair: give them one by one.)
        hidden_size: of a packed array, N as in `unpack_state`: a number, or one for each layer.
        proj_size: of a packed array, P as there.
        dtype: the cell's; None is the arrays' own.

    Returns:
        An LSTMState; of a MultiRNNCell, or of several hidden sizes, a tuple of one for each.

    Raises:
        TypeError: `state` is neither, or an LSTMState already; a packed array without `hidden_size`, or a pair with
            it; dtypes that no cell has.
        ValueError: a pair of other than two; wrong shapes, or different batches.
    """
    if isinstance(state, (tuple, list)):
        for name, size in (("hidden_size", hidden_size), ("proj_size", proj_size)):
            if size is not None:
                hint = "Several packed arrays are read one at a time"
                fail(TypeError, name, "None with a pair, whose arrays have sizes of their own", repr(size), hint)
        return from_pairs(state, PAIRS, dtype)
    if not is_array(state):
        refuse_other(state, f"{PAIRS.text}, a tuple or list of such, or a packed array")
    if hidden_size is None:
        fail(TypeError, "hidden_size", "N, or one for each layer, with an array, which is [c | h]", "None")
    return unpack("state", state, hidden_size, "ch", proj_size, dtype)


def state_to_tf1(state: LSTMState | Sequence[LSTMState], *, packed: bool = False) -> Any:
    """Return states as TensorFlow 1's cells take them, in h's dtype.

    Args:
        state: an LSTMState, or a tuple or list of one for each cell of a MultiRNNCell.
        packed: whether the cells have `state_is_tuple=False`.

    Returns:
        A named tuple (c, h), which TensorFlow takes for its LSTMStateTuple; of several states a tuple of such. Packed:
        one new array [c | h], of several [c0 | h0 | c1 | h1 ...].

    Raises:
        TypeError: no LSTMState, or dtypes that no cell has.
        ValueError: no state at all; arrays that are not two-dimensional, or of different batches.
    """
    check_bool("packed", packed)
    return pack(state, "ch", 1, "h") if packed else to_pairs(state, PAIRS)
