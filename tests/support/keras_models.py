"""Random Keras models, and the inputs and outputs of their LSTMs during a run."""

import contextlib
from dataclasses import dataclass, field

import numpy as np

from support.keras_installed import major

ROWS, STEPS, SIZE = 2, 4, 3  # the shape of inputs, and of everything between layers
ACTIVATIONS = ["tanh", "tanh", "relu", "softsign"]
GATES = ["sigmoid", "sigmoid", "hard_sigmoid"]
LSTMS = ("LSTM", "RNN", "Bidirectional")


@dataclass
class Drawn:
    """A model, its LSTMs by from_keras's names, and inputs."""

    model: object
    lstms: dict = field(default_factory=dict)
    inputs: list = field(default_factory=list)


class Drawing:
    """Draws a model from a seed."""

    def __init__(self, keras, seed):
        self.keras, self.K = keras, keras.layers
        self.rng = np.random.default_rng(seed)
        self.lstms = {}
        self.number = 0
        self.masked = False

    def chance(self, share):
        return self.rng.random() < share

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def name(self, kind):
        self.number += 1
        return f"{kind}{self.number}"

    def options(self):
        return {
            "activation": self.pick(*ACTIVATIONS),
            "recurrent_activation": self.pick(*GATES),
            "use_bias": self.chance(0.8),
            "dropout": self.pick(0.0, 0.3),
            "unit_forget_bias": self.chance(0.5),
        }

    def lstm(self, *, returns=True, bidirectional=False, prefix="", **more):
        """Return an LSTM of some kind. Its outputs are SIZE wide, or twice that if bidirectional."""
        name = self.name("lstm")
        plain = {"return_sequences": returns, "return_state": more.pop("return_state", False)}
        if self.chance(0.15):
            plain["go_backwards"] = True
        if bidirectional:
            mode = self.pick("concat", "concat", "concat", "sum")
            plain.pop("go_backwards", None)
            layer = self.K.LSTM(SIZE, **self.options(), **plain)
            layer = self.K.Bidirectional(layer, merge_mode=mode, name=name)
        elif self.chance(0.15):
            cells = [self.K.LSTMCell(SIZE, **self.options()) for _ in range(self.pick(1, 2))]
            layer = self.K.RNN(cells if len(cells) > 1 else cells[0], name=name, **plain)
        else:
            layer = self.K.LSTM(SIZE, name=name, **self.options(), **plain)
        self.lstms[prefix + name] = layer
        return layer

    def identity(self):
        K = self.K
        kinds = [
            lambda: K.Dropout(0.5),
            lambda: K.SpatialDropout1D(0.5),
            lambda: K.GaussianNoise(0.5),
            lambda: K.GaussianDropout(0.3),
            lambda: K.ActivityRegularization(0.1),
            lambda: K.Activation("linear"),
            K.Identity,
            lambda: K.TimeDistributed(K.Dropout(0.5)),
        ]
        return self.pick(*kinds)()

    def other(self, hs):
        """Return a layer that computes something."""
        K, (_, steps, width) = self.K, hs.shape
        kinds = [
            lambda: K.Activation("relu"),
            K.BatchNormalization,
            K.LayerNormalization,
            lambda: K.Dense(width),
            lambda: K.MaxPooling1D(2, strides=1, padding="same"),
            K.LeakyReLU,
            lambda: K.Masking(0.25),
            lambda: K.TimeDistributed(K.Dense(width)),
            lambda: K.Conv1D(width, 2, padding="same"),
            lambda: K.Reshape((steps // 2, 2 * width)) if steps == STEPS else K.Dense(width),
            lambda: K.GRU(width, return_sequences=True),
        ]
        return self.pick(*kinds)()

    def between(self, hs):
        """Return the outputs below, perhaps after identities or other layers."""
        for _ in range(self.pick(0, 1, 1, 2)):
            if self.chance(0.78):
                training = {"training": True} if self.chance(0.05) else {}
                layer = self.identity()
                takes = "Dropout" in type(layer).__name__ or "Gaussian" in type(layer).__name__
                hs = layer(hs, **training) if takes else layer(hs)
            else:
                hs = self.other(hs)(hs)
        return hs

    def states(self, hs, layer):
        """Return initial states computed from an input, as many as a layer has."""
        count = 4 if type(layer).__name__ == "Bidirectional" else 2
        start = self.K.Flatten()(self.K.Cropping1D((0, hs.shape[1] - 1))(hs))
        return [self.K.Dense(SIZE)(start) for _ in range(count)]

    def nested(self, hs, bidirectional):
        """Return a model of one or two LSTMs, to be called in another model."""
        name = self.name("model")
        layers = [self.lstm(bidirectional=bidirectional, prefix=f"{name}/") for _ in range(self.pick(1, 2))]
        parts = [part for layer in layers for part in (layer, *([self.identity()] if self.chance(0.4) else []))]
        if self.chance(0.5):
            return self.keras.Sequential([self.K.Input(hs.shape[1:]), *parts], name=name)
        hs = xs = self.K.Input(hs.shape[1:])
        for part in parts:
            hs = part(hs)
        return self.keras.Model(xs, hs, name=name)

    def add(self, hs, bidirectional, last):
        """Return the outputs of one more LSTM, or of layers with one inside."""
        kind = self.pick(
            *["plain"] * 14, "skip", "sibling", "shared", "states", "states", "nested", "nested", "decoder"
        )
        if kind == "nested":
            inner = self.nested(hs, bidirectional)
            outputs = inner(hs)
            if self.chance(0.2) and outputs.shape[-1] == hs.shape[-1]:
                outputs = self.again(inner, hs, outputs)
            return outputs
        layer = self.lstm(returns=not last or self.chance(0.5), bidirectional=bidirectional)
        if kind == "decoder" and isinstance(layer, self.K.LSTM):
            return self.decode(hs, layer)
        has_states = kind == "states" and type(layer).__name__ != "RNN"
        outputs = layer(hs, **{"initial_state": self.states(hs, layer)} if has_states else {})
        if len(outputs.shape) == 3 and kind == "sibling":
            outputs = self.K.Concatenate()([outputs, self.lstm()(hs)])
        elif len(outputs.shape) == 3 and outputs.shape[-1] == hs.shape[-1]:
            if kind == "skip":
                outputs = self.K.Add()([outputs, hs])
            elif kind == "shared":
                outputs = self.again(layer, hs, outputs)
        return outputs

    def again(self, layer, hs, outputs):
        """Call a layer that was called on `hs` once more, if the new input has the same shape."""
        inputs = self.between(outputs)
        return layer(inputs) if inputs.shape == hs.shape else inputs

    def decode(self, hs, layer):
        """Return the outputs of a layer that starts from the states of another."""
        encoder = self.lstm(return_state=True)
        sequence, *states = encoder(hs)
        if not isinstance(encoder, self.K.LSTM):
            return layer(sequence)
        return layer(self.pick(sequence, hs), initial_state=states)

    def model(self):
        """Return the drawn model."""
        K, count = self.K, self.pick(1, 2, 2, 3, 3, 4)
        bidirectional = self.chance(0.25)
        xs = K.Input((STEPS, SIZE))
        if self.chance(0.3):
            model = self.keras.Sequential([xs, *([K.Masking()] if self.chance(0.3) else [])])
            for k in range(count):
                model.add(self.lstm(returns=k < count - 1 or self.chance(0.5), bidirectional=bidirectional))
                if k < count - 1 and self.chance(0.6):
                    model.add(self.identity() if self.chance(0.8) else self.other(model.outputs[0]))
            return model
        hs = K.Masking()(xs) if self.chance(0.25) else xs
        for k in range(count):
            hs = self.add(hs, bidirectional, k == count - 1)
            if len(hs.shape) < 3:
                break
            if k < count - 1:
                hs = self.between(hs)
        return self.keras.Model(xs, hs)


def draw(keras, seed):
    """Return a model with random weights, and inputs for it."""
    drawing = Drawing(keras, seed)
    model = drawing.model()
    rng = np.random.default_rng(seed)
    values = [rng.normal(0.05, 0.4, array.shape).astype(array.dtype) for array in model.get_weights()]
    model.set_weights([abs(v) if "variance" in w.name else v for v, w in zip(values, model.weights, strict=True)])
    xs = rng.normal(size=(ROWS, STEPS, SIZE)).astype("float32")
    xs[1, STEPS - 1 :] = 0.0  # a step for Masking to mask
    return Drawn(model, drawing.lstms, xs)


@dataclass
class Call:
    """The arrays that one call of a layer took and returned, and whether it turned the order of steps around."""

    xs: np.ndarray
    states: list
    mask: np.ndarray | None
    outputs: np.ndarray
    turns: bool


def run(keras, drawn):
    """Run the model, and return the calls of each of its LSTMs."""
    calls = {name: [] for name in drawn.lstms}
    with contextlib.ExitStack() as stack:
        if major(keras) > 2 and keras.backend.backend() == "jax":
            import jax

            stack.enter_context(jax.disable_jit())
        for name, layer in drawn.lstms.items():
            stack.enter_context(_recorded(layer, calls[name]))
        drawn.model(drawn.inputs, training=False)
    return calls


@contextlib.contextmanager
def _recorded(layer, calls):
    original = layer.call

    def call(inputs, initial_state=None, mask=None, **more):
        arguments = {"mask": mask, **more}
        if initial_state is not None:
            arguments["initial_state"] = initial_state
        returned = original(inputs, **arguments)
        sequence, *states = [*flat(inputs), *flat(initial_state)]
        xs, output = np.asarray(sequence), np.asarray(flat(returned)[0])
        mask = next((np.asarray(each) for each in flat(mask)), None)
        states = [np.asarray(state) for state in states] or zeros(layer)
        turns = not hasattr(layer, "forward_layer") and bool(getattr(layer, "go_backwards", False))
        calls.append(Call(xs, states, mask, output, turns))
        return returned

    layer.call = call
    try:
        yield
    finally:
        del layer.call


def zeros(layer):
    """Return the states from which a layer starts by default."""
    cell = getattr(layer, "cell", None)
    cells = 2 if cell is None else len(getattr(cell, "cells", [cell]))
    return [np.zeros((ROWS, SIZE), "float32")] * (2 * cells)


def flat(value):
    if isinstance(value, (list, tuple)):
        return [each for part in value for each in flat(part)]
    return [] if value is None else [value]
