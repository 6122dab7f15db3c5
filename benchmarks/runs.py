"""Read results of pytest-benchmark, as this suite writes them, for a report.

An entry of "benchmarks" has in "extra_info": kind, case, T, B, I, N, P, layers, dtype, threads, device, peer,
peer_version and ours. Where they matter, it also has:

- precision: "high" is TF32.
- workload: rows of one workload share a picture.
- cold: caches were flushed before each call.
- padding: how many rows have no slot.
- gpu_seconds: the GPU's own time, as median, p10 and p90.
- host_seconds: likewise, the time until a call that only queues work returns.
- part: the row does only a part of the work, so nothing is compared with it.

`python -m benchmarks compare` adds to "stats" the medians of all processes, as "processes": one for each round, or
null if it failed.

"machine_info" has "facts" about the machine. Among them are "missing", the peers that could not run and why, and
"limits", the calibrated constants by device.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.constants import Constants
from benchmarks.limits import ITEMSIZES, Limit, Work, limit

if TYPE_CHECKING:
    from pathlib import Path

KERNEL = ", kernel="  # before a kernel's name in ours
_EMPTIED = 1 << 40  # bytes that no cache holds


class ResultsError(ValueError):
    """A file isn't a result of this suite. The message is one line."""


class Setting(NamedTuple):
    """The properties that all rows of a picture share."""

    device: str
    dtype: str
    precision: str
    threads: int | None
    workload: str

    def __str__(self) -> str:
        """Return it as readable text."""
        dtype = "TF32" if self.precision == "high" and self.dtype == "float32" else self.dtype
        threads = None if self.threads is None else f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        parts = (self.workload, dtype, self.device, threads if self.device == "cpu" else None)
        return ", ".join(part for part in parts if part)


class Sizes(NamedTuple):
    """A case's sizes, except its batch."""

    T: int
    N: int
    I: int
    P: int | None
    layers: int

    def __str__(self) -> str:
        """Return N = 128, and every other size that isn't the usual one."""
        parts = [f"N = {self.N}" if self.I != self.N else f"N = I = {self.N}"]
        parts += [f"I = {self.I}"] if self.I != self.N else []
        parts += [f"P = {self.P}"] if self.P else []
        parts += [f"{self.layers} layers"] if self.layers > 1 else []
        parts += [f"T = {self.T}"] if self.T > 1 else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Row:
    """One benchmark: the peer, the case, and how long a call took, in seconds."""

    kind: str
    group: str
    name: str  # of the test
    peer: str
    version: str
    ours: bool
    part: bool
    setting: Setting
    sizes: Sizes | None
    B: int | None
    median: float
    low: float
    high: float
    deciles: bool  # low and high are p10 and p90, else quartiles
    limit: Limit | None
    work: Work | None
    threads: int | None
    processes: tuple[float | None, ...] = ()  # each process's median, if libraries ran in processes of their own
    gpu_seconds: tuple[float, float, float] | None = None  # the GPU's own time: median, p10, p90
    host_seconds: tuple[float, float, float] | None = None  # until the call returns, without waiting for the GPU

    @property
    def kernel(self) -> str:
        """The kernel that was named for fusedlstm, or "" if the table chose it, as it does for users."""
        return self.peer.partition(KERNEL)[2] if self.ours else ""

    @property
    def of_limit(self) -> float | None:
        """The limit divided by the time. 1 is as fast as possible."""
        return None if self.limit is None else self.limit.seconds / self.median


@dataclass
class Run:
    """A file of results."""

    path: Path
    rows: list[Row]
    date: str
    commit: str
    facts: dict
    constants: dict[str, Constants]
    label: str = field(default="")

    @property
    def short_commit(self) -> str:
        """The first digits of the commit, and whether there were changes."""
        digits = re.match(r"[0-9a-f]{40}\b", self.commit)
        return self.commit[:10] + self.commit[40:] if digits else self.commit

    @property
    def machine(self) -> str:
        """The GPU's name if it ran anything, else the CPU's model."""
        gpu = self.gpu if self.on_gpu else None
        return gpu or str(self.facts.get("cpu") or "unknown machine")

    @property
    def gpu(self) -> str | None:
        """The GPU's name, if there is one."""
        gpu = self.facts.get("gpu")
        if isinstance(gpu, dict):
            gpu = gpu.get("name") or gpu.get("gpu")
        return str(gpu) if gpu else None

    @property
    def on_gpu(self) -> bool:
        """Whether anything ran on a GPU."""
        return any(row.setting.device.startswith("cuda") for row in self.rows)

    @property
    def threads(self) -> list[int]:
        """Every number of threads among the rows."""
        return sorted({row.threads for row in self.rows if row.threads is not None})

    @property
    def missing(self) -> dict[str, str]:
        """The peers that could not run, and why."""
        missing = self.facts.get("missing") or {}
        if isinstance(missing, dict):
            return {str(peer): str(reason) for peer, reason in missing.items()}
        return {str(peer): "not installed" for peer in missing}


def load_all(paths: list[Path]) -> list[Run]:
    """Read files, and give each run a distinct label."""
    runs = [load(path) for path in paths]
    _label(runs)
    return runs


def load(path: Path) -> Run:
    """Read one file, or raise ResultsError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: can't be read: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    try:
        return _run(path, json.loads(text))
    except json.JSONDecodeError as error:
        raise ResultsError(f"{path}: not JSON, or not all of it: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = str(error) if isinstance(error, ResultsError) else f"not a result of this suite ({_words(error)})"
        raise ResultsError(f"{path}: {what}") from None


def _words(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())


def _run(path: Path, content: dict) -> Run:
    machine, commit = content["machine_info"], content.get("commit_info") or {}
    facts = dict(machine.get("facts") or {})
    facts.setdefault("cpu", (machine.get("cpu") or {}).get("brand_raw"))
    constants = {device: Constants.from_json(values) for device, values in (facts.get("limits") or {}).items()}
    if not content["benchmarks"]:
        raise ResultsError("it has no benchmarks")
    if not any("peer" in entry["extra_info"] for entry in content["benchmarks"]):
        raise ResultsError("none of its benchmarks is of this suite: extra_info has no peer")
    return Run(
        path=path,
        rows=[_row(entry, constants) for entry in content["benchmarks"]],
        date=str(content.get("datetime", ""))[:16].replace("T", " "),
        commit=_commit(commit, facts),
        facts=facts,
        constants=constants,
    )


def _commit(said: dict, facts: dict) -> str:
    """Return the commit, from git or else from the facts, and whether there were changes."""
    if said.get("id") in (None, "unknown"):
        return str(facts.get("commit") or "unknown")
    return str(said["id"]) + (", with changes" if said.get("dirty") else "")


def _row(entry: dict, constants: dict[str, Constants]) -> Row:
    info, stats = entry["extra_info"], entry["stats"]
    median = _seconds(stats["median"], entry["name"])
    low, high, deciles = _spread(stats, median)
    setting = Setting(
        device=(name := info.get("device") or "cpu"),
        dtype=info.get("dtype") or "",
        precision=info.get("precision") or "highest",
        threads=info.get("threads") if name == "cpu" else None,
        workload=info.get("workload") or "",
    )
    work = _work(info, setting)
    sizes = None
    if work is not None:
        sizes = Sizes(info.get("T") or 1, info["N"], info["I"], info.get("P"), info.get("layers") or 1)
    device = constants.get(setting.device)
    return Row(
        kind=info.get("kind") or "other",
        group=entry.get("group") or entry["name"],
        name=entry["name"],
        peer=info.get("peer") or _readable(entry["name"], info),
        version=str(info.get("peer_version") or ""),
        ours=bool(info.get("ours")),
        part=bool(info.get("part")),
        setting=setting,
        sizes=sizes,
        B=info.get("B"),
        median=median,
        low=low,
        high=high,
        deciles=deciles,
        limit=limit(work, device) if work and device else None,
        work=work,
        threads=info.get("threads"),
        processes=tuple(value and _seconds(value, entry["name"]) for value in stats.get("processes") or ()),
        gpu_seconds=_seconds_of("gpu_seconds", info, entry["name"]),
        host_seconds=_seconds_of("host_seconds", info, entry["name"]),
    )


def _readable(test: str, info: dict) -> str:
    """Return a test's name as words, for rows that name no peer."""
    words = " ".join(re.findall(r"[\w.+=-]+", test.removeprefix("test_").replace("_", " ")))
    return f"fusedlstm, {words}" if info.get("ours") else words


def _seconds_of(what: str, info: dict, name: str) -> tuple[float, float, float] | None:
    seconds = info.get(what)
    return seconds and tuple(_seconds(seconds[part], name) for part in ("median", "p10", "p90"))


def _seconds(value: float, name: str) -> float:
    value = float(value)
    if not (math.isfinite(value) and value > 0):
        raise ResultsError(f"{name} has no time")
    return value


def _spread(stats: dict, median: float) -> tuple[float, float, bool]:
    """Return p10, p90 and True if they or single times are recorded, else the quartiles and False."""
    if "p10" in stats:
        return float(stats["p10"]), float(stats["p90"]), True
    if stats.get("data"):
        return *_deciles(stats["data"]), True
    half = float(stats.get("iqr") or 0.0) / 2
    return float(stats.get("q1", median - half)), float(stats.get("q3", median + half)), False


def _deciles(data: list[float]) -> tuple[float, float]:
    low, high = np.percentile(data, [10, 90])
    return float(low), float(high)


def keep_deciles(output_json: dict) -> None:
    """Replace single times by p10 and p90, for pytest_benchmark_update_json, so that results are small."""
    for entry in output_json["benchmarks"]:
        if data := entry["stats"].pop("data", None):
            entry["stats"]["p10"], entry["stats"]["p90"] = _deciles(data)


def _work(info: dict, setting: Setting) -> Work | None:
    """Return the work of all rows except padding. Other kinds, and rows without sizes, have none, and no limit."""
    if info.get("kind") not in {"step", "sequence", "pool"} or setting.dtype not in ITEMSIZES:
        return None
    if not all(isinstance(info.get(name), int) for name in "BIN"):
        return None
    work = Work.of(
        B=info["B"] - (info.get("padding") or 0),
        I=info["I"],
        N=info["N"],
        T=info.get("T") or 1,
        P=info.get("P"),
        layers=info.get("layers") or 1,
        dtype=setting.dtype,
        device=setting.device,
        precision=setting.precision,
        pool=info["kind"] == "pool",
    )
    return dataclasses.replace(work, resident=work.resident + _EMPTIED) if info.get("cold") else work


def _label(runs: list[Run]) -> None:
    """Label each run with its machine and threads, and with whatever else tells runs apart."""
    for run in runs:
        threads = " and ".join(map(str, run.threads))
        run.label = run.machine + (f", {threads} thread{'' if threads == '1' else 's'}" if threads else "")
    for more in (lambda run: run.short_commit, lambda run: run.date, lambda run: run.path.name, lambda run: run.path):
        labels = [run.label for run in runs]
        for run in runs:
            if labels.count(run.label) > 1 and f"{more(run)}" not in run.label:
                run.label += f", {more(run)}"


def slug(text: str) -> str:
    """Return a text as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:60].strip("-")
