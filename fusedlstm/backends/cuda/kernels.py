"""The launches of kernels, except the tiles': the instance, the grid and the arguments for the given arrays."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cupy

from fusedlstm.backends.cuda.arguments import (
    AddArguments,
    Cell,
    ClipArguments,
    Copy,
    FinishArguments,
    Matrix,
    PlannedArguments,
    PointwiseArguments,
    ResetArguments,
    SelectArguments,
)
from fusedlstm.backends.cuda.function_types import functions_type, zoneout_argument
from fusedlstm.backends.cuda.runtime.kernel import Kernel, Launch
from fusedlstm.backends.cuda.runtime.strides import is_aligned, with_contiguous_rows
from fusedlstm.backends.cuda.runtime.structs import C_NAMES, Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np

    from fusedlstm.backends.cuda.device_weights import DeviceWeights
    from fusedlstm.functions import Functions

THREADS = 256  # of a block
_VECTOR = 4  # units of a thread, if sizes and addresses allow it
_COLUMNS_OF_A_BLOCK = 128  # the most threads side by side
# How `pointwise_launch` needs its arrays: matrices with contiguous rows, the rest contiguous.
_MADE_CONTIGUOUS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("gates_h", "reset_c", "reset_gates"), with_contiguous_rows),
    **dict.fromkeys(("bias", "peephole", "is_first"), cupy.ascontiguousarray),
}


@functools.cache
def pointwise_kernel(
    gates: np.dtype[Any],
    dtype: np.dtype[Any],
    width: int,
    functions: Functions,
    peephole: bool,
    clip: bool,
    reset: bool,
    sequence: bool = False,
) -> Kernel:
    """Return the instance of kernels/pointwise.cu for these template arguments."""
    options = peephole, clip, reset, *([sequence] if sequence else [])
    flags = ", ".join(str(flag).lower() for flag in options)
    types = f"{C_NAMES[gates.name]}, {C_NAMES[dtype.name]}, {width}, {functions_type(functions)}"
    name = f"lstm_pointwise<{types}, {flags}>"
    return Kernel("pointwise.cu", name, Struct(PointwiseArguments, G=gates, T=dtype))


def launch_pointwise(gates: Any, c: Any, h_out: Any, c_out: Any, **others: Any) -> None:
    """Launch kernels/pointwise.cu on arrays of any strides. The arguments are `pointwise_launch`'s."""
    gates, c = with_contiguous_rows(gates), with_contiguous_rows(c)
    for name, made in _MADE_CONTIGUOUS.items():
        if others.get(name) is not None:
            others[name] = made(others[name])
    pointwise_launch(gates, c, h_out, c_out, **others).queue()


def pointwise_launch(
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
) -> Launch:
    """Return the launch of kernels/pointwise.cu, where the arguments are described. None is a null pointer.

    Matrices have contiguous rows. All other arrays are contiguous.
    """
    B, N = c.shape
    width = width_of(N, (gates, gates_h, bias, peephole, c, reset_gates, reset_c, h_out, c_out))
    kernel = pointwise_kernel(
        gates.dtype,
        h_out.dtype,
        width,
        functions,
        peephole is not None,
        cell_clip is not None,
        is_first is not None,
    )
    arguments = PointwiseArguments(
        gates=Matrix.of(gates),
        gates_h=Matrix.of(gates_h),
        cell=Cell(bias, peephole, clip=cell_clip or 0.0, N=N),
        c=Matrix.of(c),
        is_first=is_first,
        reset_gates=Matrix.of(reset_gates),
        reset_c=Matrix.of(reset_c),
        h=Matrix.of(h_out),
        c_out=Matrix.of(c_out),
        B=B,
    )
    return Launch(kernel, *rows_and_columns(B, -(-N // width)), arguments)


def width_of(N: int, arrays: Iterable[Any]) -> int:
    """Return how many of N units a thread can move as one in all of these arrays. Some may be None."""
    return _VECTOR if N % _VECTOR == 0 and all(a is None or is_aligned(a, _VECTOR) for a in arrays) else 1


def rows_and_columns(B: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the grid (rows, columns) and the block (columns, rows) of one thread for each row and column."""
    threads = min(_COLUMNS_OF_A_BLOCK, 1 << (columns - 1).bit_length())
    rows = THREADS // threads
    return (-(-B // rows), -(-columns // threads)), (threads, rows)


@functools.cache
def clip_kernel(dtype: np.dtype[Any]) -> Kernel:
    """Return the instance of kernels/clip.cu for a dtype."""
    return Kernel("clip.cu", f"lstm_clip<{C_NAMES[dtype.name]}>", Struct(ClipArguments, T=dtype))


def clip_launch(h: Any, limit: float) -> Launch:
    """Return the launch of kernels/clip.cu on a C-contiguous array, in place."""
    blocks = -(-h.size // THREADS)
    return Launch(clip_kernel(h.dtype), (blocks,), (THREADS,), ClipArguments(h, count=h.size, limit=limit))


@functools.cache
def select_kernel(dtype: np.dtype[Any]) -> Kernel:
    """Return the instance of kernels/select.cu for a dtype."""
    return Kernel("select.cu", f"lstm_select<{C_NAMES[dtype.name]}>", Struct(SelectArguments, T=dtype))


def select_launch(a: Any, rows: Any, value: Any) -> Launch:
    """Return the launch of kernels/select.cu on `a` (B, K), contiguous.

    `rows` is (B,), contiguous. `value` is (B, K), (1, K) or None for zeros, with contiguous rows.
    """
    B, K = a.shape
    arguments = SelectArguments(out=a, mask=rows, value=Matrix.of(value), B=B, K=K)
    return Launch(select_kernel(a.dtype), *rows_and_columns(B, K), arguments)


@functools.cache
def add_kernel(dtype: np.dtype[Any]) -> Kernel:
    """Return the instance of kernels/add.cu for a dtype."""
    return Kernel("add.cu", f"lstm_add<{C_NAMES[dtype.name]}>", Struct(AddArguments, T=dtype))


def launch_add(a: Any, more: Any) -> None:
    """Launch kernels/add.cu on `a`, contiguous, and `more`, of the same shape."""
    blocks = -(-a.size // THREADS)
    arguments = AddArguments(out=a, more=cupy.ascontiguousarray(more), count=a.size)
    add_kernel(a.dtype)((blocks,), (THREADS,), arguments)


@dataclass(frozen=True)
class Destinations:
    """Where a step writes a layer's h, or its m: arrays with contiguous rows.

    Attributes:
        h: (B, P), or all slots'.
        slot_of_row: (B,): each row's slot, -1 to skip the row. None: row k uses row k.
        copy: (B, P), a second place for h. Rows that take no step get zeros.
        input: (B, P), added to the copy, for a residual layer.
        old_h: (B, P), the h that zoneout keeps a part of; None without zoneout, and for m.
        last: (B, P), what the copy of an idle row of a sequence gets; None for zeros.
    """

    h: Any
    slot_of_row: Any = None
    copy: Any = None
    input: Any = None
    old_h: Any = None
    last: Any = None

    def copies(self) -> Copy:
        """Return `copy` and `input` as kernels take them."""
        return Copy(Matrix.of(self.copy), Matrix.of(self.input))


@functools.cache
def planned_kernel(dtype: np.dtype[Any], width: int, functions: Functions, peephole: bool, clip: bool) -> Kernel:
    """Return the instance of kernels/planned.cu for these template arguments."""
    flags = ", ".join(str(flag).lower() for flag in (peephole, clip))
    name = f"lstm_planned<{C_NAMES[dtype.name]}, {width}, {functions_type(functions)}, {flags}>"
    return Kernel("planned.cu", name, Struct(PlannedArguments, T=dtype))


def launch_planned(weights: DeviceWeights, gates: Any, c: Any, to: Destinations, *, h_by_slot: bool) -> None:
    """Launch kernels/planned.cu on gates (B, 4N), contiguous, and c (B, N) or all slots'.

    Args:
        weights: the weights of the cell.
        gates: the result of the matmul.
        c: updated in place.
        to: where m goes.
        h_by_slot: whether `to.slot_of_row` also gives the row of h.
    """
    B, N = len(gates), weights.N
    width = width_of(N, (gates, weights.bias, weights.peephole, c, to.h, to.copy, to.input))
    clip = weights.cell_clip
    options = weights.functions_of_m, weights.peephole is not None, clip is not None
    kernel = planned_kernel(weights.dtype, width, *options)
    grid, block = rows_and_columns(B, -(-N // width))
    arguments = PlannedArguments(
        gates=gates,
        cell=Cell(weights.bias, weights.peephole, clip=clip or 0.0, N=N),
        c=Matrix.of(c),
        slot_of_row=to.slot_of_row,
        h=Matrix.of(to.h),
        h_by_slot=h_by_slot,
        copy=to.copies(),
        B=B,
    )
    kernel(grid, block, arguments)


@functools.cache
def finish_kernel(dtype: np.dtype[Any], zoneout: float = 0.0, *, sequence: bool = False) -> Kernel:
    """Return the instance of kernels/finish.cu for a dtype and the part of h to keep."""
    name = f"lstm_finish<{C_NAMES[dtype.name]}{zoneout_argument(zoneout, then=sequence)}>"
    return Kernel("finish.cu", name, Struct(FinishArguments, T=dtype))


def finish_launch(projected: Any, to: Destinations, limit: float | None, zoneout: float = 0.0) -> Launch:
    """Return the launch of kernels/finish.cu: write the projected h (B, P) to its destinations, clipped to +-limit.

    If limit is None, nothing is clipped. `zoneout` is the part of `to.old_h` to keep.
    """
    B, P = projected.shape
    arguments = FinishArguments(
        projected=Matrix.of(projected),
        h=Matrix.of(to.h),
        slot_of_row=to.slot_of_row,
        copy=to.copies(),
        limit=math.inf if limit is None else limit,
        B=B,
        P=P,
        old_h=Matrix.of(to.old_h),
    )
    return Launch(finish_kernel(projected.dtype, zoneout), *rows_and_columns(B, P), arguments)


@functools.cache
def reset_kernel(dtype: np.dtype[Any]) -> Kernel:
    """Return the instance of kernels/reset.cu for a dtype."""
    return Kernel("reset.cu", f"lstm_reset<{C_NAMES[dtype.name]}>", Struct(ResetArguments, T=dtype))


def launch_reset(is_first: Any, slots: Any, h: Any, reset_h: Any, c: Any, reset_c: Any, *, clears: bool = True) -> None:
    """Launch kernels/reset.cu in place on h (B, H) and c (B, C).

    Args:
        is_first: (B,) flags of the rows to reset; None for all rows.
        slots: (B,), each row's slot, if h and c are all slots'; else None.
        h: every layer's, of any row stride.
        reset_h: what rows become: (B, H), one row, or None for zeros.
        c: as h.
        reset_c: as reset_h.
        clears: whether to clear the flags afterwards.
    """
    (_, H), (_, C), B = h.shape, c.shape, len(h) if slots is None else len(slots)
    arguments = ResetArguments(
        is_first=is_first,
        clears=clears,
        slots=slots,
        h=Matrix.of(h),
        reset_h=Matrix.of(reset_h),
        H=H,
        c=Matrix.of(c),
        reset_c=Matrix.of(reset_c),
        C=C,
        B=B,
    )
    reset_kernel(h.dtype)(*whole_rows(B, max(H, C)), arguments)


def whole_rows(B: int, columns: int) -> tuple[tuple[int], tuple[int, int]]:
    """Return the grid and block for blocks of whole rows. Neighbouring threads pass over the columns of a row."""
    threads = min(_COLUMNS_OF_A_BLOCK, 1 << (columns - 1).bit_length())
    rows = THREADS // threads
    return (-(-B // rows),), (threads, rows)
