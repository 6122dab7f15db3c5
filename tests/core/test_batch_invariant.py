"""batch_invariant: each row is bitwise independent of its batch, or the constructor raises."""

import copy
import hashlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights
from fusedlstm.backends.numpy import batch_invariance, blas
from fusedlstm.backends.numpy import matmul as products
from fusedlstm.backends.numpy import threads as rows

from support import tolerances
from support.cells import GENERAL, host, random_inputs, random_state

# Sizes with several column blocks and a remainder, with one column left over, and with few columns.
CASES = {
    "plain": {"input_size": 33, "hidden_size": 70},
    "float64": {"input_size": 33, "hidden_size": 70, "dtype": "float64"},
    "float16": {"input_size": 33, "hidden_size": 70, "dtype": "float16"},
    "bfloat16": {"input_size": 33, "hidden_size": 70, "dtype": "bfloat16"},
    "tf32": {"input_size": 33, "hidden_size": 70, "precision": "high"},
    "odd": {"input_size": 23, "hidden_size": 37, "proj_size": 19, "proj_clip": 0.05},
    "float64 odd": {"input_size": 23, "hidden_size": 37, "proj_size": 19, "dtype": "float64"},
    "float16 odd": {"input_size": 23, "hidden_size": 37, "proj_size": 19, "peephole": True, "dtype": "float16"},
    "tf32 odd": {"input_size": 23, "hidden_size": 37, "proj_size": 19, "proj_clip": 0.05, "precision": "high"},
    "no bias": {"input_size": 5, "hidden_size": 9, "bias": False},
    "projection": {"input_size": 40, "hidden_size": 150, "proj_size": 65, "proj_clip": 0.05},
    "bfloat16 projection": {"input_size": 7, "hidden_size": 21, "proj_size": 3, "dtype": "bfloat16"},
    "peephole": {"input_size": 9, "hidden_size": 129, "peephole": True, "cell_clip": 0.4},
    "float64 peephole": {"input_size": 9, "hidden_size": 33, "peephole": True, "dtype": "float64"},
    "clipped to zero": {"input_size": 9, "hidden_size": 17, "cell_clip": 0.0},
    **{name: {"input_size": 6, "hidden_size": 35, "activation": name} for name in ("relu", "sigmoid", "softsign")},
    "elu": {"input_size": 6, "hidden_size": 35, "activation": "elu", "dtype": "float64"},
    "linear": {"input_size": 6, "hidden_size": 35, "activation": "linear"},
    "hard sigmoids": {"input_size": 6, "hidden_size": 35, **GENERAL["hard_sigmoid 0.2 0.5"]},
    "coupled": {"input_size": 6, "hidden_size": 35, **GENERAL["scaled_tanh 1.3 0.6"], "dtype": "float16"},
}


class OnHost:
    """A cell or an LSTM of any backend that takes and returns NumPy arrays."""

    def __init__(self, owner, precision="highest"):
        self.owner, self.precision = owner, precision

    def __getattr__(self, name):
        return getattr(self.owner, name)

    def asarray(self, *args):
        return host(self.owner.asarray(*args))

    def there(self, state):
        if isinstance(state, tuple):
            return tuple(map(self.there, state))
        return LSTMState(h=self.owner.asarray(state.h), c=self.owner.asarray(state.c, state.c.dtype))

    def here(self, result):
        if isinstance(result, tuple):
            return tuple(map(self.here, result))
        return result.to_numpy() if isinstance(result, LSTMState) else host(result)

    def __call__(self, x, state, **options):
        return self.here(self.owner(self.owner.asarray(x), self.there(state), **options))

    def step(self, x, states):
        return self.here(self.owner.step(self.owner.asarray(x), self.there(states)))


@pytest.fixture(params=CASES)
def cell(request, backend):
    return make(backend, **CASES[request.param])


@pytest.fixture
def threads(monkeypatch):
    """Use three threads, for work of any size."""
    monkeypatch.setattr(rows, "_LEAST_WORK", 0)
    monkeypatch.setattr(rows, "_LEAST_STEP", 0)
    monkeypatch.setattr(blas, "threads", lambda: 3)


def make(backend="numpy", kind=LSTMCell, precision="highest", **options):
    if options.get("dtype") == "bfloat16":
        pytest.importorskip("ml_dtypes")
    weights = LSTMWeights.random(seed=0, **options)
    return OnHost(kind(weights, backend=backend, precision=precision, batch_invariant=True), precision)


def layers(backend="numpy", **options):
    """Return an LSTM of two layers, the second of which is residual."""
    options = {"input_size": 20, "hidden_size": 20, "num_layers": 2, "residual": [False, True], "seed": 0, **options}
    return LSTM(StackedWeights.random(**options), backend=backend, batch_invariant=True)


def bits(state, which=slice(None)):
    """Return the bytes of rows of a state, with every NaN made the same."""
    return b"".join(np.where(np.isnan(part), part.dtype.type(np.nan), part)[which].tobytes() for part in state)


def pick(state, which):
    return LSTMState(h=state.h[which], c=state.c[which])


def pairs(state):
    return state.h, state.c


def random_states(lstm, B, rng):
    def like(part):
        return rng.normal(size=part.shape).astype(part.dtype)

    return tuple(LSTMState(h=like(zero.h), c=like(zero.c)) for zero in lstm.zero_state(B))


def alone(cell, x, state):
    """Return the next state, with each row stepped alone."""
    steps = [cell(x[k : k + 1], pick(state, slice(k, k + 1))) for k in range(len(x))]
    return LSTMState(h=np.concatenate([s.h for s in steps]), c=np.concatenate([s.c for s in steps]))


@pytest.mark.sampled
def test_row_has_the_same_bits_in_any_batch(cell):
    """Batches of 0 to 130 rows in any order give each row the same bits. The values match a plain cell's."""
    rng, B = np.random.default_rng(0), 130
    x, state = random_inputs(cell, B)
    wanted = alone(cell, x, state)
    for size in range(B + 1) if cell.backend == "numpy" else (0, 1, 7, 64, 65, 129):
        which = rng.permutation(B)[:size]
        assert bits(pairs(cell(x[which], pick(state, which)))) == bits(pairs(pick(wanted, which))), size
    plain = LSTMCell(cell.weights, backend="numpy")(x, state)
    atol = tolerances.of("float16" if cell.precision == "high" else cell.dtype, 250)
    for got, expected in zip(pairs(wanted), pairs(plain), strict=True):
        np.testing.assert_allclose(
            got.astype(float), expected.astype(float), atol=atol, rtol=1e-2 if atol > 1e-4 else 0
        )


def test_without_the_option_bits_differ():
    """Without the option, bits do depend on the batch, so these tests can fail."""
    for N in (70, 130, 256):
        cell = LSTMCell(LSTMWeights.random(33, N, seed=0), backend="numpy")
        x, state = random_inputs(cell, 50)
        if bits(pairs(cell(x, state))) != bits(pairs(alone(cell, x, state))):
            return
    pytest.skip("with this BLAS, a plain cell is batch-invariant too")


@pytest.mark.parametrize("wild", [np.nan, np.inf, -np.inf, 1e30, 1e-40, 0.0])
def test_row_has_the_same_bits_at_any_place(cell, wild):
    x, state = random_inputs(cell, 1)
    wanted, B = bits(pairs(cell(x, state))), 27
    with np.errstate(all="ignore"):
        full = [np.full((B, part.shape[1]), wild).astype(part.dtype) for part in (x, state.h, state.c)]
    for place in range(B) if cell.backend == "numpy" else (0, 7, 8, 15, 16, 26):
        xs, h, c = map(np.copy, full)
        xs[place], h[place], c[place] = x[0], state.h[0], state.c[0]
        got = cell(xs, LSTMState(h=h, c=c))
        assert bits(pairs(got), slice(place, place + 1)) == wanted


def test_earlier_steps_leave_no_trace(cell):
    """Rows of larger batches stay in the scratch, and must not matter."""
    x, state = random_inputs(cell, 3)
    wanted = bits(pairs(cell(x, state)))
    many, start = random_inputs(cell, 40)
    many[...], start.c[...] = np.nan, np.inf
    cell(many, start)
    assert bits(pairs(cell(x, state))) == wanted


@settings(max_examples=60)
@given(data=st.data())
def test_random_rows_and_resets(backend_of_properties, data):
    """Draw sizes, rows (some of them twice) and resets."""
    size = st.integers(1, 80)
    I, N, B = data.draw(size), data.draw(size), data.draw(st.integers(1, 60))
    dtype, P = data.draw(st.sampled_from(["float32", "float64", "float16"])), data.draw(st.none() | st.integers(1, N))
    precision = data.draw(st.sampled_from(["highest", "high"]))
    try:
        cell = make(backend_of_properties, precision=precision, input_size=I, hidden_size=N, proj_size=P, dtype=dtype)
    except RuntimeError:  # old OpenBLAS kernels aren't batch-invariant for products with one column
        assert 1 in (N, P)
        return
    x, state = random_inputs(cell, B)
    which = np.array(data.draw(st.lists(st.integers(0, B - 1), min_size=1, max_size=40)))
    first = np.array(data.draw(st.lists(st.booleans(), min_size=B, max_size=B)))
    got = cell(x[which], pick(state, which), is_first=first[which])
    assert bits(pairs(got)) == bits(pairs(pick(cell(x, state, is_first=first), which)))


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["plain", "float64", "float16", "tf32", "odd", "projection", "peephole"])
@pytest.mark.parametrize("B", [1, 2, 7, 8, 30])
def test_sequences_equal_their_steps(name, B, backend):
    """A sequence has the same bits step by step, cut anywhere, and row by row."""
    cell, T = make(backend, **CASES[name]), 11 if backend == "numpy" else 4
    lstm, rng = make(backend, LSTM, **CASES[name]), np.random.default_rng(0)
    xs, state = cell.asarray(rng.normal(size=(T, B, cell.weights.input_size))), random_state(cell, B, rng)
    ys, (final,) = lstm(xs, (state,))
    step = state
    for x, y in zip(xs, ys, strict=True):
        step = cell(x, step)
        assert bits([step.h]) == bits([y])
    assert bits(pairs(step)) == bits(pairs(final))
    for cut in range(T + 1):
        before, middle = lstm(xs[:cut], (state,))
        after, (ended,) = lstm(xs[cut:], middle)
        assert bits([np.concatenate([before, after]), *pairs(ended)]) == bits([ys, *pairs(final)])
    for b in range(B):
        row = slice(b, b + 1)
        own, (ended,) = lstm(xs[:, row], (pick(state, row),))
        assert bits([own, *pairs(ended)]) == bits([ys[:, row], *pairs(pick(final, row))])


WAYS = {
    "forward": ({}, {}),
    "batch_first": ({}, {"batch_first": True}),
    "both directions": ({"bidirectional": True, "residual": False}, {}),
    "projection": ({"hidden_size": 40, "proj_size": 20}, {}),
    "float16": ({"dtype": "float16"}, {}),
    "tf32": ({}, {"precision": "high"}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shared", [False, True], ids=["one thread", "three threads"])
def test_rows_of_layers_are_independent(way, shared, backend, request):
    """Rows have different lengths and resets, which changes how the steps are grouped."""
    if shared and backend != "numpy":
        pytest.skip("threads share out work only on NumPy")
    if shared:
        request.getfixturevalue("threads")
    options, more = WAYS[way]
    weights = layers(**options).weights
    rng, T, B = np.random.default_rng(0), 7, 50
    lstm = OnHost(LSTM(weights, backend=backend, batch_invariant=True, **more))
    xs = lstm.asarray(rng.normal(size=(T, B, 20)))
    is_first, lengths = rng.random((T, B)) < 0.1, rng.integers(0, T + 1, B)
    states = random_states(lstm, B, rng)

    def run(which):
        batch = (xs[:, which], is_first[:, which])
        if lstm.batch_first:
            batch = tuple(each.swapaxes(0, 1) for each in batch)
        ys, ends = lstm(
            batch[0],
            tuple(pick(s, which) for s in states),
            is_first=batch[1],
            lengths=lengths[which],
            masked_outputs="last",
        )
        return [ys.swapaxes(0, 1) if lstm.batch_first else ys, *(part for end in ends for part in pairs(end))]

    ys, *finals = run(slice(None))
    for which in ([0], [49], [3, 17], list(range(20, 37)), list(rng.permutation(B))):
        some, *ends = run(which)
        assert bits([some]) == bits([ys[:, which]])
        assert bits(ends) == bits([final[which] for final in finals])


def test_steps_of_layers(backend):
    lstm, rng, B = OnHost(layers(backend)), np.random.default_rng(0), 19
    x = rng.normal(size=(B, 20)).astype(np.float32)
    states = random_states(lstm, B, rng)
    wanted, news = lstm.step(x, states)
    ys, _ = lstm(x[None], states)
    assert bits([ys[0]]) == bits([wanted])
    for which in ([4], list(range(18, 1, -1))):
        got, own = lstm.step(x[which], tuple(pick(s, which) for s in states))
        assert bits([got, *(p for s in own for p in pairs(s))]) == bits(
            [wanted[which], *(p[which] for s in news for p in pairs(s))]
        )


@pytest.mark.parametrize("small", [True, False], ids=["small kernels", "others"])
@pytest.mark.parametrize("B", [16, 23, 50, 64])
def test_rows_keep_their_bits_in_threads(B, small, threads, monkeypatch):
    """Rows are shared out only if the BLAS has small kernels, as other kernels make threads wait."""
    monkeypatch.setattr(products, "has_small_kernels", lambda: small)
    cell = make(input_size=33, hidden_size=70, proj_size=12)
    x, state = random_inputs(cell, B)
    shared_out, share_out = [], rows.share_out
    monkeypatch.setattr(
        rows, "share_out", lambda work, shares: shared_out.append(len(shares)) or share_out(work, shares)
    )
    got = cell(x, state)
    ys, (final,) = LSTM(cell.weights, backend="numpy", batch_invariant=True)(x[None], (state,))
    assert shared_out
    assert set(shared_out[:1] + shared_out[-1:]) == {min(3, B // 8) if small else 1}
    monkeypatch.setattr(blas, "threads", lambda: 1)
    assert bits(pairs(got)) == bits(pairs(cell(x, state))) == bits([ys[0], final.c])
    assert bits(pairs(got)) == bits(pairs(alone(cell, x, state)))


DIGEST = """
import hashlib, numpy as np
from fusedlstm import LSTMCell, LSTMWeights
digest = hashlib.sha256()
for I, N, P in [(8, 300, None), (512, 512, None), (100, 700, 257)]:
    cell = LSTMCell(LSTMWeights.random(I, N, proj_size=P, seed=0), backend="numpy", batch_invariant=True)
    state = cell.zero_state(35)
    for seed in range(2):
        state = cell(np.random.default_rng(seed).normal(size=(35, I)).astype(np.float32), state)
    digest.update(state.h.tobytes() + state.c.tobytes())
print(digest.hexdigest())
"""


@pytest.mark.parametrize("kernel", [None, "Haswell"])
def test_bits_do_not_depend_on_blas_threads(kernel):
    """No product is large enough for OpenBLAS to divide among threads."""
    digests = set()
    for count in ("1", "2"):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": count, **({"OPENBLAS_CORETYPE": kernel} if kernel else {})}
        done = subprocess.run(
            [sys.executable, "-c", DIGEST], capture_output=True, text=True, env=environment, check=False
        )
        if kernel and done.returncode < 0:
            pytest.skip("this processor can't run these kernels")
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1
    assert len(digests.pop()) == len(hashlib.sha256().hexdigest()) + 1


@settings(max_examples=200)
@given(
    sizes=st.tuples(st.integers(1, 2500), st.integers(1, 5000)),
    dtype=st.sampled_from(["float32", "float64"]),
    small=st.booleans(),
)
def test_widths_of_column_blocks(sizes, dtype, small):
    """Block widths depend on the weights alone, keep products on one thread, and never leave one column over."""
    (K, N), itemsize = sizes, np.dtype(dtype).itemsize
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "has_small_kernels", lambda: small)
        width = products._block_width(K, N, itemsize)
    assert 8 * K * width <= (1_000_000 if small else 262_144)
    assert width == N or (1 < width < N and N % width != 1)
    assert width * itemsize <= 256 * 3 // 2


@settings(max_examples=100)
@given(
    sizes=st.tuples(*[st.integers(1, 150)] * 2),
    blocks=st.integers(0, 4),
    S=st.sampled_from([1, 4]),
    small=st.booleans(),
    limit=st.integers(100, 100_000),
)
def test_a_product_by_blocks_is_correct(sizes, blocks, S, small, limit):
    (K, N), B, rng = sizes, 8 * blocks, np.random.default_rng(0)
    x, planes, out = rng.normal(size=(B, K)), rng.normal(size=(S, K, N)), np.full((S, B, N), np.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "has_small_kernels", lambda: small)
        patch.setattr(products, "_SMALL", limit)
        patch.setattr(products, "_ONE_THREAD", limit // 4)
        products.Product(x, out, invariant=True).run(products.Weight(lambda: planes, invariant=True))
    np.testing.assert_allclose(out, x @ planes, atol=1e-11)


def faulty(change):
    """Return np.matmul with a change to its result, like an unexpected BLAS."""
    matmul = np.matmul

    def multiply(x, weight, out):
        matmul(x, weight, out=out)
        change(x, out)

    return multiply


def by_place(x, out):
    out[..., 5, :] = np.nextafter(out[..., 5, :], np.float32(9))


def by_size(x, out):
    if len(x) > 1:
        out[...] = np.nextafter(out, np.float32(9))


def by_block(x, out):
    out[..., 1:2, :, :] = np.nextafter(out[..., 1:2, :, :], np.float32(9))


def by_others(x, out):
    with np.errstate(invalid="ignore"):
        out += 0 * x.sum(axis=(1, 2), keepdims=True)[:, :, :1]


@pytest.mark.parametrize("fault", [by_place, by_size, by_block, by_others])
@pytest.mark.parametrize("N", [16, 600], ids=["small", "large"])
def test_an_unsuitable_blas_is_named(fault, N, monkeypatch):
    monkeypatch.setattr(blas, "describe", lambda: "some-blas 1.2, kernel Some")
    weights = LSTMWeights.random(16, N, seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(products.np, "matmul", faulty(fault))
        patch.setattr(batch_invariance, "_WORK", 1_000_000)
        for kind in (LSTMCell, LSTM):
            with pytest.raises(
                RuntimeError, match=r"batch_invariant=True can't be kept here: .* \(some-blas 1.2, kernel"
            ):
                kind(weights, backend="numpy", batch_invariant=True)
            kind(weights, backend="numpy")
    LSTMCell(weights, backend="numpy", batch_invariant=True)


def test_each_layer_is_tried_once(monkeypatch):
    tried, check = [], batch_invariance.check
    monkeypatch.setattr(batch_invariance, "check", lambda engine: tried.append(engine.sizes) or check(engine))
    lstm = layers()
    assert tried == [(20, 20, 20)] * 2
    lstm.set_weights(lstm.weights)
    cell = make(input_size=3, hidden_size=129)
    other = LSTMWeights.random(3, 129, seed=1)
    cell.set_weights(other)
    assert len(tried) == 3
    assert cell._engine.scratch.take().memory.rows == 0, "the trial should leave no memory behind"
    x, state = random_inputs(cell, 20)
    twin = LSTMCell(other, backend="numpy", batch_invariant=True)
    assert bits(pairs(cell(x, state))) == bits(pairs(twin(x, state))) == bits(pairs(alone(cell, x, state)))


@pytest.mark.parametrize(("rolls", "least"), [(-1, 2), (0, 2), (5, 5), (8, 8), (99, 8)])
def test_batches_cover_places_and_sizes(rolls, least):
    """The batches move rows to other places, among their own block and among wild rows, and vary in size."""
    own, among, *others = batch_invariance._batches(rolls)
    for block in own.reshape(-1, 8):
        assert sorted(block) == list(range(8))
        assert (block != np.arange(8)).all() or rolls >= 8
    assert len(np.unique(own.reshape(-1, 8), axis=0)) == least
    assert ((among.reshape(-1, 8) < 8).sum(axis=1) == 1).all()
    places = {(row, place) for place, row in enumerate(among) if row < 8}
    assert len({row for row, _ in places}) == len({place % 8 for _, place in places}) == least
    assert [len(batch) for batch in others] == [1, 7, 9, 17]


def test_weights_may_be_nan_or_huge():
    """The trial neither warns nor fails."""
    weights = LSTMWeights.random(3, 4, seed=0)
    for value in (np.nan, np.inf, 1e38, 0):
        arrays = {name: np.full_like(getattr(weights, name), value) for name in ("weight_ih", "weight_hh", "bias")}
        with np.errstate(all="raise"):
            LSTMCell(LSTMWeights(**arrays), backend="numpy", batch_invariant=True)


@pytest.mark.parametrize("kind", [LSTMCell, LSTM])
def test_copies_and_repr_keep_the_option(kind):
    weights = LSTMWeights.random(3, 4, seed=0)
    one = kind(weights, backend="numpy", batch_invariant=True)
    assert repr(one) == repr(kind(weights, backend="numpy"))[:-1] + ", batch_invariant=True)"
    for twin in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert repr(twin) == repr(one)
    assert "batch_invariant" not in repr(kind(weights, backend="numpy"))


@pytest.mark.parametrize("kind", [LSTMCell, LSTM])
def test_a_value_that_is_not_a_bool_raises(kind, backend):
    weights = LSTMWeights.random(3, 4, seed=0)
    for value in (1, None, "yes", np.True_):
        with pytest.raises(TypeError, match="batch_invariant: wanted a bool; got "):
            kind(weights, backend=backend, batch_invariant=value)
    kind(weights, backend=backend, batch_invariant=False)
