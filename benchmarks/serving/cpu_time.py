"""The CPU time of a process and its descendants. It depends less on a machine's other work than a clock's time."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0


def of_tree(process: int) -> float:
    """Return the CPU seconds of a process and its descendants, also of those that have ended. This needs Linux."""
    parents, seconds = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, fields = path.read_text(encoding="utf-8", errors="replace").rpartition(") ")
        except OSError:  # it ended
            continue
        number, found = int(path.parent.name), fields.split()
        parents[number] = int(found[1])
        seconds[number] = sum(map(int, found[11:15])) / _TICKS  # its own, and that of children which ended
    return sum(spent for number, spent in seconds.items() if _is_under(process, number, parents))


def _is_under(process: int, number: int, parents: dict[int, int]) -> bool:
    while number and number != process:
        number = parents.get(number, 0)
    return number == process
