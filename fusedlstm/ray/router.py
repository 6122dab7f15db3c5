"""Router: finds the shards and slots of a call's sessions, and sends each shard its part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.ray.gather import gather
from fusedlstm.state import LSTMState
from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.call import Call, Waiting
    from fusedlstm.ray.link import Sent
    from fusedlstm.ray.sessions import Key
    from fusedlstm.ray.shards import Shards


class Part(NamedTuple):
    """One shard's rows of a call, and their slots there."""

    shard: int
    rows: NumpyArray
    slots: NumpyArray


class Router:
    """Sends calls to shards. Hold the pool's lock.

    Args:
        shards: all shards.
        layers: the weights, as StackedWeights.

    Attributes:
        moving: sessions that open in another shard than that of their parents, once the call there is done.
    """

    def __init__(self, shards: Shards, layers: Any) -> None:
        self.shards, self.sessions, self._capacity = shards, shards.sessions, shards.sessions.capacity
        self._dtype = layers.dtype
        self._sizes = [
            (layer.output_size, layer.hidden_size, dtypes.state_dtype(layers.dtype)) for layer in layers.layers
        ]
        self.moving: dict[Key, Call[NumpyArray]] = {}

    def parts(self, places: NumpyArray) -> list[Part]:
        """Group rows by shard."""
        shards, slots = np.divmod(places, self._capacity)
        return [Part(shard, rows, slots[rows]) for shard, rows in _grouped(shards, self.shards.count)]

    def find(
        self, name: str, given: Sequence[Key], result: Any = None, *, repeated: bool = False, changes: bool = False
    ) -> NumpyArray:
        """Return the places of open sessions. Raise SessionsLostError if one has news that no call has told yet.

        Otherwise a shard that is back would do this call on restored states before its caller knows that they are
        restored. With `changes`, the call is a change, and the error counts it among those that are not done.
        """
        news = self.shards.news
        left = news.not_lost(given)
        places = self.sessions.places(name, left, repeated=repeated)
        if len(left) < len(given) or self.shards.has_news_of(places):
            if changes:
                news.miss(self.sessions.keys_at(places))
            self._tell_first(len(given), result)
        return places

    def check_new(self, name: str, keys: Any) -> list[Key]:
        """Return the keys of new sessions. Raise SessionsLostError if one has news that no call has told yet."""
        given = self.sessions.check_new(name, keys)
        for row, key in enumerate(given if self.moving else ()):
            if key in self.moving:
                fail(ValueError, name, "keys of no open session, each once", f"{key!r} (row {row}), which is open")
        if self.shards.news.is_of(given):
            self._tell_first(len(given))
        return given

    def _tell_first(self, B: int, result: Any = None) -> None:
        self.shards.tell(result, np.zeros(B, np.bool_))

    def send(self, part: Part, method: str, *arguments: Any, changes: bool = False) -> Sent:
        """Send a shard its part. With `changes`, count a change of its sessions."""
        sent = self.shards.links[part.shard].send(method, *arguments)
        if changes:
            places = part.shard * self._capacity + part.slots
            if sent.reference is None:
                self.shards.news.miss(self.sessions.keys_at(places))
            else:
                self.sessions.change(places)
        return sent

    def spread(self, name: str, n: int) -> NumpyArray:
        """Return the shards of n new sessions, sorted. Raise PoolFullError if there is no room."""
        return self.sessions.spread(name, n, self.shards.ready(), len(self.moving))

    def open(
        self, name: str, keys: Sequence[Key], states: Sequence[LSTMState] | None = None
    ) -> tuple[list[Part], list[Sent]]:
        """Open sessions in the emptiest shards, with zeros or the rows of some states."""
        shards = self.spread(name, len(keys))
        parts, sent = [], []
        for shard, rows in _grouped(shards, self.shards.count):
            slots = self.sessions.next_slots(shard, len(rows))
            self.sessions.open([keys[row] for row in rows], shard, slots)
            parts.append(Part(shard, rows, slots))
            own = () if states is None else (rows_of(states, rows),)
            sent.append(self.send(parts[-1], "allocate", slots, *own))
        return parts, sent

    def delivered(
        self,
        B: int,
        parts: Sequence[Part],
        sent: Sequence[Sent],
        take: Callable[[NumpyArray, Any], None] | None = None,
        result: Any = None,
        later: Sequence[Part] = (),
    ) -> Generator[Waiting, list[Any], NumpyArray]:
        """Wait for the parts of a call. See `gather`. Rows of `later` are those of another call."""
        rows, others = ([part.rows for part in each] for each in (parts, later))
        return gather(self.shards, B, rows, sent, take, result, others)

    def zeros(self, B: int) -> list[LSTMState]:
        """Return B states of zeros, for each layer."""
        return [LSTMState(h=np.zeros((B, P), self._dtype), c=np.zeros((B, N), c)) for P, N, c in self._sizes]


def _grouped(shards: NumpyArray, count: int) -> list[tuple[int, NumpyArray]]:
    """Return the rows of each shard that has some, in order."""
    if not len(shards):
        return []
    order = np.argsort(shards.astype(np.uint16), kind="stable")  # a radix sort
    ends = np.cumsum(np.bincount(shards, minlength=count))
    return [(shard, rows) for shard, rows in enumerate(np.split(order, ends[:-1])) if len(rows)]


def put(states: Sequence[LSTMState], rows: NumpyArray, found: Sequence[LSTMState]) -> None:
    """Copy each layer's rows to their places."""
    for own, one in zip(states, found, strict=True):
        own.h[rows], own.c[rows] = one.h, one.c


def rows_of(states: Sequence[LSTMState], rows: NumpyArray) -> list[LSTMState]:
    """Return copies of some rows of each layer's states."""
    return [LSTMState(h=each.h[rows], c=each.c[rows]) for each in states]
