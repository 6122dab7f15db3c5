# mypy: ignore-errors
"""One layer through time, in one direction: every h, and the final state.

Call `scan` and the two functions that fill idle outputs inside the backend's `compute`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.backends.base import SequenceEngine
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fusedlstm.arrays.dtypes import Array, Empty, NumpyArray
    from fusedlstm.backends.base import Backend, CellEngine


@dataclass(frozen=True)
class Timeline:
    """The timeline of one direction: its order of steps, the resets before them, and the idle rows.

    `idling` and `resetting` say for each step whether `idle` and `resets` mark any row. They may be True for a step
    without marks if the host doesn't know.
    """

    order: range
    resets: Array | None  # (T, B) booleans on the device
    resetting: list[bool]
    idle: Array | None  # (T, B) booleans on the device
    idling: list[bool]

    def pieces(self, steps: int) -> Iterator[tuple[bool, range]]:
        """Yield the steps in order, in pieces: whether the piece is plain, and its steps.

        In a plain step no row is reset or idle. A plain piece is as long as possible. Other pieces have at most
        `steps` steps.
        """
        start = 0
        for plain, run in itertools.groupby(map(self._is_plain, self.order)):
            stop = start + sum(1 for _ in run)
            for first in (start,) if plain else range(start, stop, steps):
                yield plain, self.order[first : stop if plain else min(stop, first + steps)]
            start = stop

    def _is_plain(self, t: int) -> bool:
        """Return whether the host knows that no row is reset or idle in a step."""
        return not (self.idling[t] or (self.resets is not None and self.resetting[t]))

    def resets_at(self, t: int) -> Array | None:
        """Return the rows to reset before a step, or None."""
        return None if self.resets is None or not self.resetting[t] else self.resets[t]


def forward(backend: Backend, T: int, is_first: Array | None, active: NumpyArray | None) -> Timeline:
    """Return the timeline from the first step to the last.

    Args:
        backend: the backend of the masks' device.
        T: the number of steps.
        is_first: (T, B) on the device, or None.
        active: (T, B) in host memory: the steps that rows take; None for all.
    """
    return _timeline(backend, range(T), is_first, active)


def backward(backend: Backend, T: int, is_first: NumpyArray | None, active: NumpyArray | None) -> Timeline:
    """Return the timeline from the last step to the first. The arguments are those of `forward`, in host memory.

    A backward direction reaches the first step of a sequence last. So the row is reset before the step that it takes
    next.
    """
    resets = None if is_first is None else _resets_backward(is_first, active)
    return _timeline(backend, range(T)[::-1], None if resets is None else backend.mask(resets), active)


def _resets_backward(is_first: NumpyArray, active: NumpyArray | None) -> NumpyArray:
    """Return the rows to reset before each step of a backward direction: they just took a sequence's first step."""
    resets, pending = np.zeros_like(is_first), np.zeros(is_first.shape[1], np.bool_)
    for t in range(len(is_first))[::-1]:
        resets[t] = pending  # an idle row ignores this, and its reset stays pending
        pending = is_first[t] if active is None else np.where(active[t], is_first[t], pending)
    return resets


def _timeline(backend: Backend, order: range, resets: Array | None, active: NumpyArray | None) -> Timeline:
    # Kernels take contiguous steps. Don't look at resets on a device, as that would wait for it.
    if resets is not None:
        resets = backend.compute(backend.xp.ascontiguousarray, resets)
    resetting = _any_row(resets) if isinstance(resets, np.ndarray) else [True] * len(order)
    if active is None:
        return Timeline(order, resets, resetting, None, [False] * len(order))
    idle = np.ascontiguousarray(~active)
    return Timeline(order, resets, resetting, backend.mask(idle), _any_row(idle))


def _any_row(mask: NumpyArray) -> list[bool]:
    """Return for each step whether any row is marked."""
    return [bool(row.any()) for row in mask]


def scan(
    backend: Backend,
    engine: CellEngine,
    xs: Array,
    state: LSTMState,
    timeline: Timeline,
    reset_to: LSTMState | None,
    empty: Empty,
) -> tuple[Array, LSTMState]:
    """Step one layer through a sequence.

    One matmul computes x's part of the gates for many steps, as many as fit in a bounded memory. If that is one step,
    the engine's `run` does each step instead. The loop itself allocates nothing that grows with T.

    Args:
        backend: the engine's backend.
        engine: the layer's engine.
        xs: (T, B, I), any strides.
        state: h (B, P) and c (B, N) before the first step in the order.
        timeline: the order of steps, the resets, and the idle rows, which keep their h and c.
        reset_to: a state of one row or of B; None for zeros.
        empty: makes the arrays to return.

    Returns:
        Every h (T, B, P), where idle rows repeat their last h, and the final state in separate arrays.
    """
    T, B, _ = xs.shape
    h, c = state.h, state.c
    ys = empty((T, *h.shape), h.dtype)
    cs = [empty(c.shape, c.dtype) for _ in range(1 if timeline.idle is None else 2)]
    if B and T:
        reset: Any = None if reset_to is None else engine.prepare_reset(reset_to.h, reset_to.c)
        sequence = engine.sequence
        at_once = sequence.steps_at_once(B)
        step = engine.run if at_once == 1 else sequence.run_gates
        for plain, steps in timeline.pieces(T if at_once == 1 else at_once):  # only gates need the limit
            start, stop = min(steps), max(steps) + 1
            part = xs[start:stop]
            if plain:
                h, c = _run_steps(sequence, part[:: steps.step], h, c, ys[start:stop][:: steps.step], cs)
                continue
            inputs = part if at_once == 1 else sequence.input_gates(part)
            for t in steps:
                h_next, c_next = ys[t], _other(cs, c)  # update c in place unless the old c is still needed
                step(inputs[t - start], h, c, h_next, c_next, timeline.resets_at(t), reset)
                if timeline.idle is not None and timeline.idling[t]:
                    backend.select_rows(h_next, timeline.idle[t], h)
                    backend.select_rows(c_next, timeline.idle[t], c)
                h, c = h_next, c_next
    h_last = empty(h.shape, h.dtype)
    h_last[...] = h
    if c is state.c:
        cs[0][...] = c
        c = cs[0]
    return ys, LSTMState(h=h_last, c=c)


def _run_steps(sequence: Any, xs: Array, h: Array, c: Array, ys: Array, cs: list[Array]) -> tuple[Array, Array]:
    """Take steps without resets, and return the last h and c."""
    c_next = _other(cs, c)
    sequence.run_steps(xs, h, c, ys, c_next)
    return ys[-1], c_next


def _other(cs: list[Array], c: Array) -> Array:
    """Return the array of `cs` that isn't c, or the only one."""
    return cs[-1] if c is cs[0] else cs[0]


def clear_idle(backend: Backend, ys: Array, timeline: Timeline) -> None:
    """Write zeros to the outputs (T, B, P) of rows that are idle: TensorFlow's rule."""
    T, B, P = ys.shape
    if timeline.idle is not None and ys.size:
        backend.select_rows(ys.reshape(T * B, P), timeline.idle.reshape(T * B), None)


def repeat_in_idle(backend: Backend, ys: Array, timeline: Timeline) -> None:
    """Repeat a row's last output while it is idle, or zeros before its first: Keras's rule."""
    if timeline.idle is None or not ys.size:
        return
    last = None
    for t in timeline.order:
        if timeline.idling[t]:
            backend.select_rows(ys[t], timeline.idle[t], last)
        last = ys[t]


class OldLoop(SequenceEngine):
    """Until the graph form is there."""

    def __init__(self, backend: Any, weights: Any) -> None:
        self._backend, self._weights = backend, weights

    def run(self, engines: Sequence[Any], run: Any) -> None:
        """Do it."""
        self._backend.compute(self._run, engines, run)

    def _run(self, engines: Sequence[Any], run: Any) -> None:
        backend, weights = self._backend, self._weights
        T = len(run.xs)
        active = run.mask
        if active is not None and not isinstance(active, np.ndarray):
            active = active.get()
        if run.lengths is not None:
            lengths = run.lengths if isinstance(run.lengths, np.ndarray) else run.lengths.get()
            active = np.arange(T)[:, None] < lengths
        active = None if active is None or active.all() else active
        timelines = []
        if not run.reverse:
            timelines.append(forward(backend, T, None if run.is_first is None else backend.mask(run.is_first), active))
        if run.reverse or weights.bidirectional:
            flags = run.is_first
            if flags is not None and not isinstance(flags, np.ndarray):
                flags = flags.get()
            timelines.append(backward(backend, T, flags, active))
        xs, k = run.xs, 0
        for layer in range(weights.num_layers):
            top, parts = layer == weights.num_layers - 1, []
            for timeline in timelines:
                reset_to = None if run.reset_to is None else run.reset_to[k]
                ys, final = scan(backend, engines[k], xs, run.states[k], timeline, reset_to, backend.empty)
                if weights.residual[layer] and ys.size:
                    backend.add(ys, xs)
                if top:
                    (repeat_in_idle if run.repeats else clear_idle)(backend, ys, timeline)
                run.finals[k].h[...], run.finals[k].c[...] = final.h, final.c
                parts.append(ys)
                k += 1
            width = sum(part.shape[2] for part in parts)
            xs, start = run.outputs if top else backend.empty((*xs.shape[:2], width), run.outputs.dtype), 0
            for part in parts:
                xs[:, :, start : start + part.shape[2]] = part
                start += part.shape[2]
