"""Pools for tests, and a plain model of one: a dictionary of states, stepped by the cell."""

import warnings

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, OtherWeightsWarning, PoolFullError, StatePool

from support import tolerances
from support.cells import host


def make_pool(owner, capacity):
    return StatePool(owner, capacity)


def assert_as_the_cells(owner, got, wanted):
    """Compare with a cell's step: bit for bit in NumPy. On a GPU, a planned step multiplies differently."""
    if owner.backend == "numpy":
        np.testing.assert_array_equal(got, wanted)
    else:
        assert np.isfinite(got).all()
        tolerance = 2 * tolerances.of(owner.dtype, 20)
        np.testing.assert_allclose(got.astype(np.float64), wanted.astype(np.float64), rtol=tolerance, atol=tolerance)


def layers_of(owner, state):
    """Return an owner's state as a tuple of host states, one for each layer."""
    return tuple(each.to_numpy() for each in (state if isinstance(owner, LSTM) else (state,)))


def state_of(owner, layers):
    """Return the owner's state from one host state for each layer."""
    zeros = owner.zero_state(0)
    zeros = zeros if isinstance(owner, LSTM) else (zeros,)
    states = tuple(
        LSTMState(h=owner.asarray(layer.h), c=owner.asarray(layer.c, zero.c.dtype))
        for layer, zero in zip(layers, zeros, strict=True)
    )
    return states if isinstance(owner, LSTM) else states[0]


def random_layers(owner, B, rng):
    """Return a host state of B rows for each layer, in the owner's dtypes."""
    zeros = layers_of(owner, owner.zero_state(B))
    return tuple(
        LSTMState(
            h=rng.uniform(-1, 1, zero.h.shape).astype(zero.h.dtype),
            c=rng.normal(size=zero.c.shape).astype(zero.c.dtype),
        )
        for zero in zeros
    )


def advance(owner, x, layers):
    """Return the output of one step, and the state after it, in host memory."""
    if isinstance(owner, LSTMCell):
        state = owner(owner.asarray(x), state_of(owner, layers))
        return host(state.h), layers_of(owner, state)
    output, states = owner.step(owner.asarray(x), state_of(owner, layers))
    return host(output), layers_of(owner, states)


def joined(states):
    """Join states of one row each into one state, layer by layer."""
    return tuple(
        LSTMState(h=np.concatenate([s.h for s in layer]), c=np.concatenate([s.c for s in layer]))
        for layer in zip(*states, strict=True)
    )


def row_of(layers, k):
    return tuple(LSTMState(h=layer.h[k : k + 1], c=layer.c[k : k + 1]) for layer in layers)


class Model:
    """A model of a pool: a dictionary from slots to states, and a list of free slots."""

    def __init__(self, owner, capacity, *, exact):
        self.owner, self.exact = owner, exact
        self.states, self.free = {}, list(range(capacity))[::-1]
        self.capacity = capacity
        self.zero = layers_of(owner, owner.zero_state(1))
        self.width = owner.weights.output_size

    def allocate(self, n):
        slots = [self.free.pop() for _ in range(n)]
        self.states.update(dict.fromkeys(slots, self.zero))
        return slots

    def release(self, slots):
        for slot in slots:
            del self.states[slot]
        self.free.extend(reversed(slots))

    def fork(self, parents):
        states = [self.states[parent] for parent in parents]
        children = self.allocate(len(parents))
        self.states.update(zip(children, states, strict=True))
        return children

    def resize(self, capacity):
        added = range(self.capacity, capacity)
        self.free = [*reversed(added), *(slot for slot in self.free if slot < capacity)]
        self.capacity = capacity

    def write(self, slots, layers):
        self.states.update({slot: row_of(layers, k) for k, slot in enumerate(slots)})

    def read(self, slots):
        return joined([self.states[slot] for slot in slots])

    def step(self, x, slots, is_first):
        """Step rows one by one with an exact cell. Otherwise sort them by slot, unlike the pool."""
        outputs = np.zeros((len(slots), self.width), x.dtype)
        rows = sorted((slot, k) for k, slot in enumerate(slots) if slot >= 0)
        olds = [self.zero if is_first is not None and is_first[k] else self.states[slot] for slot, k in rows]
        parts = [slice(k, k + 1) for k in range(len(rows))] if self.exact else [slice(0, len(rows))] if rows else []
        for part in parts:
            order = [k for _, k in rows[part]]
            outputs[order], news = advance(self.owner, x[order], joined(olds[part]))
            self.write([slot for slot, _ in rows[part]], news)
        return outputs

    def snapshot(self):
        return dict(self.states)

    def restore(self, states):
        self.states = dict(states)
        self.free = [slot for slot in range(self.capacity) if slot not in states][::-1]


class Player:
    """Make random calls to a pool and to its model, and compare the results.

    Args:
        owner: an LSTMCell or LSTM.
        variants: weights of the same form. Each `set_weights` takes one of them.
        path: the path of the file that is saved and loaded.
        seed: the seed of the calls.
        tolerance: the tolerance of absolute differences. None compares bits, which needs a batch-invariant cell.
    """

    CAPACITY = 40

    def __init__(self, owner, variants, path, seed, tolerance):
        self.owner, self.variants, self.path = owner, variants, path
        self.rng, self.tolerance = np.random.default_rng(seed), tolerance
        self.pool = make_pool(owner, self.CAPACITY)
        self.model = Model(owner, self.CAPACITY, exact=tolerance is None)
        self.saved = None
        self.done = dict.fromkeys(self.chances, 0)

    chances = {  # noqa: RUF012
        "allocate": 10,
        "fork": 6,
        "resize": 3,
        "step": 40,
        "reset": 6,
        "release": 10,
        "write": 8,
        "read": 10,
        "refuse": 8,
        "set_weights": 3,
        "save": 2,
        "load": 3,
    }

    def play(self, operations):
        names = list(self.chances)
        chances = np.array(list(self.chances.values())) / sum(self.chances.values())
        for number, name in enumerate(self.rng.choice(names, operations, p=chances)):
            getattr(self, name)()
            self.done[name] += 1
            if number % 50 == 0:
                self.compare_all()
        self.compare_all()

    def same(self, got, wanted):
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
        if self.tolerance is None:
            assert got.tobytes() == wanted.tobytes()
        else:
            np.testing.assert_allclose(got.astype(float), wanted.astype(float), rtol=0, atol=self.tolerance)

    def same_states(self, got, wanted):
        for a, b in zip(got, wanted, strict=True):
            self.same(a.h, b.h)
            self.same(a.c, b.c)

    def compare_all(self):
        live = sorted(self.model.states)
        assert self.pool.slots.tolist() == live
        assert self.pool.live == len(live)
        if live:
            self.same_states(layers_of(self.owner, self.pool.read(live)), self.model.read(live))

    def some(self, most=None):
        """Return some live slots in any order, often one, none or all."""
        live = self.rng.permutation(sorted(self.model.states)).astype(int).tolist()
        n = int(self.rng.choice([0, 1, len(live), self.rng.integers(len(live) + 1)]))
        return live[: n if most is None else min(n, most)]

    def given(self, slots):
        """Return slots as a list, or as an array of some dtype."""
        kind = self.rng.integers(4)
        if kind == 0:
            return slots
        dtype = [np.int64, np.int32, np.int8][kind - 1]
        return np.array(slots, dtype)

    def allocate(self):
        n = int(self.rng.integers(0, min(6, len(self.model.free)) + 1))
        slots = self.pool.allocate(n)
        assert slots.dtype == np.int64
        assert slots.tolist() == self.model.allocate(n)

    def fork(self):
        live, free = sorted(self.model.states), len(self.model.free)
        n = int(self.rng.integers(0, min(6, free) + 1)) if live else 0
        parents = self.rng.choice(live, n).tolist() if n else []
        slots = self.pool.fork(self.given(parents))
        assert slots.dtype == np.int64
        assert slots.tolist() == self.model.fork(parents)

    def resize(self):
        least = max(self.model.states, default=0) + 1
        capacity = int(self.rng.choice([least, self.CAPACITY, self.rng.integers(least, 60)]))
        if capacity < least:
            with pytest.raises(ValueError, match=f"capacity: wanted more than {least - 1}, which is a live slot"):
                self.pool.resize(capacity)
            return
        self.pool.resize(capacity)
        self.model.resize(capacity)
        assert self.pool.capacity == capacity

    def release(self):
        slots = self.some(most=6)
        self.pool.release(self.given(slots))
        self.model.release(slots)

    def reset(self):
        slots = self.some()
        self.pool.reset(self.given(slots))
        self.model.states.update(dict.fromkeys(slots, self.model.zero))

    def write(self):
        slots = self.some()
        layers = random_layers(self.owner, len(slots), self.rng)
        self.pool.write(self.given(slots), state_of(self.owner, layers))
        self.model.write(slots, layers)

    def read(self):
        slots = self.some()
        got = layers_of(self.owner, self.pool.read(self.given(slots)))
        if slots:
            self.same_states(got, self.model.read(slots))

    def step(self):
        slots = self.some()
        if self.rng.random() < 0.3:
            for _ in range(self.rng.integers(1, 5)):
                slots.insert(int(self.rng.integers(len(slots) + 1)), -1)
        B = len(slots)
        x = self.rng.normal(size=(B, self.owner.weights.input_size)).astype(self.owner.dtype)
        is_first = self.rng.random(B) < 0.3 if self.rng.random() < 0.4 else None
        out = None
        if self.rng.random() < 0.5:
            out = self.owner.asarray(np.full((B, self.model.width), 7))
        options = {"is_first": is_first, "out": out, "strict": bool(self.rng.random() < 0.2)}
        got = self.pool.step(self.owner.asarray(x), self.given(slots), **options)
        assert out is None or got is out
        self.same(host(got), self.model.step(x, slots, is_first))

    def refuse(self):
        """Make bad calls, which must change nothing."""
        live, free = sorted(self.model.states), self.model.free
        with pytest.raises(PoolFullError):
            self.pool.allocate(len(free) + 1)
        if live:
            with pytest.raises(PoolFullError):
                self.pool.fork([live[0]] * (len(free) + 1))
        bad = [self.pool.capacity]
        if free:
            bad = self.rng.permutation([*self.some(), int(self.rng.choice(free))]).tolist()
        elif live:
            bad = [live[0], live[-1], live[0]]
        x = self.owner.asarray(np.zeros((len(bad), self.owner.weights.input_size)))
        zeros = self.owner.zero_state(len(bad))
        for call in (
            lambda: self.pool.release(bad),
            lambda: self.pool.reset(bad),
            lambda: self.pool.read(bad),
            lambda: self.pool.write(bad, zeros),
            lambda: self.pool.step(x, bad),
        ):
            with pytest.raises(ValueError, match="slots: wanted live slots, each once"):
                call()

    def set_weights(self):
        self.owner.set_weights(self.variants[self.rng.integers(len(self.variants))])

    def save(self):
        self.pool.save(self.path)
        self.saved = self.model.snapshot()

    def load(self):
        if self.saved is not None and max(self.saved, default=0) < self.pool.capacity:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", OtherWeightsWarning)  # the weights may have been set since
                self.pool.load(self.path)
            self.model.restore(self.saved)
