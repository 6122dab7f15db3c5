"""The process that measures: all rows of the table that the file doesn't have yet."""

from __future__ import annotations

import gc
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks.brief import broken, children, dry_run
from benchmarks.brief.clocks import clocks, sm_mhz
from benchmarks.kernel_table.sizes import sizes

if TYPE_CHECKING:
    from benchmarks.brief.event_time import Timer
    from benchmarks.brief.rows import Rows
    from benchmarks.kernel_table.sizes import Size

_WARM_UP = 0.5  # seconds


def measure(rows: Rows, *, until: float, dry: bool, sequences: bool) -> int:
    """Measure steps or sequences until a time. Return the exit status."""
    if dry:
        dry_run.begin()
    from benchmarks.brief.event_time import Timer
    from fusedlstm.backends.cuda.runtime import probe

    timer = Timer(dry=dry)
    busy = timer.warm_up(0.0 if dry else _WARM_UP)
    if "machine" not in rows.content["facts"]:
        from benchmarks.machine import gpu as machine

        rows.note(machine=machine(), busy_mhz=busy, clocks=clocks())
    capability = probe.capabilities()[0]
    by_id = {size.id: size for size in sizes(dry=dry, sequences=sequences)}
    for number, name in enumerate(rows.left(list(by_id))):
        if time.time() > until:
            break
        rows.begin(name)
        row, is_broken = _row(by_id[name], timer, capability)
        rows.add(row)
        print(_line(row), flush=True)
        if is_broken:
            return children.BROKEN
        rows.end(name)
        if number == 0:
            gc.freeze()  # or each collection would look at all of PyTorch
    rows.note(clocks_at_end=clocks())
    return 0


def _row(size: Size, timer: Timer, capability: int) -> tuple[dict[str, Any], bool]:
    """Return a row, and whether CUDA is broken for this process now."""
    from benchmarks.kernel_table import figures, verdict

    found: dict[str, dict[str, Any]] = {}
    is_broken = False
    try:
        figures.add_figures(size, timer, found)
    except broken.BrokenError as error:
        is_broken = True
        print(f"{size.id}: {error}", file=sys.stderr)
    about = {"row": size.id, "arithmetic": size.arithmetic, **size._asdict(), "sm_mhz": sm_mhz()}
    return about | verdict.verdict(size, found, capability) | {"figures": found}, is_broken


def _line(row: dict[str, Any]) -> str:
    """Return a row as a line for people: microseconds of the GPU, predicted ones, and the host's in brackets."""
    parts = [f"{row['row']:28}"]
    for name, figure in row["figures"].items():
        gpu, host = figure.get("seconds"), figure.get("host_seconds")
        if gpu and host:
            predicted = figure.get("predicted_seconds")
            beside = f", predicted {1e6 * predicted:.2f}" if predicted else ""
            parts.append(f"{name} {1e6 * gpu['median']:.2f}{beside} ({1e6 * host['median']:.1f})")
        else:
            parts.append(f"{name} {figure['state']}")
    return ", ".join(parts)
