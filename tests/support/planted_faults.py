"""Launches of the kernels in emulation/faulty: sound ones with their results, and others with planted faults."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emulation import ByValue, Pointer


@dataclass(frozen=True)
class Launch:
    """A kernel's arguments, and the results of a sound one.

    `results` are keyed by the argument's number or, if the only argument is a struct, by name.
    """

    grid: tuple[int, ...]
    block: tuple[int, ...]
    args: tuple[Any, ...]
    results: dict[int | str, Any] = field(default_factory=dict)
    shared_mem: int = 0
    co_resident: int = 4

    def run(self, function, schedule):
        options = {"shared_mem": self.shared_mem, "co_resident": self.co_resident, "schedule": schedule}
        return function(self.grid, self.block, self.args, **options)

    def argument(self, which):
        """Return the array with this number or name."""
        if isinstance(which, int):
            return self.args[which]
        return next(pointer.array for pointer in self.args[0].pointers if pointer.name == which)


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def nans(*shape):
    return np.full(shape, np.nan, np.float32)


def gather(N=8, slots=(2, 0, 1), before=4, after=4):
    """Copy rows of N columns from one larger array to another, in the order of their slots."""

    def columns(larger):
        return larger[:, before : before + N]

    width = before + N + after
    source, to, slots = columns(normal(3, width)), columns(nans(3, width)), np.array(slots, np.int32)
    sizes = np.int64(width), np.int64(3), np.int64(N)
    results = {3: source[slots]} if slots.max() < 3 else {}
    return Launch((2,), (32,), (source, sizes[0], slots, to, *sizes), results)


def gather_in_order():
    """Copy the rows of a whole array, without slots."""
    source, width = normal(3, 8), np.int64(8)
    return Launch((2,), (32,), (source, width, None, nans(3, 8), width, np.int64(3), width), {3: source.copy()})


def gather_far(stride, last):
    """Copy bytes of three rows so far apart that 32 bits can't hold their offset. Only touched memory is allocated."""
    whole = np.empty(last * stride + 8, np.uint8)
    source = np.lib.stride_tricks.as_strided(whole, (last + 1, 8), (stride, 1))
    slots = np.array((last, 0, 1), np.int32)
    source[slots] = np.arange(24, dtype=np.uint8).reshape(3, 8)
    to = np.zeros((3, 8), np.uint8)
    sizes = np.int64(8), np.int64(3), np.int64(8)
    return Launch((2,), (32,), (source, np.int64(stride), slots, to, *sizes), {3: source[slots]})


def shifted_sums(numbers=(5, 6, 7, 8)):
    total = 1 + 2 + 3 + 4 if numbers is None else sum(numbers)
    numbers = None if numbers is None else np.array(numbers, np.int32)
    args = numbers, np.int32(4), np.int32(3), np.full(32, -1, np.int32)
    return Launch((1,), (32,), args, {3: np.full(32, total << 3)})


def row_sums(N=40):
    rows = normal(3, N)
    results = np.stack([rows.sum(1), (rows**2).sum(1)], axis=1)
    return Launch((3,), (64,), (rows, nans(3, 2), np.int64(N)), {1: results})


def reverse_rows(elements=100):
    """Reverse rows of 100 elements each, with shared memory for `elements` of them."""
    rows = normal(3, 100)
    return Launch((3,), (64,), (rows, np.int64(100)), {0: rows[:, ::-1].copy()}, shared_mem=4 * elements)


def hand_over():
    return Launch((1,), (96,), (nans(32),), {0: np.arange(0, 64, 2)})


def warp_sum():
    values = normal(32)
    return Launch((1,), (32,), (values, nans(32)), {1: np.full(32, values.sum())})


def reverse_warp():
    values = normal(32)
    return Launch((1,), (32,), (values, nans(32)), {1: values[::-1].copy()})


def column_sums():
    rows, sums = normal(7, 40), np.zeros(40, np.float32)
    return Launch((3,), (32,), (rows, sums, nans(3), np.int64(7), np.int64(40)), {1: rows.sum(0)})


def diffuse(co_resident=4):
    """Run three steps of four blocks."""
    values = normal(2, 128)
    steps = [values[0]]
    for _ in range(3):
        steps.append((steps[-1] + np.roll(steps[-1], -1)) / 2)
    args = values, np.zeros(1, np.uint32), np.int32(3), np.int64(128)
    return Launch((4,), (32,), args, {0: np.stack(steps[2:])}, co_resident=co_resident)


def total_by_last():
    values = normal(6, 32)
    args = values, nans(6), np.zeros(1, np.uint32), nans(1)
    return Launch((6,), (32,), args, {3: values.sum(keepdims=True)[0]})


def wait_for_nobody():
    return Launch((1,), (32,), (np.zeros(1, np.uint32),))


def multiply(M=40, K=48):
    a, b = normal(M, K).astype(np.float16), normal(8, K).astype(np.float16)
    results = a.astype(np.float32) @ b.astype(np.float32).T
    return Launch((-(-M // 32),), (64,), (a, b, nans(M, 8), np.int64(M), np.int64(K)), {2: results})


def multiply_tf32():
    a, b = normal(16, 8), normal(8, 8)
    a_cut, b_cut = ((x.view(np.uint32) & ~np.uint32(0x1FFF)).view(np.float32) for x in (a, b))
    return Launch((1,), (32,), (a, b, nans(16, 8)), {2: a_cut @ b_cut})


def pad_rows(N):
    """Pad rows that begin at multiples of 16 bytes. The memory between them belongs to no row."""
    rows = normal(3, N // 4 * 4 + 4)[:, :N]
    results = np.pad(rows, ((0, 0), (0, 128 - N)))
    stride = np.int64(rows.strides[0] // 4)
    return Launch((3,), (32,), (rows, stride, nans(3, 128), np.int64(N)), {2: results})


def publish(blocks=2, word_alone=False):
    values = normal(32)
    args = values, nans(32), np.zeros(1, np.uint64), nans(32)
    return Launch((blocks,), (32,), args, {3: np.ones(32) if word_alone else values.copy()})


def scale(factors=(3, 4, 5)):
    """Scale rows of larger arrays, passed in a struct. Without factors, double every row."""
    source, to = normal(3, 16)[:, 4:12], nans(3, 12)[:, 2:10]
    by = None if factors is None else np.array(factors, np.float32)
    arrays = {"from": (0, source, True), "to": (16, to, False), "factors": (32, by, True)}
    pointers = [Pointer(name, *each) for name, each in arrays.items()]
    addresses = [0 if each.array is None else each.array.ctypes.data for each in pointers]
    words = [addresses[0], 16, addresses[1], 12, addresses[2], 3, 8]
    results = {"to": source * (np.float32(2) if by is None else by[:, None])}
    return Launch((2,), (32,), (ByValue(np.array(words, np.int64).tobytes(), pointers),), results)


@dataclass(frozen=True)
class Sound:
    """A launch without a fault."""

    file: str
    kernel: str
    launch: Callable[[], Launch]

    def __str__(self):
        return f"{self.kernel}-{self.launch.__name__}"


FAR = "gather<NONE, unsigned char, 1>"

SOUND = [
    Sound("memory", "gather<NONE, float, 4>", gather),
    Sound("memory", "gather<NONE, float, 4>", gather_in_order),
    Sound("memory", FAR, lambda: gather_far(1 << 30, last=2)),
    Sound("memory", FAR, lambda: gather_far(3 << 29, last=3)),
    Sound("memory", "shifted_sums<SOUND>", shifted_sums),
    Sound("memory", "shifted_sums<SOUND>", lambda: shifted_sums(None)),
    Sound("structs", "scale<SOUND>", scale),
    Sound("structs", "scale<SOUND>", lambda: scale(None)),
    Sound("shared", "row_sums<NONE>", row_sums),
    Sound("shared", "reverse_rows", reverse_rows),
    Sound("shared", "hand_over<SOUND>", hand_over),
    Sound("warp", "warp_sum<NONE>", warp_sum),
    Sound("warp", "reverse_warp<SOUND>", reverse_warp),
    Sound("blocks", "column_sums<SOUND>", column_sums),
    Sound("blocks", "diffuse<NONE>", diffuse),
    Sound("blocks", "total_by_last<RIGHT>", total_by_last),
    Sound("blocks", "publish<WORD_ALONE>", lambda: publish(word_alone=True)),
    Sound("blocks", "publish<FENCED>", publish),
    Sound("blocks", "publish<RELAYED>", lambda: publish(blocks=3)),
    Sound("pipeline", "pad_rows<SOUND>", lambda: pad_rows(93)),
    Sound("pipeline", "pad_rows<SOUND>", lambda: pad_rows(94)),
    Sound("pipeline", "multiply<NONE>", multiply),
    Sound("pipeline", "multiply_tf32", multiply_tf32),
]


@dataclass(frozen=True)
class Planted:
    """A fault, and the checker's expected report.

    Args:
        file: in emulation/faulty, without its suffix.
        kernel: the instance.
        launch: makes its launch.
        kinds: the kinds of error that it may raise. They depend on which thread comes first.
        lines: the words of "found at" that mark the lines where it may be found.
        memory: the argument, or the shared array, that must be named.
        flags: the compiler's flags.
        why: the fault, if the kernel's name doesn't say it.
    """

    file: str
    kernel: str
    launch: Callable[[], Launch]
    kinds: str
    lines: str
    memory: str | None = None
    flags: tuple[str, ...] = ()
    why: str = ""

    def __str__(self):
        return self.why or self.kernel


def copies(fault):
    return f"gather<{fault}, float, 4>"


UNORDERED = "race, uninitialised"

PLANTED = [
    Planted("memory", copies("RAGGED_TAIL"), lambda: gather(N=10, after=6), "out of bounds", "LOAD", "from"),
    Planted("memory", copies("ROW_TOO_MANY"), gather_in_order, "out of bounds", "LOAD", "from"),
    Planted("memory", copies("MISSED_STRIDE"), gather, "out of bounds", "LOAD", "from"),
    Planted("memory", copies("WRITE_THROUGH_CONST"), gather, "write through const", "CONST", "from"),
    Planted("memory", copies("SAME_ELEMENT"), gather, "race", "STORE", "to"),
    Planted(
        *("memory", copies("NONE"), lambda: gather(after=2, slots=(1, 1, 1)), "misaligned", "LOAD", "from"),
        why="misaligned-rows",
    ),
    Planted("memory", copies("NONE"), lambda: gather(before=1, after=7), "misaligned", "LOAD", why="misaligned-base"),
    Planted(
        "memory", copies("NONE"), lambda: gather(slots=(0, 1, 3)), "out of bounds", "LOAD", "from", why="wrong-slot"
    ),
    Planted(
        *("memory", FAR, lambda: gather_far(1 << 30, last=2), "undefined", "INDEX"),
        flags=("-DINDEX=int",),
        why="index-of-int",
    ),
    Planted(
        *("memory", FAR, lambda: gather_far(3 << 29, last=3), "out of bounds", "LOAD", "from"),
        flags=("-DINDEX=unsigned",),
        why="index-of-unsigned",
    ),
    Planted("memory", "shifted_sums<NULL_POINTER>", lambda: shifted_sums(None), "null pointer", "POINTER"),
    Planted("memory", "shifted_sums<LOCAL_ARRAY>", lambda: shifted_sums(None), "out of bounds", "LOCAL"),
    Planted("memory", "shifted_sums<WIDE_SHIFT>", shifted_sums, "undefined", "SHIFT"),
    Planted("structs", "scale<ROW_TOO_MANY>", scale, "out of bounds", "LOAD", "from"),
    Planted("structs", "scale<WRITE_THROUGH_CONST>", scale, "write through const", "CONST", "from"),
    Planted("structs", "scale<NULL_POINTER>", lambda: scale(None), "null pointer", "POINTER"),
    Planted("shared", "row_sums<READ_TOO_EARLY>", row_sums, UNORDERED, "READ", "part"),
    Planted("shared", "row_sums<REUSED_TOO_EARLY>", row_sums, "race", "WRITE, READ", "part"),
    Planted("shared", "row_sums<NEIGHBOUR>", row_sums, UNORDERED, "NEIGHBOUR, WRITE", "part"),
    Planted("shared", "row_sums<PARTLY_WRITTEN>", row_sums, "uninitialised", "READ", "part"),
    Planted("shared", "row_sums<PAST_THE_END>", row_sums, "out of bounds", "WRITE"),
    Planted("shared", "row_sums<DIVERGENT_BARRIER>", row_sums, "divergent barrier", "BARRIER"),
    Planted("shared", "row_sums<EARLY_EXIT>", row_sums, "divergent barrier", "BARRIER"),
    Planted(
        *("shared", "reverse_rows", lambda: reverse_rows(99), "out of bounds", "DYNAMIC", "row"),
        why="too-little-dynamic-shared-memory",
    ),
    Planted("shared", "hand_over<NO_BARRIER>", hand_over, UNORDERED, "HANDED_OVER, WRITE", "values"),
    Planted("shared", "hand_over<TOO_FEW>", hand_over, "deadlock", "NAMED_BARRIER"),
    Planted("warp", "warp_sum<MASK_WITHOUT_CALLER>", warp_sum, "wrong mask", "SHUFFLE"),
    Planted("warp", "warp_sum<LANES_THAT_ENDED>", warp_sum, "wrong mask", "SHUFFLE"),
    Planted("warp", "warp_sum<TWO_COLLECTIVES>", warp_sum, "divergent collective", "SHUFFLE, VOTE"),
    Planted("warp", "warp_sum<OVERLAPPING_MASKS>", warp_sum, "wrong mask", "SHUFFLE"),
    Planted("warp", "warp_sum<LANE_AT_A_BARRIER>", warp_sum, "deadlock", "BARRIER"),
    Planted("warp", "reverse_warp<NO_SYNC>", reverse_warp, UNORDERED, "READ, WRITE", "row"),
    Planted("warp", "reverse_warp<SYNC_OF_HALF>", reverse_warp, UNORDERED, "READ, WRITE", "row"),
    Planted("blocks", "column_sums<PLAIN_ADD>", column_sums, "race", "ADD, SUM", "sums"),
    Planted("blocks", "column_sums<PLAIN_READ>", column_sums, "race", "SUM", "sums"),
    Planted("blocks", "diffuse<NO_GRID_BARRIER>", diffuse, "race", "READ, WRITE", "values"),
    Planted("blocks", "diffuse<NO_BLOCK_BARRIER>", diffuse, "race", "READ, WRITE", "values"),
    Planted("blocks", "diffuse<RELAXED_WITHOUT_FENCE>", diffuse, "race", "READ, WRITE", "values"),
    Planted("blocks", "diffuse<SINGLE_BUFFER>", diffuse, "race", "READ, WRITE", "values"),
    Planted("blocks", "diffuse<NONE>", lambda: diffuse(co_resident=3), "deadlock", "SPIN", why="too-many-blocks"),
    Planted("blocks", "total_by_last<NO_FENCE>", total_by_last, "race", "PARTIAL", "partial"),
    Planted("blocks", "wait_for_nobody", wait_for_nobody, "deadlock", "NOBODY"),
    Planted("blocks", "publish<READ_PLAINLY>", publish, "race", "WORD", "word"),
    Planted("blocks", "publish<UNFENCED>", publish, "race", "VALUES", "values"),
    Planted("blocks", "publish<REPLACED>", lambda: publish(blocks=3), "race", "VALUES", "values"),
    Planted("pipeline", "pad_rows<BYTES_AFTER_THE_ROW>", lambda: pad_rows(93), "out of bounds", "TAIL", "from"),
    Planted("pipeline", "pad_rows<MORE_THAN_16>", lambda: pad_rows(93), "cp.async", "TAIL"),
    Planted("pipeline", "pad_rows<LESS_THAN_NONE>", lambda: pad_rows(93), "cp.async", "TAIL"),
    Planted("pipeline", "multiply<TAIL_NOT_GUARDED>", multiply, "out of bounds", "COPY", "a"),
    Planted("pipeline", "multiply<WAIT_TOO_SHORT>", multiply, "copy in flight", "LOAD", "a_tiles"),
    Planted("pipeline", "multiply<NO_BARRIER_AFTER_WAIT>", multiply, f"copy in flight, {UNORDERED}", "LOAD"),
    Planted("pipeline", "multiply<STAGE_REUSED>", multiply, "copy in flight, race", "LOAD, COPY"),
    Planted("pipeline", "multiply<NEVER_AWAITED>", multiply, "unfinished copy", "COPY"),
    Planted("pipeline", "multiply<HALF_A_WARP>", lambda: multiply(K=16), "wrong mask", "PRODUCT"),
    Planted("pipeline", "multiply<NONE>", lambda: multiply(K=20), "misaligned", "COPY", "a", why="misaligned-copies"),
]
