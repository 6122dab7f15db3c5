"""Zoneout around PyTorch's cells: modules such as ESPnet's ZoneOutCell, and rates that names alone don't reveal."""

import dataclasses
import functools

import numpy as np
import pytest
from safetensors.numpy import save_file

from fusedlstm import LSTM, LSTMCell, LSTMState, StackedWeights, convert
from fusedlstm.convert import checking

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

I, N, T, B = 3, 4, 5, 2
RATES = ("zoneout_rate", "zoneout", "zoneout_prob")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


class ZoneOutCell(torch.nn.Module):
    """Keep each unit of h and c at random in training. In inference, mix old and new states by the rate."""

    def __init__(self, cell, rate=0.1, name="zoneout_rate"):
        super().__init__()
        self.cell, self.hidden_size, self.name = cell, cell.hidden_size, name
        setattr(self, name, rate)

    def forward(self, x, state):
        return tuple(map(self.mixed, state, self.cell(x, state)))

    def mixed(self, old, new):
        rate = getattr(self, self.name)
        kept = torch.bernoulli(torch.full_like(old, rate)) if self.training else rate
        return old * kept + new * (1 - kept)


def named(name, **members):
    """Return a subclass of torch.nn.Module, or of ZoneOutCell under its own name."""
    base = torch.nn.Module if name != "ZoneOutCell" else ZoneOutCell
    return type(name, (base,), members)


def cell_of(width=I):
    return torch.nn.LSTMCell(width, N, dtype=torch.float64)


class Decoder(torch.nn.Module):
    """Cells in a list, as in a Tacotron's decoder."""

    def __init__(self, rates=(0.1, 0.25)):
        super().__init__()
        self.zoneout_rate = rates[0]  # not the cells' rate
        self.lstm = torch.nn.ModuleList(ZoneOutCell(cell_of(N if k else I), rate) for k, rate in enumerate(rates))
        self.out = torch.nn.Linear(N, I)

    def forward(self, x, states):
        new = []
        for layer, state in zip(self.lstm, states, strict=True):
            new.append(layer(x, state))
            x = new[-1][0]
        return x, new


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def inputs(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def steps_like(module, weights):
    """Return whether a module in eval mode and the weights take the same steps."""
    cell, state = LSTMCell(weights, backend="numpy"), (inputs(B, N), inputs(B, N))
    ours = LSTMState(h=state[0].numpy(), c=state[1].numpy())
    with torch.no_grad():
        for x in inputs(T, B, I):
            state, ours = module.eval()(x, state), cell(x.numpy(), ours)
            if max(np.abs(ours.h - state[0].numpy()).max(), np.abs(ours.c - state[1].numpy()).max()) > 1e-12:
                return False
    return True


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("rate", [0, 0.1, 1])
@pytest.mark.parametrize("name", RATES)
def test_zoneout_cell_keeps_its_rate(name, rate, training):
    """Training is random. As with dropout, the weights are those for inference."""
    module = ZoneOutCell(cell_of(), rate, name).train(training)
    weights = convert.from_torch(module)
    assert (weights.zoneout_c, weights.zoneout_h) == (rate, rate)
    assert module.training == training
    assert steps_like(module, weights)
    other = dataclasses.replace(weights, zoneout_c=0.0, zoneout_h=0.0)
    assert steps_like(module, other) == (rate == 0)  # the comparison can see zoneout


@pytest.mark.parametrize(
    "wrap",
    [
        torch.nn.DataParallel,
        torch.compile,
        lambda module: torch.nn.ModuleDict({"a": torch.nn.ModuleList([torch.nn.Linear(1, 1), module])}),
    ],
)
def test_zoneout_cell_in_a_model(wrap):
    module = ZoneOutCell(cell_of(), 0.3)
    assert steps_like(module, convert.from_torch(wrap(module)))


def test_zoneout_cell_compiled_in_place():
    module = ZoneOutCell(cell_of(), 0.3)
    module.compile()
    assert convert.from_torch(module).zoneout_h == 0.3


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_zoneout_cell_whose_weights_are_computed():
    module = ZoneOutCell(torch.nn.utils.parametrizations.weight_norm(cell_of(), "weight_hh"), 0.3)
    assert steps_like(module, convert.from_torch(module))
    module = ZoneOutCell(torch.nn.utils.weight_norm(cell_of(), "weight_hh"), 0.3)
    assert steps_like(module, convert.from_torch(module))


def test_layers_of_zoneout_cells():
    decoder = Decoder().eval()
    with pytest.raises(ValueError, match=r"source: wanted one LSTM, or prefix= .*'lstm\.0\.cell\.'"):
        convert.from_torch(decoder)
    layers = [convert.from_torch(decoder, prefix=f"lstm.{k}.cell") for k in range(2)]
    assert [layer.zoneout_c for layer in layers] == [0.1, 0.25]
    lstm, xs = LSTM(StackedWeights(layers), backend="numpy"), inputs(T, B, I)
    states, wanted = [(torch.zeros(B, N, dtype=torch.float64),) * 2 for _ in layers], []
    with torch.no_grad():
        for x in xs:
            out, states = decoder(x, states)
            wanted.append(out.numpy())
    assert np.abs(lstm(xs.numpy())[0] - np.stack(wanted)).max() < 1e-12


def test_trial_changes_nothing():
    """The trial leaves the random generator and the module's mode alone, and doesn't step the cell."""
    module = ZoneOutCell(cell_of(), 0.3).train()
    module.cell.register_forward_pre_hook(lambda *_: pytest.fail("the cell was stepped"))
    before = torch.get_rng_state()
    convert.from_torch(module, custom_classes=["<lambda>"])
    assert torch.equal(torch.get_rng_state(), before)
    assert module.training
    assert module.cell.training


def test_zoneout_argument_must_match_the_module():
    module = ZoneOutCell(cell_of(), 0.3)
    assert convert.from_torch(module, zoneout=0.3).zoneout_c == 0.3
    with pytest.raises(ValueError, match=r"^zoneout: wanted 0\.3, as in the module, or nothing; got 0\.1"):
        convert.from_torch(module, zoneout=0.1)
    with pytest.raises(ValueError, match=r"^zoneout: wanted 0\.0, as in the module"):
        convert.from_torch(ZoneOutCell(cell_of(), 0.0), zoneout=0.1)


@pytest.mark.parametrize("kind", ["state_dict", "arrays", "pt", "safetensors", "npz", "the cell itself"])
def test_zoneout_argument_gives_the_rate(kind, tmp_path):
    module = ZoneOutCell(cell_of(), 0.3)
    state_dict = module.state_dict()
    arrays = {name: tensor.numpy() for name, tensor in state_dict.items()}
    if kind == "pt":
        torch.save(state_dict, tmp_path / kind)
    elif kind == "safetensors":
        save_file(arrays, tmp_path / kind)
    elif kind == "npz":
        np.savez(tmp_path / kind, **arrays)
    sources = {"state_dict": state_dict, "arrays": arrays, "npz": tmp_path / "npz.npz", "the cell itself": module.cell}
    source = sources.get(kind, tmp_path / kind)
    assert steps_like(module, convert.from_torch(source, zoneout=0.3))
    assert convert.from_torch(source).zoneout_h == 0


def test_rate_of_layers():
    """A torch.nn.LSTM has no zoneout. A given rate applies to each layer and direction."""
    state_dict = torch.nn.LSTM(I, N, 2, bidirectional=True).state_dict()
    stacked = convert.from_torch(state_dict, zoneout=0.3)
    assert [(layer.zoneout_c, layer.zoneout_h) for layer in stacked.layers] == [(0.3, 0.3)] * 4
    assert convert.from_torch(state_dict, layer=1, reverse=True, zoneout=0.3).zoneout_c == 0.3


@pytest.mark.parametrize(
    ("zoneout", "error", "message"),
    [
        (-0.1, ValueError, "zoneout: wanted a number from 0 to 1; got -0.1"),
        (1.1, ValueError, "zoneout: wanted a number from 0 to 1; got 1.1"),
        (float("nan"), ValueError, "zoneout: wanted a finite number"),
        (None, TypeError, "zoneout: wanted a number; got None"),
        ((0.1, 0.2), TypeError, "zoneout: wanted a number; got tuple"),
    ],
)
def test_bad_rates(zoneout, error, message):
    with pytest.raises(error, match=f"^{message}"):
        convert.from_torch({}, zoneout=zoneout)


def test_names_of_a_decoder_are_warned_of(caplog):
    """A state_dict doesn't hold the rate."""
    state_dict = Decoder().state_dict()
    convert.from_torch(state_dict, prefix="lstm.0.cell", zoneout=0.1)
    convert.from_torch(Decoder(), prefix="lstm.0.cell")
    convert.from_torch({"cell.weight_ih": np.ones((4, 1)), "cell.weight_hh": np.ones((4, 1))})
    assert not caplog.records
    convert.from_torch(state_dict, prefix="lstm.0.cell")
    assert "lstm.0.cell. may be in a ZoneOutCell, which names don't show: pass its rate, zoneout=" in caplog.text


# Modules named ZoneOutCell with other formulas.


def exchanged(self, x, state):
    """Keep the new part instead of the old one."""
    return tuple(map(self.mixed, self.cell(x, state), state))


def always_random(self, x, state):
    return ZoneOutCell.forward(self.train(), x, state)


def h_alone(self, x, state):
    h, c = self.cell(x, state)
    return self.mixed(state[0], h), c


def c_alone(self, x, state):
    h, c = self.cell(x, state)
    return h, self.mixed(state[1], c)


def swapped(self, x, state):
    return ZoneOutCell.forward(self, x, state)[::-1]


def doubled(self, x, state):
    return ZoneOutCell.forward(self, 2 * x, state)


def restarted(self, x, state):
    new = self.cell(x, tuple(map(torch.zeros_like, state)))
    return tuple(map(self.mixed, state, new))


def twice(self, x, state):
    return ZoneOutCell.forward(self, x, ZoneOutCell.forward(self, x, state))


def output_too(self, x, state):
    new = ZoneOutCell.forward(self, x, state)
    return new[0], new


def with_other_arguments(self, x, h, c):
    return ZoneOutCell.forward(self, x, (h, c))


FOREIGN = [exchanged, always_random, h_alone, c_alone, swapped, doubled, restarted, twice, output_too]


@pytest.mark.parametrize("forward", [*FOREIGN, with_other_arguments], ids=lambda forward: forward.__name__)
def test_other_formulas_are_refused(forward):
    kind = named("ZoneOutCell", forward=forward)
    module = kind(cell_of(), 0.3).eval()
    full = f"{kind.__module__}.ZoneOutCell"
    message = rf"source: wanted an LSTM without zoneout, or an LSTMCell in a ZoneOutCell; got the class {full}"
    why = r", which computes something else. If it computes rate \* old \+ \(1 - rate\) \* new, pass custom_classes"
    with pytest.raises(ValueError, match=f"{message}{why}=.'{full}'"):
        convert.from_torch(module)
    with pytest.raises(ValueError, match=f"{message} at 'a.b'"):
        convert.from_torch(torch.nn.ModuleDict({"a": torch.nn.ModuleDict({"b": module})}))
    with pytest.raises(ValueError, match=message):
        convert.from_torch(module, custom_classes=["Other"])
    assert convert.from_torch(module, custom_classes=["ZoneOutCell"]).zoneout_c == 0.3
    assert convert.from_torch(module.state_dict(), zoneout=0.3).zoneout_c == 0.3


def test_replaced_forward_is_refused():
    module = ZoneOutCell(cell_of(), 0.3)
    module.forward = functools.partial(module.forward)  # it computes the same, but steps the original module
    with pytest.raises(ValueError, match="which computes something else"):
        convert.from_torch(module)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_of_a_zoneout_cell_are_foreign(register):
    module = ZoneOutCell(cell_of(), 0.3)
    getattr(module, register)(lambda *_: pytest.fail("the hook was run"))
    with pytest.raises(ValueError, match="ZoneOutCell, which has a forward hook"):
        convert.from_torch(module)
    assert convert.from_torch(module, custom_classes=["ZoneOutCell"]).zoneout_c == 0.3


@pytest.mark.parametrize("more", ["norm", "scale", "count"])
def test_more_than_a_cell_is_foreign(more):
    module = ZoneOutCell(cell_of(), 0.3)
    if more == "norm":
        module.norm = torch.nn.Dropout()
    elif more == "scale":
        module.scale = torch.nn.Parameter(torch.ones(1))
    else:
        module.register_buffer("count", torch.ones(1))
    with pytest.raises(ValueError, match=f"ZoneOutCell, which has {more} besides its cell"):
        convert.from_torch(module)


@pytest.mark.parametrize("rate", [None, "0.1", (0.1, 0.2), 1.5, -0.5, float("nan"), torch.tensor(0.1), True])
def test_unreadable_rates_raise(rate):
    """custom_classes can't help, as the module's zoneout would be lost."""
    module = ZoneOutCell(cell_of(), rate)
    for vouched in ([], ["ZoneOutCell"]):
        with pytest.raises(
            ValueError, match=r"no number from 0 to 1 as zoneout_rate or .*Pass its state_dict\(\), and z"
        ):
            convert.from_torch(module, custom_classes=vouched)


def test_zoneout_cells_around_others_are_refused():
    """Refuse a cell within a cell, and a whole LSTM."""
    inner = ZoneOutCell(cell_of(), 0.1)
    inner.batch_first = False
    lstm = torch.nn.LSTM(I, N)
    wrapped = torch.nn.Sequential(cell_of())
    wrapped.hidden_size = N
    for held in (inner, lstm, wrapped):
        module = ZoneOutCell(held, 0.2)
        for vouched in ([], ["ZoneOutCell"]):
            with pytest.raises(ValueError, match="ZoneOutCell, whose cell is another module. Pass its state_dict"):
                convert.from_torch(module, custom_classes=vouched)


@pytest.mark.parametrize("name", ["ZoneOutLSTM", "ZoneoutWrapper", "Zone_Out"])
def test_other_modules_named_zoneout_are_refused(name):
    """Their zoneout is unknown. They are read only if the caller says that they have none."""
    model = named(name)()
    model.cells = torch.nn.ModuleList([cell_of()])
    outer = torch.nn.Sequential(model)
    with pytest.raises(
        ValueError, match=rf"{name} at '0', which holds the LSTM. If it adds no zoneout, pass custom_cl"
    ):
        convert.from_torch(outer)
    assert convert.from_torch(outer, custom_classes=[name]).zoneout_h == 0
    assert convert.from_torch(outer, custom_classes=[name], zoneout=0.2).zoneout_h == 0.2
    model.cells[0] = ZoneOutCell(cell_of(), 0.3)
    with pytest.raises(ValueError, match=name):
        convert.from_torch(outer)
    assert convert.from_torch(outer, custom_classes=[name]).zoneout_h == 0.3


def test_subclasses_of_a_zoneout_cell():
    plain, other = type("Mine", (ZoneOutCell,), {}), type("Mine", (ZoneOutCell,), {"forward": h_alone})
    assert convert.from_torch(plain(cell_of(), 0.3)).zoneout_h == 0.3
    with pytest.raises(ValueError, match="Mine, which computes something else"):
        convert.from_torch(other(cell_of(), 0.3))


def test_zoneout_cell_of_a_foreign_cell():
    """The trial doesn't step the cell, so the cell's own class is checked as always."""
    foreign = type("Doubled", (torch.nn.LSTMCell,), {"forward": lambda self, x, state: super().forward(2 * x, state)})
    with pytest.raises(ValueError, match="Doubled at 'cell', which has its own forward"):
        convert.from_torch(ZoneOutCell(foreign(I, N), 0.3))
    assert convert.from_torch(ZoneOutCell(foreign(I, N), 0.3), custom_classes=["Doubled"]).zoneout_h == 0.3


def test_zoneout_cell_of_a_gru():
    with pytest.raises(ValueError, match="It looks like a GRU's"):
        convert.from_torch(ZoneOutCell(torch.nn.GRUCell(I, N), 0.3))


def test_cells_outside_of_their_zoneout_cell():
    """A model may register a cell twice. Its ZoneOutCell is found by either name."""
    model = torch.nn.Module()
    model.raw = cell_of()
    model.layer = ZoneOutCell(model.raw, 0.3)
    for prefix in ("raw", "layer.cell"):
        assert convert.from_torch(model, prefix=prefix).zoneout_h == 0.3
    model.other = ZoneOutCell(model.raw, 0.1)
    with pytest.raises(ValueError, match=r"source: wanted one zoneout rate for a cell; got 0\.1 and 0\.3"):
        convert.from_torch(model, prefix="raw")


def test_objects_around_a_zoneout_cell():
    """The modules around a cell are also checked in an object that is not a module."""

    class Engine:
        net = ZoneOutCell(cell_of(), 0.3)

        def state_dict(self):
            return {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}

    assert convert.from_torch(Engine()).zoneout_h == 0.3


@pytest.mark.filterwarnings("ignore")  # about what tracing doesn't follow
def test_torchscript_of_a_zoneout_cell_is_refused(tmp_path):
    module = torch.nn.Sequential(ZoneOutCell(cell_of(), 0.3)).eval()
    traced = torch.jit.trace(module[0], (inputs(B, I), (inputs(B, N), inputs(B, N))))
    torch.jit.save(traced, tmp_path / "m.pt")
    for script in (traced, torch.jit.load(tmp_path / "m.pt")):
        for vouched in ([], ["ZoneOutCell"]):
            with pytest.raises(ValueError, match=r"TorchScript of the class .*ZoneOutCell, which can't be tested"):
                convert.from_torch(script, custom_classes=vouched)
        assert steps_like(module[0], convert.from_torch(script.state_dict(), zoneout=0.3))


# What `--check` compares.


def file_of(module, tmp_path):
    torch.save(module.state_dict(), tmp_path / "m.pt")
    return tmp_path / "m.pt"


def test_check_steps_a_cell_with_its_zoneout(tmp_path):
    source = file_of(ZoneOutCell(cell_of(), 0.3), tmp_path)
    weights = convert.from_torch(source, zoneout=0.3)
    assert checking.check("torch", source, None, weights, {"zoneout": 0.3}).agrees
    for options in ({}, {"zoneout": 0.0}, {"zoneout": 0.31}):
        assert not checking.check("torch", source, None, weights, options).agrees
    for lost in ("zoneout_c", "zoneout_h"):
        other = dataclasses.replace(weights, **{lost: 0.0})
        assert not checking.check("torch", source, None, other, {"zoneout": 0.3}).agrees


def test_check_cannot_run_layers_with_zoneout(tmp_path):
    source = file_of(torch.nn.LSTM(I, N), tmp_path)
    weights = convert.from_torch(source, zoneout=0.3)
    with pytest.raises(ValueError, match="a torch.nn.LSTM has no zoneout"):
        checking.check("torch", source, None, weights, {"zoneout": 0.3})
