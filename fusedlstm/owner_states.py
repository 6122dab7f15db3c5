"""OwnerStates: one interface to the states of cells and LSTMs, for pools and Steppers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.state import LSTMState, check_state_type
from fusedlstm.validation.sequence import SequenceChecks
from fusedlstm.validation.step import one_row_or_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.exchange import Exchange
    from fusedlstm.backends.base import Backend
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.validation.step import StepChecks


class OwnerStates:
    """Converts states between their owner's form and a tuple with one for each layer.

    A cell's form is one LSTMState, and an LSTM's is a tuple already.

    Args:
        backend: the backend of the states' arrays.
        weights: the weights of all layers, in one direction.
        is_single: whether the owner is a cell, whose state is one LSTMState.
        maker: the name of the function that makes arrays, for messages.
    """

    def __init__(self, backend: Backend, weights: StackedWeights, *, is_single: bool, maker: str) -> None:
        self._is_single = is_single
        self._checks = SequenceChecks(
            backend, weights, maker, batch_first=False, whose="the cell's" if is_single else "the weights'"
        )

    @property
    def layer_checks(self) -> Sequence[StepChecks]:
        """The checks of the arguments of each layer's step."""
        return self._checks.layer_checks

    def taken(
        self, exchange: Exchange, name: str, state: Any, B: int, *, may_be_one_row: bool = False
    ) -> tuple[LSTMState, ...]:
        """Borrow and check a caller's state of B rows (or of one), and return it as a tuple.

        Raises:
            TypeError: the state has the wrong kind, dtype or library.
            ValueError: the state has the wrong shape or device.
        """
        first = self.layer_checks[0]
        wanted = first.dtype, first.c_dtype, first.whose
        if not self._is_single:
            if isinstance(state, (tuple, list)):
                state = tuple(exchange.borrow_state(f"{name}[{k}]", each, *wanted) for k, each in enumerate(state))
            return self._checks.check_states(name, state, B, may_be_one_row=may_be_one_row)
        check_state_type(state, name)
        borrowed: LSTMState = exchange.borrow_state(name, state, *wanted)
        rows = one_row_or_all(borrowed) if may_be_one_row else "B"
        first.check_state(name, borrowed, {**first.sizes, "B": B}, rows)
        return (borrowed,)

    def given(self, states: Sequence[LSTMState]) -> Any:
        """Return the states of all layers in their owner's form."""
        return states[0] if self._is_single else tuple(states)


def first_array(state: Any) -> Any:
    """Return an array of a state, or of the first of several. A call runs on the stream of this array's library."""
    if isinstance(state, (tuple, list)) and state:
        state = state[0]
    return state.h if isinstance(state, LSTMState) else None
