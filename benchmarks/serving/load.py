"""What the benchmark of serving asks for, and what it finds."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np

from fusedlstm import LSTMWeights

SERVE, SHARDED, LOCAL, DICTIONARY = SERVICES = (
    "serve",  # Ray Serve, over a ShardedPool
    "sharded",  # the same app under uvicorn, over a ShardedPool
    "local",  # the same app under uvicorn, over a StatePool in the same process
    "dictionary",  # the same app under uvicorn, over a dictionary of tensors and torch.nn.LSTMCell
)


class Load(NamedTuple):
    """How many sessions are stepped, and how.

    Args:
        sockets: WebSockets.
        rows: rows of a message.
        groups: each socket has so many groups of `rows` sessions. Its messages step one group after the other.
        size: I and N.
        rates: messages a second, of all sockets together, in rising order.
        seconds: how long each rate lasts.
    """

    sockets: int = 50
    rows: int = 200
    groups: int = 1
    size: int = 128
    rates: tuple[float, ...] = (25, 50, 100, 150, 200, 300, 400, 600, 800)
    seconds: float = 10.0

    @classmethod
    def from_json(cls, text: str) -> Load:
        """Return the Load that `to_json` wrote."""
        values = json.loads(text)
        return cls(**values | {"rates": tuple(values["rates"])})

    def to_json(self) -> str:
        """Return a text for another process's command line."""
        return json.dumps(self._asdict())

    @property
    def sessions(self) -> int:
        """How many there are."""
        return self.sockets * self.groups * self.rows

    @property
    def weights(self) -> LSTMWeights:
        """The weights of all services, and of the LSTM that checks them."""
        return LSTMWeights.random(self.size, self.size, seed=0)

    def plan(self, socket: int, rate: float) -> np.ndarray:
        """Return when a socket sends its messages, in seconds. The sockets take turns."""
        count = round(rate * self.seconds / self.sockets)
        return (np.arange(max(1, count)) * self.sockets + socket) / rate


FULL = Load()
QUICK = Load(sockets=4, rows=5, size=8, rates=(20, 40), seconds=0.5)


class Result(NamedTuple):
    """What happened at one rate.

    Args:
        offered: messages a second that were sent.
        messages: messages a second that were answered, all rows of them OK.
        rows: rows a second that were stepped.
        p50, p99, p999: seconds from the planned time of a message to its reply; infinite if there was none.
        rows_a_tick: the mean.
        not_stepped: rows that were refused, late or unanswered.
        sent_late: the 99th percentile of how late the client sent, in seconds.
        service_cpu, client_cpu: CPU seconds of the service's processes, and of the client, divided by the messages.
    """

    offered: float
    messages: float
    rows: float
    p50: float
    p99: float
    p999: float
    rows_a_tick: float
    not_stepped: int
    sent_late: float
    service_cpu: float
    client_cpu: float

    @property
    def is_broken(self) -> bool:
        """Whether the service didn't keep up."""
        return self.not_stepped > 0 or self.messages < 0.95 * self.offered or self.p99 > 1.0
