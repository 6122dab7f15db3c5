"""Test the files around PyTorch's parameters: NumPy's values, Stable-Baselines3's .zip and TorchScript."""

import io
import warnings
import zipfile

import numpy as np
import pytest

from fusedlstm import LSTM, WeightsFileError, convert
from fusedlstm.convert.checking import check
from fusedlstm.convert.recognise import recognise
from fusedlstm.convert.torch.files import SavedParameters

I, N, T, B = 3, 4, 5, 2
pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's, about TorchScript and what tracing doesn't follow


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    return torch


def assert_same_numbers(torch, module, weights):
    """Compare the outputs of a torch.nn.LSTM with those of the weights."""
    xs = torch.randn(T, B, I)
    with torch.inference_mode():
        wanted = module(xs)[0]
    np.testing.assert_allclose(LSTM(weights, backend="numpy")(xs.numpy())[0], wanted.numpy(), rtol=0, atol=1e-6)


def rewrite(source, path, change):
    """Copy a zip file with its pickle changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            member = old.read(name)
            new.writestr(name, change(member) if name.endswith("data.pkl") else member)


# ---- NumPy's values ----

NUMBERS = {
    **{np.dtype(code).name: np.array([[0, 1, 1], [1, 0, 1]]).astype(code) for code in "?bhiqBHIQefdFD"},
    "big-endian": np.array([1, -2], ">f4"),
    "in Fortran's order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 3)),
    "zero-dimensional": np.array(2.5),
    "scalar": np.float32(3.5),
    "bool scalar": np.bool_(True),
    "large": np.random.default_rng(0).normal(size=1000),
}


@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])
@pytest.mark.parametrize("legacy", [False, True])
def test_numpy_values_read_as_saved(torch, legacy, core, tmp_path):
    """NumPy 1's files name its functions in numpy.core."""
    path = tmp_path / "m.pt"
    content = io.BytesIO()
    torch.save(NUMBERS, content, _use_new_zipfile_serialization=not legacy)
    old, new = (f"c{name}.multiarray\n".encode() for name in (np._core.__name__, core))
    if legacy:
        path.write_bytes(content.getvalue().replace(old, new))
    else:
        rewrite(content, path, lambda pickled: pickled.replace(old, new))
    parameters = SavedParameters(str(path))
    assert list(parameters) == list(NUMBERS)
    for name, value in NUMBERS.items():
        np.testing.assert_array_equal(parameters[name], value)
        assert parameters[name].dtype == np.asarray(value).dtype.newbyteorder("=")
    assert not parameters.is_plain


def test_numpy_values_beside_the_weights(torch, tmp_path):
    module, path = torch.nn.LSTM(I, N), tmp_path / "last.pth"
    state = {f"net.rnn.{name}": tensor for name, tensor in module.state_dict().items()}
    best = {"model": state, "best": np.float64(3), "mean": np.zeros(3), "names": np.array(["a"]), "o": np.array([None])}
    torch.save(best, path)
    assert_same_numbers(torch, module, convert.from_torch(path))
    assert check("torch", path, None, convert.from_torch(path), {}).agrees
    parameters = SavedParameters(str(path))
    for name, dtype in (("names", "U1"), ("o", "O8")):
        with pytest.raises(WeightsFileError, match=f"{name} is not a plain tensor.*a NumPy array of dtype {dtype}"):
            parameters[name]


def test_numpy_weights(torch, tmp_path):
    module, path = torch.nn.LSTM(I, N), tmp_path / "last.pth"
    torch.save({name: tensor.numpy() for name, tensor in module.state_dict().items()}, path)
    assert convert.list_torch(path)[0].hidden_size == N
    assert_same_numbers(torch, module, convert.from_torch(path))


def test_numpy_numbers_as_keys(torch, tmp_path):
    """A trainer may keep names of classes or scores by NumPy's numbers."""
    path, keys = tmp_path / "m.pt", (np.int64(3), np.float32(0.5), np.bool_(True), (np.uint8(1), "a"))
    torch.save({"scores": {key: torch.full((1,), k) for k, key in enumerate(keys)}}, path)
    parameters = SavedParameters(str(path))
    assert list(parameters) == ["scores.3", "scores.0.5", "scores.True", "scores.1.a"]
    assert [parameters[name].tolist() for name in parameters] == [[k] for k in range(4)]
    assert not parameters.is_plain


def test_long_numpy_keys_raise(torch, tmp_path):
    """A scalar of many bytes would be read as often as it is a key."""
    content = io.BytesIO()
    torch.save({np.int8(1): 0}, content)
    old, new = b"X\x01\x00\x00\x00\x01", b"X\x02\x00\x00\x00\x01\x01"

    def change(pickled):
        assert old in pickled
        return pickled.replace(old, new)

    rewrite(content, tmp_path / "m.pt", change)
    with pytest.raises(WeightsFileError, match="a StoredTensor is a key of a dict"):
        convert.list_torch(tmp_path / "m.pt")


def test_tensors_as_keys_raise(torch, tmp_path):
    for legacy in (False, True):
        content = io.BytesIO()
        torch.save({torch.ones(()): 0}, content, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(WeightsFileError, match="a StoredTensor is a key of a dict"):
            (tmp_path / "m.pt").write_bytes(content.getvalue())
            convert.list_torch(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [(np.zeros(3), "a NumPy array"), (np.dtype("f4"), "an object"), (b"a", "an object"), ([1], "a list")],
)
def test_files_without_a_dict_say_what_they_hold(torch, tmp_path, content, words):
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(WeightsFileError, match=f"holds {words}, not a state_dict"):
        convert.from_torch(tmp_path / "m.pt")


def saved(torch, path, change):
    """Save an array, with its pickle changed."""
    content = io.BytesIO()
    torch.save({"a": np.arange(4, dtype="f4")}, content)
    rewrite(content, path, change)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"K\x01K\x04\x85", b"K\x01K\x05\x85", "reaches beyond the 16 bytes"),
        (b"K\x01K\x04\x85", b"K\x01\x8a\x08" + bytes(7) + b"\x70\x85", "reaches beyond|not sizes"),
        (b"K\x01K\x04\x85", b"K\x01J\xff\xff\xff\xff\x85", "not sizes"),
        (b"K\x01K\x04\x85", b"K\x01(" + b"K\x01" * 65 + b"t", "makes a NumPy array"),
        (b"X\x01\x00\x00\x00<", b"X\x01\x00\x00\x00=", "makes a NumPy dtype"),
        (b"X\x01\x00\x00\x00<", b"N", "makes a NumPy dtype"),
        (b"cnumpy\nndarray\n", b"cnumpy\nmatrix\n", "holds Python objects.*numpy.matrix"),
        (b"cnumpy\ndtype\n", b"cnumpy\nload\n", "holds Python objects.*numpy.load"),
    ],
)
def test_damaged_numpy_values_raise(torch, tmp_path, old, new, message):
    def change(pickled):
        assert old in pickled
        return pickled.replace(old, new)

    saved(torch, tmp_path / "m.pt", change)
    with pytest.raises(WeightsFileError, match=message):
        convert.list_torch(tmp_path / "m.pt")


def test_a_text_that_is_not_bytes_raises(torch, tmp_path):
    saved(torch, tmp_path / "m.pt", lambda pickled: pickled.replace("\x80".encode(), "\u0100".encode()))
    with pytest.raises(WeightsFileError, match=r"m\.pt: a: .*latin-1"):
        SavedParameters(str(tmp_path / "m.pt"))["a"]


# ---- Stable-Baselines3 ----


def policy(torch):
    """Return the parameters of sb3-contrib's RecurrentPPO, whose actor and critic have an LSTM each."""
    lstms = {f"lstm_{who}": torch.nn.LSTM(I, N) for who in ("actor", "critic")}
    others = {"mlp_extractor.policy_net.0": torch.nn.Linear(N, 8), "action_net": torch.nn.Linear(8, 2)}
    return lstms, {f"{k}.{n}": t for k, m in (lstms | others).items() for n, t in m.state_dict().items()}


def sb3_zip(torch, path, state, *, legacy=False):
    """Write what Stable-Baselines3's save writes: https://stable-baselines3.readthedocs.io/en/master/guide/save_format.html."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(3))])
    members = {"policy": state, "policy.optimizer": optimizer.state_dict()}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", '{"policy_class": {":type:": "<class \'abc.ABCMeta\'>", ":serialized:": "gAWV"}}')
        for name, content in members.items():
            with archive.open(f"{name}.pth", "w", force_zip64=True) as file:
                torch.save(content, file, _use_new_zipfile_serialization=not legacy)
        archive.writestr("_stable_baselines3_version", "2.4.0")
        archive.writestr("system_info.txt", "OS: Linux")


@pytest.mark.parametrize("legacy", [False, True])
def test_stable_baselines3_zip(torch, tmp_path, legacy):
    lstms, state = policy(torch)
    path = tmp_path / "model.zip"
    sb3_zip(torch, path, state, legacy=legacy)
    assert recognise(path) == "torch"
    assert [lstm.prefix for lstm in convert.list_torch(path)] == ["lstm_actor.", "lstm_critic."]
    for name, module in lstms.items():
        weights = convert.from_torch(path, prefix=name)
        assert_same_numbers(torch, module, weights)
        assert check("torch", path, name, weights, {}).agrees
    with pytest.raises(WeightsFileError, match=r"model\.zip: .*prefix= one of 'lstm_actor\.' .*, 'lstm_critic\.' "):
        convert.from_torch(path)
    with pytest.raises(WeightsFileError, match=r"'lstm\.weight_ih'; got .*Give prefix= one of 'lstm_actor\.' "):
        convert.from_torch(path, prefix="lstm")


def test_damaged_stable_baselines3_zip_raises(torch, tmp_path):
    path = tmp_path / "model.zip"
    for content in (b"", b"junk", b"PK\x03\x04junk", b"\x80\x02}."):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("policy.pth", content)
        with pytest.raises(WeightsFileError, match=r"model\.zip"):
            convert.from_torch(path)


# ---- TorchScript ----


def scripted(torch):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.cell = torch.nn.LSTM(I, N, 2), torch.nn.LSTMCell(I, N)
            self.heads = torch.nn.ModuleList([torch.nn.Linear(N, 2)])
            self.sizes, self.table = [1, 2], {"a": torch.ones(1)}

        def forward(self, xs):
            return self.heads[0](self.rnn(xs)[0])

    return torch.jit.script(Model())


def test_torchscript_files(torch, tmp_path):
    """Attributes that are not tensors are left out, as in the state_dict."""
    script, path = scripted(torch), tmp_path / "m.pt"
    torch.jit.save(script, path)
    assert recognise(path) == "torch"
    assert [lstm.prefix for lstm in convert.list_torch(path)] == ["cell.", "rnn."]
    state = script.state_dict()
    for prefix in ("cell.", "rnn."):
        got = convert.from_torch(path, prefix=prefix)
        wanted = convert.from_torch(state, prefix=prefix)
        for one, other in zip(getattr(got, "layers", [got]), getattr(wanted, "layers", [wanted]), strict=True):
            assert {k: v.tobytes() for k, v in one.arrays().items()} == {
                k: v.tobytes() for k, v in other.arrays().items()
            }
        assert check("torch", path, prefix, got, {}).agrees
    names = set(SavedParameters(str(path)))
    assert names - set(state) == {"table.a"}
    assert set(state) <= names


def test_traced_torchscript_files(torch, tmp_path):
    model = torch.nn.Sequential(torch.nn.LSTM(I, N))
    torch.jit.save(torch.jit.trace(model, torch.zeros(T, B, I)), tmp_path / "m.pt")
    assert_same_numbers(torch, model[0], convert.from_torch(tmp_path / "m.pt"))


def test_torchscript_files_run_nothing(torch, tmp_path):
    """The code in the archive is never read: damaged code changes nothing."""
    path, damaged = tmp_path / "m.pt", tmp_path / "damaged.pt"
    torch.jit.save(scripted(torch), path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(damaged, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"junk" if "/code/" in name or name.endswith("constants.pkl") else old.read(name))
    assert convert.from_torch(damaged, prefix="cell").hidden_size == N


def test_torchscript_files_name_their_classes(torch, tmp_path):
    """As for a live script, another class than torch.nn.LSTM may compute something else."""

    class Doubled(torch.nn.LSTM):
        def forward(self, xs):
            return super().forward(2 * xs)

    path = tmp_path / "m.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Sequential(Doubled(I, N)), torch.zeros(T, B, I)), path)
    with pytest.raises(WeightsFileError, match=r"m\.pt: .*TorchScript of the class .*Doubled at '0'.*custom_cl"):
        convert.from_torch(path)
    assert convert.from_torch(path, custom_classes=["Doubled"]).num_layers == 1


def test_torchscript_files_with_zoneout_raise(torch, tmp_path):
    class ZoneOutCell(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = torch.nn.LSTMCell(I, N)

        def forward(self, x):
            h, _ = self.cell(x)
            return 0.9 * h

    path = tmp_path / "m.pt"
    torch.jit.save(torch.jit.trace(ZoneOutCell(), torch.zeros(B, I)), path)
    with pytest.raises(WeightsFileError, match=r"ZoneOutCell, which can't be tested. Pass zoneout=, and the"):
        convert.from_torch(path)
    state = torch.jit.load(path).state_dict()
    assert convert.from_torch(state, zoneout=0.1).zoneout_h == 0.1


def test_frozen_torchscript_files_raise(torch, tmp_path):
    """Frozen weights are constants without names."""
    model = torch.jit.trace(torch.nn.Sequential(torch.nn.LSTM(I, N)).eval(), torch.zeros(T, B, I))
    torch.jit.save(torch.jit.freeze(model), tmp_path / "m.pt")
    with pytest.raises(WeightsFileError, match=r"TorchScript program without parameters.*save it before it is frozen"):
        convert.from_torch(tmp_path / "m.pt")
    torch.jit.save(model, tmp_path / "m.pt")
    assert convert.from_torch(tmp_path / "m.pt").num_layers == 1


def test_quantised_torchscript_files_raise(torch, tmp_path):
    model = torch.nn.Sequential(torch.nn.LSTM(I, N))
    path = tmp_path / "m.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.LSTM}, torch.qint8)
        except RuntimeError:
            pytest.skip("this PyTorch has no quantised engine")
        torch.jit.save(torch.jit.script(quantised), path)
    with pytest.raises(WeightsFileError, match="It is quantised: pass the LSTM that it was made from"):
        convert.from_torch(path)


def test_script_classes_outside_scripts_raise(torch, tmp_path):
    """A file of torch.save may not use the classes of a TorchScript archive."""
    content = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, content)
    rewrite(content, tmp_path / "m.pt", lambda pickled: b"\x80\x02c__torch__\nM\n)\x81}b.")
    with pytest.raises(WeightsFileError, match="holds Python objects"):
        convert.from_torch(tmp_path / "m.pt")
