"""Say whether ours is faster than another library, so that noise can't flip the answer.

What differs from process to process (addresses, neighbours on the machine, the clock) is shared by all calls in one
process. So more calls don't average it out, and each process counts once, with its median. In each round of a run,
every library has a process of its own. A round's ratio is the other library's time over ours: above 1, ours is faster.
Drift between rounds cancels in it.

The interval is Student's t, over the logarithms of the rounds' ratios. Bonferroni's correction makes it cover all pairs
of rows in a run at once. A process that was disturbed would widen it. So runs of more than 10 rounds drop some of the
largest and smallest ratios, from 24 rounds on a quarter on each side. Yuen's variance makes up for most of that: with
simulated normal noise and 100 pairs, all intervals hold in 99 of 100 runs of 8 rounds, and in 97 or 98 of 16 to 32.
A test of ranks or signs can't replace it: with 8 rounds, none of them is sure enough for more than one pair.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_ROUNDS = 8
CONFIDENCE = 0.99  # about, that no interval of a run misses its ratio
LEAST_FACTOR = 1.03  # less is a tie, however sure
FASTER, SLOWER, TIE = "faster", "slower", "tie"


class Verdict(NamedTuple):
    """The other library's time over ours, its interval, and a word: FASTER, SLOWER or TIE."""

    ratio: float
    low: float
    high: float
    word: str


def verdict(ours: Sequence[float | None], other: Sequence[float | None], count: int) -> Verdict | None:
    """Compare two libraries, or return None for fewer than 8 rounds.

    Args:
        ours: the seconds of our process in each round, or None if it failed; then the round doesn't count.
        other: the seconds of the other library's process in the same rounds.
        count: how many pairs of rows the run has, including those of slower libraries.
    """
    pairs = [(a, b) for a, b in zip(ours, other, strict=False) if a is not None and b is not None]
    rounds = len(pairs)
    if rounds < LEAST_ROUNDS:
        return None
    logs = np.sort(np.diff(np.log(pairs))[:, 0])
    cut = min((rounds - LEAST_ROUNDS) * 3 // 8, rounds // 4)  # on each side
    kept = rounds - 2 * cut
    middle = float(logs[cut : rounds - cut].mean())
    clipped = np.clip(logs, logs[cut], logs[rounds - 1 - cut])
    error = float(clipped.std(ddof=1)) * math.sqrt((rounds - 1) / (kept * (kept - 1)))
    half = t_quantile(1 - (1 - CONFIDENCE) / (2 * count), kept - 1) * error
    ratio, low, high = (math.exp(value) for value in (middle, middle - half, middle + half))
    if low > 1 and ratio >= LEAST_FACTOR:
        return Verdict(ratio, low, high, FASTER)
    if high < 1 and ratio <= 1 / LEAST_FACTOR:
        return Verdict(ratio, low, high, SLOWER)
    return Verdict(ratio, low, high, TIE)


@functools.cache
def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t, for a probability from 0.5 to 1, by bisecting its angle."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        below = _t_between(angle, freedom) < 2 * probability - 1
        low, high = (angle, high) if below else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def _t_between(angle: float, freedom: int) -> float:
    """Return the probability of |t| < sqrt(freedom) tan(angle): Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (k + 1) / (k + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
