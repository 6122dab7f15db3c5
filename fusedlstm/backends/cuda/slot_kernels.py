"""The launches of kernels that find rows by their slots: gather.cu, check.cu and state_rows.cu."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from fusedlstm.backends.cuda.arguments import Audit, CheckArguments, GatherArguments, Matrix, StateRowsArguments
from fusedlstm.backends.cuda.kernels import THREADS, whole_rows
from fusedlstm.backends.cuda.runtime.kernel import Kernel, Launch
from fusedlstm.backends.cuda.runtime.structs import C_NAMES, Struct

if TYPE_CHECKING:
    import numpy as np

    from fusedlstm.backends.cuda.matmul_step import PoolMatrices


@functools.cache
def gather_kernel(dtype: np.dtype[Any]) -> Kernel:
    """Return the instance of kernels/gather.cu for a dtype, which moves 16 bytes at once."""
    name = f"lstm_gather<{C_NAMES[dtype.name]}, {16 // dtype.itemsize}>"
    return Kernel("gather.cu", name, Struct(GatherArguments, T=dtype))


@functools.cache
def check_kernel() -> Kernel:
    """Return kernels/check.cu."""
    return Kernel("check.cu", "lstm_check", Struct(CheckArguments))


def check_launch(slots: Any, checked: Any, audit: Audit) -> Launch:
    """Return the launch of kernels/check.cu.

    It copies slots (B,) of int64 to `checked`, with -1 for those that can't be stepped.
    """
    B = len(slots)
    arguments = CheckArguments(slots, steppable=checked, audit=audit, capacity=len(audit.live), B=B)
    return Launch(check_kernel(), check_grid(B), (THREADS,), arguments)


def check_grid(B: int) -> tuple[int]:
    """Return the grid of kernels/check.cu for B rows."""
    return (-(-B // THREADS),)


@functools.cache
def state_rows_kernel() -> Kernel:
    """Return kernels/state_rows.cu."""
    return Kernel("state_rows.cu", "lstm_state_rows", Struct(StateRowsArguments))


def launch_state_rows(slots: Any, words: Any, rows: Any) -> None:
    """Launch kernels/state_rows.cu: write to `rows` where the states of slots (B,) of int64 are."""
    B = len(slots)
    state_rows_kernel()((-(-B // THREADS),), (THREADS,), StateRowsArguments(slots, words, rows, B))


def gather_launch(
    operand: Any, X: int, x: Any, pool: PoolMatrices, slots: Any, is_first: Any, audit: Audit | None
) -> Launch:
    """Return the launch of kernels/gather.cu.

    Args:
        operand: (M, X + H): x and the state of rows, aligned.
        X: the column where the state begins.
        x: (B, I), with contiguous rows of any row stride.
        pool: its `slot_of_row` (M,) is written.
        slots: (B,) of int64: the slot of each row of x, -1 for padding.
        is_first: (B,), or None.
        audit: checks the slots in this launch; None if the host has checked them.
    """
    (B, I), (M, width), (capacity, C) = x.shape, operand.shape, pool.c.shape
    H = width - X
    arguments = GatherArguments(
        operand=Matrix.of(operand),
        X=X,
        x=Matrix.of(x),
        I=I,
        all_h=pool.all_h,
        H=H,
        c=pool.c,
        C=C,
        slots=slots,
        is_first=is_first,
        slot_of_row=pool.slot_of_row,
        audit=audit or Audit(),
        capacity=capacity,
        B=B,
        M=M,
    )
    return Launch(gather_kernel(operand.dtype), *whole_rows(M, max(I, H * operand.itemsize // 16, 1)), arguments)
