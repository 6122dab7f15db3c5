"""Records of a direction's forward pass, for its backward pass, and the step that fills them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.backends.numpy.functions import clip

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.backends.numpy.cell import LaidOutWeights, NumpyCell
    from fusedlstm.backends.numpy.scratch import Buffers
    from fusedlstm.functions import Functions
    from fusedlstm.weights import LSTMWeights


def is_plain(weights: LSTMWeights) -> bool:
    """Return whether a cell has PyTorch's functions and no options.

    A backward step of such a cell reads its gates. That of another cell reads its pre-activations z.
    """
    functions: Functions = weights.functions
    names = functions.gate, functions.input, functions.output
    no_clips = functions.gate_clip is None and weights.cell_clip is None
    no_links = functions.coupled is None and weights.peephole is None
    return names == ("sigmoid", "tanh", "tanh") and no_clips and no_links


@dataclass
class Record:
    """A direction's steps. Arrays are contiguous.

    Attributes:
        h: (T, B, P) after each step. Rows that are idle repeat theirs.
        c: (T, B, N) after each step, likewise. With checkpoints, only after every k-th step in the direction's order,
            except the last step: (ceil(T / k) - 1, B, N), or (0, B, N) without any step.
        gates: (T, 4, B, N) planes i, f, o, g. If the cell isn't plain, these are the pre-activations -z_i, -z_f, -z_o
            and z_g without peepholes. None with checkpoints.
        passes: (T, B, P) booleans: whether the clip of the projection passes the gradient. None without that clip, and
            with checkpoints.
    """

    h: NumpyArray
    c: NumpyArray
    gates: NumpyArray | None = None
    passes: NumpyArray | None = None

    @staticmethod
    def shapes(
        sizes: tuple[int, int], dtype: np.dtype[Any], T: int, B: int, *, proj_clip: bool, every: int | None = None
    ) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return the shape and dtype of each array.

        Args:
            sizes: N and P.
            dtype: the dtype of the weights.
            T: the number of steps.
            B: the number of rows.
            proj_clip: whether the cell clips its projection.
            every: the number of steps between checkpoints; None for no checkpoints.
        """
        N, P = sizes
        if every is not None:
            return [((T, B, P), dtype), ((max(0, -(-T // every) - 1), B, N), dtype)]
        shapes: list[tuple[tuple[int, ...], np.dtype[Any]]]
        shapes = [((T, B, P), dtype), ((T, B, N), dtype), ((T, 4, B, N), dtype)]
        return [*shapes, ((T, B, P), np.dtype(np.bool_))] if proj_clip else shapes

    @staticmethod
    def shapes_of(
        weights: LSTMWeights, T: int, B: int, every: int | None = None
    ) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return the shape and dtype of each array for these weights."""
        sizes, clips = (weights.hidden_size, weights.output_size), weights.proj_clip is not None
        return Record.shapes(sizes, weights.dtype, T, B, proj_clip=clips, every=every)

    @property
    def arrays(self) -> list[NumpyArray]:
        """The arrays that aren't None, in the order of `shapes`."""
        return [array for array in (self.h, self.c, self.gates, self.passes) if array is not None]

    @staticmethod
    def all_of(weights: Sequence[LSTMWeights], arrays: Sequence[NumpyArray], *, checkpoints: bool) -> list[Record]:
        """Return the records of all directions from their arrays in one list."""
        left: Iterator[NumpyArray] = iter(arrays)
        counts = [2 if checkpoints else 3 if each.proj_clip is None else 4 for each in weights]
        return [Record(*(next(left) for _ in range(count))) for count in counts]

    def part(self, start: int, stop: int) -> Record:
        """Return the record of some steps, as views."""
        of = [array[start:stop] for array in self.arrays]
        return Record(*of)


class Recorder:
    """Computes the pointwise part of an engine's steps, and fills a Record.

    Results are those of the engine bit for bit, however it splits rows and steps.

    Args:
        record: the memory to fill. Steps must write c to its array: the address of that memory gives t and the rows.
        plain: whether the cell is plain.
    """

    def __init__(self, record: Record, *, plain: bool) -> None:
        assert record.gates is not None
        self._gates, self._passes, self._plain = record.gates, record.passes, plain
        self._start, (self._step, self._row, _) = _address(record.c), record.c.strides

    def on(self, engine: NumpyCell) -> NumpyCell:
        """Return the engine with this recorder."""
        recording = copy.copy(engine)
        recording.recorder = self
        return recording

    def finish(
        self,
        cell: NumpyCell,
        weights: LaidOutWeights,
        buffers: Buffers,
        c: NumpyArray,
        h_out: NumpyArray,
        c_out: NumpyArray,
    ) -> None:
        """Do the work of the cell's `step_from_gates`, and record it."""
        t, rest = divmod(_address(c_out) - self._start, self._step)
        first = rest // self._row
        rows = slice(first, first + len(c_out))
        kept, m = self._gates[t, :, rows], h_out if cell.writes_h else buffers.m
        if self._plain:
            plain_step(buffers.gates, c, m, c_out, kept)
        else:
            kept[...] = buffers.gates
            weights.pointwise.run(buffers.blocks, c, m, c_out)
        if cell.writes_h or weights.projection is None or buffers.of_m is None:
            return
        buffers.of_m.run(weights.projection)
        if cell.proj_clip is not None and self._passes is not None:
            raw = buffers.projected
            np.less_equal(np.abs(raw), cell.proj_clip, out=self._passes[t, rows])
            clip(raw, cell.proj_clip)
        h_out[...] = buffers.projected


def plain_step(z: NumpyArray, c: NumpyArray, m: NumpyArray, c_new: NumpyArray, kept: NumpyArray) -> None:
    """Do what `fast_pointwise.SigmoidPointwise` does, bit for bit, and write the gates i, f, o and g to `kept`.

    Args:
        z: (4, B, N), the pre-activations -z_i, -z_f, -z_o, z_g. They are overwritten.
        c: (B, N).
        m: (B, N), to be written.
        c_new: (B, N), to be written. It may be c.
        kept: (4, B, N), to be written.
    """
    sigmoids, one = kept[:3], np.ones((), z.dtype)
    (z_i, z_f, _, z_g), (i, f, o, g) = z, kept
    np.exp(z[:3], sigmoids)
    np.add(sigmoids, one, sigmoids)  # 1 / i, 1 / f and 1 / o
    np.tanh(z_g, g)
    np.divide(c, f, z_f)
    np.divide(g, i, z_i)
    np.add(z_f, z_i, c_new)
    np.tanh(c_new, m)
    np.divide(m, o, m)
    np.reciprocal(sigmoids, sigmoids)


def _address(array: NumpyArray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
