"""One layer through time: steps without resets are taken together, the others one by one, with the same bits."""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMWeights
from fusedlstm.scan import Timeline

from cells import host

T, I, N = 14, 3, 5


@pytest.fixture
def lstm(backend, monkeypatch):
    """An LSTM that takes four steps of 3 rows at once."""
    monkeypatch.setattr("fusedlstm.backends.numpy_plan._CHUNK", 4 * 4 * N * 3)
    if backend == "cuda":
        monkeypatch.setattr("fusedlstm.backends.cuda.backend._CHUNK", 4 * 4 * N * 3)
    return LSTM(LSTMWeights.random(I, N, seed=0, dtype="float64"), backend=backend)


@pytest.mark.parametrize(("reverse", "wanted"), [(False, [4, 2]), (True, [4, 4, 2])])
def test_steps_with_and_without_resets(lstm, reverse, wanted, monkeypatch):
    """Resets before steps 0 and 5, or, backward, before step 4: a device's are not known to the host."""
    rng = np.random.default_rng(3)
    xs, is_first = lstm.asarray(rng.normal(size=(T, 3, I))), np.zeros((T, 3), bool)
    is_first[[0, 5], 0] = True
    plan = type(lstm._layers.plans[0])
    together, run_steps = [], plan.run_steps
    monkeypatch.setattr(plan, "run_steps", lambda *all: together.append(len(all[1])) or run_steps(*all))
    outputs, (final,) = lstm(xs, is_first=is_first, reverse=reverse)
    assert together == (wanted if lstm.backend == "numpy" else [])
    monkeypatch.setattr(Timeline, "is_plain", lambda self, steps: False)
    alone = lstm(xs, is_first=is_first, reverse=reverse)
    for got, other in zip((outputs, final.h, final.c), (alone[0], alone[1][0].h, alone[1][0].c), strict=True):
        np.testing.assert_array_equal(host(got), host(other))


@pytest.mark.parametrize("reverse", [False, True])
def test_steps_without_resets(lstm, reverse, monkeypatch):
    xs = lstm.asarray(np.random.default_rng(3).normal(size=(T, 3, I)))
    plan = type(lstm._layers.plans[0])
    monkeypatch.setattr(plan, "run_gates", None if lstm.backend == "numpy" else plan.run_gates)
    outputs, (final,) = lstm(xs, reverse=reverse)
    monkeypatch.undo()
    monkeypatch.setattr(Timeline, "is_plain", lambda self, steps: False)
    alone = lstm(xs, reverse=reverse)
    np.testing.assert_allclose(host(outputs), host(alone[0]), atol=1e-14)
    np.testing.assert_allclose(host(final.c), host(alone[1][0].c), atol=1e-14)
