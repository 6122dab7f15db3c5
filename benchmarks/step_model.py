"""A model of the time of each kernel of a step. The table in `kernel_choice` comes from it.

A step is one or more launches, one after the other: of one kernel, or of a product and the kernel after it. Each takes

    node + fill + max(the busiest multiprocessor, what all multiprocessors share)

A multiprocessor runs some of its blocks at once, and the rest after them. Blocks that run at once share its port to the
L2, its tensor cores, its shared memory, its special functions and the instructions that it issues. The busiest of these
counts. Blocks begin together, so the last ones to run multiply together, and then finish their units together. Other
blocks multiply while their neighbours finish, but take no less than a block alone. All multiprocessors share the HBM
and the L2.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from benchmarks.constants import Gpu
from benchmarks.limits import ITEMSIZES
from benchmarks.tile_shapes import LIBRARY, Tile, tile_of

# A dtype for each arithmetic. float16 is treated like bfloat16.
DTYPES = {"bfloat16": "bfloat16", "tf32": "float32", "float32": "float32", "float64": "float64"}


@dataclass(frozen=True)
class Work:
    """The work of a product of B rows and some columns.

    Attributes:
        B: rows.
        columns: columns of the weights.
        K: the columns of the operand, over which it sums.
        item: bytes of one of its elements.
        extra: bytes read and written for each sum, besides operand and weights.
        functions: special functions for each sum.
        instructions: instructions for each sum that follow the product.
    """

    B: int
    columns: int
    K: int
    item: int
    extra: float = 0
    functions: float = 0
    instructions: float = 0


@dataclass(frozen=True)
class Prediction:
    """Predicted seconds, and what takes most of them."""

    seconds: float
    bound: str


def _launch(gpu: Gpu, parts: dict[str, float]) -> Prediction:
    """Return the time of a launch. Its parts overlap, so the longest counts."""
    slowest = max(parts, key=parts.__getitem__)
    overhead = gpu.node + gpu.fill
    return Prediction(overhead + parts[slowest], "launch" if overhead > parts[slowest] else slowest)


@dataclass(frozen=True)
class _Costs:
    """The clocks of a multiprocessor that a block takes.

    Attributes:
        product: those of each resource, until the sums are complete.
        finish: those of each resource from then on: units become c and h.
        fewest: those of the product if no other block runs.
        exposed: those of loads that the finish waits for.
    """

    product: dict[str, float]
    finish: dict[str, float]
    fewest: float
    exposed: float

    def in_step(self, count: int) -> dict[str, float]:
        """Return the clocks of this many blocks that begin and multiply together, by what they wait for."""
        slowest, clocks = _slowest(self.product, count)
        found = {slowest: clocks} if clocks >= self.fewest else {"one block": self.fewest}
        slowest, clocks = _slowest(self.finish, count)
        return _sum(found, {slowest: clocks}, {"one block": self.exposed})

    def overlapped(self, count: int) -> dict[str, float]:
        """Return the clocks of this many blocks, if some multiply while others finish."""
        return dict([_slowest(_sum(self.product, self.finish), count)])


def _slowest(parts: dict[str, float], count: int) -> tuple[str, float]:
    name = max(parts, key=parts.__getitem__)
    return name, count * parts[name]


def _sum(*parts: dict[str, float]) -> dict[str, float]:
    return {
        name: sum(one.get(name, 0) for one in parts) for name in dict.fromkeys(name for one in parts for name in one)
    }


def _costs(gpu: Gpu, tile: Tile, work: Work, arithmetic: str) -> _Costs:
    """Return what a block of a product takes."""
    rows, columns = min(tile.rows, work.B), min(tile.columns, work.columns)  # the rest of a tile isn't loaded
    K, sums = -(-work.K // tile.splits), rows * columns
    flop = (gpu.library if tile.library else gpu.own)[arithmetic] / gpu.sms / gpu.clock  # per clock
    k_tiles = -(-K * work.item // tile.k_tile)
    warps = k_tiles * tile.warps / tile.shares  # that multiply one K-tile each
    products = 2 * tile.rows * tile.columns * K / flop
    product = {
        "L2 port": (rows + columns) * K * work.item / gpu.port,
        "products": products,
        "shared memory": k_tiles * tile.shared / gpu.shared,
        "issue": warps * tile.instructions / gpu.issue,
    }
    finish = {
        "L2 port": sums * (work.extra + (8 if tile.splits > 1 else 0)) / gpu.port,
        "special functions": sums * work.functions / gpu.special,
        "issue": sums * work.instructions / 32 / gpu.issue,
    }
    trips = k_tiles / tile.shares * gpu.trip * gpu.clock / (tile.stages - 1)
    # A K-tile begins with a barrier, then all warps of the block queue copies, and then they multiply.
    copies = warps * tile.copies / gpu.issue
    fewest = max(*product.values(), trips, products / min(1, tile.warps / 8) + copies)
    exposed = gpu.latency * gpu.clock if work.instructions and not tile.reads_early else 0
    return _Costs(product, finish, fewest, exposed)


def product(gpu: Gpu, tile: Tile, work: Work, arithmetic: str, resident: float) -> Prediction:
    """Return the time of the launch of a product.

    Args:
        gpu: the GPU.
        tile: the tile of a block.
        work: the product, and the work on its sums.
        arithmetic: the arithmetic of the products.
        resident: bytes that a whole step touches, which are in the L2 already if they fit.
    """
    costs, room = _costs(gpu, tile, work, arithmetic), tile.room(gpu)
    blocks = -(-work.B // tile.rows) * -(-work.columns // tile.columns) * tile.splits
    before, last = divmod(-(-blocks // gpu.sms) - 1, room)  # rounds of the busiest multiprocessor; blocks of the last
    busiest = costs.in_step(last + 1)
    if before:
        alone = {"one block": costs.fewest}  # of a library, which finishes a tile while it multiplies the next
        if not tile.library:
            alone = _sum(costs.in_step(1), {"one block": gpu.fill * gpu.clock})
        each = max(costs.overlapped(room), alone, key=lambda parts: sum(parts.values()))
        busiest = _sum(busiest, {name: before * clocks for name, clocks in each.items()})
    # A library's blocks work in pairs, which load one operand once. Otherwise it couldn't reach the measured rate.
    rows, columns = min(tile.rows, work.B), min(tile.columns, work.columns)
    from_l2 = min(rows, columns) + max(rows, columns) / 2 if tile.library else rows + columns
    total, K = work.B * work.columns, -(-work.K // tile.splits)
    extra = work.extra + (8 if tile.splits > 1 else 0)
    shared = {
        "HBM": ((work.B + work.columns) * work.K * work.item + total * extra) / gpu.hbm,
        "L2": (blocks * from_l2 * K * work.item + total * tile.splits * extra) / gpu.l2,
    }
    if resident <= gpu.l2_size:
        del shared["HBM"]
    most, _ = _slowest(busiest, 1)
    return _launch(gpu, {most: sum(busiest.values()) / gpu.clock, **shared})


def planned(gpu: Gpu, B: int, N: int, arithmetic: str, resident: float, parts: int = 1) -> Prediction:
    """Return the time of the kernel after a library's product, which reads gates and c, and writes c and h.

    `parts` is how many products the gates are sums of.
    """
    item, wide = ITEMSIZES[DTYPES[arithmetic]], wide_of(arithmetic)
    rate, name = (gpu.hbm, "HBM") if resident > gpu.l2_size else (gpu.l2, "L2")
    functions, instructions = _EXACT[arithmetic]
    return _launch(
        gpu,
        {
            name: B * N * ((2 + 4 * parts) * wide + item) / rate,
            "special functions": B * N * functions / gpu.special / gpu.sms / gpu.clock,
            "issue": B * N * instructions / 32 / gpu.issue / gpu.sms / gpu.clock,
        },
    )


def wide_of(arithmetic: str) -> int:
    """Return the bytes of an element of c, or of a gate."""
    return 8 if arithmetic == "float64" else 4


# Special functions and instructions of a unit after the product, from the machine code for sm_90: those of FAST in
# kernels/activations.cuh, and exact ones, which planned.cu and simt.cuh take.
FAST = (8, 80)
_EXACT = {"bfloat16": (10, 160), "tf32": (10, 160), "float32": (10, 160), "float64": (0, 500)}


def predict(
    kernel: str, *, B: int, I: int, N: int, P: int | None = None, arithmetic: str, gpu: Gpu | None = None
) -> Prediction:
    """Return the predicted time of a step by a kernel.

    Args:
        kernel: one of `kernel_choice.NAMES`.
        B: rows.
        I: input size.
        N: units.
        P: size of the projection, or None.
        arithmetic: as from `kernel_choice.arithmetic`; float16 is treated like bfloat16.
        gpu: the GPU; an H200 by default.
    """
    gpu = gpu or Gpu()
    arithmetic = "bfloat16" if arithmetic == "float16" else arithmetic
    item, wide, width = ITEMSIZES[DTYPES[arithmetic]], wide_of(arithmetic), P or N
    resident = 4 * N * (I + width) * item + (N * P * item if P else 0) + B * ((I + 2 * width) * item + 2 * N * wide)
    gates, projection = Work(B, 4 * N, I + width, item), Work(B, P or 0, N, item, extra=item)
    if kernel == "matmul":
        resident += B * 4 * N * wide
        launches = [
            min((product(gpu, tile, work, arithmetic, resident) for tile in LIBRARY), key=lambda one: one.seconds)
            for work in (dataclasses.replace(gates, extra=wide), projection)[: 2 if P else 1]
        ]
        launches.append(planned(gpu, B, N, arithmetic, resident))
    else:
        functions, instructions = _EXACT[arithmetic] if kernel == "simt" else FAST
        of_a_sum = {"extra": (2 * wide + item) / 4, "functions": functions / 4, "instructions": instructions / 4}
        works = (dataclasses.replace(gates, **of_a_sum), projection)[: 2 if P else 1]
        multiplied = "float32" if kernel == "simt" and arithmetic == "tf32" else arithmetic
        launches = [
            product(gpu, tile_of(kernel, B, work.columns, multiplied), work, multiplied, resident) for work in works
        ]
    slowest = max(launches, key=lambda one: one.seconds)
    return Prediction(sum(one.seconds for one in launches), slowest.bound)
