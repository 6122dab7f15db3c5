"""The buffers and the step of a fixed batch: one launch for each layer, and another for some projections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.cuda.device_weights import padded
from fusedlstm.backends.cuda.kernels import Destinations, launch_reset
from fusedlstm.backends.cuda.runtime import pinned
from fusedlstm.backends.cuda.runtime.strides import bits, copy_rows
from fusedlstm.backends.cuda.step_kernels import Resets, launches, needs_m, step_tile
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.cuda.device_weights import DeviceWeights

# Blocks read x from the host's memory if they read at most this many bytes in all. Then a copy should take longer.
MOST_READ = 32 << 10


class FusedBatch:
    """See `layer_step.BatchStep`.

    Many blocks read h while others write the next one, so each layer has a double buffer of h. With host buffers, the
    top layer writes its output to the host's memory. The first layer reads a small x there.
    """

    buffers = 2

    def __init__(
        self,
        engines: Sequence[CudaCell],
        residual: Sequence[bool],
        B: int,
        reset_to: Sequence[LSTMState] | None,
        kernels: Sequence[str],
        *,
        host: bool,
    ) -> None:
        layers = [engine.weights for engine in engines]
        first, top = layers[0], len(layers) - 1
        reads = bytes_read(first, kernels[0], B, residual=residual[0])
        self._place_x(first, B, on_host=host, is_read_there=host and reads <= MOST_READ)
        projected = [weights.N for weights, kernel in zip(layers, kernels, strict=True) if needs_m(weights, kernel, B)]
        most = max(projected, default=0)
        self._m = _rows(B, most, first.dtype) if most else None
        self._layers: list[_DoubleBufferedLayer] = []
        below = (self._x, self._x)  # for each buffer of h
        on_host = pinned.zeros((B, layers[top].P), first.dtype) if host else None
        for k, engine in enumerate(engines):
            copy = None if k < top or on_host is None else pinned.mapped(on_host)
            layer = _DoubleBufferedLayer(engine, kernels[k], B, below, copy, residual=residual[k], is_top=k == top)
            layer.reset_to(None if reset_to is None else reset_to[k])
            self._layers.append(layer)
            below = layer.outputs
        row_blocks = step_tile(layers[top], kernels[top], B).grid(B, 1)[0]
        self._readers = None if host else cupy.zeros((row_blocks,), np.uint32)
        self._on_host = on_host
        self.output = below[0] if on_host is None else on_host
        self.states: tuple[tuple[LSTMState, ...], ...] = tuple(
            tuple(layer.states[current] for layer in self._layers) for current in range(self.buffers)
        )

    def _place_x(self, weights: DeviceWeights, B: int, *, on_host: bool, is_read_there: bool) -> None:
        """Make the user's x, and the one that kernels read: the same memory, or a copy on the GPU."""
        I, dtype = weights.I, weights.dtype
        self._uploads = on_host and not is_read_there
        if is_read_there:
            rows = pinned.zeros((B, padded(I, dtype)), dtype)
            self.x, self._x = rows[:, :I], pinned.mapped(rows)[:, :I]
        else:
            self._x = _rows(B, I, dtype)[:, :I]
            self.x = pinned.zeros((B, I), dtype) if on_host else self._x

    def queue(self, current: int, is_first: Any) -> None:
        """Queue a step on the current stream, with the rows that is_first marks reset."""
        if self._uploads:
            pinned.queue_upload(self._x, self.x)
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
        if self._on_host is not None:
            self._on_host.fill(0)

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


def bytes_read(weights: DeviceWeights, kernel: str, B: int, *, residual: bool) -> int:
    """Return how many bytes of x the blocks of a layer's step read. Blocks of the same rows all read the same x."""
    times = step_tile(weights, kernel, B).grid(B, weights.N)[1] + residual
    return B * weights.I * weights.dtype.itemsize * times


class _DoubleBufferedLayer:
    """One layer's buffers: c, two of h, and perhaps one of output. A step reads one h and writes the other.

    `copy` is the buffer of output, if the caller has one.
    """

    def __init__(
        self,
        engine: CudaCell,
        kernel: str,
        B: int,
        below: tuple[Any, Any],
        copy: Any,
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
        if copy is None and (residual or is_top):
            copy = self._rows(B, weights.P, weights.dtype)
        self._copy, self._residual = copy, residual
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
