"""The table at the end of a self-test, and its JSON file."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from fusedlstm.atomic_write import is_replaceable, replace
from fusedlstm.selftest.running import PASSED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.selftest.checks import Check, Group
    from fusedlstm.selftest.running import Result

_FORMAT = 1  # of the file


class Report:
    """What is known so far. If it has a path, the file there is replaced at every `write`.

    Args:
        path: of the JSON file, or None.
        facts: about the machine, by name.
        not_tested: what can't be tested here.

    Attributes:
        results: those of the checks that have ended.
        left: what was left out.
    """

    def __init__(self, path: str | None, facts: dict[str, str], not_tested: Sequence[Group]) -> None:
        self._path, self.facts = path, facts
        self.results: list[Result] = []
        self._records: list[str] = []  # of the results, a line each
        self.not_tested = not_tested
        self.left: Sequence[Group] = ()

    def write(self, running: Check | None, status: int | None = None) -> None:
        """Write the file. `running` is the check that begins now, and `status` that of the command, at its end.

        A pipe is only written to at the end.
        """
        if self._path is None or (status is None and not is_replaceable(self._path)):
            return
        head = {
            "format": _FORMAT,
            "status": status,
            "running": None if running is None else str(running),
            "facts": self.facts,
            "not tested": [_group(group) for group in self.not_tested],
            "left out": [_group(group) for group in self.left],
        }
        self._records += [json.dumps(_record(result)) for result in self.results[len(self._records) :]]
        records = ",\n".join(self._records)
        replace(self._path, f'{json.dumps(head, indent=1)[:-2]},\n "checks": [\n{records}\n]}}\n'.encode())

    def table(self) -> list[str]:
        """Return lines with counts and the worst difference of each dtype and object."""
        rows: dict[tuple[str, str, str], list[Result]] = {}
        for result in self.results:
            check = result.check
            rows.setdefault((check.backend, check.arithmetic, check.kind), []).append(result)
        lines = [f"{'':24} passed  FAILED   worst difference, and what is allowed"]
        for names, found in rows.items():
            passed = sum(result.outcome == PASSED for result in found)
            worst = max(found, key=lambda result: result.part)
            words = "" if worst.difference is None else f"{worst.difference:.1e} of {worst.tolerance:.1e}"
            name = "{:5} {:9} {:8}".format(*names)
            lines.append(f"{name} {passed:6}  {len(found) - passed or '':6}   {words}")
        return lines


def _record(result: Result) -> dict[str, Any]:
    about = dataclasses.asdict(result)
    check = about.pop("check")
    difference = about["difference"]  # JSON has no infinity
    return {"name": str(result.check), **check, **about, "difference": _finite(difference)}


def _finite(number: float | None) -> float | str | None:
    return "not finite" if number == float("inf") else number


def _group(group: Group) -> dict[str, Any]:
    return {"reason": group.reason, "checks": [str(check) for check in group.checks]}
