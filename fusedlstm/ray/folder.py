"""A sharded pool's folder: files of states, and a manifest with their names and keys, which is replaced last.

    manifest.json                             {"version": 1, "files": [{"name": ..., "keys": [...]}, ...]}
    states-<16 hex digits>-<k>.safetensors    a file of `pool_files`

The n-th key of a file is that of its n-th slot. Each save has its own hex digits, so it never writes to files that the
old manifest names.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import atomic_write, files, pool_files
from fusedlstm.errors import OtherWeightsWarning, WeightsFileError
from fusedlstm.state import LSTMState
from fusedlstm.validation.weights import as_layers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fusedlstm.ray.sessions import Key
    from fusedlstm.ray.snapshots import Content

_MANIFEST = "manifest.json"
_VERSION = 1
_STATES = re.compile(r"states-[0-9a-f]{16}-\d+\.safetensors")
_ANY_SLOT = 2**63 - 1


def write(folder: str, parts: Iterable[tuple[list[Key], Content]], weights: Any) -> None:
    """Write the keys and states of each part to a folder. Until the end, the folder has what it had."""
    number = uuid.uuid4().hex[:16]
    entries = []
    for part, (keys, content) in enumerate(parts):
        name = f"states-{number}-{part}.safetensors"
        pool_files.save(os.path.join(folder, name), as_layers(weights), *content)
        entries.append({"name": name, "keys": keys})
    text = json.dumps({"version": _VERSION, "files": entries})
    atomic_write.replace(os.path.join(folder, _MANIFEST), text.encode())
    _remove_others(folder, {entry["name"] for entry in entries})


def _remove_others(folder: str, names: set[Any]) -> None:
    """Remove the files of older saves, and those that killed ones left."""
    for name in os.listdir(folder):
        if _STATES.fullmatch(name) and name not in names:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))
    atomic_write.remove_abandoned(folder, _STATES.pattern)


def read(folder: str, weights: Any) -> tuple[list[Key], list[LSTMState], bool]:
    """Return the keys in a folder, the states of each layer, and whether other weights computed them.

    Raises:
        WeightsFileError: a file is missing, damaged or newer, or doesn't fit these weights.
        OSError: the manifest can't be read.
    """
    layers = as_layers(weights)
    sizes, own_mark = pool_files.StateSizes.of(layers), pool_files.fingerprint(layers)
    manifest = os.path.join(folder, _MANIFEST)
    keys: list[Key] = []
    parts: list[list[LSTMState]] = []
    are_others = False
    for name, own in _entries(manifest):
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            raise WeightsFileError(f"{manifest} names {name}, which is missing")
        slots, states, mark = pool_files.load(path, sizes, _ANY_SLOT)
        if len(slots) != len(own):
            raise WeightsFileError(f"{manifest} is damaged: {name} has {len(slots)} sessions, not {len(own)}")
        are_others |= mark != own_mark
        keys += own
        parts.append(states)
    if len(set(keys)) < len(keys):
        raise WeightsFileError(f"{manifest} is damaged: a key is repeated")
    joined = [
        LSTMState(h=np.concatenate([each.h for each in layer]), c=np.concatenate([each.c for each in layer]))
        for layer in zip(*parts, strict=True)
    ]
    return keys, joined, are_others


def warn_of_others(folder: str, above: int = 0) -> None:
    """Warn the caller's caller, or the one `above` it, that other weights computed the states in a folder."""
    said = f"{folder} holds states of other weights than this pool's. Was its model trained since?"
    warnings.warn(said, OtherWeightsWarning, stacklevel=3 + above)


def _entries(manifest: str) -> list[tuple[str, list[Key]]]:
    """Return the names and keys in a manifest, checked."""
    with files.reading(manifest, " is damaged"):
        with open(manifest, encoding="utf-8") as file:
            found = json.load(file)
        version = found["version"]
        if type(version) is int and version > _VERSION:
            raise WeightsFileError(f"{manifest} is newer than this fusedlstm: its version is {version}")
        entries = [(entry["name"], entry["keys"]) for entry in found["files"]]
        if version != _VERSION or not entries:
            raise ValueError("it has another version, or no files")
        for name, keys in entries:
            if not _STATES.fullmatch(name) or not isinstance(keys, list) or not set(map(type, keys)) <= {int, str}:
                raise ValueError(f"the entry {str(name)[:100]!r} is wrong")
        return entries
