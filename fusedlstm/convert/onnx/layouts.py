"""Where ONNX's operator LSTM keeps the arrays of a direction."""

from __future__ import annotations

from fusedlstm.convert.layout import Layout

# B is cut into its two halves.
LAYOUTS = {
    "onnx": Layout(
        gates="iofg",
        columns=False,
        weight_ih="W",
        weight_hh="R",
        biases=("Wb", "Rb"),
        peephole="P",
        peepholes="iof",
    ),
}
