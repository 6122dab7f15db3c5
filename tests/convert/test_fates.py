"""Test the fate of every array, input and argument of other systems' LSTMs: taken, refused, or without effect.

FATES has a row for each one that an importer can get. ELSEWHERE lists the arguments of a framework's classes that never
reach an importer, with the reason. If a framework is installed, its signatures show that none is missing.
"""

import importlib
import inspect
import math
import re
from dataclasses import dataclass, field

import numpy as np
import pytest

from fusedlstm import LSTMWeights, StackedWeights, convert
from fusedlstm.convert.systems import BY_NAME
from fusedlstm.convert.writing import write

from support.examples import EXAMPLES, PLAIN
from support.layouts import LAYOUTS

I, N, P = 3, 4, 2
TAKEN, REFUSED, NOTHING = "taken", "refused", "changes nothing"


def ones(*shape, dtype="f4"):
    return np.ones(shape, dtype)


def zeros(*shape):
    return np.zeros(shape, "f4")


def arrays_of(layout, prefix="", **options):
    """Return the arrays of a random cell in a layout of the table."""
    layout = LAYOUTS[layout]
    weights = LSTMWeights.random(I, N, seed=0, **options)
    return {f"{prefix}{name}": array for name, array in write(layout, weights, forget_bias=0.0).items()}


FULL = {"peephole": True, "proj_size": P}


def tflite_inputs():
    return {int(name): array for name, array in arrays_of("tflite", **FULL).items()}


def cudnn(weights, num_layers=1, **options):
    given = [weights[f"w{k}"] for k in range(9) if f"w{k}" in weights]
    biases = [weights[f"b{k}"] for k in range(8) if f"b{k}" in weights]
    return convert.from_cudnn(given, biases or None, num_layers=num_layers, **options)


def onednn_tensors():
    shapes = {"weights_layer": (I, 4, N), "weights_iter": (P, 4, N), "bias": (4, N)}
    shapes |= {"weights_peephole": (3, N), "weights_projection": (N, P)}
    return {
        name: np.random.default_rng(k).normal(size=(1, 1, *shape)) for k, (name, shape) in enumerate(shapes.items())
    }


def coupled():
    rng = np.random.default_rng(0)
    shapes = {"W_0": (I + P, 3 * N), "B": (3 * N,), "W_F_diag": (N,), "W_O_diag": (N,), "W_P_0": (N, P)}
    return {f"coupled_input_forget_gate_lstm_cell/{name}": rng.normal(size=shape) for name, shape in shapes.items()}


def plain(name):
    """Return the row of a system of plain arrays."""
    example = EXAMPLES[name]
    weights = LSTMWeights.random(I, N, seed=0, proj_size=P if LAYOUTS[example.layout].weight_hr else None)
    return BY_NAME[name].read, example.arrays(weights, forget_bias=0.0), example.arguments


# For each system: the importer, arrays that it takes, and its other arguments.
SYSTEMS = {
    "tf1": (convert.from_tf1, arrays_of("tf1", "lstm_cell/", **FULL), {}),
    "tf1_coupled": (convert.from_tf1, coupled(), {}),
    "block": (lambda arrays, **options: convert.from_block_lstm(**arrays, **options), arrays_of("tf1_block"), {}),
    "block_v2": (
        lambda arrays, **options: convert.from_block_lstm_v2(**arrays, **options),
        arrays_of("tf1_block_v2"),
        {},
    ),
    "flax": (convert.from_flax, arrays_of("flax", "params/"), {}),
    "flax_nnx": (convert.from_flax, arrays_of("flax_nnx"), {}),
    "flax_dense": (convert.from_flax, arrays_of("flax_dense"), {}),
    "haiku": (convert.from_haiku, arrays_of("haiku", "lstm/linear/"), {}),
    "equinox": (convert.from_equinox, arrays_of("equinox"), {}),
    **{name: plain(name) for name in PLAIN},
    "chainer_nstep": (convert.from_chainer, arrays_of("chainer_nstep", "lstm/0/"), {"prefix": "lstm"}),
    "cudnn": (cudnn, arrays_of("cudnn", proj_size=P), {}),
    "onednn": (lambda arrays, **options: convert.from_onednn(**arrays, **options), onednn_tensors(), {}),
    "coreml": (convert.from_coreml, arrays_of("coreml", peephole=True), {}),
    "tflite": (convert.from_tflite, tflite_inputs(), {}),
}


@dataclass(frozen=True)
class Fate:
    """The fate of one array or argument, shown by importing with it changed.

    `arrays` replace others; None removes one. A refusal's message contains `says`.
    """

    system: str
    what: str
    fate: str
    arrays: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    says: str = ""

    def __str__(self):
        return f"{self.system}: {self.what}"


def every_array(system, prefix=""):
    """Return a row for each of the system's arrays."""
    arrays = SYSTEMS[system][1]
    return [Fate(system, str(name).removeprefix(prefix), TAKEN, {name: array + 1}) for name, array in arrays.items()]


def every_array_and_another(name):
    """Return the rows of a system of plain arrays: its own arrays, and one array that it doesn't have."""
    scope = EXAMPLES[name].scope
    says = f"{ALONE}; got {re.escape(scope)}scale"
    return [*every_array(name, scope), Fate(name, "something else", REFUSED, {f"{scope}scale": ones(N)}, {}, says)]


STATE = "zeros or no initial state"
ALONE = "the arrays of an LSTM cell alone"
TF1 = "the variables of an LSTM cell alone"

FATES = [
    *every_array("tf1", "lstm_cell/"),
    Fate("tf1", "use_peepholes", REFUSED, {}, {"use_peepholes": False}, "use_peepholes: wanted True"),
    Fate("tf1", "num_proj", REFUSED, {}, {"num_proj": 1}, "num_proj: wanted 2"),
    *(
        Fate("tf1", name, TAKEN, {}, {name: value})
        for name, value in {"cell_clip": 0.5, "proj_clip": 0.5, "forget_bias": 0.0, "activation": "relu"}.items()
    ),
    Fate("tf1", "residual", REFUSED, {}, {"residual": True}, "residual"),  # because I != P
    Fate(
        "tf1", "an optimiser's slots", NOTHING, {"lstm_cell/kernel/Adam": ones(2), "lstm_cell/bias/Momentum": ones(1)}
    ),
    Fate("tf1", "another layer", NOTHING, {"dense/kernel": ones(2, 3), "dense/bias": ones(3)}),
    Fate("tf1", "an unknown variable", REFUSED, {"lstm_cell/zoneout": ones(1)}, {}, f"{TF1}; got lstm_cell/zoneout"),
    Fate(
        "tf1",
        "projection/bias",
        REFUSED,
        {"lstm_cell/projection/bias": ones(P)},
        {},
        f"{TF1}; got lstm_cell/projection/",
    ),
    Fate("tf1", "layer_norm", REFUSED, {"lstm_cell/state/gamma": ones(N)}, {}, "without layer normalisation"),
    Fate(
        "tf1",
        "a normalisation with another name",
        REFUSED,
        {"lstm_cell/ln/gamma": ones(N)},
        {},
        f"{TF1}; got lstm_cell/ln",
    ),
    Fate(
        "tf1",
        "a recurrent_kernel",
        REFUSED,
        {"lstm_cell/recurrent_kernel": ones(N, 4 * N)},
        {},
        "A recurrent_kernel is Keras",
    ),
    *every_array("tf1_coupled", "coupled_input_forget_gate_lstm_cell/"),
    Fate("tf1_coupled", "cell_clip", REFUSED, {}, {"cell_clip": 1.0}, "cell_clip: wanted None"),
    *(Fate("block", name, TAKEN, {name: array + 1}) for name, array in SYSTEMS["block"][1].items()),
    *(
        Fate("block", name, REFUSED, {name: ones(N)}, {}, "use_peephole: wanted True or False with")
        for name in ("wci", "wcf", "wco")
    ),
    Fate("block", "peepholes", TAKEN, dict.fromkeys(("wci", "wcf", "wco"), ones(N)), {"use_peephole": True}),
    Fate("block", "unused peepholes", NOTHING, dict.fromkeys(("wci", "wcf", "wco"), ones(N)), {"use_peephole": False}),
    Fate("block", "forget_bias", TAKEN, {}, {"forget_bias": 0.0}),
    Fate("block", "cell_clip", TAKEN, {}, {"cell_clip": 0.0}),
    *(Fate("block_v2", name, TAKEN, {name: array + 1}) for name, array in SYSTEMS["block_v2"][1].items()),
    Fate("block_v2", "cell_clip", TAKEN, {}, {"cell_clip": 3.0}),
    Fate("block_v2", "cell_clip off", NOTHING, {}, {"cell_clip": -1.0}),
    *every_array("flax", "params/"),
    *every_array("flax_nnx"),
    *every_array("flax_dense"),
    Fate("flax", "activation_fn", TAKEN, {}, {"activation": "relu"}),
    Fate("flax", "gate_fn", TAKEN, {}, {"gate_activation": "relu"}),
    Fate("flax", "other collections", NOTHING, {"batch_stats/mean": ones(2)}),
    Fate("flax", "ii/bias", REFUSED, {"params/ii/bias": ones(N)}, {}, f"{ALONE}; got params/ii/bias"),
    Fate(
        "flax",
        "a LayerNorm in the cell",
        REFUSED,
        {"params/LayerNorm_0/scale": ones(N)},
        {},
        f"{ALONE}; got params/Layer",
    ),
    Fate("flax_nnx", "rngs", NOTHING, {"rngs/count": ones(1), "rngs/key": ones(1)}),
    Fate("flax_nnx", "ii/lora_a", REFUSED, {"ii/lora_a": ones(I, 1)}, {}, f"{ALONE}; got ii/lora_a"),
    Fate("flax_dense", "dense_i/bias", REFUSED, {"dense_i/bias": ones(4 * N)}, {}, "got a GRUCell or SimpleCell"),
    Fate("flax_dense", "dense_h/lora_a", REFUSED, {"dense_h/lora_a": ones(N, 1)}, {}, f"{ALONE}; got dense_h/lora_a"),
    *every_array("haiku", "lstm/linear/"),
    Fate("haiku", "another module", NOTHING, {"head/w": ones(2)}),
    Fate(
        "haiku", "a parameter of the core", REFUSED, {"lstm/initial_hidden": ones(N)}, {}, "got 'lstm/initial_hidden'"
    ),
    Fate(
        "haiku",
        "a layer_norm in the core",
        REFUSED,
        {"lstm/layer_norm/scale": ones(N)},
        {},
        "got 'lstm/layer_norm/scale'",
    ),
    Fate(
        "haiku",
        "a parameter of the linear layer",
        REFUSED,
        {"lstm/linear/scale": ones(N)},
        {},
        f"{ALONE}; got lstm/linear/s",
    ),
    *every_array("equinox"),
    Fate("equinox", "no bias", TAKEN, {"bias": None}),
    Fate("equinox", "bias_n", REFUSED, {"bias_n": ones(N)}, {}, "a GRUCell"),
    Fate("equinox", "bias_hh", REFUSED, {"bias_hh": ones(4 * N)}, {}, "use from_torch"),
    Fate("equinox", "something else", REFUSED, {"norm.weight": ones(N)}, {}, f"{ALONE}; got norm.weight"),
    *(row for name in PLAIN for row in every_array_and_another(name)),
    Fate("sonnet1", "forget_bias", TAKEN, {}, {"forget_bias": 0.0}),
    Fate("sonnet1", "hidden_clip_value", REFUSED, {}, {"hidden_clip_value": 1.0}, "clips the previous state"),
    Fate("sonnet1", "cell_clip_value", REFUSED, {}, {"cell_clip_value": 1.0}, "clips the previous state"),
    Fate("sonnet1", "use_peepholes", REFUSED, {"a/lstm/w_i_diag": ones(N)}, {}, "inside the tanh of c"),
    Fate("sonnet1", "use_layer_norm", REFUSED, {"a/lstm/layer_norm/gamma": ones(4 * N)}, {}, "It is normalised"),
    Fate("sonnet1", "use_batch_norm_h", REFUSED, {"a/lstm/gamma_h": ones(4 * N)}, {}, "It is normalised"),
    Fate(
        "sonnet1",
        "use_batch_norm_x",
        REFUSED,
        {"a/lstm/batch_norm_x/moving_mean": ones(N)},
        {},
        f"{ALONE}; got a/lstm/batch",
    ),
    Fate("sonnet1", "initial_state", REFUSED, {"a/lstm_initial_state_hidden/w": ones(1, N)}, {}, STATE),
    Fate(
        "sonnet1", "TrainableInitialState", REFUSED, {"trainable_initial_state/initial_state_0": ones(1, N)}, {}, STATE
    ),
    Fate("sonnet1", "an initial_state of zeros", NOTHING, {"a/lstm_initial_state_cell/w": zeros(1, N)}),
    Fate("sonnet1", "another's initial_state", NOTHING, {"a/lstm_1_initial_state_cell/w": ones(1, N)}),
    Fate("sonnet1", "an optimiser's slots", NOTHING, {"a/lstm/w_gates/RMSProp": ones(2)}),
    Fate("sonnet2", "TrainableState", REFUSED, {"trainable_state/0": ones(1, N)}, {}, STATE),
    Fate("sonnet2", "a TrainableState of zeros", NOTHING, {"trainable_state/0": zeros(1, N)}),
    *(Fate("mxnet", name, REFUSED, {}, {name: 1.0}, "what it clips") for name in ("state_clip_min", "state_clip_max")),
    Fate("chainer", "lateral/b", REFUSED, {"a/lstm/lateral/b": ones(4 * N)}, {}, f"{ALONE}; got a/lstm/lateral/b"),
    Fate("chainer", "peep_i", REFUSED, {"a/lstm/peep_i/W": ones(N, N)}, {}, "full matrices"),
    Fate("haste", "zoneout", TAKEN, {}, {"zoneout": 0.1}),
    Fate("haste", "a zoneout of 0", NOTHING, {}, {"zoneout": 0.0}),
    Fate("haste", "gamma", REFUSED, {"encoder.lstm.gamma": ones(2, 4 * N)}, {}, "LayerNormLSTM"),
    *every_array("chainer_nstep", "lstm/0/"),
    Fate("chainer_nstep", "w8", REFUSED, {"lstm/0/w8": ones(N, N)}, {}, f"{ALONE}; got lstm/0/w8"),
    *every_array("cudnn"),
    Fate("cudnn", "CUDNN_RNN_NO_BIAS", TAKEN, {f"b{k}": None for k in range(8)}),
    Fate("cudnn", "CUDNN_RNN_SINGLE_INP_BIAS", REFUSED, {f"b{k}": None for k in range(4, 8)}, {}, "biases: wanted 8"),
    *every_array("onednn"),
    *every_array("coreml"),
    Fate("coreml", "clip", REFUSED, {}, {"clip": 1.0}, "clip: wanted None"),
    Fate("coreml", "clip among parameters", REFUSED, {"clip": 1.0}, {}, "clip: wanted None"),
    *(
        Fate("coreml", name, TAKEN, {}, {name: "relu"})
        for name in ("recurrent_activation", "cell_activation", "activation")
    ),
    Fate("coreml", "activation among parameters", REFUSED, {"activation": "relu"}, {}, "activation: wanted 'relu', as"),
    Fate(
        "coreml",
        "recurrent_activation among parameters",
        REFUSED,
        {"recurrent_activation": "hard_sigmoid"},
        {},
        "with its alpha and beta",
    ),
    Fate("coreml", "the same function among parameters", NOTHING, {"cell_activation": "tanh"}),
    *(Fate("coreml", f"initial_{part}", REFUSED, {f"initial_{part}": ones(1, N)}, {}, STATE) for part in "hc"),
    Fate("coreml", "zeros for initial_h", NOTHING, {"initial_h": zeros(1, N), "initial_c": zeros(1, N)}),
    Fate("coreml", "x and output_sequence", NOTHING, {"x": ones(1, 1, I), "output_sequence": True, "name": "lstm_0"}),
    Fate("coreml", "direction", NOTHING, {"direction": "forward"}),
    Fate("coreml", "another direction", REFUSED, {"direction": "up"}, {}, "direction: wanted one of"),
    Fate("coreml", "bidirectional alone", REFUSED, {"direction": "bidirectional"}, {}, "named 'weight_ih_back'"),
    Fate(
        "coreml",
        "backward weights of a forward one",
        NOTHING,
        {"direction": "forward", "weight_ih_back": ones(4 * N, I)},
    ),
    Fate("coreml", "weight", REFUSED, {"weight": ones(4), "weight_ih": None, "weight_hh": None}, {}, "coremltools 5"),
    Fate("coreml", "something else", REFUSED, {"weight_hr": ones(P, N)}, {}, f"{ALONE}; got weight_hr"),
    *every_array("tflite"),
    Fate("tflite", "0", NOTHING, {0: ones(2, 5, I)}),
    Fate("tflite", "17", REFUSED, {17: ones(P)}, {}, r"inputs\[17\]: wanted zeros or None"),
    Fate("tflite", "zeros for 17", NOTHING, {17: zeros(P)}),
    Fate("tflite", "18", REFUSED, {18: ones(5, P)}, {}, STATE),
    Fate("tflite", "19", REFUSED, {19: ones(5, N)}, {}, STATE),
    Fate("tflite", "zeros for 18 and 19", NOTHING, {18: zeros(5, P), 19: zeros(5, N)}),
    *(Fate("tflite", str(k), REFUSED, {k: ones(N)}, {}, "layer normalisation") for k in range(20, 24)),
    Fate("tflite", "24", REFUSED, {24: ones(N)}, {}, "numbers from 0 to 23; got 24"),
    Fate("tflite", "no input gate", TAKEN, dict.fromkeys((1, 5, 9, 12))),
    Fate("tflite", "half an input gate", REFUSED, {1: None}, {}, "all of 1, 5 and 12, or none"),
    Fate("tflite", "half the peepholes", REFUSED, {9: None}, {}, r"inputs\[9\]"),
    Fate("tflite", "fusedActivationFunction", TAKEN, {}, {"activation": "relu"}),
    Fate(
        "tflite", "another fusedActivationFunction", REFUSED, {}, {"activation": "sigmoid"}, "activation: wanted one of"
    ),
    Fate("tflite", "cellClip", TAKEN, {}, {"cell_clip": 1.0}),
    Fate("tflite", "projClip", TAKEN, {}, {"proj_clip": 1.0}),
    Fate(
        "tflite",
        "diagonalRecurrentTensors",
        REFUSED,
        {k: ones(N) for k in range(5, 9)},
        {},
        r"inputs\[5\]: wanted shape",
    ),
    Fate("tflite", "hybrid weights", REFUSED, {2: ones(N, I, dtype="i1")}, {}, "without quantisation"),
    Fate(
        "tflite",
        "kernelType",  # BASIC: x, the last output, weights, biases, the last state
        REFUSED,
        dict.fromkeys(range(24)) | {1: ones(5, N), 2: ones(4 * N, I + N), 3: ones(4 * N), 4: ones(5, N)},
        {},
        r"inputs\[2\]: wanted shape",
    ),
]


def imported(system, arrays=None, options=None):
    importer, base, others = SYSTEMS[system]
    given = {name: value for name, value in (base | (arrays or {})).items() if value is not None}
    return importer(given, **others | (options or {}))


def bits(weights):
    """Return all bits and options of weights, for comparison."""
    layers = weights.layers if isinstance(weights, StackedWeights) else [weights]
    return type(weights), [(w.options(), {k: (a.shape, a.tobytes()) for k, a in w.arrays().items()}) for w in layers]


@pytest.mark.parametrize("row", FATES, ids=str)
def test_fate(row):
    base = bits(imported(row.system))
    if row.fate == REFUSED:
        with pytest.raises((ValueError, TypeError), match=row.says):
            imported(row.system, row.arrays, row.options)
    else:
        assert (bits(imported(row.system, row.arrays, row.options)) == base) == (row.fate == NOTHING)


def test_every_name_in_a_layout_has_a_fate():
    """Each name in a layout, and each of TFLite's 24 inputs, has a fate."""
    for system in set(SYSTEMS) & set(LAYOUTS):
        whats = {row.what for row in FATES if row.system == system}
        assert LAYOUTS[system].names() - {"peephole", "weight_hr"} <= whats, system
    assert {str(k) for k in range(24)} <= {row.what for row in FATES if row.system == "tflite"}


def test_reverse_operation_is_warned_of(caplog):
    imported("coreml", {"direction": "reverse"})
    assert "use lstm(xs, reverse=True)" in caplog.text


def test_block_wrapper_needs_its_clip():
    """The scope is that of TensorFlow 1.0's LSTMBlockFusedCell, which clips c to 3 by default."""
    variables = arrays_of("tf1", "rnn/lstm_block_wrapper/")
    with pytest.raises(ValueError, match=r"cell_clip: wanted a number, as TensorFlow 1\.0's LSTMBlockFusedCell"):
        convert.from_tf1(variables)
    assert convert.from_tf1(variables, cell_clip=3.0).cell_clip == 3.0
    assert convert.from_tf1(variables, cell_clip=math.inf).cell_clip == math.inf


def test_cells_of_other_formulas_are_refused():
    """Refuse cells with the same variable names but a different formula."""
    for scope in (
        "gru_block_cell",
        "time_freq_lstm_cell",
        "grid_lstm_cell",
        "glstm_cell",
        "phased_lstm_cell",
        "nas_cell",
    ):
        with pytest.raises(ValueError, match=f"'{scope}', a cell of another kind"):
            convert.from_tf1(arrays_of("tf1", f"{scope}/"), scope)


# Arguments of a framework's classes that affect only initial values, names, or how arrays are made or stored.
MAKING = {
    *("initializer", "reuse", "name", "dtype", "kwargs", "kernel_init", "recurrent_kernel_init", "bias_init"),
    *("param_dtype", "rngs", "keep_rngs", "key", "parent", "kernel_metadata", "recurrent_kernel_metadata"),
    *("bias_metadata", "promote_dtype", "num_units", "features", "in_features", "hidden_features", "hidden_size"),
    *("input_size", "num_unit_shards", "num_proj_shards"),
}
# Arguments that reach no importer, and why.
ELSEWHERE = {
    "state_is_tuple": "affects only states: state_from_tf1 reads both forms",
    "use_bias": "the arrays show it",
    "carry_init": "refused in an nnx RNN if it doesn't make zeros; a cell's caller passes the state",
    "seq_len_max": "affects only the sequence",
    "x": "affects only the sequence",
    "cs_prev": "the state, which the caller passes",
    "h_prev": "the state, which the caller passes",
    "timeMajor": "affects only the sequence: outputs of both are recorded",
    "asymmetricQuantizeInputs": "affects only hybrid weights, which are refused",
    "mergeOutputs": "BIDIRECTIONAL_SEQUENCE_LSTM only",
}


def signature(path):
    module, _, name = path.rpartition(".")
    module = pytest.importorskip(module, reason=f"{module} is not installed")
    made = getattr(module, name)
    return set(inspect.signature(made.__init__ if inspect.isclass(made) else made).parameters) - {"self"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("path", "system"),
    [
        ("flax.linen.LSTMCell", "flax"),
        ("flax.linen.OptimizedLSTMCell", "flax"),
        ("flax.nnx.LSTMCell", "flax"),
        ("flax.nnx.OptimizedLSTMCell", "flax"),
        ("haiku.LSTM", "haiku"),
        ("equinox.nn.LSTMCell", "equinox"),
        ("tf_keras.src.layers.rnn.legacy_cells.LSTMCell", "tf1"),
        ("tf_keras.src.layers.rnn.legacy_cells.BasicLSTMCell", "tf1"),
        ("tensorflow.raw_ops.LSTMBlockCell", "block"),
        ("tensorflow.raw_ops.BlockLSTM", "block"),
        ("tensorflow.raw_ops.BlockLSTMV2", "block"),
    ],
)
def test_every_framework_argument_has_a_fate(path, system):
    if path.startswith("tensorflow.raw_ops"):
        pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
        raw_ops = importlib.import_module("tensorflow").raw_ops
        found = set(inspect.signature(getattr(raw_ops, path.rpartition(".")[2])).parameters)
    else:
        found = signature(path)
    named = {row.what for row in FATES if row.system == system} | {"use_peephole"}
    assert found <= named | MAKING | set(ELSEWHERE), found - named - MAKING - set(ELSEWHERE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["LSTMOptionsT", "UnidirectionalSequenceLSTMOptionsT"])
def test_every_tflite_option_has_a_fate(name):
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    schema = importlib.import_module("tensorflow.lite.python.schema_py_generated")
    named = {row.what for row in FATES if row.system == "tflite"}
    assert set(vars(getattr(schema, name)())) <= named | set(ELSEWHERE)
