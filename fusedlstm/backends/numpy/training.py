"""The forward and backward passes of an LSTM's `vjp` on NumPy."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.backends.base import TrainingEngine
from fusedlstm.backends.numpy.backward import Backward, Piece
from fusedlstm.backends.numpy.memory import empty
from fusedlstm.backends.numpy.recording import Record, Recorder, is_plain
from fusedlstm.backends.numpy.scan import scan
from fusedlstm.backends.numpy.sequence import NumpySequence
from fusedlstm.backends.numpy.timeline import timelines
from fusedlstm.gradients import LSTMGradients
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.backends.numpy.cell import NumpyCell
    from fusedlstm.backends.numpy.timeline import Timeline
    from fusedlstm.backends.sequence_run import SequenceRun
    from fusedlstm.stacked import StackedWeights


class RecordingSequence(NumpySequence):
    """Runs sequences as NumpySequence does, bit for bit, and records each direction.

    Args:
        weights: the layers.
        records: the memory for each direction.
        every: the number of steps between checkpoints; None to record every step.
        is_step: whether the sequence is one step, to be taken as in a cell's call.
    """

    def __init__(self, weights: StackedWeights, records: list[Record], every: int | None, *, is_step: bool) -> None:
        super().__init__(weights)
        self._weights, self._records, self._every, self._is_step = weights.layers, records, every, is_step

    def _scan(
        self, engine: NumpyCell, k: int, xs: NumpyArray, timeline: Timeline, run: SequenceRun, outputs: NumpyArray
    ) -> NumpyArray:
        """Run direction k, and return h after each step, in its record."""
        del outputs
        record, reset_to = self._records[k], None if run.reset_to is None else run.reset_to[k]
        state, final = run.states[k], run.finals[k]
        if self._is_step:
            _one_step(Recorder(record, plain=is_plain(self._weights[k])).on(engine), xs, run, record)
        elif self._every is None:
            recording = Recorder(record, plain=is_plain(self._weights[k])).on(engine)
            scan(recording, xs, state, timeline, reset_to, record.h, final, record.c)
        else:
            cs = empty((*xs.shape[:2], engine.sizes[1]), engine.dtype)
            scan(engine, xs, state, timeline, reset_to, record.h, final, cs)
            record.c[...] = cs[timeline.order[self._every - 1 : -1 : self._every]]
        return record.h


def _one_step(engine: NumpyCell, xs: NumpyArray, run: SequenceRun, record: Record) -> None:
    """Take the only step as a cell's call does."""
    (state,), (final,) = run.states, run.finals
    reset = None if run.reset_to is None else engine.prepare_reset(run.reset_to[0].h, run.reset_to[0].c)
    first = None if run.is_first is None else run.is_first[0]
    if len(state.c):  # an array without rows has no memory that tells a step
        engine.run(xs[0], state.h, state.c, record.h[0], record.c[0], first, reset)
    final.h[...], final.c[...] = record.h[0], record.c[0]


class NumpyTraining(TrainingEngine):
    """See `fusedlstm.backends.base.TrainingEngine`.

    Args:
        weights: the layers, in float32 or float64, without zoneout. Only their form matters, as the engines have the
            weights.
    """

    def __init__(self, weights: StackedWeights) -> None:
        self._weights = weights
        self._unused: list[list[NumpyArray]] = []  # at most one

    def forward(
        self, engines: Sequence[NumpyCell], run: SequenceRun, *, every: int | None = None, is_step: bool = False
    ) -> list[NumpyArray]:
        T, B, _ = run.xs.shape
        saved = self._memory(T, B, every)
        records = Record.all_of(self._weights.layers, saved, checkpoints=every is not None)
        RecordingSequence(self._weights, records, every, is_step=is_step).run(engines, run)
        return saved

    def _memory(self, T: int, B: int, every: int | None) -> list[NumpyArray]:
        """Return uninitialised memory: what was released last, if it has the right sizes.

        New memory takes longer, as the system must clear it.
        """
        wanted = [each for layer in self._weights.layers for each in Record.shapes_of(layer, T, B, every)]
        try:
            unused = self._unused.pop()
        except IndexError:
            unused = []
        if [(array.shape, array.dtype) for array in unused] == wanted:
            return unused
        return [empty(*each) for each in wanted]

    def release(self, saved: list[NumpyArray]) -> None:
        if not self._unused:
            self._unused.append(saved)

    def backward(
        self,
        engines: Sequence[NumpyCell],
        run: SequenceRun,
        saved: Sequence[NumpyArray],
        d_outputs: NumpyArray | None,
        d_finals: Sequence[LSTMState] | None,
        *,
        every: int | None = None,
        wants_xs: bool = True,
        wants_weights: Sequence[bool] | bool = True,
    ) -> LSTMGradients:
        work = _WholeBackward(self._weights, engines, run, saved, every, wants_weights)
        gradients: LSTMGradients = engines[0].quietly(work.run, d_outputs, d_finals, wants_xs)
        return gradients


class _WholeBackward:
    """The backward pass of all layers and directions, for one call. Arguments are those of `NumpyTraining.backward`."""

    def __init__(
        self,
        weights: StackedWeights,
        engines: Sequence[NumpyCell],
        run: SequenceRun,
        saved: Sequence[NumpyArray],
        every: int | None,
        wants_weights: Sequence[bool] | bool,
    ) -> None:
        self._layers = [engine.weights.given for engine in engines]  # `set_weights` may have changed the LSTM's since
        count = len(self._layers)
        self._weights, self._engines, self._run, self._every = weights, engines, run, every
        self._records = Record.all_of(self._layers, saved, checkpoints=every is not None)
        self._wants = [wants_weights] * count if isinstance(wants_weights, bool) else list(wants_weights)
        self._timelines = timelines(run, weights.backward)
        self._top = range(*weights.slices[-1].indices(count))  # the directions of the top layer
        self._of_state: list[Any] = [None] * count
        self._of_reset: list[Any] = [None] * count
        self._of_weights: list[Any] = [None] * count

    def run(self, d_outputs: NumpyArray | None, d_finals: Sequence[LSTMState] | None, wants_xs: bool) -> LSTMGradients:
        """Return the gradients."""
        (T, B, _), weights = self._run.xs.shape, self._weights
        inputs = self._inputs()
        d_xs = np.zeros((T, B, weights.output_size), weights.dtype) if d_outputs is None else self._of_shown(d_outputs)
        for layer in reversed(range(weights.num_layers)):
            d_ys, d_xs = d_xs, empty(inputs[layer].shape, weights.dtype)
            start = 0
            for k in range(*weights.slices[layer].indices(len(self._layers))):
                stop = start + self._layers[k].output_size
                part, wanted = d_ys[:, :, start:stop], d_xs if layer or wants_xs else None
                self._take_back(k, inputs[layer], part, None if d_finals is None else d_finals[k], wanted, start > 0)
                if weights.residual[layer] and wanted is not None:
                    wanted += part
                start = stop
        return LSTMGradients(
            d_xs if wants_xs else None,
            tuple(self._of_state),
            None if self._run.reset_to is None else tuple(self._of_reset),
            tuple(self._of_weights),
        )

    def _inputs(self) -> list[NumpyArray]:
        """Return the input of each layer."""
        inputs = [self._run.xs]
        for residual, which in zip(self._weights.residual, self._weights.slices, strict=True):
            parts = [record.h for record in self._records[which]]
            if residual:
                parts = [part + inputs[-1] for part in parts]
            inputs.append(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2))
        return inputs

    def _of_shown(self, d_outputs: NumpyArray) -> NumpyArray:
        """Return the gradients of the top layer's outputs before idle rows are cleared, or repeat their last output."""
        if all(self._timelines[k].idle is None for k in self._top):
            return d_outputs
        d_outputs, start = np.array(d_outputs, order="C"), 0
        for k in self._top:
            stop, timeline = start + self._layers[k].output_size, self._timelines[k]
            if timeline.idle is not None:
                part = d_outputs[:, :, start:stop]
                if self._run.repeats:
                    _move_from_idle(part, timeline)
                part[timeline.idle] = 0
            start = stop
        return d_outputs

    def _take_back(
        self,
        k: int,
        xs: NumpyArray,
        d_ys: NumpyArray,
        d_final: LSTMState | None,
        d_xs: NumpyArray | None,
        adds: bool,
    ) -> None:
        """Run the backward pass of direction k. See `Piece` for d_xs and adds."""
        weights, B = self._layers[k], xs.shape[1]
        shapes = (B, weights.output_size), (B, weights.hidden_size)
        if d_final is None:
            d_state = LSTMState(h=np.zeros(shapes[0], weights.dtype), c=np.zeros(shapes[1], weights.dtype))
        else:
            d_state = LSTMState(h=np.array(d_final.h, order="C"), c=np.array(d_final.c, order="C"))
        reset_to = None if self._run.reset_to is None else self._run.reset_to[k]
        most = self._every or len(xs)
        backward = Backward(weights, d_state, reset_to, most, wants_weights=self._wants[k])
        for piece in self._pieces(k, xs, d_ys, d_xs, adds):
            backward.run(piece)
        self._of_state[k], self._of_reset[k], self._of_weights[k] = d_state, backward.d_reset, backward.d_weights

    def _pieces(self, k: int, xs: NumpyArray, d_ys: NumpyArray, d_xs: NumpyArray | None, adds: bool) -> Iterator[Piece]:
        """Yield the pieces of direction k between checkpoints, from the last one. Take steps without gates again."""
        timeline, record, state, every = self._timelines[k], self._records[k], self._run.states[k], self._every
        if every is None:
            yield Piece(xs, state, record, timeline, d_ys, d_xs, adds)
            return
        weights, T = self._layers[k], len(xs)
        memory = Record(*(empty(*each) for each in Record.shapes_of(weights, min(every, T), xs.shape[1])))
        for number in reversed(range(len(record.c) + 1 if T else 0)):
            steps = timeline.order[number * every : (number + 1) * every]
            part, own = slice(min(steps), max(steps) + 1), memory.part(0, len(steps))
            before = state
            if number:
                before = LSTMState(h=record.h[timeline.order[number * every - 1]], c=record.c[number - 1])
            piece = Piece(
                *(xs[part], before, own, timeline.part(part.start, part.stop), d_ys[part]),
                *(None if d_xs is None else d_xs[part], adds),
            )
            self._retake(k, piece)
            yield piece

    def _retake(self, k: int, piece: Piece) -> None:
        """Take the steps of a piece forward again, and record them."""
        weights, record = self._layers[k], piece.record
        final = LSTMState(h=np.empty_like(record.h[0]), c=np.empty_like(record.c[0]))
        reset_to = None if self._run.reset_to is None else self._run.reset_to[k]
        recording = Recorder(record, plain=is_plain(weights)).on(self._engines[k])
        scan(recording, piece.xs, piece.state, piece.timeline, reset_to, record.h, final, record.c)


def _move_from_idle(d_ys: NumpyArray, timeline: Timeline) -> None:
    """Move the gradients of repeated outputs to the output that they repeat: the reverse of `repeat_in_idle`."""
    order = timeline.order[::-1]
    for t, before in itertools.pairwise(order):
        if timeline.idling[t] and timeline.idle is not None:
            rows = timeline.idle[t]
            d_ys[before][rows] += d_ys[t][rows]
