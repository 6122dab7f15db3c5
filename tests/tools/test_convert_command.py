"""`fusedlstm convert`: read another framework's file, write weights, and compare with that framework."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from fusedlstm import LSTMWeights, StackedWeights, convert, load_weights
from fusedlstm.cli import main as command_line
from fusedlstm.convert import checking
from fusedlstm.convert.systems import BY_NAME

from support.examples import EXAMPLES
from support.places import DATA


def run(capsys, *arguments, force=True):
    """Return the exit status, standard output and standard error."""
    status = command_line.main(["convert", *map(str, arguments), *(["--force"] if force else [])])
    said = capsys.readouterr()
    return status, said.out, said.err


def same(weights, wanted):
    ours, theirs = ([w] if isinstance(w, LSTMWeights) else w.layers for w in (weights, wanted))
    assert [w.options() for w in ours] == [w.options() for w in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for name, array in b.arrays().items():
            np.testing.assert_array_equal(getattr(a, name), array, err_msg=name)


def torch_file(folder, kind="pt", **options):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    parameters = {f"net.lstm.{name}": p for name, p in torch.nn.LSTM(3, 4, **options).state_dict().items()}
    path = folder / f"model.{kind}"
    if kind == "pt":
        torch.save({"state": parameters, "epoch": 3}, path)
    else:
        save_file({name: p.numpy() for name, p in parameters.items()}, path)
    return path


@pytest.mark.parametrize(
    ("prefixes", "names"),
    [([""], ""), (["", "head."], ": '' (no prefix)"), (["a."], ": 'a.'")],
)
def test_names_of_a_file_are_readable(prefixes, names, tmp_path, capsys):
    rng, source = np.random.default_rng(0), tmp_path / "m.npz"
    shapes = {"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 4)}
    np.savez(source, **{start + name: rng.normal(size=shape) for start in prefixes for name, shape in shapes.items()})
    status, said, _ = run(capsys, source, tmp_path / "w", *(["--name", ""] if len(prefixes) > 1 else []))
    assert status == 0
    assert said.startswith(f"{source}: read as torch{names}\n  layer 0: LSTMWeights(I=3, N=4, float64)\n")


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_pytorch(kind, tmp_path, capsys):
    source, out = torch_file(tmp_path, kind, num_layers=2, bidirectional=True), tmp_path / "w"
    status, said, _ = run(capsys, source, out, "--check")
    assert status == 0
    assert said.startswith(f"{source}: read as torch: '{'state.' if kind == 'pt' else ''}net.lstm.'\n")
    assert "  layer 1 backward: LSTMWeights(I=8, N=4, float32, bias)" in said
    assert "torch 2" in said
    assert " agrees: at most " in said
    assert f"written: {out}" in said
    weights = load_weights(out)
    same(weights, convert.from_torch(source))
    assert weights.bidirectional


def test_onnx_of_different_directions(tmp_path, capsys):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    weights = StackedWeights.random(3, 4, 3, seed=0, directions=["both", "backward", "forward"])
    onnx.save(convert.to_onnx(weights), tmp_path / "m.onnx")
    status, said, _ = run(capsys, tmp_path / "m.onnx", tmp_path / "w", "--check")
    assert (status, " agrees" in said) == (0, True)
    for line in ("layer 0 forward: ", "layer 0 backward: ", "layer 1 backward: ", "layer 2 forward: "):
        assert f"  {line}LSTMWeights(" in said
    same(load_weights(tmp_path / "w"), weights)


def test_onnx(tmp_path, capsys):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    weights = StackedWeights.random(3, 4, 2, seed=0, peephole=True, gate_clip=0.5, activation="relu")
    onnx.save(convert.to_onnx(weights), tmp_path / "m.onnx")
    status, said, _ = run(capsys, tmp_path / "m.onnx", tmp_path / "w", "--check")
    assert status == 0
    assert "m.onnx: read as onnx: 'lstm_0', 'lstm_1'\n" in said
    assert "  layer 1: LSTMWeights(I=4, N=4, float32, bias, peephole, activation=relu, gate_clip=0.5)" in said
    assert "onnxruntime 1" in said
    assert " agrees" in said
    same(load_weights(tmp_path / "w"), weights)
    status, said, _ = run(capsys, tmp_path / "m.onnx", tmp_path / "w", "--name", "lstm_1")
    assert status == 0
    same(load_weights(tmp_path / "w"), StackedWeights(weights.layers[1:]))
    status, said, _ = run(capsys, tmp_path / "m.onnx", tmp_path / "w", "--name", "lstm_0,lstm_1")
    same(load_weights(tmp_path / "w"), weights)


def test_tensorflow_1_variables(tmp_path, capsys):
    weights = LSTMWeights.random(3, 4, seed=0, peephole=True, cell_clip=0.5, activation=("elu", 0.5))
    np.savez(tmp_path / "v.npz", **convert.to_tf1(weights, prefix="rnn/lstm_cell"))
    options = "--forget-bias", 0, "--cell-clip", 0.5, "--activation", "elu:0.5", "--name", "rnn/lstm_cell"
    status, said, _ = run(capsys, tmp_path / "v.npz", tmp_path / "w", *options)
    assert status == 0
    assert "v.npz: read as tf1: 'rnn/lstm_cell'\n" in said
    assert "  cell: LSTMWeights(I=3, N=4, float32, bias, peephole, cell_clip=0.5, activation=('elu', 0.5))" in said
    same(load_weights(tmp_path / "w"), weights)


@pytest.mark.parametrize("system", EXAMPLES)
def test_archives_of_other_systems(system, tmp_path, capsys):
    weights, example = LSTMWeights.random(3, 4, seed=0), EXAMPLES[system]
    np.savez(tmp_path / "a.npz", **example.arrays(weights))
    name = () if example.prefix is None else ("--name", example.prefix)
    told = ("--from", system) if BY_NAME[system].signs.refused else ()
    status, said, errors = run(capsys, tmp_path / "a.npz", tmp_path / "w", *name, *told)
    assert (status, errors) == (0, "")
    assert f"a.npz: read as {system}{f': {example.prefix!r}' if example.prefix else ''}\n" in said
    result = load_weights(tmp_path / "w")
    result = result if isinstance(result, LSTMWeights) else result.layers[0]
    np.testing.assert_array_equal(result.weight_hh, weights.weight_hh)
    np.testing.assert_allclose(result.bias, weights.bias, atol=1e-6)
    status, said, _ = run(capsys, tmp_path / "a.npz", tmp_path / "w", "--from", system, "--check", *name)
    assert status in (0, 3)
    assert (status == 3) == ("\nnot checked: " in said)
    assert (status == 0) == (" agrees" in said)


def test_keras(tmp_path, capsys):
    pytest.importorskip("h5py", reason="h5py is not installed")
    with zipfile.ZipFile(DATA / "keras" / "files.zip") as archive:
        member = next(name for name in archive.namelist() if name.endswith(".keras"))
        (tmp_path / "m.keras").write_bytes(archive.read(member))
    layers = convert.list_keras(tmp_path / "m.keras")
    status, said, errors = run(capsys, tmp_path / "m.keras", tmp_path / "w", "--name", layers[0].name, "--check")
    assert (status in (0, 3), errors) == (True, "")
    assert f"m.keras: read as keras: {layers[0].name!r}\n" in said
    assert (status == 3) == ("\nnot checked: " in said)
    assert (status == 0) == (" agrees" in said)
    same(load_weights(tmp_path / "w"), convert.from_keras(tmp_path / "m.keras", layers[0].name))


def test_custom_classes(tmp_path, capsys):
    """Custom classes are accepted only if --custom-classes names them."""
    source, out = keras_file_of_own_classes(tmp_path), tmp_path / "w"
    status, _, errors = run(capsys, source, out)
    assert status == 1
    assert "got mine.Own, which may compute something else" in errors
    assert run(capsys, source, out, "--custom-classes", "Own,Mine")[0] == 0
    same(load_weights(out), convert.from_keras(source, custom_classes=["Own", "Mine"]))
    status, _, errors = run(capsys, source, out, "--custom-classes", "Own,Other")
    assert status == 1
    assert "got 'Other'; it has " in errors


def keras_file_of_own_classes(folder):
    """Write a file of a layer of the class mine.Own in a model of the class mine.Mine."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    options = {"name": "lstm", "units": 4, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True}
    layer = {"class_name": "Own", "module": "mine", "config": options}
    model = {"class_name": "Mine", "module": "mine", "config": {"name": "m", "layers": [layer]}}
    arrays = convert.to_keras(LSTMWeights.random(3, 4, seed=0))
    with h5py.File(folder / "m.h5", "w") as file:
        file.attrs["keras_version"] = "3.15.1"
        file.attrs["model_config"] = json.dumps(model)
        for name, array in zip(("kernel", "recurrent_kernel", "bias"), arrays, strict=True):
            file[f"model_weights/lstm/lstm/lstm_cell/{name}:0"] = array
    return folder / "m.h5"


def test_custom_classes_of_other_sources(tmp_path, capsys):
    np.savez(tmp_path / "v.npz", **convert.to_tf1(LSTMWeights.random(3, 4, seed=0)))
    status, _, errors = run(capsys, tmp_path / "v.npz", tmp_path / "w", "--custom-classes", "A,B")
    assert status == 1
    wanted = "--custom-classes: wanted nothing, as classes are named only in files of torch, keras, not of tf1; got A,B"
    assert errors == f"fusedlstm: {wanted}\n"


def test_wrong_weights_are_not_written(tmp_path, capsys, monkeypatch):
    """With two gates swapped, the framework's own outputs differ."""
    source, out = torch_file(tmp_path), tmp_path / "w"
    out.write_bytes(b"older")
    right = convert.from_torch(source)

    def wrong(path):
        arrays = {name: np.array(array) for name, array in right.layers[0].arrays().items()}
        for name in ("weight_ih", "weight_hh", "bias"):
            arrays[name] = arrays[name].reshape(4, 4, -1)[[1, 0, 2, 3]].reshape(arrays[name].shape)
        return StackedWeights([LSTMWeights(**arrays)])

    monkeypatch.setitem(BY_NAME, "torch", replace(BY_NAME["torch"], read=wrong))
    status, said, _ = run(capsys, source, out, "--check")
    assert status == 1
    assert "torch" in said
    assert " DIFFERS: at most " in said
    assert "nothing was written" in said
    assert out.read_bytes() == b"older"


def test_check_of_nan_never_agrees():
    result = checking.Check("torch", float("nan"), 1.0, 1e-5)
    assert not result.agrees
    assert checking._apart(np.array([np.nan]), np.array([np.nan])) == float("inf")
    assert checking._apart(np.zeros(3), np.zeros(1)) == float("inf")


def test_raising_framework_is_reported(tmp_path, capsys, monkeypatch):
    """Whatever the framework raises, the weights are written, and reported as not checked."""
    from fusedlstm.convert.running import torch as running

    class OpError(Exception):
        pass

    def fail(*arguments):
        raise OpError("no device\nfor this node")

    monkeypatch.setattr(running, "run", fail)
    status, said, errors = run(capsys, torch_file(tmp_path, "safetensors"), tmp_path / "w", "--check")
    assert (status, errors) == (3, "")
    assert "not checked: torch raised OpError: no device\n" in said
    assert load_weights(tmp_path / "w").num_layers == 1


def test_missing_framework_is_reported(tmp_path, capsys, monkeypatch):
    source = torch_file(tmp_path, "safetensors")
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    status, said, _ = run(capsys, source, tmp_path / "w", "--check")
    assert status == 3
    assert "not checked: " in said
    assert "torch" in said.split("not checked: ")[1]
    assert load_weights(tmp_path / "w").num_layers == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--forget-bias", "1"], "--forget-bias: wanted nothing, as from_torch has no such argument; got 1.0"),
        (["--name", "other"], "a parameter 'other.weight_ih'"),
        (["--from", "theano"], "--from: wanted one of 'auto', "),
        (["--from", "onnx"], "model.safetensors"),
    ],
)
def test_convert_refuses(arguments, message, tmp_path, capsys):
    source = torch_file(tmp_path, "safetensors")
    pytest.importorskip("onnx", reason="onnx is not installed")
    status, said, errors = run(capsys, source, tmp_path / "w", *arguments)
    assert (status, said) == (1, "")
    assert message in errors
    assert not (tmp_path / "w").exists()


def test_source_is_never_overwritten(tmp_path, capsys):
    """OUT must be neither the source's path nor a link to it."""
    source = torch_file(tmp_path, "safetensors")
    before = source.read_bytes()
    (tmp_path / "link").symlink_to(source)
    for out in (source, tmp_path / "link"):
        status, said, errors = run(capsys, source, out)
        assert (status, said) == (1, "")
        assert "OUT: wanted a file other than SOURCE, which would be lost; got " in errors
    assert source.read_bytes() == before


def test_several_names_are_refused_for_torch(tmp_path, capsys):
    source = torch_file(tmp_path, "safetensors")
    assert (
        "--name: wanted one name, as from_torch doesn't take several; got a,b"
        in run(capsys, source, tmp_path / "w", "--name", "a,b")[2]
    )


def test_zoneout_of_a_cell_is_checked(tmp_path, capsys):
    """The framework's cell steps with the given zoneout."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.save({f"lstm.0.cell.{name}": p for name, p in torch.nn.LSTMCell(3, 4).state_dict().items()}, tmp_path / "m")
    status, said, _ = run(capsys, tmp_path / "m", tmp_path / "w", "--zoneout", 0.1, "--check")
    assert status == 0
    assert "  cell: LSTMWeights(I=3, N=4, float32, bias, zoneout_c=0.1, zoneout_h=0.1)\n" in said
    assert " agrees" in said
    same(load_weights(tmp_path / "w"), convert.from_torch(tmp_path / "m", zoneout=0.1))


def test_zoneout_of_layers_is_not_checked(tmp_path, capsys):
    status, said, _ = run(capsys, torch_file(tmp_path), tmp_path / "w", "--zoneout", 0.1, "--check")
    assert status == 3
    assert "not checked: a torch.nn.LSTM has no zoneout" in said
    assert load_weights(tmp_path / "w").layers[0].zoneout_c == 0.1


def test_zoneout_of_haste(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", **EXAMPLES["haste"].arrays(LSTMWeights.random(3, 4, seed=0)))
    options = "--from", "haste", "--name", EXAMPLES["haste"].prefix, "--zoneout", 0.1
    assert run(capsys, tmp_path / "a.npz", tmp_path / "w", *options)[0] == 0
    weights = load_weights(tmp_path / "w")
    assert (weights.zoneout_c, weights.zoneout_h) == (0, 0.1)


@pytest.mark.parametrize(
    ("rate", "message"),
    [(1.5, "--zoneout: wanted a number from 0 to 1; got 1.5"), ("nan", "--zoneout: wanted a finite number")],
)
def test_zoneout_outside_0_to_1_fails(rate, message, tmp_path, capsys):
    status, _, errors = run(capsys, torch_file(tmp_path), tmp_path / "w", "--zoneout", rate)
    assert (status, errors.startswith(f"fusedlstm: {message}")) == (1, True)


def test_zoneout_of_other_systems_is_refused(tmp_path, capsys):
    np.savez(tmp_path / "v.npz", **convert.to_tf1(LSTMWeights.random(3, 4, seed=0)))
    errors = run(capsys, tmp_path / "v.npz", tmp_path / "w", "--zoneout", 0.1)[2]
    assert "--zoneout: wanted nothing, as from_tf1 has no such argument; got 0.1" in errors


def test_bad_arguments_exit(tmp_path, capsys):
    for line in ([], ["a"], ["a", "b", "--activation", "elu:much"]):
        with pytest.raises(SystemExit) as caught:
            run(capsys, *line)
        assert caught.value.code == 2
    assert run(capsys, tmp_path / "nothing.pt", tmp_path / "w")[0] == 1


def test_parameters_a_framework_refuses(tmp_path, capsys):
    """If the framework refuses the parameters, the weights are written, and reported as not checked."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    shapes = {"weight_ih_l0": (8, 2), "weight_hh_l0": (8, 2), "weight_ih_l1": (4, 2), "weight_hh_l1": (4, 1)}
    save_file({name: np.zeros(shape, "f4") for name, shape in shapes.items()}, tmp_path / "m.safetensors")
    status, said, _ = run(capsys, tmp_path / "m.safetensors", tmp_path / "w", "--check")
    assert status == 3
    assert "not checked: torch raised RuntimeError: Error(s) in loading state_dict" in said
    assert load_weights(tmp_path / "w").num_layers == 2


def test_convert_overwrites_only_with_force(tmp_path, capsys):
    np.savez(tmp_path / "v.npz", **convert.to_tf1(LSTMWeights.random(3, 4, seed=0)))
    (tmp_path / "w").write_bytes(b"mine")
    status, _, errors = run(capsys, tmp_path / "v.npz", tmp_path / "w", force=False)
    assert status == 1
    assert "--force" in errors
    assert (tmp_path / "w").read_bytes() == b"mine"
    assert run(capsys, tmp_path / "v.npz", tmp_path / "w", force=True)[0] == 0
    assert (tmp_path / "w").read_bytes() != b"mine"
