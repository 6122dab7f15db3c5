"""The functions of `fusedlstm.functions` in NumPy, and a clip, without allocating memory.

Each function is `out <- function(z)`. `out` may be `z`; `free` is scratch of the same shape. NaN stays NaN.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fusedlstm.functions import split

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.functions import Function

    InPlace: TypeAlias = Callable[[NumpyArray, NumpyArray, NumpyArray], None]


def in_place(function: Function, dtype: np.dtype[Any]) -> InPlace:
    """Return the in-place form of a checked function, for arrays of this dtype."""
    name, parameters = split(function)
    named = {letter: np.asarray(value, dtype) for letter, value in zip(("alpha", "beta"), parameters, strict=False)}
    if function in _FUNCTIONS:
        return _FUNCTIONS[name]  # without parameters, or with default ones
    return functools.partial(_FUNCTIONS[name], **named)


def tanh(z: NumpyArray, out: NumpyArray, free: NumpyArray) -> None:
    """out <- tanh(z)."""
    del free
    np.tanh(z, out)


def relu(z: NumpyArray, out: NumpyArray, free: NumpyArray) -> None:
    """out <- max(z, 0)."""
    del free
    np.maximum(z, 0, out=out)


def sigmoid(z: NumpyArray, out: NumpyArray, free: NumpyArray) -> None:
    """out <- 1 / (1 + exp(-z))."""
    del free
    np.negative(z, out=out)
    np.exp(out, out=out)
    np.add(out, 1, out=out)
    np.reciprocal(out, out=out)


def softsign(z: NumpyArray, out: NumpyArray, free: NumpyArray) -> None:
    """out <- z / (1 + |z|). For an infinity it is NaN, as in TensorFlow."""
    np.abs(z, out=free)
    np.add(free, 1, out=free)
    np.divide(z, free, out=out)


def elu(z: NumpyArray, out: NumpyArray, free: NumpyArray, alpha: NumpyArray | None = None) -> None:
    """out <- z where z > 0, else alpha (exp(z) - 1). None means alpha = 1."""
    np.minimum(z, 0, out=free)
    np.expm1(free, out=free)
    if alpha is not None:
        np.multiply(free, alpha, out=free)
    np.maximum(z, 0, out=out)
    np.add(out, free, out=out)


def linear(z: NumpyArray, out: NumpyArray, free: NumpyArray) -> None:
    """out <- z."""
    del free
    if out is not z:
        out[...] = z


def softplus(z: NumpyArray, out: NumpyArray, free: NumpyArray) -> None:
    """out <- log(1 + exp(z)), computed from exp(-|z|), which can't overflow."""
    np.abs(z, out=free)
    np.negative(free, out=free)
    np.exp(free, out=free)
    np.log1p(free, out=free)
    np.maximum(z, 0, out=out)
    np.add(out, free, out=out)


def affine(z: NumpyArray, out: NumpyArray, free: NumpyArray, alpha: NumpyArray, beta: NumpyArray) -> None:
    """out <- alpha z + beta."""
    del free
    np.multiply(z, alpha, out=out)
    np.add(out, beta, out=out)


def leaky_relu(z: NumpyArray, out: NumpyArray, free: NumpyArray, alpha: NumpyArray) -> None:
    """out <- z where z >= 0, else alpha z."""
    negative = np.less(z, 0, out=_flags(free))
    linear(z, out, free)
    np.multiply(out, alpha, out=out, where=negative)


def thresholded_relu(z: NumpyArray, out: NumpyArray, free: NumpyArray, alpha: NumpyArray) -> None:
    """out <- z where z > alpha, else 0."""
    at_most = np.less_equal(z, alpha, out=_flags(free))
    linear(z, out, free)
    np.copyto(out, 0, where=at_most)


def scaled_tanh(z: NumpyArray, out: NumpyArray, free: NumpyArray, alpha: NumpyArray, beta: NumpyArray) -> None:
    """out <- alpha tanh(beta z)."""
    del free
    np.multiply(z, beta, out=out)
    np.tanh(out, out=out)
    np.multiply(out, alpha, out=out)


def hard_sigmoid(z: NumpyArray, out: NumpyArray, free: NumpyArray, alpha: NumpyArray, beta: NumpyArray) -> None:
    """out <- alpha z + beta, clipped to [0, 1]."""
    affine(z, out, free, alpha, beta)
    np.minimum(out, 1, out=out)
    np.maximum(out, 0, out=out)


def clip(a: NumpyArray, limit: float) -> None:
    """a <- a clipped to +-limit, in place."""
    np.minimum(a, limit, out=a)
    np.maximum(a, -limit, out=a)


def _flags(free: NumpyArray) -> NumpyArray:
    """Return an array of booleans of the same shape in the memory of `free`."""
    return free.view(np.bool_)[..., : free.shape[-1]]


_FUNCTIONS: dict[str, Callable[..., None]] = {
    "tanh": tanh,
    "relu": relu,
    "sigmoid": sigmoid,
    "softsign": softsign,
    "elu": elu,
    "linear": linear,
    "softplus": softplus,
    "affine": affine,
    "leaky_relu": leaky_relu,
    "thresholded_relu": thresholded_relu,
    "scaled_tanh": scaled_tanh,
    "hard_sigmoid": hard_sigmoid,
}
