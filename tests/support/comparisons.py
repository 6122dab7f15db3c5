"""Compare cells and sequences with the recorded outputs of other systems."""

import numpy as np

from fusedlstm import LSTMState, StackedWeights

from support.cells import host


def state_on(cell, h, c):
    """Return a state on the cell's device, with c in the cell's dtype for it."""
    return LSTMState(h=cell.asarray(h), c=cell.asarray(c, cell.zero_state(0).c.dtype))


def assert_close(state, h, c, tolerance):
    state = state.to_numpy()
    for name, got, wanted in (("h", state.h, h), ("c", state.c, c)):
        got, wanted = got.astype(np.float64), wanted.astype(np.float64)
        assert np.isfinite(got).all(), name
        assert np.abs(got - wanted).max() <= tolerance, name


def assert_steps(cell, oracle):
    """Compare each step from the recorded state, then all steps from our own states."""
    for x, h, c, h_next, c_next in oracle.steps():
        got = cell(cell.asarray(x), state_on(cell, h, c))
        assert_close(got, h_next, c_next, oracle.tolerance)
    state = state_on(cell, oracle["h0"], oracle["c0"])
    for x, _, _, h_next, c_next in oracle.steps():
        state = cell(cell.asarray(x), state)
        assert_close(state, h_next, c_next, 3 * oracle.tolerance)


def states_of(lstm, pairs):
    """Return the states of (h, c) pairs, one for each layer and direction."""
    c_dtype = lstm.zero_state(0)[0].c.dtype
    return tuple(LSTMState(h=lstm.asarray(h), c=lstm.asarray(c, c_dtype)) for h, c in pairs)


def assert_sequence(lstm, oracle, pairs, outputs, finals, xs=None, **options):
    """Compare outputs and final states. The tolerance allows for the errors of several steps."""
    xs = lstm.asarray(oracle["x"] if xs is None else xs)
    got, states = lstm(xs, states_of(lstm, pairs), **options)
    compared = [("outputs", got, outputs)]
    assert len(states) == len(finals)
    for k, (state, (h, c)) in enumerate(zip(states, finals, strict=True)):
        compared += [(f"h{k}", state.h, h), (f"c{k}", state.c, c)]
    for name, array, wanted in compared:
        values = host(array)
        assert values.shape == wanted.shape, name
        assert np.isfinite(values).all(), name
        assert np.abs(values - wanted).max() <= 3 * oracle.tolerance, name


def assert_equal(got, wanted):
    """Assert that two weights are equal, bit for bit."""
    assert type(got) is type(wanted)
    if isinstance(got, StackedWeights):
        assert got.directions == wanted.directions
        for ours, theirs in zip(got.layers, wanted.layers, strict=True):
            assert_equal(ours, theirs)
        return
    assert got.options() == wanted.options()
    assert got.arrays().keys() == wanted.arrays().keys()
    for name, array in got.arrays().items():
        other = wanted.arrays()[name]
        assert (array.dtype, array.shape, array.tobytes()) == (other.dtype, other.shape, other.tobytes()), name
