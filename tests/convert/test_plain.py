"""Test systems of plain arrays against recorded outputs or, without any, against documented formulas."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, convert
from fusedlstm.convert.systems import BY_NAME
from fusedlstm.convert.writing import write

from support.comparisons import assert_steps
from support.documented import FORMULAS, I, N, P, coreml_parameters, cudnn_arrays, haste_parameters, numbers
from support.examples import EXAMPLES, PLAIN
from support.layouts import LAYOUTS
from support.oracle_files import Oracle


@pytest.mark.parametrize(
    ("name", "importer", "prefix"),
    [
        ("sonnet1_LSTM", "from_sonnet1", "lstm"),
        ("sonnet2_LSTM", "from_sonnet2", "lstm"),
        ("sonnet2_LSTM_proj", "from_sonnet2", "lstm"),
        ("mxnet_gluon_LSTMCell", "from_mxnet", "lstm0_"),
        ("chainer_StatelessLSTM", "from_chainer", ""),
    ],
)
def test_recorded_cells(name, importer, prefix, backend):
    oracle = Oracle(f"old/{name}.npz")
    weights = getattr(convert, importer)(oracle.variables(), prefix)
    assert (weights.input_size, weights.hidden_size) == (4, 5)
    assert_steps(LSTMCell(weights, backend=backend), oracle)


@pytest.mark.parametrize(("name", "directions"), [("NStepLSTM", 1), ("NStepBiLSTM", 2)])
def test_recorded_layers(name, directions, backend):
    oracle = Oracle(f"old/chainer_{name}.npz")
    weights = convert.from_chainer(oracle.variables())
    assert (weights.num_layers, weights.num_directions) == (2, directions)
    lstm = LSTM(weights, backend=backend)
    c_dtype = lstm.zero_state(0)[0].c.dtype
    states = [
        LSTMState(h=lstm.asarray(h), c=lstm.asarray(c, c_dtype))
        for h, c in zip(oracle["h0"], oracle["c0"], strict=True)
    ]
    ys, finals = lstm(lstm.asarray(oracle["x"]), states)
    got = LSTMState(h=ys, c=ys).to_numpy().h
    assert np.abs(got - oracle["y"]).max() <= 3 * oracle.tolerance
    for final, h, c in zip(finals, oracle["hn"], oracle["cn"], strict=True):
        final = final.to_numpy()
        assert np.abs(final.h - h).max() <= 3 * oracle.tolerance
        assert np.abs(final.c - c).max() <= 3 * oracle.tolerance


def assert_same(weights, wanted):
    """Assert that two LSTMWeights are equal, bit for bit."""
    assert weights.options() == wanted.options()
    ours, theirs = weights.arrays(), wanted.arrays()
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in ours.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in theirs.items()
    }


@pytest.mark.parametrize(("system", "formula"), FORMULAS)
def test_documented_formulas(system, formula):
    """Convert systems and options that have no recorded outputs."""
    formula()


def test_cudnn_layers():
    first, second = cudnn_arrays(), cudnn_arrays(2 * N)
    w, b = 2 * first[0] + 2 * second[0], 2 * first[1] + 2 * second[1]
    weights = convert.from_cudnn(w, b, num_layers=2, bidirectional=True)
    assert (weights.num_layers, weights.bidirectional) == (2, True)
    for options, message in (
        ({"num_layers": 3}, "weights: wanted 8 or 9 matrices for each of 3 layers and directions; got 32"),
        ({"num_layers": 0}, "num_layers: wanted at least 1; got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.from_cudnn(w, b, **options)
    with pytest.raises(ValueError, match="biases: wanted 8 for each of 4 layers and directions; got 31"):
        convert.from_cudnn(w, b[1:], num_layers=2, bidirectional=True)
    with pytest.raises(ValueError, match=r"layer 1: w4: wanted shape \(N, P\) = \(4, 4\)"):
        convert.from_cudnn([*w[:12], np.ones((4, 3)), *w[13:]], b, num_layers=2, bidirectional=True)
    with pytest.raises(TypeError, match="bidirectional: wanted a bool"):
        convert.from_cudnn(w, b, num_layers=2, bidirectional=1)


def test_onednn_layers():
    shapes = {"weights_layer": (2, 2, N, 4, N), "weights_iter": (2, 2, P, 4, N), "weights_projection": (2, 2, N, P)}
    tensors = {name: numbers(*shape) for name, shape in shapes.items()}
    weights = convert.from_onednn(**tensors)
    assert (weights.num_layers, weights.bidirectional, weights.layers[0].bias) == (2, True, None)
    np.testing.assert_array_equal(weights.layers[3].weight_ih.T, tensors["weights_layer"][1, 1].reshape(N, 4 * N))
    for change, message in (
        ({"weights_layer": numbers(2, 3, N, 4, N)}, r"weights_iter: wanted shape .* with the L and D of weights_layer"),
        ({"weights_layer": numbers(2, 2, N, N)}, r"weights_layer: wanted shape \(L, D, I or P, 4, N\)"),
        ({"weights_iter": numbers(2, 2, P, 3, N)}, "weights_iter: wanted shape"),
        ({"bias": numbers(2, 2, 3, N)}, "bias: wanted shape"),
        ({"weights_peephole": numbers(2, 2, 4, N)}, "weights_peephole: wanted shape"),
        ({"weights_projection": numbers(2, 1, N, P)}, "weights_projection: wanted shape"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.from_onednn(**(tensors | change))
    with pytest.raises(ValueError, match=r"weights_layer: wanted shape \(L, D, I, 4, N\), D 1 or 2"):
        convert.from_onednn(numbers(1, 3, N, 4, N), numbers(1, 3, N, 4, N))


def test_coreml_directions():
    both = convert.from_coreml(coreml_parameters() | coreml_parameters("_back"), activation="relu")
    assert (both.num_layers, both.bidirectional, both.layers[1].output_activation) == (1, True, "relu")
    swapped = {name.replace("_back", ""): a for name, a in coreml_parameters("_back").items()}
    assert_same(both.layers[1], convert.from_coreml(swapped, activation="relu"))


@pytest.mark.parametrize("name", PLAIN)
@given(seed=st.integers(0, 99), projected=st.booleans())
def test_layouts_round_trip(name, seed, projected):
    """Without a forget bias, importers read every bit of a layout that we write."""
    example = EXAMPLES[name]
    layout = LAYOUTS[example.layout]
    weights = LSTMWeights.random(I, N, seed=seed, proj_size=P if projected and layout.weight_hr else None)
    options = {"forget_bias": 0.0} if layout.forget_bias else {}
    arrays = example.arrays(weights, **options)
    if "sonnet" in name:  # its variables have TensorFlow's names
        arrays = {f"{key}:0": array for key, array in arrays.items()}
    assert_same(BY_NAME[name].read(arrays, **example.arguments, **options), weights)


def mxnet_layers(directions="lr"):
    arrays = {}
    for layer in (1, 0):
        for seed, letter in enumerate(directions):
            width = I if layer == 0 else len(directions) * P
            cell = LSTMWeights.random(width, N, seed=2 * layer + seed, proj_size=P)
            arrays |= {f"net_{letter}{layer}_{name}": a for name, a in write(LAYOUTS["mxnet"], cell).items()}
    return arrays


@pytest.mark.parametrize("directions", ["l", "lr"])
def test_mxnet_layers(directions):
    weights = convert.from_mxnet(mxnet_layers(directions), "net_")
    assert (weights.num_layers, weights.num_directions) == (2, len(directions))
    for index, cell in enumerate(weights.layers):
        layer, back = divmod(index, len(directions))
        assert_same(cell, LSTMWeights.random(cell.input_size, N, seed=2 * layer + back, proj_size=P))


def nstep(cells):
    arrays = {}
    for k, cell in enumerate(cells):
        arrays |= {f"net/{k}/{name}": a for name, a in write(LAYOUTS["chainer_nstep"], cell).items()}
    return arrays


def cells(*widths):
    return [LSTMWeights.random(width, N, seed=k) for k, width in enumerate(widths)]


def test_chainer_directions():
    """Sizes show whether there are two directions, except for two cells with I = N."""
    for widths, directions in (((I,), 1), ((I, N), 1), ((I, I), 2), ((N, N, N), 1), ((N, N, 2 * N, 2 * N), 2)):
        weights = convert.from_chainer(nstep(cells(*widths)), "net")
        assert (weights.num_directions, len(weights.layers)) == (directions, len(widths))
        assert_same(weights.layers[-1], cells(*widths)[-1])
    with pytest.raises(ValueError, match="bidirectional: wanted True or False, as these sizes allow both; got None"):
        convert.from_chainer(nstep(cells(N, N)), "net")
    for both in (True, False):
        assert convert.from_chainer(nstep(cells(N, N)), "/net/", bidirectional=both).bidirectional == both
    with pytest.raises(ValueError, match=r"layers\[1\]: wanted input_size 4"):
        convert.from_chainer(nstep(cells(I, 7)), "net")
    with pytest.raises(TypeError, match="bidirectional: wanted a bool"):
        convert.from_chainer(nstep(cells(I)), "net", bidirectional=1)


def test_chainer_missing_layer():
    """A missing layer raises; the layers above it are not silently left out."""
    arrays = nstep(cells(I, N, N, N))
    for missing in (1, 2):
        some = {name: array for name, array in arrays.items() if not name.startswith(f"net/{missing}/")}
        with pytest.raises(ValueError, match=rf"params: wanted an array named 'net/{missing}/w0'"):
            convert.from_chainer(some, "net")


def tflite_inputs(coupled=False, peephole=False, proj_size=None, seed=0):
    """Return the operator's 24 inputs, with each gate's arrays separate."""
    P = proj_size or N
    inputs = [None] * 24
    for k in range(4):
        shapes = {1 + k: (N, I), 5 + k: (N, P), 12 + k: (N,)} | ({9 + k: (N,)} if peephole and k < 3 else {})
        for index, shape in shapes.items():
            if not (coupled and k == 0):
                inputs[index] = numbers(*shape, seed=100 * seed + index).astype(np.float32)
    if proj_size:
        inputs[16] = numbers(P, N, seed=16).astype(np.float32)
    return inputs


def sonnet1_variables(**more):
    return {f"lstm/{name}": a for name, a in write(LAYOUTS["sonnet1"], LSTMWeights.random(I, N, seed=0)).items()} | {
        f"lstm/{name}": value for name, value in more.items()
    }


@pytest.mark.parametrize(
    ("importer", "arguments", "options", "message"),
    [
        (
            "sonnet1",
            [sonnet1_variables()],
            {"hidden_clip_value": 1.0},
            "hidden_clip_value: wanted None; got 1.0. Sonnet 1",
        ),
        ("sonnet1", [sonnet1_variables()], {"cell_clip_value": 0.0}, "cell_clip_value: .*clips the previous state"),
        ("sonnet1", [sonnet1_variables(w_o_diag=np.ones(N))], {}, "got lstm/w_o_diag. .*inside the tanh of c"),
        (
            "sonnet1",
            [sonnet1_variables(**{"layer_norm/beta": np.ones(16)})],
            {},
            "the arrays of a plain LSTM; got lstm/layer_norm/beta. It is normalised",
        ),
        ("sonnet1", [sonnet1_variables()], {"prefix": "x"}, "named 'x/w_gates'; got .*Give prefix= one of 'lstm/'"),
        ("sonnet2", [{}], {}, "variables: wanted an array named 'lstm/w_i'; got none"),
        ("mxnet", [{"l0_i2h_weight": 1}], {"state_clip_min": -1.0}, "state_clip_min: .*cuDNN's documentation"),
        ("mxnet", [{"l0_i2h_weight": 1}], {"state_clip_max": 1.0}, "state_clip_max: wanted None; got 1.0"),
        ("mxnet", [mxnet_layers()], {}, "named 'i2h_weight'; got .*Give prefix= one of 'net_'"),
        ("mxnet", [{"a.b.i2h_weight": 1}], {}, r"Give prefix= one of 'a\.b\.'"),
        (
            "mxnet",
            [{k: v for k, v in mxnet_layers().items() if "r0" not in k}],
            {"prefix": "net_"},
            "'net_r0_i2h_weight'",
        ),
        ("chainer", [{"upward/W": 1, "peep_i/W": 1}], {}, "got peep_i/W. .*full matrices"),
        ("chainer", [{"a/upward/W": 1}], {}, "named 'upward/W'; got a/upward/W. Give prefix= one of 'a/'"),
        ("haste", [haste_parameters()], {"zoneout": 1.1}, "^zoneout: wanted a number from 0 to 1; got 1.1"),
        ("haste", [haste_parameters()], {"zoneout": -0.1}, "^zoneout: wanted a number from 0 to 1; got -0.1"),
        ("haste", [haste_parameters() | {"gamma_h": 1}], {}, "got gamma_h. It is a LayerNormLSTM"),
        ("haste", [haste_parameters() | {"recurrent_bias": 1}], {}, "got recurrent_bias. It is a GRU"),
        ("haste", [{}], {"prefix": "lstm"}, "parameters: wanted an array named 'lstm.recurrent_kernel'; got none"),
        ("coreml", [coreml_parameters()], {"clip": 3.0}, "clip: wanted None; got 3.0. Core ML's documentation"),
        ("coreml", [coreml_parameters()], {"activation": "gelu"}, "activation: wanted one of"),
        (
            "coreml",
            [coreml_parameters() | {"weight_ih_back": numbers(4 * N, I)}],
            {},
            "parameters: wanted an array named 'weight_hh_back'",
        ),
        (
            "tflite",
            [tflite_inputs()],
            {"activation": "linear"},
            "activation: wanted one of 'tanh', 'relu'; got 'linear'",
        ),
        ("tflite", [tflite_inputs()], {"cell_clip": -1.0}, "cell_clip: wanted a number >= 0"),
        ("tflite", [[None] * 20], {}, r"inputs: wanted an array named 'inputs\[2\]'; got none"),
    ],
)
def test_importers_refuse(importer, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(convert, f"from_{importer}")(*arguments, **options)


@pytest.mark.parametrize("importer", PLAIN)
def test_bad_prefix_raises(importer):
    with pytest.raises(TypeError, match="prefix: wanted a string; got None"):
        getattr(convert, f"from_{importer}")({"a": 1}, None)


@pytest.mark.parametrize("importer", [*PLAIN, "coreml"])
def test_list_instead_of_mapping_raises(importer):
    with pytest.raises(TypeError, match="wanted a mapping of names to arrays; got list"):
        getattr(convert, f"from_{importer}")([1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {21: np.ones(N)},
            ValueError,
            "inputs: wanted none of 20 to 23; got some. These inputs are coefficients of layer norm",
        ),
        ({17: np.ones(P)}, ValueError, r"inputs\[17\]: wanted zeros or None; got other numbers"),
        ({1: None}, ValueError, "inputs: wanted all of 1, 5 and 12, or none of 1, 5, 9 and 12; got 5, 12"),
        ({5: None}, ValueError, r"inputs: wanted an array named 'inputs\[5\]'"),
        ({2: np.ones((N, I), np.int8)}, TypeError, r"inputs\[2\]: wanted float weights; got dtype int8"),
        ({15: np.ones(3, np.float32)}, ValueError, r"inputs\[15\]: wanted shape \(N,\) = \(4,\)"),
        ({9: np.ones(N, np.float32)}, ValueError, r"inputs: wanted all of inputs\[9\], .*; got no inputs\[10\], "),
    ],
)
def test_tflite_refuses(change, error, message):
    inputs = dict(enumerate(tflite_inputs(proj_size=P))) | change
    with pytest.raises(error, match=message):
        convert.from_tflite(inputs)


def test_tflite_options():
    """A clip of 0 clips nothing, proj_clip needs a projection, and a projection's bias of zeros has no effect."""
    weights = convert.from_tflite([*tflite_inputs()[:17], np.zeros(N)], cell_clip=0.0, proj_clip=1.0)
    assert (weights.cell_clip, weights.proj_clip, weights.coupled_gate) == (None, None, None)
    weights = convert.from_tflite(tflite_inputs(coupled=True, proj_size=P), cell_clip=2.0, proj_clip=1.0)
    assert (weights.cell_clip, weights.proj_clip, weights.coupled_gate) == (2.0, 1.0, "input")


@pytest.fixture
def tf(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    return pytest.importorskip("tensorflow", reason="TensorFlow is not installed")


def tflite_model(tf, inputs, steps, *, function, cell_clip, proj_clip):
    """Return a model of one UNIDIRECTIONAL_SEQUENCE_LSTM, time-major."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    size = N if inputs[16] is None else inputs[16].shape[0]
    graph, model = schema.SubGraphT(), schema.ModelT()
    graph.tensors, model.buffers = [], [schema.BufferT()]

    def tensor(shape, value=None, variable=False):
        made = schema.TensorT()
        made.shape, made.type, made.isVariable = list(shape), schema.TensorType.FLOAT32, variable
        made.name, made.buffer = f"t{len(graph.tensors)}", 0
        if value is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(value.tobytes(), np.uint8)
            model.buffers.append(buffer)
            made.buffer = len(model.buffers) - 1
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    operator = schema.OperatorT()
    operator.inputs = [-1 if value is None else tensor(value.shape, value) for value in inputs]
    operator.inputs[0] = tensor((steps, 5, I))
    operator.inputs[18], operator.inputs[19] = tensor((5, size), variable=True), tensor((5, N), variable=True)
    operator.outputs = [tensor((steps, 5, size))]
    operator.builtinOptionsType = schema.BuiltinOptions.UnidirectionalSequenceLSTMOptions
    options = operator.builtinOptions = schema.UnidirectionalSequenceLSTMOptionsT()
    options.fusedActivationFunction = getattr(schema.ActivationFunctionType, function)
    options.cellClip, options.projClip, options.timeMajor = cell_clip, proj_clip, True
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
    graph.operators, graph.inputs, graph.outputs = [operator], [operator.inputs[0]], operator.outputs
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def tflite_outputs(tf, content, xs):
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], xs)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize("proj_size", [None, P])
@pytest.mark.parametrize(
    ("function", "ours", "cell_clip", "proj_clip"),
    [
        ("TANH", "tanh", 0.0, 0.0),
        ("RELU", "relu", 0.9, 0.3),
        ("TANH", "tanh", 0.4, 0.2),
    ],
)
def test_tflite_interpreter(tf, coupled, peephole, proj_size, function, ours, cell_clip, proj_clip):
    """Compare every form of the operator that is taken with its own outputs."""
    inputs, xs = tflite_inputs(coupled, peephole, proj_size), numbers(6, 5, I).astype(np.float32)
    content = tflite_model(tf, inputs, 6, function=function, cell_clip=cell_clip, proj_clip=proj_clip)
    weights = convert.from_tflite(inputs, activation=ours, cell_clip=cell_clip, proj_clip=proj_clip)
    got, _ = LSTM(weights, backend="numpy")(xs)
    np.testing.assert_allclose(got, tflite_outputs(tf, content, xs), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_tflite_of_keras(tf):
    """TensorFlow's converter turns a Keras LSTM into this operator, with a clip of 10."""
    keras = pytest.importorskip("tf_keras", reason="tf_keras is not installed")
    from tensorflow.lite.python import schema_py_generated as schema

    given = keras.Input((6, I), batch_size=5)
    model = keras.Model(given, keras.layers.LSTM(N, return_sequences=True)(given))
    model.set_weights([numbers(*a.shape) for a in model.get_weights()])
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    parsed = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    (operator,) = parsed.subgraphs[0].operators

    def value(index):
        tensor = parsed.subgraphs[0].tensors[index]
        data = None if index < 0 else parsed.buffers[tensor.buffer].data
        return None if data is None else np.asarray(data).view(np.float32).reshape(tensor.shape)

    assert operator.builtinOptions.cellClip == 10
    weights = convert.from_tflite([value(index) for index in operator.inputs], cell_clip=10.0)
    xs = numbers(5, 6, I).astype(np.float32)
    got, _ = LSTM(weights, backend="numpy")(xs.swapaxes(0, 1))
    np.testing.assert_allclose(got.swapaxes(0, 1), tflite_outputs(tf, content, xs), rtol=0, atol=1e-5)
    kernel, recurrent, bias = model.get_weights()
    np.testing.assert_array_equal(weights.weight_ih, kernel.T)
    np.testing.assert_array_equal(weights.weight_hh, recurrent.T)


@pytest.mark.parametrize("shape", [(16,), (2, 7, 16), ()])
@pytest.mark.parametrize(
    ("importer", "name", "more"),
    [
        (convert.from_tf1, "kernel", {"bias": np.zeros(16)}),
        (convert.from_sonnet2, "lstm/w_i", {}),
        (convert.from_haiku, "lstm/linear/w", {"lstm/linear/b": np.zeros(16)}),
        (convert.from_haste, "kernel", {"recurrent_kernel": np.zeros((4, 16))}),
        (convert.from_mxnet, "i2h_weight", {"h2h_weight": np.zeros((16, 4))}),
    ],
)
def test_weights_must_be_matrices(importer, name, more, shape):
    """For example, jax.vmap stacks cells. Layouts of columns and of rows are tested."""
    options = {"prefix": ""} if importer is convert.from_tf1 else {}
    with pytest.raises(ValueError, match=rf"{name}: wanted shape \(.*N.*\); got shape {re.escape(str(shape))}"):
        importer({name: np.zeros(shape)} | more, **options)
