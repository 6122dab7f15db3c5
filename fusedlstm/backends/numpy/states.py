"""The state of all layers in arrays that stay in place: the base of a Stepper's and a Sequencer's engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import Empty


class StatesInPlace:
    """The part of `fusedlstm.backends.base.InPlaceEngine` that reads and writes the state.

    Args:
        states: the state of each layer.
    """

    is_torn = False

    def __init__(self, states: Sequence[LSTMState]) -> None:
        self.states = tuple(states)

    def read(self, empty: Empty) -> tuple[LSTMState, ...]:
        """Return copies of the states, in arrays that `empty` makes."""
        copies = tuple(
            LSTMState(h=empty(state.h.shape, state.h.dtype), c=empty(state.c.shape, state.c.dtype))
            for state in self.states
        )
        _copy(copies, self.states)
        return copies

    def _begin_anew(self) -> None:
        """Note that the state is about to change."""
        self.is_torn = True

    def write(self, states: Sequence[LSTMState]) -> None:
        """Copy states to the buffers."""
        self._begin_anew()
        _copy(self.states, states)
        self.is_torn = False

    def clear(self) -> None:
        """Write zeros to all states."""
        self._begin_anew()
        for state in self.states:
            state.h.fill(0)
            state.c.fill(0)
        self.is_torn = False


def _copy(to: Sequence[LSTMState], states: Sequence[LSTMState]) -> None:
    for mine, other in zip(to, states, strict=True):
        mine.h[...] = other.h
        mine.c[...] = other.c
