"""A tick of a ShardedPool, beside Ray's bare round trip of the same arrays: python -m benchmarks shards [RESULT.json].

The bare round trip sends each shard's rows and slots to an actor that only returns an array of the outputs' shape. It
runs in turns with ticks. A tick also has the shards' own step, so it is compared with the sum of both. This starts Ray
on this machine, twice: with its default limit for arrays that go with a call, and with one of 4 MiB.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.machine import cpu_model, when
from benchmarks.units import quantity, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fusedlstm.ray import ShardedPool

I, N, SHARDS, SESSIONS = 64, 128, 3, 5000
ROWS = (256, 1024, 5000)
TURNS, WARM_UP = 300, 20
LIMITS = {"default": {}, "4 MiB": {"max_direct_call_object_size": 4 * 2**20}}


class Row(NamedTuple):
    """The medians of ticks of so many rows, in seconds.

    Attributes:
        limit: up to which size arrays go with a call.
        rows: the rows of a tick.
        tick: from `step` to its result.
        bare: Ray's round trip of the same arrays.
        stepping: the slowest shard's own step.
        p99: the 99th percentile of `tick`.
    """

    limit: str
    rows: int
    tick: float
    bare: float
    stepping: float
    p99: float

    @property
    def ratio(self) -> float:
        """A tick over the bare round trip and the step."""
        return self.tick / (self.bare + self.stepping)


class Echo:
    """An actor that only answers."""

    def call(self, message: tuple[Any, ...]) -> tuple[np.ndarray, float]:
        _, x, _ = message
        return np.zeros((len(x), N), np.float32), 0.0


def compare(pool: ShardedPool, limit: str, rows: int, turns: int = TURNS) -> Row:
    """Time ticks of some of a pool's sessions, and bare round trips, in turns."""
    import ray

    rng, stepping = np.random.default_rng(0), []
    keys = [pool.keys[row] for row in rng.permutation(len(pool))[:rows]]
    x = rng.normal(size=(rows, I)).astype(np.float32)
    router = pool.aio._router
    parts = [("step", x[part.rows], part.slots) for part in router.parts(router.sessions.find("keys", keys))]
    echoes = [ray.remote(Echo).options(num_cpus=0).remote() for _ in parts]
    record = pool._shards.metrics.step
    pool._shards.metrics.step = lambda _, __, slowest: stepping.append(slowest)
    times, bare = [], []
    try:
        for _ in range(turns):
            start = time.perf_counter()
            pool.step(x, keys)
            between = time.perf_counter()
            ray.get([echo.call.remote(part) for echo, part in zip(echoes, parts, strict=True)])
            times.append(between - start)
            bare.append(time.perf_counter() - between)
    finally:
        pool._shards.metrics.step = record
    kept = slice(min(WARM_UP, turns - 1), None)
    tick, alone, own = (statistics.median(each[kept]) for each in (times, bare, stepping))
    return Row(limit, rows, tick, alone, own, float(np.quantile(times[kept], 0.99)))


def ticks(limit: str) -> list[Row]:
    """Compare a new pool's ticks of all sizes."""
    from fusedlstm import LSTMWeights
    from fusedlstm.ray import ShardedPool

    with ShardedPool(LSTMWeights.random(I, N, seed=0), shards=SHARDS, capacity=SESSIONS, snapshot=None) as pool:
        pool.open(range(SESSIONS))
        return [compare(pool, limit, number) for number in ROWS]


def measure(result: Path | None) -> Iterator[str]:
    """Start Ray with each limit, compare, and yield the lines of a table. Write it to `result`, too."""
    import ray

    rows = []
    for limit, config in LIMITS.items():
        ray.init(address="local", num_cpus=SHARDS, include_dashboard=False, log_to_driver=False, _system_config=config)
        try:
            rows += ticks(limit)
        finally:
            ray.shutdown()
    if result is not None:
        about = when() | {"machine": cpu_model(), "ray": ray.__version__, "I": I, "N": N, "shards": SHARDS}
        entries = [row._asdict() | {"ratio": row.ratio} for row in rows]
        result.write_text(json.dumps(about | {"rows": entries}, indent=1) + "\n", encoding="utf-8")
    yield f"{SHARDS} shards, I = {I}, N = {N}, float32, Ray {ray.__version__}, {cpu_model()}, {when()['date']}"
    yield "with a call     rows       tick  round trip    step   tick / (round trip + step)   99 % of ticks"
    for row in rows:
        parts = [quantity(each, "s") for each in (row.tick, row.bare, row.stepping)]
        yield (
            f"{row.limit:12} {row.rows:7,} {parts[0]:>10} {parts[1]:>11} {parts[2]:>8} {ratio(row.ratio):>10}"
            f"{quantity(row.p99, 's'):>34}"
        )
