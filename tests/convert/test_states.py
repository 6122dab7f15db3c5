"""States of other frameworks: the order of h and c, round trips, and refusals."""

import json
import sys
import types
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusedlstm import LSTM, LSTMCell, LSTMState, LSTMWeights, StackedWeights, convert
from fusedlstm.arrays import dtypes
from fusedlstm.convert.systems import SYSTEMS

from support.backends import needs_cuda
from support.cells import host
from support.foreign import ON_CPU, ON_GPU, Native
from support.oracle_files import FOLDER, Oracle, names

B, N, P = 3, 4, 2
HC, CH = ("h", "c"), ("c", "h")

TF1State = namedtuple("LSTMStateTuple", CH)
HaikuState = namedtuple("LSTMState", ("hidden", "cell"))
PAIRS = {
    "tf1": (convert.state_from_tf1, convert.state_to_tf1, CH),
    "keras": (convert.state_from_keras, convert.state_to_keras, HC),
    "torch": (convert.state_from_torch, convert.state_to_torch, HC),
    "flax": (convert.state_from_flax, convert.state_to_flax, CH),
    "haiku": (convert.state_from_haiku, convert.state_to_haiku, HC),
    "equinox": (convert.state_from_equinox, convert.state_to_equinox, HC),
}
STACKS = {name: functions for name, functions in PAIRS.items() if name != "torch"}
ALL_TO = {**{name: functions[1] for name, functions in PAIRS.items()}, "silero": convert.state_to_silero}


@pytest.fixture(autouse=True)
def haiku(monkeypatch):
    """Provide the part of Haiku that state_to_haiku needs, whether or not Haiku is installed."""
    monkeypatch.setitem(sys.modules, "haiku", types.SimpleNamespace(LSTMState=HaikuState))


def some(rows=B, width=N, seed=0, dtype="float64"):
    return np.random.default_rng([seed, rows, width]).normal(size=(rows, width)).astype(dtypes.resolve(dtype))


def some_state(seed=0, hidden=N, out=P, dtype="float64"):
    c_dtype = "float64" if dtype == "float64" else "float32"
    return LSTMState(h=some(B, out, seed, dtype), c=some(B, hidden, seed + 100, c_dtype))


def in_order(order, h, c):
    return tuple({"h": h, "c": c}[part] for part in order)


def assert_same(state, h, c):
    for got, wanted in ((state.h, h), (state.c, c)):
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_array_equal(host(got), host(wanted))


def test_every_pair_is_tested():
    forms = {system.name for system in SYSTEMS if system.pairs}
    assert set(PAIRS) == forms, f"PAIRS in tests/convert/test_states.py doesn't have {forms - set(PAIRS)}"


# Outputs of other systems. Swapping h and c would change them.


def cell_of(weights, backend):
    return LSTMCell(weights, backend=backend)


def assert_near(pair, wanted, tolerance):
    """Compare a framework's pair with the framework's own outputs."""
    assert len(pair) == len(wanted)
    for got, right in zip(pair, wanted, strict=True):
        values = host(got).astype("f8")
        assert values.shape == right.shape
        assert np.abs(values - right.astype("f8")).max() <= tolerance


def assert_steps(cell, oracle, system, pair=tuple):
    """Step from the framework's pairs, and compare the pair after each step."""
    take, give, order = PAIRS[system]
    assert not np.array_equal(oracle["h0"], oracle["c0"])
    for x, h, c, h_next, c_next in oracle.steps():
        given = pair(cell.asarray(part) for part in in_order(order, h, c))  # 16-bit states have a 16-bit c
        state = cell(cell.asarray(x), take(given))
        assert_near(give(state), in_order(order, h_next, c_next), oracle.tolerance)


def tf1_cell_weights(oracle):
    names_here = ("cell_clip", "num_proj", "proj_clip", "use_peepholes")
    options = {key: value for key, value in oracle.meta["args"].items() if key in names_here}
    variables = {name.replace("projection_kernel", "projection/kernel"): a for name, a in oracle.variables().items()}
    return convert.from_tf1({f"lstm_cell/{name}": a for name, a in variables.items()}, **options)


@pytest.mark.parametrize("pair", [tuple, list, TF1State._make], ids=["tuple", "list", "LSTMStateTuple"])
@pytest.mark.parametrize("which", ["f64_all_tuple1", "f64_plain_tuple1", "float16_plain", "float32_all"])
def test_tf1_cell(which, pair, backend):
    oracle = Oracle(f"tf1/lstmcell_{which}.npz")
    assert_steps(cell_of(tf1_cell_weights(oracle), backend), oracle, "tf1", pair)


@pytest.mark.parametrize("which", ["f64_all_tuple0", "f64_plain_tuple0"])
def test_tf1_packed(which, backend):
    oracle = Oracle(f"tf1/lstmcell_{which}.npz")
    cell = cell_of(tf1_cell_weights(oracle), backend)
    hidden_size, packed = cell.weights.hidden_size, oracle["packed0"]
    for x, packed_next in zip(oracle["x"], oracle["packed_seq"], strict=True):
        state = cell(cell.asarray(x), convert.state_from_tf1(cell.asarray(packed), hidden_size=hidden_size))
        assert_near([convert.state_to_tf1(state, packed=True)], [packed_next], oracle.tolerance)
        packed = packed_next


def test_tf1_packs_c_before_h():
    """Of TensorFlow's own outputs for [c | h] and [h | c], only the first equals that for the tuple."""
    proof = json.loads((FOLDER / "tf1_state_order_proof.json").read_text())
    state = convert.state_from_tf1(np.array(proof["s_packed_ch"]), hidden_size=2)
    assert_same(state, np.array(proof["h_tuple"]), np.array(proof["c_tuple"]))
    assert_same(convert.state_from_tf1((np.array(proof["c_tuple"]), np.array(proof["h_tuple"]))), state.h, state.c)
    assert convert.state_to_tf1(state)._fields == tuple(proof["verdict"]["LSTMStateTuple._fields"])


def test_tf1_multi_rnn_cell(backend):
    oracle = Oracle("tf1/dyn_multi3.npz")
    weights = [convert.from_tf1(oracle.variables(), f"rnn/multi_rnn_cell/cell_{k}/lstm_cell") for k in range(3)]
    lstm = LSTM(StackedWeights(weights), backend=backend)
    states, finals = (
        tuple(
            TF1State(lstm.asarray(oracle[f"{when}_l{k}_c"]), lstm.asarray(oracle[f"{when}_l{k}_h"])) for k in range(3)
        )
        for when in ("init", "final")
    )
    _, got = lstm(lstm.asarray(oracle["x"]), convert.state_from_tf1(states))
    nested = convert.state_to_tf1(got)
    assert isinstance(nested, tuple)
    for pair, wanted in zip(nested, finals, strict=True):
        assert_near(pair, [host(part) for part in wanted], 3 * oracle.tolerance)
    packed = convert.state_to_tf1(got, packed=True)
    flat = np.hstack([host(part) for pair in finals for part in pair])
    assert_near([packed], [flat], 3 * oracle.tolerance)
    for state, again in zip(got, convert.state_from_tf1(packed, hidden_size=(5, 5, 5)), strict=True):
        assert_same(again, state.h, state.c)


def test_tf1_both_directions(backend):
    """The states are those of bidirectional_dynamic_rnn."""
    oracle = Oracle("tf1/dyn_bidir_lens.npz")
    weights = [convert.from_tf1(oracle.variables(), f"bidirectional_rnn/{way}/lstm_cell") for way in ("fw", "bw")]
    lstm = LSTM(StackedWeights(weights, bidirectional=True), backend=backend)
    states, finals = (
        [tuple(oracle[f"{when}_{way}_l0_{part}"] for part in CH) for way in ("fw", "bw")] for when in ("init", "final")
    )
    states = [tuple(map(lstm.asarray, pair)) for pair in states]
    xs = lstm.asarray(oracle["x"])
    _, got = lstm(xs, convert.state_from_tf1(states), lengths=oracle["sequence_length"])
    for pair, wanted in zip(convert.state_to_tf1(got), finals, strict=True):
        assert_near(pair, wanted, 3 * oracle.tolerance)


def keras_layers(oracle):
    arrays = [array for key, array in oracle.arrays.items() if key[0] == "W"]
    return [LSTMWeights(arrays[k].T, arrays[k + 1].T, arrays[k + 2]) for k in range(0, len(arrays), 3)]


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_keras_cell(dtype, backend):
    oracle = Oracle(f"keras3_tensorflow/LSTMCell_{dtype}_plain.npz")
    assert_steps(cell_of(keras_layers(oracle)[0], backend), oracle, "keras", list)


@pytest.mark.parametrize("which", ["plain", "bidir"])
def test_keras_layer(which, backend):
    oracle = Oracle(f"keras3_tensorflow/LSTM_{which}.npz")
    both = which == "bidir"
    lstm = LSTM(StackedWeights(keras_layers(oracle), bidirectional=both), batch_first=True, backend=backend)
    initial, final = ([oracle[f"{when}{k}"] for k in range(4 if both else 2)] for when in ("init", "final"))
    state = convert.state_from_keras([lstm.asarray(part) for part in initial])
    _, states = lstm(lstm.asarray(oracle["x"]), state if both else (state,))
    given = convert.state_to_keras(states if both else states[0], bidirectional=both)
    assert isinstance(given, list)
    assert_near(given, final, 3 * oracle.tolerance)


@pytest.mark.parametrize("name", names("torch/LSTMCell_*.npz"))
def test_torch_cell(name, backend):
    oracle = Oracle(name)
    assert_steps(cell_of(convert.from_torch(oracle.variables()), backend), oracle, "torch")


@pytest.mark.parametrize("which", ["l3", "bidir2", "proj", "plain"])
def test_torch_layers(which, backend):
    oracle = Oracle(f"torch/LSTM_{which}.npz")
    lstm = LSTM(convert.from_torch(oracle.variables()), backend=backend)
    pair = lstm.asarray(oracle["h0"]), lstm.asarray(oracle["c0"])
    states = convert.state_from_torch(pair)
    assert isinstance(states, tuple)
    _, got = lstm(lstm.asarray(oracle["x"]), states)
    assert_near(convert.state_to_torch(got), (oracle["hn"], oracle["cn"]), 3 * oracle.tolerance)


def test_flax_carry(backend):
    oracle = Oracle("jax/flax_linen_RNN_fwd_len.npz")
    cell = {key.split("['cell']")[1]: array for key, array in oracle.variables().items()}
    from_x, from_h, bias = (
        np.concatenate([cell[f"['{side}{gate}']['{what}']"] for gate in "ifgo"], axis=-1)
        for side, what in (("i", "kernel"), ("h", "kernel"), ("h", "bias"))
    )
    lstm = LSTM(LSTMWeights(from_x.T, from_h.T, bias), batch_first=True, backend=backend)
    state = convert.state_from_flax((lstm.asarray(oracle["c0"]), lstm.asarray(oracle["h0"])))
    _, (got,) = lstm(lstm.asarray(oracle["x"]), (state,), lengths=oracle["lens"])
    assert_near(convert.state_to_flax(got), (oracle["final_c"], oracle["final_h"]), 3e-12)


@pytest.mark.parametrize("pair", [tuple, HaikuState._make], ids=["tuple", "LSTMState"])
def test_haiku_state(pair, backend):
    """Haiku's kernel has TensorFlow 1's layout and forget bias."""
    oracle = Oracle("jax/haiku_LSTM.npz")
    oracle.tolerance = 1e-12
    kernel, bias = (oracle[f"W_['lstm/linear']['{name}']"] for name in "wb")
    weights = convert.from_tf1({"lstm_cell/kernel": kernel, "lstm_cell/bias": bias}, forget_bias=1.0)
    assert oracle.meta["fields"] == list(HaikuState._fields)
    assert_steps(cell_of(weights, backend), oracle, "haiku", pair)


def test_equinox_state(backend):
    oracle = Oracle("jax/equinox_LSTMCell_bias1.npz")
    oracle.tolerance = 1e-12
    weights = LSTMWeights(*(oracle[f"W_.{name}"] for name in ("weight_ih", "weight_hh", "bias")))
    assert_steps(cell_of(weights, backend), oracle, "equinox")


# Comparisons with PyTorch.


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_torch_takes_and_returns_states(dtype):
    """PyTorch takes states that we give, and we take those it returns, for cells and layers."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    kind, tolerance = getattr(torch, dtype), {"float64": 1e-12, "float32": 3e-6, "bfloat16": 6e-2}[dtype]
    module, x = torch.nn.LSTMCell(5, N, dtype=kind), torch.randn(B, 5, dtype=kind)
    cell = LSTMCell(convert.from_torch(module), backend="numpy")
    state = cell(x, cell.zero_state(B, like=x))
    with torch.inference_mode():
        wanted = module(x, module(x))
        taken = convert.state_from_torch(module(x))
        there = module(x, convert.state_to_torch(state))
        here = convert.state_to_torch(cell(x, taken))
    for pair in (there, here):
        assert [part.dtype for part in pair] == [kind, kind]
        for got, right in zip(pair, wanted, strict=True):
            assert (got - right).abs().max() <= 2 * tolerance


def test_torch_continues_a_sequence():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    module = torch.nn.LSTM(5, N, num_layers=2, bidirectional=True, proj_size=P, dtype=torch.float64)
    xs = torch.randn(6, B, 5, dtype=torch.float64)
    lstm = LSTM(convert.from_torch(module), backend="numpy")
    with torch.inference_mode():
        _, first = module(xs)
        _, wanted = module(xs, first)
        _, states = lstm(xs, convert.state_from_torch(first))
        _, again = module(xs, convert.state_to_torch(lstm(xs)[1]))
    for pair in (convert.state_to_torch(states), again):
        for got, right in zip(pair, wanted, strict=True):
            assert got.shape == right.shape
            assert (got - right).abs().max() < 1e-12


# Forms of pairs, and whether arrays are copied.


@pytest.mark.parametrize("system", list(PAIRS))
@pytest.mark.parametrize("kind", [tuple, list])
def test_pair_keeps_its_arrays(system, kind):
    """The arrays pass through uncopied, in the framework's order."""
    take, give, order = PAIRS[system]
    h, c = some(width=P), some(width=N)
    state = take(kind(in_order(order, h, c)))
    assert state.h is h
    assert state.c is c
    assert all(got is wanted for got, wanted in zip(give(state), in_order(order, h, c), strict=True))


@pytest.mark.parametrize("system", list(STACKS))
@pytest.mark.parametrize("kind", [tuple, list])
def test_stack_keeps_its_arrays(system, kind):
    """Cells may have different sizes, and a stack may have one cell."""
    take, give, order = STACKS[system]
    for count in (1, 2, 3):
        states = [some_state(k, hidden=2 + k, out=3 + k) for k in range(count)]
        got = take(kind(kind(in_order(order, state.h, state.c)) for state in states))
        assert isinstance(got, tuple)
        assert len(got) == count
        for one, state in zip(got, states, strict=True):
            assert_same(one, state.h, state.c)
        given = give(kind(states))
        assert type(given) is (list if system == "keras" else tuple)
        for pair, state in zip(given, states, strict=True):
            assert all(part is own for part, own in zip(pair, in_order(order, state.h, state.c), strict=True))


def test_types_of_pairs():
    state = some_state()
    types = {system: type(give(state)) for system, (_, give, _) in PAIRS.items()}
    named = types.pop("tf1")
    assert (named.__name__, named._fields) == ("LSTMStateTuple", CH)
    assert types == {"keras": list, "torch": tuple, "flax": tuple, "haiku": HaikuState, "equinox": tuple}
    assert all(type(pair).__name__ == "LSTMStateTuple" for pair in convert.state_to_tf1((state, state)))
    assert all(type(pair) is HaikuState for pair in convert.state_to_haiku((state,)))
    assert all(type(pair) is list for pair in convert.state_to_keras([state, state]))


@pytest.mark.parametrize("system", list(PAIRS))
@pytest.mark.parametrize("fields", ["h c", "c h", "hidden cell", "cell hidden"])
def test_fields_are_read_by_name(system, fields):
    """The order of the fields doesn't matter, nor does the framework."""
    take = PAIRS[system][0]
    state = some_state()
    by_name = {"h": state.h, "hidden": state.h, "c": state.c, "cell": state.c}
    kind = namedtuple("Pair", fields)
    pair = kind(**{field: by_name[field] for field in kind._fields})
    assert_same(take(pair), state.h, state.c)
    if system in STACKS:
        for one in take((pair, pair)):
            assert_same(one, state.h, state.c)


def test_keras_directions():
    forward, backward = some_state(0), some_state(1, hidden=5)
    flat = [forward.h, forward.c, backward.h, backward.c]
    for kind in (list, tuple):
        for got, state in zip(convert.state_from_keras(kind(flat)), (forward, backward), strict=True):
            assert got.h is state.h
            assert got.c is state.c
    given = convert.state_to_keras((forward, backward), bidirectional=True)
    assert all(got is wanted for got, wanted in zip(given, flat, strict=True))
    assert len(convert.state_to_keras((forward, backward))) == 2


def test_layers_of_torch_are_views():
    h, c = np.stack([some(width=P, seed=k) for k in range(4)]), np.stack([some(seed=k) for k in range(4)])
    states = convert.state_from_torch((h, c))
    assert len(states) == 4
    for k, state in enumerate(states):
        assert_same(state, h[k], c[k])
        assert np.shares_memory(state.h, h)
        assert np.shares_memory(state.c, c)
    back = convert.state_to_torch(states)
    np.testing.assert_array_equal(back[0], h)
    np.testing.assert_array_equal(back[1], c)
    assert not np.shares_memory(back[1], c)
    (one,) = convert.state_from_torch((h[:1], c[:1]))
    assert_same(one, h[0], c[0])
    assert [part.shape for part in convert.state_to_torch((one,))] == [(1, B, P), (1, B, N)]


def test_torch_states_of_two_axes_are_a_batch():
    """An unbatched LSTM's (L, N) looks like a cell's (B, N), and is read as a batch. (L, B, N) is read as layers."""
    h, c = some(rows=2), some(rows=2, seed=1)
    assert_same(convert.state_from_torch((h, c)), h, c)
    layers = convert.state_from_torch((h[:, None], c[:, None]))
    assert [state.h.shape for state in layers] == [(1, N), (1, N)]
    np.testing.assert_array_equal(layers[1].c, c[1:])


def test_silero_states_are_views(backend):
    """h is the first of the two. States from Silero are views."""
    both = np.stack([some(dtype="float32"), some(seed=1, dtype="float32")])
    cell = LSTMCell(LSTMWeights.random(N, N, seed=0), backend=backend)
    state = convert.state_from_silero(cell.asarray(both))
    assert_same(state, both[0], both[1])
    for one in (state, (state,)):
        given = convert.state_to_silero(one)
        assert (given.dtype, given.shape) == (both.dtype, both.shape)
        np.testing.assert_array_equal(host(given), both)
    assert np.shares_memory(convert.state_from_silero(both).h, both)


def test_packed_arrays_are_views():
    packed = some(width=2 * N)
    state = convert.state_from_tf1(packed, hidden_size=N)
    np.testing.assert_array_equal(state.c, packed[:, :N])
    assert np.shares_memory(state.h, packed)
    assert np.shares_memory(state.c, packed)
    first, second = convert.state_from_tf1(some(width=14), hidden_size=(4, 5), proj_size=(2, 3))
    assert (first.c.shape, first.h.shape, second.c.shape, second.h.shape) == ((B, 4), (B, 2), (B, 5), (B, 3))
    assert convert.state_from_tf1(some(width=7), hidden_size=5, proj_size=2).h.shape == (B, 2)


# Dtypes.


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("system", list(PAIRS))
def test_16_bit_states(system, dtype):
    """Our c is float32, and the framework's has h's dtype. A float32 c is taken, too."""
    take, give, order = PAIRS[system]
    half = dtypes.resolve(dtype)
    h, c = some(width=P, dtype=dtype), some(dtype=dtype)
    for own in (c, c.astype("f4")):
        state = take(in_order(order, h, own))
        assert state.h is h
        assert_same(state, h, c.astype("f4"))
    pair = dict(zip(order, give(state), strict=True))
    assert (pair["h"].dtype, pair["c"].dtype) == (half, half)
    np.testing.assert_array_equal(pair["c"], c)
    if system == "torch":
        (layer,) = take((h[None], c[None]))
        assert_same(layer, h, c.astype("f4"))
        assert [part.dtype for part in give((layer, layer))] == [half, half]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_states_in_one_array(dtype):
    half = dtypes.resolve(dtype)
    state = some_state(out=N, dtype=dtype)
    packed = convert.state_to_tf1(state, packed=True)
    assert packed.dtype == half
    np.testing.assert_array_equal(packed, np.hstack([state.c.astype(half), state.h]))
    assert_same(convert.state_from_tf1(packed, hidden_size=N), state.h, state.c.astype(half).astype("f4"))
    assert convert.state_to_tf1([state, state], packed=True).dtype == half
    both = convert.state_to_silero(state)
    assert both.dtype == half
    assert_same(convert.state_from_silero(both), state.h, state.c.astype(half).astype("f4"))


@pytest.mark.parametrize("dtype", dtypes.NAMES)
@pytest.mark.parametrize("system", list(PAIRS))
def test_dtype_casts_states(system, dtype):
    """`dtype` casts states of any dtypes."""
    take, _, order = PAIRS[system]
    wanted, c_dtype = dtypes.resolve(dtype), dtypes.state_dtype(dtypes.resolve(dtype))
    for came in [("float32", "float32"), ("float64", "float32"), ("float32", "float16")]:
        h, c = some(width=P, dtype=came[0]), some(dtype=came[1])
        assert_same(take(in_order(order, h, c), dtype=dtype), h.astype(wanted), c.astype(c_dtype))
    if system == "torch":
        (layer,) = take((h[None], c[None]), dtype=dtype)
        assert_same(layer, h.astype(wanted), c.astype(c_dtype))
    packed = some(width=2 * N)
    state = convert.state_from_tf1(packed, hidden_size=N, dtype=dtype)
    assert_same(state, packed[:, N:].astype(wanted), packed[:, :N].astype(c_dtype))
    both = np.stack([packed, -packed])
    assert_same(convert.state_from_silero(both, dtype=dtype), packed.astype(wanted), -packed.astype(c_dtype))


@given(
    system=st.sampled_from(list(STACKS)),
    dtype=st.sampled_from(dtypes.NAMES),
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
    rows=st.integers(0, 3),
    single=st.booleans(),
)
def test_states_round_trip(backend_of_properties, system, dtype, sizes, rows, single):
    """Keep every bit, except those of c that h's dtype can't hold."""
    take, give, _ = STACKS[system]
    native = Native(backend_of_properties)
    pairs = [(some(rows, out, k, dtype), some(rows, hidden, k + 9, dtype)) for k, (hidden, out) in enumerate(sizes)]
    c_dtype = dtypes.state_dtype(dtypes.resolve(dtype))
    states = tuple(LSTMState(h=native.make(h), c=native.make(c.astype(c_dtype))) for h, c in pairs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "haiku", types.SimpleNamespace(LSTMState=HaikuState))
        back = (take(give(states[0])),) if single else take(give(states))
    for got, (h, c) in zip(back, pairs[: len(back)], strict=True):
        assert_same(got, h, c.astype(c_dtype))
    assert len(back) == (1 if single else len(sizes))


# Arrays of other libraries.


@pytest.fixture(params=[*ON_CPU, *ON_GPU], ids=lambda library: library.__name__)
def library(request, monkeypatch):
    return request.param(monkeypatch)


@pytest.mark.parametrize("system", list(PAIRS))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_of_other_libraries(library, system, dtype):
    """An array that needs no cast is returned as it is. Others are cast by their own library."""
    take, give, order = PAIRS[system]
    result = library if library.gives else Native(library.backend)
    h, c = some(width=P, dtype=dtype), some(dtype=dtype)
    made = library.make(h), library.make(c)
    state = take(in_order(order, *made))
    assert state.h is made[0]
    np.testing.assert_array_equal(library.host(state.h).astype("f8"), h.astype("f8"))
    pair = dict(zip(order, give(state), strict=True))
    assert pair["h"] is made[0]
    if dtype == "float32":
        assert state.c is made[1]
        assert pair["c"] is made[1]
        return
    for got, kind in ((state.c, "float32"), (pair["c"], dtype)):
        assert isinstance(got, result.type)
        values = result.host(got)
        assert values.dtype == dtypes.resolve(kind)
        np.testing.assert_array_equal(values.astype("f8"), c.astype("f8"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stacked_states_of_other_libraries(library, dtype):
    result = library if library.gives else Native(library.backend)
    h, c = np.stack([some(dtype=dtype)] * 2), np.stack([some(seed=1, dtype=dtype)] * 2)
    back = convert.state_to_torch(convert.state_from_torch((library.make(h), library.make(c))))
    one = convert.state_from_silero(library.make(np.stack([h[0], c[0]])))
    both = convert.state_to_silero(one)
    packed = convert.state_to_tf1(convert.state_from_tf1(library.make(c[0]), hidden_size=2), packed=True)
    for got, wanted in [(back[0], h), (back[1], c), (both, np.stack([h[0], c[0]])), (packed, c[0])]:
        assert isinstance(got, result.type)
        values = result.host(got)
        assert (values.dtype, values.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_array_equal(values.astype("f8"), wanted.astype("f8"))


@needs_cuda
def test_mixed_libraries_raise():
    here, there = some(), Native("cuda").make(some())
    with pytest.raises(TypeError, match=r"state\.h: wanted a cupy\.ndarray \(cuda:0\); got numpy\.ndarray"):
        convert.state_from_flax((there, here))
    with pytest.raises(ValueError, match=r"state\.h: wanted an array on cpu; got a cupy\.ndarray on cuda:0"):
        convert.state_from_keras([there, here])
    with pytest.raises(ValueError, match=r"state\[1\]\.c: wanted an array on cpu"):
        convert.state_from_keras([[here, here], [here, there]])


# Refusals.


H, C = some(width=P), some()
STATE = LSTMState(h=H, c=C)
BOTH = np.zeros((2, B, N))  # two arrays when iterated
Other = namedtuple("Other", "first second")


@pytest.mark.parametrize("system", list(PAIRS))
@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (BOTH, TypeError, "state: wanted .*; got one array, a numpy.ndarray. .*use unpack_state"),
        (STATE, TypeError, "state: wanted .*; got an LSTMState. It needs no conversion"),
        ((STATE, STATE), TypeError, r"state\[0\]: wanted an array; got an LSTMState. It needs no conversion"),
        ({"h": H, "c": C}, TypeError, "state: wanted .*; got dict"),
        (None, TypeError, "state: wanted .*; got None"),
        ("hc", TypeError, "state: wanted .*; got str"),
        ((), ValueError, "state: wanted .*; got an empty tuple"),
        ([], ValueError, "state: wanted .*; got an empty list"),
        ((H,), ValueError, "state: wanted .*; got a tuple of 1"),
        ([H] * 6, ValueError, "state: wanted .*; got a list of 6. For several layers"),
        (Other(H, C), TypeError, r"or fields named h and c, or hidden and cell; got a Other\(first, second\)"),
        ((H, None), TypeError, r"state\.[hc]: wanted .*; got None"),
        ((1.0, 2.0), TypeError, r"state\.c: wanted an array of NumPy or CuPy, .*; got float"),
        ((C[:2], C), ValueError, r"state: wanted h and c of the same batch; got h \([23], 4\) and c \([23], 4\)"),
        ((C[0], C[0]), ValueError, r"state\.h: wanted shape \(B, P\); got shape \(4,\)\. Use state\.h\[None\]"),
        ((C.astype("i8"), C.astype("i8")), TypeError, r"state\.c: wanted dtype float64, .*; got dtype int64"),
        ((C * 1j, C * 1j), TypeError, r"state\.c: wanted dtype .*; got dtype complex128"),
        ((C, C.astype("f4")), TypeError, "state: wanted h and c of one dtype, .*Pass dtype=, the cell's"),
        ((C.astype("f2"), C), TypeError, "state: wanted h and c of one dtype, .*; got h of float.* and c of float"),
    ],
)
def test_bad_pair_raises(system, state, error, message):
    if system == "tf1" and state is BOTH:  # for TensorFlow 1, hidden_size says what an array holds
        message = r"hidden_size: wanted N, or one for each layer, with a packed array \[c \| h\]; got None"
    with pytest.raises(error, match=message):
        PAIRS[system][0](state)


@pytest.mark.parametrize("system", list(STACKS))
@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (((H, C), None), TypeError, r"state\[1\]: wanted .[hc], [hc].; got None$"),
        ((H, [H, C]), TypeError, r"state\[0\]: wanted .*; got numpy.ndarray. A step returns an output and a state"),
        (((H, C), H), TypeError, r"state\[1\]: wanted .*; got numpy.ndarray. A step returns an output and a state"),
        (((H, C), STATE), TypeError, r"state\[1\]: wanted .*; got an LSTMState"),
        (((H, C), (H, STATE)), TypeError, r"state\[1\]\[1\]: wanted an array; got an LSTMState"),
        (((H, C), (H,)), ValueError, r"state\[1\]: wanted .*; got a tuple of 1"),
        (((H, C), [H] * 3), ValueError, r"state\[1\]: wanted .*; got a list of 3"),
        ((((H, C), (H, C)), (H, C)), TypeError, r"state\[0\]\[0\]: wanted an array; got a tuple. Give nested stacks"),
        (((C, C), (C[:2], C[:2])), ValueError, r"state\[1\]: wanted a batch of 3, that of state\[0\]; got 2"),
        (((C, C), (C, C[:2])), ValueError, r"state\[1\]: wanted h and c of the same batch"),
        (((C, C), (C, C[0])), ValueError, r"state\[1\]\.[hc]: wanted shape \(B, [PN]\); got shape \(4,\)"),
        (((C, C), (C.astype("f4"),) * 2), TypeError, r"state\[1\]\.h: wanted dtype float64 \(that of state\[0\]\.h"),
    ],
)
def test_bad_stack_raises(system, state, error, message):
    with pytest.raises(error, match=message):
        STACKS[system][0](state)


H3, C3 = np.zeros((2, B, P)), np.zeros((2, B, N))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        # TensorFlow 1
        (
            lambda: convert.state_from_tf1((C, H), hidden_size=N),
            TypeError,
            "hidden_size: wanted None with a pair.*got 4",
        ),
        (lambda: convert.state_from_tf1([C, H], proj_size=P), TypeError, "proj_size: wanted None with a pair.*got 2"),
        (lambda: convert.state_from_tf1(C, proj_size=P), TypeError, "hidden_size: wanted N, .*; got None"),
        (lambda: convert.state_from_tf1(C, hidden_size=N), ValueError, r"state: wanted shape \(B, N \+ P\) with N = 4"),
        (lambda: convert.state_from_tf1(C, hidden_size=(1, 2)), ValueError, "state: wanted 6 columns .*got 4 columns"),
        (lambda: convert.state_from_tf1(C[0], hidden_size=2), ValueError, r"state: wanted shape \(B, N\+P\); got"),
        (lambda: convert.state_from_tf1(C, hidden_size=2, proj_size=1), ValueError, "state: wanted .* = 3 columns"),
        (
            lambda: convert.state_from_tf1(C.astype(int), hidden_size=2),
            TypeError,
            "state: wanted dtype .*; got dtype int",
        ),
        (lambda: convert.state_from_tf1(C, hidden_size=2.0), TypeError, "hidden_size: wanted an int"),
        (lambda: convert.state_from_tf1(BOTH[:1], hidden_size=N), ValueError, r"state: .*or \(2, B, N\) with N = 4"),
        (lambda: convert.state_from_tf1({}, hidden_size=N), TypeError, "state: wanted .*, or a packed array; got dict"),
        (lambda: convert.state_from_tf1(STATE, hidden_size=N), TypeError, "state: wanted .*; got an LSTMState"),
        (lambda: convert.state_from_tf1((C, H), dtype="int8"), TypeError, "dtype: wanted one of float64"),
        (lambda: convert.state_to_tf1(STATE, packed=None), TypeError, "packed: wanted a bool; got None"),
        (lambda: convert.state_to_tf1((H, C), packed=True), TypeError, "state: wanted an LSTMState.*Name the two"),
        # Keras
        (lambda: convert.state_from_keras([H, H, C]), ValueError, r"state: wanted \[h, c\], .*got 3 arrays.*\[1:\]"),
        (lambda: convert.state_from_keras((H, H, C, H, C)), ValueError, r"state: .*got 5 arrays.*\[1:\]"),
        (lambda: convert.state_from_keras([H, C, H[:2], C[:2]]), ValueError, r"state\[2:4\]: wanted a batch of 3"),
        (lambda: convert.state_from_keras([H, C, H, None]), TypeError, r"state\[2:4\]\.c: wanted .*; got None"),
        (
            lambda: convert.state_to_keras(STATE, bidirectional=True),
            ValueError,
            "state: wanted two .*got fused.*LSTMState",
        ),
        (
            lambda: convert.state_to_keras([STATE] * 3, bidirectional=True),
            ValueError,
            "wanted two states.*got 3 of them",
        ),
        (lambda: convert.state_to_keras((H, C), bidirectional=True), TypeError, "state: wanted an LSTMState.*Name the"),
        (lambda: convert.state_to_keras(STATE, bidirectional=1), TypeError, "bidirectional: wanted a bool; got int"),
        # PyTorch
        (
            lambda: convert.state_from_torch((H3, (H3, C3))),
            TypeError,
            r"state: wanted \(h, c\), of arrays; got a nested tuple\. A torch\.nn\.LSTM returns output",
        ),
        (lambda: convert.state_from_torch([(H, C), (H, C)]), TypeError, "got a nested list.*cells one by one"),
        (
            lambda: convert.state_from_torch((H3, C)),
            ValueError,
            r"state\.h: wanted shape \(B, P\); got shape \(2, 3, 2\)",
        ),
        (
            lambda: convert.state_from_torch((H, C3)),
            ValueError,
            r"state\.h: wanted shape \(L, B, P\); got shape \(3, 2\)",
        ),
        (
            lambda: convert.state_from_torch((H3[:1], C3)),
            ValueError,
            r"state\.h: wanted shape \(L, B, P\) with L, B = \(2, 3\), those of c; got shape \(1, 3, 2\)",
        ),
        (lambda: convert.state_from_torch((H3[:0], C3[:0])), ValueError, r"state\.h: .*at least one layer"),
        (lambda: convert.state_from_torch((H3, C3.astype("f4"))), TypeError, "state: wanted h and c of one dtype"),
        (
            lambda: convert.state_to_torch((STATE, some_state(hidden=5))),
            ValueError,
            r"state\[1\]\.c: wanted shape \(3, 4\), that of state\[0\]\.c; got shape \(3, 5\)",
        ),
        # Silero
        (
            lambda: convert.state_from_silero((C, C)),
            TypeError,
            r"state: .*\(2, B, N\); got a tuple\. .*state_from_torch",
        ),
        (lambda: convert.state_from_silero([C3, C3]), TypeError, "state: .*; got a list. .*state_from_torch"),
        (lambda: convert.state_from_silero(STATE), TypeError, r"state: wanted an array \(2, B, N\); got an LSTMState"),
        (lambda: convert.state_from_silero(C), ValueError, r"state: wanted shape \(2, B, N\); got shape \(3, 4\)"),
        (lambda: convert.state_from_silero(np.zeros((1, 2, N))), ValueError, r"state: wanted shape \(2, B, N\); got"),
        (lambda: convert.state_from_silero({"state": C}), TypeError, "state: wanted an array of .*; got dict"),
        (lambda: convert.state_from_silero(None), TypeError, "state: wanted an array of .*; got None"),
        (lambda: convert.state_from_silero(C3.astype(int)), TypeError, "state: wanted dtype .*; got dtype int"),
        (
            lambda: convert.state_to_silero(STATE),
            ValueError,
            r"state: wanted h and c of the same shape \(B, N\); got h \(3, 2\) and c \(3, 4\)",
        ),
        (lambda: convert.state_to_silero([STATE] * 2), ValueError, "state: wanted one LSTMState; got a list of 2"),
        (lambda: convert.state_to_silero((C, C)), TypeError, "state: wanted an LSTMState"),
    ],
)
def test_bad_arguments_raise(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("system", list(ALL_TO))
@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ([H, C], TypeError, "state: wanted an LSTMState.*; got a list. Name the two"),
        (BOTH, TypeError, "state: wanted an LSTMState.*; got one array"),
        (None, TypeError, "state: wanted an LSTMState.*; got None. Start from zero_state"),
        ((), ValueError, "state: wanted at least one LSTMState.*; got an empty tuple"),
        (LSTMState(h=C, c=C[:2]), ValueError, "state: wanted h and c of the same batch"),
        (LSTMState(h=C, c=C[0]), ValueError, r"state\.c: wanted shape \(B, N\)"),
        (
            LSTMState(h=C, c=C.astype("f4")),
            TypeError,
            "state: wanted h of float64, .*; got h of float64 and c of float32",
        ),
        (LSTMState(h=None, c=C), TypeError, r"state\.h: wanted a numpy\.ndarray \(cpu\); got None"),
        ([LSTMState(h=C, c=None)], TypeError, r"state\[0\]\.c: wanted an array .*; got None"),
    ],
)
def test_bad_state_is_not_converted(system, state, error, message):
    with pytest.raises(error, match=message):
        ALL_TO[system](state)


@pytest.mark.parametrize("system", list(STACKS))
def test_states_of_different_batches_raise(system):
    give = STACKS[system][1]
    with pytest.raises(TypeError, match=r"state\[1\]: wanted an LSTMState"):
        give((STATE, H))
    with pytest.raises(ValueError, match=r"state\[1\]: wanted a batch of 3"):
        give((LSTMState(h=C, c=C), LSTMState(h=C[:2], c=C[:2])))


def test_state_with_gradient_raises():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    h, c = torch.zeros(B, N), torch.zeros(B, N, requires_grad=True)
    for name, pair in (("c", (h, c)), ("h", (c, h))):
        with pytest.raises(TypeError, match=rf"state\.{name}: wanted an array without gradient; .*detach"):
            convert.state_from_torch(pair)


def test_state_to_haiku_needs_haiku(monkeypatch):
    monkeypatch.setitem(sys.modules, "haiku", None)
    with pytest.raises(ImportError, match="haiku"):
        convert.state_to_haiku(STATE)
    assert_same(convert.state_from_haiku((H, C)), H, C)
