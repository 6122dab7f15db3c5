"""Check the results of a Stepper or a Sequencer. Rows of inputs repeat, so the formula is computed for one period only.

The period is prime, so the result differs if a kernel swaps rows, or takes them from another tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.arrays.host import to_host
from fusedlstm.backends.numpy import formula
from fusedlstm.selftest.arithmetics import ARITHMETICS
from fusedlstm.state import LSTMState
from fusedlstm.stepper import Stepper

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.cell import LSTMCell
    from fusedlstm.lstm import LSTM
    from fusedlstm.sequencer import Sequencer
    from fusedlstm.weights import LSTMWeights

PERIOD = 97
_STEPS = 2  # as a Stepper may have a graph for each of two buffers
_BUFFERS = 2
_CHECKED_STEPS = 4  # of a Sequencer, one more than the fewest of a scan
# The error of a product from rounding its factors and its sum, relative to the sum of its absolute terms.
_OF_PRODUCTS = {"float64": 1e-15, "float32": 1e-6, "tf32": 2**-10, "float16": 1e-6, "bfloat16": 1e-6}


class Periodic:
    """One period of a cell's inputs, and the results of a step from them by the formula in float64.

    Args:
        weights: the cell's weights.
        arithmetic: as from `kernel_choice.arithmetic`. It decides how far results may be from the formula.

    Attributes:
        x: (PERIOD, I); h and c likewise. The weights' dtype represents all numbers exactly.
        wanted: the new h and c.
    """

    def __init__(self, weights: LSTMWeights, arithmetic: str) -> None:
        self._weights, rng, dtype = weights, np.random.default_rng(0), weights.dtype
        sizes = weights.input_size, weights.output_size, weights.hidden_size
        self.x, self.h, self.c = (rng.uniform(-1, 1, (PERIOD, size)).astype(dtype) for size in sizes)
        self.c = self.c.astype(dtypes.state_dtype(dtype))
        self.wanted = formula.step(weights, self.x, self.h, self.c)
        allowed = ARITHMETICS[arithmetic]
        of_products = _OF_PRODUCTS[arithmetic] * _largest_sum(weights, self.x, self.h)
        widened = 1.0 if weights.weight_hr is None else max(1.0, float(_sizes(weights.weight_hr).sum(axis=1).max()))
        self._tolerances = widened * (allowed.h + of_products), allowed.c + of_products

    def complaint(self, cell: LSTMCell, stepper: Stepper[LSTMState]) -> str | None:
        """Step from the inputs, and return what is wrong with the results, or None.

        Steps from states of NaN come first, so a result that isn't written is NaN.
        """
        rows = np.arange(stepper.batch) % PERIOD
        x, state = cell.asarray(self.x[rows]), _on_device(cell, self.h[rows], self.c[rows])
        poison(stepper)
        for _ in range(_STEPS):
            stepper.write(state)
            output = stepper.step(x)
            found = stepper.read()
            for name, got, wanted, tolerance in (
                ("the output", output, self.wanted[0], self._tolerances[0]),
                ("h", found.h, self.wanted[0], self._tolerances[0]),
                ("c", found.c, self.wanted[1], self._tolerances[1]),
            ):
                worst = _worst(to_host("result", got), wanted, rows)
                if not worst <= tolerance:
                    return f"{name} differs from the formula by {worst:.1e}, but at most {tolerance:.1e} is allowed"
        return None

    def complaint_of_run(self, lstm: LSTM, sequencer: Sequencer) -> str | None:
        """Run the Sequencer, and return what is wrong with the first outputs or the final h, or None.

        In step t, row r has the x of row r + t. The formula continues from the outputs that it is compared with, as two
        correct sequences may drift apart. c isn't compared: an error in c shows in the next output.
        """
        T, rows = sequencer.steps, np.arange(sequencer.batch) % PERIOD
        poison(sequencer)
        sequencer.write((_on_device(lstm, self.h[rows], self.c[rows]),))
        outputs = sequencer.run(lstm.asarray(self.x[(rows + np.arange(T)[:, None]) % PERIOD]))
        period = np.arange(min(sequencer.batch, PERIOD))
        h, c = self.h[period], self.c[period]
        for t in range(min(T, _CHECKED_STEPS)):
            got = to_host("outputs", outputs[t])
            wanted, c = formula.step(self._weights, self.x[(period + t) % PERIOD], h, c)
            tolerance = (t + 1) * self._tolerances[0] * max(1.0, float(_sizes(h).max()))  # errors of c add up
            worst = _worst(got, wanted, rows)
            if not worst <= tolerance:
                return f"output {t} differs from the formula by {worst:.1e}, but at most {tolerance:.1e} is allowed"
            h = got[period]
        (final,) = sequencer.read()
        if to_host("h", final.h).tobytes() != to_host("outputs", outputs[T - 1]).tobytes():
            return "the final h is not the last output"
        return None


def poison(owner: Stepper[LSTMState] | Sequencer) -> None:
    """Fill all buffers of a Stepper's state with NaN, on a GPU, or of a Sequencer's state and outputs.

    Whatever the next step or run leaves unwritten then shows.
    """
    state: Any = owner.read()
    for each in state if isinstance(state, tuple) else (state,):
        for array in (each.h, each.c):
            with array.device:
                array.data.memset_async(0xFF, array.nbytes)  # NaN in every dtype
    for _ in range(_BUFFERS):
        owner.write(state)
        owner.step() if isinstance(owner, Stepper) else owner.run()


def _on_device(cell: LSTMCell | LSTM, h: NumpyArray, c: NumpyArray) -> LSTMState:
    return LSTMState(h=cell.asarray(h), c=cell.asarray(c, c.dtype))


def _largest_sum(weights: LSTMWeights, x: NumpyArray, h: NumpyArray) -> float:
    """Return the largest sum of the absolute products of a gate, at least 1."""
    parts = ((x, weights.weight_ih), (h, weights.weight_hh))
    return float(np.max(sum(_sizes(a) @ _sizes(weight).T for a, weight in parts), initial=1.0))


def _sizes(a: NumpyArray) -> NumpyArray:
    return np.abs(a.astype(np.float64))


def _worst(got: Any, wanted: NumpyArray, rows: NumpyArray) -> float:
    """Return the largest difference, divided by the wanted number's size if that is over 1. NaN if one is NaN."""
    worst = 0.0
    for start in range(0, len(rows), PERIOD):  # part by part, as there may be many rows
        right = wanted[: len(got[start : start + PERIOD])]
        differences = np.abs(got[start : start + PERIOD].astype(np.float64) - right)
        worst = max(worst, float(np.max(differences / np.maximum(1, np.abs(right)), initial=0)), key=_nan_last)
    return worst


def _nan_last(number: float) -> float:
    return np.inf if np.isnan(number) else number
