"""The reference: the formula of `fusedlstm.weights` in NumPy, readable, and the truth for every test."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fusedlstm import dtypes
from fusedlstm.backends.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.backends.scratch import Buffers
    from fusedlstm.dtypes import NumpyArray
    from fusedlstm.weights import LSTMWeights

    Reset: TypeAlias = tuple[NumpyArray, NumpyArray]  # the h and c that rows are reset to

# Elements of the gates that are worked through at once, so that they stay in a cache.
_BLOCK = 1 << 20
# Elements of the gates that the x of a sequence is multiplied to at once.
_CHUNK = 1 << 17
# Of fewer steps at once the matmuls are no faster than one over [x | h] is.
_FEWEST_STEPS = 4


# The gates stand one behind the other, because NumPy is several times faster on contiguous arrays than on blocks of
# columns: i, f and o first, and negated, so that their sigmoids are three passes over one array. To negate weights
# negates their products exactly.
_PLANES = [0, 1, 3, 2]  # i, f, o, g among i, f, g, o


def to_planes(gates: NumpyArray, dtype: np.dtype[Any]) -> NumpyArray:
    """Return a new array of -i, -f, -o, g from the blocks i, f, g, o of a first axis (4, ...), in this dtype."""
    planes = np.ascontiguousarray(gates[_PLANES], dtype)
    np.negative(planes[:3], out=planes[:3])
    return planes


def sigmoid_reciprocal(z: NumpyArray) -> None:
    """z <- 1 / sigmoid(-z) = 1 + exp(z), in place: to divide by it is to multiply by the sigmoid, in fewer passes.

    Exact where the sigmoid saturates: the exponential then is 0, or overflows to inf and its quotient is 0.
    """
    np.exp(z, out=z)
    np.add(z, 1, out=z)


# The activations: out <- function(z). `out` may be `z`. NaN stays NaN.


def tanh(z: NumpyArray, out: NumpyArray) -> None:
    """out <- tanh(z)."""
    np.tanh(z, out=out)


def relu(z: NumpyArray, out: NumpyArray) -> None:
    """out <- max(z, 0)."""
    np.maximum(z, 0, out=out)


def sigmoid(z: NumpyArray, out: NumpyArray) -> None:
    """out <- 1 / (1 + exp(-z))."""
    np.negative(z, out=out)
    np.exp(out, out=out)
    np.add(out, 1, out=out)
    np.reciprocal(out, out=out)


def softsign(z: NumpyArray, out: NumpyArray) -> None:
    """out <- z / (1 + |z|); of an infinity it is NaN, as in TensorFlow."""
    np.divide(z, np.abs(z) + 1, out=out)


def elu(z: NumpyArray, out: NumpyArray) -> None:
    """out <- z where z > 0, else exp(z) - 1."""
    negative = np.expm1(np.minimum(z, 0))
    np.maximum(z, 0, out=out)
    np.add(out, negative, out=out)


def linear(z: NumpyArray, out: NumpyArray) -> None:
    """out <- z."""
    if out is not z:
        out[...] = z


_ACTIVATIONS: dict[str, Callable[[NumpyArray, NumpyArray], None]] = {
    "tanh": tanh,
    "relu": relu,
    "sigmoid": sigmoid,
    "softsign": softsign,
    "elu": elu,
    "linear": linear,
}


class Pointwise:
    """Everything after the matmul: gates (4, B, N) as of `to_planes`, c (B, N) -> m and the new c, both (B, N).

    Args:
        peephole: (3, N) rows i, f, o, or None.
        cell_clip: as in LSTMWeights.
        activation: as in LSTMWeights.
    """

    def __init__(self, peephole: NumpyArray | None, cell_clip: float | None, activation: str) -> None:
        self.peephole = None if peephole is None else -peephole  # of gates that are negated, too
        self.cell_clip = cell_clip
        self.activation = _ACTIVATIONS[activation]

    def run(self, z: NumpyArray, c: NumpyArray, m: NumpyArray, c_new: NumpyArray) -> None:
        """Write m and c_new, and overwrite z, which holds the pre-activations -i, -f, -o, g.

        c_new may be c. All four arrays have the dtype of the arithmetic.
        """
        B, N = c.shape
        if z.size <= _BLOCK:
            self._run_block(z, c, m, c_new)
            return
        rows = max(1, _BLOCK // (4 * N))
        for start in range(0, B, rows):
            block = slice(start, start + rows)
            self._run_block(z[:, block], c[block], m[block], c_new[block])

    def _run_block(self, z: NumpyArray, c: NumpyArray, m: NumpyArray, c_new: NumpyArray) -> None:
        i, f, o, g = z
        if self.peephole is None:
            sigmoid_reciprocal(z[:3])  # by which the lines below divide
        else:
            p_i, p_f, p_o = self.peephole
            np.add(i, np.multiply(p_i, c, out=m), out=i)  # m is free until the end
            np.add(f, np.multiply(p_f, c, out=m), out=f)
            sigmoid_reciprocal(z[:2])
        self.activation(g, g)
        np.divide(c, f, out=f)
        np.divide(g, i, out=i)
        np.add(f, i, out=c_new)
        if self.cell_clip is not None:
            clip(c_new, self.cell_clip)
        if self.peephole is not None:
            np.add(o, np.multiply(p_o, c_new, out=m), out=o)
            sigmoid_reciprocal(o)
        self.activation(c_new, m)
        np.divide(m, o, out=m)


def clip(a: NumpyArray, limit: float) -> None:
    """Clip to +-limit, in place; NaN stays NaN."""
    np.minimum(a, limit, out=a)
    np.maximum(a, -limit, out=a)


class PackedWeights:
    """A cell's weights as its step takes them: wide, and laid out for the matmuls."""

    def __init__(self, weights: LSTMWeights) -> None:
        dtype, I, N = dtypes.state_dtype(weights.dtype), weights.input_size, weights.hidden_size

        def wide(array: NumpyArray | None) -> NumpyArray | None:
            return None if array is None else array.astype(dtype, copy=False)

        # One matmul over [x | h] gives the four planes of the gates: (4, I + P, N).
        both = np.concatenate([weights.weight_ih, weights.weight_hh], axis=1, dtype=dtype)
        self.weight = np.ascontiguousarray(to_planes(both.reshape(4, N, -1), dtype).swapaxes(1, 2))
        self.weight_x, self.weight_h = self.weight[:, :I], self.weight[:, I:]
        self.bias = None if weights.bias is None else to_planes(weights.bias.reshape(4, 1, N), dtype)
        weight_hr = wide(weights.weight_hr)
        self.projection = None if weight_hr is None else np.ascontiguousarray(weight_hr.T)
        self.pointwise = Pointwise(wide(weights.peephole), weights.cell_clip, weights.activation)


class StepPlan:
    """One step of a cell, for any batch: packed weights, and scratch for each thread that runs it."""

    def __init__(self, weights: LSTMWeights) -> None:
        self.sizes = weights.input_size, weights.hidden_size, weights.output_size
        self.dtype = dtypes.state_dtype(weights.dtype)  # of the arithmetic
        self.projects = weights.weight_hr is not None
        self.proj_clip = weights.proj_clip
        # Whether h is the pointwise result as it is: then that is written without a detour.
        self.writes_h = not self.projects and self.dtype == weights.dtype
        self.packed = PackedWeights(weights)
        self.scratch = Scratch(self)

    def with_weights(self, weights: LSTMWeights) -> StepPlan:
        """Return the plan with other weights of the same form, and the same scratch; this one keeps its own."""
        plan = copy.copy(self)
        plan.packed = PackedWeights(weights)
        return plan

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
        packed, buffers = self.packed, self.scratch.of_batch(len(x))
        c = np.asarray(c)  # no subclass, whose functions may do something else
        with np.errstate(all="ignore"):  # saturation overflows on purpose; NaN in is NaN out
            buffers.x[...] = x
            buffers.h[...] = h
            if is_first is not None:
                c = _reset(buffers.h, c, is_first, reset, c_out)
            np.matmul(buffers.operand, packed.weight, out=buffers.gates)
            if packed.bias is not None:
                np.add(buffers.gates, packed.bias, out=buffers.gates)
            self._finish(packed, buffers, c, h_out, c_out)

    def steps_at_once(self, B: int) -> int:
        """Return for how many steps of a batch `input_gates` is best called: as many as stay in a cache."""
        steps = _CHUNK // max(1, 4 * self.sizes[1] * B)
        return steps if steps >= _FEWEST_STEPS else 1

    def input_gates(self, xs: NumpyArray) -> NumpyArray:
        """Return the part of x and the bias in the gates of several steps: xs (T, B, I) -> (T, 4, B, N)."""
        packed = self.packed
        T, B, I = xs.shape
        gates: NumpyArray = np.matmul(np.asarray(xs, self.dtype).reshape(T * B, I), packed.weight_x)
        if packed.bias is not None:
            np.add(gates, packed.bias, out=gates)
        return gates.reshape(4, T, B, self.sizes[1]).swapaxes(0, 1)

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
        packed, buffers = self.packed, self.scratch.of_batch(len(c))
        c = np.asarray(c)
        if is_first is not None or h.dtype != self.dtype:
            buffers.h[...] = h
            h = buffers.h
        if is_first is not None:
            c = _reset(h, c, is_first, reset, c_out)
        np.matmul(h, packed.weight_h, out=buffers.gates)
        np.add(buffers.gates, gates, out=buffers.gates)
        self._finish(packed, buffers, c, h_out, c_out)

    def _finish(
        self, packed: PackedWeights, buffers: Buffers, c: NumpyArray, h_out: NumpyArray, c_out: NumpyArray
    ) -> None:
        """Write the next h and c from the gates in `buffers`."""
        if self.writes_h:
            packed.pointwise.run(buffers.gates, c, h_out, c_out)
            return
        packed.pointwise.run(buffers.gates, c, buffers.m, c_out)
        if packed.projection is None:
            h_out[...] = buffers.m
            return
        np.matmul(buffers.m, packed.projection, out=buffers.projected)
        if self.proj_clip is not None:
            clip(buffers.projected, self.proj_clip)
        h_out[...] = buffers.projected


def _reset(h: NumpyArray, c: NumpyArray, rows: NumpyArray, reset: Reset | None, into: NumpyArray) -> NumpyArray:
    """Reset the rows marked: those of h in place, those of c in `into`, which is returned."""
    reset_h, reset_c = reset or (None, None)
    select_rows(h, rows, reset_h)
    return _with_rows(c, rows, reset_c, into)


def _with_rows(c: NumpyArray, rows: NumpyArray, value: NumpyArray | None, into: NumpyArray) -> NumpyArray:
    """Return `into`, which becomes `c` with the rows marked reset; it may be `c` itself."""
    np.copyto(into, c)
    select_rows(into, rows, value)
    return into


def select_rows(a: NumpyArray, rows: NumpyArray, value: NumpyArray | None) -> None:
    """Write zeros, the one row of `value`, or its own row of `value`, to the rows marked; selects, so NaN goes."""
    if value is None:
        a[rows] = 0
    elif len(value) == 1:
        a[rows] = value[0]
    else:
        a[rows] = value[rows]


def pointwise(
    gates: NumpyArray,
    c: NumpyArray,
    h_out: NumpyArray,
    c_out: NumpyArray,
    *,
    gates_h: NumpyArray | None,
    bias: NumpyArray | None,
    peephole: NumpyArray | None,
    cell_clip: float | None,
    activation: str,
    is_first: NumpyArray | None,
    reset_c: NumpyArray | None,
) -> None:
    """The step without its matmul; see `fusedlstm.lstm_pointwise`."""
    dtype = dtypes.state_dtype(gates.dtype)
    B, N = c.shape

    def planes(array: NumpyArray) -> NumpyArray:
        return to_planes(array.reshape(B, 4, N).swapaxes(0, 1), dtype)

    with np.errstate(all="ignore"):
        z = planes(gates)  # a copy: the caller's gates stay as they are
        if gates_h is not None:
            recurrent = planes(gates_h)
            if is_first is not None:
                recurrent[:, is_first] = 0
            z += recurrent
        if bias is not None:
            z += to_planes(bias.reshape(4, 1, N), dtype)
        if is_first is not None:
            c = _with_rows(c, is_first, reset_c, c_out)
        wide = None if peephole is None else peephole.astype(dtype)
        m = h_out if h_out.dtype == dtype else np.empty((B, N), dtype)
        Pointwise(wide, cell_clip, activation).run(z, c, m, c_out)
        if m is not h_out:
            h_out[...] = m
