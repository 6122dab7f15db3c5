"""Measure in a child process. If it dies or hangs, note where, and let another one go on from the next unit.

A kernel that faults breaks CUDA for its process, and only for that.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks import orphans
from benchmarks.brief.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BROKEN = 70  # a child's exit status: the running unit broke CUDA for it
_GRACE = 3.0  # seconds past the deadline in which a child may still end by itself
_POLL = 0.05


def run(command: Sequence[str], path: Path, units: list[str], *, until: float, patience: float) -> Rows:
    """Start children until all units have ended, or the time is up. Return the rows.

    Args:
        command: a child's module and arguments. It measures the units that the file doesn't have yet.
        path: the file of rows.
        units: all units, in order.
        until: the deadline, in seconds of `time.time()`.
        patience: seconds in which a child must write to the file, while it measures a unit. Starting may take longer.
    """
    rows = Rows(path)
    while rows.left(units) and time.time() < until:
        left = rows.left(units)
        try:
            how = _one(command, path, until=until + _GRACE, patience=patience)
        except KeyboardInterrupt:
            rows = Rows(path)
            rows.note(failed="interrupted")
            break
        rows = Rows(path)
        if how is None:
            break
        unit = rows.running
        if unit is not None:
            rows.end(unit, how)
        elif rows.left(units) == left:  # it never began: the next one wouldn't, either
            rows.note(failed=how)
            break
    return rows


def _one(command: Sequence[str], path: Path, *, until: float, patience: float) -> str | None:
    """Run a child. Return None if it ended with status 0, or else why not."""
    child = subprocess.Popen(orphans.ending([sys.executable, "-m", *command]))
    try:
        while child.poll() is None:
            if time.time() > until:
                return "the time was up"
            if _is_stuck(path, patience):
                return f"nothing came for {patience:g} seconds"
            time.sleep(_POLL)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode == 0:
        return None
    return "CUDA was broken after it" if child.returncode == BROKEN else f"the process ended with {child.returncode}"


def _is_stuck(path: Path, patience: float) -> bool:
    """Return whether a unit runs, and nothing has come for so many seconds."""

    def is_silent() -> bool:
        return time.time() - path.stat().st_mtime > patience

    # Asked again, as the unit may have begun just now.
    return is_silent() and Rows(path).running is not None and is_silent()
