"""Formulas and layouts from source code or documentation, for parts that no recorded outputs cover.

Each function raises AssertionError unless weights imported from such arrays compute the formula. FORMULAS pairs each
with its system.
"""

from functools import partial

import numpy as np

from fusedlstm import LSTMCell, LSTMState, convert

I, N, P = 3, 4, 2


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def assert_steps_like(weights, step, steps=4):
    """Assert that our steps agree with a function (x, h, c) -> (h, c), in float64."""
    cell = LSTMCell(weights, backend="numpy")
    state = LSTMState(h=numbers(5, weights.output_size, seed=1), c=numbers(5, N, seed=2))
    h, c = state.h, state.c
    for t in range(steps):
        x = numbers(5, I, seed=3 + t)
        state, (h, c) = cell(x, state), step(x, h, c)
        np.testing.assert_allclose(state.h, h, rtol=0, atol=1e-12)
        np.testing.assert_allclose(state.c, c, rtol=0, atol=1e-12)


def haste_parameters():
    return {"kernel": numbers(I, 4 * N), "recurrent_kernel": numbers(N, 4 * N), "bias": numbers(4 * N)}


def haste(zoneout):
    """Compute the loop of haste's kernel, with gate blocks i, g, f, o. Zoneout moves h alone, a part of the way."""
    p = haste_parameters()

    def step(x, h, c):
        i, g, f, o = np.split(x @ p["kernel"] + h @ p["recurrent_kernel"] + p["bias"], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return h + (1 - zoneout) * (sigmoid(o) * np.tanh(c) - h), c

    assert_steps_like(convert.from_haste(p, zoneout=zoneout), step)
    named = {f"net.lstm.{name}": a for name, a in p.items()}
    assert_steps_like(convert.from_haste(named, "net.lstm", zoneout=zoneout), step)


def cudnn_arrays(width=I, proj_size=None):
    P = proj_size or N
    weights = [*numbers(4, N, width), *numbers(4, N, P)] + ([numbers(P, N)] if proj_size else [])
    return weights, list(numbers(8, N))


def cudnn(proj_size, bias):
    """Compute NVIDIA's formula, with W, R, bW and bR of each linear layer."""
    w, b = cudnn_arrays(proj_size=proj_size)
    b = b if bias else [np.zeros(N)] * 8

    def step(x, h, c):
        i, f, g, o = (x @ w[k].T + h @ w[k + 4].T + b[k] + b[k + 4] for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return (h if proj_size is None else h @ w[8].T), c

    (weights,) = convert.from_cudnn(w, b if bias else None, num_layers=1).layers
    assert (weights.bias is not None) == bias
    assert_steps_like(weights, step)


def onednn(peephole, projection):
    """Compute oneDNN's formula with tensors (L, D, in, gates, N), gates i, f, c~, o."""
    size = P if projection else N
    wx, wh, b = numbers(1, 1, I, 4, N), numbers(1, 1, size, 4, N), numbers(1, 1, 4, N)
    p = numbers(1, 1, 3, N) if peephole else None
    w = numbers(1, 1, N, P) if projection else None
    pi, pf, po = np.zeros((3, N)) if p is None else p[0, 0]

    def step(x, h, c):
        z = np.einsum("bi,ign->gbn", x, wx[0, 0]) + np.einsum("bp,pgn->gbn", h, wh[0, 0]) + b[0, 0][:, None]
        c_new = sigmoid(z[1] + pf * c) * c + sigmoid(z[0] + pi * c) * np.tanh(z[2])
        h = sigmoid(z[3] + po * c_new) * np.tanh(c_new)
        return (h if w is None else h @ w[0, 0]), c_new

    (weights,) = convert.from_onednn(wx, wh, b, p, w).layers
    assert_steps_like(weights, step)


def coreml_parameters(end=""):
    shapes = {"weight_ih": (4 * N, I), "weight_hh": (4 * N, N), "bias": (4 * N,), "peephole": (3 * N,)}
    return {name + end: numbers(*shape, seed=len(end)) for name, shape in shapes.items()}


def coreml(**functions):
    """Compute the formula in Core ML's documentation: rows i, f, o, z, and peepholes i, f, o."""
    p = coreml_parameters()
    pi, pf, po = p["peephole"].reshape(3, N)
    gate, cell = (lambda z: z / (1 + abs(z)), lambda z: np.maximum(z, 0)) if functions else (sigmoid, np.tanh)

    def step(x, h, c):
        i, f, o, z = np.split(x @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias"], 4, axis=1)
        c_new = gate(f + pf * c) * c + gate(i + pi * c) * cell(z)
        return gate(o + po * c_new) * np.tanh(c_new), c_new

    assert_steps_like(convert.from_coreml(p | {"direction": "reverse", "clip": None}, **functions), step)


def sonnet1_projection():
    """Compute Sonnet 1.36's source: h is multiplied by w_h_projection (N, P) after everything else."""
    w, b, w_h = numbers(I + P, 4 * N), numbers(4 * N), numbers(N, P)

    def step(x, h, c):
        i, g, f, o = np.split(np.concatenate([x, h], axis=1) @ w + b, 4, axis=1)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
        return (sigmoid(o) * np.tanh(c)) @ w_h, c

    variables = {"lstm/w_gates": w, "lstm/b_gates": b, "lstm/w_h_projection": w_h}
    assert_steps_like(convert.from_sonnet1(variables), step)


def mxnet_projection():
    """Compute MXNet 1.9's source: h2r_weight (P, N) projects h to P, and h2h_weight multiplies that."""
    p = {"i2h_weight": numbers(4 * N, I), "h2h_weight": numbers(4 * N, P), "h2r_weight": numbers(P, N)}
    p |= {f"{side}_bias": numbers(4 * N, seed=k) for k, side in enumerate(("i2h", "h2h"))}

    def step(x, h, c):
        z = x @ p["i2h_weight"].T + p["i2h_bias"] + h @ p["h2h_weight"].T + p["h2h_bias"]
        i, f, g, o = np.split(z, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return (sigmoid(o) * np.tanh(c)) @ p["h2r_weight"].T, c

    assert_steps_like(convert.from_mxnet({f"lstm0_{name}": array for name, array in p.items()}, "lstm0_"), step)


FORMULAS = [
    *(("haste", partial(haste, zoneout)) for zoneout in (0, 0.3, 1)),
    *(("cudnn", partial(cudnn, size, bias)) for size in (None, P) for bias in (True, False)),
    *(("onednn", partial(onednn, p, w)) for p in (False, True) for w in (False, True)),
    ("coreml", coreml),
    ("coreml", partial(coreml, recurrent_activation="softsign", cell_activation="relu")),
    ("sonnet1", sonnet1_projection),
    ("mxnet", mxnet_projection),
]
