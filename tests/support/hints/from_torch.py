"""Hints about PyTorch's modules and files."""

import re

import numpy as np

from fusedlstm import LSTM, StackedWeights, convert, load_weights

from support.hints.arrays import equinox_cell, named, our_file, torch_cell
from support.hints.case import FOLDER, B, Case, I, N, T, attempt, layers, torch, weights, x


def detached(pair):
    return tuple(tensor.detach() for tensor in pair)


def two():
    return named("a.", torch_cell()) | named("b.", torch_cell())


def computed(kind):
    """Return an LSTM with a weight that PyTorch computes, and the function that undoes it."""
    from torch.nn.utils import (
        parametrizations,
        parametrize,
        prune,
        remove_spectral_norm,
        remove_weight_norm,
        spectral_norm,
        weight_norm,
    )

    torch().manual_seed(0)  # spectral_norm's sigma may be nearly 0, which magnifies rounding
    module = torch().nn.LSTM(I, N)
    makes, undoes = {
        "weight_norm": (weight_norm, remove_weight_norm),
        "spectral_norm": (spectral_norm, remove_spectral_norm),
        "parametrized": (parametrizations.weight_norm, parametrize.remove_parametrizations),
        "pruning": (lambda module, name: prune.random_unstructured(module, name, 0.5), prune.remove),
    }[kind]
    makes(module, "weight_hh_l0")
    return module, undoes


def half_of(kind, dropped):
    """Convert parameters with one part of a computed weight missing."""
    module, _ = computed(kind)
    convert.from_torch({name: t.numpy() for name, t in module.state_dict().items() if not name.endswith(dropped)})


def without(kind):
    """Do what the message says, with the name that it gives, and compare with the module before."""
    message = attempt(lambda: half_of(kind, {"pruning": "_mask", "parametrized": ".original1"}.get(kind, "_v")))
    (name,) = re.findall(r"\(module, '(\w+)'\)", message)
    module, undo = computed(kind)
    module.eval()
    wanted = convert.from_torch(module)
    undo(module, name)
    got = convert.from_torch(module.state_dict())
    np.testing.assert_allclose(got.layers[0].weight_hh, wanted.layers[0].weight_hh, rtol=2e-6, atol=1e-6)


def own_module():
    class Own(torch().nn.LSTM):
        def forward(self, xs):
            return super().forward(xs)

    return Own(I, N)


def torch_file(content, **options):
    torch().save(content, FOLDER["now"] / "m.pt", **options)
    return FOLDER["now"] / "m.pt"


def module_file():
    return torch_file(torch().nn.LSTM(I, N))


def renaming_module():
    class Outer(torch().nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch().nn.LSTM(I, N)

        def state_dict(self):
            return {f"other.{name}": tensor for name, tensor in self.lstm.state_dict().items()}

    return Outer()


def dropped():
    plain = named("r.a.", torch_cell())
    return {name: array for name, array in plain.items() if not name.endswith("weight_hh")} | {
        "r.weight_hh_raw": plain["r.a.weight_hh"]
    }


def script_file(*, frozen):
    model = torch().jit.trace(torch().nn.Sequential(torch().nn.LSTM(I, N)).eval(), torch().zeros(T, B, I))
    torch().jit.save(torch().jit.freeze(model) if frozen else model, FOLDER["now"] / "s.pt")
    return FOLDER["now"] / "s.pt"


def zoneout_file():
    class ZoneOutCell(torch().nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = torch().nn.LSTMCell(I, N)

        def forward(self, x):
            return self.cell(x)[0]

    torch().jit.save(torch().jit.trace(ZoneOutCell(), torch().zeros(B, I)), FOLDER["now"] / "z.pt")
    return FOLDER["now"] / "z.pt"


CASES = {
    "several lstms": Case(lambda: convert.from_torch(two()), lambda: convert.from_torch(two(), prefix="a.")),
    "another prefix": Case(
        lambda: convert.from_torch(two(), prefix="c"), lambda: convert.from_torch(two(), prefix="b.")
    ),
    "zoneout cell": Case(
        lambda: convert.from_torch(named("lstm.0.cell.", torch_cell())),
        lambda: convert.from_torch(named("lstm.0.cell.", torch_cell()), zoneout=0.1),
    ),
    "equinox's bias": Case(
        lambda: convert.from_torch(equinox_cell() | {"weight_ih": equinox_cell()["weight_ih"]}),
        lambda: convert.from_equinox(equinox_cell()),
    ),
    "a torch cell for equinox": Case(
        lambda: convert.from_equinox(torch_cell()), lambda: convert.from_torch(torch_cell())
    ),
    "weight_norm": Case(lambda: half_of("weight_norm", "_v"), lambda: without("weight_norm"), "torch"),
    "spectral_norm": Case(lambda: half_of("spectral_norm", "_v"), lambda: without("spectral_norm"), "torch"),
    "pruning": Case(lambda: half_of("pruning", "_mask"), lambda: without("pruning"), "torch"),
    "parametrization": Case(lambda: half_of("parametrized", ".original1"), lambda: without("parametrized"), "torch"),
    "adapter": Case(
        lambda: convert.from_torch(named("m.base_layer.", torch_cell()) | {"m.lora_A.w": np.zeros((2, 2), "f")}),
        lambda: convert.from_torch(named("m.", torch_cell())),  # what merge_and_unload leaves
    ),
    "own class": Case(
        lambda: convert.from_torch(own_module()),
        lambda: convert.from_torch(own_module(), custom_classes=["Own"]),
        "torch",
    ),
    "batch_first": Case(
        lambda: convert.from_torch(torch().nn.LSTM(I, N, batch_first=True)),
        lambda: LSTM(layers(), batch_first=True, backend="numpy")(np.zeros((B, T, I), "f")),
        "torch",
    ),
    "a whole module": Case(
        lambda: convert.from_torch(module_file()),
        lambda: convert.from_torch(torch().load(module_file(), weights_only=False)),
        "torch",
    ),
    "another protocol": Case(
        lambda: convert.from_torch(torch_file(torch().nn.LSTM(I, N).state_dict(), pickle_protocol=4)),
        lambda: convert.from_torch(torch_file(torch().nn.LSTM(I, N).state_dict())),
        "torch",
    ),
    "our own file": Case(lambda: convert.from_torch(our_file()), lambda: load_weights(our_file())),
    "output and state of torch": Case(
        lambda: convert.state_from_torch(torch().nn.LSTM(I, N)(torch().zeros(T, B, I))),
        lambda: convert.state_from_torch(detached(torch().nn.LSTM(I, N)(torch().zeros(T, B, I))[1])),
        "torch",
    ),
    "a cell with layers": Case(
        lambda: convert.to_torch(weights(proj_size=2)),
        lambda: convert.to_torch(StackedWeights([weights(proj_size=2)])),
        "torch",
    ),
    "a pytorch module of another class": Case(
        lambda: convert.from_torch(renaming_module()),
        lambda: convert.from_torch(renaming_module().state_dict()),
        "torch",
    ),
    "parameters on meta": Case(
        lambda: convert.from_torch(torch().nn.LSTM(I, N, device="meta")),
        lambda: convert.from_torch(torch().nn.LSTM(I, N)),
        "torch",
    ),
    "raw weights of several": Case(
        lambda: convert.from_torch(dropped() | named("r.b.", torch_cell()), prefix="r.a"),
        lambda: convert.from_torch(dropped()),
    ),
    "quantised parameters": Case(
        lambda: convert.from_torch({"_all_weight_values.0.param": x()}), lambda: convert.from_torch(torch_cell())
    ),
    "a frozen program": Case(
        lambda: convert.from_torch(script_file(frozen=True)),
        lambda: convert.from_torch(script_file(frozen=False)),
        "torch",
    ),
    "a TorchScript of another class": Case(
        lambda: convert.from_torch(zoneout_file()),
        lambda: convert.from_torch(torch().jit.load(zoneout_file()).state_dict(), zoneout=0.1),
        "torch",
    ),
    "a module with zoneout": Case(
        lambda: convert.from_torch(torch().jit.load(zoneout_file())),
        lambda: convert.from_torch(torch().jit.load(zoneout_file()).state_dict(), zoneout=0.1),
        "torch",
    ),
}
