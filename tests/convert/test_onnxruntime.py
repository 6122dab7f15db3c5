"""Cells with ONNX's functions, clip and coupled gates, compared with onnxruntime if it is installed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedlstm import LSTM, LSTMState, LSTMWeights, StackedWeights

T, B, I, N = 2, 3, 5, 6  # few steps: some cells grow fast, and onnxruntime's Softplus(89) overflows
# ONNX's names of functions, with parameters for those that need some.
PLAIN = {
    "tanh": "Tanh",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "softsign": "Softsign",
    "softplus": "Softplus",
}
WITH_PARAMETERS = {
    "elu": ("Elu", 1),
    "affine": ("Affine", 2),
    "leaky_relu": ("LeakyRelu", 1),
    "thresholded_relu": ("ThresholdedRelu", 1),
    "scaled_tanh": ("ScaledTanh", 2),
    "hard_sigmoid": ("HardSigmoid", 2),
}


def functions():
    def with_parameters(name):
        return st.tuples(st.just(name), *[st.sampled_from([0.1, 0.25, 0.5, 0.8])] * WITH_PARAMETERS[name][1])

    return st.sampled_from(sorted(PLAIN)) | st.sampled_from(sorted(WITH_PARAMETERS)).flatmap(with_parameters)


def run(weights, x, h, c):
    """Return onnxruntime's outputs (T, B, N), h and c."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    chosen = [weights.functions.gate, weights.functions.input, weights.functions.output]
    names, alphas, betas = [], [], []
    for each in chosen:
        name, *parameters = (each,) if isinstance(each, str) else each
        names.append(PLAIN[name] if name in PLAIN else WITH_PARAMETERS[name][0])
        # The list has the parameters of all functions that have any, in order.
        alphas += parameters[:1]
        betas += parameters[1:]
    attributes = {"activations": names, "hidden_size": N, "input_forget": int(weights.coupled_gate == "forget")}
    attributes |= {"activation_alpha": alphas} if alphas else {}
    attributes |= {"activation_beta": betas} if betas else {}
    attributes |= {} if weights.gate_clip is None else {"clip": weights.gate_clip}
    order = [0, 3, 1, 2]  # ONNX has i, o, f, g

    def gates(array, order=order):
        return array.reshape(len(order), N, -1)[order].reshape(1, len(order) * N, -1).astype(np.float32)

    constants = {
        "W": gates(weights.weight_ih),
        "R": gates(weights.weight_hh),
        "B": np.concatenate([gates(weights.bias)[..., 0], np.zeros((1, 4 * N), np.float32)], axis=1),
    }
    inputs = ["X", "W", "R", "B", "", "h", "c"]
    if weights.peephole is not None:
        constants["P"] = gates(weights.peephole, [0, 2, 1])[..., 0]
        inputs.append("P")
    node = onnx.helper.make_node("LSTM", inputs, ["Y", "Y_h", "Y_c"], **attributes)
    shapes = {"X": [T, B, I], "h": [1, B, N], "c": [1, B, N]}
    graph = onnx.helper.make_graph(
        [node],
        "lstm",
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in node.output],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    Y, Y_h, Y_c = session.run(None, {"X": x, "h": h[None], "c": c[None]})
    return Y[:, 0], Y_h[0], Y_c[0]


@settings(max_examples=12)
@given(
    gate=functions(),
    input_=functions(),
    output=functions(),
    coupled=st.sampled_from([None, "forget"]),
    clip=st.none() | st.sampled_from([0.25, 0.8, 3.0]),
    peephole=st.booleans(),
    seed=st.integers(0, 99),
)
def test_onnxruntime_agrees(gate, input_, output, coupled, clip, peephole, seed):
    weights = LSTMWeights.random(
        I,
        N,
        seed=seed,
        peephole=peephole,
        activation=input_,
        output_activation=output,
        gate_activation=gate,
        gate_clip=clip,
        coupled_gate=coupled,
        dtype="float32",
    )
    rng = np.random.default_rng(seed)
    x, h, c = (rng.normal(size=shape).astype(np.float32) for shape in ((T, B, I), (B, N), (B, N)))
    Y, Y_h, Y_c = run(weights, x, h, c)
    outputs, (state,) = LSTM(StackedWeights([weights]), backend="numpy")(x, (LSTMState(h=h, c=c),))
    # onnxruntime's own sigmoid and tanh are about 1e-6 off, and other functions may enlarge that.
    scale = 2e-5 * max(1.0, np.abs(c).max(), np.abs(Y_c).max())
    for got, wanted in ((outputs, Y), (state.h, Y_h), (state.c, Y_c)):
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=scale)
