"""Hints about TensorFlow 1's variables and Keras's arrays."""

import numpy as np

from fusedlstm import LSTMWeights, convert

from support.hints.arrays import tf1
from support.hints.case import Case, I, N, weights, x


def old_tf1(kernel, bias):
    return convert.from_tf1(tf1("RNN/LSTMCell", kernel, bias))


def both_ways():
    scopes = [f"r/{way}/multi_rnn_cell/cell_{k}/lstm_cell" for way in ("fw", "bw") for k in (0, 1)]
    cells = [tf1(scope) if "cell_0" in scope else tf1_above(scope) for scope in scopes]
    return {name: array for one in cells for name, array in one.items()}


def tf1_above(scope):
    return {f"{scope}/kernel": np.zeros((2 * N, 4 * N), "f"), f"{scope}/bias": np.zeros(4 * N, "f")}


CASES = {
    "weights and biases": Case(lambda: old_tf1("weights", "biases"), lambda: convert.from_tf1(tf1())),
    "Matrix and Bias": Case(lambda: old_tf1("Matrix", "Bias"), lambda: convert.from_tf1(tf1())),
    "W_0 and B": Case(lambda: old_tf1("W_0", "B"), lambda: convert.from_tf1(tf1())),
    "several cells": Case(
        lambda: convert.from_tf1({**tf1("a/lstm_cell"), **tf1("b/lstm_cell")}),
        lambda: convert.from_tf1({**tf1("a/lstm_cell"), **tf1("b/lstm_cell")}, prefix="a/lstm_cell"),
    ),
    "a dense layer or a cell": Case(
        lambda: convert.from_tf1(tf1("mine")), lambda: convert.from_tf1(tf1("mine"), prefix="mine")
    ),
    "cudnn's cell": Case(
        lambda: convert.from_tf1(tf1("cudnn_compatible_lstm_cell")),
        lambda: convert.from_tf1(tf1("cudnn_compatible_lstm_cell"), forget_bias=0.0),
    ),
    "TensorFlow 1.0's block": Case(
        lambda: convert.from_tf1(tf1("lstm_block_wrapper")),
        lambda: convert.from_tf1(tf1("lstm_block_wrapper"), cell_clip=3.0),
    ),
    "an unnamed function": Case(
        lambda: convert.tf1_arguments(weights(activation=("leaky_relu", 0.3))),
        lambda: convert.tf1_arguments(weights()) | {"activation": lambda z: np.where(z > 0, z, 0.3 * z)},
    ),
    "variables with more": Case(
        lambda: convert.from_tf1(tf1() | {"rnn/lstm_cell/scale": np.zeros(4 * N, "f")}), lambda: convert.from_tf1(tf1())
    ),
    "directions with layers": Case(
        lambda: convert.from_tf1(both_ways()),
        lambda: (convert.from_tf1(both_ways(), prefix="r/fw"), convert.from_tf1(both_ways(), prefix="r/bw")),
    ),
    "keras's cells in one list": Case(
        lambda: convert.from_keras([*convert.to_keras(weights()), *convert.to_keras(LSTMWeights.random(N, N, seed=0))]),
        lambda: convert.from_keras([convert.to_keras(weights()), convert.to_keras(LSTMWeights.random(N, N, seed=0))]),
    ),
    "keras's three cells in one list": Case(
        lambda: convert.from_keras(convert.to_keras(weights()) * 3),
        lambda: convert.from_keras([convert.to_keras(LSTMWeights.random(N, N, seed=0))] * 3),
    ),
    "several cells in one array": Case(
        lambda: convert.from_block_lstm(np.zeros((2, I + N, 4 * N), "f"), np.zeros((2, 4 * N), "f")),
        lambda: [convert.from_block_lstm(np.zeros((I + N, 4 * N), "f"), np.zeros(4 * N, "f")) for _ in range(2)],
    ),
    "a missing layer": Case(
        lambda: convert.from_tf1(tf1("r/multi_rnn_cell/cell_0/lstm_cell") | tf1("r/multi_rnn_cell/cell_2/lstm_cell")),
        lambda: convert.from_tf1(tf1("r/multi_rnn_cell/cell_2/lstm_cell"), prefix="r/multi_rnn_cell/cell_2/lstm_cell"),
    ),
    "CudnnLSTM's buffer": Case(
        lambda: convert.from_tf1({"cudnn_lstm/opaque_kernel": x()}),
        lambda: convert.from_tf1(tf1("cudnn_lstm/cudnn_compatible_lstm_cell"), forget_bias=0.0),
    ),
}
