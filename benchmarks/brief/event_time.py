"""Time work on a GPU by events. The host is ahead: it queues everything before the GPU reaches the first event."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.brief import source

if TYPE_CHECKING:
    from collections.abc import Callable

REPETITIONS = 20
_LEAST_DELAY, _MOST_DELAY = 100e-6, 50e-3  # seconds for which the GPU spins while the host queues work
_AHEAD = 0.7  # the part of this time in which the host must be done


class Times(NamedTuple):
    """Seconds of one call, each as median, p10 and p90.

    Attributes:
        gpu: from the first event to the last; None if the host took too long to queue the work, or in a dry run.
        host: to queue it; None in a dry run.
    """

    gpu: dict[str, float] | None
    host: dict[str, float] | None


class Timer:
    """Times work on CuPy's current stream.

    Args:
        dry: whether nothing runs, so that there is nothing to time.
    """

    def __init__(self, *, dry: bool) -> None:
        import cupy

        self.dry = dry
        module = cupy.RawModule(code=source.text("spin.cu"), options=source.OPTIONS)
        self._spin, self._busy = module.get_function("spin"), module.get_function("busy")

    def warm_up(self, seconds: float) -> float | None:
        """Keep all multiprocessors busy, and return their clock in MHz."""
        import cupy

        blocks, threads = 8 * cupy.cuda.Device().attributes["MultiProcessorCount"], 256  # all that run at once
        out, measured = cupy.empty(blocks * threads, np.float32), cupy.empty(2, np.uint64)
        self._busy((blocks,), (threads,), (out, measured, np.uint64(1e9 * seconds)))
        cycles, nanoseconds = measured.get()
        return None if self.dry else 1e3 * float(cycles) / float(nanoseconds)

    def times(self, queue: Callable[[], object], *, repetitions: int = REPETITIONS, calls: int = 1) -> Times:
        """Return the time of each of the `calls` calls that `queue` makes.

        The first run only warms up. If the host was too slow, a run is repeated with a longer delay.
        """
        stream = _stream()
        queue()
        stream.synchronize()
        if self.dry:
            return Times(None, None)
        gpu: list[float] = []
        host: list[float] = []
        delay = _LEAST_DELAY
        while len(gpu) < repetitions:
            seconds, queued = self._once(queue, delay, stream)
            if queued > _AHEAD * delay:
                if delay == _MOST_DELAY:
                    return Times(None, percentiles([queued / calls]))
                delay = min(_MOST_DELAY, 2 * max(delay, queued))
                continue
            gpu.append(seconds / calls)
            host.append(queued / calls)
        return Times(percentiles(gpu), percentiles(host))

    def _once(self, queue: Callable[[], object], delay: float, stream: Any) -> tuple[float, float]:
        """Return the seconds of the work on the GPU, and those in which the host queued it."""
        import cupy

        first, last = cupy.cuda.Event(), cupy.cuda.Event()
        self._spin((1,), (1,), (np.uint64(1e9 * delay),))
        first.record(stream)
        start = time.perf_counter()
        queue()
        queued = time.perf_counter() - start
        last.record(stream)
        last.synchronize()
        return cupy.cuda.get_elapsed_time(first, last) / 1e3, queued


def _stream() -> Any:
    import cupy

    return cupy.cuda.get_current_stream()


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return the median, p10 and p90."""
    low, median, high = np.percentile(seconds, [10, 50, 90])
    return {"median": float(median), "p10": float(low), "p90": float(high)}
