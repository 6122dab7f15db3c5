"""Keras's record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.convert.keras.files import list_keras
from fusedlstm.convert.keras.initial import initial_state_from_keras
from fusedlstm.convert.keras.layouts import LAYOUTS
from fusedlstm.convert.keras.objects import from_keras, to_keras
from fusedlstm.convert.keras.states import PAIRS, state_from_keras, state_to_keras
from fusedlstm.convert.record import Signs, System

if TYPE_CHECKING:
    from fusedlstm.state import LSTMState


def _names(source: Any) -> list[str]:
    return [layer.name for layer in list_keras(source)]


def _initial_state(source: Any, name: str | tuple[str, ...] | None) -> tuple[LSTMState, ...]:
    names = name if isinstance(name, tuple) else (name,)
    return tuple(state for one in names for state in initial_state_from_keras(source, one))


SYSTEM = System(
    name="keras",
    layouts=LAYOUTS,
    read=from_keras,
    others=(list_keras, to_keras, initial_state_from_keras, state_from_keras, state_to_keras),
    source="path",
    names_classes=True,
    takes_layers=True,
    taken=_names,
    initial_state=_initial_state,
    signs=Signs(start=rb"\x89HDF\r\n\x1a\n", members=(r"config\.json", r"model\.weights\.h5")),
    framework="keras",
    pairs=PAIRS,
)
