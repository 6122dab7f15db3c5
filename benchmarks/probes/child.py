"""The process that measures: all probes that the file of rows doesn't have yet."""

from __future__ import annotations

import importlib
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks.brief import broken, children, dry_run

if TYPE_CHECKING:
    from benchmarks.brief.rows import Rows

# Modules of this package, in order: the last ones risk most.
PROBES = (
    "launches",
    "rates",
    "copies",
    "row_copies",
    "pinned",
    "fences",
    "cluster_barrier",
    "cluster_exchange",
    "grid_flags",
)
_WARM_UP = 0.3


def measure(rows: Rows, *, until: float, dry: bool) -> int:
    """Measure until a time. Return the exit status."""
    if dry:
        dry_run.begin()
    from benchmarks.brief.clocks import clocks
    from benchmarks.probes.gpu import Gpu

    gpu = Gpu(dry=dry)
    if "machine" not in rows.content["facts"]:
        from benchmarks.machine import gpu as machine

        rows.note(machine=machine(), busy_mhz=gpu.timer.warm_up(0.0 if dry else _WARM_UP), clocks=clocks())
    for name in rows.left(list(PROBES)):
        rows.begin(name)
        try:
            for row in importlib.import_module(f"benchmarks.probes.{name}").probe(gpu):
                rows.add({"probe": name, **row})
                print(line(rows.rows[-1]), flush=True)
                if time.time() > until:
                    rows.end(name, "the time was up")
                    return 0
        except broken.BrokenError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return children.BROKEN
        except Exception as error:  # of the compiler, for example; other probes may work
            print(f"{name}: {error}", file=sys.stderr)
            rows.end(name, f"failed: {error}")
        else:
            rows.end(name)
    return 0


def line(row: dict[str, Any]) -> str:
    """Return a row as a line for people."""
    name = f"{row['probe']}: {row['variant']}"
    if row["state"] != "measured":
        return f"{name:64} {row['state']}{': ' + row['why'] if 'why' in row else ''}"
    seconds = row.get("seconds_of_round") or row["host_seconds"]
    text = f"{name:64} {1e6 * seconds['median']:10.3f} us ({1e6 * seconds['p10']:.3f} to {1e6 * seconds['p90']:.3f})"
    rates = {"flop_per_second": "TFLOP/s", "per_second": "T/s", "bytes_per_second": "TB/s"}
    text += "".join(f", {row[rate] / 1e12:.3f} {unit}" for rate, unit in rates.items() if rate in row)
    return text + (f", trip {1e6 * row['trip_seconds']['median']:.2f} us" if "trip_seconds" in row else "")
