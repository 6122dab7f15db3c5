"""Support for tests of scan.cu: instances, random sequences, launches like the CUDA backend's, and single steps."""

from dataclasses import dataclass, replace

import numpy as np

from fusedlstm.backends.cuda import tiles
from fusedlstm.backends.cuda.arguments import (
    Cell,
    Copy,
    Matrix,
    Rows,
    ScanArguments,
    ScanDirection,
    Series,
    SlotRows,
    StepArguments,
)
from fusedlstm.backends.cuda.scan_kernels import gate_order, scan_kernel
from fusedlstm.backends.cuda.scan_tiles import LAST, NO_FLAGS, ScanTile
from fusedlstm.functions import Functions

from emulation import FORWARD
from support.kernel_cases import CELL_CLIP, DTYPES, state_type
from support.step_cases import (
    PROJ_CLIP,
    columns_of,
    interleaved,
    padded_projection,
    reset_rows,
    step_name,
    to_tf32,
    whole_tiles,
)
from support.structs import by_value, matrix

RESET, IDLE = 1, 2
TANH = Functions()
STEP_TILE = tiles.TENSOR_MEDIUM  # its sums are in the same order: K of x, K of h, then the bias


@dataclass(frozen=True)
class Instance:
    """Template arguments of lstm_scan."""

    dtype: str
    tile: ScanTile
    functions: Functions = TANH
    peephole: bool = False
    clip: bool = False
    flags: int = NO_FLAGS
    width: int = 2

    def __str__(self):
        return scan_kernel(self.tile, DTYPES[self.dtype], *self.options, self.flags, self.width).name

    @property
    def options(self):
        return self.functions, self.peephole, self.clip

    @property
    def step(self):
        """The name of the instance of lstm_step that computes the same."""
        return step_name(STEP_TILE, self.dtype, *self.options, self.tile.projects, False, 1, False)


@dataclass(frozen=True)
class Layout:
    """The sizes of a sequence, and which arrays it has.

    Args:
        T, B, N: its sizes.
        reset: the state of reset rows, as in step_cases: "zeros", "one row" or "rows".
        flags: "random", "every" (a reset before each step), "ends" (resets before the first and the last step), or
            "idle" (all rows, always). It is ignored by instances without flags.
        reverse: whether it is walked backwards.
        bias: whether there is a bias.
        residual: whether there is an input to add.
        states: whether there is an initial state; else it is zeros.
        in_place: whether the final state replaces it.
        P: columns of h; None for N. Instances without a projection need None.
    """

    T: int
    B: int
    N: int
    reset: tuple = ("rows", "rows")
    flags: str = "random"
    reverse: bool = False
    bias: bool = True
    residual: bool = False
    states: bool = True
    in_place: bool = True
    P: int | None = None

    @property
    def width(self):
        return self.N if self.P is None else self.P


def series_of(random, T, B, columns, dtype, multiple, *, batch_first=False):
    """Return an array (T, B, columns) within a larger one of NaN, with steps or rows first."""
    outer, inner = (B, T) if batch_first else (T, B)
    rows = columns_of(random, (outer + 1) * (inner + 1), columns, dtype, multiple)
    larger = np.lib.stride_tricks.as_strided(
        rows, (outer, inner, columns), (rows.strides[0] * (inner + 1), *rows.strides)
    )
    return larger.swapaxes(0, 1) if batch_first else larger


def sequential_gates(x, weight):
    """Return x weight.T (T, B, 4N) in float32. Like emulated tensor cores, it sums one by one in the order of K."""
    sums = np.zeros((*x.shape[:2], len(weight)), np.float32)
    for k in range(x.shape[2]):
        sums += x[:, :, k, None].astype(np.float32) * weight[:, k].astype(np.float32)
    return sums


def random_flags(random, kind, T, B):
    flags = np.zeros((T, B), np.uint8)
    if kind == "random":
        flags = random.choice([0, 0, 0, RESET, IDLE, RESET | IDLE], (T, B)).astype(np.uint8)
    elif kind == "every":
        flags[...] = RESET
    elif kind == "idle":
        flags[...] = IDLE
    elif T:
        flags[0] = flags[-1] = RESET
    return flags


def random_scan(instance, layout, seed=0, I=5):
    """Return random arrays by name. Rows that are reset before the first step have a state of NaN."""
    T, B, N, P, W = layout.T, layout.B, layout.N, layout.width, instance.width
    random = np.random.default_rng(seed)
    dtype, A = DTYPES[instance.dtype], DTYPES[state_type(instance.dtype)]
    tf32 = instance.dtype == "float"
    weight_ih, weight_hh = ((random.standard_normal((4 * N, width)) / np.sqrt(I + N)).astype(dtype) for width in (I, P))
    weight_hr = (random.standard_normal((P, N)) / np.sqrt(N)).astype(dtype)
    if tf32:
        weight_ih, weight_hh, weight_hr = (to_tf32(each).astype(dtype) for each in (weight_ih, weight_hh, weight_hr))
    x = random.standard_normal((T, B, I)).astype(dtype)
    gates = sequential_gates(to_tf32(x) if tf32 else x, weight_ih)
    a = {
        "x": x,
        "weight": interleaved(weight_ih, weight_hh, STEP_TILE.units),
        "weight_ih": weight_ih,
        "weight_hh": weight_hh,
        "weight_hr": weight_hr,
        "projection": padded_projection(weight_hr, STEP_TILE.units) if instance.tile.projects else None,
        "bias": random.standard_normal(4 * N).astype(dtype) if layout.bias else None,
        "peephole": random.standard_normal((3, N)).astype(dtype) if instance.peephole else None,
        "gates": series_of(random, T, B, 4 * N, A, 4, batch_first=seed % 2 == 1),
        "h": columns_of(random, B, P, dtype, W) if layout.states else None,
        "c": columns_of(random, B, N, A, W) if layout.states else None,
        "out": series_of(random, T, B, P, dtype, W, batch_first=seed % 2 == 0),
        "input": series_of(random, T, B, P, dtype, W) if layout.residual else None,
        "flags": None,
        "reset_h": None,
        "reset_c": None,
        "last": None,
    }
    a["gates"][...] = gates[:, :, gate_order(N)]
    own = layout.in_place and layout.states
    a["h_out"] = a["h"] if own else columns_of(random, B, P, dtype, W)
    a["c_out"] = a["c"] if own else columns_of(random, B, N, A, W)
    if instance.flags != NO_FLAGS:
        a["flags"] = random_flags(random, layout.flags, T, B)
        a["reset_h"] = reset_rows(layout.reset[0], random, B, P, dtype, W)
        a["reset_c"] = reset_rows(layout.reset[1], random, B, N, A, W)
        if layout.states and T:
            first = a["flags"][-1 if layout.reverse else 0] == RESET
            a["h"][first] = a["c"][first] = np.nan
    if instance.flags == LAST:
        a["last"] = columns_of(random, B, P, dtype, W)
    return a


def direction(instance, layout, a):
    """Return the kernel's arguments of one direction."""
    KX = whole_tiles(a["x"].shape[2], a["x"].dtype)
    weight = a["weight"]
    flags = None if a["flags"] is None else a["flags"].view(np.bool_)
    resets = {name: matrix(a[name], one_row_for_all=True) for name in ("reset_h", "reset_c")}
    return ScanDirection(
        x=Series.of(a["gates"]),
        weight=Matrix(weight[:, KX:], weight.shape[1]),
        cell=Cell(a["bias"], a["peephole"], CELL_CLIP, layout.N),
        **{name: matrix(a[name]) for name in ("h", "c", "h_out", "c_out", "last")},
        **resets,
        flags=Series.of(flags),
        out=Series.of(a["out"]),
        input=Series.of(a["input"]),
        reverse=layout.reverse,
        projection=matrix(a["projection"]),
        proj_clip=PROJ_CLIP,
        P=layout.width,
    )


def launch_scan(function, instance, *of_directions, schedule=FORWARD, trace=False):
    """Launch lstm_scan for pairs of a layout and arrays: one direction, or both."""
    (layout, a), (_, last) = of_directions[0], of_directions[-1]
    directions = [direction(instance, *each) for each in (of_directions[0], of_directions[-1])]
    arguments = ScanArguments(*directions, steps=layout.T, B=layout.B)
    tile, T = instance.tile, DTYPES[instance.dtype]
    options = {"shared_mem": tile.shared_bytes(T, instance.flags), "schedule": schedule, "trace": trace}
    grid = -(-layout.B // tile.rows), len(of_directions)
    return function(grid, (tile.threads,), [by_value(arguments, T=T)], **options)


def sliced(layout, a, start, stop):
    """Return a chunk of a sequence as another one, whose arrays are views. Its state is the sequence's h_out."""
    chunk = {name: a[name][start:stop] for name in ("x", "gates", "out", "input", "flags") if a[name] is not None}
    return replace(layout, T=stop - start), a | chunk


def launch_one_step(function, instance, layout, a, t, h, c, out):
    """Launch lstm_step for all rows of a step, with `h` and `c` in place of the state, and return m and the copy."""
    new_h, new_c = np.empty_like(h), np.empty_like(c)
    arguments = StepArguments(
        rows=Rows(
            x=matrix(a["x"][t]),
            h=matrix(h),
            c=matrix(c),
            c_out=matrix(new_c),
            out=matrix(new_h),
            out_by_slot=False,
            pool=SlotRows(),
            is_first=None,
            reset_h=Matrix(),
            reset_c=Matrix(),
            B=layout.B,
        ),
        readers=None,
        weight=matrix(a["weight"]),
        cell=Cell(a["bias"], a["peephole"], CELL_CLIP, layout.N),
        copy=Copy(matrix(out), matrix(None if a["input"] is None else a["input"][t])),
        projection=matrix(a["projection"]),
        proj_clip=PROJ_CLIP,
        I=a["x"].shape[2],
        P=layout.width,
    )
    of_m = STEP_TILE.bytes_of_m(layout.N, DTYPES[instance.dtype]) if instance.tile.projects else 0
    passed = by_value(arguments, T=DTYPES[instance.dtype])
    rows, units = STEP_TILE.grid(layout.B, layout.N)
    grid = rows, 1 if instance.tile.projects else units
    function(grid, (STEP_TILE.threads,), [passed], shared_mem=STEP_TILE.shared_bytes + of_m)
    return new_h, new_c


def by_steps(function, instance, layout, before):
    """Return h, c, outputs and last outputs, computed by single steps of lstm_step."""
    a = before
    T, B, N, P = layout.T, layout.B, layout.N, layout.width
    dtype, A = DTYPES[instance.dtype], DTYPES[state_type(instance.dtype)]
    h = np.zeros((B, P), dtype) if a["h"] is None else a["h"].copy()
    c = np.zeros((B, N), A) if a["c"] is None else a["c"].copy()
    last = np.zeros((B, P), dtype) if a["last"] is None else a["last"].copy()
    outputs = np.zeros((T, B, P), dtype)
    for t in reversed(range(T)) if layout.reverse else range(T):
        flags = np.zeros(B, np.uint8) if a["flags"] is None else a["flags"][t]
        for rows, to in ((a["reset_h"], h), (a["reset_c"], c)):
            to[flags == RESET] = 0 if rows is None else np.broadcast_to(rows, to.shape)[flags == RESET]
        out = np.empty((B, P), dtype)
        new_h, new_c = launch_one_step(function, instance, layout, a, t, h, c, out) if B else (h, c)
        idle = (flags & IDLE != 0)[:, None]
        h, c = np.where(idle, h, new_h), np.where(idle, c, new_c)
        instead = last if instance.flags == LAST else np.zeros_like(out)
        outputs[t] = last = np.where(idle, instead, out)
    return h, c, outputs, last
