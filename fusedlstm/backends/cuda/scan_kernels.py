"""Launches of kernels/gates.cu and scan.cu: many steps of a layer at once, for both its directions if it has two."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.backends.cuda.arguments import Cell, GatesArguments, Matrix, ScanArguments, ScanDirection, Series
from fusedlstm.backends.cuda.function_types import functions_type
from fusedlstm.backends.cuda.runtime.kernel import Kernel, Launch
from fusedlstm.backends.cuda.runtime.strides import is_aligned
from fusedlstm.backends.cuda.runtime.structs import Struct
from fusedlstm.backends.cuda.scan_tiles import LAST, NO_FLAGS, ZEROS, ScanTile, gates_tile, scan_tile
from fusedlstm.backends.cuda.step_kernels import can_stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.backends.cuda.device_weights import DeviceWeights
    from fusedlstm.backends.cuda.tiles import Tile
    from fusedlstm.functions import Functions

_PAIR = 2  # units that a thread moves as one, if sizes and addresses allow it
_NAMES = ("NO_FLAGS", "ZEROS", "LAST")


def gate_order(N: int) -> NumpyArray:
    """Return the order of a layer's gates in x's part: i, f, g and o of the first unit, then of the next.

    x's part is x @ weight_ih[gate_order(N)].T.
    """
    return np.arange(4 * N).reshape(4, N).T.ravel()


@dataclass
class Scan:
    """The steps of a layer in one direction. Columns are contiguous, and rows less than 2^31 elements apart.

    Attributes:
        weights: the layer's weights.
        gates: (T, B, 4N): x's part, in `gate_order`, in the arithmetic's dtype.
        h: (B, P): the state before, or None for zeros.
        c: (B, N), likewise.
        h_out: (B, P): gets the state after; may be h.
        c_out: (B, N), likewise.
        out: (T, B, P), any strides of T and B: gets the outputs.
        input: (T, B, P), added to the outputs; or None.
        flags: (T, B) as in kernels/flags.cuh, viewed as booleans; or None.
        reset_h: (B, P), or one row, or None for zeros: what h becomes in a reset.
        reset_c: (B, N), likewise.
        last: (B, P): each row's last output, which idle rows repeat, read and updated. If None, they get zeros.
        reverse: whether to walk from the last step to the first.
    """

    weights: DeviceWeights
    gates: Any
    h: Any
    c: Any
    h_out: Any
    c_out: Any
    out: Any
    input: Any = None
    flags: Any = None
    reset_h: Any = None
    reset_c: Any = None
    last: Any = None
    reverse: bool = False

    def moved(self) -> list[Any]:
        """Return the arrays whose units are moved in pairs."""
        states = self.h, self.c, self.h_out, self.c_out, self.reset_h, self.reset_c, self.last
        return [each for each in (*states, *_rows(self.out), *_rows(self.input)) if each is not None]

    def idle(self) -> int:
        """Return NO_FLAGS if no row can be idle, or else what idle rows output."""
        return NO_FLAGS if self.flags is None else ZEROS if self.last is None else LAST

    def arguments(self) -> ScanDirection:
        """Return the kernel's arguments of this direction."""
        weights = self.weights
        interleaved = weights.interleaved(weights.dtype == np.float32)
        return ScanDirection(
            x=Series.of(self.gates),
            weight=Matrix.of(interleaved.weight[:, interleaved.KX :]),
            cell=Cell(weights.bias, weights.peephole, clip=weights.cell_clip or 0.0, N=weights.N),
            h=Matrix.of(self.h),
            c=Matrix.of(self.c),
            h_out=Matrix.of(self.h_out),
            c_out=Matrix.of(self.c_out),
            flags=Series.of(self.flags),
            reset_h=Matrix.of(self.reset_h),
            reset_c=Matrix.of(self.reset_c),
            last=Matrix.of(self.last),
            out=Series.of(self.out),
            input=Series.of(self.input),
            reverse=self.reverse,
            projection=Matrix.of(interleaved.projection),
            proj_clip=math.inf if weights.proj_clip is None else weights.proj_clip,
            P=weights.P,
        )


def _rows(a: Any) -> tuple[Any, ...]:
    """Return the two matrices that decide how the rows of (T, B, N) are aligned: a step's rows, and a row's steps."""
    return () if a is None or 0 in a.shape else (a[0], a[:, 0])


@functools.cache
def scan_kernel(
    tile: ScanTile, dtype: np.dtype[Any], functions: Functions, peephole: bool, clip: bool, flags: int, width: int
) -> Kernel:
    """Return the instance of kernels/scan.cu for these template arguments."""
    options = ", ".join(str(flag).lower() for flag in (peephole, clip))
    name = f"lstm_scan<{tile.c_name(dtype)}, {functions_type(functions)}, {options}, {_NAMES[flags]}, {width}>"
    return Kernel("scan.cu", name, Struct(ScanArguments, T=dtype), tile.shared_bytes(dtype, flags))


def scan_launch(directions: Sequence[Scan], capability: int) -> Launch:
    """Return the launch of kernels/scan.cu for one direction of a layer, or for both.

    Both have the same options, and the same kind of flags and last outputs.
    """
    first, last = directions[0], directions[-1]
    weights, (T, B, _) = first.weights, first.gates.shape
    flags = max(each.idle() for each in directions)
    about, projects = (B, weights.N, weights.dtype, capability), weights.projection is not None
    tile = scan_tile(*about, directions=len(directions), flags=flags, projects=projects)
    pairs = weights.N % _PAIR == weights.P % _PAIR == 0 and all(
        is_aligned(a, _PAIR) for each in directions for a in each.moved()
    )
    options = weights.functions, weights.peephole is not None, weights.cell_clip is not None, flags
    arguments = ScanArguments(first.arguments(), last.arguments(), steps=T, B=B)
    grid = -(-B // tile.rows), len(directions)
    return Launch(scan_kernel(tile, weights.dtype, *options, _PAIR if pairs else 1), grid, (tile.threads,), arguments)


@functools.cache
def gates_kernel(tile: Tile, dtype: np.dtype[Any], aligned: bool) -> Kernel:
    """Return the instance of kernels/gates.cu for a tile. `aligned` says whether rows of x can be staged."""
    name = f"lstm_gates<{tile.c_name(dtype)}, {str(aligned).lower()}>"
    return Kernel("gates.cu", name, Struct(GatesArguments, T=dtype), tile.shared_bytes)


def gates_launch(weights: DeviceWeights, x: Any, gates: Any, B: int) -> Launch:
    """Return the launch of kernels/gates.cu, which writes x's part of the gates in `gate_order`.

    Args:
        weights: the layer's weights.
        x: (rows, I), all rows of some steps. Each row is contiguous, and the row stride may be any.
        gates: (rows, 4N) in the arithmetic's dtype, contiguous.
        B: the rows of a step.
    """
    rows, interleaved = len(x), weights.interleaved(weights.dtype == np.float32)
    tile = gates_tile(B, weights.N, weights.dtype, weights.capability)
    arguments = GatesArguments(
        x=Matrix.of(x),
        weight=Matrix.of(interleaved.weight),
        gates=Matrix.of(gates),
        B=rows,
        I=weights.I,
        N=weights.N,
    )
    kernel = gates_kernel(tile, weights.dtype, can_stage(x))
    return Launch(kernel, tile.grid(rows, weights.N), (tile.threads,), arguments)
