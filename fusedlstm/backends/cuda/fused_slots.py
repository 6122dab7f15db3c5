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
from fusedlstm.backends.cuda.instances import ROWS
from fusedlstm.backends.cuda.kernels import Destinations
from fusedlstm.backends.cuda.runtime.packed import PackedLaunch, members_named
from fusedlstm.backends.cuda.runtime.pinned import Uploads
from fusedlstm.backends.cuda.runtime.strides import row_stride
from fusedlstm.backends.cuda.slot_kernels import check_grid, check_launch, launch_state_rows
from fusedlstm.backends.cuda.step_kernels import (
    can_pair,
    can_stage,
    launches,
    project_grid,
    project_tile,
    step_grid,
    step_tile,
)
from fusedlstm.backends.cuda.tiles import ALL
from fusedlstm.slots import PROBLEMS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedlstm.arrays.dtypes import Array
    from fusedlstm.backends.cuda.cell import CudaCell
    from fusedlstm.backends.cuda.device_weights import DeviceWeights
    from fusedlstm.backends.cuda.runtime.streams import Turns

# The values of a repetition, in order, as members of step.cu's and project.cu's arguments.
_PLACES = {"x.at": 0, "x.stride": 1, "B": 2, "pool.slots": 3, "pool.tick": 4, "is_first": 5}
_COPY = {"copy.to.at": 6, "copy.to.stride": 7}  # if the launch writes h
_INPUT = {"copy.input.at": 0, "copy.input.stride": 1}  # if it also adds x
_SLOTS, _CHECKED, _TICK, _ROWS = range(4)  # those of check.cu
_MOST_INSTANCES = 1024  # numbers and grids to keep, by kernel and rows
_WORD_BYTES = 8  # the word of each slot has 64 bits
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
        measured = tuple(engine.measured for engine in engines)
        about = layers[0].dtype.name, engines[0].precision, layers[0].capability
        self._about = *about, engines[0].kernel, measured
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
        self._checks: PackedLaunch
        self._audited: Any = None  # the flags that `_checks` reads
        self._turns, self._uploads = turns, Uploads()
        self.held: list[Any] = [self._words, self._uploads]  # and the room, once there is one
        self._room: _Room | None = None

    @staticmethod
    def nbytes_of(engines: Sequence[CudaCell], capacity: int) -> int:
        """Return the bytes of the states of so many slots."""
        layers = [engine.weights for engine in engines]
        dtype, c_dtype = layers[0].dtype, layers[0].gates_dtype
        _, H = _side_by_side([weights.P for weights in layers], dtype)
        _, C = _side_by_side([weights.N for weights in layers], c_dtype)
        return capacity * (2 * H * dtype.itemsize + C * c_dtype.itemsize + _WORD_BYTES)

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
        room, stream = self._room_for(len(slots)), cupy.cuda.get_current_stream()
        step = self._ready(x, room, is_first, out, stream.ptr)
        if isinstance(slots, np.ndarray):
            self._uploads.queue(room.slots, slots, stream)
        else:
            slots = cupy.ascontiguousarray(slots.astype(np.int64, copy=False))
            self._check(slots, room, next_audit(), stream.ptr)
        self._launch(step)

    def _check(self, slots: Any, room: _Room, audit: Audit, stream: int) -> None:
        """Queue the check of slots (B,) of int64 on the device. It copies them to the room."""
        B = len(slots)
        if self._audited is not audit.live:  # the first check
            places = {"slots": _SLOTS, "steppable": _CHECKED, "tick": _TICK, "B": _ROWS}
            first = check_launch(slots, room.slots, audit)
            self._checks, self._audited = PackedLaunch(first, members_named(first, places)), audit.live
        self._checks.bound(stream, (slots, room.slots, audit.tick, B), check_grid(B))()

    def _ready(self, x: Any, room: _Room, is_first: Any, out: Any, stream: int) -> list[Callable[[], Any]]:
        """Return functions that queue the launches of a step. This does everything that can fail."""
        B, tick = len(x), self._tick + 1
        step: list[Callable[[], Any]] = []
        for layer, kernel in zip(self._layers, self.kernels(B), strict=True):
            is_top = layer is self._layers[-1]
            to = out if is_top else room.between[layer.number % 2]
            step += layer.ready(kernel, x, to, room, (room.slots, tick, is_first), stream)
            x = None if is_top else to[:B, : layer.weights.P]
        return step

    def _launch(self, step: list[Callable[[], Any]]) -> None:
        """Queue the launches of a step.

        No Python code runs between launches, so a signal can't interrupt them: all are queued, or none.
        """
        self._tick += 1
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
        sizes = *(B for B in ROWS if largest > B), max(1, largest)
        first, top = self._layers[0].weights, self._layers[-1].weights
        column = padded(first.I, first.dtype)
        none = cupy.zeros((len(PROBLEMS), 2), np.uint64)
        audit = Audit(cupy.zeros((1,), np.bool_), cupy.zeros((1,), np.uint64), 0, none)
        room.slots.fill(-1)
        check_launch(room.slots[:1], room.slots[:1], audit).queue()
        for B in sizes:
            # One x has rows at multiples of 16 bytes. The other loads the instances for unaligned rows.
            wide, out = cupy.zeros((B, column + 1), first.dtype), cupy.empty((B, top.P), top.dtype)
            for x in (cupy.zeros((B, column), first.dtype)[:, : first.I], wide[:, 1 : 1 + first.I]):
                self._launch(self._ready(x, room, None, out, cupy.cuda.get_current_stream().ptr))


class _KeptLaunches:
    """One layer's launches, cached by everything that they depend on besides their rows."""

    def __init__(
        self, number: int, weights: DeviceWeights, h: Any, c: Any, words: Any, *, residual: bool, is_top: bool
    ) -> None:
        self.number, self.weights = number, weights
        self._h, self._c, self._words, self._residual, self._is_top = h, c, words, residual, is_top
        self._launches: dict[tuple[Any, ...], list[PackedLaunch]] = {}
        self._instances: dict[tuple[str, int], tuple[int, Sequence[tuple[int, int]]]] = {}

    def ready(
        self, kernel: str, x: Any, to: Any, room: _Room, rest: tuple[Any, Any, Any], stream: int
    ) -> list[Callable[[], Any]]:
        """Return functions that queue a step of x (B, I) on a stream. `to` has at least B rows and P columns.

        `rest` has the slots, the tick and is_first.
        """
        B = len(x)
        instance, grids = self._instances.get((kernel, B)) or self._instance(kernel, B)
        key = instance, room, can_stage(x), can_pair(to) and (not self._residual or can_pair(x))
        launches_of_key = self._launches.get(key)
        if launches_of_key is None:
            if self._launches and next(iter(self._launches))[1] is not room:
                self._launches.clear()  # their buffers are gone
            launches_of_key = self._launches[key] = self._made(kernel, x, to, room, rest)
        values = (x, row_stride(x), B, *rest, to, row_stride(to))
        pairs = zip(launches_of_key, grids, strict=False)
        return [each.bound(stream, values, grid) for each, grid in pairs]

    def _instance(self, kernel: str, B: int) -> tuple[int, Sequence[tuple[int, int]]]:
        """Return what the kernels' instances depend on, as a number, and the grids of the step and its projection."""
        if len(self._instances) >= _MOST_INSTANCES:
            self._instances.clear()
        weights = self.weights
        tile, of_projection = step_tile(weights, kernel, B), project_tile(weights, kernel, B)
        projects = weights.weight_hr is not None and tile.projects(B, weights.N, weights.dtype)
        grids = step_grid(tile, B, weights.N, projects=projects), project_grid(of_projection, B, weights.P)
        instance = 2 * (ALL.index(tile) * len(ALL) + ALL.index(of_projection)) + projects
        found = self._instances[kernel, B] = instance, grids
        return found

    def _made(self, kernel: str, x: Any, to: Any, room: _Room, rest: tuple[Any, Any, Any]) -> list[PackedLaunch]:
        weights, (slots, tick, _) = self.weights, rest
        of_h = Destinations(self._h, copy=to, input=x if self._residual else None)
        of_slots = SlotRows(slots, self._words, tick, flips=self._is_top)
        m = room.m[:, : weights.N]
        made = []
        for launch in launches(weights, kernel, x, self._h, self._c, self._c, of_h, m, slots=of_slots):
            places = _PLACES
            if launch.arguments.copy.to.at is not None:  # not the one that computes only m
                places = places | _COPY | (_INPUT if self._residual else {})
            made.append(PackedLaunch(launch, members_named(launch, places)))
        return made


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
