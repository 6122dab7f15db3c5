"""The structs that kernels take, as records with the same names in the same order. kernels/ describes the members.

A pointer is an array, or None for null. tests/cuda/test_arguments.py compares the structs and the records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

I64 = Annotated[int, "i64"]
Double = Annotated[float, "double"]


@dataclass(slots=True)
class Matrix:
    """`Matrix<E>` of kernels/primitives.cuh."""

    at: Annotated[Any, "E*"] = None
    stride: I64 = 0

    @classmethod
    def of(cls, a: Any) -> Matrix:
        """Return the Matrix of an array (rows, columns) with contiguous rows. None makes a null pointer."""
        if a is None:
            return cls()
        return cls(a, 0 if a.shape[0] == 1 else int(a.strides[0]) // int(a.itemsize))


@dataclass(slots=True)
class Cell:
    """`Cell<T>` of kernels/cell.cuh."""

    bias: Annotated[Any, "const T*"]
    peephole: Annotated[Any, "const T*"]
    clip: Double
    N: I64


@dataclass(slots=True)
class Copy:
    """`Copy<T>` of kernels/cell.cuh."""

    to: Annotated[Matrix, "T"] = field(default_factory=Matrix)
    input: Annotated[Matrix, "const T"] = field(default_factory=Matrix)


@dataclass(slots=True)
class SlotRows:
    """`SlotRows` of kernels/rows.cuh. The defaults are for rows without a pool."""

    slots: Annotated[Any, "const i64*"] = None
    words: Annotated[Any, "u64*"] = None
    tick: I64 = 0
    flips: I64 = False


@dataclass(slots=True)
class Rows:
    """`Rows<T>` of kernels/rows.cuh."""

    x: Annotated[Matrix, "const T"]
    h: Annotated[Matrix, "const T"]
    c: Annotated[Matrix, "const A"]
    c_out: Annotated[Matrix, "A"]
    out: Annotated[Matrix, "T"]
    out_by_slot: I64
    pool: SlotRows
    is_first: Annotated[Any, "unsigned char*"]
    reset_h: Annotated[Matrix, "const T"]
    reset_c: Annotated[Matrix, "const A"]
    B: I64


@dataclass(slots=True)
class Audit:
    """`Audit` of kernels/slots.cuh. The defaults are for slots that the host has checked."""

    live: Annotated[Any, "const unsigned char*"] = None
    claims: Annotated[Any, "u64*"] = None
    tick: I64 = 0
    problems: Annotated[Any, "u64*"] = None


@dataclass(slots=True)
class StepArguments:
    """The arguments of kernels/step.cu."""

    rows: Rows
    readers: Annotated[Any, "unsigned*"]
    weight: Annotated[Matrix, "const T"]
    cell: Cell
    copy: Copy
    projection: Annotated[Matrix, "const T"]
    proj_clip: Double
    I: I64
    P: I64
    next_h: Annotated[Matrix, "T"] = field(default_factory=Matrix)
    last: Annotated[Matrix, "const T"] = field(default_factory=Matrix)


@dataclass(slots=True)
class ProjectArguments:
    """The arguments of kernels/project.cu."""

    m: Annotated[Matrix, "const T"]
    h: Annotated[Matrix, "T"]
    pool: SlotRows
    weight: Annotated[Matrix, "const T"]
    copy: Copy
    limit: Double
    B: I64
    N: I64
    P: I64
    old_h: Annotated[Matrix, "const T"] = field(default_factory=Matrix)
    is_first: Annotated[Any, "unsigned char*"] = None
    readers: Annotated[Any, "unsigned*"] = None
    reset_h: Annotated[Matrix, "const T"] = field(default_factory=Matrix)
    last: Annotated[Matrix, "const T"] = field(default_factory=Matrix)


@dataclass(slots=True)
class PointwiseArguments:
    """The arguments of kernels/pointwise.cu."""

    gates: Annotated[Matrix, "const G"]
    gates_h: Annotated[Matrix, "const G"]
    cell: Cell
    c: Annotated[Matrix, "const A"]
    is_first: Annotated[Any, "const unsigned char*"]
    reset_gates: Annotated[Matrix, "const G"]
    reset_c: Annotated[Matrix, "const A"]
    h: Annotated[Matrix, "T"]
    c_out: Annotated[Matrix, "A"]
    B: I64
    copy: Copy = field(default_factory=Copy)
    last: Annotated[Matrix, "const T"] = field(default_factory=Matrix)


@dataclass(slots=True)
class PlannedArguments:
    """The arguments of kernels/planned.cu."""

    gates: Annotated[Any, "const A*"]
    cell: Cell
    c: Annotated[Matrix, "A"]
    slot_of_row: Annotated[Any, "const int*"]
    h: Annotated[Matrix, "T"]
    h_by_slot: I64
    copy: Copy
    B: I64


@dataclass(slots=True)
class FinishArguments:
    """The arguments of kernels/finish.cu."""

    projected: Annotated[Matrix, "const T"]
    h: Annotated[Matrix, "T"]
    slot_of_row: Annotated[Any, "const int*"]
    copy: Copy
    limit: Double
    B: I64
    P: I64
    old_h: Annotated[Matrix, "const T"] = field(default_factory=Matrix)
    flags: Annotated[Any, "const unsigned char*"] = None
    reset_h: Annotated[Matrix, "const T"] = field(default_factory=Matrix)
    last: Annotated[Matrix, "const T"] = field(default_factory=Matrix)


@dataclass(slots=True)
class ResetArguments:
    """The arguments of kernels/reset.cu."""

    is_first: Annotated[Any, "unsigned char*"]
    clears: I64
    slots: Annotated[Any, "const i64*"]
    h: Annotated[Matrix, "T"]
    reset_h: Annotated[Matrix, "const T"]
    H: I64
    c: Annotated[Matrix, "A"]
    reset_c: Annotated[Matrix, "const A"]
    C: I64
    B: I64


@dataclass(slots=True)
class GatherArguments:
    """The arguments of kernels/gather.cu."""

    operand: Annotated[Matrix, "T"]
    X: I64
    x: Annotated[Matrix, "const T"]
    I: I64
    all_h: Annotated[Any, "const T*"]
    H: I64
    c: Annotated[Any, "A*"]
    C: I64
    slots: Annotated[Any, "const i64*"]
    is_first: Annotated[Any, "const unsigned char*"]
    slot_of_row: Annotated[Any, "int*"]
    audit: Audit
    capacity: I64
    B: I64
    M: I64


@dataclass(slots=True)
class Booleans:
    """`Booleans` of kernels/sequence_flags.cu. A boolean is one byte, so strides in bytes count elements."""

    at: Annotated[Any, "const unsigned char*"] = None
    step: I64 = 0
    row: I64 = 0

    @classmethod
    def of(cls, a: Any) -> Booleans:
        """Return the Booleans of an array (T, B), any strides. None makes a null pointer."""
        return cls() if a is None else cls(a, *map(int, a.strides))


@dataclass(slots=True)
class SequenceFlagsArguments:
    """The arguments of kernels/sequence_flags.cu."""

    flags: Annotated[Matrix, "unsigned char"]
    lengths: Annotated[Any, "const i64*"]
    lengths_stride: I64
    mask: Booleans
    is_first: Booleans
    reverse: I64
    start: I64
    S: I64
    T: I64
    B: I64


@dataclass(slots=True)
class Series:
    """`Series<E>` of kernels/scan_gates.cuh."""

    at: Annotated[Any, "E*"] = None
    step: I64 = 0
    row: I64 = 0

    @classmethod
    def of(cls, a: Any) -> Series:
        """Return the Series of an array (T, B, columns) or (T, B). None makes a null pointer."""
        if a is None:
            return cls()
        return cls(
            a, *(0 if n <= 1 else int(by) // int(a.itemsize) for n, by in zip(a.shape[:2], a.strides, strict=False))
        )


@dataclass(slots=True)
class ScanDirection:
    """`ScanDirection<T>` of kernels/scan.cu."""

    x: Annotated[Series, "const A"]
    weight: Annotated[Matrix, "const T"]
    cell: Cell
    h: Annotated[Matrix, "const T"]
    c: Annotated[Matrix, "const A"]
    h_out: Annotated[Matrix, "T"]
    c_out: Annotated[Matrix, "A"]
    flags: Annotated[Series, "const unsigned char"]
    reset_h: Annotated[Matrix, "const T"]
    reset_c: Annotated[Matrix, "const A"]
    last: Annotated[Matrix, "T"]
    out: Annotated[Series, "T"]
    input: Annotated[Series, "const T"]
    reverse: I64
    projection: Annotated[Matrix, "const T"]
    proj_clip: Double
    P: I64


@dataclass(slots=True)
class ScanArguments:
    """The arguments of kernels/scan.cu."""

    first: ScanDirection
    second: ScanDirection
    steps: I64
    B: I64


@dataclass(slots=True)
class GatesArguments:
    """The arguments of kernels/gates.cu."""

    x: Annotated[Matrix, "const T"]
    weight: Annotated[Matrix, "const T"]
    gates: Annotated[Matrix, "A"]
    B: I64
    I: I64
    N: I64


@dataclass(slots=True)
class CheckArguments:
    """The arguments of kernels/check.cu."""

    slots: Annotated[Any, "const i64*"]
    steppable: Annotated[Any, "i64*"]
    audit: Audit
    capacity: I64
    B: I64


@dataclass(slots=True)
class StateRowsArguments:
    """The arguments of kernels/state_rows.cu."""

    slots: Annotated[Any, "const i64*"]
    words: Annotated[Any, "const u64*"]
    rows: Annotated[Any, "i64*"]
    B: I64


@dataclass(slots=True)
class ClipArguments:
    """The arguments of kernels/clip.cu."""

    h: Annotated[Any, "T*"]
    count: I64
    limit: Double


@dataclass(slots=True)
class SelectArguments:
    """The arguments of kernels/select.cu."""

    out: Annotated[Any, "T*"]
    mask: Annotated[Any, "const unsigned char*"]
    value: Annotated[Matrix, "const T"]
    B: I64
    K: I64


@dataclass(slots=True)
class AddArguments:
    """The arguments of kernels/add.cu."""

    out: Annotated[Any, "T*"]
    more: Annotated[Any, "const T*"]
    count: I64


@dataclass(slots=True)
class InterleaveArguments:
    """The arguments of lstm_interleave in kernels/interleave.cu."""

    to: Annotated[Any, "T*"]
    columns: I64
    KX: I64
    weight: Annotated[Matrix, "const T"]
    X: I64
    I: I64
    P: I64
    N: I64


@dataclass(slots=True)
class PadArguments:
    """The arguments of lstm_pad in kernels/interleave.cu."""

    to: Annotated[Any, "T*"]
    columns: I64
    projection: Annotated[Matrix, "const T"]
    P: I64
    N: I64
