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
# Bytes of rows that are read or written at once.
_AT_ONCE = 1 << 24


class CudaRows:
    """See `fusedlstm.backends.RowStore`.

    A row of the state is one of an operand (`planned.Columns`) without the first x, so that a gather copies it as it
    is. What stands there for the x of upper layers is never used.

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
        for plan in plans:
            plan.turns.add(self._turns)
        self._audits: list[Audit] = []  # the last one, and what it shares memory with
        held = tuple(plans), self._states, self._c, self._buckets, self._uploads, self._audits
        weakref.finalize(self, self._turns.keep_until_done, held).atexit = False

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
        B, dtype = len(slots), self._states.dtype
        with self._turns.turn():
            read = tuple(
                LSTMState(h=empty((B, h.stop - h.start), dtype), c=empty((B, c.stop - c.start), self._c.dtype))
                for h, c in zip(columns.hs, columns.cs, strict=True)
            )
            for part in self._parts(B):
                which = cupy.asarray(slots[part])
                states, cs = bits(self._states)[which].view(dtype), self._c[which]
                for each, h, c in zip(read, columns.hs, columns.cs, strict=True):
                    copy_rows(each.h[part], states[:, columns.state_of(h)])
                    copy_rows(each.c[part], cs[:, c])
            return read

    def write(self, slots: NumpyArray, states: Sequence[LSTMState]) -> None:
        """Write a state for each layer to rows."""
        columns = self._columns
        with self._turns.turn():
            for part in self._parts(len(slots)):
                which = cupy.asarray(slots[part])
                state = cupy.zeros((len(which), columns.H), self._states.dtype)
                cs = cupy.zeros((len(which), columns.C), self._c.dtype)
                for each, h, c in zip(states, columns.hs, columns.cs, strict=True):
                    copy_rows(state[:, columns.state_of(h)], each.h[part])
                    copy_rows(cs[:, c], each.c[part])
                bits(self._states)[which] = bits(state)
                self._c[which] = cs

    def _parts(self, B: int) -> list[slice]:
        """Return rows in parts, so that copies of them on their way take little memory."""
        rows = max(1, _AT_ONCE * len(self._states) // self.nbytes)
        return [slice(start, start + rows) for start in range(0, B, rows)]

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
            self._uploads.reserve(8 * sizes[-1])
            cupy.zeros((1,), np.int32).astype(np.int64)  # which CuPy compiles a kernel for

    # Slots of a device are checked there, against what the host says is live.

    def audit(self, live: NumpyArray) -> None:
        """Be ready to check slots of a device: `live` (capacity,) says which are live."""
        with self._turns.turn():
            capacity = len(live)
            claims, problems = cupy.zeros((capacity,), np.uint64), cupy.zeros((len(PROBLEMS), 2), np.uint64)
            self._audit = Audit(cupy.asarray(live), claims, 0, problems)
            self._audits[:] = [self._audit]

    def mark(self, slots: NumpyArray, *, live: bool) -> None:
        """Note that slots are live from now on, or no more."""
        if self._audit is not None:
            with self._turns.turn():
                self._audit.live[cupy.asarray(slots)] = live

    def problems(self) -> list[tuple[int, int]]:
        """Return for each kind of problem how many slots of a device had it since the last call, and one of them.

        It waits for the device.
        """
        with self._turns.turn() as stream:
            if self._audit is None:
                stream.synchronize()
                return [(0, 0)] * len(PROBLEMS)
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
        """Return a new plan; where memory for it runs out, those make room that were not prepared."""
        while True:
            try:
                return _Bucket(plans, self._residual, M, self._states, self._c)
            except cupy.cuda.memory.OutOfMemoryError:
                oldest = next((size for size in self._buckets if size > self._prepared), None)
                if oldest is None:
                    raise
            cupy.cuda.get_current_stream().synchronize()  # what ran on others was waited for
            del self._buckets[oldest]

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
