"""One step from given states, ours and every peer's: a table for each size."""

from benchmarks.cases import COLD, STEPS, TRAPS
from benchmarks.side_by_side import measure, parametrize


def pytest_generate_tests(metafunc):
    parametrize(metafunc, STEPS + TRAPS + COLD)


def test_step(benchmark, entry, threads):
    measure(benchmark, entry, threads)
