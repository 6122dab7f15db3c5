"""Bad arguments of an LSTM: every backend raises the same error in the same words, before any work is done."""

import re

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMState, LSTMWeights, StackedWeights, StatePool

T, B, I, N, P = 6, 4, 3, 5, 2
WEIGHTS = StackedWeights([LSTMWeights.random(I, N, proj_size=P, seed=0), LSTMWeights.random(P, N, seed=1)])
RESET = "booleans, True for the rows to reset before this step"
STATES = "a tuple of 2 LSTMState, one for each layer and direction"


class Good:
    """The arguments of a valid call, for a case to spoil."""

    def __init__(self, backend, weights=WEIGHTS, **options):
        self.lstm = LSTM(weights, backend=backend, **options)
        self.xs = self.lstm.asarray(np.zeros((T, B, I)))
        self.state = self.lstm.zero_state(B)
        self.options = {}

    def __call__(self):
        return self.lstm(self.xs, self.state, **self.options)


def with_layer(good, k, **parts):
    """Return the valid state with parts of one layer's state replaced."""
    states = list(good.state)
    states[k] = LSTMState(**({"h": states[k].h, "c": states[k].c} | parts))
    return tuple(states)


# How to spoil the arguments, the error, and its whole message.
CASES = {
    "2-D xs": (
        lambda g: setattr(g, "xs", g.xs[0]),
        ValueError,
        "xs: wanted shape (T, B, I) = (T, B, 3); got shape (4, 3). For one step, use lstm.step(x, state)",
    ),
    "wide xs": (
        lambda g: setattr(g, "xs", g.xs.repeat(2, axis=2)),
        ValueError,
        "xs: wanted shape (T, B, I) = (T, B, 3); got shape (6, 4, 6)",
    ),
    "float64 xs": (
        lambda g: setattr(g, "xs", g.xs.astype("float64")),
        TypeError,
        'xs: wanted dtype float32 (the weights\'); got dtype float64. Use xs.astype("float32")',
    ),
    "no xs": (
        lambda g: setattr(g, "xs", None),
        TypeError,
        "xs: wanted a {array} ({device}); got None",
    ),
    "lists as xs": (
        lambda g: setattr(g, "xs", [[[0.0] * I] * B] * T),
        TypeError,
        "xs: wanted a {array} ({device}); got list. Use lstm.asarray(...) to make one",
    ),
    "one state": (
        lambda g: setattr(g, "state", g.state[0]),
        TypeError,
        f"state: wanted {STATES}; got one LSTMState. If its arrays are (L*D, B, N), use unstack_states(h=..., c=...)",
    ),
    "too few states": (
        lambda g: setattr(g, "state", g.state[:1]),
        ValueError,
        f"state: wanted {STATES}; got 1",
    ),
    "PyTorch's state": (
        lambda g: setattr(g, "state", (g.state[0].h[None], g.state[0].c[None])),
        TypeError,
        f"state: wanted {STATES}; got a tuple of arrays. "
        "For PyTorch's (h, c), each (L*D, B, N), use unstack_states(h=..., c=...)",
    ),
    "an array as state": (
        lambda g: setattr(g, "state", g.state[0].h),
        TypeError,
        f"state: wanted {STATES}; got {{array}}",
    ),
    "numbers as states": (
        lambda g: setattr(g, "state", (1, 2)),
        TypeError,
        "state[0]: wanted an LSTMState(h=..., c=...); got int",
    ),
    "pairs as states": (
        lambda g: setattr(g, "state", tuple((s.h, s.c) for s in g.state)),
        TypeError,
        "state[0]: wanted an LSTMState(h=..., c=...); got a tuple. Name the two: LSTMState(h=..., c=...), "
        "because PyTorch and Keras mean (h, c) while TensorFlow 1 and Flax mean (c, h)",
    ),
    "a swapped layer": (
        lambda g: setattr(g, "state", with_layer(g, 0, h=g.state[0].c, c=g.state[0].h)),
        ValueError,
        "state[0].h: wanted shape (B, P) = (4, 2); got shape (4, 5). "
        "h and c look swapped: h is the output, c the cell's memory",
    ),
    "layers in the wrong order": (
        lambda g: setattr(g, "state", g.state[::-1]),
        ValueError,
        "state[0].h: wanted shape (B, P) = (4, 2); got shape (4, 5)",
    ),
    "a float64 c": (
        lambda g: setattr(g, "state", with_layer(g, 1, c=g.state[1].c.astype("float64"))),
        TypeError,
        'state[1].c: wanted dtype float32 (the weights\'); got dtype float64. Use state[1].c.astype("float32")',
    ),
    "another batch": (
        lambda g: setattr(g, "state", g.lstm.zero_state(1)),
        ValueError,
        "state[0].h: wanted shape (B, P) = (4, 2); got shape (1, 2). "
        "States don't broadcast: repeat the row with state[0].h.repeat(4, axis=0)",
    ),
    "a negative length": (
        lambda g: g.options.update(lengths=[6, 5, -1, 0]),
        ValueError,
        "lengths: wanted lengths from 0 to T = 6; got -1 for row 2",
    ),
    "a length beyond T": (
        lambda g: g.options.update(lengths=[6, 7, 5, 0]),
        ValueError,
        "lengths: wanted lengths from 0 to T = 6; got 7 for row 1",
    ),
    "a huge length": (
        lambda g: g.options.update(lengths=np.array([6, 2**64 - 1, 0, 0], np.uint64)),
        ValueError,
        "lengths: wanted lengths from 0 to T = 6; got 18446744073709551615 for row 1",
    ),
    "lengths of floats": (
        lambda g: g.options.update(lengths=[6.0, 5.0, 4.0, 3.0]),
        TypeError,
        "lengths: wanted integers, the steps that each row takes; got dtype float64",
    ),
    "lengths of booleans": (
        lambda g: g.options.update(lengths=[True] * 4),
        TypeError,
        "lengths: wanted integers, the steps that each row takes; got dtype bool",
    ),
    "lengths of another batch": (
        lambda g: g.options.update(lengths=[6, 5, 4]),
        ValueError,
        "lengths: wanted shape (B,) = (4,); got shape (3,)",
    ),
    "one length": (
        lambda g: g.options.update(lengths=6),
        ValueError,
        "lengths: wanted shape (B,) = (4,); got shape ()",
    ),
    "words as lengths": (
        lambda g: g.options.update(lengths=["six"] * 4),
        TypeError,
        "lengths: wanted an array of numbers; got dtype <U3",
    ),
    "uneven lengths": (
        lambda g: g.options.update(lengths=[[1], [2, 3]]),
        TypeError,
        "lengths: wanted an array, or equally long lists of numbers; got list",
    ),
    "lengths and a mask": (
        lambda g: g.options.update(lengths=[6] * 4, mask=np.ones((T, B), bool)),
        ValueError,
        "mask: wanted None if lengths are given, as they do the same; got a mask",
    ),
    "a mask of floats": (
        lambda g: g.options.update(mask=np.ones((T, B))),
        TypeError,
        "mask: wanted booleans, True for the steps that a row takes; got dtype float64. Use mask != 0",
    ),
    "an uneven mask": (
        lambda g: g.options.update(mask=[[True], [True, False]]),
        TypeError,
        "mask: wanted booleans, True for the steps that a row takes; got list",
    ),
    "a mask (B, T)": (
        lambda g: g.options.update(mask=np.ones((B, T), bool)),
        ValueError,
        "mask: wanted shape (T, B) = (6, 4); got shape (4, 6)",
    ),
    "episode_starts": (
        lambda g: g.options.update(is_first=np.zeros((T, B), np.float32)),
        TypeError,
        f"is_first: wanted {RESET}; got dtype float32. Use is_first != 0, as for Stable-Baselines3's episode_starts. "
        "If a flag says that a step ended an episode, use it for the next step: is_first[t + 1] = done[t]",
    ),
    "is_first of one step": (
        lambda g: g.options.update(is_first=[True] * B),
        ValueError,
        "is_first: wanted shape (T, B) = (6, 4); got shape (4,)",
    ),
    "is_first (B, T)": (
        lambda g: g.options.update(is_first=np.ones((B, T), bool)),
        ValueError,
        "is_first: wanted shape (T, B) = (6, 4); got shape (4, 6)",
    ),
    "uneven is_first": (
        lambda g: g.options.update(is_first=[[True], [True, False]]),
        TypeError,
        f"is_first: wanted {RESET}; got list",
    ),
    "reset_to alone": (
        lambda g: g.options.update(reset_to=g.state),
        ValueError,
        "reset_to: wanted None without is_first, which marks the rows to reset; got states",
    ),
    "reset_to of one layer": (
        lambda g: g.options.update(is_first=np.ones((T, B), bool), reset_to=g.state[0]),
        TypeError,
        f"reset_to: wanted {STATES}; got one LSTMState. If its arrays are (L*D, B, N), "
        "use unstack_states(h=..., c=...)",
    ),
    "reset_to of two rows": (
        lambda g: g.options.update(is_first=np.ones((T, B), bool), reset_to=g.lstm.zero_state(2)),
        ValueError,
        "reset_to[0].h: wanted shape (B, P) = (4, 2); got shape (2, 2)",
    ),
    "reverse": (
        lambda g: g.options.update(reverse=1),
        TypeError,
        "reverse: wanted a bool; got int",
    ),
    "masked_outputs": (
        lambda g: g.options.update(masked_outputs="nan"),
        ValueError,
        "masked_outputs: wanted one of 'zero', 'last'; got 'nan'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_argument(case, backend):
    spoil, error, message = CASES[case]
    good = Good(backend)
    good()
    array_type = type(good.xs)
    message = message.format(array=f"{array_type.__module__}.{array_type.__name__}", device=good.lstm.device)
    spoil(good)
    with pytest.raises(error) as raised:
        good()
    assert str(raised.value) == message


def test_states_of_one_layer_are_a_tuple(backend):
    good = Good(backend, LSTMWeights.random(I, N, seed=0))
    with pytest.raises(
        TypeError, match=r"^state: wanted a tuple of 1 LSTMState, .*; got one LSTMState\. Use \(state,\)$"
    ):
        good.lstm(good.xs, good.state[0])
    with pytest.raises(TypeError, match=r"got one LSTMState\. Use \(state,\)$"):
        good.lstm.step(good.xs[0], good.state[0])


def test_batch_first_in_messages(backend):
    good = Good(backend, batch_first=True)
    with pytest.raises(ValueError, match=r"^xs: wanted shape \(B, T, I\) = \(B, T, 3\); got shape \(6, 4, 1\)$"):
        good.lstm(good.xs[:, :, :1])
    for name in ("mask", "is_first"):
        with pytest.raises(ValueError, match=rf"^{name}: wanted shape \(B, T\) = \(6, 4\); got shape \(4, 6\)$"):
            good.lstm(good.xs, **{name: np.ones((4, 6), bool)})


def test_bidirectional_refuses_step_and_reverse(backend):
    weights = StackedWeights.random(I, N, seed=0, bidirectional=True)
    good = Good(backend, weights)
    with pytest.raises(ValueError, match="^reverse: wanted False with bidirectional=True; got True$"):
        good.lstm(good.xs, reverse=True)
    with pytest.raises(ValueError, match="^weights: wanted layers that are all forward for a step; got bidirectional"):
        good.lstm.step(good.xs[0], good.state)


@pytest.mark.parametrize("directions", [["forward", "backward"], ["backward"] * 2, ["both", "forward"]])
def test_backward_layers_refuse_what_steps(directions, backend):
    lstm = LSTM(StackedWeights.random(I, N, 2, seed=0, directions=directions), backend=backend)
    good, said = Good(backend, lstm.weights), re.escape(f"directions={directions}")
    with pytest.raises(ValueError, match=f"^reverse: wanted False with {said}; got True$"):
        good.lstm(good.xs, reverse=True)
    with pytest.raises(ValueError, match=f"^reverse: wanted False with {said}; got True$"):
        lstm.sequencer(T, B, reverse=True)
    with pytest.raises(ValueError, match=rf"^weights: .* for a step; got {said}\. The backward direction needs whole"):
        good.lstm.step(good.xs[0], good.state)
    for make in (lstm.stepper, lambda size: StatePool(lstm, size)):
        with pytest.raises(
            ValueError, match=rf"^\w+: wanted a cell, or an LSTM whose layers .*; got {said}\. The back"
        ):
            make(B)


STEP_CASES = {
    "sequence": (lambda g: (g.xs, g.state), {}, "x: wanted shape (B, I) = (B, 3); got shape (6, 4, 3). This takes one"),
    "state": (lambda g: (g.xs[0], g.state[::-1]), {}, "state[0].h: wanted shape (B, P) = (4, 2); got shape (4, 5)"),
    "is_first": (
        lambda g: (g.xs[0], g.state),
        {"is_first": [True]},
        "is_first: wanted shape (B,) = (4,); got shape (1,)",
    ),
    "no state": (lambda g: (g.xs[0], None), {}, f"state: wanted {STATES}; got None. Start from zero_state(batch)"),
    "generator": (lambda g: (g.xs[0], iter(g.state)), {}, f"state: wanted {STATES}; got tuple_iterator"),
    "reset_to": (
        lambda g: (g.xs[0], g.state),
        {"is_first": [True] * B, "reset_to": ()},
        f"reset_to: wanted {STATES}; got 0",
    ),
}


@pytest.mark.parametrize("case", STEP_CASES)
def test_bad_argument_of_a_step(case, backend):
    """A bad argument raises even after a valid step, whose checks are cached."""
    spoil, options, message = STEP_CASES[case]
    good = Good(backend)
    good.lstm.step(good.xs[0], good.state)
    with pytest.raises((TypeError, ValueError)) as raised:
        good.lstm.step(*spoil(good), **options)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("weights", "options", "error", "message"),
    [
        (3, {}, TypeError, "weights: wanted an LSTMWeights or a StackedWeights; got int"),
        (
            [WEIGHTS.layers[0]],
            {},
            TypeError,
            "weights: wanted an LSTMWeights or a StackedWeights; got list. Use StackedWeights(weights)",
        ),
        (WEIGHTS, {"batch_first": 1}, TypeError, "batch_first: wanted a bool; got int"),
        (WEIGHTS, {"precision": "low"}, ValueError, "precision: wanted one of 'highest', 'high'; got 'low'"),
        (WEIGHTS, {"backend": "torch"}, ValueError, "backend: wanted 'numpy', 'cuda' or 'cuda:<index>'; got 'torch'"),
    ],
)
def test_bad_construction(weights, options, error, message):
    with pytest.raises(error) as raised:
        LSTM(weights, **options)
    assert str(raised.value) == message


def test_arguments_are_checked_before_any_work(backend, monkeypatch):
    """If the last argument is bad, not even the first layer takes a step."""
    good = Good(backend)
    calls = []
    layers = good.lstm._layers
    for owner in (*map(type, layers.engines), type(layers._sequence)):
        monkeypatch.setattr(owner, "run", lambda *arguments: calls.append(arguments))
    with pytest.raises(ValueError, match=r"state\[1\]\.c"):
        good.lstm(good.xs, with_layer(good, 1, c=good.state[1].c[:1]))
    with pytest.raises(ValueError, match=r"state\[1\]\.c"):
        good.lstm.step(good.xs[0], with_layer(good, 1, c=good.state[1].c[:1]))
    assert calls == []


def test_empty_sequences_and_batches(backend):
    """Without steps, the outputs are empty and the state stays. Without rows, everything is empty."""
    good = Good(backend)
    outputs, states = good.lstm(good.xs[:0], good.state, lengths=[0] * B, is_first=np.zeros((0, B), bool))
    assert outputs.shape == (0, B, N)
    assert [s.h.shape for s in states] == [(B, P), (B, N)]
    none = good.lstm.zero_state(0)
    outputs, states = good.lstm(good.xs[:, :0], none, lengths=[], is_first=np.zeros((T, 0), bool), reset_to=none)
    assert outputs.shape == (T, 0, N)
    assert [s.h.shape for s in states] == [(0, P), (0, N)]
    outputs, _ = good.lstm(good.xs[:, :0], none, mask=[[]] * T, is_first=[[]] * T)
    assert outputs.shape == (T, 0, N)
    output, _ = good.lstm.step(good.xs[0, :0], none, is_first=[], reset_to=good.lstm.zero_state(1))
    assert output.shape == (0, N)
