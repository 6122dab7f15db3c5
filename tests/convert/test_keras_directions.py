"""Keras layers of different directions in a chain are one stack. Keras and tf_keras compute the same numbers."""

import numpy as np
import pytest

from fusedlstm import LSTM, StackedWeights
from fusedlstm.convert.checking import check
from fusedlstm.convert.keras.objects import from_keras, to_keras

from support.comparisons import assert_equal
from support.keras_installed import keras_or_skip

pytestmark = pytest.mark.filterwarnings("ignore")  # the warnings are Keras's
B, T, I, N = 2, 5, 3, 4
# The layers from the lowest ("back" has go_backwards=True), our directions, and whether Keras's outputs are reversed.
CASES = {
    "Bidirectional under LSTM": (["both", "plain"], ["both", "forward"], False),
    "LSTM under and over": (["plain", "both", "plain"], ["forward", "both", "forward"], False),
    "two back": (["back", "back"], ["backward", "forward"], False),
    "back under": (["back", "plain"], ["backward", "backward"], True),
    "back over": (["plain", "back"], ["forward", "backward"], True),
    "alternating": (["back", "back", "back", "back"], ["backward", "forward", "backward", "forward"], False),
    "back over both": (["both", "back"], ["both", "backward"], True),
    "both over two back": (["back", "back", "both"], ["backward", "forward", "both"], False),
    "cells": (["cells", "plain"], ["backward", "backward", "backward"], True),
}


@pytest.fixture(params=["keras", "tf_keras"])
def keras(request):
    return keras_or_skip(request.param)


def made(keras, kinds, *, dropout=False):
    """Return a model of such layers, named "l0", "l1" ..., with random weights."""
    K = keras.layers
    plain = {"return_sequences": True}
    makers = {
        "plain": lambda name: K.LSTM(N, name=name, **plain),
        "back": lambda name: K.LSTM(N, go_backwards=True, name=name, **plain),
        "both": lambda name: K.Bidirectional(K.LSTM(N, **plain), name=name),
        "cells": lambda name: K.RNN([K.LSTMCell(N), K.LSTMCell(N)], go_backwards=True, name=name, **plain),
    }
    layers = [makers[kind](f"l{k}") for k, kind in enumerate(kinds)]
    if dropout:
        layers.insert(1, K.Dropout(0.5))
    model = keras.Sequential([keras.Input((T, I)), *layers])
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.5, array.shape) for array in model.get_weights()])
    return model


def apart(model, weights, *, turned):
    xs = np.random.default_rng(1).normal(size=(B, T, I)).astype(np.float32)
    wanted = np.asarray(model(xs))[:, :: -1 if turned else 1]
    outputs, _ = LSTM(weights, batch_first=True, backend="numpy")(xs)
    return np.abs(outputs - wanted).max()


@pytest.mark.sampled
@pytest.mark.parametrize("case", CASES)
def test_layers_of_different_directions(keras, case, tmp_path, caplog):
    pytest.importorskip("h5py")
    kinds, directions, turned = CASES[case]
    model, names = made(keras, kinds, dropout=True), [f"l{k}" for k in range(len(kinds))]
    path = tmp_path / "m.h5"
    model.save(path)
    weights = from_keras(model, names)
    assert weights.directions == tuple(directions)
    assert apart(model, weights, turned=turned) < 3e-6
    assert ("returns its outputs in reversed order" in caplog.text) == turned
    assert_equal(from_keras(path, names), weights)
    result = check("keras", path, names, weights, {})
    assert (result.agrees, result.around) == (True, ""), str(result)
    other = StackedWeights(weights.layers, directions=["both" if way == "both" else "forward" for way in directions])
    if other.directions != weights.directions:
        assert not check("keras", path, names, other, {}).agrees


def test_both_directions_of_reversed_steps_raise(keras):
    with pytest.raises(ValueError, match="l1: wanted a layer that reads the steps in the inputs' order; got a Bidirec"):
        from_keras(made(keras, ["back", "both"]), ["l0", "l1"])


def test_masks_over_reversed_outputs_raise(keras):
    """Keras gives the mask to the layer above as it is, though the outputs are reversed."""
    K = keras.layers
    layers = [
        K.LSTM(N, return_sequences=True, go_backwards=back, name=name) for back, name in ((True, "a"), (False, "b"))
    ]
    model = keras.Sequential([keras.Input((T, I)), K.Masking(), *layers])
    with pytest.raises(ValueError, match="a.go_backwards: wanted False in a layer below others in a model that may"):
        from_keras(model, ["a", "b"])
    assert from_keras(model, "a").directions == ("backward",)


def test_masks_under_a_reversed_top(keras):
    """The highest layer may read backward. It passes no mask on."""
    K = keras.layers
    both = K.Bidirectional(K.LSTM(N, return_sequences=True), name="a")
    top = K.LSTM(N, return_sequences=True, go_backwards=True, name="b")
    model = keras.Sequential([keras.Input((T, I)), K.Masking(), both, top])
    weights, xs = from_keras(model, ["a", "b"]), np.random.default_rng(0).normal(size=(B, T, I)).astype(np.float32)
    xs[1, 3:] = 0
    outputs, _ = LSTM(weights, batch_first=True, backend="numpy")(xs, lengths=[5, 3])
    wanted = np.asarray(model(xs))[:, ::-1]
    assert np.abs(outputs[0] - wanted[0]).max() < 3e-6
    assert np.abs(outputs[1, :3] - wanted[1, :3]).max() < 3e-6


def test_arrays_of_different_directions(keras):
    model = made(keras, ["plain", "both", "plain"])
    weights = from_keras([layer.get_weights() for layer in model.layers])
    assert weights.directions == ("forward", "both", "forward")
    assert apart(model, weights, turned=False) < 3e-6
    for arrays, layer in zip(to_keras(weights), model.layers, strict=True):
        layer.set_weights(arrays)
    assert apart(model, weights, turned=False) < 3e-6


def test_arrays_of_backward_layers(keras):
    """Arrays don't hold a direction, so the layer that takes them has to be made with it."""
    weights = StackedWeights.random(I, N, 2, seed=0, directions=["backward", "forward"])
    model = made(keras, ["back", "back"])
    for arrays, layer in zip(to_keras(weights), model.layers, strict=True):
        layer.set_weights(arrays)
    assert apart(model, weights, turned=False) < 3e-6
