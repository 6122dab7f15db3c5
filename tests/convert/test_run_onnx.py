"""onnxruntime's outputs of a model's own nodes agree with from_onnx's weights, and with no others."""

import sys

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMState, LSTMWeights, StackedWeights, convert
from fusedlstm.convert.running import onnx as running

from support.onnx_models import arrays_of, helper, lstm_model, numpy_helper, onnx

T, B = 4, 3
CASES = {
    "options": {"activations": ["HardSigmoid", "Relu", "Softsign"], "clip": 0.8, "input_forget": 1},
    "reverse": {"direction": "reverse"},
    "bidirectional": {"direction": "bidirectional"},
    "layout": {"layout": 1},
}


def compared(path, weights, name=None):
    """Return the difference between onnxruntime's outputs and states, and those of the weights."""
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    lstm = LSTM(weights, backend="numpy")
    xs = rng.normal(size=(T, B, weights.input_size)).astype(weights.dtype)
    states = [
        tuple(rng.uniform(-1, 1, (B, w.hidden_size)).astype(state.c.dtype) for _ in "hc")
        for w, state in zip(weights.layers, lstm.zero_state(0), strict=True)
    ]
    outputs, finals = running.run(path, name, weights, xs, states, {})
    ours, own_finals = lstm(xs, tuple(LSTMState(h=h.astype(weights.dtype), c=c) for h, c in states))
    assert outputs.shape == ours.shape
    differences = [np.abs(outputs.astype(float) - ours).max()]
    for (h, c), state in zip(finals, own_finals, strict=True):
        differences += [np.abs(h.astype(float) - state.h).max(), np.abs(c.astype(float) - state.c).max()]
    return max(differences)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_nodes_agree(case, dtype, tmp_path):
    D = 2 if case == "bidirectional" else 1
    arrays = arrays_of(np.random.default_rng(0), 3, 5, D, peephole=True, dtype=dtype)
    path = tmp_path / "lstm.onnx"
    onnx.save(lstm_model(arrays, CASES[case] | {"hidden_size": 5}, dtype=dtype), path)
    weights = convert.from_onnx(path)
    assert compared(path, weights) < (2e-5 if dtype == "float32" else 2e-2)
    first = weights.layers[0]
    swapped = first.arrays() | {"weight_hh": first.weight_hh.reshape(4, 5, 5)[[1, 0, 2, 3]].reshape(20, 5)}
    other = StackedWeights(
        [LSTMWeights(**swapped, **first.options()), *weights.layers[1:]], directions=weights.directions
    )
    assert compared(path, other) > 0.05


def test_layers_with_computed_weights_agree(tmp_path):
    """Operators compute the weights, as PyTorch's exporter writes them. Layers are also chosen by name."""
    weights = StackedWeights.random(3, 5, num_layers=2, bidirectional=True, seed=0)
    model = convert.to_onnx(weights)
    for tensor in list(model.graph.initializer):
        if tensor.name.startswith("W_"):  # W is a slice of a larger, transposed constant
            values = numpy_helper.to_array(tensor)
            large = numpy_helper.from_array(np.concatenate([values.T, values.T]), f"large_{tensor.name}")
            cut = helper.make_node("Slice", [large.name, "0", "end", "0"], [f"cut_{tensor.name}"])
            turn = helper.make_node("Transpose", [cut.output[0]], [tensor.name])
            model.graph.initializer.append(large)
            model.graph.initializer.append(numpy_helper.from_array(np.array([len(values.T)]), f"end_{tensor.name}"))
            cut.input[2] = f"end_{tensor.name}"
            model.graph.initializer.remove(tensor)
            model.graph.node.insert(0, turn)
            model.graph.node.insert(0, cut)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "0"))
    path = tmp_path / "lstm.onnx"
    onnx.save(model, path)
    assert compared(path, convert.from_onnx(path)) < 2e-5
    names = ("lstm_0", "lstm_1")
    assert compared(path, convert.from_onnx(path, names), names) < 2e-5


def test_nodes_in_functions_agree(tmp_path):
    arrays = arrays_of(np.random.default_rng(0), 3, 5)
    model = lstm_model(arrays)
    inner = helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], "inner", hidden_size=5)
    inner.attribute.append(onnx.AttributeProto(name="clip", ref_attr_name="limit", type=onnx.AttributeProto.FLOAT))
    versions = [helper.make_opsetid("", 22)]
    model.functions.append(helper.make_function("own", "F", ["X", "W", "R", "B"], ["Y"], [inner], versions, ["limit"]))
    model.graph.node[0].CopyFrom(helper.make_node("F", ["X", *"WRB"], ["Y"], "call", domain="own", limit=0.1))
    path = tmp_path / "lstm.onnx"
    onnx.save(model, path)
    weights = convert.from_onnx(path)
    assert weights.layers[0].gate_clip == 0.1
    assert compared(path, weights) < 2e-5


def test_nodes_onnxruntime_cannot_run_raise(tmp_path):
    path = tmp_path / "lstm.onnx"
    onnx.save(
        lstm_model(arrays_of(np.random.default_rng(0), 3, 5, dtype=np.float64), {"hidden_size": 5}, dtype=np.float64),
        path,
    )
    with pytest.raises(ValueError, match="the LSTM 'lstm': wanted one that onnxruntime runs; got .*double"):
        compared(path, convert.from_onnx(path))


def test_missing_onnxruntime_raises(tmp_path, monkeypatch):
    path = tmp_path / "lstm.onnx"
    onnx.save(lstm_model(arrays_of(np.random.default_rng(0), 3, 5)), path)
    weights = convert.from_onnx(path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    states = [(np.zeros((B, 5)), np.zeros((B, 5)))]
    with pytest.raises(ImportError, match="running ONNX models needs the package onnxruntime"):
        running.run(path, None, weights, np.zeros((T, B, 3)), states, {})
