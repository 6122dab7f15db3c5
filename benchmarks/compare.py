"""Time every library in processes of its own, in turns, and write one file of results with each process's median.

In one process, the threads of one library may spin while another is timed, and all rows share that process's luck.
Every other round runs the libraries in the opposite order, so that steady drift doesn't favour any.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import orphans, peers, report
from benchmarks.machine import ROOT, devices
from benchmarks.runs import ResultsError
from benchmarks.verdict import LEAST_ROUNDS

LATEST = ROOT / "benchmarks" / "results" / "latest"
OURS = "fusedlstm"
_NOTHING = "no benchmarks have been run"  # as pytest-benchmark says, which fails then
_SECONDS = "--benchmark-max-time=0.1"  # for each row; more processes tell more than longer ones


def compare(folder: Path, rounds: int, options: list[str]) -> list[Path]:
    """Run all rounds with these options of `pytest benchmarks`; write results.json and its report into a folder.

    After every round, results.json has what is measured so far.

    Raises:
        ResultsError: `rounds` is too small; or a process failed, after everything else is written.
    """
    if rounds < LEAST_ROUNDS:
        raise ResultsError(f"--rounds: wanted {LEAST_ROUNDS} or more; got {rounds}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    done: list[list[dict[str, Any]]] = []  # by round
    libraries, failed = installed(), {}
    for number in range(rounds):
        done.append([])
        for library in libraries if number % 2 == 0 else libraries[::-1]:
            content, words = run(library, options)
            if content:
                done[-1].append(content)
            elif not words:  # these options leave none of its rows
                libraries = [one for one in libraries if one != library]
            failed |= {f"{library} in round {number + 1}": words} if words else {}
            print(f"round {number + 1} of {rounds}: {library}: {words or 'done'}", file=sys.stderr, flush=True)
        path.write_text(json.dumps(merged(done, failed), indent=1), encoding="utf-8")
    written = report.write([path], folder)
    if failed:
        raise ResultsError(f"{len(failed)} processes failed; {written[0]} says which")
    return [path, *written]


def installed() -> list[str]:
    """Return the packages that run on this machine, ours first."""
    able = [peer for peer in peers.all_peers() if any(peer.why_not(device) is None for device in devices())]
    return list(dict.fromkeys(peer.package for peer in able))


def run(library: str, options: list[str]) -> tuple[dict[str, Any] | None, str]:
    """Time one library in a process; return its results, if any, and what went wrong, or ""."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "results.json")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "benchmarks", f"--library={library}"]
        result = subprocess.run(
            orphans.ending([*command, _SECONDS, *options, f"--benchmark-json={path}"]),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
    try:
        content = json.loads(text) if text else None
    except json.JSONDecodeError:  # it was killed while it wrote
        content = None
    output = result.stdout + result.stderr
    wrong = [line for line in output.splitlines() if re.match("FAILED|ERROR(?!: usage)|.*: error: ", line)]
    if result.returncode == 0 or (_NOTHING in output and not wrong):
        return content, ""
    return content, [*wrong, *output.strip().splitlines()[-1:], f"exit status {result.returncode}"][0]


def merged(done: list[list[dict[str, Any]]], failed: dict[str, str]) -> dict[str, Any]:
    """Return the results of each round's processes as one, with the median of each process, or None where it failed."""
    contents = [content for each in done for content in each]
    if not contents:
        raise ResultsError("; ".join(f"{name}: {words}" for name, words in failed.items()) or "nothing was timed")
    entries: dict[str, dict[str, Any]] = {}
    medians: dict[str, list[float | None]] = {}
    for number, each in enumerate(done):
        for entry in (entry for content in each for entry in content["benchmarks"]):
            entries.setdefault(entry["name"], entry)
            medians.setdefault(entry["name"], [None] * len(done))[number] = entry["stats"]["median"]
    machines = [content["machine_info"]["facts"] for content in contents]
    facts = {
        **machines[0],
        "rounds": len(done),
        "load": [load for machine in machines for load in machine["load"]],
        "missing": {**machines[0]["missing"], **failed},
        "limits": next((machine["limits"] for machine in machines if machine["limits"]), {}),
    }
    return {
        "datetime": contents[0]["datetime"],
        "commit_info": contents[0]["commit_info"],
        "machine_info": {**contents[0]["machine_info"], "facts": facts},
        "benchmarks": [{**entry, "stats": _stats(medians[name])} for name, entry in entries.items()],
    }


def _stats(medians: list[float | None]) -> dict[str, Any]:
    there = [median for median in medians if median is not None]
    low, middle, high = np.percentile(there, [10, 50, 90])
    return {"median": middle, "p10": low, "p90": high, "rounds": len(there), "processes": medians}
