"""Shards: all shards of a pool and its sessions, and what their calls' answers mean."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import ray

from fusedlstm.ray.errors import SessionsLostError
from fusedlstm.ray.link import Link
from fusedlstm.ray.metrics import Metrics
from fusedlstm.ray.news import News
from fusedlstm.ray.reviver import Reviver
from fusedlstm.ray.sessions import Sessions
from fusedlstm.ray.shard import COPIES, NoMemoryError, Shard
from fusedlstm.ray.snapshot_taker import SnapshotTaker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.link import Sent
    from fusedlstm.ray.snapshots import Snapshots

UNDELIVERED: Final = object()  # the result of a shard that died, or is not back yet


class ShardStats(NamedTuple):
    """What is known about a shard.

    Args:
        is_ready: False while it restarts.
        sessions: the number of its open sessions.
        lives: 1, plus one for each time that it died and was restored.
        calls: the number of calls sent to it since it was last made ready, after a restart or an unanswered call.
        process: the ID of its process.
        machine: the address of its machine.
    """

    is_ready: bool
    sessions: int
    lives: int
    calls: int
    process: int
    machine: str


class Shards:
    """All shards of a pool, and its sessions. Hold `lock` from finding sessions until their calls are sent.

    Args:
        weights: the weights of all shards.
        count: the number of shards.
        capacity: the number of slots of each.
        options: the options of the LSTMCell or LSTM.
        actor: Ray's options of the actors.
        when: when to take snapshots; None for never.
        timeout: the seconds to wait for a shard's answer each time.
    """

    def __init__(
        self,
        weights: Any,
        count: int,
        capacity: int,
        options: Mapping[str, Any],
        actor: Mapping[str, Any],
        when: Snapshots | None,
        timeout: float,
    ) -> None:
        self.lock = threading.RLock()
        self.name = uuid.uuid4().hex[:16]
        self.metrics, self.news = Metrics(self.name), News()
        self.timeout = timeout
        self.changed = threading.Condition(self.lock)
        self.weights, self.max_batch = ray.put(weights), 0
        self.snapshots = None if when is None else SnapshotTaker(when, self.name)
        self.is_shut = False
        self._reviver = Reviver(self)
        kind = ray.remote(concurrency_groups={COPIES: 1})(Shard)
        make = kind.options(max_restarts=-1, max_task_retries=0, **actor)
        self.links = [Link(shard, make.remote(capacity, dict(options))) for shard in range(count)]
        self._begin_all()
        self.sessions = Sessions(count, capacity)  # the shards have checked the capacity

    def _begin_all(self) -> None:
        none = np.zeros(0, np.int64)
        begun = [link.actor.begin.remote(link.epoch, self.weights, None, none, 0) for link in self.links]
        try:
            for link, about in zip(self.links, ray.get(begun, timeout=self.timeout), strict=True):
                link.become_ready(*about)
        except ray.exceptions.GetTimeoutError as error:
            self.shut_down()
            raise TimeoutError(
                f"not all of {len(self.links)} shards were ready after {self.timeout:g} seconds. Are there CPUs and "
                f"GPUs for them? The cluster has {ray.cluster_resources()}"
            ) from error
        except BaseException as error:
            self.shut_down()
            if isinstance(error, ray.exceptions.RayTaskError):
                raise error.cause from None  # such as BackendUnavailableError
            raise

    @property
    def count(self) -> int:
        """The number of shards."""
        return len(self.links)

    def check_open(self) -> None:
        """Raise RuntimeError after `shut_down`."""
        if self.is_shut:
            raise RuntimeError("this ShardedPool has been shut down")

    def ready(self) -> list[int]:
        """Return the shards that are ready."""
        return [link.shard for link in self.links if link.is_ready]

    def send_weights(self, weights: Any) -> list[Sent]:
        """Let all shards step with these weights from their next call on."""
        self.weights = ray.put(weights)
        return [link.send_or_keep("set_weights", self.weights) for link in self.links]

    def send_prepare(self, max_batch: int) -> list[Sent]:
        """Let all shards prepare for steps of so many rows, also those that begin later."""
        self.max_batch = max(self.max_batch, min(max_batch, self.sessions.capacity))
        return [link.send_or_keep("prepare", self.max_batch) for link in self.links]

    def has_news_of(self, places: NumpyArray) -> bool:
        """Return whether these sessions, in shards that are ready, have news that no call has told yet."""
        if not self.news.has_back:
            return False
        is_ready = np.array([link.is_ready for link in self.links])
        return self.news.is_of(self.sessions.keys_at(places[is_ready[places // self.sessions.capacity]]))

    def settle(self, sent: Sent, answer: Any) -> Any:
        """Return the result of a call, or UNDELIVERED, or another Sent to wait for first, if its shard is in doubt."""
        with self.lock:
            link = self.links[sent.shard]
            if link.epoch != sent.epoch:
                return UNDELIVERED if isinstance(answer, Exception) or isinstance(sent.reference, Future) else answer
            if isinstance(answer, NoMemoryError):
                self.news.blame(link.shard, answer)
                answer = UNDELIVERED
            if self.is_shut and (isinstance(answer, Exception) or isinstance(sent.reference, Future)):
                self.check_open()
            if isinstance(answer, Exception):
                self._reviver.doubt(link, answer)
                return sent._replace(reference=link.told)
            link.know(sent.tick)
            return answer

    def tell(self, result: Any, delivered: NumpyArray) -> Any:
        """Return the result of a call, unless a row was not delivered or sessions have news.

        Raises:
            SessionsLostError: rows were not delivered, or sessions went back or were lost since the last call.
        """
        with self.lock:
            (back, lost), (causes, cause) = self.news.take(), self.news.why()
            if len(self.ready()) == self.count:
                self.news.forget_why()
        if delivered.all() and not back and not lost:
            return result
        if not delivered.all():
            self.metrics.undelivered_rows.inc(int((~delivered).sum()))
        raise SessionsLostError(result, delivered, back, lost, causes) from cause

    def restart(self, shard: int) -> None:
        """Kill a shard's process, and restore its last snapshot."""
        with self.lock:
            self._reviver.restart(self.links[shard])

    def wait(self, timeout: float | None) -> bool:
        """Wait until all shards are ready. Return whether they are. Raise RuntimeError after `shut_down`."""
        with self.changed:
            are_ready = self.changed.wait_for(lambda: self.is_shut or len(self.ready()) == self.count, timeout)
            self.check_open()
            return are_ready

    def take_snapshots(self) -> None:
        """Send for the snapshots that are due."""
        if self.snapshots is not None:
            for shard in self.ready():
                self.snapshots.take_if_due(self.links[shard], self.sessions.record, self.weights)

    def stats(self) -> list[ShardStats]:
        """Return what is known about each shard."""
        with self.lock:
            return [
                ShardStats(
                    is_ready=link.is_ready,
                    sessions=self.sessions.live(link.shard),
                    lives=link.lives,
                    calls=link.calls,
                    process=link.process,
                    machine=link.machine,
                )
                for link in self.links
            ]

    def shut_down(self) -> None:
        """Kill the actors, and remove the files of snapshots."""
        with self.lock:
            if self.is_shut:
                return
            self.is_shut = True
            self.changed.notify_all()
            for link in self.links:
                link.end_doubt()  # calls that wait for it raise
        for link in self.links:
            ray.kill(link.actor)
        if self.snapshots is not None:
            self.snapshots.remove_files(self.timeout)
