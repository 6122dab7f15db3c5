"""ShardCalls: the calls of a sharded pool, each sent at once and waited for later."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.arrays.exchange import Exchange
from fusedlstm.backends.select import choose
from fusedlstm.owner_states import OwnerStates, first_array
from fusedlstm.ray.call import Call
from fusedlstm.ray.gather import Part, gather
from fusedlstm.ray.sessions import listed
from fusedlstm.state import LSTMState
from fusedlstm.validation.arguments import check_shape
from fusedlstm.validation.weights import as_layers, check_replacement
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.call import Waiting
    from fusedlstm.ray.link import Sent
    from fusedlstm.ray.sessions import Key
    from fusedlstm.ray.shards import Shards

_MAKER = "numpy.asarray"


class ShardCalls:
    """The methods of a ShardedPool for asyncio, or for sending several calls at once. See `ShardedPool.aio`.

    Each method is ShardedPool's method of the same name, and takes the same arguments. It sends the call to its shards
    and returns a Call. Wait for its result once, with `await call` or `call.result()`. Calls run in the order in which
    they were sent.

    Bad arguments raise at once, before anything is sent. So does a SessionsLostError that only reports earlier changes.
    """

    def __init__(self, shards: Shards, weights: Any) -> None:
        self._shards, self._sessions, self._capacity = shards, shards.sessions, shards.sessions.capacity
        self.weights = weights
        self._is_single = isinstance(weights, LSTMWeights)
        layers = as_layers(weights)
        self._backend = choose("numpy")
        self._states = OwnerStates(self._backend, layers, is_single=self._is_single, maker=_MAKER)
        self._checks = self._states.layer_checks[0]
        self._width, self._dtype = layers.output_size, layers.dtype
        self._sizes = [
            (layer.output_size, layer.hidden_size, dtypes.state_dtype(layers.dtype)) for layer in layers.layers
        ]

    def _call(self, work: Generator[Waiting, list[Any], Any]) -> Call[Any]:
        self._shards.check_open()
        return Call(work, self._shards.timeout)

    def open(self, keys: Any) -> Call[None]:
        """See `ShardedPool.open`."""
        return self._call(self._open(keys))

    def close(self, keys: Any) -> Call[None]:
        """See `ShardedPool.close`."""
        return self._call(self._close(keys))

    def step(self, x: NumpyArray, keys: Any, *, is_first: Any = None) -> Call[NumpyArray]:
        """See `ShardedPool.step`."""
        return self._call(self._step(x, keys, is_first))

    def reset(self, keys: Any) -> Call[None]:
        """See `ShardedPool.reset`."""
        return self._call(self._reset(keys))

    def read(self, keys: Any) -> Call[Any]:
        """See `ShardedPool.read`."""
        return self._call(self._read(keys))

    def write(self, keys: Any, state: Any) -> Call[None]:
        """See `ShardedPool.write`."""
        return self._call(self._write(keys, state))

    def fork(self, parents: Any, children: Any) -> Call[None]:
        """See `ShardedPool.fork`."""
        return self._call(self._fork(parents, children))

    def set_weights(self, weights: Any) -> Call[None]:
        """See `ShardedPool.set_weights`."""
        return self._call(self._set_weights(weights))

    # Each generator checks its arguments and sends its calls before its first yield, and holds the lock until then.

    def _parts(self, places: NumpyArray) -> list[Part]:
        """Group rows by shard."""
        shards, slots = np.divmod(places, self._capacity)
        return [Part(shard, rows, slots[rows]) for shard, rows in _grouped(shards, self._shards.count)]

    def _find(
        self, name: str, given: Sequence[Key], result: Any = None, *, repeated: bool = False, changes: bool = False
    ) -> NumpyArray:
        """Return the places of open sessions. Raise SessionsLostError if one has news that no call has told yet.

        Otherwise a shard that is back would do this call on restored states before its caller knows that they are
        restored. With `changes`, the call is a change, and the error counts it among those that are not done.
        """
        left = self._shards.not_lost(given)
        places = self._sessions.find(name, left, repeated=repeated)
        if len(left) < len(given) or self._shards.has_news_of(places):
            if changes:
                self._shards.miss(self._sessions.keys_at(places))
            self._tell_first(len(given), result)
        return places

    def _check_new(self, name: str, keys: Any) -> list[Key]:
        """Return the keys of new sessions. Raise SessionsLostError if one has news that no call has told yet."""
        given = self._sessions.check_new(name, keys)
        if self._shards.has_news_of_keys(given):
            self._tell_first(len(given))
        return given

    def _tell_first(self, B: int, result: Any = None) -> None:
        self._shards.tell(result, np.zeros(B, np.bool_))

    def _send(self, part: Part, method: str, *arguments: Any, changes: bool = False) -> Sent:
        sent = self._shards.links[part.shard].send(method, *arguments)
        if changes:
            places = part.shard * self._capacity + part.slots
            if sent.reference is None:
                self._shards.miss(self._sessions.keys_at(places))
            else:
                self._sessions.change(places)
        return sent

    def _delivered(
        self,
        B: int,
        parts: Sequence[Part],
        sent: Sequence[Sent],
        take: Callable[[NumpyArray, Any], None] | None = None,
        result: Any = None,
    ) -> Generator[Waiting, list[Any], NumpyArray]:
        return gather(self._shards, B, [part.rows for part in parts], sent, take, result)

    def _open(self, keys: Any) -> Generator[Waiting, list[Any], None]:
        with self._shards.lock:
            given = self._check_new("keys", keys)
            parts, sent = self._allocate("keys", given)
        delivered = yield from self._delivered(len(given), parts, sent)
        self._shards.tell(None, delivered)

    def _allocate(self, name: str, keys: Sequence[Any]) -> tuple[list[Part], list[Sent]]:
        """Open sessions in the emptiest shards."""
        shards = self._sessions.spread(name, len(keys), self._shards.ready())
        parts = []
        for shard, rows in _grouped(shards, self._shards.count):
            slots = self._sessions.next_slots(shard, len(rows))
            self._sessions.open([keys[row] for row in rows], shard, slots)
            parts.append(Part(shard, rows, slots))
        return parts, [self._send(part, "allocate", part.slots) for part in parts]

    def _close(self, keys: Any) -> Generator[Waiting, list[Any], None]:
        with self._shards.lock:
            places = self._sessions.find("keys", self._shards.not_lost(listed("keys", keys)))
            parts, sent = self._parts(places), []
            for shard, _, slots in parts:
                sent.append(self._shards.links[shard].send_or_keep("release", slots))
                self._sessions.close(shard, slots)
        yield from self._delivered(len(places), parts, sent)
        self._shards.tell(None, np.ones(len(places), np.bool_))  # they are closed, whatever their shard does

    def _step(self, x: NumpyArray, keys: Any, is_first: Any) -> Generator[Waiting, list[Any], NumpyArray]:
        start, stepping = time.perf_counter(), [0.0]
        with self._shards.lock:
            self._checks.check_x(x)
            given, B = listed("keys", keys), x.shape[0]
            check_shape("keys", (len(given),), "B", {"B": B})
            if is_first is not None:
                is_first = self._checks.check_mask(is_first, B)
            outputs = np.zeros((B, self._width), self._dtype)
            places = self._find("keys", given, outputs, changes=True)
            parts = self._parts(places)
            sent = [
                self._send(part, "step", x[part.rows], part.slots, _rows(is_first, part.rows), changes=True)
                for part in parts
            ]
            self._shards.take_snapshots()

        def take(rows: NumpyArray, result: tuple[NumpyArray, float]) -> None:
            outputs[rows], seconds = result
            stepping.append(seconds)

        delivered = yield from self._delivered(B, parts, sent, take, outputs)
        self._shards.metrics.step(B, time.perf_counter() - start, max(stepping))
        self._shards.tell(outputs, delivered)
        return outputs

    def _reset(self, keys: Any) -> Generator[Waiting, list[Any], None]:
        with self._shards.lock:
            places = self._find("keys", listed("keys", keys), changes=True)
            parts = self._parts(places)
            sent = [self._send(part, "reset", part.slots, changes=True) for part in parts]
        delivered = yield from self._delivered(len(places), parts, sent)
        self._shards.tell(None, delivered)

    def _read(self, keys: Any) -> Generator[Waiting, list[Any], Any]:
        with self._shards.lock:
            given = listed("keys", keys)
            states = self._zeros(len(given))
            places = self._find("keys", given, self._states.given(states))
            parts = self._parts(places)
            sent = [self._send(part, "read", part.slots) for part in parts]

        def take(rows: NumpyArray, found: list[LSTMState]) -> None:
            _put(states, rows, found)

        delivered = yield from self._delivered(len(places), parts, sent, take)
        return self._shards.tell(self._states.given(states), delivered)

    def _zeros(self, B: int) -> list[LSTMState]:
        return [LSTMState(h=np.zeros((B, P), self._dtype), c=np.zeros((B, N), c)) for P, N, c in self._sizes]

    def _write(self, keys: Any, state: Any) -> Generator[Waiting, list[Any], None]:
        with self._shards.lock:
            given = listed("keys", keys)
            with Exchange(self._backend, first_array(state), _MAKER) as exchange:
                states = self._states.taken(exchange, "state", state, len(given))
                places = self._find("keys", given, changes=True)
                parts = self._parts(places)
                sent = [self._send_states(part, states) for part in parts]
        delivered = yield from self._delivered(len(places), parts, sent)
        self._shards.tell(None, delivered)

    def _send_states(self, part: Part, states: Sequence[LSTMState]) -> Sent:
        own = [LSTMState(h=each.h[part.rows], c=each.c[part.rows]) for each in states]
        return self._send(part, "write", part.slots, own, changes=True)

    def _fork(self, parents: Any, children: Any) -> Generator[Waiting, list[Any], None]:
        """Fork in the parents' shards. Children without room there move to other shards through this process."""
        with self._shards.lock:
            origins = listed("parents", parents)
            check_shape("children", (len(listed("children", children)),), "B", {"B": len(origins)})
            places = self._find("parents", origins, repeated=True)
            given = self._check_new("children", children)
            ready = self._shards.ready()
            self._sessions.spread("children", len(given), ready)  # raises if there are too many
            parts, sent, far = [], [], []
            for shard, rows, slots in self._parts(places):
                room = self._capacity - self._sessions.live(shard)
                far.append(Part(shard, rows[room:], slots[room:]))
                near = Part(shard, rows[:room], self._sessions.next_slots(shard, min(room, len(rows))))
                if len(near.rows):
                    if shard in ready:
                        self._sessions.open([given[row] for row in near.rows], shard, near.slots)
                    parts.append(near)
                    sent.append(self._send(near, "fork", slots[:room], near.slots))
            far = [part for part in far if len(part.rows)]
            sent += [self._send(part, "read", part.slots) for part in far]
        moving = np.zeros(len(given), np.bool_)
        states = self._zeros(len(given))

        def take(rows: NumpyArray, found: list[LSTMState] | None) -> None:
            if found is not None:
                moving[rows] = True
                _put(states, rows, found)

        delivered = yield from self._delivered(len(given), [*parts, *far], sent, take)
        if moving.any():
            delivered &= yield from self._open_with(given, np.flatnonzero(moving), states)
        self._shards.tell(None, delivered)

    def _open_with(
        self, keys: list[Any], moving: NumpyArray, states: Sequence[LSTMState]
    ) -> Generator[Waiting, list[Any], NumpyArray]:
        """Open the sessions of some rows with these states. Return False for those that failed."""
        with self._shards.lock:
            given = self._sessions.check_new("children", [keys[row] for row in moving])  # again, as time has passed
            parts, sent = self._allocate("children", given)
            parts = [part._replace(rows=moving[part.rows]) for part in parts]
            sent += [self._send_states(part, states) for part in parts]
        return (yield from self._delivered(len(keys), [*parts, *parts], sent))

    def _set_weights(self, weights: Any) -> Generator[Waiting, list[Any], None]:
        check_replacement(self.weights, weights)
        with self._shards.lock:
            sent = self._shards.send_weights(weights)
            self.weights = weights
        none = np.zeros(0, np.int64)
        delivered = yield from gather(self._shards, 0, [none] * len(sent), sent)
        self._shards.tell(None, delivered)


def _grouped(shards: NumpyArray, count: int) -> list[tuple[int, NumpyArray]]:
    """Return the rows of each shard that has some, in order."""
    if not len(shards):
        return []
    order = np.argsort(shards.astype(np.uint16), kind="stable")  # a radix sort
    ends = np.cumsum(np.bincount(shards, minlength=count))
    return [(shard, rows) for shard, rows in enumerate(np.split(order, ends[:-1])) if len(rows)]


def _put(states: Sequence[LSTMState], rows: NumpyArray, found: Sequence[LSTMState]) -> None:
    """Copy each layer's rows to their places."""
    for own, one in zip(states, found, strict=True):
        own.h[rows], own.c[rows] = one.h, one.c


def _rows(flags: NumpyArray | None, rows: NumpyArray) -> NumpyArray | None:
    return None if flags is None else flags[rows]
