"""A second implementation of sequences: one row, step and cell at a time. It shares nothing with fusedlstm.lstm."""

import numpy as np

from fusedlstm import LSTMCell, LSTMState


def one_row(state, b):
    """Return row b of a state, or its only row, as a batch of one."""
    row = b if len(state.h) > 1 else 0
    return LSTMState(h=state.h[row : row + 1], c=state.c[row : row + 1])


def direction(cell, xs, state, *, backwards, taken, first, reset_to, residual, last):
    """Run one row through one layer in one direction. Return outputs (T, P), the state after each step, and the last.

    `first[t]` says that a sequence begins at step t. No state may cross its beginning.
    """
    T = len(xs)
    outputs = np.zeros((T, cell.weights.output_size), cell.dtype)
    zero, previous, boundary, every = cell.zero_state(1), None, False, [None] * T
    for t in reversed(range(T)) if backwards else range(T):
        if taken[t]:
            if boundary or (first[t] and not backwards):
                state = zero if reset_to is None else reset_to
            state = cell(xs[t : t + 1], state)
            boundary = backwards and first[t]
            previous = state.h[0] + (xs[t] if residual else 0)
            outputs[t] = previous
        elif last and previous is not None:
            outputs[t] = previous
        every[t] = state
    return outputs, every, state


def stacked(states, name):
    """Return the h or the c of the states of one row, (T, K)."""
    return np.concatenate([getattr(state, name) for state in states])


def run(
    weights,
    xs,
    states,
    lengths=None,
    *,
    active=None,
    is_first=None,
    reset_to=None,
    reverse=False,
    last=False,
    cells=None,
):
    """Return outputs (T, B, width) and final states for xs (T, B, I), as NumPy arrays of the weights' dtype.

    `cells`, a list, gets the states after every step: for each layer and direction h (T, B, P) and c (T, B, N).
    """
    T, B, _ = xs.shape
    if lengths is not None:
        active = np.arange(T)[:, None] < np.asarray(lengths)
    steppers = [LSTMCell(layer, backend="numpy") for layer in weights.layers]
    rows, finals, every = [], [[] for _ in steppers], [[] for _ in steppers]
    for b in range(B):
        taken = np.ones(T, bool) if active is None else active[:, b]
        first = np.zeros(T, bool) if is_first is None else is_first[:, b]
        values = xs[:, b]
        for layer in range(weights.num_layers):
            parts = []
            for k in range(*weights.slices[layer].indices(len(steppers))):
                part, states_of_row, final = direction(
                    steppers[k],
                    values,
                    one_row(states[k], b),
                    backwards=reverse or weights.backward[k],
                    taken=taken,
                    first=first,
                    reset_to=None if reset_to is None else one_row(reset_to[k], b),
                    residual=weights.residual[layer],
                    last=last and layer == weights.num_layers - 1,
                )
                parts.append(part)
                finals[k].append(final)
                every[k].append(states_of_row)
            values = np.concatenate(parts, axis=1)
        rows.append(values)
    if cells is not None:
        cells += [
            LSTMState(**{name: np.stack([stacked(row, name) for row in layer], axis=1) for name in "hc"})
            for layer in every
        ]
    states = [
        LSTMState(h=np.concatenate([s.h for s in final]), c=np.concatenate([s.c for s in final])) for final in finals
    ]
    return np.stack(rows, axis=1), states
