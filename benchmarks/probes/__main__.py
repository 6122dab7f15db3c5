"""The command line: python -m benchmarks.probes RESULT.json."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.brief import children, dry_run
from benchmarks.brief.rows import ENDED, Rows
from benchmarks.probes import child

_PATIENCE = 15.0  # seconds: a process may take many to start


def main(argv: list[str] | None = None) -> int:
    """Run the probes. Return 1 if any was wrong or failed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probes", description="Probe a GPU.")
    parser.add_argument("result", metavar="RESULT.json", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0, help="the time of all probes (default: 20)")
    parser.add_argument("--dry-run", action="store_true", help="on the fake driver, which measures nothing")
    parser.add_argument("--child-until", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child_until is not None:
        return child.measure(Rows(options.result), until=options.child_until, dry=options.dry_run)
    if options.dry_run:
        dry_run.begin()  # builds the driver, if it isn't built yet
    until = time.time() + options.seconds
    Rows(options.result, {"what": "probes", "dry": options.dry_run})
    words = ["benchmarks.probes", str(options.result), "--child-until", str(until)]
    words += ["--dry-run"] if options.dry_run else []
    rows = children.run(words, options.result, list(child.PROBES), until=until, patience=_PATIENCE)
    return _conclude(rows)


def _conclude(rows: Rows) -> int:
    """Print what was not measured, and return the exit status."""
    states = [row["state"] for row in rows.rows]
    units = rows.content["units"]
    missing = {name: units.get(name, "not begun") for name in child.PROBES if units.get(name) != ENDED}
    rows.note(not_measured=missing, finished=True)
    print(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    for name, why in missing.items():
        print(f"{name}: {why}")
    failed = any(why not in ("not begun", "the time was up") for why in missing.values())
    return int(failed or "failed" in rows.content["facts"] or not {"wrong", "failed"}.isdisjoint(states))


if __name__ == "__main__":
    sys.exit(main())
