"""Convert TensorFlow 1's cells both ways. Recorded outputs are in core/test_oracles.py."""

import os
import sys
import tracemalloc
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusedlstm import LSTM, LSTMWeights, StackedWeights, WeightsFileError, convert
from fusedlstm.convert.tf1.listing import TF1Cell

from support.cells import host
from support.comparisons import assert_equal
from support.oracle_files import FOLDER, Oracle

I, N, P = 3, 4, 2
DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


def tf1_cell(scope="rnn/lstm_cell", rows=I + N, units=N, dtype=np.float32, **more):
    rng = np.random.default_rng(0)
    variables = {"kernel": rng.normal(size=(rows, 4 * units)), "bias": rng.normal(size=4 * units), **more}
    return {f"{scope}/{name}": np.asarray(value, dtype) for name, value in variables.items()}


def peepholes():
    return {f"w_{gate}_diag": np.full(N, value) for gate, value in (("i", 1), ("f", 2), ("o", 3))}


def test_tf1_gates_and_forget_bias():
    """Columns i, g, f, o become rows i, f, g, o, and the forget bias is added to the bias."""
    kernel = np.repeat(np.arange(4.0), N)[None].repeat(I + N, axis=0)
    kernel[:I] += 10
    weights = convert.from_tf1({"lstm_cell/kernel": kernel, "lstm_cell/bias": np.repeat(np.arange(4.0), N)})
    assert weights.weight_ih[:, 0].tolist() == [10] * N + [12] * N + [11] * N + [13] * N
    assert weights.weight_hh[:, 0].tolist() == [0] * N + [2] * N + [1] * N + [3] * N
    assert weights.bias.tolist() == [0] * N + [3] * N + [1] * N + [3] * N


def test_tf1_checkpoint_with_everything_else():
    """One cell is found beside optimiser slots, counters, dense layers and averages."""
    variables = {
        **tf1_cell(**peepholes(), **{"projection/kernel": np.ones((N, P))}, rows=I + P),
        "beta1_power": np.float32(0.9),
        "global_step": np.int64(7),
        "dense/kernel": np.zeros((N, 8), np.float32),
        "dense/bias": np.zeros(8, np.float32),
        "conv/kernel": np.zeros((3, 3, 4, 8), np.float32),
    }
    for name in list(variables):
        if name.startswith("rnn/"):
            for slot in ("Adam", "Adam_1", "ExponentialMovingAverage"):
                variables[f"{name}/{slot}"] = np.zeros_like(variables[name])
    weights = convert.from_tf1(variables, cell_clip=3.0, num_proj=P, proj_clip=1.0, use_peepholes=True)
    assert (weights.input_size, weights.hidden_size, weights.proj_size) == (I, N, P)
    assert weights.peephole[:, 0].tolist() == [1, 2, 3]
    assert (weights.cell_clip, weights.proj_clip) == (3.0, 1.0)
    named = {f"{name}:0": value for name, value in variables.items()}
    np.testing.assert_array_equal(convert.from_tf1(named, "rnn/lstm_cell/").weight_ih, weights.weight_ih)


def test_tf1_error_lists_whole_stacks():
    layers = {}
    for net in ("decoder", "encoder"):
        for k in (0, 1):
            layers |= tf1_cell(f"{net}/rnn/multi_rnn_cell/cell_{k}/lstm_cell", units=4, rows=8)
    message = "Give prefix= one of 'decoder/rnn/multi_rnn_cell', 'encoder/rnn/multi_rnn_cell', 'lstm_cell'$"
    with pytest.raises(ValueError, match=message):
        convert.from_tf1({**layers, **tf1_cell("lstm_cell")})
    assert convert.from_tf1(layers, "decoder/rnn/multi_rnn_cell").num_layers == 2
    both = {}
    for k in (0, 1):
        for way in ("fw", "bw"):
            scope = f"a/stack_bidirectional_rnn/cell_{k}/bidirectional_rnn/{way}/lstm_cell"
            both |= tf1_cell(scope, units=4, rows=(8, 12)[k])
    with pytest.raises(ValueError, match="Give prefix= one of 'a/stack_bidirectional_rnn', 'lstm_cell'$"):
        convert.from_tf1({**both, **tf1_cell("lstm_cell")})
    assert convert.from_tf1(both, "a/stack_bidirectional_rnn").bidirectional


def test_tf1_prefix_picks_one_of_several():
    first, second = tf1_cell("actor/rnn/lstm_cell"), tf1_cell("critic/rnn/lstm_cell", units=5, rows=9)
    with pytest.raises(
        ValueError,
        match="variables: wanted one LSTM cell; got 2 of them. Give prefix= one of "
        "'actor/rnn/lstm_cell', 'critic/rnn/lstm_cell'",
    ):
        convert.from_tf1({**first, **second})
    for prefix in ("critic/rnn/lstm_cell", "critic/rnn", "critic/"):
        weights = convert.from_tf1({**first, **second}, prefix)
        assert isinstance(weights, LSTMWeights)
        assert (weights.input_size, weights.hidden_size) == (4, 5)
    assert convert.from_tf1(tf1_cell("lstm_cell"), "").hidden_size == N  # an empty prefix includes every scope


def test_tf1_own_scope_names():
    """A cell with its own name needs a prefix, unless it has variables that only an LSTM has."""
    plain = {**tf1_cell("policy/memory"), "policy/dense/kernel": np.zeros((2, 8)), "policy/dense/bias": np.zeros(8)}
    with pytest.raises(ValueError, match=r"a dense layer's: 'policy/dense', 'policy/memory'\. Give .*prefix="):
        convert.from_tf1(plain)
    assert convert.from_tf1(plain, "policy/memory").hidden_size == N
    assert convert.from_tf1({**plain, **tf1_cell("policy/memory", **peepholes())}).peephole is not None


def test_tf1_layer_norm_is_refused():
    scope = "rnn/layer_norm_lstm_cell"
    variables = {**tf1_cell(scope), f"{scope}/input/gamma": np.ones(N), f"{scope}/input/beta": np.ones(N)}
    with pytest.raises(ValueError, match="without layer normalisation; got .*input/gamma, .*input/beta"):
        convert.from_tf1(variables)


def test_tf1_proj_clip_needs_a_projection():
    """Without a projection, proj_clip has no effect, as in TensorFlow."""
    assert convert.from_tf1(tf1_cell(), proj_clip=0.5).proj_clip is None


def test_tf1_scopes_of_dynamic_rnn_are_cells():
    """A cell with its own name is in a scope of dynamic_rnn, beside a dense layer with "lstm" in its name."""
    cell = tf1_cell("enc/rnn/my_cell")
    dense = {"lstm_fc/kernel": np.zeros((64, 16), np.float32), "lstm_fc/bias": np.zeros(16, np.float32)}
    assert convert.from_tf1({**cell, **dense}).input_size == I
    with pytest.raises(ValueError, match="got 2 of them. Give prefix= one of 'enc/rnn/my_cell', 'lstm_cell'"):
        convert.from_tf1({**cell, **tf1_cell("lstm_cell")})


@pytest.mark.parametrize("options", [{}, {"prefix": "lstm"}])
def test_tf1_keras_layers_are_refused(options):
    """Keras's kernel is for x alone, but looks like TensorFlow 1's for x and h."""
    variables = {
        "lstm/kernel": np.zeros((64, 128)),
        "lstm/recurrent_kernel": np.zeros((32, 128)),
        "lstm/bias": np.zeros(128),
    }
    with pytest.raises(ValueError, match="recurrent_kernel is Keras's: from_keras takes"):
        convert.from_tf1(variables, **options)


def test_tf1_reads_only_what_it_needs():
    """Checkpoints also hold strings, and embeddings of gigabytes."""

    class Lazy(dict):
        def __getitem__(self, name):
            assert name.split("/")[0] in ("rnn", "dense"), f"{name} was read"
            return super().__getitem__(name)

    others = {"vocabulary/keys": np.array(["a", "b"], object), "embedding": None, "dense/kernel": np.zeros((3, 7))}
    assert convert.from_tf1(Lazy({**tf1_cell(), **others})).hidden_size == N


def test_tf1_ignores_neighbouring_batch_norm():
    """Only a cell's own sub-scopes can mean layer normalisation."""
    variables = {**tf1_cell("model"), "model/bn/gamma": np.ones(3), "model/bn/beta": np.ones(3)}
    assert convert.from_tf1(variables, "model").hidden_size == N


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"variables": [1, 2]},
            TypeError,
            "variables: wanted a mapping of names to arrays, or the path of .*; got list",
        ),
        ({"prefix": 0.0}, TypeError, "prefix: wanted the name of a scope, or None; got float"),
        ({"forget_bias": None}, TypeError, "forget_bias: wanted a number; got None"),
        ({"forget_bias": "1"}, TypeError, "forget_bias: wanted a number; got str"),
        ({"forget_bias": np.ones(4)}, TypeError, "forget_bias: wanted a number"),
        ({"forget_bias": float("nan")}, ValueError, "forget_bias: wanted a finite number; got nan"),
        ({"forget_bias": 10**400}, ValueError, "forget_bias: wanted a finite number"),
        ({"variables": {1: 2}}, ValueError, "variables: wanted those of an LSTM cell .*got 1"),
        ({"variables": {"rnn/lstm/weights": 1, "rnn/lstm/biases": 2}}, ValueError, "Before TensorFlow 1.2"),
    ],
)
def test_tf1_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        convert.from_tf1(**{"variables": tf1_cell(), **arguments})


@pytest.mark.parametrize(
    ("variables", "options", "message"),
    [
        ({}, {}, "variables: wanted those of an LSTM cell .*got none at all"),
        ({"gru/kernel": np.zeros((7, 12))}, {}, "got gru/kernel"),
        (tf1_cell(), {"prefix": "lstm"}, "wanted a variable named 'lstm/kernel'; .*Cells may be at 'rnn/lstm_cell'"),
        (tf1_cell(), {"num_proj": 3}, "num_proj: wanted None, as there is no rnn/lstm_cell/projection/kernel; got 3"),
        (tf1_cell(rows=I + P, **{"projection/kernel": np.ones((N, P))}), {"num_proj": 3}, "num_proj: wanted 2"),
        (tf1_cell(**{"projection/kernel": np.ones((5, P))}), {}, r"projection/kernel: wanted shape \(N, P\)"),
        (tf1_cell(), {"use_peepholes": True}, "use_peepholes: wanted False"),
        (tf1_cell(**peepholes()), {"use_peepholes": False}, "use_peepholes: wanted True"),
        (tf1_cell(w_i_diag=np.ones(N)), {}, "no rnn/lstm_cell/w_f_diag"),
        (tf1_cell(**{**peepholes(), "w_o_diag": np.ones(5)}), {}, r"w_o_diag: wanted shape \(N,\) = \(4,\)"),
        (tf1_cell(rows=2), {}, "with at least P = 4 rows for h"),
        (tf1_cell("cudnn_compatible_lstm_cell"), {}, r"forget_bias: wanted 0\.0 for this cell"),
        (tf1_cell(), {"activation": "swish"}, "activation"),
        (tf1_cell(), {"cell_clip": -1}, "cell_clip"),
    ],
)
def test_tf1_refuses(variables, options, message):
    with pytest.raises(ValueError, match=message):
        convert.from_tf1(variables, **options)


def test_tf1_integers_are_refused():
    with pytest.raises(TypeError, match="dtype int64"):
        convert.from_tf1(tf1_cell(dtype=np.int64))


def test_converted_weights_save_and_load(tmp_path):
    weights = convert.from_tf1(tf1_cell(**peepholes()), cell_clip=0.5)
    weights.save(tmp_path / "w")
    np.testing.assert_array_equal(LSTMWeights.load(tmp_path / "w").peephole, weights.peephole)


def bits(array):
    return None if array is None else (array.dtype, array.shape, array.tobytes())


def assert_same(weights, wanted):
    """Assert that weights have the same class, options and bits."""
    assert type(weights) is type(wanted)
    if isinstance(wanted, StackedWeights):
        assert (weights.bidirectional, weights.residual) == (wanted.bidirectional, wanted.residual)
        assert len(weights.layers) == len(wanted.layers)
        for one, other in zip(weights.layers, wanted.layers, strict=True):
            assert_same(one, other)
        return
    assert weights.options() == wanted.options()
    assert {name: bits(array) for name, array in weights.arrays().items()} == {
        name: bits(array) for name, array in wanted.arrays().items()
    }


def coupled_cell(scope="rnn/coupled_input_forget_gate_lstm_cell", **more):
    """Return a cell whose W_0 has 0 for gate g, 1 for f and 2 for o, plus 10 in the rows of x."""
    kernel = np.repeat(np.arange(3.0), N)[None].repeat(I + N, axis=0)
    kernel[:I] += 10
    return {f"{scope}/{name}": a for name, a in {"W_0": kernel, "B": np.repeat(np.arange(3.0), N), **more}.items()}


def coupled_peepholes():
    return {"W_F_diag": np.full(N, 5.0), "W_O_diag": np.full(N, 6.0)}


def test_coupled_gates():
    """Columns are g, f, o. The input gate has none."""
    weights = convert.from_tf1(coupled_cell(**coupled_peepholes()))
    assert weights.coupled_gate == "input"
    assert weights.weight_ih[:, 0].tolist() == [0] * N + [11] * N + [10] * N + [12] * N
    assert weights.weight_hh[:, 0].tolist() == [0] * N + [1] * N + [0] * N + [2] * N
    assert weights.bias.tolist() == [0] * N + [2] * N + [0] * N + [2] * N
    assert weights.peephole.tolist() == [[0] * N, [5] * N, [6] * N]


def test_coupled_shards():
    """W_0, W_1 ... hold the rows of one kernel, in numeric order, not in alphabetic order."""
    (name, kernel), (_, bias) = coupled_cell().items()
    kernel = np.arange(12.0)[:, None] + kernel[:1]
    shards = {f"{name[:-1]}{k}": kernel[k : k + 1] for k in range(12)}
    weights = convert.from_tf1({**dict(sorted(shards.items())), name.replace("W_0", "B"): bias})
    np.testing.assert_array_equal(weights.weight_ih[N : 2 * N], kernel[:8, N : 2 * N].T)
    np.testing.assert_array_equal(weights.weight_hh[N : 2 * N], kernel[8:, N : 2 * N].T)
    with pytest.raises(ValueError, match=r"W_1: wanted rows like those of .*W_0, \(7, 12\); got shape \(7, 11\)"):
        convert.from_tf1(coupled_cell(W_1=np.zeros((7, 11))))


@pytest.mark.parametrize(
    ("variables", "options", "message"),
    [
        (coupled_cell(), {"cell_clip": 1.0}, "cell_clip: wanted None, as a CoupledInputForgetGateLSTMCell has none"),
        (coupled_cell(), {"use_peepholes": True}, "use_peepholes: wanted False"),
        (coupled_cell(), {"num_proj": 3}, "num_proj: wanted None, as there is no .*/W_P_0; got 3"),
        (coupled_cell(W_F_diag=np.ones(N)), {}, "all of .*W_F_diag, .*W_O_diag; got no .*W_O_diag"),
        (coupled_cell(B=np.ones(11)), {"prefix": "rnn/coupled_input_forget_gate_lstm_cell"}, "B: wanted shape"),
        (coupled_cell(**{"forget/gamma": np.ones(N)}), {}, "without layer normalisation; got .*forget/gamma"),
        ({"rnn/time_freq_lstm_cell/W_0": np.ones((9, 12)), "rnn/time_freq_lstm_cell/B": np.ones(12)}, {}, "time_freq"),
    ],
)
def test_coupled_refuses(variables, options, message):
    with pytest.raises(ValueError, match=message):
        convert.from_tf1(variables, **options)


def stack(scopes, width=1, rows=I + N, **more):
    """Return variables of cells at these scopes. Later layers read `width` outputs."""
    variables = {}
    for k, scope in enumerate(scopes):
        cell = tf1_cell(scope, rows=rows if k < width else width * N + N, **more)
        variables |= {name: array + k for name, array in cell.items()}
    return variables


def cells(variables, scopes, **options):
    return [convert.from_tf1(variables, scope, **options) for scope in scopes]


MULTI = [f"rnn/multi_rnn_cell/cell_{k}/lstm_cell" for k in range(3)]
BOTH = [f"bidirectional_rnn/{way}/lstm_cell" for way in ("fw", "bw")]
STACK = [
    f"stack_bidirectional_rnn/cell_{k}/bidirectional_rnn/{way}/lstm_cell" for k in range(2) for way in ("fw", "bw")
]


@pytest.mark.parametrize(
    ("scopes", "bidirectional"),
    [
        (MULTI, False),
        (MULTI[:1], False),
        ([scope.removeprefix("rnn/") for scope in MULTI], False),
        ([scope.replace("lstm_cell", name) for scope, name in zip(MULTI, ("a", "b", "c"), strict=True)], False),
        ([f"rnn/multi_rnn_cell_1/cell_{k}/basic_lstm_cell" for k in range(12)], False),
        (BOTH, True),
        ([f"enc/{way}/lstm_cell" for way in ("fw", "bw")], True),
        ([f"{way}/lstm_cell" for way in ("fw", "bw")], True),
        (STACK, True),
        (STACK[:2], True),
        ([scope.replace("bidirectional_rnn/fw", "fw").replace("bidirectional_rnn/bw", "bw") for scope in STACK], True),
    ],
)
def test_layers_are_found(scopes, bidirectional):
    """Find layers by TensorFlow's names, in any order, beside optimiser slots and other layers."""
    variables = stack(scopes, 2 if bidirectional else 1)
    others = {f"{name}/Adam": array for name, array in variables.items()}
    others |= {"head/kernel": np.zeros((N, 8)), "head/bias": np.zeros(8), "global_step": np.int64(3)}
    weights = convert.from_tf1(dict(sorted({**variables, **others}.items())), cell_clip=2.0)
    wanted = StackedWeights(cells(variables, scopes, cell_clip=2.0), bidirectional=bidirectional)
    assert_same(weights, wanted)
    assert_same(convert.from_tf1({f"model/{name}": a for name, a in variables.items()}, "model", cell_clip=2.0), wanted)


def test_prefix_within_layers():
    """A prefix may name one layer, one direction, or the stack."""
    variables = stack(MULTI)
    for prefix in (MULTI[0], "rnn/multi_rnn_cell/cell_0"):
        assert_same(convert.from_tf1(variables, prefix), cells(variables, MULTI)[0])
    whole = StackedWeights(cells(variables, MULTI))
    for prefix in ("rnn", "rnn/multi_rnn_cell", "rnn/"):
        assert_same(convert.from_tf1(variables, prefix), whole)
    both = stack(BOTH, 2)
    assert_same(convert.from_tf1(both, "bidirectional_rnn/bw"), cells(both, BOTH)[1])
    only = {name: array for name, array in variables.items() if name.startswith(MULTI[1])}
    assert_same(convert.from_tf1(only), cells(variables, MULTI)[1])


def test_missing_layers_of_any_number():
    """Memory doesn't grow with the number of missing layers."""
    variables = stack([MULTI[0], MULTI[0].replace("cell_0", "cell_1000000")])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="got none in rnn/multi_rnn_cell/cell_1, rnn/multi_rnn_cell/cell_2"):
            convert.from_tf1(variables)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            stack([MULTI[0], MULTI[2]]),
            "each layer of a MultiRNNCell .*; got none in rnn/multi_rnn_cell/cell_1. For one",
        ),
        (stack(STACK[:3], 2), "stack_bidirectional_dynamic_rnn .*; got none in .*/cell_1/bw. For one"),
        (
            {**stack(MULTI[:2]), "rnn/multi_rnn_cell/cell_2/gru_cell/gates/kernel": np.ones((8, 8))},
            "nothing but LSTM cells in a MultiRNNCell at 'rnn/multi_rnn_cell/'; got .*/gru_cell/gates/kernel",
        ),
        ({**stack(BOTH, 2), "bidirectional_rnn/fw/attention/v": np.ones(3)}, "nothing but .*; got .*/attention/v"),
        (stack([*BOTH, "rnn/lstm_cell"], 3), "got 3 of them"),
        (stack([*MULTI, "rnn/multi_rnn_cell/cell_1/other"]), "got 4 of them"),
        (stack([*MULTI[:2], "dec/rnn/multi_rnn_cell/cell_0/lstm_cell"]), "got 3 of them"),
        (
            stack([f"bidirectional_rnn/{way}/{scope.removeprefix('rnn/')}" for way in ("fw", "bw") for scope in MULTI]),
            "a MultiRNNCell for each direction. .*Give prefix='bidirectional_rnn/fw' and prefix='bidirectional_rnn/bw'",
        ),
        (
            {**stack(MULTI), f"{MULTI[1]}/kernel": np.zeros((N + 9, 4 * N), np.float32)},
            r"layers\[1\]: wanted input_size 4 .*; got 9",
        ),
    ],
)
def test_bad_stacks_raise(variables, message):
    with pytest.raises(ValueError, match=message):
        convert.from_tf1(variables)


def test_residual():
    variables = stack(MULTI, rows=2 * N)
    wanted = cells(variables, MULTI)
    assert_same(convert.from_tf1(variables, residual=True), StackedWeights(wanted, residual=True))
    some = (False, True, True)
    assert_same(convert.from_tf1(variables, residual=some), StackedWeights(wanted, residual=some))
    alone = convert.from_tf1(variables, MULTI[0], residual=True)
    assert_same(alone, StackedWeights(wanted[:1], residual=True))
    with pytest.raises(ValueError, match="residual: wanted one bool for each of 3 layers; got 2"):
        convert.from_tf1(variables, residual=[True, False])


def test_cudnn_names_are_read():
    """CudnnLSTM is saved under the names of equivalent cells, which add no forget bias."""
    scopes = [f"cudnn_lstm/{scope.replace('lstm', 'cudnn_compatible_lstm')}" for scope in (*MULTI, *STACK)]
    for names, bidirectional in ((scopes[:3], False), (scopes[3:], True)):
        names = [name.replace("stack_bidirectional_cudnn", "stack_bidirectional") for name in names]
        variables = stack(names, 2 if bidirectional else 1)
        weights = convert.from_tf1(variables, forget_bias=0.0)
        assert_same(weights, StackedWeights(cells(variables, names, forget_bias=0.0), bidirectional=bidirectional))
        with pytest.raises(ValueError, match=r"forget_bias: wanted 0\.0 for this cell"):
            convert.from_tf1(variables)


def kernels(*scopes, rows=16, width=16):
    return {
        f"{scope}/{name}": np.zeros(shape, np.float32)
        for scope in scopes
        for name, shape in (("kernel", (rows, width)), ("bias", (width,)))
    }


@pytest.mark.parametrize(
    ("variables", "options", "message"),
    [
        (kernels("rnn/gru_cell/gates", "rnn/gru_cell/candidate"), {}, "Cells of other kinds: 'rnn/gru_cell'"),
        (kernels("rnn/gru_cell/gates"), {"prefix": "rnn/gru_cell/gates"}, "got 'rnn/gru_cell', a cell of another"),
        (kernels("rnn/gru_cell/gates"), {"prefix": "rnn/gru_cell"}, "got 'rnn/gru_cell', a cell of another kind"),
        (kernels("rnn/mem/gates", "rnn/mem/candidate"), {}, "Cells of other kinds: 'rnn/mem'"),
        (kernels("rnn/basic_rnn_cell"), {}, "Cells of other kinds: 'rnn/basic_rnn_cell'"),
        (
            {"rnn/nas_cell/kernel": np.ones((4, 48)), "rnn/nas_cell/recurrent_kernel": np.ones((6, 48))},
            {},
            "Cells of other kinds: 'rnn/nas_cell'",
        ),
        (kernels("intersection_rnn_cell_1"), {"prefix": "intersection_rnn_cell_1"}, "a cell of another kind"),
        ({"cudnn_lstm/opaque_kernel": np.zeros(99)}, {}, "whose layout only cuDNN knows: take the checkpoint"),
        ({"lstm/cell/kernel/.ATTRIBUTES/VARIABLE_VALUE": np.zeros((7, 16))}, {}, "object-based checkpoint"),
        ({"rnn/lstm_cell/kernel/part_0": 1, "rnn/lstm_cell/bias": 2}, {}, "Parts of a variable must be joined"),
    ],
)
def test_other_systems_are_refused(variables, options, message):
    with pytest.raises(ValueError, match=message):
        convert.from_tf1(variables, **options)


def test_other_cells_are_ignored():
    variables = {**tf1_cell(), **kernels("rnn/gru_cell/gates", "rnn/gru_cell/candidate", "rnn/basic_rnn_cell")}
    assert convert.from_tf1(variables).hidden_size == N


def test_recorded_layer_norm_cell_is_refused():
    """The file has TensorFlow's own variables of a LayerNormBasicLSTMCell, which has no bias."""
    variables = Oracle("tf1/contrib_LayerNormBasicLSTMCell.npz").variables()
    message = r"without layer normalisation; got .*/input/gamma, .*\. It normalises its gates at every step"
    for options in ({}, {"prefix": "layer_norm_basic_lstm_cell"}):
        with pytest.raises(ValueError, match=message):
            convert.from_tf1(variables, **options)


@pytest.mark.parametrize("scope", ["rnn/layer_norm_basic_lstm_cell", "layer_norm_basic_lstm_cell_1"])
def test_layer_norm_cells_without_it_are_found(scope):
    """With layer_norm=False, tf.contrib's LayerNormBasicLSTMCell has a bias, and BasicLSTMCell's formula."""
    variables = {**tf1_cell(scope), "dense/kernel": np.zeros((N, 8), "f4"), "dense/bias": np.zeros(8, "f4")}
    assert_equal(convert.from_tf1(variables), convert.from_tf1(tf1_cell()))


@pytest.mark.parametrize("scope", ["rnn/indy_lstm_cell", "rnn/mine"])
@pytest.mark.parametrize("is_named", [False, True])
def test_indy_cells_are_named(scope, is_named):
    """IndyLSTMCell's recurrent weights are vectors: kernel_w (I, 4N), kernel_u (1, 4N)."""
    shapes = {"kernel_w": (I, 4 * N), "kernel_u": (1, 4 * N), "bias": (4 * N,)}
    variables = {f"{scope}/{name}": np.zeros(shape, "f4") for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=r"indy_lstm_cell|IndyLSTMCell"):
        convert.from_tf1(variables, scope if is_named else None)


OLD_NAMES = {
    ("lstm/basic_lstm_cell", "weights", "biases"): "Before TensorFlow 1.2",
    ("RNN/BasicLSTMCell/Linear", "Matrix", "Bias"): "Before TensorFlow 1.0",
    ("RNN/LSTMCell", "W_0", "B"): "In an LSTMCell before TensorFlow 1.0",
}


@pytest.mark.parametrize(("names", "when"), OLD_NAMES.items())
@pytest.mark.parametrize("units", [3, 4])
@pytest.mark.parametrize("is_named", [False, True])
def test_names_of_old_tensorflows_are_explained(names, when, units, is_named):
    """The widths of 3 units are also those of a coupled cell of 4 units, whose kernel is W_0, too."""
    (scope, kernel, bias), cell = names, tf1_cell("cell", I + units, units)
    old = {f"{scope}/{kernel}": cell["cell/kernel"], f"{scope}/{bias}": cell["cell/bias"]}
    message = f"{when}, kernel and bias were called {kernel} and {bias}: rename those of the cell"
    with pytest.raises(ValueError, match=message):
        convert.from_tf1(old, scope if is_named else None)
    renamed = {name.replace(kernel, "kernel").replace(bias, "bias"): array for name, array in old.items()}
    assert_equal(convert.from_tf1(renamed, scope), convert.from_tf1(cell, "cell"))


def test_hard_sigmoid_is_keras_2s():
    assert convert.from_tf1(tf1_cell(), activation="hard_sigmoid").activation == ("hard_sigmoid", 0.2, 0.5)
    assert convert.from_tf1(tf1_cell(), activation=("leaky_relu", 0.2)).activation == ("leaky_relu", 0.2)
    for nothing in ("", (), 0, False):
        with pytest.raises(ValueError, match="activation: wanted one of 'tanh'"):
            convert.from_tf1(tf1_cell(), activation=nothing)


def block(**more):
    rng = np.random.default_rng(3)
    arrays = {"w": rng.normal(size=(I + N, 4 * N)), "b": rng.normal(size=4 * N), **more}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def block_peepholes():
    return {"wci": np.full(N, 1.0), "wcf": np.full(N, 2.0), "wco": np.full(N, 3.0)}


@pytest.mark.parametrize("read", [convert.from_block_lstm, convert.from_block_lstm_v2])
def test_block_operations_are_read(read):
    """Test peepholes and clips. A clip of 0 or less clips nothing."""
    weights = read(**block(**block_peepholes()), use_peephole=True, cell_clip=0.5)
    assert (weights.peephole[:, 0].tolist(), weights.cell_clip) == ([1, 2, 3], 0.5)
    assert read(**block(**block_peepholes()), use_peephole=False).peephole is None
    for clip in (0, -1.0):
        assert read(**block(), cell_clip=clip).cell_clip is None
    for options, error, message in (
        ({"wci": 1.0}, ValueError, "use_peephole: wanted True or False with wci; got None. The operation"),
        ({"use_peephole": True, "wco": 1}, ValueError, "use_peephole: wanted False .*; got True without wci, wcf"),
        ({"use_peephole": 1}, TypeError, "use_peephole: wanted a bool"),
        ({"cell_clip": None}, TypeError, "cell_clip: wanted a number; got None"),
        ({"b": np.ones(7, np.float32)}, ValueError, r"b: wanted shape \(4N,\) = \(16,\)"),
        ({"w": None}, TypeError, "w: wanted"),
    ):
        with pytest.raises(error, match=message):
            read(**{**block(), **options})


def test_block_order_of_gates():
    """The documented order i, c, f, o is i, g, f, o here. BlockLSTMV2 has i, f, g, o, and adds no bias."""
    given = block()
    first, second = convert.from_block_lstm(**given, forget_bias=0.0), convert.from_block_lstm_v2(**given)
    assert (first.cell_clip, second.cell_clip) == (3.0, None)
    np.testing.assert_array_equal(second.bias, given["b"])
    np.testing.assert_array_equal(second.weight_ih, given["w"][:I].T)
    np.testing.assert_array_equal(first.bias.reshape(4, N), given["b"].reshape(4, N)[[0, 2, 1, 3]])
    added = convert.from_block_lstm(**given).bias - first.bias
    np.testing.assert_allclose(added, np.repeat([0.0, 1.0, 0.0, 0.0], N), atol=1e-6)


options_of_cells = st.fixed_dictionaries(
    {
        "proj_size": st.sampled_from([None, 1, 5]),
        "peephole": st.booleans(),
        "cell_clip": st.sampled_from([None, 0.0, 0.5]),
        "activation": st.sampled_from(["tanh", "relu", "softplus", ("hard_sigmoid", 0.2, 0.5)]),
        "dtype": st.sampled_from(DTYPES),
    }
)


def from_theirs(weights, options, **more):
    """Convert weights to TensorFlow's variables, which hold no options, and back."""
    variables = convert.to_tf1(weights, **more)
    names = ("cell_clip", "proj_clip", "activation")
    return convert.from_tf1(
        variables,
        more.get("prefix"),
        more.get("forget_bias", 0.0),
        **{name: options[name] for name in names if name in options},
    )


@given(options=options_of_cells, zeros=st.lists(st.tuples(st.integers(0, 4 * N - 1), st.sampled_from([0.0, -0.0]))))
def test_tf1_round_trip(options, zeros):
    """Keep every bit, signs of zeros included."""
    if options["proj_size"]:
        options["proj_clip"] = 0.25
    weights = LSTMWeights.random(I, N, seed=1, **options)
    bias = np.array(weights.bias)
    for k, zero in zeros:
        bias[k] = zero
    weights = LSTMWeights(**weights.arrays() | {"bias": bias}, **weights.options())
    for prefix in ("", "rnn/lstm_cell"):
        assert_same(from_theirs(weights, options, prefix=prefix), weights)


@given(options=options_of_cells, number=st.integers(1, 12), bidirectional=st.booleans())
def test_tf1_layers_round_trip(options, number, bidirectional):
    weights = StackedWeights.random(I, N, number, seed=1, bidirectional=bidirectional, **options)
    assert_same(from_theirs(weights, options), weights)
    assert_same(from_theirs(weights, options, prefix="policy/rnn"), weights)


@given(forget_bias=st.floats(-8, 8), dtype=st.sampled_from(DTYPES))
def test_forget_bias_round_trip(forget_bias, dtype):
    """The error is at most one unit in the last place of the largest number involved."""
    weights = LSTMWeights.random(I, N, seed=1, dtype=dtype)
    variables = convert.to_tf1(weights, forget_bias=forget_bias)
    again = convert.from_tf1(variables, forget_bias=forget_bias)
    largest = max(np.abs(weights.bias).max(), np.abs(variables["bias"]).max(), abs(dtype(forget_bias)))
    unit = float(np.spacing(largest.astype(np.float32 if dtype is ml_dtypes.bfloat16 else dtype)))
    unit *= 2.0**16 if dtype is ml_dtypes.bfloat16 else 1.0  # bfloat16 has 8 of float32's 24 bits
    difference = again.bias.astype(float) - weights.bias.astype(float)
    assert np.abs(difference).max() <= unit
    assert not difference.reshape(4, N)[[0, 2, 3]].any()


def test_exported_names():
    """Names are those of TensorFlow 1.15."""
    assert list(convert.to_tf1(LSTMWeights.random(I, N, seed=0, peephole=True, proj_size=P), prefix="a/b/")) == [
        f"a/b/{name}" for name in ("kernel", "bias", "w_i_diag", "w_f_diag", "w_o_diag", "projection/kernel")
    ]
    for scopes, number, bidirectional in ((MULTI, 3, False), (BOTH, 1, True), (STACK, 2, True)):
        weights = StackedWeights.random(I, N, number, seed=0, bidirectional=bidirectional)
        names = [f"{scope.removeprefix('rnn/')}/{name}" for scope in scopes for name in ("kernel", "bias")]
        assert list(convert.to_tf1(weights)) == names
    zeros = convert.to_tf1(LSTMWeights.random(I, N, seed=0, bias=False))["bias"]
    np.testing.assert_array_equal(zeros, np.zeros(4 * N))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coupled_gate": "input"}, "coupled_gate: wanted None, as TensorFlow 1's LSTMCell supports .* another cell"),
        ({"gate_clip": 1.0}, "gate_clip: wanted None, as TensorFlow 1's LSTMCell supports nothing else; got 1.0"),
        ({"gate_activation": "relu"}, "gate_activation: wanted 'sigmoid'"),
        ({"output_activation": "relu"}, "output_activation: wanted None"),
        ({"zoneout_c": 0.1}, "zoneout_c: wanted 0.0, as TensorFlow 1's LSTMCell supports nothing else; got 0.1"),
        ({"zoneout_h": 0.1}, "zoneout_h: wanted 0.0, as TensorFlow 1's LSTMCell supports nothing else; got 0.1"),
    ],
)
def test_export_refuses(options, message):
    weights = LSTMWeights.random(I, N, seed=0, **options)
    for function in (convert.to_tf1, convert.tf1_arguments):
        with pytest.raises(ValueError, match=f"^{message}"):
            function(weights)
        layers = StackedWeights([LSTMWeights.random(I, I, seed=0), weights])
        with pytest.raises(ValueError, match=f"^multi_rnn_cell/cell_1/lstm_cell: {message}"):
            function(layers)


def test_export_bad_arguments():
    weights = LSTMWeights.random(I, N, seed=0)
    for value, options, error, message in (
        ({}, {}, TypeError, "weights: wanted an LSTMWeights or a StackedWeights; got dict"),
        (weights, {"prefix": None}, TypeError, "prefix: wanted the name of a scope; got None"),
        (weights, {"forget_bias": "1"}, TypeError, "forget_bias: wanted a number"),
    ):
        with pytest.raises(error, match=message):
            convert.to_tf1(value, **options)
    with pytest.raises(
        ValueError, match="activation: wanted one that TensorFlow has a name for; got .*your own function"
    ):
        convert.tf1_arguments(LSTMWeights.random(I, N, seed=0, activation=("leaky_relu", 0.1)))


def test_tf1_arguments():
    weights = LSTMWeights.random(
        I, N, seed=0, proj_size=P, peephole=True, cell_clip=0.0, proj_clip=0.5, activation=("hard_sigmoid", 0.2, 0.5)
    )
    wanted = {"num_units": N, "use_peepholes": True, "cell_clip": 0.0, "num_proj": P, "proj_clip": 0.5}
    wanted |= {"activation": "hard_sigmoid", "forget_bias": 1.0}
    assert convert.tf1_arguments(weights, forget_bias=1.0) == wanted
    assert convert.tf1_arguments(StackedWeights([weights]), forget_bias=1.0) == [wanted]


CHECKPOINT = FOLDER / "tf1" / "checkpoint_multi2"


def test_archive_of_a_checkpoint(backend):
    """The archive has all variables of a TensorFlow 1.15 checkpoint, including strings."""
    weights = convert.from_tf1(CHECKPOINT / "variables.npz")
    assert (weights.num_layers, weights.layers[0].proj_size, weights.dtype) == (2, 2, np.float32)
    oracle = Oracle("tf1/checkpoint_multi2/outputs.npz")
    lstm = LSTM(weights, backend=backend)
    outputs, states = lstm(lstm.asarray(oracle["x"]))
    for name, got in (("y", outputs), *((f"final_l{k}_c", state.c) for k, state in enumerate(states))):
        assert np.abs(host(got) - oracle[name]).max() <= 3 * oracle.tolerance, name


def test_list_tf1():
    """The list has all that a caller needs to choose a cell."""
    scopes = [f"rnn/multi_rnn_cell/cell_{k}/lstm_cell" for k in range(2)]
    head = TF1Cell("head", 3, 1, 1, peephole=False, coupled=False)  # it may be a cell
    layers = [
        TF1Cell(scopes[0], 3, 4, 2, peephole=True, coupled=False),
        TF1Cell(scopes[1], 2, 4, 4, peephole=False, coupled=False),
    ]
    assert convert.list_tf1(str(CHECKPOINT / "variables.npz")) == [head, *layers]
    (refused,) = convert.list_tf1(Oracle("tf1/contrib_LayerNormBasicLSTMCell.npz").variables())
    assert (refused.input_size, "without layer normalisation" in refused.refused) == (None, True)
    (coupled,) = convert.list_tf1(coupled_cell())
    assert (coupled.coupled, coupled.hidden_size) == (True, N)


def test_damaged_archives_raise(tmp_path):
    whole = (CHECKPOINT / "variables.npz").read_bytes()
    path = tmp_path / "variables.npz"
    for content in (b"", whole[:1000], b"PK" + bytes(100), b"text"):
        path.write_bytes(content)
        with pytest.raises(WeightsFileError, match=r"variables\.npz is"):
            convert.from_tf1(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("lstm_cell/kernel.npy", b"\x93NUMPY\x01\x00")
        archive.writestr("lstm_cell/bias.npy", b"")
    for read in (convert.from_tf1, convert.list_tf1):
        with pytest.raises(WeightsFileError, match=r"variables\.npz is damaged: lstm_cell"):
            read(path)


def test_missing_checkpoints_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file, and no such checkpoint .*model\.ckpt-1"):
        convert.from_tf1(tmp_path / "model.ckpt-1")
    (tmp_path / "model.ckpt-1.index").touch()
    (tmp_path / "saved").mkdir()
    with pytest.raises(FileNotFoundError, match=r"No latest checkpoint found: .* \(there is none\)"):
        convert.from_tf1(tmp_path / "saved")
    with pytest.raises(FileNotFoundError, match=r"No latest checkpoint found: .* \(model\.ckpt-1\.index\)"):
        convert.from_tf1(tmp_path)


@pytest.mark.parametrize("name", ["", "/model.ckpt-7", "/model.ckpt-7.index", "/model.ckpt-7.data-00000-of-00001"])
def test_checkpoints_without_tensorflow(name, monkeypatch):
    """The error shows a way without TensorFlow."""
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    named = "checkpoint_multi2'" if not name else "model.ckpt-7'"
    message = rf"read through TensorFlow, .*pass its variables\.npz: .*load_checkpoint\('.*{named}\)"
    with pytest.raises(ImportError, match=f"(?s){message}"):
        convert.from_tf1(f"{CHECKPOINT}{name}")


def test_layers_in_a_file_must_fit_together(tmp_path):
    variables = convert.to_tf1(StackedWeights.random(2, 3, 2, seed=0))
    first, second = sorted(name for name in variables if name.endswith("kernel"))
    variables[second] = np.zeros((9, 12), np.float32)
    np.savez(tmp_path / "v.npz", **variables)
    with pytest.raises(WeightsFileError, match=r"v\.npz: layers\[1\]: wanted input_size 3 .*; got 6"):
        convert.from_tf1(tmp_path / "v.npz")
    with pytest.raises(ValueError, match=r"^layers\[1\]: wanted input_size 3"):
        convert.from_tf1(variables)


def test_path_of_variables_may_be_bytes(tmp_path):
    np.savez(tmp_path / "v.npz", **convert.to_tf1(LSTMWeights.random(2, 3, seed=0)))
    path = os.fsencode(tmp_path / "v.npz")
    assert convert.list_tf1(path) == convert.list_tf1(tmp_path / "v.npz")
    assert_equal(convert.from_tf1(path), convert.from_tf1(tmp_path / "v.npz"))


class OpError(Exception):
    """An error like TensorFlow's, which isn't a subclass of OSError or ValueError."""


class FakeTensorFlow:
    """A TensorFlow whose checkpoint reader raises an error in one function."""

    float32 = types.SimpleNamespace(size=4)

    def __init__(self, error, at):
        self.error, self.at, self.train = error, at, self

    def _get(self, what, value):
        if what == self.at:
            raise self.error
        return value

    def latest_checkpoint(self, folder):
        return self._get("latest", f"{folder}/model.ckpt-7")

    def load_checkpoint(self, path):
        return self._get("load", self)

    def get_variable_to_shape_map(self):
        return self._get("shapes", {"lstm_cell/kernel": [1, 4], "lstm_cell/bias": [4]})

    def get_variable_to_dtype_map(self):
        return self._get("dtypes", dict.fromkeys(("lstm_cell/kernel", "lstm_cell/bias"), self.float32))

    def get_tensor(self, name):
        return self._get("tensor", name)


READER_ERRORS = [
    OpError("not found"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
    OverflowError("too large"),
    AssertionError("never"),
    RecursionError("too deep"),
]


@pytest.mark.parametrize("function", [convert.from_tf1, convert.list_tf1])
@pytest.mark.parametrize("error", READER_ERRORS, ids=[type(error).__name__ for error in READER_ERRORS])
@pytest.mark.parametrize("at", ["latest", "load", "shapes", "dtypes", "tensor"])
def test_checkpoint_reader_errors_are_named(at, error, function, monkeypatch):
    """Any error that TensorFlow raises about a checkpoint becomes a WeightsFileError."""
    monkeypatch.setitem(sys.modules, "tensorflow", FakeTensorFlow(error, at))
    with pytest.raises(WeightsFileError, match="checkpoint_multi2") as caught:
        function(CHECKPOINT)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()], ids=["KeyboardInterrupt", "MemoryError"])
@pytest.mark.parametrize("at", ["latest", "load", "shapes", "dtypes", "tensor"])
def test_interrupts_propagate_from_checkpoints(at, error, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", FakeTensorFlow(error, at))
    with pytest.raises(type(error)):
        convert.from_tf1(CHECKPOINT)
