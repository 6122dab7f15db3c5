"""A plugin for pytest: record each test's outcome, end tests that hang, and stop once CUDA is broken.

Without xdist, a stuck or broken process ends, and another one goes on from the next test. With it, a worker ends, and
xdist starts another.
"""

import contextlib
import faulthandler
import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.gpu import outcomes
from fusedlstm.backends import select

BROKEN = 70  # the exit status of a worker whose GPU is broken
_PATIENCE = 15  # seconds for a test that is over its time, before its process ends
_STDERR = os.fdopen(os.dup(2), "w")  # before pytest captures it


def pytest_addoption(parser):
    group = parser.getgroup("fusedlstm's runs on a GPU")
    group.addoption("--outcomes", help="append each test's outcome to this file")
    group.addoption("--part", help="the part's name in that file")
    group.addoption("--done", help="leave out the tests that this JSON file lists")
    group.addoption("--test-seconds", type=float, help="the time of each test")


def pytest_configure(config):
    if config.option.outcomes is not None:
        config.pluginmanager.register(Recorder(config))


def in_worker():
    """Return whether this is one of xdist's workers, whose outcomes the main process gets."""
    return "PYTEST_XDIST_WORKER" in os.environ


class Recorder:
    """Records what happens to each test."""

    def __init__(self, config):
        self.file, self.part = Path(config.option.outcomes), config.option.part
        self.done = set(json.loads(Path(config.option.done).read_text())) if config.option.done else set()
        self.seconds = config.option.test_seconds

    def append(self, test, outcome, **more):
        outcomes.append(self.file, part=self.part, test=test, outcome=outcome, **more)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in self.done])
        items[:] = [item for item in items if item.nodeid not in self.done]

    def pytest_runtest_logstart(self, nodeid):
        if not in_worker():
            self.append(nodeid, "began")

    def pytest_runtest_logreport(self, report):
        if not in_worker() and (report.when not in ("setup", "teardown") or not report.passed):
            outcome = "skipped" if hasattr(report, "wasxfail") and not report.failed else report.outcome
            died = True if report.when == "???" else None  # xdist's own report of a worker that died
            self.append(report.nodeid, outcome, seconds=round(report.duration, 3), why=why(report), culprit=died)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self):
        with limited(self.seconds):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item):
        report = yield
        error = broken_cuda() if report.when == "teardown" else None
        if error:
            self.append(item.nodeid, "failed", why=f"CUDA is broken after it: {error}", culprit=True)
            if in_worker():
                os._exit(BROKEN)
            item.session.shouldstop = f"CUDA is broken: {error}"
        return report


def broken_cuda():
    """Return the error that broke CUDA for this process, or None. CuPy isn't imported for that."""
    return select.lost("cuda") if sys.modules.get("cupy") is not None else None


def why(report):
    """Return why a test was skipped or failed, or None if it passed."""
    if report.passed:
        return None
    if isinstance(report.longrepr, tuple):  # a skip: file, line, reason
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message if crash else str(report.longrepr or "")


@contextlib.contextmanager
def limited(seconds):
    """Fail a test that takes longer. If that doesn't end it, as in a call of CUDA, end its process."""
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"the test took over {seconds:g} seconds"))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + _PATIENCE, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
