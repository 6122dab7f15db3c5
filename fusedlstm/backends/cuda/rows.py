"""The rows of a pool on a GPU: the states of all slots in two matrices, and graphs of steps of some of them."""

from __future__ import annotations

import contextlib
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.cuda import fork
from fusedlstm.backends.cuda.graphs import captured
from fusedlstm.backends.cuda.launch import Audit, launch_gather, launch_reset
from fusedlstm.backends.cuda.layout import bits, copy_rows, with_contiguous_rows
from fusedlstm.backends.cuda.pinned import Uploads
from fusedlstm.backends.cuda.planned import Columns, Planned, Slots
from fusedlstm.backends.cuda.streams import Turns
from fusedlstm.slots import PROBLEMS
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.backends.cuda.backend import StepPlan
    from fusedlstm.dtypes import Array, Empty, NumpyArray

# Rows of the smallest plan: fewer take no less time.
_FEWEST = 16
# Bytes of plans, but for those that `prepare` has made, and the last.
_MOST_BYTES = 1 << 28


class CudaRows:
    """See `fusedlstm.backends.RowStore`.

    Plans are for powers of two of rows, so that batches of changing size need few of them. Those that were used least
    recently are dropped.
    """

    def __init__(self, index: int, residual: Sequence[bool], plans: Sequence[StepPlan], capacity: int) -> None:
        fork.check_process()
        layers = [plan.packed for plan in plans]
        self._columns = columns = Columns(layers)
        self._residual = tuple(residual)
        self._states = cupy.zeros((capacity, columns.H), layers[0].dtype)
        self._c = cupy.zeros((capacity, columns.C), layers[0].gates_dtype)
        self._buckets: OrderedDict[int, _Bucket] = OrderedDict()
        self._prepared = 0
        self._uploads = Uploads()
        self._audit: Audit | None = None
        self._turns = Turns(index)
        self._turns.begin()
        held = tuple(plans), self._states, self._c, self._buckets, self._uploads
        weakref.finalize(self, _end, self._turns, held).atexit = False

    @property
    def nbytes(self) -> int:
        """The bytes of all rows."""
        return int(self._states.nbytes + self._c.nbytes)

    @property
    def scratch_nbytes(self) -> int:
        """The bytes of the plans' buffers, and of what checks slots."""
        audit = self._audit
        of_audit = 0 if audit is None else audit.live.nbytes + audit.claims.nbytes
        return int(of_audit + sum(bucket.nbytes for bucket in self._buckets.values()))

    def clear(self, slots: NumpyArray) -> None:
        """Write zeros to rows."""
        with self._turns.turn():
            launch_reset(None, cupy.asarray(slots), self._states, None, self._c, None)

    def read(self, slots: NumpyArray, empty: Empty) -> tuple[LSTMState, ...]:
        """Return copies of rows in arrays of `empty`: a state for each layer."""
        columns = self._columns
        with self._turns.turn():
            which = cupy.asarray(slots)
            states, cs = bits(self._states)[which].view(self._states.dtype), self._c[which]
            return tuple(
                LSTMState(h=_copy(states[:, columns.state_of(h)], empty), c=_copy(cs[:, c], empty))
                for h, c in zip(columns.hs, columns.cs, strict=True)
            )

    def write(self, slots: NumpyArray, states: Sequence[LSTMState]) -> None:
        """Write a state for each layer to rows."""
        columns, B = self._columns, len(slots)
        with self._turns.turn():
            which = cupy.asarray(slots)
            state = cupy.zeros((B, columns.H), self._states.dtype)
            cs = cupy.zeros((B, columns.C), self._c.dtype)
            for each, h, c in zip(states, columns.hs, columns.cs, strict=True):
                copy_rows(state[:, columns.state_of(h)], each.h)
                copy_rows(cs[:, c], each.c)
            bits(self._states)[which] = bits(state)
            self._c[which] = cs

    def step(self, plans: Sequence[StepPlan], x: Array, slots: Array, is_first: Array | None, out: Array) -> None:
        """Step rows, and write the top layer's output; see `RowStore`."""
        B = len(slots)
        with self._turns.turn() as stream:
            if B == 0:
                return
            bucket = self._bucket(plans, B)
            if isinstance(slots, np.ndarray):
                of_rows = bucket.slots[:B]
                self._uploads.queue(of_rows, slots, stream)
                audit = None
            else:
                of_rows, audit = cupy.ascontiguousarray(slots.astype(np.int64, copy=False)), self._next_audit()
            x = with_contiguous_rows(x)
            first = None if is_first is None else cupy.ascontiguousarray(is_first)
            launch_gather(bucket.planned.operand, self._columns.X, x, bucket.of_pool, of_rows, first, audit)
            bucket.graph.launch(stream)
            copy_rows(out, bucket.planned.output[:B])

    def prepare(self, plans: Sequence[StepPlan], largest: int) -> None:
        """Make the plans of steps of up to so many rows, which are kept."""
        with self._turns.turn():
            sizes = [_FEWEST]
            while sizes[-1] < largest:
                sizes.append(2 * sizes[-1])
            for size in reversed(sizes):  # the largest first: where there is no memory for it, nothing was made
                self._bucket(plans, size)
                self._prepared = max(self._prepared, size)

    # Slots of a device are checked there, against what the host says is live.

    def audit(self, live: NumpyArray) -> None:
        """Be ready to check slots of a device: `live` (capacity,) says which are live."""
        with self._turns.turn():
            capacity = len(live)
            claims, problems = cupy.zeros((capacity,), np.uint64), cupy.zeros((len(PROBLEMS), 2), np.uint64)
            self._audit = Audit(cupy.asarray(live), claims, 0, problems)

    def mark(self, slots: NumpyArray, *, live: bool) -> None:
        """Note that slots are live from now on, or no more."""
        if self._audit is not None:
            with self._turns.turn():
                self._audit.live[cupy.asarray(slots)] = live

    def problems(self) -> list[tuple[int, int]]:
        """Return for each kind of problem how many slots of a device had it since the last call, and one of them.

        It waits for the device.
        """
        if self._audit is None:
            return [(0, 0)] * len(PROBLEMS)
        with self._turns.turn():
            found = self._audit.problems.get()
            self._audit.problems.fill(0)
        return [(int(count), int(slot)) for count, slot in found.view(np.int64)]

    def _next_audit(self) -> Audit:
        """Return what checks the slots of the next step."""
        audit = self._audit
        if audit is None:
            raise RuntimeError("slots of a device before audit()")
        self._audit = Audit(audit.live, audit.claims, audit.tick + 1, audit.problems)
        return self._audit

    def _bucket(self, plans: Sequence[StepPlan], B: int) -> _Bucket:
        """Return the plan for so many rows, which is then the last that others are dropped for."""
        M = max(_FEWEST, 1 << (B - 1).bit_length())
        bucket = self._buckets.get(M)
        if bucket is None:
            bucket = self._made(plans, M)
            self._buckets[M] = bucket
            self._drop_others(M)
        self._buckets.move_to_end(M)
        return bucket

    def _made(self, plans: Sequence[StepPlan], M: int) -> _Bucket:
        """Return a new plan; where memory for it runs out, others make room."""
        try:
            return _Bucket(plans, self._residual, M, self._states, self._c)
        except cupy.cuda.memory.OutOfMemoryError:
            if not self._buckets:
                raise
        cupy.cuda.get_current_stream().synchronize()  # what ran on others was waited for
        self._buckets.clear()
        self._prepared = 0
        return _Bucket(plans, self._residual, M, self._states, self._c)

    def _drop_others(self, M: int) -> None:
        """Drop plans that were used least recently while all are too large."""
        for size in list(self._buckets):
            if sum(bucket.nbytes for bucket in self._buckets.values()) <= _MOST_BYTES:
                return
            if size != M and size > self._prepared:
                self._turns.keep_until_done(self._buckets.pop(size))


class _Bucket:
    """The plan of a step of up to M rows."""

    def __init__(self, plans: Sequence[StepPlan], residual: Sequence[bool], M: int, states: Any, c: Any) -> None:
        self.of_pool = Slots(states, c, cupy.empty((M,), np.int32))
        self.slots = cupy.empty((M,), np.int64)
        self.planned = planned = Planned(plans, residual, M, self.of_pool, has_output=True)
        # All rows are padding in the run before the capture; it loads the kernel that gathers, too.
        self.slots.fill(-1)
        x = planned.operand[:, planned.columns.inputs[0]]
        launch_gather(planned.operand, planned.columns.X, x, self.of_pool, self.slots, None, None)
        with contextlib.closing(planned):
            self.graph = captured(planned.queue)
        self.nbytes = planned.nbytes + self.of_pool.rows.nbytes + self.slots.nbytes


def _copy(rows: Any, empty: Empty) -> Any:
    copy = empty(rows.shape, rows.dtype)
    copy_rows(copy, rows)
    return copy


def _end(turns: Turns, held: tuple[Any, ...]) -> None:
    """Let go of memory when the last step is done."""
    if not fork.forked:
        turns.keep_until_done(held)
