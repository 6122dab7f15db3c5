"""One launch: arguments in, the runtime's run, results and faults out."""

from __future__ import annotations

import ctypes
import math
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import memory
from .errors import EmulationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .parameters import Parameter
    from .schedules import Schedule


class Report(NamedTuple):
    """How much the runtime did in a launch."""

    thread_switches: int
    checked_accesses: int


class Extent(ctypes.Structure):
    """The runtime's struct of this name."""

    _fields_ = (
        ("first", ctypes.c_uint64),
        ("row_bytes", ctypes.c_uint64),
        ("stride", ctypes.c_uint64),
        ("count", ctypes.c_uint64),
        ("element_size", ctypes.c_uint32),
        ("granule", ctypes.c_uint32),
        ("argument", ctypes.c_int),
        ("writable", ctypes.c_int),
    )


class Launch(ctypes.Structure):
    """The runtime's struct of this name."""

    _fields_ = (
        ("kernel", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("dynamic_shared_bytes", ctypes.c_uint64),
        ("check", ctypes.c_int),
        ("order", ctypes.c_int),
        ("preempt", ctypes.c_uint32),
        ("co_resident", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("extents", ctypes.c_void_p),
        ("extent_count", ctypes.c_uint64),
        ("argument_names", ctypes.c_void_p),
        ("kind", ctypes.c_char * 64),
        ("text", ctypes.c_char * 1024),
        ("memory", ctypes.c_char * 64),
        ("place", ctypes.c_uint64),
        ("thread_switches", ctypes.c_uint64),
        ("checked_accesses", ctypes.c_uint64),
    )


class Arguments:
    """What a kernel is called with: scalars as they are, arrays as addresses in copies of their allocations.

    Args:
        kernel: its name, for messages.
        parameters: their types.
        names: their names.
        values: what each is given.

    Raises:
        TypeError: a value that is not what its parameter takes.
        ValueError: too few or too many values, or a read-only array that the kernel could write to.
    """

    def __init__(
        self, kernel: str, parameters: Sequence[Parameter], names: Sequence[str], values: Sequence[Any]
    ) -> None:
        if len(values) != len(parameters):
            raise ValueError(f"{kernel} takes {len(parameters)} arguments, not {len(values)}")
        self.names = names
        self._parameters = parameters
        self._values = [_checked(kernel, *each) for each in zip(names, parameters, values, strict=True)]
        self._arrays = {k: v for k, v in enumerate(self._values) if isinstance(v, np.ndarray)}
        self._allocations = memory.allocations(self._arrays.values())
        self._twins = {k: memory.allocation_of(a, self._allocations).twin(a) for k, a in self._arrays.items()}
        for number, twin in self._twins.items():
            twin[...] = self._arrays[number]

    def packed(self) -> list[ctypes.Array[ctypes.c_char]]:
        """Return the bytes of each parameter."""
        packed = []
        for number, value in enumerate(self._values):
            twin = self._twins.get(number)
            scalar = value if twin is None else np.uintp(twin.ctypes.data)
            packed.append(ctypes.create_string_buffer(scalar.tobytes(), self._parameters[number].size))
        return packed

    def extents(self) -> list[Extent]:
        """Return the memory that the kernel may touch."""
        return [
            Extent(
                *(part.first, part.row_bytes, part.stride, part.count),
                *(twin.itemsize, granule, number, not self._parameters[number].is_const),
            )
            for allocation in self._allocations
            for granule in [memory.granule(self._in(allocation).values(), allocation.begin)]
            for number in self._in(allocation)
            for twin in [self._twins[number]]
            for part in memory.extents(twin)
        ]

    def copy_back(self) -> None:
        """Write to the arrays what the kernel wrote to their copies."""
        for number, array in self._arrays.items():
            if not self._parameters[number].is_const:
                array[...] = self._twins[number]

    def neighbour_of_stray_write(self) -> str | None:
        """Return the name of an argument beside which the kernel wrote, or None. Overwrites the copies."""
        for allocation in self._allocations:
            inside = self._in(allocation)
            if allocation.was_written_outside(inside.values()):
                return self.names[next(iter(inside))]
        return None

    def _in(self, allocation: memory.Allocation) -> dict[int, np.ndarray[Any, Any]]:
        return {k: a for k, a in self._arrays.items() if memory.allocation_of(a, self._allocations) is allocation}


def _checked(kernel: str, name: str, parameter: Parameter, value: Any) -> Any:
    """Return an array, or a NumPy scalar of exactly the parameter's type; null for None."""
    if parameter.is_pointer:
        if value is None or (isinstance(value, np.uintp) and value == 0):
            return np.uintp(0)
        good = isinstance(value, np.ndarray) and parameter.accepts(value.dtype)
        if good and not parameter.is_const and not value.flags.writeable:
            raise ValueError(f"{kernel}: {name} is read-only, and the kernel may write to it")
    else:
        good = isinstance(value, np.generic) and parameter.accepts(value.dtype)
    if not good:
        dtype = f" of {value.dtype}" if isinstance(value, np.ndarray | np.generic) else ""
        raise TypeError(f"{kernel}: {name} must be {parameter.wanted()}, not {type(value).__name__}{dtype}")
    return value


def run(
    library: ctypes.CDLL,
    kernel: ctypes.c_void_p,
    arguments: Arguments,
    grid: Sequence[int],
    block: Sequence[int],
    *,
    check: bool,
    shared_mem: int,
    schedule: Schedule,
    co_resident: int,
) -> Report:
    """Run a launch to its end.

    Raises:
        EmulationError: a fault; the arrays then hold what the kernel had written.
    """
    packed = arguments.packed()
    pointers = (ctypes.c_void_p * len(packed))(*map(ctypes.addressof, packed))
    extents = arguments.extents() if check else []
    extent_array = (Extent * len(extents))(*extents)
    names = (ctypes.c_char_p * len(packed))(*(name.encode() for name in arguments.names))
    request = Launch(
        kernel=kernel,
        arguments=ctypes.addressof(pointers),
        grid=_three(grid),
        block=_three(block),
        dynamic_shared_bytes=shared_mem,
        check=check,
        order=schedule.order,
        preempt=schedule.preempt,
        co_resident=co_resident,
        seed=schedule.seed,
        extents=ctypes.addressof(extent_array),
        extent_count=len(extents),
        argument_names=ctypes.addressof(names),
    )
    library.emulation_launch(ctypes.byref(request))
    arguments.copy_back()
    if request.kind:
        _raise(Path(library._name), request)
    stray = arguments.neighbour_of_stray_write()
    if stray is not None:
        raise EmulationError(
            "canary", f"the kernel wrote outside its arguments, in the allocation of '{stray}'", "", stray
        )
    return Report(request.thread_switches, request.checked_accesses)


def _three(sizes: Sequence[int]) -> Any:
    """Return a grid's or block's three sizes, checked as CUDA does."""
    full = [int(size) for size in sizes] + [1] * (3 - len(sizes))
    if len(full) != 3 or min(full) < 1 or math.prod(full) >= 1 << 31:
        raise ValueError(f"a grid or block has one to three sizes of at least 1, not {tuple(sizes)}")
    return (ctypes.c_uint32 * 3)(*full)


def _raise(library: Path, request: Launch) -> None:
    place = _source_line(library, request.place) if request.place else ""
    raise EmulationError(request.kind.decode(), request.text.decode(), place, request.memory.decode() or None)


def _source_line(library: Path, return_address: int) -> str:
    """Return the kernel's line that made a call, innermost first where it is in an inlined function."""
    call = hex(return_address - 1)
    command = ["addr2line", "-Cipe", str(library), call]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    places = re.findall(r"([^/\s]+\.cuh?:\d+)", answer)
    return " <- ".join(dict.fromkeys(places))
