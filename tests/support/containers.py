"""Files that no importer reads, but that contain or point to a readable file."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
from safetensors.numpy import save

I, N = 3, 4
ARRAYS = {"weight_ih_l0": np.zeros((4 * N, I), "f"), "weight_hh_l0": np.zeros((4 * N, N), "f")}


def archive(arrays):
    """Return the content of a .npz file."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def array(content):
    """Return the content of a .npy file."""
    file = io.BytesIO()
    np.save(file, content)
    return file.getvalue()


def tar(content):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        info = tarfile.TarInfo("model_weights.npz")
        info.size = len(content)
        made.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, member in members.items():
            made.writestr(name, member)
    return file.getvalue()


def from_tar(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as file:
        return file.extractfile("model_weights.npz").read()


# A file's content, what its error says, and a function that does what it says, and returns a readable file.
FILES = {
    "pickle": (
        pickle.dumps(ARRAYS),
        "a Python pickle, which is never read: it can run any program. If you trust it, pass its arrays",
        lambda content: archive(pickle.loads(content)),
    ),
    "gguf": (b"GGUF" + bytes(400), "a GGUF file, which no importer reads", None),
    "gzip": (
        gzip.compress(archive(ARRAYS)),
        "a compressed file: unpack it, and pass the file in it",
        gzip.decompress,
    ),
    "tar": (
        tar(archive(ARRAYS)),
        "a tar archive, such as a .nemo: unpack it, and pass the checkpoint in it",
        from_tar,
    ),
    "ort": (b"\x18\0\0\0ORTM" + bytes(400), "onnxruntime's own format: pass the .onnx file that it was made", None),
    "index": (
        json.dumps({"weight_map": dict.fromkeys(ARRAYS, "model-00001-of-00001.safetensors")}).encode(),
        "such as an index of shards: pass the shard that",
        lambda _: save(ARRAYS),
    ),
    "npy": (
        array(ARRAYS["weight_ih_l0"]),
        "a .npy file, which holds one array without a name: save all arrays by name with numpy.savez",
        lambda _: archive(ARRAYS),
    ),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer, which", None),
    "page": (b"\n<!DOCTYPE html>\n<html>", "an HTML page, perhaps of a failed download", None),
    "empty": (b"", "empty", None),
    "MessagePack": (b"\x81\xa6params\x81\xa4cell\x80", "a MessagePack file, as Flax writes: pass flax.serial", None),
    "zip of files": (
        zipped(**{"readme.txt": "", "net/last.npz": archive(ARRAYS)}),
        "an archive of files: take out 'net/last.npz', and pass that",
        lambda content: zipfile.ZipFile(io.BytesIO(content)).read("net/last.npz"),
    ),
    "old TorchScript": (
        zipped(**{"m/model.json": "{}", "m/tensors/0": b""}),
        "TorchScript of PyTorch before 1.4",
        None,
    ),
}
