"""Verdicts of `python -m benchmarks compare`: noise doesn't make them, and doesn't hide a difference of 10 %."""

import json
import math

import numpy as np
import pytest

from benchmarks.verdict import FASTER, LEAST_ROUNDS, SLOWER, TIE, t_quantile, verdict

from support.places import ROOT

RECORDED = json.loads((ROOT / "tests/data/recorded_processes.json").read_text(encoding="utf-8"))["rows"]
ROWS = 100  # of a run
TEN_PERCENT = math.log(1.1)


def plain(rng, shape):
    """Return noise of 2 %, as in quiet processes."""
    return rng.normal(0, 0.02, shape)


def heavy(rng, shape):
    return 0.015 * rng.standard_t(3, shape)


def disturbed(rng, shape):
    """One process in ten takes 30 % longer, more or less."""
    return rng.normal(0, 0.015, shape) + (rng.random(shape) < 0.1) * rng.exponential(0.3, shape)


def two_speeds(rng, shape):
    """Half of the processes take 6 % longer, for example because of where their arrays are."""
    return rng.normal(0, 0.005, shape) + (rng.random(shape) < 0.5) * 0.06


def recorded(rng, shape):
    """Noise of real processes, with other programs on the machine, which has two cores and a load average of 16."""
    times = np.log([[*row["ours"], *row["other"]] for row in RECORDED.values()])
    noise = times - np.median(times, axis=1, keepdims=True)
    row = rng.integers(len(noise), size=(shape[0], 1, 1))
    return noise[row, rng.integers(noise.shape[1], size=shape)]


every_noise = pytest.mark.parametrize("noise", [plain, heavy, disturbed, two_speeds, recorded])


def words(noise, rounds, *, factor=0.0, count=1000, seed=0):
    """Return the verdicts of many rows, whose other library takes exp(factor) times as long. Speeds drift."""
    rng = np.random.default_rng(seed)
    drift = rng.normal(0, 0.03, (count, rounds, 1)).cumsum(axis=1) + rng.normal(0, 0.005, (count, rounds, 2))
    ours, other = np.moveaxis(np.exp(drift + noise(rng, (count, rounds, 2))), 2, 0)
    return np.array([verdict(a, b * math.exp(factor), ROWS).word for a, b in zip(ours, other, strict=True)])


@every_noise
@pytest.mark.parametrize("rounds", [8, 16, 24])
def test_noise_gives_no_verdict(noise, rounds):
    """At most one row in 100 has a verdict where both run the same code."""
    assert (words(noise, rounds) != TIE).mean() <= 0.01


@pytest.mark.parametrize(("noise", "rounds"), [(plain, 16), (heavy, 16), (disturbed, 24), (two_speeds, 32)])
def test_planted_difference_is_found(noise, rounds):
    """10 % is found in 95 of 100 rows. The more processes differ, the more rounds that takes."""
    for factor, word in ((TEN_PERCENT, FASTER), (-TEN_PERCENT, SLOWER)):
        assert (words(noise, rounds, factor=factor, count=400) == word).mean() >= 0.95


@every_noise
@pytest.mark.parametrize("factor", [0.0, 0.03, TEN_PERCENT, -TEN_PERCENT])
def test_no_row_flips_between_runs(noise, factor):
    first, second = (words(noise, 8, factor=factor, count=500, seed=seed) for seed in (1, 2))
    assert not ({FASTER, SLOWER} <= {*first, *second})


def test_recorded_rows_tie():
    """Two processes ran the same code in each of 16 rounds."""
    for name, row in RECORDED.items():
        assert verdict(row["ours"], row["other"], len(RECORDED)).word == TIE, name


def test_difference_in_recorded_noise_is_found():
    """24 rounds are enough on a busy machine: 95 of 100 on average over all rows of a run like the recorded one."""
    rng, found = np.random.default_rng(0), []
    for row in RECORDED.values():
        times = np.array([*row["ours"], *row["other"]])
        drawn = rng.choice(times, (200, 2, 24))
        found += [verdict(ours, 1.1 * other, len(RECORDED)).word == FASTER for ours, other in drawn]
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize(("rounds", "cut", "quantile"), [(8, 0, 3.49948), (16, 3, 3.24984), (32, 8, 2.94671)])
def test_interval_is_that_of_yuen(rounds, cut, quantile):
    """The logarithms are 1, 2, and so on. Those that are cut on each side count as the next one that is kept."""
    logs, kept, middle = np.arange(1.0, rounds + 1), rounds - 2 * cut, (rounds + 1) / 2
    found = verdict([1.0] * rounds, np.exp(logs), 1)
    error = math.sqrt(((np.clip(logs, 1 + cut, rounds - cut) - middle) ** 2).sum() / (kept * (kept - 1)))
    assert math.log(found.ratio) == pytest.approx(middle)
    assert math.log(found.high / found.ratio) == pytest.approx(quantile * error, rel=1e-5)
    assert math.log(found.ratio / found.low) == pytest.approx(quantile * error, rel=1e-5)


def test_interval_covers_the_ratio():
    """In 99 % of runs of one row, it does."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        ours, other = np.exp(rng.normal(0, 0.02, (2, 16)))
        found = verdict(ours, 1.05 * other, 1)
        covered += found.low <= 1.05 <= found.high
    assert 0.98 <= covered / 2000 <= 0.998


def test_more_rows_widen_the_interval():
    ours, other = np.exp(np.random.default_rng(0).normal(0, 0.02, (2, 8)))
    one, many = verdict(ours, other, 1), verdict(ours, other, 1000)
    assert one.ratio == many.ratio
    assert many.low < one.low < one.ratio < one.high < many.high


@pytest.mark.parametrize(
    ("factor", "word"), [(1.031, FASTER), (1.029, TIE), (1.0, TIE), (1 / 1.029, TIE), (1 / 1.031, SLOWER)]
)
def test_small_differences_tie(factor, word):
    """Differences below 3 % tie, however sure they are. Above 1, ours is faster."""
    found = verdict([1e-5] * 8, [1e-5 * factor] * 8, ROWS)
    assert found.ratio == pytest.approx(factor)
    assert found.word == word


def test_few_rounds_give_no_verdict():
    few = LEAST_ROUNDS - 1
    assert verdict([1.0] * few, [2.0] * few, 1) is None
    assert verdict((), (), 1) is None


def test_failed_rounds_do_not_count():
    ours, other = [1.0] * 10, [*[2.0] * 8, None, 5.0]
    ours[9] = None
    assert verdict(ours, other, 1).ratio == pytest.approx(2)
    other[0] = None
    assert verdict(ours, other, 1) is None


@pytest.mark.parametrize(
    ("probability", "freedom", "wanted"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.995, 7, 3.49948), (0.995, 8, 3.35539), (0.9995, 15, 4.07277)],
)
def test_t_quantiles(probability, freedom, wanted):
    """From the usual table."""
    assert t_quantile(probability, freedom) == pytest.approx(wanted, rel=1e-5)
