"""Write a report of results: what ran where, tables and pictures, as Markdown, and as a page made of that."""

from __future__ import annotations

import importlib.util
import re
import statistics
from collections import Counter
from typing import TYPE_CHECKING

from benchmarks import report_html, report_markdown
from benchmarks.blocks import Block, Bullets, Details, Heading, Paragraph, Pictures, Table
from benchmarks.comparisons import Comparison, comparisons
from benchmarks.predictions import kept
from benchmarks.runs import Row, Run, load_all
from benchmarks.units import percent, quantity, ratio, reading_order
from benchmarks.verdict import FASTER, SLOWER, TIE

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.constants import Constants
    from benchmarks.picture_style import Picture

_KINDS = {"step": "Steps", "sequence": "Sequences", "pool": "Steps of a pool", "once": "Once in a process"}
# Facts that have their own lines.
_TOLD_APART = ("cpu", "cores", "gpu", "blas", "load", "versions", "missing", "limits", "threads", "commit", "date")
_NO_PICTURES = "There are no pictures, because matplotlib is not installed (fusedlstm's extra report brings it)."


def write(paths: list[Path], folder: Path) -> list[Path]:
    """Write report.md, report.html and pictures/ into a folder, and return the two reports' paths."""
    runs = load_all(paths)
    drawn = _draw(runs)
    blocks = build(runs, drawn)
    folder.mkdir(parents=True, exist_ok=True)
    text, page = folder / "report.md", folder / "report.html"
    _forget_pictures(text)
    for picture in _each(drawn):
        (folder / report_markdown.FOLDER).mkdir(exist_ok=True)
        path = folder / report_markdown.FOLDER / picture.name
        path.with_name(f"{path.name}.png").write_bytes(picture.png())
        path.with_name(f"{path.name}.svg").write_text(picture.svg(), encoding="utf-8")
    text.write_text(report_markdown.render(blocks), encoding="utf-8")
    if importlib.util.find_spec("markdown") is None:  # of the extra report
        return [text]
    pictures = {one.name: one.adaptive_svg() for one in _each(drawn)}
    page.write_text(report_html.render(text.read_text(encoding="utf-8"), pictures), encoding="utf-8")
    return [text, page]


def _each(drawn: list[dict[str, list[Picture]]] | None) -> list[Picture]:
    return [one for kinds in drawn or [] for pictures in kinds.values() for one in pictures]


def _forget_pictures(text: Path) -> None:
    """Remove the pictures that an earlier report shows, and nothing else."""
    if not text.is_file():
        return
    for name in re.findall(rf"\({report_markdown.FOLDER}/([a-z0-9-]+)\.png\)", text.read_text(encoding="utf-8")):
        for suffix in ("png", "svg"):
            (text.parent / report_markdown.FOLDER / f"{name}.{suffix}").unlink(missing_ok=True)


def _draw(runs: list[Run]) -> list[dict[str, list[Picture]]] | None:
    """Return the pictures of each run by kind, or None without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    from benchmarks import pictures

    looks = pictures.palette(runs)
    return [pictures.of_run(run, looks, str(number)) for number, run in enumerate(runs, start=1)]


def build(runs: list[Run], drawn: list[dict[str, list[Picture]]] | None) -> list[Block]:
    """Return all blocks of a report: first what came out, last what did not run."""
    compared = [comparisons(run.rows) for run in runs]
    blocks: list[Block] = [Heading(1, "Benchmarks of fusedlstm"), Paragraph(_sentence(compared))]
    overview = _overview(runs, compared)
    blocks += [overview] if overview.rows else []
    if drawn is None:
        blocks.append(Paragraph(_NO_PICTURES))
    blocks.append(_how_to_read(runs))
    for index, run in enumerate(runs):
        blocks += [Heading(2, run.label), _facts(run)]
        for kind in dict.fromkeys(row.kind for row in run.rows):
            pictures = drawn[index].get(kind, []) if drawn else []
            blocks += _of_kind(kind, [row for row in run.rows if row.kind == kind], pictures, compared[index])
    missing = [
        (run.label if len(runs) > 1 else "", f"{peer}: {why}") for run in runs for peer, why in run.missing.items()
    ]
    return [*blocks, Details("Not run", [Bullets(missing)])] if missing else blocks


def _sentence(compared: list[dict[Row, Comparison]]) -> str:
    words = Counter(one.word for each in compared for one in each.values())
    total = words.total() - words[""]
    if total:
        return (
            f"fusedlstm is faster than the fastest other library in {words[FASTER]} of {total} rows, slower in "
            f"{words[SLOWER]}, and ties in {words[TIE]}."
        )
    if words:
        return "There are no verdicts: these times are from one process each, so another run may differ."
    return "No other library was timed."


def _overview(runs: list[Run], compared: list[dict[Row, Comparison]]) -> Table:
    """Return a table with a row for each run, kind and way to call fusedlstm."""
    rows = []
    for run, found in zip(runs, compared, strict=True):
        groups: dict[tuple[str, str], list[Comparison]] = {}
        for row, one in found.items():
            device = f", {row.setting.device}" if run.on_gpu else ""
            groups.setdefault((_KINDS.get(row.kind, row.kind.capitalize()) + device, row.peer), []).append(one)
        for (kind, way), here in groups.items():
            words, lowest = Counter(one.word for one in here), min(here, key=lambda one: one.ratio)
            counts = [f"{words[word]}" if "" not in words else "" for word in (FASTER, TIE, SLOWER)]
            middle = ratio(statistics.median(one.ratio for one in here))
            label = run.label if len(runs) > 1 else ""
            rows.append([kind, way, label, f"{len(here)}", *counts, middle, ratio(lowest.ratio), lowest.ours.group])
    header = ["what", "how", "run", "rows", FASTER, TIE, SLOWER, "median ratio", "lowest ratio", "which is of"]
    order = [*_KINDS.values()]
    rows.sort(key=lambda row: order.index(row[0]) if row[0] in order else len(order))
    return Table(header, rows).without_empty_columns()


def _how_to_read(runs: list[Run]) -> Bullets:
    items = [
        (
            "median",
            "the median time of a call, and the deciles or quartiles around it; of processes, if there are many",
        ),
        ("ratio", "the fastest other library's time over ours, for the same work; above 1, ours is faster"),
    ]
    if any(run.facts.get("rounds") for run in runs):
        items += [
            ("interval", "about 99 % for all pairs of a run, over rounds in which each library has its own process"),
            ("verdict", "faster or slower if the interval excludes 1 and the ratio differs from 1 by 3 %, else a tie"),
        ]
    if any(run.on_gpu for run in runs):
        items += [
            ("GPU's own", "between events on its stream, median and p10 to p90, without the host's time"),
            ("until it returns", "the CPU's time, median and p10 to p90, of a call that queues work for a GPU"),
            ("predicted us", "the GPU's microseconds, predicted by a model"),
        ]
    words = (
        "the shortest time that bytes, arithmetic, special functions and launches allow, by a model with rates "
        "calibrated in the same run; a library with faster functions than those calibrated may exceed 100 % of it"
    )
    return Bullets([*items, ("limit", words)])


def _predicted(row: Row) -> float | None:
    """Return the predicted seconds of a row that names its kernel on a GPU, or None."""
    if row.kind != "step" or not row.kernel or row.setting.device == "cpu":
        return None
    if row.sizes is None or row.B is None or row.sizes.T > 1 or row.sizes.layers > 1:
        return None
    sizes = {"B": row.B, "I": row.sizes.I, "N": row.sizes.N, "P": row.sizes.P}
    return kept(row.kernel, **sizes, dtype=row.setting.dtype, precision=row.setting.precision)


def _facts(run: Run) -> Bullets:
    """Return the facts of a run's machine."""
    facts = run.facts
    cores = f", {facts['cores']} cores" if facts.get("cores") else ""
    gpu = _gpu(facts.get("gpu")) if run.gpu else ""
    if not run.on_gpu:
        gpu = f"{gpu}; nothing here ran on it" if gpu else "nothing here ran on a GPU"
    items = [
        ("Machine", f"{facts.get('cpu') or 'unknown'}{cores}"),
        ("GPU", gpu),
        ("Threads", ", ".join(map(str, run.threads))),
        ("Load average", _load(facts.get("load") or [])),
        ("BLAS", _plain(facts.get("blas"))),
        ("Versions", _plain(facts.get("versions"))),
        ("Date", run.date),
        ("Commit", run.commit),
    ]
    items += [(name, _plain(value)) for name, value in facts.items() if name not in _TOLD_APART]
    items += [(f"Calibrated, {device}", _calibrated(one)) for device, one in run.constants.items()]
    return Bullets([(name, text) for name, text in items if text])


def _load(load: list[float]) -> str:
    """Return the load average of the minute before each process ended, which includes that process."""
    return f"{min(load):g} to {max(load):g}, with the benchmark itself" if load else ""


def _gpu(gpu: object) -> str:
    """Return a GPU's name, followed by its other facts."""
    if isinstance(gpu, dict):
        return ", ".join(filter(None, [str(gpu.get("name", "")), _plain({**gpu, "name": None})]))
    return _plain(gpu)


def _plain(value: object) -> str:
    """Return a fact of any form as one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items() if one not in (None, ""))
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return "" if value is None else str(value)


def _calibrated(constants: Constants) -> str:
    copies = ", ".join(f"{quantity(rate, 'B/s')} in {quantity(size, 'B')}" for size, rate in constants.copy)
    products = ", ".join(f"{name} {quantity(rate, 'flop/s')}" for name, rate in constants.matmul.items())
    special = ", ".join(f"{name} {quantity(rate, '/s')}" for name, rate in constants.special.items())
    launches = f"; launch {quantity(constants.launch, 's')}, in a graph {quantity(constants.node, 's')}"
    return f"copy {copies}; matmul {products}; exp and tanh {special}" + (launches if constants.launch else "")


def _of_kind(kind: str, rows: list[Row], pictures: list[Picture], compared: dict[Row, Comparison]) -> list[Block]:
    """Return a kind's pictures, ours beside the fastest other library, and all times."""
    rows = sorted(rows, key=lambda row: (reading_order(row.group), row.median))
    ours = _table([row for row in rows if row in compared], compared)
    blocks: list[Block] = [Heading(3, _KINDS.get(kind, kind.capitalize()))]
    blocks += [Pictures(pictures)] if pictures else []
    blocks += [ours] if ours.rows else []
    return [*blocks, Details(f"All times ({len(rows)})", [_table(rows, {})])]


def _table(rows: list[Row], compared: dict[Row, Comparison]) -> Table:
    """Return a table with a line for each row, without empty columns."""
    several = len({row.setting.device for row in rows}) > 1
    spread = "p10 to p90" if all(row.deciles for row in rows) else "quartiles"
    times = Counter((row.group, row.peer, row.setting.device) for row in rows)
    cells = []
    for row in rows:
        name = row.peer + (" (a part of the work)" if row.part else "")
        name += f" [{row.name}]" if times[row.group, row.peer, row.setting.device] > 1 else ""  # variants
        one, limit = compared.get(row), None if row.part else row.limit
        cells.append(
            [
                row.group + (f", {row.setting.device}" if several else ""),
                name,
                quantity(row.median, "s"),
                f"{quantity(row.low, 's')} to {quantity(row.high, 's')}",
                *([ratio(one.ratio), one.interval, one.word, one.peer.peer] if one else [""] * 4),
                quantity(one.peer.median, "s") if one else "",
                _with_spread(row.gpu_seconds),
                f"{1e6 * predicted:.2f}" if (predicted := _predicted(row)) else "",
                _with_spread(row.host_seconds),
                percent(row.of_limit) if limit else "",
                f"{quantity(limit.seconds, 's')}, {limit.bound}" if limit else "",
            ]
        )
    header = ["case", "how", "median", spread, "ratio", "interval", "verdict", "fastest other", "its median"]
    header += ["GPU's own", "predicted us", "until it returns", "of the limit", "limit"]
    return Table(
        header, cells, frozenset(i for i, row in enumerate(rows) if row.ours and not compared)
    ).without_empty_columns()


def _with_spread(times: tuple[float, float, float] | None) -> str:
    if times is None:
        return ""
    median, low, high = (quantity(seconds, "s") for seconds in times)
    return f"{median} ({low} to {high})"
