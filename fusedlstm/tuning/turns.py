"""Time each kernel's steps of a layer: the results first, then the times, in turns."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from fusedlstm.backends.measured import kernels_of
from fusedlstm.cell import LSTMCell
from fusedlstm.tuning.periodic import Periodic

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.backends.measured import Layer
    from fusedlstm.state import LSTMState
    from fusedlstm.stepper import Stepper
    from fusedlstm.weights import LSTMWeights

    Timer: TypeAlias = Callable[[Callable[[], object], int], float]  # takes a step, and how many times to take it

_TURNS = 9
_BURST = 400e-6  # seconds of the steps that are timed as one
_MOST_STEPS = 40  # in a burst


@dataclass
class Found:
    """The times of a layer at one number of rows.

    Attributes:
        seconds: the median time of a step by kernel.
        unable: why other kernels can't run.
        wrong: what is wrong with the results of others.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    unable: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)


def measure(weights: LSTMWeights, layer: Layer, B: int, *, backend: str, precision: str, timer: Timer) -> Found:
    """Measure all kernels of a layer for B rows.

    Args:
        weights: the weights of the layer.
        layer: as from `Layer.of`, for these weights.
        B: the number of rows.
        backend: "cuda" or "cuda:<index>".
        precision: as in LSTMCell.
        timer: takes a step many times, and returns the seconds of one.
    """
    found, inputs = Found(), Periodic(weights, layer.arithmetic)
    steppers: dict[str, Stepper[LSTMState]] = {}
    for kernel in kernels_of(layer.arithmetic):
        try:
            cell = LSTMCell(weights, backend=backend, precision=precision, kernel=kernel)
            stepper = cell.stepper(B)
        except (RuntimeError, MemoryError) as error:  # the GPU is too old, a library is missing, memory runs out
            found.unable[kernel] = str(error)
            continue
        complaint = inputs.complaint(cell, stepper)
        if complaint is None:
            steppers[kernel] = stepper
        else:
            found.wrong[kernel] = complaint
    found.seconds = _in_turns(steppers, timer)
    return found


def _in_turns(steppers: dict[str, Stepper[LSTMState]], timer: Timer) -> dict[str, float]:
    """Return the median seconds of a step of each Stepper.

    Each turn times all of them, so a change in the GPU's speed affects all alike.
    """
    bursts = {kernel: _burst(timer(stepper.step, 3)) for kernel, stepper in steppers.items()}
    times: dict[str, list[float]] = {kernel: [] for kernel in steppers}
    for _ in range(_TURNS):
        for kernel, stepper in steppers.items():
            times[kernel].append(timer(stepper.step, bursts[kernel]))
    return {kernel: statistics.median(each) for kernel, each in times.items()}


def _burst(seconds: float) -> int:
    """Return how many steps to time as one."""
    return max(1, min(_MOST_STEPS, round(_BURST / max(seconds, 1e-7))))
