"""The backward pass of one direction of a layer through time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.backends.numpy.backward_units import units_of
from fusedlstm.backends.numpy.matmul import Product, Weight
from fusedlstm.backends.numpy.resets import select_rows
from fusedlstm.gradients import WeightGradients
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.backends.numpy.recording import Record
    from fusedlstm.backends.numpy.timeline import Timeline
    from fusedlstm.weights import LSTMWeights

# The most elements of d_z, and the most steps, in one product over all rows of these steps. Such products are large
# enough to be fast, and their memory is bounded.
_CHUNK = 1 << 21
_MOST_STEPS = 64


@dataclass(frozen=True)
class Piece:
    """Consecutive steps of a direction, time-major, and the gradients that reach them.

    Attributes:
        xs: (T, B, I), any strides.
        state: the state before the first step in the direction's order.
        record: of the steps, with gates.
        timeline: of the steps.
        d_ys: (T, B, P), the gradients of the outputs, any strides. Those of idle rows are zeros.
        d_xs: (T, B, I), contiguous, to be written; None if the gradients of xs aren't wanted.
        adds: whether to add to `d_xs` instead.
    """

    xs: NumpyArray
    state: LSTMState
    record: Record
    timeline: Timeline
    d_ys: NumpyArray
    d_xs: NumpyArray | None
    adds: bool = False


class Backward:
    """The backward pass of one direction. Pass its pieces to `run`, from the last one in the direction's order.

    Args:
        weights: the weights of the direction.
        d_state: the gradient of the final state, in arrays of its own.
        reset_to: the state that rows are reset to, of one row or of B; None for zeros.
        T: the most steps of a piece.
        wants_weights: whether to compute the gradients of the weights.

    Attributes:
        d_state: the gradient of the state before the steps that have been taken back.
        d_reset: the gradient of `reset_to`, or None.
    """

    def __init__(
        self, weights: LSTMWeights, d_state: LSTMState, reset_to: LSTMState | None, T: int, *, wants_weights: bool
    ) -> None:
        B, N, P, dtype = len(d_state.c), weights.hidden_size, weights.output_size, weights.dtype
        self._weight_hr: Any = weights.weight_hr
        self._wants_weights = wants_weights
        self._reset_to, self.d_state = reset_to, d_state
        self.d_reset = None
        if reset_to is not None:
            self.d_reset = LSTMState(h=np.zeros(reset_to.h.shape, dtype), c=np.zeros(reset_to.c.shape, dtype))
        self._units = units_of(weights, B)
        steps = self._steps = max(1, min(T, _MOST_STEPS, _CHUNK // max(1, 4 * B * N)))
        I = self._I = weights.input_size
        shapes = (steps, B, 4, N), (steps, B, I + P), (B, N)
        self._d_z, self._xh, self._c = (np.empty(shape, dtype) for shape in shapes)
        self._h = self._xh[:, :, I:]
        projects = weights.weight_hr is not None
        self._d_p = np.empty((steps, B, P), dtype) if projects else None
        self._m = np.empty((steps, B, N), dtype) if projects and wants_weights else None
        self._d_m: NumpyArray = np.empty((B, N), dtype)
        flat = self._d_z.reshape(steps, B, 4 * N)
        self._weight_ih = Weight(lambda: weights.weight_ih[None])
        self._weight_hh = Weight(lambda: weights.weight_hh[None])
        self._products = [Product(each, d_state.h[None], tiled=True) for each in flat] if B else []
        others = {name: array for name, array in weights.arrays().items() if name not in ("weight_ih", "weight_hh")}
        self._sums = {name: np.zeros(array.shape, dtype) for name, array in others.items() if wants_weights}
        self._of_both = np.zeros((4 * N, I + P), dtype)  # the gradients of weight_ih and weight_hh, side by side

    @property
    def d_weights(self) -> WeightGradients | None:
        """The gradients of the weights, or None if they aren't wanted."""
        if not self._wants_weights:
            return None
        of_ih, of_hh = map(np.array, np.split(self._of_both, [self._I], axis=1))
        return WeightGradients(of_ih, of_hh, **self._sums)

    def run(self, piece: Piece) -> None:
        """Take the steps of a piece back."""
        order = piece.timeline.order[::-1]
        for start in range(0, len(order), self._steps):
            steps = order[start : start + self._steps]
            low = min(steps)
            for t in steps:
                self._step(piece, t, t - low)
            self._multiply(piece, low, len(steps))

    def _step(self, piece: Piece, t: int, k: int) -> None:
        """Take step t back. Its d_z is number k of the buffer."""
        timeline, record, (d_h, d_c) = piece.timeline, piece.record, (self.d_state.h, self.d_state.c)
        idle = timeline.idle[t] if timeline.idle is not None and timeline.idling[t] else None
        resets = timeline.resets_at(t)
        if resets is not None and idle is not None:
            resets = resets & ~idle
        c = self._state_before(piece, t, k, resets)
        passed = None
        if idle is not None:  # their state passes through
            passed = d_h[idle], d_c[idle]
        np.add(d_h, piece.d_ys[t], d_h)

        d_m, m = d_h, None if self._m is None else self._m[k]
        if self._d_p is not None:
            d_m = self._project(d_h, self._d_p[k], record, t)
        assert record.gates is not None
        self._units.run(record.gates[t], c, record.c[t], d_m, d_c, self._d_z[k], m)
        if idle is not None:  # what they read may be NaN
            self._d_z[k][idle] = 0
            if m is not None:
                m[idle] = 0
        if "peephole" in self._sums:
            self._add_peepholes(self._d_z[k], c, record.c[t], idle)
        if self._products:
            self._products[k].run(self._weight_hh)
        if idle is not None and passed is not None:
            d_h[idle], d_c[idle] = passed
        if resets is not None:
            self._reset(resets)

    def _state_before(self, piece: Piece, t: int, k: int, resets: NumpyArray | None) -> NumpyArray:
        """Return the c that step t reads, and write its h to number k of the buffer."""
        before = t - piece.timeline.order.step
        is_inner = before in piece.timeline.order
        h: NumpyArray
        c: NumpyArray
        h, c = (piece.record.h[before], piece.record.c[before]) if is_inner else (piece.state.h, piece.state.c)
        self._h[k] = h
        if resets is None:
            return c
        reset_h, reset_c = (None, None) if self._reset_to is None else (self._reset_to.h, self._reset_to.c)
        np.copyto(self._c, c)
        select_rows(self._h[k], resets, reset_h)
        select_rows(self._c, resets, reset_c)
        return self._c

    def _project(self, d_h: NumpyArray, d_p: NumpyArray, record: Record, t: int) -> NumpyArray:
        """Return the gradient of m from that of h, and write that of the product m @ weight_hr.T to d_p."""
        d_p[...] = d_h
        if record.passes is not None:
            np.copyto(d_p, 0, where=~record.passes[t])
        np.matmul(d_p, self._weight_hr, out=self._d_m)
        return self._d_m

    def _add_peepholes(self, d_z: NumpyArray, c: NumpyArray, c_new: NumpyArray, idle: NumpyArray | None) -> None:
        rows = slice(None) if idle is None else ~idle
        for row, (gate, seen) in enumerate(((0, c), (1, c), (3, c_new))):
            self._sums["peephole"][row] += np.einsum("bn,bn->n", d_z[rows, gate], seen[rows])

    def _reset(self, rows: NumpyArray) -> None:
        """Move the gradients of marked rows from the state to `reset_to`."""
        for part in ("h", "c"):
            d = getattr(self.d_state, part)
            if self.d_reset is not None:
                to = getattr(self.d_reset, part)
                if len(to) == 1:
                    to[0] += d[rows].sum(axis=0)
                else:
                    to[rows] += d[rows]
            d[rows] = 0

    def _multiply(self, piece: Piece, low: int, count: int) -> None:
        """Do the products over all rows of some steps: the gradients of xs and of the weights."""
        part, sums = slice(low, low + count), self._sums
        d_z = _rows(self._d_z[:count])
        if piece.d_xs is not None:
            d_xs = _rows(piece.d_xs[part])
            out = np.empty_like(d_xs) if piece.adds else d_xs
            if out.size:
                Product(d_z, out[None], tiled=True).run(self._weight_ih)
            if piece.adds:
                d_xs += out
        if not self._wants_weights:
            return
        xh, idle = self._xh[:count], piece.timeline.idle
        xh[:, :, : self._I] = piece.xs[part]
        if idle is not None:
            xh[idle[part]] = 0  # 0 times a NaN would be NaN
        self._of_both += d_z.T @ _rows(xh)
        if "bias" in sums:
            sums["bias"] += d_z.sum(axis=0)
        if self._d_p is not None and self._m is not None:
            sums["weight_hr"] += _rows(self._d_p[:count]).T @ _rows(self._m[:count])


def _rows(array: NumpyArray) -> NumpyArray:
    """Return (T, B, ...) as a matrix (T * B, K). It is a view if the array is contiguous."""
    T, B, *rest = array.shape
    return array.reshape(T * B, int(np.prod(rest)))
