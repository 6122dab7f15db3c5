"""Slow tests are listed in a measured table. A plain run of pytest leaves them out.

pytest                              without slow tests
pytest -m ""                        all tests
pytest -m "" --write-slow-tests     all tests, and write a new table. Empty the emulator's cache first
"""

import os
from collections import Counter

import pytest

from support.places import TESTS

TABLE = TESTS / "slow_tests.txt"
LEAST = 0.3  # CPU seconds of a slow test and its child processes
BY_DAY = 4  # CI runs one of so many slow cases of a sampled test, and the others at night
# These tests enforce the rules of the code, so every run includes them, however slow.
ALWAYS_RUN = (
    "tests/convert/test_new_system.py",
    "tests/convert/test_systems.py",
    "tests/core/test_formula.py",
    "tests/core/test_types.py",
    "tests/cuda/test_arguments.py",
    "tests/tools/test_benchmark_recipe.py",
    "tests/tools/test_contributing.py",
    "tests/tools/test_imports.py",
    "tests/tools/test_names.py",
    "tests/tools/test_notice.py",
    "tests/tools/test_recipes.py",
    "tests/tools/test_references.py",
    "tests/tools/test_slow_tests.py",
    "tests/tools/test_tile_recipe.py",
)
COLLECTED = pytest.StashKey[frozenset[str]]()
_START = pytest.StashKey[float]()


def file_of(name):
    return name.partition("::")[0]


def read():
    """Return the CPU seconds of slow tests, by id."""
    rows = (line.split("\t", 1) for line in TABLE.read_text(encoding="utf-8").splitlines())
    return {name: float(seconds) for seconds, name in rows if file_of(name) not in ALWAYS_RUN}


def pytest_addoption(parser):
    parser.addoption("--write-slow-tests", action="store_true", help=f"measure all tests and write {TABLE.name}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    config.stash[COLLECTED] = frozenset(item.nodeid for item in items)
    table = read()
    for item in items:
        if item.nodeid in table:
            item.add_marker("slow")
    for item in left_for_the_night(items):
        item.add_marker("nightly")


def left_for_the_night(items):
    """Yield the slow cases of sampled tests, except the first and every BY_DAY-th one after it."""
    seen = Counter()
    for item in items:
        if item.get_closest_marker("sampled") and item.get_closest_marker("slow"):
            function = item.nodeid.partition("[")[0]
            if seen[function] % BY_DAY:
                yield item
            seen[function] += 1


def pytest_report_header(config):
    if config.option.markexpr != "not slow":
        return None
    seconds = read().values()
    return (
        f"without {len(seconds)} slow tests, which take {sum(seconds) / 60:.0f} minutes of CPU time: "
        'pytest -m "" runs all'
    )


def _cpu_seconds():
    return sum(os.times()[:4])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    item.stash[_START] = _cpu_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.when == "teardown":
        report.cpu_seconds = _cpu_seconds() - item.stash[_START]
    return report


class Measured:
    """Collects the reports of all processes, and writes the table at the end."""

    def __init__(self):
        self.seconds = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "teardown":
            self.seconds[report.nodeid] = report.cpu_seconds

    def pytest_sessionfinish(self):
        rows = [
            f"{seconds:.1f}\t{name}\n"
            for name, seconds in sorted(self.seconds.items())
            if seconds >= LEAST and file_of(name) not in ALWAYS_RUN
        ]
        TABLE.write_text("".join(rows), encoding="utf-8")


def pytest_configure(config):
    if config.option.write_slow_tests and "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(Measured())
