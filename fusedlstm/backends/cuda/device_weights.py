"""A cell's weights on a GPU, laid out for its matmuls. Everything that steps the cell shares them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.backends.cuda.weight_kernels import launch_interleave, launch_pad

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.weights import LSTMWeights

_ALIGNMENT = 16  # bytes that kernels and cuBLAS move at once
_TILE = 64  # bytes of a row of interleaved weights in one of a kernel's tiles
_ROWS = 128  # of interleaved weights that a large tile reads. Their number is a multiple of it


def padded(columns: int, dtype: np.dtype[Any], to: int = _ALIGNMENT) -> int:
    """Return `columns` rounded up to a multiple of `to` bytes, so that what follows them in a row is aligned."""
    return _rounded_up(columns, to // dtype.itemsize)


def _rounded_up(number: int, to: int) -> int:
    return -(-number // to) * to


@dataclass(frozen=True)
class Interleaved:
    """A copy of a cell's weights in whole tiles, padded with zeros, as kernels/interleave.cu lays them out.

    Attributes:
        weight: (4N rounded up to 128, KX + KH): the four gates of 8 units in 32 rows, for x and for h.
        projection: (P rounded up to 128, N padded), or None.
        KX: the columns of x, padded.
        KH: the columns of h, padded.
        rounded: whether the weights are rounded to TF32.
    """

    weight: Any
    projection: Any
    KX: int
    KH: int
    rounded: bool

    @classmethod
    def empty(cls, weights: DeviceWeights, *, rounded: bool) -> Interleaved:
        """Return an uninitialised copy, for `fill` to write."""
        dtype, rows = weights.dtype, _rounded_up(weights.N, _ROWS // 4) * 4
        KX, KH = (padded(columns, dtype, _TILE) for columns in (weights.I, weights.P))
        projection = None
        if weights.weight_hr is not None:
            projection = cupy.empty((_rounded_up(weights.P, _ROWS), padded(weights.N, dtype, _TILE)), dtype)
        return cls(cupy.empty((rows, KX + KH), dtype), projection, KX, KH, rounded)

    def fill(self, weights: DeviceWeights) -> None:
        """Write the whole copy on the current stream."""
        launch_interleave(weights, self.weight, self.KX, rounded=self.rounded)
        if self.projection is not None:
            launch_pad(weights.weight_hr, self.projection, rounded=self.rounded)


class DeviceWeights:
    """Weights that multiply [x | h] in one product, or x and h in one product each.

    `weight` is (4N, X + H): weight_ih and weight_hh side by side, padded with columns of zeros to X and H columns.
    `weight_ih`, `weight_hh` and `weight_hr` (P, N), if there is one, are views. `set` overwrites them all, and the
    copies that `interleaved` has made. `capability` is the GPU's compute capability, 90 for 9.0.
    """

    def __init__(self, weights: LSTMWeights) -> None:
        self.I, self.N, self.P = weights.input_size, weights.hidden_size, weights.output_size
        self.dtype, self.gates_dtype = weights.dtype, dtypes.state_dtype(weights.dtype)
        self.capability = int(cupy.cuda.Device().compute_capability)
        self.X, self.H = padded(self.I, self.dtype), padded(self.P, self.dtype)
        self._arrays = {name: cupy.asarray(array) for name, array in self._laid_out(weights).items()}
        self.weight, self.projection = self._arrays["weight"], self._arrays.get("projection")
        self.weight_ih, self.weight_hh = self.weight[:, : self.I], self.weight[:, self.X : self.X + self.P]
        self.weight_hr = None if self.projection is None else self.projection[:, : self.N]
        self.bias, self.peephole = self._arrays.get("bias"), self._arrays.get("peephole")
        self.cell_clip, self.proj_clip = weights.cell_clip, weights.proj_clip
        self.functions = weights.functions
        self.functions_of_m = replace(weights.functions, zoneout_h=0.0)  # zoneout follows the projection
        self._lock = threading.RLock()  # reentrant, as a signal handler may call again
        self._interleaved: dict[bool, Interleaved] = {}  # by whether they are rounded
        self._uploaded = cupy.cuda.Event(disable_timing=True)  # after the latest weights
        self._uploaded.record()

    def set(self, weights: LSTMWeights) -> None:
        """Overwrite the weights with others of the same form, in the order of the current stream."""
        arrays = self._laid_out(weights)
        with self._lock:
            for name, array in arrays.items():
                self._arrays[name].set(array)
            for copy in self._interleaved.values():
                copy.fill(self)
            self._uploaded.record()

    def wait_until_uploaded(self, stream: Any) -> None:
        """Make a stream wait for the latest weights, which may have been uploaded on another one."""
        stream.wait_event(self._uploaded)

    def interleaved(self, rounded: bool) -> Interleaved:
        """Return the weights interleaved. If `rounded`, float32 is rounded to TF32, which needs compute capability 8.0.

        The first call makes them on the current stream, which must not be capturing. They are kept.
        """
        with self._lock:
            if rounded not in self._interleaved:
                stream = cupy.cuda.get_current_stream()
                self.wait_until_uploaded(stream)
                copy = Interleaved.empty(self, rounded=rounded)
                copy.fill(self)
                stream.synchronize()  # other streams may be the first to use them
                self._interleaved.setdefault(rounded, copy)  # a nested call may have made it
            return self._interleaved[rounded]

    def _laid_out(self, weights: LSTMWeights) -> dict[str, NumpyArray]:
        """Return the laid-out arrays in host memory, by name."""
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
