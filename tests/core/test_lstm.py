"""LSTM: layers, directions, time, lengths and resets."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights
from fusedlstm.backends.numpy.cell import NumpyCell

from support import sequences
from support.backends import needs_cuda
from support.cells import host, random_state

T, B, I, N = 7, 4, 3, 5
DIRECTIONS = {"bidirectional": ["both"] * 2, "mixed": ["both", "backward"]}


def random_stack(rng, *, layers=2, shape="forward", residual=False, dtype="float64"):
    """Return layers of different sizes, some with a projection, peepholes or clips, in the directions of a shape."""
    ways, width, stack = ways_of(shape, layers, rng), I, []
    residual = [residual] * layers if isinstance(residual, bool) else residual
    for way, is_residual in zip(ways, residual, strict=True):
        directions = []
        for _ in range(2 if way == "both" else 1):
            proj = int(rng.integers(1, 5)) if rng.random() < 0.5 else None
            N = int(rng.integers(1, 7))
            if is_residual:
                N, proj = (width, None) if rng.random() < 0.5 else (N, width)
            directions.append(
                LSTMWeights.random(
                    width,
                    N,
                    seed=int(rng.integers(1 << 30)),
                    proj_size=proj,
                    bias=bool(rng.integers(2)),
                    peephole=bool(rng.integers(2)),
                    cell_clip=0.6 if rng.random() < 0.3 else None,
                    proj_clip=0.2 if proj and rng.random() < 0.3 else None,
                    dtype=dtype,
                )
            )
        stack += directions
        width = sum(weights.output_size for weights in directions)
    return StackedWeights(stack, directions=ways, residual=residual)


def ways_of(shape, layers, rng):
    """Return the direction of each layer. A call reverses those of "reverse"."""
    if shape == "mixed":
        return [str(way) for way in rng.choice(["forward", "backward", "both"], layers)]
    return ["both" if shape == "bidirectional" else "forward"] * layers


def random_states(lstm, B, rng):
    """Return a random state for each layer and direction, on the LSTM's device."""
    c_dtype = lstm.zero_state(0)[0].c.dtype
    return tuple(
        LSTMState(
            h=lstm.asarray(rng.uniform(-1, 1, (B, layer.output_size))),
            c=lstm.asarray(rng.normal(size=(B, layer.hidden_size)), c_dtype),
        )
        for layer in lstm.weights.layers
    )


def on_host(states):
    return [state.to_numpy() for state in states]


def by_time(state):
    """Return a state of every step, (B, T, K), as (T, B, K)."""
    return LSTMState(h=state.h.swapaxes(0, 1), c=state.c.swapaxes(0, 1))


def plain(backend, dtype="float64", **options):
    weights = StackedWeights.random(I, N, 2, seed=0, dtype=dtype, **options)
    return LSTM(weights, backend=backend)


def assert_close(got, wanted, tolerance=1e-12):
    outputs, states = got
    wanted_outputs, wanted_states = wanted
    pairs = [("outputs", outputs, wanted_outputs)]
    for k, (state, other) in enumerate(zip(states, wanted_states, strict=True)):
        pairs += [(f"h{k}", state.h, other.h), (f"c{k}", state.c, other.c)]
    for name, a, b in pairs:
        a, b = host(a).astype(np.float64), host(b).astype(np.float64)
        assert a.shape == b.shape, name
        assert np.isfinite(a).all(), name
        assert a.size == 0 or np.abs(a - b).max() <= tolerance, name


def assert_same_bits(got, wanted, rows=slice(None)):
    np.testing.assert_array_equal(host(got[0])[:, rows], host(wanted[0])[:, rows])
    for a, b in zip(on_host(got[1]), on_host(wanted[1]), strict=True):
        np.testing.assert_array_equal(a.h[rows], b.h[rows])
        np.testing.assert_array_equal(a.c[rows], b.c[rows])


# Backward through several chunks on a GPU, where the reset before a step is marked in another chunk.
@example(0, 11, 5, 2, "reverse", False, None, "rows", "zero", False, False)
@settings(max_examples=60)
@given(
    seed=st.integers(0, 1 << 30),
    T=st.sampled_from([0, 1, 2, 5, 9]),
    B=st.sampled_from([0, 1, 2, 5]),
    layers=st.integers(1, 3),
    shape=st.sampled_from(["forward", "reverse", "bidirectional", "mixed", "mixed"]),
    residual=st.sampled_from([False, True, "the second"]),
    steps=st.sampled_from([None, "lengths", "mask"]),
    reset=st.sampled_from([None, "zero", "one row", "rows"]),
    rule=st.sampled_from(["zero", "last"]),
    batch_first=st.booleans(),
    cells=st.booleans(),
)
def test_equals_row_by_row(
    backend_of_properties, seed, T, B, layers, shape, residual, steps, reset, rule, batch_first, cells
):
    rng = np.random.default_rng(seed)
    residual = [k == 1 for k in range(layers)] if residual == "the second" else residual
    weights = random_stack(rng, layers=layers, shape=shape, residual=residual)
    lstm = LSTM(weights, batch_first=batch_first, backend=backend_of_properties)
    xs, states = rng.normal(size=(T, B, I)), random_states(lstm, B, rng)
    options, active, is_first, reset_to = {}, None, None, None
    if steps == "lengths":
        options["lengths"] = rng.integers(0, T + 1, B)
        active = np.arange(T)[:, None] < options["lengths"]
    elif steps == "mask":
        active = options["mask"] = rng.random((T, B)) < 0.6
    if reset:
        is_first = options["is_first"] = rng.random((T, B)) < 0.3
    if reset in ("one row", "rows"):
        reset_to = options["reset_to"] = random_states(lstm, 1 if reset == "one row" else B, rng)
    if batch_first:
        options |= {name: options[name].T for name in ("mask", "is_first") if name in options}
    got, finals, *every = lstm(
        lstm.asarray(xs.swapaxes(0, 1) if batch_first else xs),
        states,
        reverse=shape == "reverse",
        masked_outputs=rule,
        cells=cells,
        **options,
    )
    assert got.flags.c_contiguous
    got = got.swapaxes(0, 1) if batch_first else got
    if B == 0:
        assert got.shape == (T, 0, weights.output_size)
        assert [state.c.shape for state in finals] == [(0, layer.hidden_size) for layer in weights.layers]
        return
    wanted_every = []
    wanted = sequences.run(
        weights,
        xs,
        on_host(states),
        active=active,
        is_first=is_first,
        reset_to=None if reset_to is None else on_host(reset_to),
        reverse=shape == "reverse",
        last=rule == "last",
        cells=wanted_every if T else None,
    )
    assert_close((got, finals), wanted)
    if cells:
        turned = [by_time(state) for state in every[0]] if batch_first else every[0]
        assert_close((got, turned), (wanted[0], wanted_every or turned))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", ["forward", "reverse", "bidirectional", "mixed"])
def test_dtypes_agree_with_float64(dtype, shape, backend):
    rng = np.random.default_rng(3)
    weights = random_stack(rng, shape=shape, residual=True, dtype=dtype)
    lstm, exact = LSTM(weights, backend=backend), LSTM(weights.astype("float64"), backend="numpy")
    assert lstm.dtype == weights.dtype
    xs = lstm.asarray(rng.normal(size=(T, B, I)))
    states = random_states(lstm, B, rng)
    options = {"lengths": [7, 0, 3, 5], "is_first": rng.random((T, B)) < 0.3, "reverse": shape == "reverse"}
    got = lstm(xs, states, reset_to=states, **options)
    assert got[0].dtype == weights.dtype
    assert {state.c.dtype for state in got[1]} == {lstm.zero_state(0)[0].c.dtype}
    wide = tuple(LSTMState(h=s.h.astype("float64"), c=s.c.astype("float64")) for s in on_host(states))
    wanted = exact(host(xs).astype("float64"), wide, reset_to=wide, **options)
    assert_close(got, wanted, {"float64": 1e-13, "float32": 3e-6, "float16": 8e-3, "bfloat16": 6e-2}[dtype])


@pytest.mark.parametrize("shape", ["forward", "reverse"])
def test_pieces_make_the_whole(shape, backend):
    lstm, rng = plain(backend), np.random.default_rng(1)
    xs, states = lstm.asarray(rng.normal(size=(T, B, I))), random_states(lstm, B, rng)
    is_first = rng.random((T, B)) < 0.3
    if shape == "reverse":
        is_first[3] = False  # backwards, the first piece can't see that a sequence begins at step 3
    reverse = shape == "reverse"
    whole = lstm(xs, states, is_first=is_first, reverse=reverse)
    pieces, parts = [slice(0, 3), slice(3, 3), slice(3, T)], {}
    for piece in reversed(pieces) if reverse else pieces:
        parts[piece.start, piece.stop], states = lstm(xs[piece], states, is_first=is_first[piece], reverse=reverse)
    outputs = np.concatenate([host(parts[piece.start, piece.stop]) for piece in pieces])
    assert_close((outputs, states), whole)


def test_steps_make_the_whole(backend):
    rng = np.random.default_rng(2)
    lstm = LSTM(random_stack(rng, layers=3, residual=True), backend=backend)
    xs, states = lstm.asarray(rng.normal(size=(T, B, I))), random_states(lstm, B, rng)
    is_first, reset_to = rng.random((T, B)) < 0.3, random_states(lstm, 1, rng)
    whole = lstm(xs, states, is_first=is_first, reset_to=reset_to)
    outputs = []
    for t in range(T):
        output, states = lstm.step(xs[t], states, is_first=is_first[t], reset_to=reset_to)
        outputs.append(host(output))
    assert_close((np.stack(outputs), states), whole)


def test_one_layer_is_the_cell(backend):
    weights = LSTMWeights.random(I, N, seed=0, peephole=True)
    lstm, cell = LSTM(weights, backend=backend), LSTMCell(weights, backend=backend)
    rng = np.random.default_rng(0)
    x, state = cell.asarray(rng.normal(size=(B, I))), random_state(cell, B, rng)
    output, (new,) = lstm.step(x, (state,))
    wanted = cell(x, state)
    assert_same_bits((output[None], [new]), (wanted.h[None], [wanted]))
    assert output is new.h


@pytest.mark.parametrize("B", [1, 3, 40])
def test_no_inputs(B, backend):
    """Layers of input size 0 run on their own states."""
    weights = LSTMWeights.random(0, N, seed=0)
    lstm, cell = LSTM(weights, backend=backend), LSTMCell(weights, backend=backend)
    (state,) = random_states(lstm, B, np.random.default_rng(0))
    outputs, _ = lstm(lstm.asarray(np.zeros((T, B, 0))), (state,))
    for output in outputs:
        state = cell(cell.asarray(np.zeros((B, 0))), state)
        np.testing.assert_allclose(host(output), host(state.h), atol=1e-6)


def test_no_state_is_zeros(backend):
    lstm, rng = plain(backend), np.random.default_rng(4)
    xs = lstm.asarray(rng.normal(size=(T, B, I)))
    assert_same_bits(lstm(xs), lstm(xs, lstm.zero_state(B)))


@pytest.mark.parametrize("shape", ["forward", "reverse", "bidirectional", "mixed"])
@pytest.mark.parametrize("rule", ["zero", "last"])
def test_rows_do_not_depend_on_neighbours(shape, rule, backend):
    """No bit of a row depends on the values, lengths or resets of other rows, even if they are NaN."""
    lstm = plain(backend, "float32", directions=DIRECTIONS.get(shape))
    rng = np.random.default_rng(5)
    values, states = rng.normal(size=(T, B, I)), random_states(lstm, B, rng)
    options = {"reverse": shape == "reverse", "masked_outputs": rule}
    lengths, is_first = np.full(B, T), np.zeros((T, B), bool)
    lengths[0], is_first[4, 0] = 6, True
    calm = lstm(lstm.asarray(values), states, lengths=lengths, is_first=is_first, **options)
    values[:, 1] = np.nan
    values[2, 2] = np.inf
    lengths[1], lengths[2] = 0, 2
    is_first[3:, 1:3] = True
    nan = lstm.asarray(np.where(np.arange(B)[:, None] == 1, np.nan, host(states[0].h)))
    wild = (LSTMState(h=nan, c=states[0].c), *states[1:])
    got = lstm(lstm.asarray(values), wild, lengths=lengths, is_first=is_first, **options)
    for row in (0, 3):
        assert_same_bits(got, calm, rows=slice(row, row + 1))
    assert np.isnan(host(got[1][0].h)[1]).all()  # of length 0


def test_padding_has_no_effect(backend):
    """Values past a row's length change nothing, even NaN."""
    lstm, rng = plain(backend, bidirectional=True), np.random.default_rng(6)
    xs, states, lengths = rng.normal(size=(T, B, I)), random_states(lstm, B, rng), [7, 0, 2, 5]
    calm = lstm(lstm.asarray(xs), states, lengths=lengths)
    xs[np.arange(T)[:, None] >= np.array(lengths)] = np.nan
    got = lstm(lstm.asarray(xs), states, lengths=lengths)
    assert_same_bits(got, calm)
    assert not host(got[0])[:, 1].any()
    for state, initial in zip(on_host(got[1]), on_host(states), strict=True):
        np.testing.assert_array_equal(state.h[1], initial.h[1])
        np.testing.assert_array_equal(state.c[1], initial.c[1])


def test_reset_is_a_new_start(backend):
    """A reset row is a new sequence, even if its state was NaN."""
    lstm, rng = plain(backend), np.random.default_rng(7)
    xs, values = rng.normal(size=(T, B, I)), None
    values = xs.copy()
    values[:3, 2] = np.nan
    is_first = np.zeros((T, B), bool)
    is_first[3, 2] = True
    fresh = random_states(lstm, 1, rng)
    got, states = lstm(lstm.asarray(values), is_first=is_first, reset_to=fresh)
    alone, final = lstm(lstm.asarray(xs[3:, 2:3]), fresh)
    assert_close((host(got)[3:, 2:3], [LSTMState(h=s.h[2:3], c=s.c[2:3]) for s in on_host(states)]), (alone, final))


def test_results_are_new_arrays(backend):
    """Writing to the final states changes neither outputs nor arguments, even after zero steps."""
    lstm, rng = plain(backend), np.random.default_rng(8)
    xs, states = lstm.asarray(rng.normal(size=(T, B, I))), random_states(lstm, B, rng)
    before = [(s.h.copy(), s.c.copy()) for s in on_host(states)]
    for steps in (0, 1, T):
        outputs, finals = lstm(xs[:steps], states)
        kept = host(outputs).copy()
        for final in finals:
            final.h.fill(9)
            final.c.fill(9)
        np.testing.assert_array_equal(host(outputs), kept)
        for state, (h, c) in zip(on_host(states), before, strict=True):
            np.testing.assert_array_equal(state.h, h)
            np.testing.assert_array_equal(state.c, c)


def test_inputs_of_any_strides(backend):
    lstm, rng = plain(backend), np.random.default_rng(9)
    wide = lstm.asarray(rng.normal(size=(B, 2 * T, I + 2)))
    xs = wide.swapaxes(0, 1)[::2, :, 1 : I + 1]
    assert not xs.flags.c_contiguous
    states = tuple(
        LSTMState(
            h=lstm.asarray(np.asfortranarray(rng.normal(size=(B, N)))),
            c=lstm.asarray(rng.normal(size=(B, 2 * N)))[:, ::2],
        )
        for _ in range(2)
    )
    apart = tuple(LSTMState(h=lstm.asarray(s.h.copy()), c=lstm.asarray(s.c.copy())) for s in on_host(states))
    for options in ({}, {"lengths": [7, 0, 3, 5]}, {"lengths": [7, 0, 3, 5], "reverse": True}):
        assert_close(lstm(xs, states, **options), lstm(lstm.asarray(host(xs).copy()), apart, **options))


def test_long_sequences_run_in_chunks(backend, monkeypatch):
    monkeypatch.setattr("fusedlstm.backends.numpy.cell_sequence._CHUNK", 400)
    if backend == "cuda":
        monkeypatch.setattr("fusedlstm.backends.cuda.static_sequence._MOST_GATES", 8 * 400)
    rng = np.random.default_rng(10)
    lstm = plain(backend, bidirectional=True)
    if backend == "numpy":
        assert all(1 < engine.sequence.steps_at_once(B) < T for engine in lstm._layers.engines)
    xs, states = rng.normal(size=(T, B, I)), random_states(lstm, B, rng)
    is_first = rng.random((T, B)) < 0.3
    got = lstm(lstm.asarray(xs), states, lengths=[7, 6, 1, 0], is_first=is_first)
    active = np.arange(T)[:, None] < [7, 6, 1, 0]
    assert_close(got, sequences.run(lstm.weights, xs, on_host(states), active=active, is_first=is_first))


def test_masks_of_any_kind(backend):
    lstm, rng = plain(backend), np.random.default_rng(11)
    xs, is_first = lstm.asarray(rng.normal(size=(T, B, I))), rng.random((T, B)) < 0.3
    device = lstm.xp.asarray(is_first)
    wanted = lstm(xs, is_first=is_first, lengths=[1, 2, 3, 4])
    assert_same_bits(lstm(xs, is_first=is_first.tolist(), lengths=np.array([1, 2, 3, 4], np.uint8)), wanted)
    assert_same_bits(lstm(xs, is_first=device, lengths=lstm.xp.asarray(np.array([1, 2, 3, 4]))), wanted)
    both = plain(backend, bidirectional=True)
    assert_same_bits(both(xs, is_first=device), both(xs, is_first=is_first))


def weight_places(lstm):
    """Return the addresses of a GPU's weights, which must not move, or None on NumPy."""
    return [engine.weights.weight_hh.data.ptr for engine in lstm._layers.engines] if lstm.backend == "cuda" else None


def test_set_weights_during_a_sequence(monkeypatch):
    """A sequence ends with the weights it began with, in all layers, even if others are set meanwhile."""
    old, new = (StackedWeights.random(I, N, 2, seed=seed, dtype="float64") for seed in (0, 1))
    lstm, xs = LSTM(old, backend="numpy"), np.random.default_rng(0).normal(size=(T, B, I))
    wanted = lstm(xs)
    steps, bound_step = [], NumpyCell.bound_step

    def interrupted(*arguments):
        run = bound_step(*arguments)

        def step(c, h_out, c_out):
            steps.append(c)
            if len(steps) == 3:
                lstm.set_weights(new)
            run(c, h_out, c_out)

        return step

    monkeypatch.setattr(NumpyCell, "bound_step", interrupted)
    assert_same_bits(lstm(xs), wanted)
    assert len(steps) == 2 * T
    assert_same_bits(lstm(xs), LSTM(new, backend="numpy")(xs))


def made_as(kind, array, lstm):
    """Return booleans as a caller may pass them: in a list, on the host, or on the LSTM's device."""
    if kind == "list":
        return array.tolist()
    return lstm.xp.asarray(array) if kind == "device" else array


@pytest.mark.parametrize("what", ["is_first", "mask", "lengths", "is_first, mask", "is_first, lengths"])
@pytest.mark.parametrize("shape", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", ["list", "host", "device"])
def test_flags_and_masks_keep_their_axes(kind, shape, what, backend):
    """If T = B, shapes can't tell the two axes of flags and of a mask apart. Only results can."""
    count = 4
    weights = StackedWeights.random(I, N, 2, seed=0, dtype="float64", bidirectional=shape == "bidirectional")
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(count, count, I))
    flags = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [1, 1, 0, 0]], bool)  # (T, B)
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1]], bool)
    lengths = np.array([4, 1, 0, 3])
    given = {"is_first": flags, "mask": mask, "lengths": lengths}
    given = {name: array for name, array in given.items() if name in what.split(", ")}
    for batch_first in (False, True):
        lstm = LSTM(weights, batch_first=batch_first, backend=backend)
        states = random_states(lstm, count, np.random.default_rng(1))
        turned = {name: array.T.copy() if batch_first and array.ndim == 2 else array for name, array in given.items()}
        options = {name: made_as(kind, array, lstm) for name, array in turned.items()}
        inputs = lstm.asarray(np.ascontiguousarray(xs.swapaxes(0, 1)) if batch_first else xs)
        got, finals = lstm(inputs, states, reverse=shape == "reverse", **options)
        got = host(got).swapaxes(0, 1) if batch_first else host(got)
        active = {"active": mask} if "mask" in given else {"lengths": lengths} if "lengths" in given else {}
        is_first = {"is_first": flags} if "is_first" in given else {}
        wanted = sequences.run(weights, xs, on_host(states), reverse=shape == "reverse", **active, **is_first)
        assert_close((got, finals), wanted)


def test_set_weights(backend):
    """Set weights a thousand times, in place. The LSTM then equals a new one."""
    lstm, rng = plain(backend), np.random.default_rng(12)
    xs, states = lstm.asarray(rng.normal(size=(2, B, I))), random_states(lstm, B, rng)
    places = weight_places(lstm)
    for seed in range(1000):
        weights = StackedWeights.random(I, N, 2, seed=seed, dtype="float64")
        lstm.set_weights(weights)
        if seed % 50 == 0:
            assert_same_bits(lstm(xs, states), LSTM(weights, backend=backend)(xs, states))
    assert lstm.weights is weights
    assert weight_places(lstm) == places


def test_set_weights_of_a_cell(backend):
    options = {"proj_size": 2, "peephole": True, "proj_clip": 0.3}
    cell = LSTMCell(LSTMWeights.random(I, N, seed=0, **options), backend=backend)
    rng = np.random.default_rng(13)
    x, state = cell.asarray(rng.normal(size=(B, I))), random_state(cell, B, rng)
    for seed in range(1000):
        weights = LSTMWeights.random(I, N, seed=seed, **options)
        cell.set_weights(weights)
        got, wanted = cell(x, state), LSTMCell(weights, backend=backend)(x, state)
        assert_same_bits((got.h[None], [got]), (wanted.h[None], [wanted]))
    assert cell.weights is weights


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 6}, "hidden_size 5, as in the old weights; got 6"),
        ({"input_size": 4}, "input_size 3, as in the old weights; got 4"),
        ({"proj_size": 5}, "proj_size None, as in the old weights; got 5"),
        ({"dtype": "float64"}, "dtype float32, as in the old weights; got float64"),
        ({"bias": False}, "bias given, as in the old weights; got missing"),
        ({"peephole": True}, "peephole missing, as in the old weights; got given"),
        ({"cell_clip": 1.0}, "cell_clip None, as in the old weights; got 1.0"),
        ({"activation": "relu"}, "activation tanh, as in the old weights; got relu"),
        ({"output_activation": ("elu", 0.5)}, r"output_activation None, as in the old weights; got \('elu', 0\.5\)"),
        ({"coupled_gate": "input"}, "coupled_gate None, as in the old weights; got input"),
    ],
)
def test_set_weights_refuses_another_form(options, message, backend):
    weights = LSTMWeights.random(I, N, seed=0)
    other = LSTMWeights.random(**({"input_size": I, "hidden_size": N, "seed": 0} | options))
    cell, lstm = LSTMCell(weights, backend=backend), LSTM(weights, backend=backend)
    with pytest.raises(ValueError, match=f"^weights: wanted {message}"):
        cell.set_weights(other)
    with pytest.raises(ValueError, match=rf"^weights\.layers\[0\]: wanted {message}"):
        lstm.set_weights(other)
    assert cell.weights is weights
    assert lstm.weights.layers[0] is weights


def test_set_weights_refuses_another_stack(backend):
    lstm = plain(backend)
    for other in (
        StackedWeights.random(I, N, 3, seed=0, dtype="float64"),
        StackedWeights.random(I, N, 1, seed=0, dtype="float64", bidirectional=True),
    ):
        with pytest.raises(ValueError, match=r"^weights: wanted num_layers 2, as in the old weights; got "):
            lstm.set_weights(other)
    other = StackedWeights.random(I, N, 2, seed=0, dtype="float64", residual=[False, True])
    with pytest.raises(ValueError, match=r"^weights: wanted residual \(False, False\), as .*; got \(False, True\)"):
        lstm.set_weights(other)
    with pytest.raises(TypeError, match="weights: wanted an LSTMWeights or a StackedWeights; got int"):
        lstm.set_weights(3)


def test_copies_and_pickles(backend):
    rng = np.random.default_rng(14)
    weights = random_stack(rng, shape="mixed")
    lstm = LSTM(weights, batch_first=True, precision="high", backend=backend)
    xs = lstm.asarray(rng.normal(size=(B, T, I)))
    for other in (copy.copy(lstm), pickle.loads(pickle.dumps(lstm))):
        assert other._options == lstm._options
        assert (other.backend, other.device, other.batch_first) == (lstm.backend, lstm.device, True)
        assert_same_bits(other(xs), lstm(xs))
    assert repr(lstm) == f"LSTM({weights!r}, batch_first=True, backend={backend!r})"


@pytest.mark.parametrize("B", [1, 4])
def test_gates_are_held_for_few_steps_at_once(B, monkeypatch):
    """Only inputs, outputs and masks need memory that grows with T."""
    lstm, held, limit = plain("numpy"), [], 1000
    monkeypatch.setattr("fusedlstm.backends.numpy.cell_sequence._CHUNK", limit)
    engine = type(lstm._layers.engines[0].sequence)
    input_gates = engine.input_gates
    monkeypatch.setattr(engine, "input_gates", lambda self, xs: held.append(xs.shape) or input_gates(self, xs))
    lstm(lstm.asarray(np.zeros((300, B, I))))
    assert sum(steps for steps, _, _ in held) == 2 * 300
    assert all(4 * N * steps * B <= limit for steps, _, _ in held)
    assert len(held) <= 2 * (300 // (limit // (4 * N * B)) + 1)


def test_memory_does_not_grow_with_the_sequence():
    """NumPy's loop allocates a bounded amount of memory beyond the outputs."""
    lstm = LSTM(LSTMWeights.random(I, N, seed=0), backend="numpy")

    def beyond_outputs(steps):
        xs = np.zeros((steps, B, I), np.float32)
        tracemalloc.start()
        outputs, _ = lstm(xs)
        peak = tracemalloc.get_traced_memory()[1] - outputs.nbytes
        tracemalloc.stop()
        return peak

    beyond_outputs(10)
    chunk = 4 * (1 << 17)  # bytes of the gates of float32
    assert beyond_outputs(20_000) < 4 * chunk


@needs_cuda
def test_batches_larger_than_a_chunk(monkeypatch):
    rng = np.random.default_rng(0)
    xs, wanted = rng.normal(size=(3, B, I)), plain("cuda")
    wanted = wanted(wanted.asarray(xs))
    monkeypatch.setattr("fusedlstm.backends.cuda.static_sequence._MOST_GATES", 1)
    lstm = plain("cuda")
    assert_close(lstm(lstm.asarray(xs)), wanted)


@needs_cuda
def test_on_another_device():
    """Run sequences, copies and set_weights on the second GPU, and refuse arrays of the first."""
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two GPUs")
    rng = np.random.default_rng(15)
    weights = random_stack(rng, layers=2, shape="bidirectional", residual=True)
    here, there = LSTM(weights, backend="numpy"), LSTM(weights, backend="cuda:1")
    xs, lengths, is_first = rng.normal(size=(T, B, I)), [7, 0, 3, 5], rng.random((T, B)) < 0.3
    for lstm in (there, pickle.loads(pickle.dumps(there))):
        assert lstm.device == "cuda:1"
        outputs, states = lstm(lstm.asarray(xs), lengths=lengths, is_first=is_first)
        assert outputs.device.id == states[0].c.device.id == 1
        assert_close((outputs, states), here(xs, lengths=lengths, is_first=is_first))
    other = StackedWeights([random_like(one) for one in weights.layers], bidirectional=True, residual=True)
    there.set_weights(other)
    assert_close(there(there.asarray(xs)), LSTM(other, backend="numpy")(xs))
    with pytest.raises(ValueError, match="like: wanted an array on cuda:1; got one on cuda:0"):
        there.zero_state(B, like=cupy.asarray(xs))


def random_like(weights):
    """Return other weights of the same form."""
    arrays = {name: -array[::-1] for name, array in weights.arrays().items()}
    return LSTMWeights(**arrays, **weights.options())


@needs_cuda
def test_precision_reaches_the_products(monkeypatch):
    from fusedlstm.backends.cuda.runtime import cublaslt

    asked, compute_type = [], cublaslt.compute_type
    monkeypatch.setattr(cublaslt, "compute_type", lambda *a: asked.append(a[1]) or compute_type(*a))
    weights = LSTMWeights.random(I, N, seed=0, proj_size=2)
    for precision in ("highest", "high"):
        lstm = LSTM(weights, precision=precision, kernel="matmul", backend="cuda")
        lstm(lstm.asarray(np.zeros((2, B, I))))
        assert set(asked) == {precision}
        asked.clear()


def test_cached_checks_depend_on_types(backend):
    """An object that only looks like a state is refused, even after a valid call with the same shapes."""
    import types

    lstm = plain(backend)
    x, states = lstm.asarray(np.zeros((B, I))), lstm.zero_state(B)
    lstm.step(x, states)
    likes = tuple(types.SimpleNamespace(h=state.h, c=state.c) for state in states)
    with pytest.raises(TypeError, match=r"state\[0\]: wanted an LSTMState"):
        lstm.step(x, likes)
    for size in range(300):
        lstm.step(x[:0].repeat(0, axis=0) if size == 0 else lstm.asarray(np.zeros((size, I))), lstm.zero_state(size))
    assert len(lstm._known) <= 256
