"""The backward pass of a step, unit by unit: everything but its matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from fusedlstm.backends.numpy import formula_vjp
from fusedlstm.backends.numpy.recording import is_plain

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.weights import LSTMWeights


class Units(Protocol):
    """The backward pass of a cell's units."""

    def run(
        self,
        kept: NumpyArray,
        c: NumpyArray,
        c_new: NumpyArray,
        d_m: NumpyArray,
        d_c: NumpyArray,
        d_z: NumpyArray,
        m: NumpyArray | None,
    ) -> None:
        """Write the gradients of a step's pre-activations, and of the old c.

        Args:
            kept: (4, B, N), what the Record has of the step.
            c: (B, N), before the step.
            c_new: (B, N), after the step.
            d_m: (B, N), the gradient of m.
            d_c: (B, N), the gradient of c_new, to be overwritten by that of c.
            d_z: (B, 4, N), to be written, in the order i, f, g, o.
            m: (B, N), to be written, or None if it isn't wanted.
        """


class PlainUnits(Units):
    """The units of a plain cell, written for speed: in buffers, with each factor of the formula computed once.

    The gradient of z_i is d_c * i * g * (1 - i), and d_c * i is also a factor of that of z_g. f and o likewise.

    Args:
        B: the number of rows.
        N: the number of units.
        dtype: the dtype of the arithmetic.
    """

    def __init__(self, B: int, N: int, dtype: np.dtype[np.generic]) -> None:
        self._rest = np.empty((3, B, N), dtype)
        self._a, self._b, self._y = np.empty((3, B, N), dtype)
        self._one = np.ones((), dtype)

    def run(
        self,
        kept: NumpyArray,
        c: NumpyArray,
        c_new: NumpyArray,
        d_m: NumpyArray,
        d_c: NumpyArray,
        d_z: NumpyArray,
        m: NumpyArray | None,
    ) -> None:
        """Write the gradients; see `Units`."""
        i, f, o, g = kept
        rest, a, b, y, one = self._rest, self._a, self._b, self._y, self._one
        rest_i, rest_f, rest_o = np.subtract(one, kept[:3], rest)  # 1 - i, 1 - f, 1 - o

        np.tanh(c_new, y)
        if m is not None:
            np.multiply(o, y, m)
        np.multiply(d_m, o, a)
        np.multiply(a, rest_o, b)
        np.multiply(b, y, d_z[:, 3])  # d_m o (1 - o) y
        np.multiply(y, y, b)
        np.subtract(one, b, b)
        np.multiply(b, a, b)
        np.add(d_c, b, d_c)  # + d_m o (1 - y^2)

        np.multiply(d_c, i, a)
        np.multiply(a, rest_i, b)
        np.multiply(b, g, d_z[:, 0])  # d_c i (1 - i) g
        np.multiply(g, g, b)
        np.subtract(one, b, b)
        np.multiply(b, a, d_z[:, 2])  # d_c i (1 - g^2)

        np.multiply(d_c, f, d_c)  # d_c f, the gradient of the old c
        np.multiply(d_c, rest_f, b)
        np.multiply(b, c, d_z[:, 1])  # d_c f (1 - f) c


class GeneralUnits(Units):
    """The units of any cell: the readable formula in the dtype of the arithmetic. It is slower."""

    def __init__(self, weights: LSTMWeights) -> None:
        self._weights = weights

    def run(
        self,
        kept: NumpyArray,
        c: NumpyArray,
        c_new: NumpyArray,
        d_m: NumpyArray,
        d_c: NumpyArray,
        d_z: NumpyArray,
        m: NumpyArray | None,
    ) -> None:
        """Write the gradients; see `Units`."""
        del c_new
        z = -kept[0], -kept[1], kept[3], -kept[2]  # i, f, g, o
        units = formula_vjp.units(self._weights, z, c)
        gates, d_c[...] = formula_vjp.units_vjp(self._weights, units, d_m, d_c)
        for gate, d in enumerate(gates):
            d_z[:, gate] = d
        if m is not None:
            m[...] = units.m


def units_of(weights: LSTMWeights, B: int) -> Units:
    """Return the backward pass of a cell's units for B rows."""
    if is_plain(weights):
        return PlainUnits(B, weights.hidden_size, weights.dtype)
    return GeneralUnits(weights)
