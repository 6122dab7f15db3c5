"""The rows of a pool in NumPy: an array of h and one of c for each layer, and steps of some of their rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.backends.base import PoolEngine
from fusedlstm.backends.numpy.context import quietly
from fusedlstm.slots import PROBLEMS
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import Empty, NumpyArray
    from fusedlstm.stacked import StackedWeights

    Pair: TypeAlias = tuple[NumpyArray, NumpyArray]  # h and c
    _Form: TypeAlias = tuple[tuple[int, int], np.dtype[Any]]  # the shape and dtype of an array

# The most elements to pick at once where NumPy makes a temporary array.
_PICKED = 1 << 13


class NumpyPool(PoolEngine):
    """The states of all slots, and the buffers of steps.

    A step copies the rows of h and c out, runs the engines on them, and writes all rows back at the end. If it fails
    before that, no row has changed.
    """

    def __init__(self, weights: StackedWeights, capacity: int) -> None:
        self._weights = weights
        self._rows: list[Pair] = [
            (np.zeros(*of_h), np.zeros(*of_c)) for of_h, of_c in _shapes_and_dtypes(weights, capacity)
        ]
        self._buffers = _Buffers(weights, 0)

    @property
    def nbytes(self) -> int:
        return sum(h.nbytes + c.nbytes for h, c in self._rows)

    @property
    def scratch_nbytes(self) -> int:
        """The bytes of the buffers. The engines belong to the cells and don't count."""
        return self._buffers.nbytes

    def kernels(self, B: int) -> tuple[str, ...]:
        """Return "numpy" for each layer, whatever B is."""
        del B
        return ("numpy",) * len(self._rows)

    def clear(self, slots: NumpyArray) -> None:
        self._write(slots, [(0, 0)] * len(self._rows))

    def read(self, slots: NumpyArray, empty: Empty) -> tuple[LSTMState, ...]:
        return tuple(LSTMState(h=_copy(h, slots, empty), c=_copy(c, slots, empty)) for h, c in self._rows)

    def write(self, slots: NumpyArray, states: Sequence[LSTMState]) -> None:
        self._write(slots, [(state.h, state.c) for state in states])

    def copy(self, parents: NumpyArray, slots: NumpyArray) -> None:
        self.write(slots, self.read(parents, np.empty))

    def step(
        self,
        engines: Sequence[Any],
        x: NumpyArray,
        slots: NumpyArray,
        is_first: NumpyArray | None,
        out: NumpyArray,
    ) -> None:
        self._reserve(len(slots))
        buffers = self._buffers
        if not slots.size or slots.min() >= 0:
            news = self._run(engines, x, slots, is_first, out)
        else:
            rows = buffers.rows_that_step(slots)
            x = _pick(x, rows, buffers.x)
            slots = _pick(slots, rows, buffers.slots)
            is_first = None if is_first is None else _pick(is_first, rows, buffers.is_first)
            top = buffers.outputs[-1][: len(rows)]
            news = self._run(engines, x, slots, is_first, top)
            out.fill(0)
            out[rows] = top
        self._write(slots, news)

    def prepare(self, engines: Sequence[Any], largest: int) -> None:
        """Allocate the buffers, and run the engines so that they allocate the calling thread's workspaces."""
        self._reserve(largest)
        buffers = self._buffers
        x = buffers.x[:largest]
        for k, engine in enumerate(engines):
            h = buffers.h_in(largest, engine.sizes[2])
            c = buffers.c[k][:largest]
            engine.run(x, h, c, buffers.h[k][:largest], c)
            x = buffers.h[k][:largest]

    def take_over(self, engines: Sequence[Any], before: Any) -> None:
        """Take the buffers, which don't depend on the capacity."""
        del engines
        self._buffers = before._buffers

    def retire(self) -> None:
        """Do nothing."""

    # All slots are in host memory and checked before a step, so the audit has nothing to do.

    def audit(self, live: NumpyArray) -> None:
        """Do nothing."""

    def mark(self, slots: NumpyArray, *, live: bool) -> None:
        """Do nothing."""

    def problems(self) -> Sequence[tuple[int, int]]:
        """Return no problems."""
        return [(0, 0)] * len(PROBLEMS)

    def _reserve(self, largest: int) -> None:
        """Grow the buffers to this many rows if needed."""
        if largest > self._buffers.largest:
            self._buffers = _Buffers(self._weights, largest)

    def _run(
        self,
        engines: Sequence[Any],
        x: NumpyArray,
        slots: NumpyArray,
        is_first: NumpyArray | None,
        top: NumpyArray,
    ) -> list[Pair]:
        """Write the output to `top`, and return the new h and c of each layer, in the buffers or `top`.

        This doesn't change the pool's rows. No slot may be padding.
        """
        B, buffers, residual = len(slots), self._buffers, self._weights.residual
        news = []
        for k, engine in enumerate(engines):
            h_rows, c_rows = self._rows[k]
            is_top = k == len(engines) - 1
            h, c = buffers.h_in(B, h_rows.shape[1]), buffers.c[k][:B]
            # Slots are in range. In a mode that can't raise, `take` writes to its output without a copy.
            h_rows.take(slots, 0, h, "clip")
            c_rows.take(slots, 0, c, "clip")
            if is_first is not None:
                _clear_marked(h, is_first)
                _clear_marked(c, is_first)
            h_new = top if is_top and not residual[k] else buffers.h[k][:B]
            engine.run(x, h, c, h_new, c)
            news.append((h_new, c))
            output = h_new
            if residual[k]:
                output = top if is_top else buffers.outputs[k][:B]
                quietly(np.add, h_new, x, output)
            x = output
        return news

    def _write(self, slots: NumpyArray, values: Sequence[tuple[Any, Any]]) -> None:
        """Write h and c of every layer to rows.

        If this is interrupted, it writes everything again from the start before it raises.
        """
        try:
            self._write_all(slots, values)
        except BaseException:
            self._write_all(slots, values)
            raise

    def _write_all(self, slots: NumpyArray, values: Sequence[tuple[Any, Any]]) -> None:
        for (h_rows, c_rows), (h, c) in zip(self._rows, values, strict=True):
            h_rows[slots] = h
            c_rows[slots] = c


def nbytes_of(weights: StackedWeights, capacity: int) -> int:
    """Return the bytes of all rows of a pool."""
    arrays = [array for layer in _shapes_and_dtypes(weights, capacity) for array in layer]
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in arrays)


def _shapes_and_dtypes(weights: StackedWeights, capacity: int) -> list[tuple[_Form, _Form]]:
    """Return the shape and the dtype of h and of c, for each layer."""
    dtype, c_dtype = weights.dtype, dtypes.state_dtype(weights.dtype)
    return [
        (((capacity, layer.output_size), dtype), ((capacity, layer.hidden_size), c_dtype)) for layer in weights.layers
    ]


class _Buffers:
    """Memory for steps of up to `largest` rows."""

    def __init__(self, weights: StackedWeights, largest: int) -> None:
        dtype, c_dtype, layers = weights.dtype, dtypes.state_dtype(weights.dtype), weights.layers
        self.largest = largest
        self.h = [np.zeros((largest, layer.output_size), dtype) for layer in layers]  # new h
        self.c = [np.zeros((largest, layer.hidden_size), c_dtype) for layer in layers]  # old c, then new c
        self.outputs = [
            np.zeros_like(h) if residual else h for h, residual in zip(self.h, weights.residual, strict=True)
        ]
        self._h_in = np.zeros(largest * max(layer.output_size for layer in layers), dtype)
        # Copies for the rows that step, if others are padding.
        self.x = np.zeros((largest, weights.input_size), dtype)
        self.slots, self.rows = np.zeros(largest, np.int64), np.zeros(largest, np.int64)
        self.is_first = np.zeros(largest, np.bool_)

    @property
    def nbytes(self) -> int:
        """The bytes of all buffers."""
        own = [output for output, h in zip(self.outputs, self.h, strict=True) if output is not h]
        arrays = [*self.h, *self.c, *own, self._h_in, self.x, self.slots, self.rows, self.is_first]
        return sum(array.nbytes for array in arrays)

    def h_in(self, B: int, P: int) -> NumpyArray:
        """Return memory (B, P) for the old h of one layer. The next layer reuses it."""
        return self._h_in[: B * P].reshape(B, P)

    def rows_that_step(self, slots: NumpyArray) -> NumpyArray:
        """Return the indices of slots that are not negative, in a buffer."""
        count = 0
        for start in range(0, len(slots), _PICKED):
            rows = np.flatnonzero(slots[start : start + _PICKED] >= 0)
            rows += start
            self.rows[count : count + len(rows)] = rows
            count += len(rows)
        return self.rows[:count]


def _copy(rows: NumpyArray, slots: NumpyArray, empty: Empty) -> NumpyArray:
    """Return a copy of the rows of slots, in an array that `empty` makes."""
    out = empty((len(slots), rows.shape[1]), rows.dtype)
    return rows.take(slots, 0, out, "clip")


def _pick(a: NumpyArray, rows: NumpyArray, into: NumpyArray) -> NumpyArray:
    """Copy rows of `a` to the beginning of `into`, and return that part. `a` may have any strides."""
    picked = into[: len(rows)]
    if a.flags.c_contiguous:
        return a.take(rows, 0, picked, "clip")
    at_once = max(1, _PICKED // max(1, math.prod(a.shape[1:])))
    for start in range(0, len(rows), at_once):
        part = slice(start, start + at_once)
        picked[part] = a[rows[part]]
    return picked


def _clear_marked(a: NumpyArray, marked: NumpyArray) -> None:
    """Write zeros to the marked rows."""
    for start in range(0, len(a), _PICKED):
        part = slice(start, start + _PICKED)
        a[part][marked[part]] = 0
