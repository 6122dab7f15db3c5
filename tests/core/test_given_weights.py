"""What is given as weights, or as a cell, but is not: the error says what to use instead."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from fusedlstm import (
    LSTM,
    LSTMCell,
    LSTMWeights,
    StackedWeights,
    StatePool,
    Stepper,
    WeightsFileError,
    convert,
    load_weights,
)
from fusedlstm.validation import advice

CELL = LSTMWeights.random(3, 4, seed=0)
LAYERS = StackedWeights.random(3, 4, 2, seed=0)

# Every place that takes weights, or what is made of them.
TAKERS = {
    "LSTMCell": LSTMCell,
    "LSTM": LSTM,
    "LSTMCell.set_weights": LSTMCell(CELL, backend="numpy").set_weights,
    "LSTM.set_weights": LSTM(LAYERS, backend="numpy").set_weights,
    "StackedWeights": StackedWeights,
    "an element of StackedWeights": lambda value: StackedWeights([value]),
    "StatePool": lambda value: StatePool(value, 3),
    "Stepper": lambda value: Stepper(value, 3),
    "to_torch": convert.to_torch,
    "to_tf1": convert.to_tf1,
    "to_keras": convert.to_keras,
    "to_onnx": convert.to_onnx,
    "to_flax": lambda value: convert.to_flax(value, api="nnx"),
}


def refusal(taker, value):
    with pytest.raises(TypeError) as raised:
        TAKERS[taker](value)
    message = str(raised.value)
    assert ": wanted " in message
    assert "\n" not in message
    return message


def of(module, *bases):
    """Return an object whose class a framework's module defines, or one of its base classes."""
    return type("Theirs", bases or (object,), {"__module__": module})()


OBJECTS = {
    "torch.nn.modules.rnn": "from_torch(module)",
    "keras.src.layers.rnn.lstm": "from_keras(layer)",
    "tf_keras.src.layers.rnn.lstm": "from_keras(layer)",
    "tensorflow.python.keras.layers.recurrent_v2": "from_keras(layer)",
    "flax.linen.recurrent": "from_flax(variables)",
    "flax.nnx.nn.recurrent": "from_flax(module)",
    "equinox.nn._rnn": "from_equinox(module)",
    "haiku._src.recurrent": "from_haiku(params)",
    "onnx.onnx_ml_pb2": "from_onnx(model)",
    "sonnet.src.recurrent": "from_sonnet2(variables)",
    "sonnet.python.modules.gated_rnn": "from_sonnet1(variables)",
    "tensorflow.python.module.module": "from_tf1(variables)",
    "mxnet.gluon.rnn.rnn_layer": "from_mxnet(params)",
    "chainer.links.rnn.n_step_rnn": "from_chainer(params)",
}


@pytest.mark.parametrize("taker", TAKERS)
def test_frameworks_object_names_its_importer(taker):
    for module, call in OBJECTS.items():
        theirs = of(module)
        for value in (theirs, of("__main__", type(theirs))):
            assert f"fusedlstm.convert.{call}" in refusal(taker, value)


def test_importers_in_hints_exist():
    for call in advice._OBJECTS.values():
        assert callable(getattr(convert, call.partition("(")[0]))


def test_keras_layers_of_pytorch_are_keras():
    """With its PyTorch backend, Keras's layers are PyTorch's modules too."""
    torch = type(of("torch.nn.modules.module"))
    assert "from_keras(layer)" in refusal("LSTM", of("keras.src.layers.layer", torch))


def test_pytorch_itself():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    lstm = torch.nn.LSTM(3, 4)
    for value in (lstm, torch.nn.Sequential(lstm)):
        assert refusal("LSTM", value).endswith(". Use fusedlstm.convert.from_torch(module)")
    assert refusal("LSTM", lstm.state_dict()).endswith(". Use fusedlstm.convert.from_torch(arrays)")
    assert "Use" not in refusal("LSTM", torch.zeros(3))


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("names", [("weight_ih_l0", "weight_hh_l0"), ("cell.weight_ih", "cell.bias_ih")])
def test_named_arrays_name_their_importer(names, taker):
    arrays = OrderedDict.fromkeys(names, np.zeros(3))
    assert "fusedlstm.convert.from_torch(arrays)" in refusal(taker, arrays)


@pytest.mark.parametrize(
    "arrays",
    [
        [np.zeros((3, 16))],
        {},
        {"a": 1},
        {3: 4},
        {"lstm/recurrent_kernel": 0},
        {"weight_ih": 0},
        {"a": {"b/c": 1}, "a/b": {"c": 2}},
    ],
)
def test_arrays_of_unknown_names(arrays):
    assert refusal("LSTM", arrays).endswith("Use the function of fusedlstm.convert for its framework")


@pytest.mark.parametrize("taker", TAKERS)
def test_path_names_load_weights(taker):
    for path in ("model.pt", b"model.pt", Path("model.pt")):
        assert "fusedlstm.load_weights(path)" in refusal(taker, path)


@pytest.mark.parametrize("taker", [taker for taker in TAKERS if taker not in ("StatePool", "Stepper")])
def test_cell_names_its_weights(taker):
    for value in (LSTMCell(CELL, backend="numpy"), LSTM(LAYERS, backend="numpy")):
        assert refusal(taker, value).endswith("Use its .weights")


def test_cell_names_the_class_for_layers():
    message = (
        "weights: wanted an LSTMWeights; got fusedlstm.stacked.StackedWeights. Use LSTM(weights), which takes layers"
    )
    assert refusal("LSTMCell", LAYERS) == message
    assert refusal("LSTMCell.set_weights", LAYERS) == message
    assert refusal("LSTMCell", StackedWeights([CELL])) == message + ", or weights.layers[0], the only one"


def test_lstm_names_the_class_for_lists():
    for many in ([CELL], (CELL, CELL)):
        assert refusal("LSTM", many).endswith("Use StackedWeights(weights)")


@pytest.mark.parametrize(("taker", "name"), [("StatePool", "cell"), ("Stepper", "owner")])
def test_pool_and_stepper_name_what_takes_weights(taker, name):
    wanted = f"{name}: wanted an LSTMCell or an LSTM; got "
    assert refusal(taker, CELL) == wanted + "fusedlstm.weights.LSTMWeights. Use LSTMCell(weights)"
    assert refusal(taker, LAYERS) == wanted + "fusedlstm.stacked.StackedWeights. Use LSTM(weights)"
    assert refusal(taker, None) == wanted + "None"
    assert refusal(taker, "path") == wanted + "str. Use LSTM(fusedlstm.load_weights(path))"


def test_file_of_another_kind_names_its_reader(tmp_path):
    CELL.save(tmp_path / "cell")
    LAYERS.save(tmp_path / "layers")
    StatePool(LSTMCell(CELL, backend="numpy"), 3).save(tmp_path / "pool")
    for load, file, message in (
        (LSTMWeights.load, "layers", "holds StackedWeights, not LSTMWeights. Use load_weights"),
        (StackedWeights.load, "cell", "holds LSTMWeights, not StackedWeights. Use load_weights"),
        (load_weights, "pool", "holds StatePool, not LSTMWeights or StackedWeights. Use StatePool.load"),
        (StatePool(LSTMCell(CELL, backend="numpy"), 3).load, "cell", "not StatePool. Use load_weights"),
    ):
        with pytest.raises(WeightsFileError) as raised:
            load(tmp_path / file)
        assert str(raised.value).endswith(message)
