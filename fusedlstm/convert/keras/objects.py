"""Keras 3's and tf.keras' LSTMCell -> LSTMWeights; their LSTM, RNN and Bidirectional -> StackedWeights; and back.

Sources are layers and models, the arrays of get_weights(), and files. Gates and layout are in `layers`,
activations in `functions`, formats of files in `files`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.checks import describe_type, fail
from fusedlstm.convert.keras.layers import Given, Node, arrays_of, choose, stack_of, weights_of
from fusedlstm.convert.layouts import LAYOUTS
from fusedlstm.convert.writing import refuse, write
from fusedlstm.interop import to_host
from fusedlstm.stacked import StackedWeights
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.dtypes import NumpyArray

_ROLES = ("layer", "cell")  # of a Bidirectional of Keras 2, "layer" is one that it only copied
_OF_LAYERS = ("go_backwards", "return_sequences", "time_major", "merge_mode")
_OF_ANY = ("quantization_mode", "lora_enabled")
_KERAS = {"keras": 3, "tf_keras": 2, "tensorflow": 2}  # packages; what the first is, its version says


def from_keras(
    source: Any,
    name: str | Sequence[str] | None = None,
    *,
    activation: Any = None,
    recurrent_activation: Any = None,
) -> LSTMWeights | StackedWeights:
    """Return the weights of Keras' LSTMCell, LSTM, RNN or Bidirectional, by Keras 3 or by tf.keras (tf_keras).

    Inputs of Keras' layers are (B, T, I): use LSTM(weights, batch_first=True). A mask is `mask=` there, with
    masked_outputs="last", or "zero" for a layer with zero_output_for_mask=True or in a Bidirectional that
    returns sequences. A layer with go_backwards=True, of which the log warns, is LSTM(...)(xs, reverse=True), and has
    in Keras the outputs of that in reversed order. Weights have no place for dropout, seeds, regularisers, stateful
    and return_state, which don't matter to a step.

    Args:
        source: a layer, a cell or a model; or the arrays of get_weights(): [kernel, recurrent_kernel(, bias)] of a
            cell, those of a Bidirectional's two cells, or a list of such lists, one for each layer; or the path
            of a file: `.keras`, `.weights.h5`, or the `.h5` of model.save or save_weights (needs h5py).
        name: which layer of a model, such as "lstm_1", or "encoder/lstm_1" in a model within it; a sequence of
            names for layers each of whose outputs is the next one's input. None for the only LSTM there is.
        activation: the layer's, as LSTMWeights takes it, where the source doesn't say: arrays, files of weights alone,
            and models of classes of one's own in files. None for what the layer says, else "tanh".
        recurrent_activation: likewise; None for what the layer says, else "sigmoid". Mind that "hard_sigmoid" is
            ("hard_sigmoid", 1/6, 0.5) in Keras 3, and ("hard_sigmoid", 0.2, 0.5) in Keras 2, where it was the default
            before 2.3.

    Returns:
        LSTMWeights of an LSTMCell or of its arrays, else StackedWeights. Of a layer with the policy mixed_float16 they
        are float32, as its variables are.

    Raises:
        TypeError: `source` is none of these; arrays of mixed or unsupported dtypes.
        ValueError: no such layer, or several; a layer that computes what weights can't say: the message
            names the option.
        WeightsFileError: a file with such a layer, a damaged one, or one that is no file of Keras'.
        ImportError: a file, and h5py is not installed.
        OSError: the file can't be opened.
    """
    names = _names(name)
    given = Given.of(activation, recurrent_activation)
    if isinstance(source, (str, os.PathLike)):
        from fusedlstm.convert.keras.files import opened

        with opened(source) as root:
            return _weights("source", root, names, given)
    if isinstance(source, (list, tuple)):
        if name is not None:
            fail(ValueError, "name", "None with arrays", repr(name))
        return _of_arrays(source, given)
    if not any(hasattr(source, attribute) for attribute in ("get_config", "layers")):
        wanted = "a layer, cell or model of Keras, a list of its arrays, or the path of a file"
        fail(TypeError, "source", wanted, describe_type(source))
    return _weights("source", node_of(source), names, given)


def _names(name: Any) -> list[str | None]:
    """Return the names of layers that are asked for."""
    names = list(name) if isinstance(name, Sequence) and not isinstance(name, str) else [name]
    for each in names:
        if not isinstance(each, str) and not (each is None and name is None):
            fail(TypeError, "name", "the name of a layer, a sequence of names, or None", describe_type(each))
    if not names:
        fail(ValueError, "name", "at least one name", "none")
    return names


def _weights(argument: str, root: Node, names: Sequence[str | None], given: Given) -> LSTMWeights | StackedWeights:
    found = [choose(argument, root, name) for name in names]
    return weights_of(found[0], given) if len(found) == 1 else stack_of(found, given)


def _of_arrays(source: Sequence[Any], given: Given) -> LSTMWeights | StackedWeights:
    """Return the weights of the arrays of a cell or a Bidirectional, or of lists of them."""
    if not source or not all(isinstance(each, (list, tuple)) for each in source):
        directions = _directions("source", source, given)
        if len(directions) == 1:
            return directions[0]
        return StackedWeights(directions, bidirectional=True)
    layers = [_directions(f"source[{k}]", arrays, given) for k, arrays in enumerate(source)]
    for k, layer in enumerate(layers):
        if len(layer) != len(layers[0]):
            got = f"{len(layers[0])} in source[0] and {len(layer)} in source[{k}]"
            fail(ValueError, "source", "the arrays of as many directions in each layer", got)
    return StackedWeights([each for layer in layers for each in layer], bidirectional=len(layers[0]) == 2)


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
        fail(ValueError, name, "two directions of one input_size", got, hint)
    return weights


def _dimensions(cells: Sequence[Sequence[Any]]) -> list[int]:
    """Return how many dimensions the arrays of such cells have."""
    return [dimensions for cell in cells for dimensions in (2, 2, 1)[: max(2, len(cell))]]


def node_of(source: Any, known: dict[int, Node] | None = None) -> Node:
    """Return a layer, cell or model of Keras as a tree of nodes: one of each, even if several models have it."""
    known = {} if known is None else known
    if id(source) in known:
        return known[id(source)]
    kind, module = type(source).__name__, type(source).__module__
    keras = _version(module)
    node = Node(kind, str(getattr(source, "name", kind)), _options(source), keras, "" if keras else module)
    known[id(source)] = node
    if keras and kind in ("LSTMCell", "CuDNNLSTM"):
        node.options = {**node.options, **_config(source)}
        node.read = _reader(source)
    if kind == "CuDNNLSTM":
        node.parts["cell"] = [Node("CuDNNLSTMCell", "", node.options, keras, read=node.read)]
        return node
    roles = _ROLES if kind != "Bidirectional" else ("forward_layer", "backward_layer")
    for role in roles:
        if hasattr(source, role):
            node.parts[role] = [node_of(getattr(source, role), known)]
    for role in ("layers", "cells"):
        if isinstance(getattr(source, role, None), (list, tuple)):
            node.parts[role] = [node_of(part, known) for part in getattr(source, role)]
    if kind == "LSTM":
        node.parts["cell"][0].name = ""
    return node


def _version(module: str) -> int:
    """Return which Keras a class's module is of: 2, 3, or 0 for none."""
    package = module.partition(".")[0]
    if package == "keras":
        return 2 if str(getattr(sys.modules.get("keras"), "__version__", "3")).startswith(("0.", "1.", "2.")) else 3
    return _KERAS.get(package, 0)


def _options(source: Any) -> dict[str, Any]:
    """Return what a layer's attributes say of how it is used."""
    return {option: getattr(source, option) for option in (*_OF_LAYERS, *_OF_ANY) if hasattr(source, option)}


def _config(source: Any) -> dict[str, Any]:
    """Return the config of a cell. Functions of the user's own have their modules there, as names may be Keras' too."""
    config = dict(source.get_config())
    for option in ("activation", "recurrent_activation"):
        function = getattr(source, option, None)
        module = str(getattr(function, "__module__", None) or type(function).__module__)
        if function is not None and not _version(module):
            name = getattr(function, "__name__", type(function).__name__)
            config[option] = {"registered_name": f"{module}.{name}"}
    return config


def _reader(cell: Any) -> Callable[[], Sequence[Any]] | None:
    """Return what reads a cell's variables, by their names: get_weights() has them in the order of training."""
    variables = [getattr(cell, name, None) for name in ("kernel", "recurrent_kernel", "bias")]
    if variables[0] is None or variables[1] is None:
        return None
    return lambda: [np.asarray(variable) for variable in variables if variable is not None]


def to_keras(weights: LSTMWeights | StackedWeights) -> list[Any]:
    """Return the arrays for set_weights of a layer of Keras, from which `from_keras` makes the same weights.

    Functions are not among them: make the layer with `activation=` and `recurrent_activation=` that are the weights'
    activation and gate_activation, and with use_bias=False for weights without a bias. Keras 3's hard_sigmoid is
    ("hard_sigmoid", 1/6, 0.5).

    Returns:
        [kernel, recurrent_kernel(, bias)] of an LSTMWeights, and of one layer in one direction; both directions'
        arrays, the forward ones first, of one layer in both; a list of such lists of several layers, each for one
        LSTM or Bidirectional. All are new.

    Raises:
        TypeError: `weights` are neither.
        ValueError: naming what Keras' LSTM doesn't have: peephole, weight_hr, cell_clip, proj_clip, gate_clip,
            coupled_gate, an output_activation, residual.
    """
    if isinstance(weights, LSTMWeights):
        return _arrays_for("weights", weights)
    if not isinstance(weights, StackedWeights):
        fail(TypeError, "weights", "LSTMWeights or StackedWeights", describe_type(weights))
    if any(weights.residual):
        fail(ValueError, "residual", "False, as Keras' LSTM has nothing else", str(weights.residual))
    D = weights.num_directions
    directions = [_arrays_for(f"layers[{k}]", each) for k, each in enumerate(weights.layers)]
    layers = [[array for arrays in directions[k : k + D] for array in arrays] for k in range(0, len(directions), D)]
    return layers if len(layers) > 1 else layers[0]


def _arrays_for(name: str, weights: LSTMWeights) -> list[NumpyArray]:
    try:
        refuse(weights, "Keras' LSTM", ("activation", "gate_activation"))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    arrays = write(LAYOUTS["keras"], weights)
    return [arrays[array] for array in ("kernel", "recurrent_kernel", "bias") if array in arrays]
