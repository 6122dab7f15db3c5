"""Wrong objects passed as weights or as a cell: the error says what to use instead."""

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
from fusedlstm.convert.systems import SYSTEMS
from fusedlstm.validation import advice

from support.framework_objects import OBJECTS, object_of

CELL = LSTMWeights.random(3, 4, seed=0)
LAYERS = StackedWeights.random(3, 4, 2, seed=0)

# Everything that takes weights, or an object made from them.
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


@pytest.mark.parametrize("taker", TAKERS)
def test_frameworks_object_names_its_importer(taker):
    for module, call in OBJECTS.items():
        theirs = object_of(module)
        for value in (theirs, object_of("__main__", type(theirs))):
            assert f"fusedlstm.convert.{call}" in refusal(taker, value)


def test_importers_in_hints_exist():
    for call in advice._OBJECTS.values():
        assert callable(getattr(convert, call.partition("(")[0]))


# Systems whose weights are plain arrays or files, not objects of a class.
ARRAYS = {"cudnn", "onednn", "silero"}


def test_each_system_with_objects_has_a_hint():
    told = {call.partition("(")[0] for call in advice._OBJECTS.values()}
    assert {system.read.__name__ for system in SYSTEMS if system.name not in ARRAYS} == told
    assert set(advice._FILES.values()) <= told


def test_keras_layers_of_pytorch_are_keras():
    """With its PyTorch backend, Keras's layers are PyTorch's modules too."""
    torch = type(object_of("torch.nn.modules.module"))
    assert "from_keras(layer)" in refusal("LSTM", object_of("keras.src.layers.layer", torch))


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
def test_path_names_its_reader(taker):
    for end, call in {
        ".pt": "convert.from_torch(path)",
        ".PTH": "convert.from_torch(path)",
        ".bin": "convert.from_torch(path)",
        ".onnx": "convert.from_onnx(path)",
        ".keras": "convert.from_keras(path)",
        ".weights.h5": "convert.from_keras(path)",
        ".hdf5": "convert.from_keras(path)",
        ".safetensors": "load_weights(path)",
        "": "load_weights(path)",
    }.items():
        for path in (f"model{end}", f"model{end}".encode(), Path(f"model{end}")):
            assert f"fusedlstm.{call}" in refusal(taker, path)


def test_load_weights_names_the_command(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors.numpy import save_file

    torch.save(torch.nn.LSTM(3, 4).state_dict(), tmp_path / "a.pt")
    save_file({"weight_ih_l0": np.zeros((16, 3))}, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        with pytest.raises(WeightsFileError, match="fusedlstm convert"):
            load_weights(tmp_path / name)


@pytest.mark.parametrize("taker", [taker for taker in TAKERS if taker not in ("StatePool", "Stepper")])
def test_cell_names_its_weights(taker):
    for value in (LSTMCell(CELL, backend="numpy"), LSTM(LAYERS, backend="numpy")):
        assert refusal(taker, value).endswith("Use its .weights")


def test_cell_says_which_layer_it_takes():
    wanted = "weights: wanted an LSTMWeights; got "
    layers, one = wanted + "fusedlstm.stacked.StackedWeights. ", StackedWeights([CELL])
    new, old = "Use LSTM(weights), which takes layers, or ", "A cell takes one layer: use "
    both = "one of weights.layers[0] ... weights.layers[1]"
    assert refusal("LSTMCell", LAYERS) == layers + new + both
    assert refusal("LSTMCell", one) == layers + new + "weights.layers[0], the only one"
    assert refusal("LSTMCell.set_weights", LAYERS) == layers + old + both
    assert refusal("LSTMCell.set_weights", one) == layers + old + "weights.layers[0], the only one"
    new = "Use LSTM(StackedWeights(weights)), which takes layers, or "
    assert refusal("LSTMCell", [CELL]) == wanted + "list. " + new + "weights[0], the only one"
    assert (
        refusal("LSTMCell.set_weights", (CELL, CELL)) == wanted + "tuple. " + old + "one of weights[0] ... weights[1]"
    )


EXPORTERS = [taker for taker in TAKERS if taker.startswith("to_")]


@pytest.mark.parametrize("taker", ["LSTM", "LSTM.set_weights", *EXPORTERS])
def test_lstm_and_exporters_raise_the_same_error(taker):
    wanted = "weights: wanted an LSTMWeights or a StackedWeights; got "
    assert refusal(taker, None) == wanted + "None"
    for many in ([CELL], (CELL, CELL)):
        assert refusal(taker, many) == wanted + f"{type(many).__name__}. Use StackedWeights(weights)"


def test_stack_of_stacks_names_their_layers():
    assert refusal("an element of StackedWeights", LAYERS).endswith("To stack two, pass [*lower.layers, *upper.layers]")


@pytest.mark.parametrize("taker", TAKERS)
def test_stepper_and_pool_name_their_owner(taker):
    cell = LSTMCell(CELL, backend="numpy")
    hint = "its cell or LSTM" if taker in ("StatePool", "Stepper") else "the .weights of its cell or LSTM"
    for value in (cell.stepper(3), StatePool(cell, 3)):
        assert refusal(taker, value).endswith(f". Use {hint}")


@pytest.mark.parametrize(("taker", "name"), [("StatePool", "cell"), ("Stepper", "owner")])
def test_pool_and_stepper_refuse_weights(taker, name):
    wanted = f"{name}: wanted an LSTMCell or an LSTM; got "
    assert refusal(taker, CELL) == wanted + "fusedlstm.weights.LSTMWeights. Use LSTMCell(weights)"
    assert refusal(taker, LAYERS) == wanted + "fusedlstm.stacked.StackedWeights. Use LSTM(weights)"
    assert refusal(taker, [CELL]) == wanted + "list. Use LSTM(StackedWeights(weights))"
    unknown = "Use the function of fusedlstm.convert for its framework"
    assert refusal(taker, {"a": np.zeros(3)}) == wanted + f"dict. {unknown}"
    assert refusal(taker, [np.zeros(3)]) == wanted + f"list. {unknown}"
    assert refusal(taker, None) == wanted + "None"
    assert refusal(taker, "path") == wanted + "str. Use LSTM(fusedlstm.load_weights(path))"
    assert refusal(taker, "a.pt") == wanted + "str. Use LSTM(fusedlstm.convert.from_torch(path))"


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
