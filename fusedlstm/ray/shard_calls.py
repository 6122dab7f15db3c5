"""ShardCalls: the calls of a sharded pool, each sent at once and waited for later."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.arrays.exchange import Exchange
from fusedlstm.backends.select import choose
from fusedlstm.owner_states import OwnerStates, first_array
from fusedlstm.ray.call import Call
from fusedlstm.ray.forks import Forks
from fusedlstm.ray.gather import gather
from fusedlstm.ray.router import Router, put, rows_of
from fusedlstm.ray.sessions import listed
from fusedlstm.validation.arguments import check_shape, check_size
from fusedlstm.validation.weights import as_layers, check_replacement
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Generator

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.call import Waiting
    from fusedlstm.ray.shards import Shards
    from fusedlstm.state import LSTMState

_MAKER = "numpy.asarray"


class ShardCalls:
    """The methods of a ShardedPool for asyncio, or for sending several calls at once. See `ShardedPool.aio`.

    Each method is ShardedPool's method of the same name, and takes the same arguments. It sends the call to its shards
    and returns a Call. Wait for its result with `await call` or `call.result()`. Calls run in the order in which they
    were sent.

    Bad arguments raise at once, before anything is sent. So does a SessionsLostError that only reports earlier changes.
    """

    def __init__(self, shards: Shards, weights: Any) -> None:
        self._shards, self.weights = shards, weights
        self._is_single = isinstance(weights, LSTMWeights)
        layers = as_layers(weights)
        self._router = Router(shards, layers)
        self._forks = Forks(self._router)
        self._backend = choose("numpy")
        self._states = OwnerStates(self._backend, layers, is_single=self._is_single, maker=_MAKER)
        self._checks = self._states.layer_checks[0]
        self._width, self._dtype = layers.output_size, layers.dtype

    def _call(self, work: Generator[Waiting, list[Any], Any], keys: Any = ()) -> Call[Any]:
        """Send a call that names these open sessions."""
        self._shards.check_open()
        if self._router.moving:
            self._forks.finish(keys)
        return Call(work, self._shards.timeout)

    def finish_forks(self) -> None:
        """Wait until all children are open. Raise TimeoutError if a parent's shard has not answered in time."""
        self._forks.finish()

    def open(self, keys: Any) -> Call[None]:
        """See `ShardedPool.open`."""
        return self._call(self._open(keys))

    def close(self, keys: Any) -> Call[None]:
        """See `ShardedPool.close`."""
        return self._call(self._close(keys), keys)

    def step(self, x: NumpyArray, keys: Any, *, is_first: Any = None) -> Call[NumpyArray]:
        """See `ShardedPool.step`."""
        return self._call(self._step(x, keys, is_first), keys)

    def reset(self, keys: Any) -> Call[None]:
        """See `ShardedPool.reset`."""
        return self._call(self._reset(keys), keys)

    def read(self, keys: Any) -> Call[Any]:
        """See `ShardedPool.read`."""
        return self._call(self._read(keys), keys)

    def write(self, keys: Any, state: Any) -> Call[None]:
        """See `ShardedPool.write`."""
        return self._call(self._write(keys, state), keys)

    def fork(self, parents: Any, children: Any) -> Call[None]:
        """See `ShardedPool.fork`."""
        return self._call(self._forks.fork(parents, children), parents)

    def prepare(self, max_batch: int) -> Call[None]:
        """See `ShardedPool.prepare`."""
        return self._call(self._prepare(max_batch))

    def set_weights(self, weights: Any) -> Call[None]:
        """See `ShardedPool.set_weights`."""
        return self._call(self._set_weights(weights))

    # Each generator checks its arguments and sends its calls before its first yield, and holds the lock until then.

    def _open(self, keys: Any) -> Generator[Waiting, list[Any], None]:
        with self._shards.lock:
            given = self._router.check_new("keys", keys)
            parts, sent = self._router.open("keys", given)
        delivered = yield from self._router.delivered(len(given), parts, sent)
        self._shards.tell(None, delivered)

    def _close(self, keys: Any) -> Generator[Waiting, list[Any], None]:
        with self._shards.lock:
            places = self._router.sessions.find("keys", self._shards.news.not_lost(listed("keys", keys)))
            parts, sent = self._router.parts(places), []
            for shard, _, slots in parts:
                sent.append(self._shards.links[shard].send_or_keep("release", slots))
                self._router.sessions.close(shard, slots)
        yield from self._router.delivered(len(places), parts, sent)
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
            places = self._router.find("keys", given, outputs, changes=True)
            parts = self._router.parts(places)
            sent = [
                self._router.send(part, "step", x[part.rows], part.slots, _rows(is_first, part.rows), changes=True)
                for part in parts
            ]
            self._shards.take_snapshots()

        def take(rows: NumpyArray, result: tuple[NumpyArray, float]) -> None:
            outputs[rows], seconds = result
            stepping.append(seconds)

        delivered = yield from self._router.delivered(B, parts, sent, take, outputs)
        self._shards.metrics.step(B, time.perf_counter() - start, max(stepping))
        self._shards.tell(outputs, delivered)
        return outputs

    def _reset(self, keys: Any) -> Generator[Waiting, list[Any], None]:
        with self._shards.lock:
            places = self._router.find("keys", listed("keys", keys), changes=True)
            parts = self._router.parts(places)
            sent = [self._router.send(part, "reset", part.slots, changes=True) for part in parts]
        delivered = yield from self._router.delivered(len(places), parts, sent)
        self._shards.tell(None, delivered)

    def _read(self, keys: Any) -> Generator[Waiting, list[Any], Any]:
        with self._shards.lock:
            given = listed("keys", keys)
            states = self._router.zeros(len(given))
            places = self._router.find("keys", given, self._states.given(states))
            parts = self._router.parts(places)
            sent = [self._router.send(part, "read", part.slots) for part in parts]

        def take(rows: NumpyArray, found: list[LSTMState]) -> None:
            put(states, rows, found)

        delivered = yield from self._router.delivered(len(places), parts, sent, take)
        return self._shards.tell(self._states.given(states), delivered)

    def _write(self, keys: Any, state: Any) -> Generator[Waiting, list[Any], None]:
        with self._shards.lock:
            given = listed("keys", keys)
            with Exchange(self._backend, first_array(state), _MAKER) as exchange:
                states = self._states.taken(exchange, "state", state, len(given))
                places = self._router.find("keys", given, changes=True)
                parts = self._router.parts(places)
                sent = [
                    self._router.send(part, "write", part.slots, rows_of(states, part.rows), changes=True)
                    for part in parts
                ]
        delivered = yield from self._router.delivered(len(places), parts, sent)
        self._shards.tell(None, delivered)

    def _prepare(self, max_batch: int) -> Generator[Waiting, list[Any], None]:
        check_size("max_batch", max_batch, 0)
        with self._shards.lock:
            sent = self._shards.send_prepare(max_batch)
        # A shard that is not ready does this later.
        rows = [np.array([k] if each.reference is not None else [], np.int64) for k, each in enumerate(sent)]
        delivered = yield from gather(self._shards, len(sent), rows, sent)
        self._shards.tell(None, delivered)

    def _set_weights(self, weights: Any) -> Generator[Waiting, list[Any], None]:
        check_replacement(self.weights, weights)
        with self._shards.lock:
            sent = self._shards.send_weights(weights)
            self.weights = weights
        delivered = yield from gather(self._shards, 0, [np.zeros(0, np.int64)] * len(sent), sent)
        self._shards.tell(None, delivered)


def _rows(flags: NumpyArray | None, rows: NumpyArray) -> NumpyArray | None:
    return None if flags is None else flags[rows]
