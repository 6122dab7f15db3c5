"""Skip tests that need nvmath-python where it is missing, and sum up skipped tests in one line.

Without nvmath-python a GPU still steps in one kernel. Tests that need more find that out only as they run.
"""

import collections
import importlib.util
import re

import pytest

NAMES = {"torch": "PyTorch", "jax": "JAX", "tensorflow": "TensorFlow", "keras": "Keras", "haiku": "Haiku"}


def missing(reason):
    """Name the missing thing that a test was skipped for."""
    found = re.search(
        r"([\w.]+)\W*(?:of the extra \w+, )?is not installed|No module named '(\w+)|(Keras) needs", reason
    )
    if found:
        package = next(filter(None, found.groups())).partition(".")[0]
        return NAMES.get(package, package)
    return "a GPU or emulator" if re.search(r"GPU|emulat|driver", reason) else "other reasons"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and needs_nvmath(call.excinfo.value):
        report.outcome = "skipped"
        report.longrepr = str(item.path), item.location[1], f"Skipped: {call.excinfo.value}"
    return report


def needs_nvmath(error):
    """Return whether a test failed because nvmath-python is missing. If it is installed, the failure counts."""
    named = type(error).__name__ == "BackendUnavailableError" and "nvmath-python is not installed" in str(error)
    return named and importlib.util.find_spec("nvmath") is None


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        counts = collections.Counter(missing(report.longrepr[2]) for report in skipped)
        said = ", ".join(f"{name} ({count})" for name, count in counts.most_common())
        terminalreporter.write_line(f"skipped, by what is missing: {said}. pytest -rs shows each")
