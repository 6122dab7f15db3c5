"""Test each layout against its system's outputs, and test that the outputs reveal a planted mistake.

The outputs are recorded, as CI has few of the systems.
"""

import inspect
import itertools
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from fusedlstm import LSTM, StackedWeights, convert
from fusedlstm.convert import reading
from fusedlstm.convert.flax import tree
from fusedlstm.convert.systems import BY_NAME, SYSTEMS
from fusedlstm.convert.tf1 import layers

from support.documented import FORMULAS
from support.layouts import LAYOUTS, plant
from support.oracle_cases import LAYERS, ROWS, Case, stacked_of
from support.oracle_files import Oracle

# Parts that no recorded outputs cover. They are known only from source code and documentation.
DOCUMENTED = {
    "haste": {"gates", "weights", "biases", "columns", "forget_bias", "interleaved"},
    "cudnn": {"gates", "weights", "biases", "columns", "forget_bias", "interleaved", "projection"},
    "coreml": {"gates", "weights", "biases", "columns", "forget_bias", "interleaved", "peepholes"},
    "onednn": {"peepholes", "projection"},
    "sonnet1": {"projection"},
    "mxnet": {"projection"},
}
# Importers that join layers or directions, but have no recorded outputs that show their order.
DOCUMENTED_LAYERS = {"mxnet", "cudnn", "onednn", "coreml"}


@pytest.mark.parametrize("case", [case for row in ROWS.values() for case in row], ids=str)
def test_recorded_cells(case, backend):
    case.check(backend)


@pytest.mark.parametrize("case", [case for row in LAYERS.values() for case in row], ids=str)
def test_recorded_layers(case, backend):
    case.check(backend)


def test_every_layout_has_outputs_or_is_listed():
    assert set(DOCUMENTED) == {system for system, _ in FORMULAS}
    unknown = set(LAYOUTS) - set(ROWS) - set(DOCUMENTED)
    assert not unknown, f"no outputs in tests/support/oracle_cases.py, nor a formula in documented.py: {unknown}"
    assert set(ROWS) | set(DOCUMENTED) <= set(LAYOUTS)
    assert set(LAYOUTS) - set(ROWS) == {"haste", "cudnn", "coreml"}
    assert not DOCUMENTED_LAYERS & set(LAYERS)


# Layouts whose importers have an argument for the forget bias. Its default must be the layout's value.
OF_AN_ARGUMENT = {
    "tf1": convert.from_tf1,
    "tf1_coupled": convert.from_tf1,
    "tf1_block": convert.from_block_lstm,
    "sonnet1": convert.from_sonnet1,
}


@pytest.mark.parametrize("name", OF_AN_ARGUMENT)
def test_default_forget_bias(name):
    default = inspect.signature(OF_AN_ARGUMENT[name]).parameters["forget_bias"].default
    assert default == LAYOUTS[name].forget_bias == 1.0


def exchanged(items):
    """Yield every swap of two items: the gates in a string, or the names in a tuple."""
    for a, b in itertools.combinations(range(len(items)), 2):
        changed = list(items)
        changed[a], changed[b] = changed[b], changed[a]
        if changed != list(items) and items[a] and items[b]:
            yield f"{items[a]} and {items[b]}", "".join(changed) if isinstance(items, str) else tuple(changed)


def of_gates(layout):
    for what, gates in exchanged(layout.gates):
        yield f"gates {what}", replace(layout, gates=gates)
    for side in ("weight_ih", "weight_hh"):
        names = getattr(layout, side)
        for what, changed in exchanged(names) if isinstance(names, tuple) else ():
            yield f"{side} {what}", replace(layout, **{side: changed})


def of_weights(layout):
    if layout.weight_hh:
        yield "weights of x and h", replace(layout, weight_ih=layout.weight_hh, weight_hh=layout.weight_ih)


def of_biases(layout):
    for k, names in enumerate(layout.biases):
        before, after = layout.biases[:k], layout.biases[k + 1 :]
        yield f"no bias {k}", replace(layout, biases=before + after, has_bias=layout.has_bias and bool(before + after))
        for what, changed in exchanged(names) if isinstance(names, tuple) else ():
            yield f"bias {k} {what}", replace(layout, biases=(*before, changed, *after))


def of_peepholes(layout):
    if layout.peephole:
        yield "no peepholes", replace(layout, peephole="")
        part = "peepholes" if isinstance(layout.peephole, str) else "peephole"
        for what, changed in exchanged(getattr(layout, part)):
            yield f"peepholes {what}", replace(layout, **{part: changed})


def of_projection(layout):
    if layout.weight_hr:
        yield "no projection", replace(layout, weight_hr="")


def of_columns(layout):
    yield "rows for columns", replace(layout, columns=not layout.columns)


def of_interleaved(layout):
    if isinstance(layout.weight_ih, str):  # otherwise each gate has its own array
        yield "units for gates", replace(layout, interleaved=not layout.interleaved)


def of_forget_bias(layout):
    if layout not in map(LAYOUTS.get, OF_AN_ARGUMENT):
        yield "another forget bias", replace(layout, forget_bias=1 - layout.forget_bias)


# Keyed by the part of the layout that holds the mistake.
MISTAKES = {
    "gates": of_gates,
    "weights": of_weights,
    "biases": of_biases,
    "peepholes": of_peepholes,
    "projection": of_projection,
    "columns": of_columns,
    "interleaved": of_interleaved,
    "forget_bias": of_forget_bias,
}


def all_mistakes():
    return [
        pytest.param(name, part, wrong, id=f"{name}: {what}")
        for name, layout in LAYOUTS.items()
        for part, mistakes in MISTAKES.items()
        for what, wrong in mistakes(layout)
    ]


def shows(checks):
    """Return whether any check fails, by wrong outputs or because the wrong layout doesn't fit the arrays."""
    for check in checks:
        try:
            check()
        except (AssertionError, ValueError, TypeError):
            return True
    return False


@pytest.mark.parametrize(("name", "part", "wrong"), all_mistakes())
def test_wrong_layouts_are_found(name, part, wrong, monkeypatch):
    """Recorded outputs reveal the mistake. If a part has none, the documented formula does."""
    plant(monkeypatch, name, wrong)
    if part in DOCUMENTED.get(name, ()):
        assert not shows(case.check for case in ROWS.get(name, ())), "recorded outputs show it: remove it from the list"
        assert shows(formula for system, formula in FORMULAS if system == name)
    else:
        assert shows(case.check for case in ROWS.get(name, ())), "nothing in tests/support/oracle_cases.py shows it"


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if not layout.weight_hh])
def test_rows_of_h_before_x_are_found(name, monkeypatch):
    """Reading an array [x; h] as [h; x] is found."""

    def weights(cell):
        both = cell.blocks(cell.layout.weight_ih, "").reshape(4 * cell.sizes["N"], -1)
        P = both.shape[1] - cell.sizes["I"]
        return both[:, P:], both[:, :P]

    monkeypatch.setattr(reading._Cell, "weights", weights)
    assert shows(case.check for case in ROWS[name])


def replace_everywhere(monkeypatch, right, wrong):
    """Replace an object in every module of fusedlstm.convert that holds it."""
    for module in [module for key, module in sys.modules.items() if key.startswith("fusedlstm.convert")]:
        for key, value in list(vars(module).items()):
            if value is right:
                monkeypatch.setattr(module, key, wrong)


def with_layers(monkeypatch, order):
    """Make every importer join cells in another order."""

    def stacked(cells, *, bidirectional=False, **options):
        return StackedWeights(order(list(cells), bidirectional), bidirectional=bidirectional, **options)

    replace_everywhere(monkeypatch, StackedWeights, stacked)


def of_both_directions(system):
    cases = [case for case in LAYERS[system] if case.weights(Oracle(case.file)).bidirectional]
    assert cases
    return cases


@pytest.mark.parametrize("system", ["flax", "tf1", "chainer"])
def test_swapped_directions_are_found(system, monkeypatch):
    def order(cells, bidirectional):
        return [cells[k ^ 1] for k in range(len(cells))] if bidirectional else cells

    cases = of_both_directions(system)
    with_layers(monkeypatch, order)
    assert all(shows([case.check]) for case in cases)


@pytest.mark.parametrize(("system", "module", "names"), [("flax", tree, "DIRECTIONS"), ("tf1", layers, "_WAYS")])
def test_swapped_names_of_directions_are_found(system, module, names, monkeypatch):
    cases = of_both_directions(system)
    monkeypatch.setattr(module, names, getattr(module, names)[::-1])
    assert all(shows([case.check]) for case in cases)


@pytest.mark.parametrize("system", ["haiku", "tf1", "chainer"])
def test_swapped_layers_are_found(system, monkeypatch):
    with_layers(monkeypatch, lambda cells, bidirectional: cells[::-1])
    assert all(shows([case.check]) for case in LAYERS[system])


# For each system: a cell's recorded outputs, and its state as a pair in the system's order.
STATES = {
    "tf1": (ROWS["tf1"][0], "ch"),
    "keras": (ROWS["keras"][0], "hc"),
    "torch": (ROWS["torch"][0], "hc"),
    "flax": (ROWS["flax"][0], "ch"),
    "haiku": (ROWS["haiku"][0], "hc"),
    "equinox": (ROWS["equinox"][0], "hc"),
}


def state_goes_through(system):
    """Assert that a step from the system's own pair gives the system's next state."""
    case, order = STATES[system]
    oracle = Oracle(case.file)
    pair = tuple(oracle[f"{part}0"] for part in order)
    state = getattr(convert, f"state_from_{system}")(pair)
    _, (got,) = LSTM(case.weights(oracle), backend="numpy")(oracle["x"][:1], (state,))
    for part in "hc":
        assert np.abs(getattr(got, part) - oracle[f"{part}_seq"][0]).max() <= oracle.tolerance


@pytest.mark.parametrize("system", [system.name for system in SYSTEMS if system.pairs])
def test_a_swapped_state_is_found(system, monkeypatch):
    state_goes_through(system)
    form = BY_NAME[system].pairs
    replace_everywhere(monkeypatch, form, form._replace(order=form.order[::-1]))
    assert shows([partial(state_goes_through, system)])


def test_a_swapped_state_of_layers_is_found():
    """Swapping h0 and c0 of PyTorch's (h0, c0) is found."""
    case = Case("torch/LSTM_l3.npz", ROWS["torch"][0].weights, stacked_of)
    case.check()

    def swapped(oracle):
        sequence = stacked_of(oracle)
        return replace(sequence, initial=[pair[::-1] for pair in sequence.initial])

    assert shows([replace(case, sequence=swapped).check])


def test_states_of_oracles_tell_h_from_c():
    """Recorded states can reveal a swap: they are not zeros, and h differs from c."""
    for case in itertools.chain(*ROWS.values(), *LAYERS.values()):
        for h, c in case.sequence(Oracle(case.file)).initial:
            assert h.any()
            assert c.any()
            assert h.shape != c.shape or not np.array_equal(h, c)
