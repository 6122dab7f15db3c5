"""Launches of kernels/step.cu and project.cu: a layer's whole step, and its projection if that is separate."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.backends.cuda.arguments import Cell, Matrix, ProjectArguments, Rows, SlotRows, StepArguments
from fusedlstm.backends.cuda.function_types import functions_type, zoneout_argument
from fusedlstm.backends.cuda.kernels import Destinations
from fusedlstm.backends.cuda.runtime.kernel import Kernel, Launch
from fusedlstm.backends.cuda.runtime.strides import is_aligned
from fusedlstm.backends.cuda.runtime.structs import Struct
from fusedlstm.backends.cuda.tiles import tile_of
from fusedlstm.backends.kernel_choice import TENSOR

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fusedlstm.backends.cuda.device_weights import DeviceWeights, Interleaved
    from fusedlstm.backends.cuda.tiles import Tile
    from fusedlstm.functions import Functions

_PAIR = 2  # units that a thread moves as one, if sizes and addresses allow it


@dataclass(frozen=True)
class Resets:
    """The rows to reset, and the states to reset them to.

    Attributes:
        is_first: (B,) booleans.
        h: what h becomes: (B, P), or one row, or None for zeros.
        c: what c becomes: (B, N), or one row, or None for zeros.
        readers: (row blocks,) zeros of uint32, which the launch needs to clear the flags; None leaves them set.
        idle: whether `is_first` has flags of kernels/flags.cuh, so that rows can be idle.
    """

    is_first: Any
    h: Any = None
    c: Any = None
    readers: Any = None
    idle: bool = False


_NO_RESETS = Resets(None)


def rounds(kernel: str, dtype: np.dtype[Any]) -> bool:
    """Return whether a kernel of `kernel_choice.py` reads weights that are rounded to TF32."""
    return kernel in TENSOR and dtype == np.float32


def interleaved_for(weights: DeviceWeights, kernel: str) -> Interleaved:
    """Return a cell's weights as a kernel of `kernel_choice.py` reads them."""
    return weights.interleaved(rounds(kernel, weights.dtype))


@functools.cache
def step_kernel(
    tile: Tile,
    dtype: np.dtype[Any],
    functions: Functions,
    peephole: bool,
    clip: bool,
    aligned: bool,
    width: int,
    bytes_of_m: int = 0,
    *,
    idle: bool = False,
) -> Kernel:
    """Return the instance of kernels/step.cu for these template arguments. If it has room for m, it also projects m."""
    flags = ", ".join(str(flag).lower() for flag in (peephole, clip, bytes_of_m > 0, aligned))
    last = ", true" if idle else ""
    name = f"lstm_step<{tile.c_name(dtype)}, {functions_type(functions)}, {flags}, {width}{last}>"
    return Kernel("step.cu", name, Struct(StepArguments, T=dtype), tile.shared_bytes + bytes_of_m)


def launches(
    weights: DeviceWeights,
    kernel: str,
    x: Any,
    h: Any,
    c: Any,
    c_out: Any,
    to: Destinations,
    m: Any,
    *,
    slots: SlotRows | None = None,
    resets: Resets = _NO_RESETS,
) -> list[Launch]:
    """Return the launches of a layer's step: step.cu, and project.cu if `needs_m`. Arrays have contiguous rows.

    Args:
        weights: the weights of the cell.
        kernel: the kernel's name in `kernel_choice.py`.
        x: (B, I).
        h: (B, P), or all slots'.
        c: (B, N), or all slots'.
        c_out: like c, and may be c.
        to: where h goes. Without a pool it must not overlap the old h. Its `slot_of_row` is not used.
        m: scratch of at least (B, N) if `needs_m`, with rows aligned to 16 bytes.
        slots: the slots of a pool's rows; None without a pool.
        resets: which rows are reset, and to what. If rows can be idle, c_out is c, and there are no slots. Idle rows
            keep c, and their h is copied to `to.h`.
    """
    if not needs_m(weights, kernel, len(x)):
        return [_step(weights, kernel, x, h, c, c_out, to, slots, resets, to.h)]
    waiting = None if slots is None else replace(slots, flips=False)
    keeps = weights.functions.zoneout_h > 0  # then the projection also reads h and the flags
    before = replace(resets, readers=None) if keeps else resets
    of_m = _step(weights, kernel, x, h, c, c_out, Destinations(m), waiting, before, to.h, only_m=True)
    old_h = h if keeps else None
    after = resets if keeps else Resets(resets.is_first, idle=True) if resets.idle else _NO_RESETS
    return [of_m, _projection(weights, kernel, len(x), m, to, slots, old_h, after)]


def needs_m(weights: DeviceWeights, kernel: str, B: int) -> bool:
    """Whether a step of B rows has a separate launch for the projection."""
    if weights.weight_hr is None:
        return False
    return not step_tile(weights, kernel, B).projects(B, weights.N, weights.dtype)


def step_tile(weights: DeviceWeights, kernel: str, B: int) -> Tile:
    """Return the tile of kernels/step.cu for B rows."""
    return tile_of(kernel, B, weights.N, weights.dtype, weights.capability)


def project_tile(weights: DeviceWeights, kernel: str, B: int) -> Tile:
    """Return the tile of kernels/project.cu for B rows. It has as many rows as the step's tile."""
    return tile_of(kernel, B, project_units(weights.P), weights.dtype, weights.capability)


def project_units(P: int) -> int:
    """Return how many units of a tile P columns of h take. Four columns take the place of a unit's gates."""
    return -(-P // 4)


def _step(
    weights: DeviceWeights,
    kernel: str,
    x: Any,
    h: Any,
    c: Any,
    c_out: Any,
    to: Destinations,
    slots: SlotRows | None,
    resets: Resets,
    next_h: Any,
    *,
    only_m: bool = False,
) -> Launch:
    """Return the launch of kernels/step.cu, for h or for m alone. m has a row for each row of x, even in pools.

    The h of idle rows is copied to `next_h`.
    """
    B, N, P = len(x), weights.N, weights.P
    interleaved = interleaved_for(weights, kernel)
    tile, clip, limit = step_tile(weights, kernel, B), weights.cell_clip, weights.proj_clip
    projection = None if only_m else interleaved.projection
    aligned = all(a is None or can_stage(a) for a in (x, h, resets.h))
    functions = weights.functions_of_m if only_m else weights.functions
    old_h = (h, resets.h) if functions.zoneout_h else ()
    moved = (c, c_out, to.h, weights.bias, weights.peephole, to.copy, to.input, to.last, resets.c, *old_h)
    width = _width(tile, (N, N if projection is None else P), moved)
    bytes_of_m = 0 if projection is None else tile.bytes_of_m(N, weights.dtype)
    options = functions, weights.peephole is not None, clip is not None
    arguments = StepArguments(
        rows=Rows(
            x=Matrix.of(x),
            h=Matrix.of(h),
            c=Matrix.of(c),
            c_out=Matrix.of(c_out),
            out=Matrix.of(to.h),
            out_by_slot=slots is not None and not only_m,
            pool=slots or SlotRows(),
            is_first=resets.is_first,
            reset_h=Matrix.of(resets.h),
            reset_c=Matrix.of(resets.c),
            B=B,
        ),
        readers=resets.readers,
        weight=Matrix.of(interleaved.weight),
        cell=Cell(weights.bias, weights.peephole, clip=clip or 0.0, N=N),
        copy=to.copies(),
        projection=Matrix.of(projection),
        proj_clip=math.inf if limit is None else limit,
        I=weights.I,
        P=P,
        next_h=Matrix.of(next_h if resets.idle else None),
        last=Matrix.of(to.last),
    )
    instance = step_kernel(tile, weights.dtype, *options, aligned, width, bytes_of_m, idle=resets.idle)
    return Launch(instance, step_grid(tile, B, N, projects=projection is not None), (tile.threads,), arguments)


def step_grid(tile: Tile, B: int, N: int, *, projects: bool) -> tuple[int, int]:
    """Return the grid of kernels/step.cu. If blocks project, each has all units."""
    return tile.grid(B, 1 if projects else N)


def project_grid(tile: Tile, B: int, P: int) -> tuple[int, int]:
    """Return the grid of kernels/project.cu."""
    return tile.grid(B, project_units(P))


@functools.cache
def project_kernel(tile: Tile, dtype: np.dtype[Any], width: int, zoneout: float = 0.0, *, idle: bool = False) -> Kernel:
    """Return the instance of kernels/project.cu for these template arguments."""
    name = f"lstm_project<{tile.c_name(dtype)}, {width}{zoneout_argument(zoneout, then=idle)}>"
    return Kernel("project.cu", name, Struct(ProjectArguments, T=dtype), tile.shared_bytes)


def _projection(
    weights: DeviceWeights,
    kernel: str,
    B: int,
    m: Any,
    to: Destinations,
    slots: SlotRows | None,
    old_h: Any,
    resets: Resets,
) -> Launch:
    """Return the launch of kernels/project.cu. Without zoneout of h, pass no `old_h`, and only flags of idle rows."""
    P, limit = weights.P, weights.proj_clip
    tile, weight = project_tile(weights, kernel, B), interleaved_for(weights, kernel).projection
    arguments = ProjectArguments(
        m=Matrix.of(m),
        h=Matrix.of(to.h),
        pool=slots or SlotRows(),
        weight=Matrix.of(weight),
        copy=to.copies(),
        limit=math.inf if limit is None else limit,
        B=B,
        N=weights.N,
        P=P,
        old_h=Matrix.of(old_h),
        is_first=resets.is_first,
        readers=resets.readers,
        reset_h=Matrix.of(resets.h),
        last=Matrix.of(to.last),
    )
    width = _width(tile, (P,), (to.h, to.copy, to.input, to.last, old_h, resets.h))
    instance = project_kernel(tile, weights.dtype, width, weights.functions.zoneout_h, idle=resets.idle)
    return Launch(instance, project_grid(tile, B, P), (tile.threads,), arguments)


def can_stage(a: Any) -> bool:
    """Whether rows can be copied to tiles 16 bytes at a time."""
    return is_aligned(a, 16 // a.itemsize)


def can_pair(a: Any) -> bool:
    """Whether two neighbouring elements of a row can be moved as one."""
    return is_aligned(a, _PAIR)


def _width(tile: Tile, columns: Iterable[int], arrays: Iterable[Any]) -> int:
    """Return how many units, or columns of h, a thread moves as one."""
    even = all(count % _PAIR == 0 for count in columns)
    return _PAIR if tile.pairs and even and all(a is None or can_pair(a) for a in arrays) else 1
