"""What decides the launches of a StaticSequence, besides its engines, and the buffers that its layers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cupy

from fusedlstm.backends.cuda.device_weights import padded
from fusedlstm.backends.cuda.runtime.strides import bits, copy_rows
from fusedlstm.state import LSTMState

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from fusedlstm.backends.cuda.device_weights import DeviceWeights


@dataclass(frozen=True)
class Form:
    """What decides the launches.

    Attributes:
        B: the number of rows.
        has_flags: whether rows can be reset or idle.
        reset_rows: the number of rows of the states that rows are reset to; 0 for zeros.
        reverse: whether the steps run from the last to the first.
        repeats: whether the outputs of idle rows repeat the last ones, instead of being zeros.
        cells: whether to keep the state after every step.
    """

    B: int
    has_flags: bool = False
    reset_rows: int = 0
    reverse: bool = False
    repeats: bool = False
    cells: bool = False

    def order(self, steps: range) -> range:
        """Return steps in the order of the direction."""
        return steps[::-1] if self.reverse else steps

    def before(self, t: int) -> int:
        """Return the step that the direction takes before step t."""
        return t + 1 if self.reverse else t - 1


@dataclass(frozen=True)
class LayerBuffers:
    """Where a layer finds its inputs and writes its outputs, for up to S steps. Rows begin at multiples of 16 bytes.

    Attributes:
        xs: (S, B, I).
        outputs: (S, B, P), h, and x if the layer is residual.
        flags: (S, B) flags of kernels/flags.cuh, or None.
        last: (B, P), which idle rows repeat in the first step; None for zeros in all steps.
        residual: whether x is added to the outputs.
        cells: the state after every step, h (S, B, P) and c (S, B, N); or None.
    """

    xs: Any
    outputs: Any
    flags: Any
    last: Any
    residual: bool
    cells: LSTMState | None = None

    def last_of(self, form: Form, t: int, first: int) -> Any:
        """Return what idle rows repeat in step t, if the first step is `first`; None for zeros."""
        if self.last is None:
            return None
        return self.last if t == first else self.outputs[form.before(t)]


class LayerSteps:
    """The base of a layer's steps on static buffers: with products, in one kernel each, or many in one kernel.

    Args:
        weights: the layer's weights.
        form: what decides the launches.
        buffers: the inputs and outputs.

    Attributes:
        state: h and c before the next steps, and after the last.
    """

    def __init__(self, weights: DeviceWeights, form: Form, buffers: LayerBuffers) -> None:
        self._weights, self._form, self._buffers = weights, form, buffers
        self.state = self._state_of(form.B)
        self._reset = self._state_of(form.reset_rows) if form.reset_rows else None

    def _state_of(self, count: int) -> LSTMState:
        """Return zeros for the h and c of this many rows."""
        weights = self._weights
        return LSTMState(h=rows((count, weights.P), weights.dtype), c=rows((count, weights.N), weights.gates_dtype))

    @property
    def _reset_pair(self) -> tuple[Any, Any]:
        """The h and c that rows are reset to; None for zeros."""
        return (None, None) if self._reset is None else (self._reset.h, self._reset.c)

    def reset_to(self, state: LSTMState) -> None:
        """Copy the state that rows are reset to, of `form.reset_rows` rows, on the current stream."""
        assert self._reset is not None
        copy_rows(self._reset.h, state.h)
        copy_rows(self._reset.c, state.c)

    def _queue_cells(self, t: int, h: Any) -> None:
        """Queue copies of h and c after step t, if every state is kept."""
        cells = self._buffers.cells
        if cells is not None:
            copy_rows(cells.h[t], h)
            copy_rows(cells.c[t], self.state.c)

    def queue_reset(self) -> None:
        """Queue what the weights make of the state that rows are reset to, on the current stream, as `queue` does."""

    def prepare(self, steps: int) -> None:
        """Make everything that `queue(steps)` needs."""

    def queue(self, steps: int) -> None:
        """Queue the first `steps` steps of the buffers on the current stream. This doesn't allocate or wait."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what is not memory."""


class Workspace:
    """A workspace for products that run one after the other. Graphs keep the memory that they were captured with."""

    def __init__(self) -> None:
        self.array = cupy.empty((0,), "uint8")
        self._all: list[Any] = []

    def reserve(self, nbytes: int) -> None:
        """Make the workspace at least this large."""
        if self.array.nbytes < nbytes:
            self.array = cupy.empty((nbytes,), "uint8")
            self._all.append(self.array)


def even_rows(states: Sequence[LSTMState], B: int) -> Sequence[LSTMState]:
    """Return states that all have one row, or all B rows. If they differ, those of one row are repeated."""
    if len({len(state.h) for state in states}) == 1:
        return states
    return [LSTMState(h=_repeated(state.h, B), c=_repeated(state.c, B)) for state in states]


def _repeated(a: Any, B: int) -> Any:
    all_rows = rows((B, a.shape[1]), a.dtype)
    bits(all_rows)[...] = bits(a)
    return all_rows


def rows(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Return zeros whose rows, along the last axis, begin at multiples of 16 bytes."""
    return cupy.zeros((*shape[:-1], padded(shape[-1], dtype)), dtype)[..., : shape[-1]]
