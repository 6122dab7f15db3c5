"""Replace a file whole or not at all. A save removes what interrupted and killed saves left behind.

A save writes to a temporary file beside its target, `.NAME.<16 hex digits>.fusedlstm-tmp`, and then renames it. Until
then it holds a lock on that file. The system releases the lock when the process ends, however it ends. So the next save
to the same target can tell the files of dead saves from those of running ones.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from typing import TYPE_CHECKING

from fusedlstm.validation.arguments import check_path, fail

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    from fusedlstm.validation.arguments import AnyPath

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SUFFIX = ".fusedlstm-tmp"
_LONGEST_STEM = 200  # bytes: a file's name has at most 255 on most systems
_OLD = 3600.0  # seconds after which a temporary file counts as abandoned, if files can't be locked
_LOOK = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@contextlib.contextmanager
def _naming(path: str, passed: list[OSError]) -> Iterator[None]:
    """Make an OSError raised in this context name `path`, unless `passed` holds it."""
    try:
        yield
    except OSError as error:
        if any(error is other for other in passed):
            raise
        raise named(error, path) from error


@contextlib.contextmanager
def _passing(passed: list[OSError], target: str) -> Iterator[None]:
    """Add to `passed` an OSError raised in this context that names neither `target` nor a temporary file."""
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, str) and error.filename != target and not error.filename.endswith(_SUFFIX):
            passed.append(error)
        raise


def named(error: OSError, path: str) -> OSError:
    """Return the same error, but about `path`."""
    if error.errno is None:  # it has only a message
        return OSError(f"{path}: {error}")
    return OSError(error.errno, error.strerror, path)  # OSError picks the subclass by the number


def replace(path: AnyPath, content: bytes) -> None:
    """Replace the file at `path` with `content`, atomically, as `replacing` does."""
    with replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: AnyPath) -> Iterator[BinaryIO]:
    """Yield a file that replaces the one at `path` when the context ends. A crash leaves the old file.

    If the context raises, the old file stays, and the new one is removed.

    The new file gets the umask's permissions. A symbolic link is followed, so it stays a link. A pipe, device or other
    special file is written to directly. Several processes may replace one file at the same time: the last one wins,
    and the file is always whole.

    Raises:
        OSError: the file can't be written, or is read-only. The error names `path`, and an older file is unchanged.
            An error in the context that names another file passes unchanged.
        TypeError: `path` is not a path.
    """
    name = check_path("path", path)
    passed: list[OSError] = []
    with _naming(name, passed):
        if not is_replaceable(name):
            with open(name, "wb") as special, _passing(passed, name):
                yield special
            return
        target = os.path.realpath(name)
        _check_may_write(target)
        folder, base = os.path.split(target)
        stem = _stem(base)
        remove_abandoned(folder, re.escape(stem))
        with _renamed_at_end(folder, stem, target) as file, _passing(passed, target):
            yield file
        sync_folder(folder)


def check_target(argument: str, path: str, inputs: Mapping[str, str | None]) -> None:
    """Raise, before any work, unless a command can write to `path` without losing one of its inputs.

    Args:
        argument: the name of `path` in errors.
        path: where the command will write.
        inputs: the paths of the files that the command reads, by their names in errors; None for a file not given.

    Raises:
        ValueError: `path` is a folder, is in a folder that doesn't exist, or is an input, even through a link.
        OSError: the file or its folder is not writable.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.basename(path) or os.path.isdir(path) or not os.path.isdir(folder):
        fail(ValueError, argument, "a file in a folder that exists", path or "an empty path")
    for what, source in inputs.items():
        if source is not None and _is_same_file(path, source):
            fail(ValueError, argument, f"a file other than {what}, which would be lost", path)
    if os.path.exists(path):
        _check_may_write(path)
    elif not os.access(folder, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)


def _is_same_file(path: str, other: str) -> bool:
    """Return whether two paths are the same file, even through symbolic or hard links."""
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them doesn't exist yet
        return os.path.realpath(path) == os.path.realpath(other)


def _check_may_write(path: str) -> None:
    """Raise if an existing file is read-only. A rename would replace it anyway."""
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)


def is_replaceable(path: str) -> bool:
    """Return whether the path names a regular file, or a file that doesn't exist yet.

    Raises:
        OSError: nothing can be there, as for an empty path.
    """
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        if not os.path.basename(path):  # "" and "folder/" name no file
            raise
        return True


def _stem(base: str) -> str:
    """Return the common stem of a target's temporary files: its name, or a digest of it if that is too long."""
    if len(os.fsencode(base)) <= _LONGEST_STEM:
        return base
    import hashlib

    return hashlib.sha256(os.fsencode(base)).hexdigest()


@contextlib.contextmanager
def _renamed_at_end(folder: str, stem: str, target: str) -> Iterator[BinaryIO]:
    """Yield a temporary file. Rename it to `target` at the end, or remove it on an error."""
    is_kept = False
    while not is_kept:
        temporary = os.path.join(folder, f".{stem}.{os.urandom(8).hex()}{_SUFFIX}")
        try:
            # Only the file object closes its descriptor: an interrupt may come between any two lines.
            with open(temporary, "xb") as file:
                is_kept = _keep(file.fileno())
                if is_kept:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                    if fcntl is not None:  # rename while the lock is held
                        os.replace(temporary, target)
            if fcntl is None:  # Windows can't rename open files
                os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def _keep(descriptor: int) -> bool:
    """Lock a new temporary file. Return False if another save has just removed it as abandoned."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return True
    return os.fstat(descriptor).st_nlink > 0


def remove_abandoned(folder: str, names: str) -> None:
    """Remove the temporary files of interrupted and killed saves to a folder's files of some names, a regex."""
    pattern = re.compile(rf"\.(?:{names})\.[0-9a-f]{{16}}{re.escape(_SUFFIX)}")
    with contextlib.suppress(OSError):
        with os.scandir(folder) as entries:
            found = [entry.path for entry in entries if pattern.fullmatch(entry.name)]
        for path in found:
            with contextlib.suppress(OSError):
                _remove_if_abandoned(path)


def _remove_if_abandoned(path: str) -> None:
    """Remove a temporary file if no running save holds its lock. Without locks, remove it if it is old."""
    if fcntl is None:
        if _is_old(os.stat(path)):
            os.unlink(path)
        return
    descriptor = os.open(path, _LOOK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except BlockingIOError:
        pass  # its save is still running
    except OSError:
        if _is_old(os.fstat(descriptor)):
            os.unlink(path)
    finally:
        os.close(descriptor)


def _is_old(status: os.stat_result) -> bool:
    return time.time() - status.st_mtime > _OLD


def sync_folder(folder: str) -> None:
    """Make the new name durable too, if the system can sync a folder (Windows can't)."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
