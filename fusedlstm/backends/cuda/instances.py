"""List the instances of kernels that a use of weights loads, without a GPU, so that they can be compiled ahead.

This repeats the conditions of launches, in terms of sizes and options. A test compares both. It imports no cuBLAS,
which a machine that only compiles may lack.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from fusedlstm.arrays import dtypes
from fusedlstm.backends import kernel_choice, sequence_choice
from fusedlstm.backends.cuda import (
    kernels,
    scan_kernels,
    scan_tiles,
    sequence_kernels,
    slot_kernels,
    step_kernels,
    weight_kernels,
)
from fusedlstm.backends.cuda.tiles import tile_of
from fusedlstm.validation.weights import as_layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fusedlstm.backends.cuda.runtime.kernel import Kernel
    from fusedlstm.backends.cuda.tiles import Tile
    from fusedlstm.backends.uses import Use
    from fusedlstm.stacked import StackedWeights
    from fusedlstm.weights import LSTMWeights

# Numbers of rows at which a choice may change are powers of two, so one of these is on each side of every change.
ROWS = tuple(sorted({each for k in range(16) for each in (2**k, 2**k + 1)}))
_VECTOR, _STAGED = 4, 16  # units that one thread moves, and bytes that are copied to a tile at once


def instances(use: Use, capability: int) -> list[Kernel]:
    """Return the kernels that a use can load on a GPU of this compute capability, 90 for 9.0.

    Raises:
        ValueError: the kernel can't run there.
    """
    found = _Uses(use, capability).all()
    return list({(each.file, each.name): each for each in found}.values())


class _Uses:
    def __init__(self, use: Use, capability: int) -> None:
        weights: StackedWeights = as_layers(use.weights)
        self._use, self._weights, self._capability = use, weights, capability
        self._about = weights.dtype.name, use.precision
        forced = self._of_sequences = kernel_choice.invariant(*self._about) if use.batch_invariant else use.kernel
        self._forced = sequence_choice.of_steps(forced)
        widest = max(layer.hidden_size for layer in weights.layers)
        reason = forced and sequence_choice.reason_against_kernel(forced, widest, *self._about, capability)
        if reason:
            raise ValueError(f"kernel {forced!r} can't run there: {reason}")
        self._layers = [_Layer(layer, capability) for layer in weights.layers]
        self._sizes = tuple((layer.input_size, layer.hidden_size, layer.output_size) for layer in weights.layers)
        self._can_plan = importlib.util.find_spec("nvmath") is not None  # cublaslt.why_not() needs cuBLAS, too
        self._batches = ROWS if use.batches is None else tuple(use.batches)

    def all(self) -> Iterator[Kernel]:
        objects = self._use.objects
        if "cell" in objects or "sequence" in objects:
            for k, layer in enumerate(self._layers):
                yield from self._owned(layer)
                if self._weights.is_causal:  # LSTM.step is a cell's step for each layer
                    yield from self._plain(layer, is_upper=k > 0)
        if "sequence" in objects:
            for layer in self._layers:
                yield from self._sequence(layer)
            if any(self._weights.residual) and self._weights.is_causal:
                yield kernels.add_kernel(self._layers[0].dtype)
        if "stepper" in objects and self._weights.is_causal:
            yield from self._steppers()
        if "pool" in objects and self._weights.is_causal:
            yield from self._pools()

    def _owned(self, layer: _Layer) -> Iterator[Kernel]:
        """Yield the kernels that a new cell or LSTM runs."""
        about = *layer.sizes, *self._about, self._capability
        for kernel in kernel_choice.choices(*about, forced=self._forced) - {"matmul"}:
            yield from layer.interleaving(kernel)

    def _plain(self, layer: _Layer, *, is_upper: bool) -> Iterator[Kernel]:
        """Yield the kernels of a cell's calls. An upper layer's x is contiguous, as the layer below has made it."""
        contiguous, about = self._use.contiguous, (*layer.sizes, *self._about, self._capability)
        for B in self._batches:
            kernel = kernel_choice.choose(B, *about, forced=self._forced)
            if kernel == "matmul":
                yield from layer.pointwise(contiguous=contiguous)
                continue
            x, h = layer.staged(B)
            x, h = (x if contiguous or is_upper else _EITHER), (h if contiguous else _EITHER)
            staged = {of_x and of_h for of_x, of_h in itertools.product(x, h)}
            yield from layer.step(kernel, B, staged, odd=not contiguous, odd_m=not contiguous)

    def _sequence(self, layer: _Layer) -> Iterator[Kernel]:
        """Yield the kernels of whole sequences, with and without flags, including those that return every state."""
        yield sequence_kernels.flags_kernel()
        for B, scans in itertools.product(self._batches, _EITHER):
            kernel = sequence_choice.choose(
                *(sequence_choice.FEWEST_STEPS, B, layer.sizes, *self._about, self._capability),
                projects=layer.projects,
                forced=self._of_sequences,
                can_plan=self._can_plan,
                scans=scans,
            )
            if kernel == kernel_choice.SCAN:
                yield from layer.scan(B)
                kernel = sequence_choice.OF_FEW_STEPS
            if kernel != "matmul":
                yield from layer.interleaving(kernel)
                for idle in _EITHER:
                    yield from layer.step(kernel, B, {True}, odd=False, odd_m=False, idle=idle)
            elif self._can_plan:
                yield from layer.after_products()

    def _chosen(self, B: int) -> tuple[str, ...]:
        return kernel_choice.runnable_layers(
            *(B, self._sizes, *self._about, self._capability), forced=self._forced, can_plan=self._can_plan
        )

    def _steppers(self) -> Iterator[Kernel]:
        for B in self._batches:
            chosen = self._chosen(B)
            if "matmul" not in chosen:
                yield kernels.reset_kernel(self._layers[0].dtype)
                for layer, kernel in zip(self._layers, chosen, strict=True):
                    yield from layer.interleaving(kernel)
                    yield from layer.step(kernel, B, {True}, odd=False, odd_m=False)
            elif self._can_plan:
                yield from self._matmul()

    def _matmul(self) -> Iterator[Kernel]:
        """Yield the kernels of steps with cuBLASLt."""
        yield kernels.reset_kernel(self._layers[0].dtype)
        for layer in self._layers:
            yield from layer.planned()

    def _pools(self) -> Iterator[Kernel]:
        """Yield the kernels of pools of any capacity from the largest batch on."""
        largest = 1 if self._use.batches is None else max(self._batches)
        steps = ROWS if self._use.batches is None else (*(B for B in ROWS if largest > B), largest)
        dtype = self._layers[0].dtype
        for capacity in sorted({largest, *(each for each in ROWS if each >= largest)}):
            if "matmul" not in self._chosen(min(capacity, kernel_choice.ROWS_OF_A_POOL)):
                yield from (slot_kernels.check_kernel(), slot_kernels.state_rows_kernel(), kernels.reset_kernel(dtype))
                for B in steps:
                    if capacity >= B:
                        yield from self._pool_step(B)
            elif self._can_plan:
                yield slot_kernels.gather_kernel(dtype)
                yield from self._matmul()

    def _pool_step(self, B: int) -> Iterator[Kernel]:
        chosen = kernel_choice.one_kernel_layers(B, self._sizes, *self._about, self._capability, self._forced)
        top = len(self._layers) - 1
        for k, (layer, kernel) in enumerate(zip(self._layers, chosen, strict=True)):
            yield from layer.interleaving(kernel)
            # Only the first layer's x, which a residual layer adds, and the top layer's output are the caller's.
            odd = (k == 0 and self._weights.residual[0]) or (k == top and not self._use.contiguous)
            yield from layer.step(kernel, B, _EITHER if k == 0 else {True}, odd=odd, odd_m=False)


_EITHER = {True, False}


class _Layer:
    """The instances for one layer's sizes and options."""

    def __init__(self, weights: LSTMWeights, capability: int) -> None:
        self._capability = capability
        self.dtype, self.gates = weights.dtype, dtypes.state_dtype(weights.dtype)
        self.sizes = self._I, self._N, self._P = weights.input_size, weights.hidden_size, weights.output_size
        self._functions = weights.functions
        self._functions_of_m = replace(weights.functions, zoneout_h=0.0)
        self._options = weights.peephole is not None, weights.cell_clip is not None
        self.projects, self._clips_h = weights.weight_hr is not None, weights.proj_clip is not None
        self._zoneout = weights.functions.zoneout_h

    def pointwise(self, *, contiguous: bool) -> Iterator[Kernel]:
        """Yield the kernels of a plain call with cuBLAS."""
        for width, reset in itertools.product(self._vectors(contiguous=contiguous), _EITHER):
            yield kernels.pointwise_kernel(self.gates, self.dtype, width, self._functions_of_m, *self._options, reset)
        if self._zoneout:
            yield from (kernels.finish_kernel(self.dtype, self._zoneout), kernels.select_kernel(self.dtype))
        elif self._clips_h:
            yield kernels.clip_kernel(self.dtype)

    def _vectors(self, *, contiguous: bool) -> set[int]:
        return {_VECTOR if self._N % _VECTOR == 0 else 1} | (set() if contiguous else {1})

    def planned(self) -> Iterator[Kernel]:
        """Yield the kernels after a cuBLASLt product, where h may be needed twice."""
        (width,) = self._vectors(contiguous=True)
        yield kernels.planned_kernel(self.dtype, width, self._functions_of_m, *self._options)
        if self._zoneout or self.projects:
            yield kernels.finish_kernel(self.dtype, self._zoneout)

    def after_products(self) -> Iterator[Kernel]:
        """Yield the kernels of a sequence's step after its cuBLASLt products."""
        (width,) = self._vectors(contiguous=True)
        for flags in _EITHER:
            options = *self._options, flags, True
            yield kernels.pointwise_kernel(self.gates, self.dtype, width, self._functions_of_m, *options)
        if self.projects or self._zoneout:
            yield kernels.finish_kernel(self.dtype, self._zoneout, sequence=True)

    def scan(self, B: int) -> Iterator[Kernel]:
        """Yield the kernels of scans, without flags, and with either kind of outputs of idle rows."""
        tile = scan_tiles.gates_tile(B, self._N, self.dtype, self._capability)
        yield scan_kernels.gates_kernel(tile, self.dtype, aligned=True)
        for flags in (scan_tiles.NO_FLAGS, scan_tiles.ZEROS, scan_tiles.LAST):
            about = self._N, self.dtype, self._capability
            of_scan = scan_tiles.scan_tile(B, *about, flags=flags, projects=self.projects)
            (width,) = _widths((self._N, self._P), pairs=True, odd=False)
            yield scan_kernels.scan_kernel(of_scan, self.dtype, self._functions, *self._options, flags, width)

    def interleaving(self, kernel: str) -> Iterator[Kernel]:
        """Yield the kernels that copy the weights for steps in one kernel."""
        rounded = step_kernels.rounds(kernel, self.dtype)
        yield weight_kernels.interleave_kernel(self.dtype, rounded)
        if self.projects:
            yield weight_kernels.pad_kernel(self.dtype, rounded)

    def staged(self, B: int) -> list[set[bool]]:
        """Return for x and for h whether contiguous ones of B rows can be staged."""
        return [{B == 1 or columns * self.dtype.itemsize % _STAGED == 0} for columns in (self._I, self._P)]

    def step(
        self, kernel: str, B: int, staged: set[bool], *, odd: bool, odd_m: bool, idle: bool = False
    ) -> Iterator[Kernel]:
        """Yield the kernels of a step.

        Args:
            kernel: its name.
            B: the number of rows.
            staged: whether x and h can be copied to tiles 16 bytes at a time: {True}, {False}, or both if it may vary.
            odd: whether the caller's arrays that get h, or are added to it, may begin at any element.
            odd_m: the same for the arrays of a launch that computes only m.
            idle: whether rows can be idle.
        """
        tile = self._tile(kernel, B, self._N)
        inside = self.projects and tile.projects(B, self._N, self.dtype)
        apart = self.projects and not inside
        pair = functools.partial(_widths, pairs=tile.pairs)
        functions = self._functions_of_m if apart else self._functions
        widths = pair((self._N, self._P) if inside else (self._N,), odd=odd_m if apart else odd)
        bytes_of_m = tile.bytes_of_m(self._N, self.dtype) if inside else 0
        for aligned, width in itertools.product(staged, widths):
            about = tile, self.dtype, functions, *self._options, aligned, width, bytes_of_m
            yield step_kernels.step_kernel(*about, idle=idle)
        if apart:
            tile = self._tile(kernel, B, step_kernels.project_units(self._P))
            for width in pair((self._P,), odd=odd):
                yield step_kernels.project_kernel(tile, self.dtype, width, self._zoneout, idle=idle)

    def _tile(self, kernel: str, B: int, units: int) -> Tile:
        return tile_of(kernel, B, units, self.dtype, self._capability)


def _widths(columns: Sequence[int], *, pairs: bool, odd: bool) -> set[int]:
    """Return how many units, or columns of h, a thread may move as one."""
    widest = 2 if pairs and all(count % 2 == 0 for count in columns) else 1
    return {widest, 1} if odd else {widest}
