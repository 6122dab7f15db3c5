"""A fixed batch in NumPy. The matrix products read its buffers directly, so that a step copies little."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.backends.numpy import threads
from fusedlstm.backends.numpy.context import quietly
from fusedlstm.backends.numpy.matmul import BLOCK
from fusedlstm.backends.numpy.resets import select_rows
from fusedlstm.backends.numpy.scratch import Memory
from fusedlstm.backends.numpy.states import StatesInPlace
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.backends.numpy.cell import NumpyCell
    from fusedlstm.backends.numpy.scratch import Buffers

_BOOL = np.dtype(np.bool_)


class NumpyStepper(StatesInPlace):
    """See `fusedlstm.backends.base.StepperEngine`.

    If the arithmetic has the dtype of x, x and h are views of the product's operand [x | h | 1]. Threads share the
    rows, and each takes its rows through all layers.
    """

    def __init__(
        self, engines: Sequence[NumpyCell], residual: Sequence[bool], B: int, reset_to: Sequence[LSTMState] | None
    ) -> None:
        layers = []
        below: NumpyArray | None = None
        for k, engine in enumerate(engines):
            layer = _LayerBuffers(engine, B, below, residual=residual[k])
            layers.append(layer)
            below = layer.output
        self.x, self.output = layers[0].x, layers[-1].output
        self.kernels = ("numpy",) * len(engines)
        super().__init__([LSTMState(h=layer.h, c=layer.c) for layer in layers])
        self.all_states, self.current = (self.states,), 0
        self._resets: list[Any] = [(None, None)] * len(engines)
        if reset_to is not None:
            self._resets = [(np.array(state.h), np.array(state.c)) for state in reset_to]
        self._flags, self._looks_at_flags = np.zeros(B, _BOOL), False
        work = sum(engine.work for engine in engines)
        may_share = all(engine.runs_cut(B) for engine in engines)
        # All engines have the same number of threads.
        most = engines[0].threads
        self._shares = threads.shares(B, work, unit=BLOCK, most=most) if may_share else [slice(0, B)]
        self._parts = {part.start: [layer.part(part) for layer in layers] for part in self._shares}

    @property
    def is_first(self) -> NumpyArray:
        """(B,) flags, which a step clears. Steps ignore them until this property is first read."""
        self._looks_at_flags = True
        return self._flags

    def load(self, x: NumpyArray) -> None:
        """Copy x (B, I) to the buffer."""
        self.x[...] = x

    def mark(self, is_first: NumpyArray) -> None:
        """Copy flags (B,) to the buffer."""
        self.is_torn = True
        self.is_first[...] = is_first

    def run(self, engines: Sequence[NumpyCell]) -> None:
        """Take one step."""
        self.is_torn = True
        if self._looks_at_flags and self._flags.any():
            self._reset()
        if len(self._shares) > 1:
            for engine in engines:
                engine.weights.lay_out_cut()  # once, not in each thread
            engines[0].quietly(threads.share_out, lambda part: quietly(self._run, engines, part), self._shares)
        else:
            engines[0].quietly(self._run, engines, self._shares[0])
        self.is_torn = False

    def _run(self, engines: Sequence[NumpyCell], part: slice) -> None:
        """Step some rows through all layers in the calling thread. Call it through `quietly`."""
        for engine, layer in zip(engines, self._parts[part.start], strict=True):
            layer.run(engine)

    def _reset(self) -> None:
        for state, (h, c) in zip(self.states, self._resets, strict=True):
            select_rows(state.h, self._flags, h)
            select_rows(state.c, self._flags, c)
        self._flags.fill(False)

    def copy_output(self, to: NumpyArray) -> None:
        """Copy the output."""
        to[...] = self.output

    def _begin_anew(self) -> None:
        if self.is_torn:
            self._flags.fill(False)
        super()._begin_anew()


class _LayerBuffers:
    """A layer's arrays for all rows. 16-bit x and h are separate from the operand, which holds them widened."""

    def __init__(self, engine: NumpyCell, B: int, below: NumpyArray | None, *, residual: bool) -> None:
        I, N, P = engine.sizes
        self._engine, self._is_wide = engine, engine.dtype == engine.x_dtype
        self._memory = Memory(engine.scratch_spec, engine.scratch_spec.rows(B))
        operand = self._memory.operand[:B]
        self._memory.operand[:, : I + P] = 0
        self.h = operand[:, I : I + P] if self._is_wide else np.zeros((B, P), engine.x_dtype)
        self.c = np.zeros((B, N), engine.dtype)
        if below is not None:
            self.x = below
        else:
            self.x = operand[:, :I] if self._is_wide else np.zeros((B, I), engine.x_dtype)
        self._x_is_elsewhere = below is not None or not self._is_wide
        self._residual = residual
        self.output = np.zeros((B, P), engine.x_dtype) if residual else self.h

    def part(self, rows: slice) -> _Part:
        """Return some rows of this layer."""
        return _Part(
            self._memory.buffers(rows.start, rows.stop - rows.start),
            self.x[rows],
            self.h[rows],
            self.c[rows],
            self.output[rows] if self._residual else None,
            loads_x=self._x_is_elsewhere,
            loads_h=not self._is_wide,
        )


class _Part:
    """Some rows of a layer, for one thread."""

    def __init__(
        self,
        buffers: Buffers,
        x: NumpyArray,
        h: NumpyArray,
        c: NumpyArray,
        total: NumpyArray | None,
        *,
        loads_x: bool,
        loads_h: bool,
    ) -> None:
        self._buffers, self._x, self._h, self._c, self._sum = buffers, x, h, c, total
        self._loads_x, self._loads_h = loads_x, loads_h

    def run(self, engine: NumpyCell) -> None:
        """Take one step, in place."""
        weights, buffers = engine.weights, self._buffers
        if self._loads_x:
            buffers.x[...] = self._x
        if self._loads_h:
            buffers.h[...] = self._h
        buffers.of_both.run(weights.weight)
        engine.step_from_gates(weights, buffers, self._c, self._h, self._c)
        if self._sum is not None:
            np.add(self._h, self._x, self._sum)
