"""Importing PyTorch's weights: what is found, what is refused. Numbers are in test_oracles.py."""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, convert

I, N = 3, 4


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
