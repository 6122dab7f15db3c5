"""Test what `fusedlstm convert --check` compares: the LSTM alone and, if the model can run, within its model."""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMState, StackedWeights, convert
from fusedlstm.convert import checking
from fusedlstm.convert.running.model import ModelNotRunError, Tapped

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from fusedlstm.convert.running import torch as running  # noqa: E402

T, B, I, N = 5, 3, 2, 4


@pytest.fixture
def source(tmp_path):
    torch.manual_seed(0)
    torch.save(torch.nn.LSTM(I, N).state_dict(), tmp_path / "m.pt")
    return tmp_path / "m.pt"


def tapped(weights, *, outputs=True, finals=True, lengths=None):
    """Return what a run of a model with the right LSTM would record."""
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(T, B, I)).astype(np.float32)
    states = [tuple(rng.normal(size=(B, N)).astype(np.float32) for _ in "hc")]
    ys, ends = LSTM(weights, backend="numpy")(xs, tuple(LSTMState(h=h, c=c) for h, c in states), lengths=lengths)
    pairs = [(end.h, end.c) if finals else (None, None) for end in ends]
    return Tapped(xs, states, lengths, ys if outputs else None, pairs)


def check(source, weights, monkeypatch, run_model):
    monkeypatch.setattr(running, "run_model", lambda *_: run_model(), raising=False)
    return checking.check("torch", source, None, weights, {})


@pytest.mark.parametrize("lengths", [None, np.array([5, 0, 2])])
@pytest.mark.parametrize(("outputs", "finals"), [(True, True), (True, False), (False, True)])
def test_check_compares_what_the_model_computes(source, monkeypatch, lengths, outputs, finals):
    weights = convert.from_torch(source)
    right = tapped(weights, outputs=outputs, finals=finals, lengths=lengths)
    result = check(source, weights, monkeypatch, lambda: right)
    assert result.agrees
    assert result.around == ""
    assert "the whole model" in str(result)


@pytest.mark.parametrize("part", ["xs", "outputs", "h", "c", "initial h", "lengths"])
def test_check_finds_a_model_with_other_numbers(source, monkeypatch, part):
    """The LSTM alone agrees, so only running the model shows the difference."""
    weights = convert.from_torch(source)
    wrong = tapped(weights)
    if part == "lengths":
        wrong = Tapped(wrong.xs, wrong.states, np.array([5, 4, 5]), wrong.outputs, wrong.finals)
    else:
        places = {"xs": wrong.xs, "outputs": wrong.outputs, "h": wrong.finals[0][0], "c": wrong.finals[0][1]}
        array = places.get(part, wrong.states[0][0])
        array[..., -1] += 1e-3
    result = check(source, weights, monkeypatch, lambda: wrong)
    assert not result.agrees
    assert " DIFFERS" in str(result)


def test_check_names_a_model_that_cannot_run(source, monkeypatch):
    def refuse():
        raise ModelNotRunError("it has two inputs")

    result = check(source, convert.from_torch(source), monkeypatch, refuse)
    assert result.agrees
    assert str(result).endswith("The model around the LSTM was not checked: it has two inputs")


def test_check_says_when_no_output_is_used(source, monkeypatch):
    weights = convert.from_torch(source)
    result = check(source, weights, monkeypatch, lambda: tapped(weights, outputs=False, finals=False))
    assert "the model uses none of the LSTM's outputs" in str(result)


def test_check_says_parameters_lack_a_graph(source):
    result = checking.check("torch", source, None, convert.from_torch(source), {})
    assert result.agrees
    assert "parameters have no graph" in result.around


def test_check_finds_swapped_gates(source):
    (layer,) = convert.from_torch(source).layers
    arrays = {name: np.array(array) for name, array in layer.arrays().items()}
    arrays["bias"] = arrays["bias"].reshape(4, N)[[0, 1, 3, 2]].reshape(-1)
    wrong = StackedWeights([type(layer)(**arrays)])
    assert not checking.check("torch", source, None, wrong, {}).agrees
