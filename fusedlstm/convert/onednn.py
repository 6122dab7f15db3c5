"""Convert weights of oneDNN's LSTM primitive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays.host import to_host
from fusedlstm.convert.cells import cell_weights, check_array_like
from fusedlstm.convert.layout import Layout
from fusedlstm.convert.record import System
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlstm.arrays.dtypes import NumpyArray

# One layer and direction of ldigo tensors. Peepholes and the projection are from oneDNN's documentation.
LAYOUTS = {
    "onednn": Layout(
        gates="ifgo",
        columns=True,
        weight_ih="weights_layer",
        weight_hh="weights_iter",
        biases=("bias",),
        peephole="weights_peephole",
        weight_hr="weights_projection",
    ),
}


def from_onednn(
    weights_layer: Any,
    weights_iter: Any,
    bias: Any = None,
    weights_peephole: Any = None,
    weights_projection: Any = None,
) -> StackedWeights:
    """Return the weights of a oneDNN LSTM primitive from tensors in the plain formats ldigo, ldgo and ldio.

    The gate order is i, f, g, o (oneDNN calls them i, f, c~, o), and the order of peepholes is i, f, o. The outputs of
    both directions are assumed to be concatenated (bidirectional_concat). Gates and biases are tested against PyTorch
    2.13's oneDNN. The rest is from the documentation of oneDNN 3.

    Args:
        weights_layer: (L, D, I, 4, N), for L layers and D directions.
        weights_iter: (L, D, P, 4, N).
        bias: (L, D, 4, N), or None.
        weights_peephole: (L, D, 3, N), or None.
        weights_projection: (L, D, N, P), or None.

    Raises:
        TypeError: `weights_layer` or `weights_iter` is not an array; the arrays' dtypes are mixed or unsupported.
        ValueError: a shape is wrong.
    """
    check_array_like("weights_layer", weights_layer, "(L, D, I, 4, N)")
    check_array_like("weights_iter", weights_iter, "(L, D, P, 4, N)")
    given = {
        "weights_layer": (weights_layer, 5),
        "weights_iter": (weights_iter, 5),
        "bias": (bias, 4),
        "weights_peephole": (weights_peephole, 4),
        "weights_projection": (weights_projection, 4),
    }
    tensors: dict[str, NumpyArray] = {}
    for name, (value, ndim) in given.items():
        if value is not None:
            tensors[name] = to_host(name, value)
            _check_layers(name, tensors, ndim)
    L, D = tensors["weights_layer"].shape[:2]
    if D not in (1, 2) or L == 0:
        fail(ValueError, "weights_layer", "shape (L, D, I, 4, N), D 1 or 2", f"shape {tensors['weights_layer'].shape}")
    cells = []
    for layer, direction in np.ndindex(L, D):
        arrays = {name: _joined(name, tensor[layer, direction]) for name, tensor in tensors.items()}
        cells.append(cell_weights(LAYOUTS["onednn"], "weights_layer", arrays, ""))
    return StackedWeights(cells, bidirectional=D == 2)


def _check_layers(name: str, tensors: Mapping[str, NumpyArray], ndim: int) -> None:
    """Raise unless a tensor has `ndim` axes, and the right numbers of layers, directions and gates."""
    shape, first = tensors[name].shape, tensors["weights_layer"].shape[:2]
    gates = {"weights_layer": (3, 4), "weights_iter": (3, 4), "bias": (2, 4), "weights_peephole": (2, 3)}
    axis, count = gates.get(name, (0, first[0]))
    if len(shape) != ndim or shape[:2] != first or shape[axis] != count:
        form = {5: "(L, D, I or P, 4, N)", 4: "(L, D, 4, N), (L, D, 3, N) or (L, D, N, P)"}[ndim]
        fail(ValueError, name, f"shape {form}, with the L and D of weights_layer", f"shape {shape}")


def _joined(name: str, tensor: NumpyArray) -> NumpyArray:
    """Return one layer's tensor with gates and units joined into one axis, except peepholes and the projection."""
    if name in ("weights_peephole", "weights_projection"):
        return tensor
    return tensor.reshape(*tensor.shape[:-2], 4 * tensor.shape[-1])


SYSTEM = System(name="onednn", layouts=LAYOUTS, read=from_onednn)
