"""What a kernel is called with: checked, packed, and with arrays as a GPU would hold them."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from . import memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .parameters import Parameter


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
