"""Where Keras 3 and tf.keras keep the arrays of a cell."""

from __future__ import annotations

from fusedlstm.convert.layout import Layout

LAYOUTS = {
    "keras": Layout(gates="ifgo", columns=True, weight_ih="kernel", weight_hh="recurrent_kernel", biases=("bias",)),
}
