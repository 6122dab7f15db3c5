"""Recognise files that no importer reads, and say what to pass instead."""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

START = 300  # how many of a file's first bytes tell what it is
_LONGEST_HEADER = 100_000_000  # bytes, safetensors' own limit
_OF_FILES = (
    (rb"\Z", "empty"),
    (rb"version https://git-lfs", "a Git LFS pointer, which `git lfs pull` replaces with the file"),
    (rb"(?i)\s*<(?:!doctype )?html", "an HTML page, perhaps of a failed download"),
    (rb"\x93NUMPY", "a .npy file, which holds one array without a name: save all arrays by name with numpy.savez"),
    (rb"\x89HDF\r\n", "an HDF5 file, such as Keras's: call fusedlstm.convert.from_keras, or give --from keras"),
    (rb"\x08[\x03-\x20]", "a protobuf, such as an ONNX model: call fusedlstm.convert.from_onnx, or give --from onnx"),
    (
        rb"[\x81-\x8f][\xa1-\xbf\xd9]",
        "a MessagePack file, as Flax writes: pass flax.serialization.msgpack_restore(content) to "
        "fusedlstm.convert.from_flax",
    ),
    (rb"GGUF", "a GGUF file, which no importer reads"),
    (
        rb"\x80[\x03-\x05]",
        "a Python pickle, which is never read: it can run any program. If you trust it, pass its arrays",
    ),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf", "a compressed file: unpack it, and pass the file in it"),
    (rb"(?s).{257}ustar", "a tar archive, such as a .nemo: unpack it, and pass the checkpoint in it"),
    (rb"(?s).{4}ORTM", "a model in onnxruntime's own format: pass the .onnx file that it was made from"),
    (rb"\s*\{", "a JSON file, such as an index of shards: pass the shard that has the LSTM's arrays"),
)
_OF_MEMBERS = (
    (
        r"(?:[^/]*/)?(?:archive_format|serialized_exported_program\.json)",
        "a program of torch.export: pass torch.export.load(path).state_dict to fusedlstm.convert.from_torch",
    ),
    (r"model\.weights\.h5", "a Keras file: call fusedlstm.convert.from_keras, or give --from keras"),
    (r"(?s).*/data\.pkl|policy\.pth", "a file of PyTorch: call fusedlstm.convert.from_torch, or give --from torch"),
    (r"[^/]*/model\.json", "TorchScript of PyTorch before 1.4: load it there or in PyTorch 1.4, and save it again"),
    (r"(?s).*\.(?:pt|pth|ckpt|bin|safetensors|onnx|keras|h5|npz)", "an archive of files: take out {!r}, and pass that"),
)


def is_safetensors(start: bytes) -> bool:
    """Return whether a file begins as safetensors files do: with 8 bytes of length, and a JSON object."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _LONGEST_HEADER


def what_content(content: bytes) -> str:
    """Return what a file is, given all of it; "" if unknown."""
    with contextlib.suppress(Exception):  # zipfile raises many kinds for damaged files
        return what_file(content[:START]) or what_zip(zipfile.ZipFile(io.BytesIO(content)).namelist())
    return ""


def what_file(start: bytes) -> str:
    """Return what a file is, given its first bytes; "" if unknown, or a safetensors file."""
    if is_safetensors(start):
        return ""
    return next((what for pattern, what in _OF_FILES if re.match(pattern, start)), "")


def what_zip(members: Collection[str]) -> str:
    """Return what a zip file is, given its members' names; "" if unknown."""
    for pattern, what in _OF_MEMBERS:
        found = next((name for name in members if re.fullmatch(pattern, name)), None)
        if found is not None:
            return what.format(found[:80])
    return ""
