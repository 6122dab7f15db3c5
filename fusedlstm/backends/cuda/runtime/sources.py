"""The kernels' source files: where they are, and a digest of them all."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PACKAGE = Path(__file__).resolve().parents[3]
# In a wheel they are inside the package; in a checkout or an editable install, beside it.
_PLACES = (_PACKAGE / "kernels", _PACKAGE.parent / "kernels")
_SUFFIXES = (".cu", ".cuh")


@functools.cache
def folder() -> Path:
    """Return the folder that holds the kernels' files.

    Raises:
        FileNotFoundError: the installation lacks them.
    """
    for place in _PLACES:
        if (place / "pointwise.cu").is_file():
            return place
    raise FileNotFoundError(f"fusedlstm is installed without its kernels: they are in none of {_PLACES}")


@functools.cache
def digest() -> str:
    """Return a digest of every kernel file: a compiled kernel is stale once any of them changes."""
    return digest_of({file.name: file.read_bytes() for file in folder().iterdir() if file.suffix in _SUFFIXES})


def digest_of(files: Mapping[str, bytes]) -> str:
    """Return the digest of kernel files by name."""
    sha = hashlib.sha256()
    for name, content in sorted(files.items()):
        sha.update(f"{name}\0{len(content)}\0".encode())
        sha.update(content)
    return sha.hexdigest()
