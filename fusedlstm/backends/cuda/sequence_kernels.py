"""The launches that only sequences need: flags of their steps, and what follows a product where rows can be idle.

Flags are one byte for each step and row: see kernels/flags.cuh. Their arrays have the dtype bool, though a byte may be
2. So pass them only to kernels.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.cuda.arguments import (
    Booleans,
    Cell,
    FinishArguments,
    Matrix,
    PointwiseArguments,
    SequenceFlagsArguments,
)
from fusedlstm.backends.cuda.kernels import finish_kernel, pointwise_kernel, rows_and_columns, width_of
from fusedlstm.backends.cuda.runtime.kernel import Kernel, Launch
from fusedlstm.backends.cuda.runtime.structs import Struct

if TYPE_CHECKING:
    from fusedlstm.backends.cuda.device_weights import DeviceWeights
    from fusedlstm.backends.cuda.kernels import Destinations
    from fusedlstm.backends.cuda.step_kernels import Resets


@functools.cache
def flags_kernel() -> Kernel:
    """Return kernels/sequence_flags.cu."""
    return Kernel("sequence_flags.cu", "lstm_sequence_flags", Struct(SequenceFlagsArguments))


def as_lengths(lengths: Any, T: int) -> Any:
    """Return lengths of any integer dtype as int64. Those above T may become T."""
    if lengths.dtype == np.uint64:
        lengths = cupy.minimum(lengths, np.uint64(T))
    return lengths.astype(np.int64, copy=False)


def flags_launch(
    flags: Any, start: int, T: int, *, lengths: Any = None, mask: Any = None, is_first: Any = None, reverse: bool
) -> Launch:
    """Return the launch of kernels/sequence_flags.cu. It depends on no other launch.

    Args:
        flags: (S, B) booleans with contiguous rows, to write. In both directions `flags[s]` is of step start + s.
        start: the first of these steps.
        T: the number of steps of the whole sequences.
        lengths: (B,) of int64, any stride: see `as_lengths`. None for T.
        mask: (T, B) booleans, any strides: the steps that rows take before their lengths. None for all.
        is_first: (T, B) booleans, any strides: the first steps of sequences. None for none.
        reverse: whether the direction is backward.
    """
    S, B = flags.shape
    arguments = SequenceFlagsArguments(
        flags=Matrix.of(flags),
        lengths=lengths,
        lengths_stride=0 if lengths is None else int(lengths.strides[0]) // int(lengths.itemsize),
        mask=Booleans.of(mask),
        is_first=Booleans.of(is_first),
        reverse=reverse,
        start=start,
        S=S,
        T=T,
        B=B,
    )
    return Launch(flags_kernel(), *rows_and_columns(S, B), arguments)


def step_launch(
    weights: DeviceWeights, gates: Any, gates_h: Any, c: Any, to: Destinations, resets: Resets, reset_gates: Any
) -> Launch:
    """Return the launch of kernels/pointwise.cu for a step of a sequence. Arrays have contiguous rows.

    Args:
        weights: the weights of the cell.
        gates: x's part of the gates, (B, 4N).
        gates_h: h's part, (B, 4N).
        c: (B, N), updated in place.
        to: where m goes. Idle rows keep their h.
        resets: the flags, and what c becomes; its h is not used.
        reset_gates: the part of the h that rows are reset to, (B, 4N) or one row; None for zeros.
    """
    (B, N), clip = c.shape, weights.cell_clip
    has_flags = resets.is_first is not None
    width = width_of(
        N,
        (
            *(gates, gates_h, weights.bias, weights.peephole, c, reset_gates, resets.c),
            *(to.h, to.copy, to.input, to.last),
        ),
    )
    kernel = pointwise_kernel(
        *(gates.dtype, weights.dtype, width, weights.functions_of_m),
        *(weights.peephole is not None, clip is not None, has_flags, True),
    )
    arguments = PointwiseArguments(
        gates=Matrix.of(gates),
        gates_h=Matrix.of(gates_h),
        cell=Cell(weights.bias, weights.peephole, clip=clip or 0.0, N=N),
        c=Matrix.of(c),
        is_first=resets.is_first,
        reset_gates=Matrix.of(reset_gates),
        reset_c=Matrix.of(resets.c),
        h=Matrix.of(to.h),
        c_out=Matrix.of(c),
        B=B,
        copy=to.copies(),
        last=Matrix.of(to.last),
    )
    return Launch(kernel, *rows_and_columns(B, -(-N // width)), arguments)


def finish_step_launch(weights: DeviceWeights, projected: Any, to: Destinations, resets: Resets) -> Launch:
    """Return the launch of kernels/finish.cu after `step_launch` has written m: clip h, and apply zoneout.

    Args:
        weights: the weights of the cell, which project m or have zoneout of h.
        projected: (B, P), the projected m, or m itself. It must not be `to.h`, as idle rows keep that.
        to: where h goes.
        resets: the flags, and what h becomes; its c is not used.
    """
    (B, P), limit = projected.shape, weights.proj_clip
    arguments = FinishArguments(
        projected=Matrix.of(projected),
        h=Matrix.of(to.h),
        slot_of_row=None,
        copy=to.copies(),
        limit=math.inf if limit is None else limit,
        B=B,
        P=P,
        old_h=Matrix.of(to.old_h),
        flags=resets.is_first,
        reset_h=Matrix.of(resets.h),
        last=Matrix.of(to.last),
    )
    kernel = finish_kernel(projected.dtype, weights.functions.zoneout_h, sequence=True)
    return Launch(kernel, *rows_and_columns(B, P), arguments)
