"""The derivatives of the functions of `fusedlstm.functions`, and of a clip, written to be read.

Where a function has a corner, the derivative is TensorFlow's. A clip passes the gradient at its limits, but not beyond
them, as `tf.clip_by_value` does. The derivative of relu at 0 is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.functions import split

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.functions import Function

# By their names in `fusedlstm.functions`.
_DERIVATIVES: dict[str, Callable[..., NumpyArray]] = {
    "tanh": lambda x: 1 - np.tanh(x) ** 2,
    "relu": lambda x: np.where(x > 0, _ones(x), 0),
    "sigmoid": lambda x: _sigmoid(x) * (1 - _sigmoid(x)),
    "softsign": lambda x: 1 / (1 + np.abs(x)) ** 2,
    "elu": lambda x, alpha: np.where(x > 0, _ones(x), alpha * np.exp(np.minimum(x, 0))),
    "linear": np.ones_like,
    "softplus": lambda x: 1 / (1 + np.exp(-x)),
    "affine": lambda x, alpha, beta: alpha * _ones(x),  # noqa: ARG005
    "leaky_relu": lambda x, alpha: np.where(x > 0, _ones(x), alpha),
    "thresholded_relu": lambda x, alpha: np.where(x > alpha, _ones(x), 0),
    "scaled_tanh": lambda x, alpha, beta: alpha * beta * (1 - np.tanh(beta * x) ** 2),
    "hard_sigmoid": lambda x, alpha, beta: np.where(_is_within(alpha * x + beta, 0, 1), alpha * _ones(x), 0),
}


def derivative(function: Function, x: NumpyArray) -> NumpyArray:
    """Return the derivative of a function of `fusedlstm.functions` at x, in the dtype of x."""
    name, parameters = split(function)
    return _DERIVATIVES[name](x, *parameters)


def inside(a: NumpyArray, limit: float | None) -> NumpyArray | bool:
    """Return where a clip of `a` to +-limit passes the gradient: up to the limit itself. None is no limit."""
    return True if limit is None else _is_within(a, -limit, limit)


def _is_within(a: NumpyArray, low: float, high: float) -> NumpyArray:
    within: NumpyArray = (a >= low) & (a <= high)
    return within


def _ones(x: NumpyArray) -> NumpyArray:
    return np.ones_like(x)


def _sigmoid(x: NumpyArray) -> NumpyArray:
    sigmoid: NumpyArray = 1 / (1 + np.exp(-x))
    return sigmoid
