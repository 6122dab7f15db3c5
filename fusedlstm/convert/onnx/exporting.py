"""Convert StackedWeights to an ONNX model of LSTM nodes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.convert.onnx import functions
from fusedlstm.convert.onnx.layouts import LAYOUTS
from fusedlstm.convert.onnx.source import METADATA, package
from fusedlstm.convert.writing import refuse, write
from fusedlstm.directions import BACKWARD, BOTH, FORWARD
from fusedlstm.validation.arguments import check_size, fail
from fusedlstm.validation.weights import as_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.onnx.source import Proto
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.weights import LSTMWeights

_PLACES = ("peephole", "activation", "output_activation", "gate_activation", "gate_clip", "coupled_gate")
_DIRECTIONS = {FORWARD: "forward", BACKWARD: "reverse", BOTH: "bidirectional"}
_LEAST_OPSET, _LEAST_OF_BFLOAT16 = 7, 22
_DATA_TYPES = {"float32": 1, "float16": 10, "float64": 11, "bfloat16": 16}  # TensorProto.DataType
_REASONS = {
    "cell_clip": "ONNX's clip applies to pre-activations, like gate_clip here",
    "weight_hr": "ONNX's LSTM has no projection",
    "proj_clip": "ONNX's LSTM has no projection",
}


def to_onnx(weights: StackedWeights | LSTMWeights, *, opset: int = 22) -> Proto:
    """Convert weights to an ONNX model that computes the same. `from_onnx` converts it back bit for bit.

    Its inputs and outputs have the weights' dtype, and symbolic T and B. For layers k = 0, 1, ... of D directions each,
    they are:

        X (T, B, I)
        initial_h_k, initial_c_k (D, B, N)      the state before
        Y (T, B, D N)                           the output of the last layer
        Y_h_k, Y_c_k (D, B, N)                  the state after

    Layer k is the node "lstm_k". ONNX has two biases: the first is the bias, and the second is -0.0, which changes no
    bits when added. Functions' parameters and the clip are float32 attributes. If such an attribute can't hold a
    number, the number is in the model's metadata, as JSON under the key "fusedlstm". ONNX has no linear function, so it
    becomes Affine(1, -0.0). onnxruntime (1.32, on a CPU) runs float32 and float16. ONNX defines float64 and bfloat16,
    too, which other runtimes may run. Save a model beyond 2 GB with
    onnx.save(model, path, save_as_external_data=True).

    Args:
        weights: the weights of all layers, or of one cell.
        opset: the version of ONNX's operators: 7 or later, and 22 or later for bfloat16.

    Raises:
        ValueError: ONNX's LSTM can't represent the weights: cell_clip, projections, zoneout, residual layers, i = 1 - f
            (it has only f = 1 - i), a gate_clip that is not above 0 in float32, or directions of one layer that differ
            in size, gate_clip or coupled_gate, or of which only one has a bias or a peephole.
        TypeError: `weights` is neither a StackedWeights nor an LSTMWeights, or `opset` is not an int.
        ImportError: the package onnx is not installed.
    """
    weights = as_layers(weights)
    least = _LEAST_OF_BFLOAT16 if str(weights.dtype) == "bfloat16" else _LEAST_OPSET
    opset = check_size("opset", opset, least)
    _refuse_what_onnx_lacks(weights)
    helper = package().helper
    parts = [_LayerNode(k, weights, "X" if k == 0 else f"X_{k}") for k in range(weights.num_layers)]
    outputs = [*(f"X_{k}" for k in range(1, len(parts))), "Y"]
    dtype = _DATA_TYPES[str(weights.dtype)]

    def value(name: str, *shape: int | str) -> Proto:
        return helper.make_tensor_value_info(name, dtype, shape)

    def states(*names: str) -> list[Proto]:
        return [value(f"{name}_{part.k}", part.D, "B", part.N) for part in parts for name in names]

    graph = helper.make_graph(
        [node for part, output in zip(parts, outputs, strict=True) for node in part.nodes(output)],
        "fusedlstm",
        [value("X", "T", "B", weights.input_size), *states("initial_h", "initial_c")],
        [value("Y", "T", "B", weights.output_size), *states("Y_h", "Y_c")],
        [tensor for part in parts for tensor in part.tensors()],
    )
    operators = [helper.make_opsetid("", opset)]
    # Before IR version 4, constants are inputs, too.
    ir_version = max(4, helper.find_min_ir_version_for(operators, ignore_unknown=True))
    model = helper.make_model(graph, opset_imports=operators, ir_version=ir_version, producer_name="fusedlstm")
    noted = {part.name: part.noted for part in parts if part.noted}
    if noted:
        helper.set_model_props(model, {METADATA: json.dumps(noted, sort_keys=True)})
    return model


def _refuse_what_onnx_lacks(weights: StackedWeights) -> None:
    if any(weights.residual):
        fail(ValueError, "residual", "False, as ONNX's LSTM doesn't add its input to its output", str(weights.residual))
    for index, layer in enumerate(weights.layers):
        try:
            refuse(layer, "ONNX", _PLACES, _REASONS)
            if layer.coupled_gate == "input":
                fail(ValueError, "coupled_gate", "None or 'forget'", "'input'", "ONNX has only f = 1 - i")
            if layer.gate_clip is not None:
                _check_clip(layer.gate_clip)
        except ValueError as error:
            raise ValueError(f"layers[{index}]: {error}" if len(weights.layers) > 1 else str(error)) from None
    for k, which in enumerate(weights.slices):
        forward, *others = weights.layers[which]
        for backward in others:
            _check_alike(k, forward, backward)


def _check_clip(clip: float) -> None:
    with np.errstate(over="ignore"):
        stored = np.float32(clip)
    if not stored > 0 or (np.isinf(stored) and not np.isinf(clip)):
        hint = "ONNX's clip is a float32, and onnxruntime refuses 0"
        fail(ValueError, "gate_clip", "a number > 0 that float32 can hold", str(clip), hint)


def _check_alike(k: int, forward: LSTMWeights, backward: LSTMWeights) -> None:
    """Raise unless the two directions of a layer have the form of one node."""
    for name in ("hidden_size", "bias", "peephole", "gate_clip", "coupled_gate"):
        one, other = (getattr(direction, name) for direction in (forward, backward))
        if name in ("bias", "peephole"):
            one, other = ("None" if array is None else "an array" for array in (one, other))
        if one != other:
            wanted = f"the same {name} in both directions of layer {k}, as in ONNX's LSTM"
            fail(ValueError, "weights", wanted, f"{one} and {other}")


class _LayerNode:
    """One layer: its node, tensors, and the operators above it."""

    def __init__(self, k: int, weights: StackedWeights, x: str) -> None:
        self.k, self.direction, self.x, self.name = k, _DIRECTIONS[weights.directions[k]], x, f"lstm_{k}"
        self.directions = weights.layers[weights.slices[k]]
        self.N, self.D = self.directions[0].hidden_size, len(self.directions)
        self.arrays = self._arrays()
        self.attributes, self.noted = self._attributes()

    def _arrays(self) -> dict[str, NumpyArray]:
        each = [write(LAYOUTS["onnx"], direction) for direction in self.directions]
        joined = {name: np.stack([arrays[name] for arrays in each]) for name in each[0]}
        if "Wb" in joined:
            joined["B"] = np.concatenate([joined.pop("Wb"), joined.pop("Rb")], 1)
        return joined

    def _attributes(self) -> tuple[dict[str, Any], dict[str, list[float]]]:
        """Return the node's attributes, and the numbers that float32 can't hold."""
        first = self.directions[0]
        three = [(w.functions.gate, w.functions.input, w.functions.output) for w in self.directions]
        names, alphas, betas = functions.to_names([function for each in three for function in each])
        clip = [] if first.gate_clip is None else [first.gate_clip]
        numbers = {"activation_alpha": alphas, "activation_beta": betas, "clip": clip}
        attributes: dict[str, Any] = {"hidden_size": self.N}
        attributes |= {name: values[0] if name == "clip" else values for name, values in numbers.items() if values}
        if names != ["Sigmoid", "Tanh", "Tanh"] * self.D:
            attributes["activations"] = names
        if first.coupled_gate == "forget":
            attributes["input_forget"] = 1
        if self.direction != "forward":
            attributes["direction"] = self.direction
        return attributes, {name: values for name, values in numbers.items() if not _told(values, first.dtype)}

    def tensors(self) -> list[Proto]:
        """Return the layer's weights, and the shape of its output."""
        helper = package().helper
        dtype = _DATA_TYPES[str(self.directions[0].dtype)]
        tensors = [
            helper.make_tensor(f"{name}_{self.k}", dtype, array.shape, array.tobytes(), raw=True)
            for name, array in self.arrays.items()
        ]
        return [*tensors, helper.make_tensor(f"shape_{self.k}", 7, [3], [0, 0, self.D * self.N])]

    def nodes(self, output: str) -> list[Proto]:
        """Return the LSTM node, and the operators that turn its Y (T, D, B, N) into (T, B, D N)."""
        helper = package().helper
        k = self.k
        there = {name: f"{name}_{k}" if name in self.arrays else "" for name in ("W", "R", "B", "P")}
        states = [f"initial_h_{k}", f"initial_c_{k}"]
        inputs = [self.x, there["W"], there["R"], there["B"], "", *states, *filter(None, [there["P"]])]
        results = [f"Y_all_{k}", f"Y_h_{k}", f"Y_c_{k}"]
        lstm = helper.make_node("LSTM", inputs, results, self.name, **self.attributes)
        transpose = helper.make_node("Transpose", [results[0]], [f"Y_rows_{k}"], f"transpose_{k}", perm=[0, 2, 1, 3])
        reshape = helper.make_node("Reshape", [f"Y_rows_{k}", f"shape_{k}"], [output], f"reshape_{k}")
        return [lstm, transpose, reshape]


def _told(values: Sequence[float], dtype: np.dtype[Any]) -> bool:
    """Whether these numbers are read back unchanged from attributes."""
    return all(repr(functions.exact(value, dtype)) == repr(float(value)) for value in values)
