"""Sequencer: buffers stay in place, runs continue each other, and numbers equal the LSTM's calls."""

import copy
import pickle
import threading

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, Sequencer, StackedWeights

from support import pairs
from support.backends import WAYS, backend_in_a_way
from support.cells import host

T, B, I, N = 7, 4, 4, 5
NAMES = ("xs", "lengths", "mask", "is_first", "outputs")
ASKED = {"lengths": {"lengths": True}, "mask": {"mask": True}, "is_first": {"is_first": True}}


@pytest.fixture(params=WAYS)
def backend(request, monkeypatch):
    """Each backend, and on a GPU both kinds of kernels: "matmul" and one kernel for a step."""
    return backend_in_a_way(request, monkeypatch)


def two_layers(dtype="float64", **options):
    return StackedWeights.random(I, N, 2, seed=0, dtype=dtype, **options)


def make(backend, dtype="float64", *, batch_first=False, **options):
    return LSTM(two_layers(dtype, **options), batch_first=batch_first, backend=backend)


def states_of(lstm, rows, rng):
    """Return a random state for each layer and direction, on the LSTM's device."""
    c_dtype = lstm.zero_state(0)[0].c.dtype
    return tuple(
        LSTMState(
            h=lstm.asarray(rng.uniform(-1, 1, (rows, layer.output_size))),
            c=lstm.asarray(rng.normal(size=(rows, layer.hidden_size)), c_dtype),
        )
        for layer in lstm.weights.layers
    )


def addresses(sequencer):
    """Return the addresses of all buffers of a Sequencer."""
    arrays = [getattr(sequencer, name) for name in NAMES if hasattr(sequencer, name)]
    for state in sequencer.state:
        arrays += [state.h, state.c]
    return [array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr for array in arrays]


def assert_same(got, wanted):
    """Assert the same bits of outputs and states."""
    np.testing.assert_array_equal(host(got[0]), host(wanted[0]))
    for state, other in zip(got[1], wanted[1], strict=True):
        np.testing.assert_array_equal(host(state.h), host(other.h))
        np.testing.assert_array_equal(host(state.c), host(other.c))


class Case:
    """An LSTM with its Sequencer, and random inputs for both."""

    def __init__(self, backend, *, shape, steps, reset, rule, batch_first, dtype, residual):
        layers = 1 if shape == "bidirectional" and residual else 2  # residual layers keep the width, both double it
        directions = {"bidirectional": ["both"] * layers, "mixed": ["backward", "both"]}.get(shape)
        forms = {"directions": directions, "residual": residual, "proj_size": I}
        weights = StackedWeights.random(I, N, layers, seed=0, dtype=dtype, **forms)
        self.lstm = LSTM(weights, batch_first=batch_first, backend=backend)
        self.rng, self.batch_first, self.steps, self.reset = np.random.default_rng(1), batch_first, steps, reset
        self.options = {"reverse": shape == "reverse", "masked_outputs": rule}
        if reset in ("one row", "rows"):
            self.options["reset_to"] = states_of(self.lstm, 1 if reset == "one row" else B, self.rng)
        asked = {} if steps is None else {steps: True}
        if reset:
            asked["is_first"] = True
        self.sequencer = self.lstm.sequencer(T, B, **asked, **self.options)

    def swapped(self, array):
        return array.swapaxes(0, 1) if self.batch_first else array

    def inputs(self):
        """Return random inputs by the names of their buffers."""
        found = {"xs": self.lstm.asarray(self.swapped(self.rng.normal(size=(T, B, I))))}
        if self.steps == "lengths":
            found["lengths"] = self.rng.integers(0, T + 1, B)
        elif self.steps == "mask":
            found["mask"] = self.swapped(self.rng.random((T, B)) < 0.6)
        if self.reset:
            found["is_first"] = self.swapped(self.rng.random((T, B)) < 0.3)
        return found


CASES = pairs.cover(
    shape=["forward", "reverse", "bidirectional", "mixed"],
    steps=[None, "lengths", "mask"],
    reset=[None, "zero", "one row", "rows"],
    rule=["zero", "last"],
    batch_first=[False, True],
    dtype=["float64", "float32", "float16", "bfloat16"],
    residual=[False, True],
)


@pytest.mark.parametrize("options", CASES, ids=lambda options: "-".join(map(str, options.values())))
def test_runs_equal_calls(backend, options):
    """Each run has the bits of a call of the LSTM. Both begin with the state that the one before left."""
    case = Case(backend, **options)
    lstm, sequencer, state = case.lstm, case.sequencer, None
    before = addresses(sequencer)
    for k in range(3):
        inputs = case.inputs()
        if k == 1:
            outputs = sequencer.run(**inputs)
        else:
            for name, array in inputs.items():
                getattr(sequencer, name)[...] = lstm.xp.asarray(array)
            outputs = sequencer.run()
        wanted, state = lstm(inputs.pop("xs"), state, **inputs, **case.options)
        assert outputs is sequencer.outputs
        assert_same((outputs, sequencer.state), (wanted, state))
    assert addresses(sequencer) == before


def test_buffers_begin_with_their_defaults(backend):
    lstm = make(backend)
    one, other = lstm.sequencer(T, B, lengths=True, is_first=True), lstm.sequencer(T, B, mask=True)
    assert (one.steps, one.batch) == (T, B)
    assert [array.shape for array in (one.xs, one.lengths, one.is_first, one.outputs)] == [
        *((T, B, I), (B,), (T, B), (T, B, N)),
    ]
    assert (host(one.lengths) == T).all()
    assert host(one.lengths).dtype == np.int64
    assert not host(one.is_first).any()
    assert host(other.mask).all()
    for sequencer in (one, other):
        for array in (sequencer.xs, sequencer.outputs, *(part for s in sequencer.state for part in (s.h, s.c))):
            assert not host(array).any()
    inputs = make(backend, batch_first=True).sequencer(T, B, mask=True)
    assert [array.shape for array in (inputs.xs, inputs.mask, inputs.outputs)] == [(B, T, I), (B, T), (B, T, N)]


def test_inputs_stay_after_a_run(backend):
    """A run clears nothing, so the same run can be repeated."""
    lstm, rng = make(backend), np.random.default_rng(0)
    sequencer = lstm.sequencer(T, B, lengths=True, is_first=True)
    inputs = {
        "xs": lstm.asarray(rng.normal(size=(T, B, I))),
        "lengths": [7, 0, 3, 5],
        "is_first": rng.random((T, B)) < 0.3,
    }
    first = host(sequencer.run(**inputs)).copy()
    for name, array in inputs.items():
        np.testing.assert_array_equal(host(getattr(sequencer, name)), host(lstm.xp.asarray(array)))
    sequencer.reset()
    np.testing.assert_array_equal(host(sequencer.run()), first)


def test_the_state_is_in_place(backend):
    """What is written to `state` is where the next run begins."""
    lstm, rng = make(backend), np.random.default_rng(0)
    sequencer, states = lstm.sequencer(T, B), states_of(lstm, B, rng)
    xs = lstm.asarray(rng.normal(size=(T, B, I)))
    for mine, other in zip(sequencer.state, states, strict=True):
        mine.h[...] = other.h
        mine.c[...] = other.c
    sequencer.run(xs)
    assert_same((sequencer.outputs, sequencer.state), lstm(xs, states))


def test_read_write_and_reset(backend):
    lstm, rng = make(backend, bidirectional=True), np.random.default_rng(0)
    one, other = lstm.sequencer(T, B), lstm.sequencer(T, B)
    xs = lstm.asarray(rng.normal(size=(T, B, I)))
    one.run(xs)
    saved = one.read()
    one.run(xs)
    other.write(saved)
    other.run(xs)
    assert_same((one.outputs, one.state), (other.outputs, other.read()))
    other.reset()
    assert not any(host(array).any() for state in other.read() for array in (state.h, state.c))
    assert host(saved[0].h).any(), "read should return a copy"
    assert len(saved) == 4


def test_resets_are_copied(backend):
    """Changing the states to reset to, after the Sequencer was made, changes nothing."""
    lstm, rng = make(backend), np.random.default_rng(0)
    reset_to = states_of(lstm, B, rng)
    xs, first = lstm.asarray(rng.normal(size=(T, B, I))), rng.random((T, B)) < 0.3
    wanted = lstm(xs, is_first=first, reset_to=reset_to)
    sequencer = lstm.sequencer(T, B, is_first=True, reset_to=reset_to)
    for state in reset_to:
        state.h.fill(np.nan)
    sequencer.run(xs, is_first=first)
    assert_same((sequencer.outputs, sequencer.state), wanted)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("few", [0, 1])
def test_resets_of_one_row_and_of_all(backend, few, dtype):
    """One layer may have one row to reset all rows to, and another layer a row for each."""
    lstm, rng = make(backend, dtype), np.random.default_rng(0)
    xs, first = lstm.asarray(rng.normal(size=(T, B, I))), rng.random((T, B)) < 0.3
    even = list(states_of(lstm, B, rng))
    one = LSTMState(h=even[few].h[:1].copy(), c=even[few].c[:1].copy())
    even[few] = LSTMState(h=one.h.repeat(B, axis=0), c=one.c.repeat(B, axis=0))
    mixed = (one, even[1]) if few == 0 else (even[0], one)
    wanted = lstm(xs, is_first=first, reset_to=tuple(even))
    assert_same(lstm(xs, is_first=first, reset_to=mixed), wanted)
    sequencer = lstm.sequencer(T, B, is_first=True, reset_to=mixed)
    sequencer.run(xs, is_first=first)
    assert_same((sequencer.outputs, sequencer.state), wanted)


def test_set_weights_reaches_the_next_run(backend):
    """An existing Sequencer uses new weights from its next run on, even for the states that rows are reset to."""
    old, new = (StackedWeights.random(I, N, 2, seed=seed, dtype="float64") for seed in (0, 1))
    lstm, rng = LSTM(old, backend=backend), np.random.default_rng(0)
    first, reset_to = rng.random((T, B)) < 0.3, states_of(lstm, 1, rng)
    sequencer, state = lstm.sequencer(T, B, is_first=True, reset_to=reset_to), None
    xs = lstm.asarray(rng.normal(size=(T, B, I)))
    for weights in (old, new, old):
        lstm.set_weights(weights)
        sequencer.run(xs, is_first=first)
        wanted, state = LSTM(weights, backend=backend)(xs, state, is_first=first, reset_to=reset_to)
        assert_same((sequencer.outputs, sequencer.state), (wanted, state))


def test_one_cells_weights_make_a_sequencer(backend):
    """An LSTM of one cell's weights has a Sequencer, too."""
    lstm = LSTM(LSTMWeights.random(I, N, seed=0, peephole=True), backend=backend)
    sequencer, xs = lstm.sequencer(1, 1), lstm.asarray(np.ones((1, 1, I)))
    sequencer.run(xs)
    assert_same((sequencer.outputs, sequencer.state), lstm(xs))
    assert len(sequencer.kernels) == 1


def test_kernels_are_named_for_each_layer(backend):
    lstm = make(backend, "float32", bidirectional=True)
    kernels = lstm.sequencer(T, B).kernels
    assert len(kernels) == 4
    assert set(kernels) == {"numpy"} if lstm.backend == "numpy" else "numpy" not in kernels


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_buffers_of_pytorch(dtype):
    """The buffers are tensors over the Sequencer's memory, and arguments may be tensors."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    lstm, rng = make("numpy", dtype, batch_first=True), np.random.default_rng(0)
    xs = torch.from_numpy(rng.normal(size=(B, T, I))).to(getattr(torch, dtype))
    sequencer = lstm.sequencer(T, B, lengths=True, like=xs)
    wanted = lstm(xs, lengths=[7, 0, 3, 5])
    for given in ({"xs": xs, "lengths": torch.tensor([7, 0, 3, 5])}, {}):
        outputs = sequencer.run(**given)
        for mine, other in ((outputs, wanted[0]), (sequencer.read()[1].c, wanted[1][1].c)):
            assert isinstance(mine, torch.Tensor)
            assert torch.equal(mine, other)
        sequencer.reset()
    sequencer.xs.copy_(2 * xs)
    sequencer.state[0].h.fill_(0.5)
    state = (LSTMState(h=torch.full_like(sequencer.state[0].h, 0.5), c=lstm.zero_state(B, like=xs)[0].c),)
    wanted = lstm(2 * xs, (*state, lstm.zero_state(B, like=xs)[1]), lengths=[7, 0, 3, 5])
    assert torch.equal(sequencer.run(), wanted[0])


# Errors.


@pytest.mark.parametrize("name", ASKED)
def test_buffers_must_be_asked_for(backend, name):
    sequencer = make(backend).sequencer(T, B)
    assert not hasattr(sequencer, name)
    with pytest.raises(AttributeError, match=rf"^this Sequencer has no {name}: make it with .*, {name}=True\)$"):
        getattr(sequencer, name)
    with pytest.raises(ValueError, match=rf"^{name}: wanted None, as this Sequencer .*; got list\. Make .*{name}=True"):
        sequencer.run(**{name: [1]})


@pytest.mark.parametrize(
    ("sizes", "options", "error", "message"),
    [
        ((0, B), {}, ValueError, r"^steps: wanted at least 1; got 0$"),
        ((T, 0), {}, ValueError, r"^batch: wanted at least 1; got 0$"),
        ((2.0, B), {}, TypeError, r"^steps: wanted an int; got float$"),
        ((T, True), {}, TypeError, r"^batch: wanted an int; got bool$"),
        ((T, B), {"lengths": [1] * B}, TypeError, r"^lengths: wanted a bool; got list$"),
        ((T, B), {"mask": 1}, TypeError, r"^mask: wanted a bool; got int$"),
        ((T, B), {"is_first": None}, TypeError, r"^is_first: wanted a bool; got None$"),
        (
            (T, B),
            {"lengths": True, "mask": True},
            ValueError,
            r"^mask: wanted False with lengths=True, as .*; got True$",
        ),
        ((T, B), {"reset_to": ()}, ValueError, r"^reset_to: wanted None without is_first=True, .*; got states$"),
        ((T, B), {"is_first": True, "reset_to": ()}, ValueError, r"^reset_to: wanted a tuple of 2 LSTMState"),
        ((T, B), {"reverse": 1}, TypeError, r"^reverse: wanted a bool; got int$"),
        ((T, B), {"masked_outputs": "nan"}, ValueError, r"^masked_outputs: wanted one of 'zero', 'last'; got 'nan'$"),
        ((T, B), {"like": 3}, TypeError, r"^like: wanted a "),
    ],
)
def test_errors_of_construction(backend, sizes, options, error, message):
    with pytest.raises(error, match=message):
        make(backend).sequencer(*sizes, **options)


def test_reverse_needs_one_direction(backend):
    lstm = make(backend, bidirectional=True)
    with pytest.raises(ValueError, match=r"^reverse: wanted False with bidirectional=True; got True$"):
        lstm.sequencer(T, B, reverse=True)


def test_errors_of_the_owner(backend):
    lstm = make(backend)
    cell = LSTMCell(LSTMWeights.random(I, N, seed=0), backend=backend)
    assert not hasattr(cell, "sequencer")
    for owner, message in [
        (cell, r"an LSTMCell\. Use LSTM\(cell\.weights\)$"),
        (cell.weights, r".*LSTMWeights\. Use LSTM\(weights\)$"),
        (lstm.weights, r".*StackedWeights\. Use LSTM\(weights\)$"),
        (lstm.sequencer(T, B), r".*Sequencer\. Use its LSTM$"),
        (lstm.stepper(B), r".*Stepper\. Use its LSTM$"),
        (None, "None$"),
    ]:
        with pytest.raises(TypeError, match=rf"^owner: wanted an LSTM; got {message}"):
            Sequencer(owner, T, B)


def test_errors_of_a_run(backend):
    """Bad arguments change neither buffers nor the state."""
    lstm = make(backend)
    sequencer = lstm.sequencer(T, B, lengths=True, is_first=True)
    xs = lstm.asarray(np.ones((T, B, I)))
    sequencer.run(xs, lengths=[7, 0, 3, 5])
    arrays = (sequencer.xs, sequencer.lengths, sequencer.is_first, sequencer.outputs, sequencer.state[1].c)
    before = [host(array).copy() for array in arrays]
    for arguments, error, message in [
        ({"xs": xs[:1]}, ValueError, r"^xs: wanted shape \(T, B, I\) = \(7, 4, 4\); got shape \(1, 4, 4\)$"),
        ({"xs": xs[0]}, ValueError, r"^xs: wanted shape \(T, B, I\) = \(T, B, 4\); got shape \(4, 4\)\. For one step"),
        ({"xs": xs.astype("float32")}, TypeError, r"^xs: wanted dtype float64 \(the weights'\); got dtype float32"),
        ({"xs": [[[0.0]]]}, TypeError, r"^xs: wanted a "),
        ({"lengths": [8, 1, 1, 1]}, ValueError, r"^lengths: wanted lengths from 0 to T = 7; got 8 for row 0$"),
        ({"lengths": [1, 1, 1]}, ValueError, r"^lengths: wanted shape \(B,\) = \(4,\); got shape \(3,\)$"),
        ({"lengths": [0.5] * B}, TypeError, r"^lengths: wanted integers"),
        ({"is_first": [True] * B}, ValueError, r"^is_first: wanted shape \(T, B\) = \(7, 4\); got shape \(4,\)$"),
        ({"xs": 2 * xs, "is_first": [[1.0] * B] * T}, TypeError, r"^is_first: wanted booleans"),
        ({"xs": xs[:1], "lengths": [1] * B}, ValueError, r"^xs: wanted shape"),
    ]:
        with pytest.raises(error, match=message):
            sequencer.run(**arguments)
    with pytest.raises(ValueError, match=r"^state\[0\]\.h: wanted shape \(B, P\) = \(4, 5\); got shape \(1, 5\)"):
        sequencer.write(lstm.zero_state(1))
    with pytest.raises(TypeError, match=r"^state: wanted a tuple of 2 LSTMState"):
        sequencer.write(lstm.zero_state(B)[0])
    for array, values in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(host(array), values)


def test_lengths_in_the_buffer_are_checked():
    """NumPy looks at the buffer's lengths before any work."""
    sequencer = make("numpy").sequencer(T, B, lengths=True)
    sequencer.lengths[2] = -1
    with pytest.raises(ValueError, match=r"^lengths: wanted lengths from 0 to T = 7; got -1 for row 2$"):
        sequencer.run()
    sequencer.lengths[2] = 0
    sequencer.run()


def test_a_call_raises_while_another_runs(backend, monkeypatch):
    lstm = make(backend)
    sequencer = lstm.sequencer(T, B)
    inside, go_on = threading.Event(), threading.Event()
    real = sequencer._engine.run

    def run(engines):
        inside.set()
        assert go_on.wait(10)
        real(engines)

    monkeypatch.setattr(sequencer._engine, "run", run)
    thread = threading.Thread(target=sequencer.run)
    thread.start()
    assert inside.wait(10)
    for call in (sequencer.run, sequencer.read, sequencer.reset, lambda: sequencer.write(lstm.zero_state(B))):
        with pytest.raises(RuntimeError, match="another thread is using this Sequencer, and it runs"):
            call()
    go_on.set()
    thread.join()
    sequencer.run()


def test_torn_states_are_refused(backend):
    lstm = make(backend)
    sequencer = lstm.sequencer(T, B)
    for mend in (sequencer.reset, lambda: sequencer.write(lstm.zero_state(B))):
        sequencer._engine.is_torn = True
        for call in (sequencer.run, sequencer.read):
            with pytest.raises(
                RuntimeError, match="the last call of this Sequencer was interrupted or failed while it"
            ):
                call()
        mend()
        sequencer.run()


def test_repr_and_no_copies(backend):
    lstm = make(backend)
    assert repr(lstm.sequencer(T, B)) == f"Sequencer({lstm!r}, 7, 4)"
    sequencer = lstm.sequencer(T, B, lengths=True, is_first=True, reverse=True, masked_outputs="last")
    options = "lengths=True, is_first=True, reverse=True, masked_outputs='last'"
    assert repr(sequencer) == f"Sequencer({lstm!r}, 7, 4, {options})"
    for attempt in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match=r"a Sequencer can't be copied .*: make another, and .*sequencer\.read\(\)"):
            attempt(sequencer)
