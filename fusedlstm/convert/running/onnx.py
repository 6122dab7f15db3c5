"""Run a model's LSTM nodes in onnxruntime itself, to check the results of `from_onnx`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.convert.onnx.finding import Found
from fusedlstm.convert.onnx.source import open_model, package
from fusedlstm.convert.running import onnx_model
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.convert.onnx.constants import Constants
    from fusedlstm.convert.onnx.graph import Node, Scope
    from fusedlstm.convert.onnx.node import LSTM
    from fusedlstm.convert.onnx.source import Model, Proto
    from fusedlstm.convert.running.model import Tapped
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.weights import LSTMWeights

    State = tuple[NumpyArray, NumpyArray]

_DOMAINS = ("", "ai.onnx")
_CONSTANTS = (1, 2, 3, 7)  # of a node's inputs: W, R, B, P


def run(
    source: str | os.PathLike[str],
    name: str | Sequence[str] | None,
    weights: LSTMWeights | StackedWeights,
    xs: NumpyArray,
    states: Sequence[State],
    options: Mapping[str, Any],
) -> tuple[NumpyArray, list[State]]:
    """Return what onnxruntime computes with a model's nodes, each of which reads the output of the one before.

    Each node is copied into its own model, with the operators that make its weights, but without its layout and
    sequence_lens. A node that reads reversed steps gets them reversed.

    Args:
        source: the path of the model.
        name: as for `from_onnx`.
        weights: unused.
        xs: (T, B, I).
        states: (h, c) of each layer and direction.
        options: unused.

    Returns:
        The outputs (T, B, width), and the final (h, c) of each layer and direction.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        ValueError: onnxruntime can't run the node, such as one in float64.
    """
    del weights, options
    found = Found(open_model(source))
    model, constants = found.model, found.constants
    outputs, finals, ahead = xs, [], list(states)
    units = found.choose(name)
    for unit, turned in zip(units, found.turns(units), strict=True):
        lstm, step = unit.named, -1 if turned else 1
        D = lstm.num_directions
        own = constants.array(lstm.node.scope, lstm.node.input(1), f"W of the LSTM {lstm.label!r}").dtype
        h, c = (np.stack([state[k] for state in ahead[:D]]).astype(own) for k in (0, 1))
        ahead = ahead[D:]
        feeds = {"X": outputs[::step].astype(own), "initial_h": h, "initial_c": c}
        Y, Y_h, Y_c = _computed(_model_of(model, lstm, constants), feeds, lstm.label)
        outputs = np.concatenate(list(Y.swapaxes(0, 1)), axis=2)[::step]
        finals += list(zip(Y_h, Y_c, strict=True))
    return outputs, finals


def run_model(
    source: str | os.PathLike[str],
    name: str | Sequence[str] | None,
    weights: LSTMWeights | StackedWeights,
    options: Mapping[str, Any],
    seed: int,
) -> Tapped:
    """Run the whole model on random input and return its LSTM's inputs and outputs; see `onnx_model`.

    Raises:
        ModelNotRunError: the model can't be run in this way. The message says why.
        ImportError: onnx or onnxruntime is not installed.
        ValueError: see `from_onnx`.
    """
    del weights, options
    return onnx_model.run_model(source, name, seed)


def _computed(model: Proto, feeds: Mapping[str, NumpyArray], label: str) -> list[NumpyArray]:
    try:
        import onnxruntime
    except ImportError:
        raise ImportError("running ONNX models needs the package onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        content = model.SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        results: list[NumpyArray] = session.run(None, dict(feeds))
    except Exception as error:  # onnxruntime's own errors share no narrower class
        fail(ValueError, f"the LSTM {label!r}", "one that onnxruntime runs", str(error).strip())
    return results


def _model_of(model: Model, lstm: LSTM, constants: Constants) -> Proto:
    """Return a model of one node, with inputs X, initial_h and initial_c, and outputs Y, Y_h and Y_c."""
    helper = package().helper
    copied = _Copied(constants)
    made = {index: copied.value(lstm.node.scope, lstm.node.input(index)) for index in _CONSTANTS}
    inputs = ["X", made[1], made[2], made[3], "", "initial_h", "initial_c", made[7]]
    node = copied.node(lstm.node, inputs, ["Y", "Y_h", "Y_c"])
    layout = [attribute for attribute in node.attribute if attribute.name == "layout"]
    for attribute in layout:  # the layout of sequences, of which onnxruntime supports only 0
        node.attribute.remove(attribute)
    W = constants.array(lstm.node.scope, lstm.node.input(1), "W")
    dtype = helper.np_dtype_to_tensor_dtype(W.dtype)
    graph = helper.make_graph(
        [*copied.nodes, node],
        "lstm",
        [helper.make_tensor_value_info(name, dtype, None) for name in ("X", "initial_h", "initial_c")],
        [helper.make_tensor_value_info(name, dtype, None) for name in node.output],
        copied.tensors,
    )
    versions = [operators for operators in model.proto.opset_import if operators.domain in _DOMAINS]
    ir_version = max(4, model.proto.ir_version)  # before IR version 4, constants are inputs, too
    return helper.make_model(graph, opset_imports=versions, ir_version=ir_version)


class _Copied:
    """Copies of nodes and tensors from any graphs of a model, with new names."""

    def __init__(self, constants: Constants) -> None:
        self.constants = constants
        self.nodes: list[Proto] = []
        self.tensors: list[Proto] = []
        self._names: dict[tuple[int, str], str] = {}

    def value(self, scope: Scope, name: str) -> str:
        """Copy a constant and the operators that make it, and return its new name; "" for a missing input."""
        if not name:
            return ""
        array = self.constants.array(scope, name, f"the value {name!r}")  # bounds the depth
        found = scope.look_up(name)
        key = id(found.scope), found.name
        if key in self._names:
            return self._names[key]
        if found.node is None:
            self._names[key] = f"constant_{len(self._names)}"
            self.tensors.append(package().numpy_helper.from_array(array, self._names[key]))
            return self._names[key]
        inputs = [self.value(found.node.scope, each) for each in found.node.proto.input]
        self._names[key] = f"constant_{len(self._names)}"
        outputs = [self._names[key] if each == found.name else "" for each in found.node.proto.output]
        self.nodes.append(self.node(found.node, inputs, outputs))
        return self._names[key]

    def node(self, node: Node, inputs: Sequence[str], outputs: Sequence[str]) -> Proto:
        """Return a copy of a node with new names, and with the attributes of the call that contains it."""
        copy = type(node.proto)()
        copy.CopyFrom(node.proto)
        del copy.input[:], copy.output[:], copy.attribute[:]
        copy.input.extend(inputs)
        copy.output.extend(outputs)
        for attribute in node.proto.attribute:
            given = node.scope.attribute_of_call(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
            if given is not None:
                copy.attribute.add().CopyFrom(given)
                copy.attribute[-1].name = attribute.name
        return copy
