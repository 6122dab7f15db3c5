"""Weights as ONNX models: round trips bit for bit, runs by onnxruntime, and refusals."""

import itertools
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedlstm import LSTM, LSTMState, LSTMWeights, StackedWeights, convert

from support.cells import FUNCTIONS
from support.onnx_models import bits, helper, numpy_helper, onnx, session

NUMBERS = [0.0, 0.2, 0.5, 1 / 6, 1.0, -0.25, float(np.float32(0.3)), 3e-39]


DIRECTIONS = ["forward", "backward", "both"]


def functions():
    """Draw one of our functions, with any of NUMBERS for its parameters."""

    def with_numbers(function):
        if isinstance(function, str):
            return st.just(function)
        return st.tuples(st.just(function[0]), *[st.sampled_from(NUMBERS)] * (len(function) - 1))

    return st.sampled_from(FUNCTIONS).flatmap(with_numbers)


@st.composite
def stacks(draw, dtypes=("float64", "float32", "float16", "bfloat16"), clips=(0.5, 1 / 6, 1e-30, float("inf"))):
    """Draw weights that to_onnx can write."""
    directions = draw(st.lists(st.sampled_from(DIRECTIONS), min_size=1, max_size=3))
    width, dtype, layers = draw(st.integers(0 if len(dtypes) > 2 else 1, 3)), draw(st.sampled_from(dtypes)), []
    for direction in directions:
        D, N = 2 if direction == "both" else 1, draw(st.integers(1, 4))
        common = {
            "bias": draw(st.booleans()),
            "peephole": draw(st.booleans()),
            "gate_clip": draw(st.none() | st.sampled_from(clips)),
            "coupled_gate": draw(st.sampled_from([None, "forget"])),
        }
        for _ in range(D):
            general = draw(st.booleans())
            three = {k: draw(functions()) for k in ("activation", "output_activation", "gate_activation") if general}
            seed = draw(st.integers(0, 99))
            layers.append(LSTMWeights.random(width, N, seed=seed, dtype=dtype, **common, **three))
        width = D * N
    return StackedWeights(layers, directions=directions)


@given(weights=stacks(), opset=st.sampled_from([7, 13, 22]))
def test_onnx_round_trip(weights, opset):
    """Keep every bit, and pass onnx's checker if it knows the opset."""
    model = convert.to_onnx(weights, opset=22 if weights.dtype == ml_dtypes.bfloat16 else opset)
    if model.opset_import[0].version <= onnx.defs.onnx_opset_version():
        onnx.checker.check_model(model, full_check=True)
    assert bits(convert.from_onnx(model)) == bits(weights)
    assert bits(convert.from_onnx(model.SerializeToString())) == bits(weights)


@pytest.mark.parametrize("value", [0.0, -0.0, np.inf, np.nan])
def test_bias_keeps_its_bits(value):
    """The second bias is -0.0, because adding 0.0 would turn -0.0 into 0.0."""
    w = LSTMWeights.random(2, 3, seed=0)
    weights = StackedWeights([LSTMWeights(w.weight_ih, w.weight_hh, np.full(12, value, np.float32))])
    assert bits(convert.from_onnx(convert.to_onnx(weights))) == bits(weights)


@settings(max_examples=30)
@given(
    weights=stacks(dtypes=("float32", "float16"), clips=(0.5, 1 / 6)),
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=2, max_size=2),
    opset=st.sampled_from([7, 22]),
)
def test_exported_model_runs(weights, sizes, opset):
    """onnxruntime runs the model for any T and B, with the documented names of inputs and outputs."""
    running = session(convert.to_onnx(weights, opset=opset))
    layers = range(weights.num_layers)
    assert [value.name for value in running.get_inputs()] == [
        "X",
        *(f"initial_{part}_{k}" for k in layers for part in "hc"),
    ]
    assert [value.name for value in running.get_outputs()] == ["Y", *(f"Y_{part}_{k}" for k in layers for part in "hc")]
    cell, rng = LSTM(weights, backend="numpy"), np.random.default_rng(0)
    for T, B in sizes:
        xs = rng.normal(size=(T, B, weights.input_size)).astype(weights.dtype)
        states = [
            (rng.uniform(-1, 1, (B, w.hidden_size)), rng.uniform(-1, 1, (B, w.hidden_size))) for w in weights.layers
        ]
        states = [tuple(array.astype(weights.dtype) for array in pair) for pair in states]
        feeds = {"X": xs}
        for k, part in itertools.product(layers, range(2)):
            feeds[f"initial_{'hc'[part]}_{k}"] = np.stack([pair[part] for pair in states[weights.slices[k]]])
        Y, *finals = running.run(None, feeds)
        given_states = tuple(
            LSTMState(h=h, c=c.astype(zero.c.dtype)) for (h, c), zero in zip(states, cell.zero_state(0), strict=True)
        )
        outputs, got = cell(xs, given_states)
        pairs = [(outputs, Y)]
        for k in layers:
            for part, theirs in zip("hc", finals[2 * k : 2 * k + 2], strict=True):
                pairs.append((np.stack([getattr(s, part) for s in got[weights.slices[k]]]), theirs))
        near = 2e-5 if weights.dtype == np.float32 else 2e-2
        size = max(1.0, *(float(np.abs(values.astype(float)).max()) for _, values in pairs))
        for ours, theirs in pairs:
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours.astype(float), theirs.astype(float), rtol=near, atol=near * size)


@pytest.mark.parametrize("function", ["linear", ("affine", 1.0, 0.0)])
def test_linear_functions_round_trip(function):
    """ONNX has only Affine, but both functions come back as they were."""
    weights = LSTMWeights.random(2, 3, seed=0, activation=function)
    assert convert.from_onnx(convert.to_onnx(weights)).layers[0].activation == function


def test_lstm_weights_become_one_layer():
    weights = LSTMWeights.random(2, 3, seed=0)
    assert bits(convert.from_onnx(convert.to_onnx(weights))) == bits(StackedWeights([weights]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"cell_clip": 1.0},
            "cell_clip: wanted None, as ONNX supports nothing else; got 1.0. ONNX's clip applies to pre-",
        ),
        (
            {"proj_size": 2},
            "weight_hr: wanted None, as ONNX supports nothing else; got shape (2, 3). ONNX's LSTM has",
        ),
        ({"proj_size": 2, "proj_clip": 1.0}, "weight_hr: "),
        ({"coupled_gate": "input"}, "coupled_gate: wanted None or 'forget'; got 'input'. ONNX has only f = 1 - i"),
        ({"zoneout_c": 0.1}, "zoneout_c: wanted 0.0, as ONNX supports nothing else; got 0.1"),
        ({"zoneout_h": 0.1}, "zoneout_h: wanted 0.0, as ONNX supports nothing else; got 0.1"),
        ({"gate_clip": 0.0}, "gate_clip: wanted a number > 0 that float32 can hold; got 0.0"),
        ({"gate_clip": 1e-60}, "gate_clip: wanted a number > 0 that float32 can hold; got 1e-60"),
        ({"gate_clip": 1e60}, "gate_clip: wanted a number > 0 that float32 can hold; got 1e+60"),
    ],
)
def test_refused_options(options, message):
    weights = LSTMWeights.random(3, 3, seed=0, **options)
    with pytest.raises(ValueError) as raised:
        convert.to_onnx(weights)
    assert str(raised.value).startswith(message)
    plain = LSTMWeights.random(3, 3, seed=0)
    with pytest.raises(ValueError) as raised:
        convert.to_onnx(StackedWeights([plain, weights]))
    assert str(raised.value).startswith(f"layers[1]: {message}")


def test_residual_layers_are_refused():
    weights = StackedWeights.random(3, 3, num_layers=2, seed=0, residual=[False, True])
    with pytest.raises(ValueError, match="residual: wanted False, as ONNX's LSTM doesn't add its input to its output"):
        convert.to_onnx(weights)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({}, {"bias": False}, "the same bias in both directions of layer 0, as in ONNX's LSTM; got an array and None"),
        ({"peephole": True}, {}, "the same peephole in both directions of layer 0"),
        ({"gate_clip": 1.0}, {"gate_clip": 2.0}, "the same gate_clip in both directions of layer 0"),
        ({}, {"coupled_gate": "forget"}, "the same coupled_gate in both directions of layer 0"),
        ({}, {"hidden_size": 4}, "the same hidden_size in both directions of layer 0, as in ONNX's LSTM; got 3 and 4"),
    ],
)
def test_directions_must_have_the_same_form(one, other, message):
    pair = [LSTMWeights.random(2, seed=0, **({"hidden_size": 3} | options)) for options in (one, other)]
    with pytest.raises(ValueError) as raised:
        convert.to_onnx(StackedWeights(pair, bidirectional=True))
    assert str(raised.value).startswith(f"weights: wanted {message}")


def test_bad_arguments_of_to_onnx():
    weights = LSTMWeights.random(2, 3, seed=0)
    with pytest.raises(TypeError, match="weights: wanted an LSTMWeights or a StackedWeights; got str"):
        convert.to_onnx("weights")
    with pytest.raises(TypeError, match="opset: wanted an int; got float"):
        convert.to_onnx(weights, opset=7.0)
    with pytest.raises(ValueError, match="opset: wanted at least 7; got 6"):
        convert.to_onnx(weights, opset=6)
    with pytest.raises(ValueError, match="opset: wanted at least 22; got 21"):
        convert.to_onnx(weights.astype("bfloat16"), opset=21)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_survive_float32_attributes(dtype):
    """The metadata keeps every digit. Without it, a float32 cell still reads 0.2 as 0.2."""
    function = ("hard_sigmoid", 0.2, 1 / 6)
    model = convert.to_onnx(LSTMWeights.random(2, 3, seed=0, gate_activation=function, dtype=dtype))
    assert convert.from_onnx(model).layers[0].gate_activation == function
    del model.metadata_props[:]
    stored = [0.2, float(str(np.float32(1 / 6)))] if dtype == "float32" else [*map(float, np.float32([0.2, 1 / 6]))]
    assert convert.from_onnx(model).layers[0].gate_activation == ("hard_sigmoid", *stored)


@pytest.mark.parametrize(
    "note",
    [
        '{"lstm_0": {"clip": [0.3]}}',
        '{"lstm_0": {"clip": [0.25, 1]}}',
        '{"lstm_0": {"clip": ["nan"]}}',
        "[]",
        "{",
        "[" * 9999,
    ],
)
def test_wrong_metadata_has_no_effect(note):
    model = convert.to_onnx(LSTMWeights.random(2, 3, seed=0, gate_clip=0.25))
    helper.set_model_props(model, {"fusedlstm": note})
    assert convert.from_onnx(model).layers[0].gate_clip == 0.25


def test_stored_arrays_of_an_exported_model():
    """Gates are stored in the order i, o, f, g, and peepholes as i, o, f. The second of two biases is -0.0."""
    N = 2
    rows = np.repeat(np.arange(4.0, dtype=np.float32), N)  # i, f, g, o as 0, 1, 2, 3
    weights = LSTMWeights(rows[:, None], np.stack([rows, rows], 1), rows, np.repeat([[5], [6], [7]], N, 1).astype("f"))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in convert.to_onnx(weights).graph.initializer}
    order = [0, 0, 3, 3, 1, 1, 2, 2]
    assert stored["W_0"].tolist() == [[[value] for value in order]]
    assert stored["B_0"].tolist() == [[*order, *[0.0] * 8]]
    assert np.signbit(stored["B_0"][0, 8:]).all()
    assert stored["P_0"].tolist() == [[5, 5, 7, 7, 6, 6]]


def test_to_onnx_without_onnx_raises(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        ImportError, match="ONNX models need the package onnx, which fusedlstm's extra convert installs"
    ):
        convert.to_onnx(LSTMWeights.random(2, 3, seed=0))
