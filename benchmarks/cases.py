"""The cases to time: sizes, weights, random data, and the exact results that a peer must match before its time counts.

B batch, T steps, I input size, N units, P output size of a projection, L layers. A step has T = 1 and given states. A
pool's step advances the states in some slots of a table.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fusedlstm import LSTM, LSTMState, StackedWeights

# The largest absolute error against float64, for states of order 1. In 16-bit dtypes, some peers also round c.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3, "bfloat16": 4e-2}
_TF32_TOLERANCE = 4e-3  # TF32's mantissa is as long as float16's
# If a peer changes states in place, their median stays within these bounds, however often it runs. So they neither
# decay to numbers that are slow on a processor, nor grow until all gates are 0 or 1.
_ORDINARY = (1e-3, 10.0)
# The most multiplications for the exact result. In a larger case, only some rows are compared; all must be finite.
_EXACT_WORK = 4e9
_FEWEST_ROWS = 4


class WrongResultError(AssertionError):
    """A result differs from the exact one, so its time isn't reported."""


class Data(NamedTuple):
    """Random inputs, never zeros: xs (T, B, I), h (L, B, P), c (L, B, N), and rows that are reset (T, B), or None."""

    xs: Any
    h: Any
    c: Any
    is_first: Any


class Slots(NamedTuple):
    """A pool's slots (B,), all distinct: those of all rows, and those passed to a step, with -1 for padding rows."""

    all: Any
    given: Any

    @property
    def padding(self) -> Any:
        """(B,) booleans: the rows without a slot."""
        return self.given < 0


class Result(NamedTuple):
    """The states after the last step, h (L, B, P) and c (L, B, N), and except for a step the outputs (T, B, P).

    For a pool these are the states in the slots of all rows. Padding rows have unchanged states, and outputs of zeros.
    """

    h: Any
    c: Any
    outputs: Any = None


@dataclass(frozen=True)
class Case:
    """One size of one kind of work.

    Args:
        kind: "step" (one step of all layers from given states), "sequence" (T steps), or "pool" (a step of some slots).
        name: the workload, as in the case's id.
        T: steps, 1 for a step.
        B: batch.
        I: input size.
        N: units.
        P: output size of a projection, or None.
        layers: the number of stacked layers.
        dtype: the dtype of x, h and the weights.
        precision: the precision of float32 matmuls on a GPU: "highest" is IEEE float32, "high" is TF32.
        resets: the share of rows that are reset before each step.
        quick: whether it is also timed with --quick.
        gpu_only: whether it is too large for a CPU.
        grid_only: whether it is timed only with --grid.
        cold: whether caches are flushed before each call, so that they hold no weights or states.
        capacity: how many slots a pool has, else 0.
        padding: how many of a pool's rows have no slot.
    """

    kind: str
    name: str
    T: int
    B: int
    I: int
    N: int
    P: int | None = None
    layers: int = 1
    dtype: str = "float32"
    precision: str = "highest"
    resets: float = 0.0
    quick: bool = False
    gpu_only: bool = False
    grid_only: bool = False
    cold: bool = False
    capacity: int = 0
    padding: int = 0

    @property
    def id(self) -> str:
        """The case's part of a test's name, which stays the same from commit to commit."""
        parts = [self.name.replace(" ", "_"), f"T{self.T}" if self.kind == "sequence" else "", f"B{self.B}"]
        parts += [f"I{self.I}", f"N{self.N}", f"P{self.P}" if self.P else ""]
        parts += [f"L{self.layers}" if self.layers > 1 else "", self.dtype if self.dtype != "float32" else ""]
        parts += [
            f"resets{self.resets:g}" if self.resets else "",
            "" if self.precision == "highest" else self.precision,
        ]
        return "-".join(filter(None, parts))

    @property
    def title(self) -> str:
        """The heading of the case's table."""
        parts = [f"T = {self.T}" if self.kind == "sequence" else "", f"B = {self.B}"]
        parts += [f"N = I = {self.N}"] if self.I == self.N else [f"I = {self.I}", f"N = {self.N}"]
        parts += [f"P = {self.P}" if self.P else "", f"{self.layers} layers" if self.layers > 1 else ""]
        parts += [f"{self.resets:.0%} of the rows reset" if self.resets else ""]
        parts += [f"{self.capacity} slots, {self.padding} padding rows" if self.capacity else ""]
        dtype = self.dtype if self.precision == "highest" else f"{self.dtype} as TF32"
        return f"{self.name}, {dtype}: {', '.join(filter(None, parts))}"

    @property
    def weights(self) -> StackedWeights:
        """The weights of all layers, the same each time."""
        return _weights(self)

    @property
    def data(self) -> Data:
        """Inputs and states, the same each time. Don't write to them."""
        return _data(self)

    @property
    def slots(self) -> Slots:
        """Random slots of a pool, the same each time."""
        return _slots(self)

    @property
    def rows(self) -> np.ndarray:
        """The rows to compare: all, or as many, evenly spaced, as can be computed in a second."""
        each = 4 * self.T * self.layers * self.N * (self.I + (self.P or self.N))
        count = min(self.B, max(_FEWEST_ROWS, int(_EXACT_WORK / each)))
        return np.unique(np.linspace(0, self.B - 1, count).astype(int))

    @property
    def exact(self) -> Result:
        """The result of `rows`, computed in float64."""
        return _exact(self)

    def assert_right(self, result: Result) -> None:
        """Raise WrongResultError unless a result is exact, within the tolerance of its dtype."""
        width = self.P or self.N
        shapes = {"h": (self.layers, self.B, width), "c": (self.layers, self.B, self.N)}
        if self.kind != "step":
            shapes["outputs"] = (self.T, self.B, width)
        for name, shape in shapes.items():
            self._assert_equal(name, getattr(result, name), shape)

    def assert_ordinary(self, result: Result) -> None:
        """Raise WrongResultError unless states after many steps have ordinary values, which take the usual time."""
        for name in ("h", "c"):
            got = getattr(result, name)
            self._assert_finite(name, got)
            middle = np.median(np.abs(np.asarray(got, np.float64)))
            if not _ORDINARY[0] < middle < _ORDINARY[1]:
                raise WrongResultError(f"{self.id}: after many steps the median of |{name}| is {middle:.3g}")

    def _assert_finite(self, name: str, got: Any) -> None:
        if not np.isfinite(got).all():
            raise WrongResultError(f"{self.id}: {name} is not finite everywhere")

    def _assert_equal(self, name: str, got: Any, shape: tuple[int, ...]) -> None:
        if np.shape(got) != shape:
            raise WrongResultError(f"{self.id}: {name} has the shape {np.shape(got)}, not {shape}")
        self._assert_finite(name, got)
        wanted = getattr(self.exact, name)
        worst = np.abs(np.asarray(got)[:, self.rows].astype(np.float64) - wanted).max()
        if worst > (TOLERANCES[self.dtype] if self.precision == "highest" else _TF32_TOLERANCE):
            raise WrongResultError(f"{self.id}: {name} is {worst:.3g} from the exact result")


# The peers of a case run one after the other, so at most two cases' arrays are in memory.
_kept = functools.lru_cache(maxsize=2)


@_kept
def _weights(case: Case) -> StackedWeights:
    return StackedWeights.random(case.I, case.N, case.layers, seed=0, proj_size=case.P, dtype=case.dtype)


@_kept
def _data(case: Case) -> Data:
    rng = np.random.default_rng(1)
    dtype = case.weights.dtype
    c_dtype = dtype if dtype.itemsize >= 4 else np.dtype(np.float32)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32).astype(dtype)

    xs, h = normal(case.T, case.B, case.I), normal(case.layers, case.B, case.P or case.N)
    c = normal(case.layers, case.B, case.N).astype(c_dtype)  # exact in 16 bits, as some peers keep c in 16 bits
    is_first = None
    if case.resets:
        is_first = rng.random((case.T, case.B)) < case.resets
        is_first[case.T // 2, 0] = True  # at least one
    return Data(xs, h, c, is_first)


@_kept
def _slots(case: Case) -> Slots:
    rng = np.random.default_rng(2)
    slots = rng.choice(case.capacity, case.B, replace=False)
    given = slots.copy()
    given[rng.choice(case.B, case.padding, replace=False)] = -1
    return Slots(slots, given)


@_kept
def _exact(case: Case) -> Result:
    rows, data = case.rows, case.data
    xs, h, c = (array[:, rows].astype(np.float64) for array in data[:3])
    lstm = LSTM(case.weights.astype("float64"), backend="numpy")
    is_first = None if data.is_first is None else data.is_first[:, rows]
    states = tuple(LSTMState(h=h[k], c=c[k]) for k in range(case.layers))
    outputs, states = lstm(xs, states, is_first=is_first)
    new_h, new_c = (np.stack([getattr(state, part) for state in states]) for part in ("h", "c"))
    if case.kind == "pool":
        padding = case.slots.padding[rows]
        new_h[:, padding], new_c[:, padding], outputs[:, padding] = h[:, padding], c[:, padding], 0
    return Result(new_h, new_c, None if case.kind == "step" else outputs)


def step(name: str, B: int, I: int, N: int, **options: Any) -> Case:
    """Return a case of one step."""
    return Case("step", name, 1, B, I, N, **options)


def sequence(name: str, T: int, B: int, I: int, N: int, **options: Any) -> Case:
    """Return a case of T steps."""
    return Case("sequence", name, T, B, I, N, **options)


def pool(B: int, N: int, capacity: int = 65_536, **options: Any) -> Case:
    """Return a case of one step of B of a pool's slots, a tenth of them padding."""
    return Case("pool", "pool", 1, B, N, N, capacity=capacity, padding=B // 10, **options)


_QUICK_STEPS = {(1, 128), (32, 128), (1024, 128), (32, 512), (1024, 256)}
_BATCHES, _GPU_BATCHES, _SIZES, _GPU_SIZES = (1, 32, 256, 1024), (4096, 16384), (128, 256, 512), (1024,)

STEPS = [
    step("step", B, N, N, quick=(B, N) in _QUICK_STEPS, gpu_only=B in _GPU_BATCHES or N in _GPU_SIZES)
    for N in _SIZES + _GPU_SIZES
    for B in _BATCHES + _GPU_BATCHES
]
# For these a GPU has kernels with several shapes of tiles.
STEPS += [
    step("step", B, N, N, dtype="bfloat16", gpu_only=True, quick=(B, N) in {(32, 128), (1024, 512)})
    for N in _SIZES + _GPU_SIZES
    for B in _BATCHES + _GPU_BATCHES
]
STEPS += [
    step("step", B, N, N, precision="high", gpu_only=True)
    for B, N in ((1, 512), (32, 128), (256, 512), (1024, 128), (4096, 128), (1024, 1024))
]
# Sizes that fit no tile. They expose code that is tuned for powers of two.
TRAPS = [
    *(step("step", B, 128, 128) for B in (31, 136)),
    *(step("step", 32, N, N, quick=N == 200) for N in (192, 200, 640)),
]

_QUICK_SEQUENCES = {(1, 128), (32, 128)}
# In all other cases the weights are cache-warm, from the round before.
COLD = [step("step with cold caches", 32, 512, 512, cold=True, quick=True)]

SEQUENCES = [
    *(
        sequence("sequence", 100, B, N, N, quick=(B, N) in _QUICK_SEQUENCES, gpu_only=(B, N) == (1024, 512))
        for N in _SIZES
        for B in _BATCHES
    ),
    sequence("sequence", 1000, 1, 128, 128),
]

_QUICK_POOLS = {(256, 128), (1024, 512)}
POOLS = [
    pool(B, N, dtype=dtype, gpu_only=dtype != "float32", quick=dtype == "float32" and (B, N) in _QUICK_POOLS)
    for dtype in ("float32", "bfloat16")
    for N in (128, 512)
    for B in (32, 256, 1024, 4096)
]

WORKLOADS = [
    *(step("RL rollout", B, 128, 128, resets=0.03, quick=B == 256) for B in (64, 256, 1024, 4096, 16384)),
    sequence("RL training", 128, 128, 256, 256, resets=0.03),
    *(step("RNN-T prediction network", B, 640, 640, layers=2, quick=B == 16) for B in (16, 32)),
    step("RNN-T prediction network", 32, 640, 2048, P=640),
    *(step("VAD streams", B, 128, 128, quick=B == 64) for B in (1, 64, 1024)),
    *(
        sequence("basecalling", 1600, 64, 384, 384, dtype=dtype, gpu_only=True, quick=dtype == "float16")
        for dtype in ("float32", "float16")
    ),
    sequence("basecalling", 400, 16, 384, 384),
    *(step("hydrology", B, 23, 50, layers=3) for B in (1, 256)),
    sequence("hydrology", 28, 256, 23, 50, layers=3, quick=True),
    step("one-sample audio", 1, 1, 40, quick=True),
]
# Seconds between two steps of a stream. Streams run in real time if all are stepped within them.
SECONDS_BETWEEN_STEPS = {"VAD streams": 0.032, "one-sample audio": 1 / 48_000}


def chosen(cases: list[Case], *, quick: bool, device: str, grid: bool = False) -> list[Case]:
    """Return the cases that are timed on a device. `grid` adds those that are `grid_only`."""
    return [case for case in cases if _is_chosen(case, quick, device, grid)]


def _is_chosen(case: Case, quick: bool, device: str, grid: bool) -> bool:
    return (case.quick or not quick) and (grid or not case.grid_only) and (device == "cuda" or not case.gpu_only)
