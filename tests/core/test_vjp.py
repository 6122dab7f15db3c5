"""Gradients of an LSTM's and a cell's vjp: torch.autograd, finite differences and other systems give the same ones."""

import dataclasses
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedlstm import (
    LSTM,
    CellGradients,
    CellPullback,
    LSTMCell,
    LSTMGradients,
    LSTMPullback,
    LSTMState,
    LSTMWeights,
    StackedWeights,
    WeightGradients,
    convert,
)
from fusedlstm.backends.numpy import formula_vjp
from fusedlstm.backends.numpy.training import NumpyTraining

from support.gradients import by_name, exact, in_torch, largest_difference, named, ours, seeds_of, states_like
from support.oracle_files import Oracle, names
from support.training_cases import CASES, random_case, random_states

CLOSE = 1e-10  # relative beyond 1, in float64
TF1_OPTIONS = ("cell_clip", "num_proj", "proj_clip", "use_peepholes")


@settings(max_examples=150)
@given(case=CASES, checkpoint_every=st.none() | st.integers(1, 4))
def test_gradients_match_autograd(case, checkpoint_every):
    d_outputs, d_state = seeds_of(case)
    got = ours(case, d_outputs, d_state, checkpoint_every=checkpoint_every)
    assert largest_difference(got, exact(case, d_outputs, d_state)) <= CLOSE


@pytest.mark.parametrize("directions", [["forward"], ["both", "backward"]], ids=str)
@pytest.mark.parametrize("checkpoint_every", [None, 100])
def test_long_sequences(directions, checkpoint_every):
    """Products are over at most 64 steps."""
    case = random_case(3, 150, 2, directions, "mask", "rows", "zero")
    d_outputs, d_state = seeds_of(case)
    got = ours(case, d_outputs, d_state, checkpoint_every=checkpoint_every)
    assert largest_difference(got, exact(case, d_outputs, d_state)) <= CLOSE


def one_step(seed, reset):
    """Return a cell's weights, x, the old state, a gradient of the new one, is_first, and reset_to."""
    case = random_case(seed, 1, 3, ["forward"], None, reset, "zero")
    weights, rng = case.weights.layers[0], np.random.default_rng(seed)
    (d_state,) = random_states(rng, case.weights, 3)
    first, (to,) = case.options.get("is_first"), case.options.get("reset_to", (None,))
    return weights, case.xs[0], case.states[0], d_state, None if first is None else first[0], to


@pytest.mark.parametrize("reset", [None, "zero", "one row", "rows"])
def test_step_of_no_rows(reset):
    weights, x, state, d_state, first, to = one_step(0, reset)
    nothing, none = (LSTMState(h=each.h[:0], c=each.c[:0]) for each in (state, d_state))
    to = LSTMState(h=to.h[:0], c=to.c[:0]) if reset == "rows" else to
    first = None if first is None else first[:0]
    new, pullback = LSTMCell(weights, backend="numpy").vjp(x[:0], nothing, is_first=first, reset_to=to)
    assert new.h.shape == (0, weights.output_size)
    got = pullback(none)
    assert got.x.shape == (0, weights.input_size)
    assert all(array.shape == weights.arrays()[name].shape for name, array in got.weights.arrays().items())
    assert not any(array.any() for array in of_cell(got).values())


RESETS = st.sampled_from([None, "zero", "one row", "rows"])


@settings(max_examples=150)
@given(seed=st.integers(0, 1 << 30), reset=RESETS)
def test_derivative_of_the_formula(seed, reset):
    torch, torch_formula = in_torch()
    weights, x, state, d_state, first, to = one_step(seed, reset)
    arrays = () if to is None else (to.h, to.c)
    got = of_cell(formula_vjp.step(weights, x, state.h, state.c, d_state.h, d_state.c, first, *arrays))

    cell = torch_formula.Cell.of(weights, requires_grad=True)
    x = torch_formula.tensor(x, requires_grad=True)
    old, *resets = torch_formula.tensors_of([state] if to is None else [state, to], requires_grad=True)
    rows = torch.zeros(len(x), dtype=torch.bool) if first is None else torch.as_tensor(first)
    new = torch_formula.step(cell, x, *torch_formula.reset(old, rows, resets[0] if resets else None))
    wanted = [x, *old, *(part for pair in resets for part in pair), *cell.tensors().values()]
    d = [torch.from_numpy(part) for part in (d_state.h, d_state.c)]
    found = torch.autograd.grad(new, wanted, d, allow_unused=True, materialize_grads=True)
    exact = dict(zip(got, (gradient.numpy() for gradient in found), strict=True))
    assert largest_difference(got, exact) <= CLOSE


@settings(max_examples=100)
@given(seed=st.integers(0, 1 << 30), reset=RESETS)
def test_cell_computes_the_derivative(seed, reset):
    weights, x, state, d_state, first, to = one_step(seed, reset)
    cell = LSTMCell(weights, backend="numpy")
    new, pullback = cell.vjp(x, state, is_first=first, reset_to=to)
    called = cell(x, state, is_first=first, reset_to=to)
    np.testing.assert_array_equal(new.h, called.h)
    np.testing.assert_array_equal(new.c, called.c)
    got = pullback(d_state)
    arrays = () if to is None else (to.h, to.c)
    wanted = formula_vjp.step(weights, x, state.h, state.c, d_state.h, d_state.c, first, *arrays)
    assert largest_difference(of_cell(got), of_cell(wanted)) <= 1e-13


def of_cell(gradients):
    pairs = [[(each.h, each.c)] if each is not None else None for each in (gradients.state, gradients.reset_to)]
    return named(gradients.x, *pairs, [gradients.weights.arrays()])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"threads": 1}, {"threads": 2}, {"batch_invariant": True}], ids=str)
@pytest.mark.parametrize(("T", "B", "I", "N"), [(40, 1, 3, 8), (9, 3, 5, 7), (5, 64, 16, 128), (3, 200, 300, 96)])
def test_forward_has_the_bits_of_a_call(T, B, I, N, options, dtype):
    plain = LSTMWeights.random(I, N, seed=0, dtype=dtype)
    above = LSTMWeights.random(
        *(N, N),
        seed=1,
        dtype=dtype,
        proj_size=6,
        proj_clip=0.1,
        peephole=True,
        cell_clip=0.3,
        gate_activation="softsign",
    )
    lstm, rng = LSTM(StackedWeights([plain, above]), backend="numpy", **options), np.random.default_rng(0)
    xs = rng.normal(size=(T, B, I)).astype(dtype)
    calls = [{}, {"is_first": rng.random((T, B)) < 0.1}, {"lengths": rng.integers(0, T + 1, B)}, {"reverse": True}]
    for call in calls:
        for every in (None, 3):
            outputs, states, _ = lstm.vjp(xs, **call, checkpoint_every=every)
            wanted, finals = lstm(xs, **call)
            np.testing.assert_array_equal(outputs, wanted)
            for state, final in zip(states, finals, strict=True):
                np.testing.assert_array_equal(state.h, final.h)
                np.testing.assert_array_equal(state.c, final.c)


@settings(max_examples=40)
@given(case=CASES)
def test_finite_differences(case):
    """Along a random direction of all arguments at once, the loss changes as the gradients say."""
    case = dataclasses.replace(case, weights=without_corners(case.weights))
    d_outputs, d_state = seeds_of(case)
    got, rng = ours(case, d_outputs, d_state), np.random.default_rng(0)
    directions = {name: rng.normal(size=array.shape) for name, array in got.items()}
    eps = 1e-6
    ends = [loss_along(case, directions, sign * eps, d_outputs, d_state) for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * eps)
    wanted = sum((got[name] * directions[name]).sum() for name in got)
    assert abs(slope - wanted) <= 1e-5 * max(1, abs(wanted))


def without_corners(weights):
    """Return weights whose functions are smooth, and that clip nothing: a difference across a corner would be wrong."""
    functions = {"activation": "softsign", "gate_activation": "sigmoid", "output_activation": ("scaled_tanh", 0.9, 1.1)}
    clips = dict.fromkeys(("cell_clip", "gate_clip", "proj_clip"))
    layers = [dataclasses.replace(layer, **functions, **clips) for layer in weights.layers]
    return StackedWeights(layers, directions=weights.directions, residual=weights.residual)


def loss_along(case, directions, eps, d_outputs, d_state):
    def moved(name, array):
        return array + eps * directions[name]

    def moved_states(name, states):
        return tuple(
            LSTMState(h=moved(f"{name}[{k}].h", state.h), c=moved(f"{name}[{k}].c", state.c))
            for k, state in enumerate(states)
        )

    layers = [
        dataclasses.replace(layer, **{name: moved(f"weights[{k}].{name}", a) for name, a in layer.arrays().items()})
        for k, layer in enumerate(case.weights.layers)
    ]
    weights = StackedWeights(layers, directions=case.weights.directions, residual=case.weights.residual)
    options = dict(case.options)
    if "reset_to" in options:
        options["reset_to"] = moved_states("reset_to", options["reset_to"])
    outputs, finals = LSTM(weights, backend="numpy")(
        moved("xs", case.xs), moved_states("state", case.states), **options
    )
    parts = [(outputs * d_outputs).sum()]
    parts += [(final.h * d.h).sum() + (final.c * d.c).sum() for final, d in zip(finals, d_state, strict=True)]
    return sum(parts)


# Other systems' numbers. Their gradients of weights are read as their weights are.


@pytest.mark.parametrize("name", ["plain", "lens_tm", "lens_all_options", "multi3", "residual", "bidir_lens"])
def test_gradients_of_tensorflow_1(name):
    oracle = Oracle(f"tf1/dyn_{name}.npz")
    options = {key: value for key, value in oracle.meta["cell"].items() if key in TF1_OPTIONS}
    options["residual"] = name == "residual"
    weights = convert.from_tf1(oracle.variables(), **options)
    variables = {
        key.removeprefix("grad_").replace(".", "/"): array
        for key, array in oracle.arrays.items()
        if key.startswith(("grad_rnn", "grad_bidirectional"))
    }
    wanted = convert.from_tf1(variables, **options | {"forget_bias": 0.0})
    ways = ["fw_l", "bw_l"] if name == "bidir_lens" else ["l"]
    places = [f"{way}{layer}" for layer in range(oracle.meta["layers"]) for way in ways]

    def states(prefix):
        return tuple(LSTMState(h=oracle[f"{prefix}_{place}_h"], c=oracle[f"{prefix}_{place}_c"]) for place in places)

    lengths = {"lengths": oracle["sequence_length"]} if oracle.meta["lens"] else {}
    d_outputs = np.concatenate([oracle[f"grad_out_y{k}"] for k in range(len(ways))], axis=2)
    _, _, pullback = LSTM(weights, backend="numpy").vjp(oracle["x"], states("init"), **lengths)
    got = by_name(pullback(d_outputs, states("grad_out_final")))
    pairs = [(state.h, state.c) for state in states("grad_init")]
    exact = named(oracle["grad_x"], pairs, None, [each.arrays() for each in layers_of(wanted)])
    assert largest_difference(got, exact) <= 10 * oracle.tolerance


def layers_of(weights):
    return weights.layers if isinstance(weights, StackedWeights) else (weights,)


@pytest.mark.parametrize("name", names("torch/LSTM_*.npz"))
def test_gradients_of_torch(name):
    oracle = Oracle(name)
    variables = {
        key.removeprefix("grad_"): np.zeros_like(array) if "bias_hh" in key else array  # the importer adds both biases
        for key, array in oracle.arrays.items()
        if key.startswith("grad_") and key not in ("grad_x", "grad_h0", "grad_c0")
    }
    wanted = convert.from_torch(variables)

    def states(h, c):
        return tuple(LSTMState(h=h, c=c) for h, c in zip(oracle[h], oracle[c], strict=True))

    lengths = {"lengths": oracle["lens"]} if oracle.meta["lens"] else {}
    lstm = LSTM(convert.from_torch(oracle.variables()), backend="numpy")
    _, _, pullback = lstm.vjp(oracle["x"], states("h0", "c0"), **lengths)
    got = by_name(pullback(oracle["gy"], states("gh", "gc")))
    pairs = zip(oracle["grad_h0"], oracle["grad_c0"], strict=True)
    exact = named(oracle["grad_x"], pairs, None, [each.arrays() for each in wanted.layers])
    assert largest_difference(got, exact) <= 10 * oracle.tolerance


# Rows without steps, resets and padding.


def small(**options):
    """Return a case of two layers."""
    case = random_case(5, 6, 3, ["forward", "forward"], None, None, "zero")
    return dataclasses.replace(case, options=options)


def test_row_of_length_0_passes_its_gradient():
    case = small(lengths=[0, 6, 2])
    d_outputs, d_state = seeds_of(case)
    got = ours(case, d_outputs, d_state)
    for k, d in enumerate(d_state):
        np.testing.assert_array_equal(got[f"state[{k}].h"][0], d.h[0])
        np.testing.assert_array_equal(got[f"state[{k}].c"][0], d.c[0])
    assert not got["xs"][:, 0].any()
    assert not got["xs"][2:, 2].any()


@pytest.mark.parametrize("checkpoint_every", [None, 2])
def test_nothing_flows_across_a_reset(checkpoint_every):
    first = np.zeros((6, 3), bool)
    first[4, 1] = True
    case = small(is_first=first, reset_to=random_states(np.random.default_rng(0), small().weights, 1))
    d_outputs, d_state = seeds_of(case)
    d_outputs[:4] = 0
    got = ours(case, d_outputs, d_state, checkpoint_every=checkpoint_every)
    assert not got["xs"][:4, 1].any()
    assert got["xs"][:4, 0].all()
    assert not any(got[f"state[{k}].{part}"][1].any() for k in range(2) for part in "hc")
    assert all(got[f"reset_to[{k}].{part}"].all() for k in range(2) for part in "hc")


@pytest.mark.parametrize("general", [False, True])
def test_nan_in_padding_has_no_effect(general):
    weights = StackedWeights.random(
        *(3, 4, 2), seed=0, dtype="float64", directions=["both", "forward"], peephole=general, proj_size=3
    )
    case = dataclasses.replace(small(), weights=weights, states=random_states(np.random.default_rng(0), weights, 3))
    lengths = np.array([0, 6, 2])
    idle = np.arange(6)[:, None] >= lengths
    d_outputs, d_state = seeds_of(case)
    results = []
    for padding in (0, np.nan):
        xs, d = case.xs.copy(), d_outputs.copy()
        xs[idle], d[idle] = padding, padding
        results.append(ours(dataclasses.replace(case, xs=xs, options={"lengths": lengths}), d, d_state))
    for name, array in results[0].items():
        np.testing.assert_array_equal(results[1][name], array)


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize(("peephole", "projection"), [(False, None), (True, 3)])
@pytest.mark.parametrize("reverse", [False, True])
def test_nan_in_idle_states_has_no_effect(every, peephole, projection, reverse):
    """A row without steps keeps its NaN, and one that begins late is reset first."""
    weights = StackedWeights.random(3, 4, 2, seed=0, dtype="float64", peephole=peephole, proj_size=projection)
    mask, first = np.ones((6, 3), bool), np.zeros((6, 3), bool)
    mask[:, 0] = mask[:2, 1] = mask[-2:, 1] = False
    first[[2, 3], 1] = True
    options = {"mask": mask, "is_first": first, "reverse": reverse}
    states = random_states(np.random.default_rng(0), weights, 3)
    case = dataclasses.replace(small(), weights=weights, states=states, options=options)
    results = []
    for bad in (0, np.nan):
        garbage = tuple(LSTMState(h=state.h.copy(), c=state.c.copy()) for state in states)
        rows = [0] if reverse else [0, 1]
        for state in garbage:
            state.h[rows] = state.c[rows] = bad
        results.append(ours(dataclasses.replace(case, states=garbage), *seeds_of(case), checkpoint_every=every))
    for name, array in results[0].items():
        np.testing.assert_array_equal(results[1][name], array, name)
    assert all(np.isfinite(array).all() for array in results[0].values())


def test_nan_before_a_reset_has_no_effect():
    first = np.zeros((6, 3), bool)
    first[0] = True
    case = small(is_first=first)
    seeds = seeds_of(case)
    wanted = ours(case, *seeds)
    got = ours(dataclasses.replace(case, states=states_like(case.states, np.nan)), *seeds)
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array)


# Clips: as tf.clip_by_value, which passes the gradient at its limits.


@pytest.mark.parametrize(("c", "wanted"), [(0.5, 1.0), (np.nextafter(0.5, 1), 0.0), (-0.5, 1.0), (0.2, 1.0)])
@pytest.mark.parametrize("clip", ["cell_clip", "proj_clip"])
def test_gradient_at_the_limit_of_a_clip(clip, c, wanted):
    """With o = 1, f = 1 and i = 0, the new h is the clipped old c."""
    weights = LSTMWeights(
        *(np.zeros((4, 1)), np.zeros((4, 1)), np.array([0.0, 1, 0, 1]), None, np.ones((1, 1))),
        gate_activation="linear",
        activation="linear",
        **{clip: 0.5},
    )
    state = LSTMState(h=np.zeros((1, 1)), c=np.full((1, 1), c))
    _, pullback = LSTMCell(weights, backend="numpy").vjp(np.zeros((1, 1)), state)
    assert pullback(LSTMState(h=np.ones((1, 1)), c=np.zeros((1, 1)))).state.c == wanted


# float32.


@pytest.mark.parametrize("options", [{}, {"peephole": True, "cell_clip": 1.0, "proj_size": 20}], ids=str)
def test_float32_is_close_to_float64(options):
    weights = StackedWeights.random(12, 24, 2, seed=0, dtype="float64", directions=["both", "forward"], **options)
    rng = np.random.default_rng(0)
    case = dataclasses.replace(small(), weights=weights, xs=rng.normal(size=(6, 3, 12)))
    case = dataclasses.replace(case, states=random_states(rng, weights, 3))
    d_outputs, d_state = seeds_of(case)
    wanted = ours(case, d_outputs, d_state)

    def narrow(states):
        return tuple(LSTMState(h=s.h.astype("float32"), c=s.c.astype("float32")) for s in states)

    case = dataclasses.replace(case, weights=weights.astype("float32"), xs=case.xs.astype("float32"))
    case = dataclasses.replace(case, states=narrow(case.states))
    got = ours(case, d_outputs.astype("float32"), narrow(d_state))
    assert {array.dtype.name for array in got.values()} == {"float32"}
    assert largest_difference(got, wanted) <= 3e-5


# The pullback.


def pullback_of(case, **options):
    return LSTM(case.weights, backend="numpy").vjp(case.xs, case.states, **options)[2]


def test_results_have_the_names_of_arguments():
    case = small()
    pullback = pullback_of(case)
    assert isinstance(pullback, LSTMPullback)
    gradients = pullback(*seeds_of(case))
    assert isinstance(gradients, LSTMGradients)
    assert [len(each) for each in (gradients.state, gradients.weights)] == [2, 2]
    assert gradients.reset_to is None
    for own, weights in zip(gradients.weights, case.weights.layers, strict=True):
        assert isinstance(own, WeightGradients)
        assert [(name, a.shape) for name, a in own.arrays().items()] == [
            (name, a.shape) for name, a in weights.arrays().items()
        ]
    state, pullback = LSTMCell(case.weights.layers[0], backend="numpy").vjp(case.xs[0], case.states[0])
    assert isinstance(pullback, CellPullback)
    assert isinstance(pullback(state), CellGradients)


def test_pullback_works_once_unless_retained():
    case = small()
    seeds, pullback = seeds_of(case), pullback_of(small())
    first = by_name(pullback(*seeds, retain=True))
    again = by_name(pullback(*seeds))
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array)
    with pytest.raises(RuntimeError, match="this pullback has been called already, which freed its memory"):
        pullback(*seeds)


def test_memory_is_reused_after_the_last_call():
    """Two pullbacks that wait never share memory, and a retained one keeps its own."""
    case = small()
    lstm, seeds = LSTM(case.weights, backend="numpy"), seeds_of(case)
    others = [dataclasses.replace(case, xs=factor * case.xs) for factor in (1, 2, 3)]
    wanted = [ours(each, *seeds) for each in others]
    for _ in range(3):
        pullbacks = [lstm.vjp(each.xs, each.states)[2] for each in others]
        by_name(pullbacks[0](*seeds, retain=True))
        by_name(pullbacks[1](*seeds))
        again = lstm.vjp(others[1].xs, case.states)[2]
        for pullback, right in zip((*pullbacks[::2], again), (*wanted[::2], wanted[1]), strict=True):
            assert largest_difference(by_name(pullback(*seeds)), right) == 0
    shorter = lstm.vjp(case.xs[:4], case.states)[2](seeds[0][:4], seeds[1])
    assert shorter.xs.shape == (4, *case.xs.shape[1:])


def test_gradients_by_several_threads():
    case = small()
    lstm, seeds = LSTM(case.weights, backend="numpy"), seeds_of(case)
    others = [dataclasses.replace(case, xs=factor * case.xs) for factor in range(8)]
    wanted = [ours(each, *seeds) for each in others]

    def work(k):
        for _ in range(10):
            got = by_name(lstm.vjp(others[k].xs, case.states)[2](*seeds))
            assert largest_difference(got, wanted[k]) == 0

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))


@pytest.mark.parametrize("retain", [False, True])
def test_pullback_holds_no_results(retain):
    case = small()
    outputs, finals, pullback = LSTM(case.weights, backend="numpy").vjp(case.xs, case.states)
    pullback(outputs, finals, retain=retain)
    results = [weakref.ref(each) for each in (outputs, *(part for state in finals for part in (state.h, state.c)))]
    del outputs, finals
    assert all(result() is None for result in results)


def test_failed_pullback_can_be_called_again():
    case = small()
    d_outputs, d_state = seeds_of(case)
    pullback = pullback_of(case)
    with pytest.raises(ValueError, match="d_outputs"):
        pullback(d_outputs[:1], d_state)
    assert largest_difference(by_name(pullback(d_outputs, d_state)), ours(case, d_outputs, d_state)) == 0


def test_interrupted_pullback_can_be_called_again(monkeypatch):
    case = small()
    seeds, pullback = seeds_of(case), pullback_of(case)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(NumpyTraining, "backward", interrupt)
        pullback(*seeds)
    assert largest_difference(by_name(pullback(*seeds)), ours(case, *seeds)) == 0


def test_step_warns_of_a_large_h():
    cell = LSTMCell(LSTMWeights.random(3, 4, seed=0, dtype="float64"), backend="numpy", check_state=True)
    state, first = LSTMState(h=np.full((2, 4), 3.0), c=np.zeros((2, 4))), np.array([True, True])
    with pytest.warns(UserWarning, match="are h and c swapped") as caught:
        cell.vjp(np.zeros((2, 3)), state)
    assert caught[0].filename == __file__
    cell.vjp(np.zeros((2, 3)), state, is_first=first)  # the old h is not used


def test_gradients_of_none_are_those_of_zeros():
    case = small()
    d_outputs, d_state = seeds_of(case)
    for none, zeros in (
        ((None, d_state), (np.zeros_like(d_outputs), d_state)),
        ((d_outputs, None), (d_outputs, states_like(d_state, 0))),
    ):
        assert largest_difference(by_name(pullback_of(case)(*none)), by_name(pullback_of(case)(*zeros))) == 0


def test_gradients_add_up():
    """A pullback is linear: the gradients of a sum are the sum of gradients."""
    case = small(lengths=[6, 3, 1])
    (a, b), pullback = (seeds_of(case, seed) for seed in (1, 2)), pullback_of(case, lengths=[6, 3, 1])
    parts = [by_name(pullback(*each, retain=True)) for each in (a, b)]
    both = tuple(LSTMState(h=s.h + t.h, c=s.c + t.c) for s, t in zip(a[1], b[1], strict=True))
    whole = by_name(pullback(a[0] + b[0], both))
    assert largest_difference({name: parts[0][name] + parts[1][name] for name in whole}, whole) <= 1e-13


def test_new_weights_leave_a_pullback_as_it_was():
    case = small()
    lstm, seeds = LSTM(case.weights, backend="numpy"), seeds_of(case)
    for every in (None, 2):
        pullback = lstm.vjp(case.xs, case.states, checkpoint_every=every)[2]
        lstm.set_weights(StackedWeights([dataclasses.replace(each, bias=each.bias) for each in case.weights.layers]))
        other = [dataclasses.replace(each, weight_hh=2 * each.weight_hh) for each in case.weights.layers]
        lstm.set_weights(StackedWeights(other))
        assert largest_difference(by_name(pullback(*seeds)), ours(case, *seeds)) <= 1e-13
        lstm.set_weights(case.weights)


def test_flags_are_copied_and_arguments_unchanged():
    case = small()
    first, lengths = np.zeros((6, 3), bool), np.array([6, 4, 0])
    first[3] = True
    arguments = [case.xs, *(part for state in case.states for part in (state.h, state.c))]
    before = [array.copy() for array in arguments]
    pullback = pullback_of(case, is_first=first, lengths=lengths)
    seeds = seeds_of(case)
    wanted = ours(dataclasses.replace(case, options={"is_first": first.copy(), "lengths": lengths.copy()}), *seeds)
    kept = [array.copy() for array in (seeds[0], *(part for d in seeds[1] for part in (d.h, d.c)))]
    first[:], lengths[:] = True, 1
    assert largest_difference(by_name(pullback(*seeds)), wanted) == 0
    for array, old in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(array, old)
    for array, old in zip((seeds[0], *(part for d in seeds[1] for part in (d.h, d.c))), kept, strict=True):
        np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize("checkpoint_every", [None, 4])
def test_batch_first_is_only_a_transpose(checkpoint_every):
    case, options = small(), {"checkpoint_every": checkpoint_every}
    d_outputs, d_state = seeds_of(case)
    wanted = by_name(pullback_of(case, **options)(d_outputs, d_state))
    lstm = LSTM(case.weights, batch_first=True, backend="numpy")
    outputs, _, pullback = lstm.vjp(case.xs.swapaxes(0, 1).copy(), case.states, **options)
    assert outputs.shape[:2] == (3, 6)
    got = by_name(pullback(d_outputs.swapaxes(0, 1), d_state))
    assert got["xs"].flags.c_contiguous
    assert largest_difference(got | {"xs": got["xs"].swapaxes(0, 1)}, wanted) == 0


def test_results_share_no_memory():
    case = small(
        is_first=np.eye(6, 3, dtype=bool), reset_to=random_states(np.random.default_rng(0), small().weights, 1)
    )
    outputs, finals, pullback = LSTM(case.weights, backend="numpy").vjp(case.xs, case.states, **case.options)
    d_outputs, d_state = seeds_of(case)
    gradients = by_name(pullback(d_outputs, d_state, retain=True))
    arrays = [outputs, *(part for s in finals for part in (s.h, s.c)), *gradients.values(), case.xs, d_outputs]
    arrays += [part for s in (*case.states, *d_state, *case.options["reset_to"]) for part in (s.h, s.c)]
    for k, array in enumerate(arrays):
        assert array.flags.writeable
        assert not any(np.may_share_memory(array, other) for other in arrays[:k])


@pytest.mark.parametrize("every", [None, 2])
def test_no_steps_and_no_rows(every):
    for T, B in ((0, 3), (4, 0)):
        case = dataclasses.replace(small(), xs=np.zeros((T, B, 3)))
        case = dataclasses.replace(case, states=random_states(np.random.default_rng(0), case.weights, B))
        d_outputs, d_state = seeds_of(case)
        got = ours(case, d_outputs, d_state, checkpoint_every=every)
        for k, d in enumerate(d_state):
            np.testing.assert_array_equal(got[f"state[{k}].h"], d.h)
            np.testing.assert_array_equal(got[f"state[{k}].c"], d.c)
        assert not any(array.any() for name, array in got.items() if name.startswith(("xs", "weights")))
