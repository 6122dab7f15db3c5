"""Every planted mistake in the backward pass changes a gradient."""

import functools

import pytest

from fusedlstm.backends.numpy import formula_vjp

from support.faults_of_gradients import ALL, OF_THE_STEP, planted
from support.gradients import exact, largest_difference, named, ours, seeds_of
from support.training_cases import DIRECTIONS, random_case

FOUND = 1e-8
STEPS, RESETS, RULES = (None, "lengths", "mask"), (None, "zero", "one row", "rows"), ("zero", "last")


@functools.cache
def sequences():
    """Return cases that together have every option, and for each its seeds, exact gradients and checkpoints."""
    made = []
    for k in range(56):
        about = DIRECTIONS[k % len(DIRECTIONS)], STEPS[k % 3], RESETS[k // 3 % 4], RULES[k % 2]
        T = 70 if k == 8 else 5  # products are over at most 64 steps
        case = random_case(k, T, 3, *about, residual=k % 5 == 0, reverse=k % 7 == 0)
        seeds = seeds_of(case)
        made.append((case, seeds, exact(case, *seeds), (None, 2)[k // 2 % 2]))
    return made


def is_found():
    """Return whether any case's gradients are wrong, or fail."""
    for case, seeds, wanted, every in sequences():
        try:
            if largest_difference(ours(case, *seeds, checkpoint_every=every), wanted) > FOUND:
                return True
        except (ValueError, TypeError, IndexError):  # shapes that don't fit
            return True
    return False


@functools.cache
def steps():
    """Return cases of one step of one layer, with their seeds and exact gradients."""
    made = []
    for k in range(24):
        case = random_case(k, 1, 3, ["forward"], None, RESETS[k % 4], "zero")
        seeds = (0 * case.xs[..., :1].repeat(case.weights.output_size, axis=2), seeds_of(case)[1])
        made.append((case, seeds, exact(case, *seeds)))
    return made


def step_is_found():
    """Return whether any case's step is wrong by the readable formula."""
    for case, (_, (d,)), wanted in steps():
        (to,), first = case.options.get("reset_to", (None,)), case.options.get("is_first", [None])[0]
        state, resets = case.states[0], () if to is None else (to.h, to.c)
        got = formula_vjp.step(case.weights.layers[0], case.xs[0], state.h, state.c, d.h, d.c, first, *resets)
        pairs = [None if each is None else [(each.h, each.c)] for each in (got.state, got.reset_to)]
        if largest_difference(named(got.x[None], *pairs, [got.weights.arrays()]), wanted) > FOUND:
            return True
    return False


def test_sound_code_has_no_fault():
    assert not is_found()
    assert not step_is_found()


@pytest.mark.parametrize("fault", ALL, ids=str)
def test_planted_fault_is_found(fault):
    with planted(fault):
        assert is_found()


@pytest.mark.parametrize("fault", OF_THE_STEP, ids=str)
def test_planted_fault_of_a_step_is_found(fault):
    with planted(fault):
        assert step_is_found()
