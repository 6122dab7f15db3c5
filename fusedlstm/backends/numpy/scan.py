"""One layer through time, in one direction: every h, and the final state. Call these functions through `quietly`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.backends.numpy.resets import select_rows

if TYPE_CHECKING:
    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.backends.numpy.cell import NumpyCell
    from fusedlstm.backends.numpy.timeline import Timeline
    from fusedlstm.state import LSTMState


def scan(
    engine: NumpyCell,
    xs: NumpyArray,
    state: LSTMState,
    timeline: Timeline,
    reset_to: LSTMState | None,
    ys: NumpyArray,
    final: LSTMState,
    cs: NumpyArray | None = None,
) -> None:
    """Step one layer through a sequence.

    One matmul computes x's part of the gates for many steps, as many as fit in a bounded memory. If that is one step,
    the engine's `run` does each step instead. The loop itself allocates nothing that grows with T.

    Args:
        engine: the layer's engine.
        xs: (T, B, I), any strides.
        state: h (B, P) and c (B, N) before the first step in the order.
        timeline: the order of steps, the resets, and the idle rows, which keep their h and c.
        reset_to: a state of one row or of B; None for zeros.
        ys: (T, B, P), contiguous. Every h is written to it. Idle rows repeat their last h.
        final: the state after the last step is written to it.
        cs: (T, B, N), contiguous. Every c is written to it. Idle rows repeat their last c. None if it isn't wanted.
    """
    T, B, _ = xs.shape
    h, c = state.h, state.c
    buffers = [final.c] if timeline.idle is None else [final.c, np.empty_like(final.c)]
    if B and T:
        reset = None if reset_to is None else engine.prepare_reset(reset_to.h, reset_to.c)
        sequence = engine.sequence
        at_once = sequence.steps_at_once(B)
        step = engine.run if at_once == 1 else sequence.run_gates
        for plain, steps in timeline.pieces(T if at_once == 1 else at_once):  # only gates need the limit
            start, stop = min(steps), max(steps) + 1
            part = xs[start:stop]
            if plain:
                order, c_next = slice(None, None, steps.step), _other(buffers, c)
                own = None if cs is None else cs[start:stop][order]
                sequence.run_steps(part[order], h, c, ys[start:stop][order], c_next, own)
                h, c = ys[steps[-1]], c_next if cs is None else cs[steps[-1]]
                continue
            inputs = part if at_once == 1 else sequence.input_gates(part)
            for t in steps:
                # Without cs, c is updated in place unless the old one is still needed.
                h_next, c_next = ys[t], _other(buffers, c) if cs is None else cs[t]
                step(inputs[t - start], h, c, h_next, c_next, timeline.resets_at(t), reset)
                if timeline.idle is not None and timeline.idling[t]:
                    select_rows(h_next, timeline.idle[t], h)
                    select_rows(c_next, timeline.idle[t], c)
                h, c = h_next, c_next
    final.h[...] = h
    if c is not final.c:
        final.c[...] = c


def _other(buffers: list[NumpyArray], c: NumpyArray) -> NumpyArray:
    """Return the buffer that isn't c, or the only one."""
    return buffers[-1] if c is buffers[0] else buffers[0]


def clear_idle(ys: NumpyArray, timeline: Timeline) -> None:
    """Write zeros to the outputs (T, B, P) of rows that are idle: TensorFlow's rule."""
    if timeline.idle is not None:
        ys[timeline.idle] = 0


def repeat_in_idle(ys: NumpyArray, timeline: Timeline) -> None:
    """Repeat a row's last output while it is idle, or zeros before its first: Keras's rule."""
    if timeline.idle is None:
        return
    last = None
    for t in timeline.order:
        if timeline.idling[t]:
            select_rows(ys[t], timeline.idle[t], last)
        last = ys[t]
