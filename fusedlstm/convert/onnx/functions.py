"""The names of functions in ONNX' LSTM and in LSTMWeights, and their parameters, which ONNX keeps in lists apart.

Measured with onnxruntime 1.32: names are of any case; each function that has an alpha takes the next of
activation_alpha, and each that has a beta the next of activation_beta; those for which none is left have defaults.
Numbers in excess are not looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.functions import Function

# ONNX' names -> ours, and the defaults of their parameters. The last three have none in ONNX' text for this operator
# (ThresholdedRelu as an operator has 1.0): these are onnxruntime's, of which the log warns.
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
# ONNX has no linear function. Adding -0.0 leaves the bits of every number, so that this is one, and no other is
# written so: LSTMWeights has 0.0 for a parameter of -0.0.
_LINEAR = ("Affine", (1.0, -0.0))


def is_known(name: str) -> bool:
    """Whether ONNX has a function of this name, in any case."""
    return name.lower() in _BY_LOWER_CASE


def from_names(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> list[Function]:
    """Return our functions of names that are known, and of their lists of parameters."""
    lists = [list(alphas), list(betas)]
    return [_from_name(_BY_LOWER_CASE[name.lower()], lists) for name in names]


def _from_name(name: str, lists: list[list[float]]) -> Function:
    ours, defaults = _FUNCTIONS[name]
    given = [values.pop(0) if values else None for values, _ in zip(lists, defaults, strict=False)]
    if None in given and name in _WITHOUT_DEFAULTS:
        log.warning("the LSTM lacks parameters of %s, for which ONNX has no default: 0, as in onnxruntime", name)
    parameters = tuple(default if one is None else one for one, default in zip(given, defaults, strict=True))
    if (name, tuple(map(repr, parameters))) == (_LINEAR[0], tuple(map(repr, _LINEAR[1]))):
        return "linear"
    return (ours, *parameters) if parameters else ours


def to_names(functions: Sequence[Function]) -> tuple[list[str], list[float], list[float]]:
    """Return ONNX' names of our functions, their alphas and their betas."""
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
    """Return the number that an attribute means, which is kept in float32, for a cell of this dtype.

    It is 0.2 for a float32 of 0.2, which in a cell of up to 32 bits is the same number; in float64 what was stored.
    """
    stored = np.float32(value)
    return float(stored) if dtype == np.float64 else float(str(stored))
