"""States packed in one array, or stacked over layers: packing loses nothing and never guesses an order."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusedlstm import LSTMState, pack_state, stack_states, unpack_state, unstack_states
from fusedlstm.arrays import dtypes
from fusedlstm.backends import select

from support.backends import needs_cuda
from support.foreign import ON_CPU, ON_GPU, Native

ORDERS = ["ch", "hc"]
DTYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def some_state(B, N, P, dtype="float64", seed=0):
    """Return a state whose h and c have no number in common."""
    rng = np.random.default_rng([seed, B, N, P])
    c_dtype = np.float64 if dtype == "float64" else np.float32
    h, c = rng.uniform(0.1, 0.9, (B, P)), rng.uniform(1, 2, (B, N))
    return LSTMState(h=h.astype(DTYPES[dtype]), c=c.astype(c_dtype))


def on(backend, state):
    """Return the state on a backend's device."""
    place = select.choose(backend)
    return LSTMState(h=place.asarray(state.h, state.h.dtype), c=place.asarray(state.c, state.c.dtype))


def same_bits(a, b):
    a, b = a.to_numpy(), b.to_numpy()
    pairs = ((a.h, b.h), (a.c, b.c))
    return all((x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()) for x, y in pairs)


def host(array):
    return array if isinstance(array, np.ndarray) else array.get()


sizes = st.integers(0, 4), st.integers(1, 5), st.integers(1, 5)


@given(*sizes, st.sampled_from(["ch", "hc"]))
def test_pack_and_unpack(B, N, P, order):
    rng = np.random.default_rng(0)
    state = LSTMState(h=rng.normal(size=(B, P)), c=rng.normal(size=(B, N)))
    packed = pack_state(state, order=order)
    parts = (state.c, state.h) if order == "ch" else (state.h, state.c)
    np.testing.assert_array_equal(packed, np.concatenate(parts, axis=1))
    back = unpack_state(packed, N, order=order, proj_size=P if P > N else None)
    np.testing.assert_array_equal(back.h, state.h)
    np.testing.assert_array_equal(back.c, state.c)


def test_sixteen_bit_states_pack_in_float32():
    """c's dtype loses nothing, and unpacking restores the cell's dtypes."""
    h = np.array([[0.5, 1.0]], ml_dtypes.bfloat16)
    c = np.array([[1 / 3, 2.0, 3.0]], np.float32)
    packed = pack_state(LSTMState(h=h, c=c), order="hc")
    assert packed.dtype == np.float32
    back = unpack_state(packed, 3, order="hc", dtype="bfloat16")
    assert back.h.dtype == h.dtype
    np.testing.assert_array_equal(back.h, h)
    np.testing.assert_array_equal(back.c, c)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s, p: pack_state(s), TypeError, "order"),
        (lambda s, p: pack_state(s, order="cf"), ValueError, "order: wanted one of 'ch', 'hc'; got 'cf'"),
        (lambda s, p: pack_state((s.h, s.c), order="ch"), TypeError, "state: wanted an LSTMState"),
        (lambda s, p: pack_state(LSTMState(h=s.h, c=None), order="ch"), TypeError, r"state\.c: wanted an array of"),
        (lambda s, p: pack_state(LSTMState(h=[1.0], c=s.c), order="ch"), TypeError, r"state\.h: wanted a numpy"),
        (lambda s, p: pack_state(LSTMState(h=s.h, c=s.c.astype("f4")), order="ch"), TypeError, "h of float64 and c of"),
        (lambda s, p: pack_state(LSTMState(h=s.h * 1j, c=s.c), order="ch"), TypeError, "h of complex128"),
        (lambda s, p: unpack_state(p * 1j, 4, order="ch", dtype="float32"), TypeError, "packed: .*complex128"),
        (lambda s, p: unpack_state(p.tolist(), 4, order="ch"), TypeError, "packed: wanted an array of NumPy or CuPy"),
        (lambda s, p: pack_state(LSTMState(h=s.h[:1], c=s.c), order="ch"), ValueError, "of the same batch"),
        (lambda s, p: pack_state(LSTMState(h=s.h[0], c=s.c), order="ch"), ValueError, r"state\.h: .*\(B, P\)"),
        (lambda s, p: unpack_state(p, 4), TypeError, "order"),
        (lambda s, p: unpack_state(p, 4, order="hhc"), ValueError, "order"),
        (lambda s, p: unpack_state(p, 8, order="ch"), ValueError, r"P at least 1; got shape \(2, 8\)"),
        (lambda s, p: unpack_state(p, 0, order="ch"), ValueError, "hidden_size: wanted at least 1"),
        (lambda s, p: unpack_state(p, 4.0, order="ch"), TypeError, "hidden_size: wanted an int"),
        (lambda s, p: unpack_state(p[0], 4, order="ch"), ValueError, r"packed: .*\(B, N\+P\)"),
        (lambda s, p: unpack_state(p.astype(int), 4, order="ch"), TypeError, "packed: .*int64"),
    ],
)
def test_bad_arguments(call, error, message):
    state = LSTMState(h=np.zeros((2, 4)), c=np.zeros((2, 4)))
    with pytest.raises(error, match=message):
        call(state, np.zeros((2, 8)))


# Several layers, packed and stacked.


layers = st.lists(st.tuples(st.integers(1, 4), st.none() | st.integers(1, 4)), min_size=1, max_size=4)


@given(B=st.integers(1, 3), sizes=layers, order=st.sampled_from(ORDERS), dtype=st.sampled_from(list(DTYPES)))
def test_layers_come_back_bit_for_bit(backend_of_properties, B, sizes, order, dtype):
    """Layers of any sizes come back exactly. Read in the other order, every layer is wrong."""
    Ns, Ps = [N for N, _ in sizes], [P for _, P in sizes]
    states = [
        on(backend_of_properties, some_state(B, N, P or N, dtype, seed=k))
        for k, (N, P) in enumerate(zip(Ns, Ps, strict=True))
    ]
    packed = pack_state(states, order=order)
    assert packed.shape == (B, sum(N + (P or N) for N, P in sizes))
    back = unpack_state(packed, Ns, order=order, proj_size=Ps, dtype=dtype)
    assert isinstance(back, tuple)
    assert all(same_bits(ours, theirs) for ours, theirs in zip(back, states, strict=True))
    misread = unpack_state(packed, Ns, order="hc" if order == "ch" else "ch", proj_size=Ps, dtype=dtype)
    assert not any(same_bits(ours, theirs) for ours, theirs in zip(misread, states, strict=True))


@given(B=st.integers(0, 3), N=st.integers(1, 4), order=st.sampled_from(ORDERS), dtype=st.sampled_from(list(DTYPES)))
def test_pairs_come_back_bit_for_bit(backend_of_properties, B, N, order, dtype):
    state = on(backend_of_properties, some_state(B, N, N, dtype))
    packed = pack_state(state, order=order, axis=0)
    assert (packed.shape, packed.dtype) == ((2, B, N), state.c.dtype)
    assert same_bits(unpack_state(packed, N, order=order, dtype=dtype), state)
    other = unpack_state(packed, N, order="hc" if order == "ch" else "ch", dtype=dtype)
    assert same_bits(other, state) == (B == 0)


def test_layers_follow_each_other(backend):
    """TensorFlow's MultiRNNCell packs layers as [c0 | h0 | c1 | h1]."""
    states = [some_state(2, 3, 1), some_state(2, 2, 4)]
    h0, c0, h1, c1 = (part for state in states for part in (state.h, state.c))
    given = tuple(on(backend, state) for state in states)
    np.testing.assert_array_equal(host(pack_state(given, order="ch")), np.hstack([c0, h0, c1, h1]))
    np.testing.assert_array_equal(host(pack_state(list(given), order="hc")), np.hstack([h0, c0, h1, c1]))
    one = pack_state([given[0]], order="ch")
    np.testing.assert_array_equal(host(one), np.hstack([c0, h0]))


def test_a_pair_is_packed_as_silero_does(backend):
    state = some_state(2, 3, 3)
    packed = host(pack_state(on(backend, state), order="hc", axis=0))
    np.testing.assert_array_equal(packed[0], state.h)
    np.testing.assert_array_equal(packed[1], state.c)
    packed = host(pack_state(on(backend, state), order="ch", axis=0))
    np.testing.assert_array_equal(packed[0], state.c)


def test_unpacking_returns_views_where_it_can():
    packed, pair = np.zeros((2, 18), np.float32), np.zeros((2, 3, 4), np.float32)
    of_layers = unpack_state(packed, [4, 5], order="ch")
    for state, base in ((of_layers[1], packed), (unpack_state(pair, 4, order="hc"), pair)):
        assert np.shares_memory(state.h, base)
        assert np.shares_memory(state.c, base)
    half = unpack_state(packed, (4, 5), order="ch", dtype="float16")[0]
    assert np.shares_memory(half.c, packed)
    assert half.h.dtype == np.float16


def test_proj_size_gives_the_width_of_h():
    packed = np.zeros((2, 6))
    assert unpack_state(packed, 4, order="ch", proj_size=2).h.shape == (2, 2)
    assert unpack_state(np.zeros((2, 3, 4)), 4, order="ch", proj_size=4).h.shape == (3, 4)
    assert unpack_state(np.zeros((2, 24)), 4, order="ch", proj_size=20).h.shape == (2, 20)
    first, second = unpack_state(np.zeros((2, 12)), (4, 3), order="hc", proj_size=(2, None))
    assert (first.h.shape, first.c.shape, second.h.shape, second.c.shape) == ((2, 2), (2, 4), (2, 3), (2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda s: pack_state((), order="ch"),
            ValueError,
            r"state: wanted at least one LSTMState.*; got an empty tuple",
        ),
        (lambda s: pack_state((s, s.h), order="ch"), TypeError, r"state\[1\]: wanted an LSTMState.*got one array"),
        (lambda s: pack_state((s, None), order="ch"), TypeError, r"state\[1\]: wanted an LSTMState.*got None"),
        (lambda s: pack_state(s, order="ch", axis=2), ValueError, "axis: wanted 0 or 1; got 2"),
        (lambda s: pack_state(s, order="ch", axis=-1), ValueError, "axis: wanted at least 0; got -1"),
        (lambda s: pack_state(s, order="ch", axis=None), TypeError, "axis: wanted an int; got None"),
        (lambda s: pack_state([s, s], order="ch", axis=0), ValueError, "axis: wanted 1 for several .*stack_states"),
        (
            lambda s: pack_state(some_state(2, 4, 3), order="ch", axis=0),
            ValueError,
            r"state: wanted h and c of the same shape \(B, N\); got h \(2, 3\) and c \(2, 4\)",
        ),
        (
            lambda s: pack_state((s, some_state(3, 4, 4)), order="ch"),
            ValueError,
            r"state\[1\]: wanted a batch of 2, that of state\[0\]; got 3",
        ),
        (
            lambda s: pack_state((s, some_state(2, 4, 4, "float32")), order="ch"),
            TypeError,
            r"state\[1\]\.h: wanted dtype float64 \(that of state\[0\]\.h\); got dtype float32",
        ),
        (
            lambda s: pack_state([some_state(2, 4, 4, d) for d in ("float32", "float16")], order="ch"),
            TypeError,
            r"state\[1\]\.h: wanted dtype float32",
        ),
        (lambda s: pack_state((s, LSTMState(h=s.h, c=[1])), order="ch"), TypeError, r"state\[1\]\.c: wanted a numpy"),
        (lambda s: pack_state((s, LSTMState(h=s.h, c=s.c[:1])), order="ch"), ValueError, r"state\[1\]: .*same batch"),
        (
            lambda s: unpack_state(np.zeros((2, 17)), (4, 5), order="ch", proj_size=(None, 2)),
            ValueError,
            "packed: wanted 15 columns for layers with N=4 P=4, N=5 P=2; got 17 columns",
        ),
        (lambda s: unpack_state(np.zeros((2, 3, 8)), (4, 4), order="ch"), ValueError, r"packed: .*\(B, N\+P\); got"),
        (lambda s: unpack_state(np.zeros((2, 3, 8)), 4, order="ch"), ValueError, r"or \(2, B, N\) with N = 4; got"),
        (lambda s: unpack_state(np.zeros((3, 2, 4)), 4, order="ch"), ValueError, r"packed: .*got shape \(3, 2, 4\)"),
        (
            lambda s: unpack_state(np.zeros((2, 3, 4)), 4, order="ch", proj_size=3),
            ValueError,
            r"proj_size: wanted None, or N = 4, for an array \(2, B, N\); got 3",
        ),
        (
            lambda s: unpack_state(np.zeros((2, 8)), 4, order="ch", proj_size=3),
            ValueError,
            r"packed: wanted shape \(B, N \+ P\) with N \+ P = 4 \+ 3 = 7 columns; got shape \(2, 8\)",
        ),
        (
            lambda s: unpack_state(np.zeros((2, 24)), 4, order="ch"),
            ValueError,
            r"packed: wanted shape \(B, N \+ P\) with N = 4 and P at most N; got shape \(2, 24\)\. It is as "
            r"wide as 3 such layers: for them, pass hidden_size=\[4\] \* 3\. If P = 20, pass proj_size=20",
        ),
        (lambda s: unpack_state(np.zeros((2, 18)), 4, order="hc"), ValueError, r"pass hidden_size=\[N of each layer\]"),
        (
            lambda s: unpack_state(np.zeros((2, 14)), 4, order="ch", proj_size=3),
            ValueError,
            r"got shape \(2, 14\)\. .* as 2 such layers: .* hidden_size=\[4\] \* 2 and proj_size=\[3\] \* 2",
        ),
        (lambda s: unpack_state(np.zeros((2, 8)), (), order="ch"), ValueError, "hidden_size: .*got an empty tuple"),
        (
            lambda s: unpack_state(np.zeros((2, 8)), [4, 0], order="ch"),
            ValueError,
            r"hidden_size\[1\]: wanted at least",
        ),
        (lambda s: unpack_state(np.zeros((2, 8)), [4.0], order="ch"), TypeError, r"hidden_size\[0\]: wanted an int"),
        (lambda s: unpack_state(np.zeros((2, 8)), "4", order="ch"), TypeError, "hidden_size: wanted an int; got str"),
        (
            lambda s: unpack_state(np.zeros((2, 8)), [4], order="ch", proj_size=4),
            TypeError,
            "proj_size: wanted None, or a tuple or list .*; got int",
        ),
        (lambda s: unpack_state(np.zeros((2, 8)), 4, order="ch", proj_size=[4]), TypeError, "proj_size: wanted an int"),
        (
            lambda s: unpack_state(np.zeros((2, 8)), [4], order="ch", proj_size=[4, 4]),
            ValueError,
            "proj_size: wanted one for each of 1 layers; got 2 of them",
        ),
        (
            lambda s: unpack_state(np.zeros((2, 8)), [4], order="ch", proj_size=[0]),
            ValueError,
            r"proj_size\[0\]: wanted at least 1",
        ),
        (lambda s: unpack_state(np.zeros((2, 8), int), [4], order="ch"), TypeError, "packed: .*int64"),
        (lambda s: unpack_state(np.zeros((2, 8)), [4], order="c"), ValueError, "order: wanted one of 'ch', 'hc'"),
        (stack_states, TypeError, r"states: .*got one LSTMState\. Use stack_states\(\[state\]\)"),
        (lambda s: stack_states([]), ValueError, "states: wanted at least one LSTMState.*; got an empty list"),
        (lambda s: stack_states((s.h, s.c)), TypeError, r"states: wanted an LSTMState.*Name the two"),
        (lambda s: stack_states([(s.h, s.c, s.c)]), TypeError, r"states\[0\]: .*; got a tuple of 3$"),
        (
            lambda s: stack_states([s.h]),
            TypeError,
            r"states\[0\]: wanted an LSTMState.*got one array, a numpy\.ndarray\.",
        ),
        (lambda s: stack_states([s.h] * 3), TypeError, r"states\[0\]: wanted an LSTMState.*; got one array"),
        (lambda s: stack_states((s, s.h)), TypeError, r"states\[1\]: wanted an LSTMState"),
        (
            lambda s: stack_states((s, some_state(2, 5, 4))),
            ValueError,
            r"states\[1\]\.c: wanted shape \(2, 4\), that of states\[0\]\.c; got shape \(2, 5\)\. .*pack_state",
        ),
        (lambda s: stack_states((s, some_state(2, 4, 3))), ValueError, r"states\[1\]\.h: wanted shape \(2, 4\)"),
        (lambda s: stack_states((s, some_state(3, 4, 4))), ValueError, r"states\[1\]: wanted a batch of 2"),
        (lambda s: stack_states((s, some_state(2, 4, 4, "float32"))), TypeError, r"states\[1\]\.h: wanted dtype"),
        (lambda s: unstack_states(s.h, s.c), TypeError, "positional"),
        (lambda s: unstack_states(h=s.h, c=s.c), ValueError, r"h: wanted shape \(L, B, P\); got shape \(2, 4\)"),
        (lambda s: unstack_states(h=s.h[None], c=s.c), ValueError, r"c: wanted shape \(L, B, N\); got shape \(2, 4\)"),
        (lambda s: unstack_states(h=[s.h], c=s.c[None]), TypeError, "h: wanted a numpy"),
        (
            lambda s: unstack_states(h=s.h[None], c=None),
            TypeError,
            "c: wanted an array of NumPy or .*; got None",
        ),
        (
            lambda s: unstack_states(h=s.h[None, :1], c=s.c[None]),
            ValueError,
            r"h: wanted shape \(L, B, P\) with L, B = \(1, 2\), those of c; got shape \(1, 1, 4\)",
        ),
        (lambda s: unstack_states(h=s.h[None][:0], c=s.c[None][:0]), ValueError, "h: .*at least one layer"),
    ],
)
def test_bad_arguments_of_layers(call, error, message):
    with pytest.raises(error, match=message):
        call(some_state(2, 4, 4))


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_stack_and_unstack(dtype, backend):
    states = [some_state(3, 4, 2, dtype, seed) for seed in range(4)]
    stacked = stack_states([on(backend, state) for state in states])
    assert (stacked.h.shape, stacked.c.shape) == ((4, 3, 2), (4, 3, 4))
    np.testing.assert_array_equal(host(stacked.h), np.stack([state.h for state in states]))
    np.testing.assert_array_equal(host(stacked.c), np.stack([state.c for state in states]))
    back = unstack_states(h=stacked.h, c=stacked.c)
    assert isinstance(back, tuple)
    assert all(same_bits(ours, theirs) for ours, theirs in zip(back, states, strict=True))


def test_only_unstacked_states_are_views():
    state = some_state(3, 4, 2)
    stacked = stack_states([state])
    assert not np.shares_memory(stacked.h, state.h)
    assert not np.shares_memory(stacked.c, state.c)
    (back,) = unstack_states(h=stacked.h, c=stacked.c)
    assert np.shares_memory(back.h, stacked.h)
    assert np.shares_memory(back.c, stacked.c)


@needs_cuda
def test_libraries_do_not_mix():
    state = some_state(2, 4, 4)
    there = on("cuda", state)
    with pytest.raises(ValueError, match=r"state\[1\]\.h: wanted an array on cpu; got a cupy\.ndarray on cuda:0"):
        pack_state((state, there), order="ch")
    with pytest.raises(TypeError, match=r"states\[1\]\.c: wanted a cupy\.ndarray"):
        stack_states((there, state))
    with pytest.raises(TypeError, match=r"h: wanted a cupy\.ndarray \(cuda:0\)"):
        unstack_states(h=state.h[None], c=there.c.reshape(1, 2, 4))


@needs_cuda
def test_on_another_device():
    """Results are on the device of the states. States of two devices raise."""
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two GPUs")
    state = some_state(2, 4, 4, "float16")
    first, second = on("cuda:0", state), on("cuda:1", state)
    packed = pack_state((second, second), order="hc")
    assert packed.device.id == 1
    back = unpack_state(packed, (4, 4), order="hc", dtype="float16")
    assert all(one.h.device.id == 1 and same_bits(one, state) for one in back)
    assert pack_state(second, order="hc", axis=0).device.id == 1
    assert stack_states([second]).c.device.id == 1
    with pytest.raises(ValueError, match=r"state\[1\]\.c: wanted an array on cuda:0; got one on cuda:1"):
        pack_state((first, second), order="hc")


@pytest.fixture(params=[*ON_CPU, *ON_GPU], ids=lambda library: library.__name__)
def library(request, monkeypatch):
    return request.param(monkeypatch)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_arrays_of_other_libraries(library, dtype):
    """Results have the same numbers, are in the given library, and are views after unpacking."""
    result = library if library.gives else Native(library.backend)
    c_dtype = np.dtype("float32")
    rng = np.random.default_rng(0)
    h, c = rng.normal(size=(2, 3, 4)).astype(dtypes.resolve(dtype)), rng.normal(size=(2, 3, 5)).astype(c_dtype)
    states = unstack_states(h=library.make(h), c=library.make(c))
    packed = pack_state(states, order="ch")
    assert isinstance(packed, result.type)
    wide = h.astype(c_dtype)
    np.testing.assert_array_equal(result.host(packed), np.concatenate([c[0], wide[0], c[1], wide[1]], axis=1))
    again = unpack_state(packed, (5, 5), order="ch", proj_size=(4, 4), dtype=dtype)
    stacked = stack_states(again)
    for name, array in (("h", h), ("c", c)):
        got = getattr(stacked, name)
        assert isinstance(got, result.type)
        np.testing.assert_array_equal(result.host(got).astype("f8"), array.astype("f8"))
    first = unpack_state(packed, (5, 5), order="ch", proj_size=(4, 4))[0]
    if library.written or not library.gives:  # JAX has no views, as its arrays are immutable
        assert result.address(first.c) == result.address(packed)


@pytest.mark.parametrize("order", ORDERS)
def test_a_tuple_of_one_state_stays_a_tuple(order):
    """A tuple of one state packs to (2, B, N), and unpacks to a tuple."""
    state = some_state(3, 4, 4)
    packed = pack_state((state,), order=order, axis=0)
    np.testing.assert_array_equal(packed[order.index("h")], state.h)
    (back,) = unpack_state(packed, (4,), order=order)
    np.testing.assert_array_equal(back.h, state.h)
    np.testing.assert_array_equal(back.c, state.c)


def test_unstack_states_refuses_bad_dtypes():
    state = some_state(2, 4, 4)
    with pytest.raises(TypeError, match="h and c: wanted h of float64, .*; got h of float32 and c of float64"):
        unstack_states(h=state.h[None].astype("f4"), c=state.c[None])
    with pytest.raises(TypeError, match="h and c: wanted h of float64, .*; got h of int64 and c of int64"):
        unstack_states(h=state.h[None].astype("i8"), c=state.c[None].astype("i8"))
