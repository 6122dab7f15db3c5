"""One line about skipped tests, in place of one for each reason and place."""

import collections
import re


def missing(reason):
    """Name what a plain checkout lacks, if that is why a test was skipped."""
    named = re.search(r"(\S+) is not installed", reason)
    if named:
        return named[1].strip("(:")
    return "a GPU or emulator" if re.search(r"GPU|emulated", reason) else "other reasons"


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        counts = collections.Counter(missing(report.longrepr[2]) for report in skipped)
        said = ", ".join(f"{name} ({count})" for name, count in counts.most_common())
        terminalreporter.write_line(f"skipped for want of {said}: pytest -rs shows each")
