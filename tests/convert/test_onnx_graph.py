"""Which LSTM nodes of an ONNX model are found, chosen and joined as layers, and how their constants are computed."""

import logging

import ml_dtypes
import numpy as np
import pytest

from fusedlstm import StackedWeights, WeightsFileError, convert

from support.onnx_models import DATA_TYPES, arrays_of, helper, lstm, lstm_model, model_of, numpy_helper, onnx, tensors

I, N = 3, 4
RNG = np.random.default_rng(0)
BOTH = {"direction": "bidirectional"}
BRANCHES = {"condition": "condition", "name": "if"}


def same(weights, arrays, layer=0, D=1):
    """Return whether a layer's weights equal these arrays."""
    mine = weights.layers[layer * D : (layer + 1) * D]
    order = [0, 2, 3, 1]
    for d, one in enumerate(mine):
        for name, got in (("W", one.weight_ih), ("R", one.weight_hh)):
            wanted = arrays[name][d].reshape(4, one.hidden_size, -1)[order]
            if got.tobytes() != np.ascontiguousarray(wanted).tobytes():
                return False
    return len(mine) == D


def two_layers(*between, top="between", D=1, attributes=(), sizes=(I, N), constants=None, dims=None):
    """Return a model of two LSTMs with other nodes between Y_0 and the upper one's X, and the arrays of both."""
    arrays = [arrays_of(RNG, sizes[0], N, D), arrays_of(RNG, sizes[1] * D, N, D)]
    given = dict(attributes) | (BOTH if D == 2 else {})
    nodes = [lstm(arrays[0], given, name="lower", suffix="_0")]
    nodes += between
    nodes += [lstm(arrays[1], given, name="upper", suffix="_1", x=top)]
    extra = tensors(constants or {})
    model = model_of(nodes, tensors(arrays[0], "_0") + tensors(arrays[1], "_1") + extra, outputs=["Y_1"])
    if dims is not None:
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, dims))
    return model, arrays


def node(op, inputs, output="between", **attributes):
    return helper.make_node(op, inputs, [output], op.lower(), **attributes)


SHAPES = {
    "one": np.array([1]),
    "merge": np.array([0, -1, N]),
    "merge_two": np.array([0, 0, 2 * N]),
    "any": np.array([0, 0, -1]),
    "fixed": np.array([7, 2, 2 * N]),
    "flat": np.array([-1, 2 * N]),
    "four": np.array([0, 0, 2 * N, 1]),
    "wide": np.array([0, -1, N]),
    "merge_rows": np.array([0, 0, N]),
}
ROWS = {"perm": [0, 2, 1, 3]}


@pytest.mark.parametrize(
    "between",
    [
        [("Squeeze", "one", {})],
        [("Squeeze", None, {"axes": [1]})],
        [("Squeeze", None, {"axes": [-3]})],
        [("Squeeze", None, {})],
        [("Reshape", "merge", {})],
        [("Transpose", None, ROWS), ("Reshape", "any", {})],
        [("Transpose", None, ROWS), ("Squeeze", None, {"axes": [2]})],
        [("Squeeze", "one", {}), ("Dropout", None, {}), ("Identity", None, {})],
        [("Squeeze", "one", {}), ("Unsqueeze", "one", {}), ("Squeeze", "one", {})],
        [("Squeeze", "one", {}), *[("Transpose", None, {"perm": [1, 0, 2]})] * 2],
        [("Squeeze", "one", {}), ("Transpose", None, {"perm": [2, 1, 0]}), ("Transpose", None, {})],
    ],
)
def test_layers_of_one_direction(between):
    model, arrays = two_layers(*follow(between), constants=SHAPES)
    weights = convert.from_onnx(model)
    assert weights.num_layers == 2
    assert same(weights, arrays[0], 0)
    assert same(weights, arrays[1], 1)


def follow(between):
    """Return a chain of nodes that starts from Y_0."""
    last, nodes = "Y_0", []
    for index, (op, second, attributes) in enumerate(between):
        name = "between" if index == len(between) - 1 else f"between_{index}"
        nodes.append(node(op, [last, *([second] if second else [])], name, **attributes))
        last = name
    return nodes


def computed_shape(of, first=(0, 1)):
    """Return nodes that compute (T, B, -1) from the shape of X, or of Y with its rows first."""
    nodes = [helper.make_node("Shape", [of], ["shape_of"])]
    for k, index in enumerate(first):
        nodes.append(helper.make_node("Constant", [], [f"index_{k}"], value_int=index))
        nodes.append(helper.make_node("Gather", ["shape_of", f"index_{k}"], [f"number_{k}"]))
        nodes.append(helper.make_node("Constant", [], [f"axes_{k}"], value_ints=[0]))
        nodes.append(helper.make_node("Unsqueeze", [f"number_{k}", f"axes_{k}"], [f"part_{k}"]))
    nodes.append(helper.make_node("Constant", [], ["rest"], value_ints=[-1]))
    return [*nodes, helper.make_node("Concat", ["part_0", "part_1", "rest"], ["computed"], axis=0)]


@pytest.mark.parametrize("shape", ["merge_two", "any", "fixed", "of X", "of Y"])
def test_layers_of_both_directions(shape):
    rows = node("Transpose", ["Y_0"], "rows", **ROWS)
    extra = computed_shape("X" if shape == "of X" else "rows") if shape.startswith("of") else []
    reshape = node("Reshape", ["rows", "computed" if extra else shape])
    dims = [7, 2, I] if shape == "fixed" else None
    model, arrays = two_layers(rows, *extra, reshape, D=2, constants=SHAPES, dims=dims)
    weights = convert.from_onnx(model)
    assert (weights.num_layers, weights.bidirectional) == (2, True)
    assert same(weights, arrays[0], 0, 2)
    assert same(weights, arrays[1], 1, 2)


def test_layers_of_layout_1(caplog):
    model, _ = two_layers(*follow([("Squeeze", None, {"axes": [2]})]), attributes={"layout": 1})
    assert convert.from_onnx(model).num_layers == 2
    assert [record.getMessage() for record in caplog.records] == [
        "the LSTM 'lower' has layout 1: use LSTM(weights, batch_first=True), which weights don't record"
    ]


ONE, PERM = ("Squeeze", "one", {}), ("Transpose", None, {"perm": [1, 0, 2]})
MIXED = "the output of Reshape 'reshape', "
NOT_FOLLOWED = "whose shape is not one of T, B and both directions' units"


@pytest.mark.parametrize(
    ("between", "D", "why"),
    [
        ([ONE, PERM], 1, "the output of 'lower' as (B, T, N), not as (T, B, N)"),
        ([ONE, ("Relu", None, {})], 1, "the output of Relu 'relu'"),
        ([("Squeeze", None, {"axes": [0]})], 1, "the output of Squeeze 'squeeze', which drops an axis that is not of"),
        ([("Squeeze", None, {"axes": [9]})], 1, "the output of Squeeze 'squeeze', whose arguments can't be followed"),
        ([("Identity", None, {})], 1, "the output of 'lower' as (T, D, B, N), not as (T, B, N)"),
        ([("Reshape", "any", {})], 2, f"{MIXED}which mixes B and N"),
        ([("Transpose", None, ROWS), ("Reshape", "flat", {})], 2, f"{MIXED}which mixes T and B"),
        ([("Transpose", None, ROWS), ("Reshape", "wide", {})], 2, f"{MIXED}which mixes B and D"),
        ([("Transpose", None, ROWS), ("Reshape", "four", {})], 2, "the output of 'lower' as (T, B, DN, 1), not as (T,"),
        ([("Transpose", None, {"perm": [0, 2, 3, 1]}), ("Reshape", "any", {})], 2, f"{MIXED}which mixes N and D"),
        ([("Transpose", None, ROWS), ("Reshape", "fixed", {})], 2, f"{MIXED}{NOT_FOLLOWED}"),
        ([("Reshape", "merge_rows", {})], 1, f"{MIXED}{NOT_FOLLOWED}"),
        ([("Identity", None, {})] * 40 + [ONE], 1, "the output of a chain of more than 30 operators"),
    ],
)
def test_nodes_that_do_not_stack_raise(between, D, why):
    """With or without the names of both nodes, the reason is the same."""
    model, arrays = two_layers(*follow(between), D=D, constants=SHAPES)
    direction = ", bidirectional" if D == 2 else ""
    with pytest.raises(WeightsFileError) as raised:
        convert.from_onnx(model)
    start = (
        "the ONNX model: its graph: wanted one LSTM, or the layers of one; got 2: "
        f"'lower' (I=3, N=4, float32{direction}), 'upper' (I={N * D}, N=4, float32{direction}). 'upper' reads {why}"
    )
    assert str(raised.value).startswith(start)
    assert str(raised.value).endswith(". Give name=")
    with pytest.raises(ValueError) as raised:
        convert.from_onnx(model, ("lower", "upper"))
    wanted = "name: wanted layers, each of which reads the output of the one before; got 'lower', 'upper': "
    assert str(raised.value).startswith(f"{wanted}'upper' reads {why}")
    assert same(convert.from_onnx(model, "upper"), arrays[1], 0, D)


@pytest.mark.parametrize("top", ["X", "Y_h_0", "other"])
def test_nodes_side_by_side_raise(top):
    """The second node takes the input, the first node's final state, or a Dropout's second output."""
    squeeze = helper.make_node("Squeeze", ["Y_0"], ["lower"], axes=[1])
    dropout = helper.make_node("Dropout", ["lower"], ["between", "other"])
    model, _ = two_layers(squeeze, dropout, top=top, sizes=(I, I if top == "X" else N))
    with pytest.raises(WeightsFileError, match="wanted one LSTM, or the layers of one; got 2"):
        convert.from_onnx(model)


def test_branching_layers_are_named():
    arrays = [arrays_of(RNG, I, N), arrays_of(RNG, N, N), arrays_of(RNG, N, N)]
    nodes = [lstm(arrays[0], name="a", suffix="_0"), node("Squeeze", ["Y_0"], axes=[1])]
    nodes += [lstm(arrays[k], name=name, suffix=f"_{k}", x="between") for k, name in ((1, "b"), (2, "c"))]
    model = model_of(nodes, [tensor for k in range(3) for tensor in tensors(arrays[k], f"_{k}")], outputs=["Y_1"])
    with pytest.raises(WeightsFileError, match="the layers of one; got 3: 'a' .*, 'b' .*, 'c' "):
        convert.from_onnx(model)
    weights = convert.from_onnx(model, ["a", "c"])
    assert same(weights, arrays[2], 1)


def test_layers_in_any_order_of_nodes():
    model, arrays = two_layers(*follow([("Squeeze", "one", {})]), constants=SHAPES)
    nodes = [*model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])
    assert same(convert.from_onnx(model), arrays[0], 0)


def test_layers_with_mismatched_sizes_raise():
    model, _ = two_layers(*follow([ONE]), sizes=(I, 5), constants=SHAPES)
    with pytest.raises(WeightsFileError, match=r"the ONNX model: layers\[1\]: wanted input_size 4 .*; got 5"):
        convert.from_onnx(model, ("lower", "upper"))


def test_reverse_is_recorded(caplog):
    model = lstm_model(arrays_of(RNG, I, N), {"direction": "reverse"})
    with caplog.at_level(logging.WARNING, "fusedlstm"):
        assert convert.from_onnx(model).directions == ("backward",)
    assert not caplog.records


def test_functions_lacking_parameters_warn(caplog):
    attributes = {"activations": ["HardSigmoid", "Tanh", "ThresholdedRelu"]}
    assert convert.from_onnx(lstm_model(arrays_of(RNG, I, N), attributes))
    assert [record.getMessage() for record in caplog.records] == [
        "the LSTM lacks parameters of ThresholdedRelu, for which ONNX has no default: using 0, as in onnxruntime"
    ]


def test_nodes_are_chosen_by_name():
    """A name is the node's, or that of its first output."""
    arrays = arrays_of(RNG, I, N)
    unnamed = helper.make_node("LSTM", ["X", "W", "R"], ["", "Y_h"])
    model = model_of([unnamed], tensors(arrays), outputs=["Y_h"])
    assert [each.name for each in convert.list_onnx(model)] == ["Y_h"]
    assert same(convert.from_onnx(model, "Y_h"), arrays)
    with pytest.raises(ValueError) as raised:
        convert.from_onnx(model, "Y")
    wanted = "the name of an LSTM in the ONNX model: 'Y_h' (I=3, N=4, float32)"
    assert str(raised.value) == f"name: wanted {wanted}; got 'Y'"
    with pytest.raises(ValueError, match=r"name\[1\]: wanted the name of an LSTM"):
        convert.from_onnx(model, ["Y_h", "no"])


@pytest.mark.parametrize("name", [3, b"lstm", [], ["lstm", 3]])
def test_bad_names(name):
    with pytest.raises(TypeError, match="name: wanted a node's name, a sequence of them, or None; got"):
        convert.from_onnx(lstm_model(arrays_of(RNG, I, N)), name)


def test_list_onnx():
    attributes = BOTH | {"activations": ["Sigmoid", "relu", "Tanh"] * 2, "clip": 0.5, "layout": 1}
    (found,) = convert.list_onnx(lstm_model(arrays_of(RNG, I, N, 2), attributes))
    assert (found.name, found.direction, found.batch_first) == ("lstm", "bidirectional", True)
    assert (found.input_size, found.hidden_size, found.dtype, found.problem) == (I, N, "float32", "")
    assert len(found.options) == 2
    assert found.options[1]["activation"] == "relu"
    assert found.options[1]["gate_clip"] == 0.5
    assert convert.list_onnx(model_of([node("Relu", ["X"], "Y")])) == []


def test_list_names_unreadable_nodes():
    """Other nodes can still be chosen."""
    arrays = arrays_of(RNG, I, N)
    nodes = [lstm(arrays, name="a", suffix="_0"), lstm(arrays, {"direction": "up"}, name="b")]
    model = model_of(nodes, tensors(arrays), inputs=["X", "W_0", "R_0", "B_0"])
    first, second = convert.list_onnx(model)
    assert str(first) == "'a' (which can't be read)"
    assert "W of the LSTM 'a': wanted a constant of the model; got 'W_0', an input" in first.problem
    assert "direction of the LSTM 'b': wanted one of forward, reverse, bidirectional; got 'up'" in second.problem
    nodes[1] = lstm(arrays, name="b")
    model = model_of(nodes, tensors(arrays), inputs=["X", "W_0", "R_0", "B_0"])
    assert same(convert.from_onnx(model, "b"), arrays)


def branch(nodes, constants=(), output="Y"):
    value = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
    return helper.make_graph(nodes, "branch", [], [value], constants)


def test_nodes_in_branches_are_found():
    """Branches of an If see the weights of the graph around them. Their nodes may have the same name."""
    outside, inside = arrays_of(RNG, I, N), arrays_of(RNG, 5, N)
    then = branch([lstm(outside)])
    other = branch([lstm(inside, suffix="_1")], tensors(inside, "_1"), "Y_1")
    choice = helper.make_node("If", ["condition"], ["Y"], "if", then_branch=then, else_branch=other)
    model = model_of([choice], tensors(outside), inputs=["condition", "X"])
    assert [each.name for each in convert.list_onnx(model)] == ["if/else_branch/lstm", "if/then_branch/lstm"]
    assert same(convert.from_onnx(model, "if/then_branch/lstm"), outside)
    assert same(convert.from_onnx(model, "if/else_branch/lstm"), inside)


def test_inner_names_hide_outer_ones():
    """A Loop's body has its own W, and takes R from the iteration before."""
    outside, inside = arrays_of(RNG, I, N), arrays_of(RNG, 5, N)
    values = [helper.make_tensor_value_info(name, 1, None) for name in ("n", "go", "R", "Y")]
    loop = [
        helper.make_graph([lstm(inside)], "body", values[:keep], [values[3]], tensors(inside)[:3]) for keep in (2, 3)
    ]
    models = [
        model_of([helper.make_node("Loop", ["", ""], ["Z"], "loop", body=body)], tensors(outside)) for body in loop
    ]
    assert same(convert.from_onnx(models[0]), inside)
    del models[1].graph.node[0].attribute[0].g.initializer[1]
    with pytest.raises(
        WeightsFileError, match="R of the LSTM 'lstm': wanted a constant of the model; got 'R', an input"
    ):
        convert.from_onnx(models[1])


def function(nodes, inputs=("X", "w", "R"), attributes=(), name="Cell"):
    operators = [helper.make_opsetid("", 22), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, inputs, ["Y"], nodes, operators, list(attributes))


def test_nodes_in_functions_are_found():
    """Each call has its own inputs and attributes."""
    one, other = arrays_of(RNG, I, N, bias=False), arrays_of(RNG, I, 6, bias=False)
    inner = helper.make_node("LSTM", ["X", "W", "R"], ["Y"], "inner")
    for name, kind in (("hidden_size", onnx.AttributeProto.INT), ("clip", onnx.AttributeProto.FLOAT)):
        inner.attribute.append(onnx.AttributeProto(name=name, ref_attr_name=f"its_{name}", type=kind))
    cell = function([helper.make_node("Identity", ["w"], ["W"]), inner], attributes=["its_hidden_size"])
    cell.attribute_proto.append(helper.make_attribute("its_clip", 0.25))
    calls = [
        helper.make_node("Cell", ["X", f"W_{k}", f"R_{k}"], [f"Y_{k}"], f"call_{k}", domain="own", **attributes)
        for k, attributes in enumerate([{"its_hidden_size": N}, {"its_hidden_size": 6, "its_clip": 0.5}])
    ]
    constants = tensors(one, "_0") + tensors(other, "_1")
    model = model_of(calls, constants, outputs=["Y_0"], functions=[cell])
    assert [(each.name, each.hidden_size) for each in convert.list_onnx(model)] == [
        ("call_0/inner", N),
        ("call_1/inner", 6),
    ]
    first, second = (convert.from_onnx(model, f"call_{k}/inner") for k in range(2))
    assert same(first, one)
    assert same(second, other)
    assert (first.layers[0].gate_clip, second.layers[0].gate_clip) == (0.25, 0.5)
    next(each for each in model.graph.node[1].attribute if each.name == "its_hidden_size").i = N
    with pytest.raises(WeightsFileError, match="hidden_size of the LSTM 'call_1/inner': wanted 6"):
        convert.from_onnx(model, "call_1/inner")


def test_functions_have_their_own_names():
    """A function doesn't see the names of the graph that calls it."""
    arrays = arrays_of(RNG, I, N, bias=False)
    call = helper.make_node("Cell", ["X"], ["Y"], domain="own")
    model = model_of([call], tensors(arrays), functions=[function([lstm(arrays)], inputs=["X", "missing"])])
    with pytest.raises(WeightsFileError, match="W of the LSTM 'lstm': .* got 'W', which no node makes"):
        convert.from_onnx(model)


# How W is computed: nodes, and the tensors that they take.
W = arrays_of(RNG, I, N)["W"]
EVALUATED = {
    "Identity": ([("Identity", ["w"], {})], {"w": W}),
    "Unsqueeze": ([("Unsqueeze", ["w", "axis"], {})], {"w": W[0], "axis": np.array([0])}),
    "Unsqueeze 11": ([("Unsqueeze", ["w"], {"axes": [0]})], {"w": W[0]}),
    "Unsqueeze, from the end": ([("Unsqueeze", ["w", "axis"], {})], {"w": W[0], "axis": np.array(-3)}),
    "Squeeze": ([("Squeeze", ["w", "axis"], {})], {"w": W[None], "axis": np.array([0])}),
    "Squeeze 11": ([("Squeeze", ["w"], {"axes": [3]})], {"w": W[..., None]}),
    "Transpose": ([("Transpose", ["w"], {"perm": [2, 0, 1]})], {"w": W.transpose(1, 2, 0)}),
    "Transpose, reversed": ([("Transpose", ["w"], {})], {"w": W.T}),
    "Reshape": ([("Reshape", ["w", "shape"], {})], {"w": W.ravel(), "shape": np.array([1, -1, I])}),
    "Reshape 1": ([("Reshape", ["w"], {"shape": [1, 4 * N, I]})], {"w": W.ravel()}),
    "Reshape with 0": ([("Reshape", ["w", "shape"], {})], {"w": W.reshape(1, -1), "shape": np.array([0, 4 * N, -1])}),
    "Slice": (
        [("Slice", ["w", "from", "to", "axes", "by"], {})],
        {
            "w": np.repeat(W, 2, 1)[..., ::-1],
            "from": np.array([0, -1]),
            "to": np.array([2**31 - 1, -(2**63)]),
            "axes": np.array([1, -1]),
            "by": np.array([2, -1]),
        },
    ),
    "Slice 1": ([("Slice", ["w"], {"starts": [1], "ends": [-1]})], {"w": np.concatenate([W, W + 1, W])[[1, 0, 2]]}),
    "Concat": (
        [("Concat", ["a", "b"], {"axis": 1})],
        {"a": W[:, :N], "b": W[:, N:]},
    ),
    "Concat, from the end": ([("Concat", ["a", "b"], {"axis": -1})], {"a": W[..., :1], "b": W[..., 1:]}),
    "Cast": ([("Cast", ["w"], {"to": 1})], {"w": W.astype(np.float64)}),
    "chain": (
        [("Slice", ["w", "from", "to"], {}), ("Transpose", ["0"], {}), ("Unsqueeze", ["1"], {"axes": [0]})],
        {"w": np.concatenate([W[0].T, W[0].T]), "from": np.array([0]), "to": np.array([I])},
    ),
    "Constant": ([("Constant", [], {"value": numpy_helper.from_array(W)})], {}),
    "Constant of floats": (
        [
            ("Constant", [], {"value_floats": W.ravel().tolist()}),
            ("Constant", [], {"value_ints": [1, 4 * N, I]}),
            ("Reshape", ["0", "1"], {}),
        ],
        {},
    ),
    "Constant of one int": (
        [("Constant", [], {"value_int": 0}), ("Unsqueeze", ["w", "0"], {})],
        {"w": W[0]},
    ),
    "another domain's name": ([("Identity", ["w"], {"domain": "ai.onnx"})], {"w": W}),
}


@pytest.mark.parametrize("name", EVALUATED)
def test_computed_weights_are_read(name):
    nodes, constants = EVALUATED[name]
    wanted = {"W": W, "R": arrays_of(RNG, I, N)["R"]}
    last = len(nodes) - 1
    made = [
        helper.make_node(op, inputs, ["W" if k == last else str(k)], **more)
        for k, (op, inputs, more) in enumerate(nodes)
    ]
    model = model_of([*made, lstm(wanted)], tensors(constants | {"R": wanted["R"]}))
    if name == "Slice 1":
        wanted = wanted | {"W": constants["w"][1:-1]}
    assert same(convert.from_onnx(model), wanted)


def test_reshape_with_allowzero():
    arrays = arrays_of(RNG, 0, N, bias=False)
    reshape = helper.make_node("Reshape", ["w", "shape"], ["W"], allowzero=1)
    stored = tensors({"w": np.zeros((1, 0), np.float32), "shape": np.array([1, 4 * N, 0]), "R": arrays["R"]})
    assert same(convert.from_onnx(model_of([reshape, lstm(arrays)], stored)), arrays)


REFUSED = {
    "MatMul": ([("MatMul", ["w", "w"], {})], "made by MatMul 'matmul'"),
    "own operator": ([("Identity", ["w"], {"domain": "own"})], "made by own.Identity 'identity'"),
    "quantised": (
        [("DequantizeLinear", ["w", "w"], {})],
        "DequantizeLinear 'dequantizelinear': wanted one scale, or 16 for axis 1 of (1, 16, 3); got shape (1, 16, 3)",
    ),
    "Cast to ints": ([("Cast", ["w"], {"to": 7})], "Cast 'cast': from float32 to int64, not between"),
    "Cast of ints": ([("Cast", ["shape"], {"to": 1})], "Cast 'cast': from int64 to float32, not between"),
    "Squeeze of 4N": ([("Squeeze", ["w"], {"axes": [1]})], "Squeeze 'squeeze': cannot select an axis"),
    "Unsqueeze of nothing": ([("Unsqueeze", ["w"], {})], "Unsqueeze 'unsqueeze': no axes"),
    "Reshape to another size": ([("Reshape", ["w", "shape"], {})], "Reshape 'reshape': cannot reshape"),
    "Reshape by floats": ([("Reshape", ["w", "w"], {})], "Reshape 'reshape': shape of dtype float32"),
    "Transpose": ([("Transpose", ["w"], {"perm": [0, 0, 1]})], "Transpose 'transpose': "),
    "Slice by 0": (
        [("Slice", ["w"], {"starts": [0], "ends": [1], "steps": [0]})],
        "Slice 'slice': slice step cannot be zero",
    ),
    "Slice of an axis": (
        [("Slice", ["w"], {"starts": [0], "ends": [1], "axes": [3]})],
        "Slice 'slice': range object index out of range",
    ),
    "Concat of dtypes": ([("Concat", ["w", "shape"], {"axis": 0})], "Concat 'concat': dtypes float32, int64"),
    "Concat of nothing": ([("Concat", [], {"axis": 0})], "Concat 'concat': dtypes of nothing"),
    "Concat without axis": ([("Concat", ["w"], {})], "Concat 'concat': there is no 'axis'"),
    "Constant of strings": ([("Constant", [], {"value_string": "w"})], "a Constant with numbers as its value; got"),
    "input": ([("Identity", ["X"], {})], "wanted a constant of the model; got 'X', an input"),
    "nothing": (
        [("Identity", ["no"], {})],
        "wanted a constant of the model; got 'no', which no node makes",
    ),
    "itself": ([("Identity", ["W"], {})], "wanted at most 100 operators in a chain; got more, or a cycle"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_weights_must_be_constants(name):
    nodes, message = REFUSED[name]
    arrays = {"W": W, "R": arrays_of(RNG, I, N)["R"]}
    made = [helper.make_node(op, inputs, ["W"], op.lower(), **more) for op, inputs, more in nodes]
    constants = {"w": W, "R": arrays["R"], "shape": np.array([5, 5])}
    with pytest.raises(WeightsFileError) as raised:
        convert.from_onnx(model_of([*made, lstm(arrays)], tensors(constants)))
    assert str(raised.value).startswith("the ONNX model: W of the LSTM 'lstm': ")
    assert message in str(raised.value)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("raw", [True, False])
def test_dtypes_are_read(dtype, raw):
    """Tensors store their values in either of two ways."""
    arrays = arrays_of(RNG, I, N, dtype=dtype)
    kind = DATA_TYPES[np.dtype(dtype).name]
    stored = [
        helper.make_tensor(name, kind, array.shape, array.tobytes() if raw else array.ravel().astype(float), raw=raw)
        for name, array in arrays.items()
    ]
    weights = convert.from_onnx(model_of([lstm(arrays)], stored, dtype=dtype))
    assert weights.dtype == dtype
    assert same(weights, arrays)
    one, other = np.split(arrays["B"][0], 2)
    assert weights.layers[0].bias.tobytes() == (one + other).reshape(4, N)[[0, 2, 3, 1]].tobytes()


def test_initializer_may_be_an_input_too():
    """The initializer is the input's default. Before IR version 4, every initializer was an input."""
    arrays = arrays_of(RNG, I, N)
    model = model_of([lstm(arrays)], tensors(arrays), inputs=["X", "W"])
    assert same(convert.from_onnx(model), arrays)


@pytest.mark.parametrize(
    ("arrays", "attributes", "message"),
    [
        (
            {"W": np.ones((4 * N, I), "f")},
            {},
            "W of the LSTM 'lstm': wanted shape (D, 4N, I) with D = 1; got shape (16, 3)",
        ),
        ({"W": np.ones((1, 18, I), "f")}, {}, "wanted shape (D, 4N, I) with D = 1; got shape (1, 18, 3)"),
        ({"W": np.ones((1, 0, I), "f")}, {}, "wanted shape (D, 4N, I) with D = 1; got shape (1, 0, 3)"),
        ({}, BOTH, "W of the LSTM 'lstm': wanted shape (D, 4N, I) with D = 2; got shape (1, 16, 3)"),
        ({"R": np.ones((1, 16, 5), "f")}, {}, "R of the LSTM 'lstm': wanted shape (D, 4N, N) = (1, 16, 4); got shape"),
        ({"B": np.ones((1, 16), "f")}, {}, "B of the LSTM 'lstm': wanted shape (D, 8N) = (1, 32); got shape (1, 16)"),
        ({"P": np.ones((1, 16), "f")}, {}, "P of the LSTM 'lstm': wanted shape (D, 3N) = (1, 12); got shape (1, 16)"),
        ({}, {"hidden_size": 5}, "hidden_size of the LSTM 'lstm': wanted 4, as W has 4N = 16 rows; got 5"),
        ({"R": np.ones((1, 16, 4))}, {}, "the LSTM 'lstm': R: wanted dtype float32 (that of W); got dtype float64"),
        ({"W": np.ones((1, 16, I), "i4")}, {}, "the LSTM 'lstm': "),
        ({"W": np.ones((1, 16, I), "i1")}, {}, "wanted a tensor of float32, float16, float64, bfloat16; got INT8"),
        ({}, {"direction": "Forward"}, "wanted one of forward, reverse, bidirectional; got 'Forward'"),
        (
            {},
            {"activations": ["Tanh", "Tanh"]},
            "activations of the LSTM 'lstm': wanted three for each of 1 directions",
        ),
        ({}, {"activations": ["Tanh", "Tanh", "Swish"]}, "Softsign, Softplus, LeakyRelu, HardSigmoid"),
        ({}, {"activations": ["Tanh", "Tanh", "Swish"]}, "; got 'Swish'"),
        (
            {},
            {"activations": ["Elu", "Tanh", "Tanh"], "activation_alpha": [np.nan]},
            "gate_activation[1]: wanted a finite",
        ),
        ({}, {"clip": 0.0}, "clip of the LSTM 'lstm': wanted a number > 0, as in onnxruntime; got 0.0"),
        ({}, {"clip": np.nan}, "clip of the LSTM 'lstm': wanted a number > 0, as in onnxruntime; got nan"),
        ({}, {"clip": 1}, "clip of the LSTM 'lstm': wanted a value of type float; got int"),
        ({}, {"input_forget": 2}, "input_forget of the LSTM 'lstm': wanted 0 or 1; got 2"),
        ({}, {"layout": -1}, "layout of the LSTM 'lstm': wanted 0 or 1; got -1"),
        ({}, {"peepholes": 1}, "attributes of the LSTM 'lstm': wanted those of ONNX's operator"),
    ],
)
def test_bad_nodes_raise(arrays, attributes, message):
    with pytest.raises(WeightsFileError) as raised:
        convert.from_onnx(lstm_model(arrays_of(RNG, I, N) | arrays, attributes))
    assert str(raised.value).startswith("the ONNX model: ")
    assert message in str(raised.value)


def test_operator_version_1_is_read():
    arrays = arrays_of(RNG, I, N)
    model = lstm_model(arrays, {"output_sequence": 1, "hidden_size": N}, opset=6)
    assert same(convert.from_onnx(model), arrays)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([], "its graph: wanted ONNX's operator LSTM; got no operator. Cells exported as arithmetic"),
        ([("MatMul", "")], "its graph: wanted ONNX's operator LSTM; got MatMul. Cells exported"),
        ([("LSTM", "own")], "its graph: wanted ONNX's operator LSTM; got own.LSTM 'lstm'"),
        (
            [("DynamicQuantizeLSTM", "com.microsoft")],
            "its graph: wanted ONNX's operator LSTM; got com.microsoft.DynamicQuantizeLSTM 'dynamicquantizelstm'. "
            "Its weights are integers with scales: export the model before it is quantised",
        ),
        ([("QLinearLSTM", "")], "got QLinearLSTM 'qlinearlstm'. Its weights are integers with scales"),
    ],
)
def test_models_without_an_lstm_raise(nodes, message):
    made = [helper.make_node(op, ["X"], ["Y"], op.lower(), domain=domain) for op, domain in nodes]
    with pytest.raises(WeightsFileError) as raised:
        convert.from_onnx(model_of(made))
    assert message in str(raised.value)


def test_one_layer_is_a_stack():
    assert isinstance(convert.from_onnx(lstm_model(arrays_of(RNG, I, N))), StackedWeights)
