"""The trace of a launch: which thread accessed which addresses of shared memory, and where in the kernel."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# The runtime's SharedAccess.
ACCESS = np.dtype(
    [("place", "u8"), ("address", "u8"), ("block", "u4"), ("thread", "u4"), ("bytes", "u4"), ("writes", "u4")]
)
ROOM = 1 << 20  # accesses


class Trace(NamedTuple):
    """Every access to shared memory, in order.

    Attributes:
        accesses: one row each. `block` and `thread` are numbers, and `place` is a key of `lines`.
        lines: for each place, its file and line in the kernel. If it is in an inlined function, the calls follow.
    """

    accesses: np.ndarray[Any, Any]
    lines: dict[int, list[tuple[str, int]]]


def of_accesses(library: Path, accesses: np.ndarray[Any, Any]) -> Trace:
    """Return a trace with the lines of its places."""
    places = sorted(set(accesses["place"].tolist()))
    return Trace(accesses, dict(zip(places, source_lines(library, places), strict=True)))


def source_lines(library: Path, return_addresses: Sequence[int]) -> list[list[tuple[str, int]]]:
    """Return the files and lines of some calls in a kernel. If one is in an inlined function, its callers follow."""
    calls = [hex(address - 1) for address in return_addresses]
    command = ["addr2line", "-Cipe", str(library), *calls]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    chains = re.split(r"\n(?! \(inlined by\))", answer.strip()) if calls else []
    found = [re.findall(r"([^/\s]+\.cuh?):(\d+)", chain) for chain in chains]
    return [[(file, int(line)) for file, line in dict.fromkeys(each)] for each in found]
