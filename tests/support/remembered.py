"""A model of sharded pools whose shards die: sessions that remember their states."""

import numpy as np

from fusedlstm.ray import SessionsLostError

from support.pools import layers_of, row_of, state_of

RNG = np.random.default_rng(0)


class Remembered:
    """Sessions that remember the states after each of their changes, so that they can go back.

    Each session is stepped alone, by a batch-invariant cell.
    """

    def __init__(self, owner):
        self.owner = owner
        self.states = {}

    def open(self, keys):
        for key in keys:
            self.states[key] = [layers_of(self.owner, self.owner.zero_state(1))]

    def close(self, keys):
        for key in keys:
            del self.states[key]

    def step(self, x, keys):
        """Return the outputs, (B, width)."""
        outputs = []
        for row, key in enumerate(keys):
            state = self.owner(x[row : row + 1], state_of(self.owner, self.states[key][-1]))
            self.states[key].append(layers_of(self.owner, state))
            outputs.append(state.h)
        return np.concatenate(outputs) if outputs else np.zeros((0, self.owner.weights.output_size), np.float32)

    def hear(self, error):
        """Do what a SessionsLostError says."""
        for key, changes in error.back.items():
            assert 0 < changes < len(self.states[key]), f"{key} can't go back by {changes}"
            del self.states[key][-changes:]
        for key in error.lost:
            del self.states[key]

    def compare(self, pool):
        """Compare all sessions with those of a pool whose shards are ready."""
        keys = list(self.states)
        assert set(pool.keys) == set(keys)
        (got,) = layers_of(self.owner, pool.read(keys))
        for row, key in enumerate(keys):
            (wanted,) = self.states[key][-1]
            (own,) = row_of((got,), row)
            assert own.h.tobytes() == wanted.h.tobytes(), f"{key} is neither exact nor named"
            assert own.c.tobytes() == wanted.c.tobytes(), f"{key} is neither exact nor named"


def inputs(B=9):
    return RNG.normal(size=(B, 3)).astype(np.float32)


def tick(pool, known, keys):
    """Step these sessions and their model, and compare the delivered rows. Return the error, if there is one."""
    keys = [key for key in keys if key in known.states]
    x = inputs(len(keys))
    wanted = known.step(x, keys)
    try:
        got, error = pool.step(x, keys), None
        delivered = np.ones(len(keys), bool)
    except SessionsLostError as raised:
        got, delivered, error = raised.result, raised.delivered, raised
    assert got[delivered].tobytes() == wanted[delivered].tobytes()
    assert not got[~delivered].any()
    if error is not None:
        known.hear(error)
    return error


def told(known, call):
    """Make a call. Return its error, after the model has heard of it."""
    try:
        call()
    except SessionsLostError as error:
        known.hear(error)
        return error
    return None
