"""The launches of kernels/interleave.cu, which lays weights out for tiles."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from fusedlstm.backends.cuda.arguments import InterleaveArguments, Matrix, PadArguments
from fusedlstm.backends.cuda.kernels import rows_and_columns
from fusedlstm.backends.cuda.runtime.kernel import Kernel
from fusedlstm.backends.cuda.runtime.structs import C_NAMES, Struct

if TYPE_CHECKING:
    import numpy as np

    from fusedlstm.backends.cuda.device_weights import DeviceWeights


@functools.cache
def interleave_kernel(dtype: np.dtype[Any], rounded: bool) -> Kernel:
    """Return the instance of kernels/interleave.cu for a cell's weights."""
    return _interleaving("lstm_interleave", dtype, rounded, InterleaveArguments)


@functools.cache
def pad_kernel(dtype: np.dtype[Any], rounded: bool) -> Kernel:
    """Return the instance of kernels/interleave.cu for a projection's weights."""
    return _interleaving("lstm_pad", dtype, rounded, PadArguments)


def _interleaving(name: str, dtype: np.dtype[Any], rounded: bool, record: type) -> Kernel:
    instance = f"{name}<{C_NAMES[dtype.name]}, {str(rounded).lower()}>"
    return Kernel("interleave.cu", instance, Struct(record, T=dtype))


def launch_interleave(weights: DeviceWeights, to: Any, KX: int, *, rounded: bool) -> None:
    """Launch lstm_interleave of kernels/interleave.cu: write a cell's weights, interleaved, to a contiguous array.

    Args:
        weights: the weights of the cell.
        to: (4N rounded up to 128, KX + KH). All of it is written.
        KX: the first column of h in `to`.
        rounded: whether to round float32 to TF32, which needs compute capability 8.0.
    """
    rows, columns = to.shape
    arguments = InterleaveArguments(
        to=to,
        columns=columns,
        KX=KX,
        weight=Matrix.of(weights.weight),
        X=weights.X,
        I=weights.I,
        P=weights.P,
        N=weights.N,
    )
    interleave_kernel(to.dtype, rounded)(*rows_and_columns(rows, columns), arguments)


def launch_pad(a: Any, to: Any, *, rounded: bool) -> None:
    """Launch lstm_pad (interleave.cu): pad `a` (P, N) with zeros to fill `to` (P rounded up to 128, columns)."""
    rows, columns = to.shape
    P, N = a.shape
    arguments = PadArguments(to, columns, projection=Matrix.of(a), P=P, N=N)
    pad_kernel(to.dtype, rounded)(*rows_and_columns(rows, columns), arguments)
