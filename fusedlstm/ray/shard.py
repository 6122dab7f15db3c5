"""Shard: the actor that holds one StatePool. It refuses calls that were meant for an earlier epoch."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from fusedlstm import log
from fusedlstm.arrays.host import to_host
from fusedlstm.cell import LSTMCell
from fusedlstm.lstm import LSTM
from fusedlstm.pool import StatePool
from fusedlstm.pool_snapshot import PoolSnapshot
from fusedlstm.ray import snapshots
from fusedlstm.ray.link import place
from fusedlstm.state import LSTMState
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.snapshots import Content

    Stamp = tuple[int, int]


OWN = "own states"  # instead of a snapshot
COPIES = "copies"  # Ray's concurrency group of the methods that run beside the others
_MOST_SNAPSHOTS = 4  # that a shard keeps for calls that fetch them
_FAILED = -1  # the epoch of a shard in which a change failed, so that nobody knows whether its states are right


class StaleCallError(RuntimeError):
    """A call was meant for an earlier epoch of a shard, or calls before it were lost or failed."""


class NoMemoryError(RuntimeError):
    """A shard had no memory for a call that changes no states, so nothing is lost."""


class Shard:
    """One shard. It has no pool until `begin`.

    Each `begin` starts an epoch. Calls after it have a stamp, (epoch, tick): the first has tick 1, and each one after
    it the next. Ray runs calls that were sent while the actor restarts on the fresh actor. Their stamps are wrong, so
    they raise StaleCallError and change nothing.

    Args:
        capacity: the number of slots.
        options: the options of the LSTMCell or LSTM.
    """

    def __init__(self, capacity: int, options: Mapping[str, Any]) -> None:
        self._capacity, self._options = capacity, dict(options)
        self._epoch = self._tick = 0
        self._accepts = False
        self._pool: StatePool[Any] | None = None
        self._changed = threading.Condition()  # a snapshot has begun, or never will
        self._begun: dict[Stamp, tuple[StatePool[Any], PoolSnapshot]] = {}

    def stop(self, epoch: int) -> Stamp:
        """Refuse calls of this epoch from now on. Return the epoch and tick of the last call that was done.

        A shard that was restarted returns (0, 0). The epoch is negative if a change failed.
        """
        if self._epoch <= epoch:
            self._refuse()
        return self._epoch, self._tick

    def _refuse(self) -> None:
        """Refuse all calls, and forget snapshots."""
        with self._changed:
            self._accepts = False
            self._forget_snapshots()
            self._changed.notify_all()

    def begin(
        self, epoch: int, weights: Any, content: Content | str | None, kept: NumpyArray, max_batch: int
    ) -> tuple[int, str, str]:
        """Start an epoch with a new pool, which has the sessions of a snapshot in the slots `kept`.

        Args:
            epoch: its number.
            weights: LSTMWeights or StackedWeights.
            content: the snapshot, or the path of its file; None for no sessions; OWN for the pool that is there.
            kept: the slots, sorted, (L,) int64. The snapshot must have them all.
            max_batch: prepare the pool for steps of so many rows.

        Returns:
            The ID of this process, the address of its machine, and `link.place()`.
        """
        self._refuse()  # also if this raises
        self._epoch = 0
        own, self._pool = self._pool, None
        if content == OWN:
            if own is None:
                raise StaleCallError("this shard has no states, as it was restarted")
            content = own._calls.snapshot(None)
        own = None  # free its memory first
        self._owner = (LSTMCell if isinstance(weights, LSTMWeights) else LSTM)(weights, **self._options)
        pool: StatePool[Any] = StatePool(self._owner, self._capacity)
        try:
            pool.prepare(max_batch)
        except MemoryError as error:  # smaller steps may do
            log.warning("a shard can't prepare for steps of %d rows: %s", max_batch, error)
        if content is not None:
            slots, states = snapshots.load(content, weights, self._capacity)
            rows = np.searchsorted(slots, kept)
            pool._calls.run(pool._slots.replace, kept, [LSTMState(h=each.h[rows], c=each.c[rows]) for each in states])
        self._pool, self._epoch, self._tick, self._accepts = pool, epoch, 0, True
        return os.getpid(), ray.util.get_node_ip_address(), place()

    def call(self, message: tuple[Any, ...]) -> Any:
        """Call a method: (its name, the stamp, more arguments). Ray takes longer for several arguments.

        If a method fails that changes states, later calls are refused. Otherwise they would go on with wrong states,
        and a snapshot would seem to have this change.

        Raises:
            StaleCallError: this is not the next call of this epoch.
            NoMemoryError: there is no memory, and nothing has changed.
        """
        method, *arguments = message
        try:
            return getattr(self, method)(*arguments)
        except StaleCallError:
            raise
        except BaseException as error:
            if isinstance(error, MemoryError) and method in ("read", "begin_snapshot", "prepare"):
                raise _no_memory(error) from error
            with self._changed:
                self._accepts, self._epoch = False, _FAILED
                self._changed.notify_all()
            raise

    def _enter(self, stamp: Stamp) -> StatePool[Any]:
        """Return the pool. Raise StaleCallError unless this is the next call of this epoch."""
        wanted = self._epoch, self._tick + 1
        if stamp != wanted or self._pool is None or not self._accepts:
            raise StaleCallError(f"got a call of epoch and tick {stamp}; this shard's next are {wanted}")
        self._tick += 1
        return self._pool

    def step(
        self, stamp: Stamp, x: NumpyArray, slots: NumpyArray, is_first: NumpyArray | None
    ) -> tuple[NumpyArray, float]:
        """Step rows. Return the outputs in host memory, and the seconds that this took."""
        pool = self._enter(stamp)
        start = time.perf_counter()
        h = to_host("h", pool.step(self._owner.asarray(x), slots, is_first=is_first))
        return h, time.perf_counter() - start

    def prepare(self, stamp: Stamp, max_batch: int) -> None:
        """Allocate everything that steps of up to `max_batch` rows need."""
        self._enter(stamp).prepare(max_batch)

    def allocate(self, stamp: Stamp, slots: NumpyArray, states: Sequence[LSTMState] | None = None) -> None:
        """Allocate these slots, which must be the next, with zeros or these states, one for each layer."""
        pool = self._enter(stamp)
        _check_same(pool.allocate(len(slots)), slots)
        if states is not None:
            self._write(pool, slots, states)

    def fork(self, stamp: Stamp, parents: NumpyArray, slots: NumpyArray) -> None:
        """Allocate these slots, which must be the next, with the states of parents, some of them several times."""
        pool = self._enter(stamp)
        _check_same(pool.fork(parents), slots)

    def release(self, stamp: Stamp, slots: NumpyArray) -> None:
        """Free slots."""
        self._enter(stamp).release(slots)

    def reset(self, stamp: Stamp, slots: NumpyArray) -> None:
        """Set states to zeros."""
        self._enter(stamp).reset(slots)

    def read(self, stamp: Stamp, slots: NumpyArray) -> list[LSTMState]:
        """Return the states of slots, some of them several times, in host memory, one for each layer."""
        return [each.to_numpy() for each in _read(self._enter(stamp), slots)]

    def write(self, stamp: Stamp, slots: NumpyArray, states: Sequence[LSTMState]) -> None:
        """Set the states of slots, one for each layer, from host memory."""
        self._write(self._enter(stamp), slots, states)

    def _write(self, pool: StatePool[Any], slots: NumpyArray, states: Sequence[LSTMState]) -> None:
        asarray = self._owner.asarray
        own = tuple(LSTMState(h=asarray(each.h), c=asarray(each.c, each.c.dtype.name)) for each in states)
        pool.write(slots, own[0] if isinstance(self._owner, LSTMCell) else own)

    def set_weights(self, stamp: Stamp, weights: Any) -> None:
        """Step with other weights from now on. `weights` is a reference to Ray's object store."""
        self._enter(stamp)
        self._owner.set_weights(ray.get(weights))

    def begin_snapshot(self, stamp: Stamp) -> None:
        """Begin a snapshot of the states of this moment, which `snapshot` with the same stamp returns."""
        with self._changed:
            pool, snapshot = self._enter(stamp), PoolSnapshot()
            try:
                pool._calls.begin_snapshot(snapshot, None)
                self._begun[stamp] = pool, snapshot
                self._forget_snapshots(_MOST_SNAPSHOTS)
            finally:
                self._changed.notify_all()

    @ray.method(concurrency_group=COPIES)  # type: ignore[untyped-decorator]
    def snapshot(self, stamp: Stamp) -> tuple[bool, Content]:
        """Return something small, and the slots and states of a snapshot, in host memory.

        Other calls run meanwhile. Ray may start this before the call that begins the snapshot.
        """
        with self._changed:
            self._changed.wait_for(lambda: stamp in self._begun or not self._awaits(stamp))
            if stamp not in self._begun:
                raise StaleCallError(f"no snapshot began with epoch and tick {stamp}")
            pool, snapshot = self._begun.pop(stamp)
        try:
            return True, pool._calls.finish_snapshot(snapshot)
        except MemoryError as error:
            raise _no_memory(error) from error
        finally:
            snapshot.is_over = True

    def _awaits(self, stamp: Stamp) -> bool:
        """Return whether a call with this stamp may still come."""
        return self._accepts and stamp[0] == self._epoch and stamp[1] > self._tick

    def _forget_snapshots(self, but: int = 0) -> None:
        """Forget the oldest snapshots that nobody has fetched, as their fetching calls were lost."""
        while len(self._begun) > but:
            _, snapshot = self._begun.pop(next(iter(self._begun)))
            snapshot.is_over = True

    def replace(self, stamp: Stamp, states: Sequence[LSTMState]) -> None:
        """Make slots 0, 1, ... the live ones, with these states."""
        pool = self._enter(stamp)
        pool._calls.run(pool._slots.replace, np.arange(len(states[0].h)), states)


def _read(pool: StatePool[Any], slots: NumpyArray) -> list[LSTMState]:
    """Return the states of slots, some of them several times, one for each layer."""
    own, rows = np.unique(slots, return_inverse=True)
    found = pool.read(own)
    return [LSTMState(h=each.h[rows], c=each.c[rows]) for each in (found if isinstance(found, tuple) else (found,))]


def _no_memory(error: MemoryError) -> NoMemoryError:
    return NoMemoryError(f"no memory; nothing has changed: {error}")


def _check_same(got: NumpyArray, wanted: NumpyArray) -> None:
    if not np.array_equal(got, wanted):
        raise RuntimeError(f"the pool allocated the slots {got}, not {wanted}: this is a bug of fusedlstm")
