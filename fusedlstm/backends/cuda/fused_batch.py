"""The buffers and the step of a fixed batch: one launch for each layer, and another for some projections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.cuda.device_weights import padded
from fusedlstm.backends.cuda.kernels import Destinations, launch_reset
from fusedlstm.backends.cuda.runtime.strides import bits, copy_rows
from fusedlstm.backends.cuda.step_kernels import Resets, launches, needs_m, step_tile
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.backends.cuda.cell import CudaCell


class FusedBatch:
    """See `layer_step.BatchStep`.

    Many blocks read h while others write the next one, so each layer has a double buffer of h.
    """

    buffers = 2

    def __init__(
        self,
        engines: Sequence[CudaCell],
        residual: Sequence[bool],
        B: int,
        reset_to: Sequence[LSTMState] | None,
        kernels: Sequence[str],
    ) -> None:
        layers = [engine.weights for engine in engines]
        first, top = layers[0], len(layers) - 1
        self.x = _rows(B, first.I, first.dtype)[:, : first.I]
        projected = [weights.N for weights, kernel in zip(layers, kernels, strict=True) if needs_m(weights, kernel, B)]
        most = max(projected, default=0)
        self._m = _rows(B, most, first.dtype) if most else None
        self._layers: list[_DoubleBufferedLayer] = []
        below = (self.x, self.x)  # for each buffer of h
        for k, engine in enumerate(engines):
            layer = _DoubleBufferedLayer(engine, kernels[k], B, below, residual=residual[k], is_top=k == top)
            layer.reset_to(None if reset_to is None else reset_to[k])
            self._layers.append(layer)
            below = layer.outputs
        self._readers = cupy.zeros((step_tile(layers[top], kernels[top], B).grid(B, 1)[0],), np.uint32)
        self.output = below[0]
        self.states: tuple[tuple[LSTMState, ...], ...] = tuple(
            tuple(layer.states[current] for layer in self._layers) for current in range(self.buffers)
        )

    def queue(self, current: int, is_first: Any) -> None:
        """Queue a step on the current stream. Rows that is_first marks are reset, and the flags cleared."""
        for layer in self._layers:
            layer.queue(current, is_first, self._readers if layer is self._layers[-1] else None, self._m)

    def clear(self, current: int) -> None:
        """Write zeros to `states[current]`, on the current stream."""
        for state in self.states[current]:
            launch_reset(None, None, state.h, None, state.c, None)

    def zero(self) -> None:
        """Write zeros to all buffers that a caller can see, on the current stream."""
        for layer in self._layers:
            layer.zero()

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


class _DoubleBufferedLayer:
    """One layer's buffers: c, two of h, and perhaps one of output. A step reads one h and writes the other."""

    def __init__(
        self,
        engine: CudaCell,
        kernel: str,
        B: int,
        below: tuple[Any, Any],
        *,
        residual: bool,
        is_top: bool,
    ) -> None:
        weights = self._weights = engine.weights
        self._kernel, self._below = kernel, below
        self._whole: list[Any] = []
        hs = [self._rows(B, weights.P, weights.dtype) for _ in range(2)]
        c = self._rows(B, weights.N, weights.gates_dtype)
        self.states = tuple(LSTMState(h=h, c=c) for h in hs)
        # The top layer's output has a separate buffer, so that it is in the same place after every step.
        self._copy = self._rows(B, weights.P, weights.dtype) if residual or is_top else None
        self._residual = residual
        self.outputs = (hs[1], hs[0]) if self._copy is None else (self._copy, self._copy)

    def _rows(self, B: int, columns: int, dtype: np.dtype[Any]) -> Any:
        rows = _rows(B, columns, dtype)
        self._whole.append(rows)
        return rows[:, :columns]

    def zero(self) -> None:
        """Write zeros to all buffers, on the current stream."""
        for rows in self._whole:
            rows.fill(0)

    def reset_to(self, state: LSTMState | None) -> None:
        """Copy the state that rows are reset to, of one row or of B rows; None for zeros."""
        self._reset_h = self._reset_c = None
        if state is not None:
            self._reset_h, self._reset_c = _copied(state.h), _copied(state.c)

    def queue(self, current: int, is_first: Any, readers: Any, m: Any) -> None:
        """Queue the launches of a step that reads the current buffer of h."""
        weights, kernel = self._weights, self._kernel
        x, (old, new) = self._below[current], (self.states[current], self.states[1 - current])
        to = Destinations(new.h, copy=self._copy, input=x if self._residual else None)
        resets = Resets(is_first, self._reset_h, self._reset_c, None if is_first is None else readers)
        m = None if m is None else m[:, : weights.N]
        for launch in launches(weights, kernel, x, old.h, old.c, old.c, to, m, resets=resets):
            launch.queue()


def _rows(B: int, columns: int, dtype: np.dtype[Any]) -> Any:
    """Return zeros (B, padded columns). Each row begins at a multiple of 16 bytes."""
    return cupy.zeros((B, padded(columns, dtype)), dtype)


def _copied(rows: Any) -> Any:
    """Return a copy whose rows begin at multiples of 16 bytes."""
    B, columns = rows.shape
    copy = _rows(B, columns, rows.dtype)[:, :columns]
    copy_rows(copy, bits(rows))
    return copy
