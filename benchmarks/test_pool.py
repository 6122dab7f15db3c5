"""One step of some of a pool's many slots, ours and every peer's: a table for each size."""

from benchmarks.cases import POOLS
from benchmarks.side_by_side import measure, parametrize


def pytest_generate_tests(metafunc):
    parametrize(metafunc, POOLS)


def test_pool(benchmark, entry, threads):
    measure(benchmark, entry, threads)
