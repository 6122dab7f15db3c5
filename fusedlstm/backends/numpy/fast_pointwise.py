"""The formula without its matmul, written for speed and hard to read. `formula` is the readable form.

Each gate is a separate plane, as NumPy is several times faster on contiguous arrays than on blocks of columns. The
planes of i, f and o come first and are negated, so a few passes over one array compute all their sigmoids.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.backends.numpy.functions import clip, in_place, tanh
from fusedlstm.backends.numpy.resets import with_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.functions import Functions

    BoundStep: TypeAlias = Callable[[NumpyArray, NumpyArray, NumpyArray], None]  # of c, m and c_new

# The most elements of gates to process at once, so that they stay in a cache.
_BLOCK = 1 << 20
_PLANES = [0, 1, 3, 2]  # i, f, o, g among i, f, g, o


def to_planes(gates: NumpyArray, dtype: np.dtype[Any]) -> NumpyArray:
    """Return a new array of this dtype with the planes -i, -f, -o, g, from blocks i, f, g, o along the first axis.

    The blocks may be weights, as negating weights negates their products exactly.
    """
    planes = np.ascontiguousarray(gates[_PLANES], dtype)
    np.negative(planes[:3], out=planes[:3])
    return planes


class GatePlanes:
    """Views of a step's gates z (4, B, N), as planes -i, -f, -o, g. They are made once if memory stays in place."""

    def __init__(self, z: NumpyArray) -> None:
        self.sigmoids, self.i_and_f = z[:3], z[:2]
        self.i, self.f, self.o, self.g = z

    @staticmethod
    def blocks(z: NumpyArray) -> list[tuple[slice, GatePlanes]]:
        """Return the gates in blocks of rows that stay in a cache."""
        _, B, N = z.shape
        rows = max(1, _BLOCK // max(1, 4 * N))
        blocks = [slice(start, min(B, start + rows)) for start in range(0, B, rows)]
        return [(block, GatePlanes(z[:, block])) for block in blocks]


def sigmoid_reciprocal(z: NumpyArray, one: NumpyArray) -> None:
    """z <- 1 / sigmoid(-z) = 1 + exp(z), in place. Dividing by it multiplies by sigmoid(-z), in fewer passes.

    It is exact where the sigmoid saturates: there exp(z) is 0, or infinite so that the quotient is 0. `one` is 1 in
    the dtype of z: on small arrays, converting an int would take NumPy longer than the addition.
    """
    np.exp(z, z)
    np.add(z, one, z)


class Pointwise(ABC):
    """Everything after the matmul: gates (4, B, N) as from `to_planes`, c (B, N) -> m and the new c, both (B, N).

    Args:
        peephole: (3, N) rows i, f, o, or None.
        cell_clip: as in LSTMWeights.
        functions: the functions of the cell.
        dtype: the dtype of the arithmetic.
    """

    def __init__(
        self, peephole: NumpyArray | None, cell_clip: float | None, functions: Functions, dtype: np.dtype[Any]
    ) -> None:
        self.peephole = None if peephole is None else -peephole.astype(dtype)  # negated, as the gates are
        self.cell_clip = cell_clip
        self.input, self.output = in_place(functions.input, dtype), in_place(functions.output, dtype)
        self.one = np.ones((), dtype)
        self.zoneout_c = functions.zoneout_c

    def run(self, blocks: list[tuple[slice, GatePlanes]], c: NumpyArray, m: NumpyArray, c_new: NumpyArray) -> None:
        """Write m and c_new, and overwrite the gates, which are the pre-activations -i, -f, -o, g.

        c_new may be c. All arrays have the dtype of the arithmetic.
        """
        if self.zoneout_c:
            for rows, gates in blocks:
                self._run_zoned_out(gates, c[rows], m[rows], c_new[rows])
        elif len(blocks) == 1:
            self._run_block(blocks[0][1], c, m, c_new)
        else:
            for rows, gates in blocks:
                self._run_block(gates, c[rows], m[rows], c_new[rows])

    def bound(self, blocks: list[tuple[slice, GatePlanes]]) -> BoundStep:
        """Return `run` with these gates, for many steps: a function of c, m and c_new."""
        return functools.partial(self.run, blocks)

    def _run_zoned_out(self, gates: GatePlanes, c: NumpyArray, m: NumpyArray, c_new: NumpyArray) -> None:
        """Do the work of `run` with zoneout of c."""
        new = gates.f  # nothing reads the gate once the new c is made
        self._run_block(gates, c, m, new)
        np.multiply(new, 1 - self.zoneout_c, new)
        np.multiply(c, self.zoneout_c, c_new)
        np.add(c_new, new, c_new)

    @abstractmethod
    def _run_block(self, gates: GatePlanes, c: NumpyArray, m: NumpyArray, c_new: NumpyArray) -> None:
        """Do the work of `run` for rows that stay in a cache."""


class SigmoidPointwise(Pointwise):
    """Pointwise for plain sigmoid gates. It divides by their reciprocals, which takes fewer passes."""

    def bound(self, blocks: list[tuple[slice, GatePlanes]]) -> BoundStep:
        """Return `run` with these gates. For a cell without options, it is `_run_block` without look-ups of names."""
        options = self.peephole is not None or self.cell_clip is not None or self.zoneout_c
        if options or len(blocks) > 1 or not self.input is self.output is tanh:
            return super().bound(blocks)
        gates, one = blocks[0][1], self.one
        sigmoids, i, f, o, g = gates.sigmoids, gates.i, gates.f, gates.o, gates.g
        exp, add, divide, hyperbolic = np.exp, np.add, np.divide, np.tanh

        def run(c: NumpyArray, m: NumpyArray, c_new: NumpyArray) -> None:
            exp(sigmoids, sigmoids)
            add(sigmoids, one, sigmoids)
            hyperbolic(g, g)
            divide(c, f, f)
            divide(g, i, i)
            add(f, i, c_new)
            hyperbolic(c_new, i)
            divide(i, o, m)

        return run

    def _run_block(self, gates: GatePlanes, c: NumpyArray, m: NumpyArray, c_new: NumpyArray) -> None:
        i, f, o, g = gates.i, gates.f, gates.o, gates.g
        if self.peephole is None:
            sigmoid_reciprocal(gates.sigmoids, self.one)  # the lines below divide by it
        else:
            p_i, p_f, p_o = self.peephole
            np.add(i, np.multiply(p_i, c, m), i)  # m is free until the end
            np.add(f, np.multiply(p_f, c, m), f)
            sigmoid_reciprocal(gates.i_and_f, self.one)
        self.input(g, g, m)
        np.divide(c, f, f)
        np.divide(g, i, i)
        np.add(f, i, c_new)
        if self.cell_clip is not None:
            clip(c_new, self.cell_clip)
        if self.peephole is not None:
            np.add(o, np.multiply(p_o, c_new, m), o)
            sigmoid_reciprocal(o, self.one)
        self.output(c_new, m, i)
        np.divide(m, o, m)


class GeneralPointwise(Pointwise):
    """Pointwise for gates of any function, clipped or coupled. It computes each gate separately, which is slower."""

    def __init__(
        self, peephole: NumpyArray | None, cell_clip: float | None, functions: Functions, dtype: np.dtype[Any]
    ) -> None:
        super().__init__(peephole, cell_clip, functions, dtype)
        self.gate = in_place(functions.gate, dtype)
        self.gate_clip, self.coupled = functions.gate_clip, functions.coupled

    def _run_block(self, gates: GatePlanes, c: NumpyArray, m: NumpyArray, c_new: NumpyArray) -> None:
        i, f, o, g = gates.i, gates.f, gates.o, gates.g
        p_i, p_f, p_o = (None, None, None) if self.peephole is None else self.peephole
        if self.coupled != "input":
            self._open(i, p_i, c, m)
        if self.coupled != "forget":
            self._open(f, p_f, c, m)
        if self.coupled == "input":
            np.subtract(self.one, f, i)
        elif self.coupled == "forget":
            np.subtract(self.one, i, f)
        if self.gate_clip is not None:
            clip(g, self.gate_clip)
        self.input(g, g, m)
        np.multiply(f, c, f)
        np.multiply(i, g, i)
        np.add(f, i, c_new)
        if self.cell_clip is not None:
            clip(c_new, self.cell_clip)
        self._open(o, p_o, c_new, m)
        self.output(c_new, m, i)
        np.multiply(o, m, m)

    def _open(self, z: NumpyArray, peephole: NumpyArray | None, c: NumpyArray, free: NumpyArray) -> None:
        """Replace z, a gate's negated pre-activation, with the gate."""
        if peephole is not None:
            np.add(z, np.multiply(peephole, c, free), z)
        np.negative(z, z)
        if self.gate_clip is not None:
            clip(z, self.gate_clip)
        self.gate(z, z, free)


def pointwise_of(
    peephole: NumpyArray | None, cell_clip: float | None, functions: Functions, dtype: np.dtype[Any]
) -> Pointwise:
    """Return the Pointwise for a cell with these functions."""
    plain = (functions.gate, functions.gate_clip, functions.coupled) == ("sigmoid", None, None)
    return (SigmoidPointwise if plain else GeneralPointwise)(peephole, cell_clip, functions, dtype)


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
    functions: Functions,
    is_first: NumpyArray | None,
    reset_c: NumpyArray | None,
) -> None:
    """Compute the step without its matmul; see `fusedlstm.lstm_pointwise`. Call it through `quietly`."""
    dtype = dtypes.state_dtype(gates.dtype)
    B, N = c.shape

    def planes(array: NumpyArray) -> NumpyArray:
        return to_planes(array.reshape(B, 4, N).swapaxes(0, 1), dtype)

    z = planes(gates)  # a copy, so that the caller's gates are unchanged
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
    pointwise_of(peephole, cell_clip, functions, dtype).run(GatePlanes.blocks(z), c, m, c_out)
    if m is not h_out:
        h_out[...] = m
