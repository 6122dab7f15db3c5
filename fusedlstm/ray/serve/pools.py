"""Pool: what a service needs of a pool, and LocalPool, which has all states in this process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from fusedlstm.cell import LSTMCell
from fusedlstm.lstm import LSTM
from fusedlstm.pool import StatePool
from fusedlstm.ray import folder as folders
from fusedlstm.validation.arguments import fail
from fusedlstm.validation.weights import as_layers, check_causal
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray

_Result = TypeVar("_Result")


class Calls(Protocol):
    """The calls to a pool. Each is sent when the method returns, and calls run in that order.

    They may also have `prepare(max_batch)`. Then the service awaits it before it is ready.
    """

    def open(self, keys: Sequence[Any], /) -> Awaitable[None]:
        """Begin sessions."""
        ...

    def close(self, keys: Sequence[Any], /) -> Awaitable[None]:
        """End sessions."""
        ...

    def step(self, x: NumpyArray, keys: Sequence[Any], /) -> Awaitable[NumpyArray]:
        """Step each of these sessions once, with x (B, I), and return the outputs (B, width)."""
        ...

    def read(self, keys: Sequence[Any], /) -> Awaitable[Any]:
        """Return an LSTMState, or a tuple of them, one for each layer."""
        ...


class Pool(Protocol):
    """What a service needs of a pool. ShardedPool has all of it, and documents it."""

    @property
    def aio(self) -> Calls:
        """The calls."""
        ...

    @property
    def weights(self) -> Any:
        """LSTMWeights or StackedWeights."""
        ...

    @property
    def capacity(self) -> int:
        """The most sessions."""
        ...

    @property
    def keys(self) -> list[Any]:
        """The keys of open sessions."""
        ...

    def save(self, folder: str, /) -> None:
        """Write all sessions to a folder."""
        ...

    def load(self, folder: str, /) -> None:
        """Replace all sessions with those in a folder."""
        ...


def check_served(name: str, weights: Any) -> None:
    """Raise ValueError unless a service can step these weights, and read outputs from states, for repeated steps."""
    layers = as_layers(weights)
    check_causal(name, layers, "layers that are all forward")
    if layers.residual[-1]:
        fail(ValueError, name, "weights whose top layer is not residual", "a residual top layer")


class LocalPool:
    """A StatePool with keys, for a service in one process, without Ray's actors.

    Args:
        weights: LSTMWeights or StackedWeights.
        capacity: the most sessions.
        options: options of the LSTMCell or LSTM.
    """

    def __init__(self, weights: Any, capacity: int, **options: Any) -> None:
        self.weights = weights
        self._pool: StatePool[Any] = StatePool(
            (LSTMCell if isinstance(weights, LSTMWeights) else LSTM)(weights, **options), capacity
        )
        self._slots: dict[Any, int] = {}

    @property
    def aio(self) -> _LocalCalls:
        """The calls, which are done when they return."""
        return _LocalCalls(self._pool, self._slots)

    @property
    def capacity(self) -> int:
        """The most sessions."""
        return self._pool.capacity

    @property
    def keys(self) -> list[Any]:
        """The keys of open sessions."""
        return list(self._slots)

    def save(self, folder: str, /) -> None:
        """Write all sessions to a folder. See `ShardedPool.save`."""
        os.makedirs(folder, exist_ok=True)
        by_slot = sorted(self._slots, key=self._slots.__getitem__)
        folders.write(folder, [(by_slot, self._pool._calls.snapshot(None))], self.weights)

    def load(self, folder: str, /) -> None:
        """Replace all sessions with those in a folder. See `ShardedPool.load`."""
        keys, states, are_others = folders.read(folder, self.weights)
        if are_others:
            folders.warn_of_others(folder)
        self._pool._calls.run(self._pool._slots.replace, np.arange(len(keys)), states)
        self._slots.clear()
        self._slots.update(zip(keys, range(len(keys)), strict=True))


class _LocalCalls:
    """The calls of a LocalPool."""

    def __init__(self, pool: StatePool[Any], slots: dict[Any, int]) -> None:
        self._pool, self._slots = pool, slots

    def _find(self, keys: Sequence[Any]) -> NumpyArray:
        return np.fromiter(map(self._slots.__getitem__, keys), np.int64, len(keys))

    def open(self, keys: Sequence[Any], /) -> _Done[None]:
        self._slots.update(zip(keys, self._pool.allocate(len(keys)).tolist(), strict=True))
        return _Done(None)

    def close(self, keys: Sequence[Any], /) -> _Done[None]:
        self._pool.release(self._find(keys))
        for key in keys:
            del self._slots[key]
        return _Done(None)

    def prepare(self, max_batch: int, /) -> _Done[None]:
        self._pool.prepare(max_batch)
        return _Done(None)

    def step(self, x: NumpyArray, keys: Sequence[Any], /) -> _Done[NumpyArray]:
        return _Done(self._pool.step(x, self._find(keys)))

    def read(self, keys: Sequence[Any], /) -> _Done[Any]:
        return _Done(self._pool.read(self._find(keys)))


class _Done(Generic[_Result]):
    """A call that is done."""

    def __init__(self, result: _Result) -> None:
        self._result = result

    def __await__(self) -> Generator[None, None, _Result]:
        return self._result
        yield
