"""Step a cell through a sequence: one product for the x of many steps, where that is faster."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fusedlstm.backends.numpy import threads
from fusedlstm.backends.numpy.context import quietly
from fusedlstm.backends.numpy.matmul import Product
from fusedlstm.backends.numpy.resets import reset_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.backends.numpy.cell import NumpyCell
    from fusedlstm.backends.numpy.resets import Reset

    _Outs: TypeAlias = Iterator[NumpyArray]

# The most elements of gates that one product computes from x.
_CHUNK = 1 << 17
# With fewer steps at once, or more rows of a cut product, this is no faster than one product of [x | h] for each step.
_FEWEST_STEPS = 4
_MOST_ROWS = 15


class CellSequence:
    """Steps a cell through a sequence: first x's part of the gates for many steps at once, then the rest step by step.

    B is at least 1.
    """

    def __init__(self, cell: NumpyCell) -> None:
        self._cell = cell

    def steps_at_once(self, B: int) -> int:
        """Return how many steps to pass to `input_gates` at once, so that their gates stay in a cache.

        If it is 1, call the cell's `run` instead.
        """
        cell = self._cell
        if cell.invariant or (B > _MOST_ROWS and cell.runs_cut(B)):
            return 1  # always if batch-invariant: one product of [x | h] and two products differ in bits
        steps = _CHUNK // max(1, 4 * cell.sizes[1] * B)
        return steps if steps >= _FEWEST_STEPS else 1

    def input_gates(self, xs: NumpyArray) -> NumpyArray:
        """Return x's part of the gates for the steps xs: (T, B, I) -> (T, 4, B, N)."""
        (T, B, I), cell = xs.shape, self._cell
        N, wide = cell.sizes[1], np.ascontiguousarray(xs, cell.dtype).reshape(T * B, I)
        if B == 1:  # each step's gates are contiguous, so a step of one row adds them faster
            gates = np.empty((T, 4, 1, N), cell.dtype)
            Product(wide, gates[:, :, 0].swapaxes(0, 1)).run(cell.weights.weight_x)
            return gates
        gates = np.empty((4, T, B, N), cell.dtype)
        Product(wide, gates.reshape(4, T * B, N)).run(cell.weights.weight_x)
        return gates.swapaxes(0, 1)

    def run_gates(
        self,
        gates: NumpyArray,
        h: NumpyArray,
        c: NumpyArray,
        h_out: NumpyArray,
        c_out: NumpyArray,
        is_first: NumpyArray | None = None,
        reset: Reset | None = None,
    ) -> None:
        """Write the next h and c as the cell's `run` does, from one item of `input_gates`."""
        cell, c = self._cell, np.asarray(c)
        weights, scratch = cell.weights, cell.scratch
        workspace = scratch.take()
        try:
            buffers = workspace.of_batch(len(c))
            buffers.h[...] = h
            if is_first is not None:
                c = reset_state(buffers.h, c, is_first, reset, c_out)
            buffers.of_h.run(weights.weight_h)
            np.add(buffers.gates, gates, buffers.gates)
            cell.step_from_gates(weights, buffers, c, h_out, c_out)
        finally:
            scratch.give_back(workspace)

    def run_steps(
        self,
        xs: NumpyArray,
        h: NumpyArray,
        c: NumpyArray,
        ys: NumpyArray,
        c_out: NumpyArray,
        cs: NumpyArray | None = None,
    ) -> None:
        """Take the steps xs (T, B, I) without resets. Write every h to ys (T, B, P).

        Every c goes to cs (T, B, N). Without cs, only the last c is kept, in c_out.
        """
        (T, B, _), c = xs.shape, np.asarray(c)
        at_once = self.steps_at_once(B)  # for the whole batch, so that a row's bits don't depend on its share
        work = self._run_steps if at_once == 1 else functools.partial(self._run_chunks, at_once)

        def run(part: slice) -> None:
            outs = itertools.repeat(c_out[part], T) if cs is None else cs[:, part]
            quietly(work, xs[:, part], h[part], c[part], ys[:, part], iter(outs))

        threads.share_out(run, self._cell.shares(B, T))

    def _run_steps(self, xs: NumpyArray, h: NumpyArray, c: NumpyArray, ys: NumpyArray, outs: _Outs) -> None:
        """Take the steps in the calling thread, with x and h in one product. Call it through `quietly`.

        `outs` gives the array for each next c.
        """
        for x, y, c_out in zip(xs, ys, outs, strict=True):
            self._cell.run_here(x, h, c, y, c_out, None, None)
            h, c = y, c_out

    def _run_chunks(
        self, at_once: int, xs: NumpyArray, h: NumpyArray, c: NumpyArray, ys: NumpyArray, outs: _Outs
    ) -> None:
        """Do the work of `_run_steps`, with one product for the x of `at_once` steps."""
        cell = self._cell
        weights, scratch = cell.weights, cell.scratch
        workspace = scratch.take()
        try:
            buffers = workspace.of_batch(len(c))
            h_before, z, product, weight = buffers.h, buffers.gates, buffers.of_h.run, weights.weight_h
            add, step = np.add, cell.bound_step(weights, buffers)
            for start in range(0, len(xs), at_once):
                part = slice(start, start + at_once)
                for gates, y in zip(self.input_gates(xs[part]), ys[part], strict=True):
                    c_out = next(outs)
                    h_before[...] = h  # few calls and look-ups of names: with one row, Python takes much of the time
                    product(weight)
                    add(z, gates, z)
                    step(c, y, c_out)
                    h, c = y, c_out
        finally:
            scratch.give_back(workspace)
