"""The step of layers on a GPU: the interface that a Stepper and a pool hold, and the choice of its implementation.

For each layer, `matmul_batch.py` and `matmul_slots.py` queue a cuBLASLt product and a kernel after it. `fused_batch.py`
and `fused_slots.py` queue one kernel. A projection may add to these. Steppers and pools don't know which they hold.
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
    """The buffers of a batch on the GPU, which begin as zeros, and its step.

    With host buffers, x and output are NumPy arrays in pinned memory. is_first is an array that maps such memory.

    Attributes:
        buffers: 2 if steps alternate between two buffers of h, else 1.
        x: (B, I).
        output: (B, width) of the top layer.
        states: for each buffer, the state of each layer.
    """

    buffers: int
    x: Any
    output: Any
    states: tuple[tuple[LSTMState, ...], ...]

    def queue(self, current: int, is_first: Any) -> None:
        """Queue a step on the current stream, with the rows that is_first marks reset.

        It reads `states[current]`. With two buffers it writes the other h. It clears flags on the GPU only.
        """

    def clear(self, current: int) -> None:
        """Write zeros to `states[current]`, on the current stream."""

    def zero(self) -> None:
        """Write zeros to all buffers that a caller can see, on the current stream. No step may be under way."""

    def close(self) -> None:
        """Free what only `queue` needs, once it has been captured."""


class SlotStep(Protocol):
    """The states of all slots of a pool on the GPU, which begin as zeros, and steps of some of them.

    Attributes:
        all_h: every layer's h, in one or two rows for each slot.
        c: (capacity, C), every layer's c.
    """

    all_h: Any
    c: Any

    @property
    def hs(self) -> Sequence[slice]:
        """The columns of each layer's h in `all_h`."""

    @property
    def cs(self) -> Sequence[slice]:
        """The columns of each layer's c in `c`."""

    @property
    def held(self) -> Sequence[Any]:
        """Everything that queued steps use besides the states. It is always the same object."""

    @property
    def nbytes(self) -> int:
        """See `PoolEngine.nbytes`."""

    @property
    def scratch_nbytes(self) -> int:
        """See `PoolEngine.scratch_nbytes`."""

    def kernels(self, B: int) -> tuple[str, ...]:
        """See `PoolEngine.kernels`."""

    def state_rows(self, slots: Any) -> Any:
        """Return the row of `all_h` with the current h of each slot. Slots and result are on the device."""

    def queue(
        self,
        engines: Sequence[CudaCell],
        x: Array,
        slots: Array,
        is_first: Array | None,
        out: Array,
        next_audit: Callable[[], Audit],
    ) -> None:
        """Queue a step of at least one row on the current stream; see `PoolEngine.step`.

        `next_audit` returns the Audit that checks slots on the device. Call it once, right before launching the check.
        """

    def prepare(self, engines: Sequence[CudaCell], largest: int) -> None:
        """See `PoolEngine.prepare`. The work is queued on the current stream."""


def batch_step(
    engines: Sequence[CudaCell],
    residual: Sequence[bool],
    B: int,
    reset_to: Sequence[LSTMState] | None,
    kernels: Sequence[str],
    *,
    host: bool,
) -> BatchStep:
    """Return the step of a fixed batch with these kernels, one name of `kernel_choice.py` for each layer.

    `host` says whether x, is_first and output are in host memory.
    """
    if "matmul" in kernels:
        return MatmulBatch(engines, residual, B, reset_to, host=host)
    return FusedBatch(engines, residual, B, reset_to, kernels, host=host)


def slot_step(
    engines: Sequence[CudaCell], residual: Sequence[bool], capacity: int, kernels: Sequence[str], turns: Turns
) -> SlotStep:
    """Return the step of a pool's slots with these kernels. `turns` orders its calls."""
    if "matmul" in kernels:
        return MatmulSlots(engines, residual, capacity)
    return FusedSlots(engines, residual, capacity, turns)


def slot_nbytes(engines: Sequence[CudaCell], capacity: int, kernels: Sequence[str]) -> int:
    """Return `nbytes` of what `slot_step` would return."""
    return (MatmulSlots if "matmul" in kernels else FusedSlots).nbytes_of(engines, capacity)
