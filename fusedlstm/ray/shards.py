"""Shards: send calls to the actors, notice dead ones, and bring them back from their snapshots."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import threading
import time
import uuid
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import ray

from fusedlstm import log
from fusedlstm.ray import snapshots
from fusedlstm.ray.errors import SessionsLostError
from fusedlstm.ray.link import Link
from fusedlstm.ray.metrics import Metrics
from fusedlstm.ray.sessions import Sessions
from fusedlstm.ray.shard import OWN, Shard, StaleCallError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.link import Sent
    from fusedlstm.ray.sessions import Key

UNDELIVERED: Final = object()  # the result of a shard that died, or is not back yet
_PAUSE = 0.05  # seconds between attempts to reach a shard that restarts


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
        when: snapshots.Snapshots | None,
        timeout: float,
    ) -> None:
        self.lock = threading.RLock()
        self.name = uuid.uuid4().hex[:16]
        self.metrics = Metrics(self.name)
        self.timeout, self._when = timeout, when
        self._changed = threading.Condition(self.lock)
        self._weights = ray.put(weights)
        self._write = ray.remote(snapshots.write).options(num_cpus=0, max_retries=0)
        self._back: dict[Key, int] = {}
        self._lost: list[Key] = []
        self._causes: dict[int, str] = {}
        self._cause: Exception | None = None
        self._is_shut = False
        make = ray.remote(Shard).options(max_restarts=-1, max_task_retries=0, **actor)
        self.links = [Link(shard, make.remote(capacity, dict(options))) for shard in range(count)]
        self._begin_all()
        self.sessions = Sessions(count, capacity)  # the shards have checked the capacity

    def _begin_all(self) -> None:
        none = np.zeros(0, np.int64)
        begun = [link.actor.begin.remote(link.epoch, self._weights, None, none) for link in self.links]
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
        if self._is_shut:
            raise RuntimeError("this ShardedPool has been shut down")

    def ready(self) -> list[int]:
        """Return the shards that are ready."""
        return [link.shard for link in self.links if link.is_ready]

    def send_weights(self, weights: Any) -> list[Sent]:
        """Let all shards step with these weights from their next call on."""
        self._weights = ray.put(weights)
        return [link.send_or_keep("set_weights", self._weights) for link in self.links]

    def miss(self, keys: Sequence[Key]) -> None:
        """Count a change of each session that was not sent, because its shard is not ready."""
        for key in keys:
            self._back[key] = self._back.get(key, 0) + 1

    def not_lost(self, keys: Sequence[Key]) -> Sequence[Key]:
        """Return the keys without those of lost sessions that no caller has heard of."""
        return list(itertools.filterfalse(set(self._lost).__contains__, keys)) if self._lost else keys

    def has_news_of(self, places: NumpyArray) -> bool:
        """Return whether these sessions, in shards that are ready, have news that no call has told yet."""
        if not self._back:
            return False
        is_ready = np.array([link.is_ready for link in self.links])
        return self.has_news_of_keys(self.sessions.keys_at(places[is_ready[places // self.sessions.capacity]]))

    def has_news_of_keys(self, keys: Sequence[Key]) -> bool:
        """Return whether sessions of these keys have news that no call has told yet."""
        return not (self._back.keys() | set(self._lost)).isdisjoint(keys)

    def settle(self, sent: Sent, answer: Any) -> Any:
        """Return the result of a call, or UNDELIVERED, or another Sent to wait for first, if its shard is in doubt."""
        with self.lock:
            link = self.links[sent.shard]
            if link.epoch != sent.epoch:
                return UNDELIVERED if isinstance(answer, Exception) or isinstance(sent.reference, Future) else answer
            if isinstance(answer, Exception):
                self._doubt(link, answer)
                return sent._replace(reference=link.told)
            link.know(sent.tick)
            return answer

    def tell(self, result: Any, delivered: NumpyArray) -> Any:
        """Return the result of a call, unless a row was not delivered or sessions have news.

        Raises:
            SessionsLostError: rows were not delivered, or sessions went back or were lost since the last call.
        """
        with self.lock:
            back, lost, causes, cause = self._back, self._lost, self._causes, self._cause
            self._back, self._lost = {}, []
            if len(self.ready()) == self.count:
                self._causes, self._cause = {}, None
        if delivered.all() and not back and not lost:
            return result
        if not delivered.all():
            self.metrics.undelivered_rows.inc(int((~delivered).sum()))
        raise SessionsLostError(result, delivered, back, lost, dict(causes)) from cause

    def _doubt(self, link: Link, error: Exception) -> None:
        """Find out what a shard has done, after a call of it gave an error.

        Ray's errors don't say whether a shard is dead, or only the connection to it. So the shard is asked.
        """
        if isinstance(error, StaleCallError):
            self.metrics.refused.inc()
        if self._is_shut or not link.is_ready:
            return  # it is being asked
        self._cause, self._causes[link.shard] = error, _said(error)
        log.warning("shard %d gave an error instead of an answer: %s", link.shard, _said(error))
        if isinstance(error, ray.exceptions.RayTaskError) and not isinstance(
            error.cause, (StaleCallError, ray.exceptions.RayError)
        ):  # nobody knows whether its states are right
            log.warning("shard %d is killed and restored", link.shard)
            link.is_condemned = True  # the process may live on for a moment
            ray.kill(link.actor, no_restart=False)
        link.doubt()
        threading.Thread(target=self._revive, args=(link,), daemon=True).start()

    def _revive(self, link: Link) -> None:
        """Start the next epoch of a shard, with its own states if it is alive. Otherwise wait until it is restarted."""
        while not self._is_shut:
            try:
                stopped = self._stop(link)
                with self.lock:
                    kept = self._fall_back(link, stopped)
                self._begin(link, kept)
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError, StaleCallError):
                time.sleep(_PAUSE)
            except Exception as error:
                log.warning("shard %d can't be restored: %s", link.shard, _said(error))
                time.sleep(_PAUSE)
                with self.lock:  # the snapshot may be at fault: the next attempt goes without
                    if link.stopped is None:
                        link.drop_last()
                    self._causes[link.shard] = _said(error)
            else:
                return

    def _stop(self, link: Link) -> tuple[int, int]:
        """Stop a shard. Return where, or (0, 0) if it is dead.

        If the shard is on this machine, that is known before it restarts.
        """
        asked, end = link.actor.stop.remote(link.epoch), time.monotonic() + self.timeout
        while not ray.wait([asked], timeout=_PAUSE)[0]:
            if link.is_gone():
                return 0, 0
            if time.monotonic() > end:
                raise ray.exceptions.GetTimeoutError
        stopped: tuple[int, int] = ray.get(asked)
        return stopped

    def _fall_back(self, link: Link, stopped: tuple[int, int]) -> NumpyArray:
        """Take a shard's sessions back to what it has, or to its last snapshot. Return the slots that stay live."""
        is_alive = not link.is_condemned and (stopped[0] == link.epoch or stopped == link.stopped)
        link.is_condemned = False
        link.drop_pending()
        record = link.records()
        if is_alive:
            record = self.sessions.record(link.shard)
            link.undo(record, stopped[1])
        link.stopped = stopped if is_alive else None
        kept, back, lost = self.sessions.fall_back(link.shard, record)
        for key in lost:
            self._back.pop(key, None)
        for key, changes in back.items():
            self._back[key] = self._back.get(key, 0) + changes
        self._lost += lost
        if lost:
            self.metrics.lost_sessions.inc(len(lost))
        link.begin_epoch()
        return kept

    def _begin(self, link: Link, kept: NumpyArray) -> None:
        content = None if link.last is None else link.last.content
        is_alive = link.stopped is not None
        begun = link.actor.begin.remote(link.epoch, self._weights, OWN if is_alive else content, kept)
        about = ray.get(begun, timeout=self.timeout)
        with self.lock:
            link.become_ready(*about)
            if not is_alive:
                link.lives += 1
                self.metrics.restarts.inc()
                if len(kept):
                    self.metrics.restored_sessions.inc(len(kept))
            self._changed.notify_all()

    def wait(self, timeout: float | None) -> bool:
        """Wait until all shards are ready. Return whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.ready()) == self.count, timeout)

    def take_snapshots(self) -> None:
        """Send for the snapshots that are due."""
        if self._when is not None:
            for shard in self.ready():
                self.links[shard].take_if_due(self._when.is_due, self._take)

    def _take(self, link: Link) -> snapshots.Taken:
        record = self.sessions.record(link.shard)
        sent, content = link.snapshot()
        if self._when is not None and self._when.folder is not None:
            # Each has a path of its own, as a late write for a shard that died may still be running.
            path = f"{self._files_start(self._when.folder)}{link.shard}-{link.epoch}-{link.calls}.safetensors"
            return snapshots.Taken(self._write.remote(content, path, self._weights), path, record)
        return snapshots.Taken(sent.reference, content, record)

    def _files_start(self, folder: Any) -> str:
        return os.path.join(os.path.abspath(os.fsdecode(folder)), f"snapshot-{self.name}-")

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
            if self._is_shut:
                return
            self._is_shut = True
        for link in self.links:
            ray.kill(link.actor)
        if self._when is not None and self._when.folder is not None:
            for path in glob.glob(f"{glob.escape(self._files_start(self._when.folder))}*"):
                with contextlib.suppress(OSError):
                    os.unlink(path)


def _said(error: Exception) -> str:
    """Return an error's kind and its last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[-1]}"
