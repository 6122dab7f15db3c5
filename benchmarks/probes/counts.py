"""The counts that a kernel keeps of itself: what was wrong, and how many rounds its blocks took."""

from __future__ import annotations

import cupy
import numpy as np


class Counts:
    """Two counts on the GPU, and a comparison of them with what was asked for.

    Attributes:
        array: the argument of kernels: the mistakes, and the rounds of all blocks.
    """

    def __init__(self) -> None:
        self.array = cupy.zeros(2, np.uint64)
        self.asked = 0

    def ask(self, rounds: int) -> None:
        """Note that a launch will take this many rounds, those of all blocks together."""
        self.asked += rounds

    def complaint(self) -> str | None:
        """Return what was wrong since the last call, or None. This waits for the GPU."""
        mistakes, rounds = map(int, self.array.get())
        asked, self.asked = self.asked, 0
        self.array.fill(0)
        if mistakes:
            return f"{mistakes} words were wrong, or blocks waited too long"
        return None if rounds == asked else f"{rounds} rounds instead of {asked}"
