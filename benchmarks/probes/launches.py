"""Launches: what the host takes for one, and what the GPU takes from node to node of a graph."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import cupy

from benchmarks.brief.event_time import percentiles
from benchmarks.probes.counts import Counts
from benchmarks.probes.gpu import Packed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.probes.gpu import Gpu

NODES = 1000
_CALLS, _BATCHES = 100, 20  # calls in a batch, after which the host waits, so that no queue is ever full


def probe(gpu: Gpu) -> Iterator[dict[str, Any]]:
    """Yield the rows."""
    kernel = gpu.compile("launches.cu")
    add_one, counts = kernel("add_one"), Counts()
    calls: dict[str, Callable[[], object]] = {
        "host: cupy RawKernel": lambda: add_one((1,), (32,), (counts.array,)),
        "host: cupy.cuda.driver.launchKernel": Packed(add_one, 1, 32, counts.array).launch,
    }
    for name, call in calls.items():
        yield _host_row(gpu, name, call, counts)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        graph = _graph(stream, calls["host: cupy RawKernel"], 1)
        counts.complaint()  # forgets the call before the capture
        yield _host_row(gpu, "host: graph of one node", functools.partial(graph.launch, stream), counts)
        for name in ("add_one", "nothing"):
            for blocks, threads in ((1, 32), (gpu.multiprocessors, 256)):
                yield _node_row(gpu, kernel(name), (blocks, threads), counts, stream)


def _graph(stream: Any, call: Callable[[], object], nodes: int) -> Any:
    call()  # loads the kernel, which a capture may not
    stream.synchronize()
    stream.begin_capture()
    for _ in range(nodes):
        call()
    return stream.end_capture()


def _host_row(gpu: Gpu, name: str, call: Callable[[], object], counts: Counts) -> dict[str, Any]:
    """Return a row of the host's seconds for a call that adds one."""
    measured = []
    for _ in range(1 if gpu.dry else _BATCHES + 1):
        cupy.cuda.get_current_stream().synchronize()
        counts.ask(_CALLS)
        start = time.perf_counter()
        for _ in range(_CALLS):
            call()
        measured.append((time.perf_counter() - start) / _CALLS)
    row = {"variant": name}
    if gpu.dry:
        return row | {"state": "dry"}
    why = counts.complaint()
    return row | ({"state": "wrong", "why": why} if why else _measured(measured[1:]))


def _measured(seconds: list[float]) -> dict[str, Any]:
    return {"state": "measured", "host_seconds": percentiles(seconds)}


def _node_row(gpu: Gpu, kernel: Any, size: tuple[int, int], counts: Counts, stream: Any) -> dict[str, Any]:
    """Return a row of the GPU's seconds from one node of a graph to the next."""
    blocks, threads = size
    graph = _graph(stream, lambda: kernel((blocks,), (threads,), (counts.array,)), NODES)
    counts.complaint()
    added = NODES if kernel.name == "add_one" else 0

    def queue() -> None:
        counts.ask(added)
        graph.launch(stream)

    variant = f"node: {kernel.name}, {blocks} x {threads} threads"
    return gpu.row(variant, queue, complaint=counts.complaint, empty=lambda: None, rounds=NODES)
