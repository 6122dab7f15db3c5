"""Test that nodes with equal weights in exclusive branches of an If are one LSTM, as in Silero's VAD."""

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMState, WeightsFileError, convert
from fusedlstm.cli import main as command_line

from support.onnx_models import arrays_of, computed, onnx, parsed

T, B, N = 4, 3, 4
LSTM_OP = f"LSTM<hidden_size: int = {N}>"
# A cell whose state may be absent, as PyTorch's exporter writes it.
CELL = f"""cell (float[T, B, {N}] x, bool fresh, float[1, B, {N}] h, float[1, B, {N}] c) => (y, yh, yc) {{
    y, yh, yc = If(fresh) <
        then_branch: graph = a () => (y1, h1, c1) {{ [cell_0] y1, h1, c1 = {LSTM_OP}(x, W0, R0, B0) }},
        else_branch: graph = b () => (y2, h2, c2) {{ [cell_1] y2, h2, c2 = {LSTM_OP}(x, %s, "", h, c) }}
    >
}}"""
SHARED, EQUAL, OTHER = ("W0, R0, B0", "W2, R2, B2", "W1, R1, B1")
NAMES = ("cell_0", "cell_1")


def constants():
    """Return the weights of two layers, and equal copies of both."""
    rng = np.random.default_rng(0)
    pairs = [arrays_of(rng, N, N), arrays_of(rng, N, N)]
    arrays = {f"{name}{k}": array for k, each in enumerate(pairs) for name, array in each.items()}
    arrays |= {f"{name}{k + 2}": array.copy() for k, each in enumerate(pairs) for name, array in each.items()}
    return arrays | {"one": np.array([1]), "yes": np.array(True)}


def largest(source, weights, feeds, state=None):
    found = computed(source, feeds)
    outputs, _ = LSTM(weights, backend="numpy")(feeds["x"], state)
    Y = next(iter(found.values()))
    return np.abs(outputs - (Y[:, 0] if Y.ndim == 4 else Y)).max()


@pytest.mark.parametrize("weights_of_else", [SHARED, EQUAL])
@pytest.mark.parametrize("name", [None, NAMES[0], NAMES[1], NAMES, NAMES[::-1]])
def test_branches_are_one_lstm(weights_of_else, name):
    """The LSTM is found without a name, by the name of either node, and by both names."""
    source = parsed(CELL % weights_of_else, constants())
    weights = convert.from_onnx(source, name)
    assert weights.num_layers == 1
    rng = np.random.default_rng(1)
    x, h, c = (rng.normal(size=(size, B, N)).astype(np.float32) for size in (T, 1, 1))
    feeds = {"x": x, "h": h, "c": c}
    assert largest(source, weights, feeds | {"fresh": np.array(True)}) < 1e-5
    state = (LSTMState(h=h[0], c=c[0]),)
    assert largest(source, weights, feeds | {"fresh": np.array(False)}, state) < 1e-5


def test_branches_are_listed_once():
    (listed,) = convert.list_onnx(parsed(CELL % EQUAL, constants()))
    assert {listed.name, *listed.also} == set(NAMES)
    assert str(listed) == f"{listed.name!r} (I=4, N=4, float32, and in another branch {listed.also[0]!r})"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text % OTHER,
        lambda text: (
            text.replace(f"c2 = LSTM<hidden_size: int = {N}>", f"c2 = LSTM<hidden_size: int = {N}, clip: float = 0.5>")
            % SHARED
        ),
        lambda text: text.replace("h2, c2 = LSTM<", 'h2, c2 = LSTM<direction: string = "reverse", ') % SHARED,
        lambda text: text % "W0, R0",
    ],
)
def test_branches_that_differ_are_two_lstms(change):
    """Branches may differ in weights, options, direction or inputs."""
    source = parsed(change(CELL).replace('R0, ""', 'R0, "", ""'), constants())
    assert len(convert.list_onnx(source)) == 2
    why = "'cell_.' and 'cell_.' are in two branches of an If and have different weights"
    with pytest.raises(WeightsFileError, match=f"wanted one LSTM, or the layers of one; got 2: .*{why}"):
        convert.from_onnx(source)
    with pytest.raises(ValueError, match=f"{why}|layers with the same direction"):
        convert.from_onnx(source, NAMES)
    assert convert.from_onnx(source, NAMES[0]).num_layers == 1


def test_nodes_that_all_run_are_not_merged():
    """Equal weights are not enough: siblings and nodes in one branch all run."""
    siblings = f"""g (float[T, B, {N}] x) => (y, z) {{
        [a] y = {LSTM_OP}(x, W0, R0, B0)
        n = Neg(x)
        [b] z = {LSTM_OP}(n, W0, R0, B0)
    }}"""
    inside = f"""g (float[T, B, {N}] x) => (r) {{
        r = If(yes) <
            then_branch: graph = t () => (s) {{
                [a] y = {LSTM_OP}(x, W0, R0, B0)
                n = Neg(x)
                [b] z = {LSTM_OP}(n, W0, R0, B0)
                s = Add(y, z)
            }},
            else_branch: graph = e () => (q) {{ q = Identity(x) }}
        >
    }}"""
    for text in (siblings, inside):
        with pytest.raises(WeightsFileError, match="'b' reads the output of Neg 'n'"):
            convert.from_onnx(parsed(text, constants()))


def stack(k, weights, x="x"):
    """Return the nodes of a stack of two layers, named after its branch."""
    lines = [f"[a{k}] y{k} = {LSTM_OP}({x}, {weights[0]})", f"s{k} = Squeeze(y{k}, one)"]
    return "\n".join([*lines, f"[b{k}] z{k} = {LSTM_OP}(s{k}, {weights[1]})"])


@pytest.mark.parametrize("second", [("W2, R2, B2", "W3, R3, B3"), ("W0, R0, B0", "W1, R1, B1")])
@pytest.mark.parametrize(
    "name", [None, ("a0", "b0"), ("a1", "b1"), ("a0", "b1"), ("a0", "b0", "a1", "b1"), ("a1", "a0", "b0")]
)
def test_stacks_in_branches_are_one_stack(second, name):
    text = f"""g (float[T, B, {N}] x, bool fresh) => (r) {{
        r = If(fresh) <then_branch: graph = t () => (z0) {{ {stack(0, (SHARED, OTHER))} }},
                       else_branch: graph = e () => (z1) {{ {stack(1, second)} }}>
    }}"""
    source = parsed(text, constants())
    weights = convert.from_onnx(source, name)
    assert weights.num_layers == 2
    x = np.random.default_rng(1).normal(size=(T, B, N)).astype(np.float32)
    for fresh in (True, False):
        assert largest(source, weights, {"x": x, "fresh": np.array(fresh)}) < 1e-5


def test_stacks_in_branches_may_share_weights():
    """Two layers with the same weights in each branch are two layers, not one or four."""
    text = f"""g (float[T, B, {N}] x, bool fresh) => (r) {{
        r = If(fresh) <then_branch: graph = t () => (z0) {{ {stack(0, (SHARED, SHARED))} }},
                       else_branch: graph = e () => (z1) {{ {stack(1, (SHARED, SHARED))} }}>
    }}"""
    assert convert.from_onnx(parsed(text, constants())).num_layers == 2


def test_branches_of_different_depth_raise():
    """One layer in one branch and two in the other can't be one stack."""
    text = f"""g (float[T, B, {N}] x, bool fresh) => (r) {{
        r = If(fresh) <then_branch: graph = t () => (y) {{ [a] y = {LSTM_OP}(x, W0, R0, B0) }},
                       else_branch: graph = e () => (z1) {{ {stack(1, (SHARED, SHARED))} }}>
    }}"""
    with pytest.raises(WeightsFileError, match="'b1' does not read the output of 'a', the same LSTM in another branch"):
        convert.from_onnx(parsed(text, constants()))


NESTED = f"""g (float[T, B, {N}] x, bool p, bool q) => (r) {{
    r = If(p) <
        then_branch: graph = t () => (u) {{
            u = If(q) <then_branch: graph = v () => (w) {{ [a] w = {LSTM_OP}(x, W0, R0, B0) }},
                       else_branch: graph = e () => (y) {{ [b] y = {LSTM_OP}(x, W2, R2, B2) }}>
        }},
        else_branch: graph = f () => (z) {{ [c] z = {LSTM_OP}(x, W0, R0, B0) }}
    >
    s = Squeeze(r, one)
    [top] o = {LSTM_OP}(s, W1, R1, B1)
}}"""


def test_nested_branches_join_a_layer_above():
    source = parsed(NESTED, constants())
    weights = convert.from_onnx(source)
    assert weights.num_layers == 2
    assert convert.from_onnx(source, ["b", "top"]).num_layers == 2
    assert [len(listed.also) for listed in convert.list_onnx(source)] == [2, 0]


def test_layer_above_may_be_in_both_branches():
    text = f"""g (float[T, B, {N}] x, bool p) => (r) {{
        [below] y = {LSTM_OP}(x, W0, R0, B0)
        s = Squeeze(y, one)
        r = If(p) <then_branch: graph = t () => (u) {{ [a] u = {LSTM_OP}(s, W1, R1, B1) }},
                   else_branch: graph = e () => (v) {{ %s }}>
    }}"""
    assert convert.from_onnx(parsed(text % f"[b] v = {LSTM_OP}(s, W3, R3, B3)", constants())).num_layers == 2
    source = parsed(text % "v = Identity(y)", constants())
    for name in (None, ("below", "a")):
        with pytest.raises(ValueError, match="'a' is in only one branch of an If, and 'below' is outside of the If"):
            convert.from_onnx(source, name)


def test_both_directions_from_branches_are_joined():
    op = f'LSTM<hidden_size: int = {N}, direction: string = "bidirectional">'
    text = f"""g (float[T, B, {N}] x, bool p) => (o) {{
        y = If(p) <then_branch: graph = t () => (u) {{ [a] u = {op}(x, V0, S0) }},
                   else_branch: graph = e () => (v) {{ [b] v = {op}(x, V0, S0) }}>
        forward, backward = Split<axis: int = 1>(y)
        f = Squeeze(forward, one)
        r = Squeeze(backward, one)
        s = Concat<axis: int = 2>(%s)
        [top] o = {op}(s, V1, S1)
    }}"""
    rng = np.random.default_rng(0)
    arrays = {
        f"{name}{k}": arrays_of(rng, N * (k + 1), N, 2)[of] for k in range(2) for name, of in (("V", "W"), ("S", "R"))
    }
    assert convert.from_onnx(parsed(text % "f, r", constants() | arrays)).num_layers == 2
    with pytest.raises(WeightsFileError, match="'top' reads the output of Concat 's'"):
        convert.from_onnx(parsed(text % "r, f", constants() | arrays))


def test_layer_below_in_one_branch_raises():
    """The other branch passes the input through."""
    text = f"""g (float[T, B, {N}] x, bool p) => (o) {{
        r = If(p) <then_branch: graph = t () => (s) {{ [a] u = {LSTM_OP}(x, W0, R0, B0) s = Squeeze(u, one) }},
                   else_branch: graph = e () => (v) {{ v = Identity(x) }}>
        [b] o = {LSTM_OP}(r, W1, R1, B1)
    }}"""
    with pytest.raises(ValueError, match="'b' reads the output of If 'r', which is the input 'x' of the model"):
        convert.from_onnx(parsed(text, constants()), ("a", "b"))


def test_command_takes_names_as_layers(tmp_path, capsys):
    """Two names for one layer are too many. No name is needed."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path, out = tmp_path / "vad.onnx", tmp_path / "w"
    onnx.save(parsed(CELL % SHARED, constants()), path)
    assert command_line.main(["convert", str(path), str(out), "--name", ",".join(NAMES), "--check"]) == 1
    said = capsys.readouterr()
    assert "--name: wanted one name for each of 1 layers; got 'cell_0', 'cell_1'" in said.err
    assert not out.exists()
    assert command_line.main(["convert", str(path), str(out), "--check"]) == 0
    assert "The model around the LSTM was not checked: the LSTM 'cell_0' is within If" in capsys.readouterr().out
