"""The engines of an LSTM's layers and directions, and the calls that run them on checked arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import Array, Empty
    from fusedlstm.backends.base import Backend
    from fusedlstm.backends.sequence_run import SequenceRun
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.state import LSTMState

    States: TypeAlias = Sequence[LSTMState]


class Layers:
    """The engines of all layers and directions, in the order of the weights, and the calls that run them.

    `engines` is replaced atomically, so a call keeps the engines that it began with.

    Args:
        backend: makes and runs the engines.
        weights: the weights of all layers.
        precision: as in LSTMCell.
        batch_invariant: as in LSTMCell.
        kernel: as in LSTMCell.
        threads: as in LSTMCell.
    """

    def __init__(
        self,
        backend: Backend,
        weights: StackedWeights,
        precision: str,
        *,
        batch_invariant: bool = False,
        kernel: str | None = None,
        threads: int | None = None,
    ) -> None:
        self._backend = backend
        self._weights = weights
        self.engines = tuple(
            backend.cell_engine(layer, precision, batch_invariant=batch_invariant, kernel=kernel, threads=threads)
            for layer in weights.layers
        )
        self._sequence = backend.sequence_engine(weights, self.engines)

    def step(
        self, x: Array, states: States, is_first: Array | None, resets: States | None, news: States, empty: Empty
    ) -> Array:
        """Step all layers of one direction. Write the new states to `news`, and return the output (B, width).

        The output is the last new h itself, or for a residual top layer an array from `empty`.
        """
        for k, (engine, old, new) in enumerate(zip(self.engines, states, news, strict=True)):
            reset = None if resets is None else engine.prepare_reset(resets[k].h, resets[k].c)
            engine.run(x, old.h, old.c, new.h, new.c, is_first, reset)
            output = new.h
            if self._weights.residual[k]:
                output = empty(new.h.shape, new.h.dtype)
                self._backend.compute(self._write_sum, output, new.h, x)
            x = output
        return x

    def run(self, run: SequenceRun) -> None:
        """Run whole sequences through all layers and directions."""
        self._sequence.run(self.engines, run)

    def kernels(self, T: int, B: int) -> tuple[str, ...]:
        """Return the kernel of each layer and direction in sequences of T steps and B rows."""
        return self._sequence.kernels(self.engines, T, B)

    def _write_sum(self, output: Array, h: Array, x: Array) -> None:
        output[...] = h
        if output.size:
            self._backend.add(output, x)
