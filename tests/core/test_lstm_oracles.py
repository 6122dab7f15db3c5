"""Compare whole sequences with numbers that TensorFlow 1, PyTorch, Flax and ONNX Runtime computed."""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMWeights, StackedWeights, convert

from support.comparisons import assert_sequence
from support.oracle_files import Oracle, names

TF1_OPTIONS = ("cell_clip", "num_proj", "proj_clip", "use_peepholes")


def tf1_states(oracle, name):
    """Return the pairs (h, c) of "init_l" or "final_l" for each layer."""
    layers = oracle.meta["layers"]
    return [(oracle[f"{name}{k}_h"], oracle[f"{name}{k}_c"]) for k in range(layers)]


@pytest.mark.parametrize(
    ("name", "residual"),
    [
        ("plain", False),
        ("lens_tm", False),
        ("lens_all_options", False),
        ("multi3", False),
        ("residual", True),
        ("multi_residual", (False, True)),
    ],
)
def test_dynamic_rnn(name, residual, backend):
    oracle = Oracle(f"tf1/dyn_{name}.npz")
    options = {key: value for key, value in oracle.meta["cell"].items() if key in TF1_OPTIONS}
    weights = convert.from_tf1(oracle.variables(), **options, residual=residual)
    assert isinstance(weights, StackedWeights if "multi" in name or residual else LSTMWeights)
    lstm = LSTM(weights, backend=backend)
    lengths = {"lengths": oracle["sequence_length"]} if oracle.meta["lens"] else {}
    assert_sequence(lstm, oracle, tf1_states(oracle, "init_l"), oracle["y"], tf1_states(oracle, "final_l"), **lengths)


@pytest.mark.parametrize("name", ["bidir_lens", "stack_bidir"])
def test_bidirectional_dynamic_rnn(name, backend):
    oracle = Oracle(f"tf1/dyn_{name}.npz")
    options = {key: value for key, value in oracle.meta["cell"].items() if key in TF1_OPTIONS}
    weights = convert.from_tf1(oracle.variables(), **options)
    assert (weights.bidirectional, weights.num_layers) == (True, oracle.meta["layers"])
    lstm = LSTM(weights, backend=backend)
    places = [f"{way}_l{layer}" for layer in range(oracle.meta["layers"]) for way in ("fw", "bw")]
    initial, final = (
        [(oracle[f"{which}_{place}_h"], oracle[f"{which}_{place}_c"]) for place in places]
        for which in ("init", "final")
    )
    outputs = oracle["y"] if "y" in oracle.arrays else np.concatenate([oracle["y_fw"], oracle["y_bw"]], axis=2)
    assert_sequence(lstm, oracle, initial, outputs, final, lengths=oracle["sequence_length"])


def test_fused_cell(backend):
    """One length is 0. LSTMBlockFusedCell then returns the initial state too."""
    oracle = Oracle("tf1/fused_lens_peep_clip.npz")
    lstm = LSTM(convert.from_tf1(oracle.variables(), cell_clip=0.6), backend=backend)
    final = [(oracle["final_h"], oracle["final_c"])]
    assert 0 in oracle["sequence_length"]
    pairs = [(oracle["h0"], oracle["c0"])]
    assert_sequence(lstm, oracle, pairs, oracle["y"], final, lengths=oracle["sequence_length"])


@pytest.mark.parametrize("name", names("torch/LSTM_*.npz"))
def test_torch_lstm(name, backend):
    oracle = Oracle(name)
    arguments = oracle.meta["args"]
    weights = convert.from_torch(oracle.variables())
    assert isinstance(weights, StackedWeights)
    assert (weights.num_layers, weights.bidirectional) == (arguments["num_layers"], arguments["bidirectional"])
    lstm = LSTM(weights, backend=backend)
    initial, final = (list(zip(oracle[h], oracle[c], strict=True)) for h, c in (("h0", "c0"), ("hn", "cn")))
    lengths = {"lengths": oracle["lens"]} if oracle.meta["lens"] else {}
    assert_sequence(lstm, oracle, initial, oracle["y"], final, **lengths)


def test_flax_rnn_with_lengths(backend):
    """Flax's outputs past the end are undefined, so they count as 0."""
    oracle = Oracle("jax/flax_linen_RNN_fwd_len.npz")
    cell = {key.split("['cell']")[1]: array for key, array in oracle.variables().items()}
    from_x, from_h, bias = (
        np.concatenate([cell[f"['{side}{gate}']['{what}']"] for gate in "ifgo"], axis=-1)
        for side, what in (("i", "kernel"), ("h", "kernel"), ("h", "bias"))
    )
    lstm = LSTM(LSTMWeights(from_x.T, from_h.T, bias), batch_first=True, backend=backend)
    lengths = oracle["lens"]
    outputs = np.where(np.arange(6)[None, :, None] < lengths[:, None, None], oracle["y"], 0)
    final = [(oracle["final_h"], oracle["final_c"])]
    oracle.tolerance = 1e-12
    assert_sequence(lstm, oracle, [(oracle["h0"], oracle["c0"])], outputs, final, lengths=lengths)


@pytest.mark.parametrize("name", names("onnx/*lens.npz"))
def test_onnx_lens(name, backend):
    """ONNX orders the gates i, o, f, g, and its outputs are (T, D, B, N)."""
    oracle = Oracle(name)
    direction = oracle.meta["attributes"].get("direction", "forward")

    def ours(blocks):
        return blocks.reshape(4, -1, *blocks.shape[1:])[[0, 2, 3, 1]].reshape(blocks.shape)

    N = oracle["R"].shape[2]
    layers = [
        LSTMWeights(ours(w), ours(r), ours(b[: 4 * N]) + ours(b[4 * N :]))
        for w, r, b in zip(oracle["W"], oracle["R"], oracle["B"], strict=True)
    ]
    lstm = LSTM(StackedWeights(layers, bidirectional=direction == "bidirectional"), backend=backend)
    initial, final = (
        list(zip(oracle[h], oracle[c], strict=True)) for h, c in (("initial_h", "initial_c"), ("Y_h", "Y_c"))
    )
    outputs = np.concatenate(list(oracle["Y"].swapaxes(0, 1)), axis=2)
    options = {"lengths": oracle["sequence_lens"], "reverse": direction == "reverse"}
    assert_sequence(lstm, oracle, initial, outputs, final, xs=oracle["X"], **options)
