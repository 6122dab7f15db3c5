"""A pool's slots, stepped by a gather and a graph of matmuls and launches. Buffers come in buckets by batch size."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.cuda.matmul_step import Columns, MatmulStep, PoolMatrices
from fusedlstm.backends.cuda.runtime.graphs import captured
from fusedlstm.backends.cuda.runtime.packed import PackedLaunch, members_named
from fusedlstm.backends.cuda.runtime.pinned import Uploads
from fusedlstm.backends.cuda.runtime.strides import row_stride
from fusedlstm.backends.cuda.slot_kernels import gather_launch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.backends.cuda.arguments import Audit
    from fusedlstm.backends.cuda.cell import CudaCell

# Rows of the smallest bucket: fewer rows take just as long.
_FEWEST = 16
# The values of a repeated gather, in order, as members of gather.cu's arguments.
_PLACES = {"x.at": 0, "x.stride": 1, "B": 2, "slots": 3, "is_first": 4, "audit.tick": 5}
# The most bytes of all buckets. Those that `prepare` made, and the newest, are kept even beyond that.
_MOST_BYTES = 1 << 28


class MatmulSlots:
    """See `layer_step.SlotStep`.

    A row of the state has the columns of an operand (`matmul_step.Columns`) without the first x. So a gather copies it
    unchanged. The columns for the x of upper layers are never used.

    The sizes of buckets are powers of two, so batches of changing size need few of them. If they take too
    much memory, the least recently used are dropped.
    """

    def __init__(self, engines: Sequence[CudaCell], residual: Sequence[bool], capacity: int) -> None:
        layers = [engine.weights for engine in engines]
        self._columns = columns = Columns(layers)
        self.hs, self.cs = [columns.state_of(h) for h in columns.hs], columns.cs
        self.all_h = cupy.zeros((capacity, columns.H), layers[0].dtype)
        self.c = cupy.zeros((capacity, columns.C), layers[0].gates_dtype)
        self._residual = tuple(residual)
        self._buckets: OrderedDict[int, _Bucket] = OrderedDict()
        self._prepared = 0
        self._uploads = Uploads()
        self.held = (self._buckets, self._uploads)

    @staticmethod
    def nbytes_of(engines: Sequence[CudaCell], capacity: int) -> int:
        """Return the bytes of the states of so many slots."""
        layers = [engine.weights for engine in engines]
        columns, dtype, c_dtype = Columns(layers), layers[0].dtype, layers[0].gates_dtype
        return capacity * (columns.H * dtype.itemsize + columns.C * c_dtype.itemsize)

    @property
    def nbytes(self) -> int:
        """See `PoolEngine.nbytes`."""
        return int(self.all_h.nbytes + self.c.nbytes)

    @property
    def scratch_nbytes(self) -> int:
        """The bytes of the buckets."""
        return sum(bucket.nbytes for bucket in self._buckets.values())

    def kernels(self, B: int) -> tuple[str, ...]:
        """See `PoolEngine.kernels`."""
        del B
        return ("matmul",) * len(self.hs)

    def state_rows(self, slots: Any) -> Any:
        """Return the rows of `all_h` that hold the state of these slots: the slots themselves."""
        return slots

    def queue(
        self,
        engines: Sequence[CudaCell],
        x: Array,
        slots: Array,
        is_first: Array | None,
        out: Array,
        next_audit: Callable[[], Audit],
    ) -> None:
        """Queue a step that writes the top layer's output to `out`."""
        B, stream = len(slots), cupy.cuda.get_current_stream()
        bucket, audit = self._bucket(engines, B), None
        if isinstance(slots, np.ndarray):
            self._uploads.queue(bucket.slots, slots, stream)
            slots = bucket.slots
        else:
            slots, audit = cupy.ascontiguousarray(slots.astype(np.int64, copy=False)), next_audit()
        bucket.gather(x, slots, is_first, audit, stream.ptr)
        bucket.graph.launch(stream)
        bucket.copy_output(out, stream.ptr)

    def prepare(self, engines: Sequence[CudaCell], largest: int) -> None:
        """Make the buckets for up to `largest` rows, and keep them."""
        sizes = [_FEWEST]
        while sizes[-1] < largest:
            sizes.append(2 * sizes[-1])
        for size in reversed(sizes):  # the largest first: if memory runs out, nothing has been made
            self._bucket(engines, size)
            self._prepared = max(self._prepared, size)
        self._uploads.reserve(8 * sizes[-1])

    def _bucket(self, engines: Sequence[CudaCell], B: int) -> _Bucket:
        """Return the bucket for B rows, and note that it was used last."""
        M = max(_FEWEST, 1 << (B - 1).bit_length())
        bucket = self._buckets.get(M)
        if bucket is None:
            bucket = self._made(engines, M)
            self._buckets[M] = bucket
            self._drop_others(M)
        self._buckets.move_to_end(M)
        return bucket

    def _made(self, engines: Sequence[CudaCell], M: int) -> _Bucket:
        """Return a new bucket. If memory runs out, drop buckets that were not prepared."""
        while True:
            try:
                return _Bucket(engines, self._residual, M, self.all_h, self.c)
            except cupy.cuda.memory.OutOfMemoryError:
                oldest = next((size for size in self._buckets if size > self._prepared), None)
                if oldest is None:
                    raise
            cupy.cuda.get_current_stream().synchronize()  # this stream has waited for the others
            del self._buckets[oldest]

    def _drop_others(self, M: int) -> None:
        """Drop the least recently used buckets until the rest fit in _MOST_BYTES.

        Their work is done: bucket M was just made, and its capture waited for all earlier calls.
        """
        for size in list(self._buckets):
            if sum(bucket.nbytes for bucket in self._buckets.values()) <= _MOST_BYTES:
                return
            if size != M and size > self._prepared:
                del self._buckets[size]


class _Bucket:
    """The buffers and the graph of a step of up to M rows."""

    def __init__(self, engines: Sequence[CudaCell], residual: Sequence[bool], M: int, all_h: Any, c: Any) -> None:
        self.pool = PoolMatrices(all_h, c, cupy.empty((M,), np.int32))
        self.slots = cupy.empty((M,), np.int64)
        self.step = step = MatmulStep(engines, residual, M, self.pool, has_output=True)
        # In the run before the capture, all rows are padding. This launch also loads the gather kernel.
        self.slots.fill(-1)
        x = step.operand[:, step.columns.inputs[0]]
        gather_launch(step.operand, step.columns.X, x, self.pool, self.slots, None, None).queue()
        self._gathers: dict[int, PackedLaunch] = {}  # by the address of the flags that they check slots against, or 0
        with contextlib.closing(step):
            self.graph = captured(step.queue)
        self.nbytes = step.nbytes + self.pool.slot_of_row.nbytes + self.slots.nbytes

    def gather(self, x: Any, slots: Any, is_first: Any, audit: Audit | None, stream: int) -> None:
        """Queue the gather of x and of the slots' states on a stream, given by its handle."""
        of = 0 if audit is None else audit.live.data.ptr
        packed = self._gathers.get(of)
        if packed is None:
            step = self.step
            first = gather_launch(step.operand, step.columns.X, x, self.pool, slots, is_first, audit)
            packed = self._gathers[of] = PackedLaunch(first, members_named(first, _PLACES))
        packed.queue(stream, (x, row_stride(x), len(x), slots, is_first, 0 if audit is None else audit.tick))

    def copy_output(self, to: Any, stream: int) -> None:
        """Queue the copy of the output of the first rows to a contiguous array."""
        (B, P), output, kind = to.shape, self.step.output, cupy.cuda.runtime.memcpyDeviceToDevice
        row, width = row_stride(output) * output.itemsize, P * to.itemsize
        cupy.cuda.runtime.memcpy2DAsync(to.data.ptr, width, output.data.ptr, row, width, B, kind, stream)
