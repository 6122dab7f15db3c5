"""Time and memory of a forward and a backward pass, beside PyTorch's: python -m benchmarks training [RESULT.json].

It compares `LSTM.vjp` with `torch.nn.LSTM`, which can't reset rows, and with `torch.nn.LSTMCell` unrolled in Python.
All run in turns in this process, on one thread. CPU time is measured, so other processes matter less. Each peak of
memory is measured in a process of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks import orphans
from benchmarks.machine import ROOT, cpu_model, when
from benchmarks.units import quantity, ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T, B, I, N = 128, 128, 256, 256
RESETS = 0.03  # the fraction of rows that a step resets
TURNS = 15
OURS, CHECKPOINTS = "fusedlstm", "fusedlstm, checkpoint_every=16"
TORCH, UNROLLED = "torch.nn.LSTM", "torch.nn.LSTMCell, unrolled"


class Row(NamedTuple):
    """The median CPU time of both passes, and their peak memory beyond that of inputs and weights."""

    what: str
    resets: bool
    seconds: float
    peak_bytes: int


def inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return xs, the flags of resets, and the gradients of the outputs."""
    rng = np.random.default_rng(0)
    xs, d_outputs = (rng.normal(size=(T, B, size)).astype(np.float32) for size in (I, N))
    return xs, rng.random((T, B)) < RESETS, d_outputs


def ours(*, resets: bool, checkpoint_every: int | None = None) -> Callable[[], object]:
    """Return a call of both passes of fusedlstm."""
    from fusedlstm import LSTM, LSTMWeights

    xs, first, d_outputs = inputs()
    lstm = LSTM(LSTMWeights.random(I, N, seed=0), backend="numpy", threads=1)
    flags = first if resets else None

    def call() -> object:
        _, _, pullback = lstm.vjp(xs, is_first=flags, checkpoint_every=checkpoint_every)
        return pullback(d_outputs, None)

    return call


def torch_lstm() -> Callable[[], object]:
    """Return a call of both passes of torch.nn.LSTM, without resets."""
    import torch

    xs, _, d_outputs = map(torch.from_numpy, inputs())
    module = torch.nn.LSTM(I, N)
    xs.requires_grad_()

    def call() -> object:
        module.zero_grad(set_to_none=True)
        xs.grad = None
        module(xs)[0].backward(d_outputs)
        return xs.grad

    return call


def unrolled() -> Callable[[], object]:
    """Return a call of both passes of torch.nn.LSTMCell, step by step, with resets."""
    import torch

    xs, first, d_outputs = map(torch.from_numpy, inputs())
    cell, kept = torch.nn.LSTMCell(I, N), ~first[..., None]
    xs.requires_grad_()

    def call() -> object:
        cell.zero_grad(set_to_none=True)
        xs.grad = None
        h = c = torch.zeros(B, N)
        outputs = []
        for x, keep in zip(xs, kept, strict=True):
            h, c = cell(x, (h * keep, c * keep))
            outputs.append(h)
        torch.stack(outputs).backward(d_outputs)
        return xs.grad

    return call


CALLS: dict[tuple[str, bool], Callable[[], Callable[[], object]]] = {
    (OURS, False): lambda: ours(resets=False),
    (OURS, True): lambda: ours(resets=True),
    (CHECKPOINTS, True): lambda: ours(resets=True, checkpoint_every=16),
    (TORCH, False): torch_lstm,
    (UNROLLED, True): unrolled,
}


def peak() -> int:
    """Return the peak of this process's memory so far, in bytes. This needs Linux."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def peak_bytes(number: int) -> int:
    """Return by how much a call raises the peak of memory of a new process."""
    program = (
        "import torch; torch.set_num_threads(1); from benchmarks.training import CALLS, peak;"
        f"call = list(CALLS.values())[{number}](); before = peak(); call(); print(peak() - before)"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        orphans.ending([sys.executable, "-c", program]),
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


def measure(result: Path | None) -> Iterator[str]:
    """Time all calls in turns, and yield the lines of a table. Write it to `result`, too."""
    import torch

    torch.set_num_threads(1)
    calls = [make() for make in CALLS.values()]
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(TURNS):
        for call, own in zip(calls, times, strict=True):
            start = time.process_time()
            call()
            own.append(time.process_time() - start)
    rows = [
        Row(*key, statistics.median(own), peak_bytes(number))
        for number, (key, own) in enumerate(zip(CALLS, times, strict=True))
    ]
    if result is not None:
        about = when() | {"machine": cpu_model(), "shape": {"T": T, "B": B, "I": I, "N": N}}
        result.write_text(
            json.dumps(about | {"rows": [row._asdict() for row in rows]}, indent=1) + "\n", encoding="utf-8"
        )
    base = {what: row.seconds for what in (TORCH, UNROLLED) for row in rows if row.what == what}
    yield f"T = B = {T}, I = N = {N}, float32, one thread, {cpu_model()}, {when()['date']}"
    yield f"{'':32} resets      time   of nn.LSTM   of nn.LSTMCell   peak"
    for row in rows:
        parts = [ratio(row.seconds / base[what]) for what in (TORCH, UNROLLED)]
        resets = f"{RESETS:.0%}" if row.resets else "no"
        yield (
            f"{row.what:32} {resets:6} {quantity(row.seconds, 's'):>9} {parts[0]:>12} {parts[1]:>16} "
            f"{row.peak_bytes / 2**20:.0f} MiB"
        )
