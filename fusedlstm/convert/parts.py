"""List the files that make up a command's source, so that it doesn't overwrite them."""

from __future__ import annotations

import glob
import os


def parts_of(source: str) -> dict[str, str | None]:
    """Return the files of a folder or of a checkpoint with this prefix, by their names in errors."""
    if os.path.isdir(source):
        paths = [os.path.join(folder, name) for folder, _, names in os.walk(source) for name in names]
    else:
        prefix = glob.escape(source.removesuffix(".index"))
        paths = glob.glob(f"{prefix}.index") + glob.glob(f"{prefix}.data-*")
    return {f"SOURCE's {os.path.relpath(path, os.path.dirname(source) or os.curdir)}": path for path in paths}
