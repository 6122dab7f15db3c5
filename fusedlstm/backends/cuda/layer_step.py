"""The step of layers on a GPU: what a Stepper and a pool hold, and which of the two ways to step it is.

Of each there are two. `matmul_batch.py` and `matmul_slots.py` queue cuBLASLt's product and a kernel behind it;
`fused_batch.py` and `fused_slots.py` queue one kernel for the whole step. Hosts don't know which they hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from fusedlstm.backends.cuda.fused_batch import FusedBatch
from fusedlstm.backends.cuda.fused_slots import FusedSlots
from fusedlstm.backends.cuda.matmul_batch import MatmulBatch
from fusedlstm.backends.cuda.matmul_slots import MatmulSlots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.backends.cuda.arguments import Audit
    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.cuda.runtime.streams import Turns
    from fusedlstm.state import LSTMState


class BatchStep(Protocol):
    """The buffers of a batch on the GPU, all zeros, and what a step of it queues on them.

    Attributes:
        turns: 2 where a step reads h in one place and writes it in another, and the next the other way round, else 1.
        x: (B, I).
        output: (B, width) of the top layer.
        states: before a step of each turn, for each layer.
    """

    turns: int
    x: Any
    output: Any
    states: tuple[tuple[LSTMState, ...], ...]

    def queue(self, turn: int, is_first: Any) -> None:
        """Queue a step on the current stream. Rows where is_first are reset, and the flags cleared."""

    def clear(self, turn: int) -> None:
        """Queue zeros for all states."""

    def zero(self) -> None:
        """Queue zeros for all buffers that are seen."""

    def close(self) -> None:
        """Forget what only `queue` needs, when that has been captured."""


class SlotStep(Protocol):
    """The states of all slots of a pool on the GPU, all zeros, and what steps some of them.

    Attributes:
        states: every layer's h: one or two rows for each slot.
        c: (capacity, C): every layer's c.
    """

    states: Any
    c: Any

    @property
    def hs(self) -> Sequence[slice]:
        """Where each layer's h stands in a row of `states`."""

    @property
    def cs(self) -> Sequence[slice]:
        """Where each layer's c stands in a row of `c`."""

    @property
    def held(self) -> Sequence[Any]:
        """What queued steps use, besides the states: always the same object."""

    @property
    def nbytes(self) -> int:
        """The bytes of all slots."""

    @property
    def scratch_nbytes(self) -> int:
        """The bytes of the buffers of steps."""

    def kernels(self, B: int) -> tuple[str, ...]:
        """Return for each layer what steps B rows."""

    def rows_of(self, slots: Any) -> Any:
        """Return which rows of `states` hold the state of slots, both on the device."""

    def queue(
        self,
        engines: Sequence[CudaCell],
        x: Array,
        slots: Array,
        is_first: Array | None,
        out: Array,
        next_audit: Callable[[], Audit],
    ) -> None:
        """Queue a step of B rows, B at least 1, on the current stream; see `PoolEngine.step`.

        `next_audit` returns what checks slots on the device; it is called when nothing before the launches can fail.
        """

    def prepare(self, engines: Sequence[CudaCell], largest: int) -> None:
        """Make what steps of up to so many rows need, in the order of the current stream."""


def batch_step(
    engines: Sequence[CudaCell],
    residual: Sequence[bool],
    B: int,
    reset_to: Sequence[LSTMState] | None,
    kernels: Sequence[str],
) -> BatchStep:
    """Return the step of a fixed batch by these kernels, names of `kernel_choice.py` for each layer."""
    if "matmul" in kernels:
        return MatmulBatch(engines, residual, B, reset_to)
    return FusedBatch(engines, residual, B, reset_to, kernels)


def slot_step(
    engines: Sequence[CudaCell], residual: Sequence[bool], capacity: int, kernels: Sequence[str], turns: Turns
) -> SlotStep:
    """Return the step of a pool's slots by these kernels; `turns` orders its calls."""
    step = MatmulSlots if "matmul" in kernels else FusedSlots
    return step(engines, residual, capacity, turns)
