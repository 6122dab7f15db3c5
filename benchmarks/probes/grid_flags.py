"""A step's exchange of h within a grid: through the L2, with an epoch in a flag of each block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from benchmarks.probes.counts import Counts
from benchmarks.probes.gpu import Packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.probes.gpu import Gpu

BLOCKS = (96, 132)
VECTORS = (1, 8)  # of a block's slice, powers of two: 8 of 132 blocks are about 1024 units of 8 rows in 16 bits
DISTANCES = (1, 8)  # words from flag to flag: side by side, or each in a sector of its own
ROUNDS = 1000
_THREADS = 256


def probe(gpu: Gpu) -> Iterator[dict[str, Any]]:
    """Yield the rows."""
    kernel = gpu.compile("grid_flags.cu")("flags_of_grid")
    for blocks in BLOCKS:
        for vectors in VECTORS:
            for distance in DISTANCES:
                variant = f"{blocks} blocks, {16 * vectors} bytes each, flags {4 * distance} bytes apart"
                if blocks > gpu.multiprocessors:
                    why = f"{blocks} blocks need as many multiprocessors, and there are {gpu.multiprocessors}"
                    yield {"variant": variant, "state": "unsupported", "why": why}
                else:
                    yield _row(gpu, kernel, variant, (blocks, vectors, distance))


def _row(gpu: Gpu, kernel: Any, variant: str, sizes: tuple[int, int, int]) -> dict[str, Any]:
    blocks, vectors, distance = sizes
    counts, slices = Counts(), cupy.zeros(2 * blocks * vectors * 4, np.uint32)
    flags = cupy.zeros(blocks * distance, np.uint32)
    epoch = 0

    def queue(rounds: int = ROUNDS) -> None:
        nonlocal epoch
        counts.ask(rounds * blocks)
        numbers = np.uint32(epoch), *map(np.int32, (rounds, vectors.bit_length() - 1, distance))
        Packed(kernel, blocks, _THREADS, counts.array, slices, flags, *numbers).launch_together()
        epoch += rounds

    return gpu.row(variant, queue, complaint=counts.complaint, empty=lambda: queue(0), rounds=ROUNDS)
