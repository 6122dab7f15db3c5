"""Recognise files that no importer reads, and say what to pass instead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

START = 300  # how many of a file's first bytes tell what it is
_OF_FILES = (
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
    (r"[^/]*/model\.json", "TorchScript of PyTorch before 1.4: load it there or in PyTorch 1.4, and save it again"),
    (r"(?s).*\.(?:pt|pth|ckpt|bin|safetensors|onnx|keras|h5|npz)", "an archive of files: take out {!r}, and pass that"),
)


def what_file(start: bytes) -> str:
    """Return what a file is, given its first bytes; "" if unknown."""
    return next((what for pattern, what in _OF_FILES if re.match(pattern, start)), "")


def what_zip(members: Collection[str]) -> str:
    """Return what a zip file is, given its members' names; "" if unknown."""
    for pattern, what in _OF_MEMBERS:
        found = next((name for name in members if re.fullmatch(pattern, name)), None)
        if found is not None:
            return what.format(found[:80])
    return ""
