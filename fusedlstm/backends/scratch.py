"""Scratch of the reference's step: memory that each thread keeps from call to call."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from fusedlstm.backends.products import Product
from fusedlstm.backends.reference import Gates

if TYPE_CHECKING:
    from fusedlstm.backends.numpy_plan import StepPlan


class Buffers:
    """Views of a thread's scratch for one batch size, and what is done with them."""

    def __init__(self, scratch: Scratch, B: int) -> None:
        I, N, P = scratch.plan.sizes
        operand = scratch.operand[:B]  # [x | h | 1], the ones for the bias, if there is one
        gates = scratch.gates[: 4 * B * N].reshape(4, B, N)
        self.x, self.h = operand[:, :I], operand[:, I : I + P]
        self.gates, self.blocks = gates, Gates.blocks(gates)
        self.of_both, self.of_h = Product(operand, gates), Product(operand[:, I:], gates)
        self.m, self.projected = scratch.m[:B], scratch.projected[:B]  # (B, N), (B, P)
        self.of_m = Product(self.m, self.projected[None]) if scratch.plan.projects else None


class Scratch(threading.local):
    """Memory for the largest batch that a thread has stepped, and views of it by batch size."""

    MOST_VIEWS = 256

    def __init__(self, plan: StepPlan) -> None:
        self.plan = plan
        self._allocate(0)

    def of_batch(self, B: int) -> Buffers:
        """Return the calling thread's buffers for a batch; what they held before is gone."""
        buffers = self.by_batch.get(B)
        if buffers is None:
            if len(self.operand) < B:
                self._allocate(B)
            elif len(self.by_batch) >= self.MOST_VIEWS:
                self.by_batch.clear()
            buffers = self.by_batch[B] = Buffers(self, B)
        return buffers

    def _allocate(self, B: int) -> None:
        plan, (I, N, P) = self.plan, self.plan.sizes
        self.by_batch: dict[int, Buffers] = {}
        self.operand = np.ones((B, I + P + plan.has_bias), plan.dtype)
        self.gates = np.empty(4 * B * N, plan.dtype)
        self.m = np.empty((0 if plan.writes_h else B, N), plan.dtype)
        self.projected = np.empty((B if plan.projects else 0, P), plan.dtype)
