"""Measured times of kernels, and their JSON files. `kernel_choice` and `sequence_choice` choose by them.

This doesn't import CuPy.
"""

from __future__ import annotations

import datetime
import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from fusedlstm.backends import kernel_choice, sequence_choice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlstm.weights import LSTMWeights

    Times = Mapping[str, float]  # seconds of a step by kernel

_FORMAT = 1
_ROWS = "microseconds of a step by rows"
_SEQUENCES = "microseconds of a step of a sequence by rows"  # a file may lack it
_KEYS = ("format", "date", "machine", "layer", _ROWS, _SEQUENCES)


class Layer(NamedTuple):
    """What a layer's times depend on, besides the machine and the number of rows.

    Attributes:
        I: its input size.
        N: its units.
        P: the width of a projected h, or None.
        arithmetic: as from `kernel_choice.arithmetic`.
    """

    I: int
    N: int
    P: int | None
    arithmetic: str

    @classmethod
    def of(cls, weights: LSTMWeights, precision: str) -> Layer:
        """Return what the times of a layer with these weights depend on."""
        arithmetic = kernel_choice.arithmetic(weights.dtype.name, precision)
        return cls(weights.input_size, weights.hidden_size, weights.proj_size, arithmetic)

    def kernels(self) -> list[str]:
        """Return the kernels that can take its single steps."""
        return kernels_of(self.arithmetic)

    def kernels_of_sequences(self) -> list[str]:
        """Return the kernels that can run its sequences."""
        projects, about = self.P is not None, _dtype_and_precision(self.arithmetic)
        reason = sequence_choice.limit(self.N, self.P or self.N, *about, projects=projects)
        return [*self.kernels(), *(() if reason else (kernel_choice.SCAN,))]

    def __str__(self) -> str:
        return f"I={self.I} N={self.N}{'' if self.P is None else f' P={self.P}'} {self.arithmetic}"


class Measured:
    """The seconds of a layer's step by each kernel, for some numbers of rows. It never changes.

    Args:
        rows: for each number of rows, the seconds of a single step by kernel.
        date: of the last measurement, in ISO 8601.
        sequences: for each number of rows, the seconds of a step within a long sequence by kernel.
    """

    def __init__(self, rows: Mapping[int, Times], date: str, sequences: Mapping[int, Times] | None = None) -> None:
        self.rows = _sorted(rows)
        self.sequences = _sorted(sequences or {})
        self.date = date

    def times(self, B: int) -> Times:
        """Return the seconds by kernel, the fastest first, for the smallest measured number of rows that is at least B.

        They are empty for more rows than were measured.
        """
        return _of_rows(self.rows, B)

    def times_of_sequences(self, B: int) -> Times:
        """Return the same for a step within a long sequence."""
        return _of_rows(self.sequences, B)

    def updated(
        self, *, rows: Mapping[int, Times] | None = None, sequences: Mapping[int, Times] | None = None
    ) -> Measured:
        """Return a copy with newer times for some numbers of rows."""
        return Measured({**self.rows, **(rows or {})}, now(), {**self.sequences, **(sequences or {})})


def _sorted(rows: Mapping[int, Times]) -> dict[int, Times]:
    """Return times by rows, the fewest first, and for each the fastest kernel first."""
    by_time = {B: dict(sorted(times.items(), key=lambda item: item[1])) for B, times in rows.items()}
    return dict(sorted(by_time.items()))


def _of_rows(rows: Mapping[int, Times], B: int) -> Times:
    return next((times for measured, times in rows.items() if measured >= B), {})


def now() -> str:
    """Return the time in ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def to_json(measured: Measured, layer: Layer, machine: Mapping[str, str]) -> bytes:
    """Return the file of a layer's times on a machine."""
    content = {
        "format": _FORMAT,
        "date": measured.date,
        "machine": dict(machine),
        "layer": layer._asdict(),
        _ROWS: _microseconds(measured.rows),
    }
    if measured.sequences:
        content[_SEQUENCES] = _microseconds(measured.sequences)
    return f"{json.dumps(content, indent=1)}\n".encode()


def from_json(content: bytes, layer: Layer, machine: Mapping[str, str]) -> Measured:
    """Return the times in a file.

    Raises:
        ValueError: the file is damaged, or of another layer, machine or version. The message says why it isn't used.
    """
    try:
        found = json.loads(content)
        form, about, of = found["format"], dict(found["machine"]), dict(found["layer"])
        rows, sequences = _seconds_by_rows(found[_ROWS]), _seconds_by_rows(found.get(_SEQUENCES, {}))
        measured = Measured(rows, str(found["date"]), sequences)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"it is damaged: {type(error).__name__}: {error}") from error
    if form != _FORMAT:
        raise ValueError(f"its format is {form}, and this version reads {_FORMAT}")
    for name, here in machine.items():
        if about.get(name) != here:
            raise ValueError(f"it was measured with {name} {about.get(name)}, and here it is {here}")
    if of != layer._asdict():
        raise ValueError(f"it is of another layer than {layer}")
    if unread := sorted(set(found) - set(_KEYS)):
        raise ValueError(f"it has {', '.join(map(repr, unread))}, which this version doesn't read")
    for kernels, by_rows in (
        (layer.kernels(), measured.rows),
        (layer.kernels_of_sequences(), measured.sequences),
    ):
        for times in by_rows.values():
            if not times or set(times) - set(kernels):
                raise ValueError(f"it is damaged: wanted times of kernels for {layer}; got {sorted(times)}")
    return measured


def kernels_of(arithmetic: str) -> list[str]:
    """Return the kernels of single steps that can multiply in this arithmetic."""
    about = _dtype_and_precision(arithmetic)
    return [name for name in kernel_choice.NAMES if kernel_choice.reason_against(name, *about) is None]


def _dtype_and_precision(arithmetic: str) -> tuple[str, str]:
    """Return a dtype and a precision that have this arithmetic."""
    return ("float32", "high") if arithmetic == "tf32" else (arithmetic, "highest")


def _microseconds(rows: Mapping[int, Times]) -> dict[str, dict[str, float]]:
    return {str(B): {kernel: round(1e6 * seconds, 3) for kernel, seconds in times.items()} for B, times in rows.items()}


def _seconds_by_rows(rows: Any) -> dict[int, Times]:
    try:
        return {int(B): _seconds(times) for B, times in dict(rows).items()}
    except OverflowError as error:
        raise ValueError("a number is too large") from error


def _seconds(times: Any) -> Times:
    found = {str(kernel): float(microseconds) / 1e6 for kernel, microseconds in dict(times).items()}
    if not all(math.isfinite(seconds) and seconds > 0 for seconds in found.values()):
        raise ValueError(f"wanted positive times; got {times}")
    return found
