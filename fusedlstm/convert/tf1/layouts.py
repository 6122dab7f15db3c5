"""Where TensorFlow 1 keeps the arrays of its cells and operations."""

from __future__ import annotations

from fusedlstm.convert.layout import Layout, each

LAYOUTS = {
    # In this order: LSTMCell, BasicLSTMCell, LSTMBlockCell and LSTMBlockFusedCell; the coupled cell, with i = 1 - f;
    # the arguments of raw_ops.BlockLSTM and LSTMBlockCell; those of raw_ops.BlockLSTMV2. The gate order never changed.
    # The first versions of LSTMCell added a fixed 1 to f; later ones have a forget_bias of 1.0. In 0.x and 1.0,
    # LSTMBlockCell clipped c to 3, the operation's default; in 1.15 it doesn't. BlockLSTMV2 never had a forget bias.
    "tf1": Layout(
        gates="igfo",
        columns=True,
        weight_ih="kernel",
        biases=("bias",),
        has_bias=True,
        peephole=each("w_{}_diag", "ifo"),
        weight_hr="projection/kernel",
        forget_bias=1.0,
    ),
    "tf1_coupled": Layout(
        gates="gfo",
        columns=True,
        weight_ih="W_0",
        biases=("B",),
        has_bias=True,
        peephole=("", "W_F_diag", "W_O_diag"),
        weight_hr="W_P_0",
        forget_bias=1.0,
    ),
    "tf1_block": Layout(
        gates="igfo",
        columns=True,
        weight_ih="w",
        biases=("b",),
        has_bias=True,
        peephole=each("wc{}", "ifo"),
        forget_bias=1.0,
    ),
    "tf1_block_v2": Layout(
        gates="ifgo", columns=True, weight_ih="w", biases=("b",), has_bias=True, peephole=each("wc{}", "ifo")
    ),
}
