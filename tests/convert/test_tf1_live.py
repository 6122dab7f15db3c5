"""Convert to and from the installed TensorFlow: its cells, operations and checkpoints."""

import os
import shutil
import warnings
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, WeightsFileError, convert
from fusedlstm.convert.checking import check
from fusedlstm.convert.running.tf1 import run

from support.layouts import LAYOUTS, plant
from support.oracle_files import FOLDER, TOLERANCE, Oracle

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # from TensorFlow's imports
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    cells = pytest.importorskip("tf_keras.src.layers.rnn.legacy_cells", reason="tf_keras is not installed")
    wrappers = pytest.importorskip("tf_keras.src.layers.rnn.legacy_cell_wrappers")
v1 = tf.compat.v1

# TensorFlow warns about its own cells, and about the variables that dynamic_rnn makes.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated", "ignore:The initializer")

T, B, I, N, P = 4, 3, 3, 4, 2
CHECKPOINT = FOLDER / "tf1" / "checkpoint_multi2"
NAMES = {np.float64: "float64", np.float32: "float32", np.float16: "float16", ml_dtypes.bfloat16: "bfloat16"}
few = settings(max_examples=25)


def draw(shape, dtype, seed=0, scale=1.0):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(dtype)


def assert_close(got, wanted, dtype, factor=1):
    got, wanted = np.asarray(got).astype(float), np.asarray(wanted).astype(float)
    assert got.shape == wanted.shape
    assert np.isfinite(got).all()
    assert np.abs(got - wanted).max() <= factor * TOLERANCE[NAMES[np.dtype(dtype).type]]


def numbers_for(cell, dtype):
    """Give each variable of a built cell different numbers, and return them by TensorFlow's names."""
    for k, variable in enumerate(cell.variables):
        variable.assign(draw(variable.shape, dtype, seed=k, scale=0.5))
    return {variable.name: variable.numpy() for variable in cell.variables}


def step(cell, x, h, c):
    _, (new_c, new_h) = cell(tf.constant(x), cells.LSTMStateTuple(tf.constant(c), tf.constant(h)))
    return new_h.numpy(), new_c.numpy()


options_of_cells = st.fixed_dictionaries(
    {
        "use_peepholes": st.booleans(),
        "cell_clip": st.sampled_from([None, 0.0, 0.5]),
        "num_proj": st.sampled_from([None, 1, P, 6]),
        "proj_clip": st.sampled_from([None, 0.2]),
        "forget_bias": st.sampled_from([0.0, 1.0, -0.75]),
        "activation": st.sampled_from(
            ["tanh", "relu", "sigmoid", "softsign", "softplus", "elu", "linear", "hard_sigmoid"]
        ),
    }
)


@few
@given(options=options_of_cells, dtype=st.sampled_from([np.float64, np.float32, np.float16]))
def test_lstm_cell_agrees(options, dtype):
    """Compare one step of our cell with TensorFlow's cell, and with a copy made from the variables that we write."""
    cell = cells.LSTMCell(N, **options, dtype=dtype)
    cell.build((B, I))
    weights = convert.from_tf1(numbers_for(cell, dtype), **options)
    width = options["num_proj"] or N
    x, h, c = draw((B, I), dtype, 7), draw((B, width), dtype, 8), draw((B, N), dtype, 9)
    ours = LSTMCell(weights, backend="numpy")
    got = ours(x, LSTMState(h=h, c=c.astype(ours.zero_state(0).c.dtype)))
    for one, other in zip((got.h, got.c), step(cell, x, h, c), strict=True):
        assert_close(one, other, dtype)
    again = cells.LSTMCell(**convert.tf1_arguments(weights), dtype=dtype)
    again.build((B, I))
    arrays = convert.to_tf1(weights)
    for variable in again.variables:
        scope, name = variable.name.removesuffix(":0").split("/", 1)
        variable.assign(arrays.pop(name))
    assert not arrays
    for one, other in zip((got.h, got.c), step(again, x, h, c), strict=True):
        assert_close(one, other, dtype)


def test_basic_cell():
    cell = cells.BasicLSTMCell(N)
    cell.build((B, I))
    weights = convert.from_tf1(numbers_for(cell, np.float32))
    x, h, c = (draw((B, width), np.float32, width) for width in (I, N, N))
    got = LSTMCell(weights, backend="numpy")(x, LSTMState(h=h, c=c))
    for one, other in zip((got.h, got.c), step(cell, x, h, c), strict=True):
        assert_close(one, other, np.float32)


def build_multi(xs):
    """Build a MultiRNNCell whose upper layer is residual."""
    options = {"use_peepholes": True, "num_proj": I, "cell_clip": 0.5}
    made = [cells.LSTMCell(N, **options), wrappers.ResidualWrapper(cells.LSTMCell(N, **options))]
    return v1.nn.dynamic_rnn(cells.MultiRNNCell(made), xs, dtype=xs.dtype, time_major=True)


def build_both(xs):
    outputs, states = v1.nn.bidirectional_dynamic_rnn(
        cells.LSTMCell(N), cells.LSTMCell(N + 1), xs, dtype=xs.dtype, time_major=True
    )
    return tf.concat(outputs, 2), states


def build_one(xs):
    return v1.nn.dynamic_rnn(cells.LSTMCell(N, num_proj=P, num_unit_shards=3), xs, dtype=xs.dtype, time_major=True)


def save(folder, build, dtype=np.float32):
    """Build a graph, train it by one step of Adam, and save it. Return inputs, outputs, final states and the path."""
    xs = draw((T, B, I), dtype, 1)
    with tf.Graph().as_default(), v1.Session() as session:
        outputs, states = build(tf.constant(xs))
        head = v1.get_variable("head/kernel", shape=(outputs.shape[2], 8), dtype=outputs.dtype)
        v1.get_variable("head/bias", shape=(8,), dtype=outputs.dtype)
        v1.get_variable("words", initializer=tf.constant(["a", "b"]))
        loss = tf.reduce_sum(tf.tensordot(outputs, head, 1) ** 2)
        train = v1.train.AdamOptimizer(0.1).minimize(loss, global_step=v1.train.get_or_create_global_step())
        session.run(v1.global_variables_initializer())
        session.run(train)
        path = v1.train.Saver().save(session, os.path.join(folder, "model.ckpt"), global_step=1)
        outputs, states = session.run([outputs, states])
    return xs, outputs, tf.nest.flatten(states), path


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("build", "options"),
    [
        (build_one, {}),
        (build_multi, {"cell_clip": 0.5, "residual": (False, True)}),
        (build_both, {}),
    ],
)
def test_checkpoints_agree(build, options, dtype, tmp_path):
    """Read graphs that train.Saver saved, by prefix, file or folder."""
    xs, wanted, finals, path = save(tmp_path, build, dtype)
    for source in (path, str(tmp_path), f"{path}.index", f"{path}.meta"):
        weights = convert.from_tf1(source, **options)
        assert isinstance(weights, LSTMWeights if build is build_one else StackedWeights)
        outputs, states = LSTM(weights, backend="numpy")(xs)
        assert_close(outputs, wanted, dtype, 3)
        for got, final in zip([each for s in states for each in (s.c, s.h)], finals, strict=True):
            assert_close(got, final, dtype, 3)


def test_checkpoint_of_tensorflow_1(tmp_path):
    """TensorFlow 1.15 wrote the file. Its weights equal those in the archive of its variables."""
    weights, wanted = (convert.from_tf1(CHECKPOINT / name) for name in ("model.ckpt-7", "variables.npz"))
    oracle = Oracle("tf1/checkpoint_multi2/outputs.npz")
    assert_close(LSTM(weights, backend="numpy")(oracle["x"])[0], oracle["y"], np.float32, 3)
    for one, other in zip(weights.layers, wanted.layers, strict=True):
        for name, array in one.arrays().items():
            np.testing.assert_array_equal(array, getattr(other, name))
    assert convert.list_tf1(CHECKPOINT) == convert.list_tf1(CHECKPOINT / "variables.npz")


def test_saved_model_is_read(tmp_path):
    """A SavedModel has its variables in their own folder."""
    shutil.copytree(CHECKPOINT, tmp_path / "variables")
    for file in (tmp_path / "variables").glob("model.ckpt-7.*"):
        file.rename(file.with_name(file.name.replace("model.ckpt-7", "variables")))
    for source in (tmp_path, tmp_path / "variables", tmp_path / "variables" / "variables"):
        assert convert.from_tf1(source).num_layers == 2


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
def test_damaged_checkpoints_raise(suffix, tmp_path):
    """A file is truncated, changed or missing."""
    shutil.copytree(CHECKPOINT, tmp_path, dirs_exist_ok=True)
    path = tmp_path / f"model.ckpt-7.{suffix}"
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[::5] = bytes(255 - byte for byte in changed[::5])
    for content in (whole[: len(whole) // 3], bytes(changed), b""):
        path.write_bytes(content)
        with pytest.raises(WeightsFileError, match=r"model\.ckpt-7: "):
            convert.from_tf1(tmp_path / "model.ckpt-7")
    path.unlink()
    error = WeightsFileError if suffix.startswith("data") else FileNotFoundError
    with pytest.raises(error, match=r"model\.ckpt-7"):
        convert.from_tf1(tmp_path / "model.ckpt-7")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt-7"')
    with pytest.raises(FileNotFoundError, match="give a checkpoint's path"):
        convert.from_tf1(tmp_path)


def test_object_based_checkpoint(tmp_path):
    path = tf.train.Checkpoint(kernel=tf.Variable(np.zeros((7, 16)))).save(str(tmp_path / "model"))
    with pytest.raises(ValueError, match="object-based checkpoint, .*by name with compat.v1.train.Saver"):
        convert.from_tf1(path)


def block_arguments(dtype):
    shapes = {"w": (I + N, 4 * N), "b": (4 * N,), "wci": (N,), "wcf": (N,), "wco": (N,)}
    return {name: draw(shape, dtype, k, 0.5) for k, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", ["LSTMBlockCell", "BlockLSTM", "BlockLSTMV2"])
@pytest.mark.parametrize("options", [{}, {"use_peephole": True, "cell_clip": 0.4}, {"cell_clip": -1.0}])
def test_operations_agree(name, options, dtype):
    """Compare with the installed TensorFlow, with its own defaults for missing options."""
    arrays = block_arguments(dtype)
    read = convert.from_block_lstm_v2 if name == "BlockLSTMV2" else convert.from_block_lstm
    weights = read(**arrays, **{"use_peephole": False} | options)
    xs, h, c = draw((T, B, I), dtype, 11, 3.0), draw((B, N), dtype, 12), draw((B, N), dtype, 13, 4.0)
    cell = LSTMCell(weights, backend="numpy")
    state = LSTMState(h=h, c=c.astype(cell.zero_state(0).c.dtype))
    given_state = {"cs_prev": tf.constant(c), "h_prev": tf.constant(h)}
    if name == "LSTMBlockCell":
        theirs = tf.raw_ops.LSTMBlockCell(x=xs[0], **given_state, **arrays, **options)
        state = cell(xs[0], state)
        assert_close(state.h, theirs.h, dtype)
        assert_close(state.c, theirs.cs, dtype)
        return
    theirs = getattr(tf.raw_ops, name)(seq_len_max=T, x=xs, **given_state, **arrays, **options)
    for x, h, c in zip(xs, theirs.h, theirs.cs, strict=True):
        state = cell(x, state)
        assert_close(state.h, h, dtype, 3)
        assert_close(state.c, c, dtype, 3)


def states_of(weights, dtype, seed=5):
    layers = weights.layers if isinstance(weights, StackedWeights) else [weights]
    return [(draw((B, w.output_size), dtype, seed), draw((B, w.hidden_size), dtype, seed + 1)) for w in layers]


def ours(weights, xs, states):
    outputs, finals = LSTM(weights, backend="numpy")(xs, [LSTMState(h=h, c=c) for h, c in states])
    return [outputs, *(each for state in finals for each in (state.h, state.c))]


def theirs(source, name, weights, xs, states, **options):
    outputs, finals = run(source, name, weights, xs, states, options)
    return [outputs, *(each for state in finals for each in state)]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_run_agrees_with_weights(layers, bidirectional):
    """The run agrees with our outputs and states. With two gates of its variables swapped, it doesn't."""
    options = {"cell_clip": 0.9, "activation": "hard_sigmoid", "forget_bias": 0.5}
    made = {"peephole": True, "dtype": "float64", "activation": ("hard_sigmoid", 0.2, 0.5)}
    if layers:
        weights = StackedWeights.random(N, N, layers, seed=3, bidirectional=bidirectional, proj_size=P, **made)
        options["residual"] = not bidirectional and layers > 1 and (False, False)
    else:
        weights = LSTMWeights.random(N, N, seed=3, **made)
        options["residual"] = bidirectional
    variables = convert.to_tf1(weights, forget_bias=0.5, prefix="rnn")
    weights = convert.from_tf1(variables, "rnn", **options)
    xs, states = draw((T, B, N), np.float64, 2), states_of(weights, np.float64)
    got, wanted = ours(weights, xs, states), theirs(variables, "rnn", weights, xs, states, **options)
    for one, other in zip(got, wanted, strict=True):
        assert_close(one, other, np.float64, 3)
    name = next(name for name in variables if name.endswith("/kernel"))
    exchanged = variables | {name: variables[name].reshape(-1, 4, N)[:, [1, 0, 2, 3]].reshape(-1, 4 * N)}
    other = theirs(exchanged, "rnn", weights, xs, states, **options)
    assert np.abs(other[0] - wanted[0]).max() > 1e-6


def test_run_refuses():
    coupled = "tf1/contrib_CoupledInputForgetGate.npz"
    variables = Oracle(coupled).variables()
    weights = convert.from_tf1(variables)
    with pytest.raises(ValueError, match="CoupledInputForgetGateLSTMCell, which TensorFlow 2 does not have"):
        run(variables, None, weights, np.zeros((1, 1, 4), "f4"), states_of(weights, "f4"), {})
    weights = LSTMWeights.random(I, N, seed=0)
    options = {"activation": ("leaky_relu", 0.1)}
    with pytest.raises(ValueError, match="TensorFlow has no name for"):
        run(convert.to_tf1(weights), None, weights, np.zeros((1, B, I), "f4"), states_of(weights, "f4"), options)


def test_damaged_checkpoint_list_raises(tmp_path):
    """The file "checkpoint" names the latest checkpoint."""
    (tmp_path / "checkpoint").write_bytes(b'model_checkpoint_path: "\xff\xfe"')
    for function in (convert.from_tf1, convert.list_tf1):
        with pytest.raises((WeightsFileError, FileNotFoundError), match=str(tmp_path)):
            function(tmp_path)


@pytest.mark.parametrize(
    "mistake", ["ifgo", "gifo", "fgio", "ogfi", "iofg", "igof", "forget_bias", "peephole", "kernel"]
)
def test_check_finds_wrong_conversions(mistake, monkeypatch):
    """If our table has a mistake, TensorFlow's own outputs differ."""
    weights = LSTMWeights.random(I, N, seed=0, peephole=True, proj_size=P)
    variables = convert.to_tf1(weights, prefix="rnn/lstm_cell", forget_bias=1.0)
    assert check("tf1", variables, None, convert.from_tf1(variables), {}).agrees
    row, options = LAYOUTS["tf1"], {}
    if mistake == "forget_bias":
        options = {"forget_bias": 0.5}
    elif mistake == "peephole":
        plant(monkeypatch, "tf1", replace(row, peephole=(row.peephole[1], row.peephole[0], row.peephole[2])))
    elif mistake == "kernel":
        variables_read = variables | {"rnn/lstm_cell/kernel": variables["rnn/lstm_cell/kernel"][::-1].copy()}
        assert not check("tf1", variables, None, convert.from_tf1(variables_read), {}).agrees
        return
    else:
        plant(monkeypatch, "tf1", replace(row, gates=mistake))
    wrong = convert.from_tf1(variables, **options)
    monkeypatch.undo()
    assert not check("tf1", variables, None, wrong, {}).agrees
