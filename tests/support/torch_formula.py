"""An LSTM with every option in float64, written in PyTorch from docs/formula.md and docs/sequences.md.

Its torch.autograd is the reference for gradients. It shares nothing with the package except the names of options.

Where a function has a corner, its derivative is PyTorch's and TensorFlow's: that of the left side for relu, leaky_relu,
elu and thresholded_relu. A clip, also that of hard_sigmoid, passes the gradient inside its limits and at them.
"""

import itertools
from dataclasses import dataclass, field

import torch

NAMES = ("weight_ih", "weight_hh", "bias", "peephole", "weight_hr")
OPTIONS = {
    "cell_clip": None,
    "proj_clip": None,
    "activation": "tanh",
    "output_activation": None,
    "gate_activation": "sigmoid",
    "gate_clip": None,
    "coupled_gate": None,
    "zoneout_c": 0.0,
    "zoneout_h": 0.0,
}
FUNCTIONS = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": lambda x: torch.where(x > 0, x, 0 * x),
    "softsign": lambda x: x / (1 + x.abs()),
    "linear": lambda x: x,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "elu": lambda x, alpha=1.0: torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0))),
    "affine": lambda x, alpha, beta: alpha * x + beta,
    "leaky_relu": lambda x, alpha: torch.where(x > 0, x, alpha * x),
    "thresholded_relu": lambda x, alpha: torch.where(x > alpha, x, 0 * x),
    "scaled_tanh": lambda x, alpha, beta: alpha * torch.tanh(beta * x),
    "hard_sigmoid": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
}


@dataclass
class Cell:
    """The tensors of a cell, in float64, and its options by name. Tensors that it lacks are None."""

    weight_ih: torch.Tensor
    weight_hh: torch.Tensor
    bias: torch.Tensor | None = None
    peephole: torch.Tensor | None = None
    weight_hr: torch.Tensor | None = None
    options: dict = field(default_factory=dict)

    @classmethod
    def of(cls, weights, *, requires_grad=False):
        """Return the cell of an LSTMWeights, in new tensors."""
        arrays = {name: tensor(array, requires_grad=requires_grad) for name, array in weights.arrays().items()}
        return cls(**arrays, options=weights.options())

    def tensors(self):
        """Return the tensors that are not None, by name."""
        named = {name: getattr(self, name) for name in NAMES}
        return {name: value for name, value in named.items() if value is not None}


@dataclass
class Layers:
    """Cells in the order of `StackedWeights.layers`, the direction of each layer, and whether it is residual."""

    cells: list[Cell]
    directions: list[str]
    residual: list[bool]

    @classmethod
    def of(cls, weights, *, requires_grad=False):
        """Return the layers of a StackedWeights, in new tensors."""
        cells = [Cell.of(layer, requires_grad=requires_grad) for layer in weights.layers]
        return cls(cells, list(weights.directions), list(weights.residual))

    def tensors(self):
        """Return all tensors that are not None, in order."""
        return [value for cell in self.cells for value in cell.tensors().values()]


def tensor(array, *, requires_grad=False):
    """Return a copy of an array as a tensor in float64."""
    return torch.tensor(array.astype("float64"), requires_grad=requires_grad)


def tensors_of(states, *, requires_grad=False):
    """Return states as pairs (h, c) of new tensors."""
    return [tuple(tensor(part, requires_grad=requires_grad) for part in (state.h, state.c)) for state in states]


def apply(function, x):
    """Apply a function of `fusedlstm.functions` to x."""
    name, *parameters = (function,) if isinstance(function, str) else function
    return FUNCTIONS[name](x, *parameters)


def clip(x, limit):
    return x if limit is None else x.clamp(-limit, limit)


def step(cell, x, h, c):
    """Return h' (B, P) and c' (B, N)."""
    option = OPTIONS | cell.options
    p_i, p_f, p_o = (0, 0, 0) if cell.peephole is None else cell.peephole
    bias = 0 if cell.bias is None else cell.bias

    def gate(z):
        return apply(option["gate_activation"], clip(z, option["gate_clip"]))

    z_i, z_f, z_g, z_o = (x @ cell.weight_ih.T + h @ cell.weight_hh.T + bias).chunk(4, dim=1)
    i, f = gate(z_i + p_i * c), gate(z_f + p_f * c)
    if option["coupled_gate"] == "input":
        i = 1 - f
    elif option["coupled_gate"] == "forget":
        f = 1 - i
    g = apply(option["activation"], clip(z_g, option["gate_clip"]))
    new_c = clip(f * c + i * g, option["cell_clip"])
    o = gate(z_o + p_o * new_c)
    new_h = o * apply(option["output_activation"] or option["activation"], new_c)
    if cell.weight_hr is not None:
        new_h = clip(new_h @ cell.weight_hr.T, option["proj_clip"])
    kept_h, kept_c = option["zoneout_h"], option["zoneout_c"]
    return kept_h * h + (1 - kept_h) * new_h, kept_c * c + (1 - kept_c) * new_c


def reset(state, rows, reset_to):
    """Return a state (h, c) whose marked rows are zeros, or those of `reset_to`, which has one row or B."""
    to = map(torch.zeros_like, state) if reset_to is None else reset_to
    return tuple(torch.where(rows[:, None], new, old) for new, old in zip(to, state, strict=True))


def timeline(taken, is_first, *, backward):
    """Return the rows to reset before each step, (T, B), from plain lists, row by row.

    Forward, a row is reset before a first step. Backward, it has just left a first step, which was the last of a
    sequence in this direction. Steps that a row doesn't take have no flags.
    """
    T, B = taken.shape
    resets = torch.zeros(T, B, dtype=torch.bool)
    for b in range(B):
        steps = [t for t in range(T) if taken[t, b]]
        if not backward:
            firsts = [t for t in steps if is_first[t, b]]
        else:
            firsts = [t for t, later in itertools.pairwise(steps) if is_first[later, b]]
        for t in firsts:
            resets[t, b] = True
    return resets


def one_direction(cell, xs, state, taken, is_first, reset_to, *, backward, residual, repeats):
    """Return the outputs (T, B, P) of a direction of a layer, and its final (h, c)."""
    T, resets = len(xs), timeline(taken, is_first, backward=backward)
    outputs, shown = [None] * T, torch.zeros_like(state[0])
    for t in reversed(range(T)) if backward else range(T):
        x = torch.where(taken[t, :, None], xs[t], 0)
        before = reset(state, resets[t] & taken[t], reset_to)
        new = step(cell, x, *before)
        state = tuple(torch.where(taken[t, :, None], a, b) for a, b in zip(new, before, strict=True))
        output = new[0] + x if residual else new[0]
        idle = shown if repeats else torch.zeros_like(shown)
        outputs[t] = shown = torch.where(taken[t, :, None], output, idle)
    empty = xs.new_zeros(0, *shown.shape)
    return torch.stack(outputs) if T else empty, state


def lstm(
    layers,
    xs,
    states,
    *,
    lengths=None,
    mask=None,
    masked_outputs="zero",
    is_first=None,
    reset_to=None,
    reverse=False,
):
    """Return the outputs (T, B, width), and a list of final (h, c), one for each layer and direction.

    Args:
        layers: a Layers.
        xs: (T, B, I), in float64.
        states: a pair (h, c) for each layer and direction.
        lengths: (B,) numbers of steps, or None.
        mask: (T, B) booleans, the steps that rows take, or None.
        masked_outputs: "zero" or "last", as in LSTM.
        is_first: (T, B) booleans, or None.
        reset_to: a pair for each layer and direction, of one row or B; None for zeros.
        reverse: whether layers that are all forward read backward.
    """
    T, B, _ = xs.shape
    taken = torch.ones(T, B, dtype=torch.bool) if mask is None else torch.as_tensor(mask)
    if lengths is not None:
        taken = torch.arange(T)[:, None] < torch.as_tensor(lengths)
    is_first = torch.zeros(T, B, dtype=torch.bool) if is_first is None else torch.as_tensor(is_first)
    finals, cells = [], iter(enumerate(layers.cells))
    for layer, (direction, residual) in enumerate(zip(layers.directions, layers.residual, strict=True)):
        ways = {"forward": [reverse], "backward": [True], "both": [False, True]}[direction]
        parts = []
        for backward in ways:
            k, cell = next(cells)
            part, final = one_direction(
                cell,
                xs,
                states[k],
                taken,
                is_first,
                None if reset_to is None else reset_to[k],
                backward=backward,
                residual=residual,
                repeats=masked_outputs == "last" and layer == len(layers.directions) - 1,
            )
            parts.append(part)
            finals.append(final)
        xs = torch.cat(parts, dim=2)
    return xs, finals
