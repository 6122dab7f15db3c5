"""The derivative of `formula`, line by line: the reference for tests of the fast backward pass.

`step` computes in float64, whatever the dtype of its arguments, and is written to be read. z are the pre-activations
without peepholes, and d_v is the gradient of a loss with respect to v. From the end of a step to its start:

    d_p    = d_h' where the clip passes it                      p = m @ weight_hr.T, before the clip
    d_m    = d_p @ weight_hr
    d_o    = d_m * output_activation(c')
    d_z_o  = d_o * gate_activation'(z_o + p_o * c')
    d_c'  += d_m * o * output_activation'(c') + p_o * d_z_o
    d_s    = d_c' where the clip passes it                      s = f * c + i * g, before the clip
    d_i, d_f, d_g  = d_s * g, d_s * c, d_s * i
    d_f   -= d_i  or  d_i -= d_f                                coupled_gate "input" or "forget"
    d_z_i  = d_i * gate_activation'(z_i + p_i * c)              f likewise
    d_z_g  = d_g * activation'(z_g)
    d_c    = d_s * f + p_i * d_z_i + p_f * d_z_f
    d_h, d_x  = d_z @ weight_hh, d_z @ weight_ih

The gradients of the weights are d_z.T @ x, d_z.T @ h, the sums of d_z, d_z_i * c, d_z_f * c and d_z_o * c' over the
batch, and d_p.T @ m.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.backends.numpy.derivatives import derivative, inside
from fusedlstm.backends.numpy.formula import apply, clip, reset
from fusedlstm.gradients import CellGradients, WeightGradients
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.weights import LSTMWeights


@dataclass(frozen=True)
class Units:
    """A step from its pre-activations z to m, unit by unit, in the names of the formula. All arrays are (B, N).

    Attributes:
        a_i: z_i with its peephole, before the clip of gates. Likewise a_f, a_g and a_o.
        s: the new c before its clip.
    """

    c: NumpyArray
    a_i: NumpyArray
    a_f: NumpyArray
    a_g: NumpyArray
    a_o: NumpyArray
    i: NumpyArray
    f: NumpyArray
    g: NumpyArray
    o: NumpyArray
    s: NumpyArray
    c_new: NumpyArray
    m: NumpyArray


def units(weights: LSTMWeights, z: Sequence[NumpyArray], c: NumpyArray) -> Units:
    """Return the step from z_i, z_f, z_g, z_o and the old c, in their dtype."""
    p_i, p_f, p_o = (None, None, None) if weights.peephole is None else weights.peephole
    limit = weights.gate_clip
    a_i, a_f, a_g = with_peephole(z[0], p_i, c), with_peephole(z[1], p_f, c), z[2]
    i, f = (apply(weights.gate_activation, clip(a, limit)) for a in (a_i, a_f))
    if weights.coupled_gate == "input":
        i = 1 - f
    if weights.coupled_gate == "forget":
        f = 1 - i
    g = apply(weights.activation, clip(a_g, limit))
    s = f * c + i * g
    c_new = clip(s, weights.cell_clip)
    a_o = with_peephole(z[3], p_o, c_new)
    o = apply(weights.gate_activation, clip(a_o, limit))
    m = o * apply(weights.output_activation or weights.activation, c_new)
    return Units(c, a_i, a_f, a_g, a_o, i, f, g, o, s, c_new, m)


def with_peephole(z: NumpyArray, p: NumpyArray | None, c: NumpyArray) -> NumpyArray:
    """Return z + p * c; p is None without peepholes."""
    return z if p is None else z + p * c


def units_vjp(
    weights: LSTMWeights, u: Units, d_m: NumpyArray, d_c_new: NumpyArray
) -> tuple[tuple[NumpyArray, ...], NumpyArray]:
    """Return the gradients of z_i, z_f, z_g and z_o, and that of the old c, from those of m and of the new c."""
    output = weights.output_activation or weights.activation
    d_o = d_m * apply(output, u.c_new)
    d_z_o = d_o * _gate_derivative(weights, u.a_o)
    d_c_new = d_c_new + d_m * u.o * derivative(output, u.c_new)
    if weights.peephole is not None:
        d_c_new = d_c_new + weights.peephole[2] * d_z_o

    d_s = np.where(inside(u.s, weights.cell_clip), d_c_new, 0)
    d_i, d_f, d_g = d_s * u.g, d_s * u.c, d_s * u.i
    if weights.coupled_gate == "input":  # i = 1 - f
        d_i, d_f = np.zeros_like(d_i), d_f - d_i
    if weights.coupled_gate == "forget":  # f = 1 - i
        d_i, d_f = d_i - d_f, np.zeros_like(d_f)
    d_z_i = d_i * _gate_derivative(weights, u.a_i)
    d_z_f = d_f * _gate_derivative(weights, u.a_f)
    d_z_g = d_g * np.where(inside(u.a_g, weights.gate_clip), derivative(weights.activation, u.a_g), 0)
    d_c = d_s * u.f
    if weights.peephole is not None:
        d_c = d_c + weights.peephole[0] * d_z_i + weights.peephole[1] * d_z_f
    return (d_z_i, d_z_f, d_z_g, d_z_o), d_c


def _gate_derivative(weights: LSTMWeights, a: NumpyArray) -> NumpyArray:
    """Return the derivative of gate_activation(clip(a, -gate_clip, gate_clip))."""
    return np.where(inside(a, weights.gate_clip), derivative(weights.gate_activation, a), 0)


@np.errstate(all="ignore")  # exp overflows where a sigmoid saturates
def step(
    weights: LSTMWeights,
    x: NumpyArray,
    h: NumpyArray,
    c: NumpyArray,
    d_h_new: NumpyArray,
    d_c_new: NumpyArray,
    is_first: Sequence[bool] | NumpyArray | None = None,
    reset_h: NumpyArray | None = None,
    reset_c: NumpyArray | None = None,
) -> CellGradients:
    """Return the gradients of a step in float64.

    Args:
        weights: the weights of the cell, without zoneout.
        x: (B, I).
        h: (B, P).
        c: (B, N).
        d_h_new: (B, P), the gradient of h'.
        d_c_new: (B, N), the gradient of c'.
        is_first: (B,) booleans: rows whose h and c are reset before the step.
        reset_h: the h of those rows, (1, P) or (B, P); None for zeros.
        reset_c: the c of those rows, (1, N) or (B, N); None for zeros.
    """
    weights = weights.astype("float64")
    x, h, c, d_h_new, d_c_new = (a.astype(np.float64) for a in (x, h, c, d_h_new, d_c_new))
    first = np.zeros(len(x), bool) if is_first is None else np.asarray(is_first, bool)
    h, c = reset(h, first, reset_h), reset(c, first, reset_c)

    z = x @ weights.weight_ih.T + h @ weights.weight_hh.T + (0 if weights.bias is None else weights.bias)
    u = units(weights, np.split(z, 4, axis=1), c)
    if weights.weight_hr is None:
        d_p, d_m = None, d_h_new
    else:
        d_p = np.where(inside(u.m @ weights.weight_hr.T, weights.proj_clip), d_h_new, 0)
        d_m = d_p @ weights.weight_hr
    (d_z_i, d_z_f, d_z_g, d_z_o), d_c = units_vjp(weights, u, d_m, d_c_new)
    d_z = np.concatenate([d_z_i, d_z_f, d_z_g, d_z_o], axis=1)
    d_h = d_z @ weights.weight_hh

    of_peepholes = (d_z_i * c, d_z_f * c, d_z_o * u.c_new)
    of_weights = WeightGradients(
        weight_ih=d_z.T @ x,
        weight_hh=d_z.T @ h,
        bias=None if weights.bias is None else d_z.sum(axis=0),
        peephole=None if weights.peephole is None else np.stack([each.sum(axis=0) for each in of_peepholes]),
        weight_hr=None if d_p is None else d_p.T @ u.m,
    )
    of_reset = None
    if reset_h is not None and reset_c is not None:
        of_reset = LSTMState(h=_of_value(d_h, first, reset_h), c=_of_value(d_c, first, reset_c))
    of_state = LSTMState(h=reset(d_h, first, None), c=reset(d_c, first, None))
    return CellGradients(d_z @ weights.weight_ih, of_state, of_reset, of_weights)


def _of_value(d: NumpyArray, first: NumpyArray, value: NumpyArray) -> NumpyArray:
    """Return the gradient of the value that marked rows were reset to: those rows, or their sum for one row."""
    marked = np.where(first[:, None], d, 0)
    return marked if len(value) == len(first) != 1 else marked.sum(axis=0, keepdims=True)
