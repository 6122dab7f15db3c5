"""One layer through time on NumPy: steps without resets run together, others one by one, with the same bits."""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMWeights
from fusedlstm.backends.numpy.timeline import Timeline

T, I, N = 14, 3, 5


@pytest.fixture
def lstm(monkeypatch):
    """Return an LSTM that takes four steps of 3 rows at once."""
    monkeypatch.setattr("fusedlstm.backends.numpy.cell_sequence._CHUNK", 4 * 4 * N * 3)
    return LSTM(LSTMWeights.random(I, N, seed=0, dtype="float64"), backend="numpy")


@pytest.mark.parametrize(("reverse", "wanted"), [(False, [4, 8]), (True, [9, 4])])
def test_steps_with_and_without_resets(lstm, reverse, wanted, monkeypatch):
    """A row is reset before steps 0 and 5. In reverse, it is reset before step 4."""
    rng = np.random.default_rng(3)
    xs, is_first = rng.normal(size=(T, 3, I)), np.zeros((T, 3), bool)
    is_first[[0, 5], 0] = True
    engine = type(lstm._layers.engines[0].sequence)
    together, run_steps = [], engine.run_steps
    monkeypatch.setattr(engine, "run_steps", lambda *all: together.append(len(all[1])) or run_steps(*all))
    outputs, (final,) = lstm(xs, is_first=is_first, reverse=reverse)
    assert together == wanted
    monkeypatch.setattr(Timeline, "_is_plain", lambda self, t: False)
    alone = lstm(xs, is_first=is_first, reverse=reverse)
    for got, other in zip((outputs, final.h, final.c), (alone[0], alone[1][0].h, alone[1][0].c), strict=True):
        np.testing.assert_array_equal(got, other)


@pytest.mark.parametrize("reverse", [False, True])
def test_steps_without_resets(lstm, reverse, monkeypatch):
    """All steps are one run, in chunks, with the bits of single steps."""
    xs = np.random.default_rng(3).normal(size=(T, 3, I))
    outputs, (final,) = lstm(xs, reverse=reverse)
    monkeypatch.setattr(Timeline, "_is_plain", lambda self, t: False)
    monkeypatch.setattr(type(lstm._layers.engines[0].sequence), "run_steps", None)
    alone = lstm(xs, reverse=reverse)
    for got, other in zip((outputs, final.h, final.c), (alone[0], alone[1][0].h, alone[1][0].c), strict=True):
        np.testing.assert_array_equal(got, other)


@pytest.mark.parametrize(
    ("busy", "wanted"),
    [
        ("........", [(True, range(8))]),
        ("xxxxxxxx", [(False, range(3)), (False, range(3, 6)), (False, range(6, 8))]),
        ("x....xx.", [(False, range(1)), (True, range(1, 5)), (False, range(5, 7)), (True, range(7, 8))]),
    ],
)
def test_pieces(busy, wanted):
    """Split into whole runs without resets, and at most three other steps at a time, in either direction."""
    flags = [flag == "x" for flag in busy]
    nobody, rows = [False] * 8, np.array(flags)[:, None]
    assert list(Timeline(range(8), rows, flags, None, nobody).pieces(3)) == wanted
    assert list(Timeline(range(8), None, nobody, rows, flags).pieces(3)) == wanted
    backward = Timeline(range(8)[::-1], rows[::-1], flags[::-1], None, nobody)
    assert [(plain, [7 - t for t in steps]) for plain, steps in backward.pieces(3)] == [
        (plain, list(steps)) for plain, steps in wanted
    ]
