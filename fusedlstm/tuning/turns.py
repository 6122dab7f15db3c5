"""Time each kernel's steps of a layer, single or in runs. Check the results first, then time all kernels in turns."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from fusedlstm.cell import LSTMCell
from fusedlstm.lstm import LSTM
from fusedlstm.tuning.periodic import Periodic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from fusedlstm.backends.measured import Layer
    from fusedlstm.weights import LSTMWeights

    Work: TypeAlias = Callable[[], object]
    Check: TypeAlias = Callable[[], str | None]  # returns what is wrong with the results
    Timer: TypeAlias = Callable[[Work, int], float]  # takes work, and how many times to do it

STEPS = 64  # in a run, as in the largest graph of a call
_FEWEST_STEPS = 4  # in the smallest graph of a call that can scan
_MOST_BUFFERS = 256 << 20  # bytes of the inputs and outputs of a run, as each kernel has its own
_TURNS = 9
_BURST = 400e-6  # seconds of work in one timing
_MOST_TIMES = 40  # in a burst


@dataclass
class Found:
    """The times of a layer at one number of rows.

    Attributes:
        seconds: the median time of a step by kernel.
        unable: why other kernels can't run, or can't be timed.
        wrong: what is wrong with the results of others.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    unable: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)


def measure_steps(weights: LSTMWeights, layer: Layer, B: int, *, backend: str, precision: str, timer: Timer) -> Found:
    """Measure all kernels of a layer's single steps, in Steppers of B rows.

    Args:
        weights: the weights of the layer.
        layer: as from `Layer.of`, for these weights.
        B: the number of rows.
        backend: "cuda" or "cuda:<index>".
        precision: as in LSTMCell.
        timer: repeats some work, and returns the mean seconds.
    """
    inputs = Periodic(weights, layer.arithmetic)

    def made(kernel: str) -> tuple[Work, Check]:
        cell = LSTMCell(weights, backend=backend, precision=precision, kernel=kernel)
        stepper = cell.stepper(B)
        return stepper.step, lambda: inputs.complaint(cell, stepper)

    return _measure(layer.kernels(), made, timer)


def measure_sequences(
    weights: LSTMWeights, layer: Layer, B: int, *, backend: str, precision: str, timer: Timer
) -> Found:
    """Measure all kernels of a layer's sequences, in Sequencers of B rows, and return the times of a step.

    The arguments are those of `measure_steps`.
    """
    inputs, T = Periodic(weights, layer.arithmetic), steps_of_run(weights, B)

    def made(kernel: str) -> tuple[Work, Check]:
        lstm = LSTM(weights, backend=backend, precision=precision, kernel=kernel)
        if lstm.kernels(T, B) != (kernel,):
            raise RuntimeError("with this many rows, a call runs too few steps at once")
        sequencer = lstm.sequencer(T, B)
        return sequencer.run, lambda: inputs.complaint_of_run(lstm, sequencer)

    found = _measure(layer.kernels_of_sequences(), made, timer)
    found.seconds = {kernel: seconds / T for kernel, seconds in found.seconds.items()}
    return found


def steps_of_run(weights: LSTMWeights, B: int) -> int:
    """Return how many steps a run of B rows has: STEPS, or fewer if its inputs and outputs are large."""
    nbytes = B * (weights.input_size + weights.output_size) * weights.dtype.itemsize
    return max(_FEWEST_STEPS, min(STEPS, _MOST_BUFFERS // nbytes))


def _measure(kernels: Iterable[str], made: Callable[[str], tuple[Work, Check]], timer: Timer) -> Found:
    """Measure kernels. `made` returns the work of one, and the check of its results.

    These and the timer raise RuntimeError or MemoryError if the kernel can't run or be timed: the GPU is too old, a
    library is missing, memory runs out, or the host is too slow.
    """
    found = Found()
    works: dict[str, Work] = {}
    for kernel in kernels:
        with _noting(found, kernel):
            work, check = made(kernel)
            complaint = check()
            if complaint is None:
                works[kernel] = work
            else:
                found.wrong[kernel] = complaint
    times = _in_turns(works, timer, found)
    found.seconds = {kernel: statistics.median(each) for kernel, each in times.items() if kernel not in found.unable}
    return found


def _in_turns(works: dict[str, Work], timer: Timer, found: Found) -> dict[str, list[float]]:
    """Return the seconds of each work in each turn. Works that can't be timed are noted, and left out from then on.

    Each turn times all of them, so a change in the GPU's speed affects all alike.
    """
    bursts: dict[str, int] = {}
    for kernel, work in works.items():
        with _noting(found, kernel):
            bursts[kernel] = _burst(timer(work, 3))
    times: dict[str, list[float]] = {kernel: [] for kernel in bursts}
    for _ in range(_TURNS):
        for kernel, burst in bursts.items():
            if kernel not in found.unable:
                with _noting(found, kernel):
                    times[kernel].append(timer(works[kernel], burst))
    return times


@contextlib.contextmanager
def _noting(found: Found, kernel: str) -> Iterator[None]:
    """Note an error as the reason why a kernel isn't measured."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        found.unable[kernel] = str(error)


def _burst(seconds: float) -> int:
    """Return how often to repeat the work in one timing."""
    return max(1, min(_MOST_TIMES, round(_BURST / max(seconds, 1e-7))))
