"""Recognise which system wrote a file."""

import json
import pickle
import re
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from fusedlstm import LSTMWeights, WeightsFileError, convert
from fusedlstm.convert.recognise import recognise
from fusedlstm.convert.systems import BY_NAME

from support.examples import EXAMPLES

ONE = np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("system", "names"),
    [
        ("torch", ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]),
        ("torch", ["encoder.weight_ih_l0", "encoder.weight_hh_l0", "head.weight"]),
        ("torch", ["lstm.weight_ih_l1_reverse"]),
        ("tf1", ["rnn/lstm_cell/kernel", "rnn/lstm_cell/bias"]),
        ("tf1", ["rnn/coupled_input_forget_gate_lstm_cell/W_0", "rnn/coupled_input_forget_gate_lstm_cell/B"]),
        ("flax", ["cell.dense_i.kernel", "cell.dense_h.kernel"]),
        ("mxnet", ["lstm0_l0_i2h_weight", "lstm0_l0_h2h_weight"]),
        ("chainer", ["0/w0", "0/w1", "0/b0"]),
    ],
)
@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_names_are_recognised(system, names, kind, tmp_path):
    path = tmp_path / "w"
    if kind == "npz":
        with path.open("wb") as file:
            np.savez(file, **dict.fromkeys(names, ONE))
    else:
        save_file(dict.fromkeys(names, ONE), path)
    assert recognise(path) == system


@pytest.mark.parametrize("system", EXAMPLES)
def test_names_of_each_system_are_recognised(system, tmp_path):
    save_file(dict.fromkeys(EXAMPLES[system].arrays(LSTMWeights.random(2, 3, seed=0)), ONE), tmp_path / "w")
    refused = BY_NAME[system].signs.refused
    if not refused:
        assert recognise(tmp_path / "w") == system
        return
    with pytest.raises(WeightsFileError, match=re.escape(refused)):
        recognise(tmp_path / "w")


def zip_of(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def test_containers_are_recognised(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(8))
    assert recognise(path) == "keras"
    zip_of(path, "metadata.json", "config.json", "model.weights.h5")
    assert recognise(path) == "keras"
    zip_of(path, "model/data.pkl", "model/data/0", "model/version")
    assert recognise(path) == "torch"
    path.write_bytes(pickle.dumps(1, protocol=2))
    assert recognise(path) == "torch"
    path.write_bytes(b"\x08\x0a\x12\x07pytorch")
    assert recognise(path) == "onnx"


def test_checkpoints_are_recognised(tmp_path):
    """A checkpoint's path is a prefix of files, not a file."""
    (tmp_path / "model.ckpt-7.index").write_bytes(b"")
    assert recognise(tmp_path / "model.ckpt-7") == "tf1"
    assert recognise(tmp_path / "model.ckpt-7.index") == "tf1"
    (tmp_path / "checkpoint").write_text("")
    assert recognise(tmp_path) == "tf1"
    (tmp_path / "saved" / "variables").mkdir(parents=True)
    (tmp_path / "saved" / "variables" / "variables.index").write_bytes(b"")
    assert recognise(tmp_path / "saved") == "tf1"


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 0x81 + 0xA8 * 256 - 1, 0x1F8B])
def test_safetensors_of_all_lengths(length, tmp_path):
    """Its first bytes are a length, and may look like those of pickles and other files."""
    header = {
        name: {"dtype": "F32", "shape": [4, 1], "data_offsets": [start, start + 16]}
        for name, start in (("weight_ih_l0", 0), ("weight_hh_l0", 16))
    }
    text = json.dumps(header).encode()
    (tmp_path / "w").write_bytes(length.to_bytes(8, "little") + text.ljust(length) + bytes(32))
    assert recognise(tmp_path / "w") == "torch"
    assert convert.from_torch(tmp_path / "w").num_layers == 1


def test_pytorch_is_recognised(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for new in (True, False):
        torch.save(torch.nn.LSTM(2, 3).state_dict(), tmp_path / "w", _use_new_zipfile_serialization=new)
        assert recognise(tmp_path / "w") == "torch"


def test_onnx_is_recognised(tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    graph = onnx.helper.make_graph([], "g", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "w")
    assert recognise(tmp_path / "w") == "onnx"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "w is empty"),
        (b"#!/bin/sh", "is not a known kind of file. Name its system with --from"),
        (b"\x1c\0\0\0TFL3\0\0\0\0", "a TFLite model: give its tensors to fusedlstm.convert.from_tflite"),
        (pickle.dumps({"weight_ih": 1}, protocol=4), "a Python pickle, which is never read"),
        (b"PK\x03\x04", "a damaged zip file"),
        (b"\x40" + bytes(7) + b"{", "damaged|truncated"),
    ],
)
def test_other_files_raise(content, message, tmp_path):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(WeightsFileError, match=message):
        recognise(tmp_path / "w")


@pytest.mark.parametrize("scope", ["", "lstm/lstm_cell/", "encoder."])
def test_names_of_two_systems_raise(scope, tmp_path):
    save_file({f"{scope}{name}": ONE for name in ("kernel", "recurrent_kernel", "bias")}, tmp_path / "w")
    with pytest.raises(
        WeightsFileError, match="which both Keras and haste write.* For haste, use --from haste; for Keras"
    ):
        recognise(tmp_path / "w")


def test_files_without_an_lstm_raise(tmp_path):
    np.savez(tmp_path / "w.npz", encoder=ONE)
    with pytest.raises(WeightsFileError, match="no arrays named like an LSTM's: encoder"):
        recognise(tmp_path / "w.npz")
    zip_of(tmp_path / "w.zip", "readme.txt")
    with pytest.raises(WeightsFileError, match=r"is not a known kind of zip file: it has readme\.txt"):
        recognise(tmp_path / "w.zip")
    LSTMWeights.random(2, 3, seed=0).save(tmp_path / "w")
    with pytest.raises(WeightsFileError, match="already fusedlstm's own file, which load_weights reads"):
        recognise(tmp_path / "w")
    with pytest.raises(FileNotFoundError):
        recognise(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        recognise(tmp_path)
