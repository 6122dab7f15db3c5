"""Measure how long a GPU works on what a call queues, by events, and how long the host takes to queue it.

A call's total time, until the GPU is done, includes both, except where they overlap.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 20
_DELAY = 2048  # rows of matrices, whose products keep the GPU busy while the host queues


def gpu_and_host_seconds(queue: Callable[[], object]) -> dict[str, dict[str, float] | None]:
    """Return "gpu_seconds", the time of the work on the GPU, and "host_seconds", the time until the call returns.

    Each is a median, p10 and p90. The events are on the legacy default stream, which CuPy and PyTorch use. Other work
    is queued before the first event. So when the GPU reaches it, everything up to the last event is already queued, and
    the host doesn't wait. If the queue is too short for that, the host waits for the other work. Both values are then
    None.
    """
    import cupy

    a = cupy.ones((_DELAY, _DELAY), np.float32)
    product = cupy.empty_like(a)

    def delay(times: int) -> None:
        for _ in range(times):
            cupy.matmul(a, a, out=product)

    wait = cupy.cuda.Device().synchronize
    once = _whole_seconds(lambda: delay(10), wait) / 10
    times = max(1, round(2 * _host_seconds(queue, wait) / once))
    gpu, host = [], []
    for _ in range(ROUNDS):
        first, last = cupy.cuda.Event(), cupy.cuda.Event()
        delay(times)
        first.record()
        start = time.perf_counter()
        queue()
        queued = time.perf_counter() - start
        last.record()
        wait()
        if queued > 0.8 * times * once:
            return {"gpu_seconds": None, "host_seconds": None}
        gpu.append(cupy.cuda.get_elapsed_time(first, last) / 1e3)
        host.append(queued)
    return {"gpu_seconds": _percentiles(gpu), "host_seconds": _percentiles(host)}


def _percentiles(seconds: list[float]) -> dict[str, float]:
    low, median, high = np.percentile(seconds, [10, 50, 90])
    return {"median": float(median), "p10": float(low), "p90": float(high)}


def _host_seconds(queue: Callable[[], object], wait: Callable[[], object]) -> float:
    """Return how long the host takes to queue."""
    shortest = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        queue()
        shortest = min(shortest, time.perf_counter() - start)
        wait()
    return shortest


def _whole_seconds(queue: Callable[[], object], wait: Callable[[], object]) -> float:
    """Return how long it takes until the work is done."""
    queue()
    wait()
    start = time.perf_counter()
    queue()
    wait()
    return time.perf_counter() - start
