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
    """The units of a plain cell, written for speed: in buffers, and in as few passes as possible.

    With a = d_c i, the gradient of z_i is a g (1 - i), and that of z_g is a (1 - g^2). Both are differences from a
    product with a g: a g - (a g) i, and a - (a g) g. The other gates are alike.

    Args:
        B: the number of rows.
        N: the number of units.
        dtype: the dtype of the arithmetic.
    """

    def __init__(self, B: int, N: int, dtype: np.dtype[np.generic]) -> None:
        self._a, self._b, self._ab, self._y = np.empty((4, B, N), dtype)

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
        (i, f, o, g), (a, b, ab, y) = kept, (self._a, self._b, self._ab, self._y)

        np.tanh(c_new, y)
        if m is not None:
            np.multiply(o, y, m)
        np.multiply(d_m, o, a)
        np.multiply(a, y, ab)
        np.multiply(ab, o, b)
        np.subtract(ab, b, d_z[:, 3])  # d_m o y (1 - o)
        np.multiply(ab, y, b)
        np.subtract(a, b, a)
        np.add(d_c, a, d_c)  # + d_m o (1 - y^2)

        np.multiply(d_c, i, a)
        np.multiply(a, g, ab)
        np.multiply(ab, i, b)
        np.subtract(ab, b, d_z[:, 0])  # d_c i g (1 - i)
        np.multiply(ab, g, b)
        np.subtract(a, b, d_z[:, 2])  # d_c i (1 - g^2)

        np.multiply(d_c, f, d_c)  # d_c f, the gradient of the old c
        np.multiply(d_c, c, ab)
        np.multiply(ab, f, b)
        np.subtract(ab, b, d_z[:, 1])  # d_c f c (1 - f)


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
