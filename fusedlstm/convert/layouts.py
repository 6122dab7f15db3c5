"""Where each system keeps the weights of one cell: a table of plain layouts.

Tests compare each row with outputs of the real system. A comment says where only source code or documents tell. It
also says since which version a default applies and what came before, as weights don't tell a version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

# One array with the blocks of all gates, by its name, or one array a gate, by their names in the layout's order.
Names: TypeAlias = str | tuple[str, ...]


def each(name: str, letters: str) -> tuple[str, ...]:
    """Return the names of one array a gate: each("w_{}", "ifgo") is w_i, w_f, w_g, w_o."""
    return tuple(name.format(letter) for letter in letters)


def all_names(names: Names) -> tuple[str, ...]:
    """Return the names of one array or of several."""
    return (names,) if isinstance(names, str) else names


@dataclass(frozen=True)
class Layout:
    """Where a system keeps the arrays of one cell, by the names they have below the cell's own scope.

    Attributes:
        gates: the order of the blocks, such as "igfo"; a coupled gate has none, and becomes zeros.
        columns: whether gates stand side by side, as x @ kernel wants: (I, 4N); else in rows, (4N, I). A
            projection is (N, P) with columns, else (P, N).
        weight_ih: what x is multiplied by.
        weight_hh: what h is multiplied by; empty where both are one array: (I + P, 4N), rows [x; h].
        biases: all that are added, each (4N,).
        has_bias: whether a cell always has them.
        peephole: one array of three blocks of N, or three names in the order i, f, o; empty for none.
        peepholes: the order of the blocks of one array.
        weight_hr: the projection; empty for none.
        interleaved: whether the gates of a unit stand together (row 4n + k), instead of units of a gate.
        forget_bias: what the system adds at every step, besides its arrays.
    """

    gates: str
    columns: bool
    weight_ih: Names
    weight_hh: Names = ""
    biases: tuple[Names, ...] = ()
    has_bias: bool = False
    peephole: Names = ""
    peepholes: str = "ifo"
    weight_hr: str = ""
    interleaved: bool = False
    forget_bias: float = 0.0

    def names(self) -> frozenset[str]:
        """Return the names of all arrays in the layout."""
        parts = (self.weight_ih, self.weight_hh, *self.biases, self.peephole, self.weight_hr)
        return frozenset(name for names in parts for name in all_names(names) if name)


LAYOUTS = {
    # TensorFlow 1: LSTMCell, BasicLSTMCell, LSTMBlockCell and LSTMBlockFusedCell; the coupled cell, i = 1 - f; the
    # arguments of raw_ops.BlockLSTM and LSTMBlockCell; those of raw_ops.BlockLSTMV2. The gate order never changed.
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
    # Keras 3 and tf.keras.
    "keras": Layout(gates="ifgo", columns=True, weight_ih="kernel", weight_hh="recurrent_kernel", biases=("bias",)),
    "torch": Layout(
        gates="ifgo",
        columns=False,
        weight_ih="weight_ih",
        weight_hh="weight_hh",
        biases=("bias_ih", "bias_hh"),
        weight_hr="weight_hr",
    ),
    # One direction of the ONNX operator LSTM, B cut into its two halves.
    "onnx": Layout(
        gates="iofg",
        columns=False,
        weight_ih="W",
        weight_hh="R",
        biases=("Wb", "Rb"),
        peephole="P",
        peepholes="iof",
    ),
    # Flax: linen's LSTMCell and OptimizedLSTMCell, unchanged since 2020; nnx's, unchanged since 0.10 added them.
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
    # Haiku has added 1 to f since its first version.
    "haiku": Layout(gates="igfo", columns=True, weight_ih="w", biases=("b",), has_bias=True, forget_bias=1.0),
    # Unchanged since 0.1.
    "equinox": Layout(gates="ifgo", columns=False, weight_ih="weight_ih", weight_hh="weight_hh", biases=("bias",)),
    # The forget_bias has been 1.0 since 1.1. The projection, added in 1.16, is from Sonnet's source.
    "sonnet1": Layout(
        gates="igfo",
        columns=True,
        weight_ih="w_gates",
        biases=("b_gates",),
        weight_hr="w_h_projection",
        forget_bias=1.0,
    ),
    # Since 2.0-beta nothing is added at run time: the forget_bias of 1.0 is in b's initial values.
    "sonnet2": Layout(
        gates="ifgo", columns=True, weight_ih="w_i", weight_hh="w_h", biases=("b",), weight_hr="projection"
    ),
    # The projection is from MXNet's source.
    "mxnet": Layout(
        gates="ifgo",
        columns=False,
        weight_ih="i2h_weight",
        weight_hh="h2h_weight",
        biases=("i2h_bias", "h2h_bias"),
        weight_hr="h2r_weight",
    ),
    # Chainer: StatelessLSTM and LSTM; one layer and direction of NStepLSTM and NStepBiLSTM. F.lstm has had this order
    # since 1.0. The forget bias is in upward/b's initial values.
    "chainer": Layout(
        gates="gifo",
        columns=False,
        weight_ih="upward/W",
        weight_hh="lateral/W",
        biases=("upward/b",),
        interleaved=True,
    ),
    "chainer_nstep": Layout(
        gates="ifgo",
        columns=False,
        weight_ih=each("w{}", "0123"),
        weight_hh=each("w{}", "4567"),
        biases=(each("b{}", "0123"), each("b{}", "4567")),
    ),
    # From haste's source. The forget_bias is in bias's initial values, in 0.3 too.
    "haste": Layout(gates="igfo", columns=True, weight_ih="kernel", weight_hh="recurrent_kernel", biases=("bias",)),
    # Linear layers 0 to 3 and 4 to 7 of cuDNN, as TensorFlow's canonical blobs have them; 8 is the projection. From
    # its documents and TensorFlow's converter.
    "cudnn": Layout(
        gates="ifgo",
        columns=False,
        weight_ih=each("w{}", "0123"),
        weight_hh=each("w{}", "4567"),
        biases=(each("b{}", "0123"), each("b{}", "4567")),
        weight_hr="w8",
    ),
    # One layer and direction of oneDNN's ldigo tensors. Peepholes and the projection are from oneDNN's documents.
    "onednn": Layout(
        gates="ifgo",
        columns=True,
        weight_ih="weights_layer",
        weight_hh="weights_iter",
        biases=("bias",),
        peephole="weights_peephole",
        weight_hr="weights_projection",
    ),
    # Core ML's MIL operation lstm, one direction. From its documents. coremltools 4 had one array for x and h.
    "coreml": Layout(
        gates="ifog",
        columns=False,
        weight_ih="weight_ih",
        weight_hh="weight_hh",
        biases=("bias",),
        peephole="peephole",
    ),
    # TFLite's operators, by the numbers of their inputs; and those without an input gate, which is 1 - f.
    "tflite": Layout(
        gates="ifgo",
        columns=False,
        weight_ih=each("{}", "1234"),
        weight_hh=each("{}", "5678"),
        biases=(("12", "13", "14", "15"),),
        has_bias=True,
        peephole=("9", "10", "11"),
        weight_hr="16",
    ),
    "tflite_coupled": Layout(
        gates="fgo",
        columns=False,
        weight_ih=each("{}", "234"),
        weight_hh=each("{}", "678"),
        biases=(("13", "14", "15"),),
        has_bias=True,
        peephole=("", "10", "11"),
        weight_hr="16",
    ),
}
