"""Forks: sessions that begin with the states of others, in the same shard or another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.errors import PoolFullError
from fusedlstm.ray.call import Call
from fusedlstm.ray.errors import LateShardsError
from fusedlstm.ray.router import Part, put, rows_of
from fusedlstm.ray.sessions import listed
from fusedlstm.validation.arguments import check_shape

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.call import Waiting
    from fusedlstm.ray.link import Sent
    from fusedlstm.ray.router import Router
    from fusedlstm.ray.sessions import Key
    from fusedlstm.state import LSTMState


class Forks:
    """Forks sessions. Children without room in their parents' shards move to other shards through this process.

    Args:
        router: finds sessions and sends calls.
    """

    def __init__(self, router: Router) -> None:
        self._router, self._shards = router, router.shards

    def fork(self, parents: Any, children: Any) -> Generator[Waiting, list[Any], None]:
        """Do a fork, and wait for it. See `ShardedPool.fork`."""
        with self._shards.lock:
            origins = listed("parents", parents)
            check_shape("children", (len(listed("children", children)),), "B", {"B": len(origins)})
            places = self._router.find("parents", origins, repeated=True)
            given = self._router.check_new("children", children)
            self._router.spread("children", len(given))  # raises if there are too many
            near, far, sent = self._fork_near(places, given)
            move = None
            if far:
                reads = [self._router.send(part, "read", part.slots) for part in far]
                move = Call(self._move(given, far, reads), self._shards.timeout)
                self._router.moving.update((given[row], move) for part in far for row in part.rows)
        delivered = yield from self._router.delivered(len(given), near, sent, later=far)
        if move is not None:
            delivered &= yield from move.follow(delivered)
        self._shards.tell(None, delivered)

    def _fork_near(self, places: NumpyArray, children: Sequence[Key]) -> tuple[list[Part], list[Part], list[Sent]]:
        """Fork in the parents' shards. Return the parts of children, those of the parents of others, and the calls."""
        sessions, ready = self._router.sessions, self._shards.ready()
        near, far, sent = [], [], []
        for shard, rows, slots in self._router.parts(places):
            room = sessions.capacity - sessions.live(shard)
            if room < len(rows):
                far.append(Part(shard, rows[room:], slots[room:]))
            part = Part(shard, rows[:room], sessions.next_slots(shard, min(room, len(rows))))
            if len(part.rows):
                if shard in ready:
                    sessions.open([children[row] for row in part.rows], shard, part.slots)
                near.append(part)
                sent.append(self._router.send(part, "fork", slots[:room], part.slots))
        return near, far, sent

    def _move(
        self, children: Sequence[Key], far: Sequence[Part], reads: Sequence[Sent]
    ) -> Generator[Waiting, list[Any], NumpyArray]:
        """Open children with the states that their parents' shards send. Return False for those that are not open."""
        came = np.zeros(len(children), np.bool_)
        states = self._router.zeros(len(children))

        def take(rows: NumpyArray, found: list[LSTMState]) -> None:
            came[rows] = True
            put(states, rows, found)

        moving = [children[row] for part in far for row in part.rows]
        replaced = self._router.sessions.replaced
        try:
            delivered = yield from self._router.delivered(len(children), far, reads, take)
            with self._shards.lock:
                self._forget(moving)
                if self._router.sessions.replaced > replaced:  # by a `load`, which replaced these children, too
                    return delivered
                rows = np.flatnonzero(came)
                keys = [children[row] for row in rows.tolist()]
                try:
                    parts, sent = self._router.open("children", keys, rows_of(states, rows))
                except PoolFullError:  # shards have died since
                    delivered[rows] = False
                    return delivered
        finally:
            self._forget(moving)
        parts = [part._replace(rows=rows[part.rows]) for part in parts]
        return delivered & (yield from self._router.delivered(len(children), parts, sent))

    def _forget(self, moving: Sequence[Key]) -> None:
        for key in moving:
            self._router.moving.pop(key, None)

    def finish(self, keys: Any = None) -> None:
        """Open the children that are on their way: those of these keys, or all, and those whose states have come.

        Raises:
            TimeoutError: a parent's shard has not answered in time.
        """
        with self._shards.lock:
            moving = dict(self._router.moving)
        named = set(moving) if keys is None else set(_readable(keys))
        for move in {id(each): each for each in moving.values()}.values():
            is_named = any(moving[key] is move for key in named & moving.keys())
            try:
                move.result(None if is_named else 0.0)
            except LateShardsError as late:
                if is_named:
                    said = f"sessions of this call are being forked, and shards {late.shards} have not answered yet"
                    raise TimeoutError(f"{said}. Nothing was done: call again") from None


def _readable(keys: Any) -> Sequence[Key]:
    """Return keys as a sequence, or none if they are wrong, as the call itself then raises."""
    try:
        return listed("keys", keys)
    except (TypeError, ValueError):
        return ()
