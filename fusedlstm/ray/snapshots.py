"""Snapshots: when a sharded pool copies its states, where to, and how a shard gets them back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import ray

from fusedlstm import pool_files
from fusedlstm.errors import WeightsFileError
from fusedlstm.validation.arguments import check_path, check_real, check_size, fail
from fusedlstm.validation.weights import as_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.sessions import Record
    from fusedlstm.state import LSTMState
    from fusedlstm.validation.arguments import AnyPath

    # The live slots of a pool, and the states of each layer in host memory.
    Content = tuple[NumpyArray, Sequence[LSTMState]]


@dataclass(frozen=True, kw_only=True)
class Snapshots:
    """When and where to copy the states of shards. A shard that dies goes back to its last snapshot.

    A step requests the snapshots that are due, and doesn't wait for them. Shards copy states in parts, between their
    calls. A call that changes states which have not been copied yet first copies them. Without steps, no snapshot is
    taken.

    Args:
        ticks: take a snapshot in the first step after this many calls of the shard; None for no such limit.
        seconds: take one in the first step after this many seconds; None for no such limit.
        folder: write snapshots to files in this folder, which all machines must share, and remove them at `shutdown`.
            None keeps them in Ray's object store, on the shard's machine. They survive the shard's process, but not the
            machine.

    Raises:
        TypeError: an argument has the wrong kind.
        ValueError: `ticks` is below 1, `seconds` is not positive, both are None, or there is no such folder.
    """

    ticks: int | None = None
    seconds: float | None = 10.0
    folder: AnyPath | None = None

    def __post_init__(self) -> None:
        if self.ticks is not None:
            check_size("ticks", self.ticks, 1)
        if self.seconds is not None and check_real("seconds", self.seconds) <= 0:
            fail(ValueError, "seconds", "a positive number, or None", str(self.seconds))
        if self.ticks is None and self.seconds is None:
            fail(ValueError, "ticks", "an int, or seconds as a number", "None for both")
        if self.folder is not None and not os.path.isdir(check_path("folder", self.folder)):
            fail(ValueError, "folder", "a folder that exists", os.fsdecode(self.folder))

    def is_due(self, ticks: int, seconds: float) -> bool:
        """Return whether a shard needs a snapshot, this many ticks and seconds after the one before."""
        by_ticks = self.ticks is not None and ticks >= self.ticks
        return by_ticks or (self.seconds is not None and ticks > 0 and seconds >= self.seconds)


class SnapshotError(RuntimeError):
    """A snapshot's file can't be read. If `is_lost`, it is missing or damaged, so trying again won't help."""

    def __init__(self, message: str, is_lost: bool) -> None:
        super().__init__(message, is_lost)
        self.is_lost = is_lost

    def __str__(self) -> str:
        return str(self.args[0])


class Taken(NamedTuple):
    """A snapshot that a shard was asked for.

    Args:
        done: a reference to a small object, which is there when the snapshot is whole.
        content: a reference to the states, or the path of their file.
        record: the shard's sessions at that moment.
    """

    done: Any
    content: Any
    record: Record

    def is_ready(self) -> bool:
        """Return whether the snapshot is whole or failed."""
        return bool(ray.wait([self.done], timeout=0, fetch_local=False)[0])

    def error(self) -> Exception | None:
        """Return why a ready snapshot failed, or None if it is whole."""
        try:
            ray.get(self.done)
        except ray.exceptions.RayError as error:
            found: Exception = error
            return found
        return None


def write(content: Content, path: str, weights: Any) -> None:
    """Write a snapshot to a file, as a Ray task."""
    pool_files.save(path, as_layers(weights), *content)


def load(content: Content | str, weights: Any, capacity: int) -> Content:
    """Return a snapshot's slots and states, from its file if it has one.

    Raises:
        SnapshotError: the file is missing, damaged or can't be read.
    """
    if not isinstance(content, str):
        return content
    try:
        slots, states, _ = pool_files.load(content, pool_files.StateSizes.of(as_layers(weights)), capacity)
    except (OSError, WeightsFileError) as error:
        is_lost = isinstance(error, (FileNotFoundError, WeightsFileError))
        raise SnapshotError(f"the snapshot {content} can't be read: {error}", is_lost) from error
    return slots, states
