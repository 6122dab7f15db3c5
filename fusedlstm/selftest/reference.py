"""What objects should compute, by the readable formula in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fusedlstm.backends.numpy import formula

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.weights import LSTMWeights

Pair: TypeAlias = "tuple[NumpyArray, NumpyArray]"  # h and c


def step(
    weights: StackedWeights, x: NumpyArray, states: Sequence[Pair], is_first: Any, resets: Sequence[Pair] | None
) -> tuple[NumpyArray, list[Pair]]:
    """Return the output and the states of all layers after a step. `resets` has one row for each layer, or is None."""
    new: list[Pair] = []
    for k, (layer, residual) in enumerate(zip(weights.layers, weights.residual, strict=True)):
        h, c = formula.step(layer, x, *states[k], is_first, *(resets[k] if resets else ()))
        new.append((h, c))
        x = h + x if residual else h
    return x, new


def sequence(
    weights: StackedWeights,
    xs: NumpyArray,
    states: Sequence[Pair],
    lengths: NumpyArray,
    is_first: NumpyArray | None,
    resets: Sequence[Pair] | None,
) -> tuple[NumpyArray, list[Pair]]:
    """Return the outputs (T, B, width) and the final states. If a layer reads backward, `is_first` must be None."""
    active = np.arange(len(xs))[:, None] < lengths
    finals: list[Pair] = []
    for which, residual in zip(weights.slices, weights.residual, strict=True):
        parts = []
        for k in range(which.start, which.stop):
            order = range(len(xs))[:: -1 if weights.backward[k] else 1]
            ys, final = _scan(weights.layers[k], xs, states[k], order, active, is_first, resets[k] if resets else ())
            parts.append(ys)
            finals.append(final)
        joined = np.concatenate(parts, axis=2)
        xs = joined + xs if residual else joined
    return np.where(active[:, :, None], xs, 0), finals


def _scan(
    layer: LSTMWeights,
    xs: NumpyArray,
    state: Pair,
    order: range,
    active: NumpyArray,
    is_first: NumpyArray | None,
    reset: tuple[NumpyArray, ...],
) -> tuple[NumpyArray, Pair]:
    """Return every h, and the final state. Inactive rows keep theirs."""
    ys = np.zeros((*xs.shape[:2], layer.output_size))
    for t in order:
        news = formula.step(layer, xs[t], *state, None if is_first is None else is_first[t], *reset)
        h, c = (np.where(active[t][:, None], new, old) for new, old in zip(news, state, strict=True))
        state = h, c
        ys[t] = h
    return ys, state
