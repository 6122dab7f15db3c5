"""Save all sessions of a sharded pool in a folder, and replace them with those in a folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from fusedlstm.errors import WeightsFileError
from fusedlstm.ray import folder as folders
from fusedlstm.ray.call import Call
from fusedlstm.ray.gather import gather
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from fusedlstm.ray.call import Waiting
    from fusedlstm.ray.sessions import Key
    from fusedlstm.ray.shards import Shards


def save(shards: Shards, path: str, weights: Any) -> None:
    """Write all sessions to a folder, which is made if needed."""
    os.makedirs(path, exist_ok=True)
    parts = Call(_contents(shards), shards.timeout).result()
    folders.write(path, ((keys, ray.get(content, timeout=shards.timeout)) for keys, content in parts), weights)


def load(shards: Shards, path: str, weights: Any) -> None:
    """Replace all sessions with those in a folder."""
    keys, states, are_others = folders.read(path, weights)
    capacity = shards.count * shards.sessions.capacity
    if len(keys) > capacity:
        raise WeightsFileError(f"{path} holds {len(keys)} sessions; this pool's capacity is {capacity}")
    if are_others:
        folders.warn_of_others(path, 1)
    Call(_replace(shards, keys, states), shards.timeout).result()


def _contents(shards: Shards) -> Generator[Waiting, list[Any], list[tuple[list[Key], Any]]]:
    """Ask all shards for their states. Return for each the keys in the order of slots, and a reference to `Content`."""
    with shards.lock:
        _wait(shards)
        keys = [shards.sessions.keys_of(link.shard) for link in shards.links]
        asked = [link.snapshot() for link in shards.links]
    rows = [np.array([link.shard]) for link in shards.links]
    delivered = yield from gather(shards, shards.count, rows, [begun for begun, _, _ in asked])
    whole = np.flatnonzero(delivered).tolist()  # a call that fetches would wait in vain for a lost one that begins
    delivered &= yield from gather(shards, shards.count, [rows[k] for k in whole], [asked[k][1] for k in whole])
    shards.tell(None, delivered)
    return [(own, content) for own, (_, _, content) in zip(keys, asked, strict=True)]


def _replace(shards: Shards, keys: Sequence[Key], states: Sequence[LSTMState]) -> Generator[Waiting, list[Any], None]:
    """Replace all sessions with these, spread evenly."""
    with shards.lock:
        _wait(shards)
        shards.tell(None, np.ones(len(keys), np.bool_))  # first, as any news is about sessions that are replaced
        parts = np.array_split(np.arange(len(keys)), shards.count)
        shards.sessions.replace([[keys[row] for row in rows] for rows in parts])
        sent = [
            link.send("replace", [LSTMState(h=each.h[rows], c=each.c[rows]) for each in states])
            for link, rows in zip(shards.links, parts, strict=True)
        ]
    delivered = yield from gather(shards, len(keys), parts, sent)
    shards.tell(None, delivered)


def _wait(shards: Shards) -> None:
    if not shards.wait(shards.timeout):
        raise TimeoutError(f"a shard is not back after {shards.timeout:g} seconds")
