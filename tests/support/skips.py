"""Sum up skipped tests in one line, instead of one line for each reason and place."""

import collections
import re

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


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        counts = collections.Counter(missing(report.longrepr[2]) for report in skipped)
        said = ", ".join(f"{name} ({count})" for name, count in counts.most_common())
        terminalreporter.write_line(f"skipped, by what is missing: {said}. pytest -rs shows each")
