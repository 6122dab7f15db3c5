"""Cells with all functions, and random arguments for a cell."""

import numpy as np

from fusedlstm import LSTMState

# Each function once.
FUNCTIONS = [
    "tanh",
    "relu",
    "sigmoid",
    "softsign",
    "elu",
    "linear",
    "softplus",
    ("elu", 0.6),
    ("affine", 0.7, 0.2),
    ("leaky_relu", 0.1),
    ("thresholded_relu", 0.137),
    ("scaled_tanh", 1.3, 0.6),
    ("hard_sigmoid", 0.2, 0.5),
]
NAMES = [each if isinstance(each, str) else " ".join(map(str, each)) for each in FUNCTIONS]


def functions_of(k):
    """Return options of a cell. Over all k, each function takes each role."""
    count = len(FUNCTIONS)
    return {
        "gate_activation": FUNCTIONS[k],
        "activation": FUNCTIONS[(k + 4) % count],
        "output_activation": FUNCTIONS[(k + 7) % count],
        "gate_clip": (None, 0.8)[k // 3 % 2],
        "coupled_gate": (None, "input", "forget")[k % 3],
        "zoneout_c": 0.3 if k % 5 == 2 else 0.0,
    }


# Keyed by the gates' function. Other options take turns, with other periods.
GENERAL = {
    name: {
        **functions_of(k),
        "peephole": k % 2 == 0,
        "cell_clip": (None, 0.9, None)[k % 5 % 3],
        "proj_size": (None, None, None, 3)[k % 4],
        "zoneout_h": (0.0, 0.4, 0.0, 0.15)[k % 4],
    }
    for k, name in enumerate(NAMES)
}


def random_state(cell, B, rng, scale=1.0):
    """Return a state on the cell's device, in its dtypes."""
    weights = cell.weights
    h, c = rng.uniform(-1, 1, (B, weights.output_size)), rng.normal(0, scale, (B, weights.hidden_size))
    return LSTMState(h=cell.asarray(h), c=cell.asarray(c, cell.zero_state(0).c.dtype))


def random_inputs(cell, B, seed=0):
    """Return x and a state."""
    rng = np.random.default_rng(seed)
    return cell.asarray(rng.normal(size=(B, cell.weights.input_size))), random_state(cell, B, rng)


def host(array):
    """Return an array of any backend as a NumPy array."""
    return LSTMState(h=array, c=array).to_numpy().h
