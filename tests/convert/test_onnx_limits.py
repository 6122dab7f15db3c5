"""Test that large valid models stay within every limit of the ONNX reader."""

import numpy as np
import pytest

from fusedlstm import LSTMWeights, StackedWeights, convert
from fusedlstm.convert.onnx import chain, constants, graph, source

from support.onnx_models import arrays_of, bits, helper, lstm, lstm_model, model_of, numpy_helper, onnx, tensors


def saved(model, folder, *, single):
    """Save a model with its tensors in one file or in one each, and return the path."""
    path = folder / "model.onnx"
    onnx.save_model(
        model,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=single,
        location="model.bin" if single else None,
        size_threshold=0,
        convert_attribute=True,
    )
    return path


@pytest.mark.parametrize("single", [True, False])
def test_external_data_of_many_megabytes(single, tmp_path):
    """A model of a few hundred bytes may have 33 MB of external data."""
    weights = StackedWeights([LSTMWeights.random(1024, 1024, seed=0)])
    path = saved(convert.to_onnx(weights), tmp_path, single=single)
    assert path.stat().st_size < 10_000
    assert bits(convert.from_onnx(path)) == bits(weights)
    (listed,) = convert.list_onnx(path)
    assert (listed.input_size, listed.problem) == (1024, "")


def test_external_data_may_be_copied(tmp_path):
    """Slicing, transposing, casting and joining external tensors makes about six copies of each."""
    arrays = arrays_of(np.random.default_rng(0), 512, 512, dtype=np.float16)
    nodes, stored = [], {}
    for name in ("W", "R"):
        stored |= {f"{name}_{k}": part.T.copy() for k, part in enumerate(np.split(arrays[name][0], 4))}
        nodes += [helper.make_node("Transpose", [f"{name}_{k}"], [f"{name}_{k}_t"]) for k in range(4)]
        nodes.append(helper.make_node("Concat", [f"{name}_{k}_t" for k in range(4)], [f"{name}_all"], axis=0))
        nodes.append(helper.make_node("Cast", [f"{name}_all"], [f"{name}_cast"], to=onnx.TensorProto.FLOAT))
        nodes.append(helper.make_node("Unsqueeze", [f"{name}_cast", "axis"], [name]))
    stored |= {"axis": np.array([0]), "B": arrays["B"].astype(np.float32)}
    model = model_of([*nodes, lstm(dict.fromkeys("WRB"))], tensors(stored))
    weights = convert.from_onnx(saved(model, tmp_path, single=False)).layers[0]
    wanted = convert.from_onnx(lstm_model({name: array.astype(np.float32) for name, array in arrays.items()}))
    assert weights.weight_hh.tobytes() == wanted.layers[0].weight_hh.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_inline_data_of_megabytes(dtype):
    weights = StackedWeights([LSTMWeights.random(512, 512, seed=0, dtype=dtype)])
    assert bits(convert.from_onnx(convert.to_onnx(weights).SerializeToString())) == bits(weights)


def test_inline_data_as_integers():
    """16-bit floats may be stored as integers of one or two bytes each."""
    arrays = arrays_of(np.random.default_rng(0), 256, 256, dtype=np.float16)
    stored = [helper.make_tensor(name, 10, a.shape, a.ravel().astype(float)) for name, a in arrays.items()]
    assert convert.from_onnx(model_of([lstm(arrays)], stored)).layers[0].hidden_size == 256


@pytest.mark.parametrize("single", [True, False])
def test_stacks_of_many_layers(single, tmp_path):
    """Read twelve bidirectional layers, 18 MB."""
    weights = StackedWeights.random(128, 128, num_layers=12, bidirectional=True, seed=0)
    path = saved(convert.to_onnx(weights), tmp_path, single=single)
    assert bits(convert.from_onnx(path)) == bits(weights)


def test_stacks_of_a_hundred_layers():
    """If names are in the wrong order, the error gives the right one."""
    model = convert.to_onnx(StackedWeights.random(4, 4, num_layers=100, seed=0))
    names = [f"lstm_{k}" for k in range(100)]
    assert convert.from_onnx(model).num_layers == 100
    assert convert.from_onnx(model, names).num_layers == 100
    with pytest.raises(ValueError, match="name: wanted layers, lowest first: 'lstm_0', 'lstm_1', .*, 'lstm_99'; got"):
        convert.from_onnx(model, names[::-1])


def test_constants_of_100_operators():
    arrays = arrays_of(np.random.default_rng(0), 256, 256)
    last = constants._MOST_LEVELS
    nodes = [helper.make_node("Identity", [f"w{k}"], [f"w{k + 1}"]) for k in range(last - 1)]
    nodes.append(helper.make_node("Transpose", [f"w{last - 1}"], ["W"], perm=[0, 2, 1]))
    stored = {"w0": arrays["W"].swapaxes(1, 2).copy(), "R": arrays["R"], "B": arrays["B"]}
    assert convert.from_onnx(model_of([*nodes, lstm(arrays)], tensors(stored))).num_layers == 1


def test_copies_that_add_up():
    """24 transposes make 24 copies, well below 64 times the model's size."""
    arrays = arrays_of(np.random.default_rng(0), 512, 512)
    nodes = []
    for k in range(24):
        nodes.append(helper.make_node("Transpose", [f"w{k}"], [f"t{k}"], perm=[0, 2, 1]))
        nodes.append(helper.make_node("Reshape", [f"t{k}", "turned" if k % 2 == 0 else "same"], [f"w{k + 1}"]))
    nodes.append(helper.make_node("Identity", ["w24"], ["W"]))
    shapes = {"turned": np.array([1, 512, 2048]), "same": np.array([1, 2048, 512])}
    stored = {"w0": arrays["W"], "R": arrays["R"], "B": arrays["B"]} | shapes
    assert convert.from_onnx(model_of([*nodes, lstm(arrays)], tensors(stored))).num_layers == 1
    assert source._COPIES >= 60


def test_graphs_of_100000_nodes():
    """Read a chain of 100,000 named nodes before the LSTM."""
    nodes = [helper.make_node("Relu", [f"x{k}"], [f"x{k + 1}"], f"relu{k}") for k in range(100_000)]
    arrays = arrays_of(np.random.default_rng(0), 3, 4)
    model = model_of([*nodes, lstm(arrays, x="x100000")], tensors(arrays), inputs=["x0"])
    assert convert.from_onnx(model).num_layers == 1
    assert graph._MOST_NODES >= 10 * 100_000


def test_functions_called_by_many_layers():
    """Each call of a function has its own names."""
    inner = helper.make_node("LSTM", ["X", "W", "R"], ["Y"], "inner")
    called = helper.make_function("own", "Layer", ["X", "W", "R"], ["Y"], [inner], [helper.make_opsetid("", 22)])
    nodes, stored = [], {"one": np.array([1])}
    for k in range(40):
        arrays = arrays_of(np.random.default_rng(k), 4, 4, bias=False)
        stored |= {f"{name}{k}": array for name, array in arrays.items()}
        nodes.append(helper.make_node("Layer", [f"x{k}", f"W{k}", f"R{k}"], [f"y{k}"], f"call{k}", domain="own"))
        nodes.append(helper.make_node("Squeeze", [f"y{k}", "one"], [f"x{k + 1}"]))
    model = model_of(nodes, tensors(stored), inputs=["x0"], outputs=["x40"], functions=[called])
    assert convert.from_onnx(model).num_layers == 40


@pytest.mark.parametrize("levels", [20])
def test_graphs_of_many_levels(levels):
    arrays = arrays_of(np.random.default_rng(0), 3, 4)
    value = helper.make_tensor_value_info("Y", 1, None)
    body = helper.make_graph([lstm(arrays)], "body", [], [value])
    for _ in range(levels):
        made = helper.make_node("If", ["condition"], ["Y"], then_branch=body, else_branch=body)
        body = helper.make_graph([made], "body", [], [value])
        body.node[0].attribute[1].g.node[0].CopyFrom(helper.make_node("Identity", ["X"], ["Y"]))
    model = helper.make_model(body)
    model.graph.initializer.extend(tensors(arrays))
    assert 2 * levels <= graph._MOST_LEVELS
    assert convert.from_onnx(model).num_layers == 1


def test_30_operators_between_layers():
    arrays = arrays_of(np.random.default_rng(0), 4, 4)
    count = chain._MOST_BETWEEN
    nodes = [lstm(arrays, name="a", suffix=""), helper.make_node("Squeeze", ["Y", "one"], ["s0"])]
    nodes += [helper.make_node("Identity", [f"s{k}"], [f"s{k + 1}"]) for k in range(count - 1)]
    nodes.append(helper.make_node("LSTM", [f"s{count - 1}", *"WRB"], ["Z"], "b"))
    model = model_of(nodes, tensors(arrays | {"one": np.array([1])}), outputs=["Z"])
    assert convert.from_onnx(model).num_layers == 2


def test_state_of_many_rows():
    """A state of 4096 different rows may be larger than the weights."""
    rows = np.random.default_rng(0).normal(size=(1, 4096, 64)).astype(np.float32)
    arrays = arrays_of(np.random.default_rng(0), 4, 64)
    model = lstm_model(arrays, given=["initial_h"])
    del model.graph.input[1:]
    model.graph.initializer.append(numpy_helper.from_array(rows, "initial_h"))
    np.testing.assert_array_equal(convert.state_from_onnx(model)[0].h, rows[0])


def test_many_equal_nodes_in_branches():
    """Read two branches of 60 layers each that all share their weights."""
    arrays = arrays_of(np.random.default_rng(0), 4, 4)
    branches = []
    for branch in "ab":
        nodes = [helper.make_node("Identity", ["X"], [f"{branch}x0"])]
        for k in range(60):
            y = f"{branch}y{k}"
            nodes.append(helper.make_node("LSTM", [f"{branch}x{k}", *"WRB"], [y], f"{branch}{k}"))
            nodes.append(helper.make_node("Squeeze", [y, "one"], [f"{branch}x{k + 1}"]))
        value = helper.make_tensor_value_info(f"{branch}x60", 1, None)
        branches.append(helper.make_graph(nodes, branch, [], [value]))
    node = helper.make_node("If", ["condition"], ["Y"], then_branch=branches[0], else_branch=branches[1])
    model = model_of([node], tensors(arrays | {"one": np.array([1])}), inputs=["X", "condition"])
    listed = convert.list_onnx(model)
    assert len(listed) == 60
    assert all(len(one.also) == 1 for one in listed)
