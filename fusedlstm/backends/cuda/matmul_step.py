"""A planned step of all layers for a fixed number of rows. Its buffers stay in place, so a CUDA graph can capture it.

"Planned" means that its matmuls are cuBLASLt plans (`cublaslt.Matmul`), which are made once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends.cuda.device_weights import padded
from fusedlstm.backends.cuda.kernels import Destinations, finish_launch, launch_planned
from fusedlstm.backends.cuda.runtime.cublaslt import Matmul

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.cuda.device_weights import DeviceWeights


class Columns:
    """The columns of x and of all layers' states in two matrices.

    A row of the first is [x | h | x | h ...]. Each layer's matmul reads one piece, [x | h]. A layer's h is also the x
    of the layer above. The columns from `X` on are the state. A row of the second has each layer's c. Every part begins
    at a multiple of 16 bytes.

    Attributes:
        X: the number of columns of the first layer's x.
        H: the number of columns of the state.
        C: the number of columns of c.
        operands: [x | h] of each layer in the first matrix, padding included.
        inputs: x alone, without padding.
        hs: h alone.
        cs: c of each layer in the second matrix.
    """

    def __init__(self, layers: Sequence[DeviceWeights]) -> None:
        self.operands: list[slice] = []
        self.inputs: list[slice] = []
        self.hs: list[slice] = []
        self.cs: list[slice] = []
        at = self.C = 0
        for weights in layers:
            middle = at + weights.X
            self.operands.append(slice(at, middle + weights.H))
            self.inputs.append(slice(at, at + weights.I))
            self.hs.append(slice(middle, middle + weights.P))
            self.cs.append(slice(self.C, self.C + weights.N))
            at = middle + weights.H
            self.C += padded(weights.N, weights.gates_dtype)
        self.X = layers[0].X
        self.H = at - self.X

    def state_of(self, h: slice) -> slice:
        """Return the columns of one of `hs` in the state alone."""
        return slice(h.start - self.X, h.stop - self.X)


@dataclass(frozen=True)
class PoolMatrices:
    """A pool's h and c of all slots, (capacity, H) and (capacity, C), and the slot of each row (M,)."""

    all_h: Any
    c: Any
    slot_of_row: Any


class MatmulStep:
    """Buffers for M rows, and the step on them: one matmul and one launch for each layer.

    A projection adds a matmul. If it is clipped, or h is needed twice, it adds a launch, too. So does zoneout of h.

    Args:
        engines: an engine for each layer.
        residual: whether each layer's output is its h plus its input.
        M: the number of rows.
        pool: the pool's matrices; None if the rows have their own state.
        has_output: whether `output` is a separate array. If not, it is the top layer's h, unless that is residual.
        output: a contiguous array to use as `output`; None allocates one if it is separate.

    Attributes:
        columns: the columns of `operand` and `c`.
        operand: (M, X + H).
        c: (M, C), or all slots'.
        output: (M, P) of the top layer.
        nbytes: the bytes of the buffers that it has allocated.
    """

    def __init__(
        self,
        engines: Sequence[CudaCell],
        residual: Sequence[bool],
        M: int,
        pool: PoolMatrices | None = None,
        *,
        has_output: bool = False,
        output: Any = None,
    ) -> None:
        layers = [engine.weights for engine in engines]
        self.columns = columns = Columns(layers)
        dtype, top = layers[0].dtype, layers[-1]
        self._pool, self._residual = pool, residual
        self.nbytes = 0
        self.operand = self._zeros((M, columns.X + columns.H), dtype)
        self.c = self._zeros((M, columns.C), top.gates_dtype) if pool is None else pool.c
        self._has_output = has_output or residual[-1] or output is not None
        if output is None:
            output = self._zeros((M, top.P), dtype) if self._has_output else self.operand[:, columns.hs[-1]]
        self.output = output
        gates = self._zeros((M * max(4 * weights.N for weights in layers),), top.gates_dtype)
        self._layers: list[_LayerQueue] = []
        try:
            for k, engine in enumerate(engines):
                self._layers.append(self._layer(k, engine, gates[: M * 4 * engine.weights.N].reshape(M, -1)))
            size = max(layer.workspace_bytes for layer in self._layers)
            self._workspace = self._zeros((size,), np.dtype(np.uint8))
        except BaseException:
            self.close()
            raise

    def _zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        array = cupy.zeros(shape, dtype)
        self.nbytes += array.nbytes
        return array

    def _layer(self, k: int, engine: CudaCell, gates: Any) -> _LayerQueue:
        """Return the matmuls and launches of a layer, from its operand to every place of its h."""
        columns, pool, weights = self.columns, self._pool, engine.weights
        if k < len(columns.hs) - 1:
            copy = self.operand[:, columns.inputs[k + 1]]
        else:
            copy = self.output if self._has_output else None
        to = Destinations(
            h=self.operand[:, columns.hs[k]] if pool is None else pool.all_h[:, columns.state_of(columns.hs[k])],
            slot_of_row=None if pool is None else pool.slot_of_row,
            copy=copy,
            input=self.operand[:, columns.inputs[k]] if self._residual[k] else None,
            old_h=self.operand[:, columns.hs[k]] if weights.functions.zoneout_h else None,
        )
        of_gates = Matmul(gates, self.operand[:, columns.operands[k]], weights.weight, engine.precision)
        layer = _LayerQueue(weights, gates, self.c[:, columns.cs[k]], to, of_gates)
        if weights.projection is not None:
            m = self._zeros((len(gates), weights.projection.shape[1]), weights.dtype)
            in_place = pool is None and to.old_h is None
            projected = to.h if in_place else self._zeros((len(gates), weights.P), weights.dtype)
            layer.project(m, projected, Matmul(projected, m, weights.projection, engine.precision), in_place=in_place)
        elif to.old_h is not None:
            layer.keep(self._zeros((len(gates), weights.N), weights.dtype))
        return layer

    def queue(self) -> None:
        """Queue a step on the current stream, on the x and h in `operand`."""
        for layer in self._layers:
            layer.queue(self._workspace)

    def close(self) -> None:
        """Free what only `queue` needs, once it has been captured."""
        for layer in self._layers:
            layer.close()


class _LayerQueue:
    """The matmuls and launches of one layer."""

    def __init__(self, weights: DeviceWeights, gates: Any, c: Any, to: Destinations, of_gates: Matmul) -> None:
        self._weights, self._gates, self._c, self._to = weights, gates, c, to
        self._of_gates = of_gates
        self._m: Destinations | None = None  # where m goes, if it isn't h itself
        self._of_m: Matmul | None = None
        self.workspace_bytes = of_gates.workspace_bytes

    def project(self, m: Any, projected: Any, of_m: Matmul, *, in_place: bool) -> None:
        """Add a projection of m (M, padded N) to `projected` (M, P), which is h itself if `in_place`."""
        self._m = Destinations(h=m[:, : self._weights.N], slot_of_row=self._to.slot_of_row)
        self._projected, self._of_m = projected, of_m
        self._finishes = not in_place or self._weights.proj_clip is not None or self._to.copy is not None
        self.workspace_bytes = max(self.workspace_bytes, of_m.workspace_bytes)

    def keep(self, m: Any) -> None:
        """Write m (M, N) to its own array, so that a launch can keep a part of the old h."""
        self._m, self._projected, self._finishes = Destinations(h=m, slot_of_row=self._to.slot_of_row), m, True

    def queue(self, workspace: Any) -> None:
        """Queue the matmul and what follows it."""
        self._of_gates.queue(workspace)
        if self._m is None:
            launch_planned(self._weights, self._gates, self._c, self._to, h_by_slot=True)
            return
        launch_planned(self._weights, self._gates, self._c, self._m, h_by_slot=False)
        if self._of_m is not None:
            self._of_m.queue(workspace)
        if self._finishes:
            zoneout = self._weights.functions.zoneout_h
            finish_launch(self._projected, self._to, self._weights.proj_clip, zoneout).queue()

    def close(self) -> None:
        """Close the matmuls."""
        self._of_gates.close()
        if self._of_m is not None:
            self._of_m.close()
