"""Keep results to commit: only what reports read, by machine, with their reports and README.md's tables."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from benchmarks import report, report_markdown
from benchmarks.blocks import Table
from benchmarks.comparisons import Comparison, comparisons
from benchmarks.machine import ROOT
from benchmarks.runs import ResultsError, load, load_all, slug
from benchmarks.units import quantity, ratio

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from benchmarks.runs import Row, Run

RESULTS, README = ROOT / "benchmarks" / "results", ROOT / "README.md"
BEGIN, END = "<!-- python -m benchmarks keep writes from here ... -->", "<!-- ... to here -->"
_INFO, _ENTRY = ("facts",), ("group", "name", "extra_info", "stats")
_STATS = (
    "min",
    "max",
    "mean",
    "stddev",
    "median",
    "q1",
    "q3",
    "iqr",
    "p10",
    "p90",
    "rounds",
    "iterations",
    "processes",
)


def keep(paths: Iterable[Path], results: Path = RESULTS, readme: Path = README) -> list[Path]:
    """Copy results to their machine's folder, write reports there and README.md's tables; return the new paths.

    Raises:
        ResultsError: a file isn't a result, or isn't of a commit without changes. Then nothing is written.
    """
    texts = {}
    for path in paths:
        run = load(path)
        if not re.fullmatch(r"[0-9a-f]{40}", str(run.facts.get("commit"))):
            raise ResultsError(
                f"{path}: its commit is {run.facts.get('commit')}: only times of a commit without changes are kept"
            )
        texts[results / folder_of(run) / name_of(run)] = _slim(json.loads(path.read_text(encoding="utf-8")))
    with_tables(readme.read_text(encoding="utf-8"), results)  # or raise before anything is written
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for folder in sorted({path.parent for path in texts}):
        report.write(kept(folder), folder)
    readme.write_text(with_tables(readme.read_text(encoding="utf-8"), results), encoding="utf-8")
    return [*texts, readme]


def kept(folder: Path) -> list[Path]:
    """Return a machine's results."""
    return sorted(folder.glob("benchmarks-*.json"))


def folder_of(run: Run) -> str:
    """Return the name of a machine's folder."""
    return slug(run.machine if run.on_gpu else f"{run.machine} {run.facts.get('cores')} cores")


def name_of(run: Run) -> str:
    """Return the name of a run's file, by its devices and threads."""
    devices = sorted({row.setting.device.partition(":")[0] for row in run.rows})
    threads = "-".join(map(str, run.threads))
    return f"benchmarks-{'-'.join(devices)}-{threads}-thread{'' if threads == '1' else 's'}.json"


def _slim(content: dict[str, Any]) -> str:
    """Return a result as JSON, a line for each time, without the machine's name, the CPU's flags and the like."""
    info = {name: content["machine_info"][name] for name in _INFO}
    commit = {name: content["commit_info"].get(name) for name in ("id", "dirty")}
    entries = []
    for entry in content["benchmarks"]:
        stats = {name: entry["stats"][name] for name in _STATS if name in entry["stats"]}
        entries.append(json.dumps({**{name: entry.get(name) for name in _ENTRY}, "stats": stats}))
    head = json.dumps({"datetime": content.get("datetime"), "commit_info": commit, "machine_info": info}, indent=1)
    return f'{head[:-2]},\n "benchmarks": [\n' + ",\n".join(entries) + "\n]}\n"


def with_tables(text: str, results: Path = RESULTS) -> str:
    """Return README.md's text with the tables of all kept results between its two marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ResultsError(f"README.md has no lines {BEGIN} and {END}")
    return f"{before}{begin}\n\n{tables(results)}\n\n{end}{after}"


def tables(results: Path = RESULTS) -> str:
    """Return a table of each machine, from its run with the fewest threads. The newest machine comes first."""
    folders = [load_all(paths) for folder in results.glob("*") if folder.name != "latest" and (paths := kept(folder))]
    if not folders:
        return "None has been kept yet."
    folders.sort(key=lambda runs: max(run.date for run in runs), reverse=True)
    return "\n\n".join(_machine(runs) for runs in folders)


def _machine(runs: list[Run]) -> str:
    folder = runs[0].path.parent.name
    link = f"[all times, workloads, limits and pictures](benchmarks/results/{folder}/report.md)"
    fewest = min(run.threads for run in runs)
    shown = [run for run in runs if run.threads == fewest]
    return "\n\n".join([f"**{_name(runs[0])}** ({link})", *map(_run, shown)])


def _name(run: Run) -> str:
    return run.machine if run.on_gpu else f"{run.machine}, {run.facts['cores']} cores"


def _run(run: Run) -> str:
    """Return a table of times by batch for each device of a run, below a line about the run."""
    rows = [row for row in run.rows if row.ours and not row.part and _is_plain(row)]
    devices = sorted({row.setting.device for row in rows})
    compared = comparisons(run.rows)
    tables = [
        _table(run, [row for row in rows if row.setting.device == device], compared, device) for device in devices
    ]
    return "\n\n".join(tables)


def _is_plain(row: Row) -> bool:
    """Return whether a row is a step or sequence of one layer, as users would run it, at a size that every run has."""
    sizes = row.sizes
    if row.kernel or row.setting.precision != "highest" or row.peer.endswith("in a loop"):
        return False
    if sizes is None or row.setting.dtype != "float32" or not row.group.startswith(("step, ", "sequence, ")):
        return False
    return sizes.N == sizes.I and sizes.layers == 1 and sizes.T in (1, 100)


def _table(run: Run, rows: list[Row], compared: dict[Row, Comparison], device: str) -> str:
    cells: dict[tuple[int, int, str], dict[int, str]] = {}
    for row in rows:
        cells.setdefault((row.sizes.T, row.sizes.N, row.peer), {})[row.B] = _cell(row, compared.get(row))
    # Show sizes with many batches, and batches with many sizes. For a quick run, show all.
    full = {key for key in cells if len(cells[key]) > 2}
    cells = {key: cells[key] for key in sorted(full if len(full) > 1 else cells)}
    batches = sorted({B for by_batch in cells.values() for B in by_batch})
    several = [B for B in batches if len({key[:2] for key, by_batch in cells.items() if B in by_batch}) > 1]
    batches = several or batches
    body = [
        [f"{'1 step' if T == 1 else f'{T} steps'}, N = I = {N}", way, *(by_batch.get(B, "") for B in batches)]
        for (T, N, way), by_batch in cells.items()
    ]
    threads = ", ".join(f"{count} thread{'' if count == 1 else 's'}" for count in run.threads)
    where = device if device != "cpu" else threads
    header = [f"float32, {where}", "how", *(f"B = {B}" for B in batches)]
    processes = f"{run.facts['rounds']} processes a library" if "rounds" in run.facts else "one process, so no verdicts"
    about = f"{run.date[:10]}, commit {run.short_commit}, fusedlstm {run.facts['versions']['fusedlstm']}, {processes}:"
    return f"{about}\n\n{report_markdown.render([Table(header, body)]).rstrip()}"


def _cell(row: Row, compared: Comparison | None) -> str:
    text = quantity(row.median, "s")
    if compared is None:
        return text
    return ", ".join(filter(None, [text, f"{ratio(compared.ratio)} ({compared.peer.peer})", compared.word]))
