"""What a benchmark found: quantiles of times, and what was not timed."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fusedlstm.bench.histogram import histogram

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.bench.schedule import Block

_FORMAT = 1  # of the JSON
LATE = 1e-4  # seconds: a step that begins later than this after its deadline may count as late
_FEWEST_FOR_P999 = 10_000


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of some times, in seconds. Each is one of the times: p90 is the smallest that 90 % don't exceed.

    Attributes:
        p50: the median.
        p90: 90 % of the times are at most this.
        p99: 99 %.
        p999: 99.9 %; None with fewer than 10,000 times.
        worst: the longest time.
    """

    p50: float
    p90: float
    p99: float
    p999: float | None
    worst: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Quantiles:
        """Return the quantiles of at least one time."""
        in_order = sorted(times)

        def quantile(per_mille: int) -> float:
            return in_order[-(-len(in_order) * per_mille // 1000) - 1]

        rare = quantile(999) if len(in_order) >= _FEWEST_FOR_P999 else None
        return cls(quantile(500), quantile(900), quantile(990), rare, in_order[-1])


@dataclass(frozen=True)
class Times:
    """How long one library's steps took, in seconds.

    Attributes:
        library: its name and version.
        steps: how many steps were timed.
        due: how many were due. If it is more than `steps`, the library can't keep up.
        first: the first step of the process, which all other figures leave out.
        step: from a step's beginning to its end.
        from_deadline: from when a step was due to its end; None if steps ran back to back.
        late: how many steps began over 0.1 ms after their deadline because the one before was still running.
        per_second: steps a second, pauses included.
        allocated: the most bytes that a step has allocated at once in NumPy and Python; None if unknown.
        threads: the number of threads that the library may use; None on a GPU.
        histogram: how many steps took at least as many seconds as each edge, and less than the next one.
    """

    library: str
    steps: int
    due: int
    first: float
    step: Quantiles
    from_deadline: Quantiles | None
    late: int
    per_second: float
    allocated: int | None
    threads: int | None
    histogram: dict[float, int]

    @classmethod
    def of(cls, blocks: Sequence[Block], *, paced: bool, **others: Any) -> Times:
        """Return the times of the steps of some blocks. `others` are fields that blocks don't have."""
        times = [end - start for block in blocks for start, end in zip(block.starts, block.ends, strict=True)]
        waits = [end - due for block in blocks for due, end in zip(block.deadlines, block.ends, strict=True)]
        return cls(
            steps=len(times),
            due=sum(block.due for block in blocks),
            step=Quantiles.of(times),
            from_deadline=Quantiles.of(waits) if paced else None,
            late=sum(map(_late, blocks)),
            per_second=len(times) / sum(block.elapsed for block in blocks),
            histogram=histogram(times),
            **others,
        )


def _late(block: Block) -> int:
    """Return how many steps of a block began late because the one before was still running at their deadline."""
    steps = zip(block.deadlines[1:], block.starts[1:], block.ends[:-1], strict=True)
    return sum(start - due > LATE and end > due for due, start, end in steps)


@dataclass(frozen=True)
class BenchmarkResult:
    """What `fusedlstm.benchmark` found. `str` of it is a table and a histogram.

    Attributes:
        what: the cell or LSTM.
        batch: B.
        step: how it was stepped: "call", "out" or "stepper".
        every: seconds from one step's deadline to the next; None if steps ran back to back.
        seconds: how long each library stepped.
        facts: the date, versions, the processor, its cores and its load average, by name.
        warning: why the times may be too long, or "".
        libraries: the times, fusedlstm's first.
        not_timed: why other libraries have no times, by their names.
        wrong: the names of those in `not_timed` whose results were wrong.
    """

    what: str
    batch: int
    step: str
    every: float | None
    seconds: float
    facts: dict[str, str]
    warning: str
    libraries: tuple[Times, ...]
    not_timed: dict[str, str] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return everything as JSON. Times are in seconds, and the histogram is a list of pairs [edge, count]."""
        values = {"format": _FORMAT, **dataclasses.asdict(self)}
        for library in values["libraries"]:
            library["histogram"] = list(map(list, library["histogram"].items()))
        return json.dumps(values, indent=1)

    def __str__(self) -> str:
        from fusedlstm.bench.table import table

        return table(self)
