"""The metrics of sharded pools, which Ray exports to Prometheus with the prefix `ray_`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECONDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]
_ROWS = [float(4**k) for k in range(11)]

# Each name, what it counts, and its kind. Histograms have bounds. docs/many-machines.md has this table, too.
NAMES = {
    "fusedlstm_live_sessions": "open sessions",
    "fusedlstm_tick_rows": "rows of a step",
    "fusedlstm_tick_seconds": "seconds from a step's call to its result",
    "fusedlstm_wait_seconds": "seconds of a step without those in which its slowest shard stepped",
    "fusedlstm_refused": "calls that a shard refused, because they were meant for an earlier life of it",
    "fusedlstm_undelivered_rows": "rows that a call did not do, because their shard died or was restarting",
    "fusedlstm_restarts": "shards that died and are back",
    "fusedlstm_restored_sessions": "sessions that a restarted shard got back from its snapshot",
    "fusedlstm_lost_sessions": "sessions that no snapshot had",
}


class Metrics:
    """The metrics of one pool.

    Args:
        pool: the pool's name, the tag of all of them.
    """

    def __init__(self, pool: str) -> None:
        tags = {"pool": pool}
        self.live_sessions = _gauge("fusedlstm_live_sessions", tags)
        self._rows = _histogram("fusedlstm_tick_rows", _ROWS, tags)
        self._seconds = _histogram("fusedlstm_tick_seconds", _SECONDS, tags)
        self._wait = _histogram("fusedlstm_wait_seconds", _SECONDS, tags)
        self.refused = _counter("fusedlstm_refused", tags)
        self.undelivered_rows = _counter("fusedlstm_undelivered_rows", tags)
        self.restarts = _counter("fusedlstm_restarts", tags)
        self.restored_sessions = _counter("fusedlstm_restored_sessions", tags)
        self.lost_sessions = _counter("fusedlstm_lost_sessions", tags)

    def step(self, rows: int, seconds: float, stepping: float) -> None:
        """Add a step's rows, its seconds, and those in which the slowest shard stepped."""
        self._rows.observe(rows)
        self._seconds.observe(seconds)
        self._wait.observe(max(0.0, seconds - stepping))


def _gauge(name: str, tags: Mapping[str, str]) -> Gauge:
    metric = Gauge(name, NAMES[name], tuple(tags))
    metric.set_default_tags(dict(tags))
    return metric


def _counter(name: str, tags: Mapping[str, str]) -> Counter:
    metric = Counter(name, NAMES[name], tuple(tags))
    metric.set_default_tags(dict(tags))
    return metric


def _histogram(name: str, bounds: list[float], tags: Mapping[str, str]) -> Histogram:
    metric = Histogram(name, NAMES[name], bounds, tuple(tags))
    metric.set_default_tags(dict(tags))
    return metric
