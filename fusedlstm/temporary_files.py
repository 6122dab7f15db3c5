"""Temporary files without names, which the system removes with the process. Their errors say where they are."""

from __future__ import annotations

import contextlib
import io
import tempfile
from typing import TYPE_CHECKING

from fusedlstm.atomic_write import named

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO


class _Raw(io.FileIO):
    """The file at a descriptor. An error of a write, such as a full disk, names `place`."""

    def __init__(self, descriptor: int, place: str) -> None:
        super().__init__(descriptor, "r+b", closefd=False)
        self._place = place

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise named(error, self._place) from error


@contextlib.contextmanager
def temporary_file(folder: str | None) -> Iterator[BinaryIO]:
    """Give a new file in a folder; None for the system's folder.

    Raises:
        OSError: the file can't be made or written. The error names the folder, so that no other file gets the blame.
    """
    place = f"a temporary file in {folder or tempfile.gettempdir()}"
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file, io.BufferedRandom(_Raw(file.fileno(), place)) as own:
        yield own
