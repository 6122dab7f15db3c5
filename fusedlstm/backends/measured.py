"""Measured times of kernels, and their JSON files. `kernel_choice` chooses by them. This doesn't import CuPy."""

from __future__ import annotations

import datetime
import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from fusedlstm.backends import kernel_choice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlstm.weights import LSTMWeights

    Times = Mapping[str, float]  # seconds of a step by kernel

_FORMAT = 1
_ROWS = "microseconds of a step by rows"


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

    def __str__(self) -> str:
        return f"I={self.I} N={self.N}{'' if self.P is None else f' P={self.P}'} {self.arithmetic}"


class Measured:
    """The seconds of a layer's step by each kernel, for some numbers of rows. It never changes.

    Args:
        rows: for each number of rows, the seconds by kernel.
        date: of the last measurement, in ISO 8601.
    """

    def __init__(self, rows: Mapping[int, Times], date: str) -> None:
        by_time = {B: dict(sorted(times.items(), key=lambda item: item[1])) for B, times in rows.items()}
        self.rows: dict[int, Times] = dict(sorted(by_time.items()))
        self.date = date

    def times(self, B: int) -> Times:
        """Return the seconds by kernel, the fastest first, for the smallest measured number of rows that is at least B.

        They are empty for more rows than were measured.
        """
        return next((times for rows, times in self.rows.items() if rows >= B), {})

    def with_rows(self, rows: Mapping[int, Times]) -> Measured:
        """Return this with newer times of some numbers of rows."""
        return Measured({**self.rows, **rows}, now())


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
        _ROWS: {
            str(B): {kernel: round(1e6 * seconds, 3) for kernel, seconds in times.items()}
            for B, times in measured.rows.items()
        },
    }
    return f"{json.dumps(content, indent=1)}\n".encode()


def from_json(content: bytes, layer: Layer, machine: Mapping[str, str]) -> Measured:
    """Return the times in a file.

    Raises:
        ValueError: the file is damaged, or of another layer or machine. The message says why it isn't used.
    """
    try:
        found = json.loads(content)
        form, about, of, rows = found["format"], dict(found["machine"]), dict(found["layer"]), dict(found[_ROWS])
        measured = Measured({int(B): _seconds(times) for B, times in rows.items()}, str(found["date"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"it is damaged: {type(error).__name__}: {error}") from error
    if form != _FORMAT:
        raise ValueError(f"its format is {form}, and this version reads {_FORMAT}")
    for name, here in machine.items():
        if about.get(name) != here:
            raise ValueError(f"it was measured with {name} {about.get(name)}, and here it is {here}")
    if of != layer._asdict():
        raise ValueError(f"it is of another layer than {layer}")
    for times in measured.rows.values():
        unknown = set(times) - set(kernels_of(layer.arithmetic))
        if unknown or not times:
            raise ValueError(f"it is damaged: wanted times of kernels for {layer.arithmetic}; got {sorted(times)}")
    return measured


def kernels_of(arithmetic: str) -> list[str]:
    """Return the kernels that can multiply in this arithmetic."""
    about = ("float32", "high") if arithmetic == "tf32" else (arithmetic, "highest")
    return [name for name in kernel_choice.NAMES if kernel_choice.reason_against(name, *about) is None]


def _seconds(times: Any) -> Times:
    found = {str(kernel): float(microseconds) / 1e6 for kernel, microseconds in dict(times).items()}
    if not all(math.isfinite(seconds) and seconds > 0 for seconds in found.values()):
        raise ValueError(f"wanted positive times; got {times}")
    return found
