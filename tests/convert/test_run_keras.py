"""Keras's own run of a file agrees with weights converted from it, and not with wrong ones."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMState, StackedWeights
from fusedlstm.convert.checking import check
from fusedlstm.convert.keras.objects import from_keras
from fusedlstm.convert.running.keras import run, run_model
from fusedlstm.convert.running.model import ModelNotRunError

from support.keras_installed import keras_or_skip
from support.places import DATA

pytestmark = pytest.mark.filterwarnings("ignore")
REAL = DATA / "keras" / "files.zip"


@pytest.mark.parametrize("ending", [".keras", ".h5", "weights.h5"])
@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_run_agrees_with_weights(package, ending, tmp_path):
    h5py = pytest.importorskip("h5py")
    keras_or_skip(package)
    separator = "" if not ending.startswith("w") else "." if package == "keras" else "_"
    with zipfile.ZipFile(REAL) as archive:
        path = archive.extract(f"{package}{separator}{ending}", tmp_path)
    options = {"activation": "tanh", "recurrent_activation": "sigmoid"} if separator else {}
    rng = np.random.default_rng(0)
    for name in ("stack", "inner" if separator == "_" else "both"):
        weights = from_keras(path, name, **options)
        xs = rng.normal(size=(4, 2, 3)).astype("f")
        states = [tuple(rng.uniform(-1, 1, (2, 2, each.hidden_size)).astype("f")) for each in weights.layers]
        outputs, finals = run(path, name, weights, xs, states, options)
        got, ours = LSTM(weights, backend="numpy")(xs, [LSTMState(h=h, c=c) for h, c in states])
        assert np.abs(got - outputs).max() < 3e-6
        for state, (h, c) in zip(ours, finals, strict=True):
            assert max(np.abs(state.h - h).max(), np.abs(state.c - c).max()) < 3e-6
    if ending == ".keras":
        return
    with h5py.File(path, "a") as file:  # swap two gates

        def exchange(name, item):
            if isinstance(item, h5py.Dataset) and item.shape == (3, 8):
                item[...] = item[...].reshape(3, 4, 2)[:, [1, 0, 2, 3]].reshape(3, 8)

        file.visititems(exchange)
    outputs, _ = run(path, name, weights, xs, states, options)
    assert np.abs(got - outputs).max() > 1e-3


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_code_in_files_is_not_run(package, ending, tmp_path):
    """tf_keras's load_model would run the code of a Lambda layer in a .h5."""
    keras = keras_or_skip(package)
    trace, path = str(tmp_path / "executed"), str(tmp_path / f"m{ending}")
    program = eval(f"lambda x: (open({trace!r}, 'w').close(), x)[1]")  # eval leaves no source file
    x = keras.Input((5, 3))
    y = keras.layers.LSTM(4, activation="softsign", recurrent_activation="hard_sigmoid", name="lstm")(x)
    keras.Model(x, keras.layers.Lambda(program, output_shape=(4,))(y)).save(path)
    Path(trace).unlink(missing_ok=True)
    weights = from_keras(path)
    xs, states = np.ones((2, 1, 3), "f"), [(np.ones((1, 4), "f"), np.ones((1, 4), "f"))]
    outputs, _ = run(path, None, weights, xs, states, {})
    got, _ = LSTM(weights, backend="numpy")(xs, [LSTMState(h=h, c=c) for h, c in states])
    assert np.abs(got - outputs).max() < 3e-6
    assert not os.path.exists(trace)


@pytest.fixture(params=["keras", "tf_keras"])
def keras(request):
    pytest.importorskip("h5py", reason="h5py is not installed")
    return keras_or_skip(request.param)


def randomised(keras, model, path):
    """Save a model with weights other than its initial ones."""
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.4, array.shape) for array in model.get_weights()])
    model.save(path)
    return path


def many_layers(keras):
    """Return a model with much around a stack: a mask, other layers, a computed state, a nested model."""
    K = keras.layers
    xs = K.Input((5, 3))
    hs = K.Dense(3)(K.Masking(0.5)(xs))
    hs = K.Dropout(0.5)(K.LSTM(4, return_sequences=True, name="a")(hs))
    hs = K.LSTM(3, return_sequences=True, activation="softsign", name="b")(hs)
    both = K.Bidirectional(K.LSTM(2, return_sequences=True, return_state=True), name="both")
    hs = K.LayerNormalization()(both(hs)[0])
    inner = K.Input((5, 4))
    back = K.LSTM(3, go_backwards=True, return_sequences=True, return_state=True, name="back")(inner)
    hs = keras.Model(inner, back, name="inner")(hs)
    last = K.LSTM(3, name="last")(hs[0], initial_state=[hs[1], hs[2]])
    cells = K.RNN([K.LSTMCell(2), K.LSTMCell(3)], name="cells")(hs[0])
    return keras.Model(xs, [last, cells])


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_whole_models_agree(keras, ending, tmp_path):
    model = many_layers(keras)
    path = randomised(keras, model, tmp_path / f"m{ending}")
    for name in (["a", "b"], "both", "inner/back", "last", "cells"):
        result = check("keras", path, name, from_keras(path, name), {})
        assert result.agrees, (name, result)
        assert not result.around or (ending == ".h5" and "NotEqual" in result.around), (name, result)


def test_whole_models_see_masks_and_states(keras, tmp_path):
    path = randomised(keras, many_layers(keras), tmp_path / "m.keras")
    tapped = run_model(path, ["a", "b"], from_keras(path, ["a", "b"]), {}, 0)
    assert tapped.lengths.tolist() == [5, 4, 3]
    assert np.abs(tapped.outputs[:, 1]).sum() > 0 == np.abs(tapped.outputs[3:, 2]).sum()
    tapped = run_model(path, "last", from_keras(path, "last"), {}, 0)
    assert np.abs(tapped.states[0][1]).sum() > 0
    assert tapped.outputs is None
    assert tapped.finals[0][0] is not None
    other = from_keras(path, "last").layers[0]
    other = StackedWeights([type(other)(other.weight_ih, other.weight_hh * 1.01, other.bias)])
    assert not check("keras", path, "last", other, {}).agrees


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_models_with_code_are_not_loaded(keras, ending, tmp_path):
    """The code of a Lambda layer is never run."""
    trace, path = str(tmp_path / "executed"), tmp_path / f"m{ending}"
    program = eval(f"lambda x: (open({trace!r}, 'w').close(), x)[1]")  # eval leaves no source file
    x = keras.Input((5, 3))
    y = keras.layers.LSTM(4, name="lstm")(x)
    keras.Model(x, keras.layers.Lambda(program, output_shape=(4,))(y)).save(path)
    Path(trace).unlink(missing_ok=True)
    with pytest.raises(ModelNotRunError, match="it has the class Lambda, which is not known to be safe to load"):
        run_model(path, None, from_keras(path), {}, 0)
    assert check("keras", path, None, from_keras(path), {}).around
    assert not os.path.exists(trace)


def changed(path, change):
    """Change the config of a .keras file."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change({layer["config"]["name"]: layer for layer in config["config"]["layers"]})
    members["config.json"] = json.dumps(config)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: layers["d"]["config"].update(units=1 << 21), "its 'units' is 2097152"),
        (lambda layers: layers["d"]["config"].update(units=1 << 20), "but the file's arrays have [0-9]+ bytes"),
        (lambda layers: layers["r"]["config"].update(n=1 << 20), "it makes tensors of shape"),
        (lambda layers: layers["d"]["config"].update(activation="my>relu"), "it has the activation 'my>relu'"),
        (lambda layers: layers["d"]["config"].update(activation={"class_name": "function"}), "the class function"),
        (lambda layers: layers["d"].update(module="mine"), "it has the class mine.Dense"),
        (lambda layers: layers["d"]["config"].update(bias_initializer={"class_name": "Evil"}), "it has the class Evil"),
        (lambda layers: layers["x"]["config"].update(dtype="int32"), "its input has the dtype int32|raised"),
    ],
)  # fmt: skip
def test_hostile_models_are_not_loaded(keras, change, message, tmp_path):
    K = keras.layers
    x = K.Input((5, 3), name="x")
    model = keras.Model(x, K.RepeatVector(2, name="r")(K.Dense(2, name="d")(K.LSTM(4, name="lstm")(x))))
    path = randomised(keras, model, tmp_path / "m.keras")
    weights = from_keras(path)
    assert run_model(path, None, weights, {}, 0).outputs is None
    with pytest.raises(ModelNotRunError, match=message):
        run_model(changed(path, change), None, weights, {}, 0)
    assert check("keras", path, None, weights, {}).agrees  # the LSTM alone


def not_run(keras):
    K = keras.layers
    x, y, numbers = K.Input((5, 3)), K.Input((5, 3)), K.Input((5,), dtype="int32")
    lstm = K.LSTM(4, name="lstm")
    yield keras.Model([x, y], [lstm(x), y]), "it has 2 inputs, and only models with one are run"
    yield keras.Model(numbers, K.LSTM(4, name="lstm")(K.Embedding(9, 3)(numbers))), "the class Embedding"
    long = K.Input((999, 3))
    yield keras.Model(long, K.LSTM(4, name="lstm")(long)), "at most 200 steps are run"
    half = K.LSTM(4, name="lstm", dtype="mixed_float16")
    yield keras.Model(x, half(x)), "it computes in float16, but its weights are float32"
    several = K.Input((2, 5, 3))
    each = K.TimeDistributed(K.LSTM(4, name="lstm"), name="each")
    yield keras.Model(several, each(several)), "is in TimeDistributed, whose steps can't be recorded"


def test_some_models_are_not_run_as_a_whole(keras, tmp_path):
    for model, message in not_run(keras):
        path = tmp_path / "m.keras"
        model.save(path)
        result = check("keras", path, None, from_keras(path), {})
        assert result.agrees
        assert message in result.around


def test_weights_files_have_no_model_to_run(keras, tmp_path):
    keras.Sequential([keras.Input((5, 3)), keras.layers.LSTM(4)]).save_weights(tmp_path / "m.weights.h5")
    weights = from_keras(tmp_path / "m.weights.h5")
    with pytest.raises(ModelNotRunError, match="a file with only weights has no model"):
        run_model(tmp_path / "m.weights.h5", None, weights, {}, 0)


def test_check_names_assumed_functions(keras, tmp_path):
    """A weights-only file has no functions, so a check with the same defaults proves nothing about them."""
    keras.Sequential([keras.Input((5, 3)), keras.layers.LSTM(4)]).save_weights(tmp_path / "m.weights.h5")
    given = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    for options, said in (
        ({}, "whether activation and recurrent_activation were left at Keras's default"),
        ({"activation": "tanh"}, "whether recurrent_activation was left at Keras's default"),
        (given, None),
    ):
        result = check(
            "keras", tmp_path / "m.weights.h5", None, from_keras(tmp_path / "m.weights.h5", **options), options
        )
        assert result.agrees
        assert said in result.around if said else "default" not in result.around
