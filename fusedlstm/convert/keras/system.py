"""Keras's record."""

from __future__ import annotations

from typing import Any

from fusedlstm.convert.keras.files import list_keras
from fusedlstm.convert.keras.initial import initial_state_from_keras
from fusedlstm.convert.keras.layouts import LAYOUTS
from fusedlstm.convert.keras.objects import from_keras, to_keras
from fusedlstm.convert.keras.states import PAIRS, state_from_keras, state_to_keras
from fusedlstm.convert.record import Signs, System


def _names(source: Any) -> list[str]:
    return [layer.name for layer in list_keras(source)]


SYSTEM = System(
    name="keras",
    layouts=LAYOUTS,
    read=from_keras,
    others=(list_keras, to_keras, initial_state_from_keras, state_from_keras, state_to_keras),
    source="path",
    names_classes=True,
    takes_layers=True,
    taken=_names,
    signs=Signs(start=rb"\x89HDF\r\n\x1a\n", members=(r"config\.json", r"model\.weights\.h5")),
    framework="keras",
    pairs=PAIRS,
)
