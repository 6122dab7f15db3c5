"""The formula of `fusedlstm.weights`, line by line: the reference that tests and selftest compare every engine with.

It computes in float64, whatever the dtype of its arguments, and is written to be read. Engines run `fast_pointwise`
instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.functions import split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.functions import Function
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.weights import LSTMWeights

# By their names in `fusedlstm.functions`. Comparisons are written so that NaN stays NaN.
_FUNCTIONS: dict[str, Callable[..., NumpyArray]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "elu": lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x)),
    "linear": lambda x: x,
    "softplus": lambda x: np.logaddexp(0, x),
    "affine": lambda x, alpha, beta: alpha * x + beta,
    "leaky_relu": lambda x, alpha: np.where(x >= 0, x, alpha * x),
    "thresholded_relu": lambda x, alpha: np.where(x <= alpha, 0, x),
    "scaled_tanh": lambda x, alpha, beta: alpha * np.tanh(beta * x),
    "hard_sigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
}


@np.errstate(all="ignore")  # exp overflows where a sigmoid saturates
def step(
    weights: LSTMWeights,
    x: NumpyArray,
    h: NumpyArray,
    c: NumpyArray,
    is_first: Sequence[bool] | NumpyArray | None = None,
    reset_h: NumpyArray | None = None,
    reset_c: NumpyArray | None = None,
) -> tuple[NumpyArray, NumpyArray]:
    """Return h' (B, P) and c' (B, N) in float64.

    Args:
        weights: the weights of the cell. A forget bias is part of their bias.
        x: (B, I).
        h: (B, P).
        c: (B, N).
        is_first: (B,) booleans: rows whose h and c are reset before the step.
        reset_h: the h of those rows, (1, P) or (B, P); None for zeros.
        reset_c: the c of those rows, (1, N) or (B, N); None for zeros.
    """
    weights = weights.astype("float64")
    x, h, c = (a.astype(np.float64) for a in (x, h, c))
    if is_first is not None:
        h, c = reset(h, is_first, reset_h), reset(c, is_first, reset_c)
    bias = 0 if weights.bias is None else weights.bias
    p_i, p_f, p_o = (None, None, None) if weights.peephole is None else weights.peephole

    z = x @ weights.weight_ih.T + h @ weights.weight_hh.T + bias
    z_i, z_f, z_g, z_o = np.split(z, 4, axis=1)
    i = gate(weights, z_i, p_i, c)
    f = gate(weights, z_f, p_f, c)
    if weights.coupled_gate == "input":
        i = 1 - f
    if weights.coupled_gate == "forget":
        f = 1 - i
    g = apply(weights.activation, clip(z_g, weights.gate_clip))
    c_new = clip(f * c + i * g, weights.cell_clip)
    o = gate(weights, z_o, p_o, c_new)
    m = o * apply(weights.output_activation or weights.activation, c_new)
    h_new = m if weights.weight_hr is None else clip(m @ weights.weight_hr.T, weights.proj_clip)
    return keep(weights.zoneout_h, h, h_new), keep(weights.zoneout_c, c, c_new)


def gate(weights: LSTMWeights, z: NumpyArray, p: NumpyArray | None, c: NumpyArray) -> NumpyArray:
    """Return gate_activation(clip(z + p * c, -gate_clip, gate_clip)); p is None without peepholes."""
    if p is not None:
        z = z + p * c
    return apply(weights.gate_activation, clip(z, weights.gate_clip))


def step_layers(
    weights: StackedWeights,
    x: NumpyArray,
    states: Sequence[tuple[NumpyArray, NumpyArray]],
    is_first: Sequence[bool] | NumpyArray | None = None,
) -> tuple[NumpyArray, list[tuple[NumpyArray, NumpyArray]]]:
    """Return the output of layers of one direction, and each layer's h' and c'. Rows are reset to zeros.

    A residual layer's output is h' + x. Its state stays h'.
    """
    new = []
    for layer, residual, (h, c) in zip(weights.layers, weights.residual, states, strict=True):
        h_new, c_new = step(layer, x, h, c, is_first)
        new.append((h_new, c_new))
        x = h_new + x if residual else h_new
    return x, new


def apply(function: Function, x: NumpyArray) -> NumpyArray:
    """Apply a function of `fusedlstm.functions` to x."""
    name, parameters = split(function)
    return _FUNCTIONS[name](x, *parameters)


def clip(a: NumpyArray, limit: float | None) -> NumpyArray:
    """Return `a` clipped to +-limit. None is no limit; NaN stays NaN."""
    return a if limit is None else np.clip(a, -limit, limit)


def keep(part: float, old: NumpyArray, new: NumpyArray) -> NumpyArray:
    """Return the new state with a part of the old one kept, as zoneout does."""
    return part * old + (1 - part) * new if part else new


def reset(a: NumpyArray, is_first: Sequence[bool] | NumpyArray, value: NumpyArray | None) -> NumpyArray:
    """Return `a` with the marked rows replaced by zeros or by `value`. This selects, so an old NaN is gone."""
    return np.where(np.asarray(is_first, bool)[:, None], 0 if value is None else value, a)
