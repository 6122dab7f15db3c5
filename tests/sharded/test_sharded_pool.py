"""A ShardedPool on a cluster equals one StatePool, bit for bit."""

import asyncio
import pickle
import re

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

import fusedlstm.ray
import fusedlstm.ray.serve
from fusedlstm import LSTM, BackendUnavailableError, LSTMCell, LSTMWeights, StackedWeights, WeightsFileError
from fusedlstm.ray import shard_calls
from fusedlstm.ray.sessions import Sessions

from support.pages import DOCS
from support.sharded import INVARIANT, WEIGHTS, Player

STACKS = [
    StackedWeights([LSTMWeights.random(3, 8, proj_size=4, seed=seed), LSTMWeights.random(4, 5, seed=seed)])
    for seed in range(2)
]


def play(pool, folder, operations, seed=0):
    player = Player(pool, LSTMCell(WEIGHTS[0], **INVARIANT), WEIGHTS, folder, seed)
    player.play(operations)
    return player


def test_random_calls_equal_one_pool(pool, snapping, tmp_path):
    player = play(pool, tmp_path / "folder", 2000)
    assert min(player.done.values()) > 5


def test_random_calls_of_a_stack(make, tmp_path):
    pool = make(STACKS[0], shards=2, capacity=9, options=INVARIANT)
    Player(pool, LSTM(STACKS[0], **INVARIANT), STACKS, tmp_path, 1).play(200)


def mistakes():
    """Yield mistakes to plant: a name, an object, an attribute and a wrong value for it."""
    slots = Sessions.next_slots
    yield "rows without flags", shard_calls, "_rows", lambda flags, rows: None
    yield "flags of other rows", shard_calls, "_rows", lambda flags, rows: None if flags is None else flags[rows][::-1]
    yield (
        "keys of shards swapped",
        Sessions,
        "keys_of",
        lambda self, shard: self.keys_at(shard * self.capacity + self._tables[shard].live_slots()[::-1]),
    )
    yield "the same slot again", Sessions, "next_slots", lambda self, shard, n: np.sort(slots(self, shard, n))


@pytest.mark.nightly
@pytest.mark.parametrize("mistake", list(mistakes()), ids=lambda mistake: mistake[0])
def test_planted_mistakes_are_found(mistake, pool, monkeypatch, tmp_path):
    _, owner, name, wrong = mistake
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises((AssertionError, RuntimeError)):
        play(pool, tmp_path, 600)


def test_calls_on_their_way_keep_their_order(pool):
    pool.open("a")
    xs = np.random.default_rng(0).normal(size=(5, 1, 3)).astype(np.float32)
    waiting = [pool.aio.step(x, "a") for x in xs]
    got = [call.result() for call in reversed(waiting)][::-1]
    cell = LSTMCell(WEIGHTS[0], **INVARIANT)
    state = cell.zero_state(1)
    for x, h in zip(xs, got, strict=True):
        state = cell(x, state)
        np.testing.assert_array_equal(h, state.h)


def test_asyncio_gets_the_same(pool):
    async def work():
        await pool.aio.open(["a", "b", "c"])
        x = np.ones((3, 3), np.float32)
        first, second = await asyncio.gather(pool.aio.step(x, ["a", "b", "c"]), pool.aio.read(["a", "b", "c"]))
        await pool.aio.fork(["a"], ["d"])
        await pool.aio.close(["a"])
        with pytest.raises(ValueError, match="'a'"):
            await pool.aio.step(x[:1], ["a"])
        return first, second

    h, state = asyncio.run(work())
    np.testing.assert_array_equal(h, state.h)
    np.testing.assert_array_equal(pool.read("d").c, state.c[:1])
    assert set(pool.keys) == {"b", "c", "d"}


def test_forks_move_when_a_shard_is_full(make):
    pool = make(WEIGHTS[0], shards=2, capacity=3, options=INVARIANT, snapshot=None)
    pool.open(["a", "b"])
    pool.step(np.arange(6, dtype=np.float32).reshape(2, 3), ["a", "b"])
    pool.fork(["a", "a", "b", "a"], [1, 2, 3, 4])
    state, rows = pool.read(["a", "b", 1, 2, 3, 4]), [0, 1, 0, 0, 1, 0]
    np.testing.assert_array_equal(state.h, state.h[:2][rows])
    np.testing.assert_array_equal(state.c, state.c[:2][rows])
    assert [shard.sessions for shard in pool.stats()] == [3, 3]


def test_moving_fork_refuses_a_key_opened_since(make):
    pool = make(WEIGHTS[0], shards=2, capacity=3, options=INVARIANT, snapshot=None)
    pool.open(["a"])
    call = pool.aio.fork(["a", "a", "a"], [1, 2, 3])
    pool.open([3])
    with pytest.raises(ValueError, match=r"children: wanted keys of no open session.*; got 3 .* which is open"):
        call.result()
    assert pool.keys == ["a", 1, 2, 3]
    pool.close(pool.keys)
    assert not any(shard.sessions for shard in pool.stats())


def test_loads_with_other_shards(pool, make, tmp_path):
    keys = [*range(20), "a", "b"]
    pool.open(keys)
    pool.step(np.random.default_rng(0).normal(size=(22, 3)).astype(np.float32), keys)
    wanted = pool.read(keys)
    pool.save(tmp_path)
    for shards, capacity in ((1, 22), (4, 6)):
        other = make(WEIGHTS[0], shards=shards, capacity=capacity, options=INVARIANT, snapshot=None)
        other.open([3, "gone"])
        other.load(tmp_path)
        assert set(other.keys) == set(keys)
        got = other.read(keys)
        assert (got.h.tobytes(), got.c.tobytes()) == (wanted.h.tobytes(), wanted.c.tobytes())
        assert max(shard.sessions for shard in other.stats()) <= -(-22 // shards)
    small = make(WEIGHTS[0], shards=1, capacity=21, options=INVARIANT, snapshot=None)
    small.open(["stays"])
    with pytest.raises(WeightsFileError, match="holds 22 sessions; this pool's capacity is 21"):
        small.load(tmp_path)
    assert small.keys == ["stays"]


def test_empty_pool_saves_and_loads(pool, tmp_path):
    pool.save(tmp_path)
    pool.open(["a"])
    pool.load(tmp_path)
    assert pool.keys == []
    assert pool.step(np.zeros((0, 3), np.float32), []).shape == (0, 8)
    assert pool.read([]).c.shape == (0, 8)


def test_bad_arguments_raise_before_any_work(pool):
    pool.open(["a", "b"])
    x, two = np.zeros((2, 3), np.float32), pool.read(["a", "b"])
    before = pool.stats()
    for kind, says, call in (
        (ValueError, r"x: wanted shape \(B, I\)", lambda: pool.step(x[0], ["a"])),
        (TypeError, "x: wanted dtype float32", lambda: pool.step(x.astype(float), ["a", "b"])),
        (TypeError, "x: wanted a numpy.ndarray", lambda: pool.step(x.tolist(), ["a", "b"])),
        (ValueError, r"keys: wanted shape \(B,\) = \(2,\)", lambda: pool.step(x, ["a"])),
        (TypeError, "is_first: wanted booleans", lambda: pool.step(x, ["a", "b"], is_first=[0.0, 1.0])),
        (ValueError, "children: wanted keys of no open", lambda: pool.fork(["a"], ["b"])),
        (ValueError, r"children: wanted shape \(B,\) = \(1,\)", lambda: pool.fork(["a"], ["c", "d"])),
        (TypeError, "state: wanted an LSTMState", lambda: pool.write(["a"], x)),
        (ValueError, "state.h: wanted shape", lambda: pool.write(["a"], two)),
        (TypeError, "weights: wanted an LSTMWeights", lambda: pool.set_weights(STACKS[0])),
        (ValueError, "weights: wanted hidden_size 8", lambda: pool.set_weights(LSTMWeights.random(3, 9, seed=0))),
        (TypeError, "folder: wanted a path", lambda: pool.save(3)),
        (FileNotFoundError, "nowhere", lambda: pool.load("nowhere")),
    ):
        with pytest.raises(kind, match=says):
            call()
    assert pool.stats() == before, "no call should be sent"
    assert not pool.read(["a", "b"]).h.any()


@pytest.mark.parametrize(
    ("kind", "says", "options"),
    [
        (ValueError, "shards: wanted at least 1", {"shards": 0}),
        (TypeError, "capacity: wanted an int", {"capacity": 2.0}),
        (ValueError, "num_gpus: wanted a number >= 0", {"num_gpus": -1}),
        (TypeError, "snapshot: wanted a Snapshots, or None", {"snapshot": 10}),
        (ValueError, "timeout: wanted a positive number", {"timeout": 0}),
        (ValueError, "precision: wanted one of", {"options": {"precision": "low"}}),
        (BackendUnavailableError, "can't run here", {"options": {"backend": "cuda:99"}}),
        (TimeoutError, "not all of 1 shards were ready", {"num_gpus": 100, "timeout": 0.5}),
    ],
)
def test_bad_pools_raise(kind, says, options, make):
    with pytest.raises(kind, match=says):
        make(WEIGHTS[0], **({"shards": 1, "capacity": 2} | options))


def test_shut_down_pools_raise(make):
    with make(WEIGHTS[0], shards=1, capacity=2) as pool:
        pool.open("a")
        assert repr(pool).endswith("shards=1, capacity=2, live=1)")
        with pytest.raises(TypeError, match="can't be copied or pickled"):
            pickle.dumps(pool)
    with pytest.raises(RuntimeError, match="has been shut down"):
        pool.read("a")


def test_reference_has_every_public_name():
    page = (DOCS / "api-ray.md").read_text(encoding="utf-8")
    for module in (fusedlstm.ray, fusedlstm.ray.serve):
        name = re.escape(module.__name__)
        assert set(re.findall(rf"^::: {name}\.(\w+)$", page, re.MULTILINE)) == set(module.__all__)
        assert set(re.findall(rf"\]\[{name}\.(\w+)\]", page)) == set(module.__all__)
