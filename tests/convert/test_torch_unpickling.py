"""Test that files of torch.save are read as PyTorch reads them, and that malicious files are bounded."""

import collections
import contextlib
import io
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusedlstm import WeightsFileError, convert
from fusedlstm.convert.torch.files import SavedParameters, open_parameters
from fusedlstm.convert.torch.pickled import Stream
from fusedlstm.convert.torch.unpickling import Unpickler
from fusedlstm.convert.trees import flatten

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    return torch


def lstm_arrays():
    rng = np.random.default_rng(0)
    return {f"weight_{kind}_l0": rng.normal(size=(16, width)).astype("f") for kind, width in (("ih", 3), ("hh", 4))}


# ---- valid files ----


def everything(torch):
    """Return a dict of everything that checkpoints hold."""
    base = torch.arange(24.0).reshape(4, 6)
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.is_expert = True
    state = collections.OrderedDict(weight=base, tied=base, column=base[:, 1], turned=base.T, part=base[1:, ::2])
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    dtypes = (
        "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128 uint16 uint32 uint64"
    )
    names = [name for name in dtypes.split() if hasattr(torch, name)]
    return {
        "model": state,
        "dtypes": {name: torch.tensor([[0, 1], [2, 3]]).to(getattr(torch, name)) for name in names},
        "parameters": {"plain": torch.nn.Parameter(torch.ones(3)), "with attribute": parameter},
        "shapes": {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "expanded": torch.ones(1, 3).expand(2, 3)},
        "optimizer": {
            "state": {0: {"step": 3, "exp_avg": torch.ones(2)}},
            "param_groups": [{"lr": 0.1, "betas": (1, 2)}],
        },
        "numbers": [1, -1, 300, 70000, -(2**40), 2**70, 0.5, True, False, None, 1j, (), (1,), (1, 2, 3, 4)],
        "others": {"b": b"bytes", "ba": bytearray(b"x"), "s": {1, 2}, "d": torch.float32, "dev": torch.device("cpu")},
        "size": torch.Size([2, 3]),
        ("a", 1): torch.zeros(1),
        2**70: "large",
        "name": "\u00fc\U0001f600",
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("legacy", [False, True])
def test_valid_files_read_as_in_pytorch(torch, legacy, tmp_path):
    content = everything(torch)
    if legacy:  # PyTorch itself doesn't read the newer dtypes there
        content["dtypes"] = {
            n: tensor for n, tensor in content["dtypes"].items() if not n.startswith("uint") or n == "uint8"
        }
    path = tmp_path / "m.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    ours, theirs = open_parameters(path), flatten("", torch.load(path, weights_only=True), ".")
    assert list(ours) == list(theirs)
    tensors = 0
    for name, value in theirs.items():
        if not isinstance(value, torch.Tensor):
            continue
        tensors += 1
        value = value.detach()
        if value.dtype == torch.bfloat16:
            assert ours[name].dtype.name == "bfloat16"
            np.testing.assert_array_equal(ours[name].view(np.int16), value.view(torch.int16).numpy())
        else:
            np.testing.assert_array_equal(ours[name], value.numpy(), strict=True)
    assert tensors >= 25 - 3 * legacy
    assert [ours["size"], ours["name"]] == [(2, 3), content["name"]]
    assert ours["optimizer.param_groups"][0]["lr"] == 0.1


LSTMS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["float64", "float32", "float16", "bfloat16"]),
        "layers": st.integers(1, 3),
        "bidirectional": st.booleans(),
        "bias": st.booleans(),
        "projected": st.sampled_from([0, 2]),
        "flat": st.booleans(),
        "legacy": st.booleans(),
        "wrapped": st.sampled_from(["none", "checkpoint", "parameters", "ordered"]),
    }
)


@given(LSTMS)
def test_lstms_in_files(tmp_path_factory, drawn):
    """Tensors may each have their own storage, or share one, as cuDNN's do on a GPU."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    module = torch.nn.LSTM(
        3,
        4,
        drawn["layers"],
        bidirectional=drawn["bidirectional"],
        bias=drawn["bias"],
        proj_size=drawn["projected"],
        dtype=getattr(torch, drawn["dtype"]),
    )
    state = module.state_dict()
    if drawn["flat"]:
        flat = torch.cat([tensor.reshape(-1) for tensor in state.values()])
        sizes = [tensor.numel() for tensor in state.values()]
        parts = zip(state.items(), flat.split(sizes), strict=True)
        state = {name: part.view_as(tensor) for (name, tensor), part in parts}
    wrapped = {
        "none": state,
        "checkpoint": {"epoch": 3, "model": state},
        "parameters": dict(module.named_parameters()),
        "ordered": collections.OrderedDict(state),
    }[drawn["wrapped"]]
    path = tmp_path_factory.mktemp("files") / "m.pt"
    torch.save(wrapped, path, _use_new_zipfile_serialization=not drawn["legacy"])
    wanted = convert.from_torch(module)
    got = convert.from_torch(path)
    assert got.bidirectional == wanted.bidirectional
    for one, other in zip(got.layers, wanted.layers, strict=True):
        assert one.arrays().keys() == other.arrays().keys()
        for name, array in one.arrays().items():
            assert array.tobytes() == other.arrays()[name].tobytes()


def test_files_need_no_pytorch(torch, tmp_path, monkeypatch):
    import sys

    path = tmp_path / "m.pt"
    torch.save({name: torch.from_numpy(array) for name, array in lstm_arrays().items()}, path)
    monkeypatch.setitem(sys.modules, "torch", None)
    np.testing.assert_array_equal(convert.from_torch(path).layers[0].weight_hh, lstm_arrays()["weight_hh_l0"])


def test_big_endian_files(torch, tmp_path):
    """A big-endian machine writes big-endian files, and a member that says so."""
    path, swapped = tmp_path / "m.pt", tmp_path / "big.pt"
    torch.save({name: torch.from_numpy(array) for name, array in lstm_arrays().items()}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(swapped, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if "/data/" in name:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            target.writestr(name, b"big" if name.endswith("/byteorder") else content)
    for one in (path, swapped):
        np.testing.assert_array_equal(convert.from_torch(one).layers[0].weight_hh, lstm_arrays()["weight_hh_l0"])
    loaded = torch.load(swapped, weights_only=True)
    np.testing.assert_array_equal(loaded["weight_hh_l0"].numpy(), lstm_arrays()["weight_hh_l0"])


# ---- a small assembler of pickles in protocol 2 ----


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def put(index):
    return b"r" + struct.pack("<I", index)


def get(index):
    return b"j" + struct.pack("<I", index)


def called(name, *arguments):
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def storage(kind="FloatStorage", key="0", numel=4, *, legacy=False, view=b"N"):
    parts = text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(numel)
    return b"(" + parts + (view if legacy else b"") + b"tQ"


def tensor(of, shape=(4,), strides=(1,), offset=0):
    sizes = [b"(" + b"".join(map(number, values)) + b"t" for values in (shape, strides)]
    return called(
        "torch._utils._rebuild_tensor_v2", of, number(offset), *sizes, b"\x89", called("collections.OrderedDict")
    )


def dict_of(**values):
    return b"}(" + b"".join(text(name) + value for name, value in values.items()) + b"u"


def write(path, pickle, kind, storages=None):
    """Write a file with this pickle and these storages, by key."""
    if storages is None:
        storages = {"0": bytes(16)} if kind == "zip" or b"tQ" in pickle else {}
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x02" + pickle + b".")
            archive.writestr("a/version", "3\n")
            for key, content in storages.items():
                archive.writestr(f"a/data/{key}", content)
        return
    head = [number(MAGIC), number(VERSION), b"}", pickle, b"](" + b"".join(map(text, storages)) + b"e"]
    tail = [struct.pack("<q", len(content) // 4) + content for content in storages.values()]
    path.write_bytes(b"".join(b"\x80\x02" + one + b"." for one in head) + b"".join(tail))


KINDS = pytest.mark.parametrize("kind", ["zip", "legacy"])


@KINDS
def test_assembled_files_read_in_pytorch(torch, kind, tmp_path):
    path = tmp_path / "m.pt"
    values = np.arange(4, dtype="f").tobytes()
    write(path, dict_of(w=tensor(storage(legacy=kind == "legacy"))), kind, {"0": values})
    assert torch.load(path, weights_only=True)["w"].tolist() == [0, 1, 2, 3]
    assert SavedParameters(str(path))["w"].tolist() == [0, 1, 2, 3]
    assert SavedParameters(str(path)).is_plain


def test_storages_of_gpus(tmp_path):
    """A tensor's device is ignored. Before PyTorch 1.6 its storage's class named the device, too."""
    for kind in ("cuda.FloatStorage", "FloatStorage", "cuda.HalfStorage"):
        pickle = dict_of(w=tensor(storage(kind, legacy=True).replace(text("cpu"), text("cuda:3"))))
        values = np.arange(4, dtype="f2" if "Half" in kind else "f4")
        tail = struct.pack("<q", 4) + values.tobytes()
        write(tmp_path / "m.pt", pickle, "legacy", {})
        content = (tmp_path / "m.pt").read_bytes().removesuffix(b"\x80\x02](e.")
        (tmp_path / "m.pt").write_bytes(content + b"\x80\x02](" + text("0") + b"e." + tail)
        assert SavedParameters(str(tmp_path / "m.pt"))["w"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("count", "content", "message"),
    [
        (3, bytes(16), "doesn't have the 16 bytes it claims"),
        (4, bytes(12), "doesn't have the 16 bytes it claims"),
        (4, b"", ""),
    ],
)
def test_legacy_storages_of_wrong_sizes_raise(tmp_path, count, content, message):
    """Legacy storages repeat their size before their values. A file may be cut there."""
    write(tmp_path / "m.pt", dict_of(w=tensor(storage(legacy=True))), "legacy", {"0": bytes(16)})
    start = (tmp_path / "m.pt").read_bytes()[:-24]
    (tmp_path / "m.pt").write_bytes(start + struct.pack("<q", count) + content)
    with pytest.raises(WeightsFileError, match=f"m.pt: it is damaged.*{message}"):
        convert.list_torch(tmp_path / "m.pt")
    (tmp_path / "m.pt").write_bytes(start)
    with pytest.raises(WeightsFileError, match="truncated"):
        convert.list_torch(tmp_path / "m.pt")


def test_new_objects(tmp_path):
    """PyTorch makes Parameters from their arguments, and ignores the arguments of other objects."""
    path = tmp_path / "m.pt"
    new = b"ctorch.nn.parameter\nParameter\n" + tensor(storage()) + b"\x85\x81"
    items = b"ccollections\nOrderedDict\n](" + b"](U\x01aK\x01e" + b"e\x85\x81"
    write(path, dict_of(p=new, o=items), "zip")
    parameters = SavedParameters(str(path))
    assert parameters["p"].tolist() == [0, 0, 0, 0]
    assert list(parameters) == ["p", "o"]
    assert not parameters.is_plain


def test_older_pickles(torch, tmp_path):
    """Read views of PyTorch before 0.4, Parameters of PyTorch 0.3, and OrderedDicts and strings of Python 2."""
    path = tmp_path / "m.pt"
    view = b"(" + text("1") + number(1) + number(2) + b"t"
    viewed = tensor(storage(legacy=True, view=view), (2,))
    items = b"](](U\x01a" + tensor(storage(legacy=True)) + b"e](U\x01b" + viewed + b"ee"
    parameter = called("torch.nn.parameter.Parameter", tensor(storage(legacy=True)))
    parameter += b"(\x89\x89" + called("collections.OrderedDict") + b"tb"
    pickle = dict_of(x=called("collections.OrderedDict", items), p=parameter)
    write(path, pickle, "legacy", {"0": np.arange(4, dtype="f").tobytes()})
    parameters = SavedParameters(str(path))
    assert {name: parameters[name].tolist() for name in parameters} == {
        "x.a": [0, 1, 2, 3],
        "x.b": [1, 2],
        "p": [0, 1, 2, 3],
    }
    loaded = torch.load(path, weights_only=True)
    assert loaded["x"]["b"].tolist() == [1, 2]
    assert loaded["p"].tolist() == [0, 1, 2, 3]


# ---- malicious files ----


def nested_tuples(depth):
    """Return a tuple of the same tuple twice, nested: hashing it takes 2^depth steps."""
    return b"K\x01\x85" + b"".join(put(k) + get(k) + b"\x86" for k in range(depth))


def laughs(depth):
    """Return a dict of the same dict twice, nested: it stands for 2^depth values."""
    pickle = dict_of(a=b"K\x01")
    for k in range(depth):
        pickle = dict_of(a=pickle + put(k), b=get(k))
    return pickle


HUGE = 1 << 60
ATTACKS = {
    "bytearray(n)": called("__builtin__.bytearray", number(1 << 31)),
    "bytearray(n) of the memo": b"(" + number(1 << 31) + put(0) + called("__builtin__.bytearray", get(0)) + b"t",
    "bytes as text": b"X" + struct.pack("<I", 2**32 - 1),
    "a short string": b"U\xff",
    "a long": b"\x8a\xff",
    "an endless name": b"c" + b"a" * 5000,
    "torch.Tensor(n)": called("torch.Tensor", number(HUGE)),
    "a storage that is called": called("torch.FloatStorage", number(HUGE)),
    "encode": called("_codecs.encode", text("a" * 300), text("idna")),
    "a set of nested tuples": called("__builtin__.set", b"](" + nested_tuples(60) + b"e"),
    "a key of nested tuples": b"}" + nested_tuples(60) + b"K\x01s",
    "a key of a list": b"}]K\x01s",
    "a key of a dict": b"}}K\x01s",
    "a key of a tensor": b"}" + tensor(storage()) + b"K\x01s",
    "a key of many parts": b"}(" + b"K\x01" * 1000 + b"tK\x01s",
    "items of nested tuples": called("collections.OrderedDict", b"](](" + nested_tuples(60) + b"K\x01ee"),
    "items that are not pairs": called("collections.OrderedDict", b"](K\x01e"),
    "items again and again": b"("
    b"]("
    + b"](K\x01K\x01e" * 2000
    + b"e"
    + put(0)
    + b"".join([called("collections.OrderedDict", get(0))] * 2000)
    + b"t",
    "a Counter": called("collections.Counter", laughs(40)),
    "laughs": laughs(60),
    "a call of a text": text("a") + b")R",
    "a call of a number": b"K\x01)R",
    "a call without a tuple": b"ctorch\nSize\n]R",
    "a size again and again": b"((" + b"K\x01" * 3000 + b"t" + put(0) + called("torch.Size", get(0)) * 3000 + b"t",
    "a tensor of many axes": tensor(storage(), (1,) * 100, (1,) * 100),
    "a tensor beyond its storage": tensor(storage(), (HUGE,)),
    "a tensor beyond by strides": tensor(storage(), (2,), (HUGE,)),
    "a tensor beyond by offset": tensor(storage(), (1,), (1,), HUGE),
    "negative sizes": tensor(storage(), (-1,)),
    "negative strides": tensor(storage(), (2,), (-1,), 3),
    "a negative offset": tensor(storage(), (1,), (1,), -1),
    "sizes that are not integers": tensor(storage()).replace(number(4) + b"t", text("a") + b"t", 1),
    "a storage beyond its bytes": tensor(storage(numel=HUGE)),
    "a storage of negative size": tensor(storage(numel=-4)),
    "a storage that is not there": tensor(storage(key="1")),
    "a storage elsewhere": tensor(storage(key="../../a/data/0")),
    "a storage of two dtypes": b"(" + tensor(storage()) + tensor(storage("IntStorage")) + b"t",
    "a storage of an unknown dtype": tensor(storage("OddStorage")),
    "a storage by a tuple": tensor(storage().replace(text("0"), nested_tuples(60), 1)),
    "a storage by a number": b"K\x01Q",
    "a storage by two": b"(" + text("storage") + b"tQ",
    "sparse": called(
        "torch._utils._rebuild_sparse_tensor", b"N", b"(" + tensor(storage()) * 2 + b"(" + number(HUGE) + b"t\x88t"
    ),
    "meta": called("torch._utils._rebuild_meta_tensor_no_storage", b"N", b"(" + number(HUGE) + b"t", b"N", b"\x89"),
    "a wrapper": called("torch._utils._rebuild_wrapper_subclass", b"N", b"N", b"(" + number(HUGE) + b"t"),
    "quantised": called("torch._utils._rebuild_qtensor", storage(), number(0), b"(" + number(HUGE) + b"t", b")", b"N"),
    "of NumPy": called("torch._utils._rebuild_device_tensor_from_numpy", b"N", b"N", b"N", b"\x89"),
    "of an expanded tensor": called(
        "torch._utils._rebuild_device_tensor_from_cpu_tensor", tensor(storage(), (HUGE,), (0,)), b"N", b"N", b"\x89"
    ),
    "values set afterwards": tensor(storage()) + b"(" + storage() + number(0) + b"(" + number(HUGE) + b"t)tb",
    "values as an attribute": called(
        "torch._tensor._rebuild_from_type_v2",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch\nTensor\n",
        b"(" + storage() + number(0) + b"(" + number(4) + b"t(" + number(1) + b"t\x89Nt",
        dict_of(data=tensor(storage(), (1,))),
    ),
    "a long dtype again and again": b"]("
    + called("numpy.dtype", text("f" * 200000))
    + put(0)
    + b"".join([called("numpy.core.multiarray.scalar", get(0), get(0))] * 2000)
    + b"e",
    "deep lists": b"]" * 50000 + b"a" * 49999,
    "deep tuples": b"N" + b"\x85" * 50000,
    "deep dicts": b"}" + b"".join([text("a") + b"}"] * 3000) + b"s" * 3000,
    "a dict in itself": b"}" + put(0) + text("a") + get(0) + b"s",
    "a list in itself": b"]" + put(0) + get(0) + b"a",
    "nothing on the stack": b"0",
    "no mark": b"t",
    "an empty stack": b"",
    "marks alone": b"(" * 3000,
    "a memo that is not there": b"h\x01",
    "a memo of nothing": b"q\x01",
    "append to a dict": b"}K\x01a",
    "set an item of a list": b"]K\x01K\x01s",
    "a half item": b"}(K\x01u",
    "protocol 4": b"\x80\x04}",
    "a frame": b"\x95" + struct.pack("<Q", HUGE),
    "long bytes": b"\x8e" + struct.pack("<Q", HUGE),
    "os.system": called("posix.system", text("true")),
    "a blocked module": b"csys\nexit\n)R",
    "colliding integers": b"}(" + b"".join(number(k * (2**61 - 1)) + b"K\x01" for k in range(1, 3000)) + b"u",
    "colliding tuples": b"}("
    + b"".join(b"(" + b"".join(number(-1 - (k >> bit & 1)) for bit in range(12)) + b"tK\x01" for k in range(2000))
    + b"u",
}
# Attacks that are read, as nothing in them is executed. They are kept from PyTorch's own reader.
HARMLESS = {
    *("bytearray(n)", "bytearray(n) of the memo", "torch.Tensor(n)", "a storage that is called", "encode", "sparse"),
    *("a set of nested tuples", "a Counter", "a size again and again", "of NumPy", "of an expanded tensor", "meta"),
    *("a wrapper", "quantised", "deep lists", "deep tuples", "a list in itself", "values as an attribute"),
    *("colliding integers", "colliding tuples"),
}
# Attacks that are harmless to PyTorch's own reader, too.
PLAIN = {"deep lists", "deep tuples", "a list in itself", "a size again and again"}


@pytest.mark.nightly
@KINDS
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_bounded(kind, attack, tmp_path):
    """Try each attack as a value beside an LSTM's tensor, and as the whole content."""
    path = tmp_path / "m.pt"
    pickle = ATTACKS[attack]
    if kind == "legacy":
        pickle = pickle.replace(b"tQ", b"NtQ")
    for content in (pickle, b"}" + text("x") + pickle + b"s"):
        write(path, content, kind)
        tracemalloc.start()
        try:
            with pytest.raises(WeightsFileError, match=r"m\.pt") if attack not in HARMLESS else ReadOrRefused(path):
                convert.list_torch(path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 20e6 + 200 * path.stat().st_size
        with pytest.raises(WeightsFileError, match=r"m\.pt"):
            convert.from_torch(path)
    if attack in HARMLESS:
        assert SavedParameters(str(path)).is_plain == (attack in PLAIN)


def peak_of(call):
    """Return the most bytes that are allocated at once during a call, which may raise."""
    tracemalloc.start()
    try:
        with contextlib.suppress(WeightsFileError):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_parts_of_a_storage_copy_no_name(tmp_path):
    path, key = tmp_path / "m.pt", "K" * 100_000
    view = b"(" + text("v") + number(0) + number(4) + b"t"
    first = storage(key=key, legacy=True, view=view).replace(text(key), text(key) + put(0))
    others = storage(legacy=True, view=view).replace(text("0"), get(0)) * 1000
    write(path, b"}" + text("x") + b"](" + first + others + b"es", "legacy", {key: bytes(16)})
    assert peak_of(lambda: SavedParameters(str(path))) < 5e6
    assert list(SavedParameters(str(path))) == ["x"]


@pytest.mark.parametrize("module", ["__torch__", "__torch__.torch.classes"])
def test_objects_of_scripts_copy_no_name(tmp_path, module):
    path = tmp_path / "m.pt"
    kind = f"c{module}\n{'M' * 1000}\n".encode() + put(0)
    pickle = b"}" + text("x") + b"](" + kind + (get(0) + b")\x81Nb") * 5000 + b"es"
    zip_of(path, [("a/data.pkl", b"\x80\x02" + pickle + b"."), ("a/constants.pkl", b"")])
    assert peak_of(lambda: SavedParameters(str(path))) < 4e6


class ReadOrRefused:
    """The outcome of a harmless value: read in a dict, refused as the whole content."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        return kind is not None and issubclass(kind, WeightsFileError) and "not a state_dict" in str(error)


@KINDS
def test_harmless_values_do_not_hide_an_lstm(torch, kind, tmp_path):
    """Tensors are read beside values that PyTorch's safe mode would do work for."""
    path = tmp_path / "m.pt"
    parameters = lstm_arrays()
    storages = {str(k): array.tobytes() for k, array in enumerate(parameters.values())}
    tensors = {
        name: tensor(storage(key=str(k), numel=array.size), array.shape, (array.shape[1], 1))
        for k, (name, array) in enumerate(parameters.items())
    }
    for attack in sorted(HARMLESS - {"sparse", "quantised", "of an expanded tensor", "values as an attribute"}):
        pickle = dict_of(x=ATTACKS[attack], net=dict_of(**tensors))
        write(path, pickle.replace(b"tQ", b"NtQ") if kind == "legacy" else pickle, kind, storages)
        np.testing.assert_array_equal(convert.from_torch(path).layers[0].weight_hh, parameters["weight_hh_l0"])


def zip_of(path, members, compress=zipfile.ZIP_STORED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compress) as archive:
        warnings.simplefilter("ignore")  # about duplicates
        for name, content in members:
            archive.writestr(name, content)


GOOD = b"\x80\x02" + dict_of(w=tensor(storage())) + b"."


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a/data.pkl", GOOD), ("a/data.pkl", GOOD), ("a/data/0", bytes(16))], "members have the same name"),
        ([("a/data.pkl", GOOD), ("a/DATA.pkl", GOOD), ("a/data/0", bytes(16))], "members have the same name"),
        ([("a/data.pkl", GOOD), ("b/data.pkl", GOOD), ("a/data/0", bytes(16))], "not in one folder"),
        ([("a/x/data.pkl", GOOD)], "it has no a/data.pkl"),
        ([("a/data.pkl", GOOD)], "storage 0 claims 16 bytes, but has no bytes"),
        ([("a/data.pkl", GOOD), ("a/data/0", bytes(15))], "storage 0 claims 16 bytes, but has 15 bytes"),
        ([("a/data.pkl", GOOD), ("a/data/0", bytes(16)), ("a/byteorder", b"odd")], "byteorder"),
    ],
)
def test_archives_with_odd_members_are_refused(tmp_path, members, message):
    zip_of(tmp_path / "m.pt", members)
    for function in (convert.from_torch, convert.list_torch):
        with pytest.raises(WeightsFileError, match=rf"m\.pt: .*{message}"):
            function(tmp_path / "m.pt")


def test_compressed_pickles_are_bounded(tmp_path):
    """Every byte of a pickle may make an object."""
    path = tmp_path / "m.pt"
    bomb = b"\x80\x02](" + b"]" * 2_000_000 + b"e."
    zip_of(path, [("a/data.pkl", bomb)], zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsFileError, match="its pickle of [0-9]+ bytes claims to expand to 2000006"):
        convert.from_torch(path)


def test_many_members(tmp_path):
    path = tmp_path / "m.pt"
    zip_of(path, [("a/data.pkl", GOOD), *((f"a/data/{k}", bytes(16)) for k in range(5000))])
    assert SavedParameters(str(path))["w"].tolist() == [0, 0, 0, 0]


def test_other_pickle_protocols_are_refused(torch, tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"w": torch.zeros(3)}, path, pickle_protocol=4)
    with pytest.raises(WeightsFileError, match="not in protocol 2: save it with torch.save's default pickle_protocol"):
        convert.from_torch(path)


def test_long_names_are_bounded(tmp_path):
    """A long key is part of the name of each value below it."""
    inner = b"}(" + b"".join(text(f"{k:04}") + b"K\x01" for k in range(5000)) + b"u"
    write(tmp_path / "m.pt", b"}" + text("a" * 4000) + inner + b"s", "zip")
    with pytest.raises(WeightsFileError, match="nested mappings without many repetitions"):
        convert.from_torch(tmp_path / "m.pt")


def test_storages_are_read_once(torch, tmp_path, monkeypatch):
    """All of an LSTM's tensors may share one storage, as on a GPU."""
    flat = torch.zeros(16 * 7)
    torch.save({"weight_ih_l0": flat[:48].view(16, 3), "weight_hh_l0": flat[48:].view(16, 4)}, tmp_path / "m.pt")
    reads = []
    original = zipfile.ZipFile.open

    def counted(self, name, *arguments, **options):
        reads.append(getattr(name, "filename", name))
        return original(self, name, *arguments, **options)

    monkeypatch.setattr(zipfile.ZipFile, "open", counted)
    convert.from_torch(tmp_path / "m.pt")
    assert sum("/data/" in name for name in reads) == 1


def test_pytorch_reads_only_plain_files(torch, tmp_path, monkeypatch):
    """The check lets PyTorch itself read a file only if the file can do it no harm."""
    from fusedlstm.convert.checking import check

    tensors = {name: torch.from_numpy(array) for name, array in lstm_arrays().items()}
    loaded = []
    original = torch.load
    monkeypatch.setattr(
        torch, "load", lambda *arguments, **options: loaded.append(1) or original(*arguments, **options)
    )
    for extra, count in ((3, 1), ({("a", "b"): 1}, 0), (bytearray(b"x"), 0), (torch.zeros(2).to_sparse(), 0)):
        path = tmp_path / "m.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save({"net": tensors, "extra": extra}, path)
        loaded.clear()
        assert check("torch", path, None, convert.from_torch(path), {}).agrees
        assert len(loaded) == count


def test_unpickler_stops_at_the_end():
    with pytest.raises(ValueError, match="truncated"):
        Unpickler(Stream(io.BytesIO(b"\x80\x02X\xff\xff\xff\xffabc"), 10), lambda identity: None).load()
