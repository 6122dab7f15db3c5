"""Where PyTorch keeps the arrays of a cell."""

from __future__ import annotations

from fusedlstm.convert.layout import Layout

LAYOUTS = {
    "torch": Layout(
        gates="ifgo",
        columns=False,
        weight_ih="weight_ih",
        weight_hh="weight_hh",
        biases=("bias_ih", "bias_hh"),
        weight_hr="weight_hr",
    ),
}
