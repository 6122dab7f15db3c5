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
_RENAMED = "Before TensorFlow {}, kernel and bias were called {} and {}: rename those of the cell"
_RENAMED_ALL = (
    "In an LSTMCell before TensorFlow 1.0, kernel and bias were called W_0 and B: rename those of the cell, and "
    "W_F_diag to w_f_diag and W_P_0 to projection/kernel, if it has them"
)
_OLD_CELL = re.compile(r"LSTMCell(_\d+)?")  # the scope of an LSTMCell before TensorFlow 1.0
_INDY = "kernel_w and kernel_u are an IndyLSTMCell's, whose recurrent weights are vectors"
# Hints by the last parts of names, which must all be there.
_HINTS = {
    ("VARIABLE_VALUE",): _OBJECTS,
    ("recurrent_kernel",): KERAS,
    ("kernel_w", "kernel_u"): _INDY,
    ("weights", "biases"): _RENAMED.format("1.2", "weights", "biases"),
    ("Matrix", "Bias"): _RENAMED.format("1.0", "Matrix", "Bias"),
    ("W_0", "B"): _RENAMED_ALL,
    ("opaque_kernel",): _OPAQUE,
    ("part_0",): _PARTS,
}


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


def is_old_cell(scope: str) -> bool:
    """Return whether a scope is that of an LSTMCell before TensorFlow 1.0, whose kernel is W_0."""
    return _OLD_CELL.fullmatch(scope.rsplit("/", maxsplit=1)[-1]) is not None


def _is_gru(variables: Variables, scope: str) -> bool:
    candidate = [join(scope, f"candidate/{kernel}") for kernel in ("kernel", "input_projection/kernel")]
    return join(scope, "gates/kernel") in variables and any(name in variables for name in candidate)


def other_names(variables: Variables) -> str:
    """Return a hint about what variables with other names may be; "" if unknown."""
    last = {name.split("/")[-1] for name in variables}
    kernels = [scope for name in ("kernel", "W_0", "kernel_w") for scope in variables.scopes_of(name)]
    others = {other_cell(variables, scope) for scope in kernels}
    if found := ", ".join(sorted(map(repr, others - {None}))):
        return f"Cells of other kinds: {found}"
    return next((hint for names, hint in _HINTS.items() if last.issuperset(names)), "")
