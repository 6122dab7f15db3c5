"""The launches: which instance of a kernel, with what grid, for arrays as they are."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.arrays import dtypes
from fusedlstm.backends.cuda.function_types import functions_type
from fusedlstm.backends.cuda.runtime.compile import Kernel
from fusedlstm.backends.cuda.runtime.strides import is_aligned, row_stride, with_contiguous_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.backends.cuda.device_weights import PackedWeights
    from fusedlstm.backends.cuda.matmul_step import Slots
    from fusedlstm.functions import Functions

_C_NAMES = {"float64": "double", "float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}
_THREADS = 256  # of a block
_VECTOR = 4  # units a thread, where sizes and addresses allow
_COLUMNS_OF_A_BLOCK = 128  # threads side by side at most
_BOOL, _INT, _LONG = np.dtype(np.bool_), np.dtype(np.int32), np.dtype(np.int64)


@functools.cache
def pointwise_kernel(
    gates: np.dtype[Any],
    dtype: np.dtype[Any],
    width: int,
    functions: Functions,
    peephole: bool,
    clip: bool,
    reset: bool,
) -> Kernel:
    """Return the instance of kernels/pointwise.cu for these template arguments."""
    c = dtypes.state_dtype(dtype)
    flags = ", ".join(str(flag).lower() for flag in (peephole, clip, reset))
    types = f"{_C_NAMES[gates.name]}, {_C_NAMES[dtype.name]}, {width}, {functions_type(functions)}"
    name = f"lstm_pointwise<{types}, {flags}>"
    arguments: list[np.dtype[Any] | str] = [
        *(gates, "i64", gates, "i64"),
        *(dtype, dtype),
        *(c, "i64"),
        *(_BOOL, gates, "i64", c, "i64"),
        *(dtype, c, "f64", "i64", "i64"),
    ]
    return Kernel("pointwise.cu", name, arguments)


def launch_pointwise(
    gates: Any,
    c: Any,
    h_out: Any,
    c_out: Any,
    *,
    gates_h: Any,
    bias: Any,
    peephole: Any,
    cell_clip: float | None,
    functions: Functions,
    is_first: Any,
    reset_c: Any,
    reset_gates: Any = None,
) -> None:
    """Launch kernels/pointwise.cu; arguments are as there, None for a null pointer."""
    gates, gates_h, c, reset_gates, reset_c = (
        None if a is None else with_contiguous_rows(a) for a in (gates, gates_h, c, reset_gates, reset_c)
    )
    bias, peephole, is_first = (None if a is None else cupy.ascontiguousarray(a) for a in (bias, peephole, is_first))
    B, N = c.shape
    arrays = (gates, gates_h, bias, peephole, c, reset_gates, reset_c, h_out, c_out)
    width = _VECTOR if N % _VECTOR == 0 and all(a is None or is_aligned(a, _VECTOR) for a in arrays) else 1
    kernel = pointwise_kernel(
        gates.dtype,
        h_out.dtype,
        width,
        functions,
        peephole is not None,
        cell_clip is not None,
        is_first is not None,
    )
    grid, block = _rows_and_columns(B, -(-N // width))
    kernel(
        grid,
        block,
        *(gates, row_stride(gates)),
        *(gates_h, _reset_stride(gates_h)),
        *(bias, peephole),
        *(c, row_stride(c)),
        is_first,
        *(reset_gates, _reset_stride(reset_gates)),
        *(reset_c, _reset_stride(reset_c)),
        *(h_out, c_out),
        *(cell_clip or 0.0, B, N),
    )


def _rows_and_columns(B: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return grid and block of a thread for each row, on x, and column, on y: columns side by side in a block."""
    threads = min(_COLUMNS_OF_A_BLOCK, 1 << (columns - 1).bit_length())
    rows = _THREADS // threads
    return (-(-B // rows), -(-columns // threads)), (threads, rows)


def _reset_stride(a: Any) -> int:
    """Return a row stride, 0 for one row that serves all."""
    return 0 if a is None or a.shape[0] == 1 else row_stride(a)


@functools.cache
def clip_kernel(dtype: np.dtype[Any]) -> Kernel:
    """Return the instance of kernels/clip.cu for a dtype."""
    return Kernel("clip.cu", f"lstm_clip<{_C_NAMES[dtype.name]}>", (dtype, "i64", "f64"))


def launch_clip(h: Any, limit: float) -> None:
    """Launch kernels/clip.cu on a C-contiguous array, in place."""
    blocks = -(-h.size // _THREADS)
    clip_kernel(h.dtype)((blocks,), (_THREADS,), h, h.size, limit)


@functools.cache
def select_kernel(dtype: np.dtype[Any]) -> Kernel:
    """Return the instance of kernels/select.cu for a dtype."""
    return Kernel("select.cu", f"lstm_select<{_C_NAMES[dtype.name]}>", (dtype, _BOOL, dtype, "i64", "i64", "i64"))


def launch_select(a: Any, rows: Any, value: Any) -> None:
    """Launch kernels/select.cu: a (B, K), contiguous; rows (B,); value (B, K), (1, K) or None for zeros."""
    B, K = a.shape
    if value is not None:
        value = with_contiguous_rows(value)
    grid, block = _rows_and_columns(B, K)
    select_kernel(a.dtype)(grid, block, a, cupy.ascontiguousarray(rows), value, _reset_stride(value), B, K)


@functools.cache
def add_kernel(dtype: np.dtype[Any]) -> Kernel:
    """Return the instance of kernels/add.cu for a dtype."""
    return Kernel("add.cu", f"lstm_add<{_C_NAMES[dtype.name]}>", (dtype, dtype, "i64"))


def launch_add(a: Any, more: Any) -> None:
    """Launch kernels/add.cu: a, contiguous, and more, of one shape."""
    blocks = -(-a.size // _THREADS)
    add_kernel(a.dtype)((blocks,), (_THREADS,), a, cupy.ascontiguousarray(more), a.size)


@dataclass(frozen=True)
class Destinations:
    """Where a planned step writes a layer's h: arrays with contiguous rows.

    Attributes:
        h: (B, P), or all slots'.
        rows: (B,), the slot of each row, -1 where it takes no step; None where rows are their own.
        copy: (B, P), where it is written once more; zeros where a row takes no step.
        input: (B, P), what is added to the copy, for a residual layer.
    """

    h: Any
    rows: Any = None
    copy: Any = None
    input: Any = None

    def copies(self) -> tuple[Any, int, Any, int]:
        """Return the kernels' arguments of copy and input."""
        return self.copy, _reset_stride(self.copy), self.input, _reset_stride(self.input)


@functools.cache
def planned_kernel(dtype: np.dtype[Any], width: int, functions: Functions, peephole: bool, clip: bool) -> Kernel:
    """Return the instance of kernels/planned.cu for these template arguments."""
    c = dtypes.state_dtype(dtype)
    flags = ", ".join(str(flag).lower() for flag in (peephole, clip))
    name = f"lstm_planned<{_C_NAMES[dtype.name]}, {width}, {functions_type(functions)}, {flags}>"
    arguments: list[np.dtype[Any] | str] = [
        *(c, dtype, dtype),
        *(c, "i64", _INT),
        *(dtype, "i64", "i64"),
        *(dtype, "i64", dtype, "i64"),
        *("f64", "i64", "i64"),
    ]
    return Kernel("planned.cu", name, arguments)


def launch_planned(packed: PackedWeights, gates: Any, c: Any, to: Destinations, *, h_by_slot: bool) -> None:
    """Launch kernels/planned.cu: gates (B, 4N), contiguous; c (B, N) or all slots'; where m goes.

    Args:
        packed: the cell's.
        gates: the matmul's.
        c: in place.
        to: of m.
        h_by_slot: whether `to.rows` tells the row of h, too.
    """
    B, N = len(gates), packed.N
    arrays = (gates, packed.bias, packed.peephole, c, to.h, to.copy, to.input)
    width = _VECTOR if N % _VECTOR == 0 and all(a is None or is_aligned(a, _VECTOR) for a in arrays) else 1
    clip = packed.cell_clip
    kernel = planned_kernel(packed.dtype, width, packed.functions, packed.peephole is not None, clip is not None)
    grid, block = _rows_and_columns(B, -(-N // width))
    kernel(
        grid,
        block,
        *(gates, packed.bias, packed.peephole),
        *(c, row_stride(c), to.rows),
        *(to.h, row_stride(to.h), h_by_slot),
        *to.copies(),
        *(clip or 0.0, B, N),
    )


@functools.cache
def finish_kernel(dtype: np.dtype[Any]) -> Kernel:
    """Return the instance of kernels/finish.cu for a dtype."""
    arguments: list[np.dtype[Any] | str] = [
        *(dtype, "i64"),
        *(dtype, "i64", _INT),
        *(dtype, "i64", dtype, "i64"),
        *("f64", "i64", "i64"),
    ]
    return Kernel("finish.cu", f"lstm_finish<{_C_NAMES[dtype.name]}>", arguments)


def launch_finish(projected: Any, to: Destinations, limit: float | None) -> None:
    """Launch kernels/finish.cu: projected (B, P); where h goes, clipped to +-limit unless that is None."""
    B, P = projected.shape
    grid, block = _rows_and_columns(B, P)
    finish_kernel(projected.dtype)(
        grid,
        block,
        *(projected, row_stride(projected)),
        *(to.h, row_stride(to.h), to.rows),
        *to.copies(),
        *(math.inf if limit is None else limit, B, P),
    )


@functools.cache
def reset_kernel(dtype: np.dtype[Any]) -> Kernel:
    """Return the instance of kernels/reset.cu for a dtype."""
    c = dtypes.state_dtype(dtype)
    arguments: list[np.dtype[Any] | str] = [
        *(_BOOL, _LONG),
        *(dtype, "i64", dtype, "i64", "i64"),
        *(c, "i64", c, "i64", "i64"),
        "i64",
    ]
    return Kernel("reset.cu", f"lstm_reset<{_C_NAMES[dtype.name]}>", arguments)


def launch_reset(is_first: Any, slots: Any, h: Any, reset_h: Any, c: Any, reset_c: Any) -> None:
    """Launch kernels/reset.cu in place on h (B, H) and c (B, C).

    Args:
        is_first: (B,), which rows, all cleared then; None for all.
        slots: (B,), where h and c are all slots'; None for rows' own.
        h: rows of every layer's, any row stride.
        reset_h: what they become: (B, H), one row, or None for zeros.
        c: as h.
        reset_c: as reset_h.
    """
    B = len(h) if slots is None else len(slots)
    grid, block = _whole_rows(B, max(h.shape[1], c.shape[1]))
    reset_kernel(h.dtype)(
        grid,
        block,
        *(is_first, slots),
        *(h, row_stride(h), reset_h, _reset_stride(reset_h), h.shape[1]),
        *(c, row_stride(c), reset_c, _reset_stride(reset_c), c.shape[1]),
        B,
    )


def _whole_rows(B: int, columns: int) -> tuple[tuple[int], tuple[int, int]]:
    """Return grid and block where a block has all of a row: threads side by side pass over its columns."""
    threads = min(_COLUMNS_OF_A_BLOCK, 1 << (columns - 1).bit_length())
    rows = _THREADS // threads
    return (-(-B // rows),), (threads, rows)


@functools.cache
def gather_kernel(dtype: np.dtype[Any]) -> Kernel:
    """Return the instance of kernels/gather.cu for a dtype, 16 bytes at once."""
    c = dtypes.state_dtype(dtype)
    arguments: list[np.dtype[Any] | str] = [
        *(dtype, "i64", "i64"),
        *(dtype, "i64", "i64"),
        *(dtype, "i64"),
        *(c, "i64"),
        *(_LONG, _BOOL, _INT),
        *(_BOOL, np.dtype(np.uint64), "i64", np.dtype(np.uint64)),
        *("i64", "i64", "i64"),
    ]
    return Kernel("gather.cu", f"lstm_gather<{_C_NAMES[dtype.name]}, {16 // dtype.itemsize}>", arguments)


@dataclass(frozen=True)
class Audit:
    """What slots of a device are checked with there, and where problems are noted.

    Attributes:
        live: (capacity,) booleans.
        claims: (capacity,) of uint64: the last tick in which each was stepped.
        tick: of this step, another than in any step before.
        problems: (3, 2) of uint64: how many, and the slot of one, of each kind.
    """

    live: Any
    claims: Any
    tick: int
    problems: Any


@functools.cache
def check_kernel() -> Kernel:
    """Return kernels/check.cu."""
    words = np.dtype(np.uint64)
    return Kernel("check.cu", "lstm_check", (_LONG, _LONG, _BOOL, words, "i64", words, "i64", "i64"))


def launch_check(slots: Any, checked: Any, audit: Audit) -> None:
    """Launch kernels/check.cu: slots (B,) of int64, those that can be stepped to `checked`, -1 for the others."""
    B = len(slots)
    values = (slots, checked, audit.live, audit.claims, audit.tick, audit.problems, len(audit.live), B)
    check_kernel()((-(-B // _THREADS),), (_THREADS,), *values)


@functools.cache
def state_rows_kernel() -> Kernel:
    """Return kernels/state_rows.cu."""
    return Kernel("state_rows.cu", "lstm_state_rows", (_LONG, np.dtype(np.uint64), _LONG, "i64"))


def launch_state_rows(slots: Any, words: Any, rows: Any) -> None:
    """Launch kernels/state_rows.cu: slots (B,) of int64, the words of all, and where the rows of their states go."""
    B = len(slots)
    state_rows_kernel()((-(-B // _THREADS),), (_THREADS,), slots, words, rows, B)


def launch_gather(operand: Any, X: int, x: Any, slots: Slots, of_rows: Any, is_first: Any, audit: Audit | None) -> None:
    """Launch kernels/gather.cu.

    Args:
        operand: (M, X + H): x and the state of rows, aligned.
        X: the column where the state begins.
        x: (B, I), rows contiguous, any row stride.
        slots: of the pool; its rows (M,) are written.
        of_rows: (B,) of int64: the slot of each row of x, -1 for padding.
        is_first: (B,), or None.
        audit: where slots are checked here; None where the host has checked them.
    """
    (B, I), (M, width), (capacity, C) = x.shape, operand.shape, slots.c.shape
    H = width - X
    grid, block = _whole_rows(M, max(I, H * operand.itemsize // 16, 1))
    checks = (None, None, 0, None) if audit is None else (audit.live, audit.claims, audit.tick, audit.problems)
    gather_kernel(operand.dtype)(
        grid,
        block,
        *(operand, row_stride(operand), X),
        *(x, row_stride(x), I),
        *(slots.states, H),
        *(slots.c, C),
        *(of_rows, is_first, slots.rows),
        *checks,
        *(capacity, B, M),
    )


@functools.cache
def interleave_kernel(dtype: np.dtype[Any], rounded: bool) -> Kernel:
    """Return the instance of kernels/interleave.cu for a cell's weights."""
    return _interleaving("lstm_interleave", dtype, rounded, (dtype, "i64", "i64", dtype, *["i64"] * 5))


@functools.cache
def pad_kernel(dtype: np.dtype[Any], rounded: bool) -> Kernel:
    """Return the instance of kernels/interleave.cu for a projection's weights."""
    return _interleaving("lstm_pad", dtype, rounded, (dtype, "i64", dtype, *["i64"] * 3))


def _interleaving(name: str, dtype: np.dtype[Any], rounded: bool, arguments: Sequence[np.dtype[Any] | str]) -> Kernel:
    return Kernel("interleave.cu", f"{name}<{_C_NAMES[dtype.name]}, {str(rounded).lower()}>", arguments)


def launch_interleave(packed: PackedWeights, to: Any, KX: int, *, rounded: bool) -> None:
    """Launch lstm_interleave of kernels/interleave.cu: the weights of a cell to a contiguous array.

    Args:
        packed: the cell's.
        to: (4N rounded up to 128, KX and the columns of h), all of which is written.
        KX: the column of `to` where those of h begin.
        rounded: whether numbers, float32, become TF32's, on GPUs that have them.
    """
    rows, columns = to.shape
    interleave_kernel(to.dtype, rounded)(
        *_rows_and_columns(rows, columns),
        *(to, columns, KX),
        *(packed.weight, row_stride(packed.weight)),
        *(packed.X, packed.I, packed.P, packed.N),
    )


def launch_pad(a: Any, to: Any, *, rounded: bool) -> None:
    """Launch lstm_pad of kernels/interleave.cu: a (P, N) to (P rounded up to 128, more columns), all of it."""
    rows, columns = to.shape
    pad_kernel(to.dtype, rounded)(
        *_rows_and_columns(rows, columns),
        *(to, columns),
        *(a, row_stride(a)),
        *a.shape,
    )
