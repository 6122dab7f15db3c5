"""Gradients of rows without steps, of resets and padding, and at the limits of clips."""

import dataclasses

import numpy as np
import pytest

from fusedlstm import LSTMCell, LSTMState, LSTMWeights, StackedWeights

from support.gradients import ours, seeds_of, states_like
from support.training_cases import random_states, small_case


def test_row_of_length_0_passes_its_gradient():
    case = small_case(lengths=[0, 6, 2])
    d_outputs, d_state = seeds_of(case)
    got = ours(case, d_outputs, d_state)
    for k, d in enumerate(d_state):
        np.testing.assert_array_equal(got[f"state[{k}].h"][0], d.h[0])
        np.testing.assert_array_equal(got[f"state[{k}].c"][0], d.c[0])
    assert not got["xs"][:, 0].any()
    assert not got["xs"][2:, 2].any()


@pytest.mark.parametrize("checkpoint_every", [None, 2])
def test_nothing_flows_across_a_reset(checkpoint_every):
    first = np.zeros((6, 3), bool)
    first[4, 1] = True
    case = small_case(is_first=first, reset_to=random_states(np.random.default_rng(0), small_case().weights, 1))
    d_outputs, d_state = seeds_of(case)
    d_outputs[:4] = 0
    got = ours(case, d_outputs, d_state, checkpoint_every=checkpoint_every)
    assert not got["xs"][:4, 1].any()
    assert got["xs"][:4, 0].all()
    assert not any(got[f"state[{k}].{part}"][1].any() for k in range(2) for part in "hc")
    assert all(got[f"reset_to[{k}].{part}"].all() for k in range(2) for part in "hc")


@pytest.mark.parametrize("general", [False, True])
def test_nan_in_padding_has_no_effect(general):
    weights = StackedWeights.random(
        *(3, 4, 2), seed=0, dtype="float64", directions=["both", "forward"], peephole=general, proj_size=3
    )
    case = dataclasses.replace(
        small_case(), weights=weights, states=random_states(np.random.default_rng(0), weights, 3)
    )
    lengths = np.array([0, 6, 2])
    idle = np.arange(6)[:, None] >= lengths
    d_outputs, d_state = seeds_of(case)
    results = []
    for padding in (0, np.nan):
        xs, d = case.xs.copy(), d_outputs.copy()
        xs[idle], d[idle] = padding, padding
        results.append(ours(dataclasses.replace(case, xs=xs, options={"lengths": lengths}), d, d_state))
    for name, array in results[0].items():
        np.testing.assert_array_equal(results[1][name], array)


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize(("peephole", "projection"), [(False, None), (True, 3)])
@pytest.mark.parametrize("reverse", [False, True])
def test_nan_in_idle_states_has_no_effect(every, peephole, projection, reverse):
    """A row without steps keeps its NaN, and one that begins late is reset first."""
    weights = StackedWeights.random(3, 4, 2, seed=0, dtype="float64", peephole=peephole, proj_size=projection)
    mask, first = np.ones((6, 3), bool), np.zeros((6, 3), bool)
    mask[:, 0] = mask[:2, 1] = mask[-2:, 1] = False
    first[[2, 3], 1] = True
    options = {"mask": mask, "is_first": first, "reverse": reverse}
    states = random_states(np.random.default_rng(0), weights, 3)
    case = dataclasses.replace(small_case(), weights=weights, states=states, options=options)
    results = []
    for bad in (0, np.nan):
        garbage = tuple(LSTMState(h=state.h.copy(), c=state.c.copy()) for state in states)
        rows = [0] if reverse else [0, 1]
        for state in garbage:
            state.h[rows] = state.c[rows] = bad
        results.append(ours(dataclasses.replace(case, states=garbage), *seeds_of(case), checkpoint_every=every))
    for name, array in results[0].items():
        np.testing.assert_array_equal(results[1][name], array, name)
    assert all(np.isfinite(array).all() for array in results[0].values())


def test_nan_before_a_reset_has_no_effect():
    first = np.zeros((6, 3), bool)
    first[0] = True
    case = small_case(is_first=first)
    seeds = seeds_of(case)
    wanted = ours(case, *seeds)
    got = ours(dataclasses.replace(case, states=states_like(case.states, np.nan)), *seeds)
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array)


# Clips: as tf.clip_by_value, which passes the gradient at its limits.


@pytest.mark.parametrize(("c", "wanted"), [(0.5, 1.0), (np.nextafter(0.5, 1), 0.0), (-0.5, 1.0), (0.2, 1.0)])
@pytest.mark.parametrize("clip", ["cell_clip", "proj_clip"])
def test_gradient_at_the_limit_of_a_clip(clip, c, wanted):
    """With o = 1, f = 1 and i = 0, the new h is the clipped old c."""
    weights = LSTMWeights(
        *(np.zeros((4, 1)), np.zeros((4, 1)), np.array([0.0, 1, 0, 1]), None, np.ones((1, 1))),
        gate_activation="linear",
        activation="linear",
        **{clip: 0.5},
    )
    state = LSTMState(h=np.zeros((1, 1)), c=np.full((1, 1), c))
    _, pullback = LSTMCell(weights, backend="numpy").vjp(np.zeros((1, 1)), state)
    assert pullback(LSTMState(h=np.ones((1, 1)), c=np.zeros((1, 1)))).state.c == wanted
