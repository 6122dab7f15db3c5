"""Workspaces for the NumPy backend's step. Each thread reuses them from call to call.

A call may begin in the middle of another one in the same thread: in a signal handler, a finalizer or a callback of an
argument. So each call has its own workspace.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np

from fusedlstm.backends.numpy.fast_pointwise import GatePlanes
from fusedlstm.backends.numpy.matmul import BLOCK, Product


class ScratchSpec(NamedTuple):
    """Everything that the memory of a cell's step depends on.

    Attributes:
        sizes: I, N and P.
        dtype: the dtype of the arithmetic.
        has_bias: whether the weights have one more row, for the bias.
        projects: whether there is a projection.
        writes_h: whether the pointwise result is written directly to h.
        invariant: whether steps are batch-invariant. Products then have whole blocks of rows.
    """

    sizes: tuple[int, int, int]
    dtype: np.dtype[Any]
    has_bias: bool
    projects: bool
    writes_h: bool
    invariant: bool

    def rows(self, B: int) -> int:
        """Return the number of rows of a batch's products."""
        return -(-B // BLOCK) * BLOCK if self.invariant else B


class Memory:
    """Memory for `rows` rows: the operand [x | h | 1], with the 1 only if there is a bias, and the results."""

    def __init__(self, spec: ScratchSpec, rows: int) -> None:
        I, N, P = spec.sizes
        self._spec = spec
        self.rows = rows
        self.operand = np.ones((rows, I + P + spec.has_bias), spec.dtype)
        self.gates = np.empty(4 * rows * N, spec.dtype)
        self.m = np.zeros((0 if spec.writes_h else rows, N), spec.dtype)
        self.projected = np.empty((rows if spec.projects else 0, P), spec.dtype)

    def buffers(self, start: int, B: int) -> Buffers:
        """Return views of B rows from `start` on. If steps are batch-invariant, `start` must begin a block."""
        return Buffers(self._spec, self, start, B)


class Buffers:
    """Views of memory for one batch, and the products on them."""

    def __init__(self, spec: ScratchSpec, memory: Memory, start: int, B: int) -> None:
        (I, N, P), invariant = spec.sizes, spec.invariant
        rows = spec.rows(B)  # of the products: rows past B are leftovers of other batches, and don't affect these
        part = slice(start, start + rows)
        operand = memory.operand[part]
        gates = memory.gates[4 * N * start : 4 * N * (start + rows)].reshape(4, rows, N)
        self.x, self.h = operand[:B, :I], operand[:B, I : I + P]
        self.gates, self.blocks = gates[:, :B], GatePlanes.blocks(gates[:, :B])
        self.of_both = Product(operand, gates, invariant=invariant)
        self.of_h = Product(operand[:, I:], gates)  # unused in batch-invariant steps
        m, projected = memory.m[part], memory.projected[part]
        self.m, self.projected = m[:B], projected[:B]  # (B, N), (B, P)
        self.of_m = Product(m, projected[None], invariant=invariant) if spec.projects else None


class Workspace:
    """Memory for the largest batch so far, and views of it by batch size."""

    MOST_VIEWS = 256

    def __init__(self, spec: ScratchSpec) -> None:
        self._spec = spec
        self.memory, self.by_batch = Memory(spec, 0), dict[int, Buffers]()

    def of_batch(self, B: int) -> Buffers:
        """Return buffers for a batch. Their old content is lost."""
        buffers = self.by_batch.get(B)
        if buffers is None:
            if self.memory.rows < B:
                self.memory = Memory(self._spec, self._spec.rows(B))
                self.by_batch.clear()
            elif len(self.by_batch) >= self.MOST_VIEWS:
                self.by_batch.clear()
            buffers = self.by_batch[B] = self.memory.buffers(0, B)
        return buffers


class Scratch(threading.local):
    """The calling thread's workspaces that no call is using.

    A call takes one and gives it back when it ends. A call in the middle of another one takes the next one, or a new
    one. Depth isn't counted, as an interrupt could leave the count wrong. If an interrupted call doesn't give its
    workspace back, the workspace is freed, and the next call makes a new one.
    """

    MOST_KEPT = 4

    def __init__(self, spec: ScratchSpec) -> None:
        self._spec = spec
        self._unused: list[Workspace] = []

    def take(self) -> Workspace:
        """Return a workspace that no other call uses. Give it back afterwards."""
        try:
            return self._unused.pop()
        except IndexError:
            return Workspace(self._spec)

    def give_back(self, workspace: Workspace) -> None:
        """Keep a workspace for the next call."""
        unused = self._unused
        if len(unused) < self.MOST_KEPT:
            unused.append(workspace)

    def forget(self) -> None:
        """Free the calling thread's memory."""
        self._unused.clear()
