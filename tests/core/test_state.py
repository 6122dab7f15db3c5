"""LSTMState prevents mixing up h and c."""

import pickle

import numpy as np
import pytest

from fusedlstm import LSTMCell, LSTMState, LSTMWeights, pack_state, unpack_state


@pytest.fixture
def cell(backend):
    return LSTMCell(LSTMWeights.random(3, 4, seed=0), backend=backend)


def inputs(cell, T=5, B=2):
    return cell.asarray(np.ones((T, B, 3)))


# Code of TensorFlow 1 and PyTorch users, run with our cell. Each piece must raise on its wrong line.


def test_one_tensorflow_step_raises(cell):
    x, state = inputs(cell)[0], cell.zero_state(2)
    with pytest.raises(TypeError, match=r"does not unpack.*state = cell\(x, state\).*state\.h.*state\.c"):
        output, state = cell(x, state)


def test_tensorflow_loop_raises_at_once(cell):
    state, outputs = cell.zero_state(2), []
    with pytest.raises(TypeError, match="does not unpack"):
        for x in inputs(cell):
            output, state = cell(x, state)
            outputs.append(output)
    assert outputs == []


def test_tensorflow_nested_loop_raises_at_once(cell):
    finished = []
    with pytest.raises(TypeError, match="does not unpack"):
        for sequence in (inputs(cell), inputs(cell)):
            state = cell.zero_state(2)
            for t in range(len(sequence)):
                output, state = cell(sequence[t], state)
            finished.append(output)
    assert finished == []


def test_pytorch_lines_raise(cell):
    x, state = inputs(cell)[0], cell.zero_state(2)
    with pytest.raises(TypeError, match="does not unpack"):
        h, c = cell(x, state)
    with pytest.raises(TypeError, match=r"state: .*a tuple.*LSTMState\(h=.*\(h, c\).*\(c, h\)"):
        cell(x, (state.h, state.c))
    with pytest.raises(TypeError, match=r"state: .*a list.*LSTMState\(h="):
        cell(x, [state.h, state.c])


def test_packed_state_raises(cell):
    packed = pack_state(cell.zero_state(2), order="ch")
    with pytest.raises(TypeError, match=r"unpack_state\(packed, hidden_size, order=\"ch\"\).*\"hc\""):
        cell(inputs(cell)[0], packed)


def test_no_state_raises(cell):
    with pytest.raises(TypeError, match=r"zero_state\(batch\)"):
        cell(inputs(cell)[0], None)
    with pytest.raises(TypeError, match="got int"):
        cell(inputs(cell)[0], 3)


def test_positional_construction_raises():
    h, c = np.zeros((2, 4)), np.ones((2, 4))
    for arguments, named in (((c, h), {}), ((h,), {"c": c}), ((), {"h": h}), ((), {})):
        with pytest.raises(TypeError, match=r"LSTMState\(h=\.\.\., c=\.\.\.\).*\(h, c\).*\(c, h\)"):
            LSTMState(*arguments, **named)


def test_no_sequence_protocol():
    state = LSTMState(h=np.zeros((2, 4)), c=np.zeros((2, 4)))
    for use in (lambda: state[0], lambda: len(state), lambda: list(state), lambda: np.asarray(state)):
        with pytest.raises(TypeError, match=r"LSTMState|pack_state"):
            use()
    assert state
    assert state != LSTMState(h=state.h, c=state.c)


def test_immutable():
    state = LSTMState(h=np.zeros((2, 4)), c=np.zeros((2, 4)))
    with pytest.raises(AttributeError, match="immutable"):
        state.h = state.c
    with pytest.raises(AttributeError, match="immutable"):
        del state.c
    with pytest.raises(AttributeError, match="immutable"):
        state.hidden = 1


def test_repr_and_pickle():
    state = LSTMState(h=np.zeros((2, 4), np.float32), c=np.ones((2, 5)))
    assert repr(state) == "LSTMState(h=<float32 (2, 4)>, c=<float64 (2, 5)>)"
    copy = pickle.loads(pickle.dumps(state))
    np.testing.assert_array_equal(copy.h, state.h)
    np.testing.assert_array_equal(copy.c, state.c)


def test_to_numpy_of_numpy_copies_nothing():
    state = LSTMState(h=np.zeros((2, 4)), c=np.zeros((2, 4)))
    assert state.to_numpy().h is state.h


def test_packed_state_of_wrong_width_raises(backend):
    """A packed state that is two columns too wide gives an h of the wrong width, which raises."""
    cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend=backend)
    state = unpack_state(cell.asarray(np.zeros((2, 10))), 4, order="ch", proj_size=6)
    with pytest.raises(ValueError, match=r"state\.h: wanted shape \(B, P\) = \(2, 4\); got shape \(2, 6\)"):
        cell(inputs(cell)[0], state)


def test_optional_check_of_h(backend):
    weights = LSTMWeights.random(3, 4, seed=0)
    cell = LSTMCell(weights, backend=backend)
    checking = LSTMCell(weights, backend=backend, check_state=True)
    x, h = cell.asarray(np.ones((2, 3))), np.array([[0.5, -1.5, 1.25, np.nan], [0.5] * 4])
    swapped = LSTMState(h=cell.asarray(h), c=cell.zero_state(2).c)
    cell(x, swapped)  # off by default
    with pytest.warns(UserWarning, match=r"state\.h holds 1\.5, .*swapped"):
        checking(x, swapped)
    checking(x, swapped, is_first=[True, False])  # the row is reset, so its old state doesn't matter
    with pytest.warns(UserWarning, match=r"state\.h holds 1\.5"):
        checking(x, swapped, is_first=[False, True])
    checking(x[:0], checking.zero_state(0))


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "relu", "output_activation": "tanh"},
        {"gate_activation": ("hard_sigmoid", 0.2, 0.5)},
        {"output_activation": ("scaled_tanh", -1.0, 3.0)},
    ],
)
def test_check_of_h_with_other_bounded_functions(options):
    checking = LSTMCell(LSTMWeights.random(3, 4, seed=0, **options), backend="numpy", check_state=True)
    state = LSTMState(h=np.full((2, 4), 1.5, "f4"), c=np.zeros((2, 4), "f4"))
    with pytest.warns(UserWarning, match=r"state\.h holds 1\.5"):
        checking(np.ones((2, 3), np.float32), state)


@pytest.mark.parametrize("name", ["__call__", "vjp"])
def test_check_of_h_names_the_caller_s_line(name):
    checking = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend="numpy", check_state=True)
    state = LSTMState(h=np.full((2, 4), 1.5, "f4"), c=np.zeros((2, 4), "f4"))
    with pytest.warns(UserWarning, match="swapped") as caught:
        getattr(checking, name)(np.ones((2, 3), np.float32), state)
    assert [each.filename for each in caught] == [__file__]


def test_check_of_h_is_silent_if_h_may_exceed_1(recwarn):
    x, state = np.ones((2, 3), np.float32), LSTMState(h=np.full((2, 4), 1.5, "f4"), c=np.zeros((2, 4), "f4"))
    projected = LSTMWeights.random(3, 4, proj_size=4, seed=0)
    LSTMCell(projected, backend="numpy", check_state=True)(x, state)
    for options in (
        {"activation": "relu"},
        {"activation": "tanh", "output_activation": "relu"},
        {"activation": "tanh", "gate_activation": "relu"},
        {"output_activation": ("scaled_tanh", 1.1, 1.0)},
    ):
        LSTMCell(LSTMWeights.random(3, 4, seed=0, **options), backend="numpy", check_state=True)(x, state)
    computed = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend="numpy", check_state=True)
    state = computed.zero_state(2)
    for _ in range(20):
        state = computed(x * 100, state)
    assert not recwarn.list
