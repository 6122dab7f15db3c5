"""Shards with mistakes, which tests plant. Ray sends them by value: its workers can't import this module."""

import os
import time

import ray

from fusedlstm import LSTMState
from fusedlstm.ray import snapshots
from fusedlstm.ray.shard import COPIES, Shard


class RestoresOtherRows(Shard):
    """Restores the states in the reverse order."""

    def begin(self, epoch, weights, content, kept, max_batch):
        if content is not None:
            slots, states = content
            content = slots, [LSTMState(h=each.h[::-1], c=each.c[::-1]) for each in states]
        return super().begin(epoch, weights, content, kept, max_batch)


class RestoresNothing(Shard):
    """Restores zeros."""

    def begin(self, epoch, weights, content, kept, max_batch):
        if content is not None:
            slots, states = content
            content = slots, [LSTMState(h=each.h * 0, c=each.c * 0) for each in states]
        return super().begin(epoch, weights, content, kept, max_batch)


class SnapsSlowly(Shard):
    """Fetches snapshots only while the option `gate`, a path, exists."""

    def __init__(self, capacity, options):
        self._gate = options.pop("gate")
        super().__init__(capacity, options)

    @ray.method(concurrency_group=COPIES)
    def snapshot(self, stamp):
        while not os.path.exists(self._gate):
            time.sleep(0.01)
        return super().snapshot(stamp)


def write_slowly(content, path, weights):
    """Write a snapshot's file late."""
    time.sleep(1)
    snapshots.write(content, path, weights)
