"""The steps of `fusedlstm run`: a part of the steps at a time, with the state carried from each part to the next.

A cell, or layers of one direction, read the inputs once: each part goes through all layers. See `run_both_ways` for
layers of both directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.arrays.host import to_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fusedlstm.arrays.dtypes import Array, NumpyArray
    from fusedlstm.cell import LSTMCell
    from fusedlstm.lstm import LSTM
    from fusedlstm.state import LSTMState
    from fusedlstm.weights import LSTMWeights

    Part: TypeAlias = tuple[int, int]  # its first step, and the step after its last
    Read: TypeAlias = Callable[[int, int], NumpyArray]  # gives the array (stop - start, B, n) of a part
    Tell: TypeAlias = Callable[[int], object]

# The widest array of a part, the gates or the inputs, has at most _PART numbers. Its products have at most _WORK
# multiplications, about a second's work for one core. A part has at least one step.
_PART = 2**21
_WORK = 2**31


class Run(Protocol):
    """The steps of a cell or of layers.

    Attributes:
        passes: how many times all steps are taken.
    """

    passes: int

    def parts(self, read: Read, parts: Division, tell: Tell) -> Iterator[dict[str, NumpyArray]]:
        """Yield the arrays of each part, by their names in the results. `tell` gets the number of steps just taken."""
        ...

    def finals(self) -> dict[str, NumpyArray]:
        """Return the state after the last part, by the names in the results."""
        ...


class Lengths:
    """How many steps each row takes.

    Args:
        lengths: (B,), or None if all rows take all steps.
        T: the number of steps.
    """

    def __init__(self, lengths: NumpyArray | None, T: int) -> None:
        self._lengths = lengths
        self.longest = T if lengths is None else int(lengths.max(initial=0))

    def within(self, start: int, stop: int) -> NumpyArray | None:
        """Return how many of the steps from `start` to `stop` each row takes; None for all."""
        return None if self._lengths is None else np.clip(self._lengths - start, 0, stop - start)


@dataclass(frozen=True)
class Division:
    """The parts of T steps, each of `steps` but the last. Yields each part's first step and the step after its last.

    It holds no list, as a stream may claim any T.
    """

    T: int
    steps: int

    @classmethod
    def of(cls, layers: Sequence[LSTMWeights], T: int, B: int) -> Division:
        """Return the division of T steps of B rows."""
        if not B:  # there is nothing to step, however many steps a file claims
            return cls(0, 1)
        widest = max(max(4 * one.hidden_size, one.input_size, one.output_size) for one in layers)
        work = sum(4 * one.hidden_size * (one.input_size + one.output_size) for one in layers)
        return cls(T, max(min(_PART // (B * widest), _WORK // (B * work)), 1))

    def __iter__(self) -> Iterator[Part]:
        return map(self._part, range(0, self.T, self.steps))

    def __reversed__(self) -> Iterator[Part]:
        return map(self._part, reversed(range(0, self.T, self.steps)))

    def _part(self, start: int) -> Part:
        return start, min(start + self.steps, self.T)


class CellRun:
    """The steps of a cell, one by one, because every c is a result. See `Run`.

    Args:
        cell: the cell that steps the rows.
        state: the state before the first step.
        lengths: the lengths of the rows.
    """

    passes = 1

    def __init__(self, cell: LSTMCell, state: LSTMState, lengths: Lengths) -> None:
        self._cell, self._state, self._lengths = cell, state, lengths
        first = state.to_numpy()
        self._finals = {"h": wide(first.h), "c": wide(first.c)}

    def finals(self) -> dict[str, NumpyArray]:
        """See `Run`."""
        return self._finals

    def parts(self, read: Read, parts: Division, tell: Tell) -> Iterator[dict[str, NumpyArray]]:
        """See `Run`."""
        for start, stop in parts:
            arrays = self._part(self._cell.asarray(read(start, stop)), start, stop)
            tell(stop - start)
            yield arrays

    def _part(self, xs: Array, start: int, stop: int) -> dict[str, NumpyArray]:
        """Take the steps of a part."""
        weights, dtype = self._cell.weights, dtypes.state_dtype(self._cell.dtype)
        outputs = np.zeros((*xs.shape[:2], weights.output_size), dtype)
        cells = np.zeros((*xs.shape[:2], weights.hidden_size), dtype)
        for t in range(min(stop, self._lengths.longest) - start):
            self._state = self._cell(xs[t], self._state)
            host = self._state.to_numpy()
            outputs[t], cells[t] = host.h, host.c
        self._end_rows(outputs, cells, self._lengths.within(start, stop))
        return {"outputs": outputs, "cells": cells}

    def _end_rows(self, outputs: NumpyArray, cells: NumpyArray, within: NumpyArray | None) -> None:
        """Keep each row's state at the last step that it takes, and clear what follows. Rows are independent."""
        for name, every in (("h", outputs), ("c", cells)):
            if within is None:
                self._finals[name] = every[-1].copy()
                continue
            rows, final = np.flatnonzero(within), self._finals[name].copy()
            final[rows] = every[within[rows] - 1, rows]
            self._finals[name] = final
            every[np.arange(len(every))[:, None] >= within] = 0


class LayersRun:
    """The steps of layers of one direction. See `Run`.

    Args:
        lstm: the LSTM of all layers.
        states: the states before the first step, one for each layer.
        lengths: the lengths of the rows.
        reverse: whether the steps of a part are taken last to first. Then parts must come last to first, too.
    """

    passes = 1

    def __init__(self, lstm: LSTM, states: Sequence[LSTMState], lengths: Lengths, *, reverse: bool = False) -> None:
        self.states = tuple(states)
        self.reverse = reverse
        self.lstm, self._lengths = lstm, lengths

    def finals(self) -> dict[str, NumpyArray]:
        """See `Run`."""
        return named(self.states)

    def parts(self, read: Read, parts: Division, tell: Tell) -> Iterator[dict[str, NumpyArray]]:
        """See `Run`."""
        for start, stop in parts:
            outputs = wide(self.part(read(start, stop), start, stop))
            tell(stop - start)
            yield {"outputs": outputs}

    def part(self, xs: NumpyArray, start: int, stop: int) -> NumpyArray:
        """Take the steps of a part, and return their outputs in the LSTM's dtype."""
        if start >= self._lengths.longest:
            return np.zeros((*xs.shape[:2], self.lstm.weights.output_size), self.lstm.dtype)
        within = self._lengths.within(start, stop)
        ys, self.states = self.lstm(self.lstm.asarray(xs), self.states, lengths=within, reverse=self.reverse)
        return to_host("outputs", ys)


def named(states: Sequence[LSTMState]) -> dict[str, NumpyArray]:
    """Return the arrays of states by their names in the results: a single state has two names."""
    found: dict[str, NumpyArray] = {}
    for k, state in enumerate(states):
        host = state.to_numpy()
        found |= {f"h{k}": wide(host.h), f"c{k}": wide(host.c)}
    return found if len(states) > 1 else found | {"h": found["h0"], "c": found["c0"]}


def wide(array: NumpyArray) -> NumpyArray:
    """Return 16-bit numbers as float32, as .npy files don't have bfloat16."""
    return array.astype(dtypes.state_dtype(array.dtype), copy=False)
