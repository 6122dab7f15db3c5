"""ONNX models made from nodes and arrays, and onnxruntime's outputs of them."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

# Older versions of onnx have no name for ml_dtypes' bfloat16.
DATA_TYPES = {"float32": 1, "float16": 10, "float64": 11, "bfloat16": 16}
STATE_INPUTS = ("sequence_lens", "initial_h", "initial_c")


def arrays_of(rng, I, N, D=1, *, bias=True, peephole=False, dtype=np.float32):
    """Return random W, R, B and P for a node."""
    shapes = {"W": (D, 4 * N, I), "R": (D, 4 * N, N)}
    shapes |= {"B": (D, 8 * N)} if bias else {}
    shapes |= {"P": (D, 3 * N)} if peephole else {}
    return {name: rng.uniform(-1, 1, shape).astype(dtype) for name, shape in shapes.items()}


def lstm(arrays, attributes=(), *, name="lstm", x="X", given=(), suffix=""):
    """Return a node that takes W, R, B and P if `arrays` has them, and the states that are `given`."""
    there = {*arrays, *given}
    inputs = [x, *(key + suffix if key in there else "" for key in ("W", "R", "B", *STATE_INPUTS, "P"))]
    while not inputs[-1]:
        inputs.pop()
    outputs = [f"{key}{suffix}" for key in ("Y", "Y_h", "Y_c")]
    return helper.make_node("LSTM", inputs, outputs, name, **dict(attributes))


def tensors(arrays, suffix=""):
    return [numpy_helper.from_array(np.asarray(array), f"{name}{suffix}") for name, array in arrays.items()]


def model_of(nodes, constants=(), *, inputs=("X",), outputs=("Y",), opset=22, dtype=np.float32, functions=()):
    """Return a model of nodes and tensors. All inputs have one dtype, except sequence_lens and condition."""
    float_type = DATA_TYPES[np.dtype(dtype).name]
    types = {"sequence_lens": onnx.TensorProto.INT32, "condition": onnx.TensorProto.BOOL}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, types.get(name, float_type), None) for name in inputs],
        [helper.make_tensor_value_info(name, float_type, None) for name in outputs],
        list(constants),
    )
    operators = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=operators, ir_version=10, functions=list(functions))


def lstm_model(arrays, attributes=(), *, given=(), opset=22, dtype=np.float32):
    """Return a model of one node."""
    node = lstm(arrays, attributes, given=given)
    return model_of([node], tensors(arrays), inputs=["X", *given], outputs=node.output, opset=opset, dtype=dtype)


def session(model):
    """Return an onnxruntime session without log messages."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def bits(weights):
    """Return everything in weights, so that only equal weights compare equal."""
    return (
        weights.directions,
        weights.residual,
        [
            (
                repr(layer.options()),
                {name: (str(a.dtype), a.shape, a.tobytes()) for name, a in layer.arrays().items()},
            )
            for layer in weights.layers
        ],
    )


def parsed(text, constants, *, opset=17, functions=()):
    """Return a model from onnx's textual form, with node names in brackets, and constants by name."""
    graph = onnx.parser.parse_graph(text)
    graph.initializer.extend(tensors(constants))
    operators = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    made = [onnx.parser.parse_function(each) for each in functions]
    return helper.make_model(graph, opset_imports=operators, ir_version=8, functions=made)


def computed(model, feeds, outputs=None):
    """Return onnxruntime's outputs, by name."""
    running = session(model)
    names = outputs or [output.name for output in running.get_outputs()]
    return dict(zip(names, running.run(names, feeds), strict=True))
