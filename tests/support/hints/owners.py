"""Hints about cells, LSTMs, Steppers, pools and their weights."""

import copy

import numpy as np

from fusedlstm import LSTM, LSTMCell, LSTMWeights, Sequencer, StackedWeights, StatePool, convert, load_weights

from support.hints.arrays import named, our_file, torch_cell, written
from support.hints.case import FOLDER, B, Case, I, N, T, cell, layers, lstm, pool, pool_with, weights, x


def saved_and_loaded():
    return LSTMCell(load_weights(our_file()), backend="numpy")


def reloaded_pool():
    first, second, path = pool_with(2), pool(), FOLDER["now"] / "pool"
    first.save(path)
    second.load(path)


def stepper_again():
    first, second = cell().stepper(B), cell().stepper(B)
    second.write(first.read())


def shrunk():
    made = pool()
    made.allocate(4)
    kept = made.read([3])
    made.release([1, 2, 3])
    made.write(made.allocate(1), kept)
    made.resize(2)


def pulled_back(**options):
    """Pull back twice."""
    _, _, pullback = lstm().vjp(np.zeros((T, B, I), "f"))
    for _ in range(2):
        pullback(None, None, **options)


def differentiated(weights):
    return LSTM(weights, backend="numpy").vjp(np.zeros((T, B, I), weights.dtype))


CASES = {
    "a pool too small for its slots": Case(lambda: pool_with(4).resize(2), shrunk),
    "a pullback twice": Case(pulled_back, lambda: pulled_back(retain=True)),
    "gradients in 16 bits": Case(
        lambda: differentiated(layers(dtype="float16")),
        lambda: differentiated(layers(dtype="float16").astype("float32")),
    ),
    "layers for a cell": Case(lambda: LSTMCell(layers()), lambda: (LSTM(layers()), LSTMCell(layers().layers[0]))),
    "a list of weights": Case(lambda: LSTM([weights()]), lambda: LSTM(StackedWeights([weights()]))),
    "a cell for an lstm": Case(lambda: LSTM(cell()), lambda: LSTM(cell().weights)),
    "an lstm for a cell": Case(lambda: LSTMCell(lstm()), lambda: LSTM(lstm().weights)),
    "weights for a pool": Case(
        lambda: StatePool(weights(), 4), lambda: StatePool(LSTMCell(weights(), backend="numpy"), 4)
    ),
    "layers for a pool": Case(lambda: StatePool(layers(), 4), lambda: StatePool(LSTM(layers(), backend="numpy"), 4)),
    "a path for a cell": Case(lambda: LSTMCell("w.safetensors"), saved_and_loaded),
    "one in a stack": Case(lambda: StackedWeights(weights()), lambda: StackedWeights([weights()])),
    "a stack in a stack": Case(
        lambda: StackedWeights([layers(), layers()]),
        lambda: StackedWeights([*layers().layers, *StackedWeights.random(N, N, 1, seed=0).layers]),
    ),
    "dtypes in a stack": Case(
        lambda: StackedWeights([weights(), LSTMWeights.random(N, N, seed=0, dtype="float64")]),
        lambda: StackedWeights([weights(), LSTMWeights.random(N, N, seed=0, dtype="float64").astype("float32")]),
    ),
    "other sizes for set_weights": Case(
        lambda: cell().set_weights(LSTMWeights.random(I, 2 * N, seed=0)),
        lambda: LSTMCell(LSTMWeights.random(I, 2 * N, seed=0)),
    ),
    "another program's file": Case(
        lambda: load_weights(written("a.npz")), lambda: convert.from_torch(written("a.npz"))
    ),
    "an open file": Case(lambda: load_weights(open(__file__)), saved_and_loaded),  # noqa: SIM115
    "a copied pool": Case(lambda: copy.copy(pool()), reloaded_pool),
    "another file for a pool": Case(lambda: pool().load(written("a.npz")), reloaded_pool),
    "a copied stepper": Case(lambda: copy.copy(cell().stepper(B)), stepper_again),
    "a mask as slots": Case(
        lambda: pool().read(np.array([True, False])), lambda: pool_with(2).read(np.flatnonzero([True, False]))
    ),
    "a pool as an owner": Case(lambda: StatePool(pool(), 4), lambda: StatePool(cell(), 4)),
    "a list of weights for a pool": Case(
        lambda: StatePool([weights()], 4), lambda: StatePool(LSTM(StackedWeights([weights()]), backend="numpy"), 4)
    ),
    "a pool as weights": Case(lambda: LSTMCell(pool()), lambda: LSTMCell(cell().weights)),
    "arrays as weights": Case(lambda: LSTM([x(), x()]), lambda: convert.from_torch(named("", torch_cell()))),
    "layers for set_weights of a cell": Case(
        lambda: cell().set_weights(layers()), lambda: cell().set_weights(layers().layers[0])
    ),
    "a list of weights for a cell": Case(lambda: LSTMCell([weights()]), lambda: LSTMCell([weights()][0])),
    "a sequencer of a cell": Case(
        lambda: Sequencer(cell(), T, B), lambda: LSTM(cell().weights, backend="numpy").sequencer(T, B)
    ),
    "a sequencer of a pool": Case(
        lambda: Sequencer(pool(), T, B), lambda: Sequencer(LSTM(cell().weights, backend="numpy"), T, B)
    ),
}
