"""Stepper: buffers stay in place, states change in place, and numbers equal the cell's and the LSTM's."""

import copy
import pickle
import threading
import tracemalloc

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, Stepper

from support import tolerances
from support.backends import WAYS, backend_in_a_way
from support.cells import GENERAL, host

T = 6
OPTIONS = {
    "plain": {},
    "no bias": {"bias": False},
    "peephole": {"peephole": True, "cell_clip": 0.4},
    "projection": {"proj_size": 3},
    "clipped projection": {"proj_size": 3, "proj_clip": 0.05, "peephole": True},
    "relu": {"activation": "relu"},
}
DTYPES = ["float64", "float32", "float16", "bfloat16"]


@pytest.fixture(params=WAYS)
def backend(request, monkeypatch):
    """Each backend, and on a GPU both ways of stepping."""
    return backend_in_a_way(request, monkeypatch)


def inputs(owner, B, seed=0):
    """Return T inputs (B, I), and flags (B,) or None for each."""
    random = np.random.default_rng(seed)
    xs = [owner.asarray(random.normal(size=(B, owner.weights.input_size))) for _ in range(T)]
    flags = random.random((T, B)) < 0.3
    return xs, [first if first.any() else None for first in flags]


def layers(owner, B, **options):
    """Return the outputs after each step and the last state, from calls of a Stepper's owner."""
    xs, flags = inputs(owner, B)
    state, outputs = owner.zero_state(B), []
    reset_to = options.get("reset_to")
    for x, first in zip(xs, flags, strict=True):
        resets = {} if first is None else {"is_first": first, "reset_to": reset_to}
        if isinstance(owner, LSTMCell):
            state = owner(x, state, **resets)
            output = state.h
        else:
            output, state = owner.step(x, state, **resets)
        outputs.append(host(output))
    return outputs, state


def states_of(state):
    return (state,) if isinstance(state, LSTMState) else state


def assert_same_states(got, wanted, tolerance):
    for mine, other in zip(states_of(got), states_of(wanted), strict=True):
        assert_near(mine.h, other.h, tolerance)
        assert_near(mine.c, other.c, tolerance)


def assert_near(got, wanted, tolerance):
    got, wanted = host(got).astype(np.float64), host(wanted).astype(np.float64)
    assert np.isfinite(got).all()
    assert np.abs(got - wanted).max() <= tolerance


def run(stepper, owner, B):
    """Step through the inputs, by buffers and by arguments in turn, and return the outputs."""
    xs, flags = inputs(owner, B)
    outputs = []
    for t, (x, first) in enumerate(zip(xs, flags, strict=True)):
        if t % 2:
            stepper.x[...] = x
            if first is not None:
                stepper.is_first[...] = owner.xp.asarray(first)
            outputs.append(host(stepper.step()).copy())
        else:
            outputs.append(host(stepper.step(x, first)).copy())
    return outputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("B", [1, 5, 33])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_stepper_equals_the_cell(backend, options, B, dtype):
    cell = LSTMCell(LSTMWeights.random(7, 12, seed=1, dtype=dtype, **OPTIONS[options]), backend=backend)
    stepper = cell.stepper(B)
    wanted, state = layers(cell, B)
    # Both round h to its dtype at each step, and differences in rounding accumulate.
    tolerance = T * 2 * tolerances.of(dtype, 20)
    for got, want in zip(run(stepper, cell, B), wanted, strict=True):
        assert_near(got, want, tolerance)
    assert_same_states(stepper.state, state, tolerance)
    assert_near(stepper.h, state.h, tolerance)
    assert_near(stepper.c, state.c, tolerance)
    assert stepper.batch == B


def three_layers(dtype="float64", **options):
    """Return layers of three sizes, the second with a projection, the last residual."""
    a = LSTMWeights.random(7, 12, seed=1, dtype=dtype, peephole=True)
    b = LSTMWeights.random(12, 9, seed=2, dtype=dtype, proj_size=5, proj_clip=0.1)
    c = LSTMWeights.random(5, 5, seed=3, dtype=dtype, cell_clip=0.5)
    return StackedWeights([a, b, c], residual=[False, False, True])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("B", [1, 17])
def test_a_stepper_equals_the_lstm(backend, B, dtype):
    lstm = LSTM(three_layers(dtype), backend=backend)
    stepper = lstm.stepper(B)
    wanted, state = layers(lstm, B)
    tolerance = T * 2 * tolerances.of(dtype, 20)
    for got, want in zip(run(stepper, lstm, B), wanted, strict=True):
        assert_near(got, want, tolerance)
    assert isinstance(stepper.state, tuple)
    assert_same_states(stepper.state, state, tolerance)


@pytest.mark.parametrize("residual", [[True, True], [True, False], [False, False]])
def test_residual_layers(backend, residual):
    lstm = LSTM(StackedWeights.random(8, 8, 2, seed=0, dtype="float64", residual=residual), backend=backend)
    wanted, state = layers(lstm, 5)
    stepper = lstm.stepper(5)
    for got, want in zip(run(stepper, lstm, 5), wanted, strict=True):
        assert_near(got, want, 1e-12)
    assert_same_states(stepper.state, state, 1e-12)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 5])
def test_reset_to(backend, rows, dtype):
    """Reset rows start from the given state, even if it was changed since. Their NaN is gone."""
    lstm = LSTM(three_layers(dtype), backend=backend)
    random, c_dtype = np.random.default_rng(5), lstm.zero_state(0)[0].c.dtype
    reset_to = tuple(
        LSTMState(
            h=lstm.asarray(random.normal(size=(rows, w.output_size))),
            c=lstm.asarray(random.normal(size=(rows, w.hidden_size)), c_dtype),
        )
        for w in lstm.weights.layers
    )
    wanted, state = layers(lstm, 5, reset_to=reset_to)
    stepper = lstm.stepper(5, reset_to=reset_to)
    for each in reset_to:
        each.h.fill(np.nan)
    for got, want in zip(run(stepper, lstm, 5), wanted, strict=True):
        assert_near(got, want, T * 2 * tolerances.of(dtype, 20))
    for each in stepper.state:
        each.h.fill(np.nan)
        each.c.fill(np.nan)
    first = host(stepper.step(inputs(lstm, 5)[0][0], [True] * 5))
    assert np.isfinite(first).all()


def test_flags_last_one_step(backend):
    """Flags don't reset anything in the next step, whichever way they were given."""
    cell = LSTMCell(LSTMWeights.random(3, 4, seed=0, dtype="float64"), backend=backend)
    stepper, xs = cell.stepper(2), inputs(cell, 2)[0]
    stepper.step(xs[0])
    stepper.is_first[...] = True
    stepper.step(xs[1])
    assert not host(stepper.is_first).any()
    state = cell(xs[1], cell.zero_state(2))
    assert_same_states(stepper.state, state, 1e-13)
    stepper.step(xs[2])
    assert_same_states(stepper.state, cell(xs[2], state), 1e-13)


def test_other_rows_keep_their_bits(backend):
    """Rows that are reset or hold NaN don't change the bits of others."""
    cell = LSTMCell(LSTMWeights.random(3, 8, seed=0), backend=backend)
    xs, _ = inputs(cell, 6)
    results = []
    for spoiled in (False, True):
        stepper = cell.stepper(6)
        stepper.step(xs[0])
        stepper.is_first[...] = False
        if spoiled:
            stepper.is_first[2] = True
            stepper.h[4] = np.nan
        stepper.step(xs[1])
        stepper.step(xs[2])
        results.append((host(stepper.h), host(stepper.c)))
    others = [0, 1, 3, 5]
    for plain, spoiled in zip(*results, strict=True):
        np.testing.assert_array_equal(plain[others], spoiled[others])
        assert (plain[2] != spoiled[2]).any()
        assert np.isnan(spoiled[4]).all()


def test_states_in_place(backend):
    """A step reads what was written to h and c. It overwrites what it returned, except copies."""
    cell = LSTMCell(LSTMWeights.random(3, 4, seed=0, dtype="float64", proj_size=2), backend=backend)
    stepper, xs = cell.stepper(2), inputs(cell, 2)[0]
    state = cell(xs[0], cell.zero_state(2))
    stepper.h[...] = state.h
    stepper.c[...] = state.c
    first = stepper.step(xs[1])
    kept = stepper.step(xs[1], copy=True)
    before, kept_before = host(first).copy(), host(kept).copy()
    assert_near(stepper.step(xs[2]), first, 0)
    assert (host(first) != before).any()
    np.testing.assert_array_equal(host(kept), kept_before)
    assert kept.flags.c_contiguous


def test_write_read_and_reset(backend):
    lstm = LSTM(three_layers(), backend=backend)
    one, other = lstm.stepper(3), lstm.stepper(3)
    xs = inputs(lstm, 3)[0]
    one.step(xs[0])
    saved = one.read()
    one.step(xs[1])
    other.write(saved)
    other.step(xs[1])
    assert_same_states(other.read(), one.state, 0)
    assert_near(other.output, one.output, 0)
    other.reset()
    assert not any(host(array).any() for state in other.read() for array in (state.h, state.c))
    one.write(other.read())
    assert_near(one.step(xs[0]), other.step(xs[0]), 0)
    assert host(saved[0].h).any(), "read should return a copy"


def test_set_weights(backend):
    """New weights reach an existing stepper in order: earlier steps use the old ones."""
    old, new = (LSTMWeights.random(3, 4, seed=seed, proj_size=2, peephole=True, dtype="float64") for seed in (0, 1))
    cell = LSTMCell(old, backend=backend)
    stepper, xs = cell.stepper(2), inputs(cell, 2)[0]
    state = cell.zero_state(2)
    for k, weights in enumerate((old, new, old)):
        cell.set_weights(weights)
        stepper.step(xs[k])
        state = LSTMCell(weights, backend=backend)(xs[k], state)
        assert_same_states(stepper.state, state, 1e-13)


def test_set_weights_of_layers(backend):
    old, new = (StackedWeights.random(3, 4, 2, seed=seed, dtype="float64") for seed in (0, 1))
    lstm = LSTM(old, backend=backend)
    stepper, xs = lstm.stepper(2), inputs(lstm, 2)[0]
    stepper.step(xs[0])
    lstm.set_weights(new)
    stepper.step(xs[1])
    _, state = LSTM(old, backend=backend).step(xs[0], lstm.zero_state(2))
    _, state = LSTM(new, backend=backend).step(xs[1], state)
    assert_same_states(stepper.state, state, 1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_buffers_on_the_host(backend, dtype):
    """Inputs and outputs are NumPy arrays with the same numbers. States stay on the cell's device."""
    lstm = LSTM(three_layers(dtype), backend=backend)
    plain, stepper = lstm.stepper(5), lstm.stepper(5, host=True)
    xs, flags = inputs(lstm, 5)
    for x, first in zip(xs, flags, strict=True):
        if first is not None:
            stepper.is_first[...] = first
        stepper.x[...] = host(x)
        got, want = stepper.step(), plain.step(x, first)
        assert isinstance(got, np.ndarray)
        assert isinstance(stepper.x, np.ndarray)
        np.testing.assert_array_equal(got, host(want))
    for mine, other in zip(stepper.read(), plain.read(), strict=True):
        assert isinstance(mine.c, np.ndarray)
        np.testing.assert_array_equal(mine.h, host(other.h))
        np.testing.assert_array_equal(mine.c, host(other.c))
    stepper.write(tuple(state.to_numpy() for state in lstm.zero_state(5)))
    plain.reset()
    wanted = host(plain.step(xs[0]))
    np.testing.assert_array_equal(stepper.step(host(xs[0]), [False] * 5), wanted)
    np.testing.assert_array_equal(host(stepper.h), host(plain.h))
    np.testing.assert_array_equal(host(stepper.c), host(plain.c))


def test_one_thread_at_a_time(backend, monkeypatch):
    cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend=backend)
    stepper = cell.stepper(2)
    inside, go_on, errors = threading.Event(), threading.Event(), []
    real = stepper._engine.run

    def run(engines):
        inside.set()
        assert go_on.wait(10)
        real(engines)

    monkeypatch.setattr(stepper._engine, "run", run)
    thread = threading.Thread(target=stepper.step)
    thread.start()
    assert inside.wait(10)
    for call in (stepper.step, stepper.read, stepper.reset, lambda: stepper.write(cell.zero_state(2))):
        with pytest.raises(RuntimeError, match="another thread is using this Stepper, and it runs"):
            call()
    go_on.set()
    thread.join()
    stepper.step()


def test_a_failed_step_leaves_the_stepper_usable(backend):
    cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend=backend)
    stepper = cell.stepper(2)
    stepper.step(cell.asarray(np.ones((2, 3))))
    before = stepper.read()
    with pytest.raises(ValueError, match=r"^x: wanted shape \(B, I\) = \(2, 3\); got shape \(1, 3\)"):
        stepper.step(cell.asarray(np.ones((1, 3))), [True, True])
    assert_same_states(stepper.read(), before, 0)
    x = host(stepper.x).copy()
    with pytest.raises(ValueError, match=r"^is_first: wanted shape"):
        stepper.step(cell.asarray(np.zeros((2, 3))), [True])
    np.testing.assert_array_equal(host(stepper.x), x)
    stepper.step()


def case_errors():
    yield "batch", (0,), {}, ValueError, r"^batch: wanted at least 1; got 0$"
    yield "batch type", (2.0,), {}, TypeError, r"^batch: wanted an int; got float$"
    yield "host", (2,), {"host": 1}, TypeError, r"^host: wanted a bool; got int$"
    yield "like", (2,), {"like": 3}, TypeError, r"^like: wanted a "
    yield "reset", (2,), {"reset_to": (1, 2)}, TypeError, r"^reset_to: wanted an LSTMState"


@pytest.mark.parametrize(("args", "options", "error", "message"), [case[1:] for case in case_errors()])
def test_errors_of_construction(backend, args, options, error, message):
    cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend=backend)
    with pytest.raises(error, match=message):
        cell.stepper(*args, **options)


def test_errors_of_reset_to(backend):
    cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend=backend)
    with pytest.raises(ValueError, match=r"^reset_to\.h: wanted shape \(B, P\) = \(5, 4\); got shape \(2, 4\)"):
        cell.stepper(5, reset_to=cell.zero_state(2))
    lstm = LSTM(StackedWeights.random(3, 4, 2, seed=0), backend=backend)
    with pytest.raises(TypeError, match=r"^reset_to: wanted a tuple of 2 LSTMState"):
        lstm.stepper(5, reset_to=cell.zero_state(1))


def test_both_directions_are_refused(backend):
    lstm = LSTM(StackedWeights.random(3, 4, seed=0, bidirectional=True), backend=backend)
    with pytest.raises(ValueError, match=r"^owner: wanted a cell, or an LSTM whose layers .*; got .*\. The backward"):
        lstm.stepper(2)


def test_errors_of_a_step(backend):
    cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend=backend)
    stepper, x = cell.stepper(2), cell.asarray(np.ones((2, 3)))
    with pytest.raises(TypeError, match=r"^x: wanted dtype float32 \(the cell's\); got dtype float64"):
        stepper.step(cell.asarray(x, "float64"))
    with pytest.raises(TypeError, match=r"^is_first: wanted booleans"):
        stepper.step(x, [0.0, 1.0])
    with pytest.raises(ValueError, match=r"^is_first: wanted shape \(B,\) = \(2,\); got shape \(3,\)"):
        stepper.step(x, [True] * 3)
    with pytest.raises(ValueError, match=r"^state\.c: wanted shape \(B, N\) = \(2, 4\); got shape \(1, 4\)"):
        stepper.write(LSTMState(h=cell.zero_state(2).h, c=cell.zero_state(1).c))
    with pytest.raises(TypeError, match=r"^state: wanted an LSTMState"):
        stepper.write((x, x))


def test_repr_and_no_copies(backend):
    cell = LSTMCell(LSTMWeights.random(3, 4, seed=0), backend=backend)
    stepper = cell.stepper(2)
    assert isinstance(stepper, Stepper)
    assert repr(stepper) == f"Stepper({cell!r}, 2)"
    assert repr(cell.stepper(2, host=True)) == f"Stepper({cell!r}, 2, host=True)"
    for attempt in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match="a Stepper can't be copied or pickled"):
            attempt(stepper)


FUNCTIONS = {
    **{name: {"activation": name} for name in ("tanh", "elu", "softsign")},
    **{f"gates of {name}": options for name, options in GENERAL.items()},
}


@pytest.mark.sampled
@pytest.mark.parametrize("functions", FUNCTIONS)
@pytest.mark.parametrize(("B", "N", "dtype"), [(1, 128, "float32"), (1024, 256, "float32"), (64, 64, "float16")])
def test_memory_of_steps(B, N, dtype, functions):
    """Steps keep no memory and use little, whatever B and N."""
    options = FUNCTIONS[functions] | {"peephole": True, "cell_clip": 1.0, "proj_size": N // 2, "proj_clip": 1.0}
    cell = LSTMCell(LSTMWeights.random(N, N, seed=0, dtype=dtype, **options), backend="numpy")
    stepper, first = cell.stepper(B), np.arange(B) % 2 == 0

    def steps(count):
        for _ in range(count):
            stepper.is_first[...] = first
            stepper.step()
        return tracemalloc.get_traced_memory()

    count = 1000 if B == 1 else 10
    grown, used = [], []
    tracemalloc.start()
    try:
        for _ in range(3):  # take the minimum, as other threads of the process allocate too
            before, _ = steps(count)
            tracemalloc.reset_peak()
            after, peak = steps(count)
            grown.append(after - before)
            used.append(peak - before)
    finally:
        tracemalloc.stop()
    assert min(used) <= 192 << 10  # NumPy's own buffers have a fixed size
    assert min(grown) < 512  # the Python objects of this test itself


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batch_invariant(threads, dtype, monkeypatch):
    """A row has the bits that the cell gives it alone, even if rows are shared out among threads."""
    from fusedlstm.backends.numpy import blas
    from fusedlstm.backends.numpy import threads as rows

    monkeypatch.setattr(blas, "threads", lambda: threads)
    monkeypatch.setattr(rows, "_LEAST_WORK", 0)
    monkeypatch.setattr(rows, "_LEAST_STEP", 0)
    weights = LSTMWeights.random(9, 20, seed=0, dtype=dtype, proj_size=6)
    cell = LSTMCell(weights, backend="numpy", batch_invariant=True)
    B = 43
    stepper = cell.stepper(B)
    xs, flags = inputs(cell, B)
    for x, first in zip(xs, flags, strict=True):
        stepper.step(x, first)
    for row in (0, 7, 20, 42):
        state = cell.zero_state(1)
        for x, first in zip(xs, flags, strict=True):
            state = cell(x[row : row + 1], state, is_first=None if first is None else first[row : row + 1])
        np.testing.assert_array_equal(stepper.h[row], state.h[0])
        np.testing.assert_array_equal(stepper.c[row], state.c[0])


def test_rows_are_shared_out(monkeypatch):
    """Each thread takes some rows through all layers, and the numbers don't change."""
    from fusedlstm.backends.numpy import blas
    from fusedlstm.backends.numpy import cell as numpy_cell
    from fusedlstm.backends.numpy import threads as rows

    lstm = LSTM(StackedWeights.random(9, 20, 2, seed=0, dtype="float64", residual=[False, True]), backend="numpy")
    alone = lstm.stepper(50)
    monkeypatch.setattr(numpy_cell, "is_cut", lambda *sizes, **options: True)
    monkeypatch.setattr(blas, "threads", lambda: 3)
    monkeypatch.setattr(rows, "_LEAST_WORK", 0)
    monkeypatch.setattr(rows, "_LEAST_STEP", 0)
    shared, threads = lstm.stepper(50), set()
    together, real = threading.Barrier(3), shared._engine._run

    def run(engines, part):
        threads.add(threading.get_ident())
        together.wait(10)
        real(engines, part)

    monkeypatch.setattr(shared._engine, "_run", run)
    for x, first in zip(*inputs(lstm, 50), strict=True):
        got, want = shared.step(x, first), alone.step(x, first)
        assert_near(got, want, 1e-13)
    assert len(threads) == 3
    assert_same_states(shared.state, alone.state, 1e-13)


@pytest.mark.parametrize(("I", "N", "P"), [(0, 3, None), (1, 1, None), (3, 1, 1), (5, 7, 6)])
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_odd_sizes(backend, I, N, P, dtype):
    cell = LSTMCell(LSTMWeights.random(I, N, proj_size=P, seed=0, dtype=dtype), backend=backend)
    wanted, state = layers(cell, 3)
    stepper = cell.stepper(3)
    for got, want in zip(run(stepper, cell, 3), wanted, strict=True):
        assert_near(got, want, T * 2 * tolerances.of(dtype, 20))
    assert_same_states(stepper.state, state, T * 2 * tolerances.of(dtype, 20))
