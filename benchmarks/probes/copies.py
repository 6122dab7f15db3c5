"""Rates of copies that stay in the L2, or don't, by CUDA and by a kernel, and of reads from the L2."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from benchmarks.probes.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.probes.gpu import Gpu

SIZES = (1 << 24, 1 << 25, 1 << 31)  # bytes of both arrays together
READS = (1 << 22, 1 << 24)
PASSES = 9
_THREADS, _BLOCKS_OF_SM = 512, 2
_SEED = 7
_CHECKING = (1024,), (256,)  # blocks and threads that fill and compare


def probe(gpu: Gpu) -> Iterator[dict[str, Any]]:
    """Yield the rows. The bytes are those that are read and written."""
    kernel = gpu.compile("copies.cu")
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        for size in READS:
            yield _read_row(gpu, kernel, size)
        for size in (1 << 20,) if gpu.dry else SIZES:
            yield from _copy_rows(gpu, kernel, size, stream)


def _grid(gpu: Gpu, vectors: int) -> int:
    """Return the most blocks that do four vectors a thread at a time, with nothing left over."""
    blocks = 1
    while 2 * blocks <= _BLOCKS_OF_SM * gpu.multiprocessors and vectors % (8 * blocks * _THREADS) == 0:
        blocks *= 2
    return blocks


def _filled(kernel: Callable[[str], Any], nbytes: int) -> Any:
    words = cupy.empty(nbytes // 4, np.uint32)
    kernel("fill_words")(*_CHECKING, (words, np.uint64(words.size), np.uint32(_SEED)))
    return words


def _copy_rows(gpu: Gpu, kernel: Callable[[str], Any], size: int, stream: Any) -> Iterator[dict[str, Any]]:
    source, counts = _filled(kernel, size // 2), Counts()
    target = cupy.empty_like(source)
    vectors = source.nbytes // 16
    grid = _grid(gpu, vectors)
    times = 20 if size < 1 << 28 else 2
    copy = kernel("copy_vectors")
    ways: dict[str, Callable[[], object]] = {
        "memcpy": lambda: target.data.copy_from_device_async(source.data, source.nbytes, stream),
        "kernel": lambda: copy((grid,), (_THREADS,), (target, source, np.uint64(vectors))),
    }

    def poison() -> None:
        target.data.memset_async(0xFF, target.nbytes, stream)

    def complaint() -> str | None:
        kernel("count_differences")(*_CHECKING, (counts.array, target, np.uint64(target.size), np.uint32(_SEED)))
        why = counts.complaint()
        poison()
        return why

    for name, way in ways.items():
        graph = repeated(way, times, stream)
        poison()
        launch = functools.partial(graph.launch, stream)
        row = gpu.row(f"{name} of {size >> 20} MiB", launch, complaint=complaint, rounds=times, bytes=size)
        yield _with_rate(row, size)


def repeated(work: Callable[[], object], times: int, stream: Any) -> Any:
    """Return a graph that does some work several times, as launching a small copy takes longer than the copy."""
    work()
    stream.synchronize()
    stream.begin_capture()
    for _ in range(times):
        work()
    return stream.end_capture()


def _read_row(gpu: Gpu, kernel: Callable[[str], Any], size: int) -> dict[str, Any]:
    source = _filled(kernel, size)
    vectors = size // 16
    grid = _grid(gpu, vectors)
    out = cupy.empty(grid * _THREADS, np.uint32)
    read = kernel("read_vectors")

    def queue() -> None:
        read((grid,), (_THREADS,), (out, source, np.uint64(vectors), np.int32(PASSES)))

    def complaint() -> str | None:
        got = np.bitwise_xor.reduce(out.get())
        wanted = np.bitwise_xor.reduce(source.get())
        out.fill(0)
        return None if got == wanted else f"the xor is {got:#x}, not {wanted:#x}"

    row = gpu.row(f"read of {size >> 20} MiB", queue, complaint=complaint, rounds=PASSES, bytes=size)
    return _with_rate(row, size)


def _with_rate(row: dict[str, Any], size: int) -> dict[str, Any]:
    seconds = row.get("seconds_of_round")
    return row | {"bytes_per_second": size / seconds["median"]} if seconds else row
