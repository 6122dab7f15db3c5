"""Random clients of a service, over shards that die and are late, beside a model that steps each session alone."""

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from fusedlstm.frames import Status

from support.faults_of_gradients import planted
from support.faults_of_serving import ALL
from support.shaky_clients import play
from support.shaky_pool import ShakyPool, run_fast


def played(seed, faults=0.0):
    """Let clients play. Return the pool, and how often they were told each status."""
    rng = np.random.default_rng(seed)
    pool = ShakyPool(25, rng, faults)
    limits = {"max_rows": int(rng.integers(1, 20)), "max_waiting_rows": int(rng.integers(50, 100))}
    told = run_fast(play(pool, rng, messages=25, max_wait_ms=float(rng.uniform(0, 4)), **limits))
    if not faults:
        assert told[Status.OK] > 100
        assert not told[Status.WENT_BACK] + told[Status.FAILED]
        for status in (Status.REPEATED, Status.OUT_OF_ORDER, Status.LATE, Status.NOT_OPEN):
            assert told[status], status
    return pool, told


@pytest.mark.parametrize("seed", range(3))
def test_random_messages_step_once(seed):
    played(seed)


@pytest.mark.parametrize("seed", range(3))
def test_random_messages_while_shards_die(seed):
    pool, told = played(seed, faults=0.05)
    assert pool.deaths > 3
    assert told[Status.OK] > 50
    assert told[Status.WENT_BACK]
    assert told[Status.FAILED]


@pytest.mark.nightly
def test_thousand_rows_of_each_kind():
    """Repeated, late, disordered and unknown rows: 1,000 each."""
    told, seed = dict.fromkeys(Status, 0), 100
    while min(told[kind] for kind in (Status.REPEATED, Status.LATE, Status.OUT_OF_ORDER, Status.NOT_OPEN)) < 1000:
        for kind, count in played(seed, faults=(0.0, 0.05)[seed % 2])[1].items():
            told[kind] += count
        seed += 1


def is_found(fault):
    """Return whether random clients notice a mistake."""
    with planted(fault):
        for seed in range(30):
            try:
                played(seed, faults=(0.0, 0.05, 0.2)[seed % 3])
            except (AssertionError, TimeoutError, ValueError):  # the service itself may notice
                return True
    return False


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a game that ends early awaits no more
@pytest.mark.parametrize("fault", ALL, ids=str)
def test_planted_faults_are_found(fault):
    assert is_found(fault)
