"""onnxruntime on the CPU: the LSTM node of ONNX, made from our weights.

Its gates are in the order i, o, f, g. Its weights are W (1, 4N, I) and R (1, 4N, N). It has two biases, [Wb | Rb].
"""

import importlib.util

import numpy as np

from benchmarks.cases import Result
from benchmarks.peers.peer import Peer

_OPSET, _IR_VERSION = 14, 8  # old enough for every recent onnxruntime


def in_onnx_order(array):
    """Return rows of the gates i, f, g, o in the order i, o, f, g."""
    i, f, g, o = np.split(array, 4)
    return np.concatenate([i, o, f, g])


def model(weights):
    """Return the bytes of a model of all layers: X, h0, c0, h1 ... -> Y, h0_out, c0_out, h1_out ..."""
    from onnx import TensorProto, helper, numpy_helper

    def value(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes, constants = [], [numpy_helper.from_array(np.array([1], np.int64), "direction")]
    states, ended = [], []
    below = "X"
    for k, layer in enumerate(weights.layers):
        N = layer.hidden_size
        bias = in_onnx_order(layer.bias)
        arrays = {
            f"W{k}": in_onnx_order(layer.weight_ih)[None],
            f"R{k}": in_onnx_order(layer.weight_hh)[None],
            f"B{k}": np.concatenate([bias, np.zeros_like(bias)])[None],
        }
        constants += [numpy_helper.from_array(array, name) for name, array in arrays.items()]
        outputs = [f"all{k}", f"h{k}_out", f"c{k}_out"]
        nodes.append(helper.make_node("LSTM", [below, *arrays, "", f"h{k}", f"c{k}"], outputs, hidden_size=N))
        below = "Y" if layer is weights.layers[-1] else f"Y{k}"
        nodes.append(helper.make_node("Squeeze", [f"all{k}", "direction"], [below]))
        states += [value(f"{part}{k}", 1, "B", N) for part in "hc"]
        ended += [value(f"{part}{k}_out", 1, "B", N) for part in "hc"]
    N = weights.output_size
    inputs = [value("X", "T", "B", weights.input_size), *states]
    graph = helper.make_graph(nodes, "layers", inputs, [value("Y", "T", "B", N), *ended], constants)
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString()


class OnnxRuntime(Peer):
    """An inference session, run with NumPy arrays."""

    name = "onnxruntime"
    package = module = "onnxruntime"
    kinds = ("step", "sequence")
    devices = ("cpu",)

    def why_not(self, device):
        reason = super().why_not(device)
        if reason is None and importlib.util.find_spec("onnx") is None:
            return "onnx, which makes the model, is not installed"
        return reason

    def cannot(self, case):
        reason = super().cannot(case)
        if reason is None and case.P:
            return "ONNX's LSTM has no projection"
        if reason is None and case.resets and case.kind == "sequence":
            return "ONNX's LSTM has no resets"
        return reason

    def prepare(self, case, device, threads):
        import onnxruntime

        del device
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model(case.weights), options, providers=["CPUExecutionProvider"])
        data = case.data
        keep = None if data.is_first is None else np.float32(~data.is_first[0])[:, None]

        def run():
            h, c = (data.h, data.c) if keep is None else (data.h * keep, data.c * keep)
            states = {f"{name}{k}": part[k : k + 1] for name, part in (("h", h), ("c", c)) for k in range(case.layers)}
            return session.run(None, {"X": data.xs, **states})

        return run

    def results(self, raw):
        outputs, *states = raw
        return Result(np.concatenate(states[0::2]), np.concatenate(states[1::2]), outputs)


PEERS = [OnnxRuntime()]
