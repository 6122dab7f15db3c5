"""Leave out tests that passed in an earlier run. CI runs the tests several times, with different packages.

pytest --passed-to FILE      write the ids of the tests that passed
pytest --without FILE        leave those out
"""

import os
from pathlib import Path


def pytest_addoption(parser):
    parser.addoption("--passed-to", type=Path, metavar="FILE", help="write the ids of tests that passed to a file")
    parser.addoption("--without", type=Path, metavar="FILE", help="leave out tests whose ids are in a file")


def pytest_collection_modifyitems(config, items):
    file = config.option.without
    if file is not None:
        passed = set(file.read_text(encoding="utf-8").splitlines())
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
        items[:] = [item for item in items if item.nodeid not in passed]


class Passed:
    """Collects the tests that passed in all processes."""

    def __init__(self, file):
        self.file = file
        self.ids = []

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            self.ids.append(report.nodeid)

    def pytest_sessionfinish(self):
        self.file.write_text("".join(f"{name}\n" for name in self.ids), encoding="utf-8")


def pytest_configure(config):
    if config.option.passed_to is not None and "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(Passed(config.option.passed_to))
