"""Test weights that PyTorch computes from other parameters against its outputs at inference."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from fusedlstm import LSTM, LSTMState, WeightsFileError, convert
from fusedlstm.convert.checking import check
from fusedlstm.convert.running import torch as running

I, N, T, B = 3, 4, 5, 2
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 1e-1}

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    return torch


def computed_of(torch, kind, dim=0):
    """Return the function that makes a module compute one of its parameters in a parametrization."""
    from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

    return {
        "weight_norm": lambda module, name: weight_norm(module, name, dim=dim),
        "parametrized weight_norm": lambda module, name: parametrizations.weight_norm(module, name, dim=dim),
        "spectral_norm": lambda module, name: spectral_norm(module, name, dim=dim),
        "parametrized spectral_norm": lambda module, name: parametrizations.spectral_norm(module, name, dim=dim),
        "pruning": lambda module, name: prune.random_unstructured(module, name, 0.4),
        "iterative pruning": lambda module, name: [prune.l1_unstructured(module, name, 0.2) for _ in range(2)],
    }[kind]


PARAMETRIZATIONS = [
    *(("weight_norm", dim) for dim in (0, 1, None)),
    *(("parametrized weight_norm", dim) for dim in (0, 1, None)),
    *(("spectral_norm", dim) for dim in (0, 1)),
    *(("parametrized spectral_norm", dim) for dim in (0, 1)),
    *((kind, 0) for kind in ("pruning", "iterative pruning")),
]


def changed(torch, module):
    """Change a module as training does: magnitudes are no longer norms, and vectors no longer fit the weights."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.endswith("mask"):
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return module.eval()


def outputs_of(torch, module):
    """Return inputs, and PyTorch's outputs and final states."""
    torch.manual_seed(2)
    dtype = next(module.parameters()).dtype
    xs = torch.randn(T, B, I, dtype=dtype)
    with torch.no_grad():
        if isinstance(module, torch.nn.LSTM):
            ys, (h, c) = module(xs)
            return xs, ys, h, c
        h = c = torch.zeros(B, N, dtype=dtype)
        ys = []
        for x in xs:
            h, c = module(x, (h, c))
            ys.append(h)
        return xs, torch.stack(ys), h[None], c[None]


def assert_same_outputs(torch, source, module, tolerance, **options):
    xs, ys, h, c = outputs_of(torch, module)
    lstm = LSTM(convert.from_torch(source, **options), backend="numpy")
    got, finals = lstm(lstm.asarray(xs))
    for ours, theirs in ((got, ys), *((final.h, one) for final, one in zip(finals, h, strict=True))):
        assert np.abs(ours.astype(float) - theirs.double().numpy()).max() <= tolerance
    for final, one in zip(finals, c, strict=True):
        assert np.abs(final.c.astype(float) - one.double().numpy()).max() <= tolerance


@pytest.mark.parametrize(
    ("kind", "dim", "dtype"),
    [
        *((kind, dim, "float64") for kind, dim in PARAMETRIZATIONS),
        *((kind, 0, dtype) for kind in ("parametrized weight_norm", "pruning") for dtype in ("float32", "bfloat16")),
        ("spectral_norm", 0, "float32"),  # 16-bit vectors have length 1 to only two digits
    ],
)
def test_computed_weights_of_lstms(torch, kind, dim, dtype, tmp_path):
    """Convert the module, its state_dict and its file, with both matrices computed in each layer and direction."""
    torch.manual_seed(0)
    module = torch.nn.LSTM(I, N, 2, bidirectional=True, proj_size=2, dtype=getattr(torch, dtype))
    prefix = "" if kind == "pruning" else "weight"  # biases can be pruned, too
    for name in [name for name, _ in module.named_parameters() if name.startswith(prefix)]:
        computed_of(torch, kind, dim)(module, name)
    changed(torch, module)
    path = tmp_path / "m.pt"
    torch.save({"net": module.state_dict()}, path)
    for source in (module, module.state_dict(), path):
        assert_same_outputs(torch, source, module, TOLERANCE[dtype])
    assert convert.list_torch(path)[0].hidden_size == N
    weights = convert.from_torch(path)
    result = check("torch", path, None, weights, {})
    assert result.agrees, result
    one = convert.from_torch(path, layer=1, reverse=True)
    assert check("torch", path, None, one, {"layer": 1, "reverse": True}).agrees


@pytest.mark.parametrize(("kind", "dim"), PARAMETRIZATIONS)
def test_computed_weights_of_cells(torch, kind, dim, tmp_path):
    module = torch.nn.LSTMCell(I, N, dtype=torch.float64)
    computed_of(torch, kind, dim)(module, "weight_hh")
    changed(torch, module)
    path = tmp_path / "m.safetensors"
    save_file({f"a.{name}": tensor.numpy() for name, tensor in module.state_dict().items()}, path)
    for source in (module, module.state_dict(), path):
        assert_same_outputs(torch, source, module, 1e-12)
    assert check("torch", path, None, convert.from_torch(path), {}).agrees


def test_check_finds_a_wrongly_computed_weight(torch, tmp_path, monkeypatch):
    """The check finds a wrong formula of ours, as PyTorch computes the weights itself."""
    from fusedlstm.convert.torch import parametrizations

    module = torch.nn.LSTM(I, N)
    for name, kind in (("weight_hh_l0", "weight_norm"), ("weight_ih_l0", "pruning")):
        computed_of(torch, kind)(module, name)
    path = tmp_path / "m.pt"
    torch.save(changed(torch, module).state_dict(), path)
    right = convert.from_torch(path)
    assert check("torch", path, None, right, {}).agrees
    wrong = tuple(
        parametrizations.Parametrization(kind.name, kind.parts, kind.shaped, lambda *parts: parts[-1], kind.exact)
        if kind.name == "weight_norm"
        else kind
        for kind in parametrizations.PARAMETRIZATIONS
    )
    monkeypatch.setattr(parametrizations, "PARAMETRIZATIONS", wrong)
    weights = convert.from_torch(path)
    assert not np.array_equal(weights.layers[0].weight_hh, right.layers[0].weight_hh)
    assert not check("torch", path, None, weights, {}).agrees


def test_removed_parametrization_keeps_weights(torch):
    """PyTorch's functions that remove a parametrization leave the same weights."""
    from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm

    ways = {
        "weight_norm": remove_weight_norm,
        "parametrized weight_norm": parametrize.remove_parametrizations,
        "spectral_norm": remove_spectral_norm,
        "parametrized spectral_norm": parametrize.remove_parametrizations,
        "pruning": prune.remove,
    }
    for kind, remove in ways.items():
        module = torch.nn.LSTM(I, N, dtype=torch.float64)
        computed_of(torch, kind)(module, "weight_hh_l0")
        changed(torch, module)
        ours = convert.from_torch(module.state_dict()).layers[0].weight_hh
        remove(module, "weight_hh_l0")
        np.testing.assert_allclose(ours, module.weight_hh_l0.detach().numpy(), rtol=1e-12)


def weight_dropout(torch, kind, module, names=("weight_hh_l0",)):
    """Return what a library's wrapper saves during training: raw weights, and copies with dropout."""
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    dropped = {name: torch.nn.functional.dropout(state[name], 0.5, training=True) for name in names}
    raw = {f"{name}_raw": state[name] for name in names}
    rest = {name: tensor for name, tensor in state.items() if name not in names}
    return {
        # fastai's WeightDropout: the wrapper has the raw weight, and the LSTM its copy, as a parameter.
        "fastai": raw | {f"module.{name}": tensor for name, tensor in (rest | dropped).items()},
        "fastai in a model": {f"0.rnns.0.{name}": tensor for name, tensor in raw.items()}
        | {f"0.rnns.0.module.{name}": tensor for name, tensor in (rest | dropped).items()},
        # Salesforce's awd-lstm-lm: the LSTM has both; the copy may be a parameter.
        "awd-lstm-lm": {f"rnns.0.module.{name}": tensor for name, tensor in (rest | raw).items()},
        "awd-lstm-lm with copy": {f"rnns.0.module.{name}": tensor for name, tensor in (rest | raw | dropped).items()},
        # PyTorch-NLP's WeightDropLSTM is an LSTM itself.
        "torchnlp": rest | raw,
        "torchnlp with copy": rest | raw | dropped,
        # Other libraries name the wrapped LSTM differently, or wrap a wrapper.
        "another child": raw | {f"rnn.{name}": tensor for name, tensor in rest.items()},
        "two wrappers": raw | {f"module.module.{name}": tensor for name, tensor in (rest | dropped).items()},
    }[kind]


WRAPPERS = ["fastai", "fastai in a model", "awd-lstm-lm", "awd-lstm-lm with copy", "torchnlp", "torchnlp with copy"]
WRAPPERS += ["another child", "two wrappers"]


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (1, ["weight_hh_l0"]),
        (1, ["weight_ih_l0", "weight_hh_l0"]),
        (2, ["weight_hh_l0", "weight_hh_l1", "weight_hh_l1_reverse"]),
    ],
)
def test_raw_weights_are_the_weights(torch, kind, layers, names, tmp_path):
    torch.manual_seed(0)
    module = torch.nn.LSTM(I, N, layers, bidirectional=layers == 2, dtype=torch.float64)
    parameters = weight_dropout(torch, kind, module, names)
    torch.save(parameters, tmp_path / "m.pt")
    for source in (parameters, tmp_path / "m.pt"):
        assert_same_outputs(torch, source, module, 1e-12)
        (listed,) = convert.list_torch(source)
        assert (listed.num_layers, listed.hidden_size, listed.input_size) == (layers, N, I)
    assert check("torch", tmp_path / "m.pt", None, convert.from_torch(tmp_path / "m.pt"), {}).agrees


def test_raw_weights_of_a_module_in_training(torch):
    """fastai's wrapper as a module, after a call in training."""

    class WeightDropout(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module
            self.weight_hh_l0_raw = torch.nn.Parameter(module.weight_hh_l0.detach().clone())

        def forward(self, xs):
            dropped = torch.nn.functional.dropout(self.weight_hh_l0_raw, 0.5, training=self.training)
            self.module._parameters["weight_hh_l0"] = torch.nn.Parameter(dropped)
            return self.module(xs)

    torch.manual_seed(0)
    model = torch.nn.Sequential(WeightDropout(torch.nn.LSTM(I, N)))
    xs = torch.randn(T, B, I)
    model(xs)
    weights = convert.from_torch(model)
    with torch.no_grad():
        wanted = model.eval()(xs)[0]
    assert np.abs(LSTM(weights, backend="numpy")(xs.numpy())[0] - wanted.numpy()).max() < 1e-6


def test_raw_weights_of_several_lstms(torch):
    """Each LSTM of an AWD-LSTM has its own raw weight. One that may belong to two raises."""
    modules = [torch.nn.LSTM(I, N), torch.nn.LSTM(N, N)]
    parameters = {}
    for k, module in enumerate(modules):
        own = weight_dropout(torch, "fastai", module)
        parameters |= {f"rnns.{k}.{name}": tensor for name, tensor in own.items()}
    with pytest.raises(ValueError, match=r"got 2\. Give prefix= one of 'rnns\.0\.module\.' .*, 'rnns\.1\.module\.' "):
        convert.from_torch(parameters)
    for k, module in enumerate(modules):
        weights = convert.from_torch(parameters, prefix=f"rnns.{k}.module").layers[0]
        np.testing.assert_array_equal(weights.weight_hh, module.weight_hh_l0.detach())
    parameters["weight_hh_l0_raw"] = parameters.pop("rnns.0.weight_hh_l0_raw")
    with pytest.raises(ValueError, match="weight_hh_l0_raw may belong to several LSTMs"):
        convert.from_torch(parameters, prefix="rnns.0.module")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["parametrizations.{}.original"], "remove_parametrizations"),
        (["parametrizations.{}.original", "parametrizations.{}.0.base"], "remove_parametrizations"),
        (["parametrizations.{}.original0", "parametrizations.{}.original1", "parametrizations.{}.1.k"], "remove_param"),
        (["parametrizations.{}.original", "parametrizations.{}.0._u", "parametrizations.{}.0._v", "{}"], "remove_para"),
        (["{}_g"], "remove_weight_norm"),
        (["{}_g", "{}_v", "{}"], "remove_weight_norm"),
        (["{}_orig", "{}_u"], "remove_spectral_norm"),  # PyTorch before 1.1, beside the weight
        (["{}_orig", "{}_u", "{}"], "remove_spectral_norm"),
        (["{}_orig"], "prune.remove"),
        (["{}_raw", "{}_mask"], "weight dropout"),
        (["{}_bar", "{}_u", "{}_v"], "weight_hh_l0_bar|remove_spectral_norm"),
    ],
)
def test_unknown_parts_are_refused(names, message):
    parts = {name.format("weight_hh_l0"): np.ones((4 * N, N), "f") for name in names}
    parameters = {f"net.{name}": array for name, array in ({"weight_ih_l0": np.ones((4 * N, I), "f")} | parts).items()}
    with pytest.raises(ValueError, match=f"alone; got net.*{message}"):
        convert.from_torch(parameters)


def test_adapters_around_lstms_are_refused():
    """With PEFT's names: the weight is base_layer's plus the adapter's."""
    base = {"weight_ih_l0": np.ones((4 * N, I), "f"), "weight_hh_l0": np.ones((4 * N, N), "f")}
    parameters = {f"net.lstm.base_layer.{name}": array for name, array in base.items()}
    assert convert.from_torch(parameters).num_layers == 1
    parameters |= {f"net.lstm.lora_{part}.default.weight": np.ones((2, 2), "f") for part in "AB"}
    with pytest.raises(ValueError, match=r"net\.lstm\.lora_A\.default\.weight, .*call merge_and_unload"):
        convert.from_torch(parameters)
    other = {f"my_base_layer.{name}": array for name, array in base.items()} | {"my_other": np.ones(3)}
    assert convert.from_torch(other).num_layers == 1


def test_parts_that_do_not_fit_are_refused():
    rest = {"weight_ih_l0": np.ones((4 * N, I), "f")}
    v = np.ones((4 * N, N), "f")
    for parts, message in (
        (
            {"_g": np.ones((N, 1), "f"), "_v": v},
            r"weight_hh_l0: wanted parameters of weight_norm; got magnitudes \(4, 1",
        ),
        ({"_orig": v, "_mask": v[:1]}, r"of pruning; got a mask \(1, 4\) for weights \(16, 4\)"),
        ({"_orig": v, "_u": v[0], "_v": v[0]}, r"of spectral_norm; got vectors \(4,\) and \(4,\)"),
        ({"_orig": v[:N], "_u": v[0], "_v": v[0]}, "whose shape doesn't tell which axis is dim"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.from_torch(rest | {f"weight_hh_l0{part}": array for part, array in parts.items()})
    with pytest.raises(TypeError, match="weight_hh_l0_g: wanted dtype float32 .*that of weight_hh_l0_v"):
        convert.from_torch(rest | {"weight_hh_l0_g": np.ones((4 * N, 1)), "weight_hh_l0_v": v})


def test_zero_directions_give_pytorchs_nan(torch):
    module = torch.nn.LSTM(I, N)
    computed_of(torch, "weight_norm")(module, "weight_hh_l0")
    with torch.no_grad():
        module.weight_hh_l0_v[1] = 0
    state_dict = module.eval().state_dict()
    module(torch.zeros(1, 1, I))
    weight_hh = convert.from_torch(state_dict).layers[0].weight_hh
    np.testing.assert_allclose(weight_hh, module.weight_hh_l0.detach(), rtol=1e-6)
    assert np.isnan(module.weight_hh_l0.detach()[1]).all()


def test_parametrized_module_computes_its_weights(torch):
    """A module computes its weights itself, and doesn't change."""
    from torch.nn.utils import parametrizations, parametrize

    class Twice(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    module = torch.nn.LSTM(I, N, dtype=torch.float64)
    parametrizations.orthogonal(module, "weight_hh_l0")
    parametrizations.spectral_norm(module, "weight_ih_l0")
    parametrize.register_parametrization(module, "weight_ih_l0", Twice())
    changed(torch, module).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    weights = convert.from_torch(torch.nn.Sequential(module))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module.training
    assert_same_outputs(torch, module, module.eval(), 1e-12)
    np.testing.assert_array_equal(weights.layers[0].weight_ih, module.weight_ih_l0.detach())
    with pytest.raises(ValueError, match="remove_parametrizations"):
        convert.from_torch(module.state_dict())


def test_random_parametrizations_are_refused(torch):
    from torch.nn.utils import parametrize

    class Noise(torch.nn.Module):
        def forward(self, weight):
            return weight + torch.randn_like(weight)

    module = torch.nn.LSTM(I, N)
    parametrize.register_parametrization(module, "weight_hh_l0", Noise())
    with pytest.raises(
        ValueError, match="wanted a parametrization of weight_hh_l0 that always gives the same weight; got Noise"
    ):
        convert.from_torch(module)


@pytest.mark.parametrize("names", [("lstm", "ema_model.lstm"), ("", "ema"), ("module.net", "_orig_mod.net")])
def test_copies_are_listed_not_chosen(torch, names):
    """For an averaged model, or a module with two names, the caller must choose."""
    state = torch.nn.LSTM(I, N).state_dict()
    parameters = {".".join(filter(None, (name, key))): tensor for name in names for key, tensor in state.items()}
    with pytest.raises(ValueError, match=rf"one LSTM, or prefix= to choose; got 2\..*'{names[1]}\.'"):
        convert.from_torch(parameters)
    assert [lstm.prefix.removesuffix(".") for lstm in convert.list_torch(parameters)] == sorted(names)
    for name in names:
        assert convert.from_torch(parameters, prefix=name).num_layers == 1


@pytest.mark.parametrize("kind", ["GRU", "RNN"])
def test_other_cells_are_not_candidates(torch, kind):
    model = torch.nn.ModuleDict({"a": getattr(torch.nn, kind)(I, N), "b": torch.nn.LSTM(I, N, proj_size=2)})
    assert [lstm.prefix for lstm in convert.list_torch(model)] == ["b."]
    assert convert.from_torch(model).layers[0].proj_size == 2
    with pytest.raises(ValueError, match="It looks like"):
        convert.from_torch(model, prefix="a")


def test_names_are_not_matched_by_substring():
    parameters = {f"net.{name}": np.ones((16, 4), "f") for name in ("weight_ihx_l0", "my_weight_ih", "weight_ih_lx")}
    assert convert.list_torch(parameters) == []
    with pytest.raises(ValueError, match=r"a parameter 'weight_ih'; got net\.my_weight_ih, .*"):
        convert.from_torch(parameters)


def test_lists_of_many_candidates_are_short():
    parameters = {f"{k:02}.weight_ih": np.ones((16, 4), "f") for k in range(30)}
    with pytest.raises(ValueError, match=r"got 30\. Give prefix= one of '00\.' .*, '07\.' [^,]*, I=4, N=4\), \.\.\.$"):
        convert.from_torch(parameters)


def test_check_runs_with_raw_weights(torch, tmp_path):
    """PyTorch runs with the raw weight, so the check would fail with the copy."""
    module = torch.nn.LSTM(I, N)
    parameters = weight_dropout(torch, "fastai", module)
    torch.save(parameters, tmp_path / "m.pt")
    weights = convert.from_torch(tmp_path / "m.pt")
    xs = np.random.default_rng(0).normal(size=(T, B, I)).astype("f")
    states = [(np.zeros((B, N), "f"), np.zeros((B, N), "f"))]
    ys, _ = running.run(tmp_path / "m.pt", None, weights, xs, states, {})
    ours, _ = LSTM(weights, backend="numpy")(xs, [LSTMState(h=states[0][0], c=states[0][1])])
    assert np.abs(ys - ours).max() < 1e-6
    copy = {name.removeprefix("module."): tensor for name, tensor in parameters.items() if "_raw" not in name}
    dropped, _ = LSTM(convert.from_torch(copy), backend="numpy")(xs)
    assert np.abs(ys - dropped).max() > 1e-3


def test_errors_name_the_file(torch, tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"weight_ih_l0": torch.ones(16, 3), "weight_hh_l0_g": torch.ones(16, 1)}, path)
    for function in (convert.from_torch, lambda path: convert.from_torch(path, prefix="x")):
        with pytest.raises(WeightsFileError, match=r"m\.pt: source: "):
            function(path)
    nested = {"b" * 5000: 1}
    torch.save(nested, path)
    for function in (convert.from_torch, convert.list_torch):
        with pytest.raises(WeightsFileError, match=r"m\.pt: source: wanted names of at most 4096"):
            function(path)


def test_signalling_nans_are_computed_silently():
    """Casting one raises a floating-point flag, of which NumPy would warn."""
    rng = np.random.default_rng(0)
    v = rng.normal(size=(4 * N, I)).astype(np.float32)
    v.view(np.uint32)[0, 0] = 0x7F800001
    parameters = {
        "weight_ih_l0_v": v,
        "weight_ih_l0_g": np.ones((4 * N, 1), np.float32),
        "weight_hh_l0": rng.normal(size=(4 * N, N)).astype(np.float32),
    }
    (layer,) = convert.from_torch(parameters).layers
    assert np.isnan(layer.weight_ih[0]).all()
    assert np.isfinite(layer.weight_ih[1:]).all()
