"""SnapshotTaker: takes the snapshots of shards that are due, and removes their files at the end."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from typing import TYPE_CHECKING, Any

import ray

from fusedlstm import atomic_write
from fusedlstm.ray import snapshots

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.ray.link import Link
    from fusedlstm.ray.sessions import Record


class SnapshotTaker:
    """Takes snapshots. Hold the pool's lock.

    Args:
        when: when and where to.
        name: the pool's name, a part of the names of files.
    """

    def __init__(self, when: snapshots.Snapshots, name: str) -> None:
        self._when, self._name = when, f"snapshot-{name}-"
        self._folder = None if when.folder is None else os.path.abspath(os.fsdecode(when.folder))
        self._write = ray.remote(snapshots.write).options(num_cpus=0, max_retries=0)
        self._writes: list[Any] = []  # files that are being written, also for shards that have died since

    def take_if_due(self, link: Link, record: Callable[[int], Record], weights: Any) -> None:
        """Send for a shard's snapshot if it is time.

        Args:
            link: the shard, which is ready.
            record: returns the sessions of a shard.
            weights: a reference to the weights.
        """
        link.take_if_due(self._when.is_due, lambda: self._take(link, record(link.shard), weights))

    def _take(self, link: Link, record: Record, weights: Any) -> snapshots.Taken:
        _, fetched, content = link.snapshot()
        if self._folder is None:
            return snapshots.Taken(fetched.reference, content, record)
        # Each has a path of its own, as a late write for a shard that died may still be running.
        path = os.path.join(self._folder, f"{self._name}{link.shard}-{link.epoch}-{link.calls}.safetensors")
        done = self._write.remote(content, path, weights)
        self._writes = [*self._running(0), done]
        return snapshots.Taken(done, path, record)

    def _running(self, timeout: float) -> list[Any]:
        """Return the writes that are still running after a while."""
        if not self._writes:
            return []
        running: list[Any] = ray.wait(self._writes, num_returns=len(self._writes), timeout=timeout, fetch_local=False)[
            1
        ]
        return running

    def remove_files(self, timeout: float) -> None:
        """Wait for files that are being written, for at most `timeout` seconds, and remove all files."""
        if self._folder is None:
            return
        for each in self._running(timeout):
            ray.cancel(each, force=True)
        self._running(timeout)
        for path in glob.glob(os.path.join(glob.escape(self._folder), f"{self._name}*")):
            with contextlib.suppress(OSError):
                os.unlink(path)
        atomic_write.remove_abandoned(self._folder, rf"{re.escape(self._name)}.*")
