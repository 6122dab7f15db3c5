"""A drained service's folder: the pool's own folder, the numbers of next steps, and a file that is replaced last.

current.json                  {"version": 1, "folder": "sessions-<16 hex digits>", "weights": their fingerprint}
lock                          held by the service that uses the folder
retired.json                  what current.json was, until a service had loaded the sessions and changed one
sessions-<16 hex digits>/     what `save` of the pool wrote, and next.json: {key: number}
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from typing import TYPE_CHECKING, Any, BinaryIO

from fusedlstm import atomic_write, files, pool_files
from fusedlstm.errors import WeightsFileError
from fusedlstm.validation.weights import as_layers

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlstm.ray.serve.pools import Pool

_VERSION = 1
LOCK_SECONDS = 30.0  # how long to wait for a service that uses the folder, and is ending
_LOCK = "lock"
_CURRENT, _RETIRED = "current.json", "retired.json"
_NUMBERS = "next.json"
_NAME = re.compile(r"sessions-[0-9a-f]{16}")


def save(folder: str, pool: Pool, numbers: Mapping[str, int]) -> None:
    """Write the sessions of a pool to a folder. Until the end, the folder has what it had."""
    name = f"sessions-{uuid.uuid4().hex[:16]}"
    own = os.path.join(folder, name)
    pool.save(own)
    atomic_write.replace(os.path.join(own, _NUMBERS), json.dumps(numbers).encode())
    text = json.dumps({"version": _VERSION, "folder": name, "weights": pool_files.fingerprint(as_layers(pool.weights))})
    atomic_write.replace(os.path.join(folder, _CURRENT), text.encode())
    for other in os.listdir(folder):
        if _NAME.fullmatch(other) and other != name:
            shutil.rmtree(os.path.join(folder, other), ignore_errors=True)


def probe(folder: str) -> None:
    """Make the folder, if needed, and raise OSError unless files can be written there."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"probe-{uuid.uuid4().hex[:16]}")
    atomic_write.replace(path, b"")
    os.unlink(path)


def lock(folder: str, seconds: float) -> BinaryIO:
    """Lock the folder against other services until the returned file is closed, or this process ends.

    Wait at most `seconds` for another service to end. Where files can't be locked, as on Windows, this does nothing.

    Raises:
        OSError: another service uses the folder, or it can't be written.
    """
    file = open(os.path.join(folder, _LOCK), "ab")  # noqa: SIM115
    end = time.monotonic() + seconds
    while fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if time.monotonic() > end:
                file.close()
                raise BlockingIOError(error.errno, "another service uses this folder", folder) from None
            time.sleep(0.1)
    return file


def retire(folder: str) -> None:
    """Mark the folder's sessions as too old to load, as some have changed. Their files stay until the next save."""
    os.replace(os.path.join(folder, _CURRENT), os.path.join(folder, _RETIRED))
    atomic_write.sync_folder(folder)


def check(folder: str, weights: Any) -> str | None:
    """Return the folder in a folder that has its sessions, or None if there are none.

    Raises:
        WeightsFileError: a file is damaged or newer, or the sessions were saved with other weights.
        OSError: a file can't be read.
    """
    current = os.path.join(folder, _CURRENT)
    if not os.path.exists(current):
        return None
    with files.reading(current, " is damaged"):
        with open(current, encoding="utf-8") as file:
            found = json.load(file)
        if found["version"] != _VERSION or not _NAME.fullmatch(found["folder"]):
            raise WeightsFileError(f"{current} is newer than this fusedlstm, or damaged")
        name, mark = found["folder"], found["weights"]
    if mark != pool_files.fingerprint(as_layers(weights)):
        raise WeightsFileError(
            f"{folder} has sessions of other weights. Give the weights that they were saved with, or another folder"
        )
    return os.path.join(folder, name)


def load(folder: str, pool: Pool) -> dict[str, int]:
    """Load a folder's sessions into a pool. Return the number of each one's next step. An empty folder has none.

    Raises:
        WeightsFileError: a file is damaged or newer, or doesn't fit the pool, which must have the same weights.
        OSError: a file can't be read.
    """
    own = check(folder, pool.weights)
    if own is None:
        return {}
    path = os.path.join(own, _NUMBERS)
    with files.reading(path, " is damaged"):
        with open(path, encoding="utf-8") as file:
            numbers: dict[str, int] = json.load(file)
        if not all(type(number) is int and number > 0 for number in numbers.values()):
            raise ValueError("a number is not one")
    pool.load(own)
    if set(pool.keys) != numbers.keys():
        raise WeightsFileError(f"{path} is damaged: its keys are not those of {own}")
    return numbers
