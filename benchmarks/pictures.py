"""Pictures of a run: time against batch, the roofline, speed-ups, and bars of sequences. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullLocator

from benchmarks.comparisons import comparisons
from benchmarks.picture_style import (
    INK,
    PEERS,
    WIDTH,
    Palette,
    Picture,
    batch_axis,
    figure,
    finish,
    legend_below,
    log_axis,
    style,
    title,
)
from benchmarks.runs import Row, Run, Setting, Sizes, slug
from benchmarks.units import quantity, ratio, reading_order

if TYPE_CHECKING:
    from benchmarks.constants import Constants

_DASHED = (0, (5, 3))
_PLAIN = "fusedlstm"  # cell(x, state), which returns a new state


def palette(runs: list[Run]) -> Palette:
    """Return the look of every name in a report."""
    rows = [row for run in runs for row in run.rows if row.sizes and not row.kernel]
    return Palette(
        ours=(row.peer for row in rows if row.ours),
        peers=(row.peer for row in rows if not row.ours and not row.part),
        parts=(row.peer for row in rows if row.part and not row.ours),
    )


def of_run(run: Run, looks: Palette, prefix: str) -> dict[str, list[Picture]]:
    """Draw all pictures of a run, by the kind of its rows. Their names begin with the prefix."""
    drawn: dict[str, list[Picture]] = {}
    rows_of = sorted(run.rows, key=lambda row: reading_order(row.group))
    with style():
        for kind in dict.fromkeys(row.kind for row in run.rows):
            rows = [row for row in rows_of if row.kind == kind and row.sizes and row.B and not row.kernel]
            if kind == "sequence":
                drawn[kind] = sequence_bars(rows, looks, prefix)
            else:
                drawn[kind] = _of_steps(rows, run, looks, f"{prefix}-{slug(kind)}")
            for picture in drawn[kind]:
                finish(picture.figure, _origin(run))
    return drawn


def _origin(run: Run) -> str:
    version = (run.facts.get("versions") or {}).get("fusedlstm")
    fused = f"fusedlstm {version}, " if version else ""
    return f"{run.machine}, {run.date[:10]}, {fused}commit {run.short_commit}"


def _of_steps(rows: list[Row], run: Run, looks: Palette, prefix: str) -> list[Picture]:
    drawn = []
    for number, setting in enumerate(sorted({row.setting for row in rows}, key=str), start=1):
        here = [row for row in rows if row.setting == setting]
        name = f"{prefix}-{number}-{slug(str(setting))}"
        drawn += times(here, looks, setting, name)
        if setting.device in run.constants:
            drawn += roofline(here, run.constants[setting.device], setting, name)
        drawn += speedups(here, setting, name)
    return drawn


def times(rows: list[Row], looks: Palette, setting: Setting, name: str) -> list[Picture]:
    """Draw the time of a step against B: a picture for each size with several batches, all with the same y axis.

    Times differ by a factor of thousands between batches, so lines overlap. A panel below has their ratios.
    """
    by_sizes = {sizes: [row for row in rows if row.sizes == sizes] for sizes in _sizes(rows)}
    by_sizes = {sizes: here for sizes, here in by_sizes.items() if len({row.B for row in here}) > 1}
    every = [row for here in by_sizes.values() for row in here]
    if not every:
        return []
    seconds = [row.median for row in every] + [row.limit.seconds for row in every if row.limit]
    span = (min(seconds) / 1.5, max(seconds) * 1.5)
    return [_times(here, looks, setting, sizes, span, name) for sizes, here in by_sizes.items()]


def _times(
    rows: list[Row], looks: Palette, setting: Setting, sizes: Sizes, span: tuple[float, float], name: str
) -> Picture:
    made = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    axes, below = made.subplots(2, sharex=True, height_ratios=(3, 2))
    limits = {row.B: row.limit.seconds for row in rows if row.limit}
    plain = {row.B: row.median for row in rows if row.peer == _PLAIN}
    for peer in sorted({row.peer for row in rows}, key=lambda peer: (-looks[peer].order, peer.lower())):
        points = _by_batch([row for row in rows if row.peer == peer])
        axes.plot([row.B for row in points], [row.median for row in points], label=peer, **looks[peer].line())
        if not points[0].ours and not points[0].part:
            points = [row for row in points if row.B in plain]
            ratios = [row.median / plain[row.B] for row in points]
            below.plot([row.B for row in points], ratios, **looks[peer].line())
    if limits:
        x, y = zip(*sorted(limits.items()), strict=True)
        axes.plot(x, y, label="limit", color=INK, linestyle=_DASHED, linewidth=1.3, zorder=4)
    axes.set_ylim(span)
    log_axis(axes, "y", "s")
    below.axhline(1, color=INK, linewidth=1)
    log_axis(below, "y", "")
    batch_axis(below, sorted({row.B for row in rows}))
    axes.set_ylabel("time of a step")
    below.set_ylabel("time / fusedlstm's")
    title(made, f"{sizes}\n{setting}. Lower panel: above 1, fusedlstm (a plain call) is faster")
    axes.grid(visible=True)
    below.grid(visible=True)
    legend_below(made, axes)
    return Picture(f"{name}-{slug(str(sizes))}", f"Time of a step against batch, {sizes}, {setting}", made)


def _by_batch(rows: list[Row]) -> list[Row]:
    """Return the fastest row of each batch."""
    best = {}
    for row in sorted(rows, key=lambda row: -row.median):
        best[row.B] = row
    return [best[B] for B in sorted(best)]


def _sizes(rows: list[Row]) -> list[Sizes]:
    return sorted({row.sizes for row in rows}, key=lambda sizes: (sizes.N, sizes.I, sizes.P or 0, sizes.layers))


def roofline(rows: list[Row], constants: Constants, setting: Setting, name: str) -> list[Picture]:
    """Draw flop a second against flop a byte: ours below the roofs of copies and matrix products."""
    ours = [row for row in rows if row.ours and row.work]
    peak = constants.matmul.get(ours[0].work.arithmetic) if ours else None
    if peak is None or len({(row.sizes, row.B) for row in ours}) < 2:
        return []
    made, axes = figure(3.3)
    for index, sizes in enumerate(_sizes(ours)):
        points = _by_batch([row for row in ours if row.sizes == sizes])
        axes.plot(
            [row.work.intensity for row in points],
            [row.work.flop / row.median for row in points],
            label=f"{sizes}, {_batches(points)}",
            color=PEERS[index % len(PEERS)],
            marker="osD^vPX<>*"[index % 10],
            linewidth=1.3,
            zorder=4,
        )
    x = [row.work.intensity for row in ours]
    y = [row.work.flop / row.median for row in ours]
    low, high = min(x) / 2, max(x) * 3
    rates = sorted(constants.copy)
    roofs = [(constants.bandwidth(rates[0][0]), "copy in a cache"), (rates[-1][1], "copy in memory")]
    for (rate, what), dashes in zip(roofs, ("-", _DASHED), strict=True):
        edge = np.geomspace(low, max(high, 2 * peak / rate), 200)
        label = f"{what}, {quantity(rate, 'B/s')}"
        axes.plot(edge, np.minimum(edge * rate, peak), color=INK, linestyle=dashes, linewidth=1.2, label=label)
    axes.axhline(peak, color=INK, linewidth=1.2, zorder=1)
    axes.annotate(
        f"matmul {quantity(peak, 'flop/s')}",
        (0.02, peak),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        xytext=(0, 3),
    )
    axes.set_xlim(low, high)
    axes.set_ylim(min(y) / 2, max([*y, peak]) * 2)
    log_axis(axes, "x", "")
    log_axis(axes, "y", "flop/s")
    axes.set_xlabel("intensity, flop a byte")
    title(made, f"Roofline, ours\n{setting}")
    axes.grid(visible=True)
    legend_below(made, axes)
    return [Picture(f"{name}-roofline", f"Roofline of fusedlstm, {setting}", made)]


def _batches(points: list[Row]) -> str:
    first, last = points[0].B, points[-1].B
    return f"B = {first}" if first == last else f"B = {first} to {last}"


def speedups(rows: list[Row], setting: Setting, name: str) -> list[Picture]:
    """Draw the best peer's time over our fastest, for each size and batch: above 1 ours is faster."""
    compared = comparisons(rows)
    cells = {(row.sizes, row.B): compared[row].ratio for row in sorted(compared, key=lambda row: -row.median)}
    sizes, batches = _sizes([row for row in rows if row.ours]), sorted({row.B for row in rows if row.ours})
    if len(cells) < 2:
        return []
    values = np.array([[cells.get((size, batch), np.nan) for batch in batches] for size in sizes])
    furthest = max(2.0, *np.exp(np.abs(np.log(list(cells.values())))))
    made, axes = figure(1.25 + 0.42 * len(sizes))
    size = 9 if len(batches) <= 7 else 7
    norm = LogNorm(1 / furthest, furthest)
    axes.pcolormesh(values[::-1], cmap="PuOr", norm=norm, edgecolors="#FFFFFF", linewidth=1.5)
    for i, j in np.ndindex(values.shape):
        value = values[len(sizes) - 1 - i, j]
        missing = np.isnan(value)
        text = "-" if missing else ratio(value)
        tone = 0.5 if missing else abs(norm(value) - 0.5)
        color = INK if missing else "#FFFFFF" if tone > 0.25 else "#1b1b1b"
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=color, fontsize=size)
    axes.set_xticks(np.arange(len(batches)) + 0.5, [str(batch) for batch in batches], fontsize=size)
    names = [str(one).replace(", ", ",\n", 1) for one in reversed(sizes)]
    axes.set_yticks(np.arange(len(sizes)) + 0.5, names)
    axes.tick_params(length=0)
    axes.set_xlabel("B, rows of a step")
    title(made, f"Best peer's time / ours (above 1: ours is faster)\n{setting}")
    axes.spines[:].set_visible(False)
    return [Picture(f"{name}-speedup", f"Best peer's time over ours, by size and batch, {setting}", made)]


def sequence_bars(rows: list[Row], looks: Palette, prefix: str) -> list[Picture]:
    """Draw the time of each sequence: a picture for each group and device, with a bar for each library."""
    groups = dict.fromkeys((row.group, row.setting) for row in rows)
    return [
        _bars([row for row in rows if (row.group, row.setting) == key], looks, *key, f"{prefix}-sequence-{number}")
        for number, key in enumerate(groups, start=1)
    ]


def _bars(rows: list[Row], looks: Palette, group: str, setting: Setting, name: str) -> Picture:
    rows = sorted(rows, key=lambda row: row.median)
    shortest = min([row.limit.seconds for row in rows if row.limit], default=None)
    made, axes = figure(1.0 + 0.42 * len(rows))
    for place, row in enumerate(rows):
        hatch = "///" if row.part else None
        axes.barh(place, row.median, height=0.42, color=looks[row.peer].color, hatch=hatch, edgecolor="#FFFFFF")
        axes.plot([row.low, row.high], [place, place], color=INK, linewidth=1.1)
        if shortest:  # only beside the bars, where it doesn't cross a name
            axes.plot(
                [shortest, shortest], [place - 0.26, place + 0.26], color=INK, linestyle=(0, (2, 1)), linewidth=1.8
            )
        words, weight = f"{row.peer}  {quantity(row.median, 's')}", "bold" if row.ours else "normal"
        axes.annotate(words, (0, place - 0.25), xytext=(3, 1), textcoords="offset points", va="bottom", weight=weight)
    axes.set_xlabel("time of a sequence" + (f"; dashed: limit, {quantity(shortest, 's')}" if shortest else ""))
    axes.set_xlim(0, max(row.high for row in rows) * 1.05)
    axes.set_ylim(len(rows) - 0.6, -0.85)
    axes.yaxis.set_major_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(unit="s"))
    axes.spines["left"].set_visible(False)
    title(made, f"{group}\n{setting}")
    return Picture(f"{name}-{slug(group)}", f"Time of a sequence: {group}, {setting}", made)
