"""Run checks one after the other.

A failure stops nothing. After a GPU is lost, its other checks are left out. After the time limit, all others are.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusedlstm.backends import select
from fusedlstm.selftest import objects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.selftest.checks import Check

PASSED, FAILED, RAISED = "passed", "failed", "raised"


@dataclass(frozen=True)
class Result:
    """How a check ended.

    Attributes:
        check: the check.
        outcome: PASSED, FAILED or RAISED.
        ms: how long it took, with the reference.
        difference: the largest difference of the worst comparison; None if the check raised.
        tolerance: the difference allowed there; None if the check raised.
        error: the exception in one line, or "".
        trace: its traceback, or "".
    """

    check: Check
    outcome: str
    ms: float
    difference: float | None = None
    tolerance: float | None = None
    error: str = ""
    trace: str = ""

    @property
    def part(self) -> float:
        """The difference as a part of the tolerance; 0 if the check raised."""
        return (self.difference or 0) / self.tolerance if self.tolerance else 0.0

    def __str__(self) -> str:
        check = self.check
        words = "raised" if self.difference is None else f"{self.difference:.1e} of {self.tolerance:.1e}"
        verdict = PASSED if self.outcome == PASSED else f"FAILED {self.error}".rstrip()
        name = f"{check.backend:5} {check.kind:8} {check.arithmetic:8} {check.kernel:13} {check.what:52}"
        return f"{name} {words:18} {self.ms:8.1f} ms  {verdict}"


class Run:
    """The checks still to run.

    Args:
        checks: the checks, in order.
        seconds: after this time, no check begins; None for no limit.

    Attributes:
        left: why checks were left out.
    """

    def __init__(self, checks: Sequence[Check], seconds: float | None = None) -> None:
        self._checks, self._seconds = deque(checks), seconds
        self._start, self._lost = time.monotonic(), dict[str, str]()
        self.left: dict[Check, str] = {}

    def begin(self) -> Check | None:
        """Return the next check, or None after the last one."""
        while self._checks:
            check = self._checks.popleft()
            reason = self._lost.get(check.device)
            if self._seconds is not None and time.monotonic() - self._start >= self._seconds:
                reason = f"the {self._seconds:g} seconds were over"
            if reason is None:
                return check
            self.left[check] = reason
        return None

    def finish(self, check: Check) -> Result:
        """Run the check that `begin` returned. If it loses the GPU, the others there are left out."""
        result = run(check)
        if result.outcome == RAISED:
            words = select.lost(check.device)
            if words is not None:
                self._lost[check.device] = f"after '{check}', CUDA can't be called in this process: {words}"
        return result


def run(check: Check) -> Result:
    """Run one check."""
    start = time.perf_counter()
    try:
        found = objects.run(check)
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        return Result(check, RAISED, _ms_since(start), error=words, trace=traceback.format_exc())
    outcome = PASSED if found.passed else FAILED
    return Result(check, outcome, _ms_since(start), found.difference, found.tolerance)


def _ms_since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)
