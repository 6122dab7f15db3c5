"""fusedlstm.jax: gradients against jax.grad of an independent formula, JAX's transforms, and bad arguments."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedlstm import LSTM, LSTMState, LSTMWeights
from fusedlstm.backends.numpy.backend import NumpyBackend
from fusedlstm.backends.numpy.blas import why_threads_are_fixed
from fusedlstm.backends.numpy.training import NumpyTraining

from support.training_cases import ARGUMENTS, random_case

jax = pytest.importorskip("jax", reason="JAX is not installed")

import jax.numpy as jnp  # noqa: E402

from fusedlstm.jax import lstm  # noqa: E402

from support import jax_formula  # noqa: E402

I, N, T, B = 3, 4, 5, 2
ONE_LAYER = ARGUMENTS | {"directions": st.just(["forward"]), "residual": st.just(False)}


@pytest.fixture(autouse=True, scope="module")
def float64():
    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64  # of older versions
    with enable(True):
        yield


def arguments_of(case):
    """Return what has gradients: weights, xs, the state and reset_to; and the options of the call and of the cell."""
    (weights,), (state,), options = case.weights.layers, case.states, dict(case.options)
    (to,) = options.pop("reset_to", [None])
    arrays = jax.tree.map(jnp.asarray, [weights.arrays(), case.xs, state, to])
    return arrays, options, weights.options()


def ours(arrays, options, cell_options, **more):
    weights, xs, state, to = arrays
    chosen = {name: value for name, value in cell_options.items() if not name.startswith("zoneout")}
    outputs, final = lstm(weights, xs, state, reset_to=to, **options, **chosen, **more)
    return outputs, final.h, final.c


def independent(arrays, options, cell_options):
    weights, xs, state, to = arrays
    T, B, _ = xs.shape
    taken, first = jnp.asarray(options.get("mask", np.ones((T, B), bool))), options.get("is_first")
    if "lengths" in options:
        taken = jnp.arange(T)[:, None] < options["lengths"]
    return jax_formula.lstm(
        *(weights, cell_options, xs, (state.h, state.c), taken),
        jnp.zeros((T, B), bool) if first is None else jnp.asarray(first),
        (0, 0) if to is None else (to.h, to.c),
        reverse=options["reverse"],
        repeats=options["masked_outputs"] == "last",
    )


def with_gradients(call):
    """Return a function that returns a call's results, and the gradients of a sum that weights each differently."""

    def loss(arrays, *options, **more):
        rng, results = np.random.default_rng(0), call(arrays, *options, **more)
        return sum((part * rng.normal(size=part.shape)).sum() for part in results), results

    def both(*arguments, **more):
        gradients, results = jax.grad(loss, has_aux=True)(*arguments, **more)
        return results, gradients

    return both


def assert_close(got, wanted, tolerance=1e-10):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.isfinite(b).all()
        assert abs(a - b).max(initial=0) <= tolerance * max(1, abs(b).max(initial=0))


def test_jax_gradients_are_those_of_vjp():
    case = random_case(2, 4, 3, ["forward"], "mask", "rows", "last", reverse=True)
    arrays, *options = arguments_of(case)
    results, gradients = with_gradients(ours)(arrays, *options)
    rng, (given,) = np.random.default_rng(0), case.weights.layers
    d_outputs, *d_final = (rng.normal(size=part.shape) for part in results)
    _, _, pullback = LSTM(given, backend="numpy").vjp(case.xs, case.states, **case.options)
    wanted = pullback(d_outputs, (LSTMState(h=d_final[0], c=d_final[1]),))
    assert_close(gradients, [wanted.weights[0].arrays(), wanted.xs, wanted.state[0], wanted.reset_to[0]], 1e-14)


@settings(max_examples=40)
@given(case=st.builds(random_case, **ONE_LAYER), every=st.none() | st.integers(1, 4))
def test_jax_gradients_match_the_formula(case, every):
    arguments = arguments_of(case)
    assert_close(with_gradients(ours)(*arguments, checkpoint_every=every), with_gradients(independent)(*arguments))


def small(dtype="float64", **options):
    """Return weights, xs and a state."""
    weights, rng = LSTMWeights.random(I, N, seed=0, dtype=dtype, **options), np.random.default_rng(0)
    h, c = (jnp.asarray(rng.normal(size=(B, size)), dtype) for size in (weights.output_size, N))
    return weights, jnp.asarray(rng.normal(size=(T, B, I)), dtype), LSTMState(h=h, c=c)


def squares(weights, xs, state, **options):
    outputs, final = lstm(weights, xs, state, **options)
    return (outputs**2).sum() + (final.c**2).sum()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_jax_call_has_the_bits_of_a_call(dtype):
    weights, xs, state = small(dtype, peephole=True, cell_clip=0.4)
    first, start = np.eye(T, B, dtype=bool), LSTMState(h=jnp.ones((1, N), dtype), c=jnp.ones((1, N), dtype))
    options = {"is_first": first, "lengths": np.array([5, 3])}
    wanted, (final,) = LSTM(weights, backend="numpy")(xs, (state,), reset_to=(start,), **options)
    for call in (lstm, jax.jit(lstm, static_argnames="cell_clip")):
        got, last = call(weights.arrays(), xs, state, reset_to=start, cell_clip=0.4, **options)
        assert got.dtype == dtype
        for a, b in ((got, wanted), (last.h, final.h), (last.c, final.c)):
            np.testing.assert_array_equal(a, b)


def test_jit_gives_the_same_gradients():
    weights, xs, state = small()
    wanted = jax.value_and_grad(squares, (0, 1, 2))(weights.arrays(), xs, state)
    assert_close(jax.jit(jax.value_and_grad(squares, (0, 1, 2)))(weights.arrays(), xs, state), wanted, 0)
    assert isinstance(wanted[1][2], LSTMState)


def test_jit_calls_numpy_once_for_each_pass(monkeypatch):
    from fusedlstm.layer_call import LayerCall

    weights, xs, state = small()
    calls, forward, backward = [], LayerCall.forward, LayerCall.backward
    monkeypatch.setattr(LayerCall, "forward", lambda *args, saves: calls.append(saves) or forward(*args, saves=saves))
    monkeypatch.setattr(LayerCall, "backward", lambda *args: calls.append("backward") or backward(*args))
    jax.block_until_ready(jax.jit(jax.grad(squares))(weights.arrays(), xs, state))
    assert calls == [True, "backward"]
    calls.clear()
    jax.block_until_ready(lstm(weights.arrays(), xs, state))
    assert calls == [False]


def test_jax_computes_only_wanted_gradients(monkeypatch):
    weights, xs, state = small()
    calls, backward = [], NumpyTraining.backward

    def count(*args, wants_xs, wants_weights, **options):
        calls.append((wants_xs, list(wants_weights), args[5]))  # the gradients of the final states
        return backward(*args, wants_xs=wants_xs, wants_weights=wants_weights, **options)

    def outputs_of(weights, xs, state):
        return (lstm(weights, xs, state)[0] ** 2).sum()

    monkeypatch.setattr(NumpyTraining, "backward", count)
    whole = jax.grad(squares, (0, 1, 2))(weights.arrays(), xs, state)
    for grad in (jax.grad, lambda *args: jax.jit(jax.grad(*args))):
        calls.clear()
        parts = [grad(squares, k)(weights.arrays(), xs, state) for k in range(3)]
        assert [call[:2] for call in calls] == [(False, [True]), (True, [False]), (False, [False])]
        assert_close(tuple(parts), whole, 0)
    jax.grad(outputs_of)(weights.arrays(), xs, state)
    assert calls[-1][2] is None


@pytest.mark.skipif(why_threads_are_fixed() is not None, reason="the threads of NumPy's BLAS can't be set")
def test_threads_of_a_jax_call(monkeypatch):
    weights, xs, state = small()
    seen, engine_of = [], NumpyBackend.cell_engine
    monkeypatch.setattr(
        NumpyBackend, "cell_engine", lambda *a, threads: seen.append(threads) or engine_of(*a, threads=threads)
    )
    for threads in (1, None):
        jax.block_until_ready(lstm(weights.arrays(), xs, state, threads=threads))
    assert seen == [1, None]


@pytest.mark.parametrize("jit", [False, True])
def test_vmap_is_a_call_for_each_element(jit):
    weights, xs, state = small()
    many = jnp.stack([xs, 2 * xs, -xs])
    scaled = jax.tree.map(lambda array: jnp.stack([array, 0.5 * array, -array]), weights.arrays())

    def gradients(weights, xs, lengths):
        return jax.grad(squares, (0, 1))(weights, xs, state, lengths=lengths)

    def element(k, arguments, axes):
        pairs = zip(arguments, axes, strict=True)
        return [jax.tree.map(lambda a: a[k], each) if axis == 0 else each for each, axis in pairs]

    lengths = jnp.array([[5, 5], [0, 3], [1, 4]])
    for axes, arguments in (
        ((0, 0, 0), (scaled, many, lengths)),
        ((None, 0, 0), (weights.arrays(), many, lengths)),
        ((0, None, None), (scaled, xs, lengths[1])),
    ):
        mapped = jax.vmap(gradients, axes)
        got = (jax.jit(mapped) if jit else mapped)(*arguments)
        for k in range(3):
            assert_close(jax.tree.map(lambda a, k=k: a[k], got), gradients(*element(k, arguments, axes)), 1e-13)


def test_calls_inside_scan_and_remat():
    """A rollout in chunks: the state goes on from call to call."""
    weights, xs, state = small()
    arrays, chunks = weights.arrays(), jnp.stack([xs, 2 * xs])

    def whole(arrays):
        outputs, final = lstm(arrays, chunks.reshape(2 * T, B, I), state)
        return (outputs**2).sum() + final.h.sum()

    def chunked(arrays):
        def body(state, xs):
            outputs, state = jax.checkpoint(lstm)(arrays, xs, state)
            return state, (outputs**2).sum()

        final, losses = jax.lax.scan(body, state, chunks)
        return losses.sum() + final.h.sum()

    assert_close(jax.jit(jax.grad(chunked))(arrays), jax.grad(whole)(arrays), 1e-12)


LARGE = """
import os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{cores}])
import jax, jax.numpy as jnp
from fusedlstm import LSTMWeights
from fusedlstm.jax import lstm
weights = LSTMWeights.random(128, 128, seed=0).arrays()
xs = jnp.ones((64, 128, 128))

@jax.jit
def loss(weights, xs):
    inputs = xs @ weights["weight_hh"][:128]
    parts = [lstm(weights, inputs, reverse=reverse)[0] for reverse in (False, True)]  # may run at once
    return (parts[0] @ weights["weight_hh"].T).sum() + (parts[1] @ inputs[0].T).sum()

for _ in range(10):
    grads = jax.grad(loss)(weights, xs)
jax.block_until_ready(grads)
"""


@pytest.mark.parametrize("cores", [1, 2])
def test_few_threads_do_not_deadlock(cores):
    """A callback that waits for work of JAX's own threads could wait forever."""
    subprocess.run([sys.executable, "-c", LARGE.format(cores=cores)], check=True, timeout=120)


def test_second_derivatives_in_jax_raise():
    weights, xs, state = small()
    with pytest.raises(NotImplementedError, match="fusedlstm.jax has no second derivatives"):
        jax.grad(lambda xs: jax.grad(squares, 1)(weights.arrays(), xs, state).sum())(xs)


def test_forward_mode_in_jax_raises():
    weights, xs, state = small()
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda xs: squares(weights.arrays(), xs, state), (xs,), (xs,))


def test_trained_arrays_are_weights_again():
    weights, xs, state = small(proj_size=2)
    arrays, gradients = weights.arrays(), jax.jit(jax.value_and_grad(squares))
    losses = []
    for _ in range(20):
        loss, steps = gradients(arrays, xs, state)
        arrays, losses = jax.tree.map(lambda a, d: a - 0.05 * d, arrays, steps), [*losses, loss]
    assert losses[-1] < 0.7 * losses[0]
    outputs, _ = LSTM(LSTMWeights(**arrays), backend="numpy")(xs, (state,))
    np.testing.assert_array_equal(outputs, lstm(arrays, xs, state)[0])


def test_lengths_out_of_range_raise_under_jit():
    weights, xs, _ = small()
    with pytest.raises(Exception, match="lengths: wanted lengths from 0 to T = 5; got 6 for row 1"):
        jax.block_until_ready(jax.jit(lambda lengths: lstm(weights.arrays(), xs, lengths=lengths))(jnp.array([1, 6])))


def zeros(*shape, dtype="float64"):
    return jnp.zeros(shape, dtype)


def pair(rows=B, dtype="float64"):
    return LSTMState(h=zeros(rows, N, dtype=dtype), c=zeros(rows, N, dtype=dtype))


BAD_CALLS = {
    "weights": (lambda w, xs: lstm(small()[0], xs), TypeError, r"weights: wanted .*Use weights.arrays\(\)"),
    "a name": (lambda w, xs: lstm({**w, "bias_ih": w["bias"]}, xs), TypeError, "got the names .*bias_ih"),
    "no weight_hh": (lambda w, xs: lstm({"weight_ih": w["weight_ih"]}, xs), TypeError, "got the names weight_ih"),
    "a bias": (lambda w, xs: lstm({**w, "bias": zeros(3)}, xs), ValueError, r"bias: wanted shape \(4N,\) = \(16,\)"),
    "a dtype": (lambda w, xs: lstm({**w, "bias": zeros(16, dtype="float32")}, xs), TypeError, "bias: wanted dtype"),
    "16 bits": (
        lambda w, xs: lstm(jax.tree.map(lambda a: a.astype("bfloat16"), w), xs),
        TypeError,
        "wanted dtype float32 or float64 for gradients; got dtype bfloat16",
    ),
    "zoneout": (lambda w, xs: lstm(w, xs, zoneout_h=0.1), ValueError, "wanted no zoneout for gradients"),
    "an option": (lambda w, xs: lstm(w, xs, clip=1.0), TypeError, "unexpected keyword argument 'clip'"),
    "proj_clip": (lambda w, xs: lstm(w, xs, proj_clip=1.0), ValueError, "proj_clip: wanted None without weight_hr"),
    "a 2-D xs": (lambda w, xs: lstm(w, xs[0]), ValueError, r"xs: wanted shape \(T, B, I\) = \(T, B, 3\)"),
    "a float32 xs": (lambda w, xs: lstm(w, xs.astype("float32")), TypeError, "xs: wanted dtype float64"),
    "no xs": (lambda w, xs: lstm(w, None), TypeError, "xs: wanted an array; got None"),
    "a str": (lambda w, xs: lstm({**w, "bias": "zeros"}, xs), TypeError, "bias: wanted an array; got str"),
    "a str as h": (
        lambda w, xs: lstm(w, xs, LSTMState(h="zeros", c=zeros(B, N))),
        TypeError,
        r"state.h: wanted an array; got str",
    ),
    "a str as a state": (
        lambda w, xs: lstm(w, xs, reset_to="zeros", is_first=zeros(T, B) == 0),
        TypeError,
        "reset_to: wanted an LSTMState.* got str",
    ),
    "a pair": (lambda w, xs: lstm(w, xs, (pair().h, pair().c)), TypeError, "state: wanted an LSTMState.* Name the two"),
    "a tuple": (lambda w, xs: lstm(w, xs, (pair(),)), TypeError, r"state: wanted an LSTMState.* Use state\[0\]"),
    "one row": (lambda w, xs: lstm(w, xs, pair(1)), ValueError, r"state.h: wanted shape \(B, P\) = \(2, 4\)"),
    "reset_to": (lambda w, xs: lstm(w, xs, reset_to=pair()), ValueError, "reset_to: wanted None without is_first"),
    "float flags": (lambda w, xs: lstm(w, xs, is_first=zeros(T, B)), TypeError, "is_first: wanted booleans"),
    "flags of B": (lambda w, xs: lstm(w, xs, is_first=[True, False]), ValueError, r"is_first: .* got shape \(2,\)"),
    "a mask": (lambda w, xs: lstm(w, xs, mask=zeros(T, B)), TypeError, "mask: wanted booleans"),
    "both": (lambda w, xs: lstm(w, xs, mask=zeros(T, B) == 0, lengths=[1, 2]), ValueError, "mask: wanted None if"),
    "long lengths": (lambda w, xs: lstm(w, xs, lengths=[1, 6]), ValueError, "lengths: .* got 6 for row 1"),
    "float lengths": (lambda w, xs: lstm(w, xs, lengths=[1.0, 2.0]), TypeError, "lengths: wanted integers"),
    "a rule": (lambda w, xs: lstm(w, xs, masked_outputs="nan"), ValueError, "masked_outputs: wanted one of"),
    "reverse": (lambda w, xs: lstm(w, xs, reverse=1), TypeError, "reverse: wanted a bool"),
    "threads": (lambda w, xs: lstm(w, xs, threads=0), ValueError, "threads: wanted at least 1"),
    "every": (lambda w, xs: lstm(w, xs, checkpoint_every=0), ValueError, "checkpoint_every: wanted at least 1"),
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(("call", "kind", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_jax_calls_raise(call, kind, message, jit):
    weights, xs, _ = small()
    with pytest.raises(kind, match=message):
        (jax.jit(call) if jit else call)(weights.arrays(), xs)


def test_import_does_not_import_jax():
    code = "import sys, fusedlstm; assert 'jax' not in sys.modules; import fusedlstm.jax"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_jax_names_the_extra():
    code = (
        "import sys; sys.modules['jax'] = None\n"
        "try:\n    import fusedlstm.jax\n"
        "except ModuleNotFoundError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "fusedlstm.jax needs JAX: install fusedlstm[jax]"
