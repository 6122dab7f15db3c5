"""The metrics of sharded pools, which Ray exports to Prometheus with the prefix `ray_`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ray.util.metrics import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping

_Kind = TypeVar("_Kind", Counter, Gauge, Histogram)
_SECONDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]
_ROWS = [float(4**k) for k in range(11)]

# Each name, and what it counts. docs/many-machines.md has this table, too.
NAMES = {
    "fusedlstm_live_sessions": "open sessions",
    "fusedlstm_tick_rows": "rows of a step",
    "fusedlstm_tick_seconds": "seconds from a step's call to its result",
    "fusedlstm_wait_seconds": "seconds of a step, minus those that its slowest shard took",
    "fusedlstm_refused": "calls that a shard refused: it had restarted, or earlier calls were lost",
    "fusedlstm_undelivered_rows": "rows that a call didn't do, because their shard died or was restarting",
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
        self._sessions, self._live = _metric(Gauge, "fusedlstm_live_sessions", tags), -1
        self._rows = _metric(Histogram, "fusedlstm_tick_rows", tags, _ROWS)
        self._seconds = _metric(Histogram, "fusedlstm_tick_seconds", tags, _SECONDS)
        self._wait = _metric(Histogram, "fusedlstm_wait_seconds", tags, _SECONDS)
        self.refused = _metric(Counter, "fusedlstm_refused", tags)
        self.undelivered_rows = _metric(Counter, "fusedlstm_undelivered_rows", tags)
        self.restarts = _metric(Counter, "fusedlstm_restarts", tags)
        self.restored_sessions = _metric(Counter, "fusedlstm_restored_sessions", tags)
        self.lost_sessions = _metric(Counter, "fusedlstm_lost_sessions", tags)

    def live_sessions(self, number: int) -> None:
        """Tell how many sessions are open. Ray takes 20 µs for it, so nothing is told if the number is the same."""
        if number != self._live:
            self._live = number
            self._sessions.set(number)

    def step(self, rows: int, seconds: float, stepping: float) -> None:
        """Add a step's rows, its seconds, and those in which the slowest shard stepped."""
        self._rows.observe(rows)
        self._seconds.observe(seconds)
        self._wait.observe(max(0.0, seconds - stepping))


def _metric(kind: type[_Kind], name: str, tags: Mapping[str, str], *bounds: list[float]) -> _Kind:
    metric = kind(name, NAMES[name], *bounds, tuple(tags))
    metric.set_default_tags(dict(tags))
    return metric
