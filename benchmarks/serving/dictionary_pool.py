"""What people write by hand: a dictionary of tensors, and torch.nn.LSTMCell between a gather and a scatter."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import torch

from fusedlstm import LSTMState, convert

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    import numpy as np

    from fusedlstm import LSTMWeights


class DictionaryPool:
    """Sessions with keys, each with its own tensors h and c, for a service in one process.

    Args:
        weights: of a cell that torch.nn.LSTMCell supports.
        capacity: the most sessions.
    """

    def __init__(self, weights: LSTMWeights, capacity: int) -> None:
        torch.set_num_threads(1)
        self.weights, self.capacity = weights, capacity
        self._cell = torch.nn.LSTMCell(weights.input_size, weights.hidden_size)
        self._cell.load_state_dict(convert.to_torch(weights))
        self._states: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def aio(self) -> DictionaryPool:
        """The calls, which are done when they return."""
        return self

    @property
    def keys(self) -> list[Any]:
        """The keys of open sessions."""
        return list(self._states)

    def open(self, keys: Sequence[Any]) -> Awaitable[None]:
        zeros = torch.zeros(self._cell.hidden_size)
        self._states.update((key, (zeros, zeros)) for key in keys)
        return _done(None)

    def close(self, keys: Sequence[Any]) -> Awaitable[None]:
        for key in keys:
            del self._states[key]
        return _done(None)

    def step(self, x: np.ndarray, keys: Sequence[Any]) -> Awaitable[np.ndarray]:
        with torch.inference_mode():
            h, c = self._cell(torch.from_numpy(x), self._gather(keys))
            self._states.update(zip(keys, zip(h.unbind(), c.unbind(), strict=True), strict=True))
        return _done(h.numpy())

    def read(self, keys: Sequence[Any]) -> Awaitable[LSTMState]:
        h, c = self._gather(keys)
        return _done(LSTMState(h=h.numpy(), c=c.numpy()))

    def _gather(self, keys: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        h, c = zip(*(self._states[key] for key in keys), strict=True)
        return torch.stack(h), torch.stack(c)

    def save(self, folder: str) -> None:
        """Raise NotImplementedError: the benchmark saves nothing."""
        raise NotImplementedError

    load = save


def _done(result: Any) -> Awaitable[Any]:
    future = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future
