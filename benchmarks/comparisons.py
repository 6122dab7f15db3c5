"""Which rows are compared: each way to call fusedlstm with the fastest other library. Above 1, ours is faster."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from benchmarks.units import ratio
from benchmarks.verdict import Verdict, verdict

if TYPE_CHECKING:
    from benchmarks.runs import Row


class Comparison(NamedTuple):
    """A row of ours, the fastest other library's, its time over ours, and the verdict of runs in many processes."""

    ours: Row
    peer: Row
    ratio: float
    verdict: Verdict | None

    @property
    def word(self) -> str:
        """The verdict's word, or "" without one."""
        return self.verdict.word if self.verdict else ""

    @property
    def interval(self) -> str:
        """The verdict's interval, or "" without one."""
        return f"{ratio(self.verdict.low)} to {ratio(self.verdict.high)}" if self.verdict else ""


def comparisons(rows: list[Row]) -> dict[Row, Comparison]:
    """Return the comparison of each of our rows with a peer. Named kernels don't count, as users get the table's."""
    pairs = [
        (row, peer) for row in rows if row.ours and not row.part and not row.kernel and (peer := best_peer(rows, row))
    ]
    found = {}
    for row, peer in pairs:
        given = verdict(row.processes, peer.processes, len(pairs))
        found[row] = Comparison(row, peer, given.ratio if given else peer.median / row.median, given)
    return found


def best_peer(rows: list[Row], row: Row) -> Row | None:
    """Return the fastest of the other libraries that did the same work as this row on the same device."""
    peers = [one for one in rows if _same_work(one, row) and not one.ours and not one.part]
    return min(peers, key=lambda one: one.median, default=None)


def _same_work(a: Row, b: Row) -> bool:
    return (a.kind, a.group, a.setting[:3]) == (b.kind, b.group, b.setting[:3])
