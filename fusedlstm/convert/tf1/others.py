"""Explain variables that look like an LSTM cell's, or were passed as an LSTM cell's, but aren't."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fusedlstm.convert.tf1.variables import join

if TYPE_CHECKING:
    from fusedlstm.convert.tf1.variables import Variables

# Scopes that TensorFlow 1.15 gives to other kinds of cells. Some of them have a kernel and a bias, too.
_OTHER_CELL = re.compile(
    r"(basic_rnn|gru|gru_block|cudnn_compatible_gru|ugrnn|intersection_rnn|nas|sru|ind_rnn|indy_gru|indy_lstm|glstm"
    r"|phased_lstm|time_freq_lstm|grid_lstm|bidirectional_grid_lstm)_cell(_v2)?(_\d+)?"
)

KERAS = "A recurrent_kernel is Keras's: from_keras takes its layers, their arrays, and files that it saved"
_OPAQUE = (
    "An opaque_kernel is CudnnLSTM's buffer, whose layout only cuDNN knows: take the checkpoint that train.Saver "
    "writes, which has its cells' variables (cudnn_compatible_lstm_cell/kernel and bias)"
)
_OBJECTS = (
    "These are from an object-based checkpoint, which train.Checkpoint and save_weights write: save a Keras model as a "
    ".keras or .h5 file, or save these variables by name with compat.v1.train.Saver"
)
_PARTS = (
    "Parts of a variable must be joined first, as a checkpoint's reader does: numpy.concatenate of part_0, part_1 ..."
)
_RENAMED = "Before TensorFlow 1.2, kernel and bias were called weights and biases: rename those of the cell"


def other_cell(variables: Variables, scope: str) -> str | None:
    """Return the scope of a known cell of another kind, if `scope` is its scope or is in it; else None."""
    start = 0  # where the part begins
    for part in scope.split("/"):
        above = scope[:start]
        if _OTHER_CELL.fullmatch(part):
            return above + part
        if part in ("gates", "candidate") and _is_gru(variables, above.removesuffix("/")):
            return above.removesuffix("/") or part
        start += len(part) + 1
    return None


def _is_gru(variables: Variables, scope: str) -> bool:
    candidate = [join(scope, f"candidate/{kernel}") for kernel in ("kernel", "input_projection/kernel")]
    return join(scope, "gates/kernel") in variables and any(name in variables for name in candidate)


def other_names(variables: Variables) -> str:
    """Return a hint about what variables with other names may be; "" if unknown."""
    last = {name.split("/")[-1] for name in variables}
    others = {other_cell(variables, scope) for scope in variables.scopes_of("kernel") + variables.scopes_of("W_0")}
    if found := ", ".join(sorted(map(repr, others - {None}))):
        return f"Cells of other kinds: {found}"
    if "VARIABLE_VALUE" in last:
        return _OBJECTS
    if "recurrent_kernel" in last:
        return KERAS
    if {"weights", "biases"} <= last:
        return _RENAMED
    if "opaque_kernel" in last:
        return _OPAQUE
    return _PARTS if "part_0" in last else ""
