"""Convert Keras 3's and tf.keras's LSTMCell, LSTM, RNN and Bidirectional to weights, and back.

Sources are layers and models (`trees`), the arrays of get_weights(), and files (`files`). `layers` converts layers,
`functions` activations, and `graph` checks how models call the layers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fusedlstm.arrays.host import to_host
from fusedlstm.convert.foreign import check_names
from fusedlstm.convert.keras.arrays import arrays_of
from fusedlstm.convert.keras.layers import Given, weights_of
from fusedlstm.convert.keras.layouts import LAYOUTS
from fusedlstm.convert.keras.nodes import choose, vouch
from fusedlstm.convert.keras.trees import root_of
from fusedlstm.convert.writing import refuse, write
from fusedlstm.directions import BOTH, FORWARD
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.arguments import describe_type, fail
from fusedlstm.validation.weights import check_weights
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.keras.nodes import Node
    from fusedlstm.stacked import EitherWeights


def from_keras(
    source: Any,
    name: str | Sequence[str] | None = None,
    *,
    activation: Any = None,
    recurrent_activation: Any = None,
    custom_classes: Sequence[str] = (),
    initial_state: str = "refuse",
) -> EitherWeights:
    """Return the weights of an LSTMCell, LSTM, RNN or Bidirectional of Keras 3 or tf.keras (tf_keras).

    Inputs of Keras's layers are (B, T, I): use LSTM(weights, batch_first=True). Pass a mask as `mask=`, with
    masked_outputs="last", or "zero" for a layer with zero_output_for_mask=True or in a Bidirectional that
    returns sequences. Keras on JAX differs in two places: in masked steps before the first valid one it repeats the
    initial h, and an unrolled layer ignores zero_output_for_mask. The weights don't hold the state of a stateful layer,
    and the log warns about it. Dropout, seeds and regularizers don't affect a step. Unknown options raise, and so do
    constants as initial_state, and training=True with dropout.

    A layer with go_backwards=True reads its input backward, and returns its outputs in the order in which it steps. So
    the layers above it get the steps in reversed order, until another such layer. Each of our layers gets the direction
    in which it reads the original steps. If Keras's last outputs are reversed, the log warns: ours belong to the inputs
    at the same index. A Bidirectional must not read reversed steps. If a mask may reach such a layer that is not the
    last one, it raises, because Keras doesn't reverse the mask.

    Several layers are a stack only if each one reads the outputs of the one before in the model's graph. Layers that
    return their input at inference may be in between: Dropout, SpatialDropout1D, GaussianNoise, GaussianDropout,
    AlphaDropout, ActivityRegularization, Activation("linear") and Identity. A file with only weights has no graph: your
    order is used, and the log warns.

    Args:
        source: a layer, a cell or a model; or the arrays of get_weights(): [kernel, recurrent_kernel(, bias)] of a
            cell, those of a Bidirectional's two cells, or a list of such lists, one for each layer; or the path
            of a file: `.keras`, `.weights.h5`, or the `.h5` of model.save or save_weights (needs h5py).
        name: a layer of the model, such as "lstm_1", or "encoder/lstm_1" in a nested model. A sequence of names is a
            stack, lowest layer first. None for the only LSTM.
        activation: the layer's activation, in the form of LSTMWeights. Pass it if the source doesn't hold it: arrays,
            files with only weights, and your own model classes in files. None for the layer's own, or else "tanh".
        recurrent_activation: likewise. None for the layer's own, or else the default of the Keras that wrote the file,
            which is logged: ("hard_sigmoid", 0.2, 0.5) before 2.3, then "sigmoid". It is required for a file without a
            version, or with "2.2.4-tf", which TensorFlow 1 and 2 both wrote. For arrays None is "sigmoid". Note that
            "hard_sigmoid" is ("hard_sigmoid", 1/6, 0.5) in Keras 3.
        custom_classes: names of your own classes that compute the same as the Keras class that they derive from, or
            only call the layer that they wrap. All others raise.
        initial_state: "refuse" to raise for layers that are called with constants other than zeros as initial_state,
            or "separate" to leave them to `initial_state_from_keras`.

    Returns:
        LSTMWeights for an LSTMCell or its arrays, else StackedWeights. For a layer with the policy mixed_float16 they
        are float32, like its variables.

    Raises:
        TypeError: `source` is none of these; the arrays' dtypes are mixed or unsupported.
        ValueError: there is no such layer, or several; weights can't represent the layer (the message names the
            option).
        WeightsFileError: either of these, in a file; or the file is damaged, or is not a Keras file.
        ImportError: `source` is a file, and h5py is not installed.
        OSError: the file can't be opened.
    """
    names = _names(name)
    classes = sorted(check_names(custom_classes))
    given = Given.of(activation, recurrent_activation, initial_state)
    if isinstance(source, (str, bytes, os.PathLike)):
        from fusedlstm.convert.keras.files import opened

        with opened(source) as root:
            return _weights(root, names, given, classes)
    if isinstance(source, (list, tuple)):
        for argument, value in (("name", name), ("custom_classes", classes or None)):
            if value is not None:
                fail(ValueError, argument, "None with arrays", repr(value))
        return _of_arrays(source, given)
    wanted = "a layer, cell or model of Keras, a list of its arrays, or the path of a file"
    return _weights(root_of(source, wanted), names, given, classes)


def _names(name: Any) -> list[str | None]:
    """Return the names of the layers that the caller wants; [None] for the only one."""
    names = list(name) if isinstance(name, Sequence) and not isinstance(name, str) else [name]
    for each in names:
        if not isinstance(each, str) and not (each is None and name is None):
            fail(TypeError, "name", "the name of a layer, a sequence of names, or None", describe_type(each))
    if not names:
        fail(ValueError, "name", "at least one name", "none")
    return names


def _weights(
    root: Node, names: Sequence[str | None], given: Given, classes: Sequence[str]
) -> LSTMWeights | StackedWeights:
    vouch(root, classes)
    return weights_of(root, [choose("source", root, name) for name in names], given)


def _of_arrays(source: Sequence[Any], given: Given) -> LSTMWeights | StackedWeights:
    """Return the weights of the arrays of a cell or a Bidirectional, or of lists of them."""
    if not source or not all(isinstance(each, (list, tuple)) for each in source):
        directions = _directions("source", source, given)
        if len(directions) == 1:
            return directions[0]
        return StackedWeights(directions, bidirectional=True)
    layers = [_directions(f"source[{k}]", arrays, given) for k, arrays in enumerate(source)]
    ways = [BOTH if len(layer) == 2 else FORWARD for layer in layers]
    return StackedWeights([each for layer in layers for each in layer], directions=ways)


def _directions(name: str, source: Sequence[Any], given: Given) -> list[LSTMWeights]:
    """Return the weights of one direction, or of two."""
    arrays = [to_host(f"{name}[{k}]", array) for k, array in enumerate(source)]
    cells: list[list[NumpyArray]] = []
    for array in arrays:
        if array.ndim == 2 and (not cells or len(cells[-1]) > 1):
            cells.append([])
        if cells:
            cells[-1].append(array)
    if len(cells) not in (1, 2) or [len(array.shape) for array in arrays] != _dimensions(cells):
        wanted = "[kernel, recurrent_kernel(, bias)] of one cell, or of the two of a Bidirectional"
        got = f"arrays of shapes {', '.join(str(array.shape) for array in arrays) or 'none'}"
        fail(ValueError, name, wanted, got, "Give a list of such lists for layers, or for the cells of a stack")
    options: dict[str, Any] = {
        "activation": given.activation or "tanh",
        "gate_activation": given.recurrent_activation or "sigmoid",
    }
    names = [name] if len(cells) == 1 else [f"{name} (forward)", f"{name} (backward)"]
    weights = [LSTMWeights(**arrays_of(of, cell), **options) for of, cell in zip(names, cells, strict=True)]
    if weights[0].input_size != weights[-1].input_size:
        got = f"{weights[0].input_size} and {weights[-1].input_size}"
        hint = "If these are the cells of a stack, give a list of lists"
        fail(ValueError, name, "two directions with the same input_size", got, hint)
    return weights


def _dimensions(cells: Sequence[Sequence[Any]]) -> list[int]:
    """Return the number of dimensions of each array that such cells must have."""
    return [dimensions for cell in cells for dimensions in (2, 2, 1)[: max(2, len(cell))]]


def to_keras(weights: LSTMWeights | StackedWeights) -> list[Any]:
    """Convert weights to the arrays for set_weights of a Keras layer. `from_keras` converts them back.

    The arrays don't hold functions, nor whether a layer of one direction reads backward. Such a layer has
    go_backwards=True in Keras, and returns its outputs in reversed order.

    Make the layer with the weights' activation as `activation=` and gate_activation as
    `recurrent_activation=`, and with use_bias=False if the weights have no bias. Keras 3's hard_sigmoid is
    ("hard_sigmoid", 1/6, 0.5).

    Returns:
        [kernel, recurrent_kernel(, bias)] for LSTMWeights, or for one layer in one direction. For one layer in both
        directions, the arrays of both, forward first. For several layers, a list of such lists, one for each LSTM or
        Bidirectional. All arrays are new.

    Raises:
        TypeError: `weights` is neither an LSTMWeights nor a StackedWeights.
        ValueError: Keras's LSTM lacks an option, which the message names: peephole, weight_hr, cell_clip, proj_clip,
            gate_clip, coupled_gate, an output_activation, zoneout_c, zoneout_h, residual.
    """
    check_weights(weights)
    if isinstance(weights, LSTMWeights):
        return _arrays_for("weights", weights)
    if any(weights.residual):
        fail(ValueError, "residual", "False, as Keras's LSTM supports nothing else", str(weights.residual))
    directions = [_arrays_for(f"layers[{k}]", each) for k, each in enumerate(weights.layers)]
    layers = [[array for arrays in directions[which] for array in arrays] for which in weights.slices]
    return layers if len(layers) > 1 else layers[0]


def _arrays_for(name: str, weights: LSTMWeights) -> list[NumpyArray]:
    try:
        refuse(weights, "Keras's LSTM", ("activation", "gate_activation"))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    arrays = write(LAYOUTS["keras"], weights)
    return [arrays[array] for array in ("kernel", "recurrent_kernel", "bias") if array in arrays]
