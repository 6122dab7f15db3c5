"""Shards with mistakes, which tests plant. Ray sends them by value: its workers can't import this module."""

import os
import time

import numpy as np
import ray

from fusedlstm import LSTMState, StatePool
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


FAILS = np.float32(1e6)  # an input for which FailsToStep raises


class FailsToStep(Shard):
    """Raises MemoryError instead of a step with the input FAILS, like a shard without memory. Nothing is changed."""

    def step(self, stamp, x, slots, is_first):
        if (x == FAILS).any():
            self._enter(stamp)
            raise MemoryError("planted")
        return super().step(stamp, x, slots, is_first)


class FailsToCopy(Shard):
    """Raises MemoryError instead of copying states."""

    def read(self, stamp, slots):
        self._enter(stamp)
        raise MemoryError("planted")

    def begin_snapshot(self, stamp):
        super().begin_snapshot(stamp)

        def fails(slots):
            raise MemoryError("planted")

        for _, snapshot in self._begun.values():
            snapshot._fetch = fails


class FailsToBeginCopies(Shard):
    """Has no memory for snapshots."""

    def begin_snapshot(self, stamp):
        self._enter(stamp)
        with self._changed:
            self._changed.notify_all()
        raise MemoryError("planted")


class FailsToPrepare(Shard):
    """Has no memory for steps of more than 0 rows, as far as `prepare` knows."""

    def begin(self, *arguments):
        def prepare(pool, max_batch):
            if max_batch > 0:
                raise MemoryError("planted")

        StatePool.prepare = prepare  # in the process of this actor
        return super().begin(*arguments)
