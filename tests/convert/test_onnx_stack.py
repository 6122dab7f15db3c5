"""Test that the graph, not the names, decides which ONNX nodes form a stack."""

import numpy as np
import pytest

from fusedlstm import LSTM, WeightsFileError, convert

from support.onnx_models import arrays_of, computed, parsed

T, B, N = 5, 3, 4
RNG = np.random.default_rng(0)
NAMES = ("lower", "upper")


def layers(D=1, width=N, dtype=np.float32):
    """Return W, R and B of two layers, and constants for shapes and axes."""
    lower, upper = arrays_of(RNG, N, N, D, dtype=dtype), arrays_of(RNG, width * D, N, D, dtype=dtype)
    arrays = {f"{name}{k}": array for k, each in enumerate((lower, upper)) for name, array in each.items()}
    ints = {"zero": [0], "one": [1], "two": [2], "minus": [-1], "all": [0, 0, -1], "most": [2**62]}
    ints |= {"wide": [0, -1, N], "mix": [-1, B, N], "first": [0, 1], "ones": [1, 1]}
    return arrays | {name: np.array(values) for name, values in ints.items()}


def model(between, *, D=1, opset=17, lens=("", ""), inputs="", constants=None, functions=(), upper="Z", width=N):
    """Return a model of two layers. The lines of `between` lead from Y0 (T, D, B, N) to Z."""
    direction = "bidirectional" if D == 2 else "forward"
    node = f'LSTM<hidden_size: int = {N}, direction: string = "{direction}">'
    text = f"""stack (float[T, B, {N}] X{inputs}) => (Y1, Y0) {{
        [lower] Y0, H0, C0 = {node}(X, W0, R0, B0, {lens[0] or '""'})
        {between}
        [upper] Y1, H1, C1 = {node}({upper}, W1, R1, B1, {lens[1] or '""'})
    }}"""
    return parsed(text, layers(D, width) | (constants or {}), opset=opset, functions=functions)


def refusal(source, name):
    with pytest.raises(ValueError) as raised:
        convert.from_onnx(source, name)
    return str(raised.value)


def apart(source, weights, feeds=None, **options):
    """Return the difference between the weights' outputs and those of the model's last LSTM."""
    xs = np.random.default_rng(1).normal(size=(T, B, N)).astype(np.float32)
    Y = computed(source, {"X": xs} | (feeds or {}), ["Y1"])["Y1"]
    outputs, _ = LSTM(weights, backend="numpy")(xs, **options)
    return np.abs(outputs - np.concatenate(list(Y.swapaxes(0, 1)), axis=2)).max()


SQUEEZED = "S = Squeeze(Y0, one)\n"
IDENTITIES = {
    "Identity": SQUEEZED + "Z = Identity(S)",
    "Dropout": SQUEEZED + "Z = Dropout(S)",
    "Dropout, not training": SQUEEZED + "r = Constant<value_float: float = 0.5>()\nZ = Dropout(S, r, no)",
    "Cast to more and back": SQUEEZED + "a = Cast<to: int = 11>(S)\nZ = Cast<to: int = 1>(a)",
    "Cast to itself": SQUEEZED + "Z = Cast<to: int = 1>(S)",
    "Transpose and back": SQUEEZED
    + "a = Transpose<perm: ints = [2, 0, 1]>(S)\nZ = Transpose<perm: ints = [1, 2, 0]>(a)",
    "Unsqueeze and Squeeze": SQUEEZED + "a = Unsqueeze(S, zero)\nZ = Squeeze(a, zero)",
    "Reshape": "Z = Reshape(Y0, wide)",
    "function": SQUEEZED + "Z = own.Same(S)",
    "If of identities": SQUEEZED
    + "Z = If(yes) <then_branch: graph = a () => (p) { p = Identity(S) }, "
    + "else_branch: graph = b () => (q) { q = Dropout(S) }>",
}
SAME = '<opset_import: ["" : 17], domain: "own">\nSame (a) => (b) { b = Identity(a) }'
RELU = '<opset_import: ["" : 17], domain: "own">\nSame (a) => (b) { b = Relu(a) }'
BOOLS = {"no": np.array(False), "yes": np.array(True)}


@pytest.mark.parametrize("kind", IDENTITIES)
@pytest.mark.parametrize("name", [None, NAMES])
def test_identities_between_layers(kind, name):
    source = model(IDENTITIES[kind], constants=BOOLS, functions=[SAME])
    weights = convert.from_onnx(source, name)
    assert weights.num_layers == 2
    assert apart(source, weights) < 1e-5


BOTH = "S = Transpose<perm: ints = [0, 2, 1, 3]>(Y0)\n"
PARTS = "a = Squeeze(p, one)\nb = Squeeze(q, one)\nZ = Concat<axis: int = 2>(a, b)"
OF_DIRECTIONS = {
    "Reshape": BOTH + "Z = Reshape(S, all)",
    "Slices": "p = Slice(Y0, zero, one, one)\nq = Slice(Y0, one, most, one)\n" + PARTS,
    "Split": "p, q = Split<axis: int = 1>(Y0)\n" + PARTS,
    "Split of sizes": "p, q = Split<axis: int = 1>(Y0, ones)\n" + PARTS,
    "Gather": "i = Constant<value_int: int = 0>()\na = Gather<axis: int = 1>(Y0, i)\n"
    "j = Constant<value_int: int = -1>()\nb = Gather<axis: int = 1>(Y0, j)\nZ = Concat<axis: int = -1>(a, b)",
    "Gather of a list": "p = Gather<axis: int = 1>(Y0, zero)\nq = Gather<axis: int = 1>(Y0, one)\n" + PARTS,
}


@pytest.mark.parametrize("kind", OF_DIRECTIONS)
def test_both_directions_are_joined(kind):
    source = model(OF_DIRECTIONS[kind], D=2)
    assert apart(source, convert.from_onnx(source, NAMES)) < 1e-5


MISJOINED = {
    "exchanged": "p = Slice(Y0, one, two, one)\nq = Slice(Y0, zero, one, one)\n" + PARTS,
    "one twice": "p = Slice(Y0, zero, one, one)\nq = Slice(Y0, zero, one, one)\n" + PARTS,
    "Split, exchanged": "q, p = Split<axis: int = 1>(Y0)\n" + PARTS,
    "units before directions": "a = Transpose<perm: ints = [0, 2, 3, 1]>(Y0)\nZ = Reshape(a, all)",
    "time cut": BOTH + "a = Reshape(S, all)\nZ = Slice(a, one, most, zero)",
    "units cut": BOTH + "a = Reshape(S, all)\np, q = Split<axis: int = 2>(a)\nZ = Concat<axis: int = 2>(p, q)",
}


@pytest.mark.parametrize("kind", MISJOINED)
def test_misjoined_directions_raise(kind):
    source = model(MISJOINED[kind], D=2)
    for name in (None, NAMES):
        assert "'upper' reads the output of " in refusal(source, name)


BETWEEN = {
    "Relu": ("Z = Relu(S)", "Relu 'Z'"),
    "Tanh": ("Z = Tanh(S)", "Tanh 'Z'"),
    "LayerNormalization": ("Z = LayerNormalization(S, scale)", "LayerNormalization 'Z'"),
    "BatchNormalization": ("Z = BatchNormalization(S, s3, s3, s3, s3)", "BatchNormalization 'Z'"),
    "AveragePool": ("Z = AveragePool<kernel_shape: ints = [3], pads: ints = [1, 1]>(S)", "AveragePool 'Z'"),
    "Mul": ("Z = Mul(S, unit)", "Mul 'Z'"),
    "skip": ("Z = Add(S, X)", "Add 'Z'"),
    "Concat": ("p, q = Split<axis: int = 2>(S)\nZ = Concat<axis: int = 2>(q, p)", "Concat 'Z'"),
    "Slice of time": ("Z = Slice(S, one, most, zero)", "Slice 'Z', which splits an axis other than"),
    "Gather of rows": ("Z = Gather<axis: int = 1>(S, first)", "Gather 'Z', which takes from an axis other than"),
    "Cast to less": ("a = Cast<to: int = 10>(S)\nZ = Cast<to: int = 1>(a)", "Cast 'a', to float16, which can't hold"),
    "Cast to bfloat16": (
        "a = Cast<to: int = 16>(S)\nZ = Cast<to: int = 1>(a)",
        "Cast 'a', to bfloat16, which can't hold",
    ),
    "Cast to int": (
        "a = Cast<to: int = 6>(S)\nZ = Cast<to: int = 1>(a)",
        "Cast 'a', to another dtype, which can't hold",
    ),
    "Cast": ("Z = Cast<to: int = 11>(S)", "'lower' in float64"),
    "Dropout, training": ("Z = Dropout(S, half, yes)", "Dropout 'Z', which is in training mode"),
    "Dropout, perhaps": ("Z = Dropout(S, half, train)", "Dropout 'Z', which may be in training mode"),
    "mask": ("a, m = Dropout(S)\nf = Cast<to: int = 1>(m)\nZ = Identity(f)", "Dropout 'a', and not its first output"),
    "Reshape of T and B": ("a = Transpose<perm: ints = [1, 0, 2]>(S)\nZ = Reshape(a, mix)", "Reshape 'Z', whose shape"),
    "T and B exchanged": ("Z = Transpose<perm: ints = [1, 0, 2]>(S)", "'lower' as (B, T, N), not as (T, B, N)"),
    "Where": ("Z = Where(mask, S, unit)", "Where 'Z'"),
    "If of others": (
        "Z = If(yes) <then_branch: graph = a () => (p) { p = Identity(S) }, "
        "else_branch: graph = b () => (q) { q = Relu(S) }>",
        "If 'Z', which is the output of Relu 'q'",
    ),
    "function of others": ("Z = own.Same(S)", "own.Same 'Z', which is the output of Relu 'b'"),
    "Loop": (
        "Z = Loop(most, yes, S) <body: graph = a (int64 k, bool c, float[T, B, 4] v) => (d, w) "
        "{ d = Identity(c)\n w = Identity(v) }>",
        "Loop 'Z'",
    ),
    "custom": ("Z = own.Other(S)", "own.Other 'Z'"),
}


@pytest.mark.parametrize("kind", BETWEEN)
def test_operators_between_are_named(kind):
    between, what = BETWEEN[kind]
    ones = np.ones(N, np.float32)
    constants = BOOLS | {"scale": ones, "s3": np.ones(B, np.float32), "unit": np.float32(1), "mask": ones > 0}
    constants |= {"half": np.float32(0.5)}
    source = model(SQUEEZED + between, constants=constants, functions=[RELU], inputs=", bool train")
    for name in (None, NAMES):
        message = refusal(source, name)
        assert f"'upper' reads the output of {what}" in message
        assert "'lower'" in message
    for name in NAMES:
        assert convert.from_onnx(source, name).num_layers == 1


@pytest.mark.parametrize(
    ("upper", "what"),
    [
        ("X", "the input 'X' of the model"),
        ("H0", "Y_h of the LSTM 'lower', not its Y"),
        ("C0", "Y_c of the LSTM 'lower', not its Y"),
        ("k", "the constant 'k'"),
    ],
)
def test_siblings_and_final_states_raise(upper, what):
    source = model("", upper=upper, constants={"k": np.ones((T, B, N), np.float32)})
    for name in (None, NAMES):
        assert f"'upper' reads {what}" in refusal(source, name)


def test_dropout_of_old_opsets_trains():
    """Before opset 7, Dropout trains unless is_test is set."""
    squeeze = "S = Squeeze<axes: ints = [1]>(Y0)\n"
    assert convert.from_onnx(model(squeeze + "Z = Dropout<is_test: int = 1>(S)", opset=6)).num_layers == 2
    assert convert.from_onnx(model(squeeze + "Z = Dropout(S)", opset=7)).num_layers == 2
    assert "Dropout 'Z', which is in training mode" in refusal(model(squeeze + "Z = Dropout(S)", opset=6), NAMES)


THREE = f"""stack (float[T, B, {N}] X) => (Y2) {{
    [a] Y0 = LSTM<hidden_size: int = {N}>(X, W0, R0, B0)
    X1 = Squeeze(Y0, one)
    [b] Y1 = LSTM<hidden_size: int = {N}>(X1, W1, R1, B1)
    X2 = Squeeze(Y1, one)
    [c] Y2 = LSTM<hidden_size: int = {N}>(X2, W1, R1, B1)
    unused = Add(X1, X2)
}}"""


def test_names_in_the_wrong_order_raise():
    """Wrong order, a missing layer and a repeated name raise. Shared weights and outputs with other uses don't."""
    source = parsed(THREE, layers())
    assert convert.from_onnx(source).num_layers == 3
    assert convert.from_onnx(source, ["b", "c"]).num_layers == 2
    assert refusal(source, ["c", "a", "b"]) == "name: wanted layers, lowest first: 'a', 'b', 'c'; got 'c', 'a', 'b'"
    assert refusal(source, ["b", "a"]) == "name: wanted layers, lowest first: 'a', 'b'; got 'b', 'a'"
    assert "got 'a', 'c': 'c' reads the output of the LSTM 'b'. Convert each one alone" in refusal(source, ["a", "c"])
    assert refusal(source, ["a", "b", "a"]) == "name[2]: wanted each layer once; got 'a' twice"


@pytest.mark.parametrize(
    ("lens", "is_stack"),
    [
        (("lengths", "lengths"), True),
        (("lengths", "same"), True),
        (("lengths", ""), False),
        (("", "lengths"), False),
        (("lengths", "others"), False),
        (("short", "short_too"), True),
        (("short", "shorter"), False),
        (("every", ""), True),
        (("every", "every_of_Z"), True),
        (("every_of_Z", "lengths"), False),
        (("almost", ""), False),
    ],
)
def test_layers_have_the_same_lengths(lens, is_stack):
    made = """same = Identity(lengths)
        shape = Shape(X)
        steps = Gather(shape, zero)
        rows = Gather(shape, one)
        e = Expand(steps, rows)
        every = Cast<to: int = 6>(e)
        f = Sub(steps, one)
        g = Expand(f, rows)
        almost = Cast<to: int = 6>(g)
    """
    # The lower node may read only values made before it. The nodes are sorted below.
    of_Z = """shape_of_Z = Shape(Z)
        i = Slice(shape_of_Z, zero, one)
        j = Gather(shape_of_Z, one)
        h = Expand(i, j)
        every_of_Z = Cast<to: int = 6>(h)"""
    lower = "every" if lens[0] == "every_of_Z" else lens[0]
    constants = {name: np.full(B, k, np.int32) for name, k in (("short", 4), ("short_too", 4), ("shorter", 3))}
    source = model(
        f"{made}{SQUEEZED}Z = Identity(S)\n{of_Z}",
        lens=(lower, lens[1]),
        inputs=", int32[B] lengths, int32[B] others",
        constants=constants,
    )
    last = next(node for node in source.graph.node if node.name == "lower")
    source.graph.node.remove(last)
    index = next(k for k, node in enumerate(source.graph.node) if node.op_type == "Squeeze")
    source.graph.node.insert(index, last)
    if not is_stack:
        for name in (None, NAMES):
            assert "'upper' reads the output of 'lower', which has different sequence_lens" in refusal(source, name)
        return
    feeds = {"lengths": np.array([2, 5, 3], np.int32), "others": np.array([5, 1, 1], np.int32)}
    lengths = {"lengths": feeds["lengths"], "short": constants["short"]}.get(lens[0], np.full(B, T))
    assert apart(source, convert.from_onnx(source, NAMES), feeds, lengths=lengths.astype(np.int64)) < 1e-5


def test_stacks_do_not_cross_a_loops_edge():
    """A stack may be inside a loop. But a layer inside runs more often than one outside."""
    body = f"""body (int64 k, bool c, float[T, B, {N}] v) => (d, w) {{
        d = Identity(c)
        [inner] Y1 = LSTM<hidden_size: int = {N}>(%s, W0, R0, B0)
        w = Squeeze(Y1, one)
        [above] Y2 = LSTM<hidden_size: int = {N}>(w, W1, R1, B1)
    }}"""
    text = f"""g (float[T, B, {N}] X) => (Z) {{
        [outer] Y0 = LSTM<hidden_size: int = {N}>(X, W0, R0, B0)
        S = Squeeze(Y0, one)
        Z = Loop(two, yes, S) <body: graph = %s>
    }}"""
    source = parsed(text % (body % "S"), layers() | BOOLS)
    assert convert.from_onnx(source, ["inner", "above"]).num_layers == 2
    message = refusal(source, ["outer", "inner"])
    assert "'inner' reads the output of 'outer', which is outside of the Loop that the upper one is in" in message
    carried = parsed(text % (body % "v"), layers() | BOOLS)
    assert "'inner' reads the input 'v' of Loop 'Z'" in refusal(carried, ["outer", "inner"])


def test_functions_in_onnxs_own_domain():
    """ONNX doesn't say whether such functions take precedence over operators of the same name."""
    source = model(SQUEEZED + "Z = Identity(S)", functions=[RELU])
    source.functions[0].domain, source.functions[0].name = "", "Identity"
    with pytest.raises(WeightsFileError, match="its functions: wanted names in domains of their own; got 'Identity'"):
        convert.from_onnx(source)


def test_quantised_nodes_beside_an_lstm():
    """Without a name, it is unclear which node to convert."""
    source = model(SQUEEZED + "Z = Identity(S)")
    source.graph.node[-1].domain, source.graph.node[-1].op_type = "com.microsoft", "DynamicQuantizeLSTM"
    message = refusal(source, None)
    assert (
        "wanted only ONNX's operator LSTM; got also com.microsoft.DynamicQuantizeLSTM 'upper', besides 'lower'"
        in message
    )
    assert convert.from_onnx(source, "lower").num_layers == 1


@pytest.mark.parametrize("T_is_one", [True, False])
def test_models_of_fixed_sizes(T_is_one):
    """A Reshape to constants is followed if they match the sizes of the model's input."""
    steps = 1 if T_is_one else T
    source = model(BOTH + "Z = Reshape(S, fixed)", D=2, constants={"fixed": np.array([steps, B, 2 * N])})
    assert "Reshape 'Z', whose shape" in refusal(source, NAMES)
    dims = source.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_value, dims[1].dim_value = steps, B
    assert convert.from_onnx(source, NAMES).num_layers == 2
    dims[0].dim_value = 7
    assert "Reshape 'Z', whose shape" in refusal(source, NAMES)
