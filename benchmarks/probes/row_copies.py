"""Copies of rows with gaps to rows without, by cudaMemcpy2DAsync and by a kernel, as a step copies x and its output."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from benchmarks.probes.copies import repeated
from benchmarks.probes.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.probes.gpu import Gpu

SHAPES = ((1, 512), (64, 512), (1024, 512), (4096, 2048))  # rows, and bytes of each
_GAP = 2  # the copied rows' pitch divided by their length
_TIMES = 20  # in a graph
_THREADS = 256
_SEED = 11
_CHECKING = (256,), (256,)  # blocks and threads that fill and compare


def probe(gpu: Gpu) -> Iterator[dict[str, Any]]:
    """Yield the results. The bytes are those that are read and written."""
    kernel = gpu.compile("row_copies.cu")
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        for rows, nbytes in SHAPES[:2] if gpu.dry else SHAPES:
            yield from _rows(gpu, kernel, rows, nbytes, stream)


def _rows(gpu: Gpu, kernel: Callable[[str], Any], rows: int, nbytes: int, stream: Any) -> Iterator[dict[str, Any]]:
    columns, pitch = nbytes // 4, _GAP * nbytes // 4  # in words
    source, target = cupy.empty(rows * pitch, np.uint32), cupy.empty(rows * columns, np.uint32)
    kernel("fill_rows")(*_CHECKING, (source, np.uint64(source.size), np.uint32(_SEED)))
    counts, threads = Counts(), min(_THREADS, nbytes // 16)
    block = threads, _THREADS // threads
    grid = (min(-(-rows // block[1]), 8 * gpu.multiprocessors),)
    of_kernel = (
        np.uint64(nbytes // 16),
        source,
        np.uint64(_GAP * nbytes // 16),
        np.uint64(rows),
        np.uint64(nbytes // 16),
    )
    copy, kind = kernel("copy_rows"), cupy.cuda.runtime.memcpyDeviceToDevice
    sizes = nbytes, source.data.ptr, _GAP * nbytes, nbytes, rows, kind
    ways: dict[str, Callable[[], object]] = {
        "cudaMemcpy2DAsync": lambda: cupy.cuda.runtime.memcpy2DAsync(target.data.ptr, *sizes, stream.ptr),
        "kernel": lambda: copy(grid, block, (target, *of_kernel)),
    }

    def poison() -> None:
        target.data.memset_async(0xFF, target.nbytes, stream)

    def complaint() -> str | None:
        about = np.uint64(rows), np.uint64(columns), np.uint64(pitch), np.uint32(_SEED)
        kernel("count_wrong_rows")(*_CHECKING, (counts.array, target, *about))
        why = counts.complaint()
        poison()
        return why

    for name, way in ways.items():
        graph = repeated(way, _TIMES, stream)
        poison()
        launch = functools.partial(graph.launch, stream)
        size = 2 * rows * nbytes
        yield gpu.row(f"{name} of {rows} x {nbytes} bytes", launch, complaint=complaint, rounds=_TIMES, bytes=size)
