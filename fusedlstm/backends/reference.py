"""The reference: the formula of `fusedlstm.weights` in NumPy, readable, and the truth for every test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import dtypes

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.dtypes import NumpyArray

# Elements of the gates that are worked through at once, so that they stay in a cache.
_BLOCK = 1 << 20

# The gates stand one behind the other, because NumPy is several times faster on contiguous arrays than on blocks of
# columns: i, f and o first, and negated, so that their sigmoids are three passes over one array. To negate weights
# negates their products exactly.
_PLANES = [0, 1, 3, 2]  # i, f, o, g among i, f, g, o


def to_planes(gates: NumpyArray, dtype: np.dtype[Any]) -> NumpyArray:
    """Return a new array of -i, -f, -o, g from the blocks i, f, g, o of a first axis (4, ...), in this dtype."""
    planes = np.ascontiguousarray(gates[_PLANES], dtype)
    np.negative(planes[:3], out=planes[:3])
    return planes


class Gates:
    """Views of the gates z (4, B, N), -i, -f, -o, g, that a step needs: made once for memory that stays."""

    def __init__(self, z: NumpyArray) -> None:
        self.sigmoids, self.i_and_f = z[:3], z[:2]
        self.i, self.f, self.o, self.g = z

    @staticmethod
    def blocks(z: NumpyArray) -> list[tuple[slice, Gates]]:
        """Return the gates in blocks of rows that stay in a cache."""
        _, B, N = z.shape
        rows = max(1, _BLOCK // max(1, 4 * N))
        blocks = [slice(start, min(B, start + rows)) for start in range(0, B, rows)]
        return [(block, Gates(z[:, block])) for block in blocks]


def sigmoid_reciprocal(z: NumpyArray, one: NumpyArray) -> None:
    """z <- 1 / sigmoid(-z) = 1 + exp(z), in place: to divide by it is to multiply by the sigmoid, in fewer passes.

    Exact where the sigmoid saturates: the exponential then is 0, or overflows to inf and its quotient is 0.
    `one` is 1 in the dtype of z: to make an array of an int takes NumPy longer than to add it to a small one.
    """
    np.exp(z, z)
    np.add(z, one, z)


# The activations: out <- function(z). `out` may be `z`; `free` is other memory of their shape, to be overwritten, so
# that a step allocates none. NaN stays NaN.


def tanh(z: NumpyArray, out: NumpyArray, free: NumpyArray) -> None:
    """out <- tanh(z)."""
    del free
    np.tanh(z, out)


def relu(z: NumpyArray, out: NumpyArray, free: NumpyArray) -> None:
    """out <- max(z, 0)."""
    del free
    np.maximum(z, 0, out=out)


def sigmoid(z: NumpyArray, out: NumpyArray, free: NumpyArray) -> None:
    """out <- 1 / (1 + exp(-z))."""
    del free
    np.negative(z, out=out)
    np.exp(out, out=out)
    np.add(out, 1, out=out)
    np.reciprocal(out, out=out)


def softsign(z: NumpyArray, out: NumpyArray, free: NumpyArray) -> None:
    """out <- z / (1 + |z|); of an infinity it is NaN, as in TensorFlow."""
    np.abs(z, out=free)
    np.add(free, 1, out=free)
    np.divide(z, free, out=out)


def elu(z: NumpyArray, out: NumpyArray, free: NumpyArray) -> None:
    """out <- z where z > 0, else exp(z) - 1."""
    np.minimum(z, 0, out=free)
    np.expm1(free, out=free)
    np.maximum(z, 0, out=out)
    np.add(out, free, out=out)


def linear(z: NumpyArray, out: NumpyArray, free: NumpyArray) -> None:
    """out <- z."""
    del free
    if out is not z:
        out[...] = z


_ACTIVATIONS: dict[str, Callable[[NumpyArray, NumpyArray, NumpyArray], None]] = {
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
        dtype: of the arithmetic.
    """

    def __init__(
        self, peephole: NumpyArray | None, cell_clip: float | None, activation: str, dtype: np.dtype[Any]
    ) -> None:
        self.peephole = None if peephole is None else -peephole.astype(dtype)  # of gates that are negated, too
        self.cell_clip = cell_clip
        self.activation = _ACTIVATIONS[activation]
        self.one = np.ones((), dtype)

    def run(self, blocks: list[tuple[slice, Gates]], c: NumpyArray, m: NumpyArray, c_new: NumpyArray) -> None:
        """Write m and c_new, and overwrite the gates, which are the pre-activations -i, -f, -o, g.

        c_new may be c. All arrays have the dtype of the arithmetic.
        """
        if len(blocks) == 1:
            self._run_block(blocks[0][1], c, m, c_new)
            return
        for rows, gates in blocks:
            self._run_block(gates, c[rows], m[rows], c_new[rows])

    def _run_block(self, gates: Gates, c: NumpyArray, m: NumpyArray, c_new: NumpyArray) -> None:
        i, f, o, g = gates.i, gates.f, gates.o, gates.g
        if self.peephole is None:
            sigmoid_reciprocal(gates.sigmoids, self.one)  # by which the lines below divide
        else:
            p_i, p_f, p_o = self.peephole
            np.add(i, np.multiply(p_i, c, m), i)  # m is free until the end
            np.add(f, np.multiply(p_f, c, m), f)
            sigmoid_reciprocal(gates.i_and_f, self.one)
        self.activation(g, g, m)
        np.divide(c, f, f)
        np.divide(g, i, i)
        np.add(f, i, c_new)
        if self.cell_clip is not None:
            clip(c_new, self.cell_clip)
        if self.peephole is not None:
            np.add(o, np.multiply(p_o, c_new, m), o)
            sigmoid_reciprocal(o, self.one)
        self.activation(c_new, m, i)
        np.divide(m, o, m)


def clip(a: NumpyArray, limit: float) -> None:
    """Clip to +-limit, in place; NaN stays NaN."""
    np.minimum(a, limit, out=a)
    np.maximum(a, -limit, out=a)


def with_rows(c: NumpyArray, rows: NumpyArray, value: NumpyArray | None, into: NumpyArray) -> NumpyArray:
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
            c = with_rows(c, is_first, reset_c, c_out)
        m = h_out if h_out.dtype == dtype else np.empty((B, N), dtype)
        Pointwise(peephole, cell_clip, activation, dtype).run(Gates.blocks(z), c, m, c_out)
        if m is not h_out:
            h_out[...] = m
