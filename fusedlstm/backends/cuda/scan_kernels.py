"""Launches of kernels/gates.cu and scan.cu: many steps of a layer at once, for both its directions if it has two."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedlstm.backends.cuda.arguments import Cell, GatesArguments, Matrix, ScanArguments, ScanDirection, Series
from fusedlstm.backends.cuda.function_types import functions_type
from fusedlstm.backends.cuda.runtime.kernel import Kernel, Launch
from fusedlstm.backends.cuda.runtime.strides import is_aligned
from fusedlstm.backends.cuda.runtime.structs import C_NAMES, Struct
from fusedlstm.backends.cuda.step_kernels import can_stage
from fusedlstm.backends.cuda.tiles import TENSOR_MEDIUM
from fusedlstm.backends.kernel_choice import OLDEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.backends.cuda.device_weights import DeviceWeights
    from fusedlstm.functions import Functions

_PAIR = 2  # units that a thread moves as one, if sizes and addresses allow it
_GROUP = 32  # units of the two warps that a block has at least
_MOST_UNITS = 128
_ROWS = (8, 16, 32, 64)  # of a block
_MOST_STEPS = 8  # of K, whose weights are in registers; the others wait in shared memory
_ENOUGH_BLOCKS = 128  # for a GPU; then more blocks would only have fewer rows
# Bytes of shared memory of a block by compute capability; others have at least the least of them.
_SHARED = {80: 163 << 10, 87: 163 << 10, 90: 227 << 10, 100: 227 << 10, 103: 227 << 10}
_LEAST_SHARED = 99 << 10
_STATIC_BYTES = 4 << 10  # at most, of what the kernel declares itself: flags, bias and peepholes
NO_FLAGS, ZEROS, LAST = range(3)  # as in kernels/scan.cu
_NAMES = ("NO_FLAGS", "ZEROS", "LAST")


@dataclass(frozen=True)
class ScanTile:
    """The units and rows of a block of kernels/scan.cu: `ScanTile` of kernels/scan_tile.cuh.

    Attributes:
        units: all units of the layer, rounded up to a multiple of 32.
        rows: rows of a block.
    """

    units: int
    rows: int

    @property
    def threads(self) -> int:
        """The threads of a block."""
        return 2 * self.units

    def c_name(self, dtype: np.dtype[Any]) -> str:
        """Return its C++ name for a dtype."""
        return f"ScanTile<{C_NAMES[dtype.name]}, {self.units}, {self.rows}>"

    def shared_bytes(self, dtype: np.dtype[Any], flags: int) -> int:
        """Return the dynamic shared memory of a block."""
        gates, h, c = (self.rows * self.units * each for each in (16, dtype.itemsize, 4))
        steps = self.units * dtype.itemsize // 32  # of K
        weights = max(steps - _MOST_STEPS, 0) * 4 * self.threads * 16
        return gates + 2 * h + weights + (c if self.rows > _ROWS[0] else 0) + (h if flags == LAST else 0)


def scan_fits(N: int, P: int, dtype: np.dtype[Any], precision: str, capability: int) -> bool:
    """Whether kernels/scan.cu can step a layer of N units and P outputs on a GPU of this compute capability.

    A projection, float64, and float32 that isn't rounded to TF32 need another kernel.
    """
    multiplies = dtype.itemsize == 2 or (dtype == np.float32 and precision == "high")
    if capability < OLDEST or not multiplies or P != N or N > _MOST_UNITS:
        return False
    return _fits(ScanTile(_units(N), _ROWS[0]), dtype, LAST, capability)


def scan_tile(
    B: int, N: int, dtype: np.dtype[Any], capability: int, *, directions: int = 1, flags: int = LAST
) -> ScanTile:
    """Return the tile for B rows of N units. All tiles give a row the same bits."""
    fitting = [tile for tile in (ScanTile(_units(N), rows) for rows in _ROWS) if _fits(tile, dtype, flags, capability)]
    return next((tile for tile in fitting if -(-B // tile.rows) * directions <= _ENOUGH_BLOCKS), fitting[-1])


def _units(N: int) -> int:
    return -(-N // _GROUP) * _GROUP


def _fits(tile: ScanTile, dtype: np.dtype[Any], flags: int, capability: int) -> bool:
    return tile.shared_bytes(dtype, flags) + _STATIC_BYTES <= _SHARED.get(capability, _LEAST_SHARED)


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
        h: (B, N): the state before, or None for zeros.
        c: likewise.
        h_out: (B, N): gets the state after; may be h.
        c_out: likewise.
        out: (T, B, N), any strides of T and B: gets the outputs.
        input: (T, B, N), added to the outputs; or None.
        flags: (T, B) as in kernels/flags.cuh, viewed as booleans; or None.
        reset_h: (B, N), or one row, or None for zeros: what h becomes in a reset.
        reset_c: likewise.
        last: (B, N): each row's last output, before and after, which idle rows repeat. If None, they get zeros.
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
        """Return what idle rows are."""
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
        )


def _rows(a: Any) -> tuple[Any, ...]:
    """Return what the rows of (T, B, N) have in common, as two matrices: those of a step, and those of a row."""
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
    tile = scan_tile(B, weights.N, weights.dtype, capability, directions=len(directions), flags=flags)
    pairs = weights.N % _PAIR == 0 and all(is_aligned(a, _PAIR) for each in directions for a in each.moved())
    options = weights.functions, weights.peephole is not None, weights.cell_clip is not None, flags
    arguments = ScanArguments(first.arguments(), last.arguments(), steps=T, B=B)
    grid = -(-B // tile.rows), len(directions)
    return Launch(scan_kernel(tile, weights.dtype, *options, _PAIR if pairs else 1), grid, (tile.threads,), arguments)


@functools.cache
def gates_kernel(dtype: np.dtype[Any], aligned: bool) -> Kernel:
    """Return the instance of kernels/gates.cu for a dtype, and for rows of x that can be staged or can't."""
    name = f"lstm_gates<{TENSOR_MEDIUM.c_name(dtype)}, {str(aligned).lower()}>"
    return Kernel("gates.cu", name, Struct(GatesArguments, T=dtype), TENSOR_MEDIUM.shared_bytes)


def gates_launch(weights: DeviceWeights, x: Any, gates: Any) -> Launch:
    """Return the launch of kernels/gates.cu, which writes x's part of the gates in `gate_order`.

    Args:
        weights: the layer's weights.
        x: (B, I), contiguous rows of any row stride: all rows of some steps.
        gates: (B, 4N) in the arithmetic's dtype, contiguous.
    """
    B, interleaved = len(x), weights.interleaved(weights.dtype == np.float32)
    arguments = GatesArguments(
        x=Matrix.of(x),
        weight=Matrix.of(interleaved.weight),
        gates=Matrix.of(gates),
        B=B,
        I=weights.I,
        N=weights.N,
    )
    kernel = gates_kernel(weights.dtype, can_stage(x))
    return Launch(kernel, TENSOR_MEDIUM.grid(B, weights.N), (TENSOR_MEDIUM.threads,), arguments)
