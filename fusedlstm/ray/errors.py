"""SessionsLostError: what a call's caller must know after a shard died."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.sessions import Key

_SHOWN = 5  # keys in a message


class SessionsLostError(RuntimeError):
    """A shard died or doesn't answer. The other shards have done their part of the call.

    Each thing is told once. Sessions that are not named are exact.

    A change is a step, a reset or a write that you called for, in this call or before, delivered or not. To know which
    inputs a session has seen, keep a list of its changes, and drop the last `back[key]` of them.

    Attributes:
        result: what the call returns. Rows that were not delivered are zeros.
        delivered: (B,) booleans, False for rows whose shard died in this call or is not back yet. Such sessions are in
            `back` or `lost`. If one is in neither, the change was made, and only its result is missing.
        back: for each session that lacks changes, how many of the last ones.
        lost: the keys of sessions that are gone, because no snapshot had them. They are closed.
    """

    def __init__(
        self, result: Any, delivered: NumpyArray, back: dict[Key, int], lost: list[Key], message: str = ""
    ) -> None:
        message = message or _sentence(delivered, back, lost)
        super().__init__(result, delivered, back, lost, message)  # all of it, so that the error can be pickled
        self.result, self.delivered, self.back, self.lost = result, delivered, back, lost
        self._message = message

    def __str__(self) -> str:
        return self._message


def _sentence(delivered: NumpyArray, back: dict[Key, int], lost: list[Key]) -> str:
    parts = [
        f"{len(lost)} sessions are lost{_some(lost)}" if lost else "",
        f"{len(back)} went back to a snapshot{_some(list(back))}" if back else "",
        f"{int((~delivered).sum())} of {len(delivered)} rows were not done" if not delivered.all() else "",
    ]
    said = ", and ".join(part for part in parts if part)
    return f"a shard died or is restarting: {said}. See this error's lost, back, delivered and result"


def _some(keys: list[Key]) -> str:
    shown = ", ".join(map(repr, keys[:_SHOWN]))
    return f" ({shown}{', ...' if len(keys) > _SHOWN else ''})"
