"""Weights of systems that keep plain arrays: Sonnet, MXNet, Chainer, haste, cuDNN, oneDNN, Core ML and TFLite.

What each keeps where is a row of `layouts`; how that is known each function says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.checks import check_bool, check_choice, check_clip, check_real, check_size, describe_type, fail
from fusedlstm.convert.layouts import LAYOUTS
from fusedlstm.convert.reading import read
from fusedlstm.convert.trees import check_prefix, flatten, names_below, scope_of
from fusedlstm.interop import to_host
from fusedlstm.stacked import StackedWeights
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from fusedlstm.dtypes import NumpyArray
    from fusedlstm.functions import Function


def from_sonnet1(
    variables: Mapping[str, Any],
    prefix: str = "lstm",
    *,
    forget_bias: float = 1.0,
    hidden_clip_value: float | None = None,
    cell_clip_value: float | None = None,
) -> LSTMWeights:
    """Return the weights of a Sonnet 1 snt.LSTM, with a projection where there is one.

    w_gates is (I + P, 4N), rows [x; h], columns in the gate order i, g, f, o, and w_h_projection (N, P). Checked by
    numbers of Sonnet 1.36; the projection's name and shape from its source.

    Args:
        variables: names to arrays, as in a checkpoint: "lstm/w_gates", ... An ending ":0" is dropped.
        prefix: the module's scope.
        forget_bias: the module's argument, added at every step.
        hidden_clip_value: the module's argument; refused, as it clips the previous h.
        cell_clip_value: likewise, of the previous c.

    Raises:
        TypeError: `variables` is no mapping; arrays of mixed or unsupported dtypes.
        ValueError: no such module; wrong shapes; a clip, peepholes (which Sonnet 1 puts inside the tanh of c) or
            layer normalisation, which this package's formula lacks.
    """
    for name, value in (("hidden_clip_value", hidden_clip_value), ("cell_clip_value", cell_clip_value)):
        if value is not None:
            hint = "Sonnet 1 clips the previous state, which this package's formula lacks"
            fail(ValueError, name, "None", str(value), hint)
    variables = {str(name).removesuffix(":0"): value for name, value in _mapping("variables", variables).items()}
    arrays, scope = _below("variables", variables, scope_of(prefix, "/"), "/", "w_gates")
    _refuse("variables", arrays, scope, r"w_[ifo]_diag", "Sonnet 1's peephole of o is inside the tanh of c")
    _refuse("variables", arrays, scope, r".*(gamma|beta)", "It is layer-normalised")
    return _weights("sonnet1", "variables", arrays, scope, forget_bias=check_real("forget_bias", forget_bias))


def from_sonnet2(variables: Mapping[str, Any], prefix: str = "lstm") -> LSTMWeights:
    """Return the weights of a Sonnet 2 snt.LSTM, with a projection where there is one.

    w_i is (I, 4N) and w_h (P, 4N), columns in the gate order i, f, g, o, with nothing added at run time; projection
    is (N, P). Checked by numbers of Sonnet 2.0.2.

    Args:
        variables: names to arrays: {v.name: v for v in module.variables}. An ending ":0" is dropped.
        prefix: the module's scope.

    Raises:
        TypeError: `variables` is no mapping; arrays of mixed or unsupported dtypes.
        ValueError: no such module; wrong shapes.
    """
    variables = {str(name).removesuffix(":0"): value for name, value in _mapping("variables", variables).items()}
    arrays, scope = _below("variables", variables, scope_of(prefix, "/"), "/", "w_i")
    return _weights("sonnet2", "variables", arrays, scope)


def from_mxnet(
    params: Mapping[str, Any],
    prefix: str = "",
    *,
    state_clip_min: float | None = None,
    state_clip_max: float | None = None,
) -> LSTMWeights | StackedWeights:
    """Return the weights of MXNet's gluon.rnn.LSTMCell, or gluon.rnn.LSTM of any layers and directions.

    i2h_weight is (4N, I) and h2h_weight (4N, P), rows in the gate order i, f, g, o, with a bias each; h2r_weight is
    (P, N). A layer's names begin with l0_, l1_ ..., its backward direction's with r0_, r1_ ... The cell is checked
    by numbers of MXNet 1.9.1, the layers' names by its source.

    Args:
        params: names to arrays, such as {name: p.data().asnumpy() for name, p in net.collect_params().items()}.
        prefix: what the names begin with, to the letter, such as "lstm0_" or "encoder.lstm.".
        state_clip_min: the layer's argument; refused, as what cuDNN clips by it is not documented.
        state_clip_max: likewise.

    Returns:
        LSTMWeights of a cell; StackedWeights of an LSTM, even of one layer.

    Raises:
        TypeError: `params` is no mapping; arrays of mixed or unsupported dtypes.
        ValueError: no such cell or LSTM; wrong shapes; a clip.
    """
    for name, value in (("state_clip_min", state_clip_min), ("state_clip_max", state_clip_max)):
        if value is not None:
            fail(ValueError, name, "None", str(value), "It is not known what cuDNN clips by it")
    params = _mapping("params", params)
    layers = [
        m.groups() for name in names_below(params, check_prefix(prefix)) if (m := re.fullmatch(r"([lr])(\d+)_.*", name))
    ]
    if not layers:
        arrays, scope = _below("params", params, prefix, "_", "i2h_weight")
        return _weights("mxnet", "params", arrays, scope)
    directions = "lr" if any(direction == "r" for direction, _ in layers) else "l"
    cells = []
    for layer in range(max(int(number) for _, number in layers) + 1):
        for direction in directions:
            arrays, scope = _below("params", params, f"{prefix}{direction}{layer}_", "_", "i2h_weight")
            cells.append(_weights("mxnet", "params", arrays, scope))
    return StackedWeights(cells, bidirectional=len(directions) == 2)


def from_chainer(
    params: Mapping[str, Any], prefix: str = "", *, bidirectional: bool | None = None
) -> LSTMWeights | StackedWeights:
    """Return the weights of Chainer's L.LSTM and L.StatelessLSTM, or of L.NStepLSTM and L.NStepBiLSTM.

    upward/W is (4N, I), upward/b (4N,) and lateral/W (4N, N), where row 4n + k is gate g, i, f, o (k = 0 ... 3) of unit
    n; checked by numbers of Chainer 7.8.1. The others keep, for layer and direction number 0, 0/w0 ... 0/w3 (N, I) and
    0/w4 ... 0/w7 (N, N) of i, f, g, o, with biases 0/b0 ... 0/b7; measured with Chainer 7.8.1, whose documents say
    another order.

    Args:
        params: names to arrays, with "/" (of serializers.save_npz, or {name: p.array for name, p in
            link.namedparams()}) or with ".".
        prefix: where the link is, such as "encoder/lstm".
        bidirectional: whether it is an NStepBiLSTM; None takes what the sizes say, where they say it.

    Returns:
        LSTMWeights of a LSTM or StatelessLSTM; StackedWeights of the others.

    Raises:
        TypeError: `params` is no mapping; arrays of mixed or unsupported dtypes.
        ValueError: no such link; a StatefulPeepholeLSTM, whose peepholes are full matrices; sizes that allow both,
            without `bidirectional`; wrong shapes.
    """
    params = {name.replace(".", "/").lstrip("/"): value for name, value in _mapping("params", params).items()}
    scope = scope_of(check_prefix(prefix).replace(".", "/").strip("/"), "/")
    if f"{scope}0/w0" not in params:
        arrays, scope = _below("params", params, scope, "/", "upward/W")
        _refuse("params", arrays, scope, r"peep_.*", "A StatefulPeepholeLSTM's peepholes are full matrices")
        return _weights("chainer", "params", arrays, scope)
    cells: list[LSTMWeights] = []
    while f"{scope}{len(cells)}/w0" in params:
        arrays, start = _below("params", params, f"{scope}{len(cells)}/", "/", "w0")
        cells.append(_weights("chainer_nstep", "params", arrays, start))
    if bidirectional is None:
        bidirectional = _is_bidirectional(cells)
    check_bool("bidirectional", bidirectional)
    return StackedWeights(cells, bidirectional=bidirectional)


def _is_bidirectional(cells: list[LSTMWeights]) -> bool:
    """Return whether these are layers of two directions, by their sizes, or raise where these allow both."""
    N, widths = cells[0].hidden_size, [cell.input_size for cell in cells]
    one = widths[1:] == [N] * (len(cells) - 1)
    two = widths == [widths[0]] * 2 + [2 * N] * (len(cells) - 2)
    if one and two:
        wanted = "True or False, as these sizes allow both"
        fail(ValueError, "bidirectional", wanted, "None", "L.NStepBiLSTM has both directions, L.NStepLSTM one")
    return two


def from_haste(parameters: Mapping[str, Any], prefix: str = "", *, zoneout: float = 0.0) -> LSTMWeights:
    """Return the weights of haste's LSTM, a layer in one direction.

    kernel is (I, 4N), recurrent_kernel (N, 4N), columns in the gate order i, g, f, o; bias is (4N,) and holds the
    forget bias. From the source of haste_pytorch.

    Args:
        parameters: names to arrays: the module's state_dict.
        prefix: what the names begin with, such as "encoder.lstm".
        zoneout: the module's argument; refused but for 0, as at inference haste mixes h with the previous h.

    Raises:
        TypeError: `parameters` is no mapping; arrays of mixed or unsupported dtypes.
        ValueError: no such module; a LayerNormLSTM; zoneout; wrong shapes.
    """
    if check_real("zoneout", zoneout) != 0:
        hint = "At inference haste mixes h with the previous h, which this package's formula lacks"
        fail(ValueError, "zoneout", "0", str(zoneout), hint)
    scope = scope_of(prefix, ".")
    arrays, scope = _below("parameters", _mapping("parameters", parameters), scope, ".", "recurrent_kernel")
    _refuse("parameters", arrays, scope, r"gamma.*|beta.*", "It is a LayerNormLSTM")
    _refuse("parameters", arrays, scope, r"recurrent_bias", "It is a GRU")
    return _weights("haste", "parameters", arrays, scope)


def from_cudnn(
    weights: Sequence[Any], biases: Sequence[Any] | None = None, *, num_layers: int, bidirectional: bool = False
) -> StackedWeights:
    """Return the weights of a cuDNN LSTM in its canonical form: one matrix and one bias a linear layer.

    Linear layers 0 to 3, (N, I), multiply x and 4 to 7, (N, P), multiply h for the gates i, f, g, o; 8, (P, N), is the
    projection. From the documents of cuDNN 9 (cudnnGetRNNWeightParams), and TensorFlow's CudnnRNNParamsToCanonical.

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
        layers.append(_weights("cudnn", "weights", arrays, f"layer {cell}: "))
    return StackedWeights(layers, bidirectional=bidirectional)


def from_onednn(
    weights_layer: Any,
    weights_iter: Any,
    bias: Any = None,
    weights_peephole: Any = None,
    weights_projection: Any = None,
) -> StackedWeights:
    """Return the weights of a oneDNN LSTM primitive, of tensors in the plain formats ldigo, ldgo and ldio.

    The gate order is i, f, g, o (which oneDNN calls i, f, c~, o), that of peepholes i, f, o. Both directions'
    outputs are taken to stand side by side (bidirectional_concat). Gates and biases are checked by numbers of
    PyTorch 2.13's oneDNN; the rest is from the documents of oneDNN 3.

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
        cells.append(_weights("onednn", "weights_layer", arrays, ""))
    return StackedWeights(cells, bidirectional=D == 2)


def _check_layers(name: str, tensors: Mapping[str, NumpyArray], ndim: int) -> None:
    """Raise unless a tensor of oneDNN's has its number of axes, those of layers and directions, and of gates."""
    shape, first = tensors[name].shape, tensors["weights_layer"].shape[:2]
    gates = {"weights_layer": (3, 4), "weights_iter": (3, 4), "bias": (2, 4), "weights_peephole": (2, 3)}
    axis, count = gates.get(name, (0, first[0]))
    if len(shape) != ndim or shape[:2] != first or shape[axis] != count:
        form = {5: "(L, D, I or P, 4, N)", 4: "(L, D, 4, N), (L, D, 3, N) or (L, D, N, P)"}[ndim]
        fail(ValueError, name, f"shape {form}, with the L and D of weights_layer", f"shape {shape}")


def _joined(name: str, tensor: NumpyArray) -> NumpyArray:
    """Return one layer's tensor with gates and units as one axis, but for peepholes and the projection."""
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
            the backward direction end with _back. Others are not looked at.
        recurrent_activation: the operation's, of i, f and o, by our name.
        cell_activation: the operation's, of g.
        activation: the operation's, of c' for the output.
        clip: the operation's; refused, as its documents don't say what it clips.

    Returns:
        LSTMWeights of one direction, forward or reverse; StackedWeights of both.

    Raises:
        TypeError: `parameters` is no mapping; arrays of mixed or unsupported dtypes.
        ValueError: an array is missing or of the wrong shape; a clip.
    """
    if clip is not None:
        fail(ValueError, "clip", "None", str(clip), "Core ML's documents don't say what it clips")
    options: dict[str, Any] = {
        "activation": cell_activation,
        "output_activation": activation,
        "gate_activation": recurrent_activation,
    }
    given = {name: value for name, value in _mapping("parameters", parameters).items() if value is not None}
    forward = _weights("coreml", "parameters", given, "", **options)
    backward = {name.removesuffix("_back"): value for name, value in given.items() if name.endswith("_back")}
    if not backward:
        return forward
    return StackedWeights(
        [forward, _weights("coreml", "parameters", backward, "", "_back", **options)], bidirectional=True
    )


_LAYER_NORM = range(20, 24)
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
    and 16 the projection (P, N). Without those of the input gate it is i = 1 - f. Checked by numbers of TensorFlow
    2.21's interpreter.

    Args:
        inputs: the operator's input tensors, by their numbers; None where there is none. The states, 18 and 19,
            and x, 0, are not looked at.
        activation: its fused_activation_function, of g and of the output, by our name: "tanh" or "relu".
            NONE gives numbers there that are not those of "linear".
        cell_clip: the operator's option (10 where TensorFlow has converted Keras' LSTM); 0 is no clip.
        proj_clip: likewise; it has no effect without a projection.

    Raises:
        TypeError: weights of integers (a quantised or hybrid model); mixed or unsupported dtypes.
        ValueError: layer normalisation, a bias of the projection, some but not all inputs of the input gate, a
            missing input, wrong shapes, another activation, a negative clip.
    """
    check_choice("activation", activation, ("tanh", "relu"))
    items = inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs)
    given = {str(index): value for index, value in items if value is not None}
    if any(str(index) in given for index in _LAYER_NORM):
        fail(ValueError, "inputs", "none of 20 to 23", "some", "They are coefficients of layer normalisation")
    if "17" in given and np.any(to_host("inputs[17]", given["17"])):
        fail(ValueError, "inputs[17]", "zeros or None", "others", "This package's projection has no bias")
    coupled = "1" not in given
    if coupled and any(str(index) in given for index in _OF_INPUT_GATE):
        have = ", ".join(str(index) for index in _OF_INPUT_GATE if str(index) in given)
        fail(ValueError, "inputs", "all of 1, 5 and 12, or none of 1, 5, 9 and 12", have)
    if "2" in given and to_host("inputs[2]", given["2"]).dtype.kind in "iu":
        got = f"dtype {to_host('inputs[2]', given['2']).dtype}"
        fail(TypeError, "inputs[2]", "weights of floats", got, "Convert the model without quantisation")
    return _weights(
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


def _mapping(argument: str, value: Any) -> dict[str, Any]:
    """Return a mapping of names to arrays, flat."""
    if not isinstance(value, Mapping):
        fail(TypeError, argument, "a mapping of names to arrays", describe_type(value))
    return flatten(argument, value, "/")


def _below(
    argument: str, params: Mapping[str, Any], scope: str, separator: str, marker: str
) -> tuple[dict[str, Any], str]:
    """Return the arrays whose names begin with a scope, without it, and the scope; `marker` must be among them."""
    if scope + marker not in params:
        have = ", ".join(sorted(params)[:8]) or "none"
        pattern = re.compile(rf"(|.*?[{separator}.])(?:[lr]\d+_)?{marker}")
        found = sorted({match[1] for name in params if (match := pattern.fullmatch(name))})
        hint = f"Give prefix= one of {', '.join(map(repr, found))}" if found else ""
        fail(ValueError, argument, f"an array named {scope + marker!r}", have, hint)
    return {name: params[whole] for name, whole in names_below(params, scope).items()}, scope


def _refuse(argument: str, arrays: Mapping[str, Any], scope: str, pattern: str, reason: str) -> None:
    """Raise if there is an array of such a name."""
    found = sorted(scope + name for name in arrays if re.fullmatch(pattern, name))
    if found:
        fail(ValueError, argument, "the arrays of a plain LSTM", ", ".join(found[:4]), reason)


def _weights(
    layout: str,
    argument: str,
    arrays: Mapping[str, Any],
    start: str,
    end: str = "",
    *,
    forget_bias: float | None = None,
    **options: Any,
) -> LSTMWeights:
    """Return the weights of a cell's arrays in a layout, which errors call by a start, their name and an end."""
    ours: dict[str, Any] = read(
        LAYOUTS[layout], argument, arrays, forget_bias=forget_bias, full_name=lambda name: start + name + end
    )
    return LSTMWeights(**ours, **options)
