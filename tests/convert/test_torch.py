"""Convert PyTorch's modules, state_dicts and files both ways. Recorded outputs are in core/test_oracles.py."""

import contextlib
import sys
import warnings
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, WeightsFileError, convert, log
from fusedlstm.arrays import dtypes
from fusedlstm.convert.running import torch as running
from fusedlstm.convert.torch.listing import find_lstms

I, N, P = 3, 4, 2
TOLERANCE = {"float64": 1e-12, "float32": 3e-6, "float16": 8e-3, "bfloat16": 6e-2}


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    return torch


def torch_parameters(suffix="", dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = {"weight_ih": (4 * N, I), "weight_hh": (4 * N, N), "bias_ih": (4 * N,), "bias_hh": (4 * N,)}
    return {name + suffix: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def test_state_dict():
    parameters = torch_parameters()
    weights = convert.from_torch(parameters)
    np.testing.assert_array_equal(weights.bias, parameters["bias_ih"] + parameters["bias_hh"])
    np.testing.assert_array_equal(weights.weight_hh, parameters["weight_hh"])


def torch_layer(number, I=I, **options):
    """Return random parameters of one layer, by default in both directions."""
    suffixes = options.pop("suffixes", (f"_l{number}", f"_l{number}_reverse"))
    parameters = {}
    for seed, suffix in enumerate(suffixes):
        rng = np.random.default_rng([number, seed])
        shapes = {"weight_ih": (4 * N, I), "weight_hh": (4 * N, N), "bias_ih": (4 * N,), "bias_hh": (4 * N,)}
        parameters |= {name + suffix: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return parameters


def test_layers_by_number():
    parameters = {**torch_layer(0), **torch_layer(1, 2 * N)}
    for layer in (0, 1):
        for reverse, suffix in ((False, f"_l{layer}"), (True, f"_l{layer}_reverse")):
            weights = convert.from_torch(parameters, layer=layer, reverse=reverse)
            assert isinstance(weights, LSTMWeights)
            np.testing.assert_array_equal(weights.weight_ih, parameters["weight_ih" + suffix])
            np.testing.assert_array_equal(weights.bias, parameters["bias_ih" + suffix] + parameters["bias_hh" + suffix])
    with pytest.raises(ValueError, match="source: wanted a parameter 'weight_ih_l2'"):
        convert.from_torch(parameters, layer=2)


def test_layers_are_counted():
    """The number of layers and their directions come from the names, in any order."""
    parameters = {**torch_layer(1, 2 * N), **torch_layer(0)}
    weights = convert.from_torch(parameters)
    assert isinstance(weights, StackedWeights)
    assert (weights.num_layers, weights.bidirectional, weights.residual) == (2, True, (False, False))
    for one, suffix in zip(weights.layers, ("_l0", "_l0_reverse", "_l1", "_l1_reverse"), strict=True):
        np.testing.assert_array_equal(one.weight_hh, parameters["weight_hh" + suffix])
    within = {f"encoder.{name}": p for name, p in parameters.items()} | {"head.weight_ih_l5": np.zeros(3)}
    within["encoder.head.weight_ih_l7"] = np.zeros(3)
    assert convert.from_torch(within, prefix="encoder").num_layers == 2


def test_eleven_layers_keep_their_order():
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
        ("bias_hh_l0_reverse", "source: wanted both biases or none; got bias_ih_l0_reverse, but bias_hh_l0_r"),
    ],
)
def test_incomplete_layers_raise(missing, message):
    parameters = {**torch_layer(0), **torch_layer(1, 2 * N)}
    del parameters[missing]
    with pytest.raises(ValueError, match=message):
        convert.from_torch(parameters)


def test_layers_must_fit_together():
    with pytest.raises(ValueError, match=r"layers\[2\] \(layer 1, forward\): wanted input_size 8 .*; got 4"):
        convert.from_torch({**torch_layer(0), **torch_layer(1, N)})


@pytest.mark.parametrize("prefix", ["encoder.cell", "encoder.cell."])
def test_prefix_chooses_an_lstm(prefix):
    """The error for a wrong prefix lists the model's LSTMs."""
    parameters = {f"encoder.cell.{name}": p for name, p in torch_parameters().items()} | {
        "head.weight": np.zeros((2, 4))
    }
    assert convert.from_torch(parameters, prefix=prefix).hidden_size == N
    assert convert.from_torch(parameters).hidden_size == N  # it is the only LSTM
    parameters |= {f"decoder.{name}": p for name, p in torch_parameters("_l0").items()}
    assert convert.from_torch(parameters, prefix=prefix).hidden_size == N
    listed = r"prefix= one of 'decoder\.' .*, 'encoder\.cell\.'"
    for none, message in ((None, "one LSTM, or prefix= to choose; got 2"), ("", "'weight_ih'; got .*")):
        with pytest.raises(ValueError, match=f"{message}.*{listed}"):
            convert.from_torch(parameters, prefix=none)
    with pytest.raises(ValueError, match=r"a parameter 'head\.weight_ih'"):
        convert.from_torch(parameters, prefix="head")


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (3, {}, TypeError, "source: wanted a torch.nn.LSTMCell or LSTM, or its state_dict, or .*; got int"),
        ({}, {}, ValueError, "source: wanted a parameter 'weight_ih'; got nothing"),
        ({1: 2}, {}, ValueError, "source: wanted a parameter 'weight_ih'; got 1"),
        (torch_parameters(), {"reverse": True}, ValueError, "layer: wanted a number with reverse=True"),
        (torch_parameters(), {"layer": -1}, ValueError, "layer"),
        (
            {**torch_parameters(), "bias_hh": np.ones(3, np.float32)},
            {},
            ValueError,
            r"bias_hh: wanted shape \(4N,\) = \(16,\); got shape \(3,\)",
        ),
        ({k: v for k, v in torch_parameters().items() if k != "bias_hh"}, {}, ValueError, "both biases or none"),
        ({**torch_parameters(), "weight_hh": np.ones((16, 4))}, {}, TypeError, "weight_hh: wanted dtype float32"),
    ],
)
def test_from_torch_refuses(source, options, error, message):
    with pytest.raises(error, match=message):
        convert.from_torch(source, **options)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bias", [True, False])
def test_cells_agree(dtype, bias, torch):
    """Compare with the installed PyTorch: modules that require grad, in every dtype."""
    torch.manual_seed(0)
    module = torch.nn.LSTMCell(5, 6, bias=bias, dtype=getattr(torch, dtype))
    x, h = torch.randn(2, 3, 5, dtype=module.weight_ih.dtype)[0], torch.randn(3, 6, dtype=module.weight_ih.dtype)
    c = torch.randn(3, 6, dtype=module.weight_ih.dtype)
    with torch.inference_mode():
        wanted_h, wanted_c = module(x, (h, c))
    cell = LSTMCell(convert.from_torch(module), backend="numpy")
    c_dtype = cell.zero_state(0).c.dtype
    got = cell(cell.asarray(x), LSTMState(h=cell.asarray(h), c=cell.asarray(c, c_dtype)))
    tolerance = TOLERANCE[dtype]
    for ours, theirs in ((got.h, wanted_h), (got.c, wanted_c)):
        assert np.abs(ours.astype(float) - theirs.double().numpy()).max() <= tolerance


def test_projecting_layer(torch):
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
def test_lstm_agrees(options, torch):
    """Compare the module and its state_dict with the installed PyTorch, with all layers and directions."""
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


def test_batch_first_is_warned_of_once(caplog, torch, monkeypatch):
    """Only a module knows batch_first; weights don't. A training loop converts it again and again."""
    monkeypatch.setattr(log, "_said", set())
    convert.from_torch(torch.nn.LSTM(2, 3))
    assert not caplog.records
    for _ in range(2):
        convert.from_torch(torch.nn.LSTM(2, 3, batch_first=True))
    assert caplog.text.count("use LSTM(weights, batch_first=True)") == 1


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["weight_hh_l0_g", "weight_hh_l0_v"], "remove_weight_norm"),
        (["weight_hh_l0_orig", "weight_hh_l0_mask"], "prune.remove"),
        (["parametrizations.weight_hh_l0.original0"], "remove_parametrizations"),
        (["_all_weight_values.0.param"], "It is quantised"),
        (["weight_ch_l0"], "A module with more parameters computes a different formula"),
        (["peephole"], "A module with more parameters computes a different formula"),
        (["layernorm_i.weight"], "A module that normalises its gates"),
        (["ln_ih.bias"], "A module that normalises its gates"),
        (["bn_c.running_var"], "A module that normalises its gates"),
        (["bias"], "Equinox's LSTMCell has one bias: use from_equinox"),
        (["weight_ih"], "A module has the parameters of a cell or of layers"),
    ],
)
def test_foreign_parameters_are_refused(names, reason):
    """Refuse parameters that would change the outputs. Deeper names belong to other modules."""
    parameters = torch_parameters("_l0") | {name: np.ones(3) for name in names}
    message = f"source: wanted the parameters of a plain torch.nn.LSTMCell or LSTM alone; got .*{names[0]}.*{reason}"
    with pytest.raises(ValueError, match=message):
        convert.from_torch({f"net.{name}": value for name, value in parameters.items()}, prefix="net")
    below = torch_parameters("_l0") | {f"head.{name}": np.ones(3) for name in names}
    assert convert.from_torch(below, prefix="").num_layers == 1


def test_tensors_numpy_cannot_hold_raise(torch):
    with pytest.raises(TypeError, match="weight_ih: wanted a tensor with data; got one on the device meta"):
        convert.from_torch(torch.nn.LSTMCell(I, N, device="meta"))
    parameters = torch.nn.LSTMCell(I, N).state_dict()
    for other in (torch.Tensor.to_sparse, lambda tensor: tensor.to(torch.float8_e4m3fn)):
        changed = {name: other(tensor) if name == "weight_hh" else tensor for name, tensor in parameters.items()}
        with pytest.raises(TypeError, match=r"weight_hh: wanted a tensor that NumPy can hold; got torch\.float"):
            convert.from_torch(changed)


def test_cell_with_layer_norm_is_refused(torch):
    class LayerNormLSTMCell(torch.nn.LSTMCell):
        def __init__(self):
            super().__init__(I, N, bias=False)
            self.layernorm_i, self.layernorm_h = torch.nn.LayerNorm(4 * N), torch.nn.LayerNorm(4 * N)

    model = torch.nn.Sequential(LayerNormLSTMCell())
    with pytest.raises(ValueError, match=r"got 0\.layernorm_h\.bias, .*A module that normalises its gates"):
        convert.from_torch(model)
    model = torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(I), "cell": torch.nn.LSTMCell(I, N)})  # beside a plain cell
    assert convert.from_torch(model).hidden_size == N
    with pytest.raises(ValueError, match="Give prefix= one of 'cell"):
        convert.from_torch(model, prefix="")


def test_parametrized_weights_alone_raise():
    """With weight_norm on both weights of a cell without bias, no plain parameter is left."""
    names = [f"parametrizations.weight_{part}.original{k}" for part in ("ih", "hh") for k in (0, 1)]
    with pytest.raises(ValueError, match="remove_parametrizations"):
        convert.from_torch(dict.fromkeys(names, np.ones(3)))
    with pytest.raises(ValueError, match=r"Give prefix= one of 'cell\.' \(not plain\)$"):
        convert.from_torch({f"cell.{name}": np.ones(3) for name in names}, prefix="")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["LSTM", "LSTMCell"])
def test_quantised_modules_are_refused(torch, name):
    kind = getattr(torch.nn, name)
    model = torch.nn.Sequential(kind(I, N))
    try:
        quantised = torch.ao.quantization.quantize_dynamic(model, {kind}, dtype=torch.qint8)
    except (AttributeError, RuntimeError) as error:
        pytest.skip(f"this PyTorch does not quantise: {error}")
    with pytest.raises(ValueError, match="It is quantised"):
        convert.from_torch(quantised, prefix="0")
    with pytest.raises(ValueError, match="It is quantised"):
        convert.from_torch(quantised)
    with pytest.raises(ValueError, match=r"prefix= one of '0\.' \(not plain\)"):
        convert.from_torch(quantised, prefix="")


@pytest.mark.parametrize(("name", "kind"), [("GRU", "a GRU's"), ("GRUCell", "a GRU's"), ("RNN", "an RNN's")])
def test_other_recurrent_modules_are_refused(torch, name, kind):
    """The number of their rows may be divisible by four."""
    for size in (3, 4, 8):
        with pytest.raises(ValueError, match=f"weight_hh.*It looks like {kind}"):
            convert.from_torch(getattr(torch.nn, name)(size, size))


def checkpoint():
    """Return what training programs save: a state_dict under a key, and other values."""
    return {
        "epoch": 3,
        "model": {f"encoder.{name}": value for name, value in {**torch_layer(0), **torch_layer(1, 2 * N)}.items()}
        | {f"cell.{name}": value for name, value in torch_parameters().items()}
        | {"head.weight": np.zeros((2, 4))},
        "optimizer": {"state": {0: {"exp_avg": np.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
    }


def test_nested_checkpoints():
    """Keys of nested dicts are parts of a prefix. The error lists the LSTMs with their sizes."""
    message = (
        r"got .*\. Give prefix= one of 'model\.cell\.' \(an LSTMCell, I=3, N=4\), "
        r"'model\.encoder\.' \(LSTM, layers: 2, both directions, I=3, N=4\)"
    )
    for prefix in ("", "model", "encoder"):
        with pytest.raises(ValueError, match=message):
            convert.from_torch(checkpoint(), prefix=prefix)
    assert convert.from_torch(checkpoint(), prefix="model.encoder").num_layers == 2
    assert convert.from_torch(checkpoint()["model"], prefix="encoder").num_layers == 2
    cell, lstm = convert.list_torch(checkpoint())
    assert (cell.prefix, cell.num_layers, lstm.num_layers, lstm.bidirectional) == ("model.cell.", None, 2, True)
    assert (lstm.input_size, lstm.hidden_size, lstm.proj_size) == (I, N, None)
    assert convert.list_torch({"weight_hr_l0": np.ones((2, 4)), "weight_ih_l0": np.ones((16, 3))})[0].proj_size == 2
    assert convert.list_torch({"weight_ih": "none"})[0].hidden_size is None


def test_tied_state_dicts_count_twice():
    shared = torch_parameters()
    assert [lstm.prefix for lstm in convert.list_torch({"a": shared, "b": {"c": shared}})] == ["a.", "b.c."]


def test_bad_checkpoints():
    with pytest.raises(ValueError, match="source: wanted one value for each name; got two for 'a.weight_ih'"):
        convert.from_torch({"a": {"weight_ih": 1}, "a.weight_ih": 2})
    endless = {}
    endless["a"] = endless
    with pytest.raises(ValueError, match="deeper nesting than Python can follow"):
        convert.from_torch(endless)
    many = {"a": 0}
    for _ in range(30):
        many = {"a": many, "b": many}
    with pytest.raises(ValueError, match="source: wanted nested mappings without many repetitions"):
        convert.from_torch(many)
    with pytest.raises(ValueError, match=r"names of at most 4096 characters; got one of 10099, 'k{40}'\.\.\."):
        convert.from_torch({("k" * 100,) * 100: 0})
    with pytest.raises(ValueError, match=r"names of at most 4096 characters; got one of 5002, 'k\.'\.\.\."):
        convert.from_torch({"k": {"k" * 5000: 0}})
    with pytest.raises(ValueError, match="source: wanted keys that are names, or tuples of names; got a tuple in a"):
        convert.from_torch({("a", ("b",)): 0})
    with pytest.raises(TypeError, match="prefix: wanted a string; got int"):
        convert.from_torch({}, prefix=0)


def tensors(torch, tree):
    if isinstance(tree, dict):
        return {name: tensors(torch, value) for name, value in tree.items()}
    return torch.from_numpy(tree) if isinstance(tree, np.ndarray) else tree


def assert_same(weights, wanted):
    """Assert that two LSTMWeights are equal, bit for bit."""
    assert weights.options() == wanted.options()
    ours, theirs = weights.arrays(), wanted.arrays()
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in ours.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in theirs.items()
    }


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".PT"])
@pytest.mark.parametrize("legacy", [False, True])
def test_files_are_read(torch, suffix, legacy, tmp_path):
    path = tmp_path / f"model{suffix}"
    torch.save(tensors(torch, checkpoint()), path, _use_new_zipfile_serialization=not legacy)
    wanted = convert.from_torch(checkpoint(), prefix="model.cell")
    assert_same(convert.from_torch(path, prefix="model.cell"), wanted)
    assert_same(convert.from_torch(str(path), prefix="model.cell"), wanted)
    assert [str(lstm).partition(" ")[0] for lstm in convert.list_torch(path)] == ["'model.cell.'", "'model.encoder.'"]


def odd_tensors(torch):
    """Return odd tensors that torch.load makes from a few bytes, each with a part of its error."""
    nested = torch.nested.nested_tensor([torch.zeros(4, 1)], layout=torch.jagged)
    return {
        "expanded": (torch.zeros(1).expand(4, 10**12), "claims 16000000000000 bytes; its storage has 4"),
        "on no device": (
            torch.zeros(4, 1, device="meta"),
            "is not a plain tensor .*: it is a tensor on the device meta",
        ),
        "sparse": (torch.zeros(4, 1).to_sparse(), "is not a plain tensor .*: it is sparse"),
        "nested": (nested, "is not a plain tensor .*: it is nested"),
        "quantised": (
            torch.quantize_per_tensor(torch.zeros(4, 1), 1, 0, torch.qint8),
            "not a plain .*: it is quantised",
        ),
        "negated": (torch._neg_view(torch.ones(4, 1)), "not a plain tensor .*: it is a tensor that is negated or conj"),
        "eight bits": (
            torch.zeros(4, 1).to(torch.float8_e5m2),
            "wanted a tensor that NumPy can hold; got torch.float8_",
        ),
    }


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # deprecated; PyTorch warns once in a process
@pytest.mark.parametrize("kind", ["expanded", "on no device", "sparse", "nested", "quantised", "negated", "eight bits"])
def test_tensors_without_their_values_raise(torch, kind, tmp_path):
    tensor, message = odd_tensors(torch)[kind]
    path, good, plain = tmp_path / "model.pt", tmp_path / "good.pt", torch.zeros(4, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about kinds of tensors that are in beta
        torch.save({"other.weight": tensor, "weight_ih": tensor, "weight_hh": plain}, path)
        torch.save({"other.weight": tensor, "weight_ih": plain, "weight_hh": plain}, good)
    with pytest.raises(WeightsFileError, match=f"model.pt: weight_ih:? .*{message}"):
        convert.from_torch(path)
    assert convert.from_torch(good).hidden_size == 1, "other tensors should be ignored"


def test_too_many_tensors_sharing_bytes_raise(torch, tmp_path):
    """Tied weights may share their bytes, but 140 tensors may not."""
    path, shared = tmp_path / "model.pt", torch.zeros(1024, 256)
    arrays = {f"weight_{kind}_l{k}": shared for k in range(70) for kind in ("ih", "hh")}
    torch.save(arrays, path)
    with pytest.raises(WeightsFileError, match="weight_.._l3[0-9]? and others share too few bytes"):
        convert.from_torch(path)


def test_compressed_files_raise(torch, tmp_path):
    """torch.save doesn't compress, and PyTorch would allocate the sizes that a file claims."""
    path, packed = tmp_path / "model.pt", tmp_path / "packed.pt"
    torch.save({"weight_ih": torch.zeros(8 << 20, 1), "weight_hh": torch.zeros(4, 1)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(WeightsFileError, match="packed.pt: it is damaged: its [0-9]+ bytes claim to expand to 3355"):
        convert.from_torch(packed)


def test_many_lstms_are_listed_in_one_pass():
    class Counted(dict):
        passes = 0

        def __iter__(self):
            Counted.passes += 1
            return super().__iter__()

    parameters = Counted({f"{k}.weight_ih": np.zeros((4, 1)) for k in range(100)})
    assert len(find_lstms(parameters)) == 100
    assert Counted.passes < 5


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        *((".safetensors", dtype) for dtype in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)),
        *((".npz", dtype) for dtype in (np.float64, np.float32, np.float16)),  # NumPy's files have no bfloat16
    ],
)
def test_array_files_need_no_torch(dtype, suffix, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    parameters = {f"net.lstm.{name}": a for name, a in torch_parameters("_l0", dtype).items()}
    others = {"net.mask": np.ones(3, np.uint8), "net.head.weight": np.ones((2, 2))}
    path = tmp_path / f"model{suffix}"
    (save_file if suffix == ".safetensors" else lambda arrays, path: np.savez(path, **arrays))(
        parameters | others, path
    )
    weights = convert.from_torch(path, prefix="net.lstm")
    assert_same(weights.layers[0], convert.from_torch(parameters, prefix="net.lstm").layers[0])
    assert_same(weights.layers[0], convert.from_torch(path).layers[0])
    with pytest.raises(WeightsFileError, match=r"model\..*prefix= one of 'net\.lstm\.' \(LSTM, layers: 1, I=3, N=4\)"):
        convert.from_torch(path, prefix="")


def test_our_own_files_are_refused(tmp_path):
    """Their options would be lost."""
    path = tmp_path / "w.safetensors"
    LSTMWeights.random(I, N, seed=0, bias=False, cell_clip=1.0).save(path)
    with pytest.raises(WeightsFileError, match="is fusedlstm's own file: use fusedlstm.load_weights"):
        convert.from_torch(path)


def test_files_of_other_objects_raise(torch, tmp_path):
    """No code in a file is run. The error says what the file's owner can do instead."""
    model = torch.nn.Sequential(torch.nn.LSTM(I, N))
    path = tmp_path / "m.pt"
    torch.save(model, path)
    with pytest.raises(
        WeightsFileError, match=r"m\.pt: it holds Python objects.*save module\.state_dict\(\).*_only=False"
    ):
        convert.from_torch(path)
    assert convert.from_torch(torch.load(path, weights_only=False), prefix="0").num_layers == 1
    for content, kind in ((torch.zeros(3), "a Tensor"), (3, "an int")):
        torch.save(content, path)
        with pytest.raises(WeightsFileError, match=rf"m\.pt holds {kind}, not a state_dict"):
            convert.from_torch(path)


def test_bad_files_raise(torch, tmp_path):
    for suffix in (".pt", ".safetensors", ".npz"):
        with pytest.raises(FileNotFoundError):
            convert.from_torch(tmp_path / f"none{suffix}")
        for content in (b"", b"junk", b"PK", b"\x80\x02}q\x00."):
            (tmp_path / f"m{suffix}").write_bytes(content)
            with pytest.raises(WeightsFileError, match=r"m\."):
                convert.from_torch(tmp_path / f"m{suffix}")
    (tmp_path / "m.npz").write_bytes(b"PQ")
    with pytest.raises(WeightsFileError, match="neither a .npz nor a .safetensors file"):
        convert.from_torch(tmp_path / "m.npz")


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_files_raise_or_are_read(torch, legacy, tmp_path):
    """A file that is cut or changed anywhere is refused as damaged, unless PyTorch can read it."""
    path = tmp_path / "m.pt"
    torch.save(tensors(torch, torch_parameters()), path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content[: int(rng.integers(len(content)))] if rng.random() < 0.3 else content)
        for _ in range(int(rng.integers(1, 20))):
            if damaged:
                damaged[int(rng.integers(len(damaged)))] = int(rng.integers(256))
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError, TypeError):  # a name or dtype has changed
            try:
                convert.from_torch(path)
            except WeightsFileError as error:
                refused += "m.pt" in str(error)
    assert refused > 30


DTYPES = st.sampled_from(["float64", "float32", "float16", "bfloat16"])


@given(st.integers(0, 5), st.integers(1, 5), st.booleans(), DTYPES, st.integers(0, 9), st.booleans())
def test_torch_cell_round_trip(I, N, bias, dtype, seed, zeros):
    """Keep every bit, signs of zeros included."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    weights = LSTMWeights.random(I, N, bias=bias, dtype=dtype, seed=seed)
    if zeros and bias:
        signed = np.array([0.0, -0.0, np.nan, np.inf] * N).astype(weights.dtype)
        weights = LSTMWeights(weights.weight_ih, weights.weight_hh, signed)
    assert_same(convert.from_torch(convert.to_torch(weights)), weights)


@given(st.data())
def test_torch_layers_round_trip(data):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    N = data.draw(st.integers(2, 5))
    weights = StackedWeights.random(
        data.draw(st.integers(1, 4)),
        N,
        data.draw(st.integers(1, 3)),
        bidirectional=data.draw(st.booleans()),
        proj_size=data.draw(st.none() | st.integers(1, N - 1)),
        bias=data.draw(st.booleans()),
        dtype=data.draw(DTYPES),
        seed=0,
    )
    again = convert.from_torch(convert.to_torch(weights))
    assert (again.bidirectional, again.residual) == (weights.bidirectional, weights.residual)
    for one, wanted in zip(again.layers, weights.layers, strict=True):
        assert_same(one, wanted)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("bias", [True, False])
def test_to_torch_cell_agrees(torch, dtype, bias):
    weights = LSTMWeights.random(5, 6, seed=0, bias=bias, dtype=dtype)
    module = torch.nn.LSTMCell(5, 6, bias=bias, dtype=getattr(torch, dtype))
    module.load_state_dict(convert.to_torch(weights), strict=True)
    torch.manual_seed(0)
    x, h, c = (torch.randn(3, size, dtype=module.weight_ih.dtype) for size in (5, 6, 6))
    with torch.inference_mode():
        wanted_h, wanted_c = module(x, (h, c))
    cell = LSTMCell(weights, backend="numpy")
    got = cell(cell.asarray(x), LSTMState(h=cell.asarray(h), c=cell.asarray(c, cell.zero_state(0).c.dtype)))
    for ours, theirs in ((got.h, wanted_h), (got.c, wanted_c)):
        assert np.abs(ours.astype(float) - theirs.double().numpy()).max() <= TOLERANCE[dtype]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 3},
        {"num_layers": 2, "bidirectional": True, "bias": False},
        {"num_layers": 2, "proj_size": 2, "bidirectional": True},
    ],
)
def test_to_torch_lstm_agrees(torch, dtype, options):
    weights = StackedWeights.random(5, 6, **options, seed=0, dtype=dtype)
    module = torch.nn.LSTM(5, 6, **options, dtype=getattr(torch, dtype))
    module.load_state_dict(convert.to_torch(weights), strict=True)
    torch.manual_seed(0)
    xs = torch.randn(4, 3, 5, dtype=getattr(torch, dtype))
    with torch.inference_mode():
        wanted, _ = module(xs)
    lstm = LSTM(weights, backend="numpy")
    got, _ = lstm(lstm.asarray(xs))
    assert np.abs(got.astype(float) - wanted.double().numpy()).max() <= 3 * TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peephole": True}, r"peephole: wanted None, as torch\.nn\.LSTM supports nothing else; got shape \(3, 4\)"),
        ({"cell_clip": 0.0}, r"cell_clip: wanted None, as torch\.nn\.LSTM supports nothing else; got 0\.0"),
        (
            {"proj_size": 2, "proj_clip": 1.0},
            r"proj_clip: wanted None, as torch\.nn\.LSTM supports nothing else; got 1\.0",
        ),
        ({"activation": "relu"}, "activation: wanted 'tanh', as .*; got 'relu'"),
        ({"output_activation": "linear"}, "output_activation: wanted None, as .*; got 'linear'"),
        ({"gate_activation": ("hard_sigmoid", 0.2, 0.5)}, "gate_activation: wanted 'sigmoid', as .*; got .'hard_sig"),
        ({"gate_clip": 5.0}, r"gate_clip: wanted None, as .*; got 5\.0"),
        ({"coupled_gate": "input"}, "coupled_gate: wanted None, as .*; got 'input'"),
        ({"zoneout_c": 0.1}, r"zoneout_c: wanted 0\.0, as torch\.nn\.LSTM supports nothing else; got 0\.1"),
        ({"zoneout_h": 0.1}, r"zoneout_h: wanted 0\.0, as torch\.nn\.LSTM supports nothing else; got 0\.1"),
        ({"proj_size": 4}, "weight_hr: wanted fewer rows than N = 4, as torch.nn.LSTM projects to fewer; got 4"),
    ],
)
def test_to_torch_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        convert.to_torch(StackedWeights([LSTMWeights.random(I, N, seed=0, **options)]))
    if "proj_size" not in options:
        with pytest.raises(ValueError, match=message.replace(r"nn\.LSTM", r"nn\.LSTMCell")):
            convert.to_torch(LSTMWeights.random(I, N, seed=0, **options))


def test_to_torch_refuses_unlike_layers():
    def cell(I, N=N, **options):
        return LSTMWeights.random(I, N, seed=0, **options)

    for layers, options, message in (
        (
            [cell(N)],
            {"residual": True},
            r"residual: wanted False, as torch\.nn\.LSTM supports nothing else; got \(True,\)",
        ),
        ([cell(I), cell(N, 5)], {}, r"layers\[1\]: wanted hidden_size 4, as torch\.nn\.LSTM has only one; got 5"),
        ([cell(I), cell(I, 5)], {"bidirectional": True}, r"layers\[1\]: wanted hidden_size 4"),
        ([cell(I), cell(N, proj_size=2)], {}, r"layers\[1\]: wanted proj_size None"),
        ([cell(I), cell(N, bias=False)], {}, r"layers\[1\]: wanted a bias in all layers or in none.*got no bias"),
        ([cell(I, bias=False), cell(N)], {}, "got a bias"),
        ([cell(0)], {}, r"input_size: wanted at least 1, as torch\.nn\.LSTM requires; got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.to_torch(StackedWeights(layers, **options))
    with pytest.raises(ValueError, match=r"weight_hr: .*LSTMCell supports nothing else.*to_torch\(StackedWeights\(\[w"):
        convert.to_torch(cell(I, proj_size=2))
    with pytest.raises(TypeError, match="weights: wanted an LSTMWeights or a StackedWeights; got dict"):
        convert.to_torch({})


def some_states(weights, B=3):
    rng = np.random.default_rng(0)
    cells = weights.layers if isinstance(weights, StackedWeights) else [weights]
    states = [(rng.uniform(-1, 1, (B, cell.output_size)), rng.normal(size=(B, cell.hidden_size))) for cell in cells]
    return [(h.astype(weights.dtype), c.astype(weights.dtype)) for h, c in states]


def exchanged(array):
    """Return the array with the blocks of gates i and f swapped."""
    return np.concatenate([array[N : 2 * N], array[:N], array[2 * N :]])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        (torch_parameters(), {}),
        ({**torch_layer(0), **torch_layer(1, 2 * N)}, {}),
        ({**torch_layer(0), **torch_layer(1, 2 * N)}, {"layer": 1, "reverse": True}),
        (
            {
                **torch_layer(0, suffixes=["_l0"]),
                "weight_hh_l0": np.ones((16, 2), "f"),
                "weight_hr_l0": np.ones((2, 4), "f"),
            },
            {},
        ),
    ],
)
def test_run_agrees_with_weights(torch, tmp_path, parameters, options, dtype):
    """PyTorch's own module on a file's tensors agrees. With two gates swapped, it doesn't."""
    path = tmp_path / "m.safetensors"
    file = {f"net.{name}": a.astype(dtypes.resolve(dtype)) for name, a in parameters.items()}
    save_file(file, path)
    weights = convert.from_torch(path, prefix="net", **options)
    xs = np.random.default_rng(1).normal(size=(4, 3, weights.input_size)).astype(weights.dtype)
    states = some_states(weights)
    lstm = LSTM(weights, backend="numpy")
    c_dtype = lstm.zero_state(0)[0].c.dtype
    ys, finals = lstm(xs, [LSTMState(h=h, c=c.astype(c_dtype)) for h, c in states])
    got, got_finals = running.run(path, "net", weights, xs, states, options)

    def far(ours, theirs):
        return np.abs(ours.astype(float) - theirs.astype(float)).max()

    tolerance = 4 * TOLERANCE[dtype]
    assert far(ys, got) <= tolerance
    for final, (h, c) in zip(finals, got_finals, strict=True):
        assert far(final.h, h) <= tolerance
        assert far(final.c, c) <= tolerance
    save_file({name: exchanged(a) if "weight_ih" in name else a for name, a in file.items()}, path)
    assert far(ys, running.run(path, "net", weights, xs, states, options)[0]) > 2 * tolerance
