"""Hints about Core ML, TFLite and haste, and about importers of arrays."""

import numpy as np

from fusedlstm import LSTM, LSTMState, convert
from fusedlstm.convert.coreml import LAYOUTS as COREML
from fusedlstm.convert.tflite import LAYOUTS as TFLITE
from fusedlstm.convert.writing import write

from support.hints.arrays import haiku
from support.hints.case import B, Case, N, cell, weights, x, xs


def tflite(dtype):
    return {name: array.astype(dtype) for name, array in write(TFLITE["tflite"], weights()).items()}


def leaky():
    return write(COREML["coreml"], weights()) | {"activation": "leaky_relu"}


CASES = {
    "a path for an importer of arrays": Case(
        lambda: convert.from_haiku("a.npz"), lambda: convert.from_haiku(haiku("lstm"))
    ),
    "integers of TFLite": Case(lambda: convert.from_tflite(tflite("i1")), lambda: convert.from_tflite(tflite("f4"))),
    "a weight of coremltools 4": Case(
        lambda: convert.from_coreml({"weight": x()}), lambda: convert.from_coreml(write(COREML["coreml"], weights()))
    ),
    "an initial state in weights": Case(
        lambda: convert.from_coreml(write(COREML["coreml"], weights()) | {"initial_h": np.ones((1, N), "f")}),
        lambda: cell()(x(), LSTMState(h=np.ones((B, N), "f"), c=np.ones((B, N), "f"))),
    ),
    "reversed Core ML": Case(
        lambda: convert.from_coreml(write(COREML["coreml"], weights()) | {"direction": "reverse"}),
        lambda: LSTM(weights(), backend="numpy")(xs(), reverse=True),
    ),
    "a function without its alpha": Case(
        lambda: convert.from_coreml(leaky()), lambda: convert.from_coreml(leaky(), activation=("leaky_relu", 0.3))
    ),
}
