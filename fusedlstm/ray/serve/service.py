"""Service: open, step and close the sessions of a pool for many clients, in one event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm import log
from fusedlstm.errors import PoolFullError
from fusedlstm.ray.errors import LateShardsError, SessionsLostError
from fusedlstm.ray.serve import saved
from fusedlstm.ray.serve.messages import Message
from fusedlstm.ray.serve.open_sessions import NONE, OpenSessions
from fusedlstm.ray.serve.pools import check_served
from fusedlstm.ray.serve.sender import Sender, within
from fusedlstm.ray.serve.ticks import Ticks
from fusedlstm.validation.arguments import fail
from fusedlstm.validation.weights import as_layers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Sequence
    from typing import BinaryIO

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.serve.limits import Limits
    from fusedlstm.ray.serve.pools import Pool

_ATTEMPTS = 10


class DrainingError(RuntimeError):
    """The service is ending, so it takes nothing new."""


class Service:
    """The sessions of a pool, for many clients. Make it in the event loop in which it runs.

    Each of a session's steps has a number: 1, 2, ... A step that is asked for twice is done once.

    Args:
        pool: the states. The service must be the only one that uses it.
        limits: how to gather rows, and what to refuse.
        folder: where `drain` saves the sessions, and `start` gets them from; None for nowhere.

    Raises:
        ValueError: the pool has sessions, or its top layer is residual. A repeated step reads its output from the
            session's state, which lacks what a residual layer adds.
    """

    def __init__(self, pool: Pool, limits: Limits, folder: str | None = None) -> None:
        check_served("pool", pool.weights)
        layers = as_layers(pool.weights)
        if pool.keys:
            fail(ValueError, "pool", "a pool without sessions", f"{len(pool.keys)} sessions")
        self.input_size, self.width = layers.input_size, layers.output_size
        self.limits, self.is_draining = limits, False
        self.drained = asyncio.Event()
        self._pool, self._folder = pool, folder
        self._loop = asyncio.get_running_loop()
        self._sessions = OpenSessions(pool.capacity)
        self._sender = Sender(pool, self._sessions, self._hear, limits.answer_seconds)
        self._ticks = Ticks(self._sender, self._sessions, limits)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._heard = 0
        self._lock: BinaryIO | None = None
        self._is_fresh = False  # whether nothing has changed since sessions were loaded
        self._gone = {"lost": 0, "idle": 0}

    async def start(self) -> None:
        """Load the folder's sessions, if there are any, and prepare the pool for its largest tick.

        From the first use of the service on, they are not loaded again. If the service fails, they are lost, as the
        states in the folder are too old.

        Raises:
            OSError, WeightsFileError: the folder can't be read or written, another service uses it, or it was saved
                with other weights, or has more sessions than the capacity.
        """
        prepare = getattr(self._pool.aio, "prepare", None)
        if prepare is not None:
            await prepare(min(self.limits.max_rows, self._pool.capacity))
        if self._folder is not None:
            await self._load(self._folder)
        self._idle = self._loop.create_task(self._close_idle())

    async def _load(self, folder: str) -> None:
        await asyncio.to_thread(saved.probe, folder)
        self._lock = await asyncio.to_thread(saved.lock, folder, saved.LOCK_SECONDS)
        try:
            found = await asyncio.to_thread(saved.load, folder, self._pool)
        except BaseException:
            self._lock.close()
            raise
        self._sessions.add(list(found), self._loop.time(), found.values())
        self._is_fresh = bool(found)

    def _keep(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something to its end, even if the client that waits for it goes away."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _hear(self, error: SessionsLostError) -> None:
        """Take sessions back, or remove them, as a shard died."""
        self._heard += 1
        self._sessions.go_back(error.back)
        self._gone["lost"] += len(error.lost)
        self._sessions.remove(error.lost)

    def stats(self) -> dict[str, Any]:
        """Return counts, for `GET /sessions`."""
        return {
            "sessions": len(self._sessions),
            "capacity": self._pool.capacity,
            "waiting_rows": self._ticks.waiting,
            "ticks": self._ticks.count,
            "rows": self._sender.rows,
            "lost_sessions": self._gone["lost"],
            "idle_sessions": self._gone["idle"],
            "draining": self.is_draining,
        }

    async def open(self, keys: Sequence[str]) -> list[bool]:
        """Open the sessions that are not open yet. Return for each key whether it was new.

        Raises:
            PoolFullError: there is no room for all of them. None is opened then.
            DrainingError: the service is ending.
        """
        return await asyncio.shield(self._keep(self._open(keys)))

    async def _open(self, keys: Sequence[str]) -> list[bool]:
        for _ in range(_ATTEMPTS):
            self._check_takes_more()
            new = [key for key in dict.fromkeys(keys) if key not in self._sessions]
            if len(new) + len(self._sessions) > self._sessions.capacity:
                raise PoolFullError(f"there is no room for {len(new)} more sessions")
            try:
                call = self._pool.aio.open(new) if new else None
            except SessionsLostError as error:  # it only reported news
                self._hear(error)
                continue
            except PoolFullError as error:
                raise PoolFullError(f"there is no room for {len(new)} more sessions") from error
            self._sessions.add(new, self._loop.time())
            if call is not None:
                self._retire_saved()
                await self._answer(call)
            self._sessions.used[self._sessions.slots(filter(self._sessions.__contains__, keys))] = self._loop.time()
            fresh = set(new)
            return [key in fresh for key in keys]
        raise PoolFullError("shards are restarting: try again")

    async def close(self, keys: Sequence[str]) -> None:
        """Close those of these sessions that are open. Their rows that still wait are not stepped.

        Raises:
            DrainingError: the service is ending.
        """
        await asyncio.shield(self._keep(self._close(keys)))

    async def _close(self, keys: Sequence[str]) -> None:
        self._check_takes_more()
        there = [key for key in dict.fromkeys(keys) if key in self._sessions]
        if there:
            self._retire_saved()
            self._sessions.remove(there)
            await self._answer(self._pool.aio.close(there))

    def _check_takes_more(self) -> None:
        if self.is_draining:
            raise DrainingError("the service is ending")

    def _retire_saved(self) -> None:
        """Let the folder have no sessions. Call this at each change, as the first one makes saved states old."""
        if self._is_fresh and self._folder is not None:
            try:
                saved.retire(self._folder)
            except OSError as error:  # the service goes on. At its end it tries to save its sessions there
                log.warning("%s can't be changed, so remove it if the service fails: %s", self._folder, error)
        self._is_fresh = False

    async def _answer(self, call: Awaitable[None]) -> None:
        """Wait for an `open` or `close`, and hear what it reports. A late one goes on, as later calls follow it."""
        try:
            await within(call, self.limits.answer_seconds)
        except SessionsLostError as error:
            self._hear(error)
        except LateShardsError as error:
            self._keep(self._answer(error.call))

    async def _close_idle(self) -> None:
        seconds = self.limits.idle_seconds
        while seconds is not None and not self.is_draining:
            await asyncio.sleep(min(seconds / 4, 10.0))
            unused = self._sessions.unused_since(self._loop.time() - seconds)
            if unused:
                self._gone["idle"] += len(unused)
                try:
                    await self.close(unused)
                except Exception as error:
                    log.warning("%d unused sessions were not closed: %s", len(unused), error)

    def find(self, keys: Sequence[str]) -> tuple[NumpyArray, NumpyArray]:
        """Return the handle of each session and the number of its next step, both 0 if it is not open."""
        slots = np.array([self._sessions.slot(key) for key in keys], np.int64)
        is_open = slots != NONE
        handles = np.where(is_open, self._sessions.handles(slots), np.uint64(0))
        return handles, np.where(is_open, self._sessions.next[slots], 0)

    def keys_of(self, handles: NumpyArray) -> list[str]:
        """Return the keys of those of these sessions that are open, each once."""
        slots = np.unique(self._sessions.find(handles))
        return self._sessions.keys_at(slots[slots != NONE])

    def submit(self, handles: NumpyArray, sequence: NumpyArray, x: NumpyArray, deadline_ms: int = 0) -> Message:
        """Ask for steps. Wait for them with `await message.done`."""
        deadline = {} if deadline_ms == 0 else {"deadline": self._loop.time() + deadline_ms / 1000}
        message = Message(handles, sequence, x, self.width, **deadline)
        if self.is_draining:
            self._sender.refuse(message, np.arange(len(message)))
        else:
            if self._is_fresh and (self._sessions.find(handles) != NONE).any():
                self._retire_saved()
            self._ticks.add(message)
        return message

    async def drain(self) -> None:
        """Take nothing new, finish the rows that wait, and save all sessions, if there is a folder.

        Raises:
            OSError: the folder can't be written.
            TimeoutError: a shard is not back in time.
        """
        if self.is_draining:
            await self.drained.wait()
            return
        self.is_draining = True
        try:
            await self._ticks.finish(self.limits.drain_seconds)
            self._idle.cancel()
            await asyncio.wait({*self._tasks, self._idle})
            if self._folder is not None:
                await self._save(self._folder)
        except Exception as error:
            log.warning("the sessions were not saved: %s", error)
            raise
        finally:
            if self._lock is not None:
                self._lock.close()
            self.drained.set()

    async def _save(self, folder: str) -> None:
        for _ in range(_ATTEMPTS):
            heard = self._heard
            try:
                await asyncio.to_thread(saved.save, folder, self._pool, self._sessions.numbers())
            except SessionsLostError as error:
                self._hear(error)
            if heard == self._heard:
                return
        raise TimeoutError(f"{folder} was not written: shards are restarting")
