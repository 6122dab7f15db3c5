"""Put real files into files.zip: make.py keras, then make.py tf_keras, with TensorFlow on a CPU.

They are compressed, as HDF5 files are mostly empty. The model is a stack of two cells, whose outputs go to an inner
model of one Bidirectional. expected_*.npz has inputs and both layers' outputs. cudnn.h5 has a CuDNNLSTM, and another in
a Bidirectional. expected_cudnn.npz has the weights of LSTMs into which tf_keras loaded cudnn.h5, and their outputs.
"""

import importlib
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

ARCHIVE = Path(__file__).parent / "files.zip"


def randomise(model, seed):
    """Give all weights random values, including biases."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.7, array.shape) for array in model.get_weights()])


def make_model(keras):
    layers = keras.layers
    xs = layers.Input((None, 3))
    stack = layers.RNN([layers.LSTMCell(2), layers.LSTMCell(3, use_bias=False)], return_sequences=True, name="stack")
    between = layers.Input((None, 3))
    lstm = layers.LSTM(2, return_sequences=True, activation="relu", recurrent_activation="hard_sigmoid")
    inner = keras.Model(between, layers.Bidirectional(lstm, name="both")(between), name="inner")
    hs = stack(xs)
    return keras.Model(xs, [hs, inner(hs)])


def main(package, folder):
    keras = importlib.import_module(package)
    model = make_model(keras)
    randomise(model, 0)
    xs = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    hs, outputs = (np.asarray(array) for array in model(xs))
    np.savez(folder / f"expected_{package}.npz", xs=xs, hs=hs, outputs=outputs, version=keras.__version__)
    model.save(folder / f"{package}.keras")
    model.save(folder / f"{package}.h5")
    if package == "keras":
        model.save_weights(folder / f"{package}.weights.h5")
        return
    model.save_weights(folder / f"{package}_weights.h5")
    make_cudnn(keras, xs, folder)


def make_cudnn(keras, xs, folder):
    cudnn = importlib.import_module("tf_keras.src.layers.rnn.cudnn_lstm").CuDNNLSTM

    def model_of(layer):
        layers = [layer(2, return_sequences=True), keras.layers.Bidirectional(layer(3, return_sequences=True))]
        return keras.Sequential([keras.layers.InputLayer((None, 3)), *layers])

    model = model_of(cudnn)
    randomise(model, 2)
    model.save(folder / "cudnn.h5")
    plain = model_of(keras.layers.LSTM)
    plain.load_weights(folder / "cudnn.h5")
    arrays = {f"array{k}": array for k, array in enumerate(plain.get_weights())}
    np.savez(folder / "expected_cudnn.npz", xs=xs, outputs=np.asarray(plain(xs)), **arrays)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made, zipfile.ZipFile(ARCHIVE, "a", zipfile.ZIP_DEFLATED) as archive:
        main(sys.argv[1], Path(made))
        for path in sorted(Path(made).iterdir()):
            archive.write(path, path.name)
