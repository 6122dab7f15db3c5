"""One layer in one direction, written in JAX from docs/formula.md and docs/sequences.md with lax.scan.

Its jax.grad is the reference for gradients. It shares nothing with the package except the names of options. Corners of
functions and clips have the derivatives that `torch_formula` describes.
"""

import jax
import jax.numpy as jnp


def clip(x, limit, low=None):
    """Clip, and pass the gradient up to and at the limits."""
    if limit is None:
        return x
    low = -limit if low is None else low
    return jnp.where((x >= low) & (x <= limit), x, jnp.where(x < low, low, limit))


FUNCTIONS = {
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu": lambda x: jnp.where(x > 0, x, 0),
    "softsign": lambda x: x / (1 + jnp.abs(x)),
    "linear": lambda x: x,
    "softplus": lambda x: jnp.logaddexp(x, 0),
    "elu": lambda x, alpha=1.0: jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x))),
    "affine": lambda x, alpha, beta: alpha * x + beta,
    "leaky_relu": lambda x, alpha: jnp.where(x > 0, x, alpha * x),
    "thresholded_relu": lambda x, alpha: jnp.where(x > alpha, x, 0),
    "scaled_tanh": lambda x, alpha, beta: alpha * jnp.tanh(beta * x),
    "hard_sigmoid": lambda x, alpha, beta: clip(alpha * x + beta, 1, 0),
}


def apply(function, x):
    name, *parameters = (function,) if isinstance(function, str) else function
    return FUNCTIONS[name](x, *parameters)


def step(weights, option, x, h, c):
    """Return h' (B, P) and c' (B, N)."""
    p_i, p_f, p_o = weights.get("peephole", (0, 0, 0))

    def gate(z):
        return apply(option["gate_activation"], clip(z, option["gate_clip"]))

    z = x @ weights["weight_ih"].T + h @ weights["weight_hh"].T + weights.get("bias", 0)
    z_i, z_f, z_g, z_o = jnp.split(z, 4, axis=1)
    i, f = gate(z_i + p_i * c), gate(z_f + p_f * c)
    if option["coupled_gate"] == "input":
        i = 1 - f
    elif option["coupled_gate"] == "forget":
        f = 1 - i
    g = apply(option["activation"], clip(z_g, option["gate_clip"]))
    new_c = clip(f * c + i * g, option["cell_clip"])
    m = gate(z_o + p_o * new_c) * apply(option["output_activation"] or option["activation"], new_c)
    if "weight_hr" in weights:
        m = clip(m @ weights["weight_hr"].T, option["proj_clip"])
    return m, new_c


def lstm(weights, option, xs, state, taken, is_first, reset_to, *, reverse, repeats):
    """Return the outputs (T, B, P), and the final h and c.

    Args:
        weights: the arrays of an LSTMWeights by name.
        option: all its options.
        xs: (T, B, I).
        state: h and c.
        taken: (T, B) booleans, the steps that rows take.
        is_first: (T, B) booleans.
        reset_to: h and c of one row or B.
        reverse: whether to read backward. A row is then reset after a first step.
        repeats: whether idle rows repeat their last output.
    """

    def take(carry, inputs):
        h, c, shown, pending = carry
        x, taken, first = inputs
        resets = (taken & (pending if reverse else first))[:, None]
        h, c = (jnp.where(resets, to, old) for to, old in zip(reset_to, (h, c), strict=True))
        new_h, new_c = step(weights, option, jnp.where(taken[:, None], x, 0), h, c)
        output = jnp.where(taken[:, None], new_h, shown if repeats else 0)
        h, c = (jnp.where(taken[:, None], new, old) for new, old in ((new_h, h), (new_c, c)))
        return (h, c, output, jnp.where(taken, first, pending)), output

    carry = (*state, jnp.zeros_like(state[0]), jnp.zeros(xs.shape[1], bool))
    (h, c, *_), outputs = jax.lax.scan(take, carry, (xs, taken, is_first), reverse=reverse)
    return outputs, h, c
