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
    plain = [row for row in rows if row.ours and not row.part and not row.kernel]
    others = {row: peers for row in plain if (peers := _peers_of(rows, row))}
    count = sum(map(len, others.values()))  # all that the fastest was picked from, as picking favours it
    found = {}
    for row, peers in others.items():
        peer = min(peers, key=lambda one: one.median)
        given = verdict(row.processes, peer.processes, count)
        found[row] = Comparison(row, peer, given.ratio if given else peer.median / row.median, given)
    return found


def _peers_of(rows: list[Row], row: Row) -> list[Row]:
    """Return the rows of other libraries that did the same work as this row on the same device."""
    return [one for one in rows if _same_work(one, row) and not one.ours and not one.part]


def _same_work(a: Row, b: Row) -> bool:
    return (a.kind, a.group, a.setting[:3]) == (b.kind, b.group, b.setting[:3])
