"""A pool on a GPU: the states of all slots in two matrices, and flags that say which slots are live."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.base import PoolEngine
from fusedlstm.backends.cuda.arguments import Audit
from fusedlstm.backends.cuda.kernels import launch_reset
from fusedlstm.backends.cuda.runtime.strides import bits, copy_rows, with_contiguous_rows
from fusedlstm.slots import PROBLEMS
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import Array, Empty, NumpyArray
    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.cuda.layer_step import SlotStep
    from fusedlstm.backends.cuda.runtime.streams import Turns

# The most bytes of rows to read or write at once.
_AT_ONCE = 1 << 24


class CudaPool(PoolEngine):
    """See `fusedlstm.backends.base.PoolEngine`.

    Args:
        engines: an engine for each layer.
        step: holds the states and steps them.
        turns: orders the calls of the pool and of `step`.
    """

    def __init__(self, engines: Sequence[CudaCell], step: SlotStep, turns: Turns) -> None:
        self._step, self._turns = step, turns
        self._all_h, self._c = step.all_h, step.c
        self._columns = tuple(zip(step.hs, step.cs, strict=True))  # for each layer, the columns of h and those of c
        self._audit: Audit | None = None
        self._problems: Array | None = None  # those of all audits
        self._prepared = 0
        stream = turns.begin()
        for engine in engines:
            engine.weights.wait_until_uploaded(stream)
            engine.turns.add(turns)
        self._audits: list[Audit] = []  # the first one: later ones share its memory
        held = tuple(engines), step.all_h, step.c, step.held, self._audits
        self._end = weakref.finalize(self, turns.keep_until_done, held)
        self._end.atexit = False

    @property
    def nbytes(self) -> int:
        return self._step.nbytes

    @property
    def scratch_nbytes(self) -> int:
        """The bytes of the steps' buffers and of the audit of slots."""
        audit = self._audit
        of_audit = 0 if audit is None else audit.live.nbytes + audit.claims.nbytes
        return int(of_audit + self._step.scratch_nbytes)

    def kernels(self, B: int) -> tuple[str, ...]:
        return self._step.kernels(B)

    def step(self, engines: Sequence[CudaCell], x: Array, slots: Array, is_first: Array | None, out: Array) -> None:
        for engine in engines:  # the launches refer to their memory
            engine.check()
        self._turns.call(self._queue, engines, x, slots, is_first, out)

    def _queue(self, engines: Sequence[CudaCell], x: Array, slots: Array, is_first: Array | None, out: Array) -> None:
        if len(slots):
            first = None if is_first is None else cupy.ascontiguousarray(is_first)
            self._step.queue(engines, with_contiguous_rows(x), slots, first, out, self._next_audit)

    def prepare(self, engines: Sequence[CudaCell], largest: int) -> None:
        """Allocate the buffers for up to `largest` rows, and load the kernels of these steps."""
        with self._turns.turn():
            cupy.zeros((1,), np.int32).astype(np.int64)  # so that CuPy compiles its kernel for this
            self._step.prepare(engines, largest)
            self._prepared = max(self._prepared, largest)

    def take_over(self, engines: Sequence[CudaCell], before: Any) -> None:
        if before._prepared:
            self.prepare(engines, before._prepared)
        self._problems = before._problems

    def retire(self) -> None:
        found = self._end.peek()
        if found is not None:
            _, keep, held, _ = found
            keep(*held)
            self._end.detach()

    def clear(self, slots: NumpyArray) -> None:
        with self._turns.turn():
            all_h = self._all_h.reshape(len(self._c), -1)
            launch_reset(None, cupy.asarray(slots), all_h, None, self._c, None)

    def read(self, slots: NumpyArray, empty: Empty) -> tuple[LSTMState, ...]:
        B, dtype = len(slots), self._all_h.dtype
        with self._turns.turn():
            read = tuple(
                LSTMState(h=empty((B, h.stop - h.start), dtype), c=empty((B, c.stop - c.start), self._c.dtype))
                for h, c in self._columns
            )
            for part in self._parts(B):
                which = cupy.asarray(slots[part])
                hs, cs = bits(self._all_h)[self._step.state_rows(which)].view(dtype), self._c[which]
                for each, (h, c) in zip(read, self._columns, strict=True):
                    copy_rows(each.h[part], hs[:, h])
                    copy_rows(each.c[part], cs[:, c])
            return read

    def copy(self, parents: NumpyArray, slots: NumpyArray) -> None:
        with self._turns.turn():
            all_h, rows = bits(self._all_h), self._step.state_rows
            for part in self._parts(len(slots)):
                of, to = cupy.asarray(parents[part]), cupy.asarray(slots[part])
                all_h[rows(to)] = all_h[rows(of)]
                self._c[to] = self._c[of]

    def write(self, slots: NumpyArray, states: Sequence[LSTMState]) -> None:
        """Write a state for each layer to rows.

        If this is interrupted, all states are written again from the start before the interrupt is raised.
        """
        try:
            self._write(slots, states)
        except BaseException:
            self._write(slots, states)
            raise

    def _write(self, slots: NumpyArray, states: Sequence[LSTMState]) -> None:
        with self._turns.turn():
            for part in self._parts(len(slots)):
                which = cupy.asarray(slots[part])
                hs = cupy.zeros((len(which), self._all_h.shape[1]), self._all_h.dtype)
                cs = cupy.zeros((len(which), self._c.shape[1]), self._c.dtype)
                for each, (h, c) in zip(states, self._columns, strict=True):
                    copy_rows(hs[:, h], each.h[part])
                    copy_rows(cs[:, c], each.c[part])
                bits(self._all_h)[self._step.state_rows(which)] = bits(hs)
                self._c[which] = cs

    def _parts(self, B: int) -> list[slice]:
        """Return B rows in parts, so that temporary copies take little memory."""
        rows = max(1, _AT_ONCE * len(self._c) // self.nbytes)
        return [slice(start, start + rows) for start in range(0, B, rows)]

    # Slots on the device are checked there, against flags that the host sets.

    def audit(self, live: NumpyArray) -> None:
        """Prepare to check slots on the device. `live` (capacity,) says which are live."""
        with self._turns.turn():
            audit = self._audit
            if audit is not None:  # keep its records
                audit.live[...] = cupy.asarray(live)
                return
            if self._problems is None:
                self._problems = cupy.zeros((len(PROBLEMS), 2), np.uint64)
            claims = cupy.zeros((len(live),), np.uint64)
            self._audit = Audit(cupy.asarray(live), claims, 0, self._problems)
            self._audits[:] = [self._audit]

    def mark(self, slots: NumpyArray, *, live: bool) -> None:
        if self._audit is not None:
            with self._turns.turn():
                self._audit.live[cupy.asarray(slots)] = live

    def problems(self) -> list[tuple[int, int]]:
        with self._turns.turn() as stream:
            if self._problems is None:
                stream.synchronize()
                return [(0, 0)] * len(PROBLEMS)
            found = self._problems.get()
            self._problems.fill(0)
        return [(int(count), int(slot)) for count, slot in found.view(np.int64)]

    def _next_audit(self) -> Audit:
        """Return the audit that checks the slots of the next step."""
        audit = self._audit
        if audit is None:
            raise RuntimeError("slots on the device need an audit")
        self._audit = Audit(audit.live, audit.claims, audit.tick + 1, audit.problems)
        return self._audit
