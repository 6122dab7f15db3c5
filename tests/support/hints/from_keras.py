"""Hints about Keras's models and their files, with the installed Keras."""

import shutil
import subprocess

from fusedlstm import convert
from fusedlstm.convert.checking import check

from support.hints.case import FOLDER, B, Case, I, N, T, lstm, xs
from support.keras_installed import keras_or_skip


def keras():
    return keras_or_skip("keras")


def layer(name="a", **options):
    return keras().layers.LSTM(N, name=name, return_sequences=True, **options)


def model(*layers):
    return keras().Sequential([keras().Input((T, I), batch_size=B), *layers])


def apart():
    return model(layer("a"), keras().layers.Activation("relu"), layer("b"))


def started():
    K = keras()
    given, ones = K.Input((T, I), batch_size=B), K.ops.ones((B, N))
    return K.Model(given, layer()(given, initial_state=[ones, ones]))


def own():
    class Mine(keras().layers.LSTM):
        def call(self, sequences, initial_state=None, mask=None, training=False):
            return super().call(sequences, initial_state, mask, training)

    return model(Mine(N, name="a"))


def own_cell():
    class MyCell(keras().layers.LSTMCell):
        def call(self, *arguments, **options):
            return super().call(*arguments, **options)

    return model(keras().layers.RNN(MyCell(N), name="a"))


def holder():
    class Holder(keras().layers.Layer):
        def __init__(self, **_):
            super().__init__(name="holder")
            self.lstm = layer("inner")

        def call(self, given):
            return self.lstm(given)

    return model(Holder())


def held():
    """Convert the LSTM in another class by itself, and from a .keras file."""
    made = holder()
    convert.from_keras(made.layers[0].lstm)
    made.save(FOLDER["now"] / "m.keras")
    convert.from_keras(FOLDER["now"] / "m.keras", name="inner")


def summed():
    return model(keras().layers.Bidirectional(layer("way"), merge_mode="sum", name="a"))


def both_apart():
    both = summed().layers[0]
    return [convert.from_keras(way) for way in (both.forward_layer, both.backward_layer)]


def weights_file():
    model(layer()).save_weights(FOLDER["now"] / "m.weights.h5")
    return FOLDER["now"] / "m.weights.h5"


def checked(**options):
    """Return what a check of a file with only weights says."""
    weights = convert.from_keras(weights_file(), **options)
    return str(check("keras", weights_file(), None, weights, options))


def checked_with_functions():
    assert "Nor does it say" not in checked(activation="tanh", recurrent_activation="sigmoid")


def without_config():
    """Return the path of a .h5 file that holds only weights, and doesn't say which Keras wrote it."""
    import h5py

    model(layer()).save(FOLDER["now"] / "m.h5")
    with h5py.File(FOLDER["now"] / "m.h5", "a") as file:
        for part in (file, file["model_weights"]):
            for name in {"keras_version", "model_config", "backend"} & set(part.attrs):
                del part.attrs[name]
    return FOLDER["now"] / "m.h5"


def compressed():
    """Return the path of a file whose zeros are compressed a thousandfold."""
    import h5py

    given = keras().Input((T, 10**5))
    zeros = keras().layers.LSTM(N, name="a", kernel_initializer="zeros")
    keras().Model(given, zeros(given)).save(FOLDER["now"] / "large.h5")
    with h5py.File(FOLDER["now"] / "large.h5", "a") as file:
        names = []
        file.visititems(lambda name, one: names.append(name) if name.endswith("/kernel") else None)
        for name in names:
            array = file[name][...]
            del file[name]
            file.create_dataset(name, data=array, compression="gzip")
    return FOLDER["now"] / "large.h5"


def repacked():
    """Do what the command in the message does, with the command itself if it is installed."""
    import h5py

    source, out = compressed(), FOLDER["now"] / "out.h5"
    if shutil.which("h5repack"):
        subprocess.run(["h5repack", "-f", "NONE", source, out], check=True)
        return out
    with h5py.File(source, "r") as file, h5py.File(out, "w") as copy:
        copy.attrs.update(file.attrs)
        for name in file:
            file.copy(name, copy)

        def rewrite(name, one):
            if getattr(one, "compression", None):
                del copy[name]
                copy[name] = one[...]

        file.visititems(rewrite)
    return out


CASES = {
    "layers between Keras's LSTMs": Case(
        lambda: convert.from_keras(apart(), ["a", "b"]),
        lambda: [convert.from_keras(apart(), name) for name in "ab"],
        "keras",
    ),
    "an initial state in Keras": Case(
        lambda: convert.from_keras(started()),
        lambda: (
            convert.from_keras(started(), initial_state="separate"),
            convert.initial_state_from_keras(started()),
        ),
        "keras",
    ),
    "a stateful layer": Case(
        lambda: convert.from_keras(model(layer(stateful=True))),
        lambda: lstm()(xs(), lstm()(xs())[1]),
        "keras",
    ),
    "a subclass of Keras's LSTM": Case(
        lambda: convert.from_keras(own()), lambda: convert.from_keras(own(), custom_classes=("Mine",)), "keras"
    ),
    "a subclass of Keras's cell": Case(
        lambda: convert.from_keras(own_cell()),
        lambda: convert.from_keras(own_cell(), custom_classes=("MyCell",)),
        "keras",
    ),
    "a class around an LSTM": Case(lambda: convert.from_keras(holder(), custom_classes=["Holder"]), held, "keras"),
    "an LSTM in a class": Case(lambda: convert.from_keras(holder()), held, "keras"),
    "directions that Keras adds": Case(lambda: convert.from_keras(summed()), both_apart, "keras"),
    "mixed precision": Case(
        lambda: convert.from_keras(model(layer(dtype="mixed_bfloat16"))),
        lambda: convert.from_keras(model(layer(dtype="mixed_bfloat16"))).astype("bfloat16"),
        "keras",
    ),
    "several layers of Keras": Case(
        lambda: convert.from_keras(model(layer("a"), layer("b"))),
        lambda: [convert.from_keras(model(layer("a"), layer("b")), name) for name in ("a", ["a", "b"])],
        "keras",
    ),
    "functions that a file doesn't name": Case(checked, checked_with_functions, "keras"),
    "a file without functions": Case(
        lambda: convert.from_keras(without_config()),
        lambda: convert.from_keras(without_config(), activation="tanh", recurrent_activation="sigmoid"),
        "keras",
    ),
    "a compressed file": Case(
        lambda: convert.from_keras(compressed()), lambda: convert.from_keras(repacked()), "keras"
    ),
}
