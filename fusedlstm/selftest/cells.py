"""The weights that are tested: small cells which, together, reach every part of the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.stacked import StackedWeights
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from fusedlstm.stacked import EitherWeights

# Arguments of LSTMWeights.random. Odd sizes reach the code for rows that can't be moved 16 bytes at a time. With few
# units, the projection is part of a one-kernel step. With more, it is a second kernel.
_CELLS: dict[str, dict[str, Any]] = {
    "plain": {"input_size": 24, "hidden_size": 32},
    "peepholes": {"input_size": 19, "hidden_size": 27, "peephole": True, "cell_clip": 0.7},
    "projection": {
        "input_size": 24,
        "hidden_size": 40,
        "proj_size": 16,
        "peephole": True,
        "cell_clip": 0.6,
        "proj_clip": 0.2,
    },
    "narrow projection": {"input_size": 8, "hidden_size": 8, "proj_size": 6, "proj_clip": 0.1},
    "functions": {
        "input_size": 24,
        "hidden_size": 32,
        "activation": "softsign",
        "gate_activation": ("hard_sigmoid", 0.2, 0.5),
        "gate_clip": 1.5,
        "coupled_gate": "input",
        "zoneout_c": 0.2,
        "zoneout_h": 0.1,
    },
}
CELLS = tuple(_CELLS)


def weights_of(form: str, dtype: str) -> EitherWeights:
    """Return the weights of a form: a cell, "layers" or "both directions"."""
    if form == "layers":
        return StackedWeights.random(24, 32, num_layers=2, residual=[False, True], seed=0, dtype=dtype)
    if form == "both directions":
        return StackedWeights.random(24, 20, bidirectional=True, seed=0, dtype=dtype)
    return LSTMWeights.random(**_CELLS[form], seed=0, dtype=dtype)
