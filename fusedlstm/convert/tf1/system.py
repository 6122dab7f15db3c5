"""TensorFlow 1's record."""

from __future__ import annotations

from typing import Any

from fusedlstm.convert.record import Signs, System
from fusedlstm.convert.tf1.block import from_block_lstm, from_block_lstm_v2
from fusedlstm.convert.tf1.checkpoint import is_checkpoint
from fusedlstm.convert.tf1.finding import find_cells
from fusedlstm.convert.tf1.importing import from_tf1
from fusedlstm.convert.tf1.layouts import LAYOUTS
from fusedlstm.convert.tf1.listing import list_tf1
from fusedlstm.convert.tf1.states import PAIRS, state_from_tf1, state_to_tf1
from fusedlstm.convert.tf1.variables import Variables
from fusedlstm.convert.tf1.writing import tf1_arguments, to_tf1


def _scopes(source: Any) -> list[str]:
    return [cell.scope for cell in find_cells(Variables.of(source), None).cells]


SYSTEM = System(
    name="tf1",
    layouts=LAYOUTS,
    read=from_tf1,
    others=(from_block_lstm, from_block_lstm_v2, list_tf1, tf1_arguments, to_tf1, state_from_tf1, state_to_tf1),
    source="path",
    taken=_scopes,
    signs=Signs(at=is_checkpoint, array=r"(.*/)?(kernel|W_0)(:0)?"),
    framework="tensorflow",
    pairs=PAIRS,
)
