"""Flax, Haiku and Equinox: recorded outputs, and comparisons with the installed libraries."""

import itertools
import re
import sys
import types
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, convert
from fusedlstm.convert.checking import check
from fusedlstm.convert.trees import flatten, unflatten
from fusedlstm.convert.writing import write

from support.comparisons import assert_steps, state_on
from support.layouts import LAYOUTS, plant
from support.oracle_files import TOLERANCE, Oracle

I, N = 3, 4


def variables(oracle):
    """Return an oracle's arrays by path. Their names are paths as Python prints them: "['params']['hf']['bias']"."""
    arrays = {}
    for name, array in oracle.arrays.items():
        if name.startswith("W_"):
            arrays[tuple(re.findall(r"\['(.*?)'\]", name)) or name.removeprefix("W_.")] = array
    return arrays


@pytest.mark.parametrize(
    ("name", "importer"),
    [
        ("flax_linen_LSTMCell", "from_flax"),
        ("flax_nnx_OptimizedLSTMCell", "from_flax"),
        ("haiku_LSTM", "from_haiku"),
        ("equinox_LSTMCell_bias1", "from_equinox"),
    ],
)
def test_recorded_cells(name, importer, backend):
    oracle = Oracle(f"jax/{name}.npz")
    oracle.tolerance = TOLERANCE[str(oracle["x"].dtype)]  # meta doesn't have the dtype
    weights = getattr(convert, importer)(variables(oracle))
    assert weights.dtype == oracle["x"].dtype
    assert_steps(LSTMCell(weights, backend=backend), oracle)


def test_recorded_rnn_with_lengths(backend):
    oracle = Oracle("jax/flax_linen_RNN_fwd_len.npz")
    weights = convert.from_flax(variables(oracle))
    assert isinstance(weights, StackedWeights)
    lstm = LSTM(weights, backend=backend)
    xs = lstm.asarray(np.ascontiguousarray(oracle["x"].swapaxes(0, 1)))
    cell = LSTMCell(weights.layers[0], backend=backend)
    _, (final,) = lstm(xs, [state_on(cell, oracle["h0"], oracle["c0"])], lengths=oracle["lens"])
    final = final.to_numpy()
    assert np.abs(final.h - oracle["final_h"]).max() < 3e-12
    assert np.abs(final.c - oracle["final_c"]).max() < 3e-12


def assert_same(weights, wanted):
    """Assert that two LSTMWeights are equal, bit for bit."""
    assert weights.options() == wanted.options()
    ours, theirs = weights.arrays(), wanted.arrays()
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in ours.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in theirs.items()
    }


def cell(I=I, seed=0, **options):
    return LSTMWeights.random(I, N, seed=seed, **options)


@given(
    st.sampled_from(["linen", "nnx"]),
    st.integers(0, 4),
    st.integers(1, 4),
    st.sampled_from([np.float64, np.float32, np.float16, ml_dtypes.bfloat16]),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, -0.0]))),
)
def test_flax_round_trip(api, I, N, dtype, zeros):
    weights = LSTMWeights.random(I, N, seed=0, dtype=dtype)
    bias = np.array(weights.bias)
    for k, zero in zeros:
        bias[k] = zero
    weights = LSTMWeights(weights.weight_ih, weights.weight_hh, bias)
    assert_same(convert.from_flax(convert.to_flax(weights, api)), weights)


@pytest.mark.parametrize("api", ["linen", "nnx"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_flax_layers_round_trip(api, bidirectional):
    weights = StackedWeights.random(I, N, seed=0, bidirectional=bidirectional)
    again = convert.from_flax({"params": convert.to_flax(weights, api)})
    assert again.bidirectional == bidirectional
    for one, wanted in zip(again.layers, weights.layers, strict=True):
        assert_same(one, wanted)


@pytest.mark.parametrize("ending", ["", "/value"])
@pytest.mark.parametrize("separator", ["/", "."])
def test_names_in_files(separator, ending):
    """Paths in files are joined by "/" or ".", and may end in "value"."""
    wanted = StackedWeights([cell()])
    for api in ("linen", "nnx"):
        names = flatten("", {"net": {"rnn": convert.to_flax(wanted, api)}}, "/")
        source = {f"{name}{ending}".replace("/", separator): array for name, array in names.items()}
        for prefix in ("net/rnn", f"net{separator}rnn", f"net{separator}rnn{separator}"):
            assert_same(convert.from_flax(source, prefix).layers[0], wanted.layers[0])
        assert [name for name, _, _ in convert.list_flax(source)] == ["net/rnn/cell/"]


def test_missing_bias_becomes_zeros():
    assert not convert.from_flax(convert.to_flax(cell(bias=False))).bias.any()


def model():
    """Return the parameters of a larger linen model: two plain cells, a Bidirectional, and other layers."""
    return {
        "params": {
            "LSTMCell_0": convert.to_flax(cell()),
            "LSTMCell_1": convert.to_flax(cell(N, seed=1)),
            "backward": convert.to_flax(cell(seed=2)),
            "both": convert.to_flax(StackedWeights.random(I, N, seed=3, bidirectional=True)),
            "Dense_0": {"kernel": np.ones((N, 2), np.float32), "bias": np.ones(2, np.float32)},
        },
        "batch_stats": {"mean": np.ones(3)},
    }


@pytest.mark.parametrize("start", ["", "params/"])
def test_prefixes(start):
    assert_same(convert.from_flax(model(), f"{start}LSTMCell_1"), cell(N, seed=1))
    assert_same(convert.from_flax(model()["params"], "LSTMCell_1/"), cell(N, seed=1))
    flat = flatten("m", model(), "/")
    assert_same(convert.from_flax(flat, f"{start}LSTMCell_0"), cell())
    assert_same(convert.from_flax({tuple(name.split("/")): a for name, a in flat.items()}, "LSTMCell_0"), cell())
    layers = convert.from_flax(model(), [f"{start}LSTMCell_0", f"{start}LSTMCell_1"])
    assert (layers.num_layers, layers.bidirectional) == (2, False)
    assert_same(layers.layers[1], cell(N, seed=1))
    assert convert.from_flax(model(), "LSTMCell_0").hidden_size == N
    assert convert.from_flax(model(), ["LSTMCell_0"]).num_layers == 1
    both = convert.from_flax(model(), [("LSTMCell_0", "backward")])
    assert both.bidirectional
    assert_same(both.layers[1], cell(seed=2))
    assert convert.from_flax(model(), f"{start}both").bidirectional
    assert convert.from_flax(model(), f"{start}both/forward_rnn/cell").hidden_size == N
    assert_same(convert.from_flax(unflatten(flat, "/"), "LSTMCell_0"), cell())


def test_functions_are_arguments():
    """Parameters don't name their functions; the caller does."""
    options = {"activation": "relu", "gate_activation": ("hard_sigmoid", 1 / 6, 0.5)}
    weights = convert.from_flax(convert.to_flax(cell()), **options)
    assert (weights.activation, weights.gate_activation) == ("relu", ("hard_sigmoid", 1 / 6, 0.5))


def other(**shapes):
    return {name.replace("_", "/"): np.ones(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (
            3,
            {},
            TypeError,
            r"source: wanted Flax parameters \(nested mappings\), an nnx\.State or an nnx module; got int",
        ),
        ({}, {}, ValueError, "source: wanted a cell at ''; got nothing"),
        (
            model(),
            {},
            ValueError,
            r"source: wanted a cell at 'params/'; got .*Give prefix= of 'params/LSTMCell_0/' \(I=3",
        ),
        (model(), {"prefix": "lstm"}, ValueError, "source: wanted a cell at 'params/lstm/'"),
        (model(), {"prefix": []}, TypeError, "prefix: wanted a string, or a non-empty sequence; got list"),
        (model(), {"prefix": None}, TypeError, "prefix: wanted a string, or a non-empty sequence; got None"),
        (model(), {"prefix": [3]}, TypeError, r"prefix: wanted strings, or pairs of them for both directions; got 3"),
        (
            model(),
            {"prefix": [("both", "backward")]},
            ValueError,
            "prefix: wanted one direction at each prefix of a pair",
        ),
        (
            model(),
            {"prefix": ["both", "LSTMCell_0"]},
            ValueError,
            r"prefix\[1\]: wanted 2 directions, as in prefix\[0\]; got 1",
        ),
        (
            other(ir_kernel=(3, 4), if_kernel=(3, 4)),
            {},
            ValueError,
            "wanted an LSTMCell or OptimizedLSTMCell; got a GRUCell at ''",
        ),
        (other(ih_kernel=(3, 3, 2, 8), hh_kernel=(3, 3, 2, 8)), {}, ValueError, "got a ConvLSTMCell at ''"),
        (other(if_kernel=(3, 4), in_kernel=(3, 4)), {}, ValueError, "got an MGUCell"),
        (other(i_kernel=(3, 4), h_kernel=(4, 4)), {}, ValueError, "got a SimpleCell"),
        ({"dense_i/kernel": 1, "dense_i/bias": 1}, {}, ValueError, "got a GRUCell or SimpleCell"),
        (
            flatten("", {"c": convert.to_flax(cell())}, "/") | {"c/hg/kernel": np.ones((3, 3), np.float32)},
            {"prefix": "c"},
            ValueError,
            r"c/hg/kernel: wanted shape \(P, N\) = \(4, 4\); got",
        ),
        (convert.to_flax(cell()), {"activation": "gelu"}, ValueError, "activation: wanted one of"),
    ],
)
def test_from_flax_refuses(source, options, error, message):
    with pytest.raises(error, match=message):
        convert.from_flax(source, **options)


def test_list_flax():
    found = convert.list_flax(model() | {"gru": other(ir_kernel=(3, 4), if_kernel=(3, 4))})
    assert [name for name, _, _ in found] == [
        "params/LSTMCell_0/",
        "params/LSTMCell_1/",
        "params/backward/",
        "params/both/backward_rnn/cell/",
        "params/both/forward_rnn/cell/",
    ]
    assert found[1][1:] == (N, N)
    assert convert.list_flax(convert.to_flax(cell(), "nnx")) == [("", I, N)]


@pytest.mark.parametrize(
    ("weights", "api", "error", "message"),
    [
        (cell(), "jax", ValueError, "api: wanted one of 'linen', 'nnx'; got 'jax'"),
        ({}, "nnx", TypeError, "weights: wanted an LSTMWeights or a StackedWeights; got dict"),
        (cell(peephole=True), "nnx", ValueError, "peephole: wanted None, as Flax's LSTMCell supports nothing else"),
        (cell(proj_size=2), "nnx", ValueError, "weight_hr: wanted None"),
        (cell(cell_clip=1.0), "nnx", ValueError, "cell_clip: wanted None"),
        (cell(gate_clip=1.0), "nnx", ValueError, "gate_clip: wanted None"),
        (cell(coupled_gate="input"), "nnx", ValueError, "coupled_gate: wanted None"),
        (cell(activation="relu"), "nnx", ValueError, "activation: .*got 'relu'. Flax's parameters don't record it"),
        (cell(gate_activation="relu"), "nnx", ValueError, "gate_activation: .*Flax's parameters don't record it"),
        (cell(output_activation="relu"), "nnx", ValueError, "output_activation: wanted None"),
        (
            cell(zoneout_c=0.1),
            "nnx",
            ValueError,
            "zoneout_c: wanted 0.0, as Flax's LSTMCell supports nothing else; got 0.1",
        ),
        (cell(zoneout_h=0.1), "linen", ValueError, "zoneout_h: wanted 0.0"),
        (StackedWeights.random(I, N, 2, seed=0), "nnx", ValueError, "weights: wanted one layer; got 2 of them"),
        (StackedWeights.random(N, N, seed=0, residual=True), "nnx", ValueError, "residual: wanted False"),
    ],
)
def test_to_flax_refuses(weights, api, error, message):
    with pytest.raises(error, match=message):
        convert.to_flax(weights, api)


@pytest.fixture
def jax():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    with jax.enable_x64(True):
        yield jax


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def assert_one_step(weights, step):
    """Assert that step(x, h, c) of another library gives our next h and c, in float64."""
    x, h, c = numbers(5, weights.input_size), numbers(5, weights.hidden_size, seed=1), numbers(5, N, seed=2)
    got = LSTMCell(weights, backend="numpy")(x, LSTMState(h=h, c=c))
    for ours, theirs in zip((got.h, got.c), step(x, h, c), strict=True):
        np.testing.assert_allclose(ours, np.asarray(theirs), rtol=0, atol=1e-12)


def randomised(jax, tree):
    """Return the same tree with random float64 numbers. (Biases start as zeros.)"""
    leaves, form = jax.tree.flatten(tree)
    return jax.tree.unflatten(form, [jax.numpy.asarray(numbers(*a.shape, seed=k)) for k, a in enumerate(leaves)])


@pytest.fixture
def linen(jax):
    return pytest.importorskip("flax.linen", reason="Flax is not installed")


@pytest.mark.parametrize("name", ["LSTMCell", "OptimizedLSTMCell"])
@pytest.mark.parametrize("functions", [{}, {"activation_fn": "relu", "gate_fn": "hard_sigmoid"}])
def test_linen_cells(linen, jax, name, functions):
    module = getattr(linen, name)(N, **{key: getattr(linen, value) for key, value in functions.items()})
    zeros = np.zeros((5, N))
    params = randomised(jax, module.init(jax.random.key(0), (zeros, zeros), np.zeros((5, I))))
    options = {"activation": "relu", "gate_activation": ("hard_sigmoid", 1 / 6, 0.5)} if functions else {}
    weights = convert.from_flax(params, **options)

    def step(params):
        return lambda x, h, c: module.apply(params, (c, h), x)[0][::-1]

    assert_one_step(weights, step(params))
    if not functions:
        assert_one_step(weights, step({"params": convert.to_flax(weights)}))


def unrolled(layers, xs):
    """Return our outputs for batch-major inputs, as Flax takes them."""
    ys = xs.swapaxes(0, 1)
    for layer in layers:
        ys, _ = LSTM(layer, backend="numpy")(ys)
    return ys.swapaxes(0, 1)


def test_linen_layers(linen, jax):
    """Test an RNN and a Bidirectional by themselves, and in a model that names its layers."""

    def rnn(kind=linen.LSTMCell, **options):
        return linen.RNN(kind(N, param_dtype=np.float64), **options)

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            return rnn(linen.OptimizedLSTMCell)(linen.Bidirectional(rnn(), rnn())(rnn()(x)))

    xs = numbers(2, 6, I)
    for module in (rnn(), linen.Bidirectional(rnn(), rnn()), Model()):
        params = randomised(jax, module.init(jax.random.key(0), xs))
        if isinstance(module, Model):
            prefixes = [["LSTMCell_2"], [("LSTMCell_0", "LSTMCell_1")], ["OptimizedLSTMCell_0"]]  # in order of creation
            layers = [convert.from_flax(params, prefix) for prefix in prefixes]
        else:
            layers = [convert.from_flax(params)]
        np.testing.assert_allclose(unrolled(layers, xs), module.apply(params, xs), rtol=0, atol=1e-12)


def test_linen_other_cells(linen, jax):
    zeros = np.zeros((2, N))
    for name in ("GRUCell", "MGUCell", "SimpleCell"):
        params = getattr(linen, name)(N).init(jax.random.key(0), zeros, np.zeros((2, I)))
        with pytest.raises(ValueError, match=f"got an? {name} at 'params/'"):
            convert.from_flax(params)
    module, image = linen.ConvLSTMCell(N, (3, 3)), np.zeros((1, 5, 5, 2))
    carry = module.initialize_carry(jax.random.key(0), image.shape)
    with pytest.raises(ValueError, match="got a ConvLSTMCell at 'params/'"):
        convert.from_flax(module.init(jax.random.key(0), carry, image))


@pytest.fixture
def nnx(jax):
    return pytest.importorskip("flax.nnx", reason="Flax is not installed")


@pytest.mark.parametrize("name", ["LSTMCell", "OptimizedLSTMCell"])
@pytest.mark.parametrize(
    ("functions", "ours"),
    [
        ({}, ("tanh", "sigmoid")),
        ({"activation_fn": "soft_sign", "gate_fn": "hard_sigmoid"}, ("softsign", ("hard_sigmoid", 1 / 6, 0.5))),
        ({"activation_fn": "leaky_relu", "gate_fn": "softplus"}, (("leaky_relu", 0.01), "softplus")),
        ({"activation_fn": "elu", "gate_fn": "identity"}, ("elu", "linear")),
    ],
)
def test_nnx_cells(nnx, jax, name, functions, ours):
    """The module knows its functions; its State and pure dict don't."""
    chosen = {key: getattr(jax.nn, value) for key, value in functions.items()}
    module = getattr(nnx, name)(I, N, **chosen, param_dtype=np.float64, rngs=nnx.Rngs(0))
    nnx.update(module, randomised(jax, nnx.state(module)))

    def step(x, h, c):
        return module((c, h), x)[0][::-1]

    weights = convert.from_flax(module)
    assert (weights.activation, weights.gate_activation) == ours
    assert_one_step(weights, step)
    for source in (nnx.state(module), nnx.to_pure_dict(nnx.state(module))):
        again = convert.from_flax(source, activation=ours[0], gate_activation=ours[1])
        assert_same(again, weights)
    with pytest.raises(ValueError, match="activation: wanted .*, as in the module, or None; got 'relu'"):
        convert.from_flax(module, activation="relu")
    if name == "OptimizedLSTMCell" and not functions:
        other = LSTMWeights.random(I, N, seed=5, dtype="float64")
        nnx.update(module, convert.to_flax(other, "nnx"))
        assert_one_step(other, step)


def test_nnx_unknown_functions(nnx):
    module = nnx.LSTMCell(I, N, activation_fn=lambda x: x / 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="activation: wanted the name of the module's function, .*; got <function"):
        convert.from_flax(module)
    assert convert.from_flax(module, activation=("affine", 0.5, 0)).activation == ("affine", 0.5, 0.0)


def test_nnx_layers(nnx, jax):
    def rnn(width):
        cell = nnx.OptimizedLSTMCell(width, N, param_dtype=np.float64, rngs=nnx.Rngs(0))
        return nnx.RNN(cell, rngs=nnx.Rngs(0))

    class Model(nnx.Module):
        def __init__(self):
            self.layers = nnx.List([rnn(I), nnx.Bidirectional(rnn(N), rnn(N), rngs=nnx.Rngs(0))])
            self.head = nnx.Linear(2 * N, 2, rngs=nnx.Rngs(0))

    model = Model()
    params = nnx.state(model, nnx.Param)
    nnx.update(model, randomised(jax, params))
    xs = numbers(2, 6, I)
    wanted = np.asarray(model.layers[1](model.layers[0](xs)))
    first, both = (convert.from_flax(model, f"layers/{k}") for k in (0, 1))
    assert (first.bidirectional, both.bidirectional) == (False, True)
    np.testing.assert_allclose(unrolled([first, both], xs), wanted, rtol=0, atol=1e-12)
    for cell in (nnx.GRUCell, nnx.SimpleCell):
        with pytest.raises(ValueError, match="got a GRUCell or SimpleCell at ''"):
            convert.from_flax(cell(I, N, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"wanted a cell at ''.*prefix= of 'layers/0/cell/' \(I=3, N=4\)"):
        convert.from_flax(model)
    found = convert.from_flax(nnx.Dict(a=model.layers[1], head=model.head))
    for one, other in zip(found.layers, both.layers, strict=True):
        assert_same(one, other)


def test_the_only_flax_cell_is_found():
    """In linen's params, a cell, an RNN or a Bidirectional is found beside other layers."""
    weights, other = [LSTMWeights.random(I, N, seed=seed) for seed in range(2)]
    head = {"Dense_0": {"kernel": numbers(N, 2), "bias": numbers(2)}}
    cell, second = convert.to_flax(weights), convert.to_flax(other)
    found = convert.from_flax({"params": {"encoder": {"LSTMCell_0": cell}, **head}})
    assert_same(found, weights)
    found = convert.from_flax({"params": {"RNN_0": {"cell": cell}, **head}})
    assert isinstance(found, StackedWeights)
    assert_same(found.layers[0], weights)
    both = {"forward_rnn": {"cell": cell}, "backward_rnn": {"cell": second}}
    for source in ({"params": {"net": {"both": both}, **head}}, {"both": both}, both):
        found = convert.from_flax(source)
        assert found.bidirectional
        assert_same(found.layers[1], other)
    with pytest.raises(ValueError, match=r"Give prefix= of 'params/a/' \(I=3, N=4\), 'params/b/'"):
        convert.from_flax({"params": {"a": cell, "b": second}})


def test_nnx_merge_and_reverse(nnx, jax, caplog):
    def rnn(**options):
        return nnx.RNN(nnx.LSTMCell(I, N, rngs=nnx.Rngs(0)), **options)

    def concatenated(a, b):
        return jax.numpy.concatenate([a, b], axis=-1)

    assert convert.from_flax(nnx.Bidirectional(rnn(), rnn(), merge_fn=concatenated)).bidirectional
    for merge in (lambda a, b: a + b, lambda a, b: concatenated(b, a), lambda a, b: 1 / 0):
        model = nnx.Dict(both=nnx.Bidirectional(rnn(), rnn(), merge_fn=merge))
        with pytest.raises(ValueError, match=r"merge_fn of 'both/': wanted one that concatenates .* alone"):
            convert.from_flax(model, "both")
        assert convert.from_flax(model, "both/backward_rnn").num_layers == 1
    assert not caplog.records
    convert.from_flax(rnn(reverse=True))
    assert "use lstm(xs, reverse=True)" in caplog.text


def haiku_params(scope="lstm", I=I, seed=0):
    return {f"{scope}/linear": {"w": numbers(I + N, 4 * N, seed=seed), "b": numbers(4 * N, seed=seed + 9)}}


def test_haiku_prefixes():
    params = haiku_params() | haiku_params("net/~/lstm_1", N, 1) | {"head/linear": {"w": np.ones((8, 8))}}
    with pytest.raises(ValueError, match=r"got 2 of them\. Give prefix= one of 'lstm', 'net/~/lstm_1', or a list"):
        convert.from_haiku(params)
    for prefix in ("lstm", "lstm/", "lstm/linear"):
        assert_same(convert.from_haiku(params, prefix), convert.from_haiku(haiku_params()))
    layers = convert.from_haiku(params, ["lstm", "net/~/lstm_1"])
    assert (layers.num_layers, layers.input_size) == (2, I)


@pytest.mark.parametrize(
    ("params", "options", "error", "message"),
    [
        (3, {}, TypeError, "params: wanted a mapping of modules' names to their arrays; got int"),
        ({}, {}, ValueError, "params: wanted one hk.LSTM with Haiku's default name .*; got nothing"),
        ({"gru": {"w_i": 1}}, {}, ValueError, "params: wanted one hk.LSTM .*; got gru/w_i"),
        ({"gru": {"w_i": 1}}, {"prefix": "gru"}, ValueError, "params: wanted an hk.LSTM's 'gru/linear/w'; got gru/w_i"),
        ({"lstm/linear": {"w": np.ones((5, 16))}}, {}, ValueError, "params: wanted an array named 'lstm/linear/b'"),
        (
            {"lstm/linear": {"w": np.ones((3, 16)), "b": np.ones(16)}},
            {},
            ValueError,
            "lstm/linear/w: .* with at least P = 4",
        ),
        (haiku_params(), {"prefix": 5}, TypeError, "prefix: wanted a module's name, a non-empty sequence .*; got int"),
        (
            haiku_params(),
            {"prefix": []},
            TypeError,
            "prefix: wanted a module's name, a non-empty sequence .*; got list",
        ),
        (
            haiku_params("vanilla_rnn") | {"vanilla_rnn/linear_1": {"w": np.ones((16, 16))}},
            {"prefix": "vanilla_rnn"},
            ValueError,
            "params: wanted an hk.LSTM, which has one linear layer; got 'vanilla_rnn/linear_1/w'",
        ),
    ],
)
def test_haiku_refuses(params, options, error, message):
    with pytest.raises(error, match=message):
        convert.from_haiku(params, **options)


def test_haiku_modules(jax):
    hk = pytest.importorskip("haiku", reason="Haiku is not installed")

    def run(xs):
        core = hk.DeepRNN([hk.LSTM(N), hk.LSTM(N)])
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    model = hk.without_apply_rng(hk.transform(run))
    xs = numbers(6, 2, I)
    params = randomised(jax, model.init(jax.random.key(0), xs))
    got, _ = LSTM(convert.from_haiku(params, ["lstm", "lstm_1"]), backend="numpy")(xs)
    np.testing.assert_allclose(got, np.asarray(model.apply(params, xs)), rtol=0, atol=1e-12)


def equinox_arrays(bias=True):
    arrays = {"weight_ih": numbers(4 * N, I), "weight_hh": numbers(4 * N, N), "bias": numbers(4 * N)}
    return {name: a for name, a in arrays.items() if name != "bias" or bias}


def test_equinox_mappings():
    weights = convert.from_equinox(equinox_arrays())
    np.testing.assert_array_equal(weights.bias, numbers(4 * N))
    nested = {"encoder": {"cell": equinox_arrays(bias=False) | {"bias": None}}}
    assert convert.from_equinox(nested, "encoder.cell").bias is None
    assert_same(convert.from_equinox({f"cells.0.{k}": a for k, a in equinox_arrays().items()}, "cells.0"), weights)


def test_the_only_equinox_cell_is_found():
    weights, others = convert.from_equinox(equinox_arrays()), {"head": {"weight": numbers(2, N)}}
    gru = equinox_arrays() | {"bias_n": numbers(N)}
    assert_same(convert.from_equinox({"encoder": {"cell": equinox_arrays()}, "gru": gru} | others), weights)
    two = {"a": equinox_arrays(), "b": {"c": equinox_arrays()}}
    with pytest.raises(ValueError, match=r"or prefix= to choose; got 2\. Give prefix= one of 'a', 'b\.c'"):
        convert.from_equinox(two)
    for prefix in ("a", "b.c"):
        assert_same(convert.from_equinox(two, prefix), weights)


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ({}, {"prefix": 0}, TypeError, "prefix: wanted a string; got int"),
        ({}, {}, ValueError, "source: wanted an array named 'weight_ih'; got none"),
        (3, {}, TypeError, "source: wanted an equinox.nn.LSTMCell, a module that holds one, or a mapping .*; got int"),
        (3, {"prefix": "cell"}, ValueError, "prefix: wanted a path of attributes and indices in source; got 'cell'"),
        ({"a": equinox_arrays()}, {"prefix": "b"}, ValueError, "source: wanted an array named 'b.weight_ih'"),
        (equinox_arrays() | {"bias_n": np.ones(N)}, {}, ValueError, "source: wanted an LSTMCell; got a GRUCell"),
        (equinox_arrays() | {"peephole": np.ones(N)}, {}, ValueError, "the arrays of an LSTM cell alone; got peephole"),
        (
            equinox_arrays(bias=False) | {"bias_ih": 1, "bias_hh": 1},
            {},
            ValueError,
            r"got bias_hh\. torch\.nn\.LSTMCell has two biases: use from_torch",
        ),
    ],
)
def test_equinox_refuses(source, options, error, message):
    with pytest.raises(error, match=message):
        convert.from_equinox(source, **options)


@pytest.mark.parametrize("use_bias", [True, False])
def test_equinox_modules(jax, use_bias):
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")

    class Model(eqx.Module):
        cells: list

    module = eqx.nn.LSTMCell(I, N, use_bias=use_bias, key=jax.random.key(0), dtype=np.float64)
    weights = convert.from_equinox(module)
    assert (weights.bias is not None) == use_bias
    assert_one_step(weights, jax.vmap(lambda x, h, c: module(x, (h, c))))
    assert_same(convert.from_equinox(Model([module]), "cells.0"), weights)
    assert_same(convert.from_equinox(Model([eqx.nn.Linear(2, 2, key=jax.random.key(0)), module])), weights)
    with pytest.raises(TypeError, match=r"got .*Model\. Give prefix= one of 'cells\.0', 'cells\.1'"):
        convert.from_equinox(Model([module, module]))
    with pytest.raises(ValueError, match=r"got 'cells\.1'"):
        convert.from_equinox(Model([module]), "cells.1")
    with pytest.raises(ValueError, match="wanted an LSTMCell; got a GRUCell"):
        convert.from_equinox(eqx.nn.GRUCell(I, N, key=jax.random.key(0)))


class Plain:
    """A stand-in for a framework's own class."""

    def __init__(self):
        arrays = LSTMWeights.random(I, N, seed=0)
        self.weight_ih, self.weight_hh, self.bias = arrays.weight_ih, arrays.weight_hh, arrays.bias

    def __call__(self):
        """Compute what the framework computes."""


class Renamed(Plain):
    """A class that computes the same under another name."""


class Own(Plain):
    """A class that may compute something else."""

    def __call__(self):
        """Compute the same in other code."""


class Below(Own):
    """A class two levels below Plain."""


class Other:
    """An unrelated class with the same arrays."""

    def __init__(self):
        self.__dict__.update(vars(Plain()))


@pytest.fixture
def stand_in(monkeypatch):
    """Install a module equinox whose LSTMCell is Plain."""
    fake = types.SimpleNamespace(nn=types.SimpleNamespace(LSTMCell=Plain))
    monkeypatch.setitem(sys.modules, "equinox", fake)


@pytest.mark.usefixtures("stand_in")
def test_foreign_classes_are_refused_by_name():
    """A class with its own call raises an error that names it, unless the caller vouches for it."""
    wanted = convert.from_equinox(Plain())
    assert_same(convert.from_equinox(Renamed()), wanted)
    for kind, what in ((Own, "which has its own call"), (Below, "which has its own call"), (Other, "which is another")):
        full = f"{kind.__module__}.{kind.__name__}"
        with pytest.raises(ValueError, match=rf"{re.escape(full)}, {what}.*pass custom_classes=\['{kind.__name__}'\]"):
            convert.from_equinox(kind(), custom_classes=["Plain", "Lower"])
        for name in (kind.__name__, full):
            assert_same(convert.from_equinox(kind(), custom_classes=[name]), wanted)
        holder = types.SimpleNamespace(cells=[kind()])
        with pytest.raises(ValueError, match=rf"{kind.__name__} at 'cells\.0', "):
            convert.from_equinox(holder, "cells.0")


@pytest.mark.parametrize("importer", ["flax", "equinox"])
@pytest.mark.parametrize("names", ["Own", [3], 3, None])
def test_custom_classes_must_be_names(importer, names):
    with pytest.raises(TypeError, match="custom_classes: wanted a sequence of names of classes; got"):
        getattr(convert, f"from_{importer}")({}, custom_classes=names)


def test_equinox_need_not_be_imported(monkeypatch):
    """Refuse an object that looks like a cell, even if Equinox has not been imported."""
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(ValueError, match="Plain, which is another class"):
        convert.from_equinox(Plain())


def test_equinox_unused_bias_is_ignored(jax):
    """A cell with use_bias=False ignores a bias that somebody set."""
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")
    module = eqx.nn.LSTMCell(I, N, use_bias=False, key=jax.random.key(0), dtype=np.float64)
    bias = jax.numpy.asarray(numbers(4 * N))
    changed = eqx.tree_at(lambda cell: cell.bias, module, bias, is_leaf=lambda leaf: leaf is None)
    weights = convert.from_equinox(changed)
    assert weights.bias is None
    assert_one_step(weights, jax.vmap(lambda x, h, c: changed(x, (h, c))))


def test_equinox_subclasses_are_refused(jax):
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")

    class Same(eqx.nn.LSTMCell):
        pass

    class Halved(eqx.nn.LSTMCell):
        def __call__(self, x, hidden, *, key=None):
            h, c = super().__call__(x, hidden)
            return h / 2, c

    options = {"key": jax.random.key(0), "dtype": np.float64}
    wanted = convert.from_equinox(eqx.nn.LSTMCell(I, N, **options))
    assert_same(convert.from_equinox(Same(I, N, **options)), wanted)
    with pytest.raises(ValueError, match="source: wanted equinox's LSTMCell; got .*Halved, which has its own call"):
        convert.from_equinox(Halved(I, N, **options))
    assert_same(convert.from_equinox(Halved(I, N, **options), custom_classes=("Halved",)), wanted)


def test_nnx_subclasses_are_refused(nnx, jax):
    """Refuse subclasses of a cell, its layers, an RNN and a Bidirectional, and other classes that hold a cell."""

    class Same(nnx.LSTMCell):
        pass

    class Cell(nnx.LSTMCell):
        def __call__(self, carry, x):
            (c, h), y = super().__call__(carry, x)
            return (c, h / 2), y

    class Started(nnx.LSTMCell):
        def initialize_carry(self, *args, **options):
            return jax.tree.map(lambda one: one + 1, super().initialize_carry(*args, **options))

    class Layer(nnx.Linear):
        def __call__(self, x):
            return 2 * super().__call__(x)

    class Rnn(nnx.RNN):
        def __call__(self, x, **options):
            return jax.nn.relu(super().__call__(x, **options))

    class Both(nnx.Bidirectional):
        def __call__(self, x, **options):
            return super().__call__(x, **options) / 2

    class Holder(nnx.Module):
        def __init__(self, cell):
            self.cell = cell

    rngs = nnx.Rngs(0)

    def rnn(kind=nnx.LSTMCell, around=nnx.RNN):
        return around(kind(I, N, rngs=rngs), rngs=rngs)

    odd = nnx.LSTMCell(I, N, rngs=rngs)
    odd.hg = Layer(N, N, rngs=rngs)
    assert convert.from_flax(rnn(Same)).num_layers == 1
    for module, name, at in (
        (Cell(I, N, rngs=rngs), "Cell", ""),
        (rnn(Cell), "Cell", "cell/"),
        (rnn(Started), "Started", "cell/"),
        (odd, "Layer", "hg"),
        (rnn(around=Rnn), "Rnn", ""),
        (nnx.Bidirectional(rnn(), rnn(around=Rnn), rngs=rngs), "Rnn", "backward_rnn/"),
        (Both(rnn(), rnn(), rngs=rngs), "Both", ""),
        (Holder(odd), "Holder", None),
    ):
        vouched = ["Layer"] if name == "Holder" else []
        place = "" if not at else f" at '{at}'"
        with pytest.raises(
            ValueError, match=rf"source: wanted flax's .*{name}{place}, wh?i.*custom_classes=\['.*{name}'\]"
        ):
            convert.from_flax(module, custom_classes=vouched)
        assert convert.from_flax(module, custom_classes=[name, *vouched])
    assert convert.from_flax(Holder(nnx.LSTMCell(I, N, rngs=rngs)), "cell").hidden_size == N


@pytest.mark.filterwarnings("ignore:.*carry_init")
def test_nnx_initial_states_are_refused(nnx, jax):
    """An RNN starts from the state that carry_init makes, which weights don't hold."""

    def rnn(make):
        cell = nnx.LSTMCell(I, N, carry_init=make, rngs=nnx.Rngs(0))
        return nnx.RNN(cell, rngs=nnx.Rngs(0))

    with pytest.raises(ValueError, match=r"carry_init of 'cell': .*makes zeros; got .* Give prefix='cell'"):
        convert.from_flax(rnn(jax.nn.initializers.ones))
    assert convert.from_flax(rnn(jax.nn.initializers.zeros)).num_layers == 1
    assert convert.from_flax(rnn(jax.nn.initializers.ones), "cell").hidden_size == N


def test_extra_modules_beside_directions_raise():
    """A module that holds more than two directions is read as a Bidirectional only if the caller names both."""
    both = convert.to_flax(StackedWeights.random(I, N, seed=3, bidirectional=True))
    with pytest.raises(
        ValueError, match=r"nothing but both directions at 'm/'; got head. Give prefix=\[\('m/forward_rnn'"
    ):
        convert.from_flax({"m": both | {"head": {"kernel": np.ones((2 * N, 2))}}}, "m")
    source = {"m": both | {"head": {"kernel": np.ones((2 * N, 2))}}}
    assert convert.from_flax(source, [("m/forward_rnn", "m/backward_rnn")]).bidirectional


def exchanged(array, axis=-1):
    """Return the array with the blocks of gates i and g swapped."""
    i, f, g, o = np.split(array, 4, axis)
    return np.concatenate([g, f, i, o], axis)


def assert_runs(run, arrays, changed, name, weights, **options):
    """Assert that a framework's own cells agree with our weights on arrays, but not on changed ones."""
    cells = weights.layers if isinstance(weights, StackedWeights) else [weights]
    xs = numbers(4, 2, weights.input_size).astype(weights.dtype)
    states = [
        (numbers(2, N, seed=k).astype(weights.dtype), numbers(2, N, seed=9 + k).astype(weights.dtype))
        for k in range(len(cells))
    ]
    ys, finals = LSTM(weights, backend="numpy")(xs, [LSTMState(h=h, c=c) for h, c in states])
    got, got_finals = run(arrays, name, weights, xs, states, options)
    tolerance = 3 * TOLERANCE[str(weights.dtype)]
    assert got.shape == ys.shape
    assert np.abs(got - ys).max() <= tolerance
    for final, (h, c) in zip(finals, got_finals, strict=True):
        assert max(np.abs(final.h - h).max(), np.abs(final.c - c).max()) <= tolerance
    assert np.abs(run(changed, name, weights, xs, states, options)[0] - ys).max() > 0.001


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("api", ["linen", "nnx", "nnx LSTMCell"])
@pytest.mark.parametrize("functions", [{}, {"activation": "relu", "gate_activation": ("hard_sigmoid", 1 / 6, 0.5)}])
def test_run_flax(linen, api, dtype, functions):
    from fusedlstm.convert.running import flax as running

    first = StackedWeights.random(I, N, seed=0, bidirectional=True, dtype=dtype)
    second = StackedWeights.random(2 * N, N, seed=1, bidirectional=True, dtype=dtype)
    tree = {f"l{k}": convert.to_flax(one, api.partition(" ")[0]) for k, one in enumerate([first, second])}
    if api == "nnx LSTMCell":
        cells = {f"l{k}": convert.to_flax(one) for k, one in enumerate([first, second])}
        flat = flatten("", cells, "/").items()
        arrays = {name.replace("/if/", "/if_/"): a for name, a in flat}
    else:
        arrays = flatten("", tree, "/")
    changed = dict(arrays)
    if api == "nnx":
        changed["l0/forward_rnn/cell/dense_i/kernel"] = exchanged(arrays["l0/forward_rnn/cell/dense_i/kernel"])
    else:
        one, other = (f"l0/forward_rnn/cell/{gate}/kernel" for gate in ("ii", "ig"))
        changed |= {one: arrays[other], other: arrays[one]}
    weights = convert.from_flax(arrays, ["l0", "l1"], **functions)
    assert_runs(running.run, arrays, changed, ["l0", "l1"], weights, **functions)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("api", ["linen", "nnx", "nnx LSTMCell"])
def test_run_flax_in_16_bits(linen, api, dtype):
    """Test check with our own weights: JAX makes no random cells in these dtypes."""
    weights = cell(dtype=dtype)
    layout = {"linen": "flax", "nnx": "flax_dense", "nnx LSTMCell": "flax_nnx"}[api]
    params = write(LAYOUTS[layout], weights)
    assert_same(convert.from_flax(params), weights)
    assert check("flax", params, None, weights, {}).agrees


def test_run_flax_refuses(linen):
    from fusedlstm.convert.running import flax as running

    with pytest.raises(ValueError, match="activation: wanted a function that jax.nn has; got 'linear2'"):
        running.run(convert.to_flax(cell()), None, cell(), numbers(1, 1, I), [], {"activation": "linear2"})


def test_run_haiku(jax):
    pytest.importorskip("haiku", reason="Haiku is not installed")
    from fusedlstm.convert.running import haiku as running

    params = flatten("", haiku_params() | haiku_params("lstm_1", N, 1), "/")
    changed = params | {"lstm/linear/w": exchanged(params["lstm/linear/w"])}
    names = ["lstm", "lstm_1"]
    assert_runs(running.run, params, changed, names, convert.from_haiku(params, names))
    one = flatten("", haiku_params(), "/")
    changed = one | {"lstm/linear/w": exchanged(one["lstm/linear/w"])}
    assert_runs(running.run, one, changed, None, convert.from_haiku(one))


@pytest.mark.parametrize("bias", [True, False])
def test_run_equinox(jax, bias):
    pytest.importorskip("equinox", reason="Equinox is not installed")
    from fusedlstm.convert.running import equinox as running

    arrays = {f"a.{name}": array for name, array in equinox_arrays(bias).items()}
    changed = arrays | {"a.weight_hh": exchanged(arrays["a.weight_hh"], 0)}
    assert_runs(running.run, arrays, changed, "a", convert.from_equinox(arrays, "a"))


def wrong_rows(name):
    """Yield the layout with each pair of gates swapped, and with another forget bias."""
    right = LAYOUTS[name]
    for a, b in itertools.combinations(range(4), 2):
        gates = list(right.gates)
        gates[a], gates[b] = gates[b], gates[a]
        yield replace(right, gates="".join(gates))
    yield replace(right, forget_bias=right.forget_bias + 0.5)


@pytest.mark.parametrize(
    ("system", "layout", "package"),
    [
        ("flax", "flax", "flax"),
        ("flax", "flax_nnx", "flax"),
        ("flax", "flax_dense", "flax"),
        ("haiku", "haiku", "haiku"),
        ("equinox", "equinox", "equinox"),
    ],
)
def test_check_finds_wrong_conversions(jax, system, layout, package, monkeypatch):
    """If our table has a mistake, the framework's own outputs differ."""
    pytest.importorskip(package, reason=f"{package} is not installed")
    prefix = "lstm/linear/" if system == "haiku" else ""
    arrays = {f"{prefix}{name}": array for name, array in write(LAYOUTS[layout], cell()).items()}
    importer = getattr(convert, f"from_{system}")
    right = check(system, arrays, None, importer(arrays), {})
    assert right.agrees
    assert right.framework.startswith(package)
    for wrong in wrong_rows(layout):
        plant(monkeypatch, layout, wrong)
        assert not check(system, arrays, None, importer(arrays), {}).agrees, wrong.gates


@pytest.mark.parametrize("api", ["linen", "nnx"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_check_finds_swapped_directions(linen, api, dtype, monkeypatch):
    """Flax's Bidirectional knows which direction reads forward, so the check finds a reader that swaps them."""
    from fusedlstm.convert.flax import tree

    layers = [StackedWeights.random(I, N, seed=0, bidirectional=True, dtype=dtype)]
    layers += [StackedWeights.random(2 * N, N, seed=1, bidirectional=True, dtype=dtype)]
    arrays = flatten("", {f"l{k}": convert.to_flax(layer, api) for k, layer in enumerate(layers)}, "/")
    for prefix in ("l0", ["l0", "l1"], [("l0/forward_rnn", "l0/backward_rnn")]):
        assert check("flax", arrays, prefix, convert.from_flax(arrays, prefix), {}).agrees
    monkeypatch.setattr(tree, "DIRECTIONS", tree.DIRECTIONS[::-1])
    for prefix in ("l0", ["l0", "l1"]):
        assert not check("flax", arrays, prefix, convert.from_flax(arrays, prefix), {}).agrees


def test_check_finds_another_function(linen):
    arrays = flatten("", convert.to_flax(cell()), "/")
    weights = convert.from_flax(arrays, activation="relu")
    assert check("flax", arrays, None, weights, {"activation": "relu"}).agrees
    assert not check("flax", arrays, None, weights, {}).agrees
