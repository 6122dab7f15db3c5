"""Importing weights: what is found, what is refused. Numbers are in test_oracles.py."""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, convert

I, N, P = 3, 4, 2


def tf1_cell(scope="rnn/lstm_cell", rows=I + N, units=N, dtype=np.float32, **more):
    rng = np.random.default_rng(0)
    variables = {"kernel": rng.normal(size=(rows, 4 * units)), "bias": rng.normal(size=4 * units), **more}
    return {f"{scope}/{name}": np.asarray(value, dtype) for name, value in variables.items()}


def peepholes():
    return {f"w_{gate}_diag": np.full(N, value) for gate, value in (("i", 1), ("f", 2), ("o", 3))}


def test_tf1_gates_and_forget_bias():
    """Columns i, g, f, o become rows i, f, g, o; the forget bias goes into the bias."""
    kernel = np.repeat(np.arange(4.0), N)[None].repeat(I + N, axis=0)
    kernel[:I] += 10
    weights = convert.from_tf1({"lstm_cell/kernel": kernel, "lstm_cell/bias": np.repeat(np.arange(4.0), N)})
    assert weights.weight_ih[:, 0].tolist() == [10] * N + [12] * N + [11] * N + [13] * N
    assert weights.weight_hh[:, 0].tolist() == [0] * N + [2] * N + [1] * N + [3] * N
    assert weights.bias.tolist() == [0] * N + [3] * N + [1] * N + [3] * N


def test_tf1_checkpoint_with_everything_else():
    """Slots of optimisers, counters, dense layers and averages beside one cell."""
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


def test_tf1_prefix_picks_one_of_several():
    first, second = (
        tf1_cell("rnn/multi_rnn_cell/cell_0/lstm_cell"),
        tf1_cell("rnn/multi_rnn_cell/cell_1/lstm_cell", units=5, rows=9),
    )
    with pytest.raises(
        ValueError,
        match="variables: wanted one LSTM cell; got 2 of them. Give prefix= one of "
        "'rnn/multi_rnn_cell/cell_0/lstm_cell', 'rnn/multi_rnn_cell/cell_1/lstm_cell'",
    ):
        convert.from_tf1({**first, **second})
    weights = convert.from_tf1({**first, **second}, "rnn/multi_rnn_cell/cell_1/lstm_cell")
    assert (weights.input_size, weights.hidden_size) == (4, 5)


def test_tf1_own_scope_names():
    """A cell made with a name is found by its prefix, or where only an LSTM has such variables."""
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


def test_tf1_proj_clip_without_projection_has_no_effect():
    """As in TensorFlow, which ignores it there."""
    assert convert.from_tf1(tf1_cell(), proj_clip=0.5).proj_clip is None


def test_tf1_scopes_that_tensorflow_names_are_cells():
    """A cell with a name of its own, in a scope of dynamic_rnn, beside a dense layer called something with lstm."""
    cell = tf1_cell("enc/rnn/my_cell")
    dense = {"lstm_fc/kernel": np.zeros((64, 16), np.float32), "lstm_fc/bias": np.zeros(16, np.float32)}
    assert convert.from_tf1({**cell, **dense}).input_size == I
    with pytest.raises(ValueError, match="got 2 of them. Give prefix= one of 'enc/rnn/my_cell', 'lstm_cell'"):
        convert.from_tf1({**cell, **tf1_cell("lstm_cell")})


@pytest.mark.parametrize("options", [{}, {"prefix": "lstm"}])
def test_tf1_keras_layers_are_refused(options):
    """Their kernel is that of x alone, and looks like one of x and h."""
    variables = {
        "lstm/kernel": np.zeros((64, 128)),
        "lstm/recurrent_kernel": np.zeros((32, 128)),
        "lstm/bias": np.zeros(128),
    }
    with pytest.raises(
        ValueError, match=r"recurrent_kernel is Keras', .*LSTMWeights\(kernel\.T, recurrent_kernel\.T, bias"
    ):
        convert.from_tf1(variables, **options)


def test_tf1_reads_only_what_it_needs():
    """Checkpoints hold strings too, and embeddings of gigabytes."""

    class Lazy(dict):
        def __getitem__(self, name):
            assert name.split("/")[0] in ("rnn", "dense"), f"{name} was read"
            return super().__getitem__(name)

    others = {"vocabulary/keys": np.array(["a", "b"], object), "embedding": None, "dense/kernel": np.zeros((3, 7))}
    assert convert.from_tf1(Lazy({**tf1_cell(), **others})).hidden_size == N


def test_tf1_normalised_neighbours_are_no_obstacle():
    """Batch normalisation next to a cell; only a cell's own sub-scopes tell of layer normalisation."""
    variables = {**tf1_cell("model"), "model/bn/gamma": np.ones(3), "model/bn/beta": np.ones(3)}
    assert convert.from_tf1(variables, "model").hidden_size == N


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"variables": [1, 2]}, TypeError, "variables: wanted a mapping of names to arrays; got list"),
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
        (tf1_cell(), {"prefix": "lstm"}, "wanted one named 'lstm/kernel'; .*Cells may be at 'rnn/lstm_cell'"),
        (tf1_cell(), {"num_proj": 3}, "num_proj: wanted None, as there is no rnn/lstm_cell/projection/kernel; got 3"),
        (tf1_cell(rows=I + P, **{"projection/kernel": np.ones((N, P))}), {"num_proj": 3}, "num_proj: wanted 2"),
        (tf1_cell(**{"projection/kernel": np.ones((5, P))}), {}, r"projection/kernel: wanted shape \(N, P\)"),
        (tf1_cell(), {"use_peepholes": True}, "use_peepholes: wanted False"),
        (tf1_cell(**peepholes()), {"use_peepholes": False}, "use_peepholes: wanted True"),
        (tf1_cell(w_i_diag=np.ones(N)), {}, "no rnn/lstm_cell/w_f_diag"),
        (tf1_cell(**{**peepholes(), "w_o_diag": np.ones(5)}), {}, r"w_o_diag: wanted shape \(N,\) = \(4,\)"),
        (tf1_cell(rows=2), {}, "with P = 4 rows for h at least"),
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


def torch_parameters(suffix="", dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = {"weight_ih": (4 * N, I), "weight_hh": (4 * N, N), "bias_ih": (4 * N,), "bias_hh": (4 * N,)}
    return {name + suffix: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def test_torch_state_dict():
    parameters = torch_parameters()
    weights = convert.from_torch(parameters)
    np.testing.assert_array_equal(weights.bias, parameters["bias_ih"] + parameters["bias_hh"])
    np.testing.assert_array_equal(weights.weight_hh, parameters["weight_hh"])


def torch_layer(number, I=I, **options):
    """Parameters of one layer, both directions unless told, each with numbers of its own."""
    suffixes = options.pop("suffixes", (f"_l{number}", f"_l{number}_reverse"))
    parameters = {}
    for seed, suffix in enumerate(suffixes):
        rng = np.random.default_rng([number, seed])
        shapes = {"weight_ih": (4 * N, I), "weight_hh": (4 * N, N), "bias_ih": (4 * N,), "bias_hh": (4 * N,)}
        parameters |= {name + suffix: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return parameters


def test_torch_layers_by_number():
    parameters = {**torch_layer(0), **torch_layer(1, 2 * N)}
    for layer in (0, 1):
        for reverse, suffix in ((False, f"_l{layer}"), (True, f"_l{layer}_reverse")):
            weights = convert.from_torch(parameters, layer=layer, reverse=reverse)
            assert isinstance(weights, LSTMWeights)
            np.testing.assert_array_equal(weights.weight_ih, parameters["weight_ih" + suffix])
            np.testing.assert_array_equal(weights.bias, parameters["bias_ih" + suffix] + parameters["bias_hh" + suffix])
    with pytest.raises(ValueError, match="source: wanted a parameter 'weight_ih_l2'"):
        convert.from_torch(parameters, layer=2)


def test_torch_all_layers():
    """Their number and directions are read off the names, in whatever order these come."""
    parameters = {**torch_layer(1, 2 * N), **torch_layer(0)}
    weights = convert.from_torch(parameters)
    assert isinstance(weights, StackedWeights)
    assert (weights.num_layers, weights.bidirectional, weights.residual) == (2, True, (False, False))
    for one, suffix in zip(weights.layers, ("_l0", "_l0_reverse", "_l1", "_l1_reverse"), strict=True):
        np.testing.assert_array_equal(one.weight_hh, parameters["weight_hh" + suffix])
    within = {f"encoder.{name}": p for name, p in parameters.items()} | {"head.weight_ih_l5": np.zeros(3)}
    within["encoder.weight_ih_l7_orig"] = np.zeros(3)  # a layer of none, as nothing but its beginning is one's
    assert convert.from_torch(within, prefix="encoder").num_layers == 2


def test_torch_eleven_layers_keep_their_order():
    parameters = {}
    for number in (10, *range(10)):
        parameters |= torch_layer(number, I if number == 0 else N, suffixes=(f"_l{number}",))
    weights = convert.from_torch(parameters)
    assert (weights.num_layers, weights.bidirectional) == (11, False)
    for number, one in enumerate(weights.layers):
        np.testing.assert_array_equal(one.weight_hh, parameters[f"weight_hh_l{number}"])


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("weight_ih_l0", "source: wanted a parameter 'weight_ih_l0'"),
        ("weight_hh_l1_reverse", "source: wanted a parameter 'weight_hh_l1_reverse'"),
        ("bias_hh_l0_reverse", "source: wanted both biases or none; got one of bias_ih_l0_reverse and bias_hh_l0_rev"),
    ],
)
def test_torch_incomplete_layers(missing, message):
    parameters = {**torch_layer(0), **torch_layer(1, 2 * N)}
    del parameters[missing]
    with pytest.raises(ValueError, match=message):
        convert.from_torch(parameters)


def test_torch_layers_that_do_not_fit_together():
    with pytest.raises(ValueError, match=r"layers\[2\] \(layer 1, forward\): wanted input_size 8 .*; got 4"):
        convert.from_torch({**torch_layer(0), **torch_layer(1, N)})


@pytest.mark.parametrize("prefix", ["encoder.cell", "encoder.cell."])
def test_torch_prefix(prefix):
    """The LSTM of a larger model; which there are is listed."""
    parameters = {f"encoder.cell.{name}": p for name, p in torch_parameters().items()} | {
        "head.weight": np.zeros((2, 4))
    }
    assert convert.from_torch(parameters, prefix=prefix).hidden_size == N
    with pytest.raises(ValueError, match=r"a parameter 'weight_ih'; got .*Give prefix= one of 'encoder\.cell\.'"):
        convert.from_torch(parameters)
    with pytest.raises(ValueError, match=r"a parameter 'head\.weight_ih'"):
        convert.from_torch(parameters, prefix="head")


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (3, {}, TypeError, "source: wanted a torch.nn.LSTMCell or LSTM, or its state_dict; got int"),
        ({}, {}, ValueError, "source: wanted a parameter 'weight_ih'; got nothing"),
        ({1: 2}, {}, ValueError, "source: wanted a parameter 'weight_ih'; got 1"),
        (torch_parameters(), {"reverse": True}, ValueError, "layer: wanted a number with reverse=True"),
        (torch_parameters(), {"layer": -1}, ValueError, "layer"),
        (
            {**torch_parameters(), "bias_hh": np.ones(3)},
            {},
            ValueError,
            "bias_hh: wanted the shape and dtype of bias_ih",
        ),
        ({k: v for k, v in torch_parameters().items() if k != "bias_hh"}, {}, ValueError, "both biases or none"),
        ({**torch_parameters(), "weight_hh": np.ones((16, 4))}, {}, TypeError, "weight_hh: wanted dtype float32"),
    ],
)
def test_torch_refuses(source, options, error, message):
    with pytest.raises(error, match=message):
        convert.from_torch(source, **options)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bias", [True, False])
def test_torch_modules(dtype, bias):
    """Against the installed PyTorch itself: modules that require grad, in every dtype."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    module = torch.nn.LSTMCell(5, 6, bias=bias, dtype=getattr(torch, dtype))
    x, h = torch.randn(2, 3, 5, dtype=module.weight_ih.dtype)[0], torch.randn(3, 6, dtype=module.weight_ih.dtype)
    c = torch.randn(3, 6, dtype=module.weight_ih.dtype)
    with torch.inference_mode():
        wanted_h, wanted_c = module(x, (h, c))
    cell = LSTMCell(convert.from_torch(module), backend="numpy")
    c_dtype = cell.zero_state(0).c.dtype
    got = cell(cell.asarray(x), LSTMState(h=cell.asarray(h), c=cell.asarray(c, c_dtype)))
    tolerance = {"float64": 1e-12, "float32": 3e-6, "float16": 8e-3, "bfloat16": 6e-2}[dtype]
    for ours, theirs in ((got.h, wanted_h), (got.c, wanted_c)):
        assert np.abs(ours.astype(float) - theirs.double().numpy()).max() <= tolerance


def test_torch_projecting_layer():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    module = torch.nn.LSTM(5, 6, proj_size=2, dtype=torch.float64)
    xs = torch.randn(4, 3, 5, dtype=torch.float64)
    with torch.inference_mode():
        outputs, (_, c) = module(xs)
    cell = LSTMCell(convert.from_torch(module, layer=0), backend="numpy")
    state = cell.zero_state(3)
    for x, wanted in zip(cell.asarray(xs), outputs, strict=True):
        state = cell(x, state)
        assert np.abs(state.h - wanted.numpy()).max() < 1e-12
    assert np.abs(state.c - c[0].numpy()).max() < 1e-12


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 3, "dropout": 0.5},
        {"num_layers": 2, "bias": False},
        {"num_layers": 2, "proj_size": 2, "bidirectional": True},
        {"bidirectional": True, "batch_first": True},
    ],
)
def test_torch_lstm(options):
    """Against the installed PyTorch: the module and its state_dict, all layers and directions."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    module = torch.nn.LSTM(5, 6, **options, dtype=torch.float64).eval()
    xs = torch.randn(4, 3, 5, dtype=torch.float64)
    L = module.num_layers * (2 if module.bidirectional else 1)
    h0, c0 = (torch.randn(L, 3, P, dtype=torch.float64) for P in (module.proj_size or 6, 6))
    with torch.inference_mode():
        given = xs.transpose(0, 1) if module.batch_first else xs
        outputs, (h, c) = module(given, (h0, c0))
        outputs = outputs.transpose(0, 1) if module.batch_first else outputs
    for source in (module, module.state_dict()):
        weights = convert.from_torch(source)
        assert isinstance(weights, StackedWeights)
        assert (weights.num_layers, weights.bidirectional) == (module.num_layers, module.bidirectional)
        states = [LSTMState(h=h0[k].numpy(), c=c0[k].numpy()) for k in range(L)]
        got, finals = LSTM(weights, backend="numpy")(xs.numpy(), states)
        assert np.abs(got - outputs.numpy()).max() < 1e-12
        for k, state in enumerate(finals):
            assert np.abs(state.h - h[k].numpy()).max() < 1e-12
            assert np.abs(state.c - c[k].numpy()).max() < 1e-12


def test_torch_batch_first_is_warned_of(caplog):
    """... once it can be known, as weights don't say it."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    convert.from_torch(torch.nn.LSTM(2, 3))
    assert not caplog.records
    convert.from_torch(torch.nn.LSTM(2, 3, batch_first=True))
    assert "use LSTM(weights, batch_first=True)" in caplog.text


def test_converted_weights_save_and_load(tmp_path):
    weights = convert.from_tf1(tf1_cell(**peepholes()), cell_clip=0.5)
    weights.save(tmp_path / "w")
    np.testing.assert_array_equal(LSTMWeights.load(tmp_path / "w").peephole, weights.peephole)
