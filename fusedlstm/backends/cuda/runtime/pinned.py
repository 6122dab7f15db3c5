"""NumPy arrays in pinned host memory, which a GPU reads and writes directly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.cuda.runtime.strides import row_stride

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NumpyArray:
    """Return an array of zeros in pinned memory. The array keeps the memory alive."""
    count = math.prod(shape)
    memory = cupy.cuda.alloc_pinned_memory(max(1, count * dtype.itemsize))
    bits = np.frombuffer(memory, np.uint8, count * dtype.itemsize)  # as bytes, as NumPy can't read a buffer as bfloat16
    array: NumpyArray = bits.view(dtype).reshape(shape)
    array.fill(0)
    return array


def mapped(array: NumpyArray) -> Any:
    """Return a contiguous pinned array as an array for kernels, which keeps the memory alive.

    All pinned memory has the same addresses on every GPU as on the host. Kernels see what the host wrote before their
    launch. The host sees what they wrote once it has waited for them.
    """
    device = cupy.cuda.runtime.getDevice()
    memory = cupy.cuda.UnownedMemory(array.ctypes.data, array.nbytes, array, device)
    return cupy.ndarray(array.shape, array.dtype, cupy.cuda.MemoryPointer(memory, 0))


def queue_upload(to: Any, rows: NumpyArray) -> None:
    """Queue a copy of contiguous pinned rows (B, K) to the GPU on the current stream. It can be captured."""
    if not rows.size:
        return
    (B, K), kind = rows.shape, cupy.cuda.runtime.memcpyHostToDevice
    pitch, width = row_stride(to) * to.itemsize, K * rows.itemsize
    stream = cupy.cuda.get_current_stream().ptr
    cupy.cuda.runtime.memcpy2DAsync(to.data.ptr, pitch, rows.ctypes.data, width, width, B, kind, stream)


class Uploads:
    """Uploads of small host arrays, each kept in pinned memory until it is on the GPU.

    The call that queues one doesn't wait, unless AT_ONCE earlier ones are still under way.
    """

    AT_ONCE = 8

    def __init__(self) -> None:
        self._next = 0
        self._memory: list[NumpyArray] = [np.empty(0, np.uint8)] * self.AT_ONCE
        self._addresses = [0] * self.AT_ONCE
        self._events: list[Any] = [None] * self.AT_ONCE

    def reserve(self, nbytes: int) -> None:
        """Make room for arrays of this many bytes."""
        for k in range(self.AT_ONCE):
            self._reserve(k, nbytes)

    def _reserve(self, k: int, nbytes: int) -> None:
        """Wait until buffer k is free, and grow it if needed."""
        if self._events[k] is not None:
            self._events[k].synchronize()
        if self._memory[k].nbytes < nbytes:
            self._memory[k] = zeros((1 << (nbytes - 1).bit_length(),), np.dtype(np.uint8))
            self._addresses[k] = self._memory[k].ctypes.data

    def queue(self, to: Any, values: NumpyArray, stream: Any) -> None:
        """Queue a copy of contiguous values (B,) to an array of their dtype on the GPU, on this stream."""
        k, self._next = self._next, (self._next + 1) % self.AT_ONCE
        self._reserve(k, values.nbytes)
        self._memory[k][: values.nbytes] = values.view(np.uint8)
        event, kind = self._events[k], cupy.cuda.runtime.memcpyHostToDevice
        if event is None:
            event = self._events[k] = cupy.cuda.Event(disable_timing=True)
        try:
            cupy.cuda.runtime.memcpyAsync(to.data.ptr, self._addresses[k], values.nbytes, kind, stream.ptr)
            event.record(stream)
        except BaseException:
            stream.synchronize()  # the event may not cover the read of this memory
            raise
