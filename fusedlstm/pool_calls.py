"""PoolCalls: runs the calls of a pool one after another, also between the parts of a save."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from fusedlstm.pool_snapshot import PoolSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.pool_slots import PoolSlots
    from fusedlstm.state import LSTMState

_Result = TypeVar("_Result")
# A save pauses after each turn, for this many times the turn's duration. Locks aren't fair, so waiting calls could
# otherwise starve.
_PAUSES = 4.0


class PoolCalls:
    """Runs one call of a pool at a time, whichever threads they come from.

    Args:
        slots: the pool's slots.
        is_captured: returns whether the caller captures a current stream into a CUDA graph. None on NumPy.

    Attributes:
        lock: held during each call.
    """

    def __init__(self, slots: PoolSlots, is_captured: Callable[[], bool] | None) -> None:
        # Reentrant, as a call in the middle of another one in the same thread would otherwise deadlock.
        self.lock = threading.RLock()
        self._slots, self._is_captured = slots, is_captured
        self._is_in_a_call = False  # whether the thread with the lock is in a call

    def run(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """Run the work of a call once no other call is running.

        An interrupt can come between two statements. It can't come while a `with` takes or releases a lock, or before
        the first statement of `try` or `finally`. So this is safe to interrupt anywhere.

        Raises:
            RuntimeError: another call of this thread is running, or the caller captures a current stream.
        """
        with self.lock:
            if self._is_in_a_call:
                raise RuntimeError(
                    "this StatePool is in the middle of a call in this thread, and a signal handler, a finalizer or a "
                    "callback called it again: call it afterwards"
                )
            if self._is_captured is not None and self._is_captured():
                raise RuntimeError(
                    "a StatePool's calls can't be captured into a CUDA graph: a replay would use the same slots and "
                    "the same number of the step again. Call it between replays"
                )
            try:
                self._is_in_a_call = True
                if self._slots.table.ending:
                    self._slots.release_ending()
                try:
                    return work(*arguments)
                finally:
                    if self._slots.table.ending:
                        self._slots.release_ending()
            finally:
                self._is_in_a_call = False

    def release(self, slots: Any) -> None:
        """Free slots now. In the middle of another call of this thread, free them when that call ends.

        While the caller captures a current stream, the next call frees them.
        """
        with self.lock:
            if self._is_in_a_call or (self._is_captured is not None and self._is_captured()):
                self._slots.release_later(slots)
            else:
                self.run(self._slots.release, slots)

    def snapshot(self, slots: Any) -> tuple[NumpyArray, Sequence[LSTMState]]:
        """Return slots, sorted, and copies of their states at one moment, one for each layer.

        None means all live slots. Other calls run in between.
        """
        snapshot = PoolSnapshot()
        try:
            self.begin_snapshot(snapshot, slots)
            return self.finish_snapshot(snapshot)
        finally:
            snapshot.is_over = True  # one statement, as another interrupt may come between two
            del snapshot  # an error refers to this frame, and would keep the memory alive

    def begin_snapshot(self, snapshot: PoolSnapshot, slots: Any) -> None:
        """Begin a snapshot of these slots, or with None of all live slots. Other calls then keep their states for it.

        Whoever called this sets `snapshot.is_over` in the end, whatever happens.
        """
        self.run(self._slots.begin_snapshot, snapshot, slots)

    def finish_snapshot(self, snapshot: PoolSnapshot) -> tuple[NumpyArray, Sequence[LSTMState]]:
        """Copy the states of a snapshot that has begun, and return its slots and them. Other calls run in between."""
        snapshot.touch()
        while not snapshot.is_done:
            time.sleep(_PAUSES * self.run(self._turn, snapshot))
            snapshot.place()
        if snapshot.error is not None:
            try:
                raise snapshot.error
            finally:
                del snapshot
        snapshot.place()
        return snapshot.slots, snapshot.states

    def _turn(self, snapshot: PoolSnapshot) -> float:
        """Copy the next part of a snapshot, and return how many seconds that took."""
        start = time.perf_counter()
        self._slots.go_on(snapshot)
        return time.perf_counter() - start
