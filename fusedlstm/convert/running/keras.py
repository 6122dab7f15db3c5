"""Run a file's LSTMs in Keras itself, to check the results of `from_keras`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.convert.keras.files import opened
from fusedlstm.convert.keras.functions import FUNCTIONS_OF
from fusedlstm.convert.keras.layers import WEIGHTS, Given
from fusedlstm.convert.keras.nodes import Found, Node, choose
from fusedlstm.convert.running.keras_model import tapped
from fusedlstm.convert.running.model import ModelNotRunError
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.running.model import Tapped
    from fusedlstm.functions import Function
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.weights import LSTMWeights

    State = tuple[NumpyArray, NumpyArray]

_PACKAGES = {3: "keras", 2: "tf_keras"}


def run(
    source: str | os.PathLike[str],
    name: str | Sequence[str] | None,
    weights: LSTMWeights | StackedWeights,
    xs: NumpyArray,
    states: Sequence[State],
    options: Mapping[str, Any],
) -> tuple[NumpyArray, list[State]]:
    """Return what Keras computes with a file's layers, each of which reads the outputs of the one before.

    Keras 3 or tf_keras, whichever wrote the file, makes each layer with the functions that its config names. Then
    set_weights gives it the file's arrays. Keras doesn't load the file itself: its load_model runs programs in the file
    (those of Lambda layers in a .h5; tested with tf_keras 2.21), and allocates memory by sizes that the file claims.
    Each layer gets the steps in the order in which it reads them.

    Args:
        source: the path of the file.
        name: as for `from_keras`.
        weights: the result of `from_keras`, for its dtype.
        xs: (T, B, I).
        states: (h, c) of each layer and direction.
        options: the other arguments of `from_keras`: activation and recurrent_activation.

    Returns:
        The outputs (T, B, width), and the final (h, c) of each layer and direction.

    Raises:
        ImportError: the Keras that this needs is not installed.
        ValueError: Keras can't run a layer in this way.
    """
    given = _given(options)
    with opened(source) as root:
        found = _found(root, name)
        layers = [_made(one, given, str(weights.dtype)) for one in found]
    outputs, finals, ahead, turned = np.swapaxes(xs, 0, 1), [], list(states), False
    for one, layer in zip(found, layers, strict=True):
        count = sum(1 for _ in one.node.cells())
        turned ^= bool(one.node.options.get("go_backwards"))
        order = slice(None, None, -1 if turned else 1)
        outputs, final = _run_layer(layer, np.ascontiguousarray(outputs[:, order]), ahead[:count])
        outputs = outputs[:, order]
        finals += final
        ahead = ahead[count:]
    return np.swapaxes(outputs, 0, 1), finals


def run_model(
    source: Any,
    name: str | Sequence[str] | None,
    weights: LSTMWeights | StackedWeights,
    options: Mapping[str, Any],
    seed: int,
) -> Tapped:
    """Run the whole model with the Keras that wrote it, and return its LSTM's inputs and outputs.

    Keras loads a copy of the file, and only if everything in it is known to be safe: no Lambda, only Keras's own
    classes and functions, and no sizes beyond the file's.

    Raises:
        ModelNotRunError: the model can't be run. The message says why.
    """
    with opened(source) as root:
        found = _found(root, name)
        version = root.version.major
        described = root.graph is not None
    if options.get("custom_classes"):
        raise ModelNotRunError("classes that are not Keras's are not loaded")
    if not described:
        why = "a file with only weights has no model" if root.kind == WEIGHTS else "its graph is unknown"
        raise ModelNotRunError(why + _assumed(found, _given(options)))
    if version not in _PACKAGES:
        raise ModelNotRunError("the file doesn't say which Keras wrote it")
    return tapped(source, found, import_keras(version), str(weights.dtype), seed)


def _assumed(found: Sequence[Found], given: Given) -> str:
    """Return text that names unknown functions. For these, Keras's defaults were checked against themselves."""
    cells = [cell for one in found for cell in one.node.cells() if cell.kind != "CuDNNLSTMCell"]
    names = [
        option
        for option in ("activation", "recurrent_activation")
        if getattr(given, option) is None and any(option not in cell.options for cell in cells)
    ]
    if not names:
        return ""
    were = "were" if len(names) > 1 else "was"
    return f". Nor does it say whether {' and '.join(names)} {were} left at Keras's default: pass what you know"


def framework_of(source: str | os.PathLike[str], name: Any, options: Mapping[str, Any]) -> str:
    """Return the package of the Keras that `run` uses for these arguments."""
    with opened(source) as root:
        return _PACKAGES[_installed(_found(root, name)[0].node, _given(options))[0]]


def _given(options: Mapping[str, Any]) -> Given:
    return Given.of(options.get("activation"), options.get("recurrent_activation"))


def _found(root: Node, name: Any) -> list[Found]:
    names = [name] if name is None or isinstance(name, str) else list(name)
    return [choose("source", root, each) for each in names]


def _made(found: Found, given: Given, dtype: str) -> Any:
    """Return a new layer of Keras with a file's arrays."""
    version, keras = _installed(found.node, given)
    cells, arrays = [], []
    for node in found.node.cells():
        if node.kind != "LSTMCell" or node.read is None:
            fail(ValueError, found.name, "an LSTM, which runs without a GPU", node.kind)
        arrays += list(node.read())
        cells.append(_new_cell(keras, version, node, given, dtype))
    layer = cells[0] if found.node.kind == "LSTMCell" else _new_layer(keras, found.node, cells, dtype)
    width = arrays[0].shape[0]
    layer.build((None, width) if found.node.kind == "LSTMCell" else (None, None, width))
    layer.set_weights(arrays)
    return layer


def _installed(node: Node, given: Given) -> tuple[int, Any]:
    """Return the version and package of the Keras that wrote a file; if unknown, of one that has the functions."""
    wanted = [function for function in (given.activation, given.recurrent_activation) if function is not None]
    for version in _PACKAGES:
        has_them = all(each in FUNCTIONS_OF[version].values() for each in wanted)
        if node.version.major == version or (not node.version.major and has_them):
            try:
                return version, import_keras(version)
            except ImportError:
                continue
    which = _PACKAGES.get(node.version.major)
    raise ImportError(f"{which or 'a Keras that has these functions'} is not installed")


def import_keras(version: int) -> Any:
    """Return the package of Keras 2 or 3.

    Raises:
        ImportError: it is not installed.
    """
    package = _PACKAGES[version]
    if package not in sys.modules and "KERAS_BACKEND" not in os.environ and not importlib.util.find_spec("tensorflow"):
        installed = [backend for backend in ("jax", "torch") if importlib.util.find_spec(backend)]
        if installed:  # by default Keras 3 uses TensorFlow
            os.environ["KERAS_BACKEND"] = installed[0]
    keras = importlib.import_module(package)
    if not str(keras.__version__).startswith(f"{version}."):
        raise ImportError(f"{package} is Keras {keras.__version__}, and Keras {version} wrote the file")
    return keras


def _new_cell(keras: Any, version: int, node: Node, given: Given, dtype: str) -> Any:
    names = {function: name for name, function in FUNCTIONS_OF[version].items()}

    def name_of(option: str, function: Function | None, default: str) -> str:
        own = node.options.get(option, default if function is None else names.get(function, function))
        own = "linear" if own is None else own
        if not isinstance(own, str) or own not in FUNCTIONS_OF[version]:  # such as a layer with any config
            fail(ValueError, option, f"one of {', '.join(FUNCTIONS_OF[version])}", str(own)[:80])
        return own

    return keras.layers.LSTMCell(
        node.shapes[1][0],
        activation=name_of("activation", given.activation, "tanh"),
        recurrent_activation=name_of("recurrent_activation", given.recurrent_activation, "sigmoid"),
        use_bias=len(node.shapes) == 3,
        dtype=dtype,
    )


def _new_layer(keras: Any, node: Node, cells: list[Any], dtype: str) -> Any:
    if node.kind == "Bidirectional":
        forward, backward = (
            keras.layers.RNN(cell, go_backwards=backward, return_sequences=True, return_state=True, dtype=dtype)
            for cell, backward in zip(cells, (False, True), strict=True)
        )
        return keras.layers.Bidirectional(forward, backward_layer=backward, dtype=dtype)
    cell = cells[0] if len(cells) == 1 else keras.layers.StackedRNNCells(cells, dtype=dtype)
    return keras.layers.RNN(cell, dtype=dtype)


def _run_layer(layer: Any, xs: NumpyArray, states: Sequence[State]) -> tuple[NumpyArray, list[State]]:
    """Return the outputs (B, T, width) and the final states of a layer, or of a cell step by step."""
    tensor = _tensors(layer)
    pairs = [[tensor(h), tensor(c)] for h, c in states]
    if not hasattr(layer, "return_sequences"):
        outputs = []
        for x in np.swapaxes(xs, 0, 1):
            output, pairs[0] = layer(tensor(x), pairs[0])
            outputs.append(np.asarray(output))
        return np.stack(outputs, axis=1), _in_pairs(pairs[0])
    directions = [layer.forward_layer, layer.backward_layer] if hasattr(layer, "forward_layer") else []
    for part in (layer, *directions):
        part.return_sequences = part.return_state = True
        part.stateful = False
    if not directions:
        layer.go_backwards = False
    is_stack = hasattr(getattr(layer, "cell", None), "cells")
    initial = pairs if is_stack else [array for pair in pairs for array in pair]
    output, *final = layer(tensor(xs), initial_state=initial)
    return np.asarray(output), _in_pairs([array for pair in final for array in pair] if is_stack else final)


def _tensors(layer: Any) -> Any:
    """Return the function that makes tensors for a layer."""
    if type(layer).__module__.startswith("keras."):
        return importlib.import_module("keras").ops.convert_to_tensor
    return importlib.import_module("tensorflow").constant


def _in_pairs(arrays: Sequence[Any]) -> list[State]:
    return [(np.asarray(h), np.asarray(c)) for h, c in zip(arrays[::2], arrays[1::2], strict=True)]
