"""Keras's files: real ones, others in their layouts, and damaged or malicious ones."""

import io
import json
import os
import shutil
import sys
import zipfile

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMWeights, StackedWeights, WeightsFileError
from fusedlstm.convert.keras import hdf5
from fusedlstm.convert.keras.files import Listed, list_keras
from fusedlstm.convert.keras.initial import initial_state_from_keras
from fusedlstm.convert.keras.objects import from_keras, to_keras

from support.cells import host
from support.comparisons import assert_equal
from support.places import DATA

h5py = pytest.importorskip("h5py", reason="h5py is not installed")

REAL = DATA / "keras" / "files.zip"
HARD = {"keras": ("hard_sigmoid", 1 / 6, 0.5), "tf_keras": ("hard_sigmoid", 0.2, 0.5)}


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """Return the folder of the files that Keras made (data/keras/make.py)."""
    folder = tmp_path_factory.mktemp("keras")
    with zipfile.ZipFile(REAL) as archive:
        archive.extractall(folder)
    return folder


def outputs_of(weights, xs, backend="numpy"):
    lstm = LSTM(weights, batch_first=True, backend=backend)
    return host(lstm(lstm.asarray(xs))[0])


@pytest.mark.parametrize(
    ("file", "both"),
    [
        ("keras.keras", "inner/both"),
        ("keras.h5", "both"),
        ("keras.weights.h5", "inner/both"),
        ("tf_keras.keras", "both"),
        ("tf_keras.h5", "inner/both"),
        ("tf_keras_weights.h5", "inner"),
    ],
)
def test_real_files(real, file, both):
    package = "tf_keras" if file.startswith("tf") else "keras"
    with np.load(real / f"expected_{package}.npz") as expected:
        xs, hs, outputs = expected["xs"], expected["hs"], expected["outputs"]
    stack = from_keras(real / file, "stack")
    assert [weights.bias is None for weights in stack.layers] == [False, True]
    assert np.abs(outputs_of(stack, xs) - hs).max() < 3e-6
    options = {"activation": "relu", "recurrent_activation": HARD[package]} if "weights" in file else {}
    weights = from_keras(str(real / file), both, **options)
    assert (weights.layers[0].activation, weights.layers[1].gate_activation) == ("relu", HARD[package])
    assert np.abs(outputs_of(weights, hs) - outputs).max() < 3e-6


def test_real_cudnn_file(real):
    """Compare with Keras 2's outputs after it loaded the file into LSTMs."""
    with np.load(real / "expected_cudnn.npz") as expected:
        xs, outputs = expected["xs"], expected["outputs"]
        arrays = [expected[f"array{k}"] for k in range(9)]
    first, second = (from_keras(real / "cudnn.h5", name) for name in ("cu_dnnlstm", "bidirectional"))
    assert_equal(first, from_keras([arrays[:3]]))
    assert_equal(second, from_keras(arrays[3:]))
    assert np.abs(outputs_of(second, outputs_of(first, xs)) - outputs).max() < 3e-6
    with pytest.raises(WeightsFileError, match="activation: wanted 'tanh', as in cu_dnnlstm; got 'relu'"):
        from_keras(real / "cudnn.h5", "cu_dnnlstm", activation="relu")


def test_paths_may_be_bytes(real):
    path = os.fsencode(real / "keras.keras")
    assert list_keras(path) == list_keras(real / "keras.keras")
    assert_equal(from_keras(path, "inner/both").layers[0], from_keras(real / "keras.keras", "inner/both").layers[0])
    with pytest.raises(WeightsFileError, match="initial_state"):
        initial_state_from_keras(path, "inner/both")


def test_list_of_real_files(real):
    stack, both = list_keras(real / "keras.keras")
    assert (stack.name, stack.kind, stack.sizes) == ("stack", "RNN", ((3, 2), (2, 3)))
    assert (both.name, both.kind, both.sizes) == ("inner/both", "Bidirectional", ((3, 2), (3, 2)))
    assert both.options == {
        "activation": "relu",
        "recurrent_activation": "hard_sigmoid",
        "use_bias": True,
        "go_backwards": False,
        "merge_mode": "concat",
        "return_sequences": True,
    }
    assert list_keras(real / "tf_keras_weights.h5") == [
        Listed("inner", "Bidirectional", ((3, 2), (3, 2)), {}),
        Listed("stack", "RNN", ((3, 2), (2, 3)), {}),
    ]
    with pytest.raises(
        WeightsFileError, match="source: wanted one LSTM; got 2 of them. Give name= one of 'stack', 'inner/both'"
    ):
        from_keras(real / "keras.h5")
    with pytest.raises(WeightsFileError, match=r"keras.h5: name: wanted one of 'stack', 'inner/both'; got 'lstm'"):
        from_keras(real / "keras.h5", "lstm")


def test_assumed_defaults_are_warned_of(real, caplog):
    from_keras(real / "keras.weights.h5", "stack", activation="tanh", recurrent_activation="sigmoid")
    from_keras(real / "keras.keras", "stack")
    assert not caplog.records
    from_keras(real / "keras.weights.h5", "stack", activation="relu")
    assert (
        "stack/lstm_cell: its recurrent_activation is unknown, so the default of Keras 2.12 or newer is used: 'sig"
        in caplog.text
    )


# Files that h5py writes in the layouts of real ones.


def weights_of(I=3, N=4, seed=0, **options):
    return LSTMWeights.random(I, N, seed=seed, **options)


def write_paths(path, cells, names=()):
    """Write a `.weights.h5`: cells by the paths of their attributes, and names of layers by path."""
    with h5py.File(path, "w") as file:
        for where, weights in cells.items():
            for k, array in enumerate(weights if isinstance(weights, list) else to_keras(weights)):
                if array.dtype.name == "bfloat16":
                    array = array.view("V2")
                file[f"{where}/vars/{k}"] = array
        for where, name in dict(names).items():
            file.require_group(f"{where}/vars").attrs["name"] = name
    return path


def write_names(path, cells, config=None, version="2.15.0", top="model_weights/", ending=":0"):
    """Write cells by the names of their variables: a `.h5` of model.save or, without `top`, of save_weights."""
    with h5py.File(path, "w") as file:
        if config:
            file.attrs["model_config"] = json.dumps(config)
        if version:
            file.attrs["keras_version"] = version
        for where, weights in cells.items():
            arrays = weights if isinstance(weights, list) else to_keras(weights)
            for name, array in zip(("kernel", "recurrent_kernel", "bias"), arrays, strict=False):
                file[f"{top}{where}/{name}{ending}"] = array
    return path


def config_of(kind, name, **options):
    return {"class_name": kind, "config": {"name": name, **options}}


def lstm_config(name, **options):
    return config_of("LSTM", name, **{"activation": "tanh", "recurrent_activation": "sigmoid", **options})


def sequential(*layers):
    return config_of("Sequential", "sequential", layers=list(layers))


def write_archive(path, config, cells, version="3.15.1", compression=zipfile.ZIP_STORED, **members):
    file = io.BytesIO()
    write_paths(file, cells)
    content = {"config.json": json.dumps(config), "model.weights.h5": file.getvalue()}
    if version:
        content["metadata.json"] = json.dumps({"keras_version": version})
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, value in (content | members).items():
            if value is not None:
                archive.writestr(name, value)
    return path


def test_weights_file(tmp_path):
    a, b, c, d = (weights_of(I, seed=seed) for seed, I in enumerate((3, 4, 4, 4)))
    bare = weights_of(5, 2, seed=9)
    cells = {
        "layers/lstm/cell": a,
        "layers/bidirectional/forward_layer/cell": b,
        "layers/bidirectional/backward_layer/cell": c,
        "layers/functional/layers/rnn/cell/cells/lstm_cell": a,
        **{f"layers/functional/layers/rnn/cell/cells/lstm_cell_{k}": weights_of(4, seed=k) for k in range(1, 12)},
        "encoder/cell": d,
        "my_cell": bare,
        "layers/dense": [np.ones((3, 4), "f"), np.ones(4, "f")],
        "layers/gru/cell": [np.ones((3, 12), "f"), np.ones((4, 12), "f"), np.ones((2, 12), "f")],
        "layers/peephole/cell": [*to_keras(a), np.ones(4, "f")],
    }
    path = write_paths(tmp_path / "m.weights.h5", cells, {"layers/lstm": "first", "layers/functional": "inner"})
    assert [listed.name for listed in list_keras(path)] == [
        "encoder",
        "bidirectional",
        "inner/rnn",
        "first",
        "my_cell",
    ]
    given = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    assert_equal(from_keras(path, "first", **given), StackedWeights([a]))
    assert_equal(from_keras(path, "bidirectional", **given), StackedWeights([b, c], bidirectional=True))
    stack = StackedWeights([a, *(weights_of(4, seed=k) for k in range(1, 12))])
    assert_equal(from_keras(path, "inner/rnn", **given), stack)
    assert_equal(from_keras(path, "encoder", **given), StackedWeights([d]))
    assert_equal(from_keras(path, "my_cell", **given), bare)
    assert_equal(from_keras(path, ["first", "encoder"], **given), StackedWeights([a, d]))


def test_stack_with_a_gru_cell_raises(tmp_path):
    """Without a config, only the paths show that a GRU's cell is in the same stack."""
    lstm, other = weights_of(), [np.ones((4, 12), "f"), np.ones((4, 12), "f"), np.ones(12, "f")]
    for folder, writer in (("layers/rnn/cell/cells", write_paths), ("rnn/rnn/stacked_rnn_cells_1", write_names)):
        for stacked in ({"lstm_cell": lstm}, {"lstm_cell": lstm, "lstm_cell_1": weights_of(4)}, {"alpha": lstm}):
            cells = {f"{folder}/{name}": weights for name, weights in stacked.items()}
            writer(tmp_path / "m.h5", cells)
            assert from_keras(tmp_path / "m.h5").num_layers == len(stacked)
            (tmp_path / "m.h5").unlink()
            writer(tmp_path / "m.h5", cells | {f"{folder}/gru_cell": other})
            with pytest.raises(WeightsFileError, match=r"wanted cells that are Keras's own LSTMCell; got .*gru_cell"):
                from_keras(tmp_path / "m.h5")


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "big-endian"])
def test_dtypes(tmp_path, dtype):
    weights = weights_of(dtype="float32" if dtype == "big-endian" else dtype)
    arrays = [array.astype(">f4") for array in to_keras(weights)] if dtype == "big-endian" else weights
    path = write_paths(tmp_path / "m.weights.h5", {"layers/lstm/cell": arrays})
    assert_equal(from_keras(path), StackedWeights([weights]))


@pytest.mark.parametrize("top", ["model_weights/", ""])
@pytest.mark.parametrize("ending", [":0", ""])
def test_names_alone(tmp_path, top, ending):
    """Keras 2's save_weights writes no config, and its model.save no config of a subclassed model's layers."""
    a, b, c = weights_of(seed=0), weights_of(4, seed=1), weights_of(4, seed=2)
    cells = {
        "lstm_2/mine/lstm_2/lstm_cell_5": a,
        "old/old": b,
        "both/both/forward_lstm_1/lstm_cell_7": a,
        "both/both/backward_lstm_1/lstm_cell_8": weights_of(seed=3),
        "stack/stack/stacked_rnn_cells/lstm_cell": a,
        "stack/stack/stacked_rnn_cells/lstm_cell_2": b,
        "stack/stack/stacked_rnn_cells/lstm_cell_10": c,
        "inner/one/lstm_cell": a,
        "inner/two/lstm_cell": b,
        "forward_lstm/forward_lstm/lstm_cell": c,
        "optimizer_weights/Adam/lstm": a,
    }
    path = write_names(
        tmp_path / "m.h5", cells, top=top, ending=ending, config=config_of("Mine", "mine") if top else None
    )
    if top:
        del cells["optimizer_weights/Adam/lstm"]
        with h5py.File(path, "a") as file:
            file.move("model_weights/optimizer_weights", "optimizer_weights")
    given = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    wanted = {
        "both": StackedWeights([a, weights_of(seed=3)], bidirectional=True),
        "forward_lstm": StackedWeights([c]),
        "inner/one": StackedWeights([a]),
        "inner/two": StackedWeights([b]),
        "lstm_2": StackedWeights([a]),
        "old": StackedWeights([b]),
        "stack": StackedWeights([a, b, c]),
    }
    assert {listed.name for listed in list_keras(path)} == set(wanted)
    for name, weights in wanted.items():
        assert_equal(from_keras(path, name, **given), weights)


def test_config_and_names(tmp_path):
    """Frozen cells and layers change the order in which Keras lists arrays, but not their names."""
    a, b, c, d = (weights_of(3, 3, seed=seed) for seed in range(4))
    cells = {
        "both/both/backward_x/lstm_cell": b,
        "both/both/forward_x/lstm_cell": a,
        "stack/stack/stacked_rnn_cells/beta": c,
        "stack/stack/stacked_rnn_cells/alpha": d,
        "inner/two/lstm_cell": a,
        "inner/td/lstm_cell_1": c,
        "inner/one/lstm_cell_1": b,
        "own/own/forward_y/lstm_cell": a,
        "own/own/mine/lstm_cell": d,
    }
    forward = lstm_config("x")
    stacked = [config_of("LSTMCell", name, activation="elu", recurrent_activation=None) for name in ("beta", "alpha")]
    inner = [lstm_config("one"), config_of("Dense", "dense"), lstm_config("two", activation="relu")]
    config = sequential(
        config_of("InputLayer", "input"),
        config_of("Bidirectional", "both", layer=forward, merge_mode="concat"),
        config_of(
            "Bidirectional", "own", layer=lstm_config("y"), backward_layer=lstm_config("mine", go_backwards=True)
        ),
        config_of("RNN", "stack", cell=config_of("StackedRNNCells", "stacked_rnn_cells", cells=stacked)),
        config_of("Functional", "inner", layers=[*inner, config_of("TimeDistributed", "td", layer=lstm_config("z"))]),
        config_of("Lambda", "harm", function=["4wEAAAA=", None, None], module="os"),
    )
    path = write_names(tmp_path / "m.h5", cells, config)
    with pytest.raises(WeightsFileError, match="arrays; got none"):
        from_keras(path, "z")
    cells["inner/z/lstm_cell_1"] = cells.pop("inner/td/lstm_cell_1")
    path = write_names(tmp_path / "m.h5", cells, config)
    assert_equal(from_keras(path, "both"), StackedWeights([a, b], bidirectional=True))
    assert_equal(from_keras(path, "own"), StackedWeights([a, d], bidirectional=True))
    stack = from_keras(path, "stack")
    for got, wanted in zip(stack.layers, (c, d), strict=True):
        np.testing.assert_array_equal(got.weight_hh, wanted.weight_hh)
        assert (got.activation, got.gate_activation) == ("elu", "linear")
    assert_equal(from_keras(path, "one"), StackedWeights([b]))
    assert from_keras(path, "two").layers[0].activation == "relu"
    np.testing.assert_array_equal(from_keras(path, "td/z").layers[0].bias, c.bias)


def test_keras_2_0_files(tmp_path):
    """A Sequential's config is a list, paths lack the cell's name, and hard_sigmoid is that of Keras 2."""
    weights = weights_of()
    config = {"class_name": "Sequential", "config": [lstm_config("lstm_1", recurrent_activation="hard_sigmoid")]}
    path = write_names(tmp_path / "m.h5", {"lstm_1/lstm_1": weights}, config, version="2.0.8")
    assert from_keras(path).layers[0].gate_activation == ("hard_sigmoid", 0.2, 0.5)
    with pytest.raises(
        WeightsFileError, match="lstm_1.recurrent_activation: wanted a file that records its Keras version"
    ):
        from_keras(write_names(path, {"lstm_1/lstm_1": weights}, config, version=None))
    with pytest.raises(WeightsFileError, match="m.h5: it is from Keras 1.2.2, and only files of Keras 2 and 3 are"):
        from_keras(write_names(path, {"lstm_1/lstm_1": weights}, config, version="1.2.2"))


def test_archive(tmp_path):
    a, b, c = weights_of(seed=0), weights_of(4, seed=1), weights_of(4, seed=2)
    custom = {"module": "mine", "registered_name": "Custom>Encoder", **config_of("Encoder", "encoder")}
    config = sequential(
        lstm_config("x"),
        lstm_config("y", recurrent_activation="hard_sigmoid"),
        config_of("TimeDistributed", "td", layer=lstm_config("z")),
        custom,
    )
    cells = {
        "layers/lstm/cell": a,
        "layers/lstm_1/cell": b,
        "layers/time_distributed/layer/cell": c,
        "layers/encoder/lstm/cell": b,
    }
    for version, hard in (("3.0.1", HARD["keras"]), ("2.13.1", HARD["tf_keras"])):
        path = write_archive(tmp_path / "m.keras", config, cells, version, zipfile.ZIP_DEFLATED)
        assert [listed.name for listed in list_keras(path)] == ["x", "y", "td/z", "encoder/lstm"]
        assert_equal(from_keras(path, "x"), StackedWeights([a]))
        assert from_keras(path, "y").layers[0].gate_activation == hard
        assert_equal(from_keras(path, "z"), StackedWeights([c]))
        assert_equal(
            from_keras(path, "encoder/lstm", activation="elu").layers[0], weights_of(4, seed=1, activation="elu")
        )
    old = {path.replace("layers/", "_layer_checkpoint_dependencies/"): weights for path, weights in cells.items()}
    assert_equal(from_keras(write_archive(path, config, old, "2.13.1"), "x"), StackedWeights([a]))


def test_shared_layers(tmp_path):
    """The arrays of a layer that two models share are stored once."""
    weights = weights_of()
    shared = lstm_config("shared")
    config = sequential(
        config_of("Functional", "one", layers=[shared]), config_of("Functional", "two", layers=[shared])
    )
    path = write_archive(tmp_path / "m.keras", config, {"layers/functional/layers/lstm/cell": weights})
    assert_equal(from_keras(path), StackedWeights([weights]))


def refused(path, message, name=None):
    with pytest.raises(WeightsFileError, match=message) as caught:
        from_keras(path, name)
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        from_keras(tmp_path / "none.keras")
    with pytest.raises(FileNotFoundError):
        list_keras(tmp_path / "none.h5")
    with pytest.raises(IsADirectoryError):
        from_keras(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"text", "it is not a Keras file, which is HDF5 .* or a zip file"),
        (b"\x89HDF\r\n\x1a\n", "m.keras: "),
        (b"\x89HDF\r\n\x1a\n" + bytes(1000), "m.keras: "),
        (b"PK\x03\x04" + bytes(100), "not a zip file"),
        (b"cnumpy\nsystem\n", "not a Keras file"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "m.keras"
    path.write_bytes(content)
    refused(path, message)


@pytest.mark.parametrize("file", ["keras.weights.h5", "keras.h5", "keras.keras", "cudnn.h5"])
def test_damaged_files_are_refused(real, tmp_path, file):
    """However a file is cut or changed, reading it raises only a WeightsFileError."""
    content = (real / file).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / file
    cut = [content[:length] for length in rng.integers(0, len(content), 40)]
    for _ in range(200):
        damaged = bytearray(content)
        for at in rng.integers(0, len(content), 30):
            damaged[at] = rng.integers(0, 256)
        cut.append(bytes(damaged))
    messages = []
    for damaged in cut:
        path.write_bytes(damaged)
        messages += failure(path)
    assert len(messages) > 40
    assert all(message.startswith(f"{path}: ") for message in messages)


def failure(path):
    """Return a list of the error that reading everything in a file raises, or an empty list."""
    try:
        for listed in list_keras(path):
            from_keras(path, listed.name)
    except WeightsFileError as error:
        return [str(error)]
    return []


CELLS = {"layers/lstm/cell": weights_of()}
PLAIN = sequential(lstm_config("lstm"))


def nested(depth):
    around, inner = json.dumps(config_of("Functional", "f", layers=[0])).split("0"), json.dumps(lstm_config("lstm"))
    return around[0] * depth + inner + around[1] * depth


@pytest.mark.parametrize(
    ("config", "members", "message"),
    [
        (PLAIN, {"config.json": None}, "it is not a Keras file: it lacks config.json, and holds model.weights.h5"),
        (
            PLAIN,
            {"model.weights.h5": None, "model.weights.npz": b""},
            "it lacks model.weights.h5, and holds config.json",
        ),
        (PLAIN, {"config.json": b"{"}, "its config can't be read"),
        (PLAIN, {"config.json": b"\xff"}, "its config can't be read"),
        (PLAIN, {"config.json": b"[" * 100_000}, "its config is nested too deeply"),
        (PLAIN, {"config.json": b'{"a":' * 100_000}, "its config is nested too deeply"),
        (PLAIN, {"config.json": b"[]"}, "its config is not a model's"),
        (PLAIN, {"config.json": b"9" * 10_000}, "its config"),
        (
            PLAIN,
            {"metadata.json": b'{"keras_version": "4.0"}'},
            "it is from Keras 4.0, and only files of Keras 2 and 3 are read",
        ),
        (PLAIN, {"metadata.json": b'{"keras_version": []}'}, None),
        (PLAIN, {"metadata.json": b"[3]"}, None),
        (PLAIN, {"model.weights.h5": b"PK"}, "m.keras: "),
        (sequential(3), {}, "its config is not a model's"),
        (sequential({"class_name": 3}), {}, "its config is not a model's"),
        (config_of("Sequential", "s", layers=3), {}, None),
        (PLAIN, {"config.json": nested(60)}, "f: wanted models nested at most 50 deep"),
        (PLAIN, {"config.json": nested(900)}, "m.keras: "),
        (
            sequential(config_of("Dense", "d")),
            {"model.weights.h5": write_paths(io.BytesIO(), {}).getvalue()},
            r"got 'd' \(Dense\)",
        ),
        (sequential(lstm_config("lstm", units=7)), {}, "lstm.units: wanted 7, as its config says; got arrays for 4"),
        (
            sequential(lstm_config("lstm", use_bias=False)),
            {},
            "lstm.use_bias: wanted False, as its config says; got arrays for True",
        ),
        (sequential(lstm_config("lstm", activation="gelu")), {}, "lstm.activation: wanted one of 'tanh'"),
        (sequential(lstm_config("lstm", activation=3)), {}, "lstm.activation: wanted one of .* got 3"),
        (sequential(lstm_config("lstm", activation=config_of("LeakyReLU", "l"))), {}, "lstm.activation"),
        (sequential(lstm_config("lstm", activation=config_of("LeakyReLU", "l", alpha="x"))), {}, "lstm.activation"),
        (
            sequential({**lstm_config("lstm"), "module": "mine", "registered_name": "Custom>LSTM"}),
            {},
            "Keras's own LSTM; got Custom>LSTM, which may compute something else. .* give custom_classes",
        ),
        (sequential({**lstm_config("lstm"), "module": "builtins"}), {}, "lstm: wanted Keras's own LSTM"),
        (
            sequential({**lstm_config("lstm"), "class_name": "Custom>LSTM"}),
            {},
            "lstm: wanted Keras's own LSTM; got Custom.LSTM",
        ),
    ],
)
def test_bad_archives(tmp_path, config, members, message):
    path = write_archive(tmp_path / "m.keras", config, CELLS, **members)
    if message is None:  # everything that matters is in the file
        return assert_equal(from_keras(path), StackedWeights([CELLS["layers/lstm/cell"]]))
    refused(path, message)


def test_layer_without_its_arrays_is_not_guessed(tmp_path):
    """The file has an LSTM's arrays, but not in the place that the config implies."""
    path = write_archive(tmp_path / "m.keras", sequential(lstm_config("a")), {"layers/other/cell": weights_of()})
    refused(path, "source: wanted one LSTM; got 2 of them. Give name= one of 'a', 'other'")
    refused(path, "a: wanted arrays; got none", "a")


def test_zip_bombs_are_refused(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (1 << 26))
        archive.writestr("model.weights.h5", b"")
    refused(path, "bytes claim to expand to 67108864")


def add(path, change):
    """Write a file of one LSTM, and let a function change the open file."""
    write_paths(path, CELLS)
    with h5py.File(path, "a") as file:
        change(file)
    return path


VARS = "layers/lstm/cell/vars"


def replaced(**options):
    def change(file):
        del file[f"{VARS}/0"]
        file.create_dataset(f"{VARS}/0", **options)

    return change


def link(name, value):
    def change(file):
        file[name] = value

    return change


def hard_link(file):
    file["again"] = file["layers"]


def cycle(file):
    file["layers/lstm/up"] = file["layers"]


def external(file):
    del file[f"{VARS}/0"]
    file.create_dataset(f"{VARS}/0", (3, 16), "f4", external=[("/etc/passwd", 0, 192)])


def virtual(file):
    del file[f"{VARS}/0"]
    layout = h5py.VirtualLayout((3, 16), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3, 16))
    file.create_virtual_dataset(f"{VARS}/0", layout)


def deep(file):
    file["/".join("d" * 150) + "/x"] = 1.0


def other_filter(file):
    replaced(data=np.zeros((3, 16), "f"), chunks=(3, 16), compression="lzf")(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (link("far", h5py.ExternalLink("/etc/passwd", "/x")), "/far is a link to another file"),
        (link("layers/soft", h5py.SoftLink("/layers")), "layers/soft is a soft link, which no file of weights needs"),
        (link("layers/soft", h5py.SoftLink("/layers/soft")), "is a soft link"),
        (hard_link, "is the same object as another, under a second name"),
        (cycle, "is the same object as another"),
        (deep, "groups are nested deeper than 100"),
        (external, "vars/0 is stored in other files, which are not read"),
        (virtual, "the string at byte .*, if it is one, is shorter"),  # the mapping to its sources is in a heap, too
        (
            replaced(shape=(1 << 20, 16), dtype="f4"),
            r"vars/0 is incomplete: its shape needs 67108864 bytes, and the file has 0",
        ),
        (replaced(shape=(1 << 40, 16), dtype="f4", chunks=(1 << 10, 16)), "vars/0 is incomplete"),
        (
            replaced(shape=(1 << 40, 16), dtype="f4", chunks=(1, 16), compression="gzip"),
            "vars/0 would expand from 0 bytes to",
        ),
        (replaced(data=np.zeros((1 << 20, 16), "f"), compression="gzip"), "vars/0 would expand from .* h5repack"),
        (
            replaced(shape=(3, 16), dtype="f4", maxshape=(None, None), chunks=(1 << 14, 1 << 14), compression="gzip"),
            "would expand",
        ),
        (other_filter, r"vars/0 is compressed in an unsupported way \(filters \[32000\]\)"),
        (replaced(data=np.full((3, 16), "x", "S16")), r"vars/0 is not an array of numbers: its dtype is \|S16"),
        (replaced(data=np.zeros((3, 16), "c8")), "vars/0 is not an array of numbers: its dtype is complex64"),
        (replaced(data=np.zeros((3, 16), "i4")), "lstm.recurrent_kernel: wanted dtype int32"),
        (replaced(data=np.zeros((3, 16), "f8")), "lstm.recurrent_kernel: wanted dtype float64"),
        (replaced(shape=(3, 16), dtype=h5py.string_dtype()), "vars/0"),
        (replaced(data=h5py.Empty("f4")), "a layer that is an LSTM; got nothing"),
        (
            lambda file: file[f"{VARS}"].parent.parent.create_group("vars").attrs.create("name", [b"a", b"b"]),
            "'name' .* is not a string",
        ),
        (
            lambda file: file["layers/lstm"].create_group("vars").attrs.create("name", 3),
            "'name' of 'layers/lstm/vars' is not a string",
        ),
        (lambda file: file.__delitem__("layers"), "source: wanted a layer that is an LSTM; got nothing"),
    ],
)
def test_bad_hdf5(tmp_path, change, message):
    refused(add(tmp_path / "m.weights.h5", change), message)


def test_compressed_arrays_are_read(tmp_path):
    """Ordinary compression is allowed."""
    kernel = to_keras(CELLS["layers/lstm/cell"])[0]
    for options in ({"compression": "gzip"}, {"compression": "gzip", "shuffle": True, "fletcher32": True}):
        path = add(tmp_path / "m.weights.h5", replaced(data=kernel, chunks=(2, 8), **options))
        assert_equal(from_keras(path), StackedWeights([CELLS["layers/lstm/cell"]]))


def test_chunk_larger_than_its_size_raises(tmp_path):
    """HDF5 itself would allocate whatever the chunk expands to."""
    import zlib

    path = add(tmp_path / "m.weights.h5", replaced(shape=(3, 16), dtype="f4", chunks=(3, 16), compression="gzip"))
    with h5py.File(path, "a") as file:
        file[f"{VARS}/0"].id.write_direct_chunk((0, 0), zlib.compress(bytes(1 << 24)))
    refused(path, "vars/0 is damaged: a chunk expands to more than its 192 bytes")


def heap_of(path, change):
    """Change the heap of strings in a file. `change` gets the file's bytes from the heap's first byte on."""
    content = bytearray(path.read_bytes())
    at = content.index(b"GCOL")
    heap = content[at:]
    change(heap)
    path.write_bytes(content[:at] + heap)
    return path


def free_of_no_size(heap):
    at = 16
    while heap[at : at + 2] != b"\0\0":
        at += 16 + (int.from_bytes(heap[at + 8 : at + 16], "little") + 7) // 8 * 8
    heap[at + 8 : at + 16] = bytes(8)


def too_large(heap):
    heap[24:32] = (2**64 - 16).to_bytes(8, "little")


def one_in_another(heap):
    at = 2048
    heap[at : at + 16] = b"GCOL\1\0\0\0" + (4096).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (free_of_no_size, "its heap of strings at byte .* is damaged"),
        (too_large, "its heap of strings at byte .* is damaged"),
        (one_in_another, "it is damaged: the heap of strings at byte .* is inside another"),
    ],
)
def test_heaps_that_make_hdf5_loop_raise(tmp_path, change, message):
    config = sequential(lstm_config("lstm"))
    path = write_names(tmp_path / "m.h5", {"lstm/lstm/lstm_cell": weights_of()}, config)
    assert from_keras(path)
    refused(heap_of(path, change), message)


@pytest.mark.parametrize("length", [81, 2**31, 2**32 - 1])
def test_strings_with_wrong_lengths_raise(tmp_path, length):
    """HDF5 allocates the claimed length before it looks into the heap."""
    config = sequential(lstm_config("lstm"))
    path = write_names(tmp_path / "m.h5", {"lstm/lstm/lstm_cell": weights_of()}, config)
    text, content = json.dumps(config).encode(), bytearray(path.read_bytes())
    said = content.index(len(text).to_bytes(4, "little") + content.index(b"GCOL").to_bytes(8, "little"))
    assert from_keras(path)
    content[said : said + 4] = (len(text) + length if length < 2**31 else length).to_bytes(4, "little")
    path.write_bytes(content)
    refused(path, f"it is damaged: the string at byte {said}, if it is one, is shorter than it claims")


def test_arrays_of_variable_length_raise(tmp_path, monkeypatch):
    """Each element may point to the same data of any size, so none is read."""
    path = add(tmp_path / "m.weights.h5", replaced(shape=(3, 16), dtype=h5py.vlen_dtype("u1")))
    with h5py.File(path, "a") as file:
        file[f"{VARS}/0"][0, 0] = np.zeros(99, "u1")
    monkeypatch.delattr(h5py.Dataset, "__getitem__")
    refused(path, "vars/0 is not an array of numbers: its dtype is object")


def test_attributes_of_variable_length_raise(tmp_path, monkeypatch):
    def change(file):
        numbers = np.empty((), object)
        numbers[()] = np.zeros(3)
        file["layers/lstm"].create_group("vars").attrs.create("name", numbers, dtype=h5py.vlen_dtype("f8"))

    path = add(tmp_path / "m.weights.h5", change)
    monkeypatch.delattr(h5py.AttributeManager, "__getitem__")
    refused(path, "'name' of 'layers/lstm/vars' is not a string")


def test_too_many_objects_raise(tmp_path, monkeypatch):
    path = write_paths(tmp_path / "m.weights.h5", CELLS)
    monkeypatch.setattr(hdf5, "_MAX_OBJECTS", 5)
    refused(path, "groups are nested deeper than 100, or there are more than 5 objects")


def test_too_many_chunks_raise(tmp_path):
    """HDF5 finds each chunk by a search through all chunks before it."""
    path = add(tmp_path / "m.weights.h5", replaced(data=np.zeros((10_001, 16), "f4"), chunks=(1, 16), compression=1))
    refused(path, "vars/0 has 10001 chunks; at most 10000 are supported")


def test_expanded_arrays_are_bounded_together(tmp_path):
    """Each array is small enough, but together they are much larger than the file."""
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for k in range(10):
            file.create_dataset(f"{k}", data=np.zeros(1 << 18, "f4"), compression=9)
    with open(tmp_path / "m.weights.h5", "rb") as source:
        opened = hdf5.HDF5(source)
        opened._size //= 10
        with pytest.raises(ValueError, match="would expand, with those before it, to [0-9]+ bytes"):
            for k in range(10):
                opened.array(f"{k}")
        opened.close()


def test_nested_bidirectionals_raise(tmp_path):
    """A Bidirectional uses its layer twice, so each level would double the number of layers."""
    layer = lstm_config("lstm")
    for _ in range(30):
        layer = {"class_name": "Bidirectional", "config": {"name": "both", "layer": layer}}
    path = write_archive(tmp_path / "m.keras", sequential(layer), CELLS)
    refused(path, "'both' is a Bidirectional in another, which Keras does not make")


def test_numbers_not_of_8_bytes_raise(tmp_path):
    """HDF5 files may store offsets in 4 bytes; then heaps would have another layout."""
    path = write_paths(tmp_path / "m.weights.h5", CELLS)
    content = bytearray(path.read_bytes())
    content[14] = 4
    path.write_bytes(content)
    refused(path, "its addresses and lengths must have 8 bytes, as in Keras's files")


def test_arrays_sharing_bytes_raise(tmp_path, monkeypatch):
    """Together, arrays may not be larger than the file."""
    path = write_paths(tmp_path / "m.weights.h5", CELLS)
    with open(path, "rb") as file:
        opened = hdf5.HDF5(file)
        opened.array(f"{VARS}/0")
        opened._size = 100
        with pytest.raises(
            ValueError, match=r"vars/1 is damaged: its 256 bytes are more than are left of the file's 100"
        ):
            opened.array(f"{VARS}/1")
        opened.close()


@pytest.mark.parametrize(
    ("cells", "config", "message"),
    [
        ({}, sequential(lstm_config("lstm")), "lstm: wanted arrays; got none"),
        (
            {"lstm/lstm/lstm_cell": weights_of(), "lstm/other/lstm_cell": weights_of()},
            sequential(lstm_config("lstm")),
            "lstm: its config has 1 cells, but there are arrays for 2",
        ),
        (
            {"both/both/a/lstm_cell": weights_of(), "both/both/b/lstm_cell": weights_of()},
            sequential(config_of("Bidirectional", "both", layer=lstm_config("lstm"))),
            "both: names don't tell which arrays belong to its forward_layer: both/both/a/lstm_cell, both/both/b/",
        ),
        (
            {"inner/one/two/lstm_cell": weights_of()},
            sequential(config_of("Functional", "inner", layers=[lstm_config("one"), lstm_config("two")])),
            "the arrays at 'inner/one/two/lstm_cell' may be those of 'one' or 'two'",
        ),
        (
            {"rnn/rnn/a": weights_of(4), "rnn/rnn/b": weights_of(4)},
            sequential(
                config_of(
                    "RNN",
                    "rnn",
                    cell=config_of("StackedRNNCells", "s", cells=[config_of("LSTMCell", name) for name in "ac"]),
                )
            ),
            "rnn: names don't tell which arrays belong to which cell: a, b",
        ),
        ({"lstm/lstm/lstm_cell": weights_of()}, [], "its config is not a model's"),
    ],
)
def test_bad_names_raise(tmp_path, cells, config, message):
    refused(write_names(tmp_path / "m.h5", cells, config or [3]), message)


def test_missing_h5py_raises(tmp_path, monkeypatch):
    path = write_paths(tmp_path / "m.weights.h5", CELLS)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="Keras's files need h5py: pip install h5py"):
        from_keras(path)


def test_file_is_closed(tmp_path):
    path = write_paths(tmp_path / "m.weights.h5", CELLS)
    from_keras(path)
    shutil.move(path, tmp_path / "moved")
    with h5py.File(tmp_path / "moved", "a"):
        pass
