"""The steps of layers that read backward for `fusedlstm run`, a part of the steps at a time.

A backward direction begins at the end, so a layer needs the outputs of all steps below it. So each direction of each
layer passes over all parts by itself, the backward one from the last part to the first. Between passes the outputs are
in temporary files without names, which the system removes with the process.
"""

from __future__ import annotations

import contextlib
from typing import IO, TYPE_CHECKING

import numpy as np

from fusedlstm.cli.run_steps import LayersRun, named, wide
from fusedlstm.lstm import LSTM
from fusedlstm.stacked import StackedWeights
from fusedlstm.temporary_files import temporary_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.cli.run_steps import Division, Lengths, Read, Tell
    from fusedlstm.state import LSTMState


def needs_passes(weights: StackedWeights) -> bool:
    """Return whether a layer reads backward, so that the layers can't step through the inputs together."""
    return not weights.is_causal


def directions(weights: StackedWeights) -> list[list[tuple[int, bool]]]:
    """Return the directions of each layer: the index in `weights.layers`, and whether it reads backward."""
    return [[(k, weights.backward[k]) for k in range(which.start, which.stop)] for which in weights.slices]


def lstms_of(weights: StackedWeights, backend: str | None, threads: int | None) -> list[LSTM]:
    """Return an LSTM for each layer and direction."""
    return [
        LSTM(StackedWeights([weights.layers[k]], residual=residual), backend=backend, threads=threads)
        for layer, residual in zip(directions(weights), weights.residual, strict=True)
        for k, _ in layer
    ]


class BothWaysRun:
    """The steps of layers of which some read backward. See `run_steps.Run`.

    Args:
        weights: the weights of all layers.
        lstms: what `lstms_of` returns.
        states: the states before the first step, one for each layer and direction.
        lengths: the lengths of the rows.
        folder: where temporary files may be; None for the system's folder.
    """

    def __init__(
        self,
        weights: StackedWeights,
        lstms: Sequence[LSTM],
        states: Sequence[LSTMState],
        lengths: Lengths,
        folder: str | None,
    ) -> None:
        self._layers = [
            [LayersRun(lstms[k], [states[k]], lengths, reverse=backward) for k, backward in layer]
            for layer in directions(weights)
        ]
        self._folder = folder
        self.passes = len(lstms)

    def finals(self) -> dict[str, NumpyArray]:
        """See `run_steps.Run`."""
        return named([run.states[0] for layer in self._layers for run in layer])

    def parts(self, read: Read, parts: Division, tell: Tell) -> Iterator[dict[str, NumpyArray]]:
        """See `run_steps.Run`."""
        with contextlib.ExitStack() as below:
            for layer in self._layers:
                with contextlib.ExitStack() as own:
                    kept = [_Kept(own.enter_context(temporary_file(self._folder)), run) for run in layer]
                    for outputs, run in zip(kept, layer, strict=True):
                        for start, stop in reversed(parts) if run.reverse else parts:
                            outputs.write(start, run.part(read(start, stop), start, stop))
                            tell(stop - start)
                    read = _beside(kept)
                    below.close()
                    below.push(own.pop_all())
            for start, stop in parts:
                yield {"outputs": wide(read(start, stop))}


def _beside(kept: Sequence[_Kept]) -> Read:
    """Return a function that reads outputs side by side."""
    return lambda start, stop: np.concatenate([outputs.read(start, stop) for outputs in kept], axis=2)


class _Kept:
    """The outputs (T, B, P) of an LSTM in a temporary file."""

    def __init__(self, file: IO[bytes], run: LayersRun) -> None:
        self._file, self._P, self._dtype = file, run.lstm.weights.output_size, run.lstm.dtype
        self._step = 0  # the bytes of a step

    def write(self, start: int, part: NumpyArray) -> None:
        self._step = part[0].nbytes
        self._file.seek(start * self._step)
        self._file.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)

    def read(self, start: int, stop: int) -> NumpyArray:
        self._file.seek(start * self._step)
        data = self._file.read((stop - start) * self._step)
        return np.frombuffer(data, self._dtype).reshape(stop - start, -1, self._P)
