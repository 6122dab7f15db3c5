"""Convert the states of Silero's VAD. Its weights are in ONNX or PyTorch files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.arrays.exchange import Exchange
from fusedlstm.backends.select import backend_of
from fusedlstm.convert.record import System
from fusedlstm.convert.states import refuse_state
from fusedlstm.packing import borrow_packed, cell_state, pack
from fusedlstm.validation.arguments import fail
from fusedlstm.validation.state import named_states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.state import LSTMState


def state_from_silero(state: Array, *, dtype: Any = None) -> LSTMState:
    """Return the state of Silero's VAD (version 5 and later), as views if the dtypes allow it.

    Args:
        state: (2, B, N), h then c. Up to version 4 the state is two arrays of two layers: use `state_from_torch`.
        dtype: the cell's dtype; None for the array's own.

    Raises:
        TypeError: `state` is not an array, or no cell has its dtype.
        ValueError: its shape is not (2, B, N).
    """
    refuse_state("state", state, "an array (2, B, N)")
    if isinstance(state, (tuple, list)):
        hint = "Two arrays, of h and c, are read by state_from_torch"
        fail(TypeError, "state", "an array (2, B, N)", f"a {type(state).__name__}", hint)
    with Exchange(backend_of(state, "state"), state) as exchange:
        both = borrow_packed(exchange, "state", state)
        if both.ndim != 3 or both.shape[0] != 2:
            fail(ValueError, "state", "shape (2, B, N)", f"shape {both.shape}")
        return exchange.lend_state(cell_state(both[0], both[1], dtype))


def state_to_silero(state: LSTMState | Sequence[LSTMState]) -> Array:
    """Return a state as Silero's VAD takes it: one new array (2, B, N) of h and c, in h's dtype.

    Raises:
        TypeError: `state` is neither an LSTMState nor a tuple or list of one; no cell has its dtypes.
        ValueError: there are several states; h and c are not two-dimensional, or have different shapes.
    """
    if len(named_states("state", state)) > 1:
        fail(ValueError, "state", "one LSTMState", f"a {type(state).__name__} of {len(state)}")
    return pack(state, "hc", 0, "h")


SYSTEM = System(name="silero", others=(state_from_silero, state_to_silero))
