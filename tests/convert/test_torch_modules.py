"""Test PyTorch's modules as sources: classes, hooks, and every argument and attribute of LSTM and LSTMCell."""

import functools
import inspect
import io

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMWeights, convert, log

I, N, T, B = 3, 4, 5, 2

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    return torch


@pytest.fixture
def classes(torch):
    """Return subclasses by name. Only the first computes the same as its base."""

    class Named(torch.nn.LSTM):
        def __init__(self, *sizes, name="", **options):
            super().__init__(*sizes, **options)
            self.name = name

        def summary(self):
            return f"{self.name}: {self.hidden_size}"

    class Doubled(torch.nn.LSTM):
        def forward(self, xs, hx=None):
            return super().forward(2 * xs, hx)

    class Inherits(Doubled):
        pass

    class Called(torch.nn.LSTMCell):
        def __call__(self, *arguments):
            return super().__call__(*arguments)[::-1]

    class Property(torch.nn.LSTMCell):
        weight_hh_scale = 2

        def __getattr__(self, name):
            value = super().__getattr__(name)
            return 2 * value if name == "weight_hh" else value

    class HandWritten(torch.nn.Module):
        """An LSTM whose gates are in another order."""

        def __init__(self, input_size, hidden_size):
            super().__init__()
            self.weight_ih = torch.nn.Parameter(torch.randn(4 * hidden_size, input_size))
            self.weight_hh = torch.nn.Parameter(torch.randn(4 * hidden_size, hidden_size))

        def forward(self, x, state):
            i, f, o, g = (x @ self.weight_ih.T + state[0] @ self.weight_hh.T).chunk(4, dim=1)
            c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
            return o.sigmoid() * c.tanh(), c

    return {kind.__name__: kind for kind in (Named, Doubled, Inherits, Called, Property, HandWritten)}


def test_subclasses_without_forward_are_plain(classes, torch):
    module = classes["Named"](I, N, 2, bidirectional=True, name="encoder")
    assert convert.from_torch(module).num_layers == 2
    assert convert.from_torch(torch.nn.Sequential(module)).bidirectional


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Doubled", ", which has its own forward"),
        ("Inherits", ", which has its own forward"),
        ("Called", ", which has its own __call__"),
        ("Property", ", which has its own __getattr__"),
        ("HandWritten", ""),
    ],
)
def test_foreign_classes_are_refused(classes, torch, name, what):
    module = classes[name](I, N)
    full = f"{module.__class__.__module__}.{module.__class__.__qualname__}"
    message = (
        rf"source: wanted a torch\.nn\.LSTM or LSTMCell; got the class {full}{what}\. If .*custom_classes=\['{full}'"
    )
    with pytest.raises(ValueError, match=message):
        convert.from_torch(module)
    model = torch.nn.ModuleDict({"encoder": module})
    with pytest.raises(ValueError, match=rf"{name} at 'encoder'"):
        convert.from_torch(model)
    for vouched in (name, full):
        weights = convert.from_torch(model, custom_classes=[vouched])
        wanted = convert.from_torch(module.state_dict())
        assert type(weights) is type(wanted)
        first, second = (w if isinstance(w, LSTMWeights) else w.layers[0] for w in (weights, wanted))
        np.testing.assert_array_equal(first.weight_ih, second.weight_ih)
    for other in ([], ["Other"], [name.lower()], [name[:-1]]):
        with pytest.raises(ValueError, match="source: wanted a torch"):
            convert.from_torch(module, custom_classes=other)


def test_forward_of_an_object_is_foreign(torch):
    """PyTorch-NLP's WeightDropLSTM replaces its object's forward. Its state_dict shows its weights."""
    module = torch.nn.LSTM(I, N)
    module.forward = functools.partial(module.forward)
    with pytest.raises(ValueError, match=r"torch\.nn\.modules\.rnn\.LSTM, which has its own forward"):
        convert.from_torch(module)
    assert convert.from_torch(module, custom_classes={"LSTM"}).num_layers == 1
    assert convert.from_torch(module.state_dict()).num_layers == 1


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_forward_hooks_are_foreign(torch, register):
    def twice(module, *arguments):
        return None

    class Recorder:
        def __call__(self, module, *arguments):
            return None

    for hook, name in ((twice, "twice"), (Recorder(), "Recorder")):
        module = torch.nn.LSTM(I, N)
        handle = getattr(module, register)(hook)
        with pytest.raises(ValueError, match=rf"got a module with the hook .*{name}\. If .*custom_classes"):
            convert.from_torch(module)
        assert convert.from_torch(module, custom_classes=(name,)).num_layers == 1
        with pytest.raises(ValueError, match=name):
            convert.from_torch(module, custom_classes=("LSTM",))
        handle.remove()
        assert convert.from_torch(module).num_layers == 1
    around = torch.nn.Sequential(torch.nn.LSTM(I, N))
    getattr(around, register)(twice)  # not the LSTM's own
    assert convert.from_torch(around).num_layers == 1


def test_custom_pruning_methods_are_foreign(torch):
    from torch.nn.utils import prune

    class Odd(prune.RandomUnstructured):
        def apply_mask(self, module):
            return super().apply_mask(module) * 2

    module = torch.nn.LSTM(I, N)
    Odd.apply(module, "weight_hh_l0", amount=0.5)
    with pytest.raises(ValueError, match="with the hook .*Odd"):
        convert.from_torch(module)


@pytest.mark.parametrize(
    ("value", "message"), [("LSTM", "got str"), (b"LSTM", "got bytes"), (3, "got int"), ([3], "got int among them")]
)
def test_custom_classes_are_names(value, message):
    with pytest.raises(TypeError, match=f"custom_classes: wanted a sequence of names of classes; {message}"):
        convert.from_torch({}, custom_classes=value)


def test_objects_that_are_not_modules(torch):
    class Engine:
        def state_dict(self):
            return torch.nn.LSTM(I, N).state_dict()

    with pytest.raises(ValueError, match="got an object of .*Engine, which is not a module"):
        convert.from_torch(Engine())
    assert convert.from_torch(Engine(), custom_classes=["Engine"]).num_layers == 1


def test_state_dicts_of_other_names(torch):
    class Renamed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(I, N)

        def state_dict(self):
            return {f"old.{name}": tensor for name, tensor in self.lstm.state_dict().items()}

    with pytest.raises(ValueError, match=r"which has no module 'old'\. Pass its state_dict\(\)"):
        convert.from_torch(Renamed())


def test_wrappers_of_whole_modules(torch):
    """DataParallel, an averaged model and torch.compile put their own names before the LSTM's."""
    module = torch.nn.LSTM(I, N, dtype=torch.float64)
    wrappers = [torch.nn.DataParallel, torch.optim.swa_utils.AveragedModel, torch.compile]
    for wrap in wrappers:
        weights = convert.from_torch(wrap(torch.nn.Sequential(module)))
        np.testing.assert_array_equal(weights.layers[0].weight_ih, module.weight_ih_l0.detach())


@pytest.mark.filterwarnings("ignore")  # about what tracing doesn't follow
def test_torchscript_names_its_class(torch, classes):
    """A scripted module has its class's full name, but doesn't show whether a subclass had its own forward."""

    def again(script):
        file = io.BytesIO()
        torch.jit.save(script, file)
        file.seek(0)
        return torch.jit.load(file)

    scripts = [torch.jit.script(torch.nn.Sequential(torch.nn.LSTM(I, N)))]
    scripts += [torch.jit.trace(torch.nn.Sequential(torch.nn.LSTM(I, N)), torch.zeros(T, B, I)) for _ in range(2)]
    for script in (*scripts, *map(again, scripts)):
        assert convert.from_torch(script).num_layers == 1
    for name in ("Doubled", "Named"):
        script = torch.jit.trace(torch.nn.Sequential(classes[name](I, N)), torch.zeros(T, B, I))
        for one in (script, again(script)):
            with pytest.raises(ValueError, match=rf"got TorchScript of the class .*\b{name} at '0'"):
                convert.from_torch(one)
            assert convert.from_torch(one, custom_classes=[name]).num_layers == 1


def test_modules_of_quantised_references(torch):
    try:
        from torch.ao.nn.quantized.reference import LSTMCell
    except ImportError as error:
        pytest.skip(f"this PyTorch has none: {error}")
    with pytest.raises(ValueError, match="source: wanted "):
        convert.from_torch(LSTMCell(I, N))


def test_lstms_by_mode_are_foreign(torch):
    """An RNNBase in the mode LSTM has no forward."""
    with pytest.raises(ValueError, match="got the class torch.nn.modules.rnn.RNNBase"):
        convert.from_torch(torch.nn.RNNBase("LSTM", I, N))


# Each argument of torch.nn.LSTM: a value other than the default, and its fate.
LSTM_ARGUMENTS = {
    "input_size": (5, "taken"),
    "hidden_size": (6, "taken"),
    "num_layers": (3, "taken"),
    "bias": (False, "taken"),
    "batch_first": (True, "logged"),
    "dropout": (0.5, "irrelevant"),  # at inference
    "bidirectional": (True, "taken"),
    "proj_size": (2, "taken"),
    "device": ("cpu", "taken"),  # values are copied to the host; test_tensors_numpy_cannot_hold_raise has "meta"
    "dtype": ("float64", "taken"),
}
CELL_ARGUMENTS = {name: LSTM_ARGUMENTS[name] for name in ("input_size", "hidden_size", "bias", "device", "dtype")}


def test_all_arguments_are_in_the_tables(torch):
    known = set(LSTM_ARGUMENTS) | {"mode"}
    assert set(inspect.signature(torch.nn.RNNBase).parameters) == known
    assert set(inspect.signature(torch.nn.LSTMCell).parameters) == set(CELL_ARGUMENTS)
    assert set(torch.nn.LSTM.__constants__) <= known
    assert set(torch.nn.LSTMCell.__constants__) <= set(CELL_ARGUMENTS)


def with_argument(torch, kind, argument, table):
    value = torch.float64 if argument == "dtype" else table[argument][0]
    torch.manual_seed(0)
    return getattr(torch.nn, kind)(**{"input_size": I, "hidden_size": N} | {argument: value}).eval()


def assert_runs_alike(torch, module, xs):
    with torch.no_grad():
        if isinstance(module, torch.nn.LSTM):
            wanted = module(xs.transpose(0, 1))[0].transpose(0, 1) if module.batch_first else module(xs)[0]
        else:
            state, steps = None, []
            for x in xs:
                state = module(x, state)
                steps.append(state[0])
            wanted = torch.stack(steps)
    got, _ = LSTM(convert.from_torch(module), backend="numpy")(xs.numpy())
    assert np.abs(got - wanted.numpy()).max() < (1e-12 if xs.dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("argument", LSTM_ARGUMENTS)
def test_arguments_of_lstm(torch, argument, caplog, monkeypatch):
    monkeypatch.setattr(log, "_said", set())
    module = with_argument(torch, "LSTM", argument, LSTM_ARGUMENTS)
    torch.manual_seed(1)
    xs = torch.randn(T, B, module.input_size, dtype=module.weight_ih_l0.dtype)
    assert_runs_alike(torch, module, xs)
    assert ("batch_first" in caplog.text) == (LSTM_ARGUMENTS[argument][1] == "logged")


@pytest.mark.parametrize("argument", CELL_ARGUMENTS)
def test_arguments_of_lstm_cell(torch, argument):
    module = with_argument(torch, "LSTMCell", argument, CELL_ARGUMENTS)
    torch.manual_seed(1)
    assert_runs_alike(torch, module, torch.randn(T, B, module.input_size, dtype=module.weight_ih.dtype))


def test_dropout_in_training_is_left_out(torch):
    """Dropout doesn't change weights, even for a module in training."""
    module = torch.nn.LSTM(I, N, 2, dropout=0.9).train()
    assert_runs_alike(torch, module.eval(), torch.randn(T, B, I))
    training, inference = convert.from_torch(module.train()), convert.from_torch(module.eval())
    for one, other in zip(training.layers, inference.layers, strict=True):
        np.testing.assert_array_equal(one.weight_hh, other.weight_hh)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("num_layers", 1),
        ("bidirectional", False),
        ("bias", False),
        ("proj_size", 0),
        ("hidden_size", 5),
        ("input_size", 2),
    ],
)
def test_attributes_that_differ_are_refused(torch, attribute, value):
    """Forward uses the attributes, so parameters beyond them have no effect."""
    module = torch.nn.LSTM(I, N, 2, bidirectional=True, proj_size=2)
    setattr(module, attribute, value)
    with pytest.raises(ValueError, match=rf"source: wanted {attribute} .*, as in its parameters; got {value}"):
        convert.from_torch(module)


def test_flat_weights_that_differ_are_refused(torch):
    """Forward uses _flat_weights, which are the parameters unless somebody assigns others."""
    module = torch.nn.LSTM(I, N)
    module.weight_hh_l0 = torch.nn.Parameter(torch.ones(4 * N, N))
    assert (convert.from_torch(module).layers[0].weight_hh == 1).all()
    xs = torch.zeros(T, B, I)
    module(xs)
    module._flat_weights[1] = torch.nn.Parameter(torch.zeros(4 * N, N))
    with pytest.raises(ValueError, match="_flat_weights that are its parameters; got another tensor for weight_hh_l0"):
        convert.from_torch(module)


# The fate of each attribute that LSTM and LSTMCell add to torch.nn.Module's.
ATTRIBUTES = {
    **dict.fromkeys(("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "proj_size"), "checked"),
    "batch_first": "logged",
    "dropout": "irrelevant",  # at inference
    "mode": "irrelevant",  # forward of LSTM doesn't look at it
    **dict.fromkeys(("_flat_weights", "_flat_weights_names", "_flat_weight_refs"), "checked"),
    "_all_weights": "irrelevant",  # names, for all_weights
}


def test_all_attributes_are_in_the_table(torch):
    plain = set(vars(torch.nn.Module()))
    own = {name for kind in ("LSTM", "LSTMCell") for name in vars(getattr(torch.nn, kind)(I, N))} - plain
    assert own == set(ATTRIBUTES) - ({"_flat_weight_refs"} - own)


def test_mode_is_irrelevant(torch):
    module = torch.nn.LSTM(I, N)
    module.mode = "GRU"
    assert_runs_alike(torch, module, torch.randn(T, B, I))


def test_every_parameter_is_taken(torch):
    """Every parameter of every module that the arguments can make is taken."""
    names = set()
    for bias in (False, True):
        for projected in (0, 2):
            module = torch.nn.LSTM(I, N, 2, bias=bias, bidirectional=True, proj_size=projected, dtype=torch.float64)
            names |= {name.partition("_l")[0] for name, _ in module.named_parameters()}
            xs = torch.randn(T, B, I, dtype=torch.float64)
            assert_runs_alike(torch, module, xs)
            for name, parameter in module.named_parameters():
                before = LSTM(convert.from_torch(module), backend="numpy")(xs.numpy())[0]
                with torch.no_grad():
                    parameter += 0.1
                after = LSTM(convert.from_torch(module), backend="numpy")(xs.numpy())[0]
                assert np.abs(before - after).max() > 1e-6, name
    assert names == {"weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"}
