"""Compare arrays with what they should be, and keep the worst difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays.host import to_host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.selftest.arithmetics import Arithmetic
    from fusedlstm.selftest.reference import Pair
    from fusedlstm.state import LSTMState


class Comparison:
    """The worst of several comparisons: the one whose difference is largest relative to its tolerance.

    Args:
        arithmetic: has the tolerances.
        steps: a factor for the errors of several steps or layers. If it isn't 1, c has the tolerance of h, as later
            steps and layers read h.

    Attributes:
        difference: the largest difference of the worst comparison; infinite if a number is not finite.
        tolerance: what was allowed there.
    """

    def __init__(self, arithmetic: Arithmetic, steps: float = 1) -> None:
        self._of_h = steps * arithmetic.h
        self._of_c = arithmetic.c if steps == 1 else self._of_h
        self.difference, self.tolerance = 0.0, self._of_h

    @property
    def passed(self) -> bool:
        """Whether no difference is larger than allowed."""
        return self.difference <= self.tolerance

    def add(self, got: Any, wanted: NumpyArray, tolerance: float | None = None) -> None:
        """Compare an array of any library. The default tolerance is that of h."""
        host, allowed = to_host("result", got), self._of_h if tolerance is None else tolerance
        if host.shape != wanted.shape:
            raise AssertionError(f"the result has shape {host.shape} instead of {wanted.shape}")
        difference = float(np.abs(host.astype(np.float64) - wanted).max(initial=0))
        difference = difference if np.isfinite(difference) else np.inf
        if difference * self.tolerance >= self.difference * allowed:
            self.difference, self.tolerance = difference, allowed

    def add_states(self, got: Sequence[LSTMState], wanted: Sequence[Pair]) -> None:
        """Compare h and c of each layer."""
        for state, (h, c) in zip(got, wanted, strict=True):
            self.add(state.h, h)
            self.add(state.c, c, self._of_c)
