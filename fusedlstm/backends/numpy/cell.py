"""The NumPy backend's step: laid-out weights, a workspace for each call, and the fast form of the formula."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.backends.base import CellEngine
from fusedlstm.backends.numpy import matmul, threads
from fusedlstm.backends.numpy.cell_sequence import CellSequence
from fusedlstm.backends.numpy.context import quietly
from fusedlstm.backends.numpy.fast_pointwise import pointwise_of, to_planes
from fusedlstm.backends.numpy.functions import clip
from fusedlstm.backends.numpy.matmul import Weight, is_cut
from fusedlstm.backends.numpy.resets import part_of, reset_state
from fusedlstm.backends.numpy.scratch import Scratch, ScratchSpec
from fusedlstm.backends.numpy.thread_limit import limits

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.backends.numpy.fast_pointwise import BoundStep
    from fusedlstm.backends.numpy.recording import Recorder
    from fusedlstm.backends.numpy.resets import Reset
    from fusedlstm.backends.numpy.scratch import Buffers
    from fusedlstm.weights import LSTMWeights


class LaidOutWeights:
    """A cell's weights as its step reads them: in the dtype of the arithmetic, and laid out for the matmuls."""

    def __init__(self, weights: LSTMWeights, *, invariant: bool) -> None:
        dtype, I, N = dtypes.state_dtype(weights.dtype), weights.input_size, weights.hidden_size
        self.given = weights  # not laid out

        def gates() -> NumpyArray:
            # The bias is one more row of the weights, and is multiplied by 1.
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
        """Make the layouts for products that are cut into pieces."""
        for weight in (self.weight, self.projection):
            if weight is not None:
                weight.lay_out("columns")


class NumpyCell(CellEngine):
    """One step of a cell for any batch: laid-out weights, and a workspace for each call in progress.

    Args:
        weights: the weights of the cell.
        invariant: whether to make each row bitwise independent of the rest of its batch; see `batch_invariance`.
        threads: the most threads of a step; None for as many as the BLAS has.

    Attributes:
        quietly: runs work as `context.quietly` does, with at most `threads` threads.
        recorder: replaces `step_from_gates` in a recorded forward pass; see `recording`.
    """

    is_whole = True
    recorder: Recorder | None = None

    def __init__(self, weights: LSTMWeights, *, invariant: bool = False, threads: int | None = None) -> None:
        self.invariant, self.threads = invariant, threads
        self.quietly = quietly if threads is None else functools.partial(limits().quietly, threads)
        self.sizes = weights.input_size, weights.hidden_size, weights.output_size
        self.x_dtype, self.dtype = weights.dtype, dtypes.state_dtype(weights.dtype)  # of x and h, and of the arithmetic
        self.projects, self.has_bias = weights.weight_hr is not None, weights.bias is not None
        self.proj_clip = weights.proj_clip
        self.zoneout_h = weights.zoneout_h
        # Whether the pointwise result is h itself, and is written to h_out directly.
        self.writes_h = not self.projects and not self.zoneout_h and self.dtype == weights.dtype
        I, N, P = self.sizes
        self.work = 4 * N * (I + P) + (N * P if self.projects else 0)  # multiplications for each row
        self.weights = LaidOutWeights(weights, invariant=invariant)
        self.scratch_spec = ScratchSpec(self.sizes, self.dtype, self.has_bias, self.projects, self.writes_h, invariant)
        self.scratch = Scratch(self.scratch_spec)

    def with_weights(self, weights: LSTMWeights) -> NumpyCell:
        """Return an engine with other weights of the same form. It shares this one's scratch. This one is unchanged."""
        engine, old = copy.copy(self), self.weights
        engine.weights = LaidOutWeights(weights, invariant=self.invariant)
        engine.weights.weight.lay_out_as(old.weight)
        if engine.weights.projection is not None and old.projection is not None:
            engine.weights.projection.lay_out_as(old.projection)
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
        c = np.asarray(c)  # not a subclass, which may override functions
        shares = self.shares(len(x))
        if len(shares) < 2:
            self.quietly(self.run_here, x, h, c, h_out, c_out, is_first, reset)
            return

        def run(part: slice) -> None:
            first = None if is_first is None else is_first[part]
            own = x[part], h[part], c[part], h_out[part], c_out[part], first, part_of(reset, part)
            quietly(self.run_here, *own)

        self.quietly(threads.share_out, run, shares)

    def run_here(
        self,
        x: NumpyArray,
        h: NumpyArray,
        c: NumpyArray,
        h_out: NumpyArray,
        c_out: NumpyArray,
        is_first: NumpyArray | None,
        reset: Reset | None,
    ) -> None:
        """Do the work of `run` in the calling thread. Call it through `self.quietly`."""
        weights, scratch = self.weights, self.scratch
        workspace = scratch.take()
        try:
            buffers = workspace.of_batch(len(x))
            buffers.x[...] = x
            buffers.h[...] = h
            if is_first is not None:
                c = reset_state(buffers.h, c, is_first, reset, c_out)
            buffers.of_both.run(weights.weight)
            self.step_from_gates(weights, buffers, c, h_out, c_out)
        finally:
            scratch.give_back(workspace)

    def prepare_reset(self, reset_h: NumpyArray, reset_c: NumpyArray) -> Reset:
        return reset_h, reset_c

    @property
    def sequence(self) -> CellSequence:
        """The CellSequence that steps sequences with the weights of this engine."""
        return CellSequence(self)

    def shares(self, B: int, steps: int = 1) -> list[slice]:
        """Return the rows that each thread takes."""
        if B < threads.SHARED or not self.runs_cut(B):
            return [slice(0, B)]
        shares = threads.shares(B, self.work, steps, most=self.threads)
        if len(shares) > 1:
            self.weights.lay_out_cut()  # once, not in each thread
        return shares

    def runs_cut(self, B: int) -> bool:
        """Whether a step's product is cut into pieces, so that threads may share the rows."""
        I, N, P = self.sizes
        if self.invariant:  # always cut, but only small kernels gain from several threads
            return matmul.has_small_kernels()
        return is_cut(B, I + P + self.has_bias, N, self.dtype.itemsize)

    def step_from_gates(
        self, weights: LaidOutWeights, buffers: Buffers, c: NumpyArray, h_out: NumpyArray, c_out: NumpyArray
    ) -> None:
        """Write the next h and c from the gates in `buffers`."""
        if self.recorder is not None:
            self.recorder.finish(self, weights, buffers, c, h_out, c_out)
            return
        if self.writes_h:
            weights.pointwise.run(buffers.blocks, c, h_out, c_out)
            return
        weights.pointwise.run(buffers.blocks, c, buffers.m, c_out)
        h = self._project(weights, buffers)
        if self.zoneout_h:
            np.multiply(h, 1 - self.zoneout_h, h)
            np.multiply(buffers.h, self.zoneout_h, buffers.h)
            np.add(buffers.h, h, h)
        h_out[...] = h

    def bound_step(self, weights: LaidOutWeights, buffers: Buffers) -> BoundStep:
        """Return `step_from_gates` with these weights and buffers, for many steps: a function of c, h_out and c_out."""
        if self.writes_h and self.recorder is None:
            return weights.pointwise.bound(buffers.blocks)
        return functools.partial(self.step_from_gates, weights, buffers)

    def _project(self, weights: LaidOutWeights, buffers: Buffers) -> NumpyArray:
        """Return the projected m, or m itself without a projection."""
        if weights.projection is None or buffers.of_m is None:
            return buffers.m
        buffers.of_m.run(weights.projection)
        if self.proj_clip is not None:
            clip(buffers.projected, self.proj_clip)
        return buffers.projected
