"""A model of sharded pools: one StatePool with a dictionary of keys. Random calls must give both the same bits."""

import os
import signal

import numpy as np
import pytest

from fusedlstm import LSTMState, LSTMWeights, PoolFullError, StatePool

from support.pools import layers_of, random_layers, state_of

WEIGHTS = [LSTMWeights.random(3, 8, seed=seed) for seed in range(3)]
INVARIANT = {"backend": "numpy", "batch_invariant": True}


class KeyedPool:
    """One StatePool with keys: what a ShardedPool must equal, bit for bit."""

    def __init__(self, owner, capacity):
        self.owner, self.pool, self.slots = owner, StatePool(owner, capacity), {}

    def at(self, keys):
        return [self.slots[key] for key in keys]

    def open(self, keys):
        self.slots.update(zip(keys, self.pool.allocate(len(keys)).tolist(), strict=True))

    def close(self, keys):
        self.pool.release(self.at(keys))
        for key in keys:
            del self.slots[key]

    def step(self, x, keys, is_first=None):
        return self.pool.step(x, self.at(keys), is_first=is_first)

    def reset(self, keys):
        self.pool.reset(self.at(keys))

    def read(self, keys):
        return self.pool.read(self.at(keys))

    def write(self, keys, state):
        self.pool.write(self.at(keys), state)

    def fork(self, parents, children):
        layers = layers_of(self.owner, self.pool.read(sorted(set(self.at(parents)))))
        rows = [sorted(set(self.at(parents))).index(slot) for slot in self.at(parents)]
        self.open(children)
        own = tuple(LSTMState(h=layer.h[rows], c=layer.c[rows]) for layer in layers)
        self.write(children, state_of(self.owner, own))


class Player:
    """Make the same random calls to a ShardedPool and to one StatePool, and compare the bits.

    Args:
        pool: the ShardedPool.
        owner: an LSTMCell or LSTM in NumPy with its weights, batch-invariant.
        variants: weights of the same form.
        folder: where to save.
        seed: the seed of the calls.
    """

    chances = {  # noqa: RUF012
        "open": 12,
        "close": 10,
        "step": 40,
        "reset": 6,
        "read": 8,
        "write": 8,
        "fork": 8,
        "refuse": 4,
        "set_weights": 2,
        "save": 1,
        "load": 1,
    }

    def __init__(self, pool, owner, variants, folder, seed):
        self.pool, self.owner, self.variants, self.folder = pool, owner, variants, folder
        self.rng = np.random.default_rng(seed)
        self.model = KeyedPool(owner, pool.capacity)
        self.opened = 0
        self.saved = None
        self.done = dict.fromkeys(self.chances, 0)

    def play(self, operations):
        chances = np.array(list(self.chances.values())) / sum(self.chances.values())
        for number, name in enumerate(self.rng.choice(list(self.chances), operations, p=chances)):
            getattr(self, name)()
            self.done[name] += 1
            if number % 100 == 0:
                self.compare_all()
        self.compare_all()

    def same(self, got, wanted):
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
        assert got.tobytes() == wanted.tobytes()

    def same_states(self, got, wanted):
        for one, other in zip(layers_of(self.owner, got), layers_of(self.owner, wanted), strict=True):
            self.same(one.h, other.h)
            self.same(one.c, other.c)

    def compare_all(self):
        keys = list(self.model.slots)
        assert sorted(self.pool.keys, key=repr) == sorted(keys, key=repr)
        assert len(self.pool) == sum(shard.sessions for shard in self.pool.stats()) == len(keys)
        self.same_states(self.pool.read(keys), self.model.read(keys))

    def some(self):
        """Return some open keys in any order, often one, none or all."""
        keys = list(self.model.slots)
        n = int(self.rng.choice([0, 1, len(keys), self.rng.integers(len(keys) + 1)]))
        return [keys[k] for k in self.rng.permutation(len(keys))[:n]]

    def new(self, n):
        """Return n new keys, ints and strs."""
        keys = [self.opened + k if self.rng.random() < 0.5 else f"session {self.opened + k}" for k in range(n)]
        self.opened += n
        return keys

    def given(self, keys):
        """Return keys as a list, a tuple, or an array."""
        kind = self.rng.integers(3)
        if kind == 0 and {type(key) for key in keys} == {int}:
            return np.array(keys)
        return tuple(keys) if kind == 1 else keys

    @property
    def free(self):
        return self.pool.capacity - len(self.model.slots)

    def open(self):
        keys = self.new(int(self.rng.integers(0, min(6, self.free) + 1)))
        self.pool.open(self.given(keys))
        self.model.open(keys)

    def close(self):
        keys = self.some()[:6]
        self.pool.close(self.given(keys))
        self.model.close(keys)

    def step(self):
        keys = self.some()
        x = self.rng.normal(size=(len(keys), self.owner.weights.input_size)).astype(self.owner.dtype)
        is_first = self.rng.random(len(keys)) < 0.3 if self.rng.random() < 0.4 else None
        got = self.pool.step(x, self.given(keys), is_first=is_first)
        self.same(got, self.model.step(x, keys, is_first))

    def reset(self):
        keys = self.some()
        self.pool.reset(self.given(keys))
        self.model.reset(keys)

    def read(self):
        keys = self.some()
        self.same_states(self.pool.read(self.given(keys)), self.model.read(keys))

    def write(self):
        keys = self.some()
        state = state_of(self.owner, random_layers(self.owner, len(keys), self.rng))
        self.pool.write(self.given(keys), state)
        self.model.write(keys, state)

    def fork(self):
        keys = list(self.model.slots)
        n = int(self.rng.integers(0, min(8, self.free) + 1)) if keys else 0
        parents = [keys[k] for k in self.rng.integers(len(keys), size=n)] if n else []
        children = self.new(n)
        self.pool.fork(self.given(parents), self.given(children))
        self.model.fork(parents, children)

    def refuse(self):
        """Make bad calls, which must change nothing."""
        with pytest.raises(PoolFullError):
            self.pool.open(self.new(self.free + 1))
        bad = [*self.some(), "nobody"]
        x = np.zeros((len(bad), self.owner.weights.input_size), self.owner.dtype)
        for call in (
            lambda: self.pool.close(bad),
            lambda: self.pool.reset(bad),
            lambda: self.pool.read(bad),
            lambda: self.pool.step(x, bad),
            lambda: self.pool.fork(bad, self.new(len(bad))),
        ):
            with pytest.raises(ValueError, match="'nobody'"):
                call()

    def set_weights(self):
        weights = self.variants[self.rng.integers(len(self.variants))]
        self.pool.set_weights(weights)
        self.owner.set_weights(weights)

    def save(self):
        self.pool.save(self.folder)
        keys = list(self.model.slots)
        self.saved = keys, self.model.read(keys), self.owner.weights

    def load(self):
        if self.saved is None:
            return
        keys, state, weights = self.saved
        self.pool.set_weights(weights)
        self.owner.set_weights(weights)
        self.pool.load(self.folder)
        self.model.close(list(self.model.slots))
        self.model.open(keys)
        self.model.write(keys, state)


def kill(pool, shard):
    """Kill the process of a shard."""
    os.kill(pool.stats()[shard].process, signal.SIGKILL)
