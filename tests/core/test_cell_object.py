"""The cell as an object: repr, memory, threads, copies and construction."""

import pickle
import threading

import numpy as np
import pytest

from fusedlstm import LSTMCell, LSTMState, LSTMWeights
from fusedlstm.backends.numpy import fast_pointwise

from support.cells import host, random_inputs


def test_describes_itself(backend):
    cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend=backend)
    assert cell.backend == backend
    assert cell.device == ("cpu" if backend == "numpy" else "cuda:0")
    assert repr(cell) == f"LSTMCell(LSTMWeights(I=3, N=4, float32, bias), backend={backend!r})"
    assert cell.xp.__name__ == ("numpy" if backend == "numpy" else "cupy")


def test_asarray(backend):
    cell = LSTMCell(LSTMWeights.random(3, 4, dtype="float32", seed=0), backend=backend)
    for numbers in ([[1, 2, 3]], ((1.0, 2.0, 3.0),), np.array([[1, 2, 3]]), np.array([[1, 2, 3]], ">f8")):
        x = cell.asarray(numbers)
        assert isinstance(x, cell.xp.ndarray)
        assert x.dtype == np.float32
        np.testing.assert_array_equal(host(x), [[1, 2, 3]])
    assert cell.asarray(x) is x
    assert cell.asarray(x, "float64").dtype == np.float64
    with pytest.raises(TypeError, match="x: wanted real numbers; got dtype complex128"):
        cell.asarray(np.ones(3, complex))
    with pytest.raises(TypeError, match="x: wanted real numbers"):
        cell.asarray([1j])
    for strange in (["a"], np.array(["1"]), np.array([1, None]), np.array("2020-01-01", "datetime64[D]"), b"x"):
        with pytest.raises(TypeError, match="x: wanted an array of numbers"):
            cell.asarray(strange)
    with pytest.raises(TypeError, match="dtype"):
        cell.asarray(x, "int32")


def test_zero_state(backend):
    cell = LSTMCell(LSTMWeights.random(3, 4, proj_size=2, seed=0), backend=backend)
    state = cell.zero_state(0).to_numpy()
    assert (state.h.shape, state.c.shape) == ((0, 2), (0, 4))
    assert not cell.zero_state(5).to_numpy().c.any()
    with pytest.raises(ValueError, match="batch: wanted at least 0"):
        cell.zero_state(-1)
    with pytest.raises(TypeError, match="batch: wanted an int"):
        cell.zero_state(2.0)


def test_many_batch_sizes_keep_bounded_memory():
    """Scratch has the size of the largest batch, and caches of batch sizes stay small."""
    cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend="numpy")
    wanted = cell(np.ones((1, 3), "f4"), cell.zero_state(1)).h
    for B in [*range(1501), *range(1500, 0, -3)]:
        got = cell(np.ones((B, 3), "f4"), cell.zero_state(B))
        if B:
            np.testing.assert_allclose(got.h[-1:], wanted, atol=1e-6)
    assert len(cell._known) <= 256
    workspace = cell._engine.scratch.take()
    assert len(workspace.by_batch) <= 256
    assert len(workspace.memory.operand) == 1500


def test_threads(backend):
    """Several threads use one cell at once, with equal and different batch sizes. Each gets its own numbers."""
    cell = LSTMCell(LSTMWeights.random(64, 64, seed=0), backend=backend)
    sizes = [200, 200, 200, 150] if backend == "numpy" else [5, 5, 5, 4]
    cases = [random_inputs(cell, B, seed) for seed, B in enumerate(sizes)]
    wanted = [cell(*case).to_numpy() for case in cases]
    together, wrong = threading.Barrier(len(cases)), []

    def work(number):
        together.wait()
        for _ in range(50):
            got = cell(*cases[number]).to_numpy()
            if got.h.tobytes() != wanted[number].h.tobytes() or got.c.tobytes() != wanted[number].c.tobytes():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("rows", [1, 3, 4, 12])
def test_blocks_of_rows(rows, monkeypatch):
    """A large batch is computed in blocks. The last may be smaller."""
    weights = LSTMWeights.random(3, 5, peephole=True, cell_clip=0.5, seed=0, dtype="float64")
    cell = LSTMCell(weights, backend="numpy")
    x, state = random_inputs(cell, 11)
    wanted = cell(x, state)
    monkeypatch.setattr(fast_pointwise, "_BLOCK", rows * 4 * 5)
    got = cell(x, state, out=LSTMState(h=np.full((11, 5), np.nan), c=state.c))
    np.testing.assert_array_equal(got.h, wanted.h)
    np.testing.assert_array_equal(got.c, wanted.c)


def test_a_batch_beyond_one_block():
    """The batch has more gates than are computed at once."""
    weights = LSTMWeights.random(2, 300, seed=0)
    cell = LSTMCell(weights, backend="numpy")
    B = fast_pointwise._BLOCK // (4 * 300) + 5
    x, state = random_inputs(cell, B)
    got = cell(x, state)
    for rows in (slice(0, 3), slice(B - 7, B)):
        part = cell(x[rows], LSTMState(h=state.h[rows], c=state.c[rows]))
        np.testing.assert_allclose(got.h[rows], part.h, atol=1e-6)
        np.testing.assert_allclose(got.c[rows], part.c, atol=1e-6)


def test_pickle_and_weights(backend):
    """A cell is pickled as its weights and options. `weights` can't be assigned."""
    cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend=backend, precision="high", check_state=True)
    twin = pickle.loads(pickle.dumps(cell))
    assert (repr(twin), twin.device, twin._options) == (repr(cell), cell.device, cell._options)
    x, state = random_inputs(cell, 2)
    np.testing.assert_array_equal(twin(x, state).to_numpy().h, cell(x, state).to_numpy().h)
    with pytest.raises(AttributeError):
        cell.weights = twin.weights


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weights": "w.safetensors"}, TypeError, "weights: wanted an LSTMWeights; got str"),
        ({"precision": "medium"}, ValueError, "precision: wanted one of 'highest', 'high'"),
        ({"backend": "torch"}, ValueError, "backend: wanted 'numpy', 'cuda' or 'cuda:<index>'; got 'torch'"),
        ({"backend": "cuda:x"}, ValueError, "backend"),
        ({"backend": "numpy:0"}, ValueError, "backend"),
        ({"backend": 0}, ValueError, "backend"),
    ],
)
def test_bad_construction(arguments, error, message):
    with pytest.raises(error, match=message):
        LSTMCell(**{"weights": LSTMWeights.random(3, 4, seed=0), **arguments})
