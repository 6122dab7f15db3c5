"""A model of the time of each kernel of sequences. The table in `sequence_choice` comes from it.

A sequence runs in chunks, which are parts of a CUDA graph. x's part of the gates of a chunk is one launch, which is
told apart here. Kernels that do a whole step multiply x in each step instead. What copies inputs and outputs to and
from the chunks is the same for all kernels, and isn't counted.

Another launch of kernels/scan.cu takes all steps of the chunk. Each block first loads all weights of h. A step is

    barrier + the first 8 rows of a block + its other rows

The warps of a block multiply their first rows together, and then finish them together. So both take turns, and each
takes as long as its slowest resource, or as the instructions of a warp that wait for each other. Later, some warps
multiply while others finish. A projection adds a barrier, another product, and the rest of h.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.constants import Gpu
from benchmarks.limits import ITEMSIZES
from benchmarks.step_model import DTYPES, FAST, Prediction, Work, planned, predict, product, wide_of
from benchmarks.tile_shapes import LIBRARY, Tile, shape_of
from fusedlstm.backends.cuda.scan_tiles import NO_FLAGS, ScanTile, gates_tile, scan_tile
from fusedlstm.backends.kernel_choice import SCAN

_CAPABILITY = 90
_MOST_STEPS, _MOST_GATES = 64, 16 << 20  # of a chunk
_EXACTLY = {"bfloat16": np.dtype(np.float16), "tf32": np.dtype(np.float32)}  # a dtype as wide
# From the machine code for sm_90, by NVRTC 13.5: a warp's instructions for 8 rows without flags. With flags these are
# about 220 more.
_INSTRUCTIONS = {"bfloat16": (414, 490), "tf32": (536, 610)}  # if a block has 8 rows, or more
_KEPT = 8  # steps of K whose weights are in registers


@dataclass(frozen=True)
class SequencePrediction:
    """Predicted seconds of a step within a long sequence.

    Attributes:
        step: without x's part of the gates, unless the kernel multiplies x in each step.
        of_x: x's part of the gates, for one step; 0 if it is in `step`.
    """

    step: Prediction
    of_x: float

    @property
    def seconds(self) -> float:
        """All seconds of a step."""
        return self.step.seconds + self.of_x


def predict_sequence(
    kernel: str, *, B: int, I: int, N: int, P: int | None = None, arithmetic: str, gpu: Gpu | None = None
) -> SequencePrediction:
    """Return the predicted time of a step of a long sequence by a kernel.

    Args:
        kernel: one of `sequence_choice.NAMES`.
        B: rows.
        I: input size.
        N: units.
        P: size of the projection, or None. With one, "matmul" is taken to multiply x in each step.
        arithmetic: as from `kernel_choice.arithmetic`; float16 is treated like bfloat16.
        gpu: the GPU; an H200 by default.
    """
    gpu = gpu or Gpu()
    arithmetic = "bfloat16" if arithmetic == "float16" else arithmetic
    if kernel != SCAN and (P or kernel != "matmul"):
        return SequencePrediction(predict(kernel, B=B, I=I, N=N, P=P, arithmetic=arithmetic, gpu=gpu), 0.0)
    steps = steps_of_chunk(B, N, arithmetic)
    tiles = LIBRARY
    if kernel == SCAN:
        tiles = [shape_of(gates_tile(B, N, _EXACTLY[arithmetic], _CAPABILITY), arithmetic)]
    of_x = _of_x(gpu, tiles, B * steps, I, N, arithmetic) / steps
    if kernel == SCAN:
        return SequencePrediction(_scan(gpu, B, N, arithmetic, steps, projects=P is not None), of_x)
    return SequencePrediction(_products(gpu, B, N, arithmetic), of_x)


def steps_of_chunk(B: int, N: int, arithmetic: str) -> int:
    """Return how many steps share a launch for x."""
    return max(1, min(_MOST_STEPS, _MOST_GATES // (4 * N * B * wide_of(arithmetic))))


def _of_x(gpu: Gpu, tiles: list[Tile], rows: int, I: int, N: int, arithmetic: str) -> float:
    """Return the seconds of x's part of the gates, by the best of some tiles."""
    item, wide = ITEMSIZES[DTYPES[arithmetic]], wide_of(arithmetic)
    work = Work(rows, 4 * N, I, item, extra=wide)
    resident = rows * (I * item + 4 * N * wide) + 4 * N * I * item
    return min(product(gpu, tile, work, arithmetic, resident).seconds for tile in tiles)


def _products(gpu: Gpu, B: int, N: int, arithmetic: str) -> Prediction:
    """Return the time of a product of h, and of the kernel after it, which reads both parts of the gates."""
    item, wide = ITEMSIZES[DTYPES[arithmetic]], wide_of(arithmetic)
    resident = 4 * N * N * item + B * N * (2 * item + 10 * wide)
    work = Work(B, 4 * N, N, item, extra=wide)
    launches = [
        min((product(gpu, tile, work, arithmetic, resident) for tile in LIBRARY), key=lambda one: one.seconds),
        planned(gpu, B, N, arithmetic, resident, parts=2),
    ]
    slowest = max(launches, key=lambda one: one.seconds)
    return Prediction(sum(one.seconds for one in launches), slowest.bound)


def _scan(gpu: Gpu, B: int, N: int, arithmetic: str, steps: int, *, projects: bool) -> Prediction:
    """Return the time of a step of kernels/scan.cu. A projection has as many columns as units."""
    tile = scan_tile(B, N, _EXACTLY[arithmetic], _CAPABILITY, flags=NO_FLAGS, projects=projects)
    batches, blocks = -(-min(B, tile.rows) // 8), -(-B // tile.rows)
    rounds = -(-blocks // gpu.sms)  # a multiprocessor has registers for one block of 128 units
    parts = {name: rounds * clocks for name, clocks in _step_of_block(gpu, tile, arithmetic, batches).items()}
    item, wide = ITEMSIZES[DTYPES[arithmetic]], wide_of(arithmetic)
    shared = B * N * (4 * wide + item) / gpu.l2
    busiest = sum(parts.values()) / gpu.clock
    weights = (5 if projects else 4) * N * N * item
    load = max(rounds * weights / gpu.port / gpu.clock, blocks * weights / gpu.l2)
    slowest, overhead = max(parts, key=parts.__getitem__), (gpu.node + gpu.fill + load) / steps
    seconds, bound = (busiest, slowest) if busiest >= shared else (shared, "L2")
    return Prediction(overhead + seconds, "launch" if overhead > seconds else bound)


def _step_of_block(gpu: Gpu, tile: ScanTile, arithmetic: str, batches: int) -> dict[str, float]:
    """Return the clocks of a step of a block of some batches of 8 rows, by what it waits for."""
    product, finish, chains = _batch(gpu, tile, arithmetic, several=batches > 1)
    found = {"barrier": gpu.barrier * gpu.clock}
    for parts, chain in ((product, chains[0]), (finish, chains[1])):
        slowest = max(parts, key=parts.__getitem__)
        name, clocks = (slowest, parts[slowest]) if parts[slowest] >= chain else ("one batch", chain)
        found[name] = found.get(name, 0) + clocks
    both = {name: product.get(name, 0) + finish.get(name, 0) for name in {**product, **finish}}
    both["one batch"] = sum(chains)
    slowest = max(both, key=both.__getitem__)
    found[slowest] = found.get(slowest, 0) + (batches - 1) * both[slowest]
    if tile.projects:
        found["barrier"] *= 2
        for name, clocks in _projection(gpu, tile, arithmetic, batches).items():
            found[name] = found.get(name, 0) + clocks
    return found


def _projection(gpu: Gpu, tile: ScanTile, arithmetic: str, batches: int) -> dict[str, float]:
    """Return the clocks of the projection of some batches of 8 rows."""
    U, k_steps = tile.units, tile.units * ITEMSIZES[DTYPES[arithmetic]] / 32
    parts = {
        "products": 2 * 8 * U * U / (gpu.own[arithmetic] / gpu.sms / gpu.clock),
        "shared memory": tile.threads / 32 * 512 * 1.5 * k_steps / gpu.shared,  # m and the weights
    }
    slowest, chain = max(parts, key=parts.__getitem__), (k_steps * gpu.mma + gpu.chain) * gpu.clock
    first = {"one batch": chain} if chain > parts[slowest] else {slowest: parts[slowest]}
    return first | {slowest: first.get(slowest, 0) + (batches - 1) * parts[slowest]}


def _batch(
    gpu: Gpu, tile: ScanTile, arithmetic: str, *, several: bool
) -> tuple[dict[str, float], dict[str, float], tuple[float, float]]:
    """Return the clocks of 8 rows of a block: of each resource for products, and then; and a warp's own for both."""
    item, U, warps = ITEMSIZES[DTYPES[arithmetic]], tile.units, tile.threads / 32
    k_steps, sums = U * item / 32, 8 * 4 * U
    flop = gpu.own[arithmetic] / gpu.sms / gpu.clock
    loads = warps * 512 * (k_steps / 2 + 4 * max(k_steps - _KEPT, 0))  # of h, and of weights without a register
    functions, _ = FAST
    product = {
        "products": 2 * sums * U / flop,
        "shared memory": (loads + 4 * sums) / gpu.shared,  # x's part is read
        "issue": warps * 4.5 * k_steps / gpu.issue,
    }
    state = 2 * 4 * 8 * U * several  # c, read and written
    moved = 4 * sums + 2 * 8 * U * item + 2 * 512 * warps + state  # x's next part, h, the bias, and c
    finish = {
        "special functions": 8 * U * functions / gpu.special,
        "shared memory": moved / gpu.shared,
        "issue": warps * (_INSTRUCTIONS[arithmetic][several] - 4.5 * k_steps) / gpu.issue,
        "L2 port": (4 * sums + 8 * U * item) / gpu.port,
    }
    return product, finish, (k_steps * gpu.mma * gpu.clock, gpu.chain * gpu.clock)
