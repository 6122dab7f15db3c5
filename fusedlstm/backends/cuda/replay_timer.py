"""Time a Stepper's or a Sequencer's graphs on a GPU: replayed between two events, while the host is ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

_ROWS = 2048  # of square matrices, whose products keep the GPU busy while the host queues steps
_MOST_PRODUCTS = 4096  # at once


class ReplayTimer:
    """Times steps on a GPU, on CuPy's current stream.

    Args:
        index: the GPU.
    """

    def __init__(self, index: int) -> None:
        self._device = cupy.cuda.Device(index)
        with self._device:
            self._a = cupy.ones((_ROWS, _ROWS), np.float32)
            self._product = cupy.empty_like(self._a)
        self._products = 1  # before each measurement

    def __call__(self, step: Callable[[], object], times: int) -> float:
        """Return the mean seconds of a step on the GPU, from `times` steps one after the other.

        Raises:
            RuntimeError: the host is too slow to queue so many steps in time.
        """
        with self._device:
            while self._products <= _MOST_PRODUCTS:
                milliseconds, was_ahead = self._once(step, times)
                if was_ahead:
                    return milliseconds / 1e3 / times
                self._products *= 2
        raise RuntimeError(f"the host can't queue {times} steps while the GPU multiplies large matrices")

    def _once(self, step: Callable[[], object], times: int) -> tuple[float, bool]:
        """Return the milliseconds of the steps, and whether all were queued before the first one began."""
        first, last = cupy.cuda.Event(), cupy.cuda.Event()
        stream: Any = cupy.cuda.get_current_stream()
        for _ in range(self._products):
            cupy.matmul(self._a, self._a, out=self._product)
        first.record(stream)
        for _ in range(times):
            step()
        was_ahead = not first.done
        last.record(stream)
        last.synchronize()
        return float(cupy.cuda.get_elapsed_time(first, last)), was_ahead
