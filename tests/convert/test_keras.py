"""Keras's layers and arrays: Keras's own outputs, round trips bit for bit, and refusals."""

import re
import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusedlstm import LSTM, LSTMCell, LSTMWeights, StackedWeights
from fusedlstm.convert.keras.functions import function_of
from fusedlstm.convert.keras.objects import from_keras, to_keras

from support.comparisons import assert_equal, assert_sequence, assert_steps
from support.oracle_files import Oracle, names

HARD_3 = ("hard_sigmoid", 1 / 6, 0.5)


def arrays_of(oracle):
    return [array for key, array in oracle.arrays.items() if key[0] == "W"]


@pytest.mark.parametrize("name", ["LSTMCell_float64_plain.npz", "LSTMCell_float16_plain.npz"])
def test_cell(name, backend):
    oracle = Oracle(f"keras3_tensorflow/{name}")
    assert_steps(LSTMCell(from_keras(arrays_of(oracle)), backend=backend), oracle)


def test_cell_with_other_functions():
    oracle = Oracle("keras3_tensorflow/LSTMCell_float32_relu_hard.npz")
    arguments = oracle.meta["args"]
    options = {
        "activation": function_of("", arguments["activation"], 3),
        "recurrent_activation": function_of("", arguments["recurrent_activation"], 3),
    }
    weights = from_keras(arrays_of(oracle), **options)
    assert (weights.activation, weights.gate_activation) == ("relu", HARD_3)
    assert_steps(LSTMCell(weights, backend="numpy"), oracle)


@pytest.mark.parametrize("name", names("keras3_tensorflow/LSTM_*.npz"))
def test_layer(name, backend):
    oracle = Oracle(name)
    arrays, arguments = arrays_of(oracle), oracle.meta["args"]
    weights = from_keras(arrays if oracle.meta["bidirectional"] else [arrays])
    assert weights.bidirectional == oracle.meta["bidirectional"]
    if arguments.get("go_backwards"):  # which arrays don't hold
        weights = StackedWeights(weights.layers, directions=["backward"])
    lstm = LSTM(weights, batch_first=True, backend=backend)
    initial, final = (
        [(oracle[f"{which}{2 * k}"], oracle[f"{which}{2 * k + 1}"]) for k in range(len(lstm.zero_state(0)))]
        for which in ("init", "final")
    )
    options, outputs = {}, oracle["y"]
    if "mask" in oracle.arrays:  # the masks have gaps, which lengths can't express
        rule = "zero" if arguments.get("zero_output_for_mask") else "last"
        options |= {"mask": oracle["mask"], "masked_outputs": rule}
    if arguments.get("go_backwards"):
        outputs = outputs[:, ::-1]  # Keras returns them in the order in which it steps
    assert_sequence(lstm, oracle, initial, outputs, final, **options)


SIZES = st.integers(1, 5)
FUNCTIONS = st.sampled_from(["tanh", "relu", "sigmoid", "softplus", HARD_3, ("leaky_relu", 0.2)])


@given(st.data())
def test_keras_round_trip(data):
    draw = data.draw
    options = {"activation": draw(FUNCTIONS), "gate_activation": draw(FUNCTIONS)}
    options |= {
        "dtype": draw(st.sampled_from(["float64", "float32", "float16", "bfloat16"])),
        "bias": draw(st.booleans()),
    }
    sizes, seed = draw(st.tuples(SIZES, SIZES)), draw(st.integers(0, 99))
    layers, bidirectional = draw(st.integers(0, 3)), draw(st.booleans())
    if layers:
        weights = StackedWeights.random(*sizes, layers, seed=seed, bidirectional=bidirectional, **options)
    else:
        weights = LSTMWeights.random(*sizes, seed=seed, **options)
    arrays = to_keras(weights)
    if layers == 1 and not bidirectional:
        arrays = [arrays]  # otherwise they would be a cell's
    got = from_keras(arrays, activation=options["activation"], recurrent_activation=options["gate_activation"])
    assert_equal(got, weights)


def test_arrays_of_to_keras_are_new():
    weights = LSTMWeights.random(2, 3, seed=0)
    kernel, recurrent_kernel, bias = to_keras(weights)
    assert [array.shape for array in (kernel, recurrent_kernel, bias)] == [(2, 12), (3, 12), (12,)]
    assert all(array.flags.writeable and array.flags.c_contiguous for array in (kernel, recurrent_kernel, bias))
    np.testing.assert_array_equal(kernel, weights.weight_ih.T)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peephole": True}, "weights: peephole: wanted None, as Keras's LSTM supports nothing else"),
        ({"proj_size": 2}, "weights: weight_hr: wanted None"),
        ({"proj_size": 2, "proj_clip": 1.0}, "weights: weight_hr: wanted None"),
        ({"cell_clip": 0.5}, "weights: cell_clip: wanted None, .* got 0.5"),
        ({"gate_clip": 0.5}, "weights: gate_clip: wanted None"),
        ({"coupled_gate": "input"}, "weights: coupled_gate: wanted None"),
        ({"output_activation": "relu"}, "weights: output_activation: wanted None"),
        ({"zoneout_c": 0.1}, "weights: zoneout_c: wanted 0.0, as Keras's LSTM supports nothing else; got 0.1"),
        ({"zoneout_h": 0.1}, "weights: zoneout_h: wanted 0.0, as Keras's LSTM supports nothing else; got 0.1"),
    ],
)
def test_to_keras_refuses(options, message):
    weights = LSTMWeights.random(3, 4, seed=0, **options)
    with pytest.raises(ValueError, match=message):
        to_keras(weights)
    with pytest.raises(ValueError, match=message.replace("weights", r"layers\[0\]")):
        to_keras(StackedWeights([weights]))


def test_to_keras_refuses_residual_and_others():
    with pytest.raises(ValueError, match="residual: wanted False, as Keras's LSTM supports nothing else"):
        to_keras(StackedWeights.random(4, 4, 2, seed=0, residual=[False, True]))
    with pytest.raises(TypeError, match="weights: wanted an LSTMWeights or a StackedWeights; got list"):
        to_keras([])


X, H, B = np.ones((3, 16), "f"), np.ones((4, 16), "f"), np.ones(16, "f")


@pytest.mark.parametrize(
    ("arrays", "options", "error", "message"),
    [
        ([], {}, ValueError, r"source: wanted \[kernel, .* got arrays of shapes none"),
        ([X], {}, ValueError, r"got arrays of shapes \(3, 16\). Give a list of such lists"),
        ([X, H, B, B], {}, ValueError, r"source: wanted \[kernel"),
        ([B, X, H], {}, ValueError, r"source: wanted \[kernel"),
        ([X, H, B] * 3, {}, ValueError, r"source: wanted \[kernel"),
        ([X, H, B, X], {}, ValueError, r"source: wanted \[kernel"),
        (
            [X, H, B, H, H, B],
            {},
            ValueError,
            "source: wanted two directions with the same input_size; got 3 and 4. If these are",
        ),
        ([X, H, B[:12]], {}, ValueError, r"source.bias: wanted shape \(4N,\) = \(16,\); got shape \(12,\)"),
        (
            [X, X, B],
            {},
            ValueError,
            r"source.recurrent_kernel: wanted shape \(P, 4N\) = \(4, 16\); got shape \(3, 16\)",
        ),
        ([X[:, :15], H, B], {}, ValueError, r"source.kernel: wanted shape \(I, 4N\); got shape \(3, 15\)"),
        ([X, H, B.astype("d")], {}, TypeError, "source.bias: wanted dtype float32"),
        ([X, H, B, X, H[:, :15], B], {}, ValueError, r"source \(backward\).recurrent_kernel: wanted"),
        ([X.astype(int), H.astype(int)], {}, TypeError, "weight_ih: wanted dtype float64"),
        ([[X, H, B], [X, H, B]], {}, ValueError, r"layers\[1\]: wanted input_size 4"),
        ([X, H, B], {"name": "lstm"}, ValueError, "name: wanted None with arrays; got 'lstm'"),
        ([X, H, B], {"activation": "gelu"}, ValueError, "activation: wanted one of"),
        (
            [X, H, B],
            {"recurrent_activation": "hard_sigmoid"},
            ValueError,
            r'Keras 3 means \("hard_sigmoid", 1/6, 0.5\)',
        ),
        (["a", "b"], {}, TypeError, r"source\[0\]: wanted an array of numbers"),
        (
            None,
            {},
            TypeError,
            "source: wanted a layer, cell or model of Keras, a list of its arrays, or the path of a file",
        ),
        (None, {"name": 3}, TypeError, "name: wanted the name of a layer, a sequence of names, or None; got int"),
        (None, {"name": [None]}, TypeError, "name: wanted the name of a layer"),
        (None, {"name": []}, ValueError, "name: wanted at least one name; got none"),
    ],
)
def test_bad_arrays(arrays, options, error, message):
    with pytest.raises(error, match=message):
        from_keras(arrays, **options)


# Stand-ins for Keras's objects, with everything that the conversion looks at.


class Variable:
    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


def made(kind, module="keras.src.layers", **attributes):
    """Return an object of a class with this name and module."""
    return type(kind, (), {"__module__": module, **attributes})()


def lstm_cell(name="lstm_cell", I=3, N=4, seed=0, module="keras.src.layers", built=True, **config):
    rng = np.random.default_rng(seed)
    config = {"units": N, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True} | config
    arrays = {"kernel": rng.normal(size=(I, 4 * N)), "recurrent_kernel": rng.normal(size=(N, 4 * N)), "bias": None}
    if config["use_bias"]:
        arrays["bias"] = rng.normal(size=4 * N)
    variables = {key: array if array is None else Variable(array) for key, array in arrays.items()} if built else {}
    return made("LSTMCell", module, name=name, get_config=lambda self: config, **variables)


def layer(kind, name, cell=None, **attributes):
    if cell is not None:
        attributes = {"cell": cell, "return_sequences": True, **attributes}
    return made(kind, name=name, get_config=lambda self: {}, **attributes)


def model(*layers, name="model"):
    return made("Sequential", name=name, layers=list(layers))


def test_objects_become_weights():
    cell, other = lstm_cell(), lstm_cell("other", I=4, seed=1, activation="elu")
    weights = from_keras(cell)
    assert isinstance(weights, LSTMWeights)
    np.testing.assert_array_equal(weights.weight_ih, cell.kernel.array.T)
    np.testing.assert_array_equal(weights.weight_hh, cell.recurrent_kernel.array.T)
    np.testing.assert_array_equal(weights.bias, cell.bias.array)
    assert_equal(from_keras(layer("LSTM", "lstm", cell)), StackedWeights([weights]))
    stack = made("StackedRNNCells", name="stack", get_config=None, cells=[cell, other])
    both = StackedWeights([weights, from_keras(other)])
    assert both.layers[1].activation == "elu"
    assert_equal(from_keras(layer("RNN", "rnn", stack)), both)
    forward, backward = layer("LSTM", "f", cell), layer("LSTM", "b", lstm_cell(seed=2), go_backwards=True)
    pair = layer("Bidirectional", "pair", forward_layer=forward, backward_layer=backward, merge_mode="concat")
    wanted = StackedWeights([weights, from_keras(backward.cell)], bidirectional=True)
    assert_equal(from_keras(pair), wanted)
    assert from_keras(lstm_cell(use_bias=False)).bias is None


def test_layers_of_models_are_found():
    first, second, third = (layer("LSTM", name, lstm_cell(I=I, seed=I)) for name, I in (("a", 3), ("b", 4), ("c", 4)))
    inner = model(second, third, name="inner")
    wrapped = layer("TimeDistributed", "each", layer=third)
    dense = layer("Dense", "dense")
    whole = model(first, dense, inner)
    with pytest.raises(
        ValueError, match="source: wanted one LSTM; got 3 of them. Give name= one of 'a', 'inner/b', 'inner/c',"
    ):
        from_keras(whole)
    a, b, c = (from_keras(each.cell) for each in (first, second, third))
    assert_equal(from_keras(whole, "a"), StackedWeights([a]))
    assert_equal(from_keras(whole, "inner/c"), StackedWeights([c]))
    assert_equal(from_keras(whole, "b"), StackedWeights([b]))
    assert_equal(from_keras(whole, ["inner/b", "c"]), StackedWeights([b, c]))
    with pytest.raises(
        ValueError, match=r"the outputs of 'a' as the inputs of 'inner/b'; got those of 'dense' \(Dense\)"
    ):
        from_keras(whole, ["a", "inner/b", "c"])
    assert_equal(from_keras(model(first, dense)), StackedWeights([a]))
    assert_equal(from_keras(wrapped), StackedWeights([c]))
    assert_equal(from_keras(model(first, wrapped), "each/c"), StackedWeights([c]))
    assert_equal(from_keras(model(first, model(first, name="again"))), StackedWeights([a]))
    for name, message in (
        ("d", "name: wanted one of 'a', 'inner/b', 'inner/c'; got 'd'"),
        ("dense", "dense: wanted a Keras LSTM; got Dense, which has a different formula"),
    ):
        with pytest.raises(ValueError, match=message):
            from_keras(whole, name)
    with pytest.raises(ValueError, match=r"source: wanted a layer that is an LSTM; got 'dense' \(Dense\)"):
        from_keras(model(dense))
    twice = model(model(second, name="x"), model(layer("LSTM", "b", lstm_cell()), name="y"))
    with pytest.raises(ValueError, match="name: wanted the name of one layer; got 'b', which may be 'x/b', 'y/b'"):
        from_keras(twice, "b")


CUSTOM = types.SimpleNamespace(__module__="mine", __name__="tanh")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            lstm_cell(activation="gelu"),
            "lstm_cell.activation: wanted one of 'tanh', .*; got 'gelu'. No function of fusedlstm",
        ),
        (lstm_cell(recurrent_activation="relu6"), "lstm_cell.recurrent_activation: wanted one of .*; got 'relu6'"),
        (lstm_cell(activation={"class_name": "PReLU", "config": {}}), "lstm_cell.activation: .* got 'PReLU'"),
        (lstm_cell(built=False), "lstm_cell: wanted arrays; got none: it is not built"),
        (lstm_cell(units=5), "lstm_cell.units: wanted 5, as its config says; got arrays for 4"),
        (
            lstm_cell(dtype={"class_name": "QuantizedDTypePolicy", "config": {"name": "int8_from_float32"}}),
            "quantised ones",
        ),
        (lstm_cell(quantization_mode="int8"), "lstm_cell.dtype: wanted float weights; got quantised"),
        (lstm_cell(lora_rank=4), "lstm_cell.lora: wanted weights without LoRA; got LoRA's. Merge it"),
        (
            lstm_cell(module="mine.cells"),
            "lstm_cell: wanted cells that are Keras's own LSTMCell; got mine.cells.LSTMCell",
        ),
        (
            layer("GRU", "gru", made("GRUCell", name="g")),
            "gru: wanted a Keras LSTM; got GRU, which has a different formula",
        ),
        (layer("ConvLSTM2D", "conv"), "conv: wanted a Keras LSTM; got ConvLSTM2D, which has a different formula"),
        (
            made("LSTM", "mine", name="own", cell=lstm_cell(), get_config=None),
            "own: wanted Keras's own LSTM; got mine.LSTM, which may compute something else. If it computes",
        ),
        (
            layer("RNN", "rnn", made("StackedRNNCells", name="s", cells=[lstm_cell(), made("GRUCell", name="g")])),
            "LSTMCell; got GRUCell",
        ),
        (
            layer("RNN", "rnn", made("PeepholeLSTMCell", name="p")),
            "rnn/p: wanted cells that are Keras's own LSTMCell; got Peephole",
        ),
        (layer("RNN", "rnn", made("StackedRNNCells", name="s", cells=[])), "rnn: wanted cells; got none"),
    ],
)
def test_foreign_layers_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        from_keras(source)


def test_layers_with_a_changed_call_are_refused():
    for source in (layer("LSTM", "own", lstm_cell()), lstm_cell("own")):
        assert from_keras(source)
        source.call = lambda xs: xs
        with pytest.raises(ValueError, match=r"own: wanted .* own LSTM.*; got keras.src.layers \(changed\).LSTM"):
            from_keras(source)


def bidirectional(merge_mode="concat", ways=(False, True), cells=None):
    cells = cells or (lstm_cell(), lstm_cell(seed=1))
    forward, backward = (layer("LSTM", f"way{k}", cells[k], go_backwards=ways[k]) for k in range(2))
    return layer("Bidirectional", "both", forward_layer=forward, backward_layer=backward, merge_mode=merge_mode)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (bidirectional("sum"), "both.merge_mode: wanted 'concat', as our LSTM concatenates .* got 'sum'"),
        (
            bidirectional(None),
            "both.merge_mode: wanted 'concat', .* got None. Pass the layer's forward_layer and backward_layer",
        ),
        (bidirectional(ways=(True, False)), "both/way0.go_backwards: wanted False; got True"),
        (bidirectional(ways=(False, False)), "both/way1.go_backwards: wanted True; got False"),
        (
            bidirectional(cells=[made("StackedRNNCells", name="s", cells=[lstm_cell(), lstm_cell(I=4)])] * 2),
            "both/way0: wanted one cell in a Bidirectional; got 2 of them. Keras runs each direction",
        ),
        (bidirectional(cells=[lstm_cell(), lstm_cell(activation="gelu")]), "both/way1.activation: wanted one of"),
    ],
)
def test_bad_bidirectionals_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        from_keras(source)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [layer("LSTM", "a", lstm_cell(), go_backwards=True), bidirectional(cells=[lstm_cell(I=4)] * 2)],
            "both: wanted a layer that reads the steps in the inputs' order; got a Bidirectional over an odd number of",
        ),
        (
            [layer("LSTM", "a", lstm_cell(), return_sequences=False), layer("LSTM", "b", lstm_cell(I=4))],
            "a.return_sequences: wanted True, as 'b' follows; got False: only its last output",
        ),
        (
            [layer("LSTM", "a", lstm_cell()), layer("LSTM", "b", lstm_cell(I=4), time_major=True)],
            "b.time_major: wanted that of 'a'; got a different one",
        ),
        ([layer("LSTM", "a", lstm_cell()), layer("LSTM", "b", lstm_cell())], r"layers\[1\]: wanted input_size 4"),
    ],
)
def test_bad_stacks_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        from_keras(model(*layers), [layer.name for layer in layers])


def test_functions_of_objects_are_keras_own():
    """A name is not enough: a user's function may have the name of one of Keras's."""
    cell = lstm_cell()
    type(cell).activation = CUSTOM
    with pytest.raises(ValueError, match="lstm_cell.activation: wanted one of 'tanh', .*; got 'mine.tanh'"):
        from_keras(cell)
    type(cell).activation = types.SimpleNamespace(__module__="keras.src.activations", __name__="tanh")
    assert from_keras(cell).activation == "tanh"


def test_given_functions_must_match_the_layer():
    cell = lstm_cell(activation="relu", recurrent_activation="hard_sigmoid")
    assert from_keras(cell, activation="relu", recurrent_activation=HARD_3).gate_activation == HARD_3
    with pytest.raises(ValueError, match="activation: wanted 'relu', as in lstm_cell; got 'tanh'"):
        from_keras(cell, activation="tanh")


def test_hard_sigmoid_depends_on_version(monkeypatch):
    """Keras 3's hard_sigmoid differs from that of Keras 2, tf_keras and TensorFlow's older copy."""
    wanted = {"keras.src.layers": HARD_3}
    wanted |= {f"{package}.x": ("hard_sigmoid", 0.2, 0.5) for package in ("tf_keras", "tensorflow.python.keras")}
    for module, function in wanted.items():
        assert from_keras(lstm_cell(module=module, recurrent_activation="hard_sigmoid")).gate_activation == function
    monkeypatch.setitem(sys.modules, "keras", types.SimpleNamespace(__version__="2.15.0"))
    weights = from_keras(lstm_cell(recurrent_activation="hard_sigmoid"))
    assert weights.gate_activation == ("hard_sigmoid", 0.2, 0.5)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            layer("LSTM", "a", lstm_cell(), go_backwards=True),
            "a returns its outputs in reversed order: ours belong to the inputs at their index",
        ),
        (layer("LSTM", "a", lstm_cell(), time_major=True), r"a has time_major=True: inputs are \(T, B, I\)"),
        (
            layer("LSTM", "a", lstm_cell(dtype={"class_name": "DTypePolicy", "config": {"name": "mixed_float16"}})),
            r'a computes in float16, but its weights are float64: use .astype\("float16"\)',
        ),
        (lstm_cell(dtype="mixed_bfloat16"), "lstm_cell computes in bfloat16"),
    ],
)
def test_from_keras_warns(source, message, caplog):
    from_keras(layer("LSTM", "plain", lstm_cell(dtype="float32"), go_backwards=False, time_major=False))
    assert not caplog.records
    from_keras(source)
    assert len(caplog.records) == 1
    assert re.search(message, caplog.text), caplog.text


def test_cudnn_arrays_are_recognised():
    """A CuDNNLSTM's arrays are recognised by the size of their bias. Check the place of every element."""
    I, N = 2, 3
    rng = np.random.default_rng(0)
    of_x, of_h, biases = rng.normal(size=(4, N, I)), rng.normal(size=(4, N, N)), rng.normal(size=8 * N)
    kernel = np.concatenate([block.reshape(I, N) for block in of_x], axis=1)
    weights = from_keras([kernel, np.concatenate(of_h, axis=1), biases])
    np.testing.assert_array_equal(weights.weight_ih, of_x.reshape(4 * N, I))
    np.testing.assert_array_equal(weights.weight_hh, of_h.reshape(4 * N, N))
    np.testing.assert_array_equal(weights.bias, biases[: 4 * N] + biases[4 * N :])
