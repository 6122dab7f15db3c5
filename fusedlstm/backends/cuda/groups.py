"""Divide the layers of a stack into parts that each read in one direction.

Consecutive layers of one direction are one part. Each step passes through all of its layers before the next step. Where
the direction changes, the layers above need every step of the layers below. So they form a new group, which starts when
the group below has ended. A layer with both directions is a group of two parts, with their outputs side by side.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusedlstm import directions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.stacked import StackedWeights


@dataclass(frozen=True)
class Part:
    """Consecutive layers that read in the same direction.

    Attributes:
        which: their slice of `StackedWeights.layers`.
        residual: whether each layer's output is its h plus its input.
        backward: whether they read from the last step to the first.
        columns: the columns of the group's outputs that they write.
    """

    which: slice
    residual: tuple[bool, ...]
    backward: bool
    columns: slice


def groups_of(weights: StackedWeights) -> list[tuple[Part, ...]]:
    """Return the groups of a stack, from the lowest."""
    numbered = zip(weights.directions, weights.slices, weights.residual, strict=True)
    groups: list[tuple[Part, ...]] = []
    for direction, several in itertools.groupby(numbered, lambda layer: layer[0]):
        layers = list(several)
        if direction == directions.BOTH:
            groups += [_both(weights, which, residual) for _, which, residual in layers]
            continue
        which = slice(layers[0][1].start, layers[-1][1].stop)
        residuals = tuple(residual for _, _, residual in layers)
        columns = slice(0, weights.layers[which.stop - 1].output_size)
        groups.append((Part(which, residuals, direction == directions.BACKWARD, columns),))
    return groups


def width_of(group: Sequence[Part]) -> int:
    """Return the width of a group's outputs."""
    width: int = group[-1].columns.stop
    return width


def _both(weights: StackedWeights, which: slice, residual: bool) -> tuple[Part, ...]:
    forward, backward = weights.layers[which]
    P, width = forward.output_size, forward.output_size + backward.output_size
    first = slice(which.start, which.start + 1)
    return (
        Part(first, (residual,), False, slice(0, P)),
        Part(slice(first.stop, which.stop), (residual,), True, slice(P, width)),
    )
