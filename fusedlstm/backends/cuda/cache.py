"""Compiled kernels on disk: in a folder that only the user can write, or nowhere."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from pathlib import Path

from fusedlstm.files import replace

_LOG = logging.getLogger("fusedlstm")
_VARIABLE = "FUSEDLSTM_CACHE_DIR"


def folder() -> Path:
    """Return where compiled kernels are kept: FUSEDLSTM_CACHE_DIR, else a folder of the user's cache."""
    if os.environ.get(_VARIABLE):
        return Path(os.environ[_VARIABLE])
    if os.name == "nt" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "fusedlstm" / "Cache"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "fusedlstm"


def read(name: str) -> bytes | None:
    """Return a kept file's content, or None where there is none that can be trusted."""
    place = _usable_folder()
    if place is None:
        return None
    try:
        return (place / name).read_bytes()
    except OSError:
        return None


def write(name: str, content: bytes) -> None:
    """Keep a file, whole or not at all; a folder that can't be written only costs compiling again."""
    place = _usable_folder()
    if place is None:
        return
    try:
        replace(place / name, content)
    except OSError as error:
        _LOG.info("compiled kernels are not kept: %s", error)


def _usable_folder() -> Path | None:
    """Return the folder, made if need be, unless others could have put code for our GPU into it."""
    place = folder()
    with contextlib.suppress(OSError):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        status = place.stat()
    except OSError as error:
        _LOG.info("compiled kernels are not kept: %s", error)
        return None
    if os.name == "posix":
        shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if shared or status.st_uid != os.getuid():
            _LOG.warning("compiled kernels are not kept: %s can be written by other users", place)
            return None
    return place
