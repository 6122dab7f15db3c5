"""Untrusted ONNX models: refusals, bounded memory, and no access to files outside the model's folder."""

import json
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedlstm import LSTMWeights, WeightsFileError, convert
from fusedlstm.convert.onnx import graph as graphs

from support.onnx_models import arrays_of, helper, lstm, lstm_model, model_of, numpy_helper, onnx, tensors

I, N = 3, 4
ARRAYS = arrays_of(np.random.default_rng(0), I, N, bias=False)
FLOAT = onnx.TensorProto.FLOAT


@pytest.fixture
def little_memory():
    """Fail a test that has more than 20 MB allocated at any time."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


def test_every_kind_of_source(tmp_path):
    model = lstm_model(ARRAYS)
    content = model.SerializeToString()
    path = tmp_path / "lstm.onnx"
    path.write_bytes(content)
    wanted = convert.from_onnx(model).layers[0].weight_ih.tobytes()
    for source in (path, str(path), content, bytearray(content), memoryview(content)):
        assert convert.from_onnx(source).layers[0].weight_ih.tobytes() == wanted


@pytest.mark.parametrize("source", [None, 3, {"W": 1}])
def test_other_sources_raise(source):
    with pytest.raises(TypeError, match="source: wanted a path, bytes or an onnx.ModelProto; got"):
        convert.from_onnx(source)
    with pytest.raises(TypeError, match="source: wanted"):
        convert.list_onnx(source)


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="no.onnx"):
        convert.from_onnx(tmp_path / "no.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty, or is not ONNX: it has no graph"),
        (b"not a model", "is damaged, or is not ONNX: it can't be parsed ("),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file, such as Keras's: call"),
    ],
)
def test_other_files_raise(content, message, tmp_path):
    path = tmp_path / "lstm.onnx"
    path.write_bytes(content)
    with pytest.raises(WeightsFileError) as raised:
        convert.from_onnx(path)
    assert str(raised.value).startswith(f"{path} {message}")
    with pytest.raises(WeightsFileError, match="the ONNX model is (.*, or is not ONNX|an HDF5 file)"):
        convert.from_onnx(content)


def test_our_own_files_raise(tmp_path):
    LSTMWeights.random(I, N, seed=0).save(tmp_path / "weights")
    with pytest.raises(WeightsFileError, match="or is not ONNX"):
        convert.from_onnx(tmp_path / "weights")


def test_messages_name_the_path(tmp_path):
    path = tmp_path / "lstm.onnx"
    path.write_bytes(lstm_model(ARRAYS, {"hidden_size": 9}).SerializeToString())
    with pytest.raises(WeightsFileError) as raised:
        convert.from_onnx(path)
    assert str(raised.value).startswith(f"{path}: hidden_size of the LSTM 'lstm': wanted 4")


def with_tensor(**fields):
    """Return a model whose W is a tensor with these fields."""
    W = onnx.TensorProto(name="W", **fields)
    return model_of([lstm(ARRAYS)], [W, *tensors({"R": ARRAYS["R"]})])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data_type": FLOAT, "dims": [1, 16, 3]}, "wanted 48 values for float32 (1, 16, 3); got 0 values"),
        (
            {"data_type": FLOAT, "dims": [1, 16, 3], "float_data": [1.0] * 47},
            "wanted 48 values for float32 (1, 16, 3); got 47 values",
        ),
        (
            {"data_type": FLOAT, "dims": [1, 16, 3], "raw_data": bytes(100)},
            "wanted 192 bytes for float32 (1, 16, 3); got 100 bytes",
        ),
        (
            {"data_type": FLOAT, "dims": [2**40, 2**40, 2**40], "raw_data": bytes(4)},
            "bytes for float32 (1099511627776, 1099511627776, 1099511627776); got 4 bytes",
        ),
        (
            {"data_type": FLOAT, "dims": [-1, -16, 3], "raw_data": bytes(192)},
            "wanted dims of at least 0; got (-1, -16, 3)",
        ),
        ({"data_type": FLOAT, "dims": [2**62, 2**62, 0], "raw_data": b""}, "('W'): wanted dims that an array"),
        ({"data_type": FLOAT, "dims": [1, 2**40, 0], "raw_data": b""}, "R of the LSTM 'lstm': wanted shape"),
        ({"data_type": FLOAT, "dims": [0] * 99, "raw_data": b""}, "('W'): wanted at most 64 dims; got 99"),
        ({"data_type": FLOAT, "dims": [], "raw_data": bytes(4)}, "wanted shape (D, 4N, I) with D = 1; got shape ()"),
        (
            {"data_type": 99, "dims": [1, 16, 3]},
            "wanted a tensor of float32, float16, float64, bfloat16; got the unknown",
        ),
        ({"dims": [1, 16, 3]}, "wanted a tensor of float32, float16, float64, bfloat16; got UNDEFINED"),
        ({"data_type": onnx.TensorProto.STRING, "dims": [1], "string_data": [b"w"]}, "got STRING"),
        (
            {"data_type": FLOAT, "dims": [1], "segment": onnx.TensorProto.Segment(begin=0, end=1)},
            "wanted a whole tensor; got a segment of one",
        ),
    ],
)
def test_tensors_with_false_claims_raise(fields, message, little_memory):
    with pytest.raises(WeightsFileError) as raised:
        convert.from_onnx(with_tensor(**fields))
    assert str(raised.value).startswith("the ONNX model: ")
    assert message in str(raised.value)


def test_doubling_constants_raise(little_memory):
    """Each Concat joins its input to itself: after forty, the constant is 2^40 times as large."""
    doubled = [helper.make_node("Concat", [f"w{k}"] * 2, [f"w{k + 1}"], axis=0) for k in range(40)]
    last = helper.make_node("Identity", ["w40"], ["W"])
    constants = tensors({"w0": np.ones((64, 3), np.float32), "R": ARRAYS["R"]})
    with pytest.raises(
        WeightsFileError, match="wanted constants and names of at most 64 times the model's .* bytes; got .* more"
    ):
        convert.from_onnx(model_of([*doubled, last, lstm(ARRAYS)], constants))


def test_constants_copied_by_many_layers_raise(little_memory):
    """300 layers share the same weights."""
    W, R = (np.zeros((1, 4 * 64, 64), np.float32) for _ in "WR")
    nodes = []
    for k in range(300):
        nodes.append(helper.make_node("LSTM", [f"x{k}", "W", "R"], [f"y{k}"], f"lstm{k}"))
        nodes.append(helper.make_node("Squeeze", [f"y{k}"], [f"x{k + 1}"], axes=[1]))
    with pytest.raises(WeightsFileError, match="wanted constants and names of at most 64 times the model's"):
        convert.from_onnx(model_of(nodes, tensors({"W": W, "R": R})))


def test_function_constants_count_for_each_call(little_memory):
    """The whole constant counts, even if only a small slice is used."""
    W = numpy_helper.from_array(np.zeros((1, 16, 2_000), np.float32))
    nodes = [helper.make_node("Constant", [], ["w"], value=W)]
    nodes += [helper.make_node("Slice", ["w"], ["W"], axes=[2], starts=[0], ends=[1]), lstm(ARRAYS)]
    cell = helper.make_function("own", "F", ["X", "R"], ["Y"], nodes, [helper.make_opsetid("", 22)])
    calls = [helper.make_node("F", ["X", "R"], [f"Y{k}"], f"call{k}", domain="own") for k in range(80)]
    listed = convert.list_onnx(model_of(calls, tensors({"R": ARRAYS["R"]}), outputs=["Y0"], functions=[cell]))
    assert (listed[0].input_size, listed[0].problem) == (1, "")
    assert "wanted constants and names of at most 64 times the model's" in listed[-1].problem


def test_constants_are_computed_once():
    """Each constant is cut in two and joined again, so 2^40 paths lead from the last to the first."""
    nodes = []
    for k in range(40):
        for part, start in enumerate((0, 8)):
            nodes.append(
                helper.make_node("Slice", [f"w{k}"], [f"{part}{k}"], axes=[1], starts=[start], ends=[start + 8])
            )
        nodes.append(helper.make_node("Concat", [f"0{k}", f"1{k}"], [f"w{k + 1}"], axis=1))
    nodes.append(helper.make_node("Identity", ["w40"], ["W"]))
    constants = tensors({"w0": ARRAYS["W"], "R": ARRAYS["R"]})
    weights = convert.from_onnx(model_of([*nodes, lstm(ARRAYS)], constants))
    wanted = convert.from_onnx(lstm_model(ARRAYS))
    assert weights.layers[0].weight_ih.tobytes() == wanted.layers[0].weight_ih.tobytes()


def test_wide_casts_are_counted(little_memory):
    casts = [helper.make_node("Cast", ["w"], [f"w{k}"], to=11) for k in range(1000)]
    joined = helper.make_node("Concat", [f"w{k}" for k in range(1000)], ["W"], axis=0)
    constants = tensors({"w": np.zeros(10_000, np.float16), "R": ARRAYS["R"]})
    with pytest.raises(WeightsFileError, match="wanted constants and names of at most 64 times the model's"):
        convert.from_onnx(model_of([*casts, joined, lstm(ARRAYS)], constants))


def test_long_chains_of_operators_raise():
    nodes = [helper.make_node("Identity", [f"w{k}"], [f"w{k + 1}"]) for k in range(5000)]
    nodes.append(helper.make_node("Identity", ["w5000"], ["W"]))
    constants = tensors({"w0": ARRAYS["W"], "R": ARRAYS["R"]})
    with pytest.raises(WeightsFileError, match="wanted at most 100 operators in a chain; got more, or a cycle"):
        convert.from_onnx(model_of([*nodes, lstm(ARRAYS)], constants))


def test_deep_graphs_raise():
    body = helper.make_graph([lstm(ARRAYS)], "body", [], [])
    for _ in range(28):  # each level adds two names; protobuf's own limit is just above
        body = helper.make_graph([helper.make_node("Loop", ["", ""], ["Y"], "loop", body=body)], "body", [], [])
    with pytest.raises(WeightsFileError, match="its graph: wanted at most 50 levels; got more, at 'loop'"):
        convert.from_onnx(helper.make_model(body))


def function(name, called, calls):
    nodes = [helper.make_node(called, [], [f"y{k}"], f"{called}{k}", domain="own") for k in range(calls)]
    return helper.make_function("own", name, [], [], nodes, [helper.make_opsetid("own", 1)])


def test_recursive_functions_raise():
    call = helper.make_node("F", [], ["Y"], "call", domain="own")
    with pytest.raises(WeightsFileError, match="its graph: wanted at most 50 levels; got more, at 'call'"):
        convert.from_onnx(model_of([call], functions=[function("F", "F", 1)]))


@pytest.mark.parametrize("what", ["inputs", "outputs", "attributes", "initializers"])
def test_functions_with_many_names_raise(what, little_memory):
    """Each call has its own scopes, with all names of the function."""
    names = [f"n{k}" for k in range(5_000)]
    opsets = [helper.make_opsetid("", 22)]
    body = [helper.make_node("Split", ["X"], names)] if what == "outputs" else []
    if what == "initializers":
        held = [onnx.TensorProto(name=name, data_type=FLOAT) for name in names]
        branch = helper.make_graph([helper.make_node("Identity", ["X"], ["Y"])], "branch", [], [], held)
        body = [helper.make_node("If", ["X"], ["Y"], then_branch=branch)]
    inputs, attributes = (names if what == one else [] for one in ("inputs", "attributes"))
    called = helper.make_function("own", "F", ["X", *inputs], ["Y"], body, opsets, attributes)
    calls = [helper.make_node("F", ["X"], [f"Y{k}"], f"call{k}", domain="own") for k in range(5_000)]
    constants = tensors({name: ARRAYS[name] for name in ("W", "R")})
    with pytest.raises(WeightsFileError, match="its graph: wanted constants and names of at most 64 times"):
        convert.from_onnx(model_of([*calls, lstm(ARRAYS)], constants, functions=[called]))


def test_long_paths_raise(little_memory):
    """Nodes with the same name are listed by path, which includes the call's long name."""
    nodes = [helper.make_node("LSTM", ["X", "W", "R"], [""], "lstm") for _ in range(2_000)]
    called = helper.make_function("own", "F", ["X"], ["Y"], nodes, [helper.make_opsetid("", 22)])
    call = helper.make_node("F", ["X"], ["Y"], "c" * 100_000, domain="own")
    with pytest.raises(WeightsFileError, match="the paths of its nodes: wanted constants and names of at most 64"):
        convert.list_onnx(model_of([call], functions=[called]))


def test_metadata_is_read_once(monkeypatch):
    from fusedlstm.convert.onnx import source

    read_, real = [], json.loads
    monkeypatch.setattr(source.json, "loads", lambda text: read_.append(text) or real(text))
    nodes = [lstm(ARRAYS, {"clip": 3.0}, name=f"lstm{k}", suffix="") for k in range(5)]
    for node in nodes:
        del node.output[:]
    model = model_of(nodes, tensors(ARRAYS), outputs=[])
    helper.set_model_props(model, {"fusedlstm": json.dumps({"lstm3": {"clip": [3.0]}})})
    assert [one.options[0]["gate_clip"] for one in convert.list_onnx(model)] == [3.0] * 5
    assert len(read_) == 1


def test_too_many_axes_raise():
    """Each axis would be compared with all others."""
    unsqueezed = helper.make_node("Unsqueeze", ["w"], ["W"], axes=list(range(65)))
    constants = tensors({"w": ARRAYS["W"], "R": ARRAYS["R"]})
    with pytest.raises(WeightsFileError, match="Unsqueeze 'W': 65 numbers as axes"):
        convert.from_onnx(model_of([unsqueezed, lstm(ARRAYS)], constants))


def test_nested_calls_are_bounded(monkeypatch):
    """Each function calls the next one ten times."""
    monkeypatch.setattr(graphs, "_MOST_NODES", 10_000)
    call = helper.make_node("F0", [], ["Y"], "call", domain="own")
    functions = [function(f"F{k}", f"F{k + 1}", 10) for k in range(12)]
    with pytest.raises(WeightsFileError, match="its graph: wanted at most 10000 nodes; got more, with those of each"):
        convert.from_onnx(model_of([call], functions=functions))


def external(location, *, dims=(1, 16, 3), **entries):
    """Return a model whose W is in an external file."""
    model = with_tensor(data_type=FLOAT, dims=dims, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in ({"location": location} | entries).items():
        model.graph.initializer[0].external_data.add(key=key, value=str(value))
    return model


@pytest.fixture
def folder(tmp_path):
    """Return a folder with weights in several places. outside.bin is beside it."""
    (tmp_path / "models" / "below").mkdir(parents=True)
    content = ARRAYS["W"].tobytes()
    for name in ("outside.bin", "models/w.bin", "models/below/w.bin"):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "models" / "late.bin").write_bytes(bytes(8) + content)
    return tmp_path / "models"


def load(folder, model):
    (folder / "lstm.onnx").write_bytes(model.SerializeToString())
    return convert.from_onnx(folder / "lstm.onnx")


@pytest.mark.parametrize(
    ("location", "entries"),
    [
        ("w.bin", {}),
        ("w.bin", {"offset": 0, "length": 192}),
        ("./w.bin", {}),
        ("below/w.bin", {"length": 192, "checksum": "abc"}),
        ("late.bin", {"offset": 8, "length": 192}),
        ("late.bin", {"offset": 8}),
    ],
)
def test_external_data(folder, location, entries):
    weights = load(folder, external(location, **entries))
    wanted = convert.from_onnx(lstm_model(ARRAYS))
    assert weights.layers[0].weight_ih.tobytes() == wanted.layers[0].weight_ih.tobytes()


def test_external_data_written_by_onnx(folder, monkeypatch):
    """The data is found from any working directory."""
    model = lstm_model(ARRAYS)
    wanted = convert.from_onnx(model).layers[0].weight_hh.tobytes()
    onnx.save(model, folder / "own.onnx", save_as_external_data=True, location="own.data", size_threshold=0)
    assert convert.from_onnx(folder / "own.onnx").layers[0].weight_hh.tobytes() == wanted
    monkeypatch.chdir(folder)
    assert convert.from_onnx("own.onnx").layers[0].weight_hh.tobytes() == wanted


@pytest.mark.parametrize(
    ("location", "entries", "message"),
    [
        ("", {}, "wanted external data in a file in the model's own folder; got the location ''"),
        ("../outside.bin", {}, "folder; got the location '../outside.bin'"),
        ("below/../w.bin", {}, "folder; got the location 'below/../w.bin'"),
        ("below\\..\\..\\outside.bin", {}, "folder; got the location "),
        ("/etc/hostname", {}, "folder; got the location '/etc/hostname'"),
        ("C:\\w.bin", {}, "folder; got the location "),
        ("w\0.bin", {}, "folder; got the location "),
        ("no.bin", {}, "folder; got the location 'no.bin' (No such file or directory)"),
        ("below", {}, "folder; got 'below', which is not a regular file"),
        ("inside.lnk", {}, "folder; got the link 'inside.lnk'. Links may lead anywhere"),
        ("outside.lnk", {}, "folder; got the link 'outside.lnk'"),
        ("up.lnk/outside.bin", {}, "folder; got the link 'up.lnk/outside.bin'"),
        ("hard.bin", {}, "folder; got 'hard.bin', a file with several hard links"),
        ("pipe", {}, "folder; got 'pipe', which is not a regular file"),
        ("w.bin", {"offset": 1}, "wanted 192 bytes of external data from offset 1 on; got 192 bytes in w.bin"),
        ("w.bin", {"offset": -1}, "wanted external data with a number as offset; got '-1'"),
        ("w.bin", {"offset": "0x10"}, "wanted external data with a number as offset; got '0x10'"),
        ("w.bin", {"offset": "9" * 99}, "wanted external data with a number as offset; got '999"),
        ("w.bin", {"length": 100}, "wanted 192 bytes of external data for its dims; got length 100"),
        ("w.bin", {"dims": (2**20, 2**20, 2**20)}, "bytes of external data from offset 0 on; got 192 bytes in w.bin"),
        ("w.bin", {"dims": (1, 16, 4)}, "wanted 256 bytes of external data from offset 0 on; got 192 bytes in w.bin"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
def test_bad_external_data_raises(folder, location, entries, message, little_memory):
    (folder / "inside.lnk").symlink_to("w.bin")
    (folder / "outside.lnk").symlink_to("../outside.bin")
    (folder / "up.lnk").symlink_to("..")
    os.link(folder.parent / "outside.bin", folder / "hard.bin")
    os.mkfifo(folder / "pipe")
    with pytest.raises(WeightsFileError) as raised:
        load(folder, external(location, **entries))
    assert str(raised.value).startswith(f"{folder / 'lstm.onnx'}: W of the LSTM 'lstm' ('W'): ")
    assert message in str(raised.value)


def test_external_data_without_a_path_raises(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for source in (external("w.bin"), external("w.bin").SerializeToString()):
        with pytest.raises(WeightsFileError, match="wanted its data in the model; got external data in 'w.bin'. Pass"):
            convert.from_onnx(source)


def test_external_file_counts_once(folder, little_memory):
    """A file that many tensors share counts once towards the model's size."""
    (folder / "big.bin").write_bytes(bytes(100_000))
    model = external("w.bin")
    names = [f"w{k}" for k in range(300)]
    for name in names:
        entry = onnx.StringStringEntryProto(key="location", value="big.bin")
        tensor = onnx.TensorProto(name=name, dims=[25_000], data_type=FLOAT, data_location=1, external_data=[entry])
        model.graph.initializer.append(tensor)
    model.graph.initializer[0].name = "unused"
    model.graph.node.insert(0, helper.make_node("Concat", names, ["W"], axis=0))
    with pytest.raises(WeightsFileError, match="wanted constants and names of at most 64 times the model's"):
        load(folder, model)


def whole_model():
    """Return a model with everything that is read: several nodes, operators, functions and attributes."""
    attributes = {
        "activations": ["HardSigmoid", "Elu", "Tanh"],
        "activation_alpha": [0.3],
        "clip": 0.5,
        "hidden_size": N,
    }
    arrays = arrays_of(np.random.default_rng(0), I, N, peephole=True)
    made = {"W": arrays.pop("W")[0], "axis": np.array([0])}
    nodes = [helper.make_node("Unsqueeze", ["w", "axis"], ["W"]), lstm({"W": 0} | arrays, attributes)]
    body = helper.make_graph([lstm({"W": 0} | arrays, name="inner", suffix="")], "body", [], [])
    nodes.append(helper.make_node("Loop", ["", ""], ["Z"], "loop", body=body))
    stored = [numpy_helper.from_array(value, {"W": "w"}.get(name, name)) for name, value in (made | arrays).items()]
    return model_of(nodes, stored, functions=[function("F", "G", 2)]).SerializeToString()


WHOLE = whole_model()


def read(content):
    """Allow only weights, or a WeightsFileError."""
    for ask in (convert.list_onnx, convert.from_onnx, lambda model: convert.from_onnx(model, "lstm")):
        try:
            ask(content)
        except WeightsFileError:
            pass
        except ValueError as error:  # it has no LSTM of that name
            if not str(error).startswith("name: "):
                raise


def test_whole_model_is_read():
    assert convert.from_onnx(WHOLE, "lstm").layers[0].gate_clip == 0.5
    assert len(convert.list_onnx(WHOLE)) == 2


@pytest.mark.parametrize("part", range(4))
def test_truncated_models_raise_or_are_read(part):
    for length in range(part, len(WHOLE), 4):
        read(WHOLE[:length])


@settings(max_examples=300)
@given(changes=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_models_raise_or_are_read(changes):
    content = bytearray(WHOLE)
    for position, value in changes:
        content[position] = value
    read(bytes(content))


def test_name_that_is_not_utf8(tmp_path):
    """The node is listed with replacement characters, and found by that name."""
    model = lstm_model(arrays_of(np.random.default_rng(0), 3, 4))
    content = model.SerializeToString()
    assert content.count(b"\x1a\x04lstm") == 1
    path = tmp_path / "m.onnx"
    path.write_bytes(content.replace(b"\x1a\x04lstm", b"\x1a\x04ls\xff\xff"))
    (listed,) = convert.list_onnx(path)
    assert listed.name == "ls\ufffd\ufffd"
    assert convert.from_onnx(path, listed.name).num_layers == 1
