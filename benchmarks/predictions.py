"""A model of each kernel's time. The table in `kernel_choice` comes from it.

    python -m benchmarks predictions

writes predictions.json, which a report shows beside measurements, and predictions.md, for people. Nothing in them was
measured. If a run on a GPU disagrees, the model is wrong, and so is the table.

A step is one or more launches, one after the other: of one kernel, or of a product and the kernel after it. Each takes

    node + fill + max(the busiest multiprocessor, what all multiprocessors share)

A multiprocessor runs some of its blocks at once, and the rest after them. Blocks that run at once share its port to the
L2, its products and its special functions. They take as long as the busiest of these takes for all of them. They also
take at least the time of a single block, from its first K-tile to its last unit. All multiprocessors share the HBM and
the L2.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks import report_markdown
from benchmarks.blocks import Block, Bullets, Heading, Paragraph, Table
from benchmarks.limits import ITEMSIZES
from fusedlstm.backends import kernel_choice

FOLDER = Path(__file__).parent
DATE = "2026-11-23"
ABOUT = f"Predictions of a model, written on {DATE}. No figure here was measured."
# A dtype for each arithmetic. float16 is treated like bfloat16.
_DTYPES = {"bfloat16": "bfloat16", "tf32": "float32", "float32": "float32", "float64": "float64"}


@dataclass(frozen=True)
class Gpu:
    """The constants of a GPU, by default of an H200. Rates are per second.

    Attributes:
        sms: multiprocessors.
        clock: hertz.
        l2: bytes that all multiprocessors read from the L2.
        port: bytes per clock from the L2 to one multiprocessor.
        l2_size: bytes that stay in the L2 from step to step.
        hbm: bytes that a copy reads and writes.
        library: flop of a library's products, by arithmetic: wgmma, as reached and not as on the data sheet.
        own: flop of our products: mma.sync, at 63 % of that, and fma.
        special: special functions per clock of a multiprocessor.
        node: seconds from one empty kernel to the next within a graph.
        fill: seconds of a kernel in which nothing is busy. From its first load, which misses the L2, to the first
            K-tile it is 0.6 us. That tile takes 0.15 us through barrier, shared memory and products. From the last
            product through five dependent functions to the stored h it is 0.25 us.
        trip: seconds from a load that hits the L2 until its K-tile has been multiplied.
    """

    sms: int = 132
    clock: float = 1.7e9
    l2: float = 6.5e12
    port: float = 64
    l2_size: float = 50e6
    hbm: float = 4.3e12
    library: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"bfloat16": 790e12, "tf32": 395e12, "float32": 55e12, "float64": 60e12}
    )
    own: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"bfloat16": 498e12, "tf32": 249e12, "float32": 55e12, "float64": 30e12}
    )
    special: float = 16
    node: float = 1.4e-6
    fill: float = 1.0e-6
    trip: float = 0.3e-6


@dataclass(frozen=True)
class Tile:
    """The tile that a block multiplies at a time, and how many blocks a multiprocessor has room for.

    Attributes:
        rows: rows of x and h.
        columns: columns of the gates, four for each unit.
        warps: warps of a block. Eight on a multiprocessor keep its tensor cores or fma units busy.
        room: blocks at once on a multiprocessor, by shared memory and registers.
        shares: warps that split K, each with its own K-tiles.
        splits: blocks that split K. Their sums go through the L2.
        ahead: K-tiles that are being loaded while one is multiplied.
        k_tile: bytes of a row in a K-tile.
        rate: the part of the multiprocessor's rate that the tile's shape allows.
        library: whether the products are a library's.
    """

    rows: int
    columns: int
    warps: int
    room: int
    shares: int = 1
    splits: int = 1
    ahead: int = 3
    k_tile: int = 64
    rate: float = 1.0
    library: bool = False


def tile_of(kernel: str, B: int, arithmetic: str) -> Tile:
    """Return the tile of one of our kernels for B rows."""
    if kernel == "tensor_large":  # 64 KiB of K-tiles and 5 KiB; registers leave room for two
        return Tile(128, 128, warps=8, room=2)
    if kernel == "tensor_medium":  # 32 KiB and 3 KiB; registers leave room for four
        return Tile(64, 64, warps=4, room=4)
    if kernel == "tensor_small":  # 40 or 64 KiB of 227
        return Tile(8, 32, warps=4, room=5, shares=4) if B <= 8 else Tile(32, 32, warps=4, room=3, shares=4)
    if B <= 64:  # simt: 8 sums a thread, so that two of three cycles go to reading shared memory
        return Tile(16, 64, warps=4, room=4, rate=1 / 3)
    if B <= 2048:  # 12 loads of shared memory for 128 multiply-adds a thread
        return Tile(64, 64, warps=4, room=3 if arithmetic == "float64" else 4, rate=0.6)
    # In float32, a thread does 256 multiply-adds for 16 loads of shared memory, which leave some cycles idle.
    return Tile(64, 128, warps=8, room=1) if arithmetic == "float64" else Tile(128, 128, warps=8, room=2, rate=0.7)


# The tiles that cuBLASLt chooses from.
_LIBRARY = [
    Tile(rows, columns, warps=8, room=1, splits=splits, ahead=5, k_tile=128, library=True)
    for rows, columns, splits in product((64, 128, 256), (64, 128, 256), (1, 2, 4))
    if rows * columns <= 128 * 256
]


@dataclass(frozen=True)
class Work:
    """The work of a product of B rows and some columns.

    Attributes:
        B: rows.
        columns: columns of the weights.
        K: the columns of the operand, over which it sums.
        item: bytes of one of its elements.
        extra: bytes read and written for each sum, besides operand and weights.
        special: for each sum, clocks of a multiprocessor's special functions, or of instructions that replace them.
    """

    B: int
    columns: int
    K: int
    item: int
    extra: float = 0
    special: float = 0


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


def _product(gpu: Gpu, tile: Tile, work: Work, arithmetic: str, resident: float) -> Prediction:
    """Return the time of the launch of a product.

    Args:
        gpu: the GPU.
        tile: the tile of a block.
        work: the product, and the work on its sums.
        arithmetic: the arithmetic of the products.
        resident: bytes that a whole step touches, which are in the L2 already if they fit.
    """
    flops = (gpu.library if tile.library else gpu.own)[arithmetic]
    rows, columns = min(tile.rows, work.B), min(tile.columns, work.columns)  # the rest of a tile isn't loaded
    K, sums = -(-work.K // tile.splits), rows * columns
    extra = work.extra + (8 if tile.splits > 1 else 0)
    blocks = -(-work.B // tile.rows) * -(-work.columns // tile.columns) * tile.splits
    operand = (rows + columns) * K * work.item
    # A library's blocks work in pairs, which load one operand once. Otherwise it couldn't reach the measured rate.
    from_l2 = (min(rows, columns) + max(rows, columns) / 2) / (rows + columns) if tile.library else 1
    loads = (operand + sums * extra) / (gpu.port * gpu.clock)
    multiplying = 2 * tile.rows * tile.columns * K / (flops / gpu.sms * tile.rate)
    special = sums * work.special / gpu.clock
    trips = -(-K * work.item // tile.k_tile) / tile.shares * gpu.trip / tile.ahead

    def together(count: int) -> dict[str, float]:
        """Return the times of this many blocks at once on a multiprocessor."""
        return {
            "L2 port": count * loads,
            "products": count * multiplying / min(1, count * tile.warps / 8),
            "special functions": count * special,
            "one block": max(loads, multiplying / min(1, tile.warps / 8), trips) + special,
        }

    full, rest = divmod(-(-blocks // gpu.sms), tile.room)  # of the busiest multiprocessor
    busiest: dict[str, float] = {}
    for times, count in ((full, tile.room), (1, rest)):
        if times and count:
            parts = together(count)
            slowest = max(parts, key=parts.__getitem__)
            busiest[slowest] = busiest.get(slowest, 0) + times * parts[slowest]
    most = max(busiest, key=busiest.__getitem__)
    total = work.B * work.columns
    shared = {
        "HBM": ((work.B + work.columns) * work.K * work.item + total * extra) / gpu.hbm,
        "L2": (blocks * operand * from_l2 + total * tile.splits * extra) / gpu.l2,
    }
    if resident <= gpu.l2_size:
        del shared["HBM"]
    return _launch(gpu, {most: sum(busiest.values()), **shared})


def _planned(gpu: Gpu, B: int, N: int, arithmetic: str, resident: float) -> Prediction:
    """Return the time of the kernel after a library's product, which reads gates and c, and writes c and h."""
    item, wide = ITEMSIZES[_DTYPES[arithmetic]], _wide(arithmetic)
    rate, name = (gpu.hbm, "HBM") if resident > gpu.l2_size else (gpu.l2, "L2")
    special = B * N * _special(arithmetic, gpu) / (gpu.sms * gpu.clock)
    return _launch(gpu, {name: B * N * (6 * wide + item) / rate, "special functions": special})


def _wide(arithmetic: str) -> int:
    """Return the bytes of an element of c, or of a gate."""
    return 8 if arithmetic == "float64" else 4


def _special(arithmetic: str, gpu: Gpu) -> float:
    """Return the clocks that a multiprocessor takes for the five activations of a unit.

    In 16-bit types each is an exp and a reciprocal. An exact one takes about 25 instructions in float32, on 128 lanes,
    or 100 in float64, on 64 lanes. A lane does one a clock.
    """
    return {"bfloat16": 10 / gpu.special, "float64": 5 * 100 / 64}.get(arithmetic, 5 * 25 / 128)


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
    item, wide, width = ITEMSIZES[_DTYPES[arithmetic]], _wide(arithmetic), P or N
    resident = 4 * N * (I + width) * item + (N * P * item if P else 0) + B * ((I + 2 * width) * item + 2 * N * wide)
    gates, projection = Work(B, 4 * N, I + width, item), Work(B, P or 0, N, item, extra=item)
    if kernel == "matmul":
        resident += B * 4 * N * wide
        launches = [
            min((_product(gpu, tile, work, arithmetic, resident) for tile in _LIBRARY), key=lambda one: one.seconds)
            for work in (dataclasses.replace(gates, extra=wide), projection)[: 2 if P else 1]
        ]
        launches.append(_planned(gpu, B, N, arithmetic, resident))
    else:
        state, special = (2 * wide + item) / 4, _special(arithmetic, gpu) / 4  # a unit has four sums
        works = (dataclasses.replace(gates, extra=state, special=special), projection)[: 2 if P else 1]
        multiplied = "float32" if kernel == "simt" and arithmetic == "tf32" else arithmetic
        tile = tile_of(kernel, B, arithmetic)
        launches = [_product(gpu, tile, work, multiplied, resident) for work in works]
    slowest = max(launches, key=lambda one: one.seconds)
    return Prediction(sum(one.seconds for one in launches), slowest.bound)


# The predictions to keep: all batches of all sizes, and a wide cell with a projection, in each arithmetic.
_BATCHES, _SIZES = (1, 32, 256, 1024, 4096, 16384), (128, 256, 512, 1024)
SHAPES = [(B, N, N, None) for N in _SIZES for B in _BATCHES] + [(32, 640, 2048, 640)]
PRECISIONS = {"bfloat16": "highest", "tf32": "high", "float32": "highest", "float64": "highest"}
_CAPABILITY = 90


def kernels_of(arithmetic: str) -> list[str]:
    """Return the kernels that can multiply in this arithmetic."""
    dtype, precision = _DTYPES[arithmetic], PRECISIONS[arithmetic]
    return [name for name in kernel_choice.NAMES if kernel_choice.reason_against(name, dtype, precision) is None]


def chosen(arithmetic: str, B: int, I: int, N: int, P: int | None) -> str:
    """Return the kernel that the table has for a shape."""
    return kernel_choice.choose(B, I, N, P, _DTYPES[arithmetic], PRECISIONS[arithmetic], _CAPABILITY)


def compute() -> dict:
    """Return the content of predictions.json."""
    rows = []
    for arithmetic in PRECISIONS:
        for B, I, N, P in SHAPES:
            predictions = {
                kernel: predict(kernel, B=B, I=I, N=N, P=P, arithmetic=arithmetic) for kernel in kernels_of(arithmetic)
            }
            rows.append(
                {
                    "arithmetic": arithmetic,
                    "B": B,
                    "I": I,
                    "N": N,
                    "P": P,
                    "kernels": {
                        kernel: {"us": round(1e6 * one.seconds, 2), "bound": one.bound}
                        for kernel, one in predictions.items()
                    },
                    "fastest": min(predictions, key=lambda kernel: predictions[kernel].seconds),
                    "chosen": chosen(arithmetic, B, I, N, P),
                }
            )
    return {"about": ABOUT, "date": DATE, "gpu": dataclasses.asdict(Gpu()), "rows": rows}


def write(folder: Path = FOLDER) -> list[Path]:
    """Write predictions.json and predictions.md into a folder, and return their paths."""
    content = compute()
    data, text = folder / "predictions.json", folder / "predictions.md"
    lines = ",\n".join(json.dumps(row) for row in content["rows"])
    head = json.dumps({**content, "rows": []}, indent=1)
    data.write_text(head.replace('"rows": []', f'"rows": [\n{lines}\n ]') + "\n", encoding="utf-8")
    text.write_text(report_markdown.render(_blocks(content)), encoding="utf-8")
    return [data, text]


def _blocks(content: dict) -> list[Block]:
    """Return the predictions as a page for people."""
    blocks: list[Block] = [
        Heading(1, "Predicted times of the kernels of a step"),
        Paragraph(
            f"{content['about']} The model, predictions.py, describes an NVIDIA H200 by the constants below. The table "
            "that chooses a kernel comes from it, too. Cells have the microseconds of one step within a graph, and "
            "what bounds them."
        ),
        Bullets([(name, _constant(value)) for name, value in content["gpu"].items()]),
    ]
    for arithmetic in PRECISIONS:
        kernels = kernels_of(arithmetic)
        cells = [
            [
                ", ".join(f"{letter} = {row[letter]}" for letter in "BINP" if row[letter]),
                *(f"{row['kernels'][kernel]['us']:.1f}, {row['kernels'][kernel]['bound']}" for kernel in kernels),
                row["fastest"],
                row["chosen"],
            ]
            for row in content["rows"]
            if row["arithmetic"] == arithmetic
        ]
        title = {"bfloat16": "bfloat16 and float16", "tf32": 'float32, precision="high"'}.get(arithmetic, arithmetic)
        blocks += [Heading(2, title), Table(["step", *kernels, "fastest", "in the table"], cells)]
    return blocks


def _constant(value: float | dict[str, float]) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one:g}" for name, one in value.items())
    return f"{value:g}"


@functools.cache
def _kept() -> dict[tuple, dict[str, float]]:
    rows = json.loads((FOLDER / "predictions.json").read_text(encoding="utf-8"))["rows"]
    return {
        tuple(row[name] for name in ("arithmetic", "B", "I", "N", "P")): {
            kernel: one["us"] / 1e6 for kernel, one in row["kernels"].items()
        }
        for row in rows
    }


def kept(kernel: str, *, B: int, I: int, N: int, P: int | None, dtype: str, precision: str) -> float | None:
    """Return the seconds that predictions.json has for a kernel at a shape, or None."""
    arithmetic = kernel_choice.arithmetic("bfloat16" if dtype == "float16" else dtype, precision)
    return _kept().get((arithmetic, B, I, N, P), {}).get(kernel)
