"""What probes need of a GPU: kernels, launches, and rows of times whose data was checked."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from benchmarks.brief import broken, source
from benchmarks.brief.event_time import REPETITIONS, Timer, Times

if TYPE_CHECKING:
    from collections.abc import Callable

# Of CUfunction_attribute; CuPy doesn't export it. Clusters of more than 8 blocks need it.
_NON_PORTABLE_CLUSTERS = 14
_UNSUPPORTED = ("INVALID_CLUSTER_SIZE", "COOPERATIVE_LAUNCH_TOO_LARGE")  # errors that say what a GPU can't do


class Gpu:
    """The first GPU, as the current device.

    Args:
        dry: whether the driver drops all work.
    """

    def __init__(self, *, dry: bool) -> None:
        device = cupy.cuda.Device(0)
        device.use()
        self.dry = dry
        self.capability = int(device.compute_capability)
        self.multiprocessors: int = device.attributes["MultiProcessorCount"]
        self.timer = Timer(dry=dry)

    def compile(self, file: str) -> Callable[[str], Any]:
        """Compile a file, and return a function from names to kernels."""
        module = cupy.RawModule(code=source.text(file), options=source.OPTIONS)
        get: Callable[[str], Any] = module.get_function
        return get

    def allow_large_cluster(self, kernel: Any) -> None:
        """Let a kernel have clusters that not every GPU can have."""
        cupy.cuda.driver.funcSetAttribute(kernel.kernel.ptr, _NON_PORTABLE_CLUSTERS, 1)

    def row(
        self,
        variant: str,
        queue: Callable[[], object],
        *,
        complaint: Callable[[], str | None],
        empty: Callable[[], object] | None = None,
        rounds: int = 1,
        repetitions: int = REPETITIONS,
        **more: Any,
    ) -> dict[str, Any]:
        """Measure, and return a row with the seconds of a call, and those of one round less the empty launch.

        Args:
            variant: what is measured.
            queue: queues the work on the current stream.
            complaint: waits for the work, and returns what is wrong with the data of all rounds since the last call,
                or None.
            empty: queues the same without rounds; None if there is nothing to subtract.
            rounds: how often the work is repeated in one call of `queue`.
            repetitions: how often `queue` is timed.
            more: facts for the row.
        """
        row = {"variant": variant, "rounds": rounds, **more}
        try:
            why = self._complaint(queue, complaint)
            base = None if empty is None or why else self.timer.times(empty).gpu
            times = Times(None, None) if why else self.timer.times(queue, repetitions=repetitions)
            why = why or self._complaint(lambda: None, complaint)
        except (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError) as error:
            broken.check()
            state = "unsupported" if any(name in str(error) for name in _UNSUPPORTED) else "failed"
            return row | {"state": state, "why": str(error)}
        if why:
            return row | {"state": "wrong", "why": why}
        if self.dry:
            return row | {"state": "dry"}
        row |= {"state": "measured", "seconds": times.gpu, "host_seconds": times.host, "empty_seconds": base}
        return row | {"seconds_of_round": _of_round(times.gpu, base, rounds)}

    def _complaint(self, queue: Callable[[], object], complaint: Callable[[], str | None]) -> str | None:
        queue()
        return None if self.dry else complaint()


def _of_round(seconds: dict[str, float] | None, empty: dict[str, float] | None, rounds: int) -> dict[str, float] | None:
    if seconds is None:
        return None
    less = empty["median"] if empty else 0.0
    return {name: (value - less) / rounds for name, value in seconds.items()}


class Packed:
    """A launch through the driver, whose arguments are packed once.

    Args:
        kernel: a kernel of CuPy.
        grid: blocks.
        block: threads of each.
        arguments: CuPy arrays and NumPy scalars.
    """

    def __init__(self, kernel: Any, grid: int, block: int, *arguments: Any) -> None:
        self._kernel, self._sizes = kernel.kernel, (grid, 1, 1, block, 1, 1)
        self._values = [_packed(value) for value in arguments]
        self._kept = arguments
        self._pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, self._values))
        self._at = ctypes.addressof(self._pointers)

    def launch(self) -> None:
        """Launch on the current stream."""
        stream = cupy.cuda.get_current_stream().ptr
        cupy.cuda.driver.launchKernel(self._kernel.ptr, *self._sizes, 0, stream, self._at, 0)

    def launch_together(self) -> None:
        """Launch all blocks at once, or raise if the GPU has no room for them."""
        stream = cupy.cuda.get_current_stream().ptr
        cupy.cuda.driver.launchCooperativeKernel(self._kernel.ptr, *self._sizes, 0, stream, self._at)


def _packed(value: Any) -> Any:
    """Return the value as a ctypes object."""
    if isinstance(value, cupy.ndarray):
        return ctypes.c_void_p(value.data.ptr)
    return np.ctypeslib.as_ctypes_type(value.dtype)(value.item())
