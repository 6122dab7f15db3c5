"""The style of pictures: colours that colour-blind people can tell apart, markers, units, and PNG and SVG files.

This needs matplotlib, but no display: it makes figures itself, without pyplot.
"""

from __future__ import annotations

import io
import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, NullFormatter, NullLocator
from PIL import Image  # of matplotlib's dependencies

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes

INK = "#010203"  # text and axes; a page shows it in the colour of its text
OURS = "#D55E00"
PEERS = ("#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#7F7F7F")  # with OURS, the palette of Okabe and Ito
_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "h", "*", "p", "d")
_DASHES = ("-", (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)))
WIDTH = 5.0  # inches; 9 points are then readable on a phone
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#9A9A9A",
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "path",  # the same shape where a font is missing
}


@dataclass(frozen=True)
class Look:
    """How one library's line is drawn."""

    color: str
    marker: str
    dashes: object
    width: float
    order: int

    def line(self) -> dict:
        """Return the options for Axes.plot."""
        return {
            "color": self.color,
            "marker": self.marker,
            "linestyle": self.dashes,
            "linewidth": self.width,
            "markersize": 4.2 + self.width,
            "zorder": self.order,
        }


class Palette:
    """A look for each name, the same in every picture of a report."""

    def __init__(self, ours: Iterable[str], peers: Iterable[str], parts: Iterable[str]) -> None:
        self._looks = {}
        for index, name in enumerate(sorted(set(peers))):
            dashes = _DASHES[index // len(PEERS) % len(_DASHES)]
            self._looks[name] = Look(PEERS[index % len(PEERS)], _MARKERS[index % len(_MARKERS)], dashes, 1.4, 3)
        for index, name in enumerate(sorted(set(parts))):
            self._looks[name] = Look("#7F7F7F", "+x|_"[index % 4], _DASHES[1], 1.1, 2)
        for index, name in enumerate(sorted(set(ours))):
            self._looks[name] = Look(OURS, "o*8H"[index % 4], ("-", (0, (4, 1)), (0, (1, 1)))[index % 3], 2.6, 5)

    def __getitem__(self, name: str) -> Look:
        """The look of a name."""
        return self._looks[name]


@dataclass(frozen=True)
class Picture:
    """A picture: the name of its files, what it shows in words, and its figure."""

    name: str
    words: str
    figure: Figure

    def png(self) -> bytes:
        """Return the picture for files, black on white."""
        file, small = io.BytesIO(), io.BytesIO()
        with style():
            self.figure.savefig(file, format="png", dpi=160, facecolor="white")
        Image.open(file).convert("RGB").quantize(256).save(small, format="png", optimize=True)  # half the bytes
        return small.getvalue()

    def svg(self) -> str:
        """Return the picture for files, black on white."""
        return self._svg("white").replace(INK, "#1b1b1b")

    def adaptive_svg(self) -> str:
        """Return the picture for a page, without a background. Its text is light if the reader prefers dark pages."""
        style = "<style>svg{color:#1b1b1b}@media(prefers-color-scheme:dark){svg{color:#e4e4e4}}</style>"
        text = self._svg("none").replace(INK, "currentColor")
        return re.sub(r"(<svg\b[^>]*>)", rf"\1{style}", text, count=1)

    def _svg(self, background: str) -> str:
        file = io.StringIO()
        with mpl.rc_context(_STYLE | {"svg.hashsalt": self.name}):  # the same picture gives the same file
            self.figure.savefig(file, format="svg", facecolor=background)
        text = file.getvalue()
        return re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)


def style() -> AbstractContextManager:
    """Return the context in which pictures are drawn."""
    return mpl.rc_context(_STYLE)


def figure(height: float) -> tuple[Figure, Axes]:
    """Return an empty figure with one pair of axes."""
    made = Figure(figsize=(WIDTH, height), layout="constrained")
    return made, made.subplots()


def title(made: Figure, text: str) -> None:
    """Write a title over the whole width, and break lines that are too long."""
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, 66)]
    made.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10)


def legend_below(made: Figure, axes: Axes) -> None:
    """Make a legend in columns that fit its names. `finish` makes room for it below the axes."""
    handles, names = axes.get_legend_handles_labels()
    half = -(-len(names) // 2)
    columns = 2 if sum(max(map(len, part), default=0) for part in (names[:half], names[half:])) <= 54 else 1
    made.legend(handles, names, loc="lower left", ncols=columns, handlelength=3.2, borderaxespad=0)


def finish(made: Figure, text: str) -> None:
    """Make the figure taller for its legend, and for small print that says where the data come from."""
    lines = textwrap.wrap(text, 92)
    below = 0.12 * len(lines) + 0.05  # inches
    room = below + sum(legend.get_window_extent().height / made.dpi for legend in made.legends)
    height = made.get_figheight() + room
    made.set_figheight(height)
    made.get_layout_engine().set(rect=(0, room / height, 1, 1 - room / height))
    for legend in made.legends:
        legend.set_in_layout(False)
        legend.set_bbox_to_anchor((0, below / height), made.transFigure)
    made.text(0.01, 0.2 * below / height, "\n".join(lines), fontsize=6.5, alpha=0.75)


def log_axis(axes: Axes, which: str, unit: str) -> None:
    """Make an axis logarithmic, with unit prefixes, and with ticks at 1, 2 and 5 if it is short."""
    axis = getattr(axes, f"{which}axis")
    getattr(axes, f"set_{which}scale")("log")
    low, high = sorted(getattr(axes, f"get_{which}lim")())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 150 else (1,)))
    axis.set_major_formatter(EngFormatter(unit=unit))
    axis.set_minor_formatter(NullFormatter())


def batch_axis(axes: Axes, batches: list[int]) -> None:
    """Make x the batch, logarithmic, with a tick at each B whose number doesn't touch the next one."""
    axes.set_xscale("log", base=2)
    axes.set_xlabel("B, rows a step")
    axes.set_xlim(min(batches) / 1.35, max(batches) * 1.35)
    span = max(batches) / min(batches) * 1.35**2
    kept = [batches[-1]]
    for batch in reversed(batches[:-1]):
        if kept[-1] / batch >= span**0.085:
            kept.append(batch)
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
