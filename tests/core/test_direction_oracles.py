"""Compare stacks of different directions with numbers that onnxruntime and Keras computed."""

import numpy as np

from fusedlstm import LSTM, LSTMState, LSTMWeights, StackedWeights
from fusedlstm.convert.keras.objects import from_keras
from fusedlstm.convert.onnx.layouts import LAYOUTS
from fusedlstm.convert.reading import read

from support.cells import host
from support.oracle_files import Oracle

DIRECTIONS = {"forward": "forward", "reverse": "backward", "bidirectional": "both"}


def of_node(oracle, k):
    """Return the weights of each direction of a node."""
    W, R, biases = (oracle[f"{name}{k}"] for name in "WRB")
    N = R.shape[2]
    return [
        LSTMWeights(**read(LAYOUTS["onnx"], "arrays", {"W": w, "R": r, "Wb": b[: 4 * N], "Rb": b[4 * N :]}))
        for w, r, b in zip(W, R, biases, strict=True)
    ]


def test_chain_of_onnx_nodes(backend):
    oracle = Oracle("onnx/stack/mixed.npz")
    nodes = range(len(oracle.meta["directions"]))
    directions = [DIRECTIONS[direction] for direction in oracle.meta["directions"]]
    lstm = LSTM(
        StackedWeights([each for k in nodes for each in of_node(oracle, k)], directions=directions), backend=backend
    )
    states, wanted = (
        [
            LSTMState(h=lstm.asarray(h), c=lstm.asarray(c))
            for k in nodes
            for h, c in zip(oracle[f"{name}h{k}"], oracle[f"{name}c{k}"], strict=True)
        ]
        for name in ("initial_", "Y_")
    )
    outputs, finals = lstm(lstm.asarray(oracle["X"]), states, lengths=oracle["lens"])
    tolerance = 3 * oracle.tolerance
    assert np.abs(host(outputs) - oracle["Y"]).max() <= tolerance
    for ours, theirs in zip(finals, wanted, strict=True):
        assert np.abs(host(ours.h) - host(theirs.h)).max() <= tolerance
        assert np.abs(host(ours.c) - host(theirs.c)).max() <= tolerance


def test_chain_of_keras_layers(backend):
    """The lowest two plain layers turn the order of the steps around and back."""
    oracle = Oracle("keras3_jax/stack_mixed.npz")
    layers = [[oracle[f"W{k}_{n}"] for n in range(count)] for k, count in enumerate(oracle.meta["counts"])]
    weights = from_keras(layers).layers
    lstm = LSTM(
        StackedWeights(weights, directions=["both", "backward", "forward", "forward"]),
        batch_first=True,
        backend=backend,
    )
    outputs, _ = lstm(lstm.asarray(oracle["x"]))
    assert np.abs(host(outputs) - oracle["y"]).max() <= 3 * oracle.tolerance
