"""The steps of bidirectional layers for `fusedlstm run`, a part of the steps at a time.

A layer needs the outputs of all steps below it, as its backward direction begins at the end. So each direction of each
layer passes over all parts by itself, the backward one from the last part to the first. Between passes the outputs are
in temporary files without names, which the system removes with the process.
"""

from __future__ import annotations

import contextlib
import tempfile
from typing import IO, TYPE_CHECKING

import numpy as np

from fusedlstm.cli.run_steps import LayersRun, named, wide
from fusedlstm.lstm import LSTM
from fusedlstm.stacked import StackedWeights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.cli.run_steps import Division, Lengths, Read, Tell
    from fusedlstm.state import LSTMState


def directions(weights: StackedWeights, backend: str | None) -> list[LSTM]:
    """Return an LSTM for each layer and direction."""
    return [
        LSTM(StackedWeights([layer], residual=weights.residual[k // 2]), backend=backend)
        for k, layer in enumerate(weights.layers)
    ]


class BothWaysRun:
    """The steps of bidirectional layers. See `run_steps.Run`.

    Args:
        lstms: one for each layer and direction, as in `directions`.
        states: before the first step, one for each layer and direction.
        lengths: of the rows.
        folder: where temporary files may be; None for the system's folder.
    """

    def __init__(
        self, lstms: Sequence[LSTM], states: Sequence[LSTMState], lengths: Lengths, folder: str | None
    ) -> None:
        self._runs = [
            LayersRun(lstm, [state], lengths, reverse=k % 2 == 1)
            for k, (lstm, state) in enumerate(zip(lstms, states, strict=True))
        ]
        self._lstms, self._folder = lstms, folder
        self.passes = len(lstms)

    def finals(self) -> dict[str, NumpyArray]:
        """See `run_steps.Run`."""
        return named([run.states[0] for run in self._runs])

    def parts(self, read: Read, parts: Division, tell: Tell) -> Iterator[dict[str, NumpyArray]]:
        """See `run_steps.Run`."""
        with contextlib.ExitStack() as below:
            for k in range(0, len(self._runs), 2):
                with contextlib.ExitStack() as own:
                    kept = [
                        _Kept(own.enter_context(tempfile.TemporaryFile(dir=self._folder)), lstm)
                        for lstm in self._lstms[k : k + 2]
                    ]
                    read = self._layer(k, kept, read, parts, tell)
                    below.close()
                    below.push(own.pop_all())
            for start, stop in parts:
                yield {"outputs": wide(read(start, stop))}

    def _layer(self, k: int, kept: Sequence[_Kept], read: Read, parts: Division, tell: Tell) -> Read:
        """Run directions k and k + 1, of one layer. Return what reads their outputs side by side."""
        for outputs, run in zip(kept, self._runs[k : k + 2], strict=True):
            for start, stop in reversed(parts) if run.reverse else parts:
                outputs.write(start, run.part(read(start, stop), start, stop))
                tell(stop - start)
        return lambda start, stop: np.concatenate([each.read(start, stop) for each in kept], axis=2)


class _Kept:
    """The outputs (T, B, P) of an LSTM in a temporary file."""

    def __init__(self, file: IO[bytes], lstm: LSTM) -> None:
        self._file, self._P, self._dtype = file, lstm.weights.output_size, lstm.dtype
        self._step = 0  # the bytes of a step

    def write(self, start: int, part: NumpyArray) -> None:
        self._step = part[0].nbytes
        self._file.seek(start * self._step)
        self._file.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)

    def read(self, start: int, stop: int) -> NumpyArray:
        self._file.seek(start * self._step)
        data = self._file.read((stop - start) * self._step)
        return np.frombuffer(data, self._dtype).reshape(stop - start, -1, self._P)
