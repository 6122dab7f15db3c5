"""Write outputs of stacks of different directions: onnxruntime's to onnx/stack/, and Keras's to keras3_jax/.

Run make_stacks.py with onnx, onnxruntime, Keras 3 and JAX on a CPU. All numbers are float32 and random.
"""

import json
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

os.environ["KERAS_BACKEND"] = "jax"
import keras

FOLDER = Path(__file__).parent
T, B, I, N = 5, 3, 3, 4
LENGTHS = np.array([5, 2, 4], np.int32)
NODES = ["bidirectional", "reverse", "forward", "reverse"]


def numbers(rng, *shape):
    return rng.normal(0, 0.6, shape).astype(np.float32)


def save(path, package, arrays, **meta):
    meta = {"system": f"{package} {version(package)}", "dtype": "float32", **meta}
    path.parent.mkdir(exist_ok=True)
    np.savez(path, meta=json.dumps(meta), **{key: np.asarray(array) for key, array in arrays.items()})


def onnx_stack():
    """Save a chain of nodes with sequence_lens and initial states. Y is the output (T, B, D N) of the last one."""
    rng, helper = np.random.default_rng(0), onnx.helper
    arrays, nodes, width, x = {"X": numbers(rng, T, B, I), "lens": LENGTHS}, [], I, "X"
    results = []
    for k, direction in enumerate(NODES):
        D = 1 + (direction == "bidirectional")
        shapes = {"W": (D, 4 * N, width), "R": (D, 4 * N, N), "B": (D, 8 * N)}
        shapes |= {"initial_h": (D, B, N), "initial_c": (D, B, N)}
        arrays |= {f"{name}{k}": numbers(rng, *shape) for name, shape in shapes.items()}
        inputs = [x, f"W{k}", f"R{k}", f"B{k}", "lens", f"initial_h{k}", f"initial_c{k}"]
        outputs = [f"all{k}", f"Y_h{k}", f"Y_c{k}"]
        nodes.append(helper.make_node("LSTM", inputs, outputs, hidden_size=N, direction=direction))
        nodes.append(helper.make_node("Transpose", [f"all{k}"], [f"rows{k}"], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", [f"rows{k}", "shape"], [f"Y{k}"]))
        results += outputs[1:]
        width, x = D * N, f"Y{k}"
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    constants.append(onnx.numpy_helper.from_array(np.array([0, 0, -1]), "shape"))
    values = [helper.make_tensor_value_info(name, 1, None) for name in (x, *results)]
    graph = helper.make_graph(nodes, "stack", [], values, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    arrays |= dict(zip(("Y", *results), session.run(None, {}), strict=True))
    save(FOLDER / "onnx/stack/mixed.npz", "onnxruntime", arrays, directions=NODES)


def keras_stack():
    """Save layers, batch-major: a Bidirectional under two with go_backwards=True and one without it."""
    K, rng, plain = keras.layers, np.random.default_rng(1), {"return_sequences": True}
    layers = [
        K.Bidirectional(K.LSTM(N, **plain)),
        *(K.LSTM(N, go_backwards=back, **plain) for back in (True, True, False)),
    ]
    xs = numbers(rng, B, T, I)
    model = keras.Sequential([keras.Input((T, I)), *layers])
    model.set_weights([numbers(rng, *array.shape) for array in model.get_weights()])
    weights = {f"W{k}_{n}": array for k, layer in enumerate(layers) for n, array in enumerate(layer.get_weights())}
    counts = [len(layer.get_weights()) for layer in layers]
    save(FOLDER / "keras3_jax/stack_mixed.npz", "keras", {"x": xs, "y": model(xs), **weights}, counts=counts)


if __name__ == "__main__":
    onnx_stack()
    keras_stack()
