"""Rates of mma.sync and of special functions in registers, on all multiprocessors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from benchmarks.probes import fragments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.probes.gpu import Gpu

CHAINS = 8
ROUNDS = 2000
_THREADS = 256
_BLOCKS_OF_SM = {"products": 2, "values": 4}
_DEPTH = {"bf16": 16, "tf32": 8}  # of a product of 16 x 8 sums
# For each function: what it computes, the numbers to begin from, and the largest relative error of one evaluation.
FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], tuple[float, float], float]] = {
    "ex2": (lambda x: np.exp2(-x), (-1.0, 1.0), 2.0**-21),
    "tanh": (np.tanh, (0.25, 2.0), 2.0**-10),
    "rcp": (lambda x: 1 / (x + 1), (0.0, 1.0), 2.0**-22),
    "fma": (lambda x: x / 2 + 0.25, (0.0, 1.0), 2.0**-23),
}


def probe(gpu: Gpu) -> Iterator[dict[str, Any]]:
    """Yield the rows."""
    kernel = gpu.compile("rates.cu")
    for name in _DEPTH:
        yield _product_row(gpu, kernel(f"rate_of_{name}"), name)
    for name in FUNCTIONS:
        yield _value_row(gpu, kernel(f"rate_of_{name}"), name)


def _product_row(gpu: Gpu, kernel: Any, name: str) -> dict[str, Any]:
    """Return the row of a product. Its sums are exact: they are multiples of 1/4, and small."""
    rng, depth = np.random.default_rng(0), _DEPTH[name]
    a, b = (rng.choice(np.float32([-1, -0.5, 0.5, 1]), shape) for shape in ((16, depth), (depth, 8)))
    words = {"bf16": fragments.of_bf16, "tf32": fragments.of_tf32}[name](a, b)
    operands, blocks = cupy.asarray(words), _BLOCKS_OF_SM["products"] * gpu.multiprocessors
    out = cupy.zeros((blocks * _THREADS // 32, 32, CHAINS, 4), np.float32)

    def queue(rounds: int = ROUNDS) -> None:
        kernel((blocks,), (_THREADS,), (out, operands, np.int32(rounds)))

    def complaint() -> str | None:
        wanted = ROUNDS * fragments.sums(a @ b)[:, None]
        right = (out.get() == wanted).all()
        out.fill(0)
        return None if right else "sums are wrong"

    row = gpu.row(f"mma {name}", queue, complaint=complaint, rounds=ROUNDS)
    return _with_rate(row, "flop_per_second", 2 * 16 * 8 * depth * CHAINS * blocks * _THREADS / 32)


def _value_row(gpu: Gpu, kernel: Any, name: str) -> dict[str, Any]:
    """Return the row of a function. One round is compared with NumPy. After all rounds the numbers must be finite."""
    function, ends, tolerance = FUNCTIONS[name]
    blocks = _BLOCKS_OF_SM["values"] * gpu.multiprocessors
    numbers = np.random.default_rng(0).uniform(*ends, blocks * _THREADS * CHAINS).astype(np.float32)
    begun = cupy.asarray(numbers)
    out = cupy.zeros_like(begun)

    def queue(rounds: int = ROUNDS) -> None:
        kernel((blocks,), (_THREADS,), (out, begun, np.int32(rounds)))

    def complaint() -> str | None:
        last = out.get()
        queue(1)
        wanted = function(numbers.astype(float))
        off = np.abs(out.get() / wanted - 1).max()
        out.fill(0)
        if not off < tolerance:
            return f"one evaluation is off by {off:.3g}"
        return None if np.isfinite(last).all() and last.all() else "the last numbers are wrong"

    row = gpu.row(name, queue, complaint=complaint, rounds=ROUNDS)
    return _with_rate(row, "per_second", CHAINS * blocks * _THREADS)


def _with_rate(row: dict[str, Any], name: str, amount: float) -> dict[str, Any]:
    """Return a row with what is done in a second, if each round does this amount."""
    seconds = row.get("seconds_of_round")
    return row | {name: amount / seconds["median"]} if seconds else row
