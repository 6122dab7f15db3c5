"""The cache of compiled kernels that all parts share: fill it before the first part, and count hits and misses."""

import os
import shutil
import tarfile
from pathlib import Path

NAME = "kernels.tar.gz"
_RECORD, _CODE = ".json", (".cubin", ".ptx")  # the two files of each kernel


def fill(cache, given):
    """Copy compiled kernels from a folder or archive into the cache. Return how many, or why that failed."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        if given is None:
            return 0
        if given.is_dir():
            for path in given.rglob("*"):
                if path.suffix in (_RECORD, *_CODE):
                    shutil.copyfile(path, cache / path.name)
        else:
            with tarfile.open(given) as archive:
                for member in archive:
                    if member.isfile() and member.name.endswith((_RECORD, *_CODE)):
                        (cache / Path(member.name).name).write_bytes(archive.extractfile(member).read())
    except (OSError, tarfile.TarError) as error:
        return f"{given}: {error}"
    return len(names(cache))


def names(cache):
    """Return the names of the cached kernels' records."""
    return {path.name for path in cache.glob(f"*{_RECORD}")}


class Count:
    """Counts the kernels that a part found in the cache and those that it compiled.

    A hit shows in the access time of its file. Hits are None if the file system doesn't record that time.
    """

    def __init__(self, cache):
        self.cache = cache
        self.before = names(cache)
        self.tells = _tells_accesses(cache)
        for name in self.before:
            _forget_access(cache / name)

    def facts(self):
        """Return the hits and misses since the count began."""
        hits = sum(_was_read(self.cache / name) for name in self.before) if self.tells else None
        return {"hits": hits, "misses": len(names(self.cache) - self.before)}


def _forget_access(path):
    os.utime(path, (0, path.stat().st_mtime))


def _was_read(path):
    return path.exists() and path.stat().st_atime > 0


def _tells_accesses(cache):
    probe = cache / "probe"
    probe.write_bytes(b"probe")
    _forget_access(probe)
    probe.read_bytes()
    told = _was_read(probe)
    probe.unlink()
    return told
