"""Compare objects and files of the installed Keras 3 and tf_keras with the outputs that Keras computes."""

import importlib
import inspect

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights
from fusedlstm.convert.checking import check
from fusedlstm.convert.keras.files import list_keras
from fusedlstm.convert.keras.functions import function_of
from fusedlstm.convert.keras.initial import initial_state_from_keras
from fusedlstm.convert.keras.objects import from_keras, to_keras
from fusedlstm.convert.keras.options import KNOWN

from support.comparisons import assert_equal
from support.keras_installed import keras_or_skip, major, precise

pytestmark = pytest.mark.filterwarnings("ignore")  # the warnings are not ours
TOLERANCE = {"float64": 1e-12, "float32": 3e-6, "float16": 8e-3, "bfloat16": 6e-2}


@pytest.fixture(params=["keras", "tf_keras"])
def keras(request):
    return keras_or_skip(request.param)


def randomise(layer, seed=0):
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(0, 0.5, array.shape).astype(array.dtype) for array in layer.get_weights()])


def tensor(keras, array):
    if major(keras) > 2:
        return keras.ops.convert_to_tensor(array)
    return importlib.import_module("tensorflow").constant(array)


def values(array):
    return np.asarray(array).astype(float)


def assert_same(layer, weights, xs, tolerance):
    """Compare the outputs and states of a layer that returns sequences."""
    tolerance = max(tolerance, TOLERANCE[str(weights.dtype)])
    wanted, *states = layer(xs)
    lstm = LSTM(weights, batch_first=True, backend="numpy")
    outputs, got = lstm(xs)
    assert np.abs(values(outputs) - values(wanted)).max() <= tolerance
    flat = [np.asarray(array) for state in states for array in (state if isinstance(state, (list, tuple)) else [state])]
    for k, state in enumerate(got):
        assert np.abs(values(state.h) - values(flat[2 * k])).max() <= tolerance
        assert np.abs(values(state.c) - values(flat[2 * k + 1])).max() <= tolerance


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("use_bias", [True, False])
def test_cell(keras, dtype, use_bias):
    if dtype == "float64" != precise(keras):
        pytest.skip("Keras has no float64 with JAX")
    cell = keras.layers.LSTMCell(4, dtype=dtype, use_bias=use_bias, recurrent_initializer="glorot_uniform")
    cell.build((None, 3))
    randomise(cell)
    weights = from_keras(cell)
    assert isinstance(weights, LSTMWeights)
    assert (str(weights.dtype), weights.bias is not None) == (dtype, use_bias)
    rng = np.random.default_rng(1)
    x, h, c = (rng.normal(size=(2, width)).astype(weights.dtype) for width in (3, 4, 4))
    _, (wanted_h, wanted_c) = cell(tensor(keras, x), [tensor(keras, h), tensor(keras, c)])
    ours = LSTMCell(weights, backend="numpy")
    state = ours(x, LSTMState(h=h, c=c.astype(ours.zero_state(0).c.dtype)))
    assert np.abs(values(state.h) - values(wanted_h)).max() <= TOLERANCE[dtype]
    assert np.abs(values(state.c) - values(wanted_c)).max() <= TOLERANCE[dtype]
    for array, theirs in zip(to_keras(weights), cell.get_weights(), strict=True):
        np.testing.assert_array_equal(array, theirs)


NAMES = ["tanh", "sigmoid", "relu", "linear", None, "softsign", "softplus", "elu", "leaky_relu", "hard_sigmoid"]
KERAS_3 = ["celu", "sparse_sigmoid"]


@pytest.mark.parametrize("name", [*NAMES, *KERAS_3])
def test_function_names(keras, name):
    """Use each function for g and for the gates, over a range of inputs."""
    if name in KERAS_3 and major(keras) < 3:
        with pytest.raises(ValueError, match="wanted one of"):
            function_of("f", name, 2)
        return
    layer = keras.layers.LSTM(
        4, activation=name, recurrent_activation=name, dtype=precise(keras), return_sequences=True, return_state=True
    )
    xs = np.random.default_rng(1).uniform(-2, 2, (2, 2, 3)).astype(precise(keras))
    layer(xs)
    randomise(layer)
    assert_same(layer, from_keras(layer), xs, 3e-7 if name == "leaky_relu" else 1e-12)  # TensorFlow's 0.2 is in float32


LAYERS = [
    ("LeakyReLU", {}),
    ("LeakyReLU", {"negative_slope": 0.25, "alpha": 0.25}),
    ("ELU", {"alpha": 2.0}),
    ("ReLU", {}),
    ("ReLU", {"negative_slope": 0.25}),
    ("ThresholdedReLU", {"theta": 0.25}),
    ("Activation", {"activation": "softsign"}),
]


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_layers_as_functions(keras, kind, options):
    options = {
        key: value
        for key, value in options.items()
        if key != ("alpha" if major(keras) > 2 else "negative_slope") or kind != "LeakyReLU"
    }
    if not hasattr(keras.layers, kind):
        pytest.skip(f"{keras.__name__} has no {kind}")
    activation = getattr(keras.layers, kind)(**options, dtype=precise(keras))
    layer = keras.layers.LSTM(4, activation=activation, dtype=precise(keras), return_sequences=True, return_state=True)
    xs = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(precise(keras))
    layer(xs)
    randomise(layer)
    assert_same(layer, from_keras(layer), xs, 1e-7)


@pytest.mark.parametrize("name", ["selu", "gelu", "swish", "exponential", "mish", "relu6", "softmax"])
def test_unknown_functions_are_refused(keras, name):
    layer = keras.layers.LSTM(4, activation=name)
    layer.build((None, None, 3))
    with pytest.raises(ValueError, match=r"activation: wanted one of .*; got '\w+'. No function of fusedlstm"):
        from_keras(layer)


def test_custom_functions_are_refused(keras):
    def tanh(x):
        return x

    layer = keras.layers.LSTM(4, activation=tanh)
    layer.build((None, None, 3))
    with pytest.raises(ValueError, match="activation: wanted one of .*; got '.*test_keras_live.tanh'"):
        from_keras(layer)


def options_of(keras):
    return {"return_sequences": True, "return_state": True, "dtype": precise(keras)}


@pytest.mark.sampled
@pytest.mark.parametrize("sizes", [(1, 1), (3, 4)])
@pytest.mark.parametrize("kind", ["LSTM", "RNN", "stack", "Bidirectional", "Bidirectional RNN", "own backward"])
def test_layers(keras, kind, sizes, tmp_path):
    I, N = sizes
    K, dtype = keras.layers, precise(keras)
    cell = {"activation": "softsign", "recurrent_activation": "hard_sigmoid", "dtype": dtype}
    plain = options_of(keras)
    layer = {
        "LSTM": lambda: K.LSTM(N, **cell | plain, use_bias=False, unit_forget_bias=False, dropout=0.5),
        "RNN": lambda: K.RNN(K.LSTMCell(N, **cell), **plain),
        "stack": lambda: K.RNN(
            K.StackedRNNCells([K.LSTMCell(N, **cell), K.LSTMCell(N + 1, dtype=dtype)], dtype=dtype),
            **plain,
        ),
        "Bidirectional": lambda: K.Bidirectional(K.LSTM(N, **cell | plain), dtype=dtype),
        "Bidirectional RNN": lambda: K.Bidirectional(K.RNN(K.LSTMCell(N, **cell), **plain), dtype=dtype),
        "own backward": lambda: K.Bidirectional(
            K.LSTM(N, **cell | plain),
            backward_layer=K.LSTM(N + 1, **plain, name="own", go_backwards=True),
            dtype=dtype,
        ),
    }[kind]()
    xs = np.random.default_rng(1).normal(size=(2, 5, I)).astype(precise(keras))
    layer(xs)
    randomise(layer)
    weights = from_keras(layer)
    assert_same(layer, weights, xs, 1e-12)
    if kind in ("LSTM", "Bidirectional"):
        for array, theirs in zip(to_keras(weights), layer.get_weights(), strict=True):
            np.testing.assert_array_equal(array, theirs)


def make_model(keras):
    """Return a model with layers of all kinds, a frozen one, and nested models."""
    K = keras.layers
    xs = K.Input((None, 3))
    hs = K.LSTM(4, return_sequences=True, name="first", activation="relu")(xs)
    both = K.Bidirectional(K.LSTM(2, return_sequences=True), name="both")
    hs = K.Dropout(0.5)(both(hs))
    cells = [K.LSTMCell(3, name="alpha"), K.LSTMCell(3, name="beta", recurrent_activation="hard_sigmoid")]
    stack = K.RNN(K.StackedRNNCells(cells), return_sequences=True, name="stack")
    hs = stack(hs)
    between = K.Input((None, 3))
    inner = keras.Model(between, K.LSTM(3, return_sequences=True, name="one")(between), name="inner")
    other = keras.Model(between, K.LSTM(3, return_sequences=True, name="two")(between), name="other")
    hs = other(inner(hs))
    hs = K.Dense(2)(K.GRU(3, return_sequences=True, name="gru")(hs))
    model = keras.Model(xs, hs)
    both.forward_layer.trainable = False
    cells[0].trainable = False
    randomise(model)
    return model


def find(model, name):
    for part in name.split("/"):
        model = model.get_layer(part)
    return model


WHERE = ["first", "both", "stack", "inner/one", "other/two"]


@pytest.mark.parametrize("ending", [".keras", ".h5", ".weights.h5", "_weights.h5"])
def test_files(keras, ending, tmp_path):
    """Save a model in every format. An optimiser's state repeats the names of variables."""
    pytest.importorskip("h5py")
    if ending == "_weights.h5" and major(keras) > 2:
        pytest.skip("Keras 3 writes no such files")
    model = make_model(keras)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / f"m{ending}"
    (model.save_weights if "weights" in ending else model.save)(path)
    paths = (
        {"first": "lstm", "both": "bidirectional", "stack": "rnn"}
        if ending == ".weights.h5" and major(keras) == 2
        else {}
    )
    if paths:  # the file has no names of layers
        paths |= {"inner/one": "functional/lstm", "other/two": "functional_1/lstm"}
    for name in WHERE:
        wanted = from_keras(find(model, name))
        in_file = paths.get(name, name)
        if ending == "_weights.h5":
            in_file = in_file.removesuffix("/one").removesuffix("/two")
        if ending == "_weights.h5" and name == "stack":  # the file doesn't have the order of cells
            listed = [each.name for each in list_keras(path)]
            in_file = [next(each for each in listed if each.endswith(f"/{cell}")) for cell in ("alpha", "beta")]
        got = from_keras(path, in_file)
        assert len(got.layers) == len(wanted.layers)
        for ours, theirs in zip(got.layers, wanted.layers, strict=True):
            if "weights" not in ending:
                assert_equal(ours, theirs)
            for array, other in zip(ours.arrays().values(), theirs.arrays().values(), strict=True):
                np.testing.assert_array_equal(array, other)
    assert_equal(
        from_keras(model, ["inner/one", "other/two"]),
        StackedWeights([from_keras(find(model, name)).layers[0] for name in ("inner/one", "other/two")]),
    )


@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
def test_subclassed_models(keras, ending, tmp_path):
    pytest.importorskip("h5py")

    class Mine(keras.Model):
        def __init__(self, **options):
            super().__init__(**options)
            self.encoder = keras.layers.LSTM(4, return_sequences=True)
            self.cell = keras.layers.LSTMCell(2)

        def call(self, xs):
            hs = self.encoder(xs)
            return self.cell(hs[:, 0], [hs[:, 0, :2], hs[:, 0, :2]])[0]

    model = Mine()
    model(np.ones((2, 3, 3), np.float32))
    randomise(model)
    path = tmp_path / f"m{ending}"
    (model.save_weights if "weights" in ending else model.save)(path)
    by_size = {listed.sizes: listed.name for listed in list_keras(path)}
    assert_equal(from_keras(path, by_size[((3, 4),)]), from_keras(model.encoder))
    assert_equal(from_keras(path, by_size[((4, 2),)]), from_keras(model.cell))


def test_other_layers_are_refused(keras):
    K = keras.layers

    class LSTM(K.LSTM):
        pass

    for layer, message in (
        (LSTM(2), "wanted Keras's own LSTM; got .*test_keras_live.LSTM"),
        (K.GRU(2), "wanted a Keras LSTM; got GRU"),
        (K.ConvLSTM2D(2, 3), "wanted a Keras LSTM; got ConvLSTM2D"),
        (K.RNN(K.GRUCell(2)), "LSTMCell; got GRUCell"),
        (K.LSTM(2), "wanted arrays; got none: it is not built"),
        (K.Bidirectional(K.LSTM(2), merge_mode="sum"), "merge_mode: wanted 'concat'"),
    ):
        with pytest.raises(ValueError, match=message):
            from_keras(layer)


def foreign(keras, base):
    """Return a subclass of Keras's class that doubles its inputs."""

    def call(self, sequences, initial_state=None, mask=None, training=False):
        return base.call(self, 2 * sequences, initial_state=initial_state, mask=mask, training=training)

    def step(self, inputs, states, training=False):
        return base.call(self, 2 * inputs, states, training=training)

    made = type("Scaled", (base,), {"call": step if base is keras.layers.LSTMCell else call})
    return keras.saving.register_keras_serializable("mine")(made)


@pytest.mark.parametrize("kind", ["LSTM", "LSTMCell", "Bidirectional", "wrapper"])
@pytest.mark.parametrize("ending", ["", ".keras", ".h5"])
def test_foreign_classes_are_refused_by_name(keras, kind, ending, tmp_path):
    pytest.importorskip("h5py")
    K = keras.layers
    if kind == "wrapper":
        wrapper = type("Scaled", (K.Wrapper,), {"call": lambda self, inputs: 2 * self.layer(inputs)})
        layer = keras.saving.register_keras_serializable("mine")(wrapper)(K.LSTM(3, return_sequences=True, name="in"))
    else:
        made = foreign(keras, getattr(K, kind))
        inner = K.LSTM(3, return_sequences=True) if kind == "Bidirectional" else 3
        layer = made(inner, **({} if kind != "LSTM" else {"return_sequences": True}))
        layer = K.RNN(layer, return_sequences=True) if kind == "LSTMCell" else layer
    source = model = keras.Sequential([keras.Input((4, 3)), layer])
    if ending:
        source = tmp_path / f"m{ending}"
        model.save(source)
    with pytest.raises(ValueError, match=r"got (mine.|.*test_keras_live\.)Scaled.*custom_classes=\('Scaled',\)"):
        from_keras(source)
    weights = from_keras(source, custom_classes=("Scaled",))
    arrays = [array for each in weights.layers for array in to_keras(each)]
    for ours, theirs in zip(arrays, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_layers_with_their_own_call_are_refused(keras):
    layer = keras.layers.LSTM(3)
    layer.build((None, None, 2))
    assert from_keras(layer)
    layer.call = lambda inputs, **options: inputs
    with pytest.raises(ValueError, match=r"wanted Keras's own LSTM; got .*\(changed\).LSTM"):
        from_keras(layer)


def test_every_option_of_this_keras_is_known(keras):
    """Check the options of constructors, and those in configs."""
    K = keras.layers
    lstm, cell = K.LSTM(2), K.LSTMCell(2)
    layers = [lstm, cell, K.Bidirectional(lstm), K.RNN(cell), K.StackedRNNCells([cell])]
    for layer in layers:
        parameters = {
            name for name, each in inspect.signature(type(layer)).parameters.items() if each.kind.name != "VAR_KEYWORD"
        }
        assert parameters | set(layer.get_config()) <= KNOWN


OPTIONS = [
    {"unit_forget_bias": False},
    {"dropout": 0.5, "recurrent_dropout": 0.5, "seed": 3},
    {"unroll": True},
    {"stateful": True},
    {"zero_output_for_mask": True},
    {"implementation": 1},
    {"kernel_constraint": "non_neg", "kernel_regularizer": "l2", "activity_regularizer": "l2"},
    {"use_cudnn": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options)))
def test_option_does_not_change_a_step(keras, options):
    options = {key: value for key, value in options.items() if key not in ("seed", "use_cudnn") or major(keras) == 3}
    dtype = precise(keras)
    try:
        layer = keras.layers.LSTM(4, return_sequences=True, return_state=True, dtype=dtype, **options)
    except (TypeError, ValueError):
        pytest.skip(f"{keras.__name__} has no such option")
    xs = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(dtype)
    layer(xs)
    randomise(layer) if not options.get("stateful") else None
    if options.get("stateful"):
        layer.reset_states() if major(keras) == 2 else layer.reset_state()
    assert_same(layer, from_keras(layer), xs, 1e-12)


def test_stateful_layers_warn(keras, caplog):
    layer = keras.layers.LSTM(4, stateful=True)
    layer(np.zeros((2, 5, 3), "f"))
    from_keras(layer)
    assert "has stateful=True: its state is not in the weights" in caplog.text


def test_constant_states_of_objects(keras):
    h, c = np.full((2, 4), 0.5, "f"), np.full((2, 4), 0.25, "f")
    xs = keras.Input((5, 3), batch_size=2)
    layer = keras.layers.LSTM(4, return_sequences=True, name="lstm")
    model = keras.Model(xs, layer(xs, initial_state=[tensor(keras, h), tensor(keras, c)]))
    with pytest.raises(ValueError, match="lstm.initial_state: wanted zeros, .*; got constants"):
        from_keras(model)
    weights, (state,) = from_keras(model, initial_state="separate"), initial_state_from_keras(model)
    inputs = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("f")
    outputs, _ = LSTM(weights, batch_first=True, backend="numpy")(inputs, [state])
    assert np.abs(outputs - values(model(inputs))).max() < 3e-6
    assert from_keras(layer).num_layers == 1


def test_stacks_in_subclassed_models_are_refused(keras):
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = (keras.layers.LSTM(4, return_sequences=True, name=name) for name in "ab")

        def call(self, xs):
            return self.second(-self.first(xs))

    model = Mine()
    model(np.ones((2, 3, 4), "f"))
    with pytest.raises(
        ValueError, match="got .*test_keras_live.Mine, a class with its own code. Convert each layer by itself"
    ):
        from_keras(model, ["a", "b"])
    assert from_keras(model, "b").num_layers == 1


def test_masks_and_directions(keras, caplog):
    """A layer with go_backwards returns its outputs reversed. A Bidirectional's masked outputs are zeros."""
    K = keras.layers
    xs = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(precise(keras))
    mask = np.array([[1, 1, 0, 1], [1, 0, 0, 0]], bool)
    layer = K.LSTM(3, go_backwards=True, return_sequences=True, dtype=precise(keras))
    wanted = values(layer(xs))
    lstm = LSTM(from_keras(layer), batch_first=True, backend="numpy")
    assert "returns its outputs in reversed order: ours belong to the inputs at their index" in caplog.text
    assert np.abs(lstm(xs)[0][:, ::-1] - wanted).max() <= TOLERANCE[precise(keras)]
    layer = K.LSTM(3, return_sequences=True, dtype=precise(keras))
    wanted = values(layer(xs, mask=np.array(mask)))
    lstm = LSTM(from_keras(layer), batch_first=True, backend="numpy")
    assert np.abs(lstm(xs, mask=mask, masked_outputs="last")[0] - wanted).max() <= TOLERANCE[precise(keras)]
    layer = K.Bidirectional(K.LSTM(3, return_sequences=True, dtype=precise(keras)), dtype=precise(keras))
    wanted = values(layer(xs, mask=np.array(mask)))
    lstm = LSTM(from_keras(layer), batch_first=True, backend="numpy")
    assert np.abs(lstm(xs, mask=mask)[0] - wanted).max() <= TOLERANCE[precise(keras)]


def test_mixed_precision(keras, caplog):
    layer = keras.layers.LSTM(3, dtype="mixed_float16")
    layer.build((None, None, 2))
    assert str(from_keras(layer).dtype) == "float32"
    assert 'computes in float16, but its weights are float32: use .astype("float16")' in caplog.text


def test_cudnn_objects():
    module = pytest.importorskip(
        "tf_keras.src.layers.rnn.cudnn_lstm", reason="tf_keras is not installed", exc_type=ImportError
    )
    layer = module.CuDNNLSTM(3)
    layer.build((None, None, 2))
    randomise(layer)
    assert_equal(from_keras(layer), from_keras([layer.get_weights()]))


@pytest.mark.parametrize("ending", [".keras", ".h5", ".weights.h5"])
def test_check_names_the_keras_that_ran(keras, ending, tmp_path):
    pytest.importorskip("h5py")
    path = tmp_path / f"m{ending}"
    model = keras.Sequential([keras.Input((3, 2)), keras.layers.LSTM(4, recurrent_activation="hard_sigmoid")])
    (model.save_weights if "weights" in ending else model.save)(path)
    gate = ("hard_sigmoid", 1 / 6 if major(keras) == 3 else 0.2, 0.5)
    options = {"recurrent_activation": gate} if "weights" in ending else {}
    result = check("keras", path, None, from_keras(path, **options), options)
    assert result.agrees
    assert result.framework == f"{keras.__name__.partition('.')[0]} {keras.__version__}"
