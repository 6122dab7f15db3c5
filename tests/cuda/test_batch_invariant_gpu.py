"""batch_invariant in Steppers and pools on every backend, and on a GPU with rows at any address."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, StatePool

from support.backends import needs_cuda
from support.cells import host, random_inputs

KINDS = {
    "float64": {"dtype": "float64"},
    "float32": {},
    "tf32": {"precision": "high"},
    "float16": {"dtype": "float16"},
    "bfloat16": {"dtype": "bfloat16"},
}
# Sizes of whole vectors and tiles, and sizes that fit neither.
SIZES = {
    "whole": {"input_size": 16, "hidden_size": 32},
    "odd": {"input_size": 23, "hidden_size": 37, "proj_size": 19, "proj_clip": 0.2, "peephole": True},
}
ROWS = 130


def make(backend, kind, size, layers=1):
    """Return a cell, or an LSTM of several layers."""
    options = {**KINDS[kind], **SIZES[size]}
    how = {"backend": backend, "precision": options.pop("precision", "highest"), "batch_invariant": True}
    if layers == 1:
        return LSTMCell(LSTMWeights.random(seed=0, **options), **how)
    return LSTM(StackedWeights.random(num_layers=layers, seed=0, **options), **how)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def bits(*arrays):
    return [host(array).tobytes() for array in arrays]


def moved(owner, array, elements):
    """Return the same numbers, shifted by `elements` elements, with gaps between rows."""
    wide = np.pad(host(array), ((0, 0), (elements, 9 - elements)))
    return owner.asarray(wide)[:, elements : array.shape[1] + elements]


class Rows:
    """Steps of ROWS sequences: x, and the rows that take each step or are reset."""

    STEPS = 5

    def __init__(self, owner, rng):
        self.owner, I = owner, owner.weights.input_size
        self.xs = host(owner.asarray(rng.normal(size=(self.STEPS, ROWS, I))))
        sizes = [ROWS, 7, 65, 1, 64]
        self.rows = [rng.permutation(ROWS)[:B] for B in sizes]
        self.first = [rng.random(B) < 0.3 if t % 2 else None for t, B in enumerate(sizes)]
        self.start = tuple(self.random(s, rng) for s in self.layers(owner.zero_state(ROWS)))

    def random(self, state, rng):
        def like(part):
            return host(self.owner.asarray(rng.normal(size=part.shape), part.dtype))

        return LSTMState(h=like(state.h), c=like(state.c))

    @staticmethod
    def layers(state):
        return state if isinstance(state, tuple) else (state,)

    def there(self, states):
        asarray = self.owner.asarray
        made = tuple(LSTMState(h=asarray(s.h), c=asarray(s.c, s.c.dtype)) for s in states)
        return made if isinstance(self.owner, LSTM) else made[0]

    def step(self, x, states, is_first=None):
        """Return the output and the states of a call, in host memory."""
        x, states = self.owner.asarray(x), self.there(states)
        if isinstance(self.owner, LSTM):
            options = {} if is_first is None else {"is_first": is_first}
            output, news = self.owner.step(x, states, **options)
        else:
            news = self.owner(x, states, is_first=is_first)
            output = news.h
        return host(output), tuple(s.to_numpy() for s in self.layers(news))

    def alone(self, row):
        """Return the outputs and states of one row, stepped alone."""
        states = tuple(LSTMState(h=s.h[[row]], c=s.c[[row]]) for s in self.start)
        outputs = []
        for t, rows in enumerate(self.rows):
            if row in rows:
                first = None if self.first[t] is None else self.first[t][rows == row]
                output, states = self.step(self.xs[t, [row]], states, first)
                outputs.append(output)
        return [*outputs, *(part for s in states for part in (s.h, s.c))]


SOME = [0, 63, 64, 65, 129]


@pytest.mark.parametrize(("layers", "size"), [(1, "whole"), (1, "odd"), (2, "whole")])
def test_slots_of_a_pool(backend, kind, size, layers):
    """A sequence has the bits that it has alone, whatever its slot and the size of the batch."""
    owner = make(backend, kind, size, layers)
    rng = np.random.default_rng(0)
    play, pool = Rows(owner, rng), StatePool(owner, 200)
    slots = rng.permutation(pool.allocate(200))[:ROWS]
    pool.write(slots, play.there(play.start))
    outputs = {row: [] for row in range(ROWS)}
    for t, rows in enumerate(play.rows):
        x = owner.asarray(play.xs[t, rows])
        got = host(pool.step(moved(owner, x, 1) if t % 2 else x, slots[rows], is_first=play.first[t]))
        for k, row in enumerate(rows):
            outputs[row].append(got[k : k + 1])
    for row in {*SOME, *play.rows[1], *play.rows[3]}:
        state = play.layers(pool.read(slots[[row]]))
        got = [*outputs[row], *(part for s in state for part in (s.h, s.c))]
        assert bits(*got) == bits(*play.alone(row)), row


@pytest.mark.parametrize("size", SIZES)
def test_rows_of_steppers(backend, kind, size):
    """A row has the same bits in any batch, at any place, beside NaN and infinities, with resets."""
    owner = make(backend, kind, size)
    x, state = random_inputs(owner, ROWS)
    x, state = host(x), state.to_numpy()
    places = {1: [0], 7: [6, 0], 64: [63, 5], 65: [64, 0], 129: [128, 77]}
    wanted, single = [], one_row(owner, state, 0)
    for t in range(3):
        single = owner(owner.asarray(x[:1]), single, is_first=[t == 2])
        wanted.append(bits(single.h, single.c))
    for B, where in places.items():
        for place in where:
            h, c = np.resize(state.h, (B, state.h.shape[1])), np.resize(state.c, (B, state.c.shape[1]))
            xs = np.resize(x, (B, x.shape[1]))
            for array, first in ((xs, x), (h, state.h), (c, state.c)):
                array[::3], array[1::3] = np.nan, np.inf
                array[place] = first[0]
            stepper = owner.stepper(B)
            stepper.write(LSTMState(h=owner.asarray(h), c=owner.asarray(c, state.c.dtype)))
            for t in range(3):
                flags = np.zeros(B, bool) if t < 2 else np.arange(B) == place
                with np.errstate(all="ignore"):
                    output = host(stepper.step(owner.asarray(xs), None if t == 0 else flags))
                now = stepper.read().to_numpy()
                got = bits(now.h[place : place + 1], now.c[place : place + 1])
                assert got == wanted[t], (B, place, t)
                assert output[place].tobytes() == now.h[place].tobytes()


def one_row(owner, state, k):
    return LSTMState(h=owner.asarray(state.h[k : k + 1]), c=owner.asarray(state.c[k : k + 1], state.c.dtype))


@needs_cuda
@settings(max_examples=40)
@given(data=st.data())
def test_addresses_change_no_bit(data):
    """x, h and c are shifted, with gaps between rows, which takes other code to read and write."""
    kind, size = data.draw(st.sampled_from(sorted(KINDS))), data.draw(st.sampled_from(sorted(SIZES)))
    owner, B = make("cuda", kind, size), data.draw(st.sampled_from([1, 2, 9, 64, 65]))
    x, state = random_inputs(owner, B)
    wanted = owner(x, state)
    offset = st.integers(0, 8)
    h, c = (moved(owner, part, data.draw(offset)) for part in (state.h, owner.asarray(state.c)))
    if kind in ("float16", "bfloat16"):
        c = state.c
    got = owner(moved(owner, x, data.draw(offset)), LSTMState(h=h, c=c))
    assert bits(got.h, got.c) == bits(wanted.h, wanted.c)
    which = data.draw(st.lists(st.integers(0, B - 1), min_size=1, max_size=70))
    own = state.to_numpy()
    rows = owner(
        owner.asarray(host(x)[which]),
        LSTMState(h=owner.asarray(own.h[which]), c=owner.asarray(own.c[which], own.c.dtype)),
    )
    assert bits(rows.h, rows.c) == bits(host(wanted.h)[which], host(wanted.c)[which])


@needs_cuda
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_the_option_bits_differ(dtype):
    """Without batch_invariant, the kernel depends on the batch, and so do the bits. So the tests above can fail."""
    weights = LSTMWeights.random(300, 64, seed=0, dtype=dtype)
    kernels = ("matmul", "simt") if dtype == "float32" else ("tensor_small", "tensor_medium")
    results = set()
    for kernel in kernels:
        cell = LSTMCell(weights, backend="cuda", kernel=kernel)
        x, state = random_inputs(cell, 33)
        got = cell(x, state)
        results.add(tuple(bits(got.h, got.c)))
    assert len(results) == 2
    invariant = LSTMCell(weights, backend="cuda", batch_invariant=True)
    assert {invariant.stepper(B).kernels for B in (1, 300)} == {kernels[1:]}
    assert {StatePool(invariant, 9).kernels(B) for B in (1, 300)} == {kernels[1:]}
    x, state = random_inputs(invariant, 33)
    got = invariant(x, state)
    assert tuple(bits(got.h, got.c)) in results
