"""Map functions and their parameters between ONNX's LSTM and LSTMWeights. ONNX keeps parameters in separate lists.

The following was measured with onnxruntime 1.32. Case doesn't matter in names. Each function with an alpha takes the
next number of activation_alpha, and each with a beta the next of activation_beta. If none is left, it takes the
default. Surplus numbers are ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.functions import Function

# ONNX's names -> ours, and the defaults of their parameters. ONNX specifies no defaults for the last three in an LSTM
# (the operator ThresholdedRelu has 1.0). These are onnxruntime's, and the log warns if they are used.
_FUNCTIONS: dict[str, tuple[str, tuple[float, ...]]] = {
    "Relu": ("relu", ()),
    "Tanh": ("tanh", ()),
    "Sigmoid": ("sigmoid", ()),
    "Softsign": ("softsign", ()),
    "Softplus": ("softplus", ()),
    "LeakyRelu": ("leaky_relu", (0.01,)),
    "HardSigmoid": ("hard_sigmoid", (0.2, 0.5)),
    "Elu": ("elu", (1.0,)),
    "Affine": ("affine", (0.0, 0.0)),
    "ScaledTanh": ("scaled_tanh", (0.0, 0.0)),
    "ThresholdedRelu": ("thresholded_relu", (0.0,)),
}
NAMES = tuple(_FUNCTIONS)
_WITHOUT_DEFAULTS = ("Affine", "ScaledTanh", "ThresholdedRelu")
_BY_LOWER_CASE = {name.lower(): name for name in _FUNCTIONS}
_THEIRS = {ours: theirs for theirs, (ours, _) in _FUNCTIONS.items()}
# ONNX has no linear function, but this is one, as adding -0.0 changes no bits. No other function becomes this, as
# LSTMWeights turns a parameter of -0.0 into 0.0.
_LINEAR = ("Affine", (1.0, -0.0))


def is_known(name: str) -> bool:
    """Whether ONNX has a function of this name, in any case."""
    return name.lower() in _BY_LOWER_CASE


def from_names(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> list[Function]:
    """Return our functions for known names and their lists of parameters."""
    lists = [list(alphas), list(betas)]
    return [_from_name(_BY_LOWER_CASE[name.lower()], lists) for name in names]


def _from_name(name: str, lists: list[list[float]]) -> Function:
    ours, defaults = _FUNCTIONS[name]
    given = [values.pop(0) if values else None for values, _ in zip(lists, defaults, strict=False)]
    if None in given and name in _WITHOUT_DEFAULTS:
        log.warning("the LSTM lacks parameters of %s, for which ONNX has no default: using 0, as in onnxruntime", name)
    parameters = tuple(default if one is None else one for one, default in zip(given, defaults, strict=True))
    if (name, tuple(map(repr, parameters))) == (_LINEAR[0], tuple(map(repr, _LINEAR[1]))):
        return "linear"
    return (ours, *parameters) if parameters else ours


def to_names(functions: Sequence[Function]) -> tuple[list[str], list[float], list[float]]:
    """Return ONNX's names of our functions, their alphas and their betas."""
    names: list[str] = []
    lists: tuple[list[float], list[float]] = ([], [])
    for function in functions:
        name, parameters = _to_name(function)
        names.append(name)
        for values, parameter in zip(lists, parameters, strict=False):
            values.append(parameter)
    return names, *lists


def _to_name(function: Function) -> tuple[str, tuple[float, ...]]:
    from fusedlstm.functions import split

    if function == "linear":
        return _LINEAR
    ours, parameters = split(function)
    return _THEIRS[ours], parameters


def exact(value: float, dtype: np.dtype[Any]) -> float:
    """Return the number that a float32 attribute means for a cell of this dtype.

    For a cell of up to 32 bits, it is the shortest decimal with the same float32, such as 0.2. For float64, it is the
    stored number.
    """
    stored = np.float32(value)
    return float(stored) if dtype == np.float64 else float(str(stored))
