"""Run sequences through layers of another system's cells, a step at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray

    Step = Callable[[NumpyArray, NumpyArray, NumpyArray], tuple[Any, Any]]
    States = Sequence[tuple[NumpyArray, NumpyArray]]
    Results = tuple[NumpyArray, list[tuple[NumpyArray, NumpyArray]]]


def run_steps(steps: Sequence[Step], bidirectional: bool, xs: NumpyArray, states: States) -> Results:
    """Return the outputs (T, B, width) and final states (h, c) of cells.

    Args:
        steps: each cell's (x, h, c) -> (h, c), by layer and direction.
        bidirectional: whether each layer has both directions.
        xs: (T, B, I), T at least 1.
        states: each cell's (h, c).
    """
    directions = 2 if bidirectional else 1
    finals = []
    for first in range(0, len(steps), directions):
        outputs = []
        for k in range(first, first + directions):
            order = slice(None, None, -1 if k > first else 1)
            h, c = states[k]
            ys = []
            for x in xs[order]:
                h, c = (np.asarray(one) for one in steps[k](x, h, c))
                ys.append(h)
            outputs.append(np.stack(ys)[order])
            finals.append((h, c))
        xs = np.concatenate(outputs, axis=-1)
    return xs, finals
