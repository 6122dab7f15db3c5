"""A kernel's arguments: checked, packed, and with arrays copied as a GPU would hold them."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .parameters import Parameter


_POINTER = 8  # bytes


class Extent(ctypes.Structure):
    """The runtime's struct of the same name."""

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


class Pointer(NamedTuple):
    """A pointer in a struct.

    Attributes:
        name: the path in the struct, such as "rows.x".
        offset: the offset of its first byte.
        array: the array that it points to, or None for a null pointer.
        is_const: whether it points to const, so the kernel must not write to it.
    """

    name: str
    offset: int
    array: np.ndarray[Any, Any] | None
    is_const: bool


class ByValue(NamedTuple):
    """A struct that a kernel takes by value: its bytes, and all pointers in them."""

    data: bytes
    pointers: Sequence[Pointer]


class Arguments:
    """A kernel's arguments: scalars unchanged, and arrays as addresses in copies of their allocations.

    Args:
        kernel: the kernel's name, for messages.
        parameters: the parameters' types.
        names: the parameters' names.
        values: the values to pass.

    Raises:
        TypeError: a value has another type than its parameter.
        ValueError: there are too few or too many values, an array that the kernel could write to is read-only, or a
            struct's pointer isn't its array's address.
    """

    def __init__(
        self, kernel: str, parameters: Sequence[Parameter], names: Sequence[str], values: Sequence[Any]
    ) -> None:
        if len(values) != len(parameters):
            raise ValueError(f"{kernel} takes {len(parameters)} arguments, not {len(values)}")
        checked = [_checked(kernel, *each) for each in zip(names, parameters, values, strict=True)]
        self._bytes = [_bytes(value) for value in checked]
        pointers = [
            (number, pointer)
            for number, each in enumerate(zip(names, parameters, checked, strict=True))
            for pointer in _pointers(*each)
        ]
        self.names = [pointer.name for _, pointer in pointers]
        self._places = [(number, pointer.offset) for number, pointer in pointers]
        self._is_const = [pointer.is_const for _, pointer in pointers]
        self._arrays = {k: pointer.array for k, (_, pointer) in enumerate(pointers)}
        self._allocations = memory.allocations(self._arrays.values())
        self._twins = {k: memory.allocation_of(a, self._allocations).twin(a) for k, a in self._arrays.items()}
        for number, twin in self._twins.items():
            twin[...] = self._arrays[number]

    def packed(self) -> list[ctypes.Array[ctypes.c_char]]:
        """Return the bytes of each parameter."""
        packed = [ctypes.create_string_buffer(each, len(each)) for each in self._bytes]
        for (number, offset), twin in zip(self._places, self._twins.values(), strict=True):
            packed[number][offset : offset + _POINTER] = np.uintp(twin.ctypes.data).tobytes()
        return packed

    def extents(self) -> list[Extent]:
        """Return the memory that the kernel may touch."""
        return [
            Extent(
                *(part.first, part.row_bytes, part.stride, part.count),
                *(twin.itemsize, granule, number, not self._is_const[number]),
            )
            for allocation in self._allocations
            for granule in [memory.granule(self._in(allocation).values(), allocation.begin)]
            for number in self._in(allocation)
            for twin in [self._twins[number]]
            for part in memory.extents(twin)
        ]

    def copy_back(self) -> None:
        """Copy what the kernel wrote back to the arrays."""
        for number, array in self._arrays.items():
            if not self._is_const[number]:
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


def _pointers(name: str, parameter: Parameter, value: Any) -> Iterator[Pointer]:
    """Yield the pointers of an argument that aren't null."""
    if isinstance(value, np.ndarray):
        yield Pointer(name, 0, value, bool(parameter.is_const))
    elif isinstance(value, ByValue):
        yield from (pointer for pointer in value.pointers if pointer.array is not None)


def _bytes(value: Any) -> bytes:
    """Return the bytes of an argument. Bytes of pointers are overwritten later."""
    if isinstance(value, np.ndarray):
        return bytes(_POINTER)
    return value.data if isinstance(value, ByValue) else value.tobytes()


def _checked(kernel: str, name: str, parameter: Parameter, value: Any) -> Any:
    """Return an array, a struct or a NumPy scalar of exactly the parameter's type, or null for None."""
    if isinstance(value, ByValue):
        _check_struct(kernel, name, parameter, value)
        return value
    if parameter.is_pointer:
        if value is None or (isinstance(value, np.uintp) and value == 0):
            return np.uintp(0)
        good = isinstance(value, np.ndarray) and parameter.accepts(value.dtype)
        if good:
            _check_writable(kernel, name, value, is_const=bool(parameter.is_const))
    else:
        good = isinstance(value, np.generic) and parameter.accepts(value.dtype)
    if not good:
        dtype = f" of {value.dtype}" if isinstance(value, np.ndarray | np.generic) else ""
        raise TypeError(f"{kernel}: {name} must be {parameter.wanted()}, not {type(value).__name__}{dtype}")
    return value


def _check_struct(kernel: str, name: str, parameter: Parameter, value: ByValue) -> None:
    if not parameter.is_struct or len(value.data) != parameter.size:
        raise TypeError(f"{kernel}: {name} must be {parameter.wanted()}, not a struct of {len(value.data)} bytes")
    for pointer in value.pointers:
        there = value.data[pointer.offset : pointer.offset + _POINTER]
        address = 0 if pointer.array is None else pointer.array.ctypes.data
        is_empty = pointer.array is not None and pointer.array.size == 0  # may have any address
        if there != np.uintp(address).tobytes() and not is_empty:
            raise ValueError(f"{kernel}: {pointer.name} must be the address of its array, or 0 without one")
        if pointer.array is not None:
            _check_writable(kernel, pointer.name, pointer.array, is_const=pointer.is_const)


def _check_writable(kernel: str, name: str, array: np.ndarray[Any, Any], *, is_const: bool) -> None:
    if not is_const and not array.flags.writeable:
        raise ValueError(f"{kernel}: {name} is read-only, and the kernel may write to it")
