"""Plant mistakes in parallel, and print how the tests found each."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """A planted mistake, whether the tests did what was expected, and what they did."""

    mistake: object
    good: bool
    how: str

    def __str__(self) -> str:
        return f"{'    ' if self.good else 'NOT '}{self.mistake}\n        {self.how}"


def missed(plant: Callable[..., Outcome], mistakes: Iterable[object]) -> int:
    """Plant mistakes, print each outcome and a summary, and return how many were not found."""
    outcomes = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for each in pool.map(plant, mistakes):
            print(each, flush=True)
            outcomes.append(each)
    count = sum(not each.good for each in outcomes)
    print(f"{len(outcomes)} mistakes: {count} not found")
    return count
