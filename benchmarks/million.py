"""What a million sessions take on this machine: python -m benchmarks million [RESULT.json].

docs/one-million-sessions.md derives sizes of services from these numbers. Steps use one thread, and their times are CPU
times.
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks import machine
from benchmarks.units import quantity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FEW = 10_000  # sessions whose states are in the caches, partly
STEPS = 100


class Size(NamedTuple):
    """A pool to measure: its sessions, the rows of a step, and I = N."""

    sessions: int
    B: int
    N: int


SIZES = (Size(1_000_000, 1024, 128), Size(500_000, 1024, 256), Size(250_000, 1024, 512))  # states of 1 GB each


class Row(NamedTuple):
    """What was measured: the number, with its unit, and of what."""

    what: str
    value: float
    unit: str

    def __str__(self) -> str:
        return f"{self.what:60} {quantity(self.value, self.unit)}"


def resident() -> int:
    """Return the bytes of memory that this process has now. This needs Linux."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def timed(call: Callable[..., Any], *arguments: Any, **options: Any) -> float:
    """Return the CPU seconds of a call, which depend less on other processes than the time of a clock."""
    start = time.process_time()
    call(*arguments, **options)
    return time.process_time() - start


def tables(sessions: int) -> Iterator[Row]:
    """Measure the tables of keys in a service's process: its own, and its ShardedPool's."""
    from fusedlstm.ray.serve.open_sessions import OpenSessions
    from fusedlstm.ray.sessions import Sessions

    gc.collect()
    before = resident()
    keys = [f"session {number:08}" for number in range(sessions)]
    of_pool, of_service = Sessions(1, sessions), OpenSessions(sessions)

    def open_all() -> None:
        slots = of_pool.next_slots(0, sessions)
        of_pool.open(keys, 0, slots)
        of_service.add(keys, 0.0)

    seconds = timed(open_all)
    yield Row("tables of keys, bytes a session", (resident() - before) / sessions, "B")
    yield Row("opening in these tables, sessions a second", sessions / seconds, "/s")
    some = keys[:: max(1, sessions // 1000)]
    handles = of_service.handles(of_service.slots(some))

    def look_up() -> None:
        of_pool.find("keys", of_service.keys_at(of_service.find(handles)))

    yield Row("looking up 1,000 handles and their keys", float(np.median([timed(look_up) for _ in range(STEPS)])), "s")


def steps(size: Size) -> Iterator[Row]:
    """Measure a pool's steps of random sessions, beside those of a smaller pool, and a save of all."""
    from fusedlstm import LSTMCell, LSTMWeights, StatePool

    sessions, B, N = size
    rng = np.random.default_rng(0)
    cell = LSTMCell(LSTMWeights.random(N, N, seed=0), backend="numpy", threads=1)
    x, out = rng.normal(size=(B, N)).astype(np.float32), cell.asarray(np.zeros((B, N)))
    what = f"N = {N}, float32"
    for count in (min(FEW, sessions), sessions):
        pool = StatePool(cell, count)
        slots = pool.allocate(count)
        pool.prepare(B)
        pool.write(slots, pool.read(slots))  # touches all pages
        seconds = []
        for _ in range(STEPS):
            chosen = rng.choice(slots, B, replace=False)
            seconds.append(timed(pool.step, x, chosen, out=out))
        yield Row(f"{what}: rows a second, B = {B} of {count:,} sessions", B / float(np.median(seconds)), "/s")
    yield Row(f"{what}: states, bytes a session", pool.memory.states / sessions, "B")
    yield Row(f"{what}: reading {sessions:,} sessions, CPU time", timed(pool.read, slots), "s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pool.safetensors")
        start = time.perf_counter()
        yield Row(f"{what}: saving {sessions:,} sessions, CPU time", timed(pool.save, path), "s")
        yield Row(f"{what}: saving {sessions:,} sessions", time.perf_counter() - start, "s")
        yield Row(f"{what}: the file", path.stat().st_size, "B")


def measure(result: Path | None, sizes: tuple[Size, ...] = SIZES) -> Iterator[str]:
    """Measure all, and yield the lines of a table. Write it to `result`, too."""
    yield f"{machine.cpu_model()}, {machine.cores()} cores, {machine.when()['date']}, load average {machine.load()}"
    found = []
    for row in [*tables(sizes[0].sessions), *(row for size in sizes for row in steps(size))]:
        found.append(row._asdict())
        yield str(row)
    if result is not None:
        about = machine.when() | {"machine": machine.cpu_model(), "load": machine.load(), "rows": found}
        result.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
