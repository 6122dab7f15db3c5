"""Mistakes in the backward pass: each term dropped once, each sign flipped once, and other easy mistakes.

A test plants one at a time in the module's source, and runs the new code in its place.
"""

import contextlib
import dataclasses
import importlib
import inspect
import sys

PACKAGE = "fusedlstm.backends.numpy"


@dataclasses.dataclass(frozen=True)
class Fault:
    """A text that occurs once in a module, and its replacement."""

    module: str
    what: str
    old: str
    new: str
    package: str = PACKAGE

    def __str__(self):
        return f"{self.module}: {self.what}"

    def source(self):
        """Return the module's source with the mistake in it."""
        text = inspect.getsource(importlib.import_module(f"{self.package}.{self.module}"))
        if text.count(self.old) != 1:
            raise ValueError(f"{self}: {self.old!r} occurs {text.count(self.old)} times, not once")
        return text.replace(self.old, self.new)


@contextlib.contextmanager
def planted(fault):
    """Run a module's changed source in its place, also where other modules have imported its names."""
    module = importlib.import_module(f"{fault.package}.{fault.module}")
    before = dict(vars(module))
    changed = dict(before)
    exec(compile(fault.source(), module.__file__, "exec"), changed)
    users = [
        (user, name, value)
        for user in list(sys.modules.values())
        if getattr(user, "__name__", "").startswith(fault.package)
        for name, value in list(vars(user).items())
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    try:
        for user, name, value in users:
            setattr(user, name, changed[value.__name__])
        yield
    finally:
        for user, name, value in users:
            setattr(user, name, value)


# Each row: a description, the old text, the new text.
FORMULA = [
    # Terms.
    ("d_c' without what m gives", "d_c_new = d_c_new + d_m * u.o * derivative(output, u.c_new)", "pass"),
    ("d_c' without the gradient from outside", "d_c_new = d_c_new + d_m * u.o", "d_c_new = d_m * u.o"),
    ("d_c' without peephole o", "d_c_new = d_c_new + weights.peephole[2] * d_z_o", "pass"),
    ("d_c without f", "    d_c = d_s * u.f\n", "    d_c = 0 * d_s\n"),
    ("d_c without peephole i", "weights.peephole[0] * d_z_i + ", ""),
    ("d_c without peephole f", " + weights.peephole[1] * d_z_f", ""),
    ("d_c without peepholes", "d_c = d_c + weights.peephole[0] * d_z_i + weights.peephole[1] * d_z_f", "pass"),
    ("d_f without the coupled i", "np.zeros_like(d_i), d_f - d_i", "np.zeros_like(d_i), d_f"),
    ("d_i without the coupled f", "d_i - d_f, np.zeros_like(d_f)", "d_i, np.zeros_like(d_f)"),
    ("a coupled i with a gate of its own", "np.zeros_like(d_i), d_f - d_i", "d_i, d_f - d_i"),
    ("a coupled f with a gate of its own", "d_i - d_f, np.zeros_like(d_f)", "d_i - d_f, d_f"),
    # Factors.
    ("d_o without the output's function", "d_o = d_m * apply(output, u.c_new)", "d_o = d_m * u.c_new"),
    ("d_z_o without the gate's derivative", "d_o * _gate_derivative(weights, u.a_o)", "d_o"),
    ("d_z_i without the gate's derivative", "d_i * _gate_derivative(weights, u.a_i)", "d_i"),
    ("d_z_f without the gate's derivative", "d_f * _gate_derivative(weights, u.a_f)", "d_f"),
    ("d_z_g without its derivative", "derivative(weights.activation, u.a_g)", "1"),
    ("d_c' without o", "d_m * u.o * derivative", "d_m * derivative"),
    ("d_c' without the output's derivative", " * derivative(output, u.c_new)", ""),
    ("d_i without g", "d_s * u.g, d_s * u.c, d_s * u.i", "d_s, d_s * u.c, d_s * u.i"),
    ("d_f without c", "d_s * u.g, d_s * u.c, d_s * u.i", "d_s * u.g, d_s, d_s * u.i"),
    ("d_g without i", "d_s * u.g, d_s * u.c, d_s * u.i", "d_s * u.g, d_s * u.c, d_s"),
    ("d_f of the new c", "d_s * u.g, d_s * u.c, d_s * u.i", "d_s * u.g, d_s * u.c_new, d_s * u.i"),
    ("no clip of c", "np.where(inside(u.s, weights.cell_clip), d_c_new, 0)", "d_c_new"),
    ("the clip of c by the clipped c", "inside(u.s, weights.cell_clip)", "inside(u.c_new, weights.cell_clip)"),
    (
        "the function of g for the output",
        "output = weights.output_activation or weights.activation\n    d_o",
        "output = weights.activation\n    d_o",
    ),
    (
        "gates not clipped",
        "np.where(inside(a, weights.gate_clip), derivative",
        "np.where(True, derivative",
    ),
    ("g not clipped", "d_g * np.where(inside(u.a_g, weights.gate_clip),", "d_g * np.where(True,"),
    (
        "gates' derivative without their peepholes",
        "a_i, a_f, a_g = with_peephole(z[0], p_i, c), with_peephole(z[1], p_f, c)",
        "a_i, a_f, a_g = z[0], z[1]",
    ),
    ("o's derivative without its peephole", "a_o = with_peephole(z[3], p_o, c_new)", "a_o = z[3]"),
    ("o's peephole of the old c", "with_peephole(z[3], p_o, c_new)", "with_peephole(z[3], p_o, c)"),
    # Signs.
    ("+ in place of - in a coupled f", "d_f - d_i", "d_f + d_i"),
    ("+ in place of - in a coupled i", "d_i - d_f", "d_i + d_f"),
    ("- in place of + in d_c'", "d_c_new + d_m", "d_c_new - d_m"),
    ("- in place of + for peephole o", "d_c_new + weights.peephole[2]", "d_c_new - weights.peephole[2]"),
    ("- in place of + for peephole i", "d_c + weights.peephole[0]", "d_c - weights.peephole[0]"),
    ("- in place of + for peephole f", "+ weights.peephole[1]", "- weights.peephole[1]"),
]

# In the rest of the formula, which only tests run.
STEP = [
    (
        "no clip of the projection",
        "np.where(inside(u.m @ weights.weight_hr.T, weights.proj_clip), d_h_new, 0)",
        "d_h_new",
    ),
    ("d_m without the projection", "d_m = d_p @ weights.weight_hr", "d_m = np.resize(d_p, u.m.shape)"),
    ("d_h of weight_ih", "d_h = d_z @ weights.weight_hh", "d_h = np.resize(d_z @ weights.weight_ih, h.shape)"),
    ("peephole i of the new c", "(d_z_i * c, d_z_f * c,", "(d_z_i * u.c_new, d_z_f * c,"),
    ("peephole o of the old c", "d_z_o * u.c_new)", "d_z_o * c)"),
    ("peephole f of i's gradient", "d_z_f * c, d_z_o", "d_z_i * c, d_z_o"),
    ("weight_ih with -", "weight_ih=d_z.T @ x", "weight_ih=-d_z.T @ x"),
    ("weight_hh with -", "weight_hh=d_z.T @ h", "weight_hh=-d_z.T @ h"),
    ("weight_hr with -", "d_p.T @ u.m", "-d_p.T @ u.m"),
    ("weight_hr of d_h", "d_p.T @ u.m", "d_h_new.T @ u.m"),
    ("bias with -", "else d_z.sum(axis=0)", "else -d_z.sum(axis=0)"),
    ("x with -", "CellGradients(d_z @", "CellGradients(-d_z @"),
    ("h across a reset", "LSTMState(h=reset(d_h, first, None)", "LSTMState(h=d_h"),
    ("c across a reset", "c=reset(d_c, first, None)", "c=d_c"),
    ("h not reset", "h, c = reset(h, first, reset_h), ", "h, c = h, "),
    ("c not reset", "reset(c, first, reset_c)", "c"),
    ("reset_to of all rows", "np.where(first[:, None], d, 0)", "d"),
    ("reset_to of the other rows", "np.where(first[:, None], d, 0)", "np.where(first[:, None], 0, d)"),
    ("one row of reset_to for all", "marked.sum(axis=0, keepdims=True)", "marked[:1]"),
]

DERIVATIVES = [
    ("tanh without its square", "1 - np.tanh(x) ** 2,", "1 - np.tanh(x),"),
    ("tanh with +", '"tanh": lambda x: 1 - ', '"tanh": lambda x: 1 + '),
    ("relu everywhere", "np.where(x > 0, _ones(x), 0),", "_ones(x),"),
    ("sigmoid without its second factor", "_sigmoid(x) * (1 - _sigmoid(x))", "_sigmoid(x)"),
    ("sigmoid with +", "(1 - _sigmoid(x))", "(1 + _sigmoid(x))"),
    ("softsign without its square", "(1 + np.abs(x)) ** 2", "(1 + np.abs(x))"),
    ("softsign without |x|", "(1 + np.abs(x)) ** 2", "(1 + x) ** 2"),
    ("elu without alpha", "alpha * np.exp(np.minimum(x, 0))", "np.exp(np.minimum(x, 0))"),
    ("elu of -x", "np.exp(np.minimum(x, 0))", "np.exp(-np.minimum(x, 0))"),
    ("linear of 0", '"linear": np.ones_like', '"linear": np.zeros_like'),
    ("softplus as relu", '"softplus": lambda x: 1 / (1 + np.exp(-x))', '"softplus": lambda x: x > 0'),
    ("affine without alpha", "alpha * _ones(x),  #", "_ones(x),  #"),
    ("leaky relu without its slope", "np.where(x > 0, _ones(x), alpha)", "np.where(x > 0, _ones(x), 0)"),
    ("thresholded relu from 0", "np.where(x > alpha,", "np.where(x > 0,"),
    ("scaled tanh without alpha", "alpha * beta * (1", "beta * (1"),
    ("scaled tanh without beta", "alpha * beta * (1", "alpha * (1"),
    ("scaled tanh of x", "np.tanh(beta * x) ** 2", "np.tanh(x) ** 2"),
    ("hard sigmoid without alpha", "0, 1), alpha * _ones(x), 0)", "0, 1), _ones(x), 0)"),
    (
        "hard sigmoid everywhere",
        "np.where(_is_within(alpha * x + beta, 0, 1), alpha * _ones(x), 0)",
        "alpha * _ones(x)",
    ),
    ("hard sigmoid without beta", "_is_within(alpha * x + beta,", "_is_within(alpha * x,"),
    ("a clip that passes all", "True if limit is None else _is_within(a, -limit, limit)", "True"),
    ("a clip from 0", "_is_within(a, -limit, limit)", "_is_within(a, 0, limit)"),
]

UNITS = [
    # Factors of the fast form.
    ("d_z_o without 1 - o", "np.multiply(a, rest_o, b)", "np.copyto(b, a)"),
    ("d_z_o without y", "np.multiply(b, y, d_z[:, 3])", "np.copyto(d_z[:, 3], b)"),
    ("d_m without o", "np.multiply(d_m, o, a)", "np.copyto(a, d_m)"),
    ("d_c' without what m gives", "np.add(d_c, b, d_c)", "pass"),
    (
        "d_c' without 1 - y^2",
        "        np.subtract(one, b, b)\n        np.multiply(b, a, b)\n",
        "        np.copyto(b, a)\n",
    ),
    ("d_c' without d_m o", "np.multiply(b, a, b)", "pass"),
    ("y not squared", "np.multiply(y, y, b)", "np.copyto(b, y)"),
    ("d_z_i without i", "np.multiply(d_c, i, a)", "np.copyto(a, d_c)"),
    ("d_z_i without 1 - i", "np.multiply(a, rest_i, b)", "np.copyto(b, a)"),
    ("d_z_i without g", "np.multiply(b, g, d_z[:, 0])", "np.copyto(d_z[:, 0], b)"),
    ("g not squared", "np.multiply(g, g, b)", "np.copyto(b, g)"),
    ("d_z_g without d_c i", "np.multiply(b, a, d_z[:, 2])", "np.copyto(d_z[:, 2], b)"),
    ("d_c without f", "np.multiply(d_c, f, d_c)", "pass"),
    ("d_z_f without 1 - f", "np.multiply(d_c, rest_f, b)", "np.copyto(b, d_c)"),
    ("d_z_f without c", "np.multiply(b, c, d_z[:, 1])", "np.copyto(d_z[:, 1], b)"),
    ("d_z_f of the new c", "np.multiply(b, c, d_z[:, 1])", "np.multiply(b, c_new, d_z[:, 1])"),
    ("m without o", "np.multiply(o, y, m)", "np.copyto(m, y)"),
    ("d_c' with - for what m gives", "np.add(d_c, b, d_c)", "np.subtract(d_c, b, d_c)"),
    (
        "1 + y^2",
        "        np.multiply(y, y, b)\n        np.subtract(one, b, b)",
        "        np.multiply(y, y, b)\n        np.add(one, b, b)",
    ),
    (
        "1 + g^2",
        "        np.multiply(g, g, b)\n        np.subtract(one, b, b)",
        "        np.multiply(g, g, b)\n        np.add(one, b, b)",
    ),
    ("1 + i, 1 + f and 1 + o", "np.subtract(one, kept[:3], rest)", "np.add(one, kept[:3], rest)"),
    # The general form.
    ("gates i and f swapped", "z = -kept[0], -kept[1]", "z = -kept[1], -kept[0]"),
    ("gates g and o swapped", "kept[3], -kept[2]", "-kept[2], kept[3]"),
    ("z_i of the wrong sign", "z = -kept[0]", "z = kept[0]"),
    ("m not written", "m[...] = units.m", "m[...] = 0"),
    ("d_z of one gate", "d_z[:, gate] = d", "d_z[:, 0] = d"),
    ("d_c as it was", "gates, d_c[...] =", "gates, _ ="),
]

BACKWARD = [
    # Terms.
    ("d_h without that of the outputs", "np.add(d_h, piece.d_ys[t], d_h)", "pass"),
    ("d_h of the outputs alone", "np.add(d_h, piece.d_ys[t], d_h)", "d_h[...] = piece.d_ys[t]"),
    ("no gradient of bias", 'sums["bias"] += d_z.sum(axis=0)', "pass"),
    ("no gradient of weight_ih and weight_hh", "self._of_both += d_z.T", "unused = d_z.T"),
    ("the last gradient of both alone", "self._of_both += d_z.T", "self._of_both = d_z.T"),
    ("the gradient of both with -", "self._of_both += d_z.T", "self._of_both -= d_z.T"),
    ("x left out", "= piece.xs[part]", "= 0"),
    ("x of other steps", "= piece.xs[part]", "= piece.xs[:count]"),
    ("no gradient of weight_hr", 'sums["weight_hr"] +=', "unused ="),
    ("the last gradient of weight_hr alone", 'sums["weight_hr"] +=', 'sums["weight_hr"] ='),
    ("the last gradient of bias alone", 'sums["bias"] +=', 'sums["bias"] ='),
    ("peepholes of the last step alone", 'self._sums["peephole"][row] +=', 'self._sums["peephole"][row] ='),
    ("the gradient of weight_hr with -", 'sums["weight_hr"] +=', 'sums["weight_hr"] -='),
    ("the gradient of bias with -", 'sums["bias"] +=', 'sums["bias"] -='),
    ("the gradient of peepholes with -", 'self._sums["peephole"][row] +=', 'self._sums["peephole"][row] -='),
    ("peephole o of the old c", "(3, c_new)", "(3, c)"),
    ("peephole i of the new c", "((0, c), (1, c)", "((0, c_new), (1, c)"),
    ("peephole f of i's gradient", "(1, c), (3", "(0, c), (3"),
    ("no gradient of xs of one direction", "d_xs += out", "pass"),
    ("the gradient of xs of a direction with -", "d_xs += out", "d_xs -= out"),
    ("the gradient of xs of the last direction", "np.empty_like(d_xs) if piece.adds else d_xs", "d_xs"),
    ("no gradient of xs", "Product(d_z, out[None]).run(self._weight_ih)", "out[...] = 0"),
    # The projection.
    ("no clip of the projection", "np.copyto(d_p, 0, where=~record.passes[t])", "pass"),
    ("the clip of the projection inverted", "where=~record.passes[t]", "where=record.passes[t]"),
    # Resets.
    ("resets of idle rows", "resets = resets & ~idle", "pass"),
    ("gradients across a reset", "            d[rows] = 0\n", ""),
    ("no gradient of one reset row", "to[0] += d[rows].sum(axis=0)", "pass"),
    ("no gradient of reset rows", "to[rows] += d[rows]", "pass"),
    ("the last gradient of one reset row", "to[0] += d[rows].sum(axis=0)", "to[0] = d[rows].sum(axis=0)"),
    ("the last gradient of reset rows", "to[rows] += d[rows]", "to[rows] = d[rows]"),
    ("the gradient of one reset row with -", "to[0] += d[rows]", "to[0] -= d[rows]"),
    ("the gradient of reset rows with -", "to[rows] += d[rows]", "to[rows] -= d[rows]"),
    ("the old h of reset rows", "select_rows(self._h[k], resets, reset_h)", "pass"),
    ("the old c of reset rows", "select_rows(self._c, resets, reset_c)", "pass"),
    ("zeros in place of reset_to", "(None, None) if self._reset_to is None else", "(None, None) if True else"),
    # Idle rows.
    ("idle rows pass nothing", "d_h[idle], d_c[idle] = passed", "pass"),
    # Steps.
    ("the h after a step", "self._h[k] = h\n", "self._h[k] = piece.record.h[t]\n"),
    (
        "the c after a step",
        "        if resets is None:\n            return c\n",
        "        if resets is None:\n            return piece.record.c[t]\n",
    ),
    ("the first state's h throughout", "is_inner = before in piece.timeline.order", "is_inner = False"),
    ("the order of steps", "order = piece.timeline.order[::-1]", "order = piece.timeline.order"),
    ("the step before in time", "before = t - piece.timeline.order.step", "before = t - 1"),
    ("no product with weight_hh", "self._products[k].run(self._weight_hh)", "pass"),
]

TRAINING = [
    ("no gradient of a residual layer's input", "wanted += part", "pass"),
    ("the gradient of a residual layer's input with -", "wanted += part", "wanted -= part"),
    ("a residual layer's input left out", "parts = [part + inputs[-1] for part in parts]", "pass"),
    ("gradients of idle rows' outputs", "part[timeline.idle] = 0", "pass"),
    ("repeated outputs pass nothing", "_move_from_idle(part, timeline)", "pass"),
    ("repeated outputs pass with -", "d_ys[before][rows] += d_ys[t][rows]", "d_ys[before][rows] -= d_ys[t][rows]"),
    (
        "repeated outputs in the order of time",
        "order = timeline.order[::-1]\n    for t, before",
        "order = timeline.order\n    for t, before",
    ),
    (
        "outputs of the other direction",
        "part, wanted = d_ys[:, :, start:stop]",
        "part, wanted = d_ys[:, :, : stop - start]",
    ),
    ("no gradient of final states", "if d_final is None:", "if True:"),
    ("the first state at every checkpoint", "            if number:\n", "            if False:\n"),
    ("the c of another checkpoint", "c=record.c[number - 1]", "c=record.c[0]"),
    ("checkpoints a step late", "order[self._every - 1 : -1", "order[self._every : -1"),
]

OF_THE_STEP = [Fault("formula_vjp", *row) for row in STEP]
ALL = [
    Fault(module, *row)
    for module, rows in (
        ("formula_vjp", FORMULA),
        ("derivatives", DERIVATIVES),
        ("backward_units", UNITS),
        ("backward", BACKWARD),
        ("training", TRAINING),
    )
    for row in rows
]
