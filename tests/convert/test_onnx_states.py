"""Test the initial states of LSTMs in ONNX models: refused, read separately, or arguments of a call."""

import numpy as np
import pytest

from fusedlstm import LSTM, WeightsFileError, convert, load_weights
from fusedlstm.cli import main as command_line

from support.onnx_models import arrays_of, computed, onnx, parsed

T, B, N = 4, 3, 4
RNG = np.random.default_rng(0)
OP = f"LSTM<hidden_size: int = {N}>"
ROWS = RNG.uniform(-1, 1, (1, B, N)).astype(np.float32)
ROW, OTHER_ROW = ROWS[:, :1], ROWS[:, 1:2]
SHAPE = """shape = Shape(X)
rows = Gather(shape, i1)
whole = Concat<axis: int = 0>(i1, rows, %s)
"""


def constants(D=1, **more):
    arrays = {f"{name}{k}": a for k in range(2) for name, a in arrays_of(RNG, N * (D if k else 1), N, D).items()}
    ints = {f"i{k}": np.array([k]) for k in (0, 1, 2, 4)} | {"scalar": np.array(1), "minus": np.array(-1)}
    ints |= {"negative": np.array([-1]), "three": np.array([3]), "most": np.array([2**62]), "yes": np.array(True)}
    return arrays | ints | {"rows_of_h": ROWS, "row": ROW, "row_too": OTHER_ROW, "nothing": 0 * ROWS} | more


def model(made="", h="", c="", *, attributes="", inputs="", more=None, opset=17):
    """Return a model of one LSTM, "L", whose initial_h and initial_c come from the lines of `made`."""
    op = f"LSTM<hidden_size: int = {N}{attributes}>"
    text = f"""g (float[T, B, {N}] X{inputs}) => (Y, Y_h, Y_c) {{
        {made}
        [L] Y, Y_h, Y_c = {op}(X, W0, R0, B0, "", {h or '""'}, {c or '""'})
    }}"""
    return parsed(text, constants(**(more or {})), opset=opset)


def agrees(source, weights, states=None, feeds=None, rows=B):
    """Return whether a run of the weights from these states agrees with the model's."""
    xs = np.random.default_rng(1).normal(size=(T, rows, N)).astype(np.float32)
    found = computed(source, {"X": xs} | (feeds or {}))
    if states is not None:
        wide = [{k: np.broadcast_to(a, (rows, N)).copy() for k, a in (("h", s.h), ("c", s.c))} for s in states]
        states = tuple(type(states[0])(**each) for each in wide)
    outputs, finals = LSTM(weights, backend="numpy")(xs, states)
    Y = found[next(name for name in found if name.startswith("Y"))]
    differences = [np.abs(outputs - np.concatenate(list(Y.swapaxes(0, 1)), axis=2)).max()]
    if "Y_c" in found:
        differences.append(np.abs(finals[-1].c - found["Y_c"][-1]).max())
    return max(differences) < 1e-5


# For each way to make a state: the model's lines, and the resulting state.
LEARNED = {
    "tensor": ("h = Identity(rows_of_h)", ROWS[0]),
    "Constant": (
        f"h = Constant<value: tensor = float[1, {B}, {N}] {{{', '.join(['0.5'] * B * N)}}}>()",
        0.5 + 0 * ROW[0],
    ),
    "Expand": (SHAPE % "i1" + "h = Expand(row, whole)", ROW[0]),
    "Tile": (SHAPE % "i1" + "h = Tile(row, whole)", ROW[0]),
    "of one number": (SHAPE % "i4" + "h = ConstantOfShape<value: tensor = float[1] {0.25}>(whole)", 0.25 + 0 * ROW[0]),
    "Shape from 1 to 2": (
        "b = Shape<start: int = 1, end: int = 2>(X)\nw = Concat<axis: int = 0>(i1, b, i1)\nh = Expand(row, w)",
        ROW[0],
    ),
    "Unsqueeze": ("r = Squeeze(row, i0)\n" + SHAPE % "i1" + "u = Unsqueeze(r, i0)\nh = Expand(u, whole)", ROW[0]),
    "Slice of two layers'": (
        SHAPE % "i1" + "two = Concat<axis: int = 0>(row_too, row)\ne = Expand(two, whole)\nh = Slice(e, i1, i2, i0)",
        ROW[0],
    ),
    "Split of two layers'": (
        SHAPE % "i1"
        + "two = Concat<axis: int = 0>(row_too, row)\ne = Expand(two, whole)\np, h = Split<axis: int = 0>(e)",
        ROW[0],
    ),
    "-1 for sizes that stay": (
        """shape = Shape(X)
        b = Gather(shape, scalar)
        u = Unsqueeze(b, i0)
        asked = Concat<axis: int = 0>(negative, u, negative)
        ones = ConstantOfShape<value: tensor = int64[1] {1}>(three)
        minuses = Mul(ones, minus)
        stay = Equal(asked, minuses)
        sizes = Where(stay, ones, asked)
        h = Expand(row, sizes)""",
        ROW[0],
    ),
    "Cast": (SHAPE % "i1" + "d = Cast<to: int = 11>(row)\ne = Expand(d, whole)\nh = Cast<to: int = 1>(e)", ROW[0]),
}


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("which", ["h", "c", "both"])
def test_constant_states_are_read_separately(kind, which):
    """Constant states raise or, with "separate", agree with the model's run."""
    made, wanted = LEARNED[kind]
    given = {"h": "h" if which != "c" else "", "c": "h" if which != "h" else ""}
    source = model(made, **given)
    with pytest.raises(WeightsFileError) as raised:
        convert.from_onnx(source)
    first = "initial_c" if which == "c" else "initial_h"
    assert f"{first} of the LSTM 'L': wanted zeros or an input, as weights don't hold a state; got a constant" in str(
        raised.value
    )
    assert 'Pass initial_state="separate", and read it with convert.state_from_onnx' in str(raised.value)
    weights = convert.from_onnx(source, initial_state="separate")
    states = convert.state_from_onnx(source, "L")
    assert len(states) == 1
    for part in "hc":
        array = getattr(states[0], part)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, wanted if given[part] else 0 * wanted)
    assert agrees(source, weights, states)


# States of zeros, which are also the default.
ZEROS = {
    "none": "",
    "tensor": "h = Identity(nothing)",
    "ConstantOfShape": SHAPE % "i4" + "h = ConstantOfShape(whole)",
    "Expand": SHAPE % "i4" + "k = Constant<value_float: float = 0.0>()\nh = Expand(k, whole)",
    "Slice": SHAPE % "i4" + "k = ConstantOfShape(whole)\nd = Concat<axis: int = 0>(k, k)\nh = Slice(d, i0, i1, i0)",
    "Cast": SHAPE % "i4" + "k = ConstantOfShape<value: tensor = double[1] {0}>(whole)\nh = Cast<to: int = 1>(k)",
    # A shape that can't be followed.
    "other shape": "n = NonZero(X)\ns = Shape(n)\nt = ReduceMax<keepdims: int = 0>(s)\nk = ConstantOfShape(s)\n"
    "r = Shape(X)\nv = Gather(r, i1)\nw = Concat<axis: int = 0>(i1, v, i4)\nm = Mul(w, i1)\nh = ConstantOfShape(m)",
    "part of one": SHAPE % "i1"
    + "two = Concat<axis: int = 0>(row, zero_row)\ne = Expand(two, whole)\nh = Slice(e, i1, i2, i0)",
}


@pytest.mark.parametrize("kind", ZEROS)
def test_zero_states_are_ignored(kind, caplog):
    source = model(ZEROS[kind], h="h" if ZEROS[kind] else "", c="h" if ZEROS[kind] else "", more={"zero_row": 0 * ROW})
    assert agrees(source, convert.from_onnx(source))
    assert not caplog.records


def test_inputs_are_arguments(caplog):
    """Inputs may be cast, sliced and transposed."""
    made = "s = Squeeze(state, i0)\nu = Unsqueeze(s, i0)\nh = Cast<to: int = 1>(u)\nc = Slice(cells, i0, i1, i0)"
    source = model(made, "h", "c", inputs=f", float[1, B, {N}] state, float[2, B, {N}] cells")
    weights = convert.from_onnx(source)
    assert not caplog.records
    states = [type(LSTM(weights).zero_state(1)[0])(h=ROWS[0], c=ROWS[0])]
    assert agrees(source, weights, states, {"state": ROWS, "cells": np.concatenate([ROWS, 0 * ROWS])})


@pytest.mark.parametrize(
    ("made", "by"),
    [
        ("h = Tanh(state)", "made by Tanh 'h'"),
        ("h = Add(state, row)", "made by Add 'h'"),
        ("m = Less(state, state)\nh = Where(m, row, state)", "made by Where 'h'"),
    ],
)
def test_computed_states_are_warned_of(made, by, caplog):
    source = model(made, "h", "", inputs=f", float[1, B, {N}] state")
    assert convert.from_onnx(source).num_layers == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"the model computes initial_h of 'L' ('h', {by}): pass the state at each call"
    ]
    with pytest.raises(
        WeightsFileError, match="initial_h of the LSTM 'L': wanted a constant; got 'h', .*which the model"
    ):
        convert.state_from_onnx(source)


def test_encoder_states_are_warned_of(caplog):
    text = f"""g (float[T, B, {N}] X) => (Y) {{
        [encoder] Y_0, h, c = {OP}(X, W0, R0, B0)
        [decoder] Y, h_1, c_1 = {OP}(X, W1, R1, B1, "", h, c)
    }}"""
    assert convert.from_onnx(parsed(text, constants()), "decoder").num_layers == 1
    (record,) = caplog.records
    assert "initial_h of 'decoder' ('h', made by LSTM 'encoder'), initial_c of 'decoder'" in record.getMessage()


REFUSED = {
    "random": ("h = RandomNormal<shape: ints = [1, 3, 4]>()", "RandomNormal 'h'"),
    "computed of constants": ("h = Tanh(rows_of_h)", "Tanh 'h'"),
    "of a branch": (
        "h = If(yes) <then_branch: graph = a () => (p) { p = Identity(state) }, "
        "else_branch: graph = b () => (q) { q = Identity(rows_of_h) }>",
        "If 'h'",
    ),
    "joined with an input": (
        "a = Slice(state, i0, i1, i1)\nb = Slice(rows_of_h, i1, three, i1)\nh = Concat<axis: int = 1>(a, b)",
        "Concat 'h'",
    ),
    "rows that depend on their number": (
        "shape = Shape(X)\nb = Gather(shape, i1)\nl = Sub(b, i1)\nw = Concat<axis: int = 0>(i1, l, i1)\n"
        "e = Expand(row_too, w)\nh = Concat<axis: int = 1>(row, e)",
        "Concat 'h'",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_partly_constant_states_raise(kind):
    """The weights can be read only with initial_state="separate", and the states not at all."""
    made, by = REFUSED[kind]
    source = model(made, "h", "", inputs=f", float[1, B, {N}] state")
    with pytest.raises(WeightsFileError, match="got a constant that is not zero"):
        convert.from_onnx(source)
    with pytest.raises(WeightsFileError, match="initial_h of the LSTM 'L'"):
        convert.state_from_onnx(source)
    assert convert.from_onnx(source, initial_state="separate").num_layers == 1
    assert by.split()[1] == "'h'"


def test_constant_states_carried_by_loops_raise():
    text = f"""g (float[T, B, {N}] X) => (Z) {{
        Z, h_last = Loop(i2, yes, X, %s) <
        body: graph = body (int64 k, bool go, float[T, B, {N}] x, float[1, B, {N}] h) => (g, w, n) {{
            g = Identity(go)
            [L] y, n, c = {OP}(x, W0, R0, B0, "", h)
            w = Squeeze(y, i1)
        }}>
    }}"""
    with pytest.raises(WeightsFileError, match="initial_h of the LSTM 'L': .* got a constant that is not zero"):
        convert.from_onnx(parsed(text % "rows_of_h", constants()))
    assert convert.from_onnx(parsed(text % "nothing", constants())).num_layers == 1


def test_defaults_of_inputs_are_constants():
    """Before IR version 4, every initializer was an input."""
    source = model(h="rows_of_h", inputs=f", float[1, {B}, {N}] rows_of_h")
    source.ir_version = 3
    with pytest.raises(WeightsFileError, match="initial_h of the LSTM 'L'"):
        convert.from_onnx(source)
    np.testing.assert_array_equal(convert.state_from_onnx(source)[0].h, ROWS[0])


def test_states_of_layers_and_directions():
    """Each has a state. An absent part is zeros, with as many rows as the others."""
    op = f'LSTM<hidden_size: int = {N}, direction: string = "bidirectional">'
    text = f"""g (float[T, B, {N}] X) => (Y) {{
        [a] Y_0 = {op}(X, W0, R0, B0, "", both)
        t = Transpose<perm: ints = [0, 2, 1, 3]>(Y_0)
        m = Constant<value_ints: ints = [0, 0, -1]>()
        X_1 = Reshape(t, m)
        {SHAPE % "i1"}
        e = Expand(two_rows, whole)
        [b] Y = {op}(X_1, W1, R1, B1, "", "", e)
    }}"""
    both = RNG.uniform(-1, 1, (2, B, N)).astype(np.float32)
    two_rows = RNG.uniform(-1, 1, (2, 1, N)).astype(np.float32)
    source = parsed(text, constants(2, both=both, two_rows=two_rows))
    states = convert.state_from_onnx(source)
    assert [state.h.shape for state in states] == [(B, N)] * 4
    for d in range(2):
        np.testing.assert_array_equal(states[d].h, both[d])
        np.testing.assert_array_equal(states[2 + d].c, np.repeat(two_rows[d], B, 0))
        assert not states[d].c.any()
        assert not states[2 + d].h.any()
    assert agrees(source, convert.from_onnx(source, ["a", "b"], initial_state="separate"), states)


def test_states_of_layout_1():
    """In layout 1 a state is (B, D, N)."""
    source = model(h="turned", attributes=", layout: int = 1", more={"turned": ROWS.swapaxes(0, 1)})
    np.testing.assert_array_equal(convert.state_from_onnx(source)[0].h, ROWS[0])


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_states_have_the_cells_dtypes(dtype):
    source = model(h="h0", c="h0")
    for tensor in source.graph.initializer:
        if tensor.data_type == 1:
            array = onnx.numpy_helper.to_array(tensor).astype(dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    source.graph.initializer.append(onnx.numpy_helper.from_array(ROWS.astype(dtype), "h0"))
    weights = convert.from_onnx(source, initial_state="separate")
    (state,) = convert.state_from_onnx(source)
    assert (state.h.dtype, state.c.dtype) == (dtype, "float32" if dtype == "float16" else dtype)
    LSTM(weights, backend="numpy")(np.zeros((1, B, N), dtype), (state,))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({}, "the LSTM 'L': wanted a constant initial_h or initial_c; got none: it starts from zeros"),
        (
            {"h": "state"},
            "initial_h of the LSTM 'L': wanted a constant; got 'state', an input of the model. Pass it at",
        ),
        ({"h": "rows_of_h", "c": "state"}, "initial_c of the LSTM 'L': wanted a constant; got 'state', an input"),
        ({"h": "wrong"}, "initial_h of the LSTM 'L': wanted shape (D, B, N) = (1, B, 4); got shape (1, 3, 5)"),
        ({"h": "flat"}, "initial_h of the LSTM 'L': wanted floats (D, B, N); got shape (4,) and dtype float32"),
    ],
)
def test_missing_or_bad_states_raise(arguments, what):
    more = {"wrong": np.ones((1, B, 5), np.float32), "flat": np.ones(4, np.float32)}
    source = model(**arguments, inputs=f", float[1, B, {N}] state", more=more)
    with pytest.raises(WeightsFileError) as raised:
        convert.state_from_onnx(source)
    assert what in str(raised.value)


def test_states_that_differ_between_branches():
    """The named node's state is returned."""
    branch = "[{0}] {0}_y = " + OP + '(X, W0, R0, B0, "", {1})'
    text = f"""g (float[T, B, {N}] X, bool p) => (Y) {{
        Y = If(p) <then_branch: graph = t () => (a_y) {{ {branch.format("a", "rows_of_h")} }},
                   else_branch: graph = e () => (b_y) {{ {branch.format("b", '""')} }}>
    }}"""
    source = parsed(text, constants())
    for name in (None, "a", "b"):
        with pytest.raises(WeightsFileError, match="initial_h of the LSTM 'a'"):
            convert.from_onnx(source, name)
    with pytest.raises(
        WeightsFileError, match="wanted one state in all branches; got a different one from that of '.'. Give name="
    ):
        convert.state_from_onnx(source)
    np.testing.assert_array_equal(convert.state_from_onnx(source, "a")[0].h, ROWS[0])


def test_initial_state_is_checked():
    with pytest.raises(ValueError, match="initial_state: wanted one of 'refuse', 'separate'; got 'drop'"):
        convert.from_onnx(model(), initial_state="drop")


@pytest.mark.parametrize(("made", "h"), [("", "rows_of_h"), (SHAPE % "i1" + "h = Expand(row, whole)", "h")])
def test_command_writes_the_state(made, h, tmp_path, capsys):
    """`fusedlstm run --state` reads the arrays, and gives the model's outputs."""
    path, out, state = (str(tmp_path / name) for name in ("m.onnx", "w", "s.npz"))
    source = model(made, h)
    onnx.save(source, path)
    assert command_line.main(["convert", path, out]) == 1
    assert "Pass --initial-state S.npz" in capsys.readouterr().err
    assert command_line.main(["convert", path, out, "--initial-state", state]) == 0
    assert f"written: {state}" in capsys.readouterr().out
    xs = np.random.default_rng(1).normal(size=(T, B, N)).astype(np.float32)
    np.save(tmp_path / "x.npy", xs)
    results = str(tmp_path / "o.npz")
    assert command_line.main(["run", out, str(tmp_path / "x.npy"), "--state", state, "--out", results]) == 0
    wanted = computed(source, {"X": xs}, ["Y"])["Y"][:, 0]
    with np.load(results) as found:
        np.testing.assert_allclose(found["outputs"], wanted, atol=1e-5)
    assert load_weights(out).num_layers == 1
    assert command_line.main(["convert", path, out, "--force", "--check", "--initial-state", state]) == 0
    assert "agrees" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m.onnx", "w", "--initial-state", "w"], "OUT: wanted a file other than --initial-state"),
        (["m.onnx", "w", "--initial-state", "m.onnx", "--force"], "--initial-state: wanted a file other than SOURCE"),
        (
            ["m.onnx", "w", "--initial-state", "there"],
            "--initial-state: wanted a file that does not exist yet; got 'there'",
        ),
        (
            ["a.npz", "w", "--from", "haiku", "--initial-state", "s"],
            "--initial-state: wanted nothing, as it is supported only for",
        ),
        (["zeros.onnx", "w", "--initial-state", "s"], "wanted a constant initial_h or initial_c; got none"),
    ],
)
def test_command_writes_no_other_file(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(model(h="rows_of_h"), "m.onnx")
    onnx.save(model(), "zeros.onnx")
    (tmp_path / "there").write_bytes(b"mine")
    np.savez("a.npz", a=np.zeros(3))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert command_line.main(["convert", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
