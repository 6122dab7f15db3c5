"""The cache on disk: compiled kernels and measured times, in a folder that only the user can write."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import stat
import tempfile
from pathlib import Path

from fusedlstm import log
from fusedlstm.atomic_write import replace

VARIABLE = "FUSEDLSTM_CACHE_DIR"


def folder() -> Path:
    """Return the cache's folder: FUSEDLSTM_CACHE_DIR, else a folder of the user's cache."""
    try:
        if os.environ.get(VARIABLE):
            return Path(os.environ[VARIABLE]).expanduser()
        if os.name == "nt" and os.environ.get("LOCALAPPDATA"):
            return Path(os.environ["LOCALAPPDATA"]) / "fusedlstm" / "Cache"
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path("~/.cache").expanduser()) / "fusedlstm"
    except RuntimeError:  # a user without a home
        return temporary("fusedlstm")


def temporary(name: str) -> Path:
    """Return the path of this user's folder of that name among the system's temporary files."""
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"{name}-{user}"


def read(name: str) -> bytes | None:
    """Return a cached file's content, or None if it is missing or can't be trusted."""
    place = _usable_folder()
    if place is None:
        return None
    try:
        return (place / name).read_bytes()
    except OSError:
        return None


def write(name: str, content: bytes) -> Path:
    """Cache a file, whole or not at all, and return its path.

    If the folder can't be written, the file lies in a temporary folder of this process. The next process doesn't find
    it.

    Raises:
        OSError: that folder can't be written either.
    """
    place = _usable_folder()
    if place is not None:
        try:
            replace(place / name, content)
            return place / name
        except OSError as error:
            log.info("compiled kernels are not kept: %s", error)
    path = _folder_of_process(os.getpid()) / name
    replace(path, content)
    return path


@functools.cache
def _folder_of_process(process: int) -> Path:
    """Return a folder that this process removes at its end."""
    place = Path(tempfile.mkdtemp(prefix="fusedlstm-"))
    atexit.register(_remove_in, process, place)
    return place


def _remove_in(process: int, place: Path) -> None:
    if os.getpid() == process:  # not a forked child
        shutil.rmtree(place, ignore_errors=True)


_said: set[str] = set()


def _usable_folder() -> Path | None:
    """Return the folder, made if needed, or None if it can't be used, or other users could put code into it."""
    place = folder()
    reason = make_private(place)
    if reason is None:
        return place
    if reason not in _said:
        _said.add(reason)
        log.warning("compiled kernels are not kept: %s", reason)
    return None


def make_private(place: Path) -> str | None:
    """Make a folder that only this user can write, if needed. Return why it isn't one, or None if it is."""
    with contextlib.suppress(OSError):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        status = place.stat()
    except OSError as error:
        return f"{place} can't be used: {error.strerror}"
    if os.name == "posix" and status.st_uid != os.getuid():
        return f"{place} belongs to another user"
    if os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{place} can be written by other users"
    return None
