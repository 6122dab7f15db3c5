"""News: what has happened to sessions that callers must still be told."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fusedlstm.ray.sessions import Key


class News:
    """Which sessions went back or were lost since the last call told of it, and why. This has no lock."""

    def __init__(self) -> None:
        self._back: dict[Key, int] = {}
        self._lost: list[Key] = []
        self._causes: dict[int, str] = {}
        self._cause: Exception | None = None

    def blame(self, shard: int, error: Exception) -> None:
        """Keep why a shard failed."""
        self._cause, self._causes[shard] = error, said(error)

    def miss(self, keys: Sequence[Key]) -> None:
        """Count a change of each session that was not sent, because its shard is not ready."""
        for key in keys:
            self._back[key] = self._back.get(key, 0) + 1

    def fell_back(self, back: Mapping[Key, int], lost: Sequence[Key]) -> None:
        """Add sessions that lack changes, and those that are gone."""
        for key in lost:
            self._back.pop(key, None)
        for key, changes in back.items():
            self._back[key] = self._back.get(key, 0) + changes
        self._lost += lost

    def not_lost(self, keys: Sequence[Key]) -> Sequence[Key]:
        """Return the keys without those of lost sessions that no caller has heard of."""
        return list(itertools.filterfalse(set(self._lost).__contains__, keys)) if self._lost else keys

    @property
    def has_back(self) -> bool:
        """Whether sessions went back, and no caller has heard of it."""
        return bool(self._back)

    def is_of(self, keys: Sequence[Key]) -> bool:
        """Return whether there are news of sessions of these keys."""
        return not (self._back.keys() | set(self._lost)).isdisjoint(keys)

    def take(self) -> tuple[dict[Key, int], list[Key]]:
        """Return which sessions went back by how many changes, and which are lost. Then forget it."""
        back, lost = self._back, self._lost
        self._back, self._lost = {}, []
        return back, lost

    def why(self) -> tuple[dict[int, str], Exception | None]:
        """Return why each shard failed, and the last error."""
        return dict(self._causes), self._cause

    def forget_why(self) -> None:
        """Forget why shards failed, as all are ready and callers have been told."""
        self._causes, self._cause = {}, None


def said(error: Exception) -> str:
    """Return an error's kind and its last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[-1]}"
