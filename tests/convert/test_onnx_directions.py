"""ONNX nodes of different directions in a chain are one stack. onnxruntime computes the same numbers."""

import itertools

import numpy as np
import pytest

from fusedlstm import LSTM, LSTMState, WeightsFileError, convert
from fusedlstm.convert.checking import check

from support.onnx_models import arrays_of, computed, onnx, parsed

T, B, N = 5, 3, 4
NAMES = {"forward": "forward", "backward": "reverse", "both": "bidirectional"}
TURN = "Slice({}, last, before_all, zero, last)"  # as PyTorch's exporters write flip
MIXED = [["both", "forward"], ["forward", "both", "backward"], ["backward", "forward", "backward"], ["backward"]]


def constants(widths):
    """Return W, R and B of layers with these numbers of directions, and constants for shapes and axes."""
    rng, found, width = np.random.default_rng(0), {}, N
    for k, D in enumerate(widths):
        found |= {f"{name}{k}": array for name, array in arrays_of(rng, width, N, D).items()}
        width = D * N
    ints = {"zero": [0], "one": [1], "last": [-1], "before_all": [-(2**63) + 1], "joined": [0, 0, -1], "most": [2**62]}
    return found | {name: np.array(values) for name, values in ints.items()}


def chain(directions, *, turns=(), lens="", slices=TURN):
    """Return a model of nodes with these directions. Each one in `turns` reads the steps in reversed order."""
    lines, x = [], "X"
    for k, direction in enumerate(directions):
        if k in turns:
            lines.append(f"T{k} = {slices.format(x)}")
            x = f"T{k}"
        node = f'LSTM<hidden_size: int = {N}, direction: string = "{NAMES[direction]}">'
        lines.append(f"[n{k}] Y{k}, H{k}, C{k} = {node}({x}, W{k}, R{k}, B{k}, {lens or QUOTES})")
        lines += [f"S{k} = Transpose<perm: ints = [0, 2, 1, 3]>(Y{k})", f"Z{k} = Reshape(S{k}, joined)"]
        x = f"Z{k}"
    states = ", ".join(f"{part}{k}" for k in range(len(directions)) for part in "HC")
    given = f", int32[B] {lens}" if lens else ""
    text = f"g (float[T, B, {N}] X{given}) => ({x}, {states}) {{ {chr(10).join(lines)} }}"
    return parsed(text, constants([1 + (direction == "both") for direction in directions]))


QUOTES = '""'


def apart(model, weights, *, turned=False, lengths=None):
    """Return the largest difference of outputs and states. `turned` says that the model's outputs are reversed."""
    xs = np.random.default_rng(1).normal(size=(T, B, N)).astype(np.float32)
    given = {} if lengths is None else {"lengths": lengths}
    theirs = computed(model, {"X": xs, **{name: array.astype(np.int32) for name, array in given.items()}})
    outputs, finals = LSTM(weights, backend="numpy")(xs, **given)
    Y, *states = theirs.values()
    h, c = ([row for array in states[k::2] for row in array] for k in (0, 1))
    pairs = [(outputs, Y[:: -1 if turned else 1])]
    pairs += [pair for k, final in enumerate(finals) for pair in ((final.h, h[k]), (final.c, c[k]))]
    assert len(finals) == len(h)
    return max(np.abs(ours - other).max() for ours, other in pairs)


@pytest.mark.parametrize("directions", MIXED, ids="-".join)
@pytest.mark.parametrize("name", [None, "all"])
def test_nodes_of_different_directions(directions, name):
    model = chain(directions)
    weights = convert.from_onnx(model, name and [f"n{k}" for k in range(len(directions))])
    assert weights.directions == tuple(directions)
    assert apart(model, weights) < 1e-5


@pytest.mark.parametrize("directions", MIXED, ids="-".join)
def test_lengths_with_different_directions(directions):
    model = chain(directions, lens="lengths")
    assert apart(model, convert.from_onnx(model), lengths=np.array([5, 1, 3])) < 1e-5


@pytest.mark.parametrize("turns", [(), (0,), (1,), (1, 2), (0, 1, 2)])
def test_reversed_steps_between_nodes(turns):
    """PyTorch has no backward LSTM: models flip the steps before and after a forward one, as Bonito's do."""
    model = chain(["forward", "forward", "backward"], turns=turns)
    weights = convert.from_onnx(model)
    one, two = (1 in turns), (1 in turns) != (2 in turns)
    wanted = "backward" if one else "forward", "forward" if two else "backward"
    assert weights.directions == ("forward", *wanted)
    if 0 not in turns:
        assert apart(model, weights, turned=two) < 1e-5


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.filterwarnings("ignore")  # the warnings are PyTorch's
def test_flips_exported_by_torch(dynamo, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")

    class Alternating(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.LSTM(N, N) for _ in range(4)])

        def forward(self, x):
            for k, layer in enumerate(self.layers):
                x = layer(x.flip(0))[0].flip(0) if k % 2 else layer(x)[0]
            return x

    module, xs = Alternating().eval(), torch.randn(T, B, N)
    path = tmp_path / "m.onnx"
    torch.onnx.export(module, (xs,), path, dynamo=dynamo, input_names=["x"])
    weights = convert.from_onnx(path)
    assert weights.directions == ("forward", "backward", "forward", "backward")
    outputs, _ = LSTM(weights, backend="numpy")(xs.numpy())
    with torch.no_grad():
        assert np.abs(outputs - module(xs).numpy()).max() < 1e-5
    result = check("onnx", str(path), None, weights, {})
    assert (result.agrees, result.around) == (True, ""), str(result)


@pytest.mark.parametrize("turns", [(), (1,), (1, 2)])
def test_whole_models_are_compared(turns, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(chain(["backward", "forward", "forward"], turns=turns), path)
    weights = convert.from_onnx(path)
    result = check("onnx", str(path), None, weights, {})
    assert (result.agrees, result.around) == (True, ""), str(result)
    turned = {"forward": "backward", "backward": "forward"}
    for k in range(3):
        ways = [turned[way] if k == index else way for index, way in enumerate(weights.directions)]
        other = type(weights)(weights.layers, directions=ways)
        assert not check("onnx", str(path), None, other, {}).agrees


REFUSED = {
    "a part": "Slice({}, one, most, zero)",
    "without the first": "Slice({}, last, zero, zero, last)",
    "rows": "Slice({}, last, before_all, one, last)",
    "units": "Slice({}, last, before_all, last, last)",
    "from the second last": "Slice({}, second_last, before_all, zero, last)",
}


@pytest.mark.parametrize("slices", REFUSED.values(), ids=REFUSED)
def test_other_slices_between_nodes_raise(slices):
    model = chain(["forward", "forward"], turns=(1,), slices=slices)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-2]), "second_last"))
    with pytest.raises(WeightsFileError, match="'n1' reads the output of Slice"):
        convert.from_onnx(model)


def test_reversed_padding_raises():
    model = chain(["forward", "forward"], turns=(1,), lens="lengths")
    with pytest.raises(WeightsFileError, match="'n1' reads the output of 'n0' in reversed order, padding included"):
        convert.from_onnx(model)


def test_both_directions_of_reversed_steps_raise():
    model = chain(["forward", "both", "forward"], turns=(1,))
    with pytest.raises(WeightsFileError, match="'n1' reads both directions of a reversed sequence, so its halves are"):
        convert.from_onnx(model)
    assert convert.from_onnx(model, ["n1", "n2"]).directions == ("both", "forward")
    assert convert.from_onnx(chain(["both", "both"], turns=(0,))).bidirectional


def test_an_order_that_an_if_decides_raises():
    text = f"""g (float[T, B, {N}] X, bool condition) => (Y1) {{
        [n0] Y0 = LSTM<hidden_size: int = {N}>(X, W0, R0, B0)
        S = Squeeze(Y0, one)
        Z = If(condition) <
            then_branch: graph = a () => (p) {{ p = Slice(S, last, before_all, zero, last) }},
            else_branch: graph = b () => (q) {{ q = Identity(S) }}>
        [n1] Y1 = LSTM<hidden_size: int = {N}>(Z, W1, R1, B1)
    }}"""
    with pytest.raises(WeightsFileError, match="'n1' reads the output of 'n0' in an order that depends on an If"):
        convert.from_onnx(parsed(text, constants([1, 1])))


@pytest.mark.parametrize("directions", [*itertools.permutations(["forward", "backward", "both"])], ids="-".join)
def test_exported_directions_run(directions):
    weights = convert.from_onnx(chain(directions))
    again = convert.to_onnx(weights)
    assert convert.from_onnx(again).directions == directions
    xs = np.random.default_rng(1).normal(size=(T, B, N)).astype(np.float32)
    lstm = LSTM(weights, backend="numpy")
    zeros = {
        f"initial_{part}_{k}": np.zeros((1 + (way == "both"), B, N), np.float32)
        for k, way in enumerate(directions)
        for part in "hc"
    }
    Y = computed(again, {"X": xs, **zeros}, ["Y"])["Y"]
    assert np.abs(lstm(xs)[0] - Y).max() < 1e-5


def test_states_of_different_directions():
    """Each node has its own initial states, with one row for each of its directions."""
    model = chain(["both", "backward"])
    rng = np.random.default_rng(2)
    for node, D in zip((node for node in model.graph.node if node.op_type == "LSTM"), (2, 1), strict=True):
        for part in "hc":
            array = rng.uniform(-1, 1, (D, B, N)).astype(np.float32)
            node.input.append(f"{node.name}_{part}")
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, node.input[-1]))
    weights, states = convert.from_onnx(model, initial_state="separate"), convert.state_from_onnx(model)
    assert [state.h.shape for state in states] == [(B, N)] * 3
    xs = rng.normal(size=(T, B, N)).astype(np.float32)
    outputs, _ = LSTM(weights, backend="numpy")(xs, states)
    assert np.abs(outputs - computed(model, {"X": xs}, ["Z1"])["Z1"]).max() < 1e-5
    assert all(isinstance(state, LSTMState) for state in states)
