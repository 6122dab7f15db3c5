"""ShakyPool: a pool like a ShardedPool, whose shards die and are late at random, and an event loop without waiting."""

import asyncio
import selectors

import numpy as np

from fusedlstm import LSTMCell, LSTMState, LSTMWeights, PoolFullError

WEIGHTS = LSTMWeights.random(3, 4, seed=0)
INVARIANT = {"backend": "numpy", "batch_invariant": True, "threads": 1}


def run_fast(work):
    """Run a coroutine to its end in an event loop whose clock jumps to the next timer."""

    class Selector(selectors.DefaultSelector):
        def select(self, timeout=None):
            if timeout:
                loop.skipped += timeout
            return super().select(0)

    class Loop(asyncio.SelectorEventLoop):
        skipped = 0.0

        def time(self):
            return self.skipped

    loop, wrong = Loop(Selector()), []
    loop.set_exception_handler(lambda _, context: wrong.append(context))
    try:
        result = loop.run_until_complete(work)
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    assert not wrong, wrong[0]
    return result


class Session:
    def __init__(self, handle=None, states=()):
        self.handle, self.states = handle, list(states)  # the client's handle, and the state after each step

    def copy(self):
        return Session(self.handle, self.states)


class ShakyPool:
    """Shards of sessions in dictionaries. Each step must be the next of its session.

    Args:
        capacity: the most sessions.
        rng: draws what happens.
        faults: the chance that something happens at a call.

    Attributes:
        inputs: those of a `Model`, to know whose an input is.
        wrong: what was asked of the pool that must not be.
    """

    def __init__(self, capacity, rng, faults=0.0, shards=3):
        self.capacity, self.rng, self.faults, self.weights = capacity, rng, faults, WEIGHTS
        self.cell = LSTMCell(WEIGHTS, **INVARIANT)
        self.shards = [{} for _ in range(shards)]
        self.snapshots = [{} for _ in range(shards)]
        self.ready = [True] * shards
        self.epochs = [0] * shards
        self.back, self.lost, self.inputs = {}, [], {}
        self.deaths, self.wrong = 0, []

    @property
    def aio(self):
        return self

    @property
    def keys(self):
        return [key for shard in self.shards for key in shard]

    def happens(self):
        return self.rng.random() < self.faults

    def shard_of(self, key):
        return next(number for number, shard in enumerate(self.shards) if key in shard)

    def stir(self):
        """Let a shard take a snapshot, die or come back, perhaps."""
        number = int(self.rng.integers(len(self.shards)))
        if self.rng.random() < 0.3 and self.ready[number]:
            self.snapshots[number] = {key: each.copy() for key, each in self.shards[number].items()}
        if self.happens() and self.ready[number]:
            self.die(number)
        elif self.rng.random() < 0.3:
            self.ready[number] = True

    def die(self, number):
        self.deaths += 1
        self.ready[number] = bool(self.rng.random() < 0.5)  # it may be back before anybody has heard
        self.epochs[number] += 1
        old, kept = self.shards[number], self.snapshots[number]
        self.shards[number] = {}
        for key, session in old.items():
            if key in kept and kept[key].states == session.states[: len(kept[key].states)]:
                missing = len(session.states) - len(kept[key].states)
                self.shards[number][key] = Session(session.handle, kept[key].states)
                if missing:
                    self.back[key] = self.back.get(key, 0) + missing
            else:
                self.back.pop(key, None)
                self.lost.append(key)

    def tell(self, result, delivered):
        from fusedlstm.ray import SessionsLostError

        back, lost = self.back, self.lost
        self.back, self.lost = {}, []
        if not (delivered.all() and not back and not lost):
            raise SessionsLostError(result, delivered, back, lost, {})
        return result

    def tell_first(self, keys, result, changes):
        """Raise if there are news of these sessions that nobody has heard, as a ShardedPool does."""
        here = [key for key in keys if key not in self.lost]
        ready = [key for key in here if self.ready[self.shard_of(key)]]
        if len(here) < len(keys) or not self.back.keys().isdisjoint(ready):
            for key in here if changes else ():
                self.back[key] = self.back.get(key, 0) + 1
            self.tell(result, np.zeros(len(keys), np.bool_))

    def check(self, is_right, what):
        """Remember what is wrong, as a service must not fail when a pool raises."""
        if not is_right:
            self.wrong.append(what)
            raise AssertionError(what)

    def open(self, keys):
        self.check(len(set(keys)) == len(keys), "a session is opened twice")
        self.check(not set(keys) & set(self.keys), "an open session is opened")
        self.stir()
        if set(self.lost) & set(keys) or self.back.keys() & set(keys):
            self.tell(None, np.zeros(len(keys), np.bool_))
        ready = [number for number, is_ready in enumerate(self.ready) if is_ready]
        if not ready or len(self.keys) + len(keys) > self.capacity:
            raise PoolFullError("there is no room")
        shards = self.rng.choice(ready, len(keys))
        for key, number in zip(keys, shards, strict=True):
            self.shards[number][key] = Session()
        return self.pending(None, shards)

    def close(self, keys):
        self.stir()
        shards = []
        for key in keys:
            if key not in self.lost:
                shards.append(self.shard_of(key))
                del self.shards[shards[-1]][key]
        return self.pending(None, np.array(shards, int), always=True)

    def step(self, x, keys):
        self.check(len(set(keys)) == len(keys), "a session is twice in a tick")
        self.stir()
        outputs = np.zeros((len(keys), self.weights.output_size), np.float32)
        self.tell_first(keys, outputs, changes=True)
        shards = np.array([self.shard_of(key) for key in keys], int)
        is_sent = np.array([self.ready[number] for number in shards], np.bool_)
        for row in np.flatnonzero(~is_sent):
            self.back[keys[row]] = self.back.get(keys[row], 0) + 1
        for row in np.flatnonzero(is_sent):
            outputs[row] = self.step_one(self.shards[shards[row]][keys[row]], x[row])
        return self.pending(outputs, shards, is_sent)

    def step_one(self, session, x):
        handle, number = self.inputs[x.tobytes()]
        session.handle = handle if session.handle is None else session.handle
        self.check(session.handle == handle, "an input of another session")
        self.check(number == len(session.states) + 1, f"step {number} after {len(session.states)} steps")
        last = session.states[-1] if session.states else self.cell.zero_state(1)
        session.states.append(self.cell(x[None], last))
        return session.states[-1].h[0]

    def read(self, keys):
        self.stir()
        h = np.zeros((len(keys), self.weights.output_size), np.float32)
        self.tell_first(keys, LSTMState(h=h, c=h), changes=False)
        shards = np.array([self.shard_of(key) for key in keys], int)
        is_sent = np.array([self.ready[number] for number in shards], np.bool_)
        for row in np.flatnonzero(is_sent):
            h[row] = self.shards[shards[row]][keys[row]].states[-1].h[0]
        return self.pending(LSTMState(h=h, c=h), shards, is_sent, is_read=True)

    async def pending(self, result, shards, is_sent=True, *, always=False, is_read=False):
        """Wait, and return or raise what the shards did. Those that died in the meantime may have lost the call."""
        from fusedlstm.ray import LateShardsError

        sent_in = np.array(self.epochs)[shards]
        delivered = np.broadcast_to(is_sent, shards.shape).copy()
        await asyncio.sleep(self.rng.exponential(0.003))
        if self.happens() and not always:
            is_late = shards == self.rng.integers(len(self.shards))
            if is_late.any():
                left = self.finish(result, shards, delivered, sent_in, always=False)
                known = None if is_read or result is None else np.where(is_late[:, None], 0, result)
                raise LateShardsError(known, delivered & ~is_late, [0], left, 1.0)
        return await self.finish(result, shards, delivered, sent_in, always=always)

    async def finish(self, result, shards, delivered, sent_in, *, always):
        await asyncio.sleep(self.rng.exponential(0.003))
        self.stir()
        is_lost = np.array(self.epochs)[shards] != sent_in
        delivered = delivered & ~is_lost
        hidden = result
        if isinstance(result, np.ndarray):
            hidden = np.where(delivered[:, None], result, 0)
        elif result is not None:
            h = np.where(delivered[:, None], result.h, 0)
            hidden = LSTMState(h=h, c=h)
        return self.tell(hidden, delivered | always)
