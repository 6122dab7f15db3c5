"""Arrays with masks, units or labels raise wherever arrays are taken, and the error names the argument."""

import sys
import types

import numpy as np
import pytest

from fusedlstm import (
    LSTM,
    LSTMCell,
    LSTMState,
    LSTMWeights,
    StackedWeights,
    StatePool,
    Stepper,
    convert,
    lstm_pointwise,
    pack_state,
    stack_states,
    unpack_state,
    unstack_states,
)

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
T, B, I, N, P = 4, 3, 2, 5, 3
WEIGHTS = LSTMWeights.random(I, N, proj_size=P, seed=0)
SQUARE = LSTMWeights.random(I, N, seed=0)


class Quantity(np.ndarray):
    """An array with a unit, as many packages define it."""


def masked(array):
    return np.ma.masked_array(array, mask=np.zeros(array.shape, bool))


KINDS = {
    "MaskedArray": masked,
    "matrix": lambda array: np.asmatrix(array) if array.ndim == 2 else array.view(Quantity),
    "Quantity": lambda array: array.view(Quantity),
    "recarray": lambda array: array.view(np.recarray),
}


def f4(*shape):
    return np.zeros(shape, np.float32)


def state(h=None, c=None):
    return LSTMState(h=f4(B, P) if h is None else h, c=f4(B, N) if c is None else c)


def square(h=None, c=None):
    return LSTMState(h=f4(B, N) if h is None else h, c=f4(B, N) if c is None else c)


def entries(backend):
    """Return each argument that takes an array: its name in errors, a plain array, and a function to call with one."""
    cell, lstm = LSTMCell(WEIGHTS, backend=backend), LSTM(StackedWeights([WEIGHTS]), backend=backend)
    pool, stepper = StatePool(cell, 6), Stepper(cell, B)
    sequencer, masked = lstm.sequencer(T, B, lengths=True, is_first=True), lstm.sequencer(T, B, mask=True)
    slots = pool.allocate(B)
    x, xs, flags = f4(B, I), f4(T, B, I), np.zeros(B, bool)
    cells, all_flags, lengths = (lstm.zero_state(B)), np.zeros((T, B), bool), np.full(B, T)
    gates, c = f4(B, 4 * N), f4(B, N)
    wide = LSTMState(h=f4(1, B, P), c=f4(1, B, N))
    return {
        "cell x": ("x", x, lambda a: cell(a, state())),
        "cell state.h": ("state.h", f4(B, P), lambda a: cell(x, state(h=a))),
        "cell state.c": ("state.c", f4(B, N), lambda a: cell(x, state(c=a))),
        "cell is_first": ("is_first", flags, lambda a: cell(x, state(), is_first=a)),
        "cell reset_to.h": ("reset_to.h", f4(B, P), lambda a: cell(x, state(), is_first=flags, reset_to=state(h=a))),
        "cell out.c": ("out.c", f4(B, N), lambda a: cell(x, state(), out=state(c=a))),
        "asarray": ("x", x, cell.asarray),
        "lstm xs": ("xs", xs, lstm),
        "lstm state": ("state[0].c", f4(B, N), lambda a: lstm(xs, (state(c=a),))),
        "lstm lengths": ("lengths", lengths, lambda a: lstm(xs, lengths=a)),
        "lstm mask": ("mask", all_flags, lambda a: lstm(xs, mask=a)),
        "lstm is_first": ("is_first", all_flags, lambda a: lstm(xs, is_first=a)),
        "lstm reset_to": ("reset_to[0].h", f4(1, P), lambda a: lstm(xs, is_first=all_flags, reset_to=(one(h=a),))),
        "lstm step": ("x", x, lambda a: lstm.step(a, cells)),
        "stepper x": ("x", x, stepper.step),
        "stepper is_first": ("is_first", flags, lambda a: stepper.step(x, a)),
        "stepper write": ("state.h", f4(B, P), lambda a: stepper.write(state(h=a))),
        "stepper reset_to": ("reset_to.c", f4(1, N), lambda a: Stepper(cell, B, reset_to=one(c=a))),
        "sequencer xs": ("xs", xs, sequencer.run),
        "sequencer lengths": ("lengths", lengths, lambda a: sequencer.run(lengths=a)),
        "sequencer mask": ("mask", all_flags, lambda a: masked.run(mask=a)),
        "sequencer is_first": ("is_first", all_flags, lambda a: sequencer.run(is_first=a)),
        "sequencer write": ("state[0].h", f4(B, P), lambda a: sequencer.write((state(h=a),))),
        "sequencer reset_to": (
            *("reset_to[0].c", f4(1, N)),
            lambda a: lstm.sequencer(T, B, is_first=True, reset_to=(one(c=a),)),
        ),
        "pool x": ("x", x, lambda a: pool.step(a, slots)),
        "pool slots": ("slots", slots, lambda a: pool.step(x, a)),
        "pool is_first": ("is_first", flags, lambda a: pool.step(x, slots, is_first=a)),
        "pool out": ("out", f4(B, P), lambda a: pool.step(x, slots, out=a)),
        "pool write": ("state.c", f4(B, N), lambda a: pool.write(slots, state(c=a))),
        "pool write slots": ("slots", slots, lambda a: pool.write(a, state())),
        "pool read": ("slots", slots, pool.read),
        "pool reset": ("slots", slots, pool.reset),
        "pool release": ("slots", slots, pool.release),
        "pointwise gates": ("gates", gates, lambda a: lstm_pointwise(a, c)),
        "pointwise c": ("c", c, lambda a: lstm_pointwise(gates, a)),
        "pointwise gates_h": ("gates_h", gates, lambda a: lstm_pointwise(gates, c, gates_h=a)),
        "pointwise bias": ("bias", f4(4 * N), lambda a: lstm_pointwise(gates, c, bias=a)),
        "pointwise peephole": ("peephole", f4(3, N), lambda a: lstm_pointwise(gates, c, peephole=a)),
        "pointwise is_first": ("is_first", flags, lambda a: lstm_pointwise(gates, c, is_first=a)),
        "pointwise reset_c": ("reset_c", c, lambda a: lstm_pointwise(gates, c, is_first=flags, reset_c=a)),
        "pointwise out": ("out.h", f4(B, N), lambda a: lstm_pointwise(gates, c, out=LSTMState(h=a, c=f4(B, N)))),
        "pack_state": ("state.h", f4(B, P), lambda a: pack_state(state(h=a), order="ch")),
        "pack_state c": ("state.c", f4(B, N), lambda a: pack_state(state(c=a), order="ch")),
        "unpack_state": ("packed", f4(B, N + P), lambda a: unpack_state(a, N, order="ch")),
        "stack_states": ("states[0].c", f4(B, N), lambda a: stack_states([state(c=a)])),
        "unstack_states": ("h", wide.h, lambda a: unstack_states(h=a, c=wide.c)),
        "unstack_states c": ("c", wide.c, lambda a: unstack_states(h=wide.h, c=a)),
        "to_numpy": ("h", f4(B, P), lambda a: state(h=a).to_numpy()),
    }


def one(h=None, c=None):
    return LSTMState(h=f4(1, P) if h is None else h, c=f4(1, N) if c is None else c)


def of_weights():
    """Return the entries for arrays of weights, in LSTMWeights and in the importers."""
    arrays = WEIGHTS.arrays()
    parameters = convert.to_torch(SQUARE) if "torch" in sys.modules else {}
    parameters = {name: np.asarray(value) for name, value in parameters.items()}
    tf1, flax = convert.to_tf1(SQUARE, prefix="rnn/lstm_cell"), convert.to_flax(SQUARE)
    kernel = next(name for name in tf1 if name.endswith("kernel"))
    found = {
        "weight_ih": ("weight_ih", arrays["weight_ih"], lambda a: LSTMWeights(**{**arrays, "weight_ih": a})),
        "bias": ("bias", arrays["bias"], lambda a: LSTMWeights(**{**arrays, "bias": a})),
        "weight_hr": ("weight_hr", arrays["weight_hr"], lambda a: LSTMWeights(**{**arrays, "weight_hr": a})),
        "tf1": (kernel, tf1[kernel], lambda a: convert.from_tf1({**tf1, kernel: a})),
        "keras": ("0", convert.to_keras(SQUARE)[0], lambda a: convert.from_keras([a, *convert.to_keras(SQUARE)[1:]])),
        "flax": ("kernel", flax["ii"]["kernel"], lambda a: convert.from_flax({**flax, "ii": {"kernel": a}})),
    }
    for name, array in parameters.items():
        found[name] = (name, array, lambda a, name=name: convert.from_torch({**parameters, name: a}))
    return found


NUMPY_ENTRIES = sorted(entries("numpy"))


@pytest.mark.parametrize("name", NUMPY_ENTRIES)
def test_plain_arrays_are_taken(name):
    """Plain arrays are taken. A memmap is plain, as it holds only its numbers."""
    _, array, take = entries("numpy")[name]
    take(array)
    _, array, take = entries("numpy")[name]
    take(array.view(np.memmap))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NUMPY_ENTRIES)
def test_subclasses_are_refused_by_name(name, kind):
    argument, array, take = entries("numpy")[name]
    given = KINDS[kind](array.copy())
    with pytest.raises(
        TypeError, match=rf"^{argument.replace('[', chr(92) + '[')}: wanted a plain numpy\.ndarray; "
    ) as caught:
        take(given)
    assert type(given).__name__ in str(caught.value)
    # Try again after a plain array has passed, as known classes are cached.
    take(array)
    with pytest.raises(TypeError, match="wanted a plain"):
        take(given)


def test_a_refused_array_changes_nothing():
    cell = LSTMCell(WEIGHTS, backend="numpy")
    pool = StatePool(cell, 3)
    slots = pool.allocate(B)
    x = np.random.default_rng(0).normal(size=(B, I)).astype("f4")
    pool.step(x, slots)
    before = pool.read(slots)
    for given in (masked(x), np.asmatrix(x)):
        with pytest.raises(TypeError, match="x: wanted a plain"):
            pool.step(given, slots)
    with pytest.raises(TypeError, match="is_first"):
        pool.step(x, slots, is_first=masked(np.ones(B, bool)))
    np.testing.assert_array_equal(pool.read(slots).c, before.c)


@pytest.mark.parametrize("kind", KINDS)
def test_subclasses_as_weights_are_refused(kind):
    for argument, array, take in of_weights().values():
        take(array)
        with pytest.raises(TypeError, match="wanted a plain numpy.ndarray") as caught:
            take(KINDS[kind](np.array(array)))
        assert argument in str(caught.value).partition(": wanted")[0]


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ([np.ma.array([1.0, 2.0], mask=[False, True])], r"x\[0\]"),
        ([[0.0, 1.0], np.ma.array([1.0, 2.0])], r"x\[1\]"),
        ([[[0.0, 1.0]], [(0.5, np.ma.masked)]], r"x\[1\]\[0\]\[1\]"),
        ([np.array([1.0, 2.0]).view(np.recarray)], r"x\[0\]"),
        ([[np.array(3.0).view(Quantity), 1.0]], r"x\[0\]\[0\]"),
    ],
)
def test_lists_with_subclasses_are_refused(values, place):
    with pytest.raises(TypeError, match=rf"^{place}: wanted a plain numpy\.ndarray"):
        LSTMCell(WEIGHTS, backend="numpy").asarray(values)


def test_flags_with_subclasses_are_refused():
    cell = LSTMCell(WEIGHTS, backend="numpy")
    for flags in ([True, False, np.ma.masked], [True, False, np.array(True).view(Quantity)]):
        with pytest.raises(TypeError, match=r"is_first\[2\]: wanted a plain"):
            cell(f4(B, I), state(), is_first=flags)
    cell(f4(B, I), state(), is_first=[True, np.bool_(0), np.array(True)])


def test_masks_with_subclasses_are_refused():
    lstm = LSTM(StackedWeights([WEIGHTS]), backend="numpy")
    for argument, given in {
        "mask": [np.ma.array([True] * B, mask=[True] * B)] * T,
        "is_first": [[True] * B] * (T - 1) + [np.ma.array([True] * B)],
        "lengths": [1, 2, np.array(3).view(Quantity)],
    }.items():
        with pytest.raises(TypeError, match=rf"^{argument}\[\d\]: wanted a plain numpy\.ndarray"):
            lstm(f4(T, B, I), **{argument: given})


def test_recursive_lists_are_refused():
    endless = [1.0]
    endless.append(endless)
    with pytest.raises(TypeError, match="equally long lists"):
        LSTMCell(WEIGHTS, backend="numpy").asarray(endless)


def test_errors_say_what_to_write():
    with pytest.raises(TypeError, match=r"Use weight_ih\.filled\(\.\.\.\), with a value for masked elements"):
        LSTMWeights(masked(f4(20, I)), f4(20, N))
    given = f4(20, I).view(Quantity)
    with pytest.raises(TypeError, match=r"If you mean only its numbers, use numpy\.asarray\(weight_ih\)"):
        LSTMWeights(given, f4(20, N))
    assert LSTMWeights(np.asarray(given), f4(20, N)).input_size == I


# Arrays of other libraries.


@pytest.mark.parametrize(
    ("library", "name", "way"),
    [
        ("pandas", "pandas.core.frame", "to_numpy()"),
        ("xarray", "xarray.core.dataarray", "to_numpy()"),
        ("pint", "pint", "magnitude"),
        ("cudf", "cudf.core.series", "to_cupy()"),
    ],
)
def test_labels_and_units_are_refused(library, name, way):
    """The check recognises libraries by the module names of classes and their bases, so the test needs none of them."""

    class Labelled:
        __module__ = name

        def __array__(self, *_, **__):
            return f4(20, I)

    class Below(Labelled):
        __module__ = "of_a_user"

    for kind in (Labelled, Below):
        with pytest.raises(TypeError) as caught:
            LSTMWeights(kind(), f4(20, N))
        assert f"wanted an array without labels or units; got a {kind.__module__}" in str(caught.value)
        assert f"If you mean only its numbers, use weight_ih.{way}" in str(caught.value)


def test_arrays_by_protocol_alone_are_taken():
    given = types.SimpleNamespace()

    class Array:
        def __array__(self, *_, **__):
            return f4(20, I)

    assert LSTMWeights(Array(), f4(20, N)).input_size == I
    with pytest.raises(TypeError, match="weight_ih: wanted an array of numbers; got dtype object of a types.SimpleNam"):
        LSTMWeights(given, f4(20, N))


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def test_tensor_subclasses_are_refused(torch):
    cell = LSTMCell(WEIGHTS, backend="numpy")

    class Named(torch.Tensor):
        pass

    x, c = torch.zeros(B, I), torch.zeros(B, N)
    plain = LSTMState(h=torch.zeros(B, P), c=c)
    cell(torch.nn.Parameter(x, requires_grad=False), plain)
    with pytest.raises(
        TypeError, match=r"x: wanted a plain torch\.Tensor; got a .*Named.*as_subclass\(torch\.Tensor\)"
    ):
        cell(x.as_subclass(Named), plain)
    with pytest.raises(TypeError, match=r"state\.c: wanted a plain torch\.Tensor; got a .*Named"):
        cell(x, LSTMState(h=plain.h, c=c.as_subclass(Named)))
    with pytest.raises(TypeError, match=r"weight_ih: wanted a plain torch\.Tensor"):
        LSTMWeights(torch.zeros(20, I).as_subclass(Named), torch.zeros(20, N))
    assert cell(x.as_subclass(Named).as_subclass(torch.Tensor), plain).c.shape == (B, N)


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_masked_tensors_are_refused(torch):
    module = pytest.importorskip("torch.masked", reason="this PyTorch has no masked tensors")
    given = module.masked_tensor(torch.zeros(20, I), torch.ones(20, I, dtype=torch.bool))
    with pytest.raises(
        TypeError, match=r"weight_ih: wanted a plain .*MaskedTensor.* Use weight_ih\.to_tensor\(\.\.\.\)"
    ):
        LSTMWeights(given, torch.zeros(20, N))


def test_tensors_with_named_axes_are_refused(torch):
    try:
        given = torch.zeros(20, I, names=("gates", "inputs"))
    except TypeError:
        pytest.skip("needs named axes, which PyTorch 2.13 removed")
    with pytest.raises(TypeError, match=r"weight_ih: wanted a tensor whose axes have no names"):
        LSTMWeights(given, torch.zeros(20, N))
