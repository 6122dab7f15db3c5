"""Plain NumPy, as a user would write the formula: one matrix product of [x | h], and sigmoids by exp."""

import functools

import numpy as np

from benchmarks.cases import Result
from benchmarks.peers.peer import Peer


def prepared(weights):
    """Return each layer's weight (I + P, 4N), bias (4N,), and projection (N, P) or None."""
    return [
        (
            np.ascontiguousarray(np.concatenate([layer.weight_ih, layer.weight_hh], axis=1).T),
            layer.bias,
            None if layer.weight_hr is None else np.ascontiguousarray(layer.weight_hr.T),
        )
        for layer in weights.layers
    ]


def step(xp, layers, x, hs, cs, is_first):
    """Step all layers, in NumPy or CuPy, and return the new hs and cs, as lists."""
    new_hs, new_cs = [], []
    for (weight, bias, projection), h, c in zip(layers, hs, cs, strict=True):
        if is_first is not None:
            h, c = xp.where(is_first[:, None], 0, h), xp.where(is_first[:, None], 0, c)
        z = xp.concatenate([x, h], axis=1) @ weight + bias
        i, f, g, o = xp.split(z, 4, axis=1)
        c = sigmoid(xp, f) * c + sigmoid(xp, i) * xp.tanh(g)
        x = sigmoid(xp, o) * xp.tanh(c)
        if projection is not None:
            x = x @ projection
        new_hs.append(x)
        new_cs.append(c)
    return new_hs, new_cs


def sigmoid(xp, z):
    return 1 / (1 + xp.exp(-z))


def steps(xp, layers, xs, hs, cs, is_first):
    """Run a sequence, and return the last hs and cs, and the outputs (T, B, P)."""
    outputs = xp.empty((len(xs), *hs[-1].shape), hs[-1].dtype)
    for t, x in enumerate(xs):
        hs, cs = step(xp, layers, x, hs, cs, None if is_first is None else is_first[t])
        outputs[t] = hs[-1]
    return hs, cs, outputs


class Numpy(Peer):
    """NumPy on the CPU."""

    name = "NumPy"
    package = module = "numpy"
    kinds = ("step", "sequence")
    devices = ("cpu",)
    dtypes = ("float64", "float32")

    def prepare(self, case, device, threads):
        del device, threads  # set by OPENBLAS_NUM_THREADS
        layers, data = prepared(case.weights), case.data
        if case.kind == "sequence":
            return functools.partial(steps, np, layers, data.xs, data.h, data.c, data.is_first)
        is_first = None if data.is_first is None else data.is_first[0]
        return functools.partial(step, np, layers, data.xs[0], data.h, data.c, is_first)

    def results(self, raw):
        hs, cs, *outputs = raw
        return Result(np.stack(hs), np.stack(cs), *outputs)


PEERS = [Numpy()]
