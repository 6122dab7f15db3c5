"""Pinned memory: a kernel that reads or writes it itself, against a kernel with copies before or after it in a graph.

"seconds" are the GPU's. "trip_seconds" are the host's from the launch until it may read the output.
"""

from __future__ import annotations

import functools
import itertools
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import cupy
import numpy as np

from benchmarks.brief.event_time import percentiles
from fusedlstm.backends.cuda.runtime import pinned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.probes.gpu import Gpu

SIZES = (256, 4096, 32768)  # bytes
TRIPS = 50
WAYS = ("device", "copy", "pinned")  # the kernel uses the GPU's memory, without or with a copy, or pinned memory
_THREADS = 256


class Buffers(NamedTuple):
    """The input and the output in pinned memory and on the GPU."""

    host_in: Any
    host_out: Any
    device_in: Any
    device_out: Any


def probe(gpu: Gpu) -> Iterator[dict[str, Any]]:
    """Yield the rows."""
    kernel = gpu.compile("pinned.cu")("through")
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        for size in SIZES:
            for read, write in itertools.product(WAYS, WAYS):
                yield _row(gpu, kernel, stream, (size, read, write))


def _buffers(size: int) -> Buffers:
    host = (pinned.zeros((1, size), np.dtype(np.uint8)) for _ in range(2))
    return Buffers(*host, *(cupy.zeros((1, size), np.uint8) for _ in range(2)))


def _row(gpu: Gpu, kernel: Any, stream: Any, about: tuple[int, str, str]) -> dict[str, Any]:
    size, read, write = about
    buffers, random = _buffers(size), np.random.default_rng(size)
    graph = _graph(kernel, stream, buffers, about)

    def renew() -> None:
        """Write a new input, and spoil the output."""
        buffers.host_in[...] = random.integers(0, 256, size, np.uint8)
        buffers.host_out[...] = buffers.host_in
        buffers.device_out.set(buffers.host_in)
        if read == "device":
            buffers.device_in.set(buffers.host_in)
        stream.synchronize()

    def complaint() -> str | None:
        stream.synchronize()
        got = buffers.device_out.get() if write == "device" else buffers.host_out
        right = (got == ~buffers.host_in).all()
        renew()
        return None if right else "the output is not that of the input"

    renew()
    launch = functools.partial(graph.launch, stream)
    # Each measurement has one input. The trips below have a new one each.
    row = gpu.row(f"{size} bytes, in: {read}, out: {write}", launch, complaint=_lasting(complaint, launch), bytes=size)
    if row["state"] != "measured":
        return row
    trips, wrong = _trips(launch, stream, renew, complaint)
    if wrong:
        return {"variant": row["variant"], "state": "wrong", "why": f"{wrong} of {TRIPS} trips"}
    return row | {"trip_seconds": trips}


def _lasting(complaint: Callable[[], str | None], launch: Callable[[], object]) -> Callable[[], str | None]:
    """Return a `complaint` that can be called at any time: it first launches with the newest input."""

    def both() -> str | None:
        launch()
        return complaint()

    return both


def _trips(
    launch: Callable[[], object], stream: Any, renew: Callable[[], None], complaint: Callable[[], str | None]
) -> tuple[dict[str, float], int]:
    """Return the host's seconds of trips, each with a new input, and how many had a wrong output."""
    seconds, wrong = [], 0
    for _ in range(TRIPS):
        renew()
        start = time.perf_counter()
        launch()
        stream.synchronize()
        seconds.append(time.perf_counter() - start)
        wrong += complaint() is not None
    return percentiles(seconds), wrong


def _graph(kernel: Any, stream: Any, buffers: Buffers, about: tuple[int, str, str]) -> Any:
    """Return the graph: a copy or none, the kernel, a copy or none."""
    size, read, write = about
    from_, to = (
        np.uint64(host.ctypes.data if way == "pinned" else device.data.ptr)
        for way, host, device in (
            (read, buffers.host_in, buffers.device_in),
            (write, buffers.host_out, buffers.device_out),
        )
    )
    vectors = size // 16
    arguments = to, from_, np.int32(vectors)

    def queue() -> None:
        if read == "copy":
            pinned.queue_upload(buffers.device_in, buffers.host_in)
        kernel((-(-vectors // _THREADS),), (min(vectors, _THREADS),), arguments)
        if write == "copy":
            _queue_download(buffers.host_out, buffers.device_out)

    queue()
    stream.synchronize()
    stream.begin_capture()
    queue()
    return stream.end_capture()


def _queue_download(to: Any, rows: Any) -> None:
    kind, stream = cupy.cuda.runtime.memcpyDeviceToHost, cupy.cuda.get_current_stream().ptr
    cupy.cuda.runtime.memcpyAsync(to.ctypes.data, rows.data.ptr, rows.nbytes, kind, stream)
