"""Test that from_keras reads from a config whether layers follow each other. h5py writes the files as Keras does."""

import io
import json
import zipfile

import numpy as np
import pytest

from fusedlstm import LSTMWeights, StackedWeights, WeightsFileError
from fusedlstm.convert.keras.initial import initial_state_from_keras
from fusedlstm.convert.keras.objects import from_keras, to_keras

h5py = pytest.importorskip("h5py", reason="h5py is not installed")
N = 4
ARRAYS = {name: LSTMWeights.random(N, N, seed=seed) for seed, name in enumerate("abcd")}


class Layer:
    """A layer's config, with its calls as each version of Keras writes them."""

    def __init__(self, kind, name, calls=(), keras=3, module=None, **config):
        self.kind, self.name, self.calls, self.keras, self.module, self.config = (
            kind,
            name,
            calls,
            keras,
            module,
            config,
        )

    def written(self):
        config = {"name": self.name, **self.config}
        named = {"class_name": self.kind, "config": config, "name": self.name}
        if self.module:
            named |= {"module": self.module, "registered_name": f"my>{self.kind}"}
        return named | {"inbound_nodes": [self.call(*call) for call in self.calls]}

    def call(self, inputs, **kwargs):
        refs = [ref if isinstance(ref, tuple) else (ref, 0, 0) for ref in inputs]
        if self.keras == 2:
            kwargs = {name: to_2(value) for name, value in kwargs.items()}
            return [[*ref, kwargs if not k else {}] for k, ref in enumerate(refs)]
        first, *states = [tensor(ref) for ref in refs]
        if self.kind in ("Add", "Concatenate"):
            first, states = [first, *states], []
        kwargs = {name: to_3(value) for name, value in kwargs.items()}
        return {"args": [first], "kwargs": kwargs | ({"initial_state": states} if states else {})}


def tensor(ref):
    return {"class_name": "__keras_tensor__", "config": {"shape": [None], "keras_history": list(ref)}}


def to_3(value):
    if isinstance(value, tuple):
        return tensor(value)
    if isinstance(value, np.ndarray):
        return {"class_name": "__numpy__", "config": {"value": value.tolist(), "dtype": "float32"}}
    return [to_3(each) for each in value] if isinstance(value, list) else value


def to_2(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    return (
        [to_2(each) for each in value]
        if isinstance(value, list)
        else list(value)
        if isinstance(value, tuple)
        else value
    )


def lstm(name, calls=(), keras=3, **config):
    options = {"units": N, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True}
    return Layer("LSTM", name, calls, keras, **options, **{"return_sequences": True, "go_backwards": False, **config})


def functional(layers, output, inputs=("x",), name="m"):
    config = {"name": name, "layers": [layer.written() if isinstance(layer, Layer) else layer for layer in layers]}
    ends = {
        "input_layers": [[each, 0, 0] for each in inputs],
        "output_layers": [[*output] if isinstance(output, tuple) else [output, 0, 0]],
    }
    return {"class_name": "Functional", "config": config | ends, "name": name}


def sequential(layers, name="m"):
    layers = [layer.written() if isinstance(layer, Layer) else layer for layer in layers]
    return {"class_name": "Sequential", "config": {"name": name, "layers": layers}, "name": name}


def write(path, config, keras=3, inner=()):
    """Write a .h5 file with arrays for all layers of one letter. `inner` maps a layer to the model that holds it."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = {2: "2.15.0", 3: "3.15.1"}[keras]
        file.attrs["model_config"] = json.dumps(config)
        for name, weights in ARRAYS.items():
            below = f"{dict(inner)[name]}/{name}" if name in dict(inner) else f"{name}/{name}"
            for part, array in zip(("kernel", "recurrent_kernel", "bias"), to_keras(weights), strict=True):
                file[f"model_weights/{below}/lstm_cell/{part}"] = array
    return path


X = Layer("InputLayer", "x")


def between(layer, keras):
    """Return the config of a model of two LSTMs with a layer between them."""
    layer.keras, layer.calls = keras, [(["a"],)]
    return functional([X, lstm("a", [(["x"],)], keras), layer, lstm("b", [([layer.name],)], keras)], "b")


IDENTITIES = [
    Layer("Dropout", "d", rate=0.5),
    Layer("SpatialDropout1D", "d", rate=0.5),
    Layer("GaussianNoise", "d", stddev=0.5),
    Layer("GaussianDropout", "d", rate=0.5),
    Layer("AlphaDropout", "d", rate=0.5),
    Layer("ActivityRegularization", "d", l1=0.5, l2=0.0),
    Layer("Activation", "d", activation="linear"),
    Layer("Identity", "d"),
    Layer("TimeDistributed", "d", layer={"class_name": "Dropout", "config": {"name": "e", "rate": 0.5}}),
    Layer("Dropout", "d", rate=0.5, dtype="float32"),
]
OTHERS = [
    Layer("BatchNormalization", "n"),
    Layer("LayerNormalization", "n"),
    Layer("Activation", "n", activation="relu"),
    Layer("Activation", "n"),
    Layer("ReLU", "n"),
    Layer("MaxPooling1D", "n", pool_size=[1]),
    Layer("AveragePooling1D", "n", pool_size=[1]),
    Layer("Dense", "n", units=N),
    Layer("TimeDistributed", "n", layer={"class_name": "Dense", "config": {"name": "e", "units": N}}),
    Layer("TimeDistributed", "n"),
    Layer("Masking", "n", mask_value=0.0),
    Layer("Lambda", "n", function=["4wEAAAA=", None, None]),
    Layer("Cropping1D", "n", cropping=[0, 0]),
    Layer("ZeroPadding1D", "n", padding=[0, 0]),
    Layer("RepeatVector", "n", n=1),
    Layer("Reshape", "n", target_shape=[-1, N]),
    Layer("Permute", "n", dims=[1, 2]),
    Layer("Attention", "n"),
    Layer("GRU", "n", units=N, return_sequences=True),
    Layer("Dropout", "n", module="mine", rate=0.5),
    Layer("Identity", "n", module="mine"),
    Layer("NeverHeardOf", "n"),
]


@pytest.mark.parametrize("keras", [2, 3])
@pytest.mark.parametrize("layer", IDENTITIES, ids=lambda layer: layer.kind)
def test_identities_between_layers_are_passed(tmp_path, layer, keras):
    path = write(tmp_path / "m.h5", between(layer, keras), keras)
    assert from_keras(path, ["a", "b"]).num_layers == 2


@pytest.mark.parametrize("keras", [2, 3])
@pytest.mark.parametrize("layer", OTHERS, ids=lambda layer: layer.kind)
def test_other_layers_between_are_refused(tmp_path, layer, keras):
    path = write(tmp_path / "m.h5", between(layer, keras), keras)
    with pytest.raises(
        WeightsFileError,
        match=rf"the outputs of 'a' as the inputs of 'b'; got those of 'n' \(.*{layer.kind}.*compute what is between",
    ):
        from_keras(path, ["a", "b"])
    assert from_keras(path, "a").num_layers == from_keras(path, "b").num_layers == 1


@pytest.mark.parametrize("layer", OTHERS, ids=lambda layer: layer.kind)
def test_other_layers_in_a_sequential_are_refused(tmp_path, layer):
    path = write(tmp_path / "m.h5", sequential([X, lstm("a"), layer, lstm("b")]))
    with pytest.raises(WeightsFileError, match=r"the outputs of 'a' as the inputs of 'b'; got those of 'n' \("):
        from_keras(path, ["a", "b"])


def add(name, *inputs, keras=3):
    return Layer("Add", name, [(inputs,)], keras)


def models(keras):
    """Yield graphs of LSTMs, the names to convert, and the part of the error that says why they are not a stack."""
    K = {"keras": keras}
    a, b = lstm("a", [(["x"],)], **K), lstm("b", [(["a"],)], **K)
    yield "order", functional([X, a, b], "b"), "ba", "the outputs of 'b' as the inputs of 'a'; got the model's input"
    yield "skip", functional([X, a, add("s", "a", "x", **K), lstm("b", [(["s"],)], **K)], "b"), "ab", r"'s' \(Add\)"
    yield "siblings", functional([X, a, lstm("b", [(["x"],)], **K)], "b"), "ab", "got the model's input"
    states = lstm("a", [(["x"],)], return_state=True, **K)
    from_states = lstm("b", [(["x", ("a", 0, 1), ("a", 0, 2)],)], **K)
    yield "encoder", functional([X, states, from_states], "b"), "ab", "got the model's input"
    repeated = Layer("RepeatVector", "r", [([("a", 0, 1)],)], keras, n=3)
    yield "repeated", functional([X, states, repeated, lstm("b", [(["r"],)], **K)], "b"), "ab", r"'r' \(RepeatVector\)"
    wrong = lstm("b", [([("a", 0, 1)],)], **K)
    yield "state", functional([X, states, wrong], "b"), "ab", "got its output 1, a state"
    both = functional([X, a, lstm("b", [(["a"],), (["x"],)], **K)], ("b", 1, 0))
    yield "second call", both, "ab", "got the model's input"
    yield "twice", functional([X, lstm("a", [(["x"],), (["a"],)], **K)], ("a", 1, 0)), "aa", "got the model's input"
    yield (
        "three",
        functional([X, a, b, lstm("c", [(["b"],)], **K)], "c"),
        "ac",
        "the outputs of 'a' as the inputs of 'c'; got those of 'b'",
    )
    yield "not called", functional([X, a, lstm("b", [], **K)], "a"), "ab", "got 'b', which it doesn't call"
    yield (
        "unclear",
        functional([X, a, lstm("b", [(["nobody"],)], **K)], "b"),
        "ab",
        "the output of a call that can't be read",
    )
    circle = [
        X,
        lstm("a", [(["d"],)], **K),
        Layer("Dropout", "d", [(["e"],)], keras),
        Layer("Dropout", "e", [(["d"],)], keras),
    ]
    yield "circle", functional([*circle, lstm("b", [(["d"],)], **K)], "b"), "ab", "call each other in circles"
    training = Layer("Dropout", "d", [(["a"],)], keras, rate=0.5)
    training.call = lambda inputs: Layer.call(training, inputs, training=True)
    yield "training", functional([X, a, training, lstm("b", [(["d"],)], **K)], "b"), "ab", r"'d' \(Dropout\)"
    last = functional([X, lstm("a", [(["x"],)], return_sequences=False, **K), b], "b")
    yield "last", last, "ab", "a.return_sequences: wanted True"
    default = lstm("a", [(["x"],)], **K)
    del default.config["return_sequences"]
    yield "default", functional([X, default, b], "b"), "ab", "a.return_sequences: wanted True"
    masking = Layer("Masking", "m", [(["x"],)], keras)
    back = lstm("a", [(["m"],)], go_backwards=True, **K)
    got = "a.go_backwards: wanted False in a layer below others in a model that may mask steps; got True"
    yield "backwards", functional([X, masking, back, b], "b"), "ab", got
    half = Layer("Dropout", "d", [(["a"],)], keras, rate=0.5, dtype="float16")
    a32 = lstm("a", [(["x"],)], dtype="float32", **K)
    yield "dtype", functional([X, a32, half, lstm("b", [(["d"],)], **K)], "b"), "ab", "which makes them float16"
    masked = lstm("b", [(["a"],)], **K)
    masked.call = lambda inputs: Layer.call(masked, inputs, mask=("x", 0, 0))
    yield "mask", functional([X, a, masked], "b"), "ab", "outputs with another mask"


MODELS = [(keras, *model) for keras in (2, 3) for model in models(keras)]


@pytest.mark.parametrize(
    ("keras", "what", "config", "names", "message"), MODELS, ids=[f"{m[1]}-{m[0]}" for m in MODELS]
)
def test_layers_that_do_not_follow_raise(tmp_path, keras, what, config, names, message):
    path = write(tmp_path / "m.h5", config, keras)
    with pytest.raises(WeightsFileError, match=message):
        from_keras(path, list(names))


@pytest.mark.parametrize("keras", [2, 3])
def test_other_stacks_are_taken(tmp_path, keras):
    K = {"keras": keras}
    a, b = lstm("a", [(["x"],)], **K), lstm("b", [(["a"],)], **K)
    skip_after = [X, a, b, add("s", "a", "b", **K)]
    siamese = [
        X,
        Layer("InputLayer", "y"),
        lstm("a", [(["x"],), (["y"],)], **K),
        lstm("b", [(["a"],), ([("a", 1, 0)],)], **K),
    ]
    states = [X, lstm("a", [(["x"],)], return_state=True, **K), lstm("b", [(["a", ("a", 0, 1), ("a", 0, 2)],)], **K)]
    for layers, output in ((skip_after, "s"), (siamese, "b"), (states, "b")):
        path = write(tmp_path / "m.h5", functional(layers, output), keras)
        assert from_keras(path, ["a", "b"]).num_layers == 2


@pytest.mark.parametrize("first", ["Input", "shape"])
@pytest.mark.parametrize("kind", ["Sequential", "Functional"])
def test_nested_models_of_keras_2(tmp_path, kind, first):
    """Keras 2 numbers a nested model's calls from 1, because making the model is call 0."""
    b, c = lstm("b", [(["y"],)], 2), lstm("c", [(["b"],)], 2)
    y = Layer("InputLayer", "y")
    if kind == "Sequential":
        inner = sequential([y, b, c] if first == "Input" else [lstm("b", batch_input_shape=[None, 3, N]), c], "inner")
    else:
        inner = functional([y, b, c], "c", "y", "inner")
    inner["inbound_nodes"] = [[["a", 0, 0, {}]], [["relu", 0, 0, {}]]]
    relu = Layer("Activation", "relu", [([("inner", 1, 0)],)], 2, activation="relu")
    layers = [X, lstm("a", [(["x"],)], 2), inner, relu, lstm("d", [([("inner", 2, 0)],)], 2)]
    path = write(tmp_path / "m.h5", functional(layers, "d"), 2, {"b": "inner", "c": "inner"})
    assert from_keras(path, ["b", "c"]).num_layers == 2
    assert from_keras(path, ["inner/c", "d"]).num_layers == 2
    with pytest.raises(
        WeightsFileError, match=r"the outputs of 'a' as the inputs of 'inner/b'; got those of 'relu' \(Activation\)"
    ):
        from_keras(path, ["a", "b"])  # in the second call
    inner["inbound_nodes"].pop()
    layers = [X, lstm("a", [(["x"],)], 2), inner, lstm("d", [([("inner", 1, 0)],)], 2)]
    path = write(tmp_path / "m.h5", functional(layers, "d"), 2, {"b": "inner", "c": "inner"})
    assert from_keras(path, ["a", "b", "c", "d"]).num_layers == 4


def test_subclassed_models_have_no_graph(tmp_path):
    config = sequential([X, lstm("a"), lstm("b")])
    config |= {"module": "mine", "class_name": "Mine", "registered_name": "my>Mine"}
    path = write(tmp_path / "m.h5", config)
    with pytest.raises(WeightsFileError, match="got my>Mine, a class with its own code. Convert each layer by itself"):
        from_keras(path, ["a", "b"])
    assert from_keras(path, "b").num_layers == 1
    assert from_keras(path, ["a", "b"], custom_classes=["Mine"]).num_layers == 2


def test_order_in_weights_files_is_warned_of(tmp_path, caplog):
    write(tmp_path / "m.h5", sequential([X, lstm("a"), lstm("b")]))
    with h5py.File(tmp_path / "m.h5", "a") as file:
        del file.attrs["model_config"]
    given = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    assert from_keras(tmp_path / "m.h5", ["b", "a"], **given).num_layers == 2
    assert "'b', 'a': a file with only weights doesn't tell whether these follow each other" in caplog.text


def called_with(keras, **kwargs):
    layer = lstm("a", [(["x"],)], keras, dropout=0.5)
    layer.call = lambda inputs: Layer.call(layer, inputs, **kwargs)
    return functional([X, layer], "a")


H, C = (np.arange(2 * N).reshape(2, N).astype("f") / k for k in (10, 20))


@pytest.mark.parametrize("keras", [2, 3])
def test_constant_states_are_refused_or_separate(tmp_path, keras):
    path = write(tmp_path / "m.h5", called_with(keras, initial_state=[H, C]), keras)
    with pytest.raises(WeightsFileError, match="a.initial_state: wanted zeros, .* got constants. Give initial_state="):
        from_keras(path, "a")
    assert from_keras(path, "a", initial_state="separate").num_layers == 1
    (state,) = initial_state_from_keras(path, "a")
    np.testing.assert_array_equal(state.h, H)
    np.testing.assert_array_equal(state.c, C)
    path = write(tmp_path / "m.h5", called_with(keras, initial_state=[0 * H, 0 * C]), keras)
    assert from_keras(path, "a").num_layers == 1
    with pytest.raises(ValueError, match="initial_state: wanted one of 'refuse', 'separate'"):
        from_keras(path, "a", initial_state="drop")


@pytest.mark.parametrize("keras", [2, 3])
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"training": True}, "a: wanted a layer whose dropout is inactive; got one that is called with training=True"),
        (
            {"constants": [np.ones((1, 2))]},
            "a: wanted a layer that is called with only inputs, states and a mask; got constants",
        ),
        ({"initial_state": [H, "x"]}, "a.initial_state: wanted zeros"),
    ],
)
def test_other_arguments_of_a_call_are_refused(tmp_path, keras, kwargs, message):
    path = write(tmp_path / "m.h5", called_with(keras, **kwargs), keras)
    with pytest.raises(WeightsFileError, match=message):
        from_keras(path, "a")


def test_states_must_be_constants(tmp_path):
    path = write(tmp_path / "m.h5", called_with(3))
    with pytest.raises(WeightsFileError, match="a.initial_state: wanted constants in each call"):
        initial_state_from_keras(path, "a")
    path = write(tmp_path / "m.h5", called_with(3, initial_state=[("x", 0, 0), C]))
    with pytest.raises(
        WeightsFileError, match="a.initial_state: wanted constants; got a tensor that the model computes"
    ):
        initial_state_from_keras(path, "a")
    path = write(tmp_path / "m.h5", called_with(3, initial_state=[H[:, 1:], C]))
    with pytest.raises(WeightsFileError, match=r"a.initial_state\[0\]: wanted shape \(B, N\)"):
        initial_state_from_keras(path, "a")


def test_calls_of_nested_models_are_bounded(tmp_path):
    """Each of 30 models calls the next twice, so the LSTM is called a billion times."""
    inner = functional([X, lstm("a", [(["x"],)])], "a", name="m0")
    for k in range(1, 31):
        inner["inbound_nodes"] = [Layer("Functional", "").call(["x"]), Layer("Functional", "").call([inner["name"]])]
        inner = functional([X, inner], (inner["name"], 1, 0), name=f"m{k}")
    path = write(tmp_path / "m.h5", inner, inner={"a": "m29"})
    with pytest.raises(WeightsFileError, match="wanted a layer that is called at most 100 times"):
        from_keras(path, "a")
    while inner["name"] != "m0":
        inner = inner["config"]["layers"][1]
    inner["config"]["layers"][1]["inbound_nodes"] = []  # now nothing calls the LSTM, within as many models
    model = functional([X, inner], "m0", name="m1")
    for k in range(2, 31):
        model["inbound_nodes"] = [Layer("Functional", "").call(["x"]), Layer("Functional", "").call([model["name"]])]
        model = functional([X, model], (model["name"], 1, 0), name=f"m{k}")
    with pytest.raises(WeightsFileError, match="wanted a layer in models that are called a few times"):
        from_keras(write(path, model, inner={"a": "m29"}), "a")


@pytest.mark.parametrize(
    "damage", [None, [], {}, 3, "x", [3], [[]], [["x"]], [{"args": 3}], [{"args": [], "kwargs": {}}]]
)
def test_damaged_calls_are_refused(tmp_path, damage):
    config = functional([X, lstm("a", [(["x"],)]), lstm("b", [(["a"],)])], "b")
    config["config"]["layers"][2]["inbound_nodes"] = damage
    path = write(tmp_path / "m.h5", config)
    with pytest.raises(WeightsFileError, match="name: wanted layers"):
        from_keras(path, ["a", "b"])


def test_graphs_in_archives_are_read(tmp_path):
    """A .keras file has the same graph, but its arrays are found by the classes of layers."""
    layers = [X, lstm("a", [(["x"],)]), Layer("ReLU", "r", [(["a"],)]), lstm("b", [(["r"],)]), lstm("c", [(["b"],)])]
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for k, name in enumerate("abc"):
            for part, array in enumerate(to_keras(ARRAYS[name])):
                file[f"layers/lstm{f'_{k}' if k else ''}/cell/vars/{part}"] = array
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(functional(layers, "c")))
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr("model.weights.h5", content.getvalue())
    assert isinstance(from_keras(tmp_path / "m.keras", ["b", "c"]), StackedWeights)
    with pytest.raises(WeightsFileError, match=r"those of 'r' \(ReLU\)"):
        from_keras(tmp_path / "m.keras", ["a", "b", "c"])


def taken(path, names):
    try:
        return from_keras(path, names).num_layers
    except WeightsFileError as error:
        message = str(error)
    assert "mask" in message
    return 0


@pytest.mark.parametrize("keras", [2, 3])
def test_layers_must_have_the_same_mask(tmp_path, keras):
    """Keras 2's Identity, TimeDistributed, and calls of models drop masks. In Keras 3, initial states do."""
    K = {"keras": keras}
    m = Layer("Masking", "m", [(["x"],)], keras, mask_value=0.0)
    a = lstm("a", [(["m"],)], return_state=True, **K)
    identity = Layer("Identity", "i", [(["a"],)], keras)
    dropout = {"class_name": "Dropout", "config": {"name": "e", "rate": 0.5}}
    each = Layer("TimeDistributed", "i", [(["a"],)], keras, layer=dropout)
    b, after = lstm("b", [(["a"],)], **K), lstm("b", [(["i"],)], **K)
    states = lstm("b", [(["a", ("a", 0, 1), ("a", 0, 2)],)], **K)
    chains = [([b], True), ([identity, after], keras == 3), ([each, after], False), ([states], keras == 2)]
    for layers, wanted in chains:
        path = write(tmp_path / "m.h5", functional([X, m, a, *layers], "b"), keras)
        assert bool(taken(path, ["a", "b"])) == wanted
    inner = functional([Layer("InputLayer", "y"), lstm("b", [(["y"],)], **K)], "b", "y", "inner")
    inner["inbound_nodes"] = [Layer("Functional", "", **K).call(["a"])]
    last = ("inner", 1 if keras == 2 else 0, 0)
    path = write(tmp_path / "m.h5", functional([X, m, a, inner], last), keras, {"b": "inner"})
    assert not taken(path, ["a", "b"])
    start = lstm("a", [(["x"],)], **K)
    path = write(tmp_path / "m.h5", functional([X, start, inner], last), keras, {"b": "inner"})
    assert taken(path, ["a", "b"])


def test_mask_arguments_must_be_the_same(tmp_path):
    """Keras 3 writes masks as arguments of calls."""

    def masked(name, inputs, mask):
        layer = lstm(name, [(inputs,)])
        layer.call = lambda inputs: Layer.call(layer, inputs, **({} if mask is None else {"mask": (mask, 0, 0)}))
        return layer

    masks = [Layer("ops.Any", name, [(["x"],)]) for name in ("p", "q")]
    for first, second, wanted in (("p", "p", 2), ("p", "q", 0), ("p", None, 0), (None, "p", 0)):
        layers = [X, *masks, masked("a", ["x"], first), masked("b", ["a"], second)]
        path = write(tmp_path / "m.h5", functional(layers, "b"))
        assert taken(path, ["a", "b"]) == wanted


@pytest.mark.parametrize("keras", [2, 3])
def test_models_called_with_training(tmp_path, keras):
    """A call with training=True applies to all layers of the model."""
    K = {"keras": keras}
    y, d = Layer("InputLayer", "y"), Layer("Dropout", "d", [(["y"],)], keras, rate=0.5)
    inner = functional([y, d, lstm("b", [(["d"],)], dropout=0.1, **K)], "b", "y", "inner")
    for training in (False, True):
        inner["inbound_nodes"] = [Layer("Functional", "", **K).call(["a"], training=training)]
        last = ("inner", 1 if keras == 2 else 0, 0)
        path = write(tmp_path / "m.h5", functional([X, lstm("a", [(["x"],)], **K), inner], last), keras, {"b": "inner"})
        for name in ("b", ["a", "b"]):
            if training:
                with pytest.raises(WeightsFileError, match="training=True"):
                    from_keras(path, name)
            else:
                assert from_keras(path, name)
    inner["config"]["layers"][2]["config"]["dropout"] = 0.0
    path = write(tmp_path / "m.h5", functional([X, lstm("a", [(["x"],)], **K), inner], last), keras, {"b": "inner"})
    assert from_keras(path, "b").num_layers == 1
    with pytest.raises(WeightsFileError, match=r"got those of 'd' \(Dropout\)"):
        from_keras(path, ["a", "b"])


@pytest.mark.parametrize("keras", [2, 3])
def test_states_by_position(tmp_path, keras):
    a = lstm("a", [(["x"],)], keras)
    b = lstm("b", [(["a", ("a", 0, 1), ("a", 0, 2)],)], keras)
    path = write(tmp_path / "m.h5", functional([X, a, b], "b"), keras)
    with pytest.raises(
        WeightsFileError, match="b.initial_state: wanted constants; got a tensor that the model computes"
    ):
        initial_state_from_keras(path, "b")
    config = functional([X, a], "a")
    state = [to_3(H), to_3(C)]
    config["config"]["layers"][1]["inbound_nodes"] = [{"args": [tensor(("x", 0, 0)), state], "kwargs": {}}]
    with pytest.raises(WeightsFileError, match="a.initial_state: wanted zeros"):
        from_keras(write(tmp_path / "m.h5", config), "a")
