"""Gather the answers of shards to one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.ray.call import LATE, Waiting
from fusedlstm.ray.link import Sent
from fusedlstm.ray.shards import UNDELIVERED

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.shards import Shards


def gather(
    shards: Shards,
    B: int,
    parts: Sequence[NumpyArray],
    sent: Sequence[Sent],
    take: Callable[[NumpyArray, Any], None] | None = None,
    result: Any = None,
    later: Sequence[NumpyArray] = (),
) -> Generator[Waiting, list[Any], NumpyArray]:
    """Wait for the parts of a call, and pass each part's result to `take`. Return which of B rows were delivered, (B,).

    Args:
        shards: all shards.
        B: the number of rows.
        parts: the rows of each part.
        sent: the call of each part.
        take: is called with the rows of a part and their result.
        result: the array that `take` fills, if it is one array, for LateShardsError.
        later: the rows of parts that come later, which LateShardsError doesn't report as delivered.
    """
    delivered = np.ones(B, np.bool_)
    left = []
    for rows, each in zip(parts, sent, strict=True):
        if each.reference is None:
            delivered[rows] = False
        else:
            left.append((rows, each))
    while True:
        answers = yield Waiting([each for _, each in left], [*(rows for rows, _ in left), *later], delivered, result)
        before, left = left, []
        for (rows, each), answer in zip(before, answers, strict=True):
            found = each if answer is LATE else shards.settle(each, answer)
            if isinstance(found, Sent):
                left.append((rows, found))
            elif found is UNDELIVERED:
                delivered[rows] = False
            elif take is not None:
                take(rows, found)
        if not left:
            shards.metrics.live_sessions(len(shards.sessions))
            return delivered
