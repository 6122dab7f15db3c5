"""The command line: python -m benchmarks.kernel_table RESULT.json [--sequences]."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.brief import children, dry_run
from benchmarks.brief.rows import ENDED, Rows
from benchmarks.kernel_table import child, verdict, warm
from benchmarks.kernel_table.sizes import sizes

_PATIENCE = 45.0  # seconds: the first row loads PyTorch and cuDNN


def main(argv: list[str] | None = None) -> int:
    """Measure the table. Return 1 if any figure was wrong or failed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernel_table", description="Time all kernels of a step, or of sequences."
    )
    parser.add_argument("result", metavar="RESULT.json", type=Path)
    parser.add_argument("--seconds", type=float, default=100.0, help="the time of all rows (default: 100)")
    parser.add_argument("--sequences", action="store_true", help="time whole sequences instead of steps")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the fake driver, which measures nothing")
    parser.add_argument("--child-until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--warm", metavar="KERNEL", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.warm:
        return warm.compile_kernels(*options.warm, sequences=options.sequences)
    if options.child_until is not None:
        about = {"dry": options.dry_run, "sequences": options.sequences}
        return child.measure(Rows(options.result), until=options.child_until, **about)
    until = time.time() + options.seconds
    Rows(options.result, {"what": "sequence table" if options.sequences else "kernel table", "dry": options.dry_run})
    if options.dry_run:
        dry_run.begin()  # builds the driver, if it isn't built yet
    else:
        warm.compile_all(until=time.time() + options.seconds / 3, sequences=options.sequences)
    words = ["benchmarks.kernel_table", str(options.result), "--child-until", str(until)]
    words += ["--dry-run"] if options.dry_run else []
    words += ["--sequences"] if options.sequences else []
    units = [size.id for size in sizes(dry=options.dry_run, sequences=options.sequences)]
    return _conclude(children.run(words, options.result, units, until=until, patience=_PATIENCE), units)


def _conclude(rows: Rows, units: list[str]) -> int:
    """Print the table and what is wrong with it. Return the exit status."""
    states = rows.content["units"]
    missing = {unit: states.get(unit, "not begun") for unit in units if states.get(unit) != ENDED}
    slower, wrong = verdict.slower(rows.rows), verdict.wrong(rows.rows)
    rows.note(not_measured=missing, slower_choices=slower, finished=True)
    print("\nEach cell: the fastest kernel, its microseconds a step, the choice if it is another, PyTorch's nn.LSTM.")
    for title, table in verdict.tables(rows.rows):
        print(f"\n{title}\n{verdict.text(table)}")
    for title, lines in (
        ("Choices slower than the best by more than 5 %", slower),
        ("Wrong or failed", wrong),
        ("Not measured, by reason", [f"{why}: {', '.join(units)}" for why, units in _by_reason(missing).items()]),
    ):
        print(f"\n{title}: {len(lines) or 'none'}", *lines, sep="\n")
    return int(bool(wrong) or "failed" in rows.content["facts"])


def _by_reason(missing: dict[str, str]) -> dict[str, list[str]]:
    """Return the rows that were not measured, grouped by the reason."""
    found: dict[str, list[str]] = {}
    for unit, why in missing.items():
        found.setdefault(why, []).append(unit)
    return found


if __name__ == "__main__":
    sys.exit(main())
