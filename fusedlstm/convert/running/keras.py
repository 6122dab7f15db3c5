"""What Keras itself computes of a file's LSTMs: the proof of what `from_keras` makes of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.checks import fail
from fusedlstm.convert.keras.files import opened
from fusedlstm.convert.keras.functions import FUNCTIONS_OF
from fusedlstm.convert.keras.layers import Found, Given, Node, choose

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from fusedlstm.dtypes import NumpyArray
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
    """Return what Keras computes of a file's layers, each of whose outputs is the next one's input.

    A file with a config is loaded by load_model, of Keras 3 or of tf_keras, whichever made it. For a file of weights
    alone a layer is made, and given the file's arrays by set_weights.

    Args:
        source: the path of the file.
        name: as of `from_keras`.
        weights: what that made, of which nothing but the dtype is looked at.
        xs: (T, B, I).
        states: (h, c) of each layer and direction.
        options: what else `from_keras` was given: activation and recurrent_activation.

    Returns:
        The outputs (T, B, width), and the final (h, c) of each layer and direction.

    Raises:
        ImportError: the Keras that this needs is not installed.
        ValueError: a layer that Keras can't run so.
    """
    given = _given(options)
    with opened(source) as root:
        found = _found(root, name)
        layers = [_made(one, given, str(weights.dtype)) for one in found if one.is_unknown]
    if not layers:
        keras = importlib.import_module(_PACKAGES[_version_of(found)])
        model = keras.models.load_model(source, compile=False)
        layers = [_within(model, one.name) for one in found]
    outputs, finals, ahead = np.swapaxes(xs, 0, 1), [], list(states)
    for one, layer in zip(found, layers, strict=True):
        count = sum(1 for _ in one.node.cells())
        outputs, final = _run_layer(layer, str(weights.dtype), outputs, ahead[:count])
        finals += final
        ahead = ahead[count:]
    return np.swapaxes(outputs, 0, 1), finals


def package(source: str | os.PathLike[str], name: Any, options: Mapping[str, Any]) -> str:
    """Return the Keras that `run` of these arguments asks: the package's name."""
    with opened(source) as root:
        found = _found(root, name)
    is_unknown = any(one.is_unknown for one in found)
    return _PACKAGES[_installed(_given(options))[0] if is_unknown else _version_of(found)]


def _given(options: Mapping[str, Any]) -> Given:
    return Given.of(options.get("activation"), options.get("recurrent_activation"))


def _found(root: Node, name: Any) -> list[Found]:
    names = [name] if name is None or isinstance(name, str) else list(name)
    return [choose("source", root, each) for each in names]


def _version_of(found: Sequence[Found]) -> int:
    """Return which Keras made layers whose config is known."""
    return found[0].node.keras or 3


def _within(model: Any, name: str) -> Any:
    """Return the layer of a model at a path of names."""
    for part in name.split("/"):
        model = model.get_layer(part) if hasattr(model, "get_layer") else model.layer
    return model


def _made(found: Found, given: Given, dtype: str) -> Any:
    """Return a new layer of Keras with a file's arrays."""
    version, keras = _installed(given)
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


def _installed(given: Given) -> tuple[int, Any]:
    """Return a Keras that has the functions, and its version."""
    for version, package in _PACKAGES.items():
        wanted = [function for function in (given.activation, given.recurrent_activation) if function is not None]
        if all(function in FUNCTIONS_OF[version].values() for function in wanted):
            try:
                return version, importlib.import_module(package)
            except ImportError:
                continue
    raise ImportError("neither keras nor tf_keras is installed, or the one that is lacks these functions")


def _new_cell(keras: Any, version: int, node: Node, given: Given, dtype: str) -> Any:
    names = {function: name for name, function in FUNCTIONS_OF[version].items()}

    def name_of(function: Function | None, default: str) -> str:
        return default if function is None else names[function]

    return keras.layers.LSTMCell(
        node.shapes[1][0],
        activation=name_of(given.activation, "tanh"),
        recurrent_activation=name_of(given.recurrent_activation, "sigmoid"),
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


def _run_layer(layer: Any, dtype: str, xs: NumpyArray, states: Sequence[State]) -> tuple[NumpyArray, list[State]]:
    """Return the outputs (B, T, width) and the final states of a layer, or of a cell step by step."""
    if layer.compute_dtype != dtype:
        fail(ValueError, layer.name, f"a layer that computes in {dtype}, as its weights are", layer.compute_dtype)
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
    """Return what makes tensors for a layer."""
    if type(layer).__module__.startswith("keras."):
        return importlib.import_module("keras").ops.convert_to_tensor
    return importlib.import_module("tensorflow").constant


def _in_pairs(arrays: Sequence[Any]) -> list[State]:
    return [(np.asarray(h), np.asarray(c)) for h, c in zip(arrays[::2], arrays[1::2], strict=True)]
