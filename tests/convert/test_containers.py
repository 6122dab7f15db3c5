"""Test that files which no importer reads are named, with what to pass instead."""

import gzip
import io
import json
import pickle
import tarfile
import warnings
import zipfile

import numpy as np
import pytest

from fusedlstm import WeightsFileError, convert
from fusedlstm.convert.recognise import recognise

I, N = 3, 4
ARRAYS = {"weight_ih_l0": np.zeros((4 * N, I), "f"), "weight_hh_l0": np.zeros((4 * N, N), "f")}


def inner():
    """Return the content of a file that can be read, which others hold."""
    content = io.BytesIO()
    np.savez(content, **ARRAYS)
    return content.getvalue()


def tar():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        info = tarfile.TarInfo("model_weights.npz")
        info.size = len(inner())
        archive.addfile(info, io.BytesIO(inner()))
    return content.getvalue()


def zipped(**members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content.getvalue()


def from_tar(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return archive.extractfile("model_weights.npz").read()


# A file's content, what its error says, and a function that does what it says, and returns a readable file.
FILES = {
    "pickle": (pickle.dumps(ARRAYS), "a Python pickle, which is never read", None),
    "gguf": (b"GGUF" + bytes(400), "a GGUF file, which no importer reads", None),
    "gzip": (gzip.compress(inner()), "a compressed file: unpack it, and pass the file in it", gzip.decompress),
    "tar": (tar(), "a tar archive, such as a .nemo: unpack it, and pass the checkpoint in it", from_tar),
    "ort": (b"\x18\0\0\0ORTM" + bytes(400), "onnxruntime's own format: pass the .onnx file that it was made", None),
    "index": (json.dumps({"weight_map": {"a": "b"}}).encode(), "such as an index of shards: pass the shard that", None),
    "zip of files": (
        zipped(**{"readme.txt": "", "net/last.npz": inner()}),
        "an archive of files: take out 'net/last.npz', and pass that",
        lambda content: zipfile.ZipFile(io.BytesIO(content)).read("net/last.npz"),
    ),
    "old TorchScript": (
        zipped(**{"m/model.json": "{}", "m/tensors/0": b""}),
        "TorchScript of PyTorch before 1.4",
        None,
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_other_containers_are_named(name, tmp_path):
    content, message, does = FILES[name]
    path = tmp_path / "m.bin"
    path.write_bytes(content)
    for read in (recognise, convert.from_torch):
        with pytest.raises(WeightsFileError, match=message):
            read(path)
    if does is not None:
        path.write_bytes(does(content))
        assert convert.from_torch(path).num_layers == 1


def test_exported_programs_are_named(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / "m.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(torch.nn.LSTM(I, N).eval(), (torch.zeros(5, 2, I),))
        torch.export.save(program, path)
        for read in (recognise, convert.from_torch):
            with pytest.raises(WeightsFileError, match=r"torch.export: pass torch.export.load\(path\).state_dict to"):
                read(path)
        assert convert.from_torch(torch.export.load(path).state_dict).num_layers == 1
