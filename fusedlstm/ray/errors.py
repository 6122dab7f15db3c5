"""The errors of calls whose shards died, or are slow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.sessions import Key

_SHOWN = 5  # keys in a message


class SessionsLostError(RuntimeError):
    """A shard died, a call to it was lost, or it had no memory. The other shards have done their part of the call.

    Each change is reported once. Sessions that are not named have all their changes. If a shard is back, and no call
    has reported yet what a session lacks, the next call that names the session only raises this error. It does nothing,
    and delivers no row.

    If a change fails inside a shard, the shard goes back, too. If it has no memory for `read`, `save` or `prepare`,
    nothing has changed: `back` and `lost` are empty.

    A change is a step, a reset or a write of this call or an earlier one, delivered or not. To know which inputs a
    session has seen, keep a list of its changes, and drop the last `back[key]` of them.

    Attributes:
        result: what the call returns. Rows that were not delivered are zeros.
        delivered: (B,) booleans, False for rows whose shard died in this call or is not back yet. Such sessions are in
            `back` or `lost`, here or in an earlier error. If one is in neither, the change was made: only its result is
            missing.
        back: for each session that went back, by its key, how many of its last changes it lacks.
        lost: the keys of sessions that are gone, because no snapshot had them, or their `open` or `fork` was lost. They
            are closed.
        causes: for each shard that failed, by its number, the error of Ray or of the shard. Shards that failed before
            this call are included until all shards are back.
    """

    def __init__(
        self,
        result: Any,
        delivered: NumpyArray,
        back: dict[Key, int],
        lost: list[Key],
        causes: dict[int, str],
    ) -> None:
        super().__init__(result, delivered, back, lost, causes)  # all of it, so that the error can be pickled
        self.result, self.delivered, self.back, self.lost, self.causes = result, delivered, back, lost, causes

    def __str__(self) -> str:
        return _sentence(self.delivered, self.back, self.lost, self.causes)


class LateShardsError(TimeoutError):
    """Shards have not answered in time. This loses nothing: those that are alive still do their part of the call.

    A call waits for only 1 second if the connection to a shard broke. If the shard has died, a later SessionsLostError
    says what is lost.

    To get the whole result, wait again with `error.call.result()`. Don't send the same call again, as shards would do
    it twice. If a shard hangs, use `ShardedPool.restart`.

    Attributes:
        result: an array with the rows that came, and zeros for others; None if the call doesn't return an array.
        delivered: (B,) booleans, False for rows that did not come.
        shards: the numbers of the shards that are late.
        call: the Call, to wait for it again.
    """

    def __init__(self, result: Any, delivered: NumpyArray, shards: list[int], call: Any, timeout: float) -> None:
        super().__init__(
            f"no answer from shards {shards} after {timeout:g} seconds. They may still do the call: don't send it "
            "again, but wait with this error's call.result(). Its result and delivered have the rows of other shards"
        )
        self.result, self.delivered, self.shards, self.call = result, delivered, shards, call


def _sentence(delivered: NumpyArray, back: dict[Key, int], lost: list[Key], causes: dict[int, str]) -> str:
    parts = [
        f"lost sessions: {len(lost)}{_some(lost)}" if lost else "",
        f"sessions that lack changes: {len(back)}{_some(list(back))}" if back else "",
        f"rows not delivered: {int((~delivered).sum())} of {len(delivered)}" if not delivered.all() else "",
    ]
    said = "; ".join(part for part in parts if part)
    why = "".join(f". Shard {shard}: {cause}" for shard, cause in causes.items())
    return f"a shard died, is restarting or lost a call: {said}{why}. See this error's lost, back, delivered and result"


def _some(keys: list[Key]) -> str:
    shown = ", ".join(map(repr, keys[:_SHOWN]))
    return f" ({shown}{', ...' if len(keys) > _SHOWN else ''})"
