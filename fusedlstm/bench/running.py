"""`benchmark`: time a cell's or an LSTM's steps, beside other libraries, in turns."""

from __future__ import annotations

import contextlib
import datetime
import platform
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.backends import kernel_choice, select
from fusedlstm.backends.numpy import blas, cores, formula
from fusedlstm.backends.numpy.thread_limit import at_most
from fusedlstm.bench.child import CHECKED
from fusedlstm.bench.result import BenchmarkResult, Times
from fusedlstm.bench.steppings import LIBRARIES, OURS, Task, inputs_of, version
from fusedlstm.bench.worker import Worker, WorkerEndedError
from fusedlstm.selftest.arithmetics import ARITHMETICS
from fusedlstm.validation.arguments import check_bool, check_choice, check_real, check_size, fail
from fusedlstm.validation.weights import as_layers, check_owner

if TYPE_CHECKING:
    from fusedlstm.bench.child import Ready
    from fusedlstm.bench.schedule import Block
    from fusedlstm.cell import LSTMCell
    from fusedlstm.lstm import LSTM
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.weights import LSTMWeights

STEPS = ("call", "out", "stepper")
_TURN, _MOST_TURNS = 2.0, 10  # seconds that each library steps in a turn, or longer to have at most so many turns
_SHORTEST = 1e-6  # seconds from a step to the next one
_PAUSE = 0.3  # seconds between blocks, so that the last library's threads stop spinning
_SLACK = 10  # times the difference that is allowed after one step


def benchmark(
    owner: LSTMCell | LSTM,
    batch: int = 1,
    *,
    every: float | None = 0.01,
    seconds: float = 10.0,
    step: str = "call",
    peers: bool = True,
) -> BenchmarkResult:
    """Time the steps of a cell or an LSTM on this machine, beside PyTorch's and onnxruntime's if they are installed.

    By default a step begins every 10 ms, as in a program that serves live streams. Between steps the caches and the
    processor's clock cool down, so steps take longer than back to back. The schedule is fixed beforehand. If
    a step is slow, those after it begin late, and their times from their deadlines show it.

    Each library runs in a process of its own, with the same weights, inputs and number of threads. The processes take
    turns of about 2 seconds. Before a library is timed, its results are compared with the formula in float64. On a GPU,
    a time is from x in host memory to the output in host memory. Run nothing else meanwhile.

    Args:
        owner: an LSTMCell, or a unidirectional LSTM. The other processes get a copy.
        batch: B, at least 1.
        every: seconds from the beginning of one step to that of the next, from 1e-6 to `seconds`. None takes steps back
            to back.
        seconds: how long each library steps, in all its turns. The quantile p99.9 needs 10,000 steps: 100 seconds.
        step: how to step: "call" returns new arrays. "out" alternates between two states with `out=`, which only a cell
            takes. "stepper" uses a Stepper.
        peers: whether to time other libraries, too.

    Returns:
        A BenchmarkResult. `print` shows it as a table with a histogram, and `.to_json()` returns it as JSON.
        `.libraries` has the times of each library in seconds, fusedlstm's first.

    Raises:
        TypeError: an argument has the wrong kind.
        ValueError: an argument has a wrong value, or the LSTM is bidirectional.
        RuntimeError: fusedlstm's own process can't step, or its results are wrong.
    """
    check_owner("owner", owner)
    B = check_size("batch", batch, 1)
    if every is not None:
        every = _positive("every", every)
    total = _positive("seconds", seconds)
    if every is not None and not _SHORTEST <= every <= total:
        hint = "every=None takes steps back to back"
        fail(ValueError, "every", f"from {_SHORTEST:g} to {total:g}, which is `seconds`", f"{every:g}", hint)
    check_choice("step", step, STEPS)
    if step == "out" and not owner._is_cell:
        fail(ValueError, "step", "'call' or 'stepper' with an LSTM", "'out'", "LSTM.step has no out=")
    check_bool("peers", peers)
    threads = None
    if owner.backend == "numpy":
        threads = at_most(owner._options["threads"]) or max(1, round(cores.available()))
    run = _Run(owner, B, every, total, step, threads)
    try:
        run.start(LIBRARIES if peers else (OURS,))
        run.take_turns()
        return run.result()
    finally:
        run.close()


def _positive(name: str, value: Any) -> float:
    number = check_real(name, value)
    if number <= 0:
        fail(ValueError, name, "a number of seconds above 0", str(value))
    return number


class _Run:
    """The processes of a benchmark, and their times so far."""

    def __init__(
        self, owner: LSTMCell | LSTM, B: int, every: float | None, seconds: float, how: str, threads: int | None
    ) -> None:
        self._owner, self._B, self._every, self._seconds = owner, B, every, seconds
        self._how, self._threads = how, threads
        self._facts = _facts(owner.device)
        self._warning = (cores.complaint(threads) or "") if threads is not None else ""
        self._workers: dict[str, Worker] = {}
        self._ready: dict[str, Ready] = {}
        self._blocks: dict[str, list[Block]] = {}
        self._not_timed: dict[str, str] = {}
        self._wrong: list[str] = []

    def start(self, libraries: Any) -> None:
        """Start a process for each library, and check its results."""
        owner = self._owner
        weights: LSTMWeights | StackedWeights = owner._weights
        wanted = _reference(weights, self._B)
        allowed = _SLACK * ARITHMETICS[kernel_choice.arithmetic(weights.dtype.name, owner._options["precision"])].h
        for library in libraries:
            mine = owner if library == OURS else None
            try:
                worker = Worker(Task(library, mine, weights, self._B, self._how, self._threads, owner.device))
            except WorkerEndedError as error:
                self._leave_out(library, str(error))
                continue
            self._workers[library] = worker
            if isinstance(worker.ready, str):
                self._leave_out(library, worker.ready)
                continue
            difference = _difference(worker.ready.states, wanted)
            if difference <= allowed:
                self._ready[library], self._blocks[library] = worker.ready, []
                continue
            self._wrong.append(library)
            words = f"its results are WRONG: {difference:.1e} from the formula in float64 (allowed: {allowed:.1e})"
            self._leave_out(library, words)

    def _leave_out(self, library: str, why: str) -> None:
        if library == OURS:
            raise RuntimeError(f"{self._owner!r} can't be timed: {why}")
        self._not_timed[library] = why
        for part in (self._ready, self._blocks):
            part.pop(library, None)
        if library in self._workers:
            self._workers[library].close()

    def take_turns(self) -> None:
        """Time all libraries, a block of each in a turn."""
        turns = max(1, min(_MOST_TURNS, round(self._seconds / max(_TURN, self._every or 0))))
        for _ in range(turns):
            for library, blocks in list(self._blocks.items()):
                time.sleep(_PAUSE)
                try:
                    blocks.append(self._workers[library].block(self._every, self._seconds / turns))
                except WorkerEndedError as error:
                    self._leave_out(library, str(error))

    def result(self) -> BenchmarkResult:
        """Return everything."""
        times = [
            Times.of(
                self._blocks[library],
                paced=self._every is not None,
                library=ready.library,
                first=ready.first,
                allocated=ready.allocated,
                threads=self._threads,
            )
            for library, ready in self._ready.items()
        ]
        return BenchmarkResult(
            what=repr(self._owner),
            batch=self._B,
            step=self._how,
            every=self._every,
            seconds=self._seconds,
            facts={**self._facts, "load after": _load()},
            warning=self._warning,
            libraries=tuple(times),
            not_timed=self._not_timed,
            wrong=tuple(self._wrong),
        )

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers.values():
            worker.close()


def _reference(weights: LSTMWeights | StackedWeights, B: int) -> list[Any]:
    """Return h and c of each layer after CHECKED steps from zeros, by the formula in float64."""
    layers = as_layers(weights)
    states = [(np.zeros((B, layer.output_size)), np.zeros((B, layer.hidden_size))) for layer in layers.layers]
    for x in inputs_of(weights, B, CHECKED).astype(np.float64):
        for k, layer in enumerate(layers.layers):
            states[k] = formula.step(layer, x, *states[k])
            x = states[k][0] + x if layers.residual[k] else states[k][0]
    return states


def _difference(got: list[Any], wanted: list[Any]) -> float:
    """Return the largest difference, divided by the wanted number if that is over 1. Infinite if one is NaN."""
    worst = 0.0
    for of_layer, right in zip(got, wanted, strict=True):
        for a, b in zip(of_layer, right, strict=True):
            apart = np.abs(a.astype(np.float64) - b) / np.maximum(1, np.abs(b))
            worst = max(worst, float(np.max(np.where(np.isnan(apart), np.inf, apart), initial=0)))
    return worst


def _facts(device: str) -> dict[str, str]:
    """Return what the times depend on."""
    facts = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "fusedlstm": version(),
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "NumPy": f"{np.__version__}, {blas.describe()}",
        "processor": _processor(),
        "cores": f"{cores.available():.3g}",
        "load before": _load(),
    }
    if device != "cpu":
        facts |= select.facts_of_gpu(select.parse("device", device)[1])
        facts["times"] = "from x in host memory to the output in host memory"
    return facts


def _load() -> str:
    return f"{cores.load():.2f}"


def _processor() -> str:
    """Return the processor's name."""
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()
