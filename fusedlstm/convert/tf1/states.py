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
    """TensorFlow 1's pair. For TensorFlow, tuples with the same name and fields have the same structure."""

    c: Array
    h: Array


# An LSTMStateTuple (c, h), or a tuple of them for a MultiRNNCell. Packed: [c | h], or [c0 | h0 | c1 | h1] for several.
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
    """Convert states (c, h) of TensorFlow 1's cells to LSTMStates.

    The order is tested against TensorFlow 1.15.5. Articles that say [h, c] describe Keras.

    Args:
        state: an LSTMStateTuple, or another pair (c, h), of c (B, N) and h (B, P); a tuple of such pairs, from a
            MultiRNNCell or bidirectional_dynamic_rnn; or, with `state_is_tuple=False`, one packed array [c | h] or
            [c0 | h0 | c1 | h1 ...]. (A tuple of two packed arrays looks like a pair: pass them one by one.)
        hidden_size: N of a packed array, as in `unpack_state`: a number, or one for each layer.
        proj_size: P of a packed array, likewise.
        dtype: the cell's dtype; None for the arrays' own.

    Returns:
        An LSTMState, or a tuple of them for a MultiRNNCell or for several hidden sizes.

    Raises:
        TypeError: `state` is none of these, or is already an LSTMState; a packed array comes without `hidden_size`, or
            a pair with it; no cell has these dtypes.
        ValueError: a pair doesn't have two elements; a shape is wrong; batch sizes differ.
    """
    if isinstance(state, (tuple, list)):
        for name, size in (("hidden_size", hidden_size), ("proj_size", proj_size)):
            if size is not None:
                hint = "Pass several packed arrays one at a time"
                fail(TypeError, name, "None with a pair, whose arrays have their own sizes", repr(size), hint)
        return from_pairs(state, PAIRS, dtype)
    if not is_array(state):
        refuse_other(state, f"{PAIRS.text}, a tuple or list of such pairs, or a packed array")
    if hidden_size is None:
        fail(TypeError, "hidden_size", "N, or one for each layer, with a packed array [c | h]", "None")
    return unpack("state", state, hidden_size, "ch", proj_size, dtype)


def state_to_tf1(state: LSTMState | Sequence[LSTMState], *, packed: bool = False) -> Any:
    """Convert LSTMStates to states of TensorFlow 1's cells, in h's dtype.

    Args:
        state: an LSTMState, or a tuple or list with one for each cell of a MultiRNNCell.
        packed: whether the cells have `state_is_tuple=False`.

    Returns:
        A named tuple (c, h), which TensorFlow accepts as its LSTMStateTuple, or a tuple of them for several states.
        With `packed`, one new array [c | h], or [c0 | h0 | c1 | h1 ...] for several.

    Raises:
        TypeError: `state` is neither an LSTMState nor a tuple or list of them; no cell has its dtypes.
        ValueError: `state` is empty; an array is not two-dimensional; batch sizes differ.
    """
    check_bool("packed", packed)
    return pack(state, "ch", 1, "h") if packed else to_pairs(state, PAIRS)
