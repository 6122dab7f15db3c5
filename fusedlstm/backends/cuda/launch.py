"""The launches: which instance of a kernel, with what grid, for arrays as they are."""

from __future__ import annotations

import functools
from typing import Any

import cupy
import numpy as np

from fusedlstm import dtypes
from fusedlstm.backends.cuda.compile import Kernel
from fusedlstm.backends.cuda.layout import is_aligned, row_stride, with_contiguous_rows
from fusedlstm.weights import ACTIVATIONS

_C_NAMES = {"float64": "double", "float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}
_THREADS = 256  # of a block
_VECTOR = 4  # units a thread, where sizes and addresses allow
_COLUMNS_OF_A_BLOCK = 128  # threads side by side at most


@functools.cache
def pointwise_kernel(
    gates: np.dtype[Any],
    dtype: np.dtype[Any],
    width: int,
    activation: str,
    peephole: bool,
    clip: bool,
    reset: bool,
) -> Kernel:
    """Return the instance of kernels/pointwise.cu for these template arguments."""
    c = dtypes.state_dtype(dtype)
    flags = ", ".join(str(flag).lower() for flag in (peephole, clip, reset))
    number = ACTIVATIONS.index(activation)
    name = f"lstm_pointwise<{_C_NAMES[gates.name]}, {_C_NAMES[dtype.name]}, {width}, {number}, {flags}>"
    boolean = np.dtype(np.bool_)
    arguments: list[np.dtype[Any] | str] = [
        *(gates, "i64", gates, "i64"),
        *(dtype, dtype),
        *(c, "i64"),
        *(boolean, gates, "i64", c, "i64"),
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
    activation: str,
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
        activation,
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
    return Kernel(
        "select.cu", f"lstm_select<{_C_NAMES[dtype.name]}>", (dtype, np.dtype(np.bool_), dtype, "i64", "i64", "i64")
    )


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
