"""Write outputs of Flax, Haiku and Equinox to jax/. Run make_jax.py with these libraries on a CPU.

It makes the files of layers, and those of cells that the older files lack. The older files were made in the same way,
by Flax 0.12.8, dm-haiku 0.0.17 and Equinox 0.13.8. All numbers are float64 and random, including biases.
"""

import json
from importlib.metadata import version
from pathlib import Path

import equinox as eqx
import haiku as hk
import jax
import numpy as np
from flax import linen, nnx

FOLDER = Path(__file__).parent / "jax"
T, B, I, N = 5, 3, 3, 4
LENGTHS = np.array([5, 2, 4])
jax.config.update("jax_enable_x64", True)


def numbers(rng, *shape):
    return rng.normal(0, 0.8, shape)


def randomised(tree, rng):
    leaves, form = jax.tree.flatten(tree)
    return jax.tree.unflatten(form, [jax.numpy.asarray(numbers(rng, *leaf.shape)) for leaf in leaves])


def flat(tree, start="W_"):
    """Return the arrays of nested mappings, with names joined by dots."""
    arrays = {}
    for key, value in tree.items():
        if hasattr(value, "items"):
            arrays |= flat(value, f"{start}{key}.")
        else:
            arrays[f"{start}{key}"] = np.asarray(value)
    return arrays


def save(name, package, params, **arrays):
    meta = {"system": f"{package} {version(package)}", "dtype": "float64"}
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    np.savez(FOLDER / f"{name}.npz", meta=json.dumps(meta), **flat(params), **arrays)


def save_cell(name, package, params, step, rng):
    """Save steps of step(x, h, c) -> (h, c)."""
    xs, h, c = numbers(rng, T, B, I), rng.uniform(-0.9, 0.9, (B, N)), numbers(rng, B, N)
    states = [(h, c)]
    for x in xs:
        states.append(step(x, *states[-1]))
    hs, cs = (np.stack(part) for part in zip(*states, strict=True))
    save(name, package, params, x=xs, h0=hs[0], c0=cs[0], h_seq=hs[1:], c_seq=cs[1:])


def carries(rng, count):
    """Return a random (c, h) for each cell."""
    return [(numbers(rng, B, N), rng.uniform(-0.9, 0.9, (B, N))) for _ in range(count)]


def save_layers(name, package, params, xs, initial, outputs, finals, **arrays):
    """Save layers or directions with states (c, h), and batch-major x (B, T, I) and y."""
    for k, (before, after) in enumerate(zip(initial, finals, strict=True)):
        arrays |= {f"init{k}_c": before[0], f"init{k}_h": before[1]}
        arrays |= {f"final{k}_c": after[0], f"final{k}_h": after[1]}
    save(name, package, params, x=xs, y=outputs, **arrays)


def flax_linen():
    rng = np.random.default_rng(0)
    module = linen.OptimizedLSTMCell(N, gate_fn=linen.hard_sigmoid, activation_fn=linen.relu)
    zeros = np.zeros((B, N))
    params = randomised(module.init(jax.random.key(0), (zeros, zeros), np.zeros((B, I))), rng)
    save_cell(
        "flax_linen_OptimizedLSTMCell_relu_hard",
        "flax",
        params,
        lambda x, h, c: module.apply(params, (c, h), x)[0][::-1],
        rng,
    )
    for lengths in (None, LENGTHS):
        both = linen.Bidirectional(
            linen.RNN(linen.LSTMCell(N)), linen.RNN(linen.OptimizedLSTMCell(N)), return_carry=True
        )
        xs, initial = numbers(rng, B, T, I), carries(rng, 2)
        options = {"initial_carry": tuple(initial), "seq_lengths": lengths}
        params = randomised(both.init(jax.random.key(0), xs, **options), rng)
        finals, outputs = both.apply(params, xs, **options)
        given = {} if lengths is None else {"lens": lengths}
        name = "flax_linen_Bidirectional" if lengths is None else "flax_linen_Bidirectional_len"
        save_layers(name, "flax", params, xs, initial, outputs, finals, **given)


def flax_nnx():
    rng = np.random.default_rng(1)
    cell = nnx.LSTMCell(I, N, rngs=nnx.Rngs(0))
    nnx.update(cell, randomised(nnx.state(cell, nnx.Param), rng))
    params = nnx.to_pure_dict(nnx.state(cell, nnx.Param))
    save_cell("flax_nnx_LSTMCell", "flax", params, lambda x, h, c: cell((c, h), x)[0][::-1], rng)

    def rnn(kind, width):
        return nnx.RNN(kind(width, N, rngs=nnx.Rngs(0)), return_carry=True, rngs=nnx.Rngs(0))

    both = nnx.Bidirectional(
        rnn(nnx.OptimizedLSTMCell, I), rnn(nnx.OptimizedLSTMCell, I), return_carry=True, rngs=nnx.Rngs(0)
    )
    above = rnn(nnx.LSTMCell, 2 * N)
    model = nnx.Dict(both=both, above=above)
    nnx.update(model, randomised(nnx.state(model, nnx.Param), rng))
    xs, initial = numbers(rng, B, T, I), carries(rng, 3)
    finals, between = both(xs, initial_carry=tuple(initial[:2]))
    final, outputs = above(between, initial_carry=initial[2])
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    save_layers("flax_nnx_Bidirectional", "flax", params, xs, initial, outputs, [*finals, final], between=between)


def haiku():
    rng = np.random.default_rng(2)

    def run(xs, states):
        core = hk.DeepRNN([hk.LSTM(N), hk.LSTM(N)])
        return hk.dynamic_unroll(core, xs, states)

    model = hk.without_apply_rng(hk.transform(run))
    xs, initial = numbers(rng, B, T, I), carries(rng, 2)
    states = tuple(hk.LSTMState(hidden=h, cell=c) for c, h in initial)
    time_major = xs.swapaxes(0, 1)
    params = randomised(model.init(jax.random.key(0), time_major, states), rng)
    outputs, finals = model.apply(params, time_major, states)
    finals = [(state.cell, state.hidden) for state in finals]
    save_layers("haiku_DeepRNN", "dm-haiku", params, xs, initial, outputs.swapaxes(0, 1), finals)


def equinox():
    rng = np.random.default_rng(3)
    cell = eqx.nn.LSTMCell(I, N, use_bias=False, key=jax.random.key(0))
    params = {name: numbers(rng, *getattr(cell, name).shape) for name in ("weight_ih", "weight_hh")}
    for name, array in params.items():
        cell = eqx.tree_at(lambda one, name=name: getattr(one, name), cell, jax.numpy.asarray(array))
    step = jax.vmap(lambda x, h, c: cell(x, (h, c)))
    save_cell("equinox_LSTMCell_bias0", "equinox", params, step, rng)


if __name__ == "__main__":
    flax_linen()
    flax_nnx()
    haiku()
    equinox()
