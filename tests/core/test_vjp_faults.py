"""Every planted mistake in the backward pass changes a gradient."""

import functools

import pytest

from support.faults_of_gradients import ALL, planted
from support.gradients import exact, largest_difference, ours, seeds_of
from support.training_cases import DIRECTIONS, random_case

FOUND = 1e-8
STEPS, RESETS, RULES = (None, "lengths", "mask"), (None, "zero", "one row", "rows"), ("zero", "last")


@functools.cache
def cases():
    """Return cases that together have every option, their gradients of the results, and the exact gradients."""
    made = []
    for k in range(96):
        directions = DIRECTIONS[k % len(DIRECTIONS)]
        case = random_case(
            *(k, 6, 4, directions, STEPS[k % 3], RESETS[k // 3 % 4], RULES[k % 2]), residual=k % 5 == 0, reverse=k % 7 == 0
        )
        seeds = seeds_of(case)
        made.append((case, seeds, exact(case, *seeds), (None, 2)[k // 2 % 2]))
    return made


def is_found():
    """Return whether any case's gradients are wrong, or fail."""
    for case, seeds, wanted, every in cases():
        try:
            if largest_difference(ours(case, *seeds, checkpoint_every=every), wanted) > FOUND:
                return True
        except Exception:
            return True
    return False


def test_no_fault_is_found_in_the_sound_code():
    assert not is_found()


@pytest.mark.parametrize("fault", ALL, ids=str)
def test_planted_fault_is_found(fault):
    with planted(fault):
        assert is_found()
