"""How long a GPU works on what a call queues, by its events: without the host's time, which a call's own has too."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 20
_DELAY = 2048  # rows of the matrices whose product keeps the GPU busy meanwhile


def gpu_seconds(queue: Callable[[], object]) -> dict[str, float] | None:
    """Return the median, p10 and p90 of the seconds that work on the current streams takes.

    The events stand on the legacy default stream, which CuPy and PyTorch work on. Other work is queued before the
    first of them, so that all that is between them waits in the queue when the GPU comes to it. Where the queue is
    too short for that, so that the host waits for the other work before it can queue all, it is None.
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
    seconds = []
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
            return None
        seconds.append(cupy.cuda.get_elapsed_time(first, last) / 1e3)
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
