"""Where Flax keeps the arrays of its cells.

Linen's LSTMCell and OptimizedLSTMCell and nnx's LSTMCell keep one kernel per gate: (I, N) in ii, if, ig and io (nnx
calls the second if_), and (N, N) with a bias in hi, hf, hg and ho. nnx's OptimizedLSTMCell keeps dense_i (I, 4N), and
dense_h (N, 4N) with a bias, in the gate order i, f, g, o. Tested against Flax 0.12.8.
"""

from __future__ import annotations

from fusedlstm.convert.layout import Layout, each

LAYOUTS = {
    # linen's LSTMCell and OptimizedLSTMCell, unchanged since 2020; nnx's, unchanged since 0.10 added them.
    # Until 0.11 nnx's parameters were below "value".
    "flax": Layout(
        gates="ifgo",
        columns=True,
        weight_ih=each("i{}/kernel", "ifgo"),
        weight_hh=each("h{}/kernel", "ifgo"),
        biases=(each("h{}/bias", "ifgo"),),
        has_bias=True,
    ),
    "flax_nnx": Layout(
        gates="ifgo",
        columns=True,
        weight_ih=("ii/kernel", "if_/kernel", "ig/kernel", "io/kernel"),
        weight_hh=each("h{}/kernel", "ifgo"),
        biases=(each("h{}/bias", "ifgo"),),
        has_bias=True,
    ),
    "flax_dense": Layout(
        gates="ifgo",
        columns=True,
        weight_ih="dense_i/kernel",
        weight_hh="dense_h/kernel",
        biases=("dense_h/bias",),
        has_bias=True,
    ),
}
