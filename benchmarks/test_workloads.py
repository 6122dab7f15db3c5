"""Sizes from practice, ours beside every peer: a table for each. For streams, also how many run in real time."""

from benchmarks.cases import SECONDS_BETWEEN_STEPS, WORKLOADS
from benchmarks.side_by_side import measure, parametrize


def pytest_generate_tests(metafunc):
    parametrize(metafunc, WORKLOADS)


def test_workload(benchmark, entry, threads):
    measure(benchmark, entry, threads)
    between = SECONDS_BETWEEN_STEPS.get(entry.case.name)
    if between and benchmark.enabled:
        rounds = between / benchmark.stats.stats.median
        benchmark.extra_info["streams_in_real_time"] = int(entry.case.B * rounds)
