"""Sequences and steps of an LSTM with arrays of other libraries: the same bits, without copies."""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMCell, LSTMState, StackedWeights

from driver import observe
from support.backends import BACKENDS
from support.foreign import ON_CPU, ON_GPU, Native
from support.gpu_libraries import pretended_torch

T, B, I, N, P = 6, 4, 3, 5, 2
DTYPES = ["float64", "float32", "float16", "bfloat16"]


@pytest.fixture(params=[*ON_CPU, *ON_GPU], ids=lambda library: library.__name__)
def library(request, monkeypatch):
    return request.param(monkeypatch)


class Case:
    """An LSTM, and its arguments as NumPy arrays."""

    def __init__(self, backend, dtype="float32", *, batch_first=False, **options):
        weights = StackedWeights.random(I, N, 2, seed=0, dtype=dtype, proj_size=P, **options)
        self.lstm = LSTM(weights, batch_first=batch_first, backend=backend)
        rng = np.random.default_rng(0)
        c_dtype = np.float32 if weights.dtype.itemsize == 2 else weights.dtype
        self.xs = rng.normal(size=(B, T, I) if batch_first else (T, B, I)).astype(weights.dtype)
        self.is_first = rng.random(self.xs.shape[:2]) < 0.3
        self.states, self.resets = (
            [
                (rng.uniform(-1, 1, (rows, P)).astype(weights.dtype), rng.normal(size=(rows, N)).astype(c_dtype))
                for _ in weights.layers
            ]
            for rows in (B, 1)
        )
        self.lengths = np.array([6, 0, 3, 5], np.int32)

    def states_of(self, pairs, make):
        return tuple(LSTMState(h=make(h), c=make(c)) for h, c in pairs)

    def call(self, make):
        return self.lstm(
            make(self.xs),
            self.states_of(self.states, make),
            lengths=self.lengths,
            is_first=make(self.is_first),
            reset_to=self.states_of(self.resets, make),
        )

    def step(self, make):
        return self.lstm.step(
            make(self.xs[0]),
            self.states_of(self.states, make),
            is_first=make(self.is_first[0]),
            reset_to=self.states_of(self.resets, make),
        )


def assert_results(library, got, wanted):
    """Assert the same bits, in the library of the results."""
    result = library if library.gives else Native(library.backend)
    outputs, states = got
    wanted_outputs, wanted_states = wanted
    pairs = [(outputs, wanted_outputs)]
    for state, other in zip(states, wanted_states, strict=True):
        pairs += [(state.h, other.h), (state.c, other.c)]
    for array, right in pairs:
        assert isinstance(array, result.type)
        values, right = library.host(array) if library.gives else result.host(array), result_host(right)
        assert (values.shape, values.dtype) == (right.shape, right.dtype)
        np.testing.assert_array_equal(values.view(np.uint8), right.view(np.uint8))


def result_host(array):
    return array if isinstance(array, np.ndarray) else array.get()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ["forward", "bidirectional", "batch first"])
def test_sequences(library, dtype, shape):
    case = Case(library.backend, dtype, batch_first=shape == "batch first", bidirectional=shape == "bidirectional")
    assert_results(library, case.call(library.make), case.call(Native(library.backend).make))


@pytest.mark.parametrize("residual", [False, True])
def test_steps(library, residual):
    case = Case(library.backend, residual=[False, residual])
    got = case.step(library.make)
    assert_results(library, got, case.step(Native(library.backend).make))
    if library.gives:
        assert (got[0] is got[1][-1].h) == (not residual)


@pytest.mark.parametrize("shape", ["forward", "bidirectional", "batch first"])
def test_results_are_not_copied(library, shape):
    """Results are at the addresses that the LSTM allocated for them."""
    if not library.gives:
        pytest.skip("results are the backend's own")
    case = Case(library.backend, batch_first=shape == "batch first", bidirectional=shape == "bidirectional")
    made, run = [], case.lstm._layers.run

    def spy(sequence_run):
        run(sequence_run)
        outputs = sequence_run.outputs
        outputs = outputs.swapaxes(0, 1) if shape == "batch first" else outputs
        made.extend([outputs, *(array for state in sequence_run.finals for array in (state.h, state.c))])

    case.lstm._layers.run = spy
    outputs, states = case.call(library.make)
    lent = [outputs, *(array for state in states for array in (state.h, state.c))]
    native = Native(library.backend)
    assert [library.address(array) for array in lent] == [native.address(array) for array in made]


def test_zero_state(library):
    case = Case(library.backend)
    states = case.lstm.zero_state(B, like=library.make(case.xs))
    result = library if library.gives else Native(library.backend)
    for state in states:
        assert isinstance(state.h, result.type)
        assert not result.host(state.c).any()
    case.lstm(library.make(case.xs), states)


def test_lengths_and_masks_of_a_library(library):
    case = Case(library.backend)
    lengths = np.array([6, 0, 3, 5], np.int16)
    mask = np.arange(T)[:, None] < lengths
    xs = library.make(case.xs)
    wanted = case.lstm(Native(library.backend).make(case.xs), lengths=lengths)
    assert_results(library, case.lstm(xs, mask=library.make(mask)), wanted)
    assert_results(library, case.lstm(xs, lengths=library.make(lengths)), wanted)


def test_messages_name_the_layer_and_how_to_cast(library):
    case = Case(library.backend)
    states = case.states_of(case.states, library.make)
    wide = library.make(case.states[1][0].astype(np.float64))
    spoilt = (states[0], LSTMState(h=wide, c=states[1].c))
    cast = library.cast.replace("x", "state[1].h", 1)
    with pytest.raises(
        TypeError, match=r"^state\[1\]\.h: wanted dtype float32 \(the weights'\); got dtype float64"
    ) as error:
        case.lstm(library.make(case.xs), spoilt)
    assert str(error.value).endswith(f"Use {cast}")


@pytest.mark.skipif("emulated" not in BACKENDS, reason="needs the emulated GPU")
@pytest.mark.parametrize("own", [False, True])
def test_sequences_run_on_torchs_stream(monkeypatch, own):
    """All work is on PyTorch's current stream. It waits only for streams that arguments come from."""
    import cupy

    case = Case("cuda", bidirectional=True)
    xs, states = cupy.asarray(case.xs), case.states_of(case.states, cupy.asarray)
    stream = cupy.cuda.Stream(non_blocking=True) if own else cupy.cuda.Stream.null
    with pretended_torch.installed(monkeypatch) as torch:
        torch.cuda.set_stream(stream)
        xs = torch.Tensor(xs)
        case.lstm(xs, None, lengths=case.lengths)
        case.lstm(xs, states)
        observe.clear()
        case.lstm(xs, None, lengths=case.lengths)
        assert {entry.stream for entry in observe.log()} == {stream.ptr}
        assert {entry.kind for entry in observe.log()} == {"launch", "graph", "record"}  # the record follows the upload
        observe.clear()
        case.lstm(xs, states)  # CuPy's states are on another stream
        assert {entry.stream for entry in observe.log() if entry.kind == "launch"} == {stream.ptr}
        assert [entry.kind for entry in observe.log()].count("wait") == (2 if own else 0)


def test_a_step_with_one_foreign_array(library):
    """A step takes one foreign array among the backend's own."""
    case, native = Case(library.backend), Native(library.backend).make
    x, states, resets = native(case.xs[0]), case.states_of(case.states, native), case.states_of(case.resets, native)
    first = native(case.is_first[0])
    wanted = case.step(native)
    foreign_c = (LSTMState(h=states[0].h, c=library.make(case.states[0][1])), states[1])
    foreign_reset = (resets[0], LSTMState(h=resets[1].h, c=library.make(case.resets[1][1])))
    own = type("Own", (), {"gives": False, "backend": library.backend})
    for state, reset_to in ((foreign_c, resets), (states, foreign_reset)):
        assert_results(own, case.lstm.step(x, state, is_first=first, reset_to=reset_to), wanted)
    assert_results(own, case.lstm.step(x, foreign_c), case.lstm.step(x, states))


@pytest.mark.parametrize("kind", ON_CPU, ids=lambda library: library.__name__)
def test_gradients_are_in_the_library_of_xs(kind, monkeypatch):
    library, case = kind(monkeypatch), Case("numpy")

    def gradients(make):
        states = case.states_of(case.states, make)
        resets = case.states_of(case.resets, make)
        outputs, finals, pullback = case.lstm.vjp(
            make(case.xs), states, lengths=case.lengths, is_first=make(case.is_first), reset_to=resets
        )
        got = pullback(outputs, finals)
        arrays = [array for each in got.weights for array in each.arrays().values()]
        arrays += [part for state in (*got.state, *got.reset_to) for part in (state.h, state.c)]
        cell = LSTMCell(case.lstm.weights.layers[0], backend="numpy")
        state, pullback = cell.vjp(make(case.xs[0]), states[0], is_first=make(case.is_first[0]), reset_to=resets[0])
        step = pullback(state)
        arrays += [step.x, step.state.h, step.state.c, step.reset_to.h, step.reset_to.c]
        return [outputs, got.xs, *arrays, *step.weights.arrays().values()]

    for got, wanted in zip(gradients(library.make), gradients(np.asarray), strict=True):
        result = library if library.gives else Native("numpy")
        assert isinstance(got, result.type)
        np.testing.assert_array_equal(result.host(got), wanted)
