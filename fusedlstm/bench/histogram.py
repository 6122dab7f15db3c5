"""Count times by bins that are the same in every benchmark."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# The lower edges of the bins, in seconds. Shorter and longer times are in the first and the last bin.
EDGES = tuple(float(f"{digit}e{decade}") for decade in range(-7, 3) for digit in (1, 2, 5))


def histogram(times: Sequence[float]) -> dict[float, int]:
    """Return the number of times by the lower edge of their bin, from the first bin with a time to the last."""
    counts = dict.fromkeys(EDGES, 0)
    for time in times:
        counts[EDGES[max(0, bisect.bisect_right(EDGES, time) - 1)]] += 1
    filled = [edge for edge, count in counts.items() if count]
    return {edge: count for edge, count in counts.items() if filled[0] <= edge <= filled[-1]}
