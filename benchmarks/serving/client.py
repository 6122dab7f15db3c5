"""The client of the benchmark of serving, in a process of its own.

    python -m benchmarks.serving.client URL LOAD PROCESS

PROCESS is the number of the service's process, whose CPU time is measured with that of its descendants.

It is an open loop: the times at which messages are sent are fixed beforehand. A message's latency is counted from that
time, so a message that had to wait before it was sent is late, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
import urllib.request
from typing import TYPE_CHECKING

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from benchmarks.serving import cpu_time
from benchmarks.serving.load import Load, Result
from fusedlstm import LSTMCell, frames

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BLOCKS = 8  # different inputs of a message
CHECKED, WATCHED = 5, 10  # sockets, and sessions of each, whose outputs are compared
TOLERANCE = 1e-5
PATIENCE = 5.0  # seconds to wait for the last replies


class Socket:
    """A WebSocket with its sessions, what it sent, and what it got."""

    def __init__(self, number: int, connection: ClientConnection, load: Load) -> None:
        self.number, self.connection, self.load = number, connection, load
        self.handles = np.zeros((load.groups, load.rows), np.uint64)
        self.sequence = np.ones((load.groups, load.rows), np.uint32)  # the numbers of the next steps
        self.x = np.random.default_rng(number).normal(size=(BLOCKS, load.rows, load.size)).astype(np.float32)
        self.sent = 0  # messages so far
        self.heard: list[np.ndarray] = []  # outputs of watched sessions, which are in the first group
        self.waiting: dict[int, float] = {}  # the planned times of messages without a reply
        self.all_ok = True
        self.begin()

    def begin(self) -> None:
        """Begin another rate."""
        self.latencies: list[float] = []
        self.stepped = self.refused = 0
        self.sent_late: list[float] = []
        self.last_reply = 0.0

    async def open(self) -> None:
        """Open all sessions."""
        keys = [f"{self.number}/{k}" for k in range(self.handles.size)]
        await self.connection.send(json.dumps({"open": keys}))
        opened = json.loads(await self.connection.recv())["opened"]
        assert [key for key, *_ in opened] == keys
        self.handles.flat = [handle for _, handle, _ in opened]

    async def send(self, plan: np.ndarray) -> None:
        """Send a message at each planned time."""
        for planned in plan:
            await asyncio.sleep(planned - time.monotonic())
            self.sent_late.append(time.monotonic() - planned)
            self.waiting[self.sent] = planned
            group, x = self.sent % self.load.groups, self.x[self.sent % BLOCKS]
            message = frames.encode_request(self.sent, self.handles[group], self.sequence[group], x)
            self.sequence[group] += 1
            self.sent += 1
            await self.connection.send(message)

    async def receive(self) -> None:
        """Take replies until this is cancelled, or the connection is closed."""
        with contextlib.suppress(ConnectionClosed):  # then `send` raises it, or replies are missing
            async for message in self.connection:
                self.take(message)

    def take(self, message: bytes) -> None:
        """Take a reply."""
        self.last_reply = time.monotonic()
        reply = frames.decode_reply(message, self.load.size)
        late = self.last_reply - self.waiting.pop(reply.message_id)
        group, refused = reply.message_id % self.load.groups, reply.status != frames.Status.OK
        self.refused += refused.sum()
        self.stepped += len(refused) - refused.sum()
        if refused.any():  # later messages ask for the steps that the sessions wait for
            self.all_ok = False
            self.sequence[group, refused] = reply.next[refused]
        else:
            self.latencies.append(late)
        if self.all_ok and self.number < CHECKED and not group:
            self.heard.append(reply.h[:WATCHED].copy())

    def check(self) -> None:
        """Compare the outputs so far with a local LSTM's."""
        cell = LSTMCell(self.load.weights, backend="numpy")
        state = cell.zero_state(min(WATCHED, self.load.rows))
        assert self.heard or not self.all_ok
        for number, heard in enumerate(self.heard):
            state = cell(self.x[number * self.load.groups % BLOCKS][:WATCHED], state)
            difference = np.abs(state.h - heard).max()
            if not difference < TOLERANCE:
                raise SystemExit(f"step {number} of socket {self.number} differs from a local LSTM by {difference:.0e}")


def counts(url: str) -> tuple[int, int]:
    """Return how many ticks and rows the service has done."""
    with urllib.request.urlopen(f"http{url.removeprefix('ws').removesuffix('stream')}sessions") as answer:
        found = json.load(answer)
    return found["ticks"], found["rows"]


async def at_rate(url: str, sockets: list[Socket], load: Load, rate: float, process: int) -> Result:
    """Send at a rate, and return what happened."""
    before, cpu = await asyncio.to_thread(counts, url), (cpu_time.of_tree(process), time.process_time())
    start = time.monotonic() + 0.2
    for socket in sockets:
        socket.begin()
    await asyncio.gather(*(socket.send(start + load.plan(socket.number, rate)) for socket in sockets))
    end = time.monotonic() + PATIENCE
    while any(socket.waiting for socket in sockets) and time.monotonic() < end:
        await asyncio.sleep(0.01)
    cpu_seconds = np.subtract((cpu_time.of_tree(process), time.process_time()), cpu)
    ticks, rows = np.subtract(await asyncio.to_thread(counts, url), before)
    latencies = np.concatenate([socket.latencies for socket in sockets])
    sent = sum(len(socket.sent_late) for socket in sockets)
    quantiles = np.quantile(
        np.append(latencies, np.full(sent - len(latencies), np.inf)), [0.5, 0.99, 0.999], method="higher"
    )
    seconds = max(sent / rate, max(socket.last_reply for socket in sockets) - start)
    return Result(
        rate,
        len(latencies) / seconds,
        float(sum(socket.stepped for socket in sockets) / seconds),
        *quantiles.tolist(),
        rows / max(ticks, 1),
        int(sum(socket.refused + len(socket.waiting) * load.rows for socket in sockets)),
        float(np.quantile(np.concatenate([socket.sent_late for socket in sockets]), 0.99)),
        *(cpu_seconds / max(len(latencies), 1)).tolist(),
    )


@contextlib.asynccontextmanager
async def connected(url: str, load: Load) -> AsyncIterator[list[Socket]]:
    """Connect all sockets, open their sessions, and take replies."""
    async with contextlib.AsyncExitStack() as stack:
        sockets = []
        for number in range(load.sockets):
            connection = connect(url, compression=None, max_size=None, ping_interval=None)
            sockets.append(Socket(number, await stack.enter_async_context(connection), load))
            await sockets[-1].open()
        tasks = [asyncio.create_task(socket.receive()) for socket in sockets]
        yield sockets
        for task in tasks:
            task.cancel()


async def main(url: str, load: Load, process: int) -> None:
    """Print what happened at each rate, as a line of JSON, until the service doesn't keep up."""
    async with connected(url, load) as sockets:
        for rate in load.rates:
            result = await at_rate(url, sockets, load, rate, process)
            print(json.dumps(result._asdict()), flush=True)
            if result.is_broken:
                break
        for socket in sockets[:CHECKED]:
            socket.check()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], Load.from_json(sys.argv[2]), int(sys.argv[3])))
    except ConnectionClosed as error:
        raise SystemExit(f"the service closed a connection: {error}") from None
