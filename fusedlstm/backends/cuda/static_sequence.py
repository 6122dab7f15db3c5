"""Steps of layers in one direction, on buffers that stay in place, so that CUDA graphs can capture them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.cuda.kernel_steps import KernelSteps
from fusedlstm.backends.cuda.product_steps import ProductSteps
from fusedlstm.backends.cuda.runtime.strides import copy_rows
from fusedlstm.backends.cuda.scan_steps import ScanSteps
from fusedlstm.backends.cuda.sequence_form import LayerBuffers, Workspace, rows
from fusedlstm.backends.kernel_choice import SCAN
from fusedlstm.backends.sequence_choice import FEWEST_STEPS
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.cuda.sequence_form import Form, LayerSteps

# The most bytes of gates that one product computes from x, so that they stay in a GPU's L2.
_MOST_GATES = 16 << 20
# The most bytes of inputs and outputs that are kept for chunks of steps.
_MOST_BUFFERS = 32 << 20


def steps_that_fit(engines: Sequence[CudaCell], form: Form) -> int:
    """Return how many steps fit in _MOST_BUFFERS, at least 1."""
    first = engines[0].weights
    outputs = sum(engine.weights.P for engine in engines)
    nbytes = (first.I + outputs) * first.dtype.itemsize
    if form.cells:
        nbytes += outputs * first.dtype.itemsize
        nbytes += sum(engine.weights.N for engine in engines) * first.gates_dtype.itemsize
    return max(1, _MOST_BUFFERS // (nbytes * form.B))


class StaticSequence:
    """Steps of B rows through layers in one direction, on buffers of S steps. The buffers begin as zeros.

    Args:
        engines: an engine for each layer.
        residual: whether each layer's output is its h plus its input.
        kernels: the kernel of each layer, by its name in `sequence_choice.py`.
        S: the most steps.
        form: what decides the launches.
        xs: the array of the inputs, from `sequence_form.rows` or another direction; None for a new one.
        flags: the array of the flags; None for a new one.
        outputs: the array of the outputs, whose columns are contiguous; None for a new one.

    Attributes:
        xs: (S, B, I), the inputs.
        flags: (S, B), flags of kernels/flags.cuh that `sequence_kernels.flags_launch` writes; or None.
        outputs: (S, B, width), the top layer's.
        states: the state of each layer before the next steps, and after the last.
        cells: the state of each layer after every step, h (S, B, P) and c (S, B, N), if the form asks for it.
    """

    def __init__(
        self,
        engines: Sequence[CudaCell],
        residual: Sequence[bool],
        kernels: Sequence[str],
        S: int,
        form: Form,
        *,
        xs: Any = None,
        flags: Any = None,
        outputs: Any = None,
    ) -> None:
        B, first, top = form.B, engines[0].weights, len(engines) - 1
        self._form, self._workspace = form, Workspace()
        self.xs = below = rows((S, B, first.I), first.dtype) if xs is None else xs
        self.flags = cupy.zeros((S, B), np.bool_) if form.has_flags and flags is None else flags
        self._last = rows((B, engines[top].weights.P), first.dtype) if form.repeats and form.has_flags else None
        self._gates = self._gates_for(engines, kernels, S, B)
        self._layers: list[LayerSteps] = []
        self.cells: list[LSTMState] = []
        with contextlib.ExitStack() as scope:
            scope.callback(self.close)
            for k, (engine, kernel) in enumerate(zip(engines, kernels, strict=True)):
                own = outputs if k == top else None
                ys = rows((S, B, engine.weights.P), first.dtype) if own is None else own
                last = self._last if k == top else None
                buffers = LayerBuffers(below, ys, self.flags, last, residual[k], self._cells_of(engine, S))
                self._layers.append(self._layer(engine, kernel, buffers))
                below = ys
            scope.pop_all()
        self.outputs = below
        self.states = tuple(layer.state for layer in self._layers)

    def _cells_of(self, engine: CudaCell, S: int) -> LSTMState | None:
        """Return memory for every state of a layer, if the form asks for it."""
        if not self._form.cells:
            return None
        weights, shape = engine.weights, (S, self._form.B)
        made = LSTMState(h=rows((*shape, weights.P), weights.dtype), c=rows((*shape, weights.N), weights.gates_dtype))
        self.cells.append(made)
        return made

    def _gates_for(self, engines: Sequence[CudaCell], kernels: Sequence[str], S: int, B: int) -> Any:
        """Return memory for x's part of the gates, which layers share; None if all kernels multiply x."""
        of_products = [engine for engine, kernel in zip(engines, kernels, strict=True) if kernel in ("matmul", SCAN)]
        if not of_products:
            return None
        widest, dtype = 4 * max(engine.weights.N for engine in of_products), of_products[0].weights.gates_dtype
        least = FEWEST_STEPS if SCAN in kernels else 1  # with less memory, a scan would only take single steps
        most = max(least, _MOST_GATES // (widest * B * dtype.itemsize))
        return cupy.zeros((min(S, most), B, widest), dtype)

    def _layer(self, engine: CudaCell, kernel: str, buffers: LayerBuffers) -> LayerSteps:
        """Return the steps of a layer."""
        if kernel not in ("matmul", SCAN):
            return KernelSteps(engine, kernel, self._form, buffers)
        shape = (*self._gates.shape[:2], 4 * engine.weights.N)
        gates = cupy.ndarray(shape, self._gates.dtype, self._gates.data)
        if kernel == SCAN:
            return ScanSteps(engine, self._form, buffers, gates)
        return ProductSteps(engine, self._form, buffers, gates, self._workspace)

    def begin(self, states: Sequence[LSTMState], reset_to: Sequence[LSTMState] | None) -> None:
        """Queue copies of the states to begin with, and of those that rows are reset to, on the current stream.

        Both have contiguous rows.
        """
        for mine, state in zip(self.states, states, strict=True):
            copy_rows(mine.h, state.h)
            copy_rows(mine.c, state.c)
        if reset_to is not None:
            for layer, state in zip(self._layers, reset_to, strict=True):
                layer.reset_to(state)
            self.queue_resets()
        if self._last is not None:
            self._last.fill(0)

    def queue_resets(self) -> None:
        """Queue the products of the h that rows are reset to. Queue them again if weights or states change."""
        for layer in self._layers:
            layer.queue_reset()

    def prepare(self, steps: int) -> None:
        """Make everything that `queue(steps)` needs."""
        for layer in self._layers:
            layer.prepare(steps)

    def queue(self, steps: int) -> None:
        """Queue the first `steps` steps of the buffers on the current stream. It doesn't allocate or wait."""
        for layer in self._layers:
            layer.queue(steps)
        if self._last is not None:
            copy_rows(self._last, self.outputs[self._form.order(range(steps))[-1]])

    def end(self, finals: Sequence[LSTMState]) -> None:
        """Queue copies of the states to contiguous arrays, on the current stream."""
        for mine, state in zip(self.states, finals, strict=True):
            copy_rows(state.h, mine.h)
            copy_rows(state.c, mine.c)

    def close(self) -> None:
        """Free what is not memory."""
        for layer in self._layers:
            layer.close()
