"""Options, versions and classes in Keras's files, written by h5py. Each option is taken, refused, or without effect."""

import json

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMWeights, StackedWeights, WeightsFileError
from fusedlstm.convert.keras import options
from fusedlstm.convert.keras.files import list_keras
from fusedlstm.convert.keras.functions import function_of
from fusedlstm.convert.keras.objects import from_keras, to_keras
from fusedlstm.convert.keras.versions import version_of

from support.comparisons import assert_equal

h5py = pytest.importorskip("h5py", reason="h5py is not installed")
WEIGHTS = LSTMWeights.random(3, 4, seed=0)
HARD = ("hard_sigmoid", 0.2, 0.5)
CONFIG = {"name": "lstm", "units": 4, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True}


def write(path, layer=None, version="3.15.1", arrays=None):
    """Write a .h5 file of one layer called "lstm" or, without a layer's config, of its arrays alone."""
    with h5py.File(path, "w") as file:
        if version:
            file.attrs["keras_version"] = version
        if layer is not None:
            model = {"class_name": "Sequential", "config": {"name": "m", "layers": [layer]}}
            file.attrs["model_config"] = json.dumps(model)
        top = "" if layer is None else "model_weights/"
        for name, array in zip(("kernel", "recurrent_kernel", "bias"), arrays or to_keras(WEIGHTS), strict=True):
            file[f"{top}lstm/lstm/lstm_cell/{name}:0"] = array
    return path


def layer(kind="LSTM", about=(), **config):
    return {"class_name": kind, "config": CONFIG | config, **dict(about)}


# Values of each option. CHANGE_NOTHING must not affect the weights; the others are refused with these words.
CHANGE_NOTHING = {
    "name": ["lstm"],
    "trainable": [True, False],
    "dtype": ["float32", {"class_name": "DTypePolicy", "config": {"name": "float32"}}],
    "autocast": [True, False],
    "unit_forget_bias": [True, False],
    "dropout": [0.0, 0.9],
    "recurrent_dropout": [0.0, 0.9],
    "seed": [None, 3],
    "stateful": [True, False],
    "unroll": [True, False],
    "implementation": [0, 1, 2],
    "use_cudnn": ["auto", True, False],
    "return_sequences": [True, False],
    "return_state": [True, False],
    "go_backwards": [False],
    "time_major": [True, False],
    "zero_output_for_mask": [True, False],
    "reverse_state_order": [True, False],
    "num_constants": [None, 0],
    "quantization_mode": [None],
    "quantization_config": [None],
    "lora_enabled": [False],
    "lora_rank": [None],
    "lora_alpha": [None],
    "batch_input_shape": [[None, None, 3]],
    "batch_shape": [[None, None, 3]],
    "input_shape": [[None, 3]],
    "input_dim": [3],
    "input_length": [None, 5],
    "input_dtype": ["float32"],
    "weights": [None],
    **{f"{array}_{kind}": [None, {"class_name": "Any", "config": {}}] for array in ("kernel", "recurrent", "bias")
       for kind in ("initializer", "regularizer", "constraint")},
    "activity_regularizer": [None, {"class_name": "L2", "config": {"l2": 0.01}}],
}  # fmt: skip
REFUSED = {
    "units": (5, "lstm.units: wanted 5, as its config says; got arrays for 4"),
    "use_bias": (False, "lstm.use_bias: wanted False"),
    "activation": ("gelu", "lstm.activation: wanted one of"),
    "recurrent_activation": (
        {"class_name": "function", "config": "sigmoid"},
        "lstm.recurrent_activation: wanted one of",
    ),
    "num_constants": (1, "lstm.num_constants: wanted None or 0; got 1"),
    "quantization_mode": ("int8", "lstm.dtype: wanted float weights; got quantised"),
    "quantization_config": ({"class_name": "Int8"}, "lstm.dtype: wanted float weights; got quantised"),
    "dtype": ({"class_name": "QuantizedDTypePolicy", "config": {"name": "int8_from_float32"}}, "got quantised ones"),
    "lora_enabled": (True, "lstm.lora: wanted weights without LoRA"),
    "lora_rank": (4, "lstm.lora: wanted weights without LoRA"),
    "reset_after": (True, "lstm.reset_after: wanted only options that Keras's LSTM is known to have; got this one"),
    "cell_clip": (None, "lstm.cell_clip: wanted only options that Keras's LSTM is known to have"),
    "peephole": (False, "lstm.peephole: wanted only options"),
    **{
        option: ("x", f"lstm.{option}: wanted options of Keras 2 or 3; got one of Keras 1")
        for option in options.KERAS_1
    },
}
FUNCTIONS = {"activation": "softsign", "recurrent_activation": "relu"}


@pytest.mark.parametrize("option", CHANGE_NOTHING)
def test_option_changes_nothing(tmp_path, option):
    for value in CHANGE_NOTHING[option]:
        path = write(tmp_path / "m.h5", layer(**{option: value}))
        assert_equal(from_keras(path), StackedWeights([WEIGHTS]))


def test_go_backwards_is_converted(tmp_path):
    path = write(tmp_path / "m.h5", layer(go_backwards=True))
    assert_equal(from_keras(path), StackedWeights([WEIGHTS], directions=["backward"]))


@pytest.mark.parametrize("option", REFUSED)
def test_option_is_refused(tmp_path, option):
    value, message = REFUSED[option]
    with pytest.raises(WeightsFileError, match=message):
        from_keras(write(tmp_path / "m.h5", layer(**{option: value})))


def test_functions_are_taken(tmp_path):
    weights = from_keras(write(tmp_path / "m.h5", layer(**FUNCTIONS))).layers[0]
    assert (weights.activation, weights.gate_activation) == ("softsign", "relu")


def test_every_option_has_a_fate():
    assert {*CHANGE_NOTHING, *REFUSED, *options.PARTS, "merge_mode"} >= options.KNOWN


@pytest.mark.parametrize(
    ("said", "gates"),
    [
        *((version, HARD) for version in ("2.0.0", "2.0.8", "2.1.6", "2.2.4", "2.2.5", "2.0.8-tf", "2.1.6-tf")),
        *((version, "sigmoid") for version in ("2.3.0", "2.3.1", "2.3.0-tf", "2.4.0", "2.10.0", "2.15.0-rc1", "3.0.1")),
        *((version, None) for version in ("2.2.4-tf", "2.2.0-tf", None, "")),
    ],
)
def test_default_of_each_version(said, gates):
    assert version_of(said).gates == gates


@pytest.mark.parametrize("said", ["1.2.2", "0.3.1", "4.0", "keras", "-2", "2x3"])
def test_other_versions_are_refused(tmp_path, said):
    with pytest.raises(WeightsFileError, match=f"it is from Keras {said}, and only files of Keras 2 and 3 are read"):
        from_keras(write(tmp_path / "m.h5", version=said))


def formula(xs, gate):
    """Return the outputs of Keras's formula with these gates."""
    kernel, recurrent_kernel, bias = (array.astype(float) for array in to_keras(WEIGHTS))
    h, c, outputs = np.zeros((1, 4)), np.zeros((1, 4)), []
    for x in xs:
        i, f, g, o = np.split(x @ kernel + h @ recurrent_kernel + bias, 4, axis=1)
        c = gate(f) * c + gate(i) * np.tanh(g)
        h = gate(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


def test_weights_files_use_version_default(tmp_path, caplog):
    xs = np.random.default_rng(0).normal(0, 3, size=(6, 1, 3)).astype("f")
    gates = {"2.2.4": lambda z: np.clip(0.2 * z + 0.5, 0, 1), "2.3.0": lambda z: 1 / (1 + np.exp(-z))}
    for version, gate in gates.items():
        weights = from_keras(write(tmp_path / "m.h5", version=version))
        assert np.abs(LSTM(weights, backend="numpy")(xs)[0] - formula(xs, gate)).max() < 1e-6
        assert f"lstm: its recurrent_activation is unknown, so the default of Keras {version} is used" in caplog.text


@pytest.mark.parametrize("version", ["2.2.4-tf", None])
def test_ambiguous_versions_raise(tmp_path, version):
    path = write(tmp_path / "m.h5", version=version)
    with pytest.raises(
        WeightsFileError, match="lstm.recurrent_activation: wanted a file that tells .* give recurrent_act"
    ):
        from_keras(path)
    for gate in ("sigmoid", HARD):
        assert from_keras(path, recurrent_activation=gate).layers[0].gate_activation == gate
    config = layer()
    del config["config"]["recurrent_activation"]
    with pytest.raises(WeightsFileError, match="lstm.recurrent_activation: wanted a file that tells which"):
        from_keras(write(path, config, version=version))


def test_cudnn_has_one_default(tmp_path, caplog):
    """CuDNNLSTM has used sigmoid and tanh in all versions."""
    kernel, recurrent_kernel, bias = to_keras(WEIGHTS)
    path = write(tmp_path / "m.h5", version="2.2.4", arrays=[kernel, recurrent_kernel, np.concatenate([bias, bias])])
    assert from_keras(path).layers[0].gate_activation == "sigmoid"
    assert not caplog.records


@pytest.mark.parametrize(
    "value", ["hard_sigmoid", {"class_name": "Activation", "config": {"activation": "hard_sigmoid"}}]
)
def test_hard_sigmoid_depends_on_version(tmp_path, value):
    """Its name may stand in the option or within a layer's config."""
    for version, function in (("2.2.4-tf", HARD), ("2.15.0", HARD), ("3.1.0", ("hard_sigmoid", 1 / 6, 0.5))):
        weights = from_keras(write(tmp_path / "m.h5", layer(recurrent_activation=value), version=version))
        assert weights.layers[0].gate_activation == function
    with pytest.raises(
        WeightsFileError, match="lstm.recurrent_activation: wanted a file that records its Keras version"
    ):
        from_keras(write(tmp_path / "m.h5", layer(recurrent_activation=value), version=None))


def test_functions_of_other_modules_are_refused():
    for about in ({"module": "mine"}, {"registered_name": "my>LeakyReLU"}, {"class_name": "my>LeakyReLU"}):
        value = {"class_name": "LeakyReLU", "config": {"negative_slope": 0.1}, **about}
        with pytest.raises(ValueError, match="f: wanted one of"):
            function_of("f", value, 3)
    assert function_of("f", {"class_name": "LeakyReLU", "config": {"negative_slope": 0.1}}, 3) == ("leaky_relu", 0.1)


FOREIGN = [
    {"module": "mine", "registered_name": "Scaled"},
    {"module": None, "registered_name": "my>Scaled"},
    {"module": None, "registered_name": "Scaled"},  # a script's class, unregistered
]


@pytest.mark.parametrize("kind", ["Scaled", "ScaledLSTM", "LSTM"])
@pytest.mark.parametrize("about", [*FOREIGN, {"class_name": "my>"}])
def test_foreign_layers_are_refused_by_name(tmp_path, kind, about):
    about = {key: value and value.replace("Scaled", kind) for key, value in about.items()}
    if "class_name" in about:
        about["class_name"] += kind
    path = write(tmp_path / "m.h5", layer(kind, about, return_sequences=True, scale=2.0))
    assert [listed.name for listed in list_keras(path)] == ["lstm"]
    with pytest.raises(
        WeightsFileError, match=rf"lstm: wanted Keras's own LSTM; got .*{kind}, .* custom_classes=\('{kind}',\)"
    ):
        from_keras(path)
    for names in ([kind], {kind}):
        assert_equal(from_keras(path, custom_classes=names), StackedWeights([WEIGHTS]))


def test_foreign_cells_and_wrappers(tmp_path):
    cell = layer("MyCell", FOREIGN[1] | {"registered_name": "my>MyCell"})
    path = write(tmp_path / "m.h5", {"class_name": "RNN", "config": {"name": "lstm", "cell": cell}})
    with pytest.raises(WeightsFileError, match=r"wanted cells that are Keras's own LSTMCell; got my>MyCell"):
        from_keras(path)
    assert_equal(from_keras(path, custom_classes=("MyCell",)), StackedWeights([WEIGHTS]))
    wrapper = {"class_name": "Noisy", "module": "mine", "config": {"name": "noisy", "layer": layer()}}
    path = write(tmp_path / "m.h5", wrapper)
    with h5py.File(path, "a") as file:
        file.move("model_weights/lstm", "model_weights/noisy")
    with pytest.raises(WeightsFileError, match=r"noisy: wanted Keras's own LSTM; got mine.Noisy"):
        from_keras(path)
    assert_equal(from_keras(path, custom_classes=("Noisy",)), StackedWeights([WEIGHTS]))


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        ("LSTM", TypeError, "custom_classes: wanted a sequence of names of classes; got str"),
        ([3], TypeError, "custom_classes: wanted a sequence of names of classes; got int"),
        (
            ["Other"],
            ValueError,
            "custom_classes: wanted classes in the source that are not Keras's; got 'Other'; it has Encoder",
        ),
        (
            ["Encoder"],
            ValueError,
            "custom_classes: wanted classes that derive from Keras's LSTM or wrap it; got 'Encoder'",
        ),
        (["LSTM"], ValueError, "got 'LSTM'; it has Encoder"),
    ],
)
def test_bad_custom_classes(tmp_path, classes, error, message):
    path = write(tmp_path / "m.h5", {"class_name": "Encoder", "module": "mine", "config": {"name": "lstm"}})
    with pytest.raises(error, match=message):
        from_keras(path, custom_classes=classes)
    with pytest.raises(WeightsFileError, match=r"wanted a layer that is an LSTM; got 'lstm' \(Encoder\)"):
        from_keras(path)
