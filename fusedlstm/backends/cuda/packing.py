"""A cell's weights on a GPU, laid out for its matmuls: one copy for all that step it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm import dtypes

if TYPE_CHECKING:
    from fusedlstm.dtypes import NumpyArray
    from fusedlstm.weights import LSTMWeights

_ALIGNMENT = 16  # bytes, of what kernels and cuBLAS move at once


def padded(columns: int, dtype: np.dtype[Any]) -> int:
    """Return the columns that a row has room for, so that what stands beside them is aligned."""
    each = _ALIGNMENT // dtype.itemsize
    return -(-columns // each) * each


class PackedWeights:
    """Weights that multiply [x | h] at once, or x and h each on its own.

    `weight` is (4N, X + H): weight_ih and weight_hh side by side, each padded by columns of zeros, X and H wide.
    `weight_ih`, `weight_hh` and `weight_hr` (P, N), if there is one, are views. Others of the same form overwrite all.
    """

    def __init__(self, weights: LSTMWeights) -> None:
        self.I, self.N, self.P = weights.input_size, weights.hidden_size, weights.output_size
        self.dtype, self.gates_dtype = weights.dtype, dtypes.state_dtype(weights.dtype)
        self.X, self.H = padded(self.I, self.dtype), padded(self.P, self.dtype)
        self._arrays = {name: cupy.asarray(array) for name, array in self._packed(weights).items()}
        self.weight, self.projection = self._arrays["weight"], self._arrays.get("projection")
        self.weight_ih, self.weight_hh = self.weight[:, : self.I], self.weight[:, self.X : self.X + self.P]
        self.weight_hr = None if self.projection is None else self.projection[:, : self.N]
        self.bias, self.peephole = self._arrays.get("bias"), self._arrays.get("peephole")
        self.cell_clip, self.proj_clip = weights.cell_clip, weights.proj_clip
        self.activation = weights.activation

    def set(self, weights: LSTMWeights) -> None:
        """Overwrite them by others of the same form, in the order of the current stream."""
        for name, array in self._packed(weights).items():
            self._arrays[name].set(array)

    def _packed(self, weights: LSTMWeights) -> dict[str, NumpyArray]:
        """Return the arrays in host memory."""
        weight = np.zeros((4 * self.N, self.X + self.H), self.dtype)
        weight[:, : self.I] = weights.weight_ih
        weight[:, self.X : self.X + self.P] = weights.weight_hh
        arrays = {"weight": weight}
        if weights.bias is not None:
            arrays["bias"] = weights.bias
        if weights.peephole is not None:
            arrays["peephole"] = weights.peephole
        if weights.weight_hr is not None:
            projection = arrays["projection"] = np.zeros((self.P, padded(self.N, self.dtype)), self.dtype)
            projection[:, : self.N] = weights.weight_hr
        return arrays
