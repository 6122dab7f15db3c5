"""The small kernels of fused pools on the CPU, with every access checked: check.cu and state_rows.cu."""

import numpy as np
import pytest

from fusedlstm.backends.cuda.arguments import Audit, CheckArguments, StateRowsArguments

from emulation import FORWARD, Module
from support.emulated import needs_emulation
from support.kernel_cases import OUT_OF_RANGE, RELEASED, SCHEDULES, SIZES, THREADS, TICK, TWICE, spread, with_problems
from support.places import KERNELS
from support.structs import by_value

pytestmark = needs_emulation

FAR = 1 << 31


@pytest.fixture(scope="module")
def check():
    return Module(KERNELS / "check.cu", ["lstm_check"], mode="check").function("lstm_check")


@pytest.fixture(scope="module")
def state_rows():
    return Module(KERNELS / "state_rows.cu", ["lstm_state_rows"], mode="check").function("lstm_state_rows")


def launch(function, arguments, schedule):
    passed = by_value(arguments)
    function((-(-arguments.B // THREADS),), (THREADS,), [passed], schedule=schedule)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"B={sizes.B}")
def test_check(check, sizes, schedule):
    """One of the rows with the same slot steps. Problems are counted, each with an example slot."""
    slots, live = with_problems(np.random.default_rng(sizes.B), sizes)
    # Earlier ticks, and distant ones with as many equal bits as possible.
    claims = np.resize(np.array([0, TICK - 1, TICK % (1 << 32), TICK + (1 << 32)], np.uint64), sizes.capacity)
    problems = np.array([[1, 77], [20, 78], [300, 79]], np.uint64)
    given, claims_before, problems_before = slots.copy(), claims.copy(), problems.copy()
    steppable = np.full(sizes.B + 3, 99)  # larger than the batch, as after a larger step
    audit = Audit(live, claims, TICK, problems)
    launch(check, CheckArguments(slots, steppable, audit, sizes.capacity, sizes.B), schedule)

    inside = slots[(slots >= 0) & (slots < sizes.capacity)]
    once, counts = np.unique(inside[live[inside]], return_counts=True)
    outside = slots[(slots != -1) & ((slots < 0) | (slots >= sizes.capacity))]
    wrong = {OUT_OF_RANGE: outside, RELEASED: inside[~live[inside]], TWICE: np.repeat(once, counts - 1)}
    for kind, which in wrong.items():
        (count, slot), (count_before, slot_before) = problems[kind], problems_before[kind]
        assert count - count_before == len(which)
        assert slot.astype(np.int64) in which if len(which) else slot == slot_before
    steps = steppable[: sizes.B] >= 0
    assert sorted(steppable[: sizes.B][steps]) == list(once)
    np.testing.assert_array_equal(steppable[: sizes.B][steps], slots[steps])
    assert (steppable[: sizes.B][~steps] == -1).all()
    assert (steppable[sizes.B :] == 99).all()
    claims_before[once] = TICK
    np.testing.assert_array_equal(claims, claims_before)
    np.testing.assert_array_equal(slots, given)


def test_check_may_write_in_place(check):
    slots, live = np.array([1, 5, 0, 1, -1, 2]), np.array([True, True, False])
    claims, problems = np.zeros(3, np.uint64), np.zeros((3, 2), np.uint64)
    launch(check, CheckArguments(slots, slots, Audit(live, claims, TICK, problems), capacity=3, B=6), FORWARD)
    assert slots.tolist() == [1, -1, 0, -1, -1, -1]
    assert problems[:, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("B", [1, 3, 255, 256, 257, 700])
def test_state_rows(state_rows, B, schedule):
    """Words have any tick, and the lowest bit selects one of two rows."""
    random = np.random.default_rng(B)
    slots, rows = random.permutation(B + 9)[:B], np.full(B + 3, 99)
    words = random.integers(1 << 63, size=B + 9).astype(np.uint64)
    before = words.copy(), slots.copy()
    launch(state_rows, StateRowsArguments(slots, words, rows, B), schedule)
    np.testing.assert_array_equal(rows[:B], [2 * slot + int(words[slot]) % 2 for slot in slots])
    assert (rows[B:] == 99).all()
    np.testing.assert_array_equal(words, before[0])
    np.testing.assert_array_equal(slots, before[1])


def test_state_rows_beyond_2_to_31(state_rows):
    """Slots are 0 and 2^31, without memory between them."""
    words, rows = spread(np.uint64, (2,), [FAR]), np.zeros(2, np.int64)
    words[...] = [7, 9]
    launch(state_rows, StateRowsArguments(np.array([FAR, 0]), words, rows, 2), FORWARD)
    assert rows.tolist() == [2 * FAR + 1, 1]
