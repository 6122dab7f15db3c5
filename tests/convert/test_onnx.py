"""ONNX's LSTM: recorded and live outputs of onnxruntime, and models from PyTorch's exporters."""

import importlib.util
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fusedlstm import LSTM, LSTMState, convert

from support.cells import host
from support.onnx_models import arrays_of, bits, lstm_model, session
from support.oracle_files import Oracle, names

# The number of parameters of each function that has any.
PARAMETERS = {"Affine": 2, "LeakyRelu": 1, "ThresholdedRelu": 1, "ScaledTanh": 2, "HardSigmoid": 2, "Elu": 1}
PLAIN = ["Relu", "Tanh", "Sigmoid", "Softsign", "Softplus"]


def states_of(cell, h, c):
    """Return ONNX's (D, B, N) arrays as one state for each direction."""
    c_dtype = cell.zero_state(0)[0].c.dtype
    return tuple(
        LSTMState(h=cell.asarray(one_h), c=cell.asarray(one_c, c_dtype)) for one_h, one_c in zip(h, c, strict=True)
    )


def run(cell, xs, h, c, **options):
    """Return Y (T, D, B, N), Y_h and Y_c (D, B, N), laid out as in ONNX."""
    outputs, states = cell(cell.asarray(xs), states_of(cell, h, c), **options)
    outputs = host(outputs)
    directions = np.stack(np.split(outputs, len(states), axis=2), axis=1)
    return directions, np.stack([host(state.h) for state in states]), np.stack([host(state.c) for state in states])


@pytest.mark.parametrize("name", names("onnx/*.npz"))
def test_oracle(name, backend):
    oracle = Oracle(name)
    attributes = oracle.meta["attributes"] | {"hidden_size": oracle.meta["hidden_size"]}
    arrays = {key: oracle[key] for key in ("W", "R", "B", "P") if key in oracle.arrays}
    cell = LSTM(convert.from_onnx(lstm_model(arrays, attributes, dtype=oracle.dtype)), backend=backend)
    options = {}
    if "sequence_lens" in oracle.arrays:
        options["lengths"] = oracle["sequence_lens"]
    got = run(cell, oracle["X"], oracle["initial_h"], oracle["initial_c"], **options)
    for key, values in zip(("Y", "Y_h", "Y_c"), got, strict=True):
        assert values.shape == oracle[key].shape
        assert np.isfinite(values).all(), key
        assert np.abs(values - oracle[key]).max() <= 3 * oracle.tolerance, key


@st.composite
def attributes_of(draw, D):
    """Draw attributes of a node: functions in any case, and lists of parameters that may be too short or too long."""
    attributes = {}
    if draw(st.booleans()):
        functions = draw(st.lists(st.sampled_from([*PLAIN, *PARAMETERS]), min_size=3 * D, max_size=3 * D))
        case = draw(st.sampled_from([str, str.lower, str.upper]))
        attributes["activations"] = [case(name) for name in functions]
        for k, which in enumerate(("activation_alpha", "activation_beta")):
            most = sum(PARAMETERS.get(name, 0) > k for name in functions) + 1
            numbers = draw(st.lists(st.sampled_from([0.1, 0.25, 0.5, 0.8]), max_size=most))
            attributes |= {which: numbers} if numbers else {}
    if draw(st.booleans()):
        attributes["clip"] = draw(st.sampled_from([0.1, 0.25, 0.8, 3.0]))
    if draw(st.booleans()):
        attributes["input_forget"] = draw(st.integers(0, 1))
    return attributes


def assert_close(got, wanted):
    """Compare as float32: onnxruntime's own tanh is about 1e-6 off, which unbounded functions enlarge."""
    size = max(1.0, *(float(np.abs(values).max(initial=0)) for values in wanted))
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5 * size)


@settings(max_examples=60)
@given(data=st.data())
def test_onnxruntime_agrees(data):
    """Draw every attribute, direction and input."""
    draw = data.draw
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    D = 2 if direction == "bidirectional" else 1
    T, B, I, N = (draw(st.integers(1, most)) for most in (3, 3, 4, 5))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    arrays = arrays_of(rng, I, N, D, bias=draw(st.booleans()), peephole=draw(st.booleans()))
    attributes = draw(attributes_of(D)) | {"hidden_size": N}
    if direction != "forward" or draw(st.booleans()):
        attributes["direction"] = direction
    feeds = {
        "X": rng.normal(size=(T, B, I)).astype(np.float32),
        "initial_h": rng.uniform(-1, 1, (D, B, N)).astype(np.float32),
        "initial_c": rng.normal(size=(D, B, N)).astype(np.float32),
    }
    options = {}
    if draw(st.booleans()):
        options["lengths"] = feeds["sequence_lens"] = rng.integers(1, T + 1, B).astype(np.int32)
    states = [name for name in feeds if name != "X"]
    model = lstm_model(arrays, attributes, given=states, opset=draw(st.sampled_from([7, 13, 14, 22])))
    wanted = session(model).run(None, feeds)
    # onnxruntime's softplus takes exp(x), which overflows for an unbounded c' from 88.8 on; ours returns x there.
    assume(all(np.isfinite(values).all() for values in wanted))
    cell = LSTM(convert.from_onnx(model.SerializeToString()), backend="numpy")
    assert_close(run(cell, feeds["X"], feeds["initial_h"], feeds["initial_c"], **options), wanted)


@pytest.mark.parametrize("name", [*PLAIN, *PARAMETERS])
@pytest.mark.parametrize("place", range(3))
def test_default_parameters_agree(name, place):
    """Each function, in each place, has onnxruntime's default parameters."""
    rng = np.random.default_rng(place)
    arrays = arrays_of(rng, 2, 4)
    functions = ["Sigmoid", "Tanh", "Tanh"]
    functions[place] = name
    attributes = {"activations": functions}
    model = lstm_model(arrays, attributes | {"hidden_size": 4}, given=["initial_h", "initial_c"])
    xs = rng.normal(size=(2, 3, 2)).astype(np.float32)
    h, c = rng.normal(size=(2, 1, 3, 4)).astype(np.float32)
    wanted = session(model).run(None, {"X": xs, "initial_h": h, "initial_c": c})
    assert_close(run(LSTM(convert.from_onnx(model), backend="numpy"), xs, h, c), wanted)


def test_row_of_length_0_keeps_its_state():
    """A row without steps keeps its initial state, as in TensorFlow. onnxruntime returns zeros."""
    rng = np.random.default_rng(0)
    model = lstm_model(arrays_of(rng, 2, 4), {"hidden_size": 4}, given=["sequence_lens", "initial_h", "initial_c"])
    xs = rng.normal(size=(3, 2, 2)).astype(np.float32)
    h, c = rng.normal(size=(2, 1, 2, 4)).astype(np.float32)
    lengths = np.array([0, 3], np.int32)
    feeds = {"X": xs, "sequence_lens": lengths, "initial_h": h, "initial_c": c}
    Y, Y_h, Y_c = session(model).run(None, feeds)
    assert not Y_h[:, 0].any()
    assert not Y_c[:, 0].any()
    outputs, final_h, final_c = run(LSTM(convert.from_onnx(model), backend="numpy"), xs, h, c, lengths=lengths)
    assert final_h[:, 0].tobytes() == h[:, 0].tobytes()
    assert final_c[:, 0].tobytes() == c[:, 0].tobytes()
    assert_close([outputs, final_h[:, 1], final_c[:, 1]], [Y, Y_h[:, 1], Y_c[:, 1]])


def test_infinite_biases_sum_silently():
    """Their sum, NaN, raises no warning."""
    arrays = arrays_of(np.random.default_rng(0), 2, 3)
    arrays["B"][0, 0], arrays["B"][0, 12] = np.inf, -np.inf
    assert np.isnan(convert.from_onnx(lstm_model(arrays)).layers[0].bias).tolist() == [True] + [False] * 11


@pytest.mark.sampled
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("dynamo", [False, True])
def test_torch_exports(dynamo, batch_first, num_layers, bidirectional, tmp_path):
    """Both exporters write all layers, and they convert as with from_torch."""
    torch = pytest.importorskip("torch")
    if dynamo and importlib.util.find_spec("onnxscript") is None:
        pytest.skip("the exporter needs onnxscript")
    torch.manual_seed(0)
    # 40 units are too many for the exporter to fold all operators on constants.
    module = torch.nn.LSTM(5, 40, num_layers, bidirectional=bidirectional, batch_first=batch_first).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(6, 2, 5),), tmp_path / "lstm.onnx", dynamo=dynamo, verbose=False)
    weights = convert.from_onnx(tmp_path / "lstm.onnx")
    assert bits(weights) == bits(convert.from_torch(module.state_dict()))
    assert len(convert.list_onnx(tmp_path / "lstm.onnx")) == num_layers


def test_missing_onnx_raises(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (convert.from_onnx, convert.list_onnx):
        with pytest.raises(
            ImportError, match="ONNX models need the package onnx, which fusedlstm's extra convert installs"
        ):
            call("lstm.onnx")


def test_import_does_not_import_onnx():
    code = "import sys, fusedlstm.convert; print([name for name in ('onnx', 'google.protobuf') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
