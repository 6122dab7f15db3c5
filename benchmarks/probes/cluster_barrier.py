"""The barrier of a cluster of blocks: arrive with release, wait with acquire.

The barrier alone is timed only where a barrier that also passes a word gives the right words.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.probes.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.probes.gpu import Gpu

SIZES = (2, 4, 8, 16)
CLUSTERS = (1, 4)
ROUNDS = 1000
_PORTABLE = 8
_THREADS = 256
UNSUPPORTED = "clusters need compute capability 9.0"


def probe(gpu: Gpu) -> Iterator[dict[str, Any]]:
    """Yield the rows."""
    if gpu.capability < 90:
        yield {"variant": "all", "state": "unsupported", "why": UNSUPPORTED}
        return
    kernel = gpu.compile("cluster_barrier.cu")
    for size, clusters in itertools.product(SIZES, CLUSTERS):
        variant, blocks = f"{clusters} x {size} blocks", size * clusters
        checked, timed = (kernel(f"{name}_{size}") for name in ("checked", "timed"))
        if size > _PORTABLE:
            gpu.allow_large_cluster(checked)
            gpu.allow_large_cluster(timed)
        row = _row(gpu, checked, f"{variant}, with a word passed", blocks)
        yield row
        if row["state"] in ("measured", "dry"):
            row = _row(gpu, timed, variant, blocks)
        yield row | {"variant": variant}


def _row(gpu: Gpu, kernel: Any, variant: str, blocks: int) -> dict[str, Any]:
    counts = Counts()

    def queue(rounds: int = ROUNDS) -> None:
        counts.ask(rounds * blocks)
        kernel((blocks,), (_THREADS,), (counts.array, np.int32(rounds)))

    return gpu.row(variant, queue, complaint=counts.complaint, empty=lambda: queue(0), rounds=ROUNDS)
