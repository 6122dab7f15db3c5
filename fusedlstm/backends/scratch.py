"""Scratch of the reference's step: memory that each thread keeps from call to call."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fusedlstm.backends.reference import StepPlan


class Buffers:
    """Views of a thread's scratch for one batch size."""

    def __init__(self, scratch: Scratch, B: int) -> None:
        I, N, _ = scratch.plan.sizes
        self.operand = scratch.operand[:B]  # [x | h], (B, I + P)
        self.x, self.h = self.operand[:, :I], self.operand[:, I:]
        self.gates = scratch.gates[: 4 * B * N].reshape(4, B, N)
        self.m, self.projected = scratch.m[:B], scratch.projected[:B]  # (B, N), (B, P)


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
        self.operand = np.empty((B, I + P), plan.dtype)
        self.gates = np.empty(4 * B * N, plan.dtype)
        self.m = np.empty((0 if plan.writes_h else B, N), plan.dtype)
        self.projected = np.empty((B if plan.projects else 0, P), plan.dtype)
