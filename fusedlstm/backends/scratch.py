"""Scratch of the NumPy backend's step: memory that each thread keeps from call to call."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from fusedlstm.backends.products import BLOCK, Product
from fusedlstm.backends.reference import Gates


class Buffers:
    """Views of a thread's scratch for one batch size, and what is done with them."""

    def __init__(self, scratch: Scratch, B: int) -> None:
        (I, N, P), invariant = scratch.sizes, scratch.invariant
        rows = scratch.rows(B)  # of the products: those past B are of batches before this one, and change no other
        operand = scratch.operand[:rows]  # [x | h | 1], the ones for the bias, if there is one
        gates = scratch.gates[: 4 * rows * N].reshape(4, rows, N)
        self.x, self.h = operand[:B, :I], operand[:B, I : I + P]
        self.gates, self.blocks = gates[:, :B], Gates.blocks(gates[:, :B])
        self.of_both = Product(operand, gates, invariant=invariant)
        self.of_h = Product(operand[:, I:], gates)  # of which there is none where it is to be invariant
        m, projected = scratch.m[:rows], scratch.projected[:rows]
        self.m, self.projected = m[:B], projected[:B]  # (B, N), (B, P)
        self.of_m = Product(m, projected[None], invariant=invariant) if scratch.projects else None


class Scratch(threading.local):
    """Memory for the largest batch that a thread has stepped, and views of it by batch size.

    Args:
        sizes: I, N and P.
        dtype: of the arithmetic.
        has_bias: whether the weights have a row more, for the bias.
        projects: whether there is a projection.
        writes_h: whether the pointwise result is written to h as it is.
        invariant: whether a row's bits must be its own: products then are of whole blocks of rows.
    """

    MOST_VIEWS = 256

    def __init__(
        self,
        sizes: tuple[int, int, int],
        dtype: np.dtype[Any],
        *,
        has_bias: bool,
        projects: bool,
        writes_h: bool,
        invariant: bool,
    ) -> None:
        self.sizes, self.dtype, self.invariant = sizes, dtype, invariant
        self.has_bias, self.projects, self.writes_h = has_bias, projects, writes_h
        self._allocate(0)

    def of_batch(self, B: int) -> Buffers:
        """Return the calling thread's buffers for a batch; what they held before is gone."""
        buffers = self.by_batch.get(B)
        if buffers is None:
            if len(self.operand) < B:
                self._allocate(self.rows(B))
            elif len(self.by_batch) >= self.MOST_VIEWS:
                self.by_batch.clear()
            buffers = self.by_batch[B] = Buffers(self, B)
        return buffers

    def forget(self) -> None:
        """Free the calling thread's memory."""
        self._allocate(0)

    def rows(self, B: int) -> int:
        """Return how many rows the products of a batch have."""
        return -(-B // BLOCK) * BLOCK if self.invariant else B

    def _allocate(self, B: int) -> None:
        I, N, P = self.sizes
        operand = np.ones((B, I + P + self.has_bias), self.dtype)
        gates = np.empty(4 * B * N, self.dtype)
        m = np.zeros((0 if self.writes_h else B, N), self.dtype)
        projected = np.empty((B if self.projects else 0, P), self.dtype)
        self.by_batch: dict[int, Buffers] = {}
        self.operand, self.gates, self.m, self.projected = operand, gates, m, projected  # all of them or none
