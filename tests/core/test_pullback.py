"""The pullback of an LSTM's and a cell's vjp: its memory, its arguments and its results."""

import dataclasses
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

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
)
from fusedlstm.backends.numpy.training import NumpyTraining

from support.gradients import by_name, largest_difference, ours, seeds_of, states_like
from support.training_cases import random_states, small_case


def pullback_of(case, **options):
    return LSTM(case.weights, backend="numpy").vjp(case.xs, case.states, **options)[2]


def test_results_have_the_names_of_arguments():
    case = small_case()
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
    case = small_case()
    seeds, pullback = seeds_of(case), pullback_of(small_case())
    first = by_name(pullback(*seeds, retain=True))
    again = by_name(pullback(*seeds))
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array)
    with pytest.raises(RuntimeError, match="this pullback has been called already, which freed its memory"):
        pullback(*seeds)


def test_memory_is_reused_after_the_last_call():
    """Two pullbacks that wait never share memory, and a retained one keeps its own."""
    case = small_case()
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
    case = small_case()
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
    case = small_case()
    outputs, finals, pullback = LSTM(case.weights, backend="numpy").vjp(case.xs, case.states)
    pullback(outputs, finals, retain=retain)
    results = [weakref.ref(each) for each in (outputs, *(part for state in finals for part in (state.h, state.c)))]
    del outputs, finals
    assert all(result() is None for result in results)


def test_failed_pullback_can_be_called_again():
    case = small_case()
    d_outputs, d_state = seeds_of(case)
    pullback = pullback_of(case)
    with pytest.raises(ValueError, match="d_outputs"):
        pullback(d_outputs[:1], d_state)
    assert largest_difference(by_name(pullback(d_outputs, d_state)), ours(case, d_outputs, d_state)) == 0


def test_interrupted_pullback_can_be_called_again(monkeypatch):
    case = small_case()
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
    case = small_case()
    d_outputs, d_state = seeds_of(case)
    for none, zeros in (
        ((None, d_state), (np.zeros_like(d_outputs), d_state)),
        ((d_outputs, None), (d_outputs, states_like(d_state, 0))),
    ):
        assert largest_difference(by_name(pullback_of(case)(*none)), by_name(pullback_of(case)(*zeros))) == 0


def test_gradients_add_up():
    """A pullback is linear: the gradients of a sum are the sum of gradients."""
    case = small_case(lengths=[6, 3, 1])
    (a, b), pullback = (seeds_of(case, seed) for seed in (1, 2)), pullback_of(case, lengths=[6, 3, 1])
    parts = [by_name(pullback(*each, retain=True)) for each in (a, b)]
    both = tuple(LSTMState(h=s.h + t.h, c=s.c + t.c) for s, t in zip(a[1], b[1], strict=True))
    whole = by_name(pullback(a[0] + b[0], both))
    assert largest_difference({name: parts[0][name] + parts[1][name] for name in whole}, whole) <= 1e-13


def test_new_weights_leave_a_pullback_as_it_was():
    case = small_case()
    lstm, seeds = LSTM(case.weights, backend="numpy"), seeds_of(case)
    for every in (None, 2):
        pullback = lstm.vjp(case.xs, case.states, checkpoint_every=every)[2]
        lstm.set_weights(StackedWeights([dataclasses.replace(each, bias=each.bias) for each in case.weights.layers]))
        other = [dataclasses.replace(each, weight_hh=2 * each.weight_hh) for each in case.weights.layers]
        lstm.set_weights(StackedWeights(other))
        assert largest_difference(by_name(pullback(*seeds)), ours(case, *seeds)) <= 1e-13
        lstm.set_weights(case.weights)


def test_flags_are_copied_and_arguments_unchanged():
    case = small_case()
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
    case, options = small_case(), {"checkpoint_every": checkpoint_every}
    d_outputs, d_state = seeds_of(case)
    wanted = by_name(pullback_of(case, **options)(d_outputs, d_state))
    lstm = LSTM(case.weights, batch_first=True, backend="numpy")
    outputs, _, pullback = lstm.vjp(case.xs.swapaxes(0, 1).copy(), case.states, **options)
    assert outputs.shape[:2] == (3, 6)
    got = by_name(pullback(d_outputs.swapaxes(0, 1), d_state))
    assert got["xs"].flags.c_contiguous
    assert largest_difference(got | {"xs": got["xs"].swapaxes(0, 1)}, wanted) == 0


def test_results_share_no_memory():
    case = small_case(
        is_first=np.eye(6, 3, dtype=bool), reset_to=random_states(np.random.default_rng(0), small_case().weights, 1)
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
        case = dataclasses.replace(small_case(), xs=np.zeros((T, B, 3)))
        case = dataclasses.replace(case, states=random_states(np.random.default_rng(0), case.weights, B))
        d_outputs, d_state = seeds_of(case)
        got = ours(case, d_outputs, d_state, checkpoint_every=every)
        for k, d in enumerate(d_state):
            np.testing.assert_array_equal(got[f"state[{k}].h"], d.h)
            np.testing.assert_array_equal(got[f"state[{k}].c"], d.c)
        assert not any(array.any() for name, array in got.items() if name.startswith(("xs", "weights")))
