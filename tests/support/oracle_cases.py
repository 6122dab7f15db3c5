"""Read recorded outputs of other systems: weights by the system's importer, a sequence, and its outputs.

For each layout, ROWS names files that cover every part of it. Parts that no file covers are known only from source code
or documentation. They are in DOCUMENTED, with formulas in `documented.py`.
"""

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from fusedlstm import LSTM, LSTMState, convert
from fusedlstm.convert.keras.objects import from_keras
from fusedlstm.convert.onnx.layouts import LAYOUTS
from fusedlstm.convert.reading import read
from fusedlstm.weights import LSTMWeights

from support.cells import host
from support.oracle_files import Oracle


@dataclass(frozen=True)
class Sequence:
    """A sequence xs (T, B, I), the state (h, c) of each layer and direction before and after it, and its outputs."""

    xs: np.ndarray
    initial: list
    outputs: np.ndarray
    finals: list
    options: dict = field(default_factory=dict)


def steps_of(oracle):
    initial, finals = [(oracle["h0"], oracle["c0"])], [(oracle["h_seq"][-1], oracle["c_seq"][-1])]
    return Sequence(oracle["x"], initial, oracle["h_seq"], finals)


def stacked_of(oracle):
    """Read Chainer's and PyTorch's layers, whose states are stacked."""
    initial, finals = (list(zip(oracle[h], oracle[c], strict=True)) for h, c in (("h0", "c0"), ("hn", "cn")))
    return Sequence(oracle["x"], initial, oracle["y"], finals)


def jax_of(oracle):
    """Read layers of JAX's libraries, whose inputs are batch-major. Their outputs past the end are set to zeros."""
    count = sum(name.startswith("init") for name in oracle.arrays) // 2
    initial, finals = (
        [(oracle[f"{when}{k}_h"], oracle[f"{when}{k}_c"]) for k in range(count)] for when in ("init", "final")
    )
    xs, outputs, options = oracle["x"].swapaxes(0, 1), oracle["y"].swapaxes(0, 1), {}
    if "lens" in oracle.arrays:
        options["lengths"] = oracle["lens"]
        outputs = np.where((np.arange(len(xs))[:, None] < oracle["lens"])[..., None], outputs, 0)
    return Sequence(xs, initial, outputs, finals, options)


def tf1_of(oracle):
    """Read layers or directions of TensorFlow 1."""
    ways = [f"{way}_l" for way in ("fw", "bw")] if "init_fw_l0_h" in oracle.arrays else ["l"]
    places = [f"{way}{layer}" for layer in range(oracle.meta["layers"]) for way in ways]
    initial, finals = (
        [(oracle[f"{when}_{place}_h"], oracle[f"{when}_{place}_c"]) for place in places] for when in ("init", "final")
    )
    outputs = oracle["y"] if "y" in oracle.arrays else np.concatenate([oracle["y_fw"], oracle["y_bw"]], axis=2)
    lengths = {"lengths": oracle["sequence_length"]} if oracle.meta["lens"] else {}
    return Sequence(oracle["x"], initial, outputs, finals, lengths)


def onnx_of(oracle):
    return Sequence(
        oracle["X"],
        [(oracle["initial_h"][0], oracle["initial_c"][0])],
        oracle["Y"][:, 0],
        [(oracle["Y_h"][0], oracle["Y_c"][0])],
    )


TF1_CELL = ("cell_clip", "num_proj", "proj_clip", "forget_bias", "use_peepholes", "activation")


def from_tf1(oracle, **options):
    given = oracle.meta.get("args") or oracle.meta.get("cell") or {}
    options = {key: value for key, value in given.items() if key in TF1_CELL} | options
    variables = {name.replace("projection_kernel", "projection/kernel"): a for name, a in oracle.variables().items()}
    if "kernel" in variables:
        variables = {f"lstm_cell/{name}": array for name, array in variables.items()}
    return convert.from_tf1(variables, **options)


def from_operation(oracle, version):
    function = convert.from_block_lstm_v2 if version == 2 else convert.from_block_lstm
    return function(**oracle.variables(), **{"use_peephole": False} | oracle.meta["args"])


def from_onnx(oracle):
    """Read one direction with the layout alone: other tests cover the operator's importer."""
    N = oracle["R"].shape[2]
    arrays = {"W": oracle["W"][0], "R": oracle["R"][0], "Wb": oracle["B"][0, : 4 * N], "Rb": oracle["B"][0, 4 * N :]}
    if "P" in oracle.arrays:
        arrays["P"] = oracle["P"][0]
    return LSTMWeights(**read(LAYOUTS["onnx"], "arrays", arrays))


def from_tflite(oracle):
    return convert.from_tflite({int(name): array for name, array in oracle.variables().items()}, **oracle.meta["args"])


def from_jax(oracle, importer, **options):
    return getattr(convert, f"from_{importer}")(oracle.tree(), **options)


def from_plain(oracle, importer, prefix=""):
    return getattr(convert, f"from_{importer}")(oracle.variables(), prefix)


def from_torch(oracle):
    return convert.from_torch(oracle.variables())


def from_keras_arrays(oracle):
    return from_keras([array for name, array in oracle.arrays.items() if name.startswith("W")])


@dataclass(frozen=True)
class Case:
    """A file, how its weights are imported, and how its sequence is read."""

    file: str
    weights: object
    sequence: object = steps_of

    def __str__(self):
        return self.file.removesuffix(".npz")

    def check(self, backend="numpy"):
        """Raise AssertionError unless our outputs and states are the system's."""
        oracle = Oracle(self.file)
        sequence = self.sequence(oracle)
        weights = self.weights(oracle)
        lstm = LSTM(weights, backend=backend)
        assert len(lstm.weights.layers) == len(sequence.initial)
        c_dtype = lstm.zero_state(0)[0].c.dtype
        states = [LSTMState(h=lstm.asarray(h), c=lstm.asarray(c, c_dtype)) for h, c in sequence.initial]
        outputs, finals = lstm(lstm.asarray(sequence.xs), states, **sequence.options)
        pairs = [(outputs, sequence.outputs)]
        for final, (h, c) in zip(finals, sequence.finals, strict=True):
            pairs += [(final.h, h), (final.c, c)]
        for got, wanted in pairs:
            got = host(got)
            assert got.shape == wanted.shape
            assert np.isfinite(got).all()
            assert np.abs(got - wanted).max() <= 3 * oracle.tolerance


_TFLITE = ("plain", "peephole_projection_clips", "relu_peephole", "step_peephole_projection_clips")
_COUPLED = ("coupled", "coupled_peephole_projection_clips", "step_coupled_peephole")
_RELU_HARD = {"activation": "relu", "gate_activation": ("hard_sigmoid", 1 / 6, 0.5)}

ROWS = {
    "tf1": [
        Case("tf1/lstmcell_f64_plain_tuple1.npz", from_tf1),
        Case("tf1/lstmcell_f64_peep1_clipNone_proj3_pclipNone_fb1.0.npz", from_tf1),
        Case("tf1/lstmcell_f64_peep1_clip0.5_proj3_pclip0.25_fb1.0.npz", from_tf1),
        Case("tf1/contrib_CudnnCompatibleLSTMCell.npz", partial(from_tf1, forget_bias=0.0)),
    ],
    "tf1_coupled": [
        Case("tf1/contrib_CoupledInputForgetGate.npz", from_tf1),
        Case(
            "tf1/contrib_CoupledInputForgetGate_all.npz",
            partial(from_tf1, use_peepholes=True, num_proj=3, proj_clip=0.25, forget_bias=0.5),
        ),
    ],
    "tf1_block": [
        Case("tf1/raw_BlockLSTM.npz", partial(from_operation, version=1)),
        Case("tf1/raw_BlockLSTM_peep_clip.npz", partial(from_operation, version=1)),
        Case("tf1/raw_LSTMBlockCell_peep_clip.npz", partial(from_operation, version=1)),
    ],
    "tf1_block_v2": [
        Case("tf1/raw_BlockLSTMV2.npz", partial(from_operation, version=2)),
        Case("tf1/raw_BlockLSTMV2_peep_clip.npz", partial(from_operation, version=2)),
    ],
    "keras": [Case("keras3_tensorflow/LSTMCell_float64_plain.npz", from_keras_arrays)],
    "torch": [
        Case("torch/LSTMCell_float64_bias1.npz", from_torch),
        Case("torch/LSTM_proj.npz", from_torch, stacked_of),
    ],
    "onnx": [Case("onnx/plain.npz", from_onnx, onnx_of), Case("onnx/peep.npz", from_onnx, onnx_of)],
    "flax": [
        Case("jax/flax_linen_LSTMCell.npz", partial(from_jax, importer="flax")),
        Case("jax/flax_linen_OptimizedLSTMCell_relu_hard.npz", partial(from_jax, importer="flax", **_RELU_HARD)),
    ],
    "flax_nnx": [Case("jax/flax_nnx_LSTMCell.npz", partial(from_jax, importer="flax"))],
    "flax_dense": [Case("jax/flax_nnx_OptimizedLSTMCell.npz", partial(from_jax, importer="flax"))],
    "haiku": [Case("jax/haiku_LSTM.npz", partial(from_jax, importer="haiku"))],
    "equinox": [
        Case("jax/equinox_LSTMCell_bias1.npz", partial(from_jax, importer="equinox")),
        Case("jax/equinox_LSTMCell_bias0.npz", partial(from_jax, importer="equinox")),
    ],
    "sonnet1": [Case("old/sonnet1_LSTM.npz", partial(from_plain, importer="sonnet1", prefix="lstm"))],
    "sonnet2": [
        Case("old/sonnet2_LSTM.npz", partial(from_plain, importer="sonnet2", prefix="lstm")),
        Case("old/sonnet2_LSTM_proj.npz", partial(from_plain, importer="sonnet2", prefix="lstm")),
    ],
    "mxnet": [Case("old/mxnet_gluon_LSTMCell.npz", partial(from_plain, importer="mxnet", prefix="lstm0_"))],
    "chainer": [Case("old/chainer_StatelessLSTM.npz", partial(from_plain, importer="chainer"))],
    "chainer_nstep": [Case("old/chainer_NStepLSTM.npz", partial(from_plain, importer="chainer"), stacked_of)],
    "onednn": [Case("onednn/vanilla_lstm.npz", lambda oracle: convert.from_onednn(**oracle.variables()))],
    "tflite": [Case(f"tflite/{name}.npz", from_tflite) for name in _TFLITE],
    "tflite_coupled": [Case(f"tflite/{name}.npz", from_tflite) for name in _COUPLED],
}

# Layers and directions, by the importer that joins them.
LAYERS = {
    "flax": [
        Case("jax/flax_linen_Bidirectional.npz", partial(from_jax, importer="flax"), jax_of),
        Case("jax/flax_linen_Bidirectional_len.npz", partial(from_jax, importer="flax"), jax_of),
    ],
    "haiku": [
        Case("jax/haiku_DeepRNN.npz", partial(from_jax, importer="haiku", prefix=["lstm", "lstm_1"]), jax_of),
    ],
    "tf1": [
        Case("tf1/dyn_multi3.npz", from_tf1, tf1_of),
        Case("tf1/dyn_bidir_lens.npz", from_tf1, tf1_of),
        Case("tf1/dyn_stack_bidir.npz", from_tf1, tf1_of),
    ],
    "chainer": [
        Case("old/chainer_NStepLSTM.npz", partial(from_plain, importer="chainer"), stacked_of),
        Case("old/chainer_NStepBiLSTM.npz", partial(from_plain, importer="chainer"), stacked_of),
    ],
}


def nnx_bidirectional_of(oracle):
    """Read only the file's lower layer, which has both directions."""
    whole = jax_of(oracle)
    return Sequence(whole.xs, whole.initial[:2], oracle["between"].swapaxes(0, 1), whole.finals[:2])


def nnx_rnn_of(oracle):
    whole = jax_of(oracle)
    return Sequence(oracle["between"].swapaxes(0, 1), whole.initial[2:], whole.outputs, whole.finals[2:])


LAYERS["flax"] += [
    Case("jax/flax_nnx_Bidirectional.npz", partial(from_jax, importer="flax", prefix="both"), nnx_bidirectional_of),
    Case("jax/flax_nnx_Bidirectional.npz", partial(from_jax, importer="flax", prefix="above"), nnx_rnn_of),
]
