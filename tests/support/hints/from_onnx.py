"""Hints about ONNX models."""

import shutil

import numpy as np

from fusedlstm import LSTM, convert

from support.hints.arrays import torch_cell
from support.hints.case import FOLDER, B, Case, I, N, T, lstm, xs


def unconnected():
    from support.onnx_models import arrays_of, model_of, tensors
    from support.onnx_models import lstm as node

    rng = np.random.default_rng(0)
    first, second = arrays_of(rng, I, N), arrays_of(rng, I, N)
    nodes = [node(first, name="a"), node(second, name="b", suffix="_b")]
    return model_of(nodes, [*tensors(first), *tensors(second, "_b")], outputs=["Y", "Y_b"])


def started():
    from support.onnx_models import arrays_of, lstm_model, tensors

    arrays = arrays_of(np.random.default_rng(0), I, N)
    model = lstm_model(arrays, given=["initial_h"])
    model.graph.initializer.extend(tensors({"initial_h": np.ones((1, B, N), "f")}))
    del model.graph.input[1:]
    return model


def plain_onnx(given=(), op="LSTM", **attributes):
    from support.onnx_models import arrays_of, lstm_model

    model = lstm_model(arrays_of(np.random.default_rng(0), I, N), attributes, given=given)
    model.graph.node[0].op_type = op
    model.graph.node[0].domain = "com.microsoft" if "Quantize" in op else ""
    return model


def with_lengths():
    from support.onnx_models import tensors

    model = plain_onnx(given=["sequence_lens"])
    model.graph.initializer.extend(tensors({"sequence_lens": np.array([T - 1, T], np.int32)}))
    del model.graph.input[1:]
    return model


def rounded():
    from support.onnx_models import helper, tensors

    model = plain_onnx()
    node = model.graph.node[0]
    node.input[0] = "x"
    nodes = [
        helper.make_node("QuantizeLinear", ["X", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["x"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, node])
    model.graph.initializer.extend(tensors({"s": np.float32(0.1)}))
    return model


def branches(*, state):
    """Return a model of one LSTM, which an If calls with or without a constant state."""
    from support.onnx_models import arrays_of, parsed

    op = f"LSTM<hidden_size: int = {N}>"
    given = ', "", s, s' if state else ""
    text = f"""cell (float[T, {B}, {I}] x, bool fresh) => (y) {{ y = If(fresh) <
        then_branch: graph = a () => (y1) {{ [cell_0] y1 = {op}(x, W, R, B) }},
        else_branch: graph = b () => (y2) {{ [cell_1] y2 = {op}(x, W, R, B{given}) }}
    > }}"""
    return parsed(text, arrays_of(np.random.default_rng(0), I, N) | {"s": np.ones((1, B, N), "f")})


def calculated(name):
    """Return a model that computes sequence_lens or initial_h from an input."""
    from support.onnx_models import helper

    model = plain_onnx(given=[name])
    model.graph.input[1].name = "given"
    model.graph.node.insert(0, helper.make_node("Neg", ["given"], [name], "neg"))
    return model


def with_data(place, name="w.data"):
    """Save a model with its arrays in another file, in this folder, and return its path."""
    from support.onnx_models import onnx

    folder = FOLDER["now"] / place
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    onnx.save(plain_onnx(), folder / "m.onnx", save_as_external_data=True, location=name, size_threshold=0)
    return folder / "m.onnx"


def with_a_link():
    path = with_data("linked")
    (path.parent / "w.data").rename(path.parent / "elsewhere")
    (path.parent / "w.data").symlink_to("elsewhere")
    return path


def with_a_copy():
    path = with_a_link()
    (path.parent / "w.data").unlink()
    shutil.copy(path.parent / "elsewhere", path.parent / "w.data")
    return path


def in_memory():
    path = with_data("whole")
    convert.from_onnx(path.read_bytes())


def by_path_or_loaded():
    from support.onnx_models import onnx

    path = with_data("whole")
    convert.from_onnx(path)
    convert.from_onnx(onnx.load(path))


CASES = {
    "unconnected nodes": Case(
        lambda: convert.from_onnx(unconnected()), lambda: convert.from_onnx(unconnected(), name="a"), "onnx"
    ),
    "named nodes that are not layers": Case(
        lambda: convert.from_onnx(unconnected(), name=["a", "b"]),
        lambda: [convert.from_onnx(unconnected(), name=name) for name in "ab"],
        "onnx",
    ),
    "an initial state": Case(
        lambda: convert.from_onnx(started()),
        lambda: (convert.from_onnx(started(), initial_state="separate"), convert.state_from_onnx(started())),
        "onnx",
    ),
    "ONNX with the batch first": Case(
        lambda: convert.from_onnx(plain_onnx(layout=1)),
        lambda: LSTM(convert.from_onnx(plain_onnx(layout=1)), batch_first=True, backend="numpy")(
            np.zeros((B, T, I), "f")
        ),
        "onnx",
    ),
    "an ONNX state that is an input": Case(
        lambda: convert.state_from_onnx(plain_onnx(given=["initial_h"])),
        lambda: LSTM(convert.from_onnx(plain_onnx(given=["initial_h"])), backend="numpy")(xs(), lstm().zero_state(B)),
        "onnx",
    ),
    "constant lengths": Case(
        lambda: convert.from_onnx(with_lengths()),
        lambda: LSTM(convert.from_onnx(with_lengths()), backend="numpy")(xs(), lengths=[T - 1, T]),
        "onnx",
    ),
    "a rounded x": Case(lambda: convert.from_onnx(rounded()), lambda: convert.from_onnx(plain_onnx()), "onnx"),
    "integers in ONNX": Case(
        lambda: convert.from_onnx(plain_onnx(op="DynamicQuantizeLSTM")), lambda: convert.from_onnx(plain_onnx()), "onnx"
    ),
    "arithmetic in ONNX": Case(
        lambda: convert.from_onnx(plain_onnx(op="MatMul")), lambda: convert.from_torch(torch_cell()), "onnx"
    ),
    "lengths that the model computes": Case(
        lambda: convert.from_onnx(calculated("sequence_lens")),
        lambda: LSTM(convert.from_onnx(calculated("sequence_lens")), backend="numpy")(xs(), lengths=[T - 1, T]),
        "onnx",
    ),
    "a state that the model computes": Case(
        lambda: convert.from_onnx(calculated("initial_h")),
        lambda: LSTM(convert.from_onnx(calculated("initial_h")), backend="numpy")(xs(), lstm().zero_state(B)),
        "onnx",
    ),
    "states of two branches": Case(
        lambda: convert.state_from_onnx(branches(state=True)),
        lambda: convert.state_from_onnx(branches(state=True), name="cell_1"),
        "onnx",
    ),
    "a link to arrays": Case(
        lambda: convert.from_onnx(with_a_link()), lambda: convert.from_onnx(with_a_copy()), "onnx"
    ),
    "arrays in another file": Case(in_memory, by_path_or_loaded, "onnx"),
}
