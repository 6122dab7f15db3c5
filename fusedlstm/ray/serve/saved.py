"""A drained service's folder: the pool's own folder, the numbers of next steps, and a file that is replaced last.

current.json                  {"version": 1, "folder": "sessions-<16 hex digits>"}
sessions-<16 hex digits>/     what `save` of the pool wrote, and next.json: {key: number}
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from typing import TYPE_CHECKING

from fusedlstm import atomic_write, files
from fusedlstm.errors import WeightsFileError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlstm.ray.serve.pools import Pool

_VERSION = 1
_CURRENT = "current.json"
_NUMBERS = "next.json"
_NAME = re.compile(r"sessions-[0-9a-f]{16}")


def save(folder: str, pool: Pool, numbers: Mapping[str, int]) -> None:
    """Write the sessions of a pool to a folder. Until the end, the folder has what it had."""
    name = f"sessions-{uuid.uuid4().hex[:16]}"
    own = os.path.join(folder, name)
    pool.save(own)
    atomic_write.replace(os.path.join(own, _NUMBERS), json.dumps(numbers).encode())
    _point(folder, name, is_loaded=False)
    for other in os.listdir(folder):
        if _NAME.fullmatch(other) and other != name:
            shutil.rmtree(os.path.join(folder, other), ignore_errors=True)


def _point(folder: str, name: str, *, is_loaded: bool) -> None:
    text = json.dumps({"version": _VERSION, "folder": name, "loaded": is_loaded})
    atomic_write.replace(os.path.join(folder, _CURRENT), text.encode())


def load(folder: str, pool: Pool) -> tuple[dict[str, int], bool]:
    """Load a folder's sessions into a pool. An empty folder has none.

    Returns:
        The number of each session's next step, and whether they were loaded before, so that they may be old.

    Raises:
        WeightsFileError: a file is damaged or newer, or doesn't fit the pool.
        OSError: a file can't be read.
    """
    current = os.path.join(folder, _CURRENT)
    if not os.path.exists(current):
        return {}, False
    with files.reading(current, " is damaged"):
        with open(current, encoding="utf-8") as file:
            found = json.load(file)
        name, is_old = found["folder"], bool(found["loaded"])
        if found["version"] != _VERSION or not _NAME.fullmatch(name):
            raise WeightsFileError(f"{current} is newer than this fusedlstm, or damaged")
    own = os.path.join(folder, name)
    path = os.path.join(own, _NUMBERS)
    with files.reading(path, " is damaged"):
        with open(path, encoding="utf-8") as file:
            numbers: dict[str, int] = json.load(file)
        if not all(type(number) is int and number > 0 for number in numbers.values()):
            raise ValueError("a number is not one")
    pool.load(own)
    if set(pool.keys) != numbers.keys():
        raise WeightsFileError(f"{path} is damaged: its keys are not those of {own}")
    _point(folder, name, is_loaded=True)
    return numbers, is_old
