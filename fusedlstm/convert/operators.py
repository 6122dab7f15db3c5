"""Convert weights from the arguments of operators of cuDNN, oneDNN, Core ML and TFLite.

Each has a row in `layouts`. Each function says how its layout is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import log
from fusedlstm.arrays.host import to_host
from fusedlstm.convert.cells import cell_weights, flat_arrays, refuse_state
from fusedlstm.stacked import StackedWeights
from fusedlstm.validation.arguments import check_bool, check_choice, check_clip, check_size, fail

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.functions import Function
    from fusedlstm.weights import LSTMWeights


def from_cudnn(
    weights: Sequence[Any], biases: Sequence[Any] | None = None, *, num_layers: int, bidirectional: bool = False
) -> StackedWeights:
    """Return the weights of a cuDNN LSTM in its canonical form: one matrix and one bias for each linear layer.

    Linear layers 0 to 3, (N, I), multiply x and 4 to 7, (N, P), multiply h for the gates i, f, g, o; 8, (P, N), is the
    projection. From the documents of cuDNN 9 (cudnnGetRNNWeightParams), and TensorFlow's CudnnRNNParamsToCanonical.
    The weights don't record the clip that cudnnRNNSetClip_v8 sets. An LSTM that clips can't be represented.

    Args:
        weights: 8, or 9 with a projection, for each layer and direction: forward, then backward of layer 0, then of
            layer 1, as cuDNN numbers pseudo-layers.
        biases: 8 (N,) for each layer and direction, in that order; None for CUDNN_RNN_NO_BIAS.
        num_layers: at least 1.
        bidirectional: whether each layer has both directions.

    Raises:
        TypeError: arrays of mixed or unsupported dtypes.
        ValueError: another number of matrices or biases; wrong shapes.
    """
    check_bool("bidirectional", bidirectional)
    cells = check_size("num_layers", num_layers, 1) * (2 if bidirectional else 1)
    if len(weights) not in (8 * cells, 9 * cells):
        fail(ValueError, "weights", f"8 or 9 matrices for each of {cells} layers and directions", str(len(weights)))
    if biases is not None and len(biases) != 8 * cells:
        fail(ValueError, "biases", f"8 for each of {cells} layers and directions", str(len(biases)))
    each = len(weights) // cells
    layers = []
    for cell in range(cells):
        arrays = {f"w{k}": weights[each * cell + k] for k in range(each)}
        if biases is not None:
            arrays |= {f"b{k}": biases[8 * cell + k] for k in range(8)}
        layers.append(cell_weights("cudnn", "weights", arrays, f"layer {cell}: "))
    return StackedWeights(layers, bidirectional=bidirectional)


def from_onednn(
    weights_layer: Any,
    weights_iter: Any,
    bias: Any = None,
    weights_peephole: Any = None,
    weights_projection: Any = None,
) -> StackedWeights:
    """Return the weights of a oneDNN LSTM primitive, of tensors in the plain formats ldigo, ldgo and ldio.

    The gate order is i, f, g, o (oneDNN calls them i, f, c~, o); that of peepholes is i, f, o. Both directions'
    outputs are assumed to be concatenated (bidirectional_concat). Gates and biases are tested against PyTorch 2.13's
    oneDNN; the rest is from the documents of oneDNN 3.

    Args:
        weights_layer: (L, D, I, 4, N), L layers, D directions.
        weights_iter: (L, D, P, 4, N).
        bias: (L, D, 4, N), or None.
        weights_peephole: (L, D, 3, N), or None.
        weights_projection: (L, D, N, P), or None.

    Raises:
        TypeError: arrays of mixed or unsupported dtypes.
        ValueError: wrong shapes.
    """
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
        cells.append(cell_weights("onednn", "weights_layer", arrays, ""))
    return StackedWeights(cells, bidirectional=D == 2)


def _check_layers(name: str, tensors: Mapping[str, NumpyArray], ndim: int) -> None:
    """Raise unless a tensor has `ndim` axes and the sizes of layers, directions and gates."""
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


def from_coreml(
    parameters: Mapping[str, Any],
    *,
    recurrent_activation: Function = "sigmoid",
    cell_activation: Function = "tanh",
    activation: Function = "tanh",
    clip: float | None = None,
) -> LSTMWeights | StackedWeights:
    """Return the weights of Core ML's MIL operation lstm (iOS 15).

    weight_ih is (4N, I) and weight_hh (4N, N), rows in the gate order i, f, o, g; bias is (4N,) in that order, and
    peephole (3N,) of i, f, o. From the documents in coremltools' source.

    Args:
        parameters: the operation's, by name: weight_ih, weight_hh, and bias and peephole where there are; those of
            the backward direction end with _back. Others are optional: direction tells whether to read both
            directions, and the functions and clip must agree with the arguments here.
        recurrent_activation: the operation's, of i, f and o, by our name.
        cell_activation: the operation's, of g.
        activation: the operation's, of c' for the output.
        clip: the operation's. Only None is supported, as its documents don't say what it clips.

    Returns:
        LSTMWeights of one direction, forward or reverse; StackedWeights of both.

    Raises:
        TypeError: `parameters` is not a mapping; arrays of mixed or unsupported dtypes.
        ValueError: an array is missing or has the wrong shape; there is a clip, or an initial state other than zeros;
            the operation doesn't have a parameter, or a parameter disagrees with an argument.
    """
    options: dict[str, Any] = {
        "activation": cell_activation,
        "output_activation": activation,
        "gate_activation": recurrent_activation,
    }
    given = {name: value for name, value in flat_arrays("parameters", parameters).items() if value is not None}
    arguments = (recurrent_activation, cell_activation, activation)
    for name, ours in zip(("recurrent_activation", "cell_activation", "activation"), arguments, strict=True):
        _check_same_function(name, ours, given.pop(name, None))
    clip = given.pop("clip", None) if clip is None else clip
    if clip is not None:
        fail(ValueError, "clip", "None", str(clip), "Core ML's documents don't say what it clips")
    states = [name for name in ("initial_h", "initial_c") if name in given]
    refuse_state("parameters", {name: given.pop(name) for name in states})
    direction = given.pop("direction", None)
    if direction is not None:
        check_choice("direction", direction, ("forward", "reverse", "bidirectional"))
    for name in _COREML_IGNORED:
        given.pop(name, None)
    if "weight" in given and "weight_ih" not in given:
        hint = "Convert the model with coremltools 5 or later"
        fail(ValueError, "parameters", "weight_ih and weight_hh", "the weight of coremltools 4, which holds both", hint)
    backward = {name.removesuffix(_BACK): given.pop(name) for name in list(given) if name.endswith(_BACK)}
    forward = cell_weights("coreml", "parameters", given, "", **options)
    if direction == "reverse":
        log.warning("the operation reads in reverse, which weights don't record: use lstm(xs, reverse=True)")
    if direction in ("forward", "reverse") or (direction is None and not backward):
        return forward
    return StackedWeights(
        [forward, cell_weights("coreml", "parameters", backward, "", _BACK, **options)], bidirectional=True
    )


_BACK = "_back"
_COREML_IGNORED = ("name", "output_sequence", "x")  # these don't affect a step


def _check_same_function(name: str, ours: Function, theirs: Any) -> None:
    """Raise if the operation has a function of its own that differs from the argument."""
    if theirs is None or theirs == (ours if isinstance(ours, str) else ours[0]):
        return
    hint = "Pass it with its alpha and beta, which the operation's name doesn't include" if "_" in str(theirs) else ""
    fail(ValueError, name, f"{theirs!r}, as in the parameters", repr(ours), hint)


_INPUTS = 24
_LAYER_NORM = range(20, _INPUTS)
_STATES = ("18", "19")
_OF_INPUT_GATE = (1, 5, 9, 12)


def from_tflite(
    inputs: Sequence[Any] | Mapping[int, Any],
    *,
    activation: str = "tanh",
    cell_clip: float = 0.0,
    proj_clip: float = 0.0,
) -> LSTMWeights:
    """Return the weights of a TFLite operator LSTM or UNIDIRECTIONAL_SEQUENCE_LSTM, with or without an input gate.

    Inputs 1 to 4 are (N, I), 5 to 8 (N, P), 12 to 15 (N,) of the gates i, f, g, o; 9 to 11 the peepholes of i, f, o;
    and 16 the projection (P, N). If the input gate's are missing, i = 1 - f. Tested against TensorFlow 2.21's
    interpreter.

    Args:
        inputs: the operator's input tensors, by number; None if there is none. The states, 18 and 19, must be zeros if
            given, as weights hold no state. The input x, 0, is ignored.
        activation: its fused_activation_function, of g and of the output, by our name: "tanh" or "relu".
            The operator's NONE does not compute what "linear" does.
        cell_clip: the operator's option (10 if TensorFlow converted Keras's LSTM); 0 is no clip.
        proj_clip: the operator's option; without a projection it has no effect.

    Raises:
        TypeError: weights of integers (a quantised or hybrid model); mixed or unsupported dtypes.
        ValueError: layer normalisation, a bias of the projection, a state other than zeros, a number that is not an
            input's, some but not all inputs of the input gate, a missing input, wrong shapes, another activation, a
            negative clip.
    """
    check_choice("activation", activation, ("tanh", "relu"))
    items = inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs)
    given = {str(index): value for index, value in items if value is not None}
    if unknown := sorted(set(given) - {str(index) for index in range(_INPUTS)}):
        hint = "BIDIRECTIONAL_SEQUENCE_LSTM has other numbers: renumber each direction's inputs as for this operator"
        fail(ValueError, "inputs", f"numbers from 0 to {_INPUTS - 1}", ", ".join(unknown[:4]), hint)
    if any(str(index) in given for index in _LAYER_NORM):
        fail(ValueError, "inputs", "none of 20 to 23", "some", "These inputs are coefficients of layer normalisation")
    if np.any(to_host("inputs[17]", given.get("17", 0.0))):
        fail(ValueError, "inputs[17]", "zeros or None", "others", "This package's projection has no bias")
    refuse_state("inputs", {f"inputs[{index}]": given.get(index) for index in _STATES})
    given = {index: value for index, value in given.items() if index not in ("0", "17", *_STATES)}
    coupled = "1" not in given
    if coupled and any(str(index) in given for index in _OF_INPUT_GATE):
        have = ", ".join(str(index) for index in _OF_INPUT_GATE if str(index) in given)
        fail(ValueError, "inputs", "all of 1, 5 and 12, or none of 1, 5, 9 and 12", have)
    if "2" in given and to_host("inputs[2]", given["2"]).dtype.kind in "iu":
        got = f"dtype {to_host('inputs[2]', given['2']).dtype}"
        fail(TypeError, "inputs[2]", "weights of floats", got, "Convert the model without quantisation")
    return cell_weights(
        "tflite_coupled" if coupled else "tflite",
        "inputs",
        given,
        "inputs[",
        "]",
        activation=activation,
        coupled_gate="input" if coupled else None,
        cell_clip=check_clip("cell_clip", cell_clip) or None,
        proj_clip=(check_clip("proj_clip", proj_clip) or None) if "16" in given else None,
    )
