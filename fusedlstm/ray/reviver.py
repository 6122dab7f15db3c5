"""Reviver: finds out what a shard did after a call failed, and brings it back with its own states or a snapshot."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import ray

from fusedlstm import log
from fusedlstm.ray.news import said
from fusedlstm.ray.shard import OWN, StaleCallError
from fusedlstm.ray.snapshots import SnapshotError

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.link import Link
    from fusedlstm.ray.shards import Shards

_PAUSE = 0.05  # seconds between attempts to reach a shard that restarts


class Reviver:
    """Brings shards back, each in a thread of its own. Hold the pool's lock for `doubt` and `restart`.

    Args:
        shards: all shards of a pool.
    """

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def doubt(self, link: Link, error: Exception) -> None:
        """Find out what a shard has done, after a call of it gave an error.

        Ray's errors don't say whether a shard is dead, or only the connection to it. So the shard is asked.
        """
        if isinstance(error, StaleCallError):
            self._shards.metrics.refused.inc()
        if self._shards.is_shut or not link.is_ready:
            return  # it is being asked
        self._shards.news.blame(link.shard, error)
        log.warning("shard %d gave an error instead of an answer: %s", link.shard, said(error))
        if isinstance(error, ray.exceptions.RayTaskError) and not isinstance(
            error.cause, (StaleCallError, ray.exceptions.RayError)
        ):  # nobody knows whether its states are right
            self._kill(link)
        self._start(link)

    def restart(self, link: Link) -> None:
        """Kill a shard's process, and restore its last snapshot."""
        self._shards.news.blame(link.shard, RuntimeError("it was restarted by ShardedPool.restart"))
        self._kill(link)
        if link.is_ready:
            self._start(link)

    def _kill(self, link: Link) -> None:
        log.warning("shard %d is killed and restored", link.shard)
        link.is_condemned = True  # the process may live on for a moment
        ray.kill(link.actor, no_restart=False)

    def _start(self, link: Link) -> None:
        link.doubt()
        threading.Thread(target=self._revive, args=(link,), daemon=True).start()

    def _revive(self, link: Link) -> None:
        """Start the next epoch of a shard, with its own states if it is alive. Otherwise wait until it is restarted."""
        failing_since = None
        while not self._shards.is_shut:
            try:
                stopped = self.stop(link)
                with self._shards.lock:
                    if stopped[0] < 0:  # a change failed, which no call has told
                        self._kill(link)
                    kept = self._fall_back(link, stopped)
                if link.is_condemned:
                    self._see_it_end(link)
                self.begin(link, kept)
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError, StaleCallError):
                time.sleep(_PAUSE)
            except Exception as error:
                log.warning("shard %d can't be restored: %s", link.shard, said(error))
                failing_since = failing_since or time.monotonic()
                time.sleep(_PAUSE)
                with self._shards.lock:
                    self._shards.news.blame(link.shard, error)
                    if self._is_lost(error, time.monotonic() - failing_since):
                        link.drop_last()
            else:
                return

    def _is_lost(self, error: Exception, seconds: float) -> bool:
        """Return whether a snapshot can't be restored any more, after attempts for these seconds.

        A folder on another machine, a GPU or memory may only be missing for a while.
        """
        if isinstance(error, ray.exceptions.ObjectLostError):
            return True
        return isinstance(error, SnapshotError) and (error.is_lost or seconds > self._shards.timeout)

    def stop(self, link: Link) -> tuple[int, int]:
        """Stop a shard. Return where, or (0, 0) if it is dead or condemned.

        If the shard is on this machine, that is known before it restarts.
        """
        if link.is_condemned:
            return 0, 0
        asked, end = link.actor.stop.remote(link.epoch), time.monotonic() + self._shards.timeout
        while not ray.wait([asked], timeout=_PAUSE)[0]:
            if link.is_condemned or link.is_gone():
                return 0, 0
            if time.monotonic() > end:
                raise ray.exceptions.GetTimeoutError
        stopped: tuple[int, int] = ray.get(asked)
        return stopped

    def _see_it_end(self, link: Link) -> None:
        """Wait until a condemned process is gone. It could still do a `begin`, which would be lost with it."""
        while ray.get(link.actor.stop.remote(link.epoch), timeout=self._shards.timeout)[0]:
            time.sleep(_PAUSE)
        link.is_condemned = False

    def _fall_back(self, link: Link, stopped: tuple[int, int]) -> NumpyArray:
        """Take a shard's sessions back to what it has, or to its last snapshot. Return the slots that stay live."""
        sessions = self._shards.sessions
        is_alive = not link.is_condemned and (stopped[0] == link.epoch or stopped == link.stopped)
        link.drop_pending()
        record = link.records()
        if is_alive:
            record = sessions.record(link.shard)
            link.undo(record, stopped[1])
        link.stopped = stopped if is_alive else None
        kept, back, lost = sessions.fall_back(link.shard, record)
        self._shards.news.fell_back(back, lost)
        if lost:
            self._shards.metrics.lost_sessions.inc(len(lost))
        link.begin_epoch()
        return kept

    def begin(self, link: Link, kept: NumpyArray) -> None:
        """Give a shard its states, and send it the calls that were kept."""
        content = None if link.last is None else link.last.content
        is_alive = link.stopped is not None
        states = OWN if is_alive else content
        begun = link.actor.begin.remote(link.epoch, self._shards.weights, states, kept, self._shards.max_batch)
        about = ray.get(begun, timeout=self._shards.timeout)
        with self._shards.lock:
            link.become_ready(*about)
            if not is_alive:
                link.lives += 1
                self._shards.metrics.restarts.inc()
                if len(kept):
                    self._shards.metrics.restored_sessions.inc(len(kept))
            self._shards.changed.notify_all()
