"""Fences behind stores, beside the same loop without a fence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from benchmarks.probes.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.probes.gpu import Gpu

KINDS = ("none", "threadfence", "acq_rel", "sc", "acq_rel_of_cluster", "release_store")
ROUNDS = 1000
_THREADS = 256


def probe(gpu: Gpu) -> Iterator[dict[str, Any]]:
    """Yield the rows."""
    kernel = gpu.compile("fences.cu")
    for blocks in (1, gpu.multiprocessors):
        for fencing in (1, _THREADS):
            for kind in KINDS:
                variant = f"{kind} by {fencing} of {_THREADS} threads, {blocks} blocks"
                if kind == "acq_rel_of_cluster" and gpu.capability < 90:
                    why = "fences of a cluster need compute capability 9.0"
                    yield {"variant": variant, "state": "unsupported", "why": why}
                else:
                    yield _row(gpu, kernel(kind), variant, blocks, fencing)


def _row(gpu: Gpu, kernel: Any, variant: str, blocks: int, fencing: int) -> dict[str, Any]:
    counts, out = Counts(), cupy.zeros((blocks * _THREADS, 2), np.uint32)

    def queue(rounds: int = ROUNDS) -> None:
        counts.ask(rounds * blocks)
        kernel((blocks,), (_THREADS,), (counts.array, out, np.int32(rounds), np.int32(fencing)))

    def complaint() -> str | None:
        words = out.get()[:, 0]
        return counts.complaint() or (None if (words == ROUNDS).all() else "the last round's words are not in memory")

    return gpu.row(variant, queue, complaint=complaint, empty=lambda: queue(0), rounds=ROUNDS)
