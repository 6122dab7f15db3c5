"""The table of sessions: keys, places, changes, and what falls back with a shard."""

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from fusedlstm import PoolFullError
from fusedlstm.ray import SessionsLostError
from fusedlstm.ray.sessions import Sessions, listed


def opened(keys, shards=2, capacity=4):
    sessions = Sessions(shards, capacity)
    placed = sessions.spread("keys", len(keys), range(shards))
    for shard in range(shards):
        own = [key for key, place in zip(keys, placed, strict=True) if place == shard]
        sessions.open(own, shard, sessions.next_slots(shard, len(own)))
    return sessions


def test_keys_of_all_kinds_are_found():
    sessions = opened(["a", 1, "1"])
    assert len(set(sessions.find("keys", ["a", 1, "1"]).tolist())) == 3
    for keys in (1, np.int8(1), [np.int64(1)], np.array([1], np.uint8), (1,), range(1, 2)):
        assert sessions.find("keys", keys).tolist() == sessions.find("keys", [1]).tolist()
    assert sessions.find("keys", "a").tolist() == sessions.find("keys", np.array(["a"])).tolist()
    assert sessions.find("keys", []).shape == (0,)
    assert "a" in sessions
    assert "b" not in sessions


@pytest.mark.parametrize(
    ("keys", "kind", "says"),
    [
        ([True], TypeError, r"keys\[0\]: wanted an int or a str; got bool"),
        ([1, 1.0], TypeError, r"keys\[1\]: wanted an int or a str; got float"),
        ({1: 2}, TypeError, "keys: wanted a list, tuple, range or NumPy array of ints or strs; got dict"),
        (None, TypeError, "keys: wanted a list, .*; got None"),
        (np.array([1.0]), TypeError, "keys: wanted ints or strs; got dtype float64"),
        (np.array([[1]]), ValueError, r"keys: wanted shape \(B,\); got shape \(1, 1\)"),
        (
            ["a", "z"],
            ValueError,
            r"keys: wanted keys of open sessions, each once; got 'z' \(row 1\), which is not open",
        ),
        (["a", 1, "a"], ValueError, r"keys: wanted keys of open .*; got 'a' twice \(rows 0 and 2\)"),
    ],
)
def test_bad_keys_raise(keys, kind, says):
    with pytest.raises(kind, match=says):
        opened(["a", 1]).find("keys", keys)


@pytest.mark.parametrize(
    ("keys", "says"),
    [(["b", "a"], r"got 'a' \(row 1\), which is open"), (["b", "c", "b"], r"got 'b' twice \(rows 0 and 2\)")],
)
def test_bad_new_keys_raise(keys, says):
    with pytest.raises(ValueError, match=says):
        opened(["a"]).check_new("keys", keys)


def test_lists_are_not_copied():
    keys = [1, 2]
    assert listed("keys", keys) is keys


def test_new_sessions_go_to_the_emptiest_shards():
    sessions = Sessions(3, 4)
    sessions.open([1, 2, 3], 1, sessions.next_slots(1, 3))
    assert sessions.spread("keys", 5, [0, 1, 2]).tolist() == [0, 0, 0, 2, 2]
    assert sessions.spread("keys", 9, [0, 1, 2]).tolist() == [0] * 4 + [1] + [2] * 4
    assert sessions.spread("keys", 2, [1, 2]).tolist() == [2, 2]
    assert sessions.spread("keys", 0, [0]).tolist() == []
    with pytest.raises(PoolFullError, match=r"at most 9 new sessions, .* 12 in 3 of 3 shards .*; got 10"):
        sessions.spread("keys", 10, [0, 1, 2])
    with pytest.raises(PoolFullError, match="at most 1 new"):
        sessions.spread("keys", 2, [1])


def test_fall_back_names_what_changed():
    sessions = opened(["a", "b", "c", "d"], shards=1)
    places = sessions.find("keys", ["a", "b", "c", "d"])
    sessions.change(places)
    record = sessions.record(0)
    sessions.change(places[:2])
    sessions.change(places[:1])
    sessions.close(0, places[3:])
    add_one = sessions.next_slots(0, 1)
    sessions.open(["e"], 0, add_one)
    assert add_one.tolist() == places[3:].tolist(), "the slot is used again"
    kept, back, lost = sessions.fall_back(0, record)
    assert (kept.tolist(), back, lost) == ([0, 1, 2], {"a": 2, "b": 1}, ["e"])
    assert sessions.keys() == ["a", "b", "c"]
    assert sessions.fall_back(0, record)[1:] == ({}, [])
    assert sessions.fall_back(0, None)[2] == ["a", "b", "c"]
    assert len(sessions) == sessions.live(0) == 0


def test_replaced_sessions_move_between_shards():
    sessions = opened(["a", "b"])
    sessions.replace([["b", "c"], ["a"]])
    assert sessions.find("keys", ["b", "c", "a"]).tolist() == [0, 1, 4]
    assert [sessions.keys_of(shard) for shard in range(2)] == [["b", "c"], ["a"]]
    assert sessions.next_slots(0, 2).tolist() == [2, 3]


def test_errors_are_readable_and_pickle():
    import pickle

    error = SessionsLostError("h", np.array([True, False]), {"a": 2}, list(range(7)), {3: "OSError: x"})
    said = str(error)
    assert "lost sessions: 7 (0, 1, 2, 3, 4, ...); sessions that lack changes: 1 ('a')" in said
    assert "rows not delivered: 1 of 2" in said
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.back, again.lost, again.result) == (said, error.back, error.lost, "h")
