"""Convert weights of cuDNN's LSTM, in its canonical form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedlstm.convert.cells import cell_weights, elements
from fusedlstm.convert.layout import Layout, each
from fusedlstm.convert.record import System
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.arguments import check_bool, check_size, fail

if TYPE_CHECKING:
    from collections.abc import Sequence

# Linear layers 0 to 3 and 4 to 7, in the order of TensorFlow's canonical blobs; 8 is the projection. From cuDNN's
# documentation and TensorFlow's converter.
LAYOUTS = {
    "cudnn": Layout(
        gates="ifgo",
        columns=False,
        weight_ih=each("w{}", "0123"),
        weight_hh=each("w{}", "4567"),
        biases=(each("b{}", "0123"), each("b{}", "4567")),
        weight_hr="w8",
    ),
}


def from_cudnn(
    weights: Sequence[Any], biases: Sequence[Any] | None = None, *, num_layers: int, bidirectional: bool = False
) -> StackedWeights:
    """Return the weights of a cuDNN LSTM in its canonical form: one matrix and one bias for each linear layer.

    For the gates i, f, g, o, linear layers 0 to 3 (N, I) multiply x, and 4 to 7 (N, P) multiply h. Layer 8 (P, N) is
    the projection. From the documentation of cuDNN 9 (cudnnGetRNNWeightParams) and TensorFlow's
    CudnnRNNParamsToCanonical. The weights don't record the clip that cudnnRNNSetClip_v8 sets. An LSTM that clips can't
    be represented.

    Args:
        weights: 8 matrices, or 9 with a projection, for each layer and direction. They are in cuDNN's order of
            pseudo-layers: layer 0 forward, layer 0 backward, layer 1 forward, and so on.
        biases: 8 vectors (N,) for each layer and direction, in the same order; None for CUDNN_RNN_NO_BIAS.
        num_layers: the number of layers, at least 1.
        bidirectional: whether each layer has both directions.

    Raises:
        TypeError: `weights` or `biases` is not a sequence; the arrays' dtypes are mixed or unsupported.
        ValueError: the number of matrices or biases is wrong; a shape is wrong.
    """
    check_bool("bidirectional", bidirectional)
    cells = check_size("num_layers", num_layers, 1) * (2 if bidirectional else 1)
    weights = elements("weights", "a sequence of arrays", weights)
    biases = None if biases is None else elements("biases", "a sequence of arrays", biases)
    if len(weights) not in (8 * cells, 9 * cells):
        fail(ValueError, "weights", f"8 or 9 matrices for each of {cells} layers and directions", str(len(weights)))
    if biases is not None and len(biases) != 8 * cells:
        fail(ValueError, "biases", f"8 for each of {cells} layers and directions", str(len(biases)))
    count = len(weights) // cells
    layers = []
    for cell in range(cells):
        arrays = {f"w{k}": weights[count * cell + k] for k in range(count)}
        if biases is not None:
            arrays |= {f"b{k}": biases[8 * cell + k] for k in range(8)}
        layers.append(cell_weights(LAYOUTS["cudnn"], "weights", arrays, f"layer {cell}: "))
    return StackedWeights(layers, bidirectional=bidirectional)


SYSTEM = System(name="cudnn", layouts=LAYOUTS, read=from_cudnn)
