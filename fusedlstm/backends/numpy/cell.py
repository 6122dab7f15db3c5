"""The step of the NumPy backend: weights packed for its products, scratch, and the formula's fast form."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.backends.numpy import matmul, threads
from fusedlstm.backends.numpy.context import quietly
from fusedlstm.backends.numpy.fast_pointwise import pointwise_of, to_planes
from fusedlstm.backends.numpy.functions import clip
from fusedlstm.backends.numpy.matmul import Product, Weight, is_cut
from fusedlstm.backends.numpy.resets import part_of, reset_state
from fusedlstm.backends.numpy.scratch import Form, Scratch

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.backends.numpy.resets import Reset
    from fusedlstm.backends.numpy.scratch import Buffers
    from fusedlstm.weights import LSTMWeights

# Elements of the gates that the x of a sequence is multiplied to at once.
_CHUNK = 1 << 17
# Of fewer steps at once the matmuls are no faster than one over [x | h] is; of more rows they aren't where it is cut.
_FEWEST_STEPS = 4
_MOST_ROWS = 15


class PackedWeights:
    """A cell's weights as its step takes them: wide, and laid out for the matmuls."""

    def __init__(self, weights: LSTMWeights, *, invariant: bool) -> None:
        dtype, I, N = dtypes.state_dtype(weights.dtype), weights.input_size, weights.hidden_size

        def gates() -> NumpyArray:
            # The bias is one more row of the weights, and its x is 1.
            bias = [] if weights.bias is None else [weights.bias[:, None]]
            all_rows = np.concatenate([weights.weight_ih, weights.weight_hh, *bias], axis=1, dtype=dtype)
            return to_planes(all_rows.reshape(4, N, -1), dtype).swapaxes(1, 2)

        def projection() -> NumpyArray:
            return np.asarray(weights.weight_hr, dtype).T[None]

        # One matmul over [x | h | 1] gives the four planes of the gates: (4, I + P + 1, N).
        self.weight = Weight(gates, invariant=invariant)
        self.weight_x, self.weight_h = self.weight.of_rows(slice(I)), self.weight.of_rows(slice(I, None))
        self.projection = None if weights.weight_hr is None else Weight(projection, invariant=invariant)
        self.pointwise = pointwise_of(weights.peephole, weights.cell_clip, weights.functions, dtype)

    def lay_out_cut(self) -> None:
        """Make the layouts of cut products."""
        for weight in (self.weight, self.projection):
            if weight is not None:
                weight.lay_out("columns")


class NumpyCell:
    """One step of a cell for any batch: packed weights, and a workspace for each call in progress.

    Args:
        weights: the cell's.
        invariant: whether a row's bits must be its own, whatever the batch; see `batch_invariance`.
    """

    is_whole = True

    def __init__(self, weights: LSTMWeights, *, invariant: bool = False) -> None:
        self.invariant = invariant
        self.sizes = weights.input_size, weights.hidden_size, weights.output_size
        self.x_dtype, self.dtype = weights.dtype, dtypes.state_dtype(weights.dtype)  # of x and h, and of the arithmetic
        self.projects, self.has_bias = weights.weight_hr is not None, weights.bias is not None
        self.proj_clip = weights.proj_clip
        # Whether h is the pointwise result as it is: then that is written without a detour.
        self.writes_h = not self.projects and self.dtype == weights.dtype
        I, N, P = self.sizes
        self.work = 4 * N * (I + P) + (N * P if self.projects else 0)  # multiplications a row
        self.packed = PackedWeights(weights, invariant=invariant)
        self.form = Form(self.sizes, self.dtype, self.has_bias, self.projects, self.writes_h, invariant)
        self.scratch = Scratch(self.form)

    def with_weights(self, weights: LSTMWeights) -> NumpyCell:
        """Return the engine with other weights of the same form, and the same scratch; this one keeps its own."""
        engine, old = copy.copy(self), self.packed
        engine.packed = PackedWeights(weights, invariant=self.invariant)
        engine.packed.weight.lay_out_as(old.weight)
        if engine.packed.projection is not None and old.projection is not None:
            engine.packed.projection.lay_out_as(old.projection)
        return engine

    def run(
        self,
        x: NumpyArray,
        h: NumpyArray,
        c: NumpyArray,
        h_out: NumpyArray,
        c_out: NumpyArray,
        is_first: NumpyArray | None = None,
        reset: Reset | None = None,
    ) -> None:
        """Write the next h and c. c_out may be c; rows where is_first start from `reset`, or zeros."""
        c = np.asarray(c)  # no subclass, whose functions may do something else
        shares = self._shares(len(x))
        if len(shares) < 2:
            quietly(self._run, x, h, c, h_out, c_out, is_first, reset)
            return

        def run(part: slice) -> None:
            first = None if is_first is None else is_first[part]
            own = x[part], h[part], c[part], h_out[part], c_out[part], first, part_of(reset, part)
            quietly(self._run, *own)

        threads.share_out(run, shares)

    def _run(
        self,
        x: NumpyArray,
        h: NumpyArray,
        c: NumpyArray,
        h_out: NumpyArray,
        c_out: NumpyArray,
        is_first: NumpyArray | None,
        reset: Reset | None,
    ) -> None:
        """Do the work of `run` in the calling thread. Call it through `quietly`."""
        packed, scratch = self.packed, self.scratch
        workspace = scratch.take()
        try:
            buffers = workspace.of_batch(len(x))
            buffers.x[...] = x
            buffers.h[...] = h
            if is_first is not None:
                c = reset_state(buffers.h, c, is_first, reset, c_out)
            buffers.of_both.run(packed.weight)
            self.finish(packed, buffers, c, h_out, c_out)
        finally:
            scratch.give_back(workspace)

    def steps_at_once(self, B: int) -> int:
        """Return for how many steps of a batch `input_gates` is best called: as many as stay in a cache."""
        if self.invariant or (B > _MOST_ROWS and self.runs_cut(B)):
            return 1  # of an invariant engine always: x and h in one product have other bits than in two
        steps = _CHUNK // max(1, 4 * self.sizes[1] * B)
        return steps if steps >= _FEWEST_STEPS else 1

    def input_gates(self, xs: NumpyArray) -> NumpyArray:
        """Return the part of x in the gates of several steps: xs (T, B, I) -> (T, 4, B, N)."""
        T, B, I = xs.shape
        N, wide = self.sizes[1], np.ascontiguousarray(xs, self.dtype).reshape(T * B, I)
        if B == 1:  # each step's gates lie together, which a step of one row adds faster
            gates = np.empty((T, 4, 1, N), self.dtype)
            Product(wide, gates[:, :, 0].swapaxes(0, 1)).run(self.packed.weight_x)
            return gates
        gates = np.empty((4, T, B, N), self.dtype)
        Product(wide, gates.reshape(4, T * B, N)).run(self.packed.weight_x)
        return gates.swapaxes(0, 1)

    def prepare_reset(self, reset_h: NumpyArray, reset_c: NumpyArray) -> Reset:
        """Return what the steps reset to."""
        return reset_h, reset_c

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
        """Write the next h and c, as `run` does, from one step of `input_gates`."""
        packed, scratch = self.packed, self.scratch
        c = np.asarray(c)
        workspace = scratch.take()
        try:
            buffers = workspace.of_batch(len(c))
            buffers.h[...] = h
            if is_first is not None:
                c = reset_state(buffers.h, c, is_first, reset, c_out)
            buffers.of_h.run(packed.weight_h)
            np.add(buffers.gates, gates, buffers.gates)
            self.finish(packed, buffers, c, h_out, c_out)
        finally:
            scratch.give_back(workspace)

    def run_steps(self, xs: NumpyArray, h: NumpyArray, c: NumpyArray, ys: NumpyArray, c_out: NumpyArray) -> None:
        """Write every h of steps xs (T, B, I) without resets to ys, and the last c to c_out."""
        (T, B, _), c = xs.shape, np.asarray(c)
        at_once = self.steps_at_once(B)  # of the batch, not of a share, so that a row's bits are its own

        def run(part: slice) -> None:
            quietly(self._run_steps, at_once, xs[:, part], h[part], c[part], ys[:, part], c_out[part])

        threads.share_out(run, self._shares(B, T))

    def _shares(self, B: int, steps: int = 1) -> list[slice]:
        """Return the rows that each thread takes."""
        if B < threads.SHARED or not self.runs_cut(B):
            return [slice(0, B)]
        shares = threads.shares(B, self.work, steps)
        if len(shares) > 1:
            self.packed.lay_out_cut()  # once, and not in each thread
        return shares

    def runs_cut(self, B: int) -> bool:
        """Whether a step's product is cut, so that rows may be shared out."""
        I, N, P = self.sizes
        if self.invariant:  # always, but other kernels than those, called by several threads, are no faster than by one
            return matmul.has_small_kernels()
        return is_cut(B, I + P + self.has_bias, N, self.dtype.itemsize)

    def _run_steps(
        self, at_once: int, xs: NumpyArray, h: NumpyArray, c: NumpyArray, ys: NumpyArray, c_out: NumpyArray
    ) -> None:
        """Do the work of `run_steps` in the calling thread. Call it through `quietly`."""
        if at_once == 1:
            for x, y in zip(xs, ys, strict=True):
                self._run(x, h, c, y, c_out, None, None)
                h, c = y, c_out
            return
        packed, scratch = self.packed, self.scratch
        workspace = scratch.take()
        try:
            buffers = workspace.of_batch(len(c))
            z, product, weight = buffers.gates, buffers.of_h, packed.weight_h
            for start in range(0, len(xs), at_once):
                part = slice(start, start + at_once)
                for gates, y in zip(self.input_gates(xs[part]), ys[part], strict=True):
                    buffers.h[...] = h  # of one row Python takes a good part of the time: few calls
                    product.run(weight)
                    np.add(z, gates, z)
                    self.finish(packed, buffers, c, y, c_out)
                    h, c = y, c_out
        finally:
            scratch.give_back(workspace)

    def finish(
        self, packed: PackedWeights, buffers: Buffers, c: NumpyArray, h_out: NumpyArray, c_out: NumpyArray
    ) -> None:
        """Write the next h and c from the gates in `buffers`."""
        if self.writes_h:
            packed.pointwise.run(buffers.blocks, c, h_out, c_out)
            return
        packed.pointwise.run(buffers.blocks, c, buffers.m, c_out)
        if packed.projection is None or buffers.of_m is None:
            h_out[...] = buffers.m
            return
        buffers.of_m.run(packed.projection)
        if self.proj_clip is not None:
            clip(buffers.projected, self.proj_clip)
        h_out[...] = buffers.projected
