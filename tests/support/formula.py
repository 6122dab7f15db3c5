"""The formula once more, element by element in Python's floats: nothing shared with the package."""

import math

import numpy as np


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


FUNCTIONS = {
    "tanh": math.tanh,
    "relu": lambda x: max(x, 0.0),
    "sigmoid": sigmoid,
    "softsign": lambda x: x / (1 + abs(x)),
    "elu": lambda x, alpha=1.0: x if x > 0 else alpha * math.expm1(x),
    "linear": lambda x: x,
    "softplus": lambda x: x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x)),
    "affine": lambda x, alpha, beta: alpha * x + beta,
    "leaky_relu": lambda x, alpha: x if x >= 0 else alpha * x,
    "thresholded_relu": lambda x, alpha: x if x > alpha else 0.0,
    "scaled_tanh": lambda x, alpha, beta: alpha * math.tanh(beta * x),
    "hard_sigmoid": lambda x, alpha, beta: max(0.0, min(1.0, alpha * x + beta)),
}


def apply(function, x):
    """A function of `fusedlstm.functions`, of a float."""
    name, *parameters = (function,) if isinstance(function, str) else function
    return FUNCTIONS[name](x, *parameters)


def clip(x, limit):
    return x if limit is None else min(max(x, -limit), limit)


def step(weights, x, h, c, is_first=None, reset_h=None, reset_c=None):
    """The next (h, c) in float64, from NumPy arrays."""
    B, N, P = len(x), weights.hidden_size, weights.output_size
    output_activation = weights.activation if weights.output_activation is None else weights.output_activation
    bias = np.zeros(4 * N) if weights.bias is None else weights.bias
    p_i, p_f, p_o = np.zeros((3, N)) if weights.peephole is None else weights.peephole
    new_h, new_c = np.empty((B, P)), np.empty((B, N))
    for b in range(B):
        old_h, old_c = h[b].astype(float), c[b].astype(float)
        if is_first is not None and is_first[b]:
            old_h = np.zeros(P) if reset_h is None else reset_h[b if len(reset_h) == B else 0].astype(float)
            old_c = np.zeros(N) if reset_c is None else reset_c[b if len(reset_c) == B else 0].astype(float)
        m = np.empty(N)
        for n in range(N):
            z = {}
            for gate, name in enumerate("ifgo"):
                row = gate * N + n
                z[name] = (
                    math.fsum(float(w) * float(v) for w, v in zip(weights.weight_ih[row], x[b], strict=True))
                    + math.fsum(float(w) * float(v) for w, v in zip(weights.weight_hh[row], old_h, strict=True))
                    + float(bias[row])
                )

            def gate(name, peephole, c, z=z):
                return apply(weights.gate_activation, clip(z[name] + peephole * c, weights.gate_clip))

            i, f = gate("i", p_i[n], old_c[n]), gate("f", p_f[n], old_c[n])
            if weights.coupled_gate == "input":
                i = 1 - f
            elif weights.coupled_gate == "forget":
                f = 1 - i
            g = apply(weights.activation, clip(z["g"], weights.gate_clip))
            new_c[b, n] = clip(f * old_c[n] + i * g, weights.cell_clip)
            m[n] = gate("o", p_o[n], new_c[b, n]) * apply(output_activation, new_c[b, n])
        if weights.weight_hr is None:
            new_h[b] = m
        else:
            new_h[b] = [
                clip(math.fsum(float(w) * v for w, v in zip(row, m, strict=True)), weights.proj_clip)
                for row in weights.weight_hr
            ]
    return new_h, new_c
