"""Run layers and directions one after the other, on checked arrays: the work of an LSTM."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeAlias

from fusedlstm.scan import clear_idle, repeat_in_idle, scan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import Array, Empty
    from fusedlstm.backends.base import Backend, CellEngine
    from fusedlstm.scan import Timeline
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.state import LSTMState

    States: TypeAlias = Sequence[LSTMState]
    Resets: TypeAlias = Sequence[LSTMState | None]  # None for zeros

FILL_IDLE = {"zero": clear_idle, "last": repeat_in_idle}


class Layers:
    """The engines of all layers and directions, in the order of the weights, and the calls that run them.

    `engines` is replaced atomically, so a call keeps the engines that it began with.

    Args:
        backend: makes and runs the engines.
        weights: the weights of all layers.
        precision: as in LSTMCell.
        batch_invariant: as in LSTMCell.
        kernel: as in LSTMCell.
    """

    def __init__(
        self,
        backend: Backend,
        weights: StackedWeights,
        precision: str,
        *,
        batch_invariant: bool = False,
        kernel: str | None = None,
    ) -> None:
        self._backend = backend
        self._weights = weights
        self.engines = tuple(
            backend.cell_engine(layer, precision, batch_invariant=batch_invariant, kernel=kernel)
            for layer in weights.layers
        )

    def step(
        self, x: Array, states: States, is_first: Array | None, resets: Resets, news: States, empty: Empty
    ) -> Array:
        """Step all layers of one direction. Write the new states to `news`, and return the output (B, width).

        The output is the last new h itself, or for a residual top layer an array from `empty`.
        """
        for k, (engine, old, reset_to, new) in enumerate(zip(self.engines, states, resets, news, strict=True)):
            reset = None if reset_to is None else engine.prepare_reset(reset_to.h, reset_to.c)
            engine.run(x, old.h, old.c, new.h, new.c, is_first, reset)
            output = new.h
            if self._weights.residual[k]:
                output = empty(new.h.shape, new.h.dtype)
                self._backend.compute(self._write_sum, k, output, new.h, x)
            x = output
        return x

    def run(
        self,
        xs: Array,
        states: States,
        timelines: Sequence[Timeline],
        resets: Resets,
        empty: Empty,
        *,
        masked_outputs: str,
        batch_first: bool,
    ) -> tuple[Array, list[LSTMState]]:
        """Run sequences xs (T, B, I), any strides, through all layers.

        Args:
            xs: the inputs of the first layer.
            states: the state of each layer and direction before its first step.
            timelines: one for each direction.
            resets: for each layer and direction the state to reset to; None for zeros.
            empty: makes the arrays to return.
            masked_outputs: a key of FILL_IDLE, the rule for the top layer's outputs of idle rows.
            batch_first: whether the outputs are (B, T, width) instead of (T, B, width).

        Returns:
            The top layer's outputs, contiguous, and the final state of each layer and direction.
        """
        work = functools.partial(self._run, self.engines, masked_outputs=masked_outputs, batch_first=batch_first)
        result: tuple[Array, list[LSTMState]] = self._backend.compute(work, xs, states, timelines, resets, empty)
        return result

    def _run(
        self,
        engines: Sequence[CellEngine],
        xs: Array,
        states: States,
        timelines: Sequence[Timeline],
        resets: Resets,
        empty: Empty,
        *,
        masked_outputs: str,
        batch_first: bool,
    ) -> tuple[Array, list[LSTMState]]:
        """Do the work of `run`, inside the backend's `compute`."""
        finals: list[LSTMState] = []
        for layer in range(self._weights.num_layers):
            top = layer == self._weights.num_layers - 1
            parts = []
            for timeline in timelines:
                k = len(finals)
                ys, final = scan(self._backend, engines[k], xs, states[k], timeline, resets[k], empty)
                self._add_input(layer, ys, xs)
                if top:
                    FILL_IDLE[masked_outputs](self._backend, ys, timeline)
                finals.append(final)
                parts.append(ys)
            xs = self._join(parts, empty, batch_first=top and batch_first)
        return xs, finals

    def _add_input(self, layer: int, ys: Array, xs: Array) -> None:
        """Add a layer's input to its output in place, if it is residual."""
        if self._weights.residual[layer] and ys.size:
            self._backend.add(ys, xs)

    def _write_sum(self, layer: int, output: Array, h: Array, x: Array) -> None:
        output[...] = h
        self._add_input(layer, output, x)

    def _join(self, parts: Sequence[Array], empty: Empty, *, batch_first: bool) -> Array:
        """Return the outputs (T, B, P) of a layer's directions side by side, contiguous, in the wanted axis order."""
        if len(parts) == 1 and not batch_first:
            return parts[0]
        T, B, _ = parts[0].shape
        width = sum(part.shape[2] for part in parts)
        joined = empty((B, T, width) if batch_first else (T, B, width), parts[0].dtype)
        by_time = joined.swapaxes(0, 1) if batch_first else joined
        start = 0
        for part in parts:
            by_time[:, :, start : start + part.shape[2]] = part
            start += part.shape[2]
        return joined
