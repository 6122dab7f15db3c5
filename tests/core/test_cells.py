"""The states after every step, which `cells=True` returns: what they are, and that sequences can start from them."""

import itertools

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMState, LSTMWeights, StackedWeights
from fusedlstm.backends.numpy.cell import NumpyCell

from support.cells import host

T, B, I, N = 7, 4, 3, 5
MIXED = ["both", "backward", "forward"]


def make(backend, dtype="float64", *, layers=2, **options):
    """Return an LSTM, whose own options are those of LSTM's constructor."""
    own = {name: options.pop(name) for name in ("batch_first", "batch_invariant", "kernel") if name in options}
    weights = StackedWeights.random(I, N, layers, seed=0, dtype=dtype, **options)
    return LSTM(weights, backend=backend, **own)


def inputs(lstm, seed=0, shape=(T, B, I)):
    rng = np.random.default_rng(seed)
    return lstm.asarray(rng.normal(size=shape)), rng.random((T, B)) < 0.3, rng.random((T, B)) < 0.7


def at(cells, t):
    """Return the states after step t, in the form that a call takes."""
    return tuple(LSTMState(h=each.h[t], c=each.c[t]) for each in cells)


def assert_same(got, wanted):
    np.testing.assert_array_equal(host(got[0]), host(wanted[0]))
    for state, other in zip(got[1], wanted[1], strict=True):
        np.testing.assert_array_equal(host(state.h), host(other.h))
        np.testing.assert_array_equal(host(state.c), host(other.c))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_shapes_and_dtypes(dtype, backend):
    lstm = make(backend, dtype, layers=3, directions=MIXED, proj_size=2)
    _, states, cells = lstm(inputs(lstm)[0], cells=True)
    assert len(cells) == len(states) == 4
    for cell, state in zip(cells, states, strict=True):
        assert (cell.h.shape, cell.c.shape) == ((T, B, 2), (T, B, N))
        assert (cell.h.dtype, cell.c.dtype) == (state.h.dtype, state.c.dtype)
        assert cell.h.flags.c_contiguous
        assert cell.c.flags.c_contiguous


def test_batch_first_is_only_a_transpose(backend):
    lstm, other = make(backend), make(backend, batch_first=True)
    xs, is_first, mask = inputs(lstm)
    outputs, states, cells = lstm(xs, mask=mask, is_first=is_first, cells=True)
    turned = lstm.xp.ascontiguousarray(xs.swapaxes(0, 1))
    got, finals, own = other(turned, mask=mask.T, is_first=is_first.T, cells=True)
    assert_same((got.swapaxes(0, 1), finals), (outputs, states))
    assert all(each.h.flags.c_contiguous and each.c.flags.c_contiguous for each in own)
    own = [LSTMState(h=each.h.swapaxes(0, 1), c=each.c.swapaxes(0, 1)) for each in own]
    assert_same((outputs, own), (outputs, cells))


@pytest.mark.parametrize("directions", [["forward"] * 2, ["both"] * 2, MIXED[:2]], ids="-".join)
@pytest.mark.parametrize("flags", ["", "mask", "is_first"])
def test_outputs_keep_their_bits(directions, flags, backend):
    """Asking for the states changes nothing else."""
    lstm = make(backend, "float32", directions=directions)
    xs, is_first, mask = inputs(lstm)
    options = {name: array for name, array in (("mask", mask), ("is_first", is_first)) if name == flags}
    outputs, states, cells = lstm(xs, cells=True, **options)
    assert_same((outputs, states), lstm(xs, **options))
    for state, cell, backward in zip(states, cells, lstm.weights.backward, strict=True):
        last = 0 if backward else -1
        assert_same((outputs, [state]), (outputs, [LSTMState(h=cell.h[last], c=cell.c[last])]))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("t", range(T - 1))
def test_sequences_replay_from_any_step(t, residual, backend):
    """From a stored state, the rest of the sequences has the same bits: outputs and states, past resets and gaps."""
    lstm = make(backend, "float32", batch_invariant=True, residual=residual, proj_size=I)
    xs, is_first, mask = inputs(lstm)
    outputs, states, cells = lstm(xs, mask=mask, is_first=is_first, cells=True)
    rest = slice(t + 1, None)
    got, finals, own = lstm(xs[rest], at(cells, t), mask=mask[rest], is_first=is_first[rest], cells=True)
    assert_same((got, finals), (outputs[rest], states))
    assert_same((got, own), (got, [LSTMState(h=each.h[rest], c=each.c[rest]) for each in cells]))


def test_one_layer_replays_from_its_outputs(backend):
    """Without a mask, residual or projection, an output is the h."""
    lstm = make(backend, "float32", layers=1, batch_invariant=True)
    xs, _, _ = inputs(lstm)
    outputs, states, (cell,) = lstm(xs, cells=True)
    for t in range(T - 1):
        state = LSTMState(h=outputs[t], c=cell.c[t])
        assert_same(lstm(xs[t + 1 :], (state,)), (outputs[t + 1 :], states))


@pytest.mark.parametrize("t", range(1, T))
def test_backward_replays_toward_the_start(t, backend):
    lstm = make(backend, "float32", directions=["backward"] * 2, batch_invariant=True)
    xs, _, mask = inputs(lstm)
    outputs, states, cells = lstm(xs, mask=mask, cells=True)
    assert_same(lstm(xs[:t], at(cells, t), mask=mask[:t]), (outputs[:t], states))


def test_steps_return_the_same_states(backend):
    lstm = make(backend)
    xs, is_first, _ = inputs(lstm)
    _, _, cells = lstm(xs, is_first=is_first, cells=True)
    state = lstm.zero_state(B)
    for t in range(T):
        _, state = lstm.step(xs[t], state, is_first=is_first[t])
        for ours, wanted in zip(at(cells, t), state, strict=True):
            np.testing.assert_allclose(host(ours.h), host(wanted.h), atol=1e-12)
            np.testing.assert_allclose(host(ours.c), host(wanted.c), atol=1e-12)


@pytest.mark.parametrize("sizes", [(0, B), (T, 0), (0, 0)])
def test_no_steps_or_rows(sizes, backend):
    lstm = make(backend)
    outputs, _, cells = lstm(lstm.asarray(np.zeros((*sizes, I))), cells=True)
    assert outputs.shape == (*sizes, N)
    assert [(each.h.shape, each.c.shape) for each in cells] == [((*sizes, N), (*sizes, N))] * 2


def test_states_are_new_arrays(backend):
    lstm = make(backend)
    first, second = (lstm(inputs(lstm, seed)[0], cells=True) for seed in (0, 1))
    again = lstm(inputs(lstm, 0)[0], cells=True)
    assert_same((first[0], first[2]), (again[0], again[2]))
    for one, other in itertools.product((*first[2], *first[1]), (*second[2], *second[1])):
        assert not lstm.xp.may_share_memory(one.c, other.c)


def test_states_have_the_library_of_x():
    torch = pytest.importorskip("torch")
    lstm = LSTM(StackedWeights.random(I, N, 2, seed=0), batch_first=True, backend="numpy")
    xs = torch.randn(B, T, I)
    outputs, _, cells = lstm(xs, cells=True)
    assert all(isinstance(array, torch.Tensor) for each in cells for array in (each.h, each.c))
    assert torch.equal(cells[-1].h, outputs)


@pytest.mark.parametrize("value", [1, None, "all"])
def test_cells_must_be_a_bool(value, backend):
    lstm = make(backend)
    with pytest.raises(TypeError, match=r"^cells: wanted a bool; got "):
        lstm(inputs(lstm)[0], cells=value)


def test_threads_share_the_rows(monkeypatch):
    """Each thread writes the states of its rows."""
    lstm = LSTM(LSTMWeights.random(I, N, seed=0), backend="numpy")
    xs = inputs(lstm)[0]
    wanted = lstm(xs, cells=True)
    monkeypatch.setattr(NumpyCell, "shares", lambda *_: [slice(0, 1), slice(1, B)])
    outputs, states, cells = lstm(xs, cells=True)
    for ours, other in ((states, wanted[1]), (cells, wanted[2])):
        np.testing.assert_allclose(ours[0].c, other[0].c, atol=1e-6)
        np.testing.assert_allclose(ours[0].h, other[0].h, atol=1e-6)
    np.testing.assert_allclose(outputs, wanted[0], atol=1e-6)
