"""JAX: a step, or a scan over the steps, compiled by jax.jit."""

import functools

import numpy as np

from benchmarks.cases import Result
from benchmarks.peers.peer import Peer


def step(layers, x, states, keep):
    """Step all layers, and return the output and the new (h, c) of each."""
    import jax
    import jax.numpy as jnp

    ended = []
    for (weight, bias, projection), (h, c) in zip(layers, states, strict=True):
        if keep is not None:
            h, c = jnp.where(keep, h, 0), jnp.where(keep, c, 0)
        z = jnp.concatenate([x, h], axis=1) @ weight + bias
        i, f, g, o = jnp.split(z, 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        x = jax.nn.sigmoid(o) * jnp.tanh(c)
        if projection is not None:
            x = x @ projection
        ended.append((x, c))
    return x, ended


def scan(layers, xs, states, keep):
    """Run a sequence, and return the outputs (T, B, P) and the last (h, c) of each layer."""
    import jax

    def body(states, now):
        output, states = step(layers, now[0], states, now[1])
        return states, output

    states, outputs = jax.lax.scan(body, states, (xs, keep))
    return outputs, states


class Jax(Peer):
    """The weights are arguments, as a model's parameters are."""

    name = "JAX jit"
    package = module = "jax"
    kinds = ("step", "sequence")
    dtypes = ("float32", "float16", "bfloat16")

    def why_not(self, device):
        reason = super().why_not(device)
        if reason or device == "cpu":
            return reason
        import jax

        try:
            jax.devices("cuda")
        except RuntimeError:
            return "this JAX finds no GPU"
        return None

    def prepare(self, case, device, threads):
        import jax

        del threads  # set by NPROC
        jax.config.update("jax_default_matmul_precision", "highest")  # no TF32
        place = jax.devices(device)[0]
        put = functools.partial(jax.device_put, device=place)
        layers = [
            tuple(
                None if array is None else put(np.ascontiguousarray(array))
                for array in (
                    np.concatenate([layer.weight_ih, layer.weight_hh], axis=1).T,
                    layer.bias,
                    None if layer.weight_hr is None else layer.weight_hr.T,
                )
            )
            for layer in case.weights.layers
        ]
        data, dtype = case.data, case.weights.dtype
        states = [(put(h), put(c.astype(dtype))) for h, c in zip(data.h, data.c, strict=True)]
        keep = None if data.is_first is None else put(~data.is_first[:, :, None])
        if case.kind == "sequence":
            arguments = jax.jit(scan), layers, put(data.xs), states, keep
        else:
            arguments = jax.jit(step), layers, put(data.xs[0]), states, None if keep is None else keep[0]
        work = functools.partial(*arguments)
        return lambda: jax.block_until_ready(work())

    def results(self, raw):
        outputs, states = raw
        h, c = (np.stack([np.asarray(state[part]) for state in states]) for part in (0, 1))
        return Result(h, c, np.asarray(outputs))


PEERS = [Jax()]
