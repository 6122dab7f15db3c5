"""Write outputs of TFLite's interpreter to tflite/. Run make_tflite.py with TensorFlow on a CPU.

Each file has one operator, LSTM or UNIDIRECTIONAL_SEQUENCE_LSTM, in a model built here tensor by tensor, with random
weights. It is invoked once a step, from random states. Its variable tensors 18 and 19 are read after each step. Every
second model uses options that must not change float results: batch-major x, and asymmetric_quantize_inputs.
"""

import json
import os
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import flatbuffers
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

FOLDER = Path(__file__).parent / "tflite"
T, B, I, N, P = 4, 3, 3, 4, 2
H, C = 18, 19

# Name -> operator, input gate, peepholes, P, activation, clip of c, clip of h.
CASES = {
    "plain": ("UNIDIRECTIONAL_SEQUENCE_LSTM", True, False, None, "TANH", 0.0, 0.0),
    "peephole_projection_clips": ("UNIDIRECTIONAL_SEQUENCE_LSTM", True, True, P, "TANH", 0.6, 0.3),
    "relu_peephole": ("UNIDIRECTIONAL_SEQUENCE_LSTM", True, True, None, "RELU", 0.0, 0.0),
    "coupled": ("UNIDIRECTIONAL_SEQUENCE_LSTM", False, False, None, "TANH", 0.0, 0.0),
    "coupled_peephole_projection_clips": ("UNIDIRECTIONAL_SEQUENCE_LSTM", False, True, P, "TANH", 0.6, 0.3),
    "step_peephole_projection_clips": ("LSTM", True, True, P, "TANH", 0.6, 0.3),
    "step_coupled_peephole": ("LSTM", False, True, None, "TANH", 0.0, 0.0),
}


def weights(input_gate, peephole, proj_size, rng):
    """Return the weights among the operator's inputs, by number."""
    inputs = {}
    for k in range(4):
        shapes = {1 + k: (N, I), 5 + k: (N, proj_size or N), 12 + k: (N,)}
        if peephole and k < 3:
            shapes[9 + k] = (N,)
        if input_gate or k > 0:
            inputs |= {index: rng.normal(size=shape).astype(np.float32) for index, shape in shapes.items()}
    if proj_size:
        inputs[16] = rng.normal(size=(proj_size, N)).astype(np.float32)
    return inputs


class Graph:
    """Builds a model of one operator, tensor by tensor."""

    def __init__(self):
        self.graph, self.model = schema.SubGraphT(), schema.ModelT()
        self.graph.tensors, self.model.buffers = [], [schema.BufferT()]

    def tensor(self, shape, value=None, variable=False):
        made = schema.TensorT()
        made.shape, made.type, made.isVariable = list(shape), schema.TensorType.FLOAT32, variable
        made.name, made.buffer = f"t{len(self.graph.tensors)}", 0
        if value is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(value.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            made.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def bytes(self, operator, name):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        self.graph.operators, self.graph.inputs, self.graph.outputs = (
            [operator],
            [operator.inputs[0]],
            operator.outputs,
        )
        self.model.version, self.model.operatorCodes, self.model.subgraphs = 3, [code], [self.graph]
        builder = flatbuffers.Builder(0)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def model(name, inputs, size, activation, cell_clip, proj_clip, other):
    """Return the file of an operator's single step, and the numbers of its two variable tensors."""
    one_step = () if name == "LSTM" else (1,)
    x, y = ((B, *one_step, width) if other else (*one_step, B, width) for width in (I, size))
    graph, operator = Graph(), schema.OperatorT()
    operator.inputs = [graph.tensor(inputs[k].shape, inputs[k]) if k in inputs else -1 for k in range(24)]
    operator.inputs[0] = graph.tensor(x)
    operator.inputs[H], operator.inputs[C] = graph.tensor((B, size), variable=True), graph.tensor((B, N), variable=True)
    operator.outputs = [graph.tensor(y)]
    if name == "LSTM":
        operator.builtinOptionsType = schema.BuiltinOptions.LSTMOptions
        options = operator.builtinOptions = schema.LSTMOptionsT()
        options.kernelType = schema.LSTMKernelType.FULL
    else:
        operator.builtinOptionsType = schema.BuiltinOptions.UnidirectionalSequenceLSTMOptions
        options = operator.builtinOptions = schema.UnidirectionalSequenceLSTMOptionsT()
        options.timeMajor = not other
    options.fusedActivationFunction = getattr(schema.ActivationFunctionType, activation)
    options.cellClip, options.projClip, options.asymmetricQuantizeInputs = cell_clip, proj_clip, other
    return graph.bytes(operator, name), operator.inputs[H], operator.inputs[C]


def run(content, at_h, at_c, xs, h0, c0):
    """Return the outputs and states of each step."""
    # Delegates may copy variable tensors, so use the operators' own reference.
    resolver = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = tf.lite.Interpreter(
        model_content=content, experimental_op_resolver_type=resolver, experimental_preserve_all_tensors=True
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(at_h, h0)
    interpreter.set_tensor(at_c, c0)
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    steps = []
    for x in xs:
        interpreter.set_tensor(given["index"], x.reshape(given["shape"]))
        interpreter.invoke()
        y = interpreter.get_tensor(made["index"]).reshape(B, -1)
        steps.append((y, interpreter.get_tensor(at_h), interpreter.get_tensor(at_c)))
    return [np.stack(part) for part in zip(*steps, strict=True)]


def main():
    FOLDER.mkdir(exist_ok=True)
    for seed, (case, (name, input_gate, peephole, proj_size, activation, cell_clip, proj_clip)) in enumerate(
        CASES.items()
    ):
        rng = np.random.default_rng(seed)
        inputs, size = weights(input_gate, peephole, proj_size, rng), proj_size or N
        xs, h0, c0 = (
            rng.normal(size=(T, B, I)).astype(np.float32),
            rng.uniform(-0.9, 0.9, (B, size)).astype(np.float32),
            rng.normal(size=(B, N)).astype(np.float32),
        )
        y, h_seq, c_seq = run(*model(name, inputs, size, activation, cell_clip, proj_clip, seed % 2 == 1), xs, h0, c0)
        meta = {
            "system": f"TensorFlow {tf.__version__}, tf.lite.Interpreter",
            "operator": name,
            "args": {"activation": activation.lower(), "cell_clip": cell_clip, "proj_clip": proj_clip},
            "dtype": "float32",
        }
        arrays = {f"W_{index}": array for index, array in inputs.items()}
        arrays |= {"x": xs, "h0": h0, "c0": c0, "y": y, "h_seq": h_seq, "c_seq": c_seq}
        np.savez(FOLDER / f"{case}.npz", meta=json.dumps(meta), **arrays)


if __name__ == "__main__":
    main()
