"""The host's time of calls on a GPU, which bounds small batches: python -m benchmarks host [RESULT.json].

Without a GPU, the real CuPy runs on the fake driver of tests/driver, which drops all work. Each time is also given in
units of `cupy.add(a, b, out=a)`, timed in turns with the call: that depends less on the machine.
"""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.machine import ROOT, cpu_model, when
from benchmarks.units import quantity, ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

B, I, N, T = 64, 128, 128, 20
ROUNDS, CALLS = 40, 50


class Row(NamedTuple):
    """The time of a call until it returns.

    Attributes:
        dtype: the dtype of the cell.
        call: how it is written.
        kernel: the kernel that steps.
        seconds: the median.
        adds: the median of the time divided by that of `cupy.add`.
    """

    dtype: str
    call: str
    kernel: str
    seconds: float
    adds: float


def has_driver() -> bool:
    """Return whether NVIDIA's driver is installed."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def install_fake_driver() -> None:
    """Make the CuPy that is imported later use the fake driver, without work."""
    os.environ["DRIVER_ORDER"] = "never"
    sys.path.insert(0, str(ROOT / "tests"))
    import driver

    reason = driver.missing()
    if reason is not None:
        raise OSError(f"the host's time can't be measured: there is no GPU, and {reason}")
    driver.install()


def calls(dtype: str) -> Iterator[tuple[str, str, int, Callable[[], Any]]]:
    """Yield what is timed: how a call is written, its kernel, how many steps it takes, and the call."""
    import cupy
    import numpy as np

    from fusedlstm import LSTM, LSTMCell, LSTMWeights, StatePool

    weights = LSTMWeights.random(I, N, seed=0, dtype=dtype)
    cell = LSTMCell(weights, backend="cuda")
    x, state, out = cell.asarray(cupy.zeros((B, I))), cell.zero_state(B), cell.zero_state(B)
    first = cupy.zeros((B,), bool)
    kernel = cell._engine.kernel_for(B)
    yield "cell(x, state)", kernel, 1, lambda: cell(x, state)
    yield "cell(x, state, out=out)", kernel, 1, lambda: cell(x, state, out=out)
    yield "cell(x, state, is_first=first)", kernel, 1, lambda: cell(x, state, is_first=first)
    stepper = cell.stepper(B)
    yield "stepper.step()", stepper.kernels[0], 1, stepper.step
    yield "stepper.step(x)", stepper.kernels[0], 1, lambda: stepper.step(x)
    on_host, host_x, flags = cell.stepper(B, host=True), x.get(), np.arange(B) == 0
    yield "stepper.step(), host=True", stepper.kernels[0], 1, on_host.step
    yield "stepper.step(x), host=True", stepper.kernels[0], 1, lambda: on_host.step(host_x)
    yield "stepper.step(x, first), host=True", stepper.kernels[0], 1, lambda: on_host.step(host_x, flags)
    yield "the next step() without flags", stepper.kernels[0], 1, on_host.step
    pool, y = StatePool(cell, 4096), cell.asarray(cupy.zeros((B, N)))
    slots = pool.allocate(B)
    device_slots = cupy.asarray(slots)
    of_pool = pool.kernels(B)[0]
    yield "pool.step(x, slots, out=y)", of_pool, 1, lambda: pool.step(x, slots, out=y)
    yield "pool.step(x, device_slots, out=y)", of_pool, 1, lambda: pool.step(x, device_slots, out=y)
    lstm, xs = LSTM(weights, backend="cuda"), cell.asarray(cupy.zeros((T, B, I)))
    yield f"lstm(xs), a step of {T}", kernel, T, lambda: lstm(xs)
    sequencer = lstm.sequencer(T, B)
    yield "sequencer.run()", sequencer.kernels[0], 1, sequencer.run


def measured(call: Callable[[], Any], steps: int) -> tuple[float, float]:
    """Return the median seconds of a step, and the median of its ratio to `cupy.add`'s in the same round."""
    import cupy

    a = cupy.zeros((B, N), "float32")

    def seconds(work: Callable[[], Any], times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            work()
        taken = (time.perf_counter() - start) / times
        cupy.cuda.Device().synchronize()  # so that a real GPU's queue doesn't fill up
        return taken

    times = max(1, CALLS // steps)
    seconds(call, times)
    rounds = [(seconds(call, times) / steps, seconds(lambda: cupy.add(a, a, out=a), CALLS)) for _ in range(ROUNDS)]
    return statistics.median(one for one, _ in rounds), statistics.median(one / add for one, add in rounds)


def rows() -> list[Row]:
    """Time all calls."""
    return [
        Row(dtype, call, kernel, *measured(work, steps))
        for dtype in ("float32", "bfloat16")
        for call, kernel, steps, work in calls(dtype)
    ]


def measure(result: Path | None = None) -> list[str]:
    """Time all calls, and return a table as lines. Also write a file, if it is named."""
    fake = not has_driver()
    if fake:
        install_fake_driver()
    import cupy

    found = rows()
    about = {**when(), "cpu": cpu_model(), "cupy": cupy.__version__, "driver": "fake" if fake else "NVIDIA's"}
    about |= {"B": B, "I": I, "N": N, "rows": [row._asdict() for row in found]}
    if result is not None:
        result.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    what = "over a driver that does nothing" if fake else "on a GPU"
    title = f"The host's time of a call, B = {B}, I = N = {N}, CuPy {cupy.__version__} {what}, and in units of cupy.add"
    lines = [
        f"{row.dtype:9} {row.call:34} {row.kernel:13} {quantity(row.seconds, 's'):>8} {ratio(row.adds):>6}"
        for row in found
    ]
    return [title, *lines]
