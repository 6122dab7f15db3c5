"""How long a GPU works on what a call queues, by its events, and how long the host takes to queue it.

A call's own time, from its start until the GPU is done, has both, as far as they don't overlap.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 20
_DELAY = 2048  # rows of the matrices whose product keeps the GPU busy meanwhile


def gpu_and_host_seconds(queue: Callable[[], object]) -> dict[str, dict[str, float] | None]:
    """Return "gpu_seconds", which work on the current streams takes, and "host_seconds", until the call has returned.

    Each is a median, p10 and p90. The events stand on the legacy default stream, which CuPy and PyTorch work on. Other
    work is queued before the first of them, so that all that is between them waits in the queue when the GPU comes to
    it, and the host waits for nothing. Where the queue is too short for that, so that the host waits for the other work
    before it can queue all, both are None.
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
    """Return how long it takes until work is done."""
    queue()
    wait()
    start = time.perf_counter()
    queue()
    wait()
    return time.perf_counter() - start
