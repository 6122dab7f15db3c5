"""Bad arguments of vjp and of pullbacks: each raises before any work, and names the argument."""

import re

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights

from support.backends import needs_cuda

T, B, I, N, P = 6, 4, 3, 5, 2
WEIGHTS = StackedWeights([LSTMWeights.random(I, N, proj_size=P, seed=0), LSTMWeights.random(P, N, seed=1)])
LSTM_ = LSTM(WEIGHTS, backend="numpy")
CELL = LSTMCell(WEIGHTS.layers[0], backend="numpy")
XS = np.zeros((T, B, I), np.float32)
STATES = "a tuple of 2 LSTMState, one for each layer and direction"


def raises(kind, message):
    return pytest.raises(kind, match=f"^{re.escape(message)}$")


# Arguments of the forward pass, and the whole message.
CALLS = {
    "2-D xs": (
        {"xs": XS[0]},
        ValueError,
        "xs: wanted shape (T, B, I) = (T, B, 3); got shape (4, 3). For one step, use lstm.step(x, state)",
    ),
    "float64 xs": (
        {"xs": XS.astype(float)},
        TypeError,
        'xs: wanted dtype float32 (the weights\'); got dtype float64. Use xs.astype("float32")',
    ),
    "one state": (
        {"state": LSTM_.zero_state(B)[0]},
        TypeError,
        f"state: wanted {STATES}; got one LSTMState. If its arrays are (L*D, B, N), use unstack_states(h=..., c=...)",
    ),
    "another batch": (
        {"state": LSTM_.zero_state(1)},
        ValueError,
        "state[0].h: wanted shape (B, P) = (4, 2); got shape (1, 2). "
        "States don't broadcast: repeat the row with state[0].h.repeat(4, axis=0)",
    ),
    "a length beyond T": (
        {"lengths": [7, 0, 0, 0]},
        ValueError,
        "lengths: wanted lengths from 0 to T = 6; got 7 for row 0",
    ),
    "lengths and a mask": (
        {"lengths": [6] * B, "mask": np.ones((T, B), bool)},
        ValueError,
        "mask: wanted None if lengths are given, as they do the same; got a mask",
    ),
    "a short mask": (
        {"mask": np.ones((T - 1, B), bool)},
        ValueError,
        "mask: wanted shape (T, B) = (6, 4); got shape (5, 4)",
    ),
    "reset_to alone": (
        {"reset_to": LSTM_.zero_state(1)},
        ValueError,
        "reset_to: wanted None without is_first, which marks the rows to reset; got states",
    ),
    "flags of one step": (
        {"is_first": np.zeros(B, bool)},
        ValueError,
        "is_first: wanted shape (T, B) = (6, 4); got shape (4,)",
    ),
    "an int as reverse": ({"reverse": 1}, TypeError, "reverse: wanted a bool; got int"),
    "an unknown rule": (
        {"masked_outputs": "keep"},
        ValueError,
        "masked_outputs: wanted one of 'zero', 'last'; got 'keep'",
    ),
    "a float of checkpoints": ({"checkpoint_every": 2.0}, TypeError, "checkpoint_every: wanted an int; got float"),
    "no steps between checkpoints": ({"checkpoint_every": 0}, ValueError, "checkpoint_every: wanted at least 1; got 0"),
}


@pytest.mark.parametrize("case", CALLS)
def test_bad_arguments_of_vjp(case):
    changed, kind, message = CALLS[case]
    with raises(kind, message):
        LSTM_.vjp(**{"xs": XS, "state": None} | changed)


X, STATE = XS[0], CELL.zero_state(B)
STEPS = {
    "3-D x": (
        {"x": XS},
        ValueError,
        "x: wanted shape (B, I) = (B, 3); got shape (6, 4, 3). "
        "This takes one step. For a sequence (T, B, I), use LSTM(weights)(x)",
    ),
    "no state": (
        {"state": None},
        TypeError,
        "state: wanted an LSTMState(h=..., c=...); got None. Start from zero_state(batch)",
    ),
    "a tuple of states": (
        {"state": (STATE,)},
        TypeError,
        "state: wanted an LSTMState(h=..., c=...); got a tuple of 1 LSTMState. Use state[0]",
    ),
    "reset_to alone": (
        {"reset_to": CELL.zero_state(1)},
        ValueError,
        "reset_to: wanted None without is_first, which marks the rows to reset; got a state",
    ),
    "a short is_first": (
        {"is_first": [True]},
        ValueError,
        "is_first: wanted shape (B,) = (4,); got shape (1,)",
    ),
}


@pytest.mark.parametrize("case", STEPS)
def test_bad_arguments_of_a_cells_vjp(case):
    changed, kind, message = STEPS[case]
    with raises(kind, message):
        CELL.vjp(**{"x": X, "state": STATE} | changed)


FINALS, D = LSTM_.zero_state(B), np.zeros((T, B, N), np.float32)
PULLBACKS = {
    "gradients of one step": (
        (D[0], FINALS),
        ValueError,
        "d_outputs: wanted shape (T, B, W) = (6, 4, 5); got shape (4, 5)",
    ),
    "float64 gradients": (
        (D.astype(float), FINALS),
        TypeError,
        'd_outputs: wanted dtype float32 (the weights\'); got dtype float64. Use d_outputs.astype("float32")',
    ),
    "a list of gradients": (
        ([0.0], FINALS),
        TypeError,
        "d_outputs: wanted a numpy.ndarray (cpu); got list. Use lstm.asarray(...) to make one",
    ),
    "one gradient of a state": (
        (D, FINALS[0]),
        TypeError,
        f"d_state: wanted {STATES}; got one LSTMState. If its arrays are (L*D, B, N), use unstack_states(h=..., c=...)",
    ),
    "too few gradients of states": ((D, FINALS[:1]), ValueError, f"d_state: wanted {STATES}; got 1"),
    "gradients of another batch": (
        (D, LSTM_.zero_state(3)),
        ValueError,
        "d_state[0].h: wanted shape (B, P) = (4, 2); got shape (3, 2)",
    ),
}


@pytest.mark.parametrize("case", PULLBACKS)
def test_bad_arguments_of_a_pullback(case):
    arguments, kind, message = PULLBACKS[case]
    pullback = LSTM_.vjp(XS)[2]
    with raises(kind, message):
        pullback(*arguments)
    with raises(TypeError, "retain: wanted a bool; got int"):
        pullback(None, None, retain=1)
    pullback(D, FINALS)  # it lost nothing


def test_bad_arguments_of_a_cells_pullback():
    state, pullback = CELL.vjp(X, STATE)
    with raises(TypeError, "d_state: wanted an LSTMState(h=..., c=...); got None. Start from zero_state(batch)"):
        pullback(None)
    with raises(ValueError, "d_state.h: wanted shape (B, P) = (4, 2); got shape (3, 2)"):
        pullback(CELL.zero_state(3))
    with raises(
        TypeError, 'd_state.c: wanted dtype float32 (the cell\'s); got dtype float64. Use d_state.c.astype("float32")'
    ):
        pullback(LSTMState(h=state.h, c=state.c.astype(float)))
    with raises(TypeError, "retain: wanted a bool; got int"):
        pullback(state, retain=1)
    pullback(state)
    with pytest.raises(RuntimeError, match="has been called already"):
        pullback(state)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_weights_have_no_gradients(dtype):
    message = (
        f"weights: wanted dtype float32 or float64 for gradients; got dtype {dtype}. "
        'Train in float32: use weights.astype("float32")'
    )
    cell = LSTMCell(WEIGHTS.layers[0].astype(dtype), backend="numpy")
    with raises(TypeError, message):
        cell.vjp(cell.asarray(X), cell.zero_state(B))
    lstm = LSTM(WEIGHTS.astype(dtype), backend="numpy")
    with raises(TypeError, message):
        lstm.vjp(lstm.asarray(XS))


@pytest.mark.parametrize("zoneout", ["zoneout_c", "zoneout_h"])
def test_zoneout_has_no_gradients(zoneout):
    hint = f"Training with it needs random masks, and this is their expectation. Train with {zoneout}=0"
    weights = LSTMWeights.random(I, N, seed=0, **{zoneout: 0.3})
    wanted = f"weights: wanted no zoneout for gradients; got {zoneout}=0.3"
    cell = LSTMCell(weights, backend="numpy")
    with raises(ValueError, f"{wanted}. {hint}"):
        cell.vjp(X, cell.zero_state(B))
    with raises(ValueError, f"{wanted} in layers[1]. {hint}"):
        LSTM(StackedWeights([LSTMWeights.random(I, I, seed=0), weights]), backend="numpy").vjp(XS)


@needs_cuda
def test_gpu_has_no_gradients():
    cell, lstm = LSTMCell(WEIGHTS.layers[0], backend="cuda"), LSTM(WEIGHTS, backend="cuda")
    message = 'vjp computes gradients on the CPU, and not yet on cuda:0. Make the cell or LSTM with backend="numpy"'
    with raises(NotImplementedError, message):
        cell.vjp(cell.asarray(X), cell.zero_state(B))
    with raises(NotImplementedError, message):
        lstm.vjp(lstm.asarray(XS))
