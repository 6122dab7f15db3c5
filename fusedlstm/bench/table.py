"""The table and the histogram that a benchmark prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedlstm.bench.histogram import EDGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fusedlstm.bench.result import BenchmarkResult, Quantiles, Times

_BAR = 20  # characters of the longest bar
_HOW = {"call": "plain calls", "out": "calls with out=", "stepper": "a Stepper"}
_QUANTILES = {"p50": "p50", "p90": "p90", "p99": "p99", "p99.9": "p999", "worst": "worst"}


def table(result: BenchmarkResult) -> str:
    """Return a benchmark's results as text."""
    pace = "back to back" if result.every is None else f"one every {seconds(result.every)}"
    lines = [result.what, f"B = {result.batch}, {_HOW[result.step]}, {pace}, for {result.seconds:g} s", ""]
    lines += [f"{name:13} {value}" for name, value in result.facts.items()]
    if result.warning:
        lines += ["", f"warning: {result.warning}"]
    lines += ["", *_aligned(_rows(result.libraries)), "", *_aligned(_histogram(result.libraries))]
    return "\n".join([*lines, *_notes(result)])


def _notes(result: BenchmarkResult) -> Iterator[str]:
    if any(times.step.p999 is None for times in result.libraries):
        yield "\np99.9 needs 10,000 steps"
    for name, why in result.not_timed.items():
        yield f"\nnot timed: {name}: {why}"


def seconds(time: float) -> str:
    """Return a time with its unit, in three or four digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if time >= size:
            return f"{_digits(time / size)} {unit}"
    return f"{_digits(time * 1e6)} us"


def _digits(number: float) -> str:
    whole = len(str(int(number)))
    return f"{number:.{max(0, 3 - whole)}f}" if number != int(number) else f"{int(number)}"


def _rows(libraries: Sequence[Times]) -> Iterator[list[str]]:
    """Yield rows of the table: a name, and a cell for each library."""

    def row(name: str, cell: Callable[[Times], str]) -> list[str]:
        return [name, *map(cell, libraries)]

    yield row("", lambda times: times.library)
    yield from _quantiles("step", [times.step for times in libraries])
    if all(times.from_deadline for times in libraries):
        yield from _quantiles("from its deadline", [times.from_deadline for times in libraries])
        yield row("late starts", lambda times: f"{times.late:,}")
    yield row("first step", lambda times: seconds(times.first))
    yield row("steps", lambda times: _of(times.steps, times.due))
    yield row("steps a second", lambda times: f"{times.per_second:,.1f}")
    yield row("bytes allocated", lambda times: "" if times.allocated is None else f"{times.allocated:,}")
    yield row("threads", lambda times: "" if times.threads is None else str(times.threads))


def _quantiles(what: str, all_quantiles: Sequence[Quantiles | None]) -> Iterator[list[str]]:
    """Yield a row for each quantile that a library has."""
    for name, field in _QUANTILES.items():
        found = [getattr(quantiles, field) for quantiles in all_quantiles]
        if any(found):
            yield [f"{what}, {name}", *("" if time is None else seconds(time) for time in found)]


def _of(steps: int, due: int) -> str:
    return f"{steps:,}" if steps == due else f"{steps:,} of {due:,}"


def _aligned(rows: Iterator[list[str]]) -> list[str]:
    """Return lines with the first column at the left, and the others at the right."""
    cells = list(rows)
    first, *others = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(row, others, strict=True))]).rstrip()
        for name, *row in cells
    ]


def _histogram(libraries: Sequence[Times]) -> Iterator[list[str]]:
    """Yield rows: how many steps took how long. The bins are the same for all libraries."""
    filled = {edge for times in libraries for edge in times.histogram}
    yield ["steps that took", *(times.library for times in libraries)]
    for edge in (edge for edge in EDGES if min(filled) <= edge <= max(filled)):
        counts = [times.histogram.get(edge, 0) for times in libraries]
        most = [max(times.histogram.values()) for times in libraries]
        bars = ["#" * -(-_BAR * count // of) for count, of in zip(counts, most, strict=True)]
        cells = [f"{bar} {count:7,}" for bar, count in zip(bars, counts, strict=True)]
        yield [f"{seconds(edge)} or more", *cells]
