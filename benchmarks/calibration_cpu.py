"""Measure a CPU's best rates: copies of several sizes, large matrix products, exp and tanh."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.constants import Constants

if TYPE_CHECKING:
    from collections.abc import Callable

COPIES = (1 << 17, 1 << 20, 1 << 23, 1 << 27)  # bytes: about L1 and L2, L2, L3, memory
PRODUCTS = (96, 384, 768)  # the first is for kernels that only do small products
SPECIAL = 1 << 14  # elements of a thread: within L2, like the gates of a step if they fit
PART = 0.004  # seconds that one timing takes at least
DTYPES = ("float32", "float64")


def calibrate(threads: int) -> Constants:
    """Measure this CPU with this many threads. Products use as many as the BLAS is set to."""
    with ThreadPoolExecutor(threads) as pool:
        team = Team(pool, threads)
        return Constants(
            device="cpu",
            threads=threads,
            copy=tuple((size, copy_rate(team, size)) for size in COPIES),
            matmul={dtype: max(matmul_rate(size, dtype) for size in PRODUCTS) for dtype in DTYPES},
            special={dtype: special_rate(team, dtype) for dtype in DTYPES},
        )


class Team:
    """Threads that do the same work at once, each on its own arrays. NumPy releases the GIL."""

    def __init__(self, pool: ThreadPoolExecutor, threads: int) -> None:
        self.pool = pool
        self.threads = threads

    def seconds(self, works: list[Callable[[], object]]) -> float:
        """Return the seconds of one call of every work at once: the best of some timings of many calls each."""
        once = best(lambda: self._all(works, 1), seconds=0.0)
        times = max(1, round(PART / once))
        return best(lambda: self._all(works, times)) / times

    def _all(self, works: list[Callable[[], object]], times: int) -> None:
        if self.threads == 1:
            repeat(works[0], times)
        else:
            list(self.pool.map(repeat, works, [times] * len(works)))


def repeat(work: Callable[[], object], times: int) -> None:
    """Call `work` this many times."""
    for _ in range(times):
        work()


def best(work: Callable[[], object], seconds: float = 0.06) -> float:
    """Return the shortest time of a call, of at least three and of as many as the seconds allow."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def copy_rate(team: Team, size: int) -> float:
    """Return the bytes that copies read and write in a second. The arrays of all threads together have this size."""
    each = size // (2 * team.threads)
    pairs = [(np.ones(each, np.uint8), np.zeros(each, np.uint8)) for _ in range(team.threads)]
    works = [lambda pair=pair: np.copyto(pair[1], pair[0]) for pair in pairs]
    return 2 * each * team.threads / team.seconds(works)


def matmul_rate(size: int, dtype: str) -> float:
    """Return the flop a second of a square product."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, size, size)).astype(dtype)
    out = np.empty_like(a)
    return 2 * size**3 / best(lambda: np.matmul(a, b, out=out), seconds=0.12)


def special_rate(team: Team, dtype: str) -> float:
    """Return the evaluations a second, if three in five are exp and two are tanh, as in a step."""
    seconds = (3 * _evaluation(np.exp, team, dtype) + 2 * _evaluation(np.tanh, team, dtype)) / 5
    return 1 / seconds


def _evaluation(function: np.ufunc, team: Team, dtype: str) -> float:
    # In place, repeated exp would grow, and tanh would vanish. So each thread writes to another array.
    values = np.random.default_rng(0).normal(size=SPECIAL).astype(dtype)
    targets = [np.empty_like(values) for _ in range(team.threads)]
    works = [lambda target=target: function(values, out=target) for target in targets]
    return team.seconds(works) / (SPECIAL * team.threads)
