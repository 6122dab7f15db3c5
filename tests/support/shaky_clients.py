"""Clients that send what a service must stand: rows again, twice, late, early, of closed sessions, and many at once."""

import asyncio

import numpy as np

from fusedlstm import LSTMCell
from fusedlstm.frames import Status

from support.shaky_pool import INVARIANT, WEIGHTS


class Model:
    """Steps each session alone: what every output must equal, bit for bit.

    Attributes:
        inputs: for the bytes of each input, the handle and the number that its client sent.
        told: how often clients got each status.
    """

    def __init__(self, weights=WEIGHTS):
        self.cell, self.states, self.inputs = LSTMCell(weights, **INVARIANT), {}, {}
        self.told = dict.fromkeys(Status, 0)

    def input(self, handle, number):
        x = np.random.default_rng([handle, number]).normal(size=self.cell.weights.input_size).astype(np.float32)
        self.inputs[x.tobytes()] = handle, number
        return x

    def rows(self, handles, numbers):
        """Return the arguments of `submit` for these steps."""
        pairs = list(zip(np.asarray(handles).tolist(), np.asarray(numbers).tolist(), strict=True))
        x = np.array([self.input(*pair) for pair in pairs], np.float32).reshape(
            len(pairs), self.cell.weights.input_size
        )
        return np.array(handles, np.uint64), np.array(numbers, np.uint64), x

    def output(self, handle, number):
        states = self.states.setdefault(handle, [self.cell.zero_state(1)])
        while len(states) <= number:
            states.append(self.cell(self.input(handle, len(states))[None], states[-1]))
        return states[number].h[0]


class Client:
    """A client of some sessions. Nobody else steps them.

    Args:
        service: the Service.
        model: a Model.
        keys: its sessions.
        rng: draws what it does.
    """

    def __init__(self, service, model, keys, rng):
        self.service, self.model, self.keys, self.rng = service, model, keys, rng
        self.handle, self.next = {}, {}  # what the client believes
        self.old = [3, 2**52]  # handles of closed sessions, and of none
        self.replies = set()

    async def run(self, messages):
        await self.open(self.keys)
        for _ in range(messages):
            await self.act()
        await asyncio.gather(*self.replies)

    async def act(self):
        kind = self.rng.choice(["step", "twice", "close", "open"], p=[0.8, 0.14, 0.03, 0.03])
        if kind == "close":
            await self.close(self.rng.choice(self.keys, 1).tolist())
        elif kind == "open":
            await self.open(self.keys)
        else:
            rows = self.rows()
            for _ in range(2 if kind == "twice" else 1):
                self.send(rows)
        if self.rng.random() < 0.5:
            await asyncio.gather(*self.replies)
        else:
            await asyncio.sleep(self.rng.exponential(0.002))

    async def open(self, keys):
        from fusedlstm import PoolFullError

        try:
            await self.service.open(keys)
        except PoolFullError:
            return
        for key, handle, number in zip(keys, *(each.tolist() for each in self.service.find(keys)), strict=True):
            if handle:
                self.handle[key], self.next[key] = handle, number

    async def close(self, keys):
        await self.service.close(keys)
        for key in keys:
            self.old.append(self.handle.pop(key, 3))

    def rows(self):
        """Draw rows: mostly the next of a session, also several in order, and wrong ones."""
        rows = []
        for key in self.rng.permutation(list(self.handle)):
            handle, number = self.handle[key], self.next[key]
            kind = self.rng.choice(["next", "none", "burst", "again", "wrong"], p=[0.5, 0.15, 0.15, 0.1, 0.1])
            if kind in ("next", "burst"):
                rows += [(handle, number + k) for k in range(1 if kind == "next" else 4)]
            elif kind == "again":
                rows.append((handle, max(number - 1, 1)))
            elif kind == "wrong":
                rows.append((handle, int(self.rng.integers(1, number + 6))))
        if self.rng.random() < 0.1:
            rows.append((self.old[self.rng.integers(len(self.old))], int(self.rng.integers(1, 9))))
        return rows

    def send(self, rows):
        deadline = int(self.rng.integers(1, 5)) if self.rng.random() < 0.1 else 0
        handles, numbers = [handle for handle, _ in rows], [number for _, number in rows]
        message = self.service.submit(*self.model.rows(handles, numbers), deadline)
        task = asyncio.ensure_future(self.hear(rows, message))
        self.replies.add(task)
        task.add_done_callback(lambda done: self.replies.discard(done) if done.exception() is None else None)

    async def hear(self, rows, message):
        await asyncio.wait_for(message.done, 100)
        by_handle = {handle: key for key, handle in self.handle.items()}
        for (handle, number), status, after, h in zip(rows, message.status, message.next, message.h, strict=True):
            self.model.told[Status(status)] += 1
            if status in (Status.OK, Status.REPEATED):
                np.testing.assert_array_equal(h, self.model.output(handle, number))
            else:
                assert not h.any()
            assert after > 0 or status in (Status.OK, Status.REPEATED, Status.BUSY, Status.NOT_OPEN)
            key = by_handle.get(handle)
            if key is not None and not after:
                self.handle.pop(key, None)
            elif key is not None and self.handle.get(key) == handle:
                self.next[key] = int(after)


async def play(pool, rng, *, clients=4, sessions=5, messages=40, **limits):
    """Let clients play with a service over a pool. Check it at the end, and return what was told."""
    from fusedlstm.ray.serve import Limits
    from fusedlstm.ray.serve.service import Service

    service = Service(pool, Limits(**limits))
    await service.start()
    model = Model()
    pool.inputs = model.inputs
    keys = [[f"{client}/{k}" for k in range(sessions)] for client in range(clients)]
    seeds = rng.integers(2**32, size=clients)
    players = [Client(service, model, own, np.random.default_rng(seed)) for own, seed in zip(keys, seeds, strict=True)]
    await asyncio.gather(*(player.run(messages) for player in players))
    assert not pool.wrong, pool.wrong[0]
    pool.faults = 0.0
    await service.open(["last"])
    await check(pool, service, model)
    await service.drain()
    return model.told


async def check_bursts(service, model, keys):
    """Send several messages with several steps of each session before the first reply. All must be done, in order."""
    handles, numbers = service.find(keys)
    messages = []
    for first in range(0, 9, 3):
        own = np.repeat(numbers + first, 3) + np.tile(np.arange(3), len(numbers))
        messages.append(service.submit(*model.rows(np.repeat(handles, 3), own)))
    for message in messages:
        await asyncio.wait_for(message.done, 100)
        assert (message.status == Status.OK).all(), "steps in order were not done"


async def check(pool, service, model):
    """Finish all sessions, and compare each one's state, number and key with the model's."""
    for _ in range(20):  # until shards are ready, and all news is heard
        pool.ready = [True] * len(pool.ready)
        handles, numbers = service.find(pool.keys)
        message = service.submit(*model.rows(handles, numbers))
        await asyncio.wait_for(message.done, 100)
    assert (message.status == Status.OK).all(), "a session does not go on"
    await check_bursts(service, model, pool.keys[:5])
    keys = pool.keys
    handles, numbers = service.find(keys)
    assert service.stats()["sessions"] == len(keys)
    for key, handle, number in zip(keys, handles.tolist(), numbers.tolist(), strict=True):
        session = pool.shards[pool.shard_of(key)][key]
        assert len(session.states) == number - 1
        np.testing.assert_array_equal(session.states[-1].h[0], model.output(handle, number - 1))
