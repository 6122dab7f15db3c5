"""Test that --check runs whole ONNX models, taps their LSTM, and finds wrong weights and false stacks."""

import logging

import numpy as np
import pytest

from fusedlstm import LSTMWeights, StackedWeights, convert
from fusedlstm.cli import main as command_line
from fusedlstm.convert import checking
from fusedlstm.convert.checking import check
from fusedlstm.convert.onnx import finding
from fusedlstm.convert.running import onnx as running
from fusedlstm.convert.running import onnx_model
from fusedlstm.convert.running.model import ModelNotRunError

from support.onnx_models import arrays_of, onnx, parsed

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

N = 4
RNG = np.random.default_rng(0)


def constants(D=1):
    arrays = {f"{name}{k}": a for k in range(2) for name, a in arrays_of(RNG, N * (D if k else 1), N, D).items()}
    more = {"one": np.array([1]), "all": np.array([0, 0, -1]), "state": RNG.normal(size=(D, 3, N)).astype(np.float32)}
    return (
        arrays
        | more
        | {"kernel": RNG.normal(size=(N, 2, 3)).astype(np.float32), "zero_rows": np.array([0, 2, 3], np.int32)}
    )


def save(folder, text, D=1, **options):
    model = parsed(text, constants(D), **options)
    path = folder / "m.onnx"
    onnx.save(model, path)
    return str(path)


def node(k, x, y, *, label="", direction="forward", lens='""', h='""', c='""', **attributes):
    more = "".join(f", {name}: {value}" for name, value in attributes.items())
    op = f'LSTM<hidden_size: int = {N}, direction: string = "{direction}"{more}>'
    return f"[{label or f'layer{k}'}] {y} = {op}({x}, W{k}, R{k}, B{k}, {lens}, {h}, {c})"


def run(path, name=None, seed=0):
    return running.run_model(path, name, None, {}, seed)


def checked(path, name=None, **options):
    weights = convert.from_onnx(path, name, **options)
    return check("onnx", path, name, weights, options)


STACK = f"""g (float[T, B, {N}] X) => (Y) {{
    {node(0, "X", "Y0")}
    S = Squeeze(Y0, one)
    {node(1, "S", "Y1")}
    Y = Relu(Y1)
}}"""


def test_stacks_are_tapped(tmp_path):
    path = save(tmp_path, STACK)
    tapped = run(path)
    assert tapped.xs.shape == (5, 3, N)
    assert tapped.lengths is None
    assert tapped.outputs.shape == (5, 3, N)
    assert [h.shape for h, _ in tapped.finals] == [(3, N)] * 2
    assert not any(part.any() for state in tapped.states for part in state)
    result = checked(path)
    assert result.agrees
    assert result.around == ""
    assert "the whole model, and the LSTM alone" in str(result)


def wrong(weights):
    """Return the weights with gates i and f of the first layer swapped."""
    first, *others = weights.layers
    arrays = first.arrays()
    arrays["weight_hh"] = arrays["weight_hh"].reshape(4, N, N)[[1, 0, 2, 3]].reshape(4 * N, N)
    return StackedWeights([LSTMWeights(**arrays, **first.options()), *others], directions=weights.directions)


def test_wrong_weights_differ(tmp_path, monkeypatch):
    """The run of the whole model finds wrong weights, too, without the check of the LSTM alone."""
    path = save(tmp_path, STACK)
    weights = wrong(convert.from_onnx(path))
    assert not check("onnx", path, None, weights, {}).agrees
    monkeypatch.setattr(checking, "_alone", lambda *_: [])
    assert not check("onnx", path, None, weights, {}).agrees
    assert check("onnx", path, None, convert.from_onnx(path), {}).agrees


@pytest.mark.parametrize("between", ["Z = Relu(S)", "Z = Add(S, X)", "Z = Identity(X)"])
def test_false_stacks_differ(between, tmp_path, monkeypatch):
    """If the importer took a false stack, the whole model would show it. The nodes alone would not."""
    text = f"""g (float[T, B, {N}] X) => (Y) {{
        {node(0, "X", "Y0")}
        S = Squeeze(Y0, one)
        {between}
        {node(1, "Z", "Y")}
    }}"""
    path = save(tmp_path, text)
    monkeypatch.setattr(finding, "why_not_on", lambda *_: "")
    result = checked(path, ["layer0", "layer1"])
    assert not result.agrees
    assert "onnxruntime 1." in str(result)
    assert "DIFFERS" in str(result)
    monkeypatch.delattr(running, "run_model")
    assert checked(path, ["layer0", "layer1"]).agrees


def test_command_refuses_false_stacks(tmp_path, monkeypatch, capsys):
    text = STACK.replace("S = Squeeze(Y0, one)", "P = Squeeze(Y0, one)\nS = Tanh(P)")
    path, out = save(tmp_path, text), tmp_path / "w"
    arguments = ["convert", path, str(out), "--name", "layer0,layer1", "--check"]
    assert command_line.main(arguments) == 1
    assert "'layer1' reads the output of Tanh 'S'" in capsys.readouterr().err
    monkeypatch.setattr(finding, "why_not_on", lambda *_: "")
    assert command_line.main(arguments) == 1
    assert "DIFFERS" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lens", ["", "lengths"])
@pytest.mark.parametrize("states", [False, True])
def test_directions_lengths_and_states_are_tapped(direction, lens, states, tmp_path, caplog):
    D = 2 if direction == "bidirectional" else 1
    given = {"lens": lens or '""', "direction": direction} | ({"h": "h_0", "c": "c_0"} if states else {})
    inputs = (", int32[B] lengths" if lens else "") + (
        f", float[{D}, B, {N}] h_0, float[{D}, B, {N}] c_0" if states else ""
    )
    text = f"""g (float[T, B, {N}] X{inputs}) => (Y) {{
        {node(0, "X", "Y0", **given)}
        S = Transpose<perm: ints = [0, 2, 1, 3]>(Y0)
        X1 = Reshape(S, all)
        {node(1, "X1", "Y", **given)}
    }}"""
    path = save(tmp_path, text, D)
    tapped = run(path)
    assert (tapped.lengths is None) == (not lens)
    assert all(part.any() == states for state in tapped.states for part in state)
    assert tapped.outputs.shape == (5, 3, D * N)
    with caplog.at_level(logging.ERROR):
        result = checked(path)
    assert result.agrees, str(result)
    assert result.around == ""
    assert not check("onnx", path, None, wrong(convert.from_onnx(path)), {}).agrees


def test_constant_states_are_tapped(tmp_path):
    path = save(tmp_path, f"g (float[T, B, {N}] X) => (Y) {{ {node(0, 'X', 'Y', h='state')} }}")
    tapped = run(path)
    assert tapped.states[0][0].any()
    assert not tapped.states[0][1].any()
    assert checked(path, initial_state="separate").agrees


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_rows_of_length_0_are_tapped(direction, tmp_path, caplog):
    """onnxruntime's final state of such a row is zeros, so the initial state is compared instead."""
    with caplog.at_level(logging.ERROR):
        text = (
            f"g (float[T, B, {N}] X) => (Y) {{ {node(0, 'X', 'Y', h='state', lens='zero_rows', direction=direction)} }}"
        )
        path = save(tmp_path, text)
        tapped = run(path)
        assert tapped.lengths.tolist() == [0, 2, 3]
        np.testing.assert_array_equal(tapped.finals[0][0][0], tapped.states[0][0][0])
        assert checked(path, initial_state="separate").agrees


def test_models_with_other_layers_before(tmp_path):
    """The dims of a convolution's input are guessed, and sizes come from the tapped X."""
    text = f"""g (float[batch, 2, time] sound) => (Y) {{
        features = Conv<kernel_shape: ints = [3], strides: ints = [2]>(sound, kernel)
        X = Transpose<perm: ints = [2, 0, 1]>(features)
        {node(0, "X", "Y0")}
        S = Squeeze(Y0, one)
        Y = Softmax(S)
    }}"""
    result = checked(save(tmp_path, text))
    assert result.agrees
    assert result.around == ""


def test_models_that_need_many_steps(tmp_path):
    text = f"""g (float[batch, 2, time] sound) => (Y) {{
        less = AveragePool<kernel_shape: ints = [8], strides: ints = [4]>(sound)
        features = Conv<kernel_shape: ints = [3]>(less, kernel)
        X = Transpose<perm: ints = [2, 0, 1]>(features)
        {node(0, "X", "Y")}
    }}"""
    assert checked(save(tmp_path, text)).around == ""


def test_fixed_and_batch_first_inputs(tmp_path):
    text = f"""g (float[2, 7, {N}] rows) => (Y) {{
        X = Transpose<perm: ints = [1, 0, 2]>(rows)
        {node(0, "X", "Y")}
    }}"""
    path = save(tmp_path, text)
    assert run(path).xs.shape == (7, 2, N)
    assert checked(path).agrees


def test_unused_outputs_are_tapped(tmp_path):
    """The model outputs only the final state."""
    path = save(tmp_path, f"g (float[T, B, {N}] X) => (h) {{ {node(0, 'X', '_, h', label='L')} }}")
    model = onnx.load(path)
    model.graph.node[0].output[0] = ""
    onnx.save(model, path)
    assert run(path).outputs.shape == (5, 3, N)
    assert checked(path).agrees


def test_external_data_is_run(tmp_path):
    model = parsed(STACK, constants())
    path = str(tmp_path / "m.onnx")
    onnx.save_model(model, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    result = checked(path)
    assert result.agrees
    assert result.around == ""


def test_external_data_outside_is_not_read(tmp_path):
    """Such data is not read even for other tensors: onnxruntime never sees the path."""
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(16 * 4))
    model = parsed(STACK.replace("Y = Relu(Y1)", "Y = Add(Y1, secret)"), constants())
    tensor = onnx.TensorProto(name="secret", data_type=1, dims=[4], data_location=1)
    tensor.external_data.add(key="location", value="../secret.bin")
    model.graph.initializer.append(tensor)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="wanted external data in a file in the model's own folder; got the location"):
        run(str(folder / "m.onnx"))


CELL = node(0, "X", "Y0")
NOT_RUN = {
    "integers": (
        f"g (int64[T, B] ids) => (Y0) {{ X = Gather(W0, ids)\n{CELL} }}",
        "its input 'ids' is not a tensor of floats",
    ),
    "a bool": (f"g (float[T, B, {N}] X, bool p) => (Y0) {{ {CELL} }}", "its input 'p' is not a tensor of floats"),
    "a sequence": (f"g (float[T, B, {N}] X, seq(float[4]) s) => (Y0) {{ {CELL} }}", "its input 's' is not a tensor"),
    "large": (
        f"g (float[T, B, {N}] X, float[100000, 100000] s) => (Y0) {{ {CELL} }}",
        "its inputs have 10000000060 numbers",
    ),
    "large, X": (f"g (float[9000000000, B, {N}] X) => (Y0) {{ {CELL} }}", "its inputs have 108000000000 numbers"),
    "own operator": (f"g (float[T, B, {N}] X0) => (Y0) {{ X = own.Magic(X0)\n{CELL} }}", "onnxruntime: "),
    "branch": (
        f"g (float[T, B, {N}] X, bool p) => (Y) {{ Y = If(p) <then_branch: graph = t () => (Y0) {{ {CELL} }}, "
        f"else_branch: graph = e () => (z) {{ z = Identity(X) }}> }}",
        "the LSTM 'layer0' is within If 'Y', where it can't be tapped",
    ),
    "layout 1": (f"g (float[B, T, {N}] X) => (Y0) {{ {node(0, 'X', 'Y0', layout='int = 1')} }}", "onnxruntime: "),
    "not finite": (f"g (float[T, B, {N}] X0) => (Y0) {{ z = Sub(X0, X0)\nX = Div(X0, z)\n{CELL} }}", "are not finite"),
    "much memory": (
        f"g (float[T, B, {N}] X) => (Y0) {{ s = Constant<value_ints: ints = [1000000, 1000000]>()\n"
        f"m = ConstantOfShape(s)\nk = ReduceSum<keepdims: int = 0>(m)\n{CELL} }}",
        "onnxruntime: ",
    ),
}


@pytest.mark.parametrize("kind", NOT_RUN)
def test_some_models_are_not_run(kind, tmp_path, caplog):
    """If a model is not run, its LSTM is checked alone where possible, and the output gives the reason."""
    text, why = NOT_RUN[kind]
    path = save(tmp_path, text)
    with pytest.raises(ModelNotRunError) as raised:
        run(path)
    assert why in str(raised.value)
    if kind == "layout 1":
        return
    result = checked(path)
    assert result.agrees
    assert why in result.around
    assert "The model around the LSTM was not checked" in str(result)


def test_slow_models_are_stopped(tmp_path, monkeypatch):
    text = f"""g (float[T, B, {N}] X0) => (Y0) {{
        most = Constant<value_int: int = 9223372036854775807>()
        go = Constant<value: tensor = bool {{1}}>()
        X = Loop(most, go, X0) <body: graph = b (int64 k, bool c, float[T, B, {N}] v) => (d, w) {{
            d = Identity(c)
            w = Tanh(v)
        }}>
        {CELL}
    }}"""
    monkeypatch.setattr(onnx_model, "_SECONDS", 0.2)
    with pytest.raises(ModelNotRunError, match="onnxruntime: .*terminat"):
        run(save(tmp_path, text))


def test_lstm_input_needs_no_declared_shape(tmp_path):
    path = save(tmp_path, f"g (float[T, B, {N}] X) => (Y0) {{ {CELL} }}")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    assert run(path).xs.shape == (5, 3, N)
    model.graph.input[0].name = "Z"
    model.graph.node.insert(0, onnx.helper.make_node("Relu", ["Z"], ["X"]))
    onnx.save(model, path)
    with pytest.raises(ModelNotRunError, match="its input 'Z' declares no shape"):
        run(path)


def test_taps_have_unused_names(tmp_path):
    """A model may already use the names that our taps would have."""
    path = save(tmp_path, STACK.replace("Y0", "fusedlstm_Y_h_0"))
    assert checked(path).agrees
