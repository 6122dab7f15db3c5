"""A step's exchange of h within a cluster: st.async to all blocks, and one mbarrier a buffer."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.probes.cluster_barrier import UNSUPPORTED
from benchmarks.probes.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.probes.gpu import Gpu

SIZES = (4, 8)
UNITS = (64, 128)  # of a block
ROWS = (1, 8)  # of h, in 16 bits
CLUSTERS = (1, 4)
SCOPES = ("cluster", "cta")  # of the wait: the memory model wants the first, and libraries use the second
ROUNDS = 1000
_THREADS = 256


def probe(gpu: Gpu) -> Iterator[dict[str, Any]]:
    """Yield the rows."""
    if gpu.capability < 90:
        yield {"variant": "all", "state": "unsupported", "why": UNSUPPORTED}
        return
    kernel = gpu.compile("cluster_exchange.cu")
    for size, scope, units, rows, clusters in itertools.product(SIZES, SCOPES, UNITS, ROWS, CLUSTERS):
        variant = f"{clusters} x {size} blocks, {units} units of {rows} rows, wait of {scope} scope"
        yield _row(gpu, kernel(f"exchange_{size}_{scope}"), variant, size * clusters, 2 * units * rows)


def _row(gpu: Gpu, kernel: Any, variant: str, blocks: int, nbytes: int) -> dict[str, Any]:
    """Return the row of a slice of so many bytes."""
    counts = Counts()

    def queue(rounds: int = ROUNDS) -> None:
        counts.ask(rounds * blocks)
        kernel((blocks,), (_THREADS,), (counts.array, np.int32(rounds), np.int32((nbytes // 16).bit_length() - 1)))

    return gpu.row(variant, queue, complaint=counts.complaint, empty=lambda: queue(0), rounds=ROUNDS, bytes=nbytes)
