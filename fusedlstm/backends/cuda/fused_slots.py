"""A pool's slots, stepped in place: one launch for each layer, and another for a projection."""

from __future__ import annotations

import operator
from collections import deque
from typing import TYPE_CHECKING, Any

import cupy
import numpy as np

from fusedlstm.backends import kernel_choice
from fusedlstm.backends.cuda.arguments import Audit, SlotRows
from fusedlstm.backends.cuda.device_weights import padded
from fusedlstm.backends.cuda.kernels import Destinations, launch_check, launch_state_rows
from fusedlstm.backends.cuda.runtime.pinned import Uploads
from fusedlstm.backends.cuda.runtime.strides import row_stride
from fusedlstm.backends.cuda.step_kernels import (
    Repeated,
    can_pair,
    can_stage,
    launches,
    project_grid,
    step_grid,
)
from fusedlstm.backends.cuda.tiles import tile_of
from fusedlstm.slots import PROBLEMS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.cuda.device_weights import DeviceWeights
    from fusedlstm.backends.cuda.runtime.streams import Turns

# Members that stay null in a launch that computes only m.
_COPIES = {"copy.to.at", "copy.to.stride", "copy.input.at", "copy.input.stride"}
# The fewest rows to make room for.
_FEWEST = 16


class FusedSlots:
    """See `layer_step.SlotStep`.

    A slot has two rows of h, so that a step writes one while its blocks read the other. A word for each slot says which
    row is the state. The last launch of a step flips the words of the slots that it steps.
    """

    def __init__(self, engines: Sequence[CudaCell], residual: Sequence[bool], capacity: int, turns: Turns) -> None:
        layers = [engine.weights for engine in engines]
        self.hs, H = _side_by_side([weights.P for weights in layers], layers[0].dtype)
        self.cs, C = _side_by_side([weights.N for weights in layers], layers[0].gates_dtype)
        self.all_h = cupy.zeros((2 * capacity, H), layers[0].dtype)
        self.c = cupy.zeros((capacity, C), layers[0].gates_dtype)
        self._about = layers[0].dtype.name, engines[0].precision, engines[0].kernel
        self._words = cupy.zeros((capacity,), np.uint64)
        self._layers = [
            _KeptLaunches(
                k,
                weights,
                self.all_h[:, self.hs[k]],
                self.c[:, self.cs[k]],
                self._words,
                residual=residual[k],
                is_top=k == len(layers) - 1,
            )
            for k, weights in enumerate(layers)
        ]
        self._sizes = tuple((weights.I, weights.N, weights.P) for weights in layers)
        self._tick = 0
        self._turns, self._uploads = turns, Uploads()
        self.held: list[Any] = [self._words, self._uploads]  # and the room, once there is one
        self._room: _Room | None = None

    @property
    def nbytes(self) -> int:
        """See `PoolEngine.nbytes`."""
        return int(self.all_h.nbytes + self.c.nbytes + self._words.nbytes)

    @property
    def scratch_nbytes(self) -> int:
        """The bytes of the steps' buffers."""
        return 0 if self._room is None else self._room.nbytes

    def kernels(self, B: int) -> tuple[str, ...]:
        """See `PoolEngine.kernels`."""
        return kernel_choice.one_kernel_layers(B, self._sizes, *self._about)

    def state_rows(self, slots: Any) -> Any:
        """Return the row of `all_h` with the current h of each slot. Slots and result are on the device."""
        rows = cupy.empty(slots.shape, np.int64)
        launch_state_rows(slots, self._words, rows)
        return rows

    def queue(
        self,
        engines: Sequence[CudaCell],
        x: Array,
        slots: Array,
        is_first: Array | None,
        out: Array,
        next_audit: Callable[[], Audit],
    ) -> None:
        """Queue a step that writes the top layer's output to `out`."""
        del engines  # `_layers` refers to their memory
        device_slots = self._room_for(len(slots)).slots[: len(slots)]
        if isinstance(slots, np.ndarray):
            self._uploads.queue(device_slots, slots, cupy.cuda.get_current_stream())
        else:
            launch_check(cupy.ascontiguousarray(slots.astype(np.int64, copy=False)), device_slots, next_audit())
        self._queue(x, device_slots, is_first, out)

    def _queue(self, x: Any, device_slots: Any, is_first: Any, out: Any) -> None:
        """Queue the launches of a step. Everything that can fail comes first, as launches change states."""
        B, room = len(x), self._room_for(len(x))
        tick = self._tick + 1
        values = {"pool.slots": device_slots, "pool.tick": tick, "is_first": is_first}
        step: list[Callable[[], Any]] = []
        for layer, kernel in zip(self._layers, self.kernels(B), strict=True):
            to = out if layer is self._layers[-1] else room.between[layer.number % 2]
            step += layer.ready(kernel, x, to, room, values)
            x = to[:B, : layer.weights.P]
        self._tick = tick
        # No Python code runs between launches, so a signal can't interrupt them: all are queued, or none.
        deque(map(operator.call, step), maxlen=0)

    def _room_for(self, B: int) -> _Room:
        """Return buffers of at least B rows."""
        room = self._room
        if room is None or room.rows < B:
            larger = _Room([layer.weights for layer in self._layers], max(_FEWEST, 1 << (B - 1).bit_length()))
            if room is not None:
                self._turns.keep_until_done(room)
            self._room = larger
            self.held[2:] = [self._room]
            return self._room
        return room

    def prepare(self, engines: Sequence[CudaCell], largest: int) -> None:
        """Make the buffers for up to `largest` rows, and load the kernels of these steps."""
        del engines
        room = self._room_for(largest)
        self._uploads.reserve(8 * room.rows)
        sizes = [1]
        while sizes[-1] < largest:
            sizes.append(min(2 * sizes[-1], largest))
        first, top = self._layers[0].weights, self._layers[-1].weights
        column = padded(first.I, first.dtype)
        none = cupy.zeros((len(PROBLEMS), 2), np.uint64)
        audit = Audit(cupy.zeros((1,), np.bool_), cupy.zeros((1,), np.uint64), 0, none)
        room.slots.fill(-1)
        launch_check(room.slots[:1], room.slots[:1], audit)
        for B in sizes:
            # One x has rows at multiples of 16 bytes. The other loads the instances for unaligned rows.
            wide, out = cupy.zeros((B, column + 1), first.dtype), cupy.empty((B, top.P), top.dtype)
            for x in (cupy.zeros((B, column), first.dtype)[:, : first.I], wide[:, 1 : 1 + first.I]):
                self._queue(x, room.slots[:B], None, out)


class _KeptLaunches:
    """One layer's launches, cached by everything that they depend on besides their rows."""

    def __init__(
        self, number: int, weights: DeviceWeights, h: Any, c: Any, words: Any, *, residual: bool, is_top: bool
    ) -> None:
        self.number, self.weights = number, weights
        self._h, self._c, self._words, self._residual, self._is_top = h, c, words, residual, is_top
        self._launches: dict[tuple[Any, ...], list[Repeated]] = {}

    def ready(self, kernel: str, x: Any, to: Any, room: _Room, values: dict[str, Any]) -> list[Callable[[], Any]]:
        """Return functions that queue a step of x (B, I). `to` has at least B rows and P columns."""
        weights, B = self.weights, len(x)
        tile = tile_of(kernel, B, weights.dtype)
        projects = weights.weight_hr is not None and tile.projects(B, weights.N, weights.dtype)
        key = tile, projects, room, can_stage(x), can_pair(to) and (not self._residual or can_pair(x))
        x_stride, to_stride = row_stride(x), row_stride(to)
        values = values | {"x.at": x, "x.stride": x_stride, "copy.to.at": to, "copy.to.stride": to_stride, "B": B}
        if self._residual:
            values |= {"copy.input.at": x, "copy.input.stride": x_stride}
        repeated = self._launches.get(key)
        if repeated is None:
            if self._launches and next(iter(self._launches))[2] is not room:
                self._launches.clear()  # their buffers are gone
            repeated = self._launches[key] = self._made(kernel, x, to, room, values)
        grids = step_grid(tile, B, weights.N, projects=projects), project_grid(tile, B, weights.P)
        pairs = zip(repeated, grids, strict=False)
        return [each.bound(grid, values) for each, grid in pairs]

    def _made(self, kernel: str, x: Any, to: Any, room: _Room, values: dict[str, Any]) -> list[Repeated]:
        weights = self.weights
        of_h = Destinations(self._h, copy=to, input=x if self._residual else None)
        slots = SlotRows(values["pool.slots"], self._words, values["pool.tick"], flips=self._is_top)
        m = room.m[:, : weights.N]
        made = launches(weights, kernel, x, self._h, self._c, self._c, of_h, m, slots=slots)
        of_all = values.keys() - _COPIES
        return [Repeated(launch, of_all if launch.arguments.copy.to.at is None else values.keys()) for launch in made]


class _Room:
    """Buffers for a step of up to `rows` rows: slots, the x of upper layers, and m."""

    def __init__(self, layers: Sequence[Any], rows: int) -> None:
        self.rows = rows
        self.slots = cupy.empty((rows,), np.int64)
        dtype = layers[0].dtype
        width = max((padded(weights.P, dtype) for weights in layers[:-1]), default=0)
        self.between = [cupy.empty((rows, width), dtype) for _ in range(min(2, len(layers) - 1))]
        most = max((padded(weights.N, dtype) for weights in layers if weights.weight_hr is not None), default=0)
        self.m = cupy.empty((rows, most), dtype)
        self.nbytes = sum(int(array.nbytes) for array in (self.slots, self.m, *self.between))


def _side_by_side(widths: Sequence[int], dtype: np.dtype[Any]) -> tuple[list[slice], int]:
    """Return the columns of parts of these widths, each aligned to 16 bytes, and the width of the whole row."""
    places, at = [], 0
    for width in widths:
        places.append(slice(at, at + width))
        at += padded(width, dtype)
    return places, at
