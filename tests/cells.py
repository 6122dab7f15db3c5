"""Random arguments for a cell."""

import numpy as np

from fusedlstm import LSTMState


def random_state(cell, B, rng, scale=1.0):
    """A state on the cell's device, in its dtypes."""
    weights = cell.weights
    h, c = rng.uniform(-1, 1, (B, weights.output_size)), rng.normal(0, scale, (B, weights.hidden_size))
    return LSTMState(h=cell.asarray(h), c=cell.asarray(c, cell.zero_state(0).c.dtype))


def random_inputs(cell, B, seed=0):
    """x and a state."""
    rng = np.random.default_rng(seed)
    return cell.asarray(rng.normal(size=(B, cell.weights.input_size))), random_state(cell, B, rng)


def host(array):
    """An array of any backend, as NumPy's."""
    return LSTMState(h=array, c=array).to_numpy().h
