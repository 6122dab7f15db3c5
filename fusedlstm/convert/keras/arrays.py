"""Convert the arrays of Keras's LSTM cells to those of LSTMWeights.

A cell's arrays are `kernel` (I, 4N), `recurrent_kernel` (N, 4N) and, with use_bias, `bias` (4N,), in our gate order, i,
f, g, o (g is Keras's "c"). unit_forget_bias writes ones into the new variable and adds nothing at run time.

CuDNNLSTM, Keras 2's layer for GPUs, has two biases in one array, (8N,), whose halves are summed. Each gate's block of
its kernel is a matrix (N, I) stored in the shape (I, N), and each block of its recurrent kernel is transposed. Keras 2
itself converts them to an LSTM's arrays when it loads a file, with the same results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.convert.keras.layouts import LAYOUTS
from fusedlstm.convert.reading import read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray

NAMES = ("kernel", "recurrent_kernel", "bias")


def arrays_of(name: str, arrays: Sequence[NumpyArray]) -> dict[str, Any]:
    """Return the arrays of LSTMWeights from [kernel, recurrent_kernel(, bias)] of an LSTM or a CuDNNLSTM."""
    if is_cudnn([array.shape for array in arrays]):
        arrays = _from_cudnn(*arrays)
    named = dict(zip(NAMES, arrays, strict=False))
    return read(LAYOUTS["keras"], name, named, full_name=lambda array: f"{name}.{array}" if name else array)


def is_cell(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Return whether arrays of these shapes are an LSTM's or a CuDNNLSTM's. No other layer has such shapes."""
    if len(shapes) not in (2, 3) or any(len(shape) != 2 for shape in shapes[:2]):
        return False
    (_, columns), (N, of_h) = shapes[:2]
    return columns == of_h == 4 * N > 0 and (len(shapes) == 2 or shapes[2] in ((4 * N,), (8 * N,)))


def is_cudnn(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Return whether arrays of these shapes are a CuDNNLSTM's."""
    return is_cell(shapes) and len(shapes) == 3 and shapes[2] == (8 * shapes[1][0],)


def _from_cudnn(kernel: NumpyArray, recurrent_kernel: NumpyArray, bias: NumpyArray) -> list[NumpyArray]:
    """Convert the arrays of a CuDNNLSTM to those of an LSTM."""
    N, (I, _) = recurrent_kernel.shape[0], kernel.shape
    gates = [block.reshape(N, I).T for block in np.split(kernel, 4, axis=1)]
    of_h = [block.T for block in np.split(recurrent_kernel, 4, axis=1)]
    with np.errstate(all="ignore"):  # a file may hold any numbers
        total = bias[: 4 * N] + bias[4 * N :]
    return [np.concatenate(gates, axis=1), np.concatenate(of_h, axis=1), total]
