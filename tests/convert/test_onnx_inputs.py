"""Test every input and attribute of all versions of ONNX's LSTM: taken, warned of, an argument, or irrelevant.

If one is taken or irrelevant, our outputs are compared with onnxruntime's, with and without it.
"""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMState, WeightsFileError, convert

from support.onnx_models import STATE_INPUTS, arrays_of, lstm_model, onnx, session

T, B, I, N = 4, 3, 3, 5
# The fate of each input.
INPUTS = {
    "X": "argument",
    "W": "taken",
    "R": "taken",
    "B": "taken",
    "sequence_lens": "argument",
    "initial_h": "argument",
    "initial_c": "argument",
    "P": "taken",
}
# Attributes with a value that changes the outputs or, if irrelevant, doesn't.
ATTRIBUTES = {
    "activation_alpha": ("taken", {"activations": ["HardSigmoid", "Tanh", "Tanh"], "activation_alpha": [0.4]}),
    "activation_beta": ("taken", {"activations": ["HardSigmoid", "Tanh", "Tanh"], "activation_beta": [0.7]}),
    "activations": ("taken", {"activations": ["Sigmoid", "Softsign", "Relu"]}),
    "clip": ("taken", {"clip": 0.2}),
    "direction": ("taken", {"direction": "reverse"}),
    "hidden_size": ("irrelevant", {"hidden_size": N}),
    "input_forget": ("taken", {"input_forget": 1}),
    "layout": ("warned of", {"layout": 1}),
    "output_sequence": ("irrelevant", {"output_sequence": 1}),
}
VERSIONS = (1, 7, 14, 22)  # versions of the operator


@pytest.mark.parametrize("version", VERSIONS)
def test_tables_are_complete(version):
    schema = onnx.defs.get_schema("LSTM", version)
    assert {each.name for each in schema.inputs} <= set(INPUTS)
    assert set(schema.attributes) <= set(ATTRIBUTES)


def test_tables_have_nothing_else():
    schemas = [onnx.defs.get_schema("LSTM", version) for version in VERSIONS]
    assert {each.name for schema in schemas for each in schema.inputs} == set(INPUTS)
    assert {name for schema in schemas for name in schema.attributes} == set(ATTRIBUTES)
    newest = [
        schema for schema in onnx.defs.get_all_schemas_with_history() if (schema.name, schema.domain) == ("LSTM", "")
    ]
    assert {schema.since_version for schema in newest} == set(VERSIONS)


def run_both(arrays, attributes=None, given=(), opset=22, **options):
    """Return onnxruntime's Y, and ours with the caller's arguments."""
    rng = np.random.default_rng(1)
    feeds = {
        "X": rng.normal(size=(T, B, I)).astype(np.float32),
        "sequence_lens": np.array([4, 1, 3], np.int32),
        "initial_h": rng.uniform(-1, 1, (1, B, N)).astype(np.float32),
        "initial_c": rng.uniform(-1, 1, (1, B, N)).astype(np.float32),
    }
    feeds = {name: feeds[name] for name in ("X", *given)}
    model = lstm_model(arrays, attributes or {"hidden_size": N}, given=given, opset=opset)
    theirs = session(model).run(None, feeds)[0][:, 0]
    state = None
    if "initial_h" in given or "initial_c" in given:
        zeros = np.zeros((1, B, N), np.float32)
        state = (LSTMState(h=feeds.get("initial_h", zeros)[0], c=feeds.get("initial_c", zeros)[0]),)
    if "sequence_lens" in given:
        options["lengths"] = feeds["sequence_lens"].astype(np.int64)
    ours, _ = LSTM(convert.from_onnx(model), backend="numpy")(feeds["X"], state, **options)
    return theirs, ours


ARRAYS = arrays_of(np.random.default_rng(0), I, N, peephole=True)
PLAIN = {name: ARRAYS[name] for name in ("W", "R")}


@pytest.mark.parametrize("name", INPUTS)
def test_each_input_counts(name):
    """Each input changes onnxruntime's outputs and ours alike, as weights or as an argument of the call."""
    theirs, ours = run_both(ARRAYS, given=STATE_INPUTS)
    assert np.abs(theirs - ours).max() < 1e-5
    if name in ("X", "W", "R"):
        return  # every model has it: see below
    without = {key: array for key, array in ARRAYS.items() if key != name}
    other_theirs, other_ours = run_both(without, given=[each for each in STATE_INPUTS if each != name])
    assert np.abs(other_theirs - other_ours).max() < 1e-5
    assert np.abs(theirs - other_theirs).max() > 1e-3


@pytest.mark.parametrize("name", ["W", "R"])
def test_required_inputs(name):
    with pytest.raises(WeightsFileError, match=f"{name} of the LSTM 'lstm': wanted a constant of the model"):
        convert.from_onnx(lstm_model({key: array for key, array in ARRAYS.items() if key != name}))


@pytest.mark.parametrize("name", [name for name in ATTRIBUTES if name != "layout"])
def test_attributes_count_unless_irrelevant(name, caplog):
    fate, attributes = ATTRIBUTES[name]
    opset = 22
    if name == "output_sequence":  # onnxruntime has no version 1
        weights = convert.from_onnx(lstm_model(PLAIN, attributes, opset=6)).layers[0]
        assert weights.weight_ih.tobytes() == convert.from_onnx(lstm_model(PLAIN)).layers[0].weight_ih.tobytes()
        return
    theirs, ours = run_both(PLAIN, attributes | {"hidden_size": N}, opset=opset)
    assert np.abs(theirs - ours).max() < 1e-5
    without = {key: value for key, value in attributes.items() if key != name}
    plain, _ = run_both(PLAIN, without | {"hidden_size": N}, opset=opset)
    assert (np.abs(theirs - plain).max() > 1e-3) == (fate != "irrelevant")
    assert (len(caplog.records) == 1) == (fate == "warned of")


def test_hidden_size_must_agree():
    with pytest.raises(
        WeightsFileError, match="hidden_size of the LSTM 'lstm': wanted 5, as W has 4N = 20 rows; got 4"
    ):
        convert.from_onnx(lstm_model(PLAIN, {"hidden_size": N - 1}))


def test_layout_becomes_batch_first(caplog):
    """onnxruntime has only layout 0: its outputs for transposed sequences are ours with batch_first."""
    weights = convert.from_onnx(lstm_model(PLAIN, {"layout": 1, "hidden_size": N}))
    assert "has layout 1: use LSTM(weights, batch_first=True)" in caplog.records[0].getMessage()
    xs = np.random.default_rng(1).normal(size=(T, B, I)).astype(np.float32)
    theirs = session(lstm_model(PLAIN, {"hidden_size": N})).run(None, {"X": xs})[0][:, 0]
    ours, _ = LSTM(weights, backend="numpy", batch_first=True)(np.ascontiguousarray(xs.swapaxes(0, 1)))
    assert np.abs(theirs.swapaxes(0, 1) - ours).max() < 1e-5


@pytest.mark.parametrize(
    ("lengths", "dims", "is_warned"),
    [([4, 4, 4], [T, B, I], False), ([2, 1, 3], [T, B, I], True), ([4, 4, 4], ["T", "B", I], True)],
)
def test_constant_lengths_warn(lengths, dims, is_warned, caplog):
    """The log names constant lengths, unless they all equal T."""
    model = lstm_model(PLAIN, {"hidden_size": N}, given=["sequence_lens"])
    del model.graph.input[:]
    model.graph.input.append(onnx.helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, dims))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(lengths, np.int32), "sequence_lens"))
    weights = convert.from_onnx(model)
    wanted = f"sequence_lens of the LSTM 'lstm' is constant: pass lengths={lengths} at each call"
    assert [record.getMessage() for record in caplog.records] == [wanted] * is_warned
    xs = np.random.default_rng(1).normal(size=(T, B, I)).astype(np.float32)
    theirs = session(model).run(None, {"X": xs})[0][:, 0]
    ours, _ = LSTM(weights, backend="numpy")(xs, lengths=np.array(lengths) if is_warned else None)
    assert np.abs(theirs - ours).max() < 1e-5


def test_computed_lengths_warn(caplog):
    model = lstm_model(PLAIN, {"hidden_size": N}, given=["sequence_lens"])
    model.graph.input[1].name = "given"
    model.graph.node.insert(0, onnx.helper.make_node("Neg", ["given"], ["sequence_lens"], "neg"))
    assert convert.from_onnx(model).num_layers == 1
    assert [record.getMessage() for record in caplog.records] == [
        "the model computes sequence_lens of the LSTM 'lstm' (Neg 'neg'): pass lengths="
    ]
