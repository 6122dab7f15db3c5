"""Tell which system wrote a file, by its first bytes and its arrays' names, never by the file's name alone."""

from __future__ import annotations

import errno
import os
import re
import zipfile
from typing import TYPE_CHECKING

from fusedlstm import files
from fusedlstm.convert.archives import open_archive
from fusedlstm.convert.containers import START, is_safetensors, what_file, what_zip
from fusedlstm.convert.systems import SYSTEMS
from fusedlstm.errors import WeightsFileError
from fusedlstm.validation.arguments import check_path

if TYPE_CHECKING:
    from collections.abc import Collection

    from fusedlstm.convert.record import System
    from fusedlstm.validation.arguments import AnyPath

_ZIP = b"PK\x03\x04"
_HINT = "Name its system with --from, or call that system's function in fusedlstm.convert"


def recognise(path: AnyPath) -> str:
    """Return the name of the system that wrote a file or folder, such as "torch".

    Raises:
        WeightsFileError: the system is unknown or not supported, or the file is fusedlstm's own, or a pipe.
        OSError: it can't be read.
        TypeError: `path` is not a path.
    """
    name = check_path("path", path)
    files.refuse_pipe(name)
    for system in SYSTEMS:
        if system.signs.at is not None and system.signs.at(name):
            return system.name
    if os.path.isdir(name):
        raise IsADirectoryError(errno.EISDIR, "Is a directory: give the file in it that has the LSTM", name)
    with files.reading(name):
        return _of_file(name)


def _of_file(name: str) -> str:
    with open(name, "rb") as file:
        start = file.read(START)
    if start.startswith(_ZIP):
        return _of_zip(name)
    if is_safetensors(start):
        if files.is_ours(name):
            raise WeightsFileError(f"{name} is already fusedlstm's own file, which load_weights reads")
        return _of_names(name, open_archive(name))
    for system in SYSTEMS:
        if system.signs.start and re.match(system.signs.start, start):
            return _unless_refused(name, system)
    if what := what_file(start):
        raise WeightsFileError(f"{name} is {what}")
    raise WeightsFileError(f"{name} is not a known kind of file. {_HINT}")


def _of_zip(path: str) -> str:
    """Return the system of a zip file, by its members or, for a .npz, by its arrays' names."""
    with files.reading(path, " is a damaged zip file"), zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    for system in SYSTEMS:
        if system.signs.members and all(_any_match(pattern, members) for pattern in system.signs.members):
            return _unless_refused(path, system)
    if any(member.endswith(".npy") for member in members):
        return _of_names(path, open_archive(path))
    if what := what_zip(members):
        raise WeightsFileError(f"{path} is {what}")
    some = ", ".join(members[:4]) or "nothing"
    raise WeightsFileError(f"{path} is not a known kind of zip file: it has {some}. {_HINT}")


def _of_names(path: str, names: Collection[str]) -> str:
    """Return the system that names arrays like these."""
    system, _ = evidence(names)
    if system is not None:
        return _unless_refused(path, system)
    some = ", ".join(sorted(names)[:6]) or "nothing"
    raise WeightsFileError(f"{path} has no arrays named like an LSTM's: {some}. {_HINT}")


def evidence(names: Collection[str]) -> tuple[System | None, list[str]]:
    """Return the system that gives arrays such names, and the names that show it; None and [] if unknown."""
    for system in SYSTEMS:
        telling = [name for name in names if system.signs.array and re.fullmatch(system.signs.array, name)]
        if telling:
            return system, telling
    return None, []


def _any_match(pattern: str, names: Collection[str]) -> bool:
    return any(re.fullmatch(pattern, name) for name in names)


def _unless_refused(path: str, system: System) -> str:
    """Return a system's name. Raise if its files of this kind are refused."""
    if system.signs.refused:
        raise WeightsFileError(f"{path} {system.signs.refused}")
    return system.name
