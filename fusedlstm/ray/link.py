"""Link: our end of one shard, with its epoch, its ticks and its snapshots."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

from fusedlstm import log
from fusedlstm.ray.news import said

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedlstm.ray.sessions import Record
    from fusedlstm.ray.snapshots import Taken


# The calls that change sessions: which argument has their slots, and whether it adds them.
_CHANGES = {
    "step": (1, False),
    "reset": (0, False),
    "write": (0, False),
    "allocate": (0, True),
    "fork": (1, True),
    "replace": (0, True),
}


class Sent(NamedTuple):
    """A call to one shard. The reference is None if the shard was not ready, so that nothing was sent.

    If it is a Future, it is not known yet whether the shard did the call. The Future is done once that is known.
    """

    shard: int
    epoch: int
    tick: int
    reference: Any


class Link:
    """One shard, as its pool knows it.

    Args:
        shard: the shard's number.
        actor: the handle of its actor.
    """

    def __init__(self, shard: int, actor: Any) -> None:
        self.shard, self.actor = shard, actor
        self._call = actor.call
        self.epoch, self._tick = 1, 0
        self.is_ready, self.lives = False, 1
        self.process, self.machine, self._place = 0, "", ""
        self.is_condemned = False  # whether its process is being killed, so that its states don't count
        self.stopped: tuple[int, int] | None = None  # where the shard was stopped, if it has its states
        self.told = _running()  # done when it is known what the shard did in this epoch
        self._unsure: deque[tuple[int, Any, bool]] = deque()  # calls that it may not have done
        self.last: Taken | None = None  # the last whole snapshot
        self._later: list[tuple[Any, ...]] = []  # calls to send when the shard is ready
        self._pending: Taken | None = None
        self._tried = 0, time.monotonic()  # the tick and time of the last snapshot, whole or not

    @property
    def calls(self) -> int:
        """The number of calls in this epoch."""
        return self._tick

    def is_gone(self) -> bool:
        """Return whether it is certain that the shard's process has ended. On other machines it never is."""
        if not self._place or self._place != place():
            return False
        try:
            os.kill(self.process, 0)
        except OSError as error:  # PermissionError: it runs, as another user
            return isinstance(error, ProcessLookupError)
        return False

    def _stamp(self) -> tuple[int, int]:
        self._tick += 1
        return self.epoch, self._tick

    def send(self, method: str, *arguments: Any) -> Sent:
        """Send a call, if the shard is ready."""
        if not self.is_ready:
            return Sent(self.shard, self.epoch, self._tick, None)
        stamp = self._stamp()
        if method in _CHANGES:
            where, adds = _CHANGES[method]
            slots = slice(None) if method == "replace" else arguments[where]
            self._unsure.append((stamp[1], slots, adds))
        return Sent(self.shard, *stamp, self._call.remote((method, stamp, *arguments)))

    def know(self, tick: int) -> None:
        """Record that the shard has done its calls up to this one."""
        while self._unsure and self._unsure[0][0] <= tick:
            self._unsure.popleft()

    def undo(self, record: Record, tick: int) -> None:
        """Take a record of the shard's sessions back to the moment after this tick.

        Sessions that were closed since are not put back.
        """
        for at, slots, adds in reversed(self._unsure):
            if at > tick:
                if adds:
                    record.numbers[slots] = 0
                else:
                    record.changes[slots] -= 1

    def send_or_keep(self, method: str, *arguments: Any) -> Sent:
        """Send a call, now or when the shard is ready again."""
        sent = self.send(method, *arguments)
        if sent.reference is None:
            self._later.append((method, *arguments))
        return sent

    def snapshot(self) -> tuple[Sent, Sent, Any]:
        """Send for a snapshot of this moment. The shard's other calls don't wait for it.

        Returns:
            The call that begins it, the call that fetches it, whose answer is small, and a reference to the states.
        """
        stamp = self._stamp()
        begun = self._call.remote(("begin_snapshot", stamp))
        done, content = self.actor.snapshot.options(num_returns=2).remote(stamp)
        return Sent(self.shard, *stamp, begun), Sent(self.shard, *stamp, done), content

    def doubt(self) -> None:
        """Stop sending calls until it is known what the shard did."""
        self.is_ready, self.told = False, _running()

    def begin_epoch(self) -> None:
        """Count an epoch. Calls of the one before are refused from its `begin` on."""
        self.is_ready = False
        self.epoch, self._tick = self.epoch + 1, 0
        self._tried = 0, time.monotonic()
        self._later.clear()
        self._unsure.clear()
        self.end_doubt()
        self.told = _running()

    def end_doubt(self) -> None:
        """Let calls go on that wait until it is known what the shard did."""
        if not self.told.done():
            self.told.set_result(None)

    def become_ready(self, process: int, machine: str, where: str) -> None:
        """Accept calls, and send those that were kept."""
        self.process, self.machine, self.is_ready, self.stopped = process, machine, True, None
        self._place = where
        for method, *arguments in self._later:
            self.send(method, *arguments)
        self._later.clear()

    def take_if_due(self, is_due: Callable[[int, float], bool], take: Callable[[], Taken]) -> None:
        """Take a snapshot if it is time, and the one before is not running any more."""
        tick, at = self._tried
        now = time.monotonic()
        if is_due(self._tick - tick, now - at) and self.settle_snapshot():
            self._pending = take()
            self._tried = self._tick, now

    def settle_snapshot(self) -> bool:
        """Keep the pending snapshot if it is whole, and drop it if it failed. Return False if it is running."""
        if self._pending is not None:
            if not self._pending.is_ready():
                return False
            error = self._pending.error()
            if error is None:
                self.drop_last()
                self.last = self._pending
            elif self.is_ready:  # otherwise more than a snapshot failed
                log.warning("a snapshot of shard %d failed: %s", self.shard, said(error))
            self._pending = None
        return True

    def drop_pending(self) -> None:
        """Keep the pending snapshot if it is whole. Forget it otherwise."""
        self.settle_snapshot()
        self._pending = None

    def drop_last(self) -> None:
        """Forget the last snapshot, and remove its file if it has one."""
        if self.last is not None and isinstance(self.last.content, str):
            with contextlib.suppress(OSError):
                os.unlink(self.last.content)
        self.last = None

    def records(self) -> Record | None:
        """Return the sessions in the last snapshot; None without one."""
        return None if self.last is None else self.last.record


def place() -> str:
    """Return a name of this machine and of its container's process numbers, or "" if they are not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _running() -> Future[None]:
    """Return a Future that nobody can cancel."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future
