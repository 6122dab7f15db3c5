"""Layers over time by a loop of cells: what a runner of whole sequences must agree with."""

import numpy as np

from fusedlstm import LSTMCell, LSTMState


def run(weights, xs, states, lengths=None):
    """Step StackedWeights through xs (T, B, I) on numpy; outputs past a row's end are zero, its state stays.

    Returns the outputs (T, B, width) and one final state for each layer and direction.
    """
    T, B = xs.shape[:2]
    ends = np.full(B, T) if lengths is None else np.asarray(lengths)
    finals = []
    for layer, residual in enumerate(weights.residual):
        outputs = []
        for direction in range(weights.num_directions):
            index = layer * weights.num_directions + direction
            cell = LSTMCell(weights.layers[index], backend="numpy")
            hs, final = one_direction(cell, xs, states[index], ends, backward=direction == 1)
            outputs.append(hs + xs if residual else hs)
            finals.append(final)
        xs = np.concatenate(outputs, axis=2)
        xs[np.arange(T)[:, None] >= ends] = 0
    return xs, tuple(finals)


def one_direction(cell, xs, state, ends, *, backward):
    """Step one cell through time, either way, where a row has not ended: every h, and the last state."""
    T, B = xs.shape[:2]
    hs = np.zeros((T, B, cell.weights.output_size), cell.dtype)
    for t in reversed(range(T)) if backward else range(T):
        live = (t < ends)[:, None]
        stepped = cell(xs[t], state)
        state = LSTMState(h=np.where(live, stepped.h, state.h), c=np.where(live, stepped.c, state.c))
        hs[t] = state.h
    return hs, state
