"""A JSON file of measurements, replaced after each row, so a run that is cut off loses at most one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

ENDED = "ended"


class Rows:
    """The rows of a run, which consists of units. A unit has one row or more.

    The file has "facts"; "rows"; "units", each "ended" or why it did not end; and "running", the unit that is measured.
    If a process dies, the next one goes on with the units that have no entry in "units".

    Args:
        path: the file.
        facts: for a new file. None reads an existing one.
    """

    def __init__(self, path: Path, facts: dict[str, Any] | None = None) -> None:
        self.path = path
        self.content: dict[str, Any] = {"facts": facts, "running": None, "units": {}, "rows": []}
        if facts is None:
            self.content = json.loads(path.read_text(encoding="utf-8"))
        self._lines = [json.dumps(row) for row in self.rows]  # made once, as a file is written often
        if facts is not None:
            self.write()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows so far."""
        rows: list[dict[str, Any]] = self.content["rows"]
        return rows

    @property
    def running(self) -> str | None:
        """The unit that is being measured."""
        running: str | None = self.content["running"]
        return running

    def left(self, units: list[str]) -> list[str]:
        """Return the units that neither ended nor failed."""
        return [unit for unit in units if unit not in self.content["units"]]

    def begin(self, unit: str) -> None:
        """Note that a unit is being measured."""
        self.content["running"] = unit
        self.write()

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row."""
        self.rows.append(row)
        self._lines.append(json.dumps(row))
        self.write()

    def end(self, unit: str, how: str = ENDED) -> None:
        """Note how a unit ended."""
        self.content["units"][unit] = how
        self.content["running"] = None
        self.write()

    def note(self, **facts: Any) -> None:
        """Keep more facts."""
        self.content["facts"].update(facts)
        self.write()

    def write(self) -> None:
        """Replace the file. It isn't synced to the disk, as it must survive only the process and not the machine."""
        head = json.dumps({**self.content, "rows": []}, indent=1)
        lines = ",\n".join(self._lines)
        temporary = self.path.with_name(f".{self.path.name}.writing")
        temporary.write_text(head.replace('"rows": []', f'"rows": [\n{lines}\n ]') + "\n", encoding="utf-8")
        temporary.replace(self.path)
