"""Scratch of the NumPy backend's step: memory that each thread keeps from call to call."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from fusedlstm.backends.products import Product
from fusedlstm.backends.reference import Gates


class Buffers:
    """Views of a thread's scratch for one batch size, and what is done with them."""

    def __init__(self, scratch: Scratch, B: int) -> None:
        I, N, P = scratch.sizes
        operand = scratch.operand[:B]  # [x | h | 1], the ones for the bias, if there is one
        gates = scratch.gates[: 4 * B * N].reshape(4, B, N)
        self.x, self.h = operand[:, :I], operand[:, I : I + P]
        self.gates, self.blocks = gates, Gates.blocks(gates)
        self.of_both, self.of_h = Product(operand, gates), Product(operand[:, I:], gates)
        self.m, self.projected = scratch.m[:B], scratch.projected[:B]  # (B, N), (B, P)
        self.of_m = Product(self.m, self.projected[None]) if scratch.projects else None


class Scratch(threading.local):
    """Memory for the largest batch that a thread has stepped, and views of it by batch size.

    Args:
        sizes: I, N and P.
        dtype: of the arithmetic.
        has_bias: whether the weights have a row more, for the bias.
        projects: whether there is a projection.
        writes_h: whether the pointwise result is written to h as it is.
    """

    MOST_VIEWS = 256

    def __init__(
        self, sizes: tuple[int, int, int], dtype: np.dtype[Any], *, has_bias: bool, projects: bool, writes_h: bool
    ) -> None:
        self.sizes, self.dtype = sizes, dtype
        self.has_bias, self.projects, self.writes_h = has_bias, projects, writes_h
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
        I, N, P = self.sizes
        operand = np.ones((B, I + P + self.has_bias), self.dtype)
        gates = np.empty(4 * B * N, self.dtype)
        m = np.empty((0 if self.writes_h else B, N), self.dtype)
        projected = np.empty((B if self.projects else 0, P), self.dtype)
        self.by_batch: dict[int, Buffers] = {}
        self.operand, self.gates, self.m, self.projected = operand, gates, m, projected  # all of them or none
